r"""Control paths: continuous X(t) through irregular observations, some of them missing.

A path is a piecewise cubic on knots that all series share. With u = t - t_j in the interval from t_j to t_{j+1},

    X(t) = a_j + b_j u + c_j u^2 + d_j u^3.

    ``linear``    straight lines; b jumps at the knots, where it is that of the interval to the right
    ``hermite``   the slope at a knot is that of the line from the knot before it: where no value is missing, X(t)
                  uses none later than the end of its interval (Morrill et al. 2021, Neural CDEs for online prediction
                  tasks)
    ``natural``   two continuous derivatives, the second zero at the ends; every value acts everywhere

A missing value is a NaN. ``linear`` and ``hermite`` bridge a gap by the line between the values on both sides;
``natural`` is, for every channel of every series, the spline through the values that are there. Knots before the
first value get that value, knots after the last get the last; a channel without any value is zero.

The slopes k of the natural spline solve a symmetric tridiagonal system over the knots with a value,

    k_p / h_l + 2 (1 / h_l + 1 / h_r) k_j + k_n / h_r = 3 ((x_j - x_p) / h_l^2 + (x_n - x_j) / h_r^2),

p, n the neighbours with a value, h_l, h_r the gaps to them; a side that is not there drops out. All systems are
solved together: a knot without a value hands on what elimination and substitution carry, so that every series takes
the same steps. The gradient of a solution is the same solver applied to the gradient, since the system is symmetric.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from degauss.core.errors import InputError


@dataclass(frozen=True, eq=False)
class Path:
    """X on ``knots`` ``[length]`` (float64, on the host); a, b, c, d are ``coefficients[0]`` to ``coefficients[3]``.

    ``coefficients``: ``[4, length - 1, batch, channels]``. Differentiable in them and in the times. Beyond the knots
    the first and last cubic go on.
    """

    knots: Tensor
    coefficients: Tensor

    @classmethod
    def of(cls, knots: Tensor, *pieces: Tensor) -> Path:
        """The path of a, b, c and d, each ``[length - 1, batch, channels]``."""
        return cls(knots, torch.stack(pieces))

    def __call__(self, times: Tensor) -> Tensor:
        """X at the times ``[n]``, ``[n, batch, channels]``."""
        u, (a, b, c, d) = self._locate(times)
        return a + u * (b + u * (c + u * d))

    def derivative(self, times: Tensor) -> Tensor:
        """dX/dt at the times ``[n]``, ``[n, batch, channels]``."""
        u, (_, b, c, d) = self._locate(times)
        return b + u * (2 * c + 3 * u * d)

    def _locate(self, times: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The time since the knot before, and the coefficients there."""
        times = times.to(self.knots)
        index = torch.searchsorted(self.knots, times.detach(), right=True).sub(1).clamp(0, len(self.knots) - 2)
        u = (times - self.knots[index]).to(self.coefficients)[:, None, None]
        return u, self.coefficients.index_select(1, index.to(self.coefficients.device)).unbind()


def linear(times: Tensor, values: Tensor) -> Path:
    """Straight lines through ``values`` ``[batch, length, channels]`` at the increasing ``times`` ``[length]``.

    InputError if the times do not increase, the shapes do not fit, or a value is infinite; so for all paths.
    """
    knots, values = _checked(times, values)
    filled = _bridged(knots, values)
    slope = filled.diff(dim=0) / _gaps(knots, values)
    zero = torch.zeros_like(slope)
    return Path.of(knots, filled[:-1], slope, zero, zero)


def hermite(times: Tensor, values: Tensor) -> Path:
    """Cubic Hermite pieces with backward differences; arguments and errors as ``linear``."""
    knots, values = _checked(times, values)
    filled, gaps = _bridged(knots, values), _gaps(knots, values)
    slope = filled.diff(dim=0) / gaps
    before = torch.cat([slope[:1], slope[:-1]])
    bend = (slope - before) / gaps
    return Path.of(knots, filled[:-1], before, 2 * bend, -bend / gaps)


