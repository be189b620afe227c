r"""The networks of neural equations: perceptrons of (t, z, X(t)) whose share of time is computed once a run.

The drift of a controlled equation is gamma(zbar) with zbar = zeta(t, z, X(t)). Here zeta is one layer,

    zbar = LipSwish(W z + c(t)),    c(t) = U phi(t) + V X(t) + b,

so that c is known for all times of a grid before the run, and a step pays for W z alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from degauss.core.sde.equation import Function

_SWISH = 0.909
"""LipSwish(x) = 0.909 x sigmoid(x): a smooth activation with Lipschitz constant 1 (Chen et al. 2019)."""


class LipSwish(nn.Module):
    """0.909 x sigmoid(x)."""

    def forward(self, x: Tensor) -> Tensor:
        return _SWISH * functional.silu(x)


class Clock(nn.Module):
    """phi(t): t itself, or (sin t, cos t) where ``periodic``."""

    def __init__(self, *, periodic: bool) -> None:
        super().__init__()
        self.periodic = periodic
        self.size = 2 if periodic else 1

    def forward(self, times: Tensor) -> Tensor:
        """``[n]`` to ``[n, size]``."""
        return torch.stack([times.sin(), times.cos()], -1) if self.periodic else times[:, None]


class _Affine(NamedTuple):
    """x -> x weight + bias."""

    weight: Tensor
    bias: Tensor


class Field(nn.Module):
    """A perceptron of (t, z, X(t)): ``depth`` >= 1 hidden LipSwish layers of ``width`` units and a linear layer.

    ``clock`` None: t itself does not enter. ``channels``: of the control X, 0 for none.
    """

    def __init__(self, dim: int, width: int, outputs: int, depth: int, *, clock: Clock | None, channels: int) -> None:
        super().__init__()
        if depth < 1:
            raise ValueError(f"expected a depth of 1 hidden layer or more, got {depth}")
        self.clock = clock
        self.channels = channels
        self.state = nn.Linear(dim, width)
        self.time = nn.Linear(clock.size, width, bias=False) if clock else None
        self.control = nn.Linear(channels, width, bias=False) if channels else None
        self.rest = nn.ModuleList(nn.Linear(width, width) for _ in range(depth - 1))
        self.rest.append(nn.Linear(width, outputs))

    def at(self, times: Tensor, control: Tensor | None = None) -> tuple[Function, ...]:
        """The functions of the states z ``[batch, dim]`` at the times ``[n]``, X being ``[n, batch, channels]`` there.

        The weights are read here, and LipSwish's factor goes into those of the layer after it: a step then costs
        one fused product a layer. ValueError if a control is given where none is expected, or the other way round.
        """
        first = self.state.weight.t()
        rest = [_Affine((_SWISH * layer.weight).t(), layer.bias) for layer in cast("list[nn.Linear]", [*self.rest])]
        return tuple(partial(_perceptron, weight=first, offset=c, rest=rest) for c in self._offsets(times, control))

    def _offsets(self, times: Tensor, control: Tensor | None) -> tuple[Tensor, ...]:
        """c at each time, ``[width]`` or, with a control, ``[batch, width]``."""
        if (control.shape[-1] if control is not None else 0) != self.channels:
            given = "none" if control is None else f"one of {control.shape[-1]}"
            expected = f"a control path of {self.channels} channels" if self.channels else "no control path"
            raise ValueError(f"expected {expected}, got {given}")
        bias = self.state.bias
        total = bias.expand(len(times), len(bias))
        if self.time is not None and self.clock is not None:
            total = total + self.time(self.clock(times.to(bias)))
        if self.control is not None and control is not None:
            weight = self.control.weight.t().expand(len(times), -1, -1)
            total = torch.baddbmm(total[:, None], control, weight)
        return total.unbind()


def _perceptron(z: Tensor, *, weight: Tensor, offset: Tensor, rest: Sequence[_Affine]) -> Tensor:
    hidden = torch.addmm(offset, z, weight)
    for layer in rest:
        hidden = torch.addmm(layer.bias, functional.silu(hidden), layer.weight)
    return hidden
