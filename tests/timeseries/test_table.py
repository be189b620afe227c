from __future__ import annotations

import gzip
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from degauss.core.errors import InputError
from degauss.timeseries.regular import Series
from degauss.timeseries.table import Forecast, Table, read_table, write_forecasts, write_series


def write(folder: Path, text: str | bytes, name="x.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def days(one: Series) -> list[str]:
    return one.times.astype("datetime64[D]").astype(str).tolist()


# --- the form of a table ---


def test_long_form_with_the_usual_names(tmp_path):
    text = "unique_id,ds,y\nb,2020-01-02,4\na,2020-01-02,NA\nb,2020-01-01,3\na,2020-01-01,1.5\n"
    table = read_table(write(tmp_path, text))
    assert [s.name for s in table.series] == ["b", "a"]
    assert days(table.series[0]) == ["2020-01-01", "2020-01-02"]
    np.testing.assert_array_equal(table.series[0].values, [3, 4])
    np.testing.assert_array_equal(table.series[1].values, [1.5, np.nan])
    assert table.series[0].times.dtype == "datetime64[ns]"
    assert (table.id, table.time, table.target, table.time_kind) == ("unique_id", "ds", "y", "text date")


def test_named_columns_and_ids_that_look_like_numbers(tmp_path):
    text = "store,when,temp,sales\n007,2020-01-01,9,1\n007,2020-01-02,9,2\nNA,2020-01-01,9,3\n"
    table = read_table(write(tmp_path, text), id="store", time="when", target="sales")
    assert [s.name for s in table.series] == ["007", "NA"]
    assert (table.id, table.time, table.target) == ("store", "when", "sales")


def test_single_series(tmp_path):
    (one,) = read_table(write(tmp_path, "place,Date,ppm\nx,2020-01-01,1\nx,2020-01-02,2\n")).series
    assert one.name == "ppm"
    np.testing.assert_array_equal(one.values, [1, 2])


def test_wide_form(tmp_path):
    table = read_table(write(tmp_path, "date,a,b\n2020-01-01,1,\n2020-01-02,2,5\n"))
    assert [s.name for s in table.series] == ["a", "b"]
    np.testing.assert_array_equal(table.series[1].values, [np.nan, 5])
    chosen = read_table(write(tmp_path, "date,a,note,b\n2020-01-01,1,x,4\n2020-01-02,2,y,5\n"), target=["b", "a"])
    assert [s.name for s in chosen.series] == ["b", "a"]


def test_a_saved_index_is_the_time_if_first_and_never_a_series(tmp_path):
    table = read_table(write(tmp_path, ",a,b\n2020-01-01,1,2\n2020-01-02,2,3\n"))
    assert table.time == "ds"
    assert [s.name for s in table.series] == ["a", "b"]
    table = read_table(write(tmp_path, ",date,a,b\n0,2020-01-01,1,2\n1,2020-01-02,2,3\n"))
    assert [s.name for s in table.series] == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("t\tv\n2020-01-01\t1.5\n", [1.5]),
        ("t;v\n2020-01-01;1,5\n", [1.5]),
        ("\ufefft,v\n2020-01-01,1.5\n", [1.5]),
        ("t, v\r\n2020-01-01, 1.5\r\n", [1.5]),
        ('"t","v"\n"2020-01-01","1.5e0"\n', [1.5]),
        ("t,v\n2020-01-01,1.5\n2020-01-02\n", [1.5, np.nan]),
        (gzip.compress(b"t,v\n2020-01-01,1.5\n"), [1.5]),
    ],
)
def test_dialects_are_recognised_by_content(tmp_path, text, expected):
    np.testing.assert_array_equal(read_table(write(tmp_path, text)).series[0].values, expected)


# --- time stamps ---