def natural(times: Tensor, values: Tensor) -> Path:
    """The natural cubic spline; arguments and errors as ``linear``."""
    knots, values = _checked(times, values)
    missing = values.isnan()
    if not bool(missing.any()):
        return _complete(knots, values)
    # Every knot before the first value or after the last is given it: the spline soon settles there, where one
    # through the observed values alone would go on as a cubic.
    near = _neighbours(missing)
    ends = (near.before < 0) | (near.after == len(knots))
    values = torch.where(ends, _hold(values, near), values.nan_to_num())
    missing = missing & ~ends
    near = _neighbours(missing)
    before, after = near.before[:-1], near.after[1:]
    span = (knots[after] - knots[before]).to(values)
    x, x_next = values.take_along_dim(before, 0), values.take_along_dim(after, 0)
    rise = (x_next - x) / span
    slopes = _slopes(rise, span, ~missing)
    pieces = _cubic(x, rise, slopes.take_along_dim(before, 0), slopes.take_along_dim(after, 0), span)
    # An interval inside a gap has the cubic of the whole gap, from its own start.
    return Path.of(knots, *_moved(pieces, (knots[:-1, None, None] - knots[before]).to(values)))


def _complete(knots: Tensor, values: Tensor) -> Path:
    """The natural spline where nothing is missing: one system serves all series."""
    span = _gaps(knots, values)
    rise = values.diff(dim=0) / span
    slopes = _slopes(rise, span, torch.ones(len(values), 1, 1, dtype=torch.bool, device=values.device))
    return Path.of(knots, *_cubic(values[:-1], rise, slopes[:-1], slopes[1:], span))


