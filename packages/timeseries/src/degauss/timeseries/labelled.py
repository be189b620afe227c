r"""Series with labels as people have them: ``.ts`` files of the UEA and UCR archives, and long tables.

**.ts**: a header of ``@`` lines (``@classLabel true a b`` names the classes), ``@data``, then a series a line, its
channels separated by colons, the label last; ``?`` or NaN is a missing value; with ``@timeStamps true`` every value is
``(time,value)``. Lines that begin with # or % are comments.

**A long table** (.csv, .tsv, .parquet) has a row for each time of each series: a column of ids, one of times (numbers
or dates), one of labels, the same in all rows of a series, and every other column is a channel. An empty cell is a
missing value.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from degauss.core.errors import InputError, near_miss
from degauss.timeseries.irregular import Array, Times

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = (".ts", ".csv", ".tsv", ".parquet")
_PAIR = re.compile(r"\(\s*([^,()]+?)\s*,\s*([^,()]+?)\s*\)")
_MISSING = ("?", "", "nan")


class Labelled(NamedTuple):
    """Series ``[channels, length_i]`` with their names, times and, where there are any, labels (text)."""

    names: tuple[str, ...]
    series: list[Array]
    times: Times
    labels: NDArray[np.str_] | None
    channels: tuple[str, ...]


def read_labelled(path: str | Path, *, id: str = "unique_id", time: str = "ds", label: str = "label") -> Labelled:
    """Read a file by its suffix; the three names are those of a table's columns, of which the label's may be absent.

    Raises `InputError`, in one sentence that names file and place, for anything that cannot be read.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path}: expected a file that ends in {', '.join(SUFFIXES)}.")
    if not path.is_file():
        raise InputError(f"{path}: no such file.")
    return _read_ts(path) if path.suffix.lower() == ".ts" else _read_long(path, id, time, label)


# --- .ts ----------------------------------------------------------------------------------------------------


def _read_ts(path: Path) -> Labelled:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text ({error.reason}).") from None
    header, first = _ts_header(path, lines)
    if header.get("targetlabel", ["false"])[0].lower() == "true":
        raise InputError(f"{path}: holds targets of a regression (@targetLabel); expected @classLabel true ...")
    classes = header.get("classlabel", ["false"])
    labelled = classes[0].lower() == "true"
    stamped = header.get("timestamps", ["false"])[0].lower() == "true"
    series: list[Array] = []
    times: list[Array] = []
    labels: list[str] = []
    for number, line in enumerate(lines[first:], first + 1):
        if not line.strip() or line.lstrip().startswith(("#", "%")):
            continue
        where = f"{path}, line {number}"
        # A colon inside brackets belongs to a time of day.
        fields = re.split(r":(?![^(]*\))", line.strip())
        if labelled:
            labels.append(_ts_label(where, fields, classes[1:]))
            fields = fields[:-1]
        channels = [_ts_channel(where, field, stamped) for field in fields]
        if series and len(channels) != len(series[0]):
            raise InputError(f"{where}: has {len(channels)} channels; expected {len(series[0])}, as the first has.")
        if len({len(values) for _, values in channels}) > 1:
            raise InputError(f"{where}: has channels of different lengths; expected one length, with ? for a gap.")
        if stamped and any(not np.array_equal(stamps, channels[0][0]) for stamps, _ in channels):
            raise InputError(f"{where}: has channels with different times; expected the same, with ? for a gap.")
        times.append(channels[0][0])
        series.append(np.stack([values for _, values in channels]))
    if not series:
        raise InputError(f"{path}: has no series after @data.")
    return Labelled(
        names=tuple(map(str, range(len(series)))),
        series=series,
        times=times if stamped else "stretched",
        labels=np.asarray(labels) if labelled else None,
        channels=tuple(f"channel {k}" for k in range(len(series[0]))),
    )


def _ts_header(path: Path, lines: Sequence[str]) -> tuple[dict[str, list[str]], int]:
    """The words of each @ line by its name in small letters, and the number of lines up to @data."""
    header: dict[str, list[str]] = {}
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith(("#", "%")):
            continue
        if not words[0].startswith("@"):
            raise InputError(f"{path}, line {number}: expected an @ line before @data, found {line[:40]!r}.")
        if words[0].lower() == "@data":
            return header, number
        header[words[0][1:].lower()] = words[1:] or [""]
    raise InputError(f"{path}: has no @data line; expected a .ts file of the UEA and UCR archives.")


def _ts_label(where: str, fields: Sequence[str], classes: Sequence[str]) -> str:
    label = fields[-1].strip()
    if len(fields) < 2 or (classes and label not in classes):
        raise InputError(f"{where}: ends in {label[:40]!r}; expected a label after the last colon, one of @classLabel.")
    return label


