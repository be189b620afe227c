"""Forecasts of records, the backtest that judges them, and the time they may take."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from degauss.core.errors import InputError
from degauss.timeseries import metrics, naive
from degauss.timeseries.forecasting import (
    LAST_VALUE,
    MODEL,
    SEASONAL_NAIVE,
    Backtest,
    Scored,
    backtest,
    cutoffs,
    forecast,
    within,
)
from degauss.timeseries.regular import Regular
from degauss.timeseries.tsdiff import Sampling

QUICK = Sampling(samples=8, steps=4)
NAN = np.nan


def sine(count: int = 60, name: str = "wave", phase: float = 0.0) -> Regular:
    values = np.sin(2 * np.pi * np.arange(count) / 8 + phase)
    return Regular(name, pd.Timestamp("2024-01-01"), pd.offsets.Day(), values)


def test_samples_of_each_record(tiny):
    drawn = forecast(tiny, [sine(), sine(30, "b")], 5, QUICK)
    assert [samples.shape for samples in drawn] == [(8, 5), (8, 5)]
    whole = forecast(tiny, [sine(), sine(30, "b")], 8, QUICK)
    for part, samples in zip(drawn, whole, strict=True):
        np.testing.assert_array_equal(part, samples[:, :5])


def test_the_randomness_of_a_record_is_keyed_by_its_name_and_length(tiny):
    first, other, longer = forecast(tiny, [sine(), sine(name="other"), sine(68)], 8, QUICK)
    assert np.abs(first - other).max() > 0.01
    assert np.abs(first - longer).max() > 0.01  # the same values in its context, but later
    (again,) = forecast(tiny, [sine()], 8, QUICK)
    np.testing.assert_allclose(first, again, rtol=0, atol=1e-3)


def test_only_the_context_counts(tiny):
    record = sine()
    values = record.values.copy()
    values[:36] = 1e9
    one, other = (forecast(tiny, [r], 8, QUICK)[0] for r in (record, replace(record, values=values)))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("horizon", [0, -1, 9])
def test_a_horizon_out_of_range(tiny, horizon):
    with pytest.raises(InputError, match=rf"horizon must be between 1 and 8, but is {horizon}\."):
        forecast(tiny, [sine()], horizon, QUICK)


def test_a_record_with_too_little_to_go_on(tiny):
    assert forecast(tiny, [sine(16)], 8, QUICK)[0].shape == (8, 8)
    with pytest.raises(InputError, match=r"'wave' is too short .* 15 observed values among its last 15, .* 16\."):
        forecast(tiny, [sine(), sine(15)], 8, QUICK)
    values = sine().values.copy()
    values[40:55] = NAN
    with pytest.raises(InputError, match="9 observed values among its last 24"):
        forecast(tiny, [replace(sine(), values=values)], 8, QUICK)


# --- the backtest ---


def test_where_it_cuts(tiny):
    record = sine(60)
    assert [cut for _, cut in cutoffs(tiny, [record], 8, 3)] == [36, 44, 52]
    assert [cut for _, cut in cutoffs(tiny, [record], 5, 3, step=2)] == [51, 53, 55]
    assert [cut for _, cut in cutoffs(tiny, [record, sine(30, "b")], 8, 9)] == [20, 28, 36, 44, 52, 22]
    assert cutoffs(tiny, [sine(23)], 8, 2) == []
    gone = sine(60)
    gone.values[52:] = NAN  # nothing to score in the last window
    assert [cut for _, cut in cutoffs(tiny, [gone], 8, 2)] == [44]


@pytest.mark.parametrize(
    ("options", "message"), [({"windows": 0}, "windows"), ({"step": 0}, "step"), ({"step": -3}, "step")]
)
def test_a_backtest_that_cannot_be(tiny, options, message):
    with pytest.raises(InputError, match=f"{message} must be at least 1"):
        backtest(tiny, [sine()], 8, QUICK, **options)
    with pytest.raises(InputError, match="expected at least 16 observed values and then 8 more"):
        backtest(tiny, [sine(23)], 8, QUICK)


def test_the_model_never_sees_what_it_is_scored_on(tiny):
    record = sine(60)
    garbage = record.values.copy()
    garbage[52:] = 1e6
    seen, spoilt = (backtest(tiny, [r], 8, QUICK, windows=1) for r in (record, replace(record, values=garbage)))
    for method in (MODEL, LAST_VALUE, SEASONAL_NAIVE):
        np.testing.assert_array_equal(seen.windows[0].samples[method], spoilt.windows[0].samples[method])
    np.testing.assert_array_equal(spoilt.windows[0].target, garbage[52:])


def test_every_window_is_the_forecast_one_would_have_made(tiny):
    record = sine(60)
    result = backtest(tiny, [record], 8, QUICK, windows=3)
    for window, cutoff in zip(result.windows, (36, 44, 52), strict=True):
        assert (window.series, window.cutoff) == ("wave", cutoff)
        history = record.values[:cutoff]
        (then,) = forecast(tiny, [replace(record, values=history)], 8, QUICK)
        np.testing.assert_allclose(window.samples[MODEL], then, rtol=0, atol=1e-3)
        np.testing.assert_array_equal(window.samples[LAST_VALUE], naive.last_value_ensemble(history, 8, 8))
        np.testing.assert_array_equal(window.samples[SEASONAL_NAIVE], naive.seasonal_naive_ensemble(history, 8, 7, 8))
        assert window.scores[MODEL] == metrics.evaluate(window.target, window.samples[MODEL], history, 7)


def test_the_loss_pools_all_windows(tiny):
    result = backtest(tiny, [sine(), sine(70, "b", 1.0)], 8, QUICK, windows=2)
    for method in (MODEL, LAST_VALUE):
        levels = np.arange(1, 10) / 10
        above = below = 0.0
        for window in result.windows:
            quantiles = np.sort(window.samples[method], 0)[np.round(7 * levels).astype(int)]
            error = window.target - quantiles
            above += 2 * np.maximum(levels[:, None] * error, (levels[:, None] - 1) * error).sum() / 9
            below += np.abs(window.target).sum()
        assert result.loss(method) == pytest.approx(above / below)
    assert result.skill(LAST_VALUE) == pytest.approx(1 - result.loss(MODEL) / result.loss(LAST_VALUE))


def scored(model: float, last: float, seasonal: float, target: float = 10.0) -> Backtest:
    """A backtest whose forecasts are off by what is given."""
    off = {MODEL: model, LAST_VALUE: last, SEASONAL_NAIVE: seasonal}
    aim = np.full(4, target)
    samples = {method: np.full((5, 4), target + error) for method, error in off.items()}
    window = Scored("a", 9, aim, samples, {method: {"crps": error, "mase": NAN} for method, error in off.items()})
    return Backtest((window, window))


def test_the_verdict_names_the_winner():
    assert scored(1, 2, 4).verdict() == (
        "TSDiff is better than both naive forecasts here, by 50 % (weighted quantile loss 0.1 against 0.2 of the "
        "last value forecast, 2 backtest windows)."
    )
    assert scored(2, 4, 1).verdict().startswith("The seasonal naive forecast is better than TSDiff here (")
    assert scored(2, 1, 4).verdict().startswith("The last value forecast is better than TSDiff here (")
    assert "degauss-timeseries train" in scored(1, 1, 1).verdict()


def test_scores_that_do_not_exist():
    nothing = scored(1, 2, 4, target=0.0)
    assert math.isnan(nothing.loss(MODEL))
    assert nothing.verdict().startswith("Neither TSDiff nor the naive forecasts can be scored here")
    assert math.isnan(nothing.mean(MODEL, "mase"))
    assert nothing.mean(MODEL, "crps") == 1
    assert math.isnan(scored(1, 0, 4).skill(LAST_VALUE))


def test_a_learnt_season_beats_the_last_value(tiny):
    result = backtest(tiny, [sine(100)], 8, Sampling(40, 20), windows=4)
    assert result.skill(LAST_VALUE) > 0.3


# --- a budget ---


@pytest.mark.parametrize(
    ("seconds", "samples", "steps"),
    [(1e6, 100, 20), (0.1, 20, 5)],
)
def test_a_budget_takes_away_but_not_too_much(tiny, monkeypatch, seconds, samples, steps):
    # The clock is made to say that one batch of one step takes a second.
    ticks = iter(np.arange(0.0, 100.0))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(ticks)))
    found = within(tiny, 3, Sampling(seed=7), seconds)
    assert (found.samples, found.steps, found.seed, found.rows) == (samples, steps, 7, 100)


def test_a_budget_takes_steps_first_and_then_samples(tiny, monkeypatch):
    def fitted(seconds: float) -> Sampling:
        ticks = iter(np.arange(0.0, 100.0))
        monkeypatch.setattr(time, "perf_counter", lambda: float(next(ticks)))
        return within(tiny, 4, Sampling(100, 20), seconds)  # 4 batches of 20 steps: 80 s in all

    assert (fitted(40.1).steps, fitted(40.1).samples) == (9, 100)
    assert (fitted(12.0).steps, fitted(12.0).samples) == (5, 54)


def test_a_budget_never_adds(tiny):
    found = within(tiny, 1, Sampling(samples=3, steps=2), 1000.0)
    assert (found.samples, found.steps) == (3, 2)


@pytest.mark.parametrize("seconds", [0.0, -1.0, NAN])
def test_no_budget(tiny, seconds):
    with pytest.raises(InputError, match="seconds must be at least"):
        within(tiny, 1, Sampling(), seconds)
