"""The forecaster with sktime's manners: its layouts, its index types, and its refusals."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest

from degauss.core.errors import InputError
from degauss.timeseries.estimator import TSDiffForecaster
from degauss.timeseries.forecasting import forecast
from degauss.timeseries.regular import Regular
from degauss.timeseries.tsdiff import Sampling

QUICK: dict[str, Any] = {"samples": 12, "steps": 4}
DAYS = pd.date_range("2024-01-01", periods=40, freq="D")


def sine(index: pd.Index = DAYS, name: str | None = None) -> pd.Series:
    return pd.Series(np.sin(2 * np.pi * np.arange(len(index)) / 8), index=index, name=name)


@pytest.fixture
def fitted(checkpoint):
    return TSDiffForecaster(checkpoint, **QUICK).fit(sine())


def test_it_is_the_forecast_in_pandas(fitted, tiny):
    record = Regular("", pd.Timestamp("2024-01-01"), pd.offsets.Day(), sine().to_numpy())
    (drawn,) = forecast(tiny, [record], 8, Sampling(**QUICK))
    future = pd.date_range("2024-02-10", periods=8, freq="D")
    pd.testing.assert_series_equal(fitted.predict(), pd.Series(drawn.mean(0), future))
    pd.testing.assert_frame_equal(fitted.sample(), pd.DataFrame(drawn.T, future))
    frame = fitted.predict_quantiles(alpha=[0.1, 0.5])
    np.testing.assert_allclose(frame.to_numpy().T, np.quantile(drawn, [0.1, 0.5], axis=0))


# --- layouts ---


def test_columns_of_quantiles_and_intervals(fitted):
    assert list(fitted.predict_quantiles(fh=2, alpha=[0.9, 0.1]).columns) == [(0, 0.9), (0, 0.1)]
    assert list(fitted.predict_quantiles(fh=2).columns) == [(0, 0.05), (0, 0.95)]
    assert list(fitted.predict_quantiles(fh=2, alpha=0.3).columns) == [(0, 0.3)]
    assert list(fitted.predict_interval(fh=2).columns) == [(0, 0.9, "lower"), (0, 0.9, "upper")]
    frame = fitted.predict_interval(fh=2, coverage=[0.5, 0.8])
    assert list(frame.columns) == [(0, c, end) for c in (0.5, 0.8) for end in ("lower", "upper")]
    quantiles = fitted.predict_quantiles(fh=2, alpha=[0.25, 0.75, 0.1, 0.9])
    np.testing.assert_allclose(frame.to_numpy(), quantiles.to_numpy())


def test_several_series(checkpoint):
    y = pd.DataFrame({"a": sine(), "b": 5 - 2 * sine()})
    fitted = TSDiffForecaster(checkpoint, **QUICK).fit(y)
    assert list(fitted.predict(2).columns) == ["a", "b"]
    assert list(fitted.predict_quantiles(2, alpha=[0.1, 0.9]).columns) == [(n, q) for n in "ab" for q in (0.1, 0.9)]
    assert list(fitted.sample(2, n=3).columns) == [(name, k) for name in "ab" for k in range(3)]
    alone = TSDiffForecaster(checkpoint, **QUICK).fit(y["b"])
    pd.testing.assert_series_equal(alone.predict(), fitted.predict()["b"], rtol=0, atol=1e-3)
    assert alone.predict_quantiles(1).columns[0] == ("b", 0.05)


def test_layouts_are_those_of_sktime(checkpoint):
    naive = pytest.importorskip("sktime.forecasting.naive", reason="sktime is not installed")
    indexes = [DAYS, pd.period_range("2020-01", periods=40, freq="M"), pd.RangeIndex(40)]
    for y in [sine(index, name) for index in indexes for name in (None, "a")] + [
        pd.DataFrame({"a": sine(), "b": sine()})
    ]:
        ours = TSDiffForecaster(checkpoint, **QUICK).fit(y, fh=[2, 3])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # sktime announces its own next release
            theirs = naive.NaiveForecaster().fit(y, fh=[2, 3])
            pairs: list[tuple[Any, Any]] = [
                (ours.predict(), theirs.predict()),
                (ours.predict_quantiles(alpha=[0.1, 0.9]), theirs.predict_quantiles(alpha=[0.1, 0.9])),
                (ours.predict_interval(coverage=[0.5, 0.8]), theirs.predict_interval(coverage=[0.5, 0.8])),
            ]
        for mine, other in pairs:
            if isinstance(other, pd.Series):
                pd.testing.assert_series_equal(mine * 0, other * 0)
            else:
                pd.testing.assert_frame_equal(mine * 0, other * 0)


@pytest.mark.parametrize(
    "index",
    [
        DAYS,
        pd.date_range("2024-03-29 22:00", periods=40, freq="h", tz="Europe/Berlin"),
        pd.date_range("2024-01-01", periods=40, freq="MS"),
        pd.date_range("2024-01-05", periods=40, freq="W-FRI"),
        pd.bdate_range("2024-01-01", periods=40),
        pd.period_range("2020-01", periods=40, freq="M"),
        pd.period_range("2020-01-01", periods=40, freq="2D"),
        pd.RangeIndex(40),
        pd.Index(range(100, 300, 5)),
    ],
)
def test_the_future_continues_the_index(checkpoint, index):
    fitted = TSDiffForecaster(checkpoint, **QUICK).fit(sine(index[:36]))
    pd.testing.assert_index_equal(fitted.predict(4).index, pd.Index(index[36:]), exact="equiv")


def test_missing_values_and_missing_rows_are_the_same(checkpoint):
    y = sine()
    holes = y.copy()
    holes.iloc[[20, 30]] = np.nan
    rows = holes.dropna().sample(frac=1.0, random_state=0)  # in any order, too
    results = [TSDiffForecaster(checkpoint, **QUICK).fit(data).predict() for data in (holes, rows)]
    np.testing.assert_array_equal(*results)
    assert (results[0].index == results[1].index).all()


# --- the horizon ---


def test_ways_to_say_which_steps(fitted):
    whole = fitted.predict()
    assert len(whole) == 8
    np.testing.assert_array_equal(fitted.predict(3), whole[:3])
    np.testing.assert_array_equal(fitted.predict([2, 5]), whole.iloc[[1, 4]])
    np.testing.assert_array_equal(fitted.predict(np.array([5])), whole.iloc[[4]])
    np.testing.assert_array_equal(fitted.predict(whole.index[[3, 6]]), whole.iloc[[3, 6]])
    assert list(fitted.predict([5, 2]).index) == list(whole.index[[4, 1]])


def test_the_horizon_of_fit_is_the_default(checkpoint):
    fitted = TSDiffForecaster(checkpoint, **QUICK).fit(sine(), fh=[1, 4])
    assert len(fitted.predict()) == 2
    assert len(fitted.predict(3)) == 3


@pytest.mark.parametrize(
    "fh", [0, 9, -1, [1, 9], [0], [], [1.5], "3", [[1, 2]], DAYS[:1], pd.DatetimeIndex(["2024-02-12 12:00"])]
)
def test_steps_that_are_none(fitted, fh):
    with pytest.raises(InputError, match=r"^fh "):
        fitted.predict(fh)


# --- what it refuses ---


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (sine().to_numpy(), "ndarray"),
        (pd.DataFrame(index=DAYS), "with columns"),
        (sine().astype(str), "must hold numbers"),
        (sine() * np.nan, "all 40 are missing"),
        (sine().replace(1.0, np.inf), "infinite"),
        (sine(DAYS[[0] * 2 + list(range(1, 39))]), "2024-01-01 00:00:00 twice"),
        (sine(pd.Index([f"day {k}" for k in range(40)])), "dates, periods or whole numbers"),
        (sine(pd.DatetimeIndex([*DAYS[:39], pd.NaT])), "NaT"),
        (pd.DataFrame({"a": sine(), "b": sine()}).set_axis(["a", "a"], axis=1), "different names"),
    ],
)
def test_what_is_no_series(checkpoint, y, message):
    with pytest.raises(InputError, match=message):
        TSDiffForecaster(checkpoint).fit(y)


def test_exogenous_variables(fitted, checkpoint):
    with pytest.raises(InputError, match="exogenous"):
        TSDiffForecaster(checkpoint).fit(sine(), pd.DataFrame({"x": sine()}))
    for method in (fitted.predict, fitted.predict_quantiles, fitted.predict_interval):
        with pytest.raises(InputError, match="exogenous"):
            method(1, pd.DataFrame({"x": sine()}))


@pytest.mark.parametrize("level", [0.0, 1.0, -0.1, [0.5, 1.5], [], np.nan])
def test_levels_out_of_range(fitted, level):
    with pytest.raises(InputError, match="alpha must lie strictly between 0 and 1"):
        fitted.predict_quantiles(1, alpha=level)
    with pytest.raises(InputError, match="coverage must lie"):
        fitted.predict_interval(1, coverage=level)


def test_too_short_and_not_fitted(checkpoint):
    with pytest.raises(RuntimeError, match="not fitted"):
        TSDiffForecaster(checkpoint).predict(1)
    with pytest.raises(InputError, match="too short"):
        TSDiffForecaster(checkpoint).fit(sine(DAYS[:10])).predict(1)
    with pytest.raises(InputError, match="no model"):
        TSDiffForecaster(checkpoint / "nowhere").fit(sine())


# --- parameters, training ---


def test_parameters_are_those_of_scikit_learn(checkpoint):
    one = TSDiffForecaster(checkpoint, samples=7)
    other = TSDiffForecaster(**one.get_params())
    assert other.get_params() == one.get_params()
    assert other.set_params(samples=9, seed=3) is other
    assert (other.samples, other.seed, one.samples) == (9, 3, 7)
    assert not other.is_fitted
    with pytest.raises(InputError, match=r"no parameter 'sampels' \(did you mean 'samples'\?\)"):
        other.set_params(sampels=1)


def test_other_settings_are_other_draws(fitted):
    before = fitted.sample()
    pd.testing.assert_frame_equal(fitted.sample(), before)
    assert fitted.sample(n=5).shape == (8, 5)
    assert not np.allclose(fitted.set_params(seed=1).sample(), before)


def test_without_a_checkpoint_it_trains(tmp_path):
    options: dict[str, Any] = {"horizon": 4, "context": 12, "hidden": 4, "blocks": 1, "state": 4}
    options |= {"train_steps": 3, "batch": 4, "device": "cpu", **QUICK}
    y = sine()
    one, other = (TSDiffForecaster(**options).fit(y) for _ in range(2))
    assert len(one.predict()) == 4
    np.testing.assert_array_equal(one.sample(), other.sample())
    TSDiffForecaster(**options, out=tmp_path / "run").fit(y)
    assert (tmp_path / "run" / "metrics.jsonl").exists()
    with pytest.raises(InputError, match="fh must be between 1 and 4"):
        TSDiffForecaster(**options).fit(y, fh=5)
    options["context"] = 168
    with pytest.raises(InputError, match="longest series has 40 values"):
        TSDiffForecaster(**options).fit(y)
