"""Series as people have them, and the regular grid a model needs.

A `Series` is a list of time stamps with values: unevenly spaced if it likes, with holes where
nothing was measured. A `Regular` is the same record on an evenly counted grid

    t_i = start + i * step,    i = 0 .. n - 1,

where a step is a calendar offset (a day, a business day, a week ending on some weekday, a month, ...),
a fixed duration (`pandas.Timedelta`) or, for integer stamps, an integer. `regularise` goes from the
first to the second: it finds the step, moves every observation to the nearest grid point, averages
those that meet there, leaves NaN where nothing was observed, and says how much it moved.

Times are `datetime64[ns]` (int64 for integer stamps) in plain numpy. With a time zone they are UTC
instants; calendar steps then count on the local clock, so that a day may last 23 or 25 hours, and
durations count physical time.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from degauss.core.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    from pandas.tseries.offsets import BaseOffset

    Step = int | pd.Timedelta | BaseOffset

Times = NDArray[Any]  # datetime64[ns] or int64
Values = NDArray[np.float64]

_DAY = 86_400 * 10**9  # nanoseconds
_MAX_POINTS = 20_000_000
_MAX_HOLES = 4.0  # a grid is believed while the median gap between observations is at most so many steps
_NICE_SECONDS = (1, 5, 10, 15, 30, 60, 300, 600, 900, 1800, 3600, 7200, 10800, 14400, 21600, 28800, 43200)
_NICE_DAYS = (1, 7)
_OLD_ALIASES = {
    "H": "h", "T": "min", "S": "s", "L": "ms", "U": "us", "N": "ns", "d": "D", "b": "B", "w": "W",
    "M": "ME", "Q": "QE", "A": "YE", "Y": "YE", "AS": "YS",
    "BM": "BME", "BQ": "BQE", "BA": "BYE", "BY": "BYE",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Series:
    """One record: `times [n]` strictly increasing, `values [n]` float64 with NaN where not observed.

    `times` are datetime64[ns], or int64 for integer stamps; UTC instants where `timezone` is set.
    """

    name: str
    times: Times
    values: Values
    timezone: str | None = None

    def __post_init__(self) -> None:
        if self.times.shape != self.values.shape or self.times.ndim != 1:
            raise ValueError(f"times and values must be 1-D and alike, got {self.times.shape} and {self.values.shape}")


@dataclass(frozen=True, eq=False)
class Regular:
    """A record on the grid `start + i * step`, `values [n]` with NaN where nothing was observed.

    `moved` is the share of observations whose time stamp was not on the grid, `merged` the share that
    met another one on their grid point and was averaged with it.
    """

    name: str
    start: pd.Timestamp | int
    step: Step
    values: Values
    moved: float = 0.0
    merged: float = 0.0

    @property
    def missing(self) -> float:
        """The share of grid points without an observation."""
        return float(np.isnan(self.values).mean())

    @property
    def timezone(self) -> str | None:
        """Name of the time zone, or None for a local or an integer clock."""
        zone = None if isinstance(self.start, int) else self.start.tz
        return None if zone is None else str(zone)

    @property
    def times(self) -> Times:
        """The grid `[n]`: datetime64[ns] (UTC where there is a time zone) or int64."""
        return grid_times(self.start, self.step, len(self.values))

    @property
    def frequency(self) -> str:
        """The step in words, for messages and captions: '7 days', 'MS', '30 min'."""
        return describe_step(self.step)


def regularise(series: Series, freq: str | None = None) -> Regular:
    """Put a series on a regular grid; raise `InputError` if no step can be found or `freq` does not fit.

    Without `freq` the step is `infer_step(series)`. `freq` is a pandas frequency alias ('h', '15min',
    'D', 'B', 'W', 'MS', 'QE', ...; the spellings of older pandas are understood) or an integer for
    integer stamps; a 'W' without a weekday takes the weekday most stamps fall on. Observations go to the
    nearest grid point (the earlier one of two equally near), which is snapping, not resampling.
    """
    step = infer_step(series) if freq is None else _parse_freq(freq, series)
    start, index = _place(series, step)
    first, last = int(index.min()), int(index.max())
    count = last - first + 1
    if count > _MAX_POINTS:
        raise InputError(
            f"series {series.name!r} would need {count:,} grid points at a step of {describe_step(step)}; "
            f"expected at most {_MAX_POINTS:,}, so give a coarser freq."
        )
    start = _advance(start, step, first)
    index = index - first
    seen = ~np.isnan(series.values)
    totals = np.bincount(index[seen], weights=series.values[seen], minlength=count)
    counts = np.bincount(index[seen], minlength=count)
    values = np.full(count, np.nan)
    np.divide(totals, counts, out=values, where=counts > 0)
    moved = grid_times(start, step, count)[index[seen]] != series.times[seen]
    observed = max(int(seen.sum()), 1)
    return Regular(
        name=series.name,
        start=start,
        step=step,
        values=values,
        moved=float(moved.sum()) / observed,
        merged=float(counts[counts > 1].sum()) / observed,
    )


def future_index(regular: Regular, horizon: int) -> Times:
    """The `horizon` grid times that follow the last one: datetime64[ns] (UTC with a time zone) or int64."""
    if horizon < 0:
        raise ValueError(f"horizon must not be negative, got {horizon}")
    last = _advance(regular.start, regular.step, len(regular.values) - 1)
    return grid_times(last, regular.step, horizon + 1)[1:]


def season_length(step: Step) -> int:
    """How many steps the usual season of this step has: the seasonal naive forecast repeats it.

    A day for sub-daily steps of a minute or more (hourly 24, half-hourly 48), an hour for seconds, a week
    for days (daily 7, business-daily 5), a year for weeks (52), months (12) and quarters (4), and 1 where
    there is none (years, integers, or steps that do not divide the season).
    """
    if isinstance(step, int):
        return 1
    months = _months(step)
    if months:
        return _whole(12, months)
    if _prefix(step) in ("B", "C"):
        return _whole(5, _count(step))
    seconds = _nanoseconds(step) / 1e9
    if seconds < 1:
        return 1
    if seconds < 60:
        return _whole(3600, seconds)
    if seconds < 86_400:
        return _whole(86_400, seconds)
    days = seconds / 86_400
    if days < 7:
        return _whole(7, days)
    return _whole(52, days / 7)


def infer_step(series: Series) -> Step:
    """Find the step of a series from its time stamps (missing rows allowed).

    Integers: the greatest common divisor of the gaps. Stamps that share one time of day: month starts or
    ends, business month starts or ends, a fixed day of the month (each also by quarters and years), weeks
    on one weekday, business days (no stamp on a weekend although some passed), days. Other stamps: the
    greatest common divisor of the gaps. Each is believed if half of the gaps are at most four steps. What
    remains is irregular: the median gap, rounded to a month, a quarter, a year or a usual duration where
    it is within two per cent of one. Raises `InputError` for fewer than two time stamps.
    """
    if len(series.times) < 2:
        raise InputError(
            f"series {series.name!r} has {len(series.times)} time stamp; expected at least 2 to find "
            "the step (or give freq)."
        )
    clock = _clock(series.times, series.timezone)
    if not _dated(series.times):
        gaps = np.diff(clock)
        divisor = int(np.gcd.reduce(gaps))
        return divisor if _believed(gaps, divisor) else max(round(float(np.median(gaps))), 1)
    of_day = clock % _DAY
    step = _calendar_step(clock // _DAY) if bool((of_day == of_day[0]).all()) else None
    return step or _duration(series.times.astype(np.int64), clock)


def grid_times(start: pd.Timestamp | int, step: Step, count: int) -> Times:
    """`start + i * step` for i < count: datetime64[ns] (UTC if `start` has a time zone) or int64."""
    import pandas as pd

    if isinstance(start, int):
        return start + cast(int, step) * np.arange(count, dtype=np.int64)
    try:
        if isinstance(step, pd.Timedelta):
            span = step.value * (count - 1)
            if abs(start.value + span) > np.iinfo(np.int64).max:
                raise OverflowError
            return (start.value + step.value * np.arange(count, dtype=np.int64)).astype("datetime64[ns]")
        local = start.tz_localize(None)
        if isinstance(step, pd.offsets.Day):
            clock = (local.value + _DAY * step.n * np.arange(count, dtype=np.int64)).astype("datetime64[ns]")
        else:
            clock = pd.date_range(local, periods=count, freq=cast("BaseOffset", step)).as_unit("ns").to_numpy()
    except (pd.errors.OutOfBoundsDatetime, OverflowError):
        raise InputError(
            f"{count} steps of {describe_step(step)} from {start} run past the year 2262; expected earlier times."
        ) from None
    return clock if start.tz is None else _to_utc(clock, str(start.tz))


def describe_step(step: Step) -> str:
    """A step in words: 'D', 'W-SAT', '30 min', 'month', '1 day 12:00:00', 'step 1' for integers."""
    import pandas as pd

    if isinstance(step, int):
        return f"step {step}"
    if isinstance(step, pd.Timedelta):
        for unit, size in (("day", _DAY), ("h", 3600 * 10**9), ("min", 60 * 10**9), ("s", 10**9)):
            if step.value % size == 0:
                count = step.value // size
                return f"{count} {unit}{'s' if unit == 'day' and count > 1 else ''}"
        return str(step)
    months = _months(step)
    if months and _prefix(step) == "":
        return "month" if months == 1 else f"{months} months"
    return step.freqstr


def check_length(series: Series | Regular, context: int) -> None:
    """Raise `InputError` if the series has fewer than `context` values (grid points of a `Regular`)."""
    count = len(series.values)
    if count < context:
        raise InputError(
            f"series {series.name!r} has {count} value{'' if count == 1 else 's'}; expected at least "
            f"{context}, the context of the model."
        )


# --- the step --------------------------------------------------------------------------------------


def _calendar_step(days: NDArray[np.int64]) -> Step | None:
    """The calendar step of whole days since 1970-01-01, or None where they follow no calendar."""
    return _month_step(days) or _day_step(days)


def _month_step(days: NDArray[np.int64]) -> Step | None:
    import pandas as pd

    dates = days.astype("datetime64[D]")
    months = dates.astype("datetime64[M]")
    gaps = np.diff(months.astype(np.int64))
    if gaps.min() < 1:
        return None
    count = int(np.gcd.reduce(gaps))
    if not _believed(gaps, count):
        return None
    first_day = months.astype("datetime64[D]")
    last_day = (months + 1).astype("datetime64[D]") - 1
    day_of_month = (dates - first_day).astype(np.int64) + 1
    month = int(months[0].astype(np.int64)) % 12 + 1
    years, quarters = count // 12, count // 3
    whole_years, whole_quarters = count % 12 == 0, count % 3 == 0
    if bool((dates == first_day).all()):
        if whole_years:
            return pd.offsets.YearBegin(years, month=month)
        return (
            pd.offsets.QuarterBegin(quarters, startingMonth=month) if whole_quarters else pd.offsets.MonthBegin(count)
        )
    if bool((dates == last_day).all()):
        if whole_years:
            return pd.offsets.YearEnd(years, month=month)
        return pd.offsets.QuarterEnd(quarters, startingMonth=month) if whole_quarters else pd.offsets.MonthEnd(count)
    if bool((dates == np.busday_offset(first_day, 0, roll="forward")).all()):
        return pd.offsets.BusinessMonthBegin(count)
    if bool((dates == np.busday_offset(last_day, 0, roll="backward")).all()):
        return pd.offsets.BusinessMonthEnd(count)
    if day_of_month[0] <= 28 and bool((day_of_month == day_of_month[0]).all()):
        return pd.offsets.DateOffset(months=count)
    return None


def _day_step(days: NDArray[np.int64]) -> Step | None:
    import pandas as pd

    gaps = np.diff(days)
    count = int(np.gcd.reduce(gaps))
    weekdays = (days + 3) % 7  # 1970-01-01 was a Thursday; Monday is 0
    if count % 7 == 0 and _believed(gaps, count):
        return pd.offsets.Week(count // 7, weekday=int(weekdays[0]))
    dates = days.astype("datetime64[D]")
    business_gaps = np.busday_count(dates[:-1], dates[1:])
    weekend_passed = int(business_gaps.sum()) <= int(days[-1] - days[0]) - 2
    if count == 1 and weekdays.max() < 5 and weekend_passed and _believed(business_gaps, 1):
        return pd.offsets.BusinessDay()
    return pd.offsets.Day(count) if _believed(gaps, count) else None


def _duration(instants: NDArray[np.int64], clock: NDArray[np.int64]) -> Step:
    """The step of stamps that follow no calendar: the common divisor of the gaps, else the median gap."""
    import pandas as pd

    gaps = np.diff(instants)
    divisor = int(np.gcd.reduce(gaps))
    if _believed(gaps, divisor):
        return pd.Timedelta(divisor, unit="ns")
    median = float(np.median(gaps))
    months = clock.astype("datetime64[ns]").astype("datetime64[M]").astype(np.int64)
    for count, low, high in ((1, 28, 31), (3, 89, 93), (12, 364, 367)):
        whole = float(np.median(np.diff(months))) == count
        if whole and low * _DAY <= median <= high * _DAY:
            return pd.offsets.DateOffset(months=count)
    for days in _NICE_DAYS:
        if abs(median / _DAY - days) <= 0.02 * days:
            return pd.offsets.Day(days)
    for seconds in _NICE_SECONDS:
        if abs(median / 1e9 - seconds) <= 0.02 * seconds:
            return pd.Timedelta(seconds, unit="s")
    return pd.Timedelta(max(round(median), 1), unit="ns")


def _believed(gaps: NDArray[np.int64], step: int) -> bool:
    return float(np.median(gaps)) <= _MAX_HOLES * step


def _parse_freq(freq: str, series: Series) -> Step:
    import pandas as pd
    from pandas.tseries.frequencies import to_offset

    if not _dated(series.times):
        if re.fullmatch(r"[1-9]\d*", freq.strip()):
            return int(freq)
        raise InputError(f"freq is {freq!r}, but series {series.name!r} has integer times; expected a whole number.")
    match = re.fullmatch(r"\s*(\d*)\s*([A-Za-z]+)(-[A-Za-z]+)?\s*", freq)
    alias = ""
    if match:
        count, letters, anchor = match.group(1), match.group(2), match.group(3) or ""
        letters = _OLD_ALIASES.get(letters, letters)
        if letters == "W" and not anchor:
            anchor = "-" + _usual_weekday(series)
        alias = f"{count}{letters}{anchor}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            offset = to_offset(alias or freq)
    except ValueError:
        offset = None
    if offset is None or offset.n < 1:
        raise InputError(
            f"freq is {freq!r}; expected a pandas frequency such as 's', '15min', 'h', 'D', 'B', 'W', "
            "'MS', 'ME', 'QS' or 'YS'."
        )
    if isinstance(offset, pd.offsets.Day) or not isinstance(offset, pd.offsets.Tick):
        return offset
    return pd.Timedelta(offset.nanos, unit="ns")


def _usual_weekday(series: Series) -> str:
    weekdays = (_clock(series.times, series.timezone) // _DAY + 3) % 7
    return ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")[int(np.bincount(weekdays).argmax())]


# --- from stamps to grid points ----------------------------------------------------------------------


def _place(series: Series, step: Step) -> tuple[pd.Timestamp | int, NDArray[np.int64]]:
    """A grid start and, for every stamp, the index of the nearest point of the grid from that start."""
    import pandas as pd

    if isinstance(step, int):
        first, index = _nearest_multiple(series.times, step)
        return first, index
    if isinstance(step, pd.Timedelta):
        first, index = _nearest_multiple(series.times.astype(np.int64), step.value)
        start = pd.Timestamp(first, unit="ns", tz="UTC" if series.timezone else None)
        return (start.tz_convert(series.timezone) if series.timezone else start), index
    clock = _clock(series.times, series.timezone)
    begin, end = pd.Timestamp(int(clock[0])), pd.Timestamp(int(clock[-1]))
    if _prefix(step) == "":
        # A bare "every so many months" holds to no day by itself: anchor it at the usual day of the month.
        days = clock.astype("datetime64[ns]").astype("datetime64[D]")
        day = int(np.median((days - days.astype("datetime64[M]")).astype(np.int64))) + 1
        begin = (begin - step).replace(day=min(day, 28))
    elif not step.is_on_offset(begin):
        begin = step.rollback(begin)
    grid = pd.date_range(begin, end + 2 * step, freq=step).as_unit("ns").to_numpy().astype(np.int64)
    right = np.clip(np.searchsorted(grid, clock), 1, len(grid) - 1)
    index = np.where(grid[right] - clock < clock - grid[right - 1], right, right - 1)
    start = pd.Timestamp(int(grid[0]))
    if series.timezone:
        start = pd.Timestamp(int(_to_utc(grid[:1].astype("datetime64[ns]"), series.timezone)[0].astype(np.int64)))
        start = start.tz_localize("UTC").tz_convert(series.timezone)
    return start, index


def _nearest_multiple(times: Times, step: int) -> tuple[int, NDArray[np.int64]]:
    """Origin and indices of the grid of this step whose phase is the median phase of the stamps."""
    offset = times - times[0]
    phase = (offset + step // 2) % step - step // 2
    shift = int(np.median(phase))
    # Half a step rounds down: the earlier point wins a tie.
    index = -((2 * (shift - offset) + step) // (2 * step))
    return int(times[0]) + shift, index


def _advance(start: pd.Timestamp | int, step: Step, count: int) -> pd.Timestamp | int:
    """`start + count * step`."""
    import pandas as pd

    if isinstance(start, int):
        return start + cast(int, step) * count
    if count == 0:
        return start
    instant = pd.Timestamp(int(grid_times(start, step, count + 1)[-1].astype(np.int64)))
    return instant if start.tz is None else instant.tz_localize("UTC").tz_convert(start.tz)


def _dated(times: Times) -> bool:
    return times.dtype.kind == "M"


def _clock(times: Times, timezone: str | None) -> NDArray[np.int64]:
    """Stamps as int64: nanoseconds since 1970 on the local clock, or the integers themselves."""
    import pandas as pd

    if timezone is None:
        return times.astype(np.int64)
    local = pd.DatetimeIndex(times).tz_localize("UTC").tz_convert(timezone).tz_localize(None)
    return local.as_unit("ns").to_numpy().astype(np.int64)


def _to_utc(clock: Times, timezone: str) -> Times:
    """Local clock to UTC instants; a time that a clock change skips moves to the end of the skip."""
    import pandas as pd

    first = np.ones(len(clock), dtype=bool)  # of two equal local times, the first (summer time)
    local = pd.DatetimeIndex(clock).tz_localize(timezone, ambiguous=first, nonexistent="shift_forward")
    return local.tz_convert("UTC").tz_localize(None).as_unit("ns").to_numpy()


# --- what pandas knows of a step ---------------------------------------------------------------------


def _prefix(step: Step) -> str:
    """The alias without count and anchor ('QS' of '2QS-FEB'); empty for a bare `DateOffset`."""
    import pandas as pd

    if isinstance(step, int | pd.Timedelta) or type(step) is pd.offsets.DateOffset:
        return ""
    return step.rule_code.split("-")[0]


def _count(step: Step) -> int:
    return int(getattr(step, "n", 1))


def _months(step: Step) -> int:
    """How many calendar months a step has; 0 if it is no step of months."""
    import pandas as pd

    if type(step) is pd.offsets.DateOffset:
        return _count(step) * int(step.kwds.get("months", 0))
    sizes = {"MS": 1, "ME": 1, "BMS": 1, "BME": 1, "QS": 3, "QE": 3, "BQS": 3, "BQE": 3}
    sizes |= {"YS": 12, "YE": 12, "BYS": 12, "BYE": 12}
    return _count(step) * sizes.get(_prefix(step), 0)


def _nanoseconds(step: Step) -> int:
    import pandas as pd

    if isinstance(step, pd.Timedelta):
        return step.value
    days = {"D": 1, "W": 7}.get(_prefix(step), 0)
    return _count(step) * days * _DAY


def _whole(season: float, step: float) -> int:
    """`season / step` where that is a whole number above one, else 1 (no season)."""
    ratio = season / step
    return round(ratio) if ratio >= 1 and abs(ratio - round(ratio)) < 1e-9 else 1
