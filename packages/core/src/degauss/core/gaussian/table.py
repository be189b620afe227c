r"""A solver is a table: one kernel for every linear multistep method on a Gaussian path.

For a given grid, DDIM, DPM-Solver, DPM-Solver++, UniPC, DEIS, PLMS and their relatives are all

    x_{i+1} = state_i x_i + sum_j weights_ij y_{i-j} + sum_j earlier_ij x_{i-1-j} + noise_i z_i,
    y_i     = keep_i . (x_i, posterior mean_i, y_{i-1}, y_{i-2}, ...),

with numbers known before the run starts. What the method *remembers* of each step, y, is the posterior mean
itself, or the noise it implies, eps = (x - alpha mean) / sigma, or a running average of either: ``keep`` says
which. So a method is a small pure function from (schedule, grid) to a ``Table``, computed once in float64, and this
kernel executes any of them with fused updates and no host synchronisation.

Correctors need nothing more: the corrected state is x_i plus a combination of y_i, y_{i-1}, ..., so a
predictor-corrector pair is one row with one more weight. A method on several states (``earlier``) can be run backwards
by algebra on its rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from degauss.core.denoiser import Denoiser
from degauss.core.grid import check_grid
from degauss.core.noise import Clock, Noise
from degauss.core.posterior import Point
from degauss.core.schedule import Schedule

Array = NDArray[np.float64]


class Row(NamedTuple):
    """One step; every tuple is newest first.

    ``keep``: the weights of what is remembered, on x_i, the mean, y_{i-1}, y_{i-2}, ...; None remembers the posterior
    mean itself. ``earlier``: the weights on the states before x_i.
    """

    state: float
    weights: tuple[float, ...]
    noise: float = 0.0
    keep: tuple[float, ...] | None = None
    earlier: tuple[float, ...] = ()


@dataclass(frozen=True)
class Table:
    """A method on a grid: a row for each step, and the clock of the Brownian path its noise comes from."""

    rows: tuple[Row, ...]
    clock: Clock

    @cached_property
    def depth(self) -> int:
        """How many values of earlier steps the longest row needs."""
        kept = max(len(row.keep or ()) for row in self.rows) - 2
        return max(kept, *(len(row.weights) - 1 for row in self.rows), 0)

    @cached_property
    def states(self) -> int:
        """How many earlier states the longest row needs."""
        return max(len(row.earlier) for row in self.rows)


Tabulate = Callable[[Schedule, Tensor], Table]


class Path(NamedTuple):
    """A schedule on a grid, as numpy float64 ``[steps + 1]``: lam = log(alpha / sigma), half the log-SNR."""

    time: Array
    alpha: Array
    sigma: Array
    lam: Array

    @property
    def steps(self) -> int:
        return len(self.time) - 1


def on_grid(schedule: Schedule, grid: Tensor) -> Path:
    """The scales of a schedule along a grid."""
    grid = check_grid(grid)
    alpha, sigma = schedule(grid)
    lam = 0.5 * schedule.log_snr(grid)
    return Path(grid.numpy(), alpha.numpy(), sigma.numpy(), lam.numpy())


def eps_keep(path: Path, i: int) -> tuple[float, float]:
    """Remember the noise: eps = x / sigma - (alpha / sigma) mean."""
    return float(1 / path.sigma[i]), float(-path.alpha[i] / path.sigma[i])


def index_clock(path: Path) -> Clock:
    """The clock of a method without noise, or whose noise has no natural time of its own."""
    return tuple(float(i) for i in range(path.steps + 1))


def snr_clock(path: Path) -> Clock:
    """alpha^2/sigma^2: in this clock the noise of the reverse SDE in data form is one Brownian path."""
    return tuple(float(np.exp(2 * lam)) if lam < 300 else math.inf for lam in path.lam)


class Carry(NamedTuple):
    """The memory of a run: its table, the grid's times on the device, past values and states, newest first."""

    table: Table
    times: tuple[Tensor, ...]
    past: tuple[Tensor, ...]
    earlier: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class TableKernel:
    """Executes a table. ``tabulate(schedule, grid)`` is the method.

    ``earlier``: states before the grid's first time, newest first, where the table's first rows ask for them.
    """

    denoiser: Denoiser[Point]
    schedule: Schedule
    tabulate: Tabulate
    earlier: tuple[Tensor, ...] = ()

    def init(self, x: Tensor, grid: Tensor, /) -> Carry:
        table, times = _tabulated(self.tabulate, self.schedule, tuple(grid.tolist()), x.device)
        return Carry(table, times, (), self.earlier)

    def step(self, carry: Carry, x: Tensor, i: int, noise: Noise, /) -> tuple[Carry, Tensor]:
        table, times, past, earlier = carry
        state, weights, scale, keep, back = table.rows[i]
        value = self.denoiser(x, times[i]).mean
        if keep is not None:
            value = _combine(x * keep[0], keep[1:], (value, *past))
        past = (value, *past[: table.depth])
        # A fresh buffer, then in place: safe for autograd and for observers that keep x.
        out = _combine(x * state if state else torch.zeros_like(x), weights, past)
        if table.states:
            out = _combine(out, back, earlier)
            earlier = (x, *earlier[: table.states - 1])
        if scale:
            out.add_(noise.brownian(table.clock, i, x), alpha=scale)
        return Carry(table, times, past, earlier), out


def _combine(out: Tensor, weights: tuple[float, ...], values: tuple[Tensor, ...]) -> Tensor:
    """Add weighted values to ``out``, in place; a row that needs fewer values than there are takes the newest."""
    for weight, value in zip(weights, values):  # noqa: B905  (this loop is the overhead)
        if weight:
            out.add_(value, alpha=weight)
    return out


@dataclass(frozen=True)
class Method:
    """``function(schedule, grid, **options)`` as a value: equal methods have equal tables, which are kept."""

    function: Callable[..., Table]
    options: tuple[tuple[str, Any], ...]

    def __call__(self, schedule: Schedule, grid: Tensor, /) -> Table:
        return self.function(schedule, grid, **dict(self.options))


@dataclass(frozen=True)
class TableSolver:
    """A table method waiting for its denoiser and schedule."""

    tabulate: Tabulate

    def __call__(self, denoiser: Denoiser[Point], schedule: Schedule, /) -> TableKernel:
        return TableKernel(denoiser, schedule, self.tabulate)


def table_solver(function: Callable[..., Table], **options: Any) -> TableSolver:
    """The solver whose table on a grid is ``function(schedule, grid, **options)``."""
    return TableSolver(Method(function, tuple(sorted(options.items()))))


@lru_cache(maxsize=256)
def _tabulated(
    tabulate: Tabulate, schedule: Schedule, times: tuple[float, ...], device: torch.device
) -> tuple[Table, tuple[Tensor, ...]]:
    # Methods, schedules and grids are values, so a server's thousandth run need not compute its table again, nor wait
    # for its times to reach the device.
    # Kept for later runs, which may be differentiated even if this one runs in inference mode.
    with torch.inference_mode(False):
        grid = check_grid(torch.tensor(times, dtype=torch.float64))
        return tabulate(schedule, grid), grid.to(device).unbind()
