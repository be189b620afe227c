r"""Null-space sampling (DDNM), Wang et al. 2023: what was measured is known, the rest is the prior's.

Noiseless: the posterior mean's part in the row space of A is replaced by that of y, and nothing else is touched,

    mean' = A^+ y + (I - A^+ A) mean = mean + A^+ (y - A mean)        (range-null space decomposition).

``DDNM`` is that in any solver. Every sample that ends on it satisfies A x = A A^+ y. With A^+ by conjugate gradients no
singular values are needed; a filtered back-projection, say, in place of A^+ is another method, and fits y less.

Noisy (DDNM+): A^+ y carries noise of size sigma_y into the state, so a step that puts weight a_t on the
mean and adds fresh noise sigma_t takes only lambda_t of the correction, and adds only what is missing,

    mean' = mean + lambda_t A^+ (y - A mean),   lambda_t = min(1, sigma_t / (a_t sigma_y)),
    fresh variance  gamma_t = sigma_t^2 - (a_t lambda_t sigma_y)^2 >= 0.

This takes A^+ n for noise of variance sigma_y^2 in every direction: right where all singular values are 1, too much
where A sees nothing, too little where small singular values enlarge it. It also takes that noise for new at each step,
though it is the same n every time and adds up. Measured on N(0, 1) data in 400 steps with sigma_y = 0.6: a value that
was measured comes out with variance 1.38 (DDNM 1.40), one that was not with 0.94; a posterior sampler gives 1 and 1.
For noisy y, ``dds`` and ``diffpir`` weigh y instead.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor

from degauss.core.denoiser import Denoiser
from degauss.core.errors import check_range
from degauss.core.gaussian.exponential import ddim_table
from degauss.core.gaussian.table import Carry, Row, Table, TableSolver, table_solver
from degauss.core.inverse.conjugate_gradient import ACCURATE, ConjugateGradient
from degauss.core.inverse.measurement import Measurement, displacement
from degauss.core.noise import Noise
from degauss.core.posterior import Point
from degauss.core.sampling import Solver
from degauss.core.schedule import Schedule


@dataclass(frozen=True)
class DDNM:
    """The denoiser projected onto the events that explain y exactly; sigma_y does not enter.

    ``solve`` applies A^+: too few iterations, and the projection is partial (``DDS`` with gamma infinite).
    """

    denoiser: Denoiser[Point]
    measurement: Measurement
    solve: ConjugateGradient = ACCURATE

    def __call__(self, x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        mean = self.denoiser(x, t, **cond).mean
        return Point(mean + displacement(self.measurement, mean, 0.0, self.solve))


class DDNMCarry(NamedTuple):
    """The solver's carry, and lambda_t of each step."""

    inner: Carry
    share: tuple[float, ...]


@dataclass(frozen=True)
class DDNMPlus:
    """DDNM+ on DDIM's steps of stochasticity ``eta``; 1, ancestral sampling, is the paper's.

    A step without noise, such as the last onto clean data, takes the plain posterior mean, unless sigma_y is 0.
    """

    denoiser: Denoiser[Point]
    schedule: Schedule
    measurement: Measurement
    eta: float
    solve: ConjugateGradient

    @property
    def _steps(self) -> TableSolver:
        return table_solver(ddnm_plus_table, eta=self.eta, sigma_y=self.measurement.sigma_y)

    def init(self, x: Tensor, grid: Tensor, /) -> DDNMCarry:
        rows = ddim_table(self.schedule, grid, eta=self.eta).rows
        share = tuple(_share(row, self.measurement.sigma_y) for row in rows)
        return DDNMCarry(self._steps(self.denoiser, self.schedule).init(x, grid), share)

    def step(self, carry: DDNMCarry, x: Tensor, i: int, noise: Noise, /) -> tuple[DDNMCarry, Tensor]:
        kernel = self._steps(partial(self._answer, carry.share[i]), self.schedule)
        after, x = kernel.step(carry.inner, x, i, noise)
        return carry._replace(inner=after), x

    def _answer(self, share: float, x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        mean = self.denoiser(x, t, **cond).mean
        if share == 0:
            return Point(mean)
        return Point(mean + share * displacement(self.measurement, mean, 0.0, self.solve))


def ddnm_plus_table(schedule: Schedule, grid: Tensor, *, eta: float, sigma_y: float) -> Table:
    """DDIM's rows with the fresh noise sqrt(gamma_t) in place of sigma_t."""
    table = ddim_table(schedule, grid, eta=eta)
    rows = (row._replace(noise=_missing(row, sigma_y)) for row in table.rows)
    return Table(tuple(rows), table.clock)


def _share(row: Row, sigma_y: float) -> float:
    """lambda_t."""
    brought = row.weights[0] * sigma_y
    return min(1.0, row.noise / brought) if brought > 0 else 1.0


def _missing(row: Row, sigma_y: float) -> float:
    """sqrt(gamma_t)."""
    return math.sqrt(max(row.noise**2 - (row.weights[0] * _share(row, sigma_y) * sigma_y) ** 2, 0.0))


def ddnm_plus(measurement: Measurement, eta: float = 1.0, solve: ConjugateGradient = ACCURATE) -> Solver:
    """DDNM+ as a solver. Raises InputError unless 0 <= ``eta`` <= 1."""
    check_range("eta", eta, 0, 1)
    return partial(DDNMPlus, measurement=measurement, eta=eta, solve=solve)
