r"""DDIM inversion: the approximate way back (Song et al. 2021, section 5.4).

DDIM goes from a time t to a cleaner time s with the noise eps that it finds at x_t. Backwards x_t is not known, and
the plain inversion takes eps at x_s instead, which costs one evaluation a step and an error of the first order. The
right x_t solves

    x_t = (alpha_t/alpha_s) x_s + (sigma_t - alpha_t k_s) eps(x_t, t),   k = sigma/alpha,

and inserting the guess on the right, again and again, comes nearer to it by a factor at each evaluation (Pan et al.
2023; Garibi et al. 2024). BDIA, BELM and EDICT have an exact inverse instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor

from degauss.core.denoiser import Denoiser
from degauss.core.errors import check_range
from degauss.core.gaussian.exponential import ddim, ddim_table
from degauss.core.gaussian.table import Array, Path, TableKernel, on_grid
from degauss.core.inversion.guard import response
from degauss.core.kernel import simulate
from degauss.core.noise import Noise
from degauss.core.posterior import Point
from degauss.core.schedule import Schedule


class Rise(NamedTuple):
    """One step from s up to t: the plain guess state x_s + weight mean(x_s, s), and the equation for x_t,

    x_t = scale x_s + gain (x_t - alpha mean(x_t, t)), to be iterated ``rounds`` times.
    """

    state: float
    weight: float
    scale: float
    gain: float
    alpha: float
    rounds: int


class Carry(NamedTuple):
    """What a run needs: the coefficients of each step, and the grid's times on the device."""

    rises: tuple[Rise, ...]
    times: tuple[Tensor, ...]


@dataclass(frozen=True)
class InverseDDIM:
    """DDIM inversion on a grid of rising times, with ``iterations`` further evaluations a step.

    From clean data (sigma = 0) there is no noise to find at x_s: that step starts from (alpha_t/alpha_s) x_s at t.
    """

    denoiser: Denoiser[Point]
    schedule: Schedule
    iterations: int = 0

    def init(self, x: Tensor, grid: Tensor, /) -> Carry:
        path = on_grid(self.schedule, grid)
        rises = tuple(self._rise(path, i) for i in range(path.steps))
        return Carry(rises, grid.to(x.device).unbind())

    def _rise(self, path: Path, i: int) -> Rise:
        alpha_s, alpha_t = path.alpha[i], path.alpha[i + 1]
        sigma_s, sigma_t = path.sigma[i], path.sigma[i + 1]
        scale, gain = float(alpha_t / alpha_s), float(1 - alpha_t * sigma_s / (alpha_s * sigma_t))
        if sigma_s == 0:
            return Rise(scale, 0.0, scale, gain, float(alpha_t), self.iterations + 1)
        state = sigma_t / sigma_s
        return Rise(float(state), float(alpha_t - state * alpha_s), scale, gain, float(alpha_t), self.iterations)

    def step(self, carry: Carry, x: Tensor, i: int, noise: Noise, /) -> tuple[Carry, Tensor]:
        del noise
        state, weight, scale, gain, alpha, rounds = carry.rises[i]
        guess = x * state
        if weight:
            guess = guess.add_(self.denoiser(x, carry.times[i]).mean, alpha=weight)
        for _ in range(rounds):
            residual = guess.sub(self.denoiser(guess, carry.times[i + 1]).mean, alpha=alpha)
            guess = (x * scale).add_(residual, alpha=gain)
        return carry, guess


@dataclass(frozen=True)
class DDIMInversion:
    """DDIM, and its approximate inversion with ``iterations`` >= 0 further evaluations a step.

    Its one state is x.
    """

    iterations: int = 0

    def __post_init__(self) -> None:
        check_range("iterations", self.iterations, 0)

    @property
    def remedy(self) -> str:
        """What loses less to rounding."""
        return "fewer steps"

    def __call__(self, denoiser: Denoiser[Point], schedule: Schedule, /) -> TableKernel:
        return ddim()(denoiser, schedule)

    def encode(
        self, denoiser: Denoiser[Point], schedule: Schedule, x0: Tensor, grid: Tensor, companion: Tensor | None = None
    ) -> tuple[Tensor]:
        """The state at grid[0], approximately. ``companion`` is not used: there is no second state."""
        del companion
        kernel = InverseDDIM(denoiser, schedule, self.iterations)
        return (simulate(kernel, x0, grid.flip(0), Noise(0, range(len(x0)))),)

    def decode(self, denoiser: Denoiser[Point], schedule: Schedule, states: tuple[Tensor, ...], grid: Tensor) -> Tensor:
        """x at grid[-1] from the state at grid[0], by DDIM."""
        return simulate(self(denoiser, schedule), states[0], grid, Noise(0, range(len(states[0]))))

    def transfers(self, schedule: Schedule, grid: Tensor) -> Array:
        """How a step carries an error of x on standard normal data, ``[steps, 1, 1]``."""
        rows = ddim_table(schedule, grid).rows
        slopes = [row.state + row.weights[0] * d for row, d in zip(rows, response(schedule, grid), strict=False)]
        return np.array(slopes).reshape(-1, 1, 1)
