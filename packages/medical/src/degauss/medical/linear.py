"""The derivative of a linear operator, from its adjoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Linear = Callable[[Tensor], Tensor]


def differentiable(apply: Linear, adjoint: Linear, x: Tensor) -> Tensor:
    """``apply(x)``, whose derivative of any order is taken with ``adjoint`` and never traced through either."""
    result: Any = _Apply.apply(x, apply, adjoint)
    return result


class _Apply(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, apply: Linear, adjoint: Linear) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.maps = apply, adjoint
        return apply(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        apply, adjoint = ctx.maps
        return differentiable(adjoint, apply, grad), None, None
