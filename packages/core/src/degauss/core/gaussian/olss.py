r"""OLSS: the coefficients of every step by least squares against a fine solver (Duan et al. 2023).

The next state is taken from the span of the first state and of all predicted noises so far,

    x_{i+1} = w_i x_0 + sum_{j <= i} c_ij eps_j,

with the coefficients that come nearest to where a fine solver, the *teacher*, is at that time. With
eps = (x - alpha mean) / sigma, this is also the span of the current state and of all posterior means so far,

    x_{i+1} = s_i x_i + sum_{j <= i} d_ij mean_j,

which is fitted here: it has no singular end, its parts are hardly correlated at high noise, and it is a table.

The published fit takes the teacher's own noises for eps_j. The solver then runs into states that the fit never saw,
with coefficients of alternating sign that reach hundreds, and diverges. Two changes keep it stable. The fit follows
the states of the solver being fitted, so that each step also mends the error of those before. And it is a ridge
regression towards DDIM's step,

    min  E |x* - s x_i - sum_j d_j mean_j|^2 + ridge (|s - s_ddim|^2 E|x_i|^2 + sum_j |d_j - d_ddim|^2 E|mean_j|^2),

in which E is over the entries of the fitting batch, and ``ridge`` has no unit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from degauss.core.denoiser import Denoiser
from degauss.core.errors import InputError
from degauss.core.fields import expect, numbers, sequence
from degauss.core.gaussian.exponential import ddim_table
from degauss.core.gaussian.table import Array, Row, Table, TableSolver, index_clock, on_grid, table_solver
from degauss.core.gaussian.teacher import trajectory
from degauss.core.grid import check_grid, check_times
from degauss.core.posterior import Point
from degauss.core.schedule import Schedule

# How far apart two grids may be and still be the same one after a passage through decimal digits.
_SAME_TIME = 1e-9
_BISECTIONS = 40


@dataclass(frozen=True)
class LeastSquares:
    """A fitted solver: for each step, the weight on the state, and those on the posterior means, newest first.

    ``times``: the grid it was fitted on, ``[steps + 1]``. ``states`` ``[steps]``; ``weights[i]`` has i + 1 numbers.
    """

    times: tuple[float, ...]
    states: tuple[float, ...]
    weights: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        check_times("times", self.times)
        steps = len(self.times) - 1
        expect("states", len(self.states) == steps, f"{steps} numbers, one a step", f"{len(self.states)}")
        expect("weights", len(self.weights) == steps, f"{steps} rows, one a step", f"{len(self.weights)}")
        for i, row in enumerate(self.weights):
            expect(f"weights[{i}]", len(row) == i + 1, f"{i + 1} numbers", f"{len(row)}")

    @property
    def grid(self) -> Tensor:
        """The times as a grid, float64 ``[steps + 1]``."""
        return torch.tensor(self.times, dtype=torch.float64)

    @property
    def solver(self) -> TableSolver:
        """The solver that was fitted, to be run on ``grid``."""
        return olss(self)

    def to_json(self) -> dict[str, Any]:
        """Plain lists of numbers."""
        return {"times": list(self.times), "states": list(self.states), "weights": [list(w) for w in self.weights]}

    @classmethod
    def from_json(cls, about: Mapping[str, Any]) -> LeastSquares:
        """What ``to_json`` gave; InputError naming the field that is missing or of another kind."""
        rows = sequence(about, "weights")
        weights = tuple(numbers({f"weights[{i}]": row}, f"weights[{i}]") for i, row in enumerate(rows))
        return cls(numbers(about, "times"), numbers(about, "states"), weights)


def olss(fit: LeastSquares) -> TableSolver:
    """The fitted solver. It runs on ``fit.grid`` and no other: InputError elsewhere."""
    return table_solver(olss_table, fit=fit)


def olss_table(schedule: Schedule, grid: Tensor, *, fit: LeastSquares) -> Table:
    """The fitted coefficients as they are."""
    path = on_grid(schedule, grid)
    if len(path.time) != len(fit.times) or float(np.abs(path.time - fit.times).max()) > _SAME_TIME:
        raise InputError(
            f"This solver was fitted on a grid of {len(fit.times) - 1} steps from {fit.times[0]:g} to "
            f"{fit.times[-1]:g}, and cannot run on another one of {path.steps} from {path.time[0]:g} to "
            f"{path.time[-1]:g}: give its own grid."
        )
    return Table(tuple(map(Row, fit.states, fit.weights)), index_clock(path))


@torch.no_grad()
def fit_olss(
    denoiser: Denoiser[Point],
    schedule: Schedule,
    x: Tensor,
    grid: Tensor,
    *,
    ridge: float = 1e-4,
    teacher: Tensor | None = None,
) -> LeastSquares:
    """Fit the coefficients of ``grid`` on the trajectories that start at x.

    ``x``: ``[batch, *event]`` at grid[0]; ten samples are enough where an event has hundreds of numbers. ``ridge``
    > 0. ``teacher``: the states to reach, ``[steps + 1, batch, *event]``, from ``trajectory`` unless given.
    """
    if not 0 < ridge < math.inf:
        raise InputError(f"ridge must be positive, but is {ridge}.")
    grid = check_grid(grid)
    goals = trajectory(denoiser, schedule, x, grid) if teacher is None else teacher
    features: tuple[Tensor, ...] = ()
    fitted: list[Array] = []
    for i, (row, t) in enumerate(zip(ddim_table(schedule, grid).rows, grid.to(x.device), strict=False)):
        # The newest mean is first among the means.
        features = (x, denoiser(x, t).mean, *features[1:])
        prior = np.zeros(len(features))
        prior[:2] = row.state, row.weights[0]
        solution = _ridge(_gram([*features, goals[i + 1]]), prior, ridge)
        x = _weighted(features, solution.weights)
        fitted.append(solution.weights)
    states = tuple(float(row[0]) for row in fitted)
    return LeastSquares(tuple(grid.tolist()), states, tuple(tuple(row[1:].tolist()) for row in fitted))


@torch.no_grad()
def jump_grid(
    denoiser: Denoiser[Point],
    schedule: Schedule,
    x: Tensor,
    fine: Tensor,
    steps: int,
    *,
    ridge: float = 1e-4,
) -> Tensor:
    """The ``steps`` + 1 times of the grid ``fine`` at which OLSS should step (Duan et al. 2023, algorithm 1).

    Given the largest error that one step may make on the teacher's trajectory, each step is the longest that makes no
    more; that error is lowered by bisection until more than ``steps`` would be needed. Errors are relative to the
    root mean square of the state, which is near one on the paper's schedules. ``x``: start states at fine[0].
    """
    fine = check_grid(fine)
    last = len(fine) - 1
    if not 1 <= steps <= last:
        raise InputError(f"steps must be between 1 and the {last} of the fine grid, but is {steps}.")
    jumps = _Jumps.along(denoiser, schedule, x, fine, ridge)
    low, high = 0.0, jumps.error((0,), last)
    chosen = jumps.longest(high, steps)
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        path = jumps.longest(middle, steps)
        low, high = (middle, high) if path is None else (low, middle)
        chosen = chosen if path is None else path
    indices = [*(chosen or (0,)), last]
    while len(indices) <= steps:
        # Several jumps may reach the limit at once, and leave steps to spend.
        start, end = max(pairwise(indices), key=lambda pair: pair[1] - pair[0])
        indices = sorted((*indices, (start + end) // 2))
    return fine[indices]


@dataclass(frozen=True)
class _Jumps:
    """Least-squares jumps along one fine trajectory, from the inner products of its states and means alone."""

    schedule: Schedule
    grid: Tensor
    gram: Array
    ridge: float

    @classmethod
    def along(cls, denoiser: Denoiser[Point], schedule: Schedule, x: Tensor, grid: Tensor, ridge: float) -> _Jumps:
        states = trajectory(denoiser, schedule, x, grid, pieces=1)
        means = [denoiser(state, t).mean for state, t in zip(states[:-1], grid.to(x.device), strict=False)]
        return cls(schedule, grid, _gram([*states, *means]), ridge)

    def error(self, visited: Sequence[int], goal: int) -> float:
        """The error of the step from the last visited index to the goal, with the means at all visited ones."""
        points = len(self.grid)
        newest = [points + i for i in reversed(visited)]
        rows = [visited[-1], *newest, goal]
        step = ddim_table(self.schedule, self.grid[[visited[-1], goal]]).rows[0]
        prior = np.zeros(len(rows) - 1)
        prior[:2] = step.state, step.weights[0]
        solution = _ridge(self.gram[np.ix_(rows, rows)], prior, self.ridge)
        return solution.error / math.sqrt(self.gram[goal, goal])

    def longest(self, limit: float, steps: int) -> tuple[int, ...] | None:
        """The indices from which to step, each step as long as ``limit`` lets it be; None if they are too many."""
        last = len(self.grid) - 1
        visited = (0,)
        while True:
            low, high = visited[-1] + 1, last
            while low < high:
                goal = (low + high + 1) // 2
                low, high = (goal, high) if self.error(visited, goal) <= limit else (low, goal - 1)
            if low == last:
                return visited
            if len(visited) == steps:
                return None
            visited = (*visited, low)


class _Solution(NamedTuple):
    weights: Array
    error: float


def _gram(vectors: Sequence[Tensor]) -> Array:
    """Mean products of the entries of each pair of tensors, float64 ``[n, n]``."""
    flat = torch.stack([vector.flatten() for vector in vectors]).double()
    gram = (flat @ flat.T / flat.shape[1]).cpu().numpy()
    if not np.isfinite(gram).all():
        raise FloatingPointError("the states or posterior means to fit on are not finite")
    return gram


def _ridge(gram: Array, prior: Array, ridge: float) -> _Solution:
    """The weights of the features on the target (last in ``gram``), and the root mean square of what they miss."""
    products, target = gram[:-1, :-1], gram[:-1, -1]
    damped = products + ridge * np.diag(np.diag(products))
    # Least squares and not a solve: a feature may be zero, as the mean of centred data at pure noise is.
    weights = prior + np.linalg.lstsq(damped, target - products @ prior)[0]
    residual = np.append(weights, -1.0)
    return _Solution(weights, math.sqrt(max(float(residual @ gram @ residual), 0.0)))


def _weighted(values: Sequence[Tensor], weights: Array) -> Tensor:
    out = values[0] * float(weights[0])
    for value, weight in zip(values[1:], weights[1:].tolist(), strict=True):
        out.add_(value, alpha=weight)
    return out
