"""The judges and the copy check: what they must tell apart, and what they must not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from degauss.core.errors import InputError
from degauss.timeseries.copies import CopyCheck, check_copies, nearest
from degauss.timeseries.generation_data import sines
from degauss.timeseries.posthoc import Judge, discriminative_score, predictive_score

QUICK = Judge(hidden=8, steps=150, batch=64)


def walks(count: int, seed: int, features: int = 2) -> np.ndarray:
    """Random walks in about [0, 1]."""
    steps = np.random.default_rng(seed).normal(0, 0.05, (count, 12, features))
    return 0.5 + steps.cumsum(1)


# --- the judges ---


def test_real_windows_are_not_told_from_real_ones():
    assert discriminative_score(walks(400, 0), walks(400, 1), QUICK) < 0.12


def test_other_windows_are_told_apart():
    """The control: the same values at each time, in another order within a window."""
    real, other = walks(400, 0), walks(400, 1)
    scattered = np.take_along_axis(other, np.random.default_rng(0).random(other.shape).argsort(1), axis=1)
    assert discriminative_score(real, scattered, QUICK) > 0.3


def test_as_many_of_each_side():
    """Ten times more synthetic windows are no reason to guess 'synthetic'."""
    assert discriminative_score(walks(100, 0), walks(1000, 1), QUICK) < 0.2


def waves(count: int, seed: int, *, lag: float) -> np.ndarray:
    """Two sines; the second follows the first."""
    angle = np.random.default_rng(seed).uniform(0, 2 * np.pi, (count, 1)) + 2 * np.pi * np.arange(12) / 12
    return np.stack([np.sin(angle), np.sin(angle - lag)], axis=-1) / 2 + 0.5


def test_what_real_windows_teach():
    real = waves(300, 0, lag=1.0)
    floor = predictive_score(real, waves(300, 1, lag=1.0), QUICK)
    wrong = predictive_score(real, waves(300, 1, lag=2.5), QUICK)
    assert floor < 0.06
    assert wrong > 4 * floor


def test_the_last_feature_is_not_given_away():
    """Were the last feature among the inputs, or at its own time, a walk would be foretold to its step's size."""
    real, other = walks(400, 0), walks(400, 1)
    blind = np.abs(real[:, 1:, 1] - np.median(other[:, 1:, 1], axis=0)).mean()
    assert predictive_score(real, other, QUICK) > 0.8 * blind
    alone = predictive_score(real[:, :, 1:], other[:, :, 1:], QUICK)
    assert alone < 0.6 * blind  # its own past, where there is no other


def test_judges_follow_their_seed_and_leave_torchs_alone():
    real, other = walks(60, 0), walks(60, 1)
    quick = Judge(hidden=4, steps=5)
    before = torch.random.get_rng_state()
    scores = [predictive_score(real, other, quick) for _ in range(2)]
    assert torch.equal(before, torch.random.get_rng_state())
    assert scores[0] == scores[1] != predictive_score(real, other, Judge(hidden=4, steps=5, seed=1))


def test_too_few_windows_to_judge():
    for score in (discriminative_score, predictive_score):
        with pytest.raises(InputError, match="9 windows on one side; a judge needs at least 10"):
            score(walks(9, 0), walks(50, 1), QUICK)
    with pytest.raises(InputError, match="steps must be at least 1"):
        Judge(steps=0)


# --- copies ---


def test_distances_are_to_the_nearest():
    train, windows = walks(300, 0), walks(50, 1)
    expected = [np.sqrt(((train - window) ** 2).mean((1, 2))).min() for window in windows]
    np.testing.assert_allclose(nearest(windows, train), expected, rtol=1e-5)


def test_real_windows_are_no_copies():
    check = check_copies(sines(2000), sines(500, seed=1), sines(500, seed=2))
    assert not check.flagged
    assert check.closer == pytest.approx(0.5, abs=0.06)
    assert check.near == pytest.approx(0.05, abs=0.035)
    assert "no sign of copying" in check.words()


@pytest.mark.parametrize("noise", [0.0, 1e-3, 0.01])
def test_copies_are_flagged(noise):
    """The control that must fail: training windows, exact or with a little noise."""
    train = walks(1000, 0)
    copied = train[:300] + np.random.default_rng(0).normal(0, noise, train[:300].shape)
    check = check_copies(train, walks(500, 1), copied)
    assert check.flagged
    assert check.closer > 0.95
    assert check.same == (300 if noise == 0 else 0)
    assert ("300 of 300 synthetic windows are training windows" in check.words()) == (noise == 0)


def test_a_tenth_of_copies_among_good_windows_is_seen():
    train = walks(1000, 0)
    mixed = np.concatenate([walks(450, 2), train[:50] + 0.005])
    assert check_copies(train, walks(500, 1), mixed).flagged


def test_one_exact_copy_is_enough():
    train = walks(200, 0)
    assert check_copies(train, walks(100, 1), np.concatenate([walks(100, 2), train[7:8]])).flagged


def test_an_exact_copy_of_large_numbers_is_seen():
    """The product form of distances would lose this one to rounding."""
    train = walks(200, 0) + 1000
    assert check_copies(train, walks(50, 1) + 1000, train[:5]).same == 5


def test_closer_is_a_probability():
    check = CopyCheck(np.array([1.0, 2.0]), np.array([1.0, 3.0]))
    assert check.closer == pytest.approx((0.5 + 1 + 0 + 1) / 4)
    assert CopyCheck(np.zeros(3), np.zeros(3)).closer == 0.5
