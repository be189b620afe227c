r"""What every distillation has in common: a question to a prior, and the answer as a pull on the rendered image.

With x0 a render, x_t = alpha x0 + sigma eps and a prior's noise eps_hat(x_t), every method here is a gradient on x0

    g = w(t) (eps_hat - target),

never differentiated through the prior, and injected as the gradient g / n of  0.5 |x0 - stop(x0 - g)|^2 / n  (`loss`).
Since eps = (x_t - alpha mean) / sigma, a difference of noises d has a residual form in the units of images: the image
that the prior wants instead is

    x0 - (sigma / alpha) d,   so that   g = w (alpha / sigma) (x0 - wanted).

For SDS, whose d is eps_hat - eps, the wanted image is the posterior mean itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from degauss.core.denoiser import expand
from degauss.core.noise import Noise
from degauss.core.schedule import Schedule
from degauss.threed.prior import Condition, Prior
from degauss.threed.views import Views

EPS, SHIFT, LEARN = 0, 1, 2
"""Which of a step's draws is what: its noise; what else a method draws; what a score learns from."""


@dataclass(frozen=True, eq=False)
class Asked:
    """What a batch of renders should look like.

    ``views``: where they were seen from; None for a prior that is not told. ``negative``: the prompt of guidance's weak
    side; None is the unconditional model.
    """

    prior: Prior
    prompt: str
    views: Views | None = None
    negative: str | None = None

    @property
    def wanted(self) -> Condition:
        """The prompt and the views."""
        return Condition(self.prompt, self.views)

    @property
    def weak(self) -> Condition:
        """Guidance's weak side: the negative prompt, if any, and the views."""
        return Condition(self.negative, self.views)

    @property
    def empty(self) -> Condition:
        """The views alone, whatever the negative prompt."""
        return Condition(None, self.views)


class Residual(NamedTuple):
    """What a method says of renders ``[n, c, h, w]``.

    ``gradient``: g, of the sum over the batch. ``target``: the image that the prior wants, in the units of x0.
    ``evaluations``: of the prior's network, each row of each call counted: a guided SDS costs 2 n.
    """

    gradient: Tensor
    target: Tensor
    evaluations: int


class Method(Protocol):
    """A distillation. ``x0`` ``[n, c, h, w]``: of the prior; ``t`` ``[n]``: times in (0, 1), on its device.

    All that is random at a step is keyed by ``noise`` and ``step``. Nothing is differentiated.
    """

    def residual(self, asked: Asked, x0: Tensor, t: Tensor, noise: Noise, step: int, /) -> Residual: ...


def loss(x0: Tensor, residual: Residual) -> Tensor:
    """0.5 |x0 - stop(x0 - g)|^2 / n, whose gradient by x0 is g / n."""
    return 0.5 * (x0 - (x0 - residual.gradient).detach()).square().sum() / len(x0)


# --- weights ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Weighting:
    """w(t) = alpha^a sigma^b."""

    a: float
    b: float

    def __call__(self, alpha: Tensor, sigma: Tensor, /) -> Tensor:
        return alpha**self.a * sigma**self.b


by_variance = Weighting(0, 2)
"""w = sigma^2 (DreamFusion), 1 - alpha_bar in a paper's letters."""
uniform = Weighting(0, 0)
"""w = 1."""
by_signal_and_variance = Weighting(1, 2)
"""w = alpha sigma^2 (Fantasia3D)."""
by_ratio = Weighting(-1, 1)
"""w = sigma / alpha (ISM; MVDream's reconstruction loss): with it g is x0 minus the image wanted."""


# --- arithmetic ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Level:
    """The schedule at times ``[n]``, ready to multiply ``[n, c, h, w]``."""

    t: Tensor
    alpha: Tensor
    sigma: Tensor

    @classmethod
    def of(cls, schedule: Schedule, t: Tensor, like: Tensor) -> Level:
        if t.shape != like.shape[:1]:
            raise ValueError(f"a time for each of {len(like)} images, got times of shape {list(t.shape)}")
        return cls(t, *(expand(scale, like) for scale in schedule(t)))

    def noised(self, x0: Tensor, eps: Tensor) -> Tensor:
        """x_t = alpha x0 + sigma eps."""
        return self.alpha * x0 + self.sigma * eps

    def eps(self, x_t: Tensor, mean: Tensor) -> Tensor:
        """The noise that a posterior mean implies."""
        return (x_t - self.alpha * mean) / self.sigma

    def residual(self, x0: Tensor, difference: Tensor, weighting: Weighting, evaluations: int) -> Residual:
        """Of a difference of noises d: the gradient w d, and the image x0 - (sigma / alpha) d."""
        gradient = weighting(self.alpha, self.sigma) * difference
        return Residual(gradient, x0 - self.sigma / self.alpha * difference, evaluations)


class Block(NamedTuple):
    """One question: states ``[n, c, h, w]`` at times ``[n]`` under a condition."""

    condition: Condition
    x: Tensor
    t: Tensor


@torch.no_grad()
def ask(prior: Prior, blocks: Sequence[Block]) -> list[Tensor]:
    """The posterior mean of each block, all in one batch."""
    denoiser = prior.together([block.condition for block in blocks])
    together = denoiser(torch.cat([block.x for block in blocks]), torch.cat([block.t for block in blocks])).mean
    return list(together.chunk(len(blocks)))
