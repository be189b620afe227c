r"""Asynchronous score distillation (Ma et al. 2024, "ScaleDreamer"), as in its authors' code.

VSD subtracts the noise that a network trained on the renders predicts. ASD asks the frozen prior instead, at a later
time: the prior's error on what it has not seen is smaller there, as if it had been trained on it,

    g = w(t) (eps_guided(x_t; y, t) - eps_hat(x_{t+D}; y, t + D)),   D = ratio (t - t_min) u,   u ~ U(0, 1),

with the *same* noise eps in both states, and the second term conditional but without guidance. In residual form, with
k = sigma / alpha at both times, the noise itself drops out:

    x0 - wanted = (x0 - mean_guided(x_t)) - (k_t / k_{t+D}) (x0 - mean(x_{t+D})).

Three evaluations a render with guidance, in one batch, and nothing to train. ``t_min`` is what the annealed lower end
of the times is at this step; t + D stays below 0.999.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from degauss.core.errors import check_range
from degauss.core.noise import Noise
from degauss.threed.distillation.annealing import SCALEDREAMER, Ramp
from degauss.threed.distillation.guidance import MODEST, Guidance
from degauss.threed.distillation.residual import (
    EPS,
    SHIFT,
    Asked,
    Block,
    Level,
    Residual,
    Weighting,
    ask,
    by_variance,
)

_LAST = 0.999
_LOWEST = SCALEDREAMER.low


@dataclass(frozen=True)
class ASD:
    """Defaults of the paper: guidance 7.5, ratio 0.1, a random shift; its times are `annealing.SCALEDREAMER`.

    ``t_min``: the lower end of the times, as a schedule. ``spread`` in [0, 1]: u is uniform in (1 - spread, 1); 1 is
    the paper's, 0 its ablation of a shift that is not random. A ratio of 0 compares both terms at one time.
    """

    guidance: Guidance = MODEST
    ratio: float = 0.1
    t_min: Ramp = _LOWEST
    spread: float = 1.0
    weighting: Weighting = by_variance

    def __post_init__(self) -> None:
        check_range("ratio", self.ratio, 0)
        check_range("spread", self.spread, 0, 1)

    def later(self, t: Tensor, noise: Noise, step: int) -> Tensor:
        """t + D, ``[n]``."""
        u = 1 - self.spread * noise.fork(step).uniform(t, SHIFT)
        shift = self.ratio * (t - self.t_min(step)).clamp(min=0) * u
        return torch.maximum(t, (t + shift).clamp(max=_LAST))

    def residual(self, asked: Asked, x0: Tensor, t: Tensor, noise: Noise, step: int, /) -> Residual:
        x0 = x0.detach()
        schedule = asked.prior.schedule
        after = self.later(t, noise, step)
        level, second = Level.of(schedule, t, x0), Level.of(schedule, after, x0)
        eps = noise.fork(step).normal(x0, EPS)
        x_t, x_after = level.noised(x0, eps), second.noised(x0, eps)
        conditions = self.guidance.conditions(asked)
        blocks = [Block(condition, x_t, t) for condition in conditions]
        *means, mean_after = ask(asked.prior, [*blocks, Block(asked.wanted, x_after, after)])
        mean = self.guidance.combine(asked, means)
        difference = level.alpha / level.sigma * (x0 - mean) - second.alpha / second.sigma * (x0 - mean_after)
        return level.residual(x0, difference, self.weighting, (len(blocks) + 1) * len(x0))
