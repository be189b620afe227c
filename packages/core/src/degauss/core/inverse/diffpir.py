r"""DiffPIR, Zhu et al. 2023: half-quadratic splitting whose weight follows the noise level.

In each evaluation the posterior mean is replaced by

    mean' = argmin  |y - A x|^2 + rho_t |x - mean|^2,      rho_t = lambda sigma_y^2 / (sigma_t / alpha_t)^2

(the data step), and the next state is noised anew from it with the share ``zeta`` of fresh noise,

    eps' = (x_t - alpha_t mean') / sigma_t,   x_s = alpha_s mean' + sigma_s (sqrt(1 - zeta) eps' + sqrt(zeta) z).

``DiffPIR`` is the first, a denoiser for any solver; ``renoising`` is the second, a solver for any denoiser; together
they are the paper's method. At lambda 1 the data step is Bayes' rule for a prior that is flat around the state. For
data of standard deviation s, the weight
rho_t = lambda sigma_y^2 (alpha^2 / sigma^2 + 1 / s^2) is exact where they are N(m, s^2 I).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from degauss.core.denoiser import Denoiser
from degauss.core.errors import check_range
from degauss.core.gaussian.exponential import noisy_sigma
from degauss.core.gaussian.table import Row, Table, TableSolver, on_grid, snr_clock, table_solver
from degauss.core.inverse.conjugate_gradient import ACCURATE, ConjugateGradient
from degauss.core.inverse.measurement import Measurement, displacement, noise_ratio
from degauss.core.posterior import Point
from degauss.core.schedule import Schedule


@dataclass(frozen=True)
class DiffPIR:
    """The denoiser, then the data step.

    ``strength``: the paper's lambda, > 0; 1 weighs by Bayes' rule, 7 is a common choice for images. ``data_std``: s;
    infinite in the paper. Needs sigma > 0. Raises InputError for a strength below 0.
    """

    denoiser: Denoiser[Point]
    schedule: Schedule
    measurement: Measurement
    strength: float = 1.0
    data_std: float = math.inf
    solve: ConjugateGradient = ACCURATE

    def __post_init__(self) -> None:
        check_range("strength", self.strength, 0)

    def __call__(self, x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        mean = self.denoiser(x, t, **cond).mean
        rho = self.strength * noise_ratio(self.measurement, *self.schedule(t), self.data_std)
        return Point(mean + displacement(self.measurement, mean, rho, self.solve))


def renoising(zeta: float = 0.1) -> TableSolver:
    """DiffPIR's sampler: ``zeta`` in [0, 1] is the share of fresh noise in the variance; 0 is DDIM."""
    check_range("zeta", zeta, 0, 1)
    return table_solver(renoising_table, zeta=zeta)


def renoising_table(schedule: Schedule, grid: Tensor, *, zeta: float) -> Table:
    """x_s = alpha_s mean + sigma_s (sqrt(1 - zeta) eps + sqrt(zeta) z) as rows."""
    path = on_grid(schedule, grid)
    rows: list[Row] = []
    for i in range(path.steps):
        sigma = float(path.sigma[i + 1])
        old = np.sqrt(1 - zeta) * sigma / noisy_sigma(path, i)
        weight = path.alpha[i + 1] - old * path.alpha[i]
        rows.append(Row(float(old), (float(weight),), sigma * math.sqrt(zeta)))
    return Table(tuple(rows), snr_clock(path))
