r"""How fast tokens are corrupted, as t goes from 0 (data) to 1 (noise).

Every position jumps by itself, at the rate beta(t), to the mask (absorbing) or to a token drawn afresh (uniform).
What matters of it is the probability that a position has not jumped yet,

    alpha(t) = exp(-int_0^t beta),        gone = 1 - alpha,        slope = -d alpha / dt = beta alpha,

from which come the forward rate beta = slope / alpha and the rate at which the reverse process restores a masked
position, slope / gone. Two schedules are the same process on two clocks: time is what a schedule calls a level, and
``b.time(a(t).gone)`` is the time of ``b`` at the level that ``a`` has at t.

Everything is float64, on the device of t, and exact near both ends: 1 - alpha is never formed by a subtraction
where the formula allows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

_BISECTIONS = 60
_CHECKED = 1001
_ROUNDING = 1e-9


class Level(NamedTuple):
    """How corrupted a position is at t: float64, in the shape of t.

    ``alpha``: the probability that it has not jumped, from 1 to 0 as t grows; ``gone``: 1 - alpha; ``slope``:
    -d alpha / dt >= 0.
    """

    alpha: Tensor
    gone: Tensor
    slope: Tensor

    @property
    def rate(self) -> Tensor:
        """beta, the forward rate of jumps per unit of t; infinite where alpha is 0."""
        return torch.where(self.alpha > 0, self.slope / self.alpha, float("inf"))

    @property
    def restoring(self) -> Tensor:
        """The rate at which the reverse process restores a position that is gone; infinite at t = 0."""
        return self.slope / self.gone


class Rates(Protocol):
    """How fast tokens are corrupted. ``t``: any shape, values in [0, 1]."""

    def __call__(self, t: Tensor, /) -> Level: ...

    def time(self, gone: Tensor, /) -> Tensor:
        """The time at which a position is gone with probability ``gone``, in [0, gone(1)]; float64."""
        ...


@dataclass(frozen=True)
class LogLinear:
    """alpha = 1 - (1 - eps) t (Austin et al. 2021, D3PM; the log-linear noise of SEDD, MDLM and RADD).

    Each position's jump time is uniform on [0, 1]. ``eps``: what is kept at t = 1, in [0, 1). Published code uses 1e-3;
    with 0 the process ends in pure noise, where samplers start, and the likelihood bound needs no further term.
    """

    eps: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eps < 1:
            raise ValueError(f"eps is what is kept at t = 1, in [0, 1), got {self.eps}")

    def __call__(self, t: Tensor, /) -> Level:
        t = t.double()
        # As a sum of positive terms: alpha(1) is exactly eps.
        return Level((1 - t) + self.eps * t, (1 - self.eps) * t, torch.full_like(t, 1 - self.eps))

    def time(self, gone: Tensor, /) -> Tensor:
        return gone.double() / (1 - self.eps)


@dataclass(frozen=True)
class Cosine:
    """gone = sin(pi t / 2), the share of masks in MaskGIT (Chang et al. 2022; Shi et al. 2024, MD4).

    On an even grid the first steps restore few positions, when little is known, and the last ones many.
    """

    def __call__(self, t: Tensor, /) -> Level:
        gone = torch.sin(0.5 * math.pi * t.double())
        # The cosine as a sine is exactly 0 at t = 1, and 1 - gone = cos^2 / (1 + gone) loses no digits there.
        cosine = torch.sin(0.5 * math.pi * (1 - t.double()))
        return Level(cosine**2 / (1 + gone), gone, 0.5 * math.pi * cosine)

    def time(self, gone: Tensor, /) -> Tensor:
        return torch.asin(gone.double()) * (2 / math.pi)


@dataclass(frozen=True)
class KeptRates:
    """Any schedule, by what it keeps: ``kept(t)``, elementwise, differentiable, falling from 1 at t = 0.

    The slope is autograd's and the inverse is found by bisection. Raises ValueError unless ``kept`` falls from 1 and
    stays in [0, 1].
    """

    kept: Callable[[Tensor], Tensor]

    def __post_init__(self) -> None:
        alpha = self.kept(torch.linspace(0, 1, _CHECKED, dtype=torch.float64))
        if not abs(float(alpha[0]) - 1) < _ROUNDING:
            raise ValueError(f"a schedule keeps everything at t = 0, but this one keeps {float(alpha[0]):g}")
        if not (bool((alpha.diff() <= _ROUNDING).all()) and -_ROUNDING < float(alpha[-1]) < 1):
            raise ValueError("what a schedule keeps must fall from 1 at t = 0 to a value in [0, 1) at t = 1")

    def __call__(self, t: Tensor, /) -> Level:
        alpha, slope = _with_slope(self.kept, t)
        return Level(alpha.clamp(0, 1), (1 - alpha).clamp(0, 1), slope)

    def time(self, gone: Tensor, /) -> Tensor:
        return _bisect(lambda t: 1 - self.kept(t), gone.double())


@dataclass(frozen=True)
class TotalRates:
    """Any schedule, by its total rate: ``total(t)`` = int_0^t beta, elementwise, differentiable, rising from 0.

    alpha = exp(-total). The slope is autograd's and the inverse is found by bisection. Raises ValueError unless
    ``total`` rises from 0.
    """

    total: Callable[[Tensor], Tensor]

    def __post_init__(self) -> None:
        total = self.total(torch.linspace(0, 1, _CHECKED, dtype=torch.float64))
        if not abs(float(total[0])) < _ROUNDING:
            raise ValueError(f"a total rate is 0 at t = 0, but this one is {float(total[0]):g}")
        if not (bool((total.diff()[:-1] >= -_ROUNDING).all()) and float(total[-1]) > max(0.0, float(total[-2]))):
            raise ValueError("a total rate must rise with t")

    def __call__(self, t: Tensor, /) -> Level:
        total, rate = _with_slope(self.total, t)
        alpha = torch.exp(-total)
        return Level(alpha, -torch.expm1(-total), alpha * -rate)

    def time(self, gone: Tensor, /) -> Tensor:
        return _bisect(lambda t: -torch.expm1(-self.total(t)), gone.double())


def _with_slope(function: Callable[[Tensor], Tensor], t: Tensor) -> tuple[Tensor, Tensor]:
    """f(t) and -f'(t) of an elementwise function, without a graph."""
    with torch.inference_mode(False), torch.enable_grad():
        point = t.detach().double().clone().requires_grad_()
        value = function(point)
        (slope,) = torch.autograd.grad(value.sum(), point)
    return value.detach(), -slope


def _bisect(gone: Callable[[Tensor], Tensor], level: Tensor) -> Tensor:
    """Where an increasing function on [0, 1] takes a value."""
    low, high = torch.zeros_like(level), torch.ones_like(level)
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        below = gone(middle) < level
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return high
