"""Markov models against a count by hand, and against the truth of sequences that were drawn from one."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch

from degauss.bio.markov import Markov, fit_markov, profile_bits
from degauss.core.jump.oracle import sequences


def drawn(count: int, length: int, symbols: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randint(symbols, (count, length), generator=torch.Generator().manual_seed(seed))


def by_hand(train: list[str], sequence: str, letters: str, order: int, m: float) -> float:
    """log p of a sequence, from counts of substrings."""

    def probability(context: str, letter: str) -> float:
        count = sum(text[i : i + len(context) + 1] == context + letter for text in train for i in range(len(text)))
        # A context at the very end of a text is followed by nothing, and does not count.
        total = sum(text[i : i + len(context)] == context for text in train for i in range(len(text) - len(context)))
        lower = probability(context[1:], letter) if context else 1 / len(letters)
        return (count + m * lower) / (total + m)

    return sum(math.log(probability(sequence[max(0, i - order) : i], a)) for i, a in enumerate(sequence))


@pytest.mark.parametrize("order", range(4))
def test_against_a_count_by_hand(order):
    train, tested = drawn(6, 9), drawn(5, 7, seed=1)
    text = ["".join("abc"[a] for a in row) for row in train.tolist()]
    expected = [by_hand(text, "".join("abc"[a] for a in row), "abc", order, 2.5) for row in tested.tolist()]
    model = Markov.fit(train, 3, order, 2.5)
    assert model.order == order
    torch.testing.assert_close(model.log_prob(tested), torch.tensor(expected, dtype=torch.float64))
    assert model.bits(tested) == pytest.approx(-sum(expected) / (5 * 7 * math.log(2)))


@pytest.mark.parametrize("order", range(4))
def test_it_is_a_distribution(order):
    model = Markov.fit(drawn(6, 9), 3, order)
    assert float(model.log_prob(sequences(3, 5)).exp().sum()) == pytest.approx(1, abs=1e-12)


def test_limits_of_the_strength():
    train, tested = drawn(50, 20), drawn(20, 20, seed=1)
    assert Markov.fit(train, 3, 2, 1e12).bits(tested) == pytest.approx(math.log2(3), abs=1e-6)
    frequencies = torch.bincount(train.flatten()).double() / train.numel()
    torch.testing.assert_close(Markov.fit(train, 3, 0, 1e-9).tables[0][0], frequencies)


def test_the_order_of_the_source_is_found():
    """Sequences whose letter follows from the last two, four times of five."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(3, (400, 40), generator=generator)
    noise = torch.rand(x.shape, generator=generator)
    for place in range(2, 40):
        rule = (x[:, place - 1] + 2 * x[:, place - 2]) % 3
        x[:, place] = torch.where(noise[:, place] < 0.7, rule, x[:, place])
    models = fit_markov(x[:200], x[200:300], 3, range(6))
    bits = [model.bits(x[300:]) for model in models]
    certain = 0.7 + 0.3 / 3
    entropy = -certain * math.log2(certain) - 2 * 0.1 * math.log2(0.1)
    assert bits[1] > math.log2(3) - 0.02
    assert bits[2] == pytest.approx((38 * entropy + 2 * math.log2(3)) / 40, abs=0.03)
    assert min(bits) == bits[2]
    assert bits[5] < bits[2] + 0.05  # interpolation: a longer context costs little


def test_orders_that_the_length_does_not_allow():
    assert [model.order for model in fit_markov(drawn(9, 4), drawn(9, 4), 3)] == [0, 1, 2, 3]
    for order, strength in product((-1, 4), (1.0,)):
        with pytest.raises(ValueError, match="order"):
            Markov.fit(drawn(9, 4), 3, order, strength)
    with pytest.raises(ValueError, match="strength"):
        Markov.fit(drawn(9, 4), 3, 1, 0)


def test_letters_by_place():
    train = torch.tensor([[0, 1], [0, 1], [0, 2]])
    expected = -(math.log2(4 / 6) + math.log2(2 / 6)) / 2
    assert profile_bits(train, torch.tensor([[0, 2]]), 3) == pytest.approx(expected)
