r"""``motif:NAME`` or ``motif:CONSENSUS``: how well a motif is found in a sequence, on either strand.

With s the log-odds in bits of all windows of both strands (`degauss.bio.motifs`), the reward is

    best       max_i s_i                           the best site
    occupancy  log2 sum_i 2^(s_i)                  all sites: minus the free energy of a protein that binds one of them
    count      sum_i sigmoid(ln 2 (s_i - limit))   about how many sites there are; limit: the score of a hit

Written ``motif:C101,how=count`` or ``motif:TGASTCA``. A name is looked up in ``file=`` or, without it, in JASPAR's
consensus motifs; IUPAC letters alone are a consensus. What may be both (GATA, MYB) is refused, and is one with
``name=`` or ``consensus=`` before it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor

from degauss.bio.alphabets import DNA, Alphabet
from degauss.bio.motifs import IUPAC, Motif, consensus, find_motif, matching, one_hot, read_motifs, scan, threshold
from degauss.bio.rewards.arguments import arguments
from degauss.core.errors import InputError, check_option

How = Literal["best", "occupancy", "count"]
_HOW = ("best", "occupancy", "count")


@dataclass(frozen=True)
class MotifReward:
    """The log-odds of a motif in bits (or a number of sites); see the module."""

    motif: Motif
    how: How = "best"

    def __post_init__(self) -> None:
        if self.how == "count" and math.isinf(threshold(self.motif)):
            raise InputError(
                f"reward motif: {self.motif.name} is too short for a site to be significant, so none can be counted; "
                "expected how=best or how=occupancy."
            )

    @classmethod
    def from_text(cls, text: str) -> MotifReward:
        """``NAME``, ``NAME,file=own.meme,how=count``, ``TGASTCA``, ``consensus=TGASTCA``, ``name=MYB``."""
        first, named = arguments("motif", text, ("how", "file", "name", "consensus"))
        if bool(first) + ("name" in named) + ("consensus" in named) != 1:
            raise InputError(f"reward motif:{text}: expected one motif, by its name or as a consensus like TGASTCA.")
        how = cast("How", check_option("reward motif: how", named.get("how", "best"), _HOW))
        file = Path(named["file"]) if "file" in named else None
        if "consensus" in named:
            return cls(consensus(named["consensus"]), how)
        if "name" in named:
            return cls(find_motif(named["name"], _collection(file)), how)
        return cls(_either(first, file), how)

    @property
    def name(self) -> str:
        return f"motif:{self.motif.name}" + ("" if self.how == "best" else f",how={self.how}")

    @property
    def alphabet(self) -> Alphabet:
        return DNA

    def __call__(self, tokens: Tensor) -> Tensor:
        """``[batch, L] -> [batch]``."""
        return self.soft(one_hot(tokens, 4))

    def soft(self, weights: Tensor) -> Tensor:
        """``[batch, L, 4] -> [batch]``, of the expected log-odds of each window."""
        scores = scan(self.motif, weights).flatten(1)
        if self.how == "best":
            return scores.amax(1)
        if self.how == "occupancy":
            return torch.logsumexp(scores * math.log(2), 1) / math.log(2)
        return torch.sigmoid(math.log(2) * (scores - threshold(self.motif))).sum(1)


def _either(text: str, file: Path | None) -> Motif:
    """A motif by what may be a name or a consensus; `InputError` where it may be both."""
    if not all(letter in IUPAC for letter in text.upper()):
        return find_motif(text, _collection(file))
    try:
        named = matching(text, _collection(file))
    except InputError:
        if file is not None:
            raise
        named = []  # a consensus needs no collection
    if named:
        raise InputError(
            f"reward motif:{text}: is a consensus and a part of {' and '.join(motif.name for motif in named)}; "
            f"expected consensus={text} or name={named[0].name}."
        )
    return consensus(text)


def _collection(file: Path | None) -> list[Motif]:
    from degauss.bio.datasets import motifs_path

    return read_motifs(motifs_path() if file is None else file)
