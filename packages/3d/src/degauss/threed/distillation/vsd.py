r"""Variational score distillation (Wang et al. 2023, "ProlificDreamer", eqs. 8 and 9).

SDS moves one image to a mode. VSD moves a distribution of renders to the prior's distribution, along the gradient of
their KL divergence at all noise levels, and so subtracts the renders' own score in place of fresh noise:

    g = w(t) (eps_guided(x_t; y, view, t) - eps_renders(x_t; y, camera, t)),   guidance 7.5 and 1.

In residual form the wanted image is x0 + mean_guided(x_t) - mean_renders(x_t). It is zero where both distributions are
the same, which SDS is not.

The renders' score is the prior itself with low-rank additions that know the camera (`lora.LowRank`), trained on the
renders by the denoising loss as they change, one step a step, with fresh times and noise, a prompt without a view, and
the camera left out in a tenth of the rows. As a network trained for v is well conditioned at all levels, the loss is

    E |mean(x_t) - x0|^2 / sigma^2,

which is that of v on a variance-preserving path. The camera is told as the direction it looks from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from degauss.core.denoiser import Denoiser
from degauss.core.errors import InputError, check_range
from degauss.core.noise import Noise
from degauss.core.posterior import Point
from degauss.threed.distillation.guidance import MODEST, Guidance
from degauss.threed.distillation.lora import LowRank
from degauss.threed.distillation.residual import (
    EPS,
    LEARN,
    Asked,
    Block,
    Level,
    Residual,
    Weighting,
    ask,
    by_variance,
)
from degauss.threed.prior import Condition, HasNetwork, Prior

_CAMERA = 3
_LAST, _FIRST = 0.999, 0.001
_LEFT_OUT = LEARN + 1


@dataclass(frozen=True)
class VSD:
    """Defaults of the paper: guidance 7.5, w = sigma^2; its times are `annealing.PROLIFIC`.

    ``rank``, ``rate``: of the additions, and of their AdamW; ``drop``: the share of rows whose camera is left out.
    """

    guidance: Guidance = MODEST
    weighting: Weighting = by_variance
    rank: int = 4
    rate: float = 1e-4
    drop: float = 0.1

    def __post_init__(self) -> None:
        check_range("rank", self.rank, 1)
        check_range("drop", self.drop, 0, 1)
        if not self.rate > 0:
            raise InputError(f"rate must be above 0, but is {self.rate}.")

    def residual(
        self, asked: Asked, x0: Tensor, t: Tensor, noise: Noise, step: int, /, renders: Denoiser[Point]
    ) -> Residual:
        """``renders``: the posterior mean if the data were the renders, asked once at x_t."""
        x0 = x0.detach()
        level = Level.of(asked.prior.schedule, t, x0)
        x_t = level.noised(x0, noise.fork(step).normal(x0, EPS))
        conditions = self.guidance.conditions(asked)
        mean = self.guidance.combine(asked, ask(asked.prior, [Block(condition, x_t, t) for condition in conditions]))
        with torch.no_grad():
            own = renders(x_t, t).mean
        difference = level.alpha / level.sigma * (own - mean)
        return level.residual(x0, difference, self.weighting, (len(conditions) + 1) * len(x0))

    def begin(self, prior: Prior, noise: Noise) -> Variational:
        """The method with a score to learn; ``noise``: of one sample, for its first weights.

        Raises `InputError` for a prior without a network to adapt.
        """
        return Variational(self, RendersScore(prior, noise, self.rank, self.rate, self.drop))


class Learned(NamedTuple):
    """The loss before a step of learning, 0-d and on its device, and the evaluations."""

    loss: Tensor
    evaluations: int


class RendersScore:
    """A prior with low-rank additions that learn the renders' score.

    A state of its own: its weights and its optimiser are part of a run's checkpoint.
    """

    def __init__(self, prior: Prior, noise: Noise, rank: int = 4, rate: float = 1e-4, drop: float = 0.1) -> None:
        if not isinstance(prior, HasNetwork):
            raise InputError(f"VSD adapts a prior's network, but {type(prior).__name__} has none.")
        self.prior, self.rate, self.drop = prior, rate, drop
        self.additions = LowRank(prior.network, noise, rank, _CAMERA)
        self.optimiser = torch.optim.AdamW(self.additions.parameters(), rate)

    def denoiser(self, asked: Asked) -> Denoiser[Point]:
        """The posterior mean under the prompt without a view, the additions told the cameras."""
        answer = self.prior.together((Condition(asked.prompt),))

        def adapted(x: Tensor, t: Tensor, /, **cond: Any) -> Point:
            with self.additions.active(_cameras(asked, x)):
                return answer(x, t, **cond)

        return adapted

    def lesson(self, asked: Asked, x0: Tensor, noise: Noise, step: int) -> Tensor:
        """The denoising loss of renders ``[n, c, h, w]``, to be differentiated by the additions."""
        x0, chance = x0.detach(), noise.fork(step)
        u = chance.uniform(torch.empty(len(x0), dtype=torch.float64, device=x0.device), LEARN)
        t = _FIRST + (_LAST - _FIRST) * u
        level = Level.of(self.prior.schedule, t, x0)
        x_t = level.noised(x0, chance.normal(x0, LEARN))
        told = _cameras(asked, x0)
        kept = chance.uniform(told[:, :1], _LEFT_OUT) >= self.drop
        answer = self.prior.together((Condition(asked.prompt),))
        with torch.enable_grad(), self.additions.active(told * kept):
            return ((answer(x_t, t).mean - x0) / level.sigma).square().mean()

    def learn(self, asked: Asked, x0: Tensor, noise: Noise, step: int) -> Learned:
        """One step of AdamW on the denoising loss of renders ``[n, c, h, w]``."""
        weights, loss = list(self.additions.parameters()), self.lesson(asked, x0, noise, step)
        # By hand, so that the network itself gathers no gradient.
        for weight, gradient in zip(weights, torch.autograd.grad(loss, weights, allow_unused=True), strict=True):
            weight.grad = gradient
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return Learned(loss.detach(), len(x0))

    def state_dict(self) -> dict[str, Any]:
        """The additions and their optimiser, for an exact resume."""
        return {"additions": self.additions.state_dict(), "optimiser": self.optimiser.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What `state_dict` gave, for the same network and rank."""
        self.additions.load_state_dict(state["additions"])
        self.optimiser.load_state_dict(state["optimiser"])