@pytest.mark.parametrize(
    ("stamps", "expected"),
    [
        (["2020-01-02", "2020-03-04"], ["2020-01-02", "2020-03-04"]),
        (["2020/01/02", "2020/03/04"], ["2020-01-02", "2020-03-04"]),
        (["20200102", "20200304"], ["2020-01-02", "2020-03-04"]),
        (["2020-01", "2020-03"], ["2020-01-01", "2020-03-01"]),
        (["202001", "202003"], ["2020-01-01", "2020-03-01"]),
        (["2020Q1", "2020-Q4"], ["2020-01-01", "2020-10-01"]),
        (["1/2/2020", "13/2/2020"], ["2020-02-01", "2020-02-13"]),
        (["1/2/2020", "2/13/2020"], ["2020-01-02", "2020-02-13"]),
        (["1.2.2020", "2.2.2020"], ["2020-02-01", "2020-02-02"]),
        (["2 Jan 2020", "4 Mar 2020"], ["2020-01-02", "2020-03-04"]),
        (["Jan 2020", "Mar 2020"], ["2020-01-01", "2020-03-01"]),
        (["1/2/2020 13:30", "13/2/2020 14:00"], ["2020-02-01", "2020-02-13"]),
    ],
)
def test_dates_as_people_write_them(tmp_path, stamps, expected):
    text = "t,v\n" + "".join(f"{stamp},1\n" for stamp in stamps)
    assert days(read_table(write(tmp_path, text)).series[0]) == expected


@pytest.mark.parametrize(
    ("stamps", "expected"),
    [(["3", "1", "2"], [1, 2, 3]), (["2001", "2002"], [2001, 2002]), (["1.0", "-2.0"], [-2, 1]),
     (["200012", "200013"], [200012, 200013])],
)  # fmt: skip
def test_whole_numbers_are_an_index(tmp_path, stamps, expected):
    table = read_table(write(tmp_path, "t,v\n" + "".join(f"{stamp},1\n" for stamp in stamps)))
    assert table.time_kind == "integer"
    assert table.series[0].times.dtype == np.int64
    assert table.series[0].times.tolist() == expected


def test_one_time_zone_is_kept_and_written_again(tmp_path):
    table = read_table(write(tmp_path, "t,v\n2020-01-01T00:00+02:00,1\n2020-01-02 00:00+02:00,2\n"))
    (one,) = table.series
    assert one.timezone == "UTC+02:00"
    assert str(one.times[0]) == "2019-12-31T22:00:00.000000000"
    write_series(tmp_path / "o.csv", table.series, table)
    assert (tmp_path / "o.csv").read_text().splitlines()[1] == "v,2020-01-01 00:00:00+02:00,1.0"
    again = read_table(tmp_path / "o.csv").series[0]
    assert again.timezone == one.timezone
    np.testing.assert_array_equal(again.times, one.times)


# --- refusals: one clear sentence each ---

