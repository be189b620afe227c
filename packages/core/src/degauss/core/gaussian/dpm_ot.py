r"""DPM-OT: jump from noise to an intermediate level by an optimal-transport map (Li et al. 2023).

A bank of n latents y_i stands for the data at some level of noise. The semi-discrete optimal-transport map from
N(0, I) to the bank, each latent with mass 1/n, sends z to the latent of its cell,

    i(z) = argmax_i <y_i, z> + h_i,

where the heights h make every cell's mass 1/n. They minimise the convex function
E max_i(<y_i, z> + h_i) - mean_i h_i, whose gradient is the cells' masses less 1/n, estimated by Monte Carlo.

The map is a *start* (``degauss.core.gaussian.one_more_step.Started``): z goes to its latent, optionally part of the way
to the latent of the next cell, and noise brings the result up to the first level of the grid, from where a few steps
of any solver finish. Latents of neighbouring cells may lie on different modes, and a point between them on none. Such
pairs are told by the angle between the faces (y_i, -1) and (y_j, -1) of the potential: above ``angle`` the
neighbour is left out.

**What it can do.** The samples are those of a bank, so they are new only by the noise added and by interpolation. And
the law of the first state is that of a latent taken at random: transport makes it a map of z, it does not improve it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from degauss.core.checkpoint import load_model, save_model
from degauss.core.denoiser import expand
from degauss.core.errors import InputError, check_range
from degauss.core.gaussian.one_more_step import FRESH_DRAW
from degauss.core.noise import Noise

KIND = "degauss.core/optimal_transport_start"

# Potentials are computed for as many points at once as make about this many numbers.
_AT_ONCE = 1 << 23

Report = Callable[[int, int, float], None]
"""Called after each fitting step with (steps done, steps in all, total variation between the cells' masses and 1/n)."""


class Cells(NamedTuple):
    """The cell of each point and the next best one, integer ``[batch]`` each."""

    first: Tensor
    second: Tensor


@dataclass(frozen=True, eq=False)
class OptimalTransportStart:
    """The fitted map as a start.

    ``bank``: the latents ``[n, *event]``, at the scales ``alpha`` and ``sigma``: (1, 0) for clean data. ``heights``:
    ``[n]``. ``mix``: latents are moved towards the next cell's by a fraction uniform in (0, mix), where the angle
    between the two faces is at most ``angle`` radians; with ``mix`` 0, as in the published code, each z goes to its
    latent.
    """

    bank: Tensor
    heights: Tensor
    alpha: float = 1.0
    sigma: float = 0.0
    mix: float = 0.0
    angle: float = 0.0

    def __post_init__(self) -> None:
        if self.bank.ndim < 2 or len(self.bank) < 2 or self.heights.shape != self.bank.shape[:1]:
            raise InputError(
                f"a bank [n, *event] of two latents or more and heights [n] are needed, but they are "
                f"{tuple(self.bank.shape)} and {tuple(self.heights.shape)}."
            )
        if not bool(torch.isfinite(self.bank).all() & torch.isfinite(self.heights).all()):
            raise InputError("the bank and its heights must be finite, but some numbers are not.")
        if not (self.alpha > 0 and self.sigma >= 0):
            raise InputError(f"a bank's scales are alpha > 0, sigma >= 0, but are {self.alpha:g}, {self.sigma:g}.")
        check_range("mix", self.mix, 0.0, 1.0)
        check_range("angle", self.angle, 0.0, math.pi, "radians")

    def cells(self, z: Tensor) -> Cells:
        """The two highest faces of the potential above each z ``[batch, *event]``."""
        if z.shape[1:] != self.bank.shape[1:]:
            events = tuple(z.shape[1:]), tuple(self.bank.shape[1:])
            raise InputError(f"events {events[0]} were asked of a bank of events {events[1]}.")
        bank = self.bank.to(z).flatten(1)
        return Cells(*torch.addmm(self.heights.to(z), z.flatten(1), bank.T).topk(2, dim=1).indices.unbind(1))

    def angles(self, cells: Cells) -> Tensor:
        """The angle between the faces of two cells, in radians ``[batch]``."""
        bank = self.bank.to(cells.first.device).flatten(1)
        one, other = (bank[index].double() for index in cells)
        lengths = ((one * one).sum(1) + 1).sqrt() * ((other * other).sum(1) + 1).sqrt()
        return torch.acos((((one * other).sum(1) + 1) / lengths).clamp(-1, 1))

    def transport(self, z: Tensor, noise: Noise) -> Tensor:
        """From normals z to latents at the bank's level, in the shape of z."""
        cells, bank = self.cells(z), self.bank.to(z)
        first = bank[cells.first]
        if not self.mix:
            return first
        share = self.mix * noise.uniform(z.new_empty(len(z)))
        share = torch.where(self.angles(cells) <= self.angle, share, torch.zeros_like(share))
        return torch.lerp(first, bank[cells.second], expand(share, z))

    def __call__(self, z: Tensor, alpha: float, sigma: float, noise: Noise, /) -> Tensor:
        keep = alpha / self.alpha
        fresh = sigma**2 - (keep * self.sigma) ** 2
        if fresh < -1e-9 * sigma**2:
            raise InputError(
                f"the bank's latents are at sigma/alpha = {self.sigma / self.alpha:g}, noisier than the first level of "
                f"the grid, {sigma / alpha:g}: start the grid higher."
            )
        latent = self.transport(z, noise) * keep
        return torch.add(latent, noise.normal(z, draw=FRESH_DRAW), alpha=math.sqrt(fresh)) if fresh > 0 else latent

    def masses(self, points: int, seed: int = 1) -> Tensor:
        """The mass of each cell by Monte Carlo with ``points`` normals, float64 ``[n]``; not with the fit's seed."""
        bank = self.bank.flatten(1)
        return _counts(bank, self.heights.to(bank), points, seed, 0).double() / points

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a directory of safetensors and JSON."""
        scales = {"alpha": self.alpha, "sigma": self.sigma, "mix": self.mix, "angle": self.angle}
        save_model(path, {"bank": self.bank, "heights": self.heights}, KIND, scales)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> OptimalTransportStart:
        """Read what ``save`` wrote; `InputError` where there is no such thing."""
        weights, config = load_model(path, KIND)
        try:
            return cls(weights["bank"], weights["heights"], **config)
        except (KeyError, TypeError) as error:
            raise InputError(f"{path} does not hold a bank, its heights and its scales ({error}).") from error


def fit_transport(
    bank: Tensor,
    *,
    alpha: float = 1.0,
    sigma: float = 0.0,
    mix: float = 0.0,
    angle: float = 0.0,
    steps: int = 300,
    points: int | None = None,
    rate: float = 0.03,
    seed: int = 0,
    report: Report | None = None,
) -> OptimalTransportStart:
    """Fit the heights of a bank ``[n, *event]`` by Adam on the masses of its cells.

    ``points``: normals drawn for each of the ``steps``, 10 n unless given. ``rate``: Adam's first step, as a fraction
    of the radius of the bank; steps shrink geometrically. The other arguments are those of ``OptimalTransportStart``.
    Heights begin at those of a normally distributed bank. A latent that is in the bank twice shares a cell with its
    twin: neither has a mass of its own.
    """
    if steps < 1 or (points is not None and points < 1):
        raise InputError(f"a fit needs a step and a point or more, but steps is {steps} and points {points}.")
    start = OptimalTransportStart(bank, bank.new_zeros(len(bank)), alpha, sigma, mix, angle)
    flat = bank.detach().flatten(1)
    count, dim = flat.shape
    # What is common to all latents moves no cell: the centred bank has the same heights and rounds less.
    centred = flat - flat.mean(0)
    spread = float(centred.pow(2).mean().sqrt())
    if not spread > 0:
        raise InputError("the latents of a bank must differ, but all are the same.")
    heights = -0.5 * centred.pow(2).sum(1) / spread
    points = 10 * count if points is None else points
    first = rate * spread * math.sqrt(dim)
    # From steps that cross the bank to steps that move one face among its neighbours.
    fall = 0.1 * count ** (-2 / dim)
    optimiser = torch.optim.Adam([heights], lr=first)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = first * fall ** (step / steps)
        excess = _counts(centred, heights, points, seed, step) * (count / points) - 1
        heights.grad = excess.to(heights)
        optimiser.step()
        if report is not None:
            report(step + 1, steps, float(excess.abs().mean()) / 2)
    return replace(start, heights=heights)


def _counts(bank: Tensor, heights: Tensor, points: int, seed: int, draw: int) -> Tensor:
    """How many of ``points`` normals fall into each cell, integer ``[n]``."""
    count, dim = bank.shape
    total = torch.zeros(count, dtype=torch.int64, device=bank.device)
    chunk = max(1, _AT_ONCE // max(count, dim))
    for first in range(0, points, chunk):
        samples = range(first, min(first + chunk, points))
        z = Noise(seed, samples).normal(bank.new_empty(len(samples), dim), draw=draw)
        total += torch.bincount(torch.addmm(heights, z, bank.T).argmax(1), minlength=count)
    return total
