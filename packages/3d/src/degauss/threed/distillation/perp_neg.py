r"""Perpendicular negative prompts (Armandpour et al. 2023, "Perp-Neg"), against objects with two faces.

With d = mean(y) - mean(none) and d_i = mean(y_i) - mean(none) for negative conditions y_i,

    guided = mean(none) + scale (d + sum_i w_i P d_i),   P d_i = d_i - (d_i . d / |d|^2) d,   w_i <= 0.

Only what a negative says beyond the positive is subtracted; what they share stays. P is of each image as a whole.

Here the negatives are other views of the same prompt. Towards the front (azimuth a, r = 1 - |a| / 90) they are front
and side, behind (r = 2 - |a| / 90) side and front, and their weights fall with the distance from the view,

    front:  w_front = -f(4, 0.5, -2.426)(r),   w_side = -f(4, 0.5, -2.426)(1 - r),
    behind: w_side = -f(1, 0.5, -0.606)(r),    w_front = -f(1, 0.5, 0.967)(r),        f(a, b, c)(r) = a e^{-b r} + c,

with threestudio's constants: a view is no negative of itself. threestudio joins front, side and back prompts; a prior
that knows views is simply asked from there. ScaleDreamer multiplies these weights by 0.5.

The constants are for text models, whose views differ little. A prior that is sure of its views wants quite another
image from each, and P d_i is as large as that: it is pushed off what it had right. Take a small ``strength``, or none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from degauss.core.errors import check_range
from degauss.threed.distillation.residual import Asked
from degauss.threed.prior import Condition
from degauss.threed.views import Views


def perpendicular(x: Tensor, to: Tensor) -> Tensor:
    """The part of each ``x`` ``[n, ...]`` at right angles to ``to``, all of it where that is zero."""
    dims = tuple(range(1, x.ndim))
    power = to.square().sum(dims, keepdim=True)
    share = (x * to).sum(dims, keepdim=True) / power.clamp(min=torch.finfo(x.dtype).tiny)
    return x - share * to


class Negatives(NamedTuple):
    """Two negative views for each view, and their weights ``[n]``, <= 0."""

    views: tuple[Views, Views]
    weights: tuple[Tensor, Tensor]


def other_views(views: Views) -> Negatives:
    """The negatives of each view; sides are on the view's own side."""
    azimuth = torch.remainder(views.azimuth + 180, 360) - 180
    away = azimuth.abs() / 90
    ahead = away < 1
    side = 90 * torch.where(azimuth < 0, -1.0, 1.0)
    front = torch.zeros_like(azimuth)
    r = torch.where(ahead, 1 - away, 2 - away)
    first = torch.where(ahead, front, side)
    second = torch.where(ahead, side, front)
    weights = (
        -torch.where(ahead, _decay(4, -2.426, r), _decay(1, -0.606, r)).clamp(min=0),
        -torch.where(ahead, _decay(4, -2.426, 1 - r), _decay(1, 0.967, r)).clamp(min=0),
    )
    return Negatives((views.at(first), views.at(second)), weights)


def _decay(a: float, c: float, r: Tensor) -> Tensor:
    return a * torch.exp(-0.5 * r) + c


@dataclass(frozen=True)
class Perpendicular:
    """Classifier-free guidance away from the other views: a `degauss.threed.distillation.guidance.Guidance`.

    ``strength``: times the weights, >= 0; 0 is plain guidance. Asks under four conditions; raises ValueError without
    views.
    """

    scale: float
    strength: float = 1.0

    def __post_init__(self) -> None:
        check_range("strength", self.strength, 0)

    def conditions(self, asked: Asked, /) -> tuple[Condition, ...]:
        first, second = other_views(_views(asked)).views
        return (asked.wanted, asked.weak, Condition(asked.prompt, first), Condition(asked.prompt, second))

    def combine(self, asked: Asked, means: list[Tensor], /) -> Tensor:
        wanted, weak, *others = means
        direction = wanted - weak
        total = direction
        for other, weight in zip(others, other_views(_views(asked)).weights, strict=True):
            factor = self.strength * weight.to(weak).reshape(-1, 1, 1, 1)
            total = total + factor * perpendicular(other - weak, direction)
        return weak + self.scale * total


def _views(asked: Asked) -> Views:
    if asked.views is None:
        raise ValueError("perpendicular negatives are other views of the prompt, but no views were given")
    return asked.views
