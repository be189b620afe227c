r"""The exact audit of reward optimisation, where all V^L sequences can be enumerated.

What every method of this folder aims at is one distribution, the pretrained model tilted by the reward,

    p*(x) = p_pre(x) exp(r(x) / alpha) / Z,        the one p with the largest  J(p) = E_p r - alpha KL(p || p_pre),

and J(p*) = alpha log Z, J(p*) - J(p) = alpha KL(p || p*). So a method's distance from its aim can be measured and need
not be argued about: in total variation, and in J.

A fine-tuned model's own distribution is that of first-hitting sampling, which restores one position after another in an
even random order (``jump.likelihood``). Each of its (V + 1)^L states is asked about once; the probability F of passing
through a state goes from a set of masks to the sets with one mask less,

    F(x with i restored as v) += F(x) p^i(v | x) / (number of masks of x),

and at no masks F is p. Along the way the relative entropy of the paths from those of a reference is
sum_x F(x) mean_{i masked} KL(p^i || q^i), which is never below that of the sequences. For a sampler there is only
what it drew: its histogram, whose distance from p* is to be read beside that of as many exact draws.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from degauss.core.denoiser import Denoiser
from degauss.core.jump.absorbing import Absorbing
from degauss.core.jump.categorical import uniforms
from degauss.core.jump.oracle import number_of, sequences
from degauss.core.noise import Noise
from degauss.core.posterior import Categorical
from degauss.core.reward.kl import token_divergence

MOST_STATES = 1 << 22
"""The most states (V + 1)^L that are enumerated."""

_ROWS_AT_ONCE = 1 << 14


class Enumerated(NamedTuple):
    """The law of first-hitting sampling. ``probability``: of each of ``oracle.sequences(V, L)``, float64 ``[V^L]``."""

    probability: Tensor
    path_divergence: Tensor
    """KL of the law of paths from the reference's, in nats (0-d); 0 without a reference."""


def enumerate_law(
    denoiser: Denoiser[Categorical],
    process: Absorbing,
    length: int,
    reference: Denoiser[Categorical] | None = None,
) -> Enumerated:
    """The exact law of a denoiser that ignores t, over all sequences of a length. Autograd goes through.

    Raises ValueError for more than ``MOST_STATES`` states.
    """
    if process.symbols**length > MOST_STATES:
        raise ValueError(f"up to {MOST_STATES} states are enumerated, got {process.symbols} ^ {length}")
    vocabulary = process.vocabulary
    # The probability of passing each state, by which positions are known; first digits change slowest.
    passing: dict[tuple[int, ...], Tensor] = {(): torch.ones(1, dtype=torch.float64)}
    divergence = torch.zeros((), dtype=torch.float64)
    for count in range(length):
        for known in itertools.combinations(range(length), count):
            free = [i for i in range(length) if i not in known]
            states = torch.full((vocabulary**count, length), process.mask)
            states[:, list(known)] = sequences(vocabulary, count) if count else states[:, :0]
            # Kept by what comes after: each is asked about once.
            flow = passing.pop(known) / len(free)
            log_p = _log_prob(denoiser, states, free)
            if reference is not None:
                apart = token_divergence(log_p, _log_prob(reference, states, free))
                divergence = divergence + (flow[:, None] * apart).sum()
            for column, i in enumerate(free):
                onward = (flow[:, None] * log_p[:, column].exp()).reshape([vocabulary] * count + [vocabulary])
                place = sum(position < i for position in known)
                onward = onward.movedim(-1, place).reshape(-1)
                to = tuple(sorted((*known, i)))
                passing[to] = passing[to] + onward if to in passing else onward
    return Enumerated(passing[tuple(range(length))], divergence)


