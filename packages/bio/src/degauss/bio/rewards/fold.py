"""``fold`` or ``fold:open``: the structure of a single strand, by ViennaRNA (the extra ``fold``); a black box."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor

from degauss.bio.alphabets import DNA, Alphabet
from degauss.bio.rewards.arguments import arguments
from degauss.core.errors import InputError, check_option

Wish = Literal["stable", "open"]


@dataclass(frozen=True)
class Fold:
    """The minimum free energy of the transcript in kcal/mol at 37 degrees, negated for ``stable``.

    Sequences are those of the RNA, T for U (Lorenz et al. 2011, ViennaRNA 2.0).
    """

    wish: Wish = "stable"

    def __post_init__(self) -> None:
        _vienna()  # so that a missing package is said before any work

    @classmethod
    def from_text(cls, text: str) -> Fold:
        """Nothing, ``stable`` or ``open``."""
        wish = arguments("fold", text).first or "stable"
        return cls(cast("Wish", check_option("reward fold", wish, ("stable", "open"))))

    @property
    def name(self) -> str:
        return f"fold:{self.wish}"

    @property
    def alphabet(self) -> Alphabet:
        return DNA

    def __call__(self, tokens: Tensor) -> Tensor:
        """``[batch, L] -> [batch]`` in kcal/mol."""
        vienna = _vienna()
        energies = [float(vienna.fold(sequence.replace("T", "U"))[1]) for sequence in DNA.decode(tokens)]
        energy = torch.tensor(energies, dtype=torch.float64)
        return -energy if self.wish == "stable" else energy


def _vienna() -> Any:
    try:
        import RNA  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise InputError("reward fold needs ViennaRNA, which is not there: pip install 'degauss-bio[fold]'.") from None
    return RNA
