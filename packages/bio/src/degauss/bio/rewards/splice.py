r"""``splice:donor@60`` or ``splice:acceptor@30``: a splice site at a place of the transcript, by SpliceAI.

The reward is the log-odds ln(p / (1 - p)) of the site at that base (the first is 1): the last base of the exon for a
donor, the first for an acceptor. ``splice:donor`` asks for one anywhere and ``,how=none`` for its absence everywhere,
by p the largest over all bases. ``,nets=1`` asks one network in place of five. See `degauss.bio.splicing`; a GPU is
worth having: each network reads 10,000 bases more than the sequence has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor

from degauss.bio.alphabets import DNA, Alphabet
from degauss.bio.motifs import one_hot
from degauss.bio.rewards.arguments import arguments, number
from degauss.bio.splicing import CLASSES, SpliceNet, shipped_networks
from degauss.core.errors import InputError, check_option

Site = Literal["acceptor", "donor"]
How = Literal["site", "none"]
_TINY = 1e-6


@dataclass(frozen=True, eq=False)
class Splice:
    """The log-odds of a site; ``place`` counts from 1, None for any. ``how`` "none": their negative."""

    networks: Sequence[SpliceNet]
    site: Site
    place: int | None = None
    how: How = "site"

    @classmethod
    def from_text(cls, text: str) -> Splice:
        """``donor``, ``acceptor@30``, ``donor,how=none``, ``donor@60,nets=1``."""
        first, named = arguments("splice", text, ("how", "nets"))
        site, at, place = first.partition("@")
        check_option("reward splice", site, CLASSES[1:])
        how = check_option("reward splice: how", named.get("how", "site"), ("site", "none"))
        nets = int(check_option("reward splice: nets", named.get("nets", "5"), ("1", "2", "3", "4", "5")))
        where = number("splice", "the place", place) if at else None
        if where is not None and (where < 1 or where != int(where)):
            raise InputError(f"reward splice:{text}: the place is {place}; expected a base's number, the first is 1.")
        chosen = None if where is None else int(where)
        return cls(shipped_networks(nets), cast("Site", site), chosen, cast("How", how))

    @property
    def name(self) -> str:
        place = "" if self.place is None else f"@{self.place}"
        return f"splice:{self.site}{place}" + ("" if self.how == "site" else f",how={self.how}")

    @property
    def alphabet(self) -> Alphabet:
        return DNA

    def __call__(self, tokens: Tensor) -> Tensor:
        """``[batch, L] -> [batch]``."""
        return self.soft(one_hot(tokens, 4))

    def soft(self, weights: Tensor) -> Tensor:
        """``[batch, L, 4] -> [batch]``; `InputError` for a place beyond the sequence's end."""
        length = weights.shape[1]
        if self.place is not None and self.place > length:
            raise InputError(f"reward {self.name}: the sequences have {length} bases; expected a place among them.")
        found = torch.stack([network.to(weights)(weights) for network in self.networks]).mean(0)
        at = found[..., CLASSES.index(self.site)]
        p = (at.amax(1) if self.place is None else at[:, self.place - 1]).clamp(_TINY, 1 - _TINY)
        odds = torch.logit(p)
        return odds if self.how == "site" else -odds
