r"""Interval score matching (Liang et al. 2024, "LucidDreamer"), as in its authors' code.

SDS compares the prior with fresh noise at every step, and averages over what it wants. ISM takes the path that the
prior itself makes from the render: x_s by DDIM inversion of x0, x_t one more step from it, both unconditional, and

    g = strength w(t) (eps_guided(x_t; y, t) - eps_hat(x_s; none, s)),   s = t - interval,   w = sigma / alpha.

*none* is the empty prompt (`Asked.empty`), in the inversion and in the second term, also where guidance has a negative
prompt. With s = t and without a prompt nothing is left.

Evaluations a render: the inversion's ceil((s - start) / stride), one at s, and those of the guidance. The inversion
starts at the first timestep with noise, as the authors' code does; their noise has an offset of 0.1 besides, which it
has not here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from degauss.core.errors import check_range
from degauss.core.noise import Noise
from degauss.threed.distillation.annealing import Ramp
from degauss.threed.distillation.guidance import MODEST, Guidance
from degauss.threed.distillation.inversion import Found, climb
from degauss.threed.distillation.residual import (
    EPS,
    Asked,
    Block,
    Level,
    Residual,
    Weighting,
    ask,
    by_ratio,
)

_INTERVAL = Ramp(0, 0.1, 0.08, 1500)


@dataclass(frozen=True)
class Trajectory:
    """How x_s is reached. ``stride``: the longest step of the inversion. ``start``: the time it begins at.

    ``interval``: t - s as a schedule, held where s would fall below ``start``.
    """

    interval: Ramp = _INTERVAL
    stride: float = 0.2
    start: float = 0.001

    def __post_init__(self) -> None:
        check_range("start", self.start, 1e-6, 0.5)
        check_range("stride", self.stride, 1e-3)
        check_range("interval", min(self.interval.first, self.interval.last), 0)

    def before(self, t: Tensor, step: int) -> Tensor:
        """s, ``[n]``."""
        return (t - self.interval(step)).clamp(min=self.start)

    def follow(self, asked: Asked, x0: Tensor, t: Tensor, noise: Noise, step: int) -> Walked:
        """From a render to x_s, and what the unconditional prior makes of it."""
        schedule = asked.prior.schedule
        s = self.before(t, step)
        first = Level.of(schedule, t.new_full(t.shape, self.start), x0)
        begun = first.noised(x0, noise.fork(step).normal(x0, EPS))
        x_s, evaluations = climb(asked.prior, asked.empty, begun, self.start, s, self.stride)
        (mean,) = ask(asked.prior, [Block(asked.empty, x_s, s)])
        return Walked(Found(Level.of(schedule, s, x0), x_s, mean), evaluations + len(x0))


class Walked(NamedTuple):
    """x_s, and the evaluations until it was known."""

    found: Found
    evaluations: int


_LUCID = Trajectory()


@dataclass(frozen=True)
class ISM:
    """Defaults of LucidDreamer: guidance 7.5, strength 0.1; its times are `annealing.LUCID`.

    ``strength``: the factor that its code calls lambda_guidance.
    """

    guidance: Guidance = MODEST
    trajectory: Trajectory = _LUCID
    weighting: Weighting = by_ratio
    strength: float = 0.1

    def residual(self, asked: Asked, x0: Tensor, t: Tensor, noise: Noise, step: int, /) -> Residual:
        x0 = x0.detach()
        found, evaluations = self.trajectory.follow(asked, x0, t, noise, step)
        level = Level.of(asked.prior.schedule, t, x0)
        x_t = found.step(level)
        conditions = self.guidance.conditions(asked)
        mean = self.guidance.combine(asked, ask(asked.prior, [Block(condition, x_t, t) for condition in conditions]))
        difference = level.eps(x_t, mean) - found.level.eps(found.x, found.mean)
        told = level.residual(x0, difference, self.weighting, evaluations + len(conditions) * len(x0))
        return told._replace(gradient=self.strength * told.gradient)
