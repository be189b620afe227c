from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from degauss.core.errors import InputError
from degauss.timeseries.regular import (
    Regular,
    Series,
    check_length,
    future_index,
    grid_times,
    infer_step,
    regularise,
    season_length,
)

ALIASES = [
    *("s", "15s", "min", "10min", "30min", "h", "6h", "D", "2D", "B", "W-SAT", "W-MON", "2W-SUN"),
    *("MS", "ME", "BMS", "BME", "2MS", "QS-FEB", "QE-DEC", "YS-JUL", "YE-FEB"),
]


def series(times, values=None, timezone=None):
    stamps = pd.DatetimeIndex(times)
    if stamps.tz is not None:
        timezone = str(stamps.tz)
        stamps = stamps.tz_convert("UTC").tz_localize(None)
    stamps = stamps.as_unit("ns").to_numpy()
    return Series("s", stamps, np.arange(len(stamps), dtype=float) if values is None else values, timezone)


@settings(max_examples=150, deadline=None)
@given(
    alias=st.sampled_from(ALIASES),
    start=st.datetimes(min_value=pd.Timestamp("1960-01-01"), max_value=pd.Timestamp("2030-01-01")),
    seed=st.integers(0, 10_000),
)
def test_the_calendar_is_found_though_rows_are_missing(alias, start, seed):
    rng = np.random.default_rng(seed)
    grid = pd.date_range(pd.Timestamp(start).floor("D"), periods=60, freq=alias)
    keep = rng.random(60) < 0.7
    keep[[0, 1, 2, 3, -1]] = True
    one = series(grid[keep])
    regular = regularise(one)
    assert regular.times.tolist() == grid.as_unit("ns").to_numpy().tolist()
    np.testing.assert_array_equal(np.flatnonzero(~np.isnan(regular.values)), np.flatnonzero(keep))
    np.testing.assert_array_equal(regular.values[keep], one.values)
    assert regular.moved == 0
    assert regular.merged == 0
    assert regular.missing == pytest.approx(1 - keep.mean())
    ahead = pd.date_range(grid[-1], periods=6, freq=alias)[1:]
    assert future_index(regular, 5).tolist() == ahead.as_unit("ns").to_numpy().tolist()


@settings(max_examples=40, deadline=None)
@given(alias=st.sampled_from(ALIASES), seed=st.integers(0, 1000))
def test_naming_the_frequency_gives_what_is_inferred(alias, seed):
    rng = np.random.default_rng(seed)
    one = series(pd.date_range("2011-01-01", periods=40, freq=alias), rng.normal(size=40))
    inferred, named = regularise(one), regularise(one, alias)
    assert named.times.tolist() == inferred.times.tolist()
    np.testing.assert_array_equal(named.values, inferred.values)


def test_a_month_day_stays_that_day():
    times = pd.DatetimeIndex([f"2023-{m:02}-15" for m in (1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12)])
    regular = regularise(series(times))
    assert season_length(regular.step) == 12
    assert len(regular.values) == 12
    assert np.isnan(regular.values[3])
    assert str(future_index(regular, 2)[1])[:10] == "2024-02-15"


def test_climate_months_stamped_at_their_middle_are_months():
    # CF files stamp a month at its middle: the 16th at noon, the 15th or 16th at midnight, ...
    begin = pd.date_range("2001-01-01", periods=48, freq="MS")
    middle = begin + ((begin + pd.offsets.MonthBegin()) - begin) / 2
    regular = regularise(series(middle))
    assert season_length(regular.step) == 12
    np.testing.assert_array_equal(regular.values, np.arange(48))
    assert regular.moved == pytest.approx(5 / 12)  # the months of 28 and 30 days have another middle


def test_business_days_with_holidays_missing():
    from pandas.tseries.holiday import USFederalHolidayCalendar

    days = pd.bdate_range("2022-01-03", "2023-12-29")
    holidays = USFederalHolidayCalendar().holidays(pd.Timestamp("2022-01-01"), pd.Timestamp("2023-12-31"))
    regular = regularise(series(days.difference(holidays)))
    assert regular.frequency == "B"
    assert season_length(regular.step) == 5
    assert regular.times.tolist() == days.as_unit("ns").to_numpy().tolist()
    assert np.isnan(regular.values).sum() == days.isin(holidays).sum() > 15


