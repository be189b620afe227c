"""Columns of a table as people write them: numbers, names of series, time stamps.

Time stamps are dates, dates with a time of day (both ISO 8601, or d/m/y or m/d/y where the file leaves no
doubt which), with or without a time zone, or integers. Eight digits are YYYYMMDD and six are YYYYMM where
every row is such a date; other whole numbers, years too, count as integers. An empty cell, NA, NaN or null
is a missing number. Row numbers in messages count from 1 below the header.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from degauss.core.errors import InputError
from degauss.timeseries.regular import Times, Values

if TYPE_CHECKING:
    import pandas as pd

TimeKind = Literal["integer", "text date", "text datetime", "date", "timestamp"]

_MISSING = {"", "na", "n/a", "nan", "null", "none", "<na>", "#n/a", "nat"}
_TIME_NAMES = ("time", "timestamp", "datetime", "date")
_ZONE = re.compile(r":\d{2}(?:[.,]\d+)?\s*(Z|z|UTC|[+-]\d{2}(?::?\d{2})?)$")
_QUARTER = re.compile(r"(\d{4})[- ]?[Qq]([1-4])$")
_DAYS = ("%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y", "%d.%m.%Y", "%d %b %Y", "%d %B %Y", "%d-%b-%Y",
         "%b %d, %Y", "%B %d, %Y", "%b %d %Y", "%B %d %Y", "%b %Y", "%B %Y", "%b-%Y", "%m/%Y")  # fmt: skip
_CLOCKS = ("", " %H:%M", " %H:%M:%S")
_ADVICE = "expected dates such as 2024-03-31 or 2024-03-31 14:00, or whole numbers"


# --- numbers and names ---------------------------------------------------------------------------------


def looks_numeric(column: pd.Series[Any], decimal: str) -> bool:
    """Whether the first filled cells are numbers; a bad cell further down is an error, not a text column."""
    if column.dtype.kind in "biuf":
        return True
    if column.dtype.kind == "M":
        return False
    cells = [cell for cell in column.iloc[:1000].astype(str) if cell.strip().casefold() not in _MISSING]
    numbers = sum(_is_number(cell, decimal) for cell in cells)
    return 2 * numbers > len(cells) or not cells


def _is_number(cell: str, decimal: str) -> bool:
    try:
        float(cell if decimal == "." else cell.replace(decimal, "."))
    except ValueError:
        return False
    return True


def read_numbers(path: Path, name: str, column: pd.Series[Any], decimal: str) -> Values:
    """A target column as float64 with NaN where empty; InputError for text and for infinite values."""
    if column.dtype.kind in "biuf":
        values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    else:
        cells = column.to_numpy(dtype=object, na_value="")
        if decimal != ".":
            cells = np.array([str(cell).replace(decimal, ".") for cell in cells], dtype=object)
        empty = np.array([str(cell).strip().casefold() in _MISSING for cell in cells], dtype=bool)
        cells = np.where(empty, "nan", cells)
        try:
            values = cells.astype(np.float64)
        except (ValueError, TypeError):
            row = next(row for row, cell in enumerate(cells) if not _is_number(str(cell), "."))
            raise InputError(
                f"{path}: column {name!r}, row {row + 1} holds {_shown(column.iloc[row])}; expected a "
                "number or an empty cell."
            ) from None
    infinite = np.flatnonzero(np.isinf(values))
    if len(infinite):
        raise InputError(
            f"{path}: column {name!r}, row {infinite[0] + 1} holds an infinite value; expected a finite "
            "number or an empty cell."
        )
    return values


def read_ids(path: Path, name: str, column: pd.Series[Any]) -> NDArray[np.object_]:
    names = column.to_numpy(dtype=object, na_value="")
    names = np.array([str(cell).strip() for cell in names], dtype=object)
    empty = np.flatnonzero(names == "")
    if len(empty):
        raise InputError(f"{path}: id column {name!r}, row {empty[0] + 1} is empty; expected the name of a series.")
    return names


def _shown(cell: object) -> str:
    text = str(cell)
    return repr(text if len(text) <= 40 else text[:37] + "...")


# --- time stamps ---------------------------------------------------------------------------------------


def default_time(columns: Sequence[str], id: str | None) -> str:
    if "ds" in columns:
        return "ds"
    free = [c for c in columns if c not in (id, "unique_id")] or list(columns)
    return next((c for c in free if c.strip().casefold() in _TIME_NAMES), free[0])


def read_times(path: Path, name: str, column: pd.Series[Any]) -> tuple[Times, TimeKind, str | None]:
    """Time stamps as datetime64[ns] (UTC with a zone) or int64, how they were written, and the zone."""
    import pandas as pd

    empty = np.flatnonzero(column.isna().to_numpy() | (column.astype(str).str.strip() == "").to_numpy())
    if len(empty):
        raise InputError(f"{path}: time column {name!r}, row {empty[0] + 1} is empty; {_ADVICE}.")
    if column.dtype.kind == "M":
        stamps = pd.DatetimeIndex(column)
        return _nanoseconds(path, name, stamps), "timestamp", None if stamps.tz is None else str(stamps.tz)
    if column.dtype.kind in "iu":
        return column.to_numpy(dtype=np.int64), "integer", None
    if column.dtype.kind in "bf":
        return _whole_numbers(path, name, column.to_numpy(dtype=np.float64)), "integer", None
    import datetime

    cells = column.to_numpy(dtype=object)
    if isinstance(cells[0], datetime.date) and not isinstance(cells[0], datetime.datetime):
        text = pd.Series([str(cell) for cell in cells])
        return _parse(path, name, text)[0], "date", None
    return _parse(path, name, column.astype(str).str.strip())


def _parse(path: Path, name: str, text: pd.Series[str]) -> tuple[Times, TimeKind, str | None]:
    import pandas as pd

    if bool(text.str.fullmatch(r"[+-]?\d+(\.\d*)?").all()):
        dated = _compact_dates(text)
        if dated is not None:
            return _nanoseconds(path, name, dated), "text date", None
        if bool(text.str.fullmatch(r"[+-]?\d{1,18}").all()):
            return text.astype("int64").to_numpy(), "integer", None
        return _whole_numbers(path, name, np.asarray(text, dtype=np.float64)), "integer", None
    zone = _zone(path, name, text)
    stamps = pd.to_datetime(text, format="ISO8601", errors="coerce")
    if stamps.isna().any():
        stamps = _other_formats(path, name, text, stamps)
    index = pd.DatetimeIndex(stamps)
    kind: TimeKind = "text datetime" if text.str.contains(":", regex=False).any() else "text date"
    return _nanoseconds(path, name, index), kind, zone


def _compact_dates(text: pd.Series[str]) -> pd.DatetimeIndex | None:
    """YYYYMMDD or YYYYMM in every row and a year from 1600 to 2199, else None."""
    import pandas as pd

    for digits, pattern in (("8", "%Y%m%d"), ("6", "%Y%m")):
        if bool(text.str.fullmatch(rf"(1[6-9]|2[01])\d{{{int(digits) - 2}}}").all()):
            stamps = pd.to_datetime(text, format=pattern, errors="coerce")
            if not stamps.isna().any():
                return pd.DatetimeIndex(stamps)
    return None


def _zone(path: Path, name: str, text: pd.Series[str]) -> str | None:
    """The one UTC offset of all rows ('UTC', 'UTC+02:00'), None if no row has any; a mixture is an error."""
    found = text.str.extract(_ZONE, expand=False).fillna("")
    unique = {offset: _offset_name(str(offset)) for offset in found.unique()}
    if len(set(unique.values())) > 1:
        offsets = found.map(unique)
        row = int(np.flatnonzero((offsets != offsets.iloc[0]).to_numpy())[0])
        first, second = (offsets.iloc[i] or "no time zone" for i in (0, row))
        raise InputError(
            f"{path}: time column {name!r} mixes time zones ({first} in row 1, {second} in row {row + 1}); "
            "expected one, so write all times in UTC."
        )
    return next(iter(unique.values())) or None


def _offset_name(offset: str) -> str:
    if not offset:
        return ""
    digits = re.sub(r"\D", "", offset).ljust(4, "0")
    if not int(digits):
        return "UTC"
    return f"UTC{offset[0]}{digits[:2]}:{digits[2:]}"


def _other_formats(path: Path, name: str, text: pd.Series[str], iso: pd.Series[Any]) -> pd.Series[Any]:
    """Stamps that are not all ISO 8601: the one other format that reads every row, or an error."""
    import pandas as pd

    if bool(iso.notna().iloc[:50].mean() > 0.5):
        _refuse_stamp(path, name, text, iso)
    if _QUARTER.match(str(text.iloc[0])):
        parts = text.str.extract(_QUARTER)
        months = parts[0] + "-" + (parts[1].astype("Int64") * 3 - 2).astype(str)
        quarters = pd.to_datetime(months.where(parts[0].notna()), format="%Y-%m", errors="coerce")
        if quarters.isna().any():
            _refuse_stamp(path, name, text, quarters)
        return quarters
    head = text.iloc[:50]
    formats = [day + clock for day in _DAYS for clock in _CLOCKS]
    scores = {f: int(pd.to_datetime(head, format=f, errors="coerce").notna().sum()) for f in formats}
    best = max(scores.values())
    if 2 * best < len(head):
        _refuse_stamp(path, name, text, iso)
    readings = {f: pd.to_datetime(text, format=f, errors="coerce") for f in formats if scores[f] == best}
    whole = {f: stamps for f, stamps in readings.items() if not stamps.isna().any()}
    if not whole:
        _refuse_stamp(path, name, text, max(readings.values(), key=lambda stamps: int(stamps.notna().sum())))
    first, *others = whole.values()
    if any(not other.equals(first) for other in others):
        raise InputError(
            f"{path}: time column {name!r} could be day/month or month/day (row 1 holds {text.iloc[0]!r}); "
            "expected dates such as 2024-03-31."
        )
    return first


def _refuse_stamp(path: Path, name: str, text: pd.Series[str], stamps: pd.Series[Any]) -> NoReturn:
    row = int(np.flatnonzero(stamps.isna().to_numpy())[0])
    raise InputError(f"{path}: time column {name!r}, row {row + 1} holds {text.iloc[row]!r}; {_ADVICE}.")


def _nanoseconds(path: Path, name: str, stamps: pd.DatetimeIndex) -> Times:
    import pandas as pd

    if stamps.tz is not None:
        stamps = stamps.tz_convert("UTC").tz_localize(None)
    try:
        return stamps.as_unit("ns").to_numpy().copy()
    except pd.errors.OutOfBoundsDatetime:
        years = stamps.year.to_numpy()
        row = int(np.flatnonzero((years < 1678) | (years > 2261))[0])
        raise InputError(
            f"{path}: time column {name!r}, row {row + 1} holds {stamps[row]}; expected a year from 1678 to 2261."
        ) from None


def _whole_numbers(path: Path, name: str, numbers: Values) -> Times:
    fraction = np.flatnonzero((numbers != np.floor(numbers)) | (np.abs(numbers) > 2**53))
    if len(fraction):
        row = int(fraction[0])
        raise InputError(f"{path}: time column {name!r}, row {row + 1} holds {numbers[row]:g}; {_ADVICE}.")
    return numbers.astype(np.int64)


def shown_stamp(stamp: Any) -> str:
    if isinstance(stamp, np.datetime64):
        text = str(stamp.astype("datetime64[s]")).replace("T", " ")
        return text.removesuffix(" 00:00:00")
    return str(stamp)
