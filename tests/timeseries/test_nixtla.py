"""Long frames in and out, in the layout of Nixtla's libraries, and their own evaluation of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from degauss.core.errors import InputError
from degauss.timeseries import estimator, training
from degauss.timeseries.estimator import TSDiffForecaster
from degauss.timeseries.forecasting import forecast
from degauss.timeseries.nixtla import NixtlaForecaster, columns_of
from degauss.timeseries.regular import Regular
from degauss.timeseries.tsdiff import Sampling

QUICK: dict[str, Any] = {"samples": 12, "steps": 4}


def long(*names: Any, count: int = 50, start: str = "2024-01-01") -> pd.DataFrame:
    """One series a name, each of them five days longer than the one before."""
    parts = [
        pd.DataFrame(
            {
                "unique_id": name,
                "ds": pd.date_range(start, periods=count + 5 * k),
                "y": (k + 1) * np.sin(2 * np.pi * np.arange(count + 5 * k) / 8) + 3,
            }
        )
        for k, name in enumerate(names)
    ]
    return pd.concat(parts, ignore_index=True)


@pytest.fixture
def frames(checkpoint) -> NixtlaForecaster:
    return NixtlaForecaster(TSDiffForecaster(checkpoint, **QUICK))


# --- predict ---


def test_predict_is_the_forecast_of_every_series_from_its_own_end(frames, tiny):
    df = long("b", "a")
    found = frames.fit(df.sample(frac=1, random_state=0)).predict(h=5, level=[80, 90])
    assert list(found.columns) == [
        "unique_id", "ds", "TSDiff", "TSDiff-median", "TSDiff-lo-90", "TSDiff-lo-80", "TSDiff-hi-80", "TSDiff-hi-90",
    ]  # fmt: skip
    assert list(found["unique_id"]) == ["a"] * 5 + ["b"] * 5
    for name, group in found.groupby("unique_id"):
        known = df[df["unique_id"] == name]
        np.testing.assert_array_equal(group["ds"], pd.date_range(known["ds"].max(), periods=6)[1:])
        record = Regular(str(name), known["ds"].iloc[0], pd.offsets.Day(), known["y"].to_numpy())
        (drawn,) = forecast(tiny, [record], 5, Sampling(**QUICK))
        np.testing.assert_allclose(group["TSDiff"], drawn.mean(0), rtol=0, atol=1e-3)
        np.testing.assert_allclose(group["TSDiff-hi-80"], np.quantile(drawn, 0.9, axis=0), rtol=0, atol=1e-3)
        assert (np.diff(group.iloc[:, 4:].to_numpy(), axis=1) >= 0).all()


def test_columns_of_an_interval():
    drawn = np.random.default_rng(0).normal(size=(101, 3))
    found = columns_of("M", drawn, [90, 99.5, 50])
    assert list(found) == ["M", "M-median", *(f"M-lo-{q}" for q in ("99.5", 90, 50)), *(
        f"M-hi-{q}" for q in (50, 90, "99.5")
    )]  # fmt: skip
    np.testing.assert_allclose(found["M-lo-90"], np.quantile(drawn, 0.05, axis=0))
    np.testing.assert_allclose(found["M-median"], np.median(drawn, axis=0))
    np.testing.assert_allclose(found["M"], drawn.mean(axis=0))


@pytest.mark.parametrize(
    ("ds", "freq", "expected"),
    [
        (pd.date_range("2024-01-01", periods=50, freq="h", tz="Europe/Berlin"), None, "2024-01-03 02:00:00+01:00"),
        (pd.date_range("2024-01-31", periods=50, freq="ME"), "ME", "2028-03-31 00:00:00"),
        (np.arange(0, 250, 5), None, "250"),
        (np.arange(50), 1, "50"),
    ],
)
def test_times_of_every_kind(frames, ds, freq, expected):
    frames.freq = freq
    df = long(7).assign(ds=ds)
    found = frames.fit(df).predict(h=1)
    assert str(found["ds"].iloc[0]) == expected
    assert found["ds"].dtype.kind == df["ds"].dtype.kind
    assert found["unique_id"].dtype == df["unique_id"].dtype


def test_missing_rows_and_missing_values_are_the_same(frames):
    df = long("a")
    holes = df.assign(y=df["y"].where(~df.index.isin([30, 41])))
    pd.testing.assert_frame_equal(frames.fit(holes).predict(), frames.fit(holes.dropna()).predict())
    assert len(frames.predict()) == 8  # the horizon of the checkpoint


def test_columns_by_other_names(frames):
    df = long("a").rename(columns={"unique_id": "shop", "ds": "day", "y": "sales"})
    assert list(frames.fit(df, id_col="shop", time_col="day", target_col="sales").predict(h=1).columns[:3]) == [
        "shop", "day", "TSDiff",
    ]  # fmt: skip


# --- cross-validation ---


def test_cross_validation(frames):
    df = long("b", "a")
    found = frames.cross_validation(df, h=4, n_windows=3, step_size=6, level=[80])
    assert list(found.columns) == [
        "unique_id", "ds", "cutoff", "y", "TSDiff", "TSDiff-median", "TSDiff-lo-80", "TSDiff-hi-80",
    ]  # fmt: skip
    assert len(found) == 2 * 3 * 4
    merged = found.merge(df, on=["unique_id", "ds"], suffixes=("", "_known"))
    np.testing.assert_array_equal(merged["y"], merged["y_known"])
    for name, group in found.groupby("unique_id"):
        last = df[df["unique_id"] == name]["ds"].max()
        cutoffs = [last - pd.Timedelta(days=days) for days in (16, 10, 4)]
        assert list(group["cutoff"].unique()) == cutoffs
        assert ((group["ds"] - group["cutoff"]).dt.days == [1, 2, 3, 4] * 3).all()
    # Each window is what one would have had on its day.
    one = found["cutoff"].min()
    then = frames.fit(df[df["ds"] <= one]).predict(h=4, level=[80])
    mine = found[(found["unique_id"] == "b") & (found["cutoff"] == one)]
    theirs = then[then["unique_id"] == "b"]
    np.testing.assert_allclose(mine.iloc[:, 4:].to_numpy(), theirs.iloc[:, 2:].to_numpy(), rtol=0, atol=1e-3)


def test_cross_validation_sees_nothing_after_a_cutoff(frames):
    df = long("a", count=60)
    spoilt = df.assign(y=df["y"].where(df.index < 52, 1e6))
    one, other = (frames.cross_validation(data, h=8, n_windows=2) for data in (df, spoilt))
    np.testing.assert_array_equal(one["TSDiff"], other["TSDiff"])
    assert (other["y"] == 1e6).sum() == 8


def test_rows_that_were_not_observed_are_left_out(frames):
    df = long("a", count=60)
    df = df.assign(y=df["y"].where(~df.index.isin([53, 57])))
    found = frames.cross_validation(df, h=8)
    assert len(found) == 6
    assert not found.isna().any(axis=None)


def test_nixtla_evaluates_it(frames):
    evaluation = pytest.importorskip("utilsforecast.evaluation", reason="utilsforecast is not installed")
    from utilsforecast.losses import coverage, mae, mqloss, winkler_score

    found = frames.cross_validation(long("b", "a"), h=4, n_windows=2, level=[80])
    told = evaluation.evaluate(found, [mae, coverage, winkler_score, mqloss], models=["TSDiff"], level=[80])
    assert len(told) == 2 * 2 * 4
    means = told.groupby("metric")["TSDiff"].mean()
    assert means["mae"] == pytest.approx((found["y"] - found["TSDiff"]).abs().mean())
    inside = found["y"].between(found["TSDiff-lo-80"], found["TSDiff-hi-80"])
    assert means["coverage_level80"] == pytest.approx(inside.mean())


def test_without_a_checkpoint_it_trains_on_what_was_known(monkeypatch):
    seen: list[list[int]] = []
    fit = training.fit

    def looking(config, series, settings):
        seen.append([len(values) for values in series])
        return fit(config, series, settings)

    monkeypatch.setattr(estimator, "fit", looking)
    options: dict[str, Any] = {"horizon": 4, "context": 12, "hidden": 4, "blocks": 1, "state": 4}
    options |= {"train_steps": 2, "batch": 4, "device": "cpu", **QUICK}
    frames = NixtlaForecaster(TSDiffForecaster(**options), name="Mine")
    found = frames.cross_validation(long("a", "b"), h=4, n_windows=3)
    assert seen == [[50 - 12, 55 - 12]]  # once, without what any window is scored on
    assert "Mine" in found
    assert len(frames.fit(long("a")).predict()) == 4
    assert seen[1:] == [[50]]
    with pytest.raises(InputError, match="h must be between 1 and 4, but is 5"):
        frames.cross_validation(long("a"), h=5)
    assert len(seen) == 2


# --- what it refuses ---


@pytest.mark.parametrize(
    ("df", "message"),
    [
        (long("a")["y"], "must be a pandas DataFrame, but is a Series"),
        (long("a").rename(columns={"y": "yy"}), r"no column 'y'.*its columns are \['unique_id', 'ds', 'yy'\]"),
        (long("a").rename(columns={"unique_id": "uniqe_id"}), r"did you mean 'uniqe_id'"),
        (long("a").assign(unique_id=None), "expected the series of every row"),
        (long("a").iloc[:0], "no rows"),
        (pd.concat([long("a"), long("a")]), "series 'a' has 2024-01-01 00:00:00 twice"),
        (long("a").assign(y="many"), "series 'a' must hold numbers"),
        (long("a").assign(y=np.inf), "infinite"),
        (long("a").assign(ds="yesterday"), "dates, periods or whole numbers"),
    ],
)
def test_frames_that_are_none(frames, df, message):
    with pytest.raises(InputError, match=message):
        frames.fit(df)


def test_requests_that_cannot_be(frames):
    with pytest.raises(RuntimeError, match="not fitted"):
        frames.predict()
    frames.fit(long("a"))
    with pytest.raises(InputError, match="horizon must be between 1 and 8, but is 9"):
        frames.predict(h=9)
    for level in (0, 100, -3):
        with pytest.raises(InputError, match=rf"level must lie strictly .* holds {level}"):
            frames.predict(level=[80, level])
    with pytest.raises(InputError, match="long enough: expected 16 observed values and then 8 more"):
        frames.cross_validation(long("a", count=20), h=8)
    with pytest.raises(InputError, match="long enough for 8 steps"):
        frames.cross_validation(long("a", count=8), h=8)
