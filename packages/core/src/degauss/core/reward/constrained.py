r"""Steps whose last state meets hard constraints, with the exact weight that makes up for it.

The step is that of ``jump.constrained``, drawn afresh: x_0 jointly from the posterior given that a lattice accepts it,
of which the positions due are restored. With p the denoiser's posterior, g that of what is drawn from (the denoiser,
or a guide), R the positions restored and Z the probability of acceptance under g,

    log p(x_s | x_t) - log q(x_s | x_t) = log p(x_R) - log g(x_R) + log Z(x_t) - log Z(x_s).

A search whose weights take this ratio samples the denoiser's law given the constraints; all of its particles meet them.
``AcceptedCompletion`` lets it judge a state by completions that meet them too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from degauss.core.denoiser import Denoiser
from degauss.core.errors import check_range
from degauss.core.jump.absorbing import Absorbing
from degauss.core.jump.automaton import Lattice
from degauss.core.jump.categorical import uniforms
from degauss.core.jump.constrained import check_lattice, draw_accepted, known, log_acceptance
from degauss.core.noise import Noise
from degauss.core.posterior import Categorical
from degauss.core.reward.proposal import Proposed, log_ratio

_BELOW_ONE = 1 - 2**-53


@dataclass(frozen=True, eq=False)
class ConstrainedProposal:
    """A fresh ancestral step given a lattice.

    A row whose accepted completions all have probability 0 stays as it is, with log ratio -inf: it is lost. Where the
    posterior is no distribution (NaN) it stays too, and its ratio is NaN. Two passes over the lattice a step.
    """

    denoiser: Denoiser[Categorical]
    process: Absorbing
    lattice: Lattice
    guide: Denoiser[Categorical] | None = None

    def __call__(self, x: Tensor, t: float, s: float, noise: Noise, draw: int) -> Proposed:
        check_lattice(self.lattice, self.process, x.shape[1])
        late, early = (torch.full((), time, dtype=torch.float64, device=x.device) for time in (t, s))
        lattice, mask = self.lattice.on(x.device), self.process.mask
        plain = self.denoiser(x, late)
        drawn = plain if self.guide is None else self.guide(x, late)
        probabilities = known(torch.softmax(drawn.logits.double(), -1), x, mask)
        stays = self.process.rates(early).gone / self.process.rates(late).gone
        u = uniforms(noise, x, draw)
        restored = (x == mask) & (u >= stays)
        # Below stays, u / stays is uniform again, and so is the rest above it: the same number chooses the token.
        choice = torch.where(u >= stays, (u - stays) / (1 - stays), u / stays).clamp(max=_BELOW_ONE)
        tokens, before = draw_accepted(probabilities, lattice, choice)
        fresh = torch.where(restored, tokens, x)
        after = log_acceptance(known(probabilities, fresh, mask), lattice)
        ratio = torch.where(before.isneginf(), before, before - after)
        if self.guide is not None:
            ratio = ratio + log_ratio(plain, drawn, fresh, restored & (fresh != mask))
        return Proposed(fresh, ratio)


def constrained_proposal(
    denoiser: Denoiser[Categorical],
    process: Absorbing,
    lattice: Lattice,
    guide: Denoiser[Categorical] | None = None,
) -> ConstrainedProposal:
    """Fresh ancestral steps, of the denoiser or of a guide in its place, whose samples are all accepted."""
    return ConstrainedProposal(denoiser, process, lattice, guide)


@dataclass(frozen=True, eq=False)
class AcceptedCompletion:
    """``guesses`` >= 1 joint draws from the posterior given a lattice: a ``search.Completion``.

    Where nothing accepted has any probability, tokens are the likeliest. Raises `InputError` below 1.
    """

    lattice: Lattice
    guesses: int = 1

    def __post_init__(self) -> None:
        check_range("guesses", self.guesses, 1)

    def __call__(self, posterior: Categorical, noise: Noise, number: int, /) -> Tensor:
        probabilities = torch.softmax(posterior.logits.double(), -1)
        lattice, like = self.lattice.on(probabilities.device), probabilities[..., 0]
        first = number * self.guesses
        drawn = [draw_accepted(probabilities, lattice, uniforms(noise, like, first + i)) for i in range(self.guesses)]
        tokens = torch.stack([part.tokens for part in drawn])
        return torch.where(tokens == lattice.vocabulary, probabilities.argmax(-1), tokens)
