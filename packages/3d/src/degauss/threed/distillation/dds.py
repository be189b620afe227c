r"""Delta denoising score (Hertz et al. 2023; ED-NeRF, Park et al. 2024, for scenes): editing.

    g = w(t) (eps_guided(x_t; y, t) - eps_guided(x'_t; y', t)),

where x' are images that the prompt y' describes, the renders of the scene before it was edited say, and both states
share t and eps. What SDS does to an image that is right already is subtracted: an unchanged prompt changes nothing.
In residual form  x0 - wanted = (x0 - mean(x_t)) - (x' - mean'(x'_t)).

Four evaluations a render with guidance, in one batch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import Tensor

from degauss.core.noise import Noise
from degauss.threed.distillation.guidance import MODEST, Guidance
from degauss.threed.distillation.residual import (
    EPS,
    Asked,
    Block,
    Level,
    Residual,
    Weighting,
    ask,
    by_variance,
)


class Source(NamedTuple):
    """What is edited: its images ``[n, c, h, w]``, from the same views, and the prompt that describes them."""

    x0: Tensor
    prompt: str


@dataclass(frozen=True)
class DDS:
    """Guidance 7.5, w = sigma^2."""

    guidance: Guidance = MODEST
    weighting: Weighting = by_variance

    def residual(self, asked: Asked, x0: Tensor, t: Tensor, noise: Noise, step: int, /, source: Source) -> Residual:
        """``source``: see `Source`. Raises ValueError where its images have another shape than the renders."""
        x0, before = x0.detach(), source.x0.detach()
        if before.shape != x0.shape:
            raise ValueError(f"the renders are {list(x0.shape)}, but the source's images {list(before.shape)}")
        level = Level.of(asked.prior.schedule, t, x0)
        eps = noise.fork(step).normal(x0, EPS)
        x_t, source_t = level.noised(x0, eps), level.noised(before, eps)
        origin = replace(asked, prompt=source.prompt)
        blocks = [Block(condition, x_t, t) for condition in self.guidance.conditions(asked)]
        source_blocks = [Block(condition, source_t, t) for condition in self.guidance.conditions(origin)]
        means = ask(asked.prior, [*blocks, *source_blocks])
        mean = self.guidance.combine(asked, means[: len(blocks)])
        source_mean = self.guidance.combine(origin, means[len(blocks) :])
        difference = level.alpha / level.sigma * ((x0 - mean) - (before - source_mean))
        return level.residual(x0, difference, self.weighting, len(means) * len(x0))
