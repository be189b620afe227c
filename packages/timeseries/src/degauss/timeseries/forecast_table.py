"""Other people's forecasts in: one row for each series, cutoff and time, in whatever columns they come.

* **samples**: `sample_0`, `sample_1`, ... as this package writes them;
* **quantiles**: `q0.1`, ..., or `0.1`, ...;
* **intervals**, as Nixtla's libraries name them: `Model-lo-90`, `Model-hi-90`, ... with `Model` or `Model-median` in
  the middle; of several models one has to be named;
* **a single forecast**: the one column of numbers that is left, or the one named.

The first of these that is there counts. Columns `mean` beside samples or quantiles and `y` are not forecasts. `cutoff`
is the last time that was known; where it is missing, each series has one forecast.

Everything becomes draws at the levels i / (draws + 1), the form that refining starts from. Between and beyond given
levels, quantiles go linearly in the normal score of the level, which is exact for a normal distribution.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from degauss.core.errors import InputError, near_miss
from degauss.timeseries.columns import default_time, read_ids, read_numbers, read_times, shown_stamp
from degauss.timeseries.frames import nameless, read_frame
from degauss.timeseries.regular import Regular, Times, Values, future_index

if TYPE_CHECKING:
    import pandas as pd

_SAMPLE = re.compile(r"sample[_ -]?\d+")
_QUANTILE = re.compile(r"q?(0?\.\d+)")
_INTERVAL = re.compile(r"(.+)-(lo|hi)-(\d+(?:\.\d+)?)")


@dataclass(frozen=True, eq=False)
class Given:
    """A forecast of one series: `times [n]` ascending, `samples [draws, n]` ascending in the draw.

    `name` is None in a file without ids, `cutoff` where the file does not say. Times are as in `regular.Series`.
    A forecast without a spread is one draw.
    """

    name: str | None
    cutoff: np.datetime64 | int | None
    times: Times
    samples: Values


def read_forecasts(
    path: str | Path, *, id: str | None = None, time: str | None = None, column: str | None = None, draws: int = 100
) -> list[Given]:
    """Every forecast of a CSV, TSV or parquet file, by series and cutoff.

    `id` and `time` name columns, as in `table.read_table`; `column` names the model of Nixtla's columns, or the column
    of a single forecast. Raises `InputError`, in one sentence that names file, column and row, for anything else.
    """
    path = Path(path)
    frame, decimal = read_frame(path)
    columns = list(frame.columns)
    time = _named(path, columns, time, "time") or default_time(columns, id)
    id = _named(path, columns, id, "id") or ("unique_id" if "unique_id" in columns else None)
    if not len(frame):
        raise InputError(f"{path}: has a header but no rows; expected at least one forecast.")
    kept = [name for name in columns if name not in (id, time, "cutoff", "y") and not nameless(name)]
    levels = _levels(path, kept, column)
    chosen = list(levels)
    values = np.stack([_finite(path, name, frame[name], decimal) for name in chosen])
    times = read_times(path, time, frame[time])[0]
    cutoffs = None
    if "cutoff" in columns:
        cutoffs = read_times(path, "cutoff", frame["cutoff"])[0]
    names = None if id is None else read_ids(path, id, frame[id])
    found: list[Given] = []
    for rows in _groups(names, cutoffs, len(frame)):
        rows = rows[np.argsort(times[rows], kind="stable")]
        name = None if names is None else str(names[rows[0]])
        same = np.flatnonzero(np.diff(times[rows].astype(np.int64)) == 0)
        if len(same):
            first, second = np.sort(rows[same[0] : same[0] + 2]) + 1
            raise InputError(
                f"{path}: rows {first} and {second} forecast the same time of "
                f"{'the series' if name is None else f'series {name!r}'}; expected one row for each time"
                f"{', or a column cutoff' if cutoffs is None else ' and cutoff'}."
            )
        cutoff = None if cutoffs is None else cast("np.datetime64 | int", cutoffs[int(rows[0])])
        found.append(Given(name, cutoff, times[rows], _draws(levels, values[:, rows], draws)))
    return found


def place(path: str | Path, given: Given, record: Regular, horizon: int) -> int:
    """How many values of the record lie before the forecast; `InputError` unless it follows them step by step.

    `path` is where the forecast was read from, for messages; a forecast has at most `horizon` steps.
    """
    grid = np.concatenate([record.times, future_index(record, horizon)])
    about = f"{path}: the forecast of series {record.name!r}"
    if grid.dtype.kind != given.times.dtype.kind:
        raise InputError(f"{about} has times of another kind than the series; expected dates in both, or numbers.")
    index = np.searchsorted(grid, given.times)
    off = np.flatnonzero(grid[np.minimum(index, len(grid) - 1)] != given.times)
    if len(off):
        raise InputError(
            f"{about} has the time {shown_stamp(given.times[off[0]])}, which is neither a step of the series "
            f"nor one of the {horizon} after its end at {shown_stamp(record.times[-1])}."
        )
    gaps = np.flatnonzero(np.diff(index) != 1)
    if len(gaps):
        raise InputError(
            f"{about} leaves out steps after {shown_stamp(given.times[gaps[0]])}; expected every step, or a "
            "column cutoff where there are several forecasts."
        )
    first = int(index[0])
    if first > len(record.values):
        raise InputError(
            f"{about} starts at {shown_stamp(given.times[0])}, but the series ends at "
            f"{shown_stamp(record.times[-1])}; expected the step after its end."
        )
    if given.cutoff is not None and (first == 0 or grid[first - 1] != given.cutoff):
        raise InputError(
            f"{about} starts at {shown_stamp(given.times[0])}, but its cutoff is {shown_stamp(given.cutoff)}; "
            "expected the step after the cutoff."
        )
    return first


def _named(path: Path, columns: Sequence[str], name: str | None, role: str) -> str | None:
    if name is None or name in columns:
        return name
    raise InputError(f"{path}: has no {role} column {name!r}{near_miss(name, columns)}.")


def _levels(path: Path, columns: Sequence[str], wanted: str | None) -> Mapping[str, float | None]:
    """The columns that hold the forecast with their levels, None for samples."""
    if wanted is None:
        samples = [name for name in columns if _SAMPLE.fullmatch(name)]
        if samples:
            return dict.fromkeys(samples)
        quantiles = {name: float(match[1]) for name in columns if (match := _QUANTILE.fullmatch(name))}
        if quantiles:
            return quantiles
    models: dict[str, dict[str, float | None]] = {}
    for name in columns:
        if match := _INTERVAL.fullmatch(name):
            share = float(match[3]) / 100
            level = 0.5 - share / 2 if match[2] == "lo" else 0.5 + share / 2
            if not 0 < level < 1:
                raise InputError(f"{path}: column {name!r} has no level between 0 and 100.")
            models.setdefault(match[1], {})[name] = level
    if wanted in models or (wanted is None and len(models) == 1):
        model = wanted or next(iter(models))
        middle = next((name for name in (f"{model}-median", model) if name in columns), None)
        return models[model] | ({} if middle is None or 0.5 in models[model].values() else {middle: 0.5})
    if wanted is not None:
        if wanted in columns:
            return {wanted: 0.5}
        raise InputError(f"{path}: has no forecast {wanted!r}{near_miss(wanted, [*models, *columns])}.")
    if models:
        raise InputError(f"{path}: has forecasts of several models ({', '.join(models)}); name one as the column.")
    if len(columns) != 1:
        listed = ", ".join(repr(name) for name in columns) or "none"
        raise InputError(
            f"{path}: it is not clear which column is the forecast (beside ids and times: {listed}); expected "
            "sample_0, ..., or q0.1, ..., or Model-lo-90, ..., or one column of numbers, so name it."
        )
    return {columns[0]: 0.5}


def _finite(path: Path, name: str, column: pd.Series[Any], decimal: str) -> Values:
    values = read_numbers(path, name, column, decimal)
    missing = np.flatnonzero(np.isnan(values))
    if len(missing):
        raise InputError(f"{path}: column {name!r}, row {missing[0] + 1} is empty; expected a number.")
    return values


def _groups(names: NDArray[np.object_] | None, cutoffs: Times | None, count: int) -> list[NDArray[np.intp]]:
    """The rows of each series and cutoff, in order of first appearance."""
    keys: dict[tuple[object, object], list[int]] = {}
    for row in range(count):
        key = (None if names is None else names[row], None if cutoffs is None else cutoffs[row])
        keys.setdefault(key, []).append(row)
    return [np.array(rows, dtype=np.intp) for rows in keys.values()]


def _draws(levels: Mapping[str, float | None], values: Values, draws: int) -> Values:
    """Draws `[draws, n]`, ascending, from columns `[columns, n]`; a single column stays one draw."""
    known = [level for level in levels.values() if level is not None]
    if len(values) == 1:
        return values
    if not known:
        return np.sort(values, axis=0)
    order = np.argsort(known)
    values = np.sort(values[order], axis=0)  # quantiles that cross are put in order
    score = NormalDist().inv_cdf
    z = np.array([score(known[k]) for k in order])
    wanted = np.array([score((i + 1) / (draws + 1)) for i in range(draws)])
    right = np.clip(np.searchsorted(z, wanted), 1, len(z) - 1)
    share = (wanted - z[right - 1]) / (z[right] - z[right - 1])
    return values[right - 1] + share[:, None] * (values[right] - values[right - 1])
