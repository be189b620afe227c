r"""Languages of tokens: deterministic automata, and what they say about sequences of one length.

An ``Automaton`` reads tokens from left to right and is always in one state. A ``Lattice`` is the same for sequences of
a fixed length L, with its own states at each of the L + 1 places between tokens, and so with a language that may
depend on the position (fixed tokens, codons, counts). Lattices are intersected by ``&``.

A lattice is always the smallest one for its language: states that no beginning reaches or from which no end is accepted
are left out, and states with the same accepted ends are one. Both are a sweep: forward over the pairs of states that
are reached, and backward, where two states are equal when all their tokens lead to equal states (Revuz 1992).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from degauss.core.errors import InputError

S = TypeVar("S", bound=Hashable)
Table = NDArray[np.int64]

MOST_STATES = 1 << 21
"""The states that a lattice may have, over all of its places; at this many a row of a step takes 16 MiB."""

MOST_EXPLORED = 1 << 17
"""The states that a rule may have."""

_NONE = -1


class TooManyStates(InputError):
    """A language that needs more states than can be worked with."""


@dataclass(frozen=True, eq=False)
class Automaton:
    """A deterministic automaton that starts in state 0.

    ``table``: int64 ``[states, V]``, where each token leads, -1 where no accepted sequence goes on. ``accepting``: bool
    ``[states]``.
    """

    table: Table
    accepting: NDArray[np.bool_]

    @property
    def vocabulary(self) -> int:
        return self.table.shape[1]

    def lattice(self, length: int) -> Lattice:
        """The accepted sequences of one length >= 1. Raises `TooManyStates`."""
        here = np.zeros(1, dtype=np.int64)
        layers: list[Table] = []
        budget = _Budget(length)
        for _ in range(length):
            here, layer = _numbered(self.table[here])
            layers.append(layer)
            budget.spend(len(here))
        return _smallest(layers, self.accepting[here])


def explore(
    start: S,
    step: Callable[[S, int], S | None],
    accepts: Callable[[S], bool],
    vocabulary: int,
    most: int = MOST_EXPLORED,
) -> Automaton:
    """The automaton of a rule: ``step(state, token)`` is the next state, or None where nothing accepted follows.

    States are any hashable values; those that can be reached are numbered as they are met. Raises `TooManyStates`
    beyond ``most``.
    """
    number: dict[S, int] = {start: 0}
    states = [start]
    rows: list[list[int]] = []
    while len(rows) < len(states):
        state = states[len(rows)]
        row: list[int] = []
        for token in range(vocabulary):
            after = step(state, token)
            if after is not None and after not in number:
                number[after] = len(states)
                states.append(after)
            row.append(_NONE if after is None else number[after])
        rows.append(row)
        if len(states) > most:
            raise TooManyStates(f"a rule needs more than {most} states.")
    return Automaton(np.array(rows, dtype=np.int64), np.array([accepts(state) for state in states]))


@dataclass(frozen=True, eq=False)
class Lattice:
    """Some of the sequences of one length.

    ``tables``: for each position l int64 ``[S_l + 1, V]``, the state after each token. The states before position l
    are 0, ..., S_l - 1; the last row, S_l, is the dead state, which stays dead. A sequence starts in state 0, which is
    the dead one where nothing is accepted, and has been accepted if it ends in state 0.
    """

    tables: tuple[Tensor, ...]
    _elsewhere: dict[torch.device, Lattice] = field(default_factory=dict["torch.device", "Lattice"], repr=False)

    @property
    def length(self) -> int:
        return len(self.tables)

    @property
    def vocabulary(self) -> int:
        return self.tables[0].shape[1]

    @cached_property
    def states(self) -> int:
        """How many states there are over all places but the last."""
        return sum(len(table) - 1 for table in self.tables)

    @property
    def empty(self) -> bool:
        """Whether no sequence is accepted."""
        return len(self.tables[0]) == 1

    @cached_property
    def log_count(self) -> float:
        """The logarithm of the number of accepted sequences, -inf for none."""
        ways, log_scale = np.array([1.0, 0.0]), 0.0
        for table in reversed(self.tables):
            ways = ways[table.cpu().numpy()].sum(1)
            top = float(ways.max())
            if top == 0:
                return -math.inf
            ways, log_scale = ways / top, log_scale + math.log(top)
        return math.log(ways[0]) + log_scale

    def accepts(self, x: Tensor) -> Tensor:
        """Which sequences ``[batch, length]`` of tokens are accepted, bool ``[batch]``."""
        state = torch.zeros(len(x), dtype=torch.long, device=x.device)
        for position, table in enumerate(self.on(x.device).tables):
            state = table[state, x[:, position]]
        return state == 0

    def on(self, device: torch.device) -> Lattice:
        """The same on a device, copied once."""
        if self.tables[0].device == device:
            return self
        if device not in self._elsewhere:
            self._elsewhere[device] = Lattice(tuple(table.to(device) for table in self.tables))
        return self._elsewhere[device]

    def __and__(self, other: Lattice) -> Lattice:
        """The sequences that both accept. Raises `TooManyStates`; ValueError for other lengths or vocabularies."""
        if (self.length, self.vocabulary) != (other.length, other.vocabulary):
            raise ValueError(
                f"lattices of length {self.length} over {self.vocabulary} tokens and of length {other.length} over "
                f"{other.vocabulary} have no sequence in common"
            )
        if self.empty or other.empty:
            return self if self.empty else other
        mine, theirs = (_signed(lattice.tables) for lattice in (self, other))
        here, width = np.zeros(1, dtype=np.int64), 1
        layers: list[Table] = []
        budget = _Budget(self.length)
        for a, b in zip(mine, theirs, strict=True):
            after_a, after_b = a[here // width], b[here % width]
            # A pair of states is one number; the width is that of the states at the next place.
            width = int(b.max(initial=0)) + 1
            both = (after_a >= 0) & (after_b >= 0)
            here, layer = _numbered(np.where(both, after_a * width + after_b, _NONE))
            layers.append(layer)
            budget.spend(len(here))
        return _smallest(layers, np.ones(len(here), dtype=np.bool_))


def allowed(tokens: Tensor) -> Lattice:
    """The sequences whose every token is allowed at its position: bool ``[length, V]``."""
    layers = [np.where(row, 0, _NONE)[None] for row in tokens.cpu().numpy()]
    return _smallest(layers, np.ones(1, dtype=np.bool_))


def unfold(
    start: S,
    step: Callable[[int, S, int], S | None],
    accepts: Callable[[S], bool],
    length: int,
    vocabulary: int,
) -> Lattice:
    """The lattice of a rule that knows the position: ``step(position, state, token)``, otherwise as in ``explore``."""
    here: dict[S, int] = {start: 0}
    layers: list[Table] = []
    budget = _Budget(length)
    for position in range(length):
        there: dict[S, int] = {}
        layer = np.full((len(here), vocabulary), _NONE, dtype=np.int64)
        for state, number in here.items():
            for token in range(vocabulary):
                after = step(position, state, token)
                if after is not None:
                    layer[number, token] = there.setdefault(after, len(there))
        layers.append(layer)
        budget.spend(len(there))
        here = there
    return _smallest(layers, np.array([accepts(state) for state in here], dtype=np.bool_))


class _Budget:
    """Counts states that are reached."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.left = MOST_STATES

    def spend(self, states: int) -> None:
        self.left -= states
        if self.left < 0:
            raise TooManyStates(
                f"these constraints on {self.length} positions need more than {MOST_STATES} automaton states together."
            )


