r"""The Brownian bridge from data to observation (BBDM, Li et al. 2023).

    x_t = (1 - m) x0 + m y + sqrt(2 m (1 - m) S) eps,        m = t,

is, around y, the path alpha = 1 - t, sigma = sqrt(2 S t (1 - t)). Its noise vanishes at both ends. At t = 1 the state
is y itself, for every x0: nothing in it tells samples apart, and a step must inject noise before any method can
remove some. ``bbdm`` and ``sample_centred`` (with any solver) do. The published code keeps m in [0.001, 0.999] and
starts at y there, as if that were a draw of the path.

Near the data the noise falls like sqrt(t), so the last step of a uniform grid is a large one and loses variance; times
(i / N)^2 are better.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from degauss.core.denoiser import Network
from degauss.core.errors import InputError, check_range
from degauss.core.gaussian.exponential import ddim_table
from degauss.core.gaussian.table import Row, Table, TableSolver, on_grid, snr_clock, table_solver
from degauss.core.posterior import Point
from degauss.core.schedule import Scales, Schedule


@dataclass(frozen=True)
class BrownianBridge:
    """alpha = 1 - t and sigma^2 = 2 S t (1 - t) (Li et al. 2023).

    ``variance``: S > 0 in squared units of the data; the state's variance is largest, S / 2, in the middle.
    """

    variance: float = 1.0

    def __post_init__(self) -> None:
        if not self.variance > 0:
            raise InputError(f"BrownianBridge needs variance > 0, but got {self.variance}.")

    def __call__(self, t: Tensor, /) -> Scales:
        t = t.double()
        return Scales(1 - t, torch.sqrt(2 * self.variance * t * (1 - t)))

    def log_snr(self, t: Tensor, /) -> Tensor:
        t = t.double()
        return torch.log1p(-t) - torch.log(t) - math.log(2 * self.variance)

    def time(self, log_snr: Tensor, /) -> Tensor:
        return torch.sigmoid(-log_snr.double() - math.log(2 * self.variance))


def bbdm(eta: float = 1.0) -> TableSolver:
    """BBDM's ancestral sampler on any times (Li et al. 2023, algorithm 2), also from t = 1, where x = y.

    From t to s, with m, delta the bridge's mean weight and variance and D the posterior mean of x0,

        x_s = (1 - m_s) D + m_s y + sqrt((delta_s - v) / delta_t) (x_t - (1 - m_t) D - m_t y) + sqrt(v) z,
        v = eta^2 delta_s (1 - delta_s (1 - m_t)^2 / (delta_t (1 - m_s)^2)).

    Around y this is ``ddim(eta)``. ``eta`` in [0, 1]: 1 draws from the bridge's exact posterior; below, the published
    code scales the noise and forgets to shrink v in the square root, which loses variance, and this does not.
    """
    check_range("eta", eta, 0, 1)
    return table_solver(bbdm_table, eta=eta)


def bbdm_table(schedule: Schedule, grid: Tensor, *, eta: float = 1.0) -> Table:
    """``ddim_table``, with a first step from a state without noise: z_s = alpha_s D + sigma_s z."""
    path = on_grid(schedule, grid)
    if path.sigma[0] > 0:
        return ddim_table(schedule, grid, eta=eta)
    if path.alpha[0] > 0:
        raise ValueError(f"the grid starts at t = {path.time[0]:g}, where the state holds no noise to remove")
    inject = Row(0.0, (float(path.alpha[1]),), float(path.sigma[1]))
    rest = ddim_table(schedule, grid[1:], eta=eta).rows if path.steps > 1 else ()
    return Table((inject, *rest), snr_clock(path))


@dataclass(frozen=True)
class DisplacementDenoiser:
    """A network that predicts F = x_t - x0 = m (y - x0) + sqrt(delta) eps, BBDM's objective: D = x - F.

    Defined on the whole path, the observation included, where a network of the noise alone says nothing of x0.
    ``network(x, t, **cond)`` gets t in the dtype of x.
    """

    network: Network

    def __call__(self, x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        return Point(x - self.network(x, t.to(x.dtype), **cond))
