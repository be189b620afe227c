r"""The problem that the solver claims share: an exact denoiser, and an answer not computed by the solvers.

Data are an overlapping mixture of five Gaussians in 8 dimensions, each with a full covariance; the path is
alpha = 1, sigma from 40 to 0.02. A seed makes the mixture, and the noise its 64 trajectories start from. In
lam = -log sigma the probability-flow ODE is dx/dlam = E[x0 | x] - x, which is smooth and not stiff; the
classical Runge-Kutta method with 800 steps solves it to better than 1e-8 and shares no code with the solvers.

The error of a solver is the median over the trajectories of the distance to where they should have ended,
since a mean would be ruled by the few that end in another mode. Its order is the slope of that error over two
step counts. Grids are uniform in the log-SNR unless a claim says otherwise.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from degauss.core import EDM, Noise, Schedule, simulate
from degauss.core.claims import Verdict
from degauss.core.gaussian import Table, TableSolver, table_solver
from degauss.core.grid import uniform_log_snr
from degauss.core.oracle import MixtureOracle

DIM, BATCH, SIGMA_MAX, SIGMA_MIN = 8, 64, 40.0, 0.02
SCHEDULE = EDM(SIGMA_MAX)
DOUBLE = torch.float64

Solver = Callable[..., Any]


@cache
def mixture(seed: int, schedule: Schedule = SCHEDULE) -> MixtureOracle:
    """Five components with standard normal means and covariances of eigenvalues from 0.3 to about 3."""
    noise = Noise(1000 + seed, range(5))
    means = noise.normal(torch.empty(5, DIM, dtype=DOUBLE))
    factors = noise.normal(torch.empty(5, DIM, DIM, dtype=DOUBLE), draw=1)
    covariances = 0.3 * torch.eye(DIM, dtype=DOUBLE) + factors @ factors.transpose(1, 2) / DIM
    return MixtureOracle(schedule, torch.ones(5, dtype=DOUBLE), means, covariances)


def start(seed: int) -> Tensor:
    """Pure noise at sigma = 40, ``[64, 8]``."""
    return SIGMA_MAX * Noise(seed, range(BATCH)).normal(torch.empty(BATCH, DIM, dtype=DOUBLE))


def log_grid(steps: int) -> Tensor:
    """Uniform in log-SNR over the whole range."""
    return uniform_log_snr(SCHEDULE, steps, start=1.0, end=SIGMA_MIN / SIGMA_MAX)


def fine_start(steps: int) -> Tensor:
    """``log_grid(steps)`` with its first four intervals in 200 pieces.

    A multistep method begins with lower orders; here these steps are too short to show in the error.
    """
    grid = log_grid(steps)
    head = uniform_log_snr(SCHEDULE, 200, start=1.0, end=float(grid[4]))
    return torch.cat([head, grid[5:]])


@cache
def flow(seed: int, end: float = SIGMA_MIN, steps: int = 800) -> Tensor:
    """Where the probability-flow ODE takes ``start(seed)`` at sigma = ``end``, by Runge-Kutta 4 in lam."""
    denoiser = mixture(seed)

    def slope(x: Tensor, lam: float) -> Tensor:
        return denoiser(x, torch.tensor(math.exp(-lam) / SIGMA_MAX, dtype=DOUBLE)).mean - x

    x, lam = start(seed), -math.log(SIGMA_MAX)
    h = (-math.log(end) - lam) / steps
    for i in range(steps):
        now = lam + i * h
        a = slope(x, now)
        b = slope(x + 0.5 * h * a, now + 0.5 * h)
        c = slope(x + 0.5 * h * b, now + 0.5 * h)
        d = slope(x + h * c, now + h)
        x = x + h / 6 * (a + 2 * b + 2 * c + d)
    return x


def error(solver: Solver, seed: int, grid: Tensor) -> float:
    """The median over trajectories of |x - exact| at the end of the grid."""
    x = simulate(solver(mixture(seed), SCHEDULE), start(seed), grid, Noise(seed, range(BATCH)))
    return float((x - flow(seed)).norm(dim=1).median())


def order(solver: Solver, seed: int, coarse: int, fine: int, grid: Callable[[int], Tensor] = log_grid) -> float:
    """The order of convergence measured between two step counts."""
    return rate(error(solver, seed, grid(coarse)), error(solver, seed, grid(fine)), fine / coarse)


def rate(coarse: float, fine: float, refinement: float) -> float:
    """log of the ratio of two errors to the base of the refinement."""
    return math.log(coarse / fine) / math.log(refinement)


def full_order(function: Callable[..., Table], **options: Any) -> TableSolver:
    """A table method that does not fall back to lower orders in its last steps."""
    return table_solver(function, lower_final=False, **options)


def sliced_distance(x: Tensor, y: Tensor, directions: int = 64) -> float:
    """Sliced Wasserstein-2 distance of two samples of equal size ``[n, d]``, over fixed random directions."""
    axes = Noise(99, range(directions)).normal(x.new_empty(directions, x.shape[1]))
    axes = axes / axes.norm(dim=1, keepdim=True)
    gaps = (x @ axes.T).sort(0).values - (y @ axes.T).sort(0).values
    return float(gaps.pow(2).mean().sqrt())


def verdict(parts: Sequence[bool], controls: Sequence[bool] = ()) -> Verdict:
    """All parts true: holds; none: does not hold; else partly, as when a control did not fail as it must."""
    if not any(parts):
        return "does not hold"
    return "holds" if all(parts) and all(controls) else "holds partly"


median = statistics.median
