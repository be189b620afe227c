r"""Sequential Monte Carlo towards p exp(r / alpha) / Z; with guided proposals, the twisted diffusion sampler.

A group of P particles goes from noise to data. After the step from t to s each gains the weight

    exp((v_s - v_t) / alpha) p(x_s | x_t) / q(x_s | x_t),

where q is what the step was drawn from and v is the value of a state, what its completions earn; v at the last time is
the reward itself, and at the start 0, as all particles of a group start alike. Over a path the values telescope, so
the weights are right for *any* value: a good one only saves particles. Where weights become uneven particles are drawn
anew in proportion to them, systematically (one uniform number for a group).

With q = p this is SMC as in Singhal et al. 2025 (potentials of differences) and Li et al. 2024; with q guided by the
reward's gradient it is TDS (Wu et al. 2023), where the ratio p / q is what makes it exact. Groups know nothing of each
other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from degauss.core.errors import InputError, check_range
from degauss.core.reward.search import Completion, Found, Run, most_likely


@dataclass(frozen=True)
class SMC:
    """n designs as n / ``particles`` groups.

    ``alpha`` > 0, in units of the reward. ``resample_below``: a group is resampled after a step that leaves its
    effective sample size below this share of its particles, in [0, 1]. 1 is every step, the last one too, so that all
    designs of a group count alike; below 1 they are a sample of the tilted law only with their weights; 0 is never.
    A particle and step score one completed sequence (or as many as ``completion`` guesses), for one evaluation.

    Raises `InputError` for settings out of range, unless n is a multiple of ``particles``, and where the particles of
    a group have different templates.
    """

    alpha: float
    particles: int
    resample_below: float = 1.0
    completion: Completion = most_likely

    def __post_init__(self) -> None:
        if not 0 < self.alpha < math.inf:
            raise InputError(f"alpha must be above 0, but is {self.alpha}.")
        check_range("particles", self.particles, 1)
        check_range("resample_below", self.resample_below, 0, 1)

    def __call__(self, run: Run, /) -> Found:
        x = run.start
        groups = self._groups(x)
        leaders = run.noise.take(range(0, len(x), self.particles))
        value = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        log_weights = value.reshape(groups, self.particles)
        log_mean = torch.zeros(groups, 1, dtype=torch.float64, device=x.device)
        ancestors = torch.arange(self.particles, device=x.device).expand(groups, -1)
        offsets = self.particles * torch.arange(groups, device=x.device)[:, None]
        for i in range(run.steps):
            x, log_ratio = run.propose(x, i, run.noise)
            before, value = value, run.value(x, i + 1, run.noise, self.completion)
            log_weights = log_weights + ((value - before) / self.alpha + log_ratio).view_as(log_weights)
            u = run.choices(x[:: self.particles], i, leaders)
            uneven = (effective_size(log_weights) < self.resample_below * self.particles)[:, None]
            parents = torch.where(uneven, systematic(log_weights, u), torch.arange(self.particles, device=x.device))
            log_mean = log_mean + torch.where(uneven, _log_mean(log_weights), 0.0)
            log_weights = torch.where(uneven, 0.0, log_weights)
            rows = (offsets + parents).flatten()
            x, value = run.follow(x, rows), value[rows]
            ancestors = ancestors.gather(1, parents)
        survivors = (ancestors.sort(1).values.diff(dim=1) != 0).sum(1) + 1
        return Found(x, value, survivors, (log_mean + log_weights).flatten())

    def _groups(self, start: Tensor) -> int:
        if len(start) % self.particles:
            raise InputError(
                f"SMC designs whole groups: the number of designs must be a multiple of particles = {self.particles}, "
                f"but is {len(start)}."
            )
        groups = start.unflatten(0, (-1, self.particles))
        if not bool((groups == groups[:, :1]).all()):
            raise InputError("SMC takes one template for each group of particles, but they differ within a group.")
        return len(groups)


def effective_size(log_weights: Tensor) -> Tensor:
    """(sum w)^2 / sum w^2 over the last axis: from 1, one particle has all, to their number, all alike."""
    return torch.exp(2 * log_weights.logsumexp(-1) - (2 * log_weights).logsumexp(-1))


def systematic(log_weights: Tensor, u: Tensor) -> Tensor:
    """Parents ``[groups, particles]`` by weight; ``u``: one uniform number for each group.

    Particle j of weight share w_j gets floor(P w_j) or ceil(P w_j) children, P w_j on average.
    """
    count = log_weights.shape[-1]
    share = log_weights.softmax(-1).cumsum(-1)
    points = (torch.arange(count, device=u.device) + u[:, None]) / count
    return torch.searchsorted(share / share[:, -1:], points).clamp(max=count - 1)


def _log_mean(log_weights: Tensor) -> Tensor:
    return log_weights.logsumexp(-1, keepdim=True) - math.log(log_weights.shape[-1])
