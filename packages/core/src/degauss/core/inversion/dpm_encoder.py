r"""DPM-Encoder: the noises with which a stochastic sampler makes given data (Wu and De la Torre 2023).

A stochastic sampler x_{i+1} = mu(x_i) + s_i z_i is a function of its noises x_0, z_0, ..., z_{N-1}. To find noises
that make given data, draw a whole trajectory that ends in them, from the sampler's own posterior

    q(x_{i+1} | x_i, data) = N(state_i x_i + weight_i data, s_i^2),

which is a step of the same table with the data in place of the denoiser's answer, and read off what the sampler has
to add: z_i = (x_{i+1} - mu(x_i)) / s_i. With these the sampler repeats the trajectory, for any denoiser, any eta > 0
and any number of steps. Decoding them with another denoiser translates the data (CycleDiffusion).

The trajectory's last point is the data. Where the sampler adds no noise (its last step, onto clean data) the
difference itself is kept, in units of the data, so that this step too is repeated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from degauss.core.denoiser import Denoiser, expand
from degauss.core.errors import InputError
from degauss.core.gaussian import table
from degauss.core.gaussian.exponential import ddim
from degauss.core.grid import check_grid
from degauss.core.kernel import simulate
from degauss.core.noise import Noise
from degauss.core.posterior import Point
from degauss.core.schedule import Schedule


class Noises(NamedTuple):
    """Data as noise: the state at grid[0], ``[batch, *event]``, and what each step adds, ``[steps, batch, *event]``."""

    start: Tensor
    steps: Tensor


class Carry(NamedTuple):
    """The carry of the method without its noise, and the unit of each step's noise."""

    silent: table.Carry
    units: tuple[float, ...]


@dataclass(frozen=True)
class Replay:
    """DDIM(eta) that adds given noises, ``[steps, batch, *event]``, in place of fresh ones."""

    denoiser: Denoiser[Point]
    schedule: Schedule
    steps: Tensor
    eta: float = 1.0

    def init(self, x: Tensor, grid: Tensor, /) -> Carry:
        if len(grid) - 1 != len(self.steps):
            raise InputError(f"noises of {len(self.steps)} steps cannot be replayed on a grid of {len(grid) - 1}.")
        return _silenced(ddim(self.eta)(self.denoiser, self.schedule).init(x, grid))

    def step(self, carry: Carry, x: Tensor, i: int, noise: Noise, /) -> tuple[Carry, Tensor]:
        kernel = ddim(self.eta)(self.denoiser, self.schedule)
        silent, mean = kernel.step(carry.silent, x, i, noise)
        return Carry(silent, carry.units), torch.add(mean, self.steps[i], alpha=carry.units[i])


def _silenced(carry: table.Carry) -> Carry:
    rows = carry.table.rows
    silent = table.Table(tuple(row._replace(noise=0.0) for row in rows), carry.table.clock)
    return Carry(carry._replace(table=silent), tuple(row.noise or 1.0 for row in rows))


def dpm_encode(
    denoiser: Denoiser[Point], schedule: Schedule, x0: Tensor, grid: Tensor, noise: Noise, *, eta: float = 1.0
) -> Noises:
    """Noises with which DDIM(eta) on ``grid`` (from noise to data) makes x0 ``[batch, *event]`` at grid[-1].

    They are one draw of many, keyed by ``noise``. ``eta`` in (0, 1]; 1 is DDPM. ``len(grid) - 1`` evaluations.
    Raises InputError for another eta or a grid that rises, FloatingPointError where the noises are not finite.
    """
    if not 0 < eta <= 1:
        raise InputError(f"eta must be above 0 and at most 1, but is {eta}: without noise there is none to find.")
    grid = check_grid(grid)
    if grid[-1] > grid[0]:
        raise InputError("the grid must go from noise to data, as for sampling, but its times rise.")

    def known(x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        del x, t, cond
        return Point(x0)

    solver = ddim(eta)
    posterior, model = solver(known, schedule), solver(denoiser, schedule)
    drawing = posterior.init(x0, grid)
    silent, units = _silenced(model.init(x0, grid))
    alpha, sigma = (expand(scale, x0) for scale in schedule(grid[0]))
    start = x = alpha * x0 + sigma * noise.normal(x0)
    steps: list[Tensor] = []
    for i, unit in enumerate(units):
        silent, mean = model.step(silent, x, i, noise)
        drawing, x = posterior.step(drawing, x, i, noise)
        x = x0 if i == len(units) - 1 else x
        steps.append((x - mean) / unit)
    noises = Noises(start, torch.stack(steps))
    if not bool(torch.isfinite(noises.steps).all()):
        raise FloatingPointError("encoding with DPM-Encoder gave noises that are not finite")
    return noises


def dpm_decode(
    denoiser: Denoiser[Point], schedule: Schedule, noises: Noises, grid: Tensor, *, eta: float = 1.0
) -> Tensor:
    """What DDIM(eta) makes of given noises, at grid[-1]: the data encoded, if the denoiser and eta are the same.

    Raises InputError where grid and noises have another number of steps, FloatingPointError where the result is not
    finite.
    """
    grid = check_grid(grid)
    kernel = Replay(denoiser, schedule, noises.steps, eta)
    x = simulate(kernel, noises.start, grid, Noise(0, range(len(noises.start))))
    if not bool(torch.isfinite(x).all()):
        raise FloatingPointError("decoding with DPM-Encoder gave values that are not finite")
    return x