def _checked(times: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """The knots, and the values with time first."""
    knots = times.detach().to("cpu", torch.float64)
    if knots.ndim != 1 or len(knots) < 2 or not bool((knots.diff() > 0).all() & knots.isfinite().all()):
        raise InputError(f"a control path needs two or more finite, increasing times, but has {_brief(knots)}.")
    if values.ndim != 3 or values.shape[1] != len(knots) or not values.is_floating_point():
        raise InputError(
            f"the values of a control path must be floats [batch, {len(knots)}, channels], "
            f"but are {values.dtype} {list(values.shape)}."
        )
    if bool(values.isinf().any()):
        raise InputError("the values of a control path must be finite, or NaN where missing, but some are infinite.")
    return knots, values.transpose(0, 1)


def _brief(knots: Tensor) -> str:
    return f"shape {list(knots.shape)}" if knots.ndim != 1 or len(knots) < 2 else f"{knots.tolist()[:8]}"


def _gaps(knots: Tensor, like: Tensor) -> Tensor:
    """The gaps between knots, ``[length - 1, 1, 1]``; subtracted in float64, where large times keep their digits."""
    return knots.diff()[:, None, None].to(like)


class _Near(NamedTuple):
    """For every knot the last one with a value up to it (-1 if none) and the first from it on (length if none)."""

    before: Tensor
    after: Tensor


def _neighbours(missing: Tensor) -> _Near:
    length = len(missing)
    index = torch.arange(length, device=missing.device)[:, None, None]
    before = torch.where(missing, -1, index).cummax(0).values
    after = torch.where(missing, length, index).flip(0).cummin(0).values.flip(0)
    return _Near(before, after)


def _hold(values: Tensor, near: _Near) -> Tensor:
    """At every knot the value before it, or the one after it before the first, or zero."""
    nearest = torch.where(near.before < 0, near.after, near.before).clamp(max=len(values) - 1)
    return values.nan_to_num().take_along_dim(nearest, 0)


def _bridged(knots: Tensor, values: Tensor) -> Tensor:
    """The values, with gaps bridged by straight lines."""
    missing = values.isnan()
    if not bool(missing.any()):
        return values
    near = _neighbours(missing)
    last = len(values) - 1
    before = torch.where(near.before < 0, near.after, near.before).clamp(max=last)
    after = torch.where(near.after > last, near.before, near.after).clamp(min=0)
    # Both are the same knot where there is a value, and at the ends: then the line is that value.
    share = (knots[:, None, None] - knots[before]) / (knots[after] - knots[before])
    share = torch.where(after > before, share, 0.0).to(values)
    known = values.nan_to_num()
    return torch.lerp(known.take_along_dim(before, 0), known.take_along_dim(after, 0), share)


def _cubic(x: Tensor, rise: Tensor, slope: Tensor, slope_next: Tensor, span: Tensor) -> tuple[Tensor, ...]:
    """The cubics with these values and slopes at both ends of intervals of length ``span``."""
    c = (3 * rise - 2 * slope - slope_next) / span
    d = (slope + slope_next - 2 * rise) / span**2
    return x, slope, c, d


def _moved(pieces: tuple[Tensor, ...], u: Tensor) -> tuple[Tensor, ...]:
    """The same cubics, their origin moved to the right by u."""
    a, b, c, d = pieces
    return a + u * (b + u * (c + u * d)), b + u * (2 * c + 3 * u * d), c + 3 * u * d, d


def _slopes(rise: Tensor, span: Tensor, known: Tensor) -> Tensor:
    """The slopes of natural splines at their knots, zero at those not ``known``; first and last are known."""
    beside = torch.zeros_like(span[:1])
    left, right = torch.cat([beside, 1 / span]), torch.cat([1 / span, beside])
    edge = torch.zeros_like(rise[:1])
    pull = 3 * (torch.cat([edge, rise]) * left + torch.cat([rise, edge]) * right)
    return cast("Tensor", _Solve.apply(_eliminated(left, right, known), pull * known))


class _System(NamedTuple):
    """A tridiagonal matrix after elimination; rows of knots not known pass on their neighbour's.

    Forwards y_j = pivot_j r_j + forth_j y_{j-1}, backwards k_j = known_j y_j + back_j k_{j+1}.
    """

    pivot: Tensor
    forth: Tensor
    back: Tensor
    known: Tensor


def _eliminated(left: Tensor, right: Tensor, known: Tensor) -> _System:
    """The system with diagonal 2 (left + right) and neighbours left and right."""
    ratio = torch.zeros_like(left[0])
    pivots: list[Tensor] = []
    ratios: list[Tensor] = []
    for a, b, diagonal, here in zip(left.unbind(), right.unbind(), (2 * (left + right)).unbind(), known, strict=True):
        pivot = torch.addcmul(diagonal, a, ratio, value=-1).reciprocal()
        ratio = torch.where(here, b * pivot, ratio)
        pivots.append(pivot)
        ratios.append(ratio)
    pivot = torch.stack(pivots) * known
    return _System(
        pivot,
        torch.where(known, -left * pivot, 1.0),
        torch.where(known, -torch.stack(ratios), 1.0),
        known.to(left.dtype),
    )


class _Solve(torch.autograd.Function):
    """k of a symmetric system, zero where not known; ``rhs`` ``[length, ...]`` is zero there too."""

    @staticmethod
    def forward(ctx: Any, system: _System, rhs: Tensor) -> Tensor:
        ctx.system = system
        rows = list((rhs * system.pivot).unbind())
        for j in range(1, len(rows)):
            rows[j] = torch.addcmul(rows[j], system.forth[j], rows[j - 1])
        known = system.known.unbind()
        for j in range(len(rows) - 2, -1, -1):
            rows[j] = torch.addcmul(known[j] * rows[j], system.back[j], rows[j + 1])
        return torch.stack(rows) * system.known

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return None, cast("Tensor", _Solve.apply(ctx.system, grad * ctx.system.known))
