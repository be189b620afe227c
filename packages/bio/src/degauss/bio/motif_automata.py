"""Motifs as automata: sequences that contain some of them, or none.

A motif is a class of tokens for each of its places (``TATAWA`` has both A and T in the fifth). The automaton's state is
the set of beginnings of motifs that the last tokens agree with, as the bits of one number: a token shifts them all by
one place and keeps those that go on (the shift-and method, Baeza-Yates and Gonnet 1992). Only the sets that occur are
states. Overlaps, and motifs inside others, need no care.
"""

from __future__ import annotations

from collections.abc import Sequence

from degauss.core.jump.automaton import Automaton, explore

Motif = tuple[frozenset[int], ...]
"""The tokens that each place of a motif may have."""

_FOUND = -1


def without(motifs: Sequence[Motif], vocabulary: int) -> Automaton:
    """The sequences in which none of the motifs occurs anywhere."""
    scan = _Scan(motifs, vocabulary)

    def step(state: int, token: int) -> int | None:
        state = scan.step(state, token)
        return None if state & scan.ends else state

    return explore(0, step, lambda state: True, vocabulary)


def containing(motifs: Sequence[Motif], vocabulary: int) -> Automaton:
    """The sequences in which at least one of the motifs occurs at least once."""
    scan = _Scan(motifs, vocabulary)

    def step(state: int, token: int) -> int:
        if state == _FOUND:
            return _FOUND
        state = scan.step(state, token)
        return _FOUND if state & scan.ends else state

    return explore(0, step, lambda state: state == _FOUND, vocabulary)


class _Scan:
    """All motifs one after the other in the bits of a number: bit k is set where their k-th place has just been met."""

    def __init__(self, motifs: Sequence[Motif], vocabulary: int) -> None:
        if not all(motifs):
            raise ValueError("a motif has at least one place")
        places = [place for motif in motifs for place in motif]
        self.fits = [sum(1 << k for k, place in enumerate(places) if token in place) for token in range(vocabulary)]
        self.starts = self.ends = 0
        first = 0
        for motif in motifs:
            self.starts |= 1 << first
            first += len(motif)
            self.ends |= 1 << (first - 1)

    def step(self, state: int, token: int) -> int:
        # What is shifted out of one motif falls on the start of the next, which is set at any rate.
        return (state << 1 | self.starts) & self.fits[token]