def _ts_channel(where: str, text: str, stamped: bool) -> tuple[Array, Array]:
    """Times (empty without time stamps) and values."""
    if not stamped:
        return np.empty(0), _ts_numbers(where, text.split(","))
    pairs = _PAIR.findall(text)
    if re.sub(r"[\s,]", "", _PAIR.sub("", text)) or not pairs:
        raise InputError(f"{where}: expected (time,value),(time,value),..., found {text[:40]!r}.")
    return _ts_numbers(where, [pair[0] for pair in pairs]), _ts_numbers(where, [pair[1] for pair in pairs])


def _ts_numbers(where: str, cells: Sequence[str]) -> Array:
    try:
        return np.array([np.nan if cell.strip().lower() in _MISSING else float(cell) for cell in cells])
    except ValueError as error:
        raise InputError(f"{where}: expected numbers, or ? for a missing value ({error}).") from None


# --- long tables --------------------------------------------------------------------------------------------


def _read_long(path: Path, id: str, time: str, label: str) -> Labelled:
    import pandas as pd

    frame = _frame(path)
    columns = [str(column) for column in frame.columns]
    for role, name in (("id", id), ("time", time)):
        if name not in columns:
            raise InputError(
                f"{path}: has no {role} column {name!r}{near_miss(name, columns)}; its columns are {columns}."
            )
    channels = [name for name in columns if name not in (id, time, label)]
    if not channels or not len(frame):
        raise InputError(f"{path}: has {'no rows' if channels else 'no column of values'}; expected a series or more.")
    names = frame[id].astype(str).str.strip()
    stamps = _stamps(path, time, frame[time])
    values = np.stack([_numbers(path, name, frame[name]) for name in channels])
    codes, unique = pd.factorize(names)
    series: list[Array] = []
    times: list[Array] = []
    labels: list[str] = []
    for code, name in enumerate(unique):
        rows = np.flatnonzero(codes == code)
        rows = rows[np.argsort(stamps[rows], kind="stable")]
        if (np.diff(stamps[rows]) == 0).any():
            raise InputError(f"{path}: series {name!r} has one time twice in column {time!r}; expected different ones.")
        series.append(values[:, rows])
        times.append(stamps[rows])
        if label in columns:
            found = frame[label].iloc[rows].astype(str).str.strip().unique()
            if len(found) != 1 or found[0].lower() in _MISSING:
                raise InputError(f"{path}: series {name!r} has labels {list(found)[:4]}; expected one in all its rows.")
            labels.append(str(found[0]))
    return Labelled(tuple(unique), series, times, np.asarray(labels) if labels else None, tuple(channels))


def _frame(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        if path.suffix.lower() == ".parquet":
            return pd.read_parquet(path)
        separator = "\t" if path.suffix.lower() == ".tsv" else ","
        return pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (ValueError, OSError) as error:  # both parsers' own errors are among them
        reason = str(error).splitlines()[0].rstrip(".")
        raise InputError(f"{path}: cannot be read as a table ({reason}).") from None


def _numbers(path: Path, name: str, column: pd.Series[Any]) -> Array:
    if column.dtype.kind in "biuf":
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    numbers = np.empty(len(column))
    for row, cell in enumerate(column):
        try:
            numbers[row] = np.nan if str(cell).strip().lower() in (*_MISSING, "na", "none", "<na>") else float(cell)
        except ValueError:
            raise InputError(
                f"{path}: column {name!r}, row {row + 1} holds {str(cell)[:40]!r}; expected a number or an empty cell."
            ) from None
    return numbers


def _stamps(path: Path, name: str, column: pd.Series[Any]) -> Array:
    """Times as numbers; dates as seconds."""
    import pandas as pd

    if column.dtype.kind in "biuf":
        numbers = column.to_numpy(dtype=np.float64, na_value=np.nan)
    else:
        numbers = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64)
        if np.isnan(numbers).all():
            dates = pd.to_datetime(column, format="ISO8601", errors="coerce", utc=True)
            elapsed = (dates - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(seconds=1)
            numbers = elapsed.to_numpy(dtype=np.float64)
    wrong = np.flatnonzero(~np.isfinite(numbers))
    if len(wrong):
        cell = str(column.iloc[int(wrong[0])])[:40]
        raise InputError(
            f"{path}: time column {name!r}, row {wrong[0] + 1} holds {cell!r}; expected numbers, or dates such as "
            "2024-03-31 14:00."
        )
    return np.asarray(numbers, dtype=np.float64)
