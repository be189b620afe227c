r"""BDIA and BELM: samplers on two states, whose inverse is another table.

Both write the next state with the two before it and one answer of the denoiser,

    x_{i+1} = state_i x_i + weight_i mean(x_i, t_i) + earlier_i x_{i-1},

so that, the other way, x_{i-1} follows from x_{i+1} and x_i with the same answer and no approximation. ``inverse``
is that algebra on the rows of a table, and running the method backwards is running the other table.

The first step has no state before it and is a DDIM step, which cannot be turned around. So what is inverted are the
steps from the second on, between *pairs*: (x_1, x_0) at the noise and (x_{N-1}, x_N) at the data. A run is retraced
exactly, up to rounding, from the pair it ended with. Data that no run made have no x_{N-1}: as in the papers, a step
of DDIM inversion makes one. The way back to these data is then exact as well, from both states of the noise pair,
while another run from the noise x_0 alone would begin with a DDIM step of its own and end elsewhere.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from degauss.core.denoiser import Denoiser
from degauss.core.errors import InputError, check_range
from degauss.core.gaussian.exponential import ddim_table
from degauss.core.gaussian.table import (
    Array,
    Path,
    Row,
    Table,
    TableKernel,
    TableSolver,
    index_clock,
    on_grid,
    table_solver,
)
from degauss.core.inversion.ddim import InverseDDIM
from degauss.core.inversion.guard import response
from degauss.core.kernel import simulate
from degauss.core.noise import Noise
from degauss.core.observe import Last
from degauss.core.posterior import Point
from degauss.core.schedule import Schedule


def bdia_table(schedule: Schedule, grid: Tensor, *, gamma: float) -> Table:
    """BDIA (Zhang, Lewis and Kleijn 2023): x_{i+1} = DDIM(x_i; i to i+1) + gamma (x_{i-1} - DDIM(x_i; i to i-1)).

    Both DDIM moves use the one posterior mean at x_i. ``gamma`` in [0, 1]; 0 is DDIM, which has no inverse. Order 2
    with gamma 1 on grids whose steps change smoothly, else order 1.
    """
    path = on_grid(schedule, grid)
    rows = [_start(schedule, grid)]
    for i in range(1, path.steps):
        onward, back = _ddim(path, i, i + 1), _ddim(path, i, i - 1)
        state, weight = (float(a - gamma * b) for a, b in zip(onward, back, strict=True))
        rows.append(Row(state, (weight,), earlier=(gamma,)))
    return Table(tuple(rows), index_clock(path))


def belm_table(schedule: Schedule, grid: Tensor) -> Table:
    """O-BELM (Wang et al. 2024): the two-state formula of least local error. The grid must keep alpha > 0.

    With y = x / alpha, k = sigma / alpha, h_1 = k_i - k_{i-1} and h_2 = k_{i+1} - k_i,
    y_{i+1} = (h_2/h_1)^2 y_{i-1} + (1 - (h_2/h_1)^2) y_i + h_2 (h_1 + h_2)/h_1 eps_i.

    Order 2; but on a grid whose steps alternate in length, the error of the one DDIM step at the start does not die
    out, and brings the order down to 1 as the steps shrink.
    """
    path = finite_path(schedule, grid)
    k = path.sigma / path.alpha
    steps = np.diff(k)
    rows = [_start(schedule, grid)]
    for i in range(1, path.steps):
        ratio = steps[i] / steps[i - 1]
        on_eps = path.alpha[i + 1] * steps[i] * (1 + ratio)
        on_x = path.alpha[i + 1] / path.alpha[i] * (1 - ratio) * (1 + ratio)
        # eps_i = x_i / sigma_i - mean_i / k_i
        state, weight = on_x + on_eps / path.sigma[i], -on_eps / k[i]
        earlier = path.alpha[i + 1] / path.alpha[i - 1] * ratio**2
        rows.append(Row(float(state), (float(weight),), earlier=(float(earlier),)))
    return Table(tuple(rows), index_clock(path))


def finite_path(schedule: Schedule, grid: Tensor) -> Path:
    """The path along a grid; InputError where alpha vanishes."""
    path = on_grid(schedule, grid)
    if not (path.alpha > 0).all():
        raise InputError("this method needs alpha > 0 on the grid: start it a little below t = 1.")
    return path


def _start(schedule: Schedule, grid: Tensor) -> Row:
    return ddim_table(schedule, grid).rows[0]


def _ddim(path: Path, i: int, j: int) -> tuple[float, float]:
    """The weights of a DDIM move from time i to time j, on x_i and on its posterior mean."""
    state = path.sigma[j] / path.sigma[i]
    return state, path.alpha[j] - state * path.alpha[i]


def inverse(table: Table) -> Table:
    """The table that runs a two-state table backwards.

    A row x_{i+1} = s x_i + w v_i + e x_{i-1}, with v_i the mean or the noise at x_i, becomes the row
    x_{i-1} = -s/e x_i - w/e v_i + 1/e x_{i+1} of the reversed grid. A first row without ``earlier`` is left out. The
    inverse is run on the reversed grid from its second time on, with x_N as the state before it; so it has as many
    rows as the table has rows with ``earlier``, and its own inverse is those rows.

    Raises ValueError, naming the row, where a row has noise, an older answer, an older state, or no earlier state.
    """
    rows = table.rows if table.rows[0].earlier else table.rows[1:]
    for i, row in enumerate(rows, len(table.rows) - len(rows)):
        answers = len(row.weights) == 1 and (row.keep is None or len(row.keep) == 2)
        if row.noise or not answers or len(row.earlier) != 1 or row.earlier[0] == 0:
            raise ValueError(f"row {i} of the table has no inverse: it must use x_i, one answer at x_i and x_(i-1)")
    if not rows:
        raise InputError("a two-state method needs a grid of at least two steps to be inverted.")
    return Table(tuple(_turned(row) for row in reversed(rows)), tuple(float(i) for i in range(len(rows) + 1)))


def _turned(row: Row) -> Row:
    (weight,), (earlier,) = row.weights, row.earlier
    return row._replace(state=-row.state / earlier, weights=(-weight / earlier,), earlier=(1 / earlier,))


@dataclass(frozen=True)
class Fixed:
    """A tabulator that gives one table, whatever the grid: for a table that needs times from outside its grid."""

    table: Table

    def __call__(self, schedule: Schedule, grid: Tensor, /) -> Table:
        del schedule
        if len(grid) != len(self.table.rows) + 1:
            raise ValueError(f"a table of {len(self.table.rows)} rows cannot run on a grid of {len(grid)} times")
        return self.table


@dataclass(frozen=True)
class TwoState(ABC):
    """A two-state method: a solver (called with a denoiser and a schedule), and the way back.

    Its states at the noise are (x_0, x_1), at the data (x_N, x_{N-1}).
    """

    @property
    @abstractmethod
    def solver(self) -> TableSolver:
        """The method as a table."""

    @property
    @abstractmethod
    def remedy(self) -> str:
        """What loses less to rounding."""

    def __call__(self, denoiser: Denoiser[Point], schedule: Schedule, /) -> TableKernel:
        return self.solver(denoiser, schedule)

    def encode(
        self, denoiser: Denoiser[Point], schedule: Schedule, x0: Tensor, grid: Tensor, companion: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The states at grid[0] and grid[1] from x0 at grid[-1].

        ``companion``: the state at grid[-2] of the run that made x0 (``carry.earlier[0]`` after its last step);
        without it, a step of DDIM inversion.
        """
        table = inverse(self.solver.tabulate(schedule, grid))
        noise = Noise(0, range(len(x0)))
        if companion is None:
            companion = simulate(InverseDDIM(denoiser, schedule), x0, grid.flip(0)[:2], noise)
        kernel, last = TableKernel(denoiser, schedule, Fixed(table), (x0,)), Last()
        x = simulate(kernel, companion, grid.flip(0)[1:], noise, observe=(last,))
        return x, last.carry.earlier[0]

    def decode(self, denoiser: Denoiser[Point], schedule: Schedule, states: tuple[Tensor, ...], grid: Tensor) -> Tensor:
        """x at grid[-1] from the states at grid[0] and grid[1]."""
        first, second = states
        table = inverse(inverse(self.solver.tabulate(schedule, grid)))
        kernel = TableKernel(denoiser, schedule, Fixed(table), (first,))
        return simulate(kernel, second, grid[1:], Noise(0, range(len(second))))

    def transfers(self, schedule: Schedule, grid: Tensor) -> Array:
        """How a step from the second on carries errors of (x_i, x_{i-1}) on standard normal data, [steps - 1, 2, 2]."""
        rows, answers = self.solver.tabulate(schedule, grid).rows[1:], response(schedule, grid)[1:-1]
        steps = [[r.state + r.weights[0] * d, r.earlier[0], 1.0, 0.0] for r, d in zip(rows, answers, strict=True)]
        return np.array(steps).reshape(-1, 2, 2)


