r"""What a reward is, and weighted sums of several.

A reward maps tokens to numbers, higher is better. Where it has ``soft`` it also takes relaxed sequences, rows of the
simplex in place of letters: ``soft(one_hot(tokens)) == reward(tokens)``, and gradients flow through it. What has no
``soft`` is a black box, and methods that only ask for numbers can optimise it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from degauss.bio.alphabets import Alphabet
from degauss.core.errors import InputError


class Reward(Protocol):
    """A number for each sequence."""

    @property
    def name(self) -> str:
        """What it was called by, such as ``gc:.4-.6``."""
        ...

    @property
    def alphabet(self) -> Alphabet: ...

    def __call__(self, tokens: Tensor, /) -> Tensor:
        """Tokens int64 ``[batch, L]`` -> ``[batch]``, higher is better."""
        ...


@runtime_checkable
class Differentiable(Reward, Protocol):
    """A reward that takes weights in place of letters."""

    def soft(self, weights: Tensor, /) -> Tensor:
        """Weights ``[batch, L, V]``, rows of the simplex -> ``[batch]``."""
        ...


class Term(NamedTuple):
    """A reward and what it counts."""

    weight: float
    reward: Reward


@dataclass(frozen=True)
class Total:
    """The weighted sum of rewards of one alphabet."""

    terms: tuple[Term, ...]

    @property
    def name(self) -> str:
        return " + ".join(f"{term.weight:g}*{term.reward.name}" for term in self.terms)

    @property
    def alphabet(self) -> Alphabet:
        return self.terms[0].reward.alphabet

    def __call__(self, tokens: Tensor) -> Tensor:
        """``[batch, L] -> [batch]``."""
        return torch.stack([weight * reward(tokens).double() for weight, reward in self.terms]).sum(0)


class SoftTotal(Total):
    """A sum whose every term is `Differentiable`."""

    def soft(self, weights: Tensor) -> Tensor:
        """``[batch, L, V] -> [batch]``."""
        soft = [weight * reward.soft(weights) for weight, reward in self.terms if isinstance(reward, Differentiable)]
        return torch.stack(soft).sum(0)


def total(terms: Sequence[Term]) -> Reward:
    """The sum of some rewards, one of weight 1 as it is; it is `Differentiable` where all are.

    Raises `InputError` for no reward at all, and for ones of different alphabets.
    """
    if not terms:
        raise InputError("no reward is given; expected at least one.")
    first = terms[0].reward
    for _, reward in terms:
        if reward.alphabet != first.alphabet:
            raise InputError(
                f"reward {first.name} is for {first.alphabet.name}, but {reward.name} for {reward.alphabet.name}; "
                "expected one alphabet."
            )
    if len(terms) == 1 and terms[0].weight == 1:
        return first
    differentiable = all(isinstance(term.reward, Differentiable) for term in terms)
    return (SoftTotal if differentiable else Total)(tuple(terms))


@torch.no_grad()
def evaluate(reward: Reward, tokens: Tensor, batch: int = 256) -> Tensor:
    """The reward of many sequences, ``[n, L] -> [n]`` float64 on the CPU, so many at a time.

    Raises `InputError` naming the reward for a number that is not finite, `ValueError` for an answer of another shape.
    """
    found: list[Tensor] = []
    for rows in tokens.split(batch):
        scores = reward(rows)
        if scores.shape != (len(rows),):
            raise ValueError(f"reward {reward.name} answered {tuple(scores.shape)} for {len(rows)} sequences")
        found.append(scores.double().cpu())
    scores = torch.cat(found) if found else torch.empty(0, dtype=torch.float64)
    wrong = (~scores.isfinite()).nonzero()
    if len(wrong):
        first = int(wrong[0])
        raise InputError(f"reward {reward.name} is {float(scores[first])} for sequence {first + 1}; expected a number.")
    return scores
