r"""Decoding a backbone's sequence with every residue computed once, however many steps it takes.

What the decoder knows of a residue depends on the residues before it in the order, and not on its own letter. So when a
step has decoded some residues, nothing of them need be computed again: what they send to later ones is kept. All steps
together cost one pass of the decoder; a denoiser that knows nothing of the steps before pays one pass a step.

When each place is decoded is known beforehand (`degauss.core.jump.skipping`): with ``on_grid`` in the steps of
ancestral sampling, with ``one_by_one`` in the order of first-hitting sampling, which is the published decoding of
ProteinMPNN in a random order. The samples are those of `skipping` and `first_hitting` with `InverseFolding`, told by
``ranks`` in which step each place is decoded: residues of one step do not see each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from degauss.bio.inverse_folding import PROCESS, InverseFolding
from degauss.bio.proteinmpnn import LayerContext
from degauss.core import Noise
from degauss.core.errors import check_range
from degauss.core.jump.ancestral import backward, path_of, shares_of
from degauss.core.jump.categorical import draw
from degauss.core.jump.skipping import Agenda, agenda_of
from degauss.core.kernel import Observer, simulate

When = Callable[[Tensor, Tensor], Tensor]
"""(shares of masks along the grid, levels ``[batch, places]``) -> the step in which each place is decoded."""


def on_grid(shares: Tensor, levels: Tensor) -> Tensor:
    """In the first step whose share of masks is not above the level, as in `ancestral` and `skipping`."""
    return torch.searchsorted(-shares[1:], -levels)


def one_by_one(shares: Tensor, levels: Tensor) -> Tensor:
    """Each in a step of its own, as in `first_hitting`; the run takes a step for every place."""
    del shares
    return -levels


class Carry(NamedTuple):
    """The shares of masks along the grid; the agenda once it is drawn; of each layer, what decoded residues send."""

    shares: Tensor
    agenda: Agenda | None
    sent: tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class Decoding:
    """A kernel on states ``[batch, places]`` that starts from masks; what is given belongs into the `Redesign`.

    Step i does the i-th event of every row, and nothing once there is none. ``temperature`` > 0: `InputError`
    elsewhere. Waits for the device once in the first step, and once a step for what is decoded in it.
    """

    model: InverseFolding
    temperature: float = 1.0
    when: When = on_grid

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            check_range("temperature", self.temperature, 1e-6)

    def init(self, x: Tensor, grid: Tensor, /) -> Carry:
        if bool((x != PROCESS.mask).any()):
            raise ValueError("decoding starts from masks only: residues that are given are fixed in the redesign")
        model, network = self.model, self.model.network
        # Fixed residues have been decoded before, in an order of their own.
        ranks = model.order.masked_fill(model.place >= 0, float("inf"))[None]
        letters = model.native[None]
        states = network.states(model.context, letters, ranks)
        sent = (network.sent(model.context, layer, letters, one) for layer, one in enumerate(states[:-1]))
        shares = shares_of(PROCESS, backward(grid)).to(x.device)
        return Carry(shares, None, tuple(one.repeat(len(x), 1, 1) for one in sent))

    def step(self, carry: Carry, x: Tensor, i: int, noise: Noise, /) -> tuple[Carry, Tensor]:
        agenda = carry.agenda
        if agenda is None:
            path = path_of(noise, x)
            step = self.when(carry.shares, path.level)
            agenda = agenda_of(step, torch.zeros_like, x == PROCESS.mask, path.choice)
            carry = carry._replace(agenda=agenda)
        return self._event(carry, agenda, x, i) if i < len(agenda.active) else (carry, x)

    def _event(self, carry: Carry, agenda: Agenda, x: Tensor, i: int) -> tuple[Carry, Tensor]:
        """Decode the i-th event of every row."""
        model, network = self.model, self.model.network
        # When each residue is decoded: the fixed ones before all events.
        event = torch.where(model.place >= 0, agenda.event[:, model.place.clamp(min=0)], -1)
        row, residue = (event == i).nonzero(as_tuple=True)
        neighbours = model.context.neighbours[residue]
        at = (row[:, None], neighbours)
        earlier = event[at] < i
        states = [model.context.nodes[residue]]
        for number, (known, sent) in enumerate(zip(model.context.layers, carry.sent, strict=True)):
            own = LayerContext(known.edges[residue], known.unseen[residue], known.letters)
            states.append(network.layer(own, number, states[-1], sent[at], earlier))
        logits = states[-1].new_zeros(*x.shape, PROCESS.vocabulary)
        logits = logits.index_put((row, model.place[residue]), network.W_out(states[-1])[:, : PROCESS.vocabulary], True)
        logits = (logits / model.tied[:, None] / self.temperature).masked_fill(model.omitted, float("-inf"))
        x = torch.where(agenda.event == i, draw(logits, agenda.choice), x)
        letters = x[row, model.place[residue]]
        sent = (
            one.index_put((row, residue), network.sent(model.context, number, letters, states[number]))
            for number, one in enumerate(carry.sent)
        )
        return carry._replace(sent=tuple(sent)), x


def decode(
    model: InverseFolding,
    samples: Sequence[int],
    steps: int,
    *,
    temperature: float = 1.0,
    when: When = on_grid,
    seed: int = 0,
    observe: Iterable[Observer] = (),
) -> Tensor:
    """Draw designs, tokens ``[len(samples), places]``, in ``steps`` steps of the network.

    ``samples``: sample ids; sample i of a seed is the same whatever else is drawn with it.
    """
    x = torch.full((len(samples), len(model.ranks)), PROCESS.mask, device=model.place.device)
    grid = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    return simulate(Decoding(model, temperature, when), x, grid, Noise(seed, samples), observe=observe)