BAD: list[tuple[str | bytes, dict[str, str], str]] = [
    ("", {}, "is empty"),
    ("  \n\n", {}, "is empty"),
    (b"\x89PNG\r\n\x1a\n" + bytes(64), {}, "is not a text table or a parquet file"),
    (bytes(range(256)), {}, "is not a text table or a parquet file"),
    (b"PK\x03\x04rest of a spreadsheet", {}, "is a zip or spreadsheet file"),
    (b"PAR1 and then nothing", {}, "is not a whole parquet file"),
    (b"\x1f\x8b\x08\x00 broken", {}, "is a damaged gzip file"),
    ("t,v\n\xe9,1\n".encode("latin-1"), {}, "is not UTF-8 text"),
    ("some prose\nwithout commas\n", {}, "has only one column ('some prose')"),
    ("ds,y\n", {}, r"has a header ('ds', 'y') but no rows"),
    ("ds,y,y\n2020-01-01,1,2\n", {}, "has two columns called 'y'"),
    ("ds,y\n2020-01-01,1\n2020-01-02,2,3\n", {}, "is not a table (Expected 2 fields in line 3, saw 3)"),
    (
        "ds,value\n2020-01-01,1\n",
        {"target": "valu"},
        "has no target column 'valu' (did you mean 'value'?); its columns are 'ds', 'value'",
    ),
    ("ds,y\n2020-01-01,1\n", {"id": "store"}, "has no id column 'store'; its columns are 'ds', 'y'"),
    ("ds,y\n2020-01-01,1\n", {"time": "date"}, "has no time column 'date'"),
    ("ds,y\n2020-01-01,1\n", {"target": "ds"}, "column 'ds' cannot be both time and target"),
    ("id,ds,y\na,2020-01-01,1\n", {"id": "id", "target": "id"}, "column 'id' cannot be both id and target"),
    (
        "ds,a\n2020-01-01,x\n",
        {},
        "has no column of numbers beside the time column 'ds' (other columns are 'a')",
    ),
    ("s,ds,a,b\nx,2020-01-01,1,2\n", {"id": "s"}, "several columns of numbers ('a', 'b')"),
    ("ds,y\n2020-01-01,1\n2020-13-02,2\n", {}, "time column 'ds', row 2 holds '2020-13-02'; expected dates"),
    ("ds,y\nyesterday,1\ntoday,2\n", {}, "row 1 holds 'yesterday'"),
    ("ds,y\n1/2/2020,1\n2/2/2020,2\n", {}, "could be day/month or month/day"),
    ("ds,y\n13/2/2020,1\n14/2/2020,1\n32/2/2020,2\n", {}, "row 3 holds '32/2/2020'"),
    ("ds,y\n1.5,1\n2.5,2\n", {}, "row 1 holds 1.5"),
    ("ds,y\n2020-01-01,1\n,2\n", {}, "time column 'ds', row 2 is empty"),
    ("ds,y\n1500-01-01,1\n", {}, "row 1 holds"),
    (
        "ds,y\n2020-01-01T00:00Z,1\n2020-01-02T00:00+01:00,2\n",
        {},
        "mixes time zones (UTC in row 1, UTC+01:00 in",
    ),
    (
        "ds,y\n2020-01-01T00:00,1\n2020-01-02T00:00Z,2\n",
        {},
        "mixes time zones (no time zone in row 1, UTC in row 2)",
    ),
    (
        "ds,y\n2020-01-02,1\n2020-01-01,1\n2020-01-02,2\n",
        {},
        "series 'y' has 2020-01-02 twice in column 'ds' (rows 1 "
        "and 3); expected one row for each time, or the name of the id column",
    ),
    ("unique_id,ds,y\na,1,1\nb,1,1\nb,1,2\n", {}, "series 'b' has 1 twice in column 'ds' (rows 2 and 3)"),
    ("ds,y\n2020-01-01 12:00,1\n2020-01-01 12:00,1\n", {}, "has 2020-01-01 12:00:00 twice"),
    (
        "ds,y\n2020-01-01,1\n2020-01-02,abc\n",
        {},
        "column 'y', row 2 holds 'abc'; expected a number or an empty cell",
    ),
    ("ds,a,b\n2020-01-01,1,x\n2020-01-02,2,y\n", {"target": "b"}, "column 'b', row 1 holds 'x'"),
    ("ds,a,b,c\n2020-01-01,1,x,1\n2020-01-02,2,y,1\n", {}, "column 'b', row 1 holds 'x'"),
    ("ds,y\n2020-01-01,1\n2020-01-02,-inf\n", {}, "column 'y', row 2 holds an infinite value"),
    ("ds,y\n2020-01-01,1\n2020-01-02,1e999\n", {}, "column 'y', row 2 holds an infinite value"),
    ("ds,y\n2020-01-01,\n2020-01-02,NaN\n", {}, "series 'y' has no values: all 2 are missing"),
    ("unique_id,ds,y\na,1,1\nb,1,\n", {}, "series 'b' has no values"),
    ("unique_id,ds,y\na,1,1\n,1,2\n", {}, "id column 'unique_id', row 2 is empty"),
]


@pytest.mark.parametrize(("text", "names", "message"), BAD)
def test_bad_input_is_refused_in_one_sentence(tmp_path, text, names, message):
    path = write(tmp_path, text)
    with pytest.raises(InputError) as caught:
        read_table(path, **names)
    said = str(caught.value)
    assert message in said
    assert said.startswith(str(path))
    assert said.endswith(".")
    assert "\n" not in said


def test_rows_longer_than_the_header(tmp_path):
    with pytest.raises(InputError, match="rows of equal length"):
        read_table(write(tmp_path, "ds,y\n2020-01-01,1,3\n2020-01-02,2,3\n"))