@dataclass(frozen=True)
class BDIA(TwoState):
    """Bi-directional integration approximation (Zhang, Lewis and Kleijn 2023). See ``bdia_table``.

    ``gamma`` in (0, 1]: backwards, errors grow by 1/gamma a step, so only 1 inverts long runs. Below 1 this holds for
    the error of a made-up second state too, in any precision: latents of data that no run made are then no noise.
    """

    gamma: float = 1.0

    def __post_init__(self) -> None:
        check_range("gamma", self.gamma, 0.0, 1.0)
        if self.gamma == 0:
            raise InputError("gamma must be above 0, but is 0: that is ddim(), which has no inverse.")

    @property
    def solver(self) -> TableSolver:
        return table_solver(bdia_table, gamma=self.gamma)

    @property
    def remedy(self) -> str:
        return "fewer steps, or a gamma nearer 1" if self.gamma < 1 else "fewer steps"


@dataclass(frozen=True)
class BELM(TwoState):
    """O-BELM, the optimal bidirectional explicit linear multistep method (Wang et al. 2024). See ``belm_table``.

    Backwards, rounding grows by the square of the ratio of the longest to the shortest step in sigma/alpha.
    """

    @property
    def solver(self) -> TableSolver:
        return table_solver(belm_table)

    @property
    def remedy(self) -> str:
        return "a grid whose steps in sigma/alpha differ less"
