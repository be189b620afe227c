r"""Inverse folding by masked diffusion: sequences for a backbone, many residues at a time.

ProteinMPNN is trained to decode residues one after another in random orders. Such a model is the denoiser of absorbing
diffusion (Hoogeboom et al. 2022; Ou et al. 2024): both ask for

    p(x^i | the letters of the residues in K, backbone),        i not in K,

for sets K drawn at random, and neither asks for a time. So nothing is trained here. In a state of absorbing diffusion
the residues that have a letter are decoded *before* all masked ones, and each masked one as if it were next: they see K
and not each other. `InverseFolding` is that denoiser, and every sampler of `degauss.core.jump` and every method
of `degauss.core.reward` works on it.

One thing is left open by K: in which order its own residues are taken to have been decoded, for the network's answer
depends (weakly) on it. Any order is one that the network was trained on. It is given by *ranks*, lower is earlier;
`reveal_ranks` are those in which `ancestral`, `skipping` and `first_hitting` restore positions for a seed. With them
`first_hitting` *is* the decoding of ProteinMPNN in a random order, and `skipping` with fewer steps decodes together
what falls into one step.

A state ``[batch, places]`` holds the letters that are designed and nothing else; residues that are fixed are part
of the conditioning. A place may be the letter of several residues that are *tied*, as in the chains of a homomer: their
logits are averaged (Dauparas et al. 2022).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from degauss.bio.alphabets import PROTEIN
from degauss.bio.proteinmpnn import LETTERS, Context, ProteinMPNN
from degauss.bio.structures import Structure
from degauss.core import Noise
from degauss.core.errors import InputError
from degauss.core.jump import Absorbing
from degauss.core.jump.absorbing import carry_over
from degauss.core.jump.ancestral import path_of
from degauss.core.posterior import Categorical

PROCESS = Absorbing(PROTEIN.vocabulary)
"""Masks for amino acids; the denoiser needs no time, so the rates only say how many a step restores."""

_FIXED = -1
_FIXED_ORDER, _PLACE_ORDER, _SCORE_ORDER = 1, 2, 3  # forks of the noise, none of which a sampler uses


@dataclass(frozen=True, eq=False)
class Redesign:
    """A structure, and what of it is designed.

    ``place`` ``[length]``: the place in a state that gives a residue its letter, -1 for a residue that is fixed;
    residues of one place are tied. ``omit``: amino acids that no design may have. Raises `InputError` if nothing is
    designed, if a residue that is designed lacks a backbone atom, or if ``omit`` leaves no letter.
    """

    structure: Structure
    place: Tensor
    omit: str = ""

    def __post_init__(self) -> None:
        if not bool((self.place >= 0).any()):
            raise InputError(f"{self.structure.name}: nothing is left to design, as every residue is fixed.")
        bad = (self.place >= 0) & ~self.structure.complete
        if bool(bad.any()):
            residue = self.structure.ids[int(bad.nonzero()[0])]
            raise InputError(
                f"{self.structure.name}: residue {residue.number}{residue.insertion} of chain {residue.chain} lacks a "
                "backbone atom, so it cannot be designed."
            )
        for letter in self.omit:
            if letter not in PROTEIN.letters:
                raise InputError(f"omit has {letter!r}, which is none of the amino acids {PROTEIN.letters}.")
        if set(self.omit) == set(PROTEIN.letters):
            raise InputError("omit leaves no amino acid to design with.")

    @property
    def designed(self) -> Tensor:
        """Which residues are designed, bool ``[length]``."""
        return self.place >= 0

    @property
    def places(self) -> int:
        """The length of a state."""
        return int(self.place.max()) + 1

    def native(self) -> Tensor:
        """The letters of the structure, places in `LETTERS`, ``[length]``."""
        return torch.tensor([LETTERS.index(letter) for letter in self.structure.sequence])

    def letters(self, x: Tensor) -> Tensor:
        """Whole sequences, ``[batch, length]``, places in `LETTERS`, of states ``[batch, places]``."""
        place = self.place.to(x.device)
        return torch.where(place >= 0, x[:, place.clamp(min=0)], self.native().to(x.device))

    def chain_sequences(self, letters: Tensor) -> dict[str, str]:
        """The sequence of each chain that has a designed residue; ``letters``: of one whole sequence ``[length]``."""
        text = "".join(LETTERS[letter] for letter in letters.tolist())
        chain, found = self.structure.chain_index, dict[str, str]()
        for number in chain[self.designed].unique().tolist():
            rows = (chain == number).tolist()
            found[self.structure.chains[number]] = "".join(one for one, own in zip(text, rows, strict=True) if own)
        return found

    def recovery(self, letters: Tensor) -> Tensor:
        """The share of designed residues that are as in the structure, ``[batch]``, of whole sequences."""
        same = letters.cpu() == self.native()
        return same[:, self.designed].double().mean(1)


def redesign(
    structure: Structure, fixed: Tensor | None = None, tied: Sequence[Sequence[int]] = (), omit: str = ""
) -> Redesign:
    """Design all residues but those that are ``fixed`` (bool ``[length]``) or lack a backbone atom.

    ``tied``: groups of rows whose residues get one letter; `InputError` where a group holds fixed residues with others.
    """
    free = structure.complete if fixed is None else structure.complete & ~fixed
    leader = torch.arange(len(structure))
    for group in tied:
        rows = torch.tensor(list(group))
        if bool(free[rows].any()) and not bool(free[rows].all()):
            row = int(rows[~free[rows]][0])
            raise InputError(
                f"{structure.name}: residue {structure.ids[row]} is fixed or incomplete, but is tied to "
                "residues that are designed."
            )
        tied_before = leader[rows]
        leader[torch.isin(leader, tied_before)] = tied_before.min()
    place = torch.full_like(leader, _FIXED)
    place[free] = leader[free].unique(return_inverse=True)[1]
    return Redesign(structure, place, omit.upper())


@dataclass(frozen=True, eq=False)
class InverseFolding:
    """The denoiser of masked sequences on a backbone; made by `inverse_folding`, which runs the encoder.

    The network sees the residues with a whole backbone: ``rows`` ``[seen]`` of the structure. Of these: ``native``, the
    letters in the file; ``place``, as in `Redesign`; ``order``, ranks in [0, 1) for those that are fixed, which come
    before all that is designed. ``ranks`` in [0, 1) ``[places]``: where a call gives none. ``omitted``: bool ``[20]``.
    """

    network: ProteinMPNN
    context: Context
    rows: Tensor
    native: Tensor
    place: Tensor
    order: Tensor
    ranks: Tensor
    omitted: Tensor

    @cached_property
    def tied(self) -> Tensor:
        """How many residues have the letter of each place, float32 ``[places]``."""
        return self.place[self.place >= 0].bincount(minlength=len(self.ranks)).float()

    def __call__(self, x: Tensor, t: Tensor, /, *, ranks: Tensor | None = None, **cond: Any) -> Categorical:
        """p(x_0 | x), ``[batch, places, 20]``.

        ``x``: tokens or masks ``[batch, places]``; ``t`` is ignored; ``ranks`` ``[batch, places]`` in [0, 1]: in which
        order the letters of x are taken to have been decoded.
        """
        del t
        if cond:
            raise TypeError(f"inverse folding is conditioned on ranks and nothing else, got {', '.join(cond)}")
        ranks = self.ranks.expand(x.shape) if ranks is None else ranks
        ranks = ranks.masked_fill(x == PROCESS.mask, float("inf"))
        logits = self.network.decode(self.context, self._letters(x), self._residue_ranks(ranks))
        logits = self._by_place(logits[..., : PROCESS.vocabulary]).masked_fill(self.omitted, float("-inf"))
        return Categorical(carry_over(logits, x, PROCESS.mask))

    def log_prob(self, letters: Tensor, ranks: Tensor) -> Tensor:
        """log p of each residue's letter given those of lower rank, float64 ``[batch, seen]``, over all 21 letters.

        ``letters``: whole sequences ``[batch, length]``; ``ranks``: of the places, ``[batch, places]`` in [0, 1].
        """
        letters = letters[:, self.rows]
        logits = self.network.decode(self.context, letters, self._residue_ranks(ranks))
        return logits.double().log_softmax(-1).gather(-1, letters[..., None])[..., 0]

    def _letters(self, x: Tensor) -> Tensor:
        return torch.where(self.place >= 0, x[:, self.place.clamp(min=0)], self.native)

    def _residue_ranks(self, ranks: Tensor) -> Tensor:
        return torch.where(self.place >= 0, ranks[:, self.place.clamp(min=0)], self.order - 1)

    def _by_place(self, logits: Tensor) -> Tensor:
        """The mean over the residues of a place, ``[batch, places, 20]``."""
        rows = (self.place >= 0).nonzero()[:, 0]
        total = logits.new_zeros(len(logits), len(self.ranks), logits.shape[-1])
        return total.index_add(1, self.place[rows], logits[:, rows]) / self.tied[:, None]


def inverse_folding(
    network: ProteinMPNN, problem: Redesign, seed: int = 0, device: torch.device | str = "cpu"
) -> InverseFolding:
    """Run the encoder on a structure, once. ``seed``: of the order in which fixed residues are taken to be decoded."""
    network = network.to(device)
    structure, rows = problem.structure, problem.structure.complete.nonzero()[:, 0]
    encoding = network.encode(
        structure.backbone[rows].to(device), structure.places[rows].to(device), structure.chain_index[rows].to(device)
    )
    order = _uniform(Noise(seed, (0,)).fork(_FIXED_ORDER), len(rows))[0]
    ranks = _uniform(Noise(seed, (0,)).fork(_PLACE_ORDER), problem.places)[0]
    omitted = torch.tensor([letter in problem.omit for letter in PROTEIN.letters])
    tensors = (rows, problem.native()[rows], problem.place[rows], order, ranks, omitted)
    return InverseFolding(network, network.context(encoding), *(tensor.to(device) for tensor in tensors))


def reveal_ranks(seed: int, shape: Sequence[int], samples: Sequence[int] | None = None) -> Tensor:
    """The order in which `ancestral`, `skipping` and `first_hitting` restore positions for a seed, as ranks in (0, 1).

    ``shape``: ``[batch, places]``. With these as the condition ``ranks`` of every step, ``first_hitting`` is
    the decoding of ProteinMPNN in a random order.
    """
    noise = Noise(seed, range(shape[0]) if samples is None else samples)
    return 1 - path_of(noise, torch.empty(*shape)).level


class Scores(NamedTuple):
    """Mean -log p of a letter in nats, ``[batch]``: of the residues that are ``designed``, and of ``all`` of them."""

    designed: Tensor
    all: Tensor


def score(model: InverseFolding, letters: Tensor, orders: int = 8, seed: int = 0) -> Scores:
    """How unlikely the network finds whole sequences ``[batch, length]``, averaged over random orders of decoding.

    ProteinMPNN's score, which depends on the order, is one term of this mean. The orders are the same for all
    sequences, so that their scores compare; what is fixed is decoded first.
    """
    if orders < 1:
        raise ValueError(f"a score takes at least one order, got {orders}")
    ranks = _uniform(Noise(seed, range(orders)).fork(_SCORE_ORDER), len(model.ranks)).to(letters.device)
    terms = torch.stack([-model.log_prob(letters, one.expand(len(letters), -1)) for one in ranks]).mean(0)
    return Scores(terms[:, model.place >= 0].mean(1), terms.mean(1))


def _uniform(noise: Noise, places: int) -> Tensor:
    return noise.uniform(torch.empty(len(noise.samples), places, dtype=torch.float64))
