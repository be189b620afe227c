from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from degauss.timeseries.metrics import coverage, crps, interval
from degauss.timeseries.naive import (
    drift,
    last_value,
    last_value_ensemble,
    seasonal_naive,
    seasonal_naive_ensemble,
)

NAN = np.nan


def test_points_by_hand():
    history = np.array([1.0, 2, 3, 4, 5, 6, 7])
    np.testing.assert_array_equal(last_value(history, 2), [7, 7])
    np.testing.assert_array_equal(seasonal_naive(history, 5, 3), [5, 6, 7, 5, 6])
    np.testing.assert_array_equal(seasonal_naive(history, 2, 1), [7, 7])
    np.testing.assert_allclose(drift(history, 3), [8, 9, 10])


def test_points_pass_over_what_is_missing():
    history = np.array([1.0, 2, NAN, 4, NAN, NAN, 7, 8, NAN, NAN])
    np.testing.assert_array_equal(last_value(history, 2), [8, 8])
    # Season 3: phases of the next steps are those of indices 7, 8, 9; index 8's phase was never seen.
    np.testing.assert_array_equal(seasonal_naive(history, 4, 3), [8, 8, 7, 8])
    np.testing.assert_allclose(drift(history, 2), [8 + 3, 8 + 4])


def test_a_history_shorter_than_the_season():
    np.testing.assert_array_equal(seasonal_naive(np.array([3.0, 4]), 5, 4), [4, 4, 3, 4, 4])


@settings(max_examples=100, deadline=None)
@given(season=st.integers(1, 9), length=st.integers(1, 40), horizon=st.integers(1, 20), seed=st.integers(0, 99))
def test_seasonal_naive_is_the_search_backwards(season, length, horizon, seed):
    rng = np.random.default_rng(seed)
    history = np.where(rng.random(length) < 0.5, NAN, rng.normal(size=length))
    history[rng.integers(length)] = 1.0
    forecast = seasonal_naive(history, horizon, season)
    last = [v for v in history if v == v][-1]
    for h in range(horizon):
        at = [t for t in range(length) if (length + h - t) % season == 0 and history[t] == history[t]]
        assert forecast[h] == (history[at[-1]] if at else last)


def test_the_ensemble_of_a_random_walk_is_its_law():
    rng = np.random.default_rng(0)
    walk = np.cumsum(rng.normal(size=200_000))
    ensemble = last_value_ensemble(walk, 16, draws=400) - walk[-1]
    spread = ensemble.std(axis=0)
    np.testing.assert_allclose(spread, np.sqrt(np.arange(1, 17)), rtol=0.03)
    assert (np.diff(ensemble, axis=0) >= 0).all()


def test_ensembles_cover_new_data():
    rng = np.random.default_rng(1)
    season = np.sin(np.arange(12) / 12 * 2 * np.pi) * 5
    y = np.tile(season, 400) + rng.normal(size=4800)
    targets, lowers, uppers = [], [], []
    for origin in range(2400, 4776, 24):
        ensemble = seasonal_naive_ensemble(y[:origin], 24, 12, draws=200)
        lower, upper = interval(ensemble, 0.8)
        targets.append(y[origin : origin + 24])
        lowers.append(lower)
        uppers.append(upper)
    assert coverage(np.stack(targets), np.stack(lowers), np.stack(uppers)) == pytest.approx(0.8, abs=0.03)


def test_the_ensemble_beats_the_bare_point():
    rng = np.random.default_rng(2)
    walk = np.cumsum(rng.normal(size=3000))
    history, target = walk[:2900], walk[2900:2930]
    ensemble = last_value_ensemble(history, 30)
    assert crps(target, ensemble).mean() < np.abs(target - last_value(history, 30)).mean()


def test_missing_values_and_short_histories_have_ensembles_too():
    history = np.array([1.0, NAN, 4, NAN, 5, NAN])
    ensemble = last_value_ensemble(history, 2, draws=2)
    # Lag 2 was observed twice, as 3 and 1: quantiles at 1/4 and 3/4. It stands in for lag 1, never observed.
    np.testing.assert_allclose(ensemble, [[6.5, 6.5], [7.5, 7.5]])
    np.testing.assert_array_equal(last_value_ensemble(np.array([3.0]), 2, draws=3), np.full((3, 2), 3.0))
    far = last_value_ensemble(np.array([1.0, 2, 4]), 10, draws=1)
    np.testing.assert_allclose(far, 4 + np.array([[1.5, *[3.0] * 9]]))  # the longest lag seen is 2
    assert last_value_ensemble(history, 0).shape == (100, 0)


def test_nothing_observed_is_refused():
    for forecast in (last_value, drift, last_value_ensemble):
        with pytest.raises(ValueError, match="at least one observed value"):
            forecast(np.full(3, NAN), 2)
    with pytest.raises(ValueError, match="season"):
        seasonal_naive(np.arange(3.0), 2, 0)