def _cameras(asked: Asked, like: Tensor) -> Tensor:
    """What the additions are told, ``[n, 3]``: directions, 0 where there is no view."""
    if asked.views is None:
        return torch.zeros(len(like), _CAMERA, device=like.device)
    return asked.views.direction.to(like.device, torch.float32)


@dataclass(frozen=True, eq=False)
class Variational:
    """VSD with the score it learns, a `degauss.threed.distillation.residual.Method`: each residual is also a lesson."""

    method: VSD
    score: RendersScore

    def residual(self, asked: Asked, x0: Tensor, t: Tensor, noise: Noise, step: int, /) -> Residual:
        """The residual by the score as it was, which then learns from these renders.

        The evaluations are the forward ones, learning's too; its backward pass, of about twice the cost, is not one.
        """
        told = self.method.residual(asked, x0, t, noise, step, renders=self.score.denoiser(asked))
        lesson = self.score.learn(asked, x0, noise, step)
        return told._replace(evaluations=told.evaluations + lesson.evaluations)

    def held(self) -> Held:
        """The method with the score as it is now: to look changes nothing."""
        return Held(self.method, self.score)

    def state_dict(self) -> dict[str, Any]:
        """See `RendersScore.state_dict`."""
        return self.score.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `RendersScore.load_state_dict`."""
        self.score.load_state_dict(state)


@dataclass(frozen=True, eq=False)
class Held:
    """VSD with a score that does not learn, a `degauss.threed.distillation.residual.Method`."""

    method: VSD
    score: RendersScore

    def residual(self, asked: Asked, x0: Tensor, t: Tensor, noise: Noise, step: int, /) -> Residual:
        return self.method.residual(asked, x0, t, noise, step, renders=self.score.denoiser(asked))
