r"""One random step back, from x_t to x_s, with fresh randomness and a known weight.

``jump.ancestral`` draws a sample's whole path before the first step. A search cannot: after resampling, two copies of
one particle must go their own ways. Here every step is drawn afresh from

    p(x_s | x_t) = product over positions of q(x_s^l | x_t^l, x_0^l) averaged over p(x_0^l | x_t),

or, with a *guide*, from q(x_s | x_t), the same with the guide's posterior in place of the denoiser's. The schedule of
restoring is that of p, so the importance ratio has one factor for each position restored in this step,

    log p(x_s | x_t) - log q(x_s | x_t) = sum_l log p(x_s^l | x_t) - log q(x_s^l | x_t).

The product of these ratios along a path makes samples of the guide count as samples of the model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from degauss.core.denoiser import Denoiser
from degauss.core.jump.absorbing import Absorbing
from degauss.core.jump.categorical import draw_weighted, uniforms
from degauss.core.noise import Noise
from degauss.core.posterior import Categorical


class Proposed(NamedTuple):
    """Where a step led: ``x`` ``[batch, length]``, ``log_ratio`` = log p(x_s | x_t) - log q(x_s | x_t) ``[batch]``.

    The ratio is float64, in nats.
    """

    x: Tensor
    log_ratio: Tensor


Proposal = Callable[[Tensor, float, float, Noise, int], Proposed]
"""(x at t ``[batch, length]``, t, s < t, noise, draw) -> x at s. Given tokens stay; s = 0 leaves no mask.

``draw`` >= 0 numbers the transition: two numbers are independent, and the same again is the same step. A proposal that
needs several uniform numbers for a position takes forks of the noise, not other draw numbers.
"""


class Proposer(Protocol):
    """A proposal waiting for its denoiser and process.

    ``guide``: what is drawn from, while the ratio stays that of the denoiser's p. One that knows no guide leaves the
    argument out, and serves searches without guidance.
    """

    def __call__(
        self, denoiser: Denoiser[Categorical], process: Absorbing, /, *, guide: Denoiser[Categorical] | None = None
    ) -> Proposal: ...


@dataclass(frozen=True, eq=False)
class AncestralProposal:
    """A fresh ancestral step of absorbing corruption. Where the posterior is no distribution (NaN) a mask stays."""

    denoiser: Denoiser[Categorical]
    process: Absorbing
    guide: Denoiser[Categorical] | None = None

    def __call__(self, x: Tensor, t: float, s: float, noise: Noise, draw: int) -> Proposed:
        late, early = (torch.full((), time, dtype=torch.float64, device=x.device) for time in (t, s))
        plain = self.denoiser(x, late)
        drawn = plain if self.guide is None else self.guide(x, late)
        weights = self.process.reverse(drawn, x, early, late)
        fresh = draw_weighted(weights, uniforms(noise, x, draw)).clamp(max=self.process.mask)
        if self.guide is None:
            return Proposed(fresh, torch.zeros(len(x), dtype=torch.float64, device=x.device))
        return Proposed(fresh, log_ratio(plain, drawn, fresh, (x == self.process.mask) & (fresh != self.process.mask)))


def log_ratio(plain: Categorical, drawn: Categorical, tokens: Tensor, restored: Tensor) -> Tensor:
    """sum over restored positions of log p - log q of their tokens, ``[batch]``; ``restored``: ``[batch, length]``."""
    at = tokens.clamp(max=plain.logits.shape[-1] - 1)[..., None]
    log_p, log_q = (posterior.logits.double().log_softmax(-1).gather(-1, at)[..., 0] for posterior in (plain, drawn))
    return torch.where(restored, log_p - log_q, 0.0).sum(-1)


def ancestral_proposal(
    denoiser: Denoiser[Categorical], process: Absorbing, guide: Denoiser[Categorical] | None = None
) -> AncestralProposal:
    """Fresh ancestral steps, of the denoiser or of a guide in its place."""
    return AncestralProposal(denoiser, process, guide)
