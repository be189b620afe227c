r"""From a render up to a noisy state by DDIM's inversion, each image to a time of its own.

One step from a time s to a noisier r keeps the noise that the prior finds at s,

    x_r = alpha_r mean(x_s, s) + sigma_r eps(x_s, s),

which is `degauss.core.inversion.InverseDDIM` on a grid for each row; here the rows go together as far as they have to
go, and one that has arrived costs nothing more. A run starts at a small time, with noise, since clean data have none
to be found.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from degauss.threed.distillation.residual import Block, Level, ask
from degauss.threed.prior import Condition, Prior

_ROUNDING = 1e-9


class Found(NamedTuple):
    """A state ``[n, c, h, w]`` at its level, and what the prior makes of it."""

    level: Level
    x: Tensor
    mean: Tensor

    def step(self, to: Level) -> Tensor:
        """DDIM's step, up or down: the same mean and noise at another level."""
        return to.alpha * self.mean + to.sigma * self.level.eps(self.x, self.mean)


class Climbed(NamedTuple):
    """States at the times asked for, and the evaluations that it took, by rows."""

    x: Tensor
    evaluations: int


@torch.no_grad()
def climb(prior: Prior, condition: Condition, x: Tensor, start: float, to: Tensor, stride: float) -> Climbed:
    """From x ``[n, c, h, w]`` at the time ``start`` up to the times ``to`` ``[n]``, at most ``stride`` at once.

    The last step of a row is what remains; a row with ``to <= start`` stays where it is.
    """
    goal = to.cpu().double()
    here, steps, evaluations = torch.full_like(goal, start), 0, 0
    while True:
        moving = (goal - here > _ROUNDING).nonzero()[:, 0]
        if not len(moving):
            return Climbed(x, evaluations)
        steps += 1
        there = torch.minimum(torch.full_like(goal, start + steps * stride), goal)
        rows = moving.to(x.device)
        under = condition if condition.views is None else Condition(condition.prompt, condition.views[rows])
        below, above = (Level.of(prior.schedule, time[moving].to(x.device), x[rows]) for time in (here, there))
        (mean,) = ask(prior, [Block(under, x[rows], below.t)])
        x = x.index_copy(0, rows, Found(below, x[rows], mean).step(above))
        here = torch.where(goal > here, there, here)
        evaluations += len(moving)
