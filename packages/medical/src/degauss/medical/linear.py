r"""Two helpers of every linear operator: its derivative from its adjoint, and its norm from both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from degauss.core.noise import Noise

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


def largest_singular_value(
    apply: Linear, adjoint: Linear, like: Tensor, tolerance: float = 1e-7, most: int = 200
) -> float:
    r"""The largest singular value of A, by the Lanczos process on A^T A from a positive start (Golub & Van Loan 10.1).

    ``like``: an input of A; only its shape, dtype and device count. The process stops when the value changes by less
    than ``tolerance`` of itself, or after ``most`` applications. What it returns is at most the true value.
    Raises `ValueError` if A is zero.
    """
    q = Noise(0, [0]).uniform(like[None])[0]
    q, before = q / q.norm(), torch.zeros_like(q)
    diagonal: list[float] = []
    beside: list[float] = []
    found = 0.0
    for _ in range(most):
        w = adjoint(apply(q))
        diagonal.append(float((w.double() * q).sum()))
        off = torch.tensor(beside, dtype=torch.float64)
        matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64)) + torch.diag(off, 1) + torch.diag(off, -1)
        last, found = found, float(torch.linalg.eigvalsh(matrix)[-1])
        w = w - diagonal[-1] * q - (beside[-1] if beside else 0.0) * before
        length = float(w.norm())
        if found - last <= tolerance * found or length <= 1e-6 * found:
            break
        beside.append(length)
        q, before = w / length, q
    if not found > 0:
        raise ValueError("the norm of an operator that maps everything to zero was asked for")
    return found**0.5
