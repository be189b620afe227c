r"""DPM-Solver-v3: an exponential integrator fitted to the model (Zheng et al. 2023).

With y = x / alpha, lam = log(alpha / sigma), D the posterior mean and the model's statistics l, s, b (see
``statistics``), the probability-flow ODE and the value r that the solver remembers (the paper's -f) are

    dy/dlam = -l y + r,    r = D - (1 - l) y,    dr/dlam ~ s r - b.

The linear parts of both lines are solved exactly, and only what r has beyond its line is approximated. From lam_i,
with L, S the integrals of l, s and B = int e^{-S} b, all from lam_i,

    r = e^S (g - B),    y_{i+1} = e^{-L} (y_i + int e^{L+S} (g - B) dlam),

where g would be constant if the line were exact: g_j is r_j carried from lam_j to lam_i along the line. g is replaced
by its Taylor polynomial at lam_i, with derivatives from the last ``order`` values. With
(l, s, b) = (1, 0, 0) this is DPM-Solver++ with the integrals of the polynomial, with (0, -1, 0) DPM-Solver.

The corrector redoes a step once r is known at its end; r itself is kept as it was evaluated. So, as in UniPC, the
correction is a known combination of values, and predictor and corrector are one row.

**A table with a number for each coordinate.** Since l, s and b differ between coordinates, so do the coefficients, and
carrying along a line adds an offset. ``CoordinateKernel`` executes such rows, of this and of any other solver fitted
coordinate by coordinate:

    x_{i+1} = offset_i + state_i x_i + sum_j weights_ij v_{i-j},    v_i = mean_i + keep_i x_i.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from degauss.core.denoiser import Denoiser
from degauss.core.errors import InputError
from degauss.core.gaussian import lagrange
from degauss.core.gaussian.exponential import nodes
from degauss.core.gaussian.statistics import ModelStatistics
from degauss.core.gaussian.table import Array, Path, on_grid
from degauss.core.grid import check_grid
from degauss.core.noise import Noise
from degauss.core.posterior import Point
from degauss.core.schedule import Schedule

# --- a table with a number for each coordinate ---------------------------------------------------------------


class CoordinateRow(NamedTuple):
    """One step; every tensor has one shape, which broadcasts over the event. ``weights`` are newest first."""

    keep: Tensor
    state: Tensor
    offset: Tensor
    weights: tuple[Tensor, ...]

    def to(self, x: Tensor) -> CoordinateRow:
        """The row in the dtype and on the device of x, moved at once."""
        keep, state, offset, *weights = torch.stack([*self[:3], *self.weights]).to(x).unbind()
        return CoordinateRow(keep, state, offset, tuple(weights))


CoordinateTabulate = Callable[[Schedule, Tensor], tuple[CoordinateRow, ...]]
"""(schedule, grid) -> a float64 row for each step: the method. Equal ones share their tables."""


class Carry(NamedTuple):
    """The memory of a run: its rows and times on the device, and ``depth`` past values, newest first."""

    rows: tuple[CoordinateRow, ...]
    times: tuple[Tensor, ...]
    depth: int
    past: tuple[Tensor, ...]


@dataclass(frozen=True)
class CoordinateKernel:
    """Executes a table of coordinate rows. Raises InputError for events its numbers do not fit."""

    denoiser: Denoiser[Point]
    schedule: Schedule
    tabulate: CoordinateTabulate

    def init(self, x: Tensor, grid: Tensor, /) -> Carry:
        rows, times = _tabulated(self.tabulate, self.schedule, tuple(grid.tolist()))
        shape, event = tuple(rows[0].state.shape), tuple(x.shape[1:])
        if len(shape) != len(event) or any(a not in (1, b) for a, b in zip(shape, event, strict=True)):
            raise InputError(f"this solver was fitted to events of shape {shape} (1: any size), but got {event}.")
        depth = max(len(row.weights) for row in rows) - 1
        return Carry(tuple(row.to(x) for row in rows), tuple(time.to(x.device) for time in times), depth, ())

    def step(self, carry: Carry, x: Tensor, i: int, noise: Noise, /) -> tuple[Carry, Tensor]:
        del noise
        rows, times, depth, past = carry
        keep, state, offset, weights = rows[i]
        past = (torch.addcmul(self.denoiser(x, times[i]).mean, x, keep), *past)
        # A fresh buffer, then in place: safe for autograd and for observers that keep x.
        out = torch.addcmul(offset, x, state)
        for weight, value in zip(weights, past):  # noqa: B905  (a row that needs fewer takes the newest)
            out.addcmul_(value, weight)
        return Carry(rows, times, depth, past[:depth]), out


@lru_cache(maxsize=16)
def _tabulated(
    tabulate: CoordinateTabulate, schedule: Schedule, times: tuple[float, ...]
) -> tuple[tuple[CoordinateRow, ...], tuple[Tensor, ...]]:
    # Kept for later runs, which may be differentiated even if this one is in inference mode.
    with torch.inference_mode(False):
        grid = check_grid(torch.tensor(times, dtype=torch.float64))
        return tabulate(schedule, grid), grid.unbind()


# --- DPM-Solver-v3 -------------------------------------------------------------------------------------------

Derivatives = Literal["polynomial", "pseudo"]
"""Where the Taylor coefficients of g come from: its interpolating polynomial, or divided differences alone.

