"""People's own tables in, forecasts out: CSV, TSV and parquet, in long or wide form.

Which form a table has is decided by its columns:

* **time**: the column named; else `ds`; else one called time, timestamp, datetime or date; else the first
  that holds no ids.
* **long**: a target column is named, or there is a `y`, or only one column of numbers remains. Rows
  belong to the series in the id column (the one named, else `unique_id` if there is one, else all rows
  are one series, named after the target).
* **wide**: none of these, so every further column is a series and has to be numeric. Several target
  columns may be named to choose among them. Columns without a name (an index somebody saved) are not series.

Time stamps are dates, dates with a time of day (both ISO 8601, or d/m/y or m/d/y where the file leaves no
doubt which), with or without a time zone, or integers. Eight digits are YYYYMMDD and six are YYYYMM where
every row is such a date; other whole numbers, years too, count as integers. Rows may come in any order;
uneven and missing stamps are data (see `regular`). An empty cell, NA, NaN or null in a target column is a
missing value. Row numbers in messages count from 1 below the header.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, cast

import numpy as np
from numpy.typing import NDArray

from degauss.core.errors import InputError, near_miss
from degauss.timeseries.regular import Series, Times, Values

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


@dataclass(frozen=True, eq=False)
class Table:
    """The series of one file, and what is needed to write results as the file was written.

    `id`, `time` and `target` are the column names; `time_kind` says how time stamps were written and
    `integer_ids` whether the ids were integers (in a parquet file) rather than text.
    """

    path: Path
    series: tuple[Series, ...]
    id: str = "unique_id"
    time: str = "ds"
    target: str = "y"
    time_kind: TimeKind = "text date"
    integer_ids: bool = False


@dataclass(frozen=True, eq=False)
class Forecast:
    """The predictive distribution of one series at some times.

    `times [n]` as in `Series`, `mean [n]`, `quantiles [levels, n]` at `levels` in (0, 1), `samples
    [draws, n]` if they are to be written, `cutoff` the last time that was known (None for imputation).
    """

    name: str
    times: Times
    mean: Values
    levels: tuple[float, ...]
    quantiles: Values
    samples: Values | None = None
    cutoff: np.datetime64 | int | None = None
    timezone: str | None = None

    def __post_init__(self) -> None:
        count = len(self.times)
        if self.mean.shape != (count,) or self.quantiles.shape != (len(self.levels), count):
            raise ValueError(
                f"expected mean [{count}] and quantiles [{len(self.levels)}, {count}], "
                f"got {list(self.mean.shape)} and {list(self.quantiles.shape)}"
            )
        if self.samples is not None and self.samples.shape[1:] != (count,):
            raise ValueError(f"expected samples [draws, {count}], got {list(self.samples.shape)}")


def read_table(
    path: str | Path,
    *,
    id: str | None = None,
    time: str | None = None,
    target: str | Sequence[str] | None = None,
) -> Table:
    """Read every series of a CSV, TSV or parquet file (recognised by content; text may be gzipped).

    The three names override what the module's rules would choose. Raises `InputError`, in one sentence
    that names file, column and row, where the file cannot be read as series.
    """
    path = Path(path)
    frame, decimal = _read_frame(path)
    columns = list(frame.columns)
    time = _find(path, columns, time, "time") or _default_time(columns, id)
    targets, id, wide = _choose(path, frame, time, id, target, decimal)
    if len(frame) == 0:
        raise InputError(f"{path}: has a header ({_listed(columns)}) but no rows; expected at least one.")
    times, kind, timezone = _times(path, time, frame[time])
    numbers = {name: _numbers(path, name, frame[name], decimal) for name in targets}
    integer_ids = False
    if id is None:
        rows = np.arange(len(frame))
        hint = "" if wide else ", or the name of the id column if the file holds several series"
        parts = [_sorted(path, time, name, times, numbers[name], timezone, rows, hint) for name in targets]
    else:
        ids = frame[id]
        integer_ids = bool(ids.dtype.kind in "iu")
        names = _ids(path, id, ids)
        parts = _split(path, time, names, times, numbers[targets[0]], timezone)
    return Table(
        path=path,
        series=tuple(parts),
        id=id or "unique_id",
        time=time if not _nameless(time) else "ds",
        target="y" if wide else targets[0],
        time_kind=kind,
        integer_ids=integer_ids,
    )


def write_series(path: str | Path, series: Iterable[Series], like: Table) -> None:
    """Write series in long form (id, time, target), named and dated as in `like`; NaN becomes an empty cell.

    `path` ends in .csv, .tsv or .parquet; it appears whole or not at all.
    """
    import pandas as pd

    parts = list(series)
    frame = pd.DataFrame(
        {
            like.id: _write_ids([(part.name, len(part.times)) for part in parts], like),
            like.time: _write_times([(part.times, part.timezone) for part in parts], like),
            like.target: np.concatenate([part.values for part in parts]) if parts else np.empty(0),
        }
    )
    _write_frame(Path(path), frame)


def write_forecasts(path: str | Path, forecasts: Iterable[Forecast], like: Table) -> None:
    """Write forecasts in long form: id, time, cutoff where there is one, mean, q0.1, ..., sample_0, ...

    Names of the id and time columns, and the way time stamps are written, are those of `like`. All forecasts
    must share their levels and number of samples. `path` ends in .csv, .tsv or .parquet.
    """
    import pandas as pd

    parts = list(forecasts)
    if not parts:
        raise ValueError("expected at least one forecast to write")
    if len({part.levels for part in parts}) > 1:
        raise ValueError("all forecasts of a file must have the same quantile levels")
    if len({None if part.samples is None else len(part.samples) for part in parts}) > 1:
        raise ValueError("all forecasts of a file must have the same number of samples")
    columns: dict[str, Any] = {
        like.id: _write_ids([(part.name, len(part.times)) for part in parts], like),
        like.time: _write_times([(part.times, part.timezone) for part in parts], like),
    }
    cutoffs = [(part.cutoff, part) for part in parts if part.cutoff is not None]
    if cutoffs:
        if len(cutoffs) < len(parts):
            raise ValueError("either all forecasts of a file have a cutoff or none has")
        columns["cutoff"] = _write_times(
            [(np.full(len(p.times), cutoff, dtype=p.times.dtype), p.timezone) for cutoff, p in cutoffs], like
        )
    columns["mean"] = np.concatenate([part.mean for part in parts])
    for row, level in enumerate(parts[0].levels):
        columns[f"q{level:g}"] = np.concatenate([part.quantiles[row] for part in parts])
    if parts[0].samples is not None:
        draws = np.concatenate([cast(Values, part.samples) for part in parts], axis=1)
        columns |= {f"sample_{row}": draw for row, draw in enumerate(draws)}
    _write_frame(Path(path), pd.DataFrame(columns))


# --- reading: the frame --------------------------------------------------------------------------------


def _read_frame(path: Path) -> tuple[pd.DataFrame, str]:
    """The raw frame (text columns from a text file) and the decimal mark of its numbers."""
    import pandas as pd

    try:
        with path.open("rb") as file:
            head = file.read(65_536)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file.") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a directory; expected a CSV, TSV or parquet file.") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from None
    if head.startswith(b"PAR1"):
        return _read_parquet(path), "."
    compression: Literal["gzip"] | None = None
    if head.startswith(b"\x1f\x8b"):
        import gzip
        import zlib

        compression = "gzip"
        try:
            with gzip.open(path, "rb") as file:
                head = file.read(65_536)
        except (OSError, EOFError, zlib.error):
            raise InputError(f"{path}: is a damaged gzip file.") from None
    if not _header(head).strip():
        raise InputError(f"{path}: is empty; expected a table with a header row.")
    if head.startswith(b"PK\x03\x04"):
        raise InputError(f"{path}: is a zip or spreadsheet file; expected CSV, TSV or parquet, so export it as CSV.")
    if any(byte < 32 and byte not in b"\t\n\r\f" for byte in set(head)):
        raise InputError(f"{path}: is not a text table or a parquet file; expected CSV, TSV or parquet.")
    separator = _separator(head)
    _check_header(path, head, separator)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the header
            frame = pd.read_csv(
                path,
                sep=separator,
                dtype=str,
                keep_default_na=False,
                encoding="utf-8-sig",
                compression=compression,
                index_col=False,
                skipinitialspace=True,
            )
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text ({error.reason}); save it as UTF-8.") from None
    except pd.errors.ParserWarning:
        raise InputError(f"{path}: has rows with more cells than the header; expected rows of equal length.") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, EOFError) as error:
        reason = str(error).strip().removeprefix("Error tokenizing data. C error: ").rstrip(".")
        raise InputError(f"{path}: is not a table ({reason}); expected rows of equal length.") from None
    return frame, "," if separator == ";" else "."


def _read_parquet(path: Path) -> pd.DataFrame:
    import pandas as pd
    import pyarrow as arrow

    try:
        frame = pd.read_parquet(path)
    except (arrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise InputError(f"{path}: is not a whole parquet file ({reason}).") from None
    if not isinstance(frame.index, pd.RangeIndex):  # the index was saved as a column, often the time stamps
        frame = frame.reset_index()
    frame.columns = [str(column) for column in frame.columns]
    if frame.shape[1] < 2:
        raise InputError(f"{path}: has only {frame.shape[1]} column; expected a time column and values.")
    return frame


def _separator(head: bytes) -> str:
    line = _header(head)
    counts = {mark: line.count(mark) for mark in "\t;,"}
    return max(counts, key=lambda mark: counts[mark]) if any(counts.values()) else ","


def _header(head: bytes) -> str:
    """The first line that is not blank."""
    text = head.removeprefix(b"\xef\xbb\xbf").decode("utf-8", errors="replace").replace("\r", "\n")
    return next((line for line in text.split("\n") if line.strip()), "")


def _check_header(path: Path, head: bytes, separator: str) -> None:
    import csv

    names = [name.strip() for name in next(csv.reader([_header(head)], delimiter=separator))]
    if len(names) < 2:
        raise InputError(
            f"{path}: has only one column ({names[0]!r}); expected a time column and values, separated by "
            "commas, semicolons or tabs."
        )
    named = [name for name in names if name]
    twice = next((name for name in named if named.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{path}: has two columns called {twice!r}; expected different names.")


# --- reading: the columns ------------------------------------------------------------------------------


def _find(path: Path, columns: Sequence[str], name: str | None, role: str) -> str | None:
    if name is None or name in columns:
        return name
    raise InputError(
        f"{path}: has no {role} column {name!r}{near_miss(name, columns)}; its columns are {_listed(columns)}."
    )


def _default_time(columns: Sequence[str], id: str | None) -> str:
    if "ds" in columns:
        return "ds"
    free = [c for c in columns if c not in (id, "unique_id")] or list(columns)
    return next((c for c in free if c.strip().casefold() in _TIME_NAMES), free[0])


def _choose(
    path: Path,
    frame: pd.DataFrame,
    time: str,
    id: str | None,
    target: str | Sequence[str] | None,
    decimal: str,
) -> tuple[list[str], str | None, bool]:
    """The target columns, the id column, and whether the table is wide."""
    columns = list(frame.columns)
    named = [target] if isinstance(target, str) else list(target or ())
    targets = [cast(str, _find(path, columns, name, "target")) for name in named]
    id = _find(path, columns, id, "id") or ("unique_id" if "unique_id" in columns and len(targets) < 2 else None)
    for role, name in (("id", id), *(("target", name) for name in targets)):
        if name == time:
            raise InputError(f"{path}: column {name!r} cannot be both time and {role}; name another --time column.")
    if id in targets:
        raise InputError(f"{path}: column {id!r} cannot be both id and target.")
    if not targets and "y" in columns and time != "y" and id != "y":
        targets = ["y"]
    others = [c for c in columns if c not in (time, id) and not _nameless(c)]
    if not targets:
        numeric = [c for c in others if _looks_numeric(frame[c], decimal)]
        targets = numeric if len(numeric) < 2 else others
        if not others or (not numeric and len(frame)):
            found = f"other columns are {_listed(others)}" if others else f"the only column is {time!r}"
            raise InputError(
                f"{path}: has no column of numbers beside the time column {time!r} ({found}); expected a target."
            )
        targets = targets or others
    if id is not None and len(targets) > 1:
        raise InputError(
            f"{path}: has an id column {id!r} and several columns of numbers ({_listed(targets)}); "
            "name one of them as the target."
        )
    return targets, id, len(targets) > 1


def _looks_numeric(column: pd.Series[Any], decimal: str) -> bool:
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


def _numbers(path: Path, name: str, column: pd.Series[Any], decimal: str) -> Values:
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


def _ids(path: Path, name: str, column: pd.Series[Any]) -> NDArray[np.object_]:
    names = column.to_numpy(dtype=object, na_value="")
    names = np.array([str(cell).strip() for cell in names], dtype=object)
    empty = np.flatnonzero(names == "")
    if len(empty):
        raise InputError(f"{path}: id column {name!r}, row {empty[0] + 1} is empty; expected the name of a series.")
    return names


# --- reading: the time stamps --------------------------------------------------------------------------


def _times(path: Path, name: str, column: pd.Series[Any]) -> tuple[Times, TimeKind, str | None]:
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


# --- reading: the series -------------------------------------------------------------------------------


def _split(
    path: Path, time: str, names: NDArray[np.object_], times: Times, values: Values, timezone: str | None
) -> list[Series]:
    """The series of a long table, in order of first appearance."""
    import pandas as pd

    codes, unique = pd.factorize(names)
    order = np.argsort(codes, kind="stable")
    ends = np.cumsum(np.bincount(codes, minlength=len(unique)))
    groups = zip(unique, np.split(order, ends[:-1]), strict=True)
    return [_sorted(path, time, str(name), times, values, timezone, rows) for name, rows in groups]


def _sorted(
    path: Path,
    time: str,
    name: str,
    times: Times,
    values: Values,
    timezone: str | None,
    rows: NDArray[np.intp],
    hint: str = "",
) -> Series:
    """The series made of some rows of the file, in order of time."""
    rows = rows[np.argsort(times[rows], kind="stable")]
    times, values = times[rows], values[rows]
    same = np.flatnonzero(times[1:] == times[:-1])
    if len(same):
        first, second = np.sort(rows[same[0] : same[0] + 2]) + 1
        raise InputError(
            f"{path}: series {name!r} has {_stamp(times[same[0]])} twice in column {time!r} (rows {first} "
            f"and {second}); expected one row for each time{hint}."
        )
    if np.isnan(values).all():
        raise InputError(f"{path}: series {name!r} has no values: all {len(values)} are missing.")
    return Series(name, times, values, timezone)


# --- writing -------------------------------------------------------------------------------------------


def _write_ids(names: Sequence[tuple[str, int]], like: Table) -> NDArray[Any]:
    repeated = np.repeat(np.array([name for name, _ in names], dtype=object), [count for _, count in names])
    return repeated.astype(np.int64) if like.integer_ids else repeated


def _write_times(parts: Sequence[tuple[Times, str | None]], like: Table) -> Any:
    """One column of time stamps, written as `like` has them: integers, ISO text, dates or timestamps."""
    import pandas as pd

    times = np.concatenate([times for times, _ in parts]) if parts else np.empty(0, "datetime64[ns]")
    if times.dtype.kind != "M":
        return times
    index = pd.DatetimeIndex(times)
    zone = parts[0][1] if parts else None
    if zone is not None:
        index = index.tz_localize("UTC").tz_convert(zone)
    if like.time_kind == "timestamp":
        return index
    midnight = bool((index == index.normalize()).all())
    if like.time_kind == "date" and midnight:
        return index.date
    if like.time_kind == "text date" and midnight:
        return index.strftime("%Y-%m-%d")
    return np.array([stamp.isoformat(sep=" ") for stamp in index], dtype=object)


def _write_frame(path: Path, frame: pd.DataFrame) -> None:
    from degauss.core.checkpoint import atomic_path

    suffix = path.suffix.casefold()
    if suffix not in (".csv", ".tsv", ".parquet"):
        raise InputError(f"{path}: ends in {suffix or 'no suffix'!r}; expected .csv, .tsv or .parquet.")
    with atomic_path(path) as partial:
        if suffix == ".parquet":
            frame.to_parquet(partial, index=False)
        else:
            frame.to_csv(partial, index=False, sep="\t" if suffix == ".tsv" else ",", lineterminator="\n")


# --- words ---------------------------------------------------------------------------------------------


def _nameless(column: str) -> bool:
    return column.startswith("Unnamed: ") or not column.strip()


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:12])
    return f"{shown}, ... ({len(names)} in all)" if len(names) > 12 else shown


def _shown(cell: object) -> str:
    text = str(cell)
    return repr(text if len(text) <= 40 else text[:37] + "...")


def _stamp(stamp: Any) -> str:
    if isinstance(stamp, np.datetime64):
        text = str(stamp.astype("datetime64[s]")).replace("T", " ")
        return text.removesuffix(" 00:00:00")
    return str(stamp)
