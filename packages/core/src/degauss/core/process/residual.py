r"""Residual shifting: the data move to the observation y along their residual y - x0 while noise grows.

ResShift (Yue et al. 2023) and RDDM (Liu et al. 2024) write x_t = x0 + abar_t (y - x0) + bbar_t eps: around y, the path
alpha = 1 - abar, sigma = bbar. ResShift ties the two, abar = eta and bbar = kappa sqrt(eta); RDDM leaves them free.

Both were derived from a forward chain that moves by *known* residuals, so their posterior keeps more of the state
than DDPM's does. With s the next, less noisy time,

    z_s = old z_t + (alpha_s - old alpha_t) D + sqrt(v) eps,
    v = eta sigma_s^2 (1 - sigma_s^2 / sigma_t^2),   old = sqrt(sigma_s^2 - v) / sigma_t,

which at eta = 1 is old = sigma_s^2 / sigma_t^2: ResShift's posterior and RDDM's stochastic sampler are one table. At
eta = 0 it is DDIM.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from degauss.core.denoiser import Network
from degauss.core.errors import InputError, check_range
from degauss.core.gaussian.table import Path, Row, Table, TableSolver, on_grid, table_solver
from degauss.core.noise import Clock, Noise
from degauss.core.posterior import Point
from degauss.core.schedule import Scales, Schedule


@dataclass(frozen=True)
class ResShift:
    """alpha = 1 - eta, sigma = kappa sqrt(eta) (Yue et al. 2023), through given points of eta.

    ``etas``: eta_1 < ... < eta_T in (0, 1), the shares of the residual after each of T steps: step i sits at t = i / T,
    t = 0 is clean data, and eta is linear between the points. ``kappa`` > 0: the noise in the units of the data.
    """

    etas: tuple[float, ...]
    kappa: float = 2.0

    def __post_init__(self) -> None:
        points = (0.0, *self.etas, 1.0)
        if not self.etas or any(not a < b for a, b in pairwise(points)):
            raise InputError(f"ResShift needs etas that rise strictly inside (0, 1), but got {self.etas[:3]}...")
        if not self.kappa > 0:
            raise InputError(f"ResShift needs kappa > 0, but got {self.kappa}.")

    @classmethod
    def geometric(
        cls, steps: int = 15, kappa: float = 2.0, power: float = 0.3, lowest: float = 0.04, last: float = 0.999
    ) -> ResShift:
        """The published schedule (section 2.2): sqrt(eta) geometric in ((i - 1) / (steps - 1))^power.

        It runs from eta_1 = min((lowest / kappa)^2, 0.001), where the noise is at most ``lowest``, to ``last``. A
        larger ``power`` stays at low noise for longer. ``steps`` >= 2.
        """
        if steps < 2:
            raise InputError(f"ResShift.geometric needs at least 2 steps, but got {steps}.")
        first = min((lowest / kappa) ** 2, 0.001)
        rise = np.linspace(0, 1, steps) ** power
        return cls(tuple((first * (last / first) ** rise).tolist()), kappa)

    @cached_property
    def _knots(self) -> dict[torch.device, Tensor]:
        return {}

    def _knots_on(self, device: torch.device) -> Tensor:
        if device not in self._knots:
            self._knots[device] = torch.tensor((0.0, *self.etas), dtype=torch.float64, device=device)
        return self._knots[device]

    def _eta(self, t: Tensor) -> Tensor:
        knots = self._knots_on(t.device)
        position = t.double() * len(self.etas)
        left = position.floor().clamp(0, len(self.etas) - 1)
        index = left.long()
        return torch.lerp(knots[index], knots[index + 1], position - left)

    def __call__(self, t: Tensor, /) -> Scales:
        eta = self._eta(t)
        return Scales(1 - eta, self.kappa * eta.sqrt())

    def log_snr(self, t: Tensor, /) -> Tensor:
        eta = self._eta(t)
        return 2 * torch.log1p(-eta) - eta.log() - 2 * math.log(self.kappa)

    def time(self, log_snr: Tensor, /) -> Tensor:
        # kappa^2 SNR = (1 - eta)^2 / eta is a quadratic in eta; this is its root in (0, 1], without a difference.
        ratio = self.kappa**2 * torch.exp(log_snr.double())
        eta = 2 / (2 + ratio + torch.sqrt(ratio) * torch.sqrt(ratio + 4))
        knots = self._knots_on(eta.device)
        index = torch.searchsorted(knots, eta.contiguous()).clamp(1, len(self.etas))
        low, high = knots[index - 1], knots[index]
        return (index - 1 + (eta - low) / (high - low)) / len(self.etas)


@dataclass(frozen=True)
class RDDM:
    """abar = 1 - (1 - t)^(fall + 1) and bbar^2 = noise^2 t^(rise + 1) (Liu et al. 2024, for all t).

    The residual is added at a rate that falls like (1 - t)^``fall``, the noise's variance at one that rises like
    t^``rise``; both exponents are >= 0, and 1 as published. ``noise``: bbar at the end, in the units of the data (the
    paper's restorations have 0.1, its generation 1).
    """

    fall: float = 1.0
    rise: float = 1.0
    noise: float = 0.1

    def __post_init__(self) -> None:
        if not (self.fall >= 0 and self.rise >= 0 and self.noise > 0):
            raise InputError(
                f"RDDM needs fall >= 0, rise >= 0 and noise > 0, but got {self.fall}, {self.rise}, {self.noise}."
            )

    def __call__(self, t: Tensor, /) -> Scales:
        t = t.double()
        return Scales((1 - t) ** (self.fall + 1), self.noise * t ** (0.5 * (self.rise + 1)))

    def log_snr(self, t: Tensor, /) -> Tensor:
        t = t.double()
        down, up = 2 * (self.fall + 1), self.rise + 1
        return down * torch.log1p(-t) - up * torch.log(t) - 2 * math.log(self.noise)

    def time(self, log_snr: Tensor, /) -> Tensor:
        # With u = logit t the goal is down log(1 - t) - up log t = down log sigmoid(-u) - up log sigmoid(u), a
        # function of one curvature and slopes between -down and -up: Newton's method converges from anywhere. Beyond
        # 1e5, t is 0 or 1 to the last bit.
        down, up = 2 * (self.fall + 1), self.rise + 1
        goal = (log_snr.double() + 2 * math.log(self.noise)).clamp(-1e5, 1e5)
        u = -goal / torch.where(goal > 0, up, down)
        for _ in range(10):
            value = down * logsigmoid(-u) - up * logsigmoid(u)
            u = u + (value - goal) / (down * torch.sigmoid(u) + up * torch.sigmoid(-u))
        return torch.sigmoid(u)


def resshift() -> TableSolver:
    """ResShift's posterior sampling (Yue et al. 2023): mean (eta_s/eta_t) x_t + (1 - eta_s/eta_t) D.

    Its variance is kappa^2 eta_s (1 - eta_s/eta_t).
    """
    return table_solver(residual_table, eta=1.0)


def rddm(eta: float = 0.0) -> TableSolver:
    """RDDM's samplers (Liu et al. 2024): deterministic at ``eta`` = 0, stochastic at 1.

    ``eta`` in [0, 1] multiplies the *variance* of the fresh noise. For one network, of the residual or of the noise;
    ``TwoPart`` is for two.
    """
    check_range("eta", eta, 0, 1)
    return table_solver(residual_table, eta=eta)


def residual_table(schedule: Schedule, grid: Tensor, *, eta: float) -> Table:
    """The table of both; ValueError where the noise does not fall along the grid."""
    path = _falling(schedule, grid)
    rows: list[Row] = []
    for i in range(path.steps):
        old, noise = _split(path, i, eta)
        rows.append(Row(old, (float(path.alpha[i + 1] - old * path.alpha[i]),), noise))
    return Table(tuple(rows), _clock(path))


def _falling(schedule: Schedule, grid: Tensor) -> Path:
    path = on_grid(schedule, grid)
    if not (path.sigma[:-1] > path.sigma[1:]).all():
        raise ValueError("resshift and rddm need a noise sigma that falls along the grid; on a bridge use bbdm")
    return path


def _split(path: Path, i: int, eta: float) -> tuple[float, float]:
    """How much of the old noise a step keeps, old = sqrt(sigma_s^2 - v) / sigma_t, and how much it adds, sqrt(v)."""
    ratio = (path.sigma[i + 1] / path.sigma[i]) ** 2
    fresh = eta * (1 - ratio)
    return float(np.sqrt(ratio * (1 - fresh))), float(path.sigma[i + 1] * np.sqrt(fresh))


def _clock(path: Path) -> Clock:
    """1 / sigma^2: in this clock the noise of eta = 1 is one Brownian path."""
    return tuple(float(sigma**-2.0) if sigma > 1e-150 else math.inf for sigma in path.sigma)


@dataclass(frozen=True, eq=False)
class ResidualDenoiser:
    """A network that predicts the residual F = y - x0, as a denoiser: D = y - F. ``observed``: y."""

    network: Network
    observed: Tensor

    def __call__(self, x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        return Point(self.observed - self.network(x, t.to(x.dtype), **cond))


class Parts(NamedTuple):
    """What RDDM's two networks predict: the residual y - x0 and the noise eps, both ``[batch, *event]``."""

    residual: Tensor
    eps: Tensor


class TwoPartCarry(NamedTuple):
    """For each step the share of the residual and the amount of noise it removes and the noise it adds."""

    steps: tuple[tuple[float, float, float], ...]
    times: tuple[Tensor, ...]
    clock: Clock


@dataclass(frozen=True)
class TwoPart:
    """RDDM with a residual *and* a noise prediction (Liu et al. 2024), on x itself.

        x_s = x_t - (abar_t - abar_s) residual - (bbar_t - sqrt(bbar_s^2 - v)) eps + sqrt(v) z

    The two predictions need not agree with the state, nor with each other, so there is no one posterior mean and this
    is a kernel of its own. Start it at mu + sigma eps. ``networks(x, t)`` gets the time, not abar and bbar.
    """

    networks: Callable[..., Parts]
    schedule: Schedule
    eta: float = 0.0

    def __post_init__(self) -> None:
        check_range("eta", self.eta, 0, 1)

    def init(self, x: Tensor, grid: Tensor, /) -> TwoPartCarry:
        path = _falling(self.schedule, grid)
        steps: list[tuple[float, float, float]] = []
        for i in range(path.steps):
            old, noise = _split(path, i, self.eta)
            steps.append((float(path.alpha[i + 1] - path.alpha[i]), float(path.sigma[i] * (1 - old)), noise))
        return TwoPartCarry(tuple(steps), torch.unbind(grid.to(x.device)), _clock(path))

    def step(self, carry: TwoPartCarry, x: Tensor, i: int, noise: Noise, /) -> tuple[TwoPartCarry, Tensor]:
        share, amount, fresh = carry.steps[i]
        residual, eps = self.networks(x, carry.times[i])
        out = torch.sub(x, residual, alpha=share).sub_(eps, alpha=amount)
        if fresh:
            out.add_(noise.brownian(carry.clock, i, x), alpha=fresh)
        return carry, out