def _log_prob(denoiser: Denoiser[Categorical], states: Tensor, free: list[int]) -> Tensor:
    """log p of the tokens of the free positions, float64 ``[states, len(free), V]``."""

    def parts() -> Iterator[Tensor]:
        t = torch.tensor(0.5, dtype=torch.float64)  # ignored
        for part in states.split(_ROWS_AT_ONCE):
            yield denoiser(part, t).logits[:, free].double().log_softmax(-1)

    return torch.cat(list(parts()))


class Target(NamedTuple):
    """The tilted distribution over all sequences and its objective.

    ``pretrained``, ``probability``: float64 ``[n]``; ``reward`` ``[n]``; ``alpha``; ``optimum``: J(p*) = alpha log Z.
    """

    pretrained: Tensor
    reward: Tensor
    alpha: float
    probability: Tensor
    optimum: float


def tilted(pretrained: Tensor, reward: Tensor, alpha: float) -> Target:
    """p* of a pretrained law ``[n]`` and the rewards of its sequences ``[n]``, at the temperature alpha > 0."""
    reward = reward.double()
    log_weight = pretrained.double().log() + reward / alpha
    log_z = log_weight.logsumexp(0)
    return Target(pretrained.double(), reward, alpha, torch.exp(log_weight - log_z), float(alpha * log_z))


class Audit(NamedTuple):
    """How far a distribution is from the target: all numbers exact.

    ``total``: what its probabilities sum to; ``variation``: total variation from p*, in [0, 1]; ``reward``: E r;
    ``divergence``: KL(p || p_pre) in nats; ``objective``: J(p); ``gap``: J(p*) - J(p) >= 0, in the units of the reward.
    """

    total: float
    variation: float
    reward: float
    divergence: float
    objective: float
    gap: float


def audit(probability: Tensor, target: Target) -> Audit:
    """The audit of a law over the target's sequences, ``[n]``."""
    p = probability.double()
    reward = float(p @ target.reward)
    divergence = float((torch.special.xlogy(p, p) - torch.special.xlogy(p, target.pretrained)).sum())
    objective = reward - target.alpha * divergence
    return Audit(
        total=float(p.sum()),
        variation=total_variation(p, target.probability),
        reward=reward,
        divergence=divergence,
        objective=objective,
        gap=target.optimum - objective,
    )


def total_variation(p: Tensor, q: Tensor) -> float:
    """Half the sum of absolute differences."""
    return 0.5 * float((p - q).abs().sum())


class SampleAudit(NamedTuple):
    """What drawn sequences show. ``variation``: of their histogram from p*. ``floor``: that of exact draws, the mean.

    ``reward``: their mean reward; ``unique``: the share of different ones. A histogram of n samples over more than n
    sequences has a large ``variation`` however good they are: only its distance above the ``floor`` says something.
    """

    variation: float
    floor: float
    reward: float
    unique: float


def audit_samples(tokens: Tensor, target: Target, vocabulary: int, *, seed: int = 0, draws: int = 8) -> SampleAudit:
    """The audit of a sampler by its sequences, ``[n, length]``. ``draws``: sets of exact draws in the floor's mean."""
    numbers = number_of(tokens, vocabulary)
    size = len(numbers)
    exact = uniforms(Noise(seed, range(draws)), torch.empty(draws, size), 0)
    floors = [total_variation(_histogram(_drawn(target.probability, u), target), target.probability) for u in exact]
    return SampleAudit(
        variation=total_variation(_histogram(numbers, target), target.probability),
        floor=sum(floors) / draws,
        reward=float(target.reward[numbers].mean()),
        unique=len(numbers.unique()) / size,
    )


def _drawn(probability: Tensor, u: Tensor) -> Tensor:
    """Draws from a law of many outcomes: a search, where ``draw_weighted`` compares with all."""
    cumulative = probability.cumsum(0)
    return torch.searchsorted(cumulative / cumulative[-1], u, right=True)


def _histogram(numbers: Tensor, target: Target) -> Tensor:
    counts = torch.bincount(numbers, minlength=len(target.probability))
    return counts.double() / len(numbers)
