"""Automata and lattices against regular expressions and brute force over all short sequences."""

from __future__ import annotations

import math
import re
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from degauss.core import InputError
from degauss.core.jump import automaton
from degauss.core.jump.automaton import Automaton, Lattice, TooManyStates, allowed, explore, unfold
from degauss.core.jump.oracle import sequences

V, L = 3, 5
ALL = sequences(V, L)


@st.composite
def automata(draw: st.DrawFn, vocabulary: int = V) -> Automaton:
    """Any automaton of up to 6 states, dead ways and states that nothing reaches included."""
    states = draw(st.integers(1, 6))
    entries = st.integers(-1, states - 1)
    rows = st.lists(entries, min_size=vocabulary, max_size=vocabulary)
    table = draw(st.lists(rows, min_size=states, max_size=states))
    accepting = draw(st.lists(st.booleans(), min_size=states, max_size=states))
    return Automaton(np.array(table), np.array(accepting))


def read(machine: Automaton, tokens: list[int]) -> bool:
    """Whether an automaton accepts, step by step."""
    state = 0
    for token in tokens:
        if state >= 0:
            state = int(machine.table[state, token])
    return state >= 0 and bool(machine.accepting[state])


def language(lattice: Lattice, x: torch.Tensor = ALL) -> set[tuple[int, ...]]:
    return {tuple(row) for row in x[lattice.accepts(x)].tolist()}


@given(automata())
@settings(max_examples=60)
def test_a_lattice_accepts_what_its_automaton_accepts(machine: Automaton) -> None:
    lattice = machine.lattice(L)
    truth = {tuple(row) for row in ALL.tolist() if read(machine, row)}
    assert language(lattice) == truth
    assert lattice.empty == (not truth)
    assert lattice.log_count == pytest.approx(math.log(len(truth)) if truth else -math.inf)


@given(automata(), automata(), automata())
@settings(max_examples=60)
def test_intersection(a: Automaton, b: Automaton, c: Automaton) -> None:
    first, second, third = (machine.lattice(L) for machine in (a, b, c))
    both = first & second & third
    assert language(both) == language(first) & language(second) & language(third)
    # The smallest lattice of a language has one form: the order does not matter.
    other = third & (second & first)
    assert [len(table) for table in both.tables] == [len(table) for table in other.tables]


@given(automata())
@settings(max_examples=60)
def test_a_lattice_is_the_smallest(machine: Automaton) -> None:
    """As many states at each place as there are different sets of accepted ends, by Nerode's theorem."""
    lattice = machine.lattice(L)
    accepted = language(lattice)
    for place in range(L):
        ends: dict[tuple[int, ...], set[tuple[int, ...]]] = {}
        for word in accepted:
            ends.setdefault(word[:place], set()).add(word[place:])
        assert len(lattice.tables[place]) - 1 == len({frozenset(tails) for tails in ends.values()})


@pytest.mark.parametrize(
    ("pattern", "start", "step", "accepts"),
    [
        (".*01.*", 0, lambda s, v: 2 if s == 2 or (s == 1 and v == 1) else int(v == 0), lambda s: s == 2),
        ("(?!.*00).*", -1, lambda s, v: None if s == v == 0 else v, lambda s: True),
        ("(?:[12]*0[12]*0)*[12]*", 0, lambda s, v: s ^ (v == 0), lambda s: s == 0),
        ("0?1*2", 0, lambda s, v: {0: {0: 1, 1: 1, 2: 2}, 1: {1: 1, 2: 2}}.get(s, {}).get(v), lambda s: s == 2),
    ],
)
def test_rules_against_regular_expressions(pattern: str, start: int, step: Any, accepts: Any) -> None:
    machine = explore(start, step, accepts, V)
    for length in range(1, 8):
        x = sequences(V, length)
        words = ["".join(map(str, row)) for row in x.tolist()]
        expected = torch.tensor([re.fullmatch(pattern, word) is not None for word in words])
        assert torch.equal(machine.lattice(length).accepts(x), expected)


def test_rules_that_know_the_position() -> None:
    """Token v at position l only if l + v is even, and the tokens add up to 4."""
    step: Any = lambda position, total, token: None if (position + token) % 2 else total + token  # noqa: E731
    lattice = unfold(0, step, lambda total: total == 4, L, V)
    truth = {tuple(row) for row in ALL.tolist() if sum(row) == 4 and all((p + v) % 2 == 0 for p, v in enumerate(row))}
    assert truth
    assert language(lattice) == truth
    impossible = unfold(0, lambda position, state, token: None, lambda state: True, L, V)
    assert impossible.empty
    assert language(impossible) == set()


@given(st.lists(st.sets(st.integers(0, V - 1)), min_size=L, max_size=L))
def test_allowed_tokens(sets: list[set[int]]) -> None:
    mask = torch.tensor([[token in tokens for token in range(V)] for tokens in sets])
    lattice = allowed(mask)
    assert language(lattice) == {
        tuple(row) for row in ALL.tolist() if all(token in tokens for token, tokens in zip(row, sets, strict=True))
    }
    assert lattice.empty == (set() in sets)
    assert lattice.states <= L


def test_what_is_dead_stays_dead() -> None:
    lattice = explore(0, lambda s, v: None if v == 0 else s, lambda s: True, V).lattice(L)
    for table, after in zip(lattice.tables, [len(t) - 1 for t in lattice.tables[1:]] + [1], strict=True):
        assert table[-1].eq(after).all()
    assert not lattice.accepts(torch.tensor([[0, 1, 1, 1, 1]]))


def test_counting_is_exact_far_beyond_floats() -> None:
    anything = allowed(torch.ones(2000, 4, dtype=torch.bool))
    assert anything.log_count == pytest.approx(2000 * math.log(4))
    assert anything.states == 2000


def test_too_many_states_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(automaton, "MOST_STATES", 40)
    total: Any = lambda s, v: s + v  # noqa: E731
    weighted: Any = lambda position, s, v: s + v * (position + 1)  # noqa: E731
    with pytest.raises(TooManyStates, match="12 positions need more than 40 automaton states"):
        unfold(0, weighted, lambda s: s == 20, 12, V)
    with pytest.raises(TooManyStates, match="a rule needs more than 30 states"):
        explore(0, total, lambda s: True, V, most=30)
    monkeypatch.setattr(automaton, "MOST_STATES", 100)
    even = explore(0, lambda s, v: (s + v) % 4, lambda s: s == 0, V).lattice(12)
    third = explore(0, lambda s, v: (s + (v == 1)) % 5, lambda s: s == 0, V).lattice(12)
    with pytest.raises(InputError, match="12 positions need more than 100"):
        _ = even & third


def test_lattices_of_different_lengths_do_not_meet() -> None:
    with pytest.raises(ValueError, match="of length 2 over 3 tokens and of length 3"):
        _ = allowed(torch.ones(2, 3, dtype=torch.bool)) & allowed(torch.ones(3, 3, dtype=torch.bool))