def test_five_days_from_monday_are_days_until_a_weekend_is_skipped():
    week = pd.date_range("2024-01-01", periods=5)
    assert regularise(series(week)).frequency == "D"
    assert regularise(series(week.append(pd.DatetimeIndex(["2024-01-08"])))).frequency == "B"


def test_a_day_without_observation_in_a_leap_year_counts():
    regular = regularise(series(["2024-02-27", "2024-02-28", "2024-03-01", "2024-03-02"]))
    assert len(regular.values) == 5
    assert str(regular.times[2])[:10] == "2024-02-29"
    assert np.isnan(regular.values[2])


@pytest.mark.parametrize("day", ["2024-03-31", "2024-10-27"])
def test_summer_time_hours_are_physical_and_days_are_local(day):
    hours = pd.date_range(f"{day} 00:00", periods=30, freq="h", tz="Europe/Berlin")
    regular = regularise(series(hours))
    assert len(regular.values) == 30
    assert regular.timezone == "Europe/Berlin"
    assert set(np.diff(regular.times).tolist()) == {3600 * 10**9}
    days = pd.date_range(pd.Timestamp(day) - pd.Timedelta(days=3), periods=8, freq="D", tz="Europe/Berlin")
    regular = regularise(series(days.delete(3)))
    assert regular.frequency == "D"
    assert len(regular.values) == 8
    lengths = set((np.diff(regular.times) // np.timedelta64(1, "h")).tolist())
    assert lengths == {24, 23 if "-03-" in day else 25}
    local = pd.DatetimeIndex(future_index(regular, 3)).tz_localize("UTC").tz_convert("Europe/Berlin")
    assert (local.hour == 0).all()


def test_a_local_clock_that_skips_an_hour_has_a_hole():
    # Wall-clock stamps without a zone: 02:00 of 2024-03-31 does not exist in Berlin.
    hours = pd.date_range("2024-03-31 00:00", periods=8, freq="h").delete(2)
    regular = regularise(series(hours))
    assert np.flatnonzero(np.isnan(regular.values)).tolist() == [2]


@settings(max_examples=60, deadline=None)
@given(
    minutes=st.sampled_from([1, 5, 15, 60, 1440]),
    seed=st.integers(0, 1000),
    jitter=st.floats(0.01, 0.12),
)
def test_jittered_clocks_snap_to_the_clock(minutes, seed, jitter):
    rng = np.random.default_rng(seed)
    step = minutes * 60.0
    ticks = 1_700_000_000.0 + step * np.arange(80) + rng.uniform(-jitter, jitter, 80) * step
    one = series(pd.DatetimeIndex((ticks * 1e9).astype(np.int64).astype("datetime64[ns]")))
    regular = regularise(one, f"{minutes}min")
    assert len(regular.values) == 80
    np.testing.assert_array_equal(regular.values, np.arange(80))
    assert regular.moved > 0.9
    moved = np.abs((regular.times - one.times).astype(np.int64)) / 1e9
    assert moved.max() <= 2.001 * jitter * step


def test_a_sensor_that_is_about_ten_minutes_apart():
    rng = np.random.default_rng(1)
    seconds = 600 * np.arange(500) + rng.integers(-20, 21, 500)
    regular = regularise(series(pd.Timestamp("2024-05-01") + pd.to_timedelta(seconds, unit="s")))
    assert regular.frequency == "10 min"
    np.testing.assert_array_equal(regular.values, np.arange(500))


def test_visits_at_no_rhythm_go_to_the_median_gap_and_are_averaged_where_they_meet():
    days = np.array([0, 1, 30, 61, 95, 120, 260])
    one = series(pd.Timestamp("2024-01-01") + pd.to_timedelta(days, unit="D"))
    regular = regularise(one)
    step = float(np.median(np.diff(days)))
    assert (np.diff(regular.times) == np.timedelta64(int(step * 86_400), "s")).all()
    assert np.nansum(regular.values[0]) == pytest.approx(0.5)  # the first two visits, 0 and 1
    assert regular.merged == pytest.approx(2 / 7)
    assert regular.missing > 0.2


@settings(max_examples=100, deadline=None)
@given(
    gaps=st.lists(st.integers(1, 10**4), min_size=1, max_size=40),
    missing=st.sets(st.integers(0, 40)),
    freq=st.sampled_from([None, "37s", "min", "D"]),
)
def test_no_observation_is_lost_or_moved_by_more_than_half_a_step(gaps, missing, freq):
    seconds = np.concatenate([[0], np.cumsum(gaps)])
    values = np.arange(1.0, len(seconds) + 1)
    values[[i for i in missing if i < len(values)]] = np.nan
    one = series(pd.Timestamp("2000-01-01") + pd.to_timedelta(seconds, unit="s"), values)
    regular = regularise(one, freq)
    times = regular.times.astype(np.int64)
    stamps = one.times.astype(np.int64)
    if len(times) > 1:
        nearest = np.abs(times[:, None] - stamps[None]).min(axis=0)
        assert nearest.max() <= np.diff(times).max() // 2 + 1
    # Each grid value is the mean of the observations nearest to it.
    owner = np.abs(times[:, None] - stamps[None]).argmin(axis=0)
    for point in range(len(times)):
        mine = values[owner == point]
        mine = mine[~np.isnan(mine)]
        expected = mine.mean() if len(mine) else np.nan
        np.testing.assert_allclose(regular.values[point], expected)


def test_integers():
    one = Series("s", np.array([10, 20, 30, 60]), np.arange(4.0))
    regular = regularise(one)
    assert (regular.start, regular.step, regular.timezone) == (10, 10, None)
    np.testing.assert_array_equal(regular.values, [0, 1, 2, np.nan, np.nan, 3])
    np.testing.assert_array_equal(future_index(regular, 2), [70, 80])
    assert season_length(regular.step) == 1
    np.testing.assert_array_equal(regularise(one, "20").values, [0, 1.5, np.nan, 3])


@pytest.mark.parametrize(
    ("alias", "season"),
    [
        *(
            ("h", 24),
            ("30min", 48),
            ("15min", 96),
            ("3h", 8),
            ("5h", 1),
            ("min", 1440),
            ("s", 3600),
            ("15s", 240),
        ),
        *(("D", 7), ("2D", 1), ("B", 5), ("W-SAT", 52), ("2W-SAT", 26), ("MS", 12), ("ME", 12), ("BME", 12)),
        *(("QS", 4), ("QE-FEB", 4), ("YS", 1), ("100ms", 1)),
    ],
)
def test_season_length(alias, season):
    assert season_length(infer_step(series(pd.date_range("2020-01-01", periods=30, freq=alias)))) == season


@pytest.mark.parametrize(
    ("old", "new"), [("H", "h"), ("15T", "15min"), ("M", "ME"), ("Q", "QE"), ("A", "YE"), ("d", "D")]
)
def test_old_aliases_still_work(old, new):
    one = series(pd.date_range("2020-01-31", periods=30, freq=new))
    assert regularise(one, old).times.tolist() == regularise(one, new).times.tolist()


def test_a_bare_week_falls_on_the_usual_weekday():
    one = series(pd.date_range("2020-01-04", periods=10, freq="W-SAT"))
    regular = regularise(one, "W")
    assert regular.frequency == "W-SAT"
    assert regular.moved == 0


def test_future_keeps_the_zone_and_horizon_zero_is_empty():
    regular = regularise(series(pd.date_range("2020-01-01", periods=5, freq="h", tz="Asia/Kolkata")))
    assert str(future_index(regular, 1)[0]) == "2019-12-31T23:30:00.000000000"
    assert len(future_index(regular, 0)) == 0
    with pytest.raises(ValueError, match="horizon"):
        future_index(regular, -1)


def test_refusals():
    days = series(pd.date_range("2020-01-01", periods=5))
    integers = Series("n", np.arange(5), np.arange(5.0))
    with pytest.raises(InputError, match=r"'s' has 1 time stamp; expected at least 2"):
        regularise(series(["2020-01-01"]))
    with pytest.raises(InputError, match="'fortnight'; expected a pandas frequency"):
        regularise(days, "fortnight")
    with pytest.raises(InputError, match="'n' has integer times"):
        regularise(integers, "h")
    with pytest.raises(InputError, match="grid points"):
        regularise(days, "ms")
    with pytest.raises(InputError, match="year 2262"):
        grid_times(pd.Timestamp("2261-01-01"), pd.offsets.YearBegin(), 10)
    with pytest.raises(InputError, match="year 2262"):
        grid_times(pd.Timestamp("2261-01-01"), pd.Timedelta(days=1), 100_000)
    with pytest.raises(InputError, match=r"'s' has 5 values; expected at least 6"):
        check_length(days, 6)
    check_length(days, 5)
    check_length(Regular("r", 0, 1, np.zeros(3)), 3)
    with pytest.raises(ValueError, match="alike"):
        Series("s", np.arange(3), np.zeros(2))
