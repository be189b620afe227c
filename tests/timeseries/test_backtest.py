"""Windows, what is scored in them, and that nothing after a cutoff is seen; other people's scores of the same table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from degauss.core.errors import InputError
from degauss.timeseries import metrics, naive
from degauss.timeseries.backtest import (
    LAST_VALUE,
    SEASONAL_NAIVE,
    Backtest,
    Cut,
    Scored,
    backtest,
    before,
    cuts,
    seen_among,
)
from degauss.timeseries.forecasting import forecast
from degauss.timeseries.nixtla import LEVELS, backtest_frame
from degauss.timeseries.regular import Regular
from degauss.timeseries.tsdiff import Sampling

NAN = np.nan
ENOUGH = seen_among(16, 24)


def record(values: np.ndarray, name: str = "wave") -> Regular:
    return Regular(name, pd.Timestamp("2024-01-01"), pd.offsets.Day(), values)


def sine(count: int = 60, name: str = "wave", phase: float = 0.0) -> Regular:
    return record(np.sin(2 * np.pi * np.arange(count) / 8 + phase), name)


def walks(seed: int = 0, missing: float = 0.15) -> list[Regular]:
    """Random walks of different lengths and levels, with holes."""
    rng = np.random.default_rng(seed)
    found: list[Regular] = []
    for k, count in enumerate((60, 73, 90)):
        values = 20 * (k + 1) + np.cumsum(rng.normal(size=count))
        found.append(record(np.where(rng.random(count) < missing, NAN, values), f"walk {k}"))
    return found


def spread(histories: Sequence[Regular], draws: int = 41, horizon: int = 8) -> list[np.ndarray]:
    """A stand-in for a model: the last value and a widening normal, seeded by the length of the history."""
    drawn: list[np.ndarray] = []
    for one in histories:
        noise = np.random.default_rng(len(one.values)).normal(size=(draws, horizon))
        drawn.append(naive.last_value(one.values, horizon) + noise * np.sqrt(np.arange(1, horizon + 1)))
    return drawn


# --- where it cuts ---


def test_windows_step_back_from_the_end():
    assert [cut.index for cut in cuts([sine()], 8, windows=3)] == [36, 44, 52]
    assert [cut.index for cut in cuts([sine()], 5, windows=3, step=2)] == [51, 53, 55]
    found = cuts([sine(), sine(30, "b")], 8, windows=9, enough=ENOUGH)
    assert [(cut.record.name, cut.index) for cut in found] == [
        *(("wave", index) for index in (20, 28, 36, 44, 52)), ("b", 22),
    ]  # fmt: skip
    assert cuts([sine(23)], 8, windows=2, enough=ENOUGH) == []


@settings(max_examples=40, deadline=None)
@given(count=st.integers(1, 60), horizon=st.integers(1, 12), windows=st.integers(1, 6), gap=st.integers(0, 4))
def test_no_value_is_scored_twice_and_the_last_is_scored(count, horizon, windows, gap):
    found = cuts([sine(count)], horizon, windows=windows, step=horizon + gap)
    places = [place for cut in found for place in range(cut.index, cut.index + horizon)]
    assert len(places) == len(set(places))
    assert (count - 1 in places) == (count > horizon)
    for cut in found:
        np.testing.assert_array_equal(cut.history.values, cut.record.values[: cut.index])
        assert len(cut.target) == horizon
        assert cut.span[0] == cut.history.times[-1]
        np.testing.assert_array_equal(cut.span[1:], cut.record.times[cut.index : cut.index + horizon])


def test_a_window_with_nothing_to_see_or_to_score_is_left_out():
    gone = sine()
    gone.values[52:] = NAN
    assert [cut.index for cut in cuts([gone], 8, windows=2)] == [44]
    late = sine()
    late.values[:50] = NAN
    assert [cut.index for cut in cuts([late], 8, windows=3)] == [52]
    assert cuts([sine(8)], 8, windows=1) == []


def test_what_is_validated_on_lies_before_what_is_scored():
    records = [sine(), sine(90, "b")]
    found = cuts(records, 8, windows=3, step=4)
    earlier = before(found, windows=1)
    assert [(cut.record.name, cut.index) for cut in earlier] == [("wave", 36), ("b", 66)]
    for cut in earlier:
        first = min(other.index for other in found if other.record is cut.record)
        assert cut.index + cut.horizon == first
    assert [cut.index for cut in before(found)] == [12, 20, 28, 36, 42, 50, 58, 66]
    assert [cut.index for cut in before(found, seen_among(40, 99), 3)] == [50, 58, 66]
    assert before(cuts([sine(20)], 8, windows=1), ENOUGH) == []


@pytest.mark.parametrize("name", ["windows", "step", "horizon"])
def test_cuts_that_cannot_be(name):
    options: dict[str, Any] = {"horizon": 8, "windows": 2, "step": 1, name: 0}
    with pytest.raises(InputError, match=f"{name} must be at least 1, but is 0"):
        cuts([sine()], **options)
    with pytest.raises(InputError, match="long enough"):
        backtest("m", spread, [])
    with pytest.raises(InputError, match="season must be"):
        backtest("m", spread, cuts([sine()], 8), season=0)


# --- nothing leaks ---


@pytest.mark.parametrize("later", [1e6, NAN])
def test_later_values_change_no_forecast(tiny, later):
    model = partial(forecast, tiny, horizon=8, sampling=Sampling(samples=8, steps=4))
    one = sine(70)
    spoilt = replace(one, values=np.where(np.arange(70) < 54, one.values, later))
    for cutoff in (38, 46, 54):
        windows = [backtest("TSDiff", model, [Cut(r, cutoff, 8)], season=4).windows[0] for r in (one, spoilt)]
        for method in ("TSDiff", LAST_VALUE, SEASONAL_NAIVE):
            np.testing.assert_array_equal(windows[0].samples[method], windows[1].samples[method])


def test_a_forecaster_is_given_histories_and_nothing_else():
    seen: list[int] = []

    def looking(histories: Sequence[Regular]) -> list[np.ndarray]:
        seen.extend(len(one.values) for one in histories)
        return spread(histories)

    found = cuts([sine()], 8, windows=3)
    backtest("m", looking, found)
    assert seen == [cut.index for cut in found]


def test_every_window_is_the_forecast_one_would_have_made(tiny):
    model = partial(forecast, tiny, horizon=8, sampling=Sampling(samples=8, steps=4))
    result = backtest("TSDiff", model, cuts([sine()], 8, windows=3))
    for window in result.windows:
        known = window.cut.record.values[: window.cut.index]
        (then,) = model([record(known)])
        np.testing.assert_allclose(window.samples["TSDiff"], then, rtol=0, atol=1e-3)
        np.testing.assert_array_equal(window.samples[LAST_VALUE], naive.last_value_ensemble(known, 8, 8))
        np.testing.assert_array_equal(window.samples[SEASONAL_NAIVE], naive.seasonal_naive_ensemble(known, 8, 7, 8))
        assert window.scores["TSDiff"] == metrics.evaluate(window.cut.target, window.samples["TSDiff"], known, 7)


# --- what others say of it ---


@pytest.fixture(scope="module")
def scored() -> Backtest:
    return backtest("Model", spread, cuts(walks(), 8, windows=3), season=4)


def test_what_was_not_observed_is_counted_and_scored_nowhere(scored):
    targets = np.concatenate([window.cut.target for window in scored.windows])
    assert (scored.targets, scored.unobserved) == ((~np.isnan(targets)).sum(), np.isnan(targets).sum())
    assert scored.unobserved > 5
    assert len(scored.pit("Model")) == scored.targets
    spoilt = [
        replace(
            window,
            samples={name: np.where(np.isnan(window.cut.target), 1e9, drawn) for name, drawn in window.samples.items()},
        )
        for window in scored.windows
    ]
    assert replace(scored, windows=tuple(spoilt)).scores == scored.scores
    frame = backtest_frame(scored)
    assert len(frame) == scored.targets
    assert not frame.isna().any(axis=None)


def test_scores_of_utilsforecast_from_the_table(scored):
    losses = pytest.importorskip("utilsforecast.losses", reason="utilsforecast is not installed")
    frame = backtest_frame(scored, LEVELS)
    # One id a window, so that a mean over windows can be taken whatever their number of observations.
    frame["unique_id"] = frame["unique_id"] + frame["cutoff"].astype(str)
    alone = frame.drop(columns="cutoff")
    weight = alone.groupby("unique_id")["y"].count()
    for ours, theirs in (("Model", "Model"), (LAST_VALUE, "Naive"), (SEASONAL_NAIVE, "SeasonalNaive")):
        scores = scored.scores[ours]
        for level in (50, 80, 90):
            covered = losses.coverage(alone, [theirs], level).set_index("unique_id")[theirs]
            assert np.average(covered, weights=weight[covered.index]) == pytest.approx(scores[f"coverage_{level}"])
            interval = losses.winkler_score(alone, [theirs], level).set_index("unique_id")[theirs]
            assert np.average(interval, weights=weight[interval.index]) == pytest.approx(scores[f"winkler_{level}"])
        whole = alone.assign(unique_id="all", **{theirs: alone[f"{theirs}-median"]})
        assert losses.nd(whole, [theirs])[theirs].item() == pytest.approx(scores["nd"])
        for window in scored.windows:
            mine = frame[
                (frame["cutoff"] == window.cut.span[0]) & frame["unique_id"].str.startswith(window.cut.record.name)
            ]
            known = pd.DataFrame({"unique_id": "a", "ds": window.cut.history.times, "y": window.cut.history.values})
            one = mine.drop(columns="cutoff").assign(unique_id="a", **{theirs: mine[f"{theirs}-median"]})
            # Theirs takes lags of rows, so a missing value stays as a row without one.
            found = losses.mase(one, [theirs], seasonality=4, train_df=known)[theirs].item()
            assert found == pytest.approx(window.scores[ours]["mase"])
        scaled = [window.scores[ours]["mase"] for window in scored.windows]
        assert scores["mase"] == pytest.approx(np.mean(scaled))


def test_the_quantile_loss_of_utilsforecast_from_the_table(scored):
    losses = pytest.importorskip("utilsforecast.losses", reason="utilsforecast is not installed")
    frame = backtest_frame(scored, LEVELS).drop(columns="cutoff").assign(unique_id="all")
    columns = [f"Model-lo-{level}" for level in (80, 60, 40, 20)] + ["Model-median"]
    columns += [f"Model-hi-{level}" for level in (20, 40, 60, 80)]
    found = losses.scaled_crps(frame, {"Model": columns}, np.array(metrics.DECILES))["Model"].item()
    # The table has interpolated quantiles, GluonTS order statistics; those of 41 draws are the same.
    assert found == pytest.approx(scored.loss("Model"), rel=1e-9)


def test_evaluate_of_utilsforecast_takes_the_table(scored):
    evaluation = pytest.importorskip("utilsforecast.evaluation", reason="utilsforecast is not installed")
    from utilsforecast.losses import coverage, mae

    frame = backtest_frame(scored)
    names = ["Model", "Naive", "SeasonalNaive"]
    told = evaluation.evaluate(frame, [mae, coverage], models=names, level=[80])
    assert set(told["metric"]) == {"mae", "coverage_level80"}
    assert len(told) == 2 * len(scored.windows)
    assert not told.isna().any(axis=None)


# --- calibration ---


def test_pit_is_uniform_for_the_truth_and_not_for_the_overconfident():
    def normal(width: float) -> Backtest:
        rng = np.random.default_rng(1)
        windows = [
            Scored(Cut(record(rng.normal(size=40)), 32, 8), {"m": width * rng.normal(size=(99, 8))}, 1)
            for _ in range(60)
        ]
        return Backtest("m", tuple(windows))

    honest, sure = normal(1.0).pit("m"), normal(0.5).pit("m")
    assert stats.kstest(honest, "uniform").pvalue > 0.05
    assert stats.kstest(sure, "uniform").pvalue < 1e-6
    assert metrics.pit_distance(sure) > 2 * metrics.pit_distance(honest)


# --- who is better ---


def off_by(model: float, last: float, seasonal: float, target: float = 10.0) -> Backtest:
    """A backtest whose forecasts are off by what is given."""
    off = {"TSDiff": model, LAST_VALUE: last, SEASONAL_NAIVE: seasonal}
    one = record(np.full(9, target))
    window = Scored(Cut(one, 5, 4), {method: np.full((5, 4), target + error) for method, error in off.items()}, 1)
    return Backtest("TSDiff", (window, window))


def test_the_verdict_names_the_winner():
    assert off_by(1, 2, 4).verdict() == (
        "TSDiff is better than both naive forecasts here, by 50 % (weighted quantile loss 0.1 against 0.2 of the "
        "last value forecast, 2 backtest windows)."
    )
    assert off_by(1, 2, 4).skill(SEASONAL_NAIVE) == pytest.approx(0.75)
    assert off_by(2, 4, 1).verdict().startswith("The seasonal naive forecast is better than TSDiff here (")
    assert off_by(2, 1, 4).verdict().startswith("The last value forecast is better than TSDiff here (")
    assert "degauss-timeseries train" in off_by(1, 1, 1).verdict()


def test_scores_that_do_not_exist():
    nothing = off_by(1, 2, 4, target=0.0)
    assert math.isnan(nothing.loss("TSDiff"))
    assert nothing.verdict().startswith("Neither TSDiff nor the naive forecasts can be scored here")
    assert math.isnan(nothing.scores["TSDiff"]["mase"])
    assert nothing.scores["TSDiff"]["crps"] == 1
    assert math.isnan(off_by(1, 0, 4).skill(LAST_VALUE))


def test_a_learnt_season_beats_the_last_value(tiny):
    model = partial(forecast, tiny, horizon=8, sampling=Sampling(40, 20))
    result = backtest("TSDiff", model, cuts([sine(100)], 8, windows=4))
    assert result.skill(LAST_VALUE) > 0.3