def test_no_such_file_and_a_folder(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_table(tmp_path / "none.csv")
    with pytest.raises(InputError, match="is a directory"):
        read_table(tmp_path)


HEADERS = ["", "ds,y\n", "unique_id,ds,y\n", "t;a;b\n", "ds,y\n2020-01-01,1\n2020-01-02,", "ds,y\n1,1\n"]
JUNK = "dsy,;\t\n\"'0123456789-:.+TZaxQ "


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.one_of(st.binary(max_size=200), st.builds(str.__add__, st.sampled_from(HEADERS), st.text(JUNK))))
def test_whatever_a_file_holds_it_is_read_or_refused(tmp_path, content):
    try:
        table = read_table(write(tmp_path, content))
    except InputError as error:
        if "\n" in str(error):
            pytest.fail(f"not one sentence: {error}")
    else:
        assert all(len(s.values) for s in table.series)


# --- round trips ---

NAMES = st.text(alphabet="abzäλ019 ,;'\"-_%", min_size=1, max_size=12).map(str.strip).filter(bool)
NUMBERS = st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.just(float("nan")))
NANOSECONDS_OF_DAY = 86_400 * 10**9


@st.composite
def tables(draw):
    kind = draw(st.sampled_from(["integer", "text date", "text datetime", "timestamp", "date"]))
    names = draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
    parts = []
    for name in names:
        if kind == "integer":
            stamps = draw(st.sets(st.integers(-99_999, 99_999), min_size=1, max_size=8))
            times = np.array(sorted(stamps), dtype=np.int64)
        else:
            unit = 1 if kind in ("text datetime", "timestamp") else NANOSECONDS_OF_DAY
            bound = 8 * 10**18 // unit
            stamps = draw(st.sets(st.integers(-bound, bound), min_size=1, max_size=8))
            times = (np.array(sorted(stamps), dtype=np.int64) * unit).astype("datetime64[ns]")
        values = np.array([draw(NUMBERS) for _ in times])
        values[draw(st.integers(0, len(values) - 1))] = draw(st.floats(-1e300, 1e300))
        zone = draw(st.sampled_from([None, "UTC", "UTC+05:30"])) if kind == "text datetime" else None
        parts.append(Series(name, times, values, zone if not parts else parts[0].timezone))
    return Table(Path("x"), tuple(parts), id="the id", time="the time", target="v", time_kind=kind)


def assert_same(got: Table, expected: Table) -> None:
    assert [s.name for s in got.series] == [s.name for s in expected.series]
    for a, b in zip(got.series, expected.series, strict=True):
        np.testing.assert_array_equal(a.times, b.times)
        np.testing.assert_array_equal(a.values, b.values)
        assert a.times.dtype == b.times.dtype
        assert a.timezone == b.timezone


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(table=tables(), suffix=st.sampled_from([".csv", ".tsv", ".parquet"]))
def test_what_is_written_is_read_again(tmp_path, table, suffix):
    path = tmp_path / f"x{suffix}"
    write_series(path, table.series, table)
    again = read_table(path, id="the id", time="the time", target="v")
    assert_same(again, table)
    if suffix == ".parquet":
        assert again.time_kind == table.time_kind
    write_series(path, again.series, again)
    assert_same(read_table(path, id="the id", time="the time", target="v"), table)


def test_the_order_of_rows_does_not_matter(tmp_path):
    rng = np.random.default_rng(0)
    rows = [f"{name},2020-01-{day:02},{rng.normal()}" for name in "ab" for day in range(1, 29)]
    first = read_table(write(tmp_path, "unique_id,ds,y\n" + "\n".join(rows)))
    rows = rows[:1] + [rows[i] for i in 1 + rng.permutation(len(rows) - 1)]
    assert_same(read_table(write(tmp_path, "unique_id,ds,y\n" + "\n".join(rows))), first)


@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
def test_parquet_keeps_types(tmp_path, zone):
    stamps = pd.date_range("2024-03-30", periods=4, freq="D", tz=zone)
    frame = pd.DataFrame({"shop": [7, 7, 7, 7], "when": stamps, "y": [1, 2, None, 4]})
    frame.to_parquet(tmp_path / "x.parquet")
    table = read_table(tmp_path / "x.parquet", id="shop", time="when")
    assert table.series[0].timezone == zone
    write_series(tmp_path / "o.parquet", table.series, table)
    back = pd.read_parquet(tmp_path / "o.parquet")
    assert back["shop"].tolist() == [7, 7, 7, 7]
    assert back["shop"].dtype == np.int64
    assert pd.DatetimeIndex(back["when"]).equals(pd.DatetimeIndex(stamps.as_unit("ns")))
    assert str(pd.DatetimeIndex(back["when"]).tz) == str(zone)


