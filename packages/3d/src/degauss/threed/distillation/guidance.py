r"""Guidance inside a distillation: which conditions are asked of one state, and how the answers become one mean.

Everything is said of posterior means. Noises, scores and means are affine in each other, so a combination whose
weights add up to 1 is the same for all of them, and so are directions of differences.

**What a guidance scale means.** Here scale s is none + s (prompt - none): 1 is the prompt alone. threestudio's SDS
without perpendicular negatives computes prompt + s (prompt - none) instead, which is scale s + 1 (`ClassifierFree.
beyond`), while its VSD, its perpendicular negatives and ASD count as here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from degauss.core.denoiser import Denoiser
from degauss.core.errors import check_range
from degauss.core.guide.classifier_free import Answers, extrapolated
from degauss.core.posterior import Point
from degauss.threed.distillation.residual import Asked
from degauss.threed.prior import Condition


class Guidance(Protocol):
    """Conditions to ask under, the prompt's own first, and their means ``[n, c, h, w]`` as one."""

    def conditions(self, asked: Asked, /) -> tuple[Condition, ...]: ...

    def combine(self, asked: Asked, means: list[Tensor], /) -> Tensor: ...


@dataclass(frozen=True)
class ClassifierFree:
    """none + scale (prompt - none) (Ho and Salimans 2022), where none is ``Asked.weak``.

    ``rescale`` r in [0, 1]: how much the result is brought back to the spread of the prompt's own mean, r std(prompt) /
    std(guided) + 1 - r times it, the std over each image (Lin et al. 2024, as MVDream applies it to x0; it takes 0.5).
    Scale 1 asks under the prompt alone.
    """

    scale: float
    rescale: float = 0.0

    def __post_init__(self) -> None:
        check_range("rescale", self.rescale, 0, 1)

    @classmethod
    def beyond(cls, scale: float) -> ClassifierFree:
        """prompt + scale (prompt - none), as threestudio's SDS counts."""
        return cls(scale + 1)

    def conditions(self, asked: Asked, /) -> tuple[Condition, ...]:
        return (asked.wanted,) if self.scale == 1 else (asked.wanted, asked.weak)

    def combine(self, asked: Asked, means: list[Tensor], /) -> Tensor:
        del asked
        if len(means) == 1:
            return means[0]
        guided = extrapolated(Answers(*means), self.scale)
        if not self.rescale:
            return guided
        ratio = _spread(means[0]) / _spread(guided).clamp(min=torch.finfo(guided.dtype).tiny)
        return guided * (self.rescale * ratio + 1 - self.rescale)


MODEST = ClassifierFree(7.5)
"""Of VSD, ASD, ISM, TSM and DDS."""
STRONG = ClassifierFree(100.0)
"""Of SDS as published."""


def _spread(x: Tensor) -> Tensor:
    """The standard deviation of each image, ``[n, 1, 1, 1]``."""
    return x.std((1, 2, 3), keepdim=True)


def guided_denoiser(asked: Asked, guidance: Guidance) -> Denoiser[Point]:
    """The guided prior as a denoiser, for sampling, or to look at what a distillation is after."""
    conditions = guidance.conditions(asked)
    denoiser = asked.prior.together(conditions)

    def answer(x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        times = t.repeat(len(conditions)) if t.ndim else t
        means = denoiser(torch.cat((x,) * len(conditions)), times, **cond).mean
        return Point(guidance.combine(asked, list(means.chunk(len(conditions)))))

    return answer
