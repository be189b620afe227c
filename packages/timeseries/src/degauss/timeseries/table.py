"""People's own tables in, forecasts out: CSV, TSV and parquet, in long or wide form.

Which form a table has is decided by its columns:

* **time**: the column named; else `ds`; else one called time, timestamp, datetime or date; else the first
  that holds no ids.
* **long**: a target column is named, or there is a `y`, or only one column of numbers remains. Rows
  belong to the series in the id column (the one named, else `unique_id` if there is one, else all rows
  are one series, named after the target).
* **wide**: none of these, so every further column is a series and has to be numeric. Several target
  columns may be named to choose among them. Columns without a name (an index somebody saved) are not series.

Rows may come in any order; uneven and missing stamps are data (see `regular`). How cells are written: `columns`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from degauss.core.errors import InputError, near_miss
from degauss.timeseries.columns import (
    TimeKind,
    default_time,
    looks_numeric,
    read_ids,
    read_numbers,
    read_times,
    shown_stamp,
)
from degauss.timeseries.frames import listed, nameless, read_frame, write_frame
from degauss.timeseries.regular import Series, Times, Values

if TYPE_CHECKING:
    import pandas as pd


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
    frame, decimal = read_frame(path)
    columns = list(frame.columns)
    time = _find(path, columns, time, "time") or default_time(columns, id)
    targets, id, wide = _choose(path, frame, time, id, target, decimal)
    if len(frame) == 0:
        raise InputError(f"{path}: has a header ({listed(columns)}) but no rows; expected at least one.")
    times, kind, timezone = read_times(path, time, frame[time])
    numbers = {name: read_numbers(path, name, frame[name], decimal) for name in targets}
    integer_ids = False
    if id is None:
        rows = np.arange(len(frame))
        hint = "" if wide else ", or the name of the id column if the file holds several series"
        parts = [_sorted(path, time, name, times, numbers[name], timezone, rows, hint) for name in targets]
    else:
        ids = frame[id]
        integer_ids = bool(ids.dtype.kind in "iu")
        names = read_ids(path, id, ids)
        parts = _split(path, time, names, times, numbers[targets[0]], timezone)
    return Table(
        path=path,
        series=tuple(parts),
        id=id or "unique_id",
        time=time if not nameless(time) else "ds",
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
    write_frame(Path(path), frame)


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
    write_frame(Path(path), pd.DataFrame(columns))


# --- reading: which columns ----------------------------------------------------------------------------


def _find(path: Path, columns: Sequence[str], name: str | None, role: str) -> str | None:
    if name is None or name in columns:
        return name
    raise InputError(
        f"{path}: has no {role} column {name!r}{near_miss(name, columns)}; its columns are {listed(columns)}."
    )


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
    others = [c for c in columns if c not in (time, id) and not nameless(c)]
    if not targets:
        numeric = [c for c in others if looks_numeric(frame[c], decimal)]
        targets = numeric if len(numeric) < 2 else others
        if not others or (not numeric and len(frame)):
            found = f"other columns are {listed(others)}" if others else f"the only column is {time!r}"
            raise InputError(
                f"{path}: has no column of numbers beside the time column {time!r} ({found}); expected a target."
            )
        targets = targets or others
    if id is not None and len(targets) > 1:
        raise InputError(
            f"{path}: has an id column {id!r} and several columns of numbers ({listed(targets)}); "
            "name one of them as the target."
        )
    return targets, id, len(targets) > 1


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
            f"{path}: series {name!r} has {shown_stamp(times[same[0]])} twice in column {time!r} (rows {first} "
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