"pseudo" (the paper's pseudo-order method) takes n! g[lam_0, ..., lam_n] for the n-th derivative: lower in order than
the polynomial from three values on, but with smaller weights, for very few steps.
"""


def dpm_v3(
    statistics: ModelStatistics,
    order: int = 3,
    *,
    predictor: Derivatives = "polynomial",
    corrector: Derivatives | None = None,
) -> partial[CoordinateKernel]:
    """DPM-Solver-v3 of order 1 to 3 as a solver (Zheng et al. 2023, section 3).

    ``statistics``: those of the denoiser it will run with; ``statistics.grid`` is its natural grid. Others only make it
    less accurate, never inconsistent. ``corrector``: redo each step with the value at its end in place of the oldest
    ("polynomial") or beside all of them ("pseudo"), at no further evaluation. Running it raises InputError where the
    grid leaves the range of the statistics or the event has another shape.
    """
    if not 1 <= order <= 3:
        raise ValueError(f"dpm_v3 has orders 1 to 3, got {order}")
    return partial(CoordinateKernel, tabulate=DPMv3(statistics, order, predictor, corrector))


@dataclass(frozen=True)
class DPMv3:
    """The method: (schedule, grid) -> rows. ``lower_final``: end with steps of falling order."""

    statistics: ModelStatistics
    order: int
    predictor: Derivatives = "polynomial"
    corrector: Derivatives | None = None
    lower_final: bool = True

    def __call__(self, schedule: Schedule, grid: Tensor, /) -> tuple[CoordinateRow, ...]:
        path = on_grid(schedule, grid)
        _check_range(self.statistics, path)
        gain = 1 - self.statistics.at(torch.from_numpy(path.lam)).l
        values = self.order + (self.corrector == "pseudo")
        steps = [_integrate(self.statistics, path, i, values) for i in range(path.steps)]
        rows: list[CoordinateRow] = []
        correction = _Combination({}, torch.zeros_like(gain[0]))
        for i, step in enumerate(steps):
            used = nodes(path, i, self.order, self.lower_final)
            state = step.decay * float(path.alpha[i + 1] / path.alpha[i])
            predicted = _combine(path, steps, i, used, self.predictor)
            # The state multiplies the corrected x_i = x_i + correction.
            both = predicted.plus(correction.times(state))
            weights = [both.weights.get(j, torch.zeros_like(state)) for j in range(i, min(both.weights) - 1, -1)]
            rows.append(CoordinateRow(-gain[i] / float(path.alpha[i]), state, both.offset, tuple(weights)))
            correction = self._correction(path, steps, i, used, predicted)
        return tuple(rows)

    def _correction(
        self, path: Path, steps: list[_Step], i: int, used: list[int], predicted: _Combination
    ) -> _Combination:
        """Corrector minus predictor at the end of step i."""
        nothing = _Combination({}, torch.zeros_like(predicted.offset))
        if self.corrector is None:
            return nothing
        behind = used[1:] if self.corrector == "pseudo" else used[1:-1]
        if self.corrector == "polynomial" and len(used) == 1:
            return nothing  # its one value is that of the predictor
        corrected = _combine(path, steps, i, [i, i + 1, *behind], self.corrector)
        return corrected.plus(predicted.times(-torch.ones_like(predicted.offset)))


def _check_range(statistics: ModelStatistics, path: Path) -> None:
    low, high = statistics.lam[[0, -1]].tolist()
    slack = 1e-6
    if not (path.lam.min() >= low - slack and path.lam.max() <= high + slack):
        raise InputError(
            f"the grid must stay within the statistics' log-SNR of {2 * low:.4g} to {2 * high:.4g}, but goes from "
            f"{2 * path.lam[0]:.4g} to {2 * path.lam[-1]:.4g}: use statistics.grid, or measure them on a wider range."
        )


class _Combination(NamedTuple):
    """An affine function of the values r_j (by step j), for each coordinate."""

    weights: dict[int, Tensor]
    offset: Tensor

    def times(self, factor: Tensor) -> _Combination:
        return _Combination({j: factor * w for j, w in self.weights.items()}, factor * self.offset)

    def plus(self, other: _Combination) -> _Combination:
        weights = dict(self.weights)
        for j, weight in other.weights.items():
            weights[j] = weights[j] + weight if j in weights else weight
        return _Combination(weights, self.offset + other.offset)


class _Step(NamedTuple):
    """What step i needs of the statistics; L, S, B are integrals from lam_i, tensors ``[*shape]``.

    ``decay`` = e^{-L} and ``growth`` = e^S at its end, ``shift`` = B there, ``moments[n]`` = int e^{L+S} (lam -
    lam_i)^n / n!, ``constant`` = int e^{L+S} B.
    """

    decay: Tensor
    growth: Tensor
    shift: Tensor
    moments: Tensor
    constant: Tensor


def _combine(path: Path, steps: list[_Step], i: int, used: list[int], derivatives: Derivatives) -> _Combination:
    """What step i adds to state_i x_i, from the values r_j at the nodes ``used``, of which i is the first."""
    step, alpha = steps[i], float(path.alpha[i + 1])
    matrix = _polynomial(path.lam[used]) if derivatives == "polynomial" else _divided_differences(path.lam[used])
    weights = torch.einsum("nj,n...->j...", torch.from_numpy(matrix), step.moments[: len(used)])
    total = _Combination({}, -step.constant)
    for j, weight in zip(used, weights.unbind(), strict=True):
        total = total.plus(_carried(steps, j, i).times(weight))
    return total.times(alpha * step.decay)


def _carried(steps: list[_Step], j: int, i: int) -> _Combination:
    """g_j: the value r_j carried along dr/dlam = s r - b to lam_i, from steps before it or from the step after."""
    one = torch.ones_like(steps[i].decay)
    if j > i:
        return _Combination({j: one / steps[i].growth}, steps[i].shift)
    g = _Combination({j: one}, torch.zeros_like(one))
    for between in steps[j:i]:
        g = g.plus(_Combination({}, -between.shift)).times(between.growth)
    return g


def _polynomial(lam: Array) -> Array:
    """Row n: the weights that give the n-th derivative at lam[0] of the polynomial through values at lam."""
    return lagrange.derivatives(lam, float(lam[0]))


def _divided_differences(lam: Array) -> Array:
    """Row n: the weights of n! times the divided difference over lam[0], ..., lam[n]."""
    table, rows = np.eye(len(lam)), [np.eye(len(lam))[0]]
    for n in range(1, len(lam)):
        table = (table[:-1] - table[1:]) / (lam[:-n] - lam[n:])[:, None]
        rows.append(math.factorial(n) * table[0])
    return np.stack(rows)


# --- integrals of the statistics -----------------------------------------------------------------------------

# At most so far apart in lam lie the points of the quadrature below: its relative error is about the fourth power of
# this over 720, 1e-12.
_SPACING = 0.005


def _integrate(statistics: ModelStatistics, path: Path, i: int, count: int) -> _Step:
    """The integrals of one step, with ``count`` moments."""
    points = _points(statistics.lam, float(path.lam[i]), float(path.lam[i + 1]))
    l, s, b, dl, ds, db = statistics.at(points)  # noqa: E741
    lam = points.reshape(-1, *(1,) * (l.ndim - 1))
    elapsed = lam - lam[0]
    whole = _cumulative(lam, l + s, dl + ds)
    drift = _cumulative(lam, s, ds)
    kernel, damping = whole.exp(), (-drift).exp()
    shift = _cumulative(lam, damping * b, damping * (db - s * b))
    moments: list[Tensor] = []
    for n in range(count):
        power = elapsed**n / math.factorial(n)
        slope = elapsed ** (n - 1) / math.factorial(n - 1) if n else torch.zeros_like(elapsed)
        moments.append(_cumulative(lam, kernel * power, kernel * ((l + s) * power + slope))[-1])
    constant = _cumulative(lam, kernel * shift, kernel * ((l + s) * shift + damping * b))[-1]
    return _Step((drift[-1] - whole[-1]).exp(), drift[-1].exp(), shift[-1], torch.stack(moments), constant)


def _points(knots: Tensor, start: float, end: float) -> Tensor:
    """From start to end through the knots between them, in pieces of at most ``_SPACING``."""
    inside = knots[(knots > min(start, end)) & (knots < max(start, end))]
    inside = inside if end > start else inside.flip(0)
    ends = torch.cat([inside.new_tensor([start]), inside, inside.new_tensor([end])])
    gaps = ends.diff()
    pieces = math.ceil(float(gaps.abs().max()) / _SPACING)
    between = ends[:-1, None] + gaps[:, None] * torch.arange(pieces) / pieces
    return torch.cat([between.flatten(), ends[-1:]])


def _cumulative(at: Tensor, value: Tensor, slope: Tensor) -> Tensor:
    """The integral from the first point to each, of the cubic with this value and slope at both ends of every piece."""
    h = at.diff(dim=0)
    pieces = 0.5 * h * (value[:-1] + value[1:]) - h**2 / 12 * slope.diff(dim=0)
    return torch.cat([torch.zeros_like(value[:1]), pieces.cumsum(0)])
