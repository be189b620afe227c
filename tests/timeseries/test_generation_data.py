"""Windows and their split: nothing of what is held out is seen in training, and every gap is stepped around."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from degauss.core.errors import InputError
from degauss.core.places import data_root
from degauss.timeseries.generation_data import STOCKS, Units, read_records, sines, split, stocks, windows_of


def counting(*lengths: int, features: int = 2) -> list[np.ndarray]:
    """Records whose every number occurs once."""
    total, records = 0, []
    for length in lengths:
        records.append(np.arange(total, total + length * features, dtype=float).reshape(length, features))
        total += length * features
    return records


# --- windows ---


def test_every_stretch_without_a_gap():
    (record,) = counting(6)
    assert windows_of([record], 3).shape == (4, 3, 2)
    np.testing.assert_array_equal(windows_of([record], 3)[1], record[1:4])
    record[3, 1] = np.nan
    np.testing.assert_array_equal(windows_of([record], 3), record[None, :3])
    assert windows_of([record, *counting(2)], 4).shape == (0, 4, 2)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 400), min_size=1, max_size=8),
    length=st.integers(2, 30),
    share=st.floats(0.05, 0.5),
    seed=st.integers(0, 5),
)
def test_no_row_is_on_both_sides(lengths, length, share, seed):
    records = counting(*lengths)
    try:
        train, held = split(records, length, share, seed)
    except InputError:
        return  # too short for a window on each side
    assert not np.intersect1d(train, held).size
    for windows in (train, held):
        assert (np.diff(windows[:, :, 0], axis=1) == 2).all()  # rows that follow each other


def test_the_share_of_one_long_record_is_spread_over_it():
    (record,) = counting(2000)
    train, held = split([record], 10, 0.2)
    rows = np.unique(held[:, :, 0]) / 2
    assert len(rows) == 400
    assert [np.any((rows >= low) & (rows < low + 400)) for low in range(0, 2000, 400)] == [True] * 5
    assert len(np.unique(train[:, :, 0])) == 1600


def test_of_many_records_whole_ones_are_held_out():
    records = counting(*[30] * 10)
    train, held = split(records, 10, 0.3, seed=1)
    assert len(held) == 3 * 21
    assert len(train) == 7 * 21
    whole = {tuple(record[:, 0]) for record in records}
    starts = held[::21, 0, 0]
    assert all(any(start == record[0] for record in whole) for start in starts)
    assert not np.array_equal(held, split(records, 10, 0.3, seed=2).held)


@pytest.mark.parametrize(
    ("lengths", "length", "share", "message"),
    [
        ([20], 10, 0.1, "no held-out window of 10 rows"),
        ([5], 10, 0.2, "no training window of 10 rows"),
        ([100], 10, 0.6, "share must be between"),
        ([100], 1, 0.2, "length must be at least 2"),
    ],
)
def test_splits_that_cannot_be(lengths, length, share, message):
    with pytest.raises(InputError, match=message):
        split(counting(*lengths), length, share)


# --- units ---


def test_units_of_training_windows():
    windows = np.stack([np.linspace(-3, 5, 20), np.full(20, 7.0), np.linspace(1e9, 1e9 + 1, 20)], axis=-1)[None]
    units = Units.of(windows, ("a", "b", "c"))
    unit = units.unit(windows)
    assert (unit.min((0, 1))[[0, 2]] == 0).all()
    assert (unit.max((0, 1))[[0]] == 1).all()
    assert (unit[..., 1] == 0).all()  # a constant is no division by zero
    np.testing.assert_allclose(units.data(unit), windows, rtol=1e-15)


# --- tables ---


def long(path: Path) -> Path:
    """Six patients of different lengths, with two measurements."""
    parts = [
        pd.DataFrame({"who": f"p{k}", "hour": range(8 + k), "heart": np.arange(8.0 + k) + 100 * k, "lung": -float(k)})
        for k in range(6)
    ]
    pd.concat(parts).sample(frac=1, random_state=0).to_csv(path, index=False)
    return path


def test_a_record_for_each_id(tmp_path):
    records = read_records(long(tmp_path / "t.csv"), id="who", time="hour", columns=("lung", "heart"))
    assert records.names == ("lung", "heart")
    assert sorted(len(record) for record in records.values) == [8, 9, 10, 11, 12, 13]
    longest = max(records.values, key=len)
    np.testing.assert_array_equal(longest, np.stack([np.full(13, -5.0), np.arange(13) + 500.0], axis=-1))


def test_a_wide_table_is_one_record(tmp_path):
    frame = pd.DataFrame({"ds": pd.date_range("2024-01-01", periods=9), "a": np.arange(9.0), "b": 2.0})
    frame.drop(index=4).to_csv(tmp_path / "t.csv", index=False)
    records = read_records(tmp_path / "t.csv")
    assert records.names == ("a", "b")
    (values,) = records.values
    np.testing.assert_array_equal(np.isnan(values), np.repeat(np.arange(9)[:, None] == 4, 2, axis=1))
    (values,) = read_records(tmp_path / "t.csv", columns=("b",)).values
    assert values.shape == (9, 1)


def test_tables_that_are_no_records(tmp_path):
    path = long(tmp_path / "t.csv")
    with pytest.raises(InputError, match="name its features with --columns"):
        read_records(path, id="who", time="hour")
    with pytest.raises(InputError, match="no target column 'hart'"):
        read_records(path, id="who", time="hour", columns=("hart",))
    pd.DataFrame({"who": ["a", "b"], "hour": [0, 1], "heart": [1.0, 2.0]}).to_csv(path, index=False)
    with pytest.raises(InputError, match="no 'who' has more than one row"):
        read_records(path, id="who", time="hour", columns=("heart",))


# --- public sets ---


def test_sines_are_what_the_papers_say():
    windows = sines(2000, seed=3)
    assert windows.shape == (2000, 24, 5)
    np.testing.assert_array_equal(sines(10, seed=3), windows[:10])
    angle = np.arcsin((2 * windows - 1)[:, :8])  # below a quarter turn for any f and p
    frequency, phase = angle[:, 1] - angle[:, 0], angle[:, 0]
    np.testing.assert_allclose(angle, phase[:, None] + frequency[:, None] * np.arange(8)[:, None], atol=1e-9)
    for part in (frequency, phase):
        np.testing.assert_allclose(np.quantile(part, [0.0, 0.5, 1.0]), [0, 0.05, 0.1], atol=2e-3)
    assert abs(np.corrcoef(frequency[:, 0], frequency[:, 1])[0, 1]) < 0.1


@pytest.mark.skipif(
    not (data_root() / "timeseries" / "stock_data.csv").is_file(), reason="no stock_data.csv under DEGAUSS_DATA"
)
def test_stocks():
    values = stocks()
    assert values.shape == (3685, len(STOCKS))
    assert (values[:, 1] >= values[:, 2]).all()  # high and low


def test_stocks_that_are_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("DEGAUSS_DATA", str(tmp_path))
    with pytest.raises(InputError, match="no such file"):
        stocks()
    (tmp_path / "timeseries").mkdir()
    for content, message in (("a,b\n1,2\n", "has 2 columns"), ("a,b\n1,x\n", "is not the table")):
        (tmp_path / "timeseries" / "stock_data.csv").write_text(content)
        with pytest.raises(InputError, match=message):
            stocks()
