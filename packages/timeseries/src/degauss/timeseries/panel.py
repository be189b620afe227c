"""Several series measured at the same times, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from degauss.core.errors import InputError
from degauss.timeseries.regular import Regular, Series, regularise


class Panel(NamedTuple):
    """Several series on one grid: ``times [n]``, ``values [n, series]`` (NaN: not observed), its step in words."""

    times: NDArray[Any]
    values: NDArray[np.float64]
    step: str


def together(records: Sequence[Regular]) -> Panel:
    """The records on the grid that they share; `InputError` if they share none."""
    stamps = np.unique(np.concatenate([record.times for record in records]))
    union = Series("all series", stamps, np.zeros(len(stamps)), records[0].timezone)
    grid = regularise(union) if len(stamps) > 1 else records[0]
    times = grid.times
    values = np.full((len(times), len(records)), np.nan)
    for column, record in enumerate(records):
        if not np.isin(record.times, times).all():
            raise InputError(
                f"series {record.name!r} is not on the grid of the others; CSDI expects series measured at the same "
                "times, so give --freq."
            )
        values[np.searchsorted(times, record.times), column] = record.values
    return Panel(times, values, grid.frequency)
