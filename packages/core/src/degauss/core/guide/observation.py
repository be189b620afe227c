r"""Observation self-guidance: condition an unconditional model on observed values, at sampling time.

An observation is values y with a mask of which entries were seen. An *energy* E(x0_hat) says how badly a posterior
mean fits them; its gradient with respect to the noisy state, taken through the denoiser itself, steers sampling
towards p(x | y) (Kollovieh et al. 2023, "Predict, Refine, Synthesize", section 3.1: TSDiff). No retraining, and
any mask: forecasts, gaps, scenarios.

Three forms. ``ObservationGuidance`` moves the posterior mean, so it works in every solver; it is the same as adding
scale sigma grad E to the predicted noise, the paper's DDIM form. ``SearchedGuidance`` does the same with a step that
is never too long. ``GuidedAncestral`` is the paper's ancestral update.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from degauss.core.denoiser import Denoiser, expand
from degauss.core.gaussian.exponential import ddim_table
from degauss.core.gaussian.table import Carry, Table, TableKernel
from degauss.core.guide.loss import loss_gradient
from degauss.core.noise import Noise
from degauss.core.posterior import Point
from degauss.core.schedule import Schedule

Energy = Callable[[Tensor], Tensor]
"""Posterior mean ``[batch, *event]`` -> energy per entry, in the same shape."""


@dataclass(frozen=True)
class MeanSquare:
    """E = sum over observed entries of (y - x0_hat)^2: a Gaussian likelihood (TSDiff-MS).

    ``values``, ``mask``: broadcast to the state's shape; ``mask`` is 1 where observed, and values elsewhere are
    ignored (they must be finite).
    """

    values: Tensor
    mask: Tensor

    def __call__(self, mean: Tensor) -> Tensor:
        return self.mask * (self.values - mean) ** 2


@dataclass(frozen=True)
class Quantile:
    """E = sum over observed entries of max(q e, (q - 1) e), e = y - x0_hat: asymmetric Laplace (TSDiff-Q).

    ``level``: the quantile in (0, 1) of each sample, ``[batch]``. Samples of one series take the levels
    i / (S + 1), i = 1..S, so that together they spread over the predictive distribution.
    """

    values: Tensor
    mask: Tensor
    level: Tensor

    def __call__(self, mean: Tensor) -> Tensor:
        error = self.values - mean
        level = expand(self.level, mean)
        return self.mask * torch.maximum(level * error, (level - 1) * error)


def quantile_levels(samples: int, series: int = 1) -> Tensor:
    """Levels i / (S + 1) for S samples of each series, sample index fastest, ``[series * samples]``."""
    return ((torch.arange(samples) + 1) / (samples + 1)).repeat(series)


@dataclass(frozen=True)
class ObservationGuidance:
    """The guided denoiser: mean' = mean - scale (sigma^2 / alpha) grad_x E(mean(x)).

    Equal to eps' = eps + scale sigma grad E, the paper's DDIM form. ``scale`` is the inverse of the assumed
    variance of the observations in units of the model's data. Needs alpha > 0.
    """

    denoiser: Denoiser[Point]
    schedule: Schedule
    energy: Energy
    scale: float

    def __call__(self, x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        mean, gradient = loss_gradient(self.denoiser, self.energy, x, t, cond)
        alpha, sigma = self.schedule(t)
        return Point(mean - expand(self.scale * sigma**2 / alpha, x) * gradient)


@dataclass(frozen=True)
class SearchedGuidance:
    """``ObservationGuidance`` whose scale is a limit: each sample takes the best of scale, scale/2, ..., and 0.

    The direction is that of the published guidance. Where many observations pull the same way (the level of a whole
    history, say), its length at high noise overshoots them many times over, and with few steps the samples never
    come back. So the energy of the moved mean is tried at ``halvings`` + 1 lengths, and the lowest wins: no further
    network evaluation, and one scale serves every series and every number of steps.
    """

    denoiser: Denoiser[Point]
    schedule: Schedule
    energy: Energy
    scale: float
    halvings: int = 16

    def __call__(self, x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        mean, gradient = loss_gradient(self.denoiser, self.energy, x, t, cond)
        alpha, sigma = self.schedule(t)
        direction = expand(-(sigma**2) / alpha, x) * gradient
        event = tuple(range(1, x.ndim))
        length = x.new_zeros(len(x))
        lowest = self.energy(mean).sum(event)
        for k in range(self.halvings + 1):
            trial = self.scale * 2.0**-k
            energy = self.energy(mean + trial * direction).sum(event)
            length = torch.where(energy < lowest, trial, length)
            lowest = torch.minimum(energy, lowest)
        return Point(mean + expand(length, x) * direction)


@dataclass(frozen=True)
class GuidedAncestral:
    """The published update: an ancestral step, then x <- x - scale v grad_x E(mean(x, t)), v its noise variance.

    The gradient is taken at the new state with the old time, as in the authors' code; the last step (v = 0) is
    unguided. Two forward passes and one backward a step.
    """

    denoiser: Denoiser[Point]
    schedule: Schedule
    energy: Energy
    scale: float

    @property
    def _ancestral(self) -> TableKernel:
        def tabulate(schedule: Schedule, grid: Tensor) -> Table:
            return ddim_table(schedule, grid, eta=1.0)

        return TableKernel(self.denoiser, self.schedule, tabulate)

    def init(self, x: Tensor, grid: Tensor, /) -> Carry:
        return self._ancestral.init(x, grid)

    def step(self, carry: Carry, x: Tensor, i: int, noise: Noise, /) -> tuple[Carry, Tensor]:
        time, variance = carry.times[i], carry.table.rows[i].noise ** 2
        carry, x = self._ancestral.step(carry, x, i, noise)
        if variance > 0:
            _, gradient = loss_gradient(self.denoiser, self.energy, x, time, {})
            x = torch.add(x, gradient, alpha=-self.scale * variance)
        return carry, x
