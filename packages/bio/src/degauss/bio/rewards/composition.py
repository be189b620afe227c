r"""Rewards on the letters alone: the share of G and C, and stretches of one letter.

Both are 0 where the wish is met and fall below it, and both are multilinear in the letters or functions of what is, so
that their soft forms are exact on one-hot weights:

    gc(x)          = - distance of the share of G and C from [low, high]
    homopolymer(x) = - number of windows of max + 1 equal letters = - sum over stretches of (length - max)+
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from degauss.bio.alphabets import DNA, Alphabet
from degauss.bio.motifs import one_hot
from degauss.bio.rewards.arguments import arguments, number
from degauss.core.errors import InputError


@dataclass(frozen=True)
class GC:
    """``gc:LOW-HIGH``: minus the distance of the share of G and C from a window, in [-1, 0]."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high <= 1:
            raise InputError(f"reward gc: the window is {self.low} to {self.high}; expected 0 <= low <= high <= 1.")

    @classmethod
    def from_text(cls, text: str) -> GC:
        """``.4-.6``, shares."""
        low, dash, high = arguments("gc", text).first.partition("-")
        if not dash:
            raise InputError(f"reward gc:{text}: expected gc:LOW-HIGH with shares, such as gc:.4-.6.")
        return cls(number("gc", "the low end", low), number("gc", "the high end", high))

    @property
    def name(self) -> str:
        return f"gc:{self.low:g}-{self.high:g}"

    @property
    def alphabet(self) -> Alphabet:
        return DNA

    def __call__(self, tokens: Tensor) -> Tensor:
        """``[batch, L] -> [batch]``."""
        return self.soft(one_hot(tokens, 4))

    def soft(self, weights: Tensor) -> Tensor:
        """``[batch, L, 4] -> [batch]``, of the expected share."""
        share = weights[..., 1:3].sum(-1).mean(-1)
        return -(self.low - share).clamp_min(0) - (share - self.high).clamp_min(0)


@dataclass(frozen=True)
class Homopolymer:
    """``homopolymer:MAX``: minus the letters by which stretches of one letter are longer than MAX."""

    most: int

    def __post_init__(self) -> None:
        if self.most < 1:
            raise InputError(f"reward homopolymer: the longest stretch is {self.most}; expected at least 1.")

    @classmethod
    def from_text(cls, text: str) -> Homopolymer:
        """``5``, letters."""
        first = arguments("homopolymer", text).first
        if not first.isdigit():
            raise InputError(f"reward homopolymer:{text}: expected homopolymer:MAX with a number of letters.")
        return cls(int(first))

    @property
    def name(self) -> str:
        return f"homopolymer:{self.most}"

    @property
    def alphabet(self) -> Alphabet:
        return DNA

    def __call__(self, tokens: Tensor) -> Tensor:
        """``[batch, L] -> [batch]``."""
        return self.soft(one_hot(tokens, 4))

    def soft(self, weights: Tensor) -> Tensor:
        """``[batch, L, 4] -> [batch]``, the expected number where positions are independent."""
        if weights.shape[1] <= self.most:
            return torch.zeros_like(weights[:, 0, 0])
        return -weights.unfold(1, self.most + 1, 1).prod(-1).sum((1, 2))
