r"""Every window of a sequence has between ``low`` and ``high`` letters of a kind, as lattices.

With g_l = 1 where position l has such a letter (G or C, say) and window w, each l must have

    low <= g_{l+1} + ... + g_{l+w} <= high.

An automaton that knows this must know the last w - 1 letters' kinds: 2^(w-1) states, and no fewer will do. So
``exact`` serves narrow windows. For wide ones there are two conditions that are sufficient: what meets them meets the
constraint, at the price that some sequences that would meet it too are never drawn.

``buckets``: two leaky buckets. One is filled by g_l and leaks c at each position, r' = max(0, r + g_l - c); where it
never holds more than high - c w, no window has more than ``high``, for any c: what a window brings in, less what leaks,
is still in the bucket. Another one, filled by the other letters, holds the lower bound. Each leaks at the rate that
most random sequences live with; the finer the fractions among which it is chosen, the more of them and the more states.
Buckets forget, so windows are free to be rich here and poor there.

``corridor``: the count so far stays within (high - low) / 2 of a straight line whose slope is the middle of the range.
It knows nothing but the count, so it costs no more states beside a constraint on the whole sequence's count, but the
whole sequence is held near the middle of the range.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from degauss.core.jump.automaton import Lattice, explore, unfold

WIDEST_EXACT = 11
"""The widest window for which ``exact`` is used: 1024 states."""


@dataclass(frozen=True)
class Window:
    """Each ``width`` neighbouring tokens hold from ``low`` to ``high`` that are among ``counted``."""

    width: int
    low: int
    high: int
    counted: Collection[int]
    vocabulary: int

    def exact(self, length: int) -> Lattice:
        """All sequences that meet the constraint."""

        def step(state: int, token: int) -> int | None:
            # The kinds of the last letters as bits, behind a leading 1.
            state = state << 1 | (token in self.counted)
            if state >> self.width == 0:
                return state
            bits = state & ((1 << self.width) - 1)
            if not self.low <= bits.bit_count() <= self.high:
                return None
            return bits & ((1 << (self.width - 1)) - 1) | 1 << (self.width - 1)

        return explore(1, step, lambda state: True, self.vocabulary).lattice(length)

    def buckets(self, length: int, finest: int) -> Lattice:
        """Sequences that two leaky buckets allow, which leak at fractions with denominators up to ``finest`` >= 1."""
        rates = {Fraction(p, q) for q in range(1, finest + 1) for p in range(q + 1)}
        share = Fraction(self.low + self.high, 2 * self.width)
        upper = _Bucket.best(rates, self.width, self.high, length, share)
        lower = _Bucket.best(rates, self.width, self.width - self.low, length, 1 - share)

        def step(state: tuple[int, int], token: int) -> tuple[int, int] | None:
            counts = token in self.counted
            after = upper.step(state[0], counts), lower.step(state[1], not counts)
            return after if upper.holds(after[0]) and lower.holds(after[1]) else None

        return explore((0, 0), step, lambda state: True, self.vocabulary).lattice(length)

    def corridor(self, length: int) -> Lattice:
        """Sequences whose count keeps to a straight line."""
        width, slope = self.width, self.low + self.high

        def step(position: int, count: int, token: int) -> int | None:
            count += token in self.counted
            # In units of 1 / (2 width). Two points of the way differ by twice this, as much as a window may.
            distance = abs(2 * width * count - slope * (position + 1))
            return count if 2 * distance <= width * (self.high - self.low) else None

        return unfold(0, step, lambda count: True, length, self.vocabulary)


@dataclass(frozen=True)
class _Bucket:
    """A leaky bucket in units of 1 / ``filled``: that much comes in with a letter that counts, ``leaks`` go out."""

    filled: int
    leaks: int
    size: int

    @staticmethod
    def best(rates: Collection[Fraction], width: int, most: int, length: int, share: Fraction) -> _Bucket:
        """The bucket for at most ``most`` in a window that most random sequences with this share of letters fit in.

        Its rate is the share or above it: two buckets that leak less would fill whatever comes.
        """
        buckets = [
            _Bucket(rate.denominator, rate.numerator, rate.denominator * most - rate.numerator * width)
            for rate in {share, *rates}
            if share <= rate and rate * width <= most
        ]
        # Equally good ones are told apart by their size: the smaller has fewer states.
        return max(buckets, key=lambda bucket: (round(bucket.survival(length, float(share)), 3), -bucket.size))

    def step(self, level: int, counts: bool) -> int:
        return max(0, level + self.filled * counts - self.leaks)

    def holds(self, level: int) -> bool:
        return level <= self.size

    def survival(self, length: int, share: float) -> float:
        """The probability that a random sequence never makes it overflow."""
        levels = np.arange(self.size + 1)
        law = np.zeros(self.size + 1)
        law[0] = 1
        rises, falls = levels + self.filled - self.leaks, np.maximum(levels - self.leaks, 0)
        fits = rises <= self.size
        for _ in range(length):
            after = np.zeros_like(law)
            np.add.at(after, rises[fits], share * law[fits])
            np.add.at(after, falls, (1 - share) * law)
            law = after
        return float(law.sum())
