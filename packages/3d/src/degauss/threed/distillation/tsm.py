r"""Trajectory score matching (Miao et al. 2024, "Dreamer XL"), and its clipping of gradients pixel by pixel.

As ISM, but the second term is asked of a state x_mu on the way from s to t, one DDIM step from the same x_s as x_t:

    g = strength w(t) (eps_guided(x_t; y, t) - eps_hat(x_mu; none, mu)),   mu = s + sqrt(1 - gamma^2) (t - s).

gamma 1 is ISM. gamma 0 is mu = t, where without a prompt nothing is left: what tells the two terms apart besides the
prompt vanishes with t - mu. At its gamma of 0.3 and an interval of 0.08, t - mu is 0.0037, under 4 timesteps of 1000,
so what it gains over ISM should be compared with ISM at that interval. What is left there is nearly guidance alone,
strength w scale (eps(x_t; y, t) - eps(x_t; none, t)): it tells objects apart, and where the prior is already sure which
one it sees, it says nothing of what is wrong with the picture. A prior of one object, or one that is told the view and
has no doubt, needs a gamma near 1.

Evaluations a render: one more than ISM's. x_mu and x_t are asked of in one batch. (The authors' code asks twice at
x_s, to the same effect, and rounds mu to a timestep.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from degauss.core.errors import check_range
from degauss.core.noise import Noise
from degauss.threed.distillation.annealing import Ramp
from degauss.threed.distillation.guidance import MODEST, Guidance
from degauss.threed.distillation.ism import Trajectory
from degauss.threed.distillation.residual import Asked, Block, Level, Residual, Weighting, ask, by_ratio

_SHORTER = Trajectory(Ramp(0, 0.1, 0.08, 750))


@dataclass(frozen=True)
class TSM:
    """Defaults of Dreamer XL: gamma 0.3, and ISM's, annealed over half the steps: times `annealing.LUCID.scaled(0.5)`.

    ``gamma`` in [0, 1].
    """

    guidance: Guidance = MODEST
    trajectory: Trajectory = _SHORTER
    gamma: float = 0.3
    weighting: Weighting = by_ratio
    strength: float = 0.1

    def __post_init__(self) -> None:
        check_range("gamma", self.gamma, 0, 1)

    def between(self, s: Tensor, t: Tensor) -> Tensor:
        """mu, ``[n]``."""
        return s + math.sqrt(1 - self.gamma**2) * (t - s)

    def residual(self, asked: Asked, x0: Tensor, t: Tensor, noise: Noise, step: int, /) -> Residual:
        x0 = x0.detach()
        found, evaluations = self.trajectory.follow(asked, x0, t, noise, step)
        schedule = asked.prior.schedule
        mu = self.between(found.level.t, t)
        level, middle = Level.of(schedule, t, x0), Level.of(schedule, mu, x0)
        x_t, x_mu = found.step(level), found.step(middle)
        conditions = self.guidance.conditions(asked)
        blocks = [Block(condition, x_t, t) for condition in conditions]
        *means, mean_mu = ask(asked.prior, [*blocks, Block(asked.empty, x_mu, mu)])
        difference = level.eps(x_t, self.guidance.combine(asked, means)) - middle.eps(x_mu, mean_mu)
        told = level.residual(x0, difference, self.weighting, evaluations + (len(blocks) + 1) * len(x0))
        return told._replace(gradient=self.strength * told.gradient)


def clip_pixels(gradient: Tensor, most: float = 0.05, channels: int = 1) -> Tensor:
    """Each pixel's gradient scaled so that none of its channels exceeds ``most`` in size; its direction is kept.

    g -> g min_c min(1, most / |g_c|); ``channels``: the axis of the channels. As a hook on rendered images it bounds
    what one pixel can do to a scene, where a clip of each number would turn colours. Raises ValueError unless ``most``
    is above 0.
    """
    if not most > 0:
        raise ValueError(f"gradients are clipped to a number above 0, got {most}")
    largest = gradient.abs().amax(channels, keepdim=True)
    return gradient * (most / largest.clamp(min=most))
