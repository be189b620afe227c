"""Synthetic windows, and the scores of forecasters that were trained on them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from degauss.core.errors import InputError
from degauss.core.gaussian import dpmpp
from degauss.timeseries import metrics
from degauss.timeseries.config import TSDiffConfig
from degauss.timeseries.regular import Regular
from degauss.timeseries.synthesis import (
    QuantileNetwork,
    Real,
    generate,
    held_out,
    in_data_units,
    in_model_units,
    predictive_score,
    real_windows,
    ridge,
)
from degauss.timeseries.tsdiff import Windows

CONTEXT, HORIZON = 24, 8


def waves(count: int, seed: int = 0, noise: float = 0.0) -> np.ndarray:
    """Sines of period 8 in any phase, ``[count, 32]``, as the model was trained on."""
    rng = np.random.default_rng(seed)
    phase = rng.uniform(0, 2 * np.pi, (count, 1))
    return np.sqrt(2) * np.sin(2 * np.pi * np.arange(32) / 8 + phase) + noise * rng.normal(size=(count, 32))


def sine(count: int = 60, name: str = "wave") -> Regular:
    values = np.sin(2 * np.pi * np.arange(count) / 8)
    return Regular(name, pd.Timestamp("2024-01-01"), pd.offsets.Day(), values)


def real(count: int = 20, factor: float = 1.0, offset: float = 0.0) -> Real:
    rows = factor * waves(count, seed=9) + offset
    return Real(rows[:, :CONTEXT], rows[:, CONTEXT:])


# --- windows ---


def test_windows_have_the_period_of_the_data(tiny):
    drawn = generate(tiny, 60, steps=50)
    assert drawn.shape == (60, 32)
    power = np.abs(np.fft.rfft(drawn, axis=1)[:, 1:]) ** 2
    assert (power.argmax(1) + 1 == 4).mean() > 0.9  # four periods in 32 values
    assert 0.6 < drawn[:, :CONTEXT].std(1).mean() < 1.4
    phase = np.angle(np.fft.rfft(drawn, axis=1)[:, 4])
    assert abs(np.exp(1j * phase).mean()) < 0.5  # not one phase alone


def test_a_window_follows_its_number_and_the_seed(tiny):
    first = generate(tiny, 7, steps=3)
    np.testing.assert_allclose(first, generate(tiny, 9, steps=3, rows=2)[:7], rtol=0, atol=1e-4)
    assert np.abs(first - generate(tiny, 7, steps=3, seed=1)).mean() > 0.1
    assert np.abs(first[0] - first[1]).mean() > 0.1
    other = generate(tiny, 7, steps=3, solver=dpmpp(2))
    assert np.abs(first - other).mean() > 0.01


def test_data_units_are_those_of_real_windows(tiny):
    series = [100 + 5 * sine(80).values, 7 * sine(90).values - 30]
    drawn = real_windows(tiny, series, 40, seed=2)
    whole = drawn.seen.bool().all(1)  # the others begin before their series does
    windows = Windows(drawn.values[whole], drawn.seen[whole])
    scaled = in_model_units(tiny, drawn)
    assert scaled.shape == (int(whole.sum()), 32)
    np.testing.assert_allclose(scaled[:, :CONTEXT].mean(1), 0, atol=1e-6)
    np.testing.assert_allclose(scaled[:, :CONTEXT].std(1), 1, atol=1e-6)
    back = in_data_units(scaled, tiny.scale(windows))
    np.testing.assert_allclose(back, windows.values, rtol=1e-6)
    levels = back[:, :CONTEXT].mean(1)
    assert ((levels > 90) | (levels < -20)).all()


def test_windows_with_gaps_are_left_out(tiny):
    values = sine(200).values.copy()
    values[100] = np.nan
    windows = real_windows(tiny, [values], 100)
    kept = int(windows.seen.bool().all(1).sum())
    assert 0 < kept < 100
    assert in_model_units(tiny, windows).shape == (kept, 32)
    values[::8] = np.nan
    with pytest.raises(InputError, match="all 10 windows drawn from the series have gaps"):
        in_model_units(tiny, real_windows(tiny, [values], 10))


def test_counts_that_cannot_be(tiny):
    with pytest.raises(InputError, match="count must be at least 1"):
        generate(tiny, 0)
    with pytest.raises(InputError, match="steps must be between 1 and 100, but is 101"):
        generate(tiny, 1, steps=101)


def test_progress_is_told(tiny):
    told: list[tuple[int, int]] = []
    generate(tiny, 7, steps=1, rows=3, report=lambda done, total: told.append((done, total)))
    assert told == [(3, 7), (6, 7), (7, 7)]


# --- what they are tested on ---


def test_the_ends_of_the_records_are_held_out():
    config = TSDiffConfig(context=24, horizon=8, min_context=16)
    gappy = sine(60, "b")
    gappy.values[58] = np.nan
    found = held_out([sine(60), gappy, sine(31, "short")], config, 3)
    expected = [sine(60).values[28:60], sine(60).values[20:52], sine(60).values[12:44], sine(60).values[20:52]]
    np.testing.assert_array_equal(np.concatenate([found.known, found.target], 1)[:3], expected[:3])
    assert len(found.known) == 5  # the gap costs the last stretch of the second record alone
    with pytest.raises(InputError, match=r"no series ends in 32 values without a gap \(context 24 \+ horizon 8\)"):
        held_out([sine(31)], config, 3)
    with pytest.raises(InputError, match="ends of all series are zero"):
        held_out([replace(sine(), values=np.zeros(60))], config, 3)
    with pytest.raises(InputError, match="windows must be at least 1"):
        held_out([sine()], config, 0)


# --- forecasters ---


@pytest.mark.parametrize("alpha", [0.01, 1.0, 100.0])
def test_ridge_is_that_of_scikit_learn(alpha):
    linear_model = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is not installed")
    rng = np.random.default_rng(0)
    x, y, new = rng.normal(2, 3, (40, 24)), rng.normal(size=(40, 8)), rng.normal(size=(5, 24))
    theirs = linear_model.Ridge(alpha=alpha).fit(x, y).predict(new)
    np.testing.assert_allclose(ridge(x, y, alpha)(new), np.broadcast_to(theirs, (9, 5, 8)), rtol=0, atol=1e-9)


def test_the_score_of_a_point_is_its_normalised_deviation():
    train, test = waves(200, noise=0.3), real()
    scale = test.known.std(1, keepdims=True)
    point = ridge(train[:, :CONTEXT], train[:, CONTEXT:])((test.known - test.known.mean(1, keepdims=True)) / scale)[0]
    point = point * scale + test.known.mean(1, keepdims=True)
    assert predictive_score(train, test, "standard", ridge) == pytest.approx(metrics.nd(test.target, point))


@pytest.mark.parametrize("fit", [ridge, QuantileNetwork(steps=150)])
def test_a_forecaster_learns_from_good_windows_and_not_from_shuffled_ones(fit):
    good = waves(300, noise=0.1)
    shuffled = np.random.default_rng(1).permuted(good, axis=1)
    score, control = (predictive_score(train, real(), "standard", fit) for train in (good, shuffled))
    assert score < 0.25
    assert control > 2 * score


@pytest.mark.parametrize("fit", [ridge, QuantileNetwork(steps=20)])
def test_the_score_does_not_depend_on_the_units(fit):
    train = waves(100, noise=0.1)
    plain = predictive_score(train, real(), "standard", fit)
    assert predictive_score(train, real(factor=1000.0), "standard", fit) == pytest.approx(plain, rel=1e-5)


def test_the_network_is_calibrated_where_there_is_only_noise():
    """Changes that are standard normal: its deciles are those of the normal, and in order."""
    rng = np.random.default_rng(0)
    known = rng.normal(size=(3000, 6))
    target = known[:, -1:] + rng.normal(size=(3000, 2))
    predict = QuantileNetwork(steps=400)(known, target)
    quantiles = predict(rng.normal(size=(500, 6)))
    assert quantiles.shape == (9, 500, 2)
    assert (np.diff(quantiles, axis=0) >= 0).all()
    new = rng.normal(size=(500, 6))
    middle = (predict(new) - new[:, -1:]).mean((1, 2))
    np.testing.assert_allclose(middle, [-1.282, -0.842, -0.524, -0.253, 0, 0.253, 0.524, 0.842, 1.282], atol=0.15)


def test_the_network_follows_its_seed():
    train = waves(100, noise=0.2)
    scores = [predictive_score(train, real(), "standard", QuantileNetwork(seed, steps=20)) for seed in (0, 0, 1)]
    assert scores[0] == scores[1] != scores[2]
    constant = np.ones((50, 32))  # nothing varies: no division by zero
    assert np.isfinite(
        QuantileNetwork(steps=5)(constant[:, :CONTEXT], constant[:, CONTEXT:])(constant[:, :CONTEXT])
    ).all()


def test_synthetic_windows_teach_almost_as_well_as_real_ones(tiny):
    synthetic = generate(tiny, 200, steps=25)
    ours = predictive_score(synthetic, real(), "standard", ridge)
    assert ours < 0.6  # the mean of the window scores 1
    assert predictive_score(waves(200), real(), "standard", ridge) < ours