def _numbered(codes: Table) -> tuple[Table, Table]:
    """The different codes >= 0 in rising order, and the same table with their numbers in place of the codes."""
    alive = codes >= 0
    different, inverse = np.unique(codes[alive], return_inverse=True)
    numbers = np.full(codes.shape, _NONE, dtype=np.int64)
    numbers[alive] = inverse
    return different, numbers


def _smallest(layers: Sequence[Table], accepting: NDArray[np.bool_]) -> Lattice:
    """The smallest lattice of layers ``[S_l, V]`` with -1 for none, whose first place has one state."""
    # What each state of the place behind is called, and at the end, where -1 points, none.
    names = np.append(np.where(accepting, 0, _NONE), _NONE)
    dead = 1
    tables: list[Tensor] = []
    for layer in reversed(layers):
        rows = names[layer]
        alive = (rows >= 0).any(1)
        different, inverse = _different(rows[alive])
        names = np.full(len(rows) + 1, _NONE, dtype=np.int64)
        names[:-1][alive] = inverse
        table = np.full((len(different) + 1, layer.shape[1]), dead, dtype=np.int64)
        table[:-1] = np.where(different >= 0, different, dead)
        tables.append(torch.from_numpy(table))
        dead = len(different)
    return Lattice(tuple(reversed(tables)))


def _different(rows: Table) -> tuple[Table, NDArray[Any]]:
    """The different rows, and which of them each row is."""
    order = np.lexsort(rows.T[::-1])
    ordered = rows[order]
    new = np.ones(len(rows), dtype=np.bool_)
    new[1:] = (ordered[1:] != ordered[:-1]).any(1)
    inverse = np.empty(len(rows), dtype=np.int64)
    inverse[order] = new.cumsum() - 1
    return ordered[new], inverse


def _signed(tables: Sequence[Tensor]) -> list[Table]:
    """The tables with -1 for the dead state, and without its row."""
    layers = [table.cpu().numpy() for table in tables]
    ends = [len(layer) - 1 for layer in layers[1:]] + [1]
    return [np.where(layer[:-1] == end, _NONE, layer[:-1]) for layer, end in zip(layers, ends, strict=True)]