def test_parquet_with_the_time_as_index_or_as_dates(tmp_path):
    index = pd.date_range("2024-01-01", periods=3, name="when")
    pd.DataFrame({"a": [1.0, 2, 3], "b": [1.0, 2, 3]}, index=index).to_parquet(tmp_path / "x.parquet")
    table = read_table(tmp_path / "x.parquet")
    assert (table.time, [s.name for s in table.series]) == ("when", ["a", "b"])
    frame = pd.DataFrame({"ds": [date(2024, 1, 1), date(2024, 1, 2)], "y": [1, 2]})
    frame.to_parquet(tmp_path / "d.parquet")
    table = read_table(tmp_path / "d.parquet")
    assert table.time_kind == "date"
    write_series(tmp_path / "o.parquet", table.series, table)
    assert pd.read_parquet(tmp_path / "o.parquet")["ds"].tolist() == frame["ds"].tolist()


# --- forecasts ---


def forecast(name="a", samples=None, cutoff: np.datetime64 | int | None = None, count=3) -> Forecast:
    times = np.arange("2020-02-01", "2020-03-01", dtype="datetime64[D]").astype("datetime64[ns]")[:count]
    quantiles = np.arange(2.0 * count).reshape(2, count)
    return Forecast(name, times, quantiles.mean(axis=0), (0.1, 0.975), quantiles, samples, cutoff)


def test_forecasts_are_written_as_the_table_was(tmp_path):
    table = Table(Path("x"), (), id="shop", time="day", target="sales", time_kind="text date")
    cutoff = np.datetime64("2020-01-31", "ns")
    parts = [forecast(name, np.array([[7.0, 8, 9], [1, 2, 3]]), cutoff) for name in "ab"]
    write_forecasts(tmp_path / "f.csv", parts, table)
    lines = (tmp_path / "f.csv").read_text().splitlines()
    assert lines[0] == "shop,day,cutoff,mean,q0.1,q0.975,sample_0,sample_1"
    assert lines[1] == "a,2020-02-01,2020-01-31,1.5,0.0,3.0,7.0,1.0"
    assert len(lines) == 7
    write_forecasts(tmp_path / "f.parquet", parts, table)
    pd.testing.assert_frame_equal(
        pd.read_parquet(tmp_path / "f.parquet"), pd.read_csv(tmp_path / "f.csv"), check_dtype=False
    )
    mean = read_table(tmp_path / "f.csv", id="shop", time="day", target="mean")
    np.testing.assert_array_equal(mean.series[1].values, parts[1].mean)


def test_forecasts_that_reach_into_the_day_are_written_with_the_hour(tmp_path):
    table = Table(Path("x"), (), time_kind="text date")
    one = forecast(count=2)
    hours = Forecast("a", one.times[:1] + np.array([0, 12], "timedelta64[h]"), one.mean, one.levels, one.quantiles)
    write_forecasts(tmp_path / "f.csv", [hours], table)
    assert (tmp_path / "f.csv").read_text().splitlines()[2].startswith("a,2020-02-01 12:00:00,")


def test_forecasts_refuse_what_does_not_fit(tmp_path):
    table = Table(Path("x"), ())
    with pytest.raises(InputError, match=r"f\.xlsx: ends in '\.xlsx'; expected \.csv, \.tsv or \.parquet"):
        write_forecasts(tmp_path / "f.xlsx", [forecast()], table)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="cutoff"):
        write_forecasts(tmp_path / "f.csv", [forecast(), forecast(cutoff=np.datetime64("2020-01-31", "ns"))], table)
    with pytest.raises(ValueError, match="number of samples"):
        write_forecasts(tmp_path / "f.csv", [forecast(), forecast(samples=np.zeros((2, 3)))], table)
    with pytest.raises(ValueError, match="at least one"):
        write_forecasts(tmp_path / "f.csv", [], table)
    with pytest.raises(ValueError, match=r"expected mean \[3\]"):
        Forecast("a", forecast().times, np.zeros(2), (0.5,), np.zeros((1, 3)))
    with pytest.raises(ValueError, match="samples"):
        forecast(samples=np.zeros((3, 2)))
