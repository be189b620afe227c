r"""Score distillation sampling (Poole et al. 2023, "DreamFusion", eq. 3), and its form as a distance of images.

    g = w(t) (eps_hat(x_t; y, t) - eps),   x_t = alpha x0 + sigma eps.

Because  x0 - mean = (sigma / alpha) (eps_hat - eps)  exactly, this is the gradient of

    0.5 w (alpha / sigma) |x0 - stop(mean)|^2

(MVDream, StableDreamer): the render is pulled to what the prior would make of it. With the weight `by_ratio` that is
the plain L2 distance, MVDream's reconstruction loss.

Its mean over eps is the gradient of w (sigma / alpha) KL(q(x_t | x0) | p_t) (appendix A.4), so it seeks the modes of
the noised prior: for data N(m, s^2) it is w alpha sigma / (alpha^2 s^2 + sigma^2) (x0 - m), and every render is pulled
to m, however wide s.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from degauss.core.noise import Noise
from degauss.core.schedule import Schedule
from degauss.threed.distillation.guidance import STRONG, ClassifierFree, Guidance
from degauss.threed.distillation.residual import (
    EPS,
    Asked,
    Block,
    Level,
    Residual,
    Weighting,
    ask,
    by_ratio,
    by_variance,
)


@dataclass(frozen=True)
class SDS:
    """Defaults of DreamFusion: guidance 100, w = sigma^2. It is meant for t uniform in (0.02, 0.98)."""

    guidance: Guidance = STRONG
    weighting: Weighting = by_variance

    def residual(self, asked: Asked, x0: Tensor, t: Tensor, noise: Noise, step: int, /) -> Residual:
        x0 = x0.detach()
        level = Level.of(asked.prior.schedule, t, x0)
        x_t = level.noised(x0, noise.fork(step).normal(x0, EPS))
        conditions = self.guidance.conditions(asked)
        mean = self.guidance.combine(asked, ask(asked.prior, [Block(condition, x_t, t) for condition in conditions]))
        difference = level.alpha / level.sigma * (x0 - mean)
        return level.residual(x0, difference, self.weighting, len(conditions) * len(x0))


def mvdream() -> SDS:
    """MVDream's loss (Shi et al. 2024): 0.5 |x0 - mean|^2 at guidance 50, rescaled by 0.5."""
    return SDS(ClassifierFree(50.0, rescale=0.5), by_ratio)


def x0_form(x0: Tensor, target: Tensor, schedule: Schedule, t: Tensor, weighting: Weighting = by_variance) -> Tensor:
    """0.5 w (alpha / sigma) |x0 - target|^2 / n, summed over the batch: SDS as a loss of images, with its gradient.

    ``target``: `Residual.target`, held fixed.
    """
    level = Level.of(schedule, t, x0)
    weight = weighting(level.alpha, level.sigma) * level.alpha / level.sigma
    return 0.5 * (weight * (x0 - target.detach()).square()).sum() / len(x0)
