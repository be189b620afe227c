r"""Markov models: what a diffusion model must beat, in bits per letter.

The next letter a after its context c, the last k letters, by interpolation with all shorter contexts,

    p_k(a | c) = (n(c a) + m p_{k-1}(a | c')) / (n(c) + m),        p_{-1} = 1 / V,

where n counts the training data, c' is c without its oldest letter, and m > 0 is the weight of the shorter context
in letters (the predictive mean of nested Dirichlet priors; MacKay and Peto 1995). The first letters of a sequence have
the contexts that there are. A likelihood of this kind is exact, and that of
a diffusion model is a bound: the comparison favours the Markov model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

STRENGTHS = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
"""Weights m that ``fit_markov`` tries on held-out sequences."""


@dataclass(frozen=True, eq=False)
class Markov:
    """An interpolated model; ``tables[k]``: p_k, float64 ``[V^k, V]``, the oldest letter of a context first."""

    tables: tuple[Tensor, ...]

    @classmethod
    def fit(cls, tokens: Tensor, vocabulary: int, order: int, strength: float = 10.0) -> Markov:
        """From training tokens ``[batch, length]``; ``order``: letters of context, below the length."""
        if not 0 <= order < tokens.shape[1] or not strength > 0:
            raise ValueError(f"0 <= order < {tokens.shape[1]} and strength > 0 are needed, got {order} and {strength}")
        tables: list[Tensor] = []
        shorter = torch.full((1, vocabulary), 1 / vocabulary, dtype=torch.float64)
        for k in range(order + 1):
            counts = torch.bincount(_words(tokens, k, vocabulary).flatten(), minlength=vocabulary ** (k + 1))
            counts = counts.reshape(-1, vocabulary).double()
            # Contexts that differ in their oldest letter stand V^(k-1) rows apart.
            prior = shorter.repeat(vocabulary, 1) if k else shorter
            shorter = (counts + strength * prior) / (counts.sum(1, keepdim=True) + strength)
            tables.append(shorter)
        return cls(tuple(tables))

    @property
    def order(self) -> int:
        return len(self.tables) - 1

    def log_prob(self, tokens: Tensor) -> Tensor:
        """log p of tokens ``[batch, length]``: float64 ``[batch]``, in nats."""
        vocabulary = self.tables[0].shape[1]
        total = torch.zeros(len(tokens), dtype=torch.float64)
        for k, table in enumerate(self.tables):
            words = _words(tokens, k, vocabulary)
            # A shorter context than the order's belongs to the first letters alone.
            words = words if k == self.order else words[:, :1]
            total += table.flatten().log()[words].sum(1)
        return total

    def bits(self, tokens: Tensor) -> float:
        """Bits per letter, the mean over ``[batch, length]``."""
        return -float(self.log_prob(tokens).mean()) / (tokens.shape[1] * math.log(2))


def fit_markov(
    train: Tensor,
    valid: Tensor,
    vocabulary: int,
    orders: Sequence[int] = range(9),
    strengths: Sequence[float] = STRENGTHS,
) -> list[Markov]:
    """The best model of each order that the length allows, its weight m chosen on ``valid``."""
    allowed = [order for order in orders if order < train.shape[1]]
    # A model's tables are those of its shorter contexts and one more.
    largest = [Markov.fit(train, vocabulary, max(allowed), strength) for strength in strengths]
    return [
        min((Markov(model.tables[: order + 1]) for model in largest), key=lambda model: model.bits(valid))
        for order in allowed
    ]


def profile_bits(train: Tensor, tokens: Tensor, vocabulary: int) -> float:
    """Bits per letter of ``tokens`` by the frequencies of letters at each place of ``train``, one of each added."""
    counts = torch.nn.functional.one_hot(train, vocabulary).sum(0).double() + 1
    log_p = (counts / counts.sum(1, keepdim=True)).log2()
    return -float(log_p[torch.arange(tokens.shape[1]), tokens].mean())


def _words(tokens: Tensor, k: int, vocabulary: int) -> Tensor:
    """The number of each word of k + 1 letters, ``[batch, length - k]``; the last letter counts least."""
    length = tokens.shape[1]
    words = torch.zeros_like(tokens[:, k:])
    for place in range(k + 1):
        words = words * vocabulary + tokens[:, place : length - k + place]
    return words
