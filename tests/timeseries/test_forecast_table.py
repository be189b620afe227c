"""Other people's forecasts: whatever their columns are called, and where they lie on the grid of the series."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd
import pytest

from degauss.core.errors import InputError
from degauss.timeseries.forecast_table import Given, place, read_forecasts
from degauss.timeseries.regular import Regular
from degauss.timeseries.table import Forecast, Table, write_forecasts

DAYS = pd.date_range("2024-01-01", periods=3)


def saved(folder: Path, **columns: Any) -> Path:
    path = folder / "forecasts.csv"
    pd.DataFrame({"ds": DAYS.strftime("%Y-%m-%d"), **columns}).to_csv(path, index=False)
    return path


def normal_quantile(level: float, mean: float = 5.0, std: float = 2.0) -> float:
    return NormalDist(mean, std).inv_cdf(level)


# --- what is a forecast ---


def test_samples_are_sorted_and_means_are_left_alone(tmp_path):
    path = saved(tmp_path, mean=0.0, sample_0=[3.0, 1, 2], sample_1=[1.0, 2, 3], sample_10=[2.0, 3, 1], **{"q0.5": 9.0})
    (found,) = read_forecasts(path)
    assert (found.name, found.cutoff) == (None, None)
    np.testing.assert_array_equal(found.samples, [[1, 1, 1], [2, 2, 2], [3, 3, 3]])
    np.testing.assert_array_equal(found.times, DAYS.to_numpy())


@pytest.mark.parametrize(
    "columns",
    [
        {f"q{level:g}": normal_quantile(level) for level in (0.9, 0.1, 0.5)},
        {f"{level:g}": normal_quantile(level) for level in (0.1, 0.5, 0.9)},
        {"Net": 5.0, "Net-lo-80": normal_quantile(0.1), "Net-hi-80": normal_quantile(0.9)},
        {"Net": 99.0, "Net-median": 5.0, "Net-lo-80.0": normal_quantile(0.1), "Net-hi-80.0": normal_quantile(0.9)},
        {"ETS-lo-80": normal_quantile(0.1), "ETS-hi-80": normal_quantile(0.9)},
    ],
)
def test_quantiles_of_a_normal_forecast_become_its_draws(tmp_path, columns):
    (found,) = read_forecasts(saved(tmp_path, **columns), draws=19)
    expected = [normal_quantile((i + 1) / 20) for i in range(19)]  # beyond 0.1 and 0.9 too
    np.testing.assert_allclose(found.samples, np.repeat(expected, 3).reshape(19, 3), rtol=1e-9)


def test_quantiles_between_two_given_ones_lie_between_them(tmp_path):
    path = saved(tmp_path, **{"q0.2": 0.0, "q0.5": 1.0, "q0.8": 10.0})
    (found,) = read_forecasts(path, draws=4)  # levels 0.2, 0.4, 0.6, 0.8
    assert found.samples[0, 0] == pytest.approx(0.0, abs=1e-12)
    assert 0 < found.samples[1, 0] < 1 < found.samples[2, 0] < 10
    assert found.samples[3, 0] == pytest.approx(10.0)


def test_quantiles_that_cross_are_put_in_order(tmp_path):
    (found,) = read_forecasts(saved(tmp_path, **{"q0.1": [2.0, 0, 0], "q0.9": [1.0, 3, 3]}), draws=9)
    assert found.samples[0, 0] == pytest.approx(1.0)
    assert (np.diff(found.samples, axis=0) > 0).all()


def test_one_column_of_numbers_is_one_draw(tmp_path):
    index, values = {"": [0, 1, 2]}, [1.0, 2, 3]
    for columns in ({"mean": values} | index, {"y_hat": values, "y": [7.0, 8, 9]}, {"q0.5": values}):
        (found,) = read_forecasts(saved(tmp_path, **columns))
        np.testing.assert_array_equal(found.samples, [[1, 2, 3]])


def test_one_of_several_by_name(tmp_path):
    models = {"A": 1.0, "A-lo-90": 0.0, "A-hi-90": 2.0, "B": 5.0, "B-lo-90": 4.0, "B-hi-90": 6.0}
    path = saved(tmp_path, **models)
    (found,) = read_forecasts(path, column="B", draws=9)
    assert found.samples.shape == (9, 3)
    assert found.samples[4, 0] == pytest.approx(5)
    (point,) = read_forecasts(saved(tmp_path, a=1.0, b=2.0), column="b")
    np.testing.assert_array_equal(point.samples, [[2, 2, 2]])


def test_what_this_package_writes(tmp_path):
    rng = np.random.default_rng(0)
    times = DAYS.to_numpy()
    samples = rng.normal(size=(7, 3))
    levels = (0.1, 0.5, 0.9)
    forecast = Forecast("a", times, samples.mean(0), levels, np.quantile(samples, levels, axis=0), samples)
    written = replace(forecast, cutoff=times[0] - np.timedelta64(1, "D"))
    for suffix in (".csv", ".parquet"):
        path = tmp_path / f"f{suffix}"
        write_forecasts(path, [written], Table(path, ()))
        (found,) = read_forecasts(path)
        assert found.name == "a"
        assert found.cutoff == written.cutoff
        np.testing.assert_allclose(found.samples, np.sort(samples, 0))
        write_forecasts(path, [replace(written, samples=None)], Table(path, ()))
        (found,) = read_forecasts(path, draws=9)
        np.testing.assert_allclose(found.samples[[0, 4, 8]], np.quantile(samples, levels, axis=0))


def test_series_and_cutoffs_are_kept_apart(tmp_path):
    table = pd.DataFrame(
        {
            "shop": ["b", "a", "a", "a", "a"],
            "when": ["2024-02-01", "2024-01-03", "2024-01-02", "2024-01-03", "2024-01-04"],
            "cutoff": ["2024-01-31", "2024-01-01", "2024-01-01", "2024-01-02", "2024-01-02"],
            "Naive": [1.0, 3.0, 2.0, 4.0, 5.0],
        }
    )
    path = tmp_path / "f.csv"
    table.to_csv(path, index=False)
    found = read_forecasts(path, id="shop", time="when")
    assert [(given.name, str(given.cutoff)[:10]) for given in found] == [
        ("b", "2024-01-31"), ("a", "2024-01-01"), ("a", "2024-01-02"),
    ]  # fmt: skip
    assert [given.samples[0].tolist() for given in found] == [[1], [2, 3], [4, 5]]


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"a": 1.0, "b": 2.0}, {}, "not clear which column is the forecast .*'a', 'b'"),
        ({}, {}, "has only one column"),
        ({"y": 1.0}, {}, "not clear which column is the forecast .*none"),
        ({"A-lo-90": 0.0, "B-lo-90": 1.0}, {}, r"several models \(A, B\); name one"),
        ({"A-lo-90": 0.0}, {"column": "B"}, "has no forecast 'B'"),
        ({"A-lo-100": 0.0, "A-hi-100": 0.0}, {}, "'A-lo-100' has no level between 0 and 100"),
        ({"q0.5": [1.0, np.nan, 2.0]}, {}, "column 'q0.5', row 2 is empty; expected a number"),
        ({"q0.5": ["1", "x", "2"]}, {}, "column 'q0.5', row 2 holds 'x'"),
        ({"Naive": 1.0}, {"id": "shop"}, "has no id column 'shop'"),
        ({"Naive": 1.0}, {"time": "dss"}, r"has no time column 'dss' \(did you mean 'ds'\?\)"),
        ({"Naive": 1.0, "unique_id": ["a", "", "a"]}, {}, "'unique_id', row 2 is empty"),
        ({"Naive": 1.0, "cutoff": "soon"}, {}, "column 'cutoff', row 1 holds 'soon'; expected dates"),
    ],
)
def test_tables_that_are_no_forecasts(tmp_path, columns, options, message):
    with pytest.raises(InputError, match=message):
        read_forecasts(saved(tmp_path, **columns), **options)


def test_a_time_forecast_twice(tmp_path):
    path = tmp_path / "f.csv"
    path.write_text("unique_id,ds,Naive\na,2024-01-01,1\na,2024-01-02,1\na,2024-01-01,2\n")
    with pytest.raises(InputError, match=r"rows 1 and 3 forecast the same time of series 'a'.* or a column cutoff"):
        read_forecasts(path)
    path.write_text("unique_id,ds,Naive\n")
    with pytest.raises(InputError, match="has a header but no rows"):
        read_forecasts(path)


# --- where it lies ---


def record(count: int = 10) -> Regular:
    return Regular("a", pd.Timestamp("2024-01-01"), pd.offsets.Day(), np.arange(float(count)))


def forecast(*days: int, cutoff: int | None = None) -> Given:
    start = np.datetime64("2024-01-01", "ns")
    times = start + np.array(days) * np.timedelta64(1, "D")
    known = None if cutoff is None else start + cutoff * np.timedelta64(1, "D")
    return Given("a", known, times, np.zeros((1, len(days))))


@pytest.mark.parametrize(
    ("given", "before"),
    [
        (forecast(10, 11), 10),
        (forecast(10, 11, cutoff=9), 10),
        (forecast(4, 5, 6), 4),
        (forecast(8, 9, 10), 8),
        (forecast(0), 0),
    ],
)
def test_forecasts_of_the_future_and_of_the_past(given, before):
    assert place("f.csv", given, record(), 4) == before


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            forecast(14),
            "has the time 2024-01-15, which is neither a step of the series nor one of the 4 after its end at",
        ),
        (forecast(-1), "has the time 2023-12-31"),
        (forecast(5, 7), "leaves out steps after 2024-01-06"),
        (forecast(5, cutoff=3), "starts at 2024-01-06, but its cutoff is 2024-01-04; expected the step after"),
        (forecast(0, cutoff=3), "starts at 2024-01-01, but its cutoff"),
        (Given("a", None, np.array([10]), np.zeros((1, 1))), "times of another kind"),
    ],
)
def test_forecasts_that_do_not_follow_the_series(given, message):
    with pytest.raises(InputError, match=message):
        place("f.csv", given, record(), 4)


def test_whole_numbers():
    numbers = Regular("a", 100, 10, np.arange(5.0))
    assert place("f.csv", Given("a", 140, np.array([150, 160]), np.zeros((1, 2))), numbers, 2) == 5
    with pytest.raises(InputError, match="has the time 155"):
        place("f.csv", Given("a", 140, np.array([155]), np.zeros((1, 1))), numbers, 2)
