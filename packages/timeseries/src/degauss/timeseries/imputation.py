"""Filling gaps with a TSDiff model: the same guidance as a forecast, with what lies after the gap known too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from degauss.core.errors import InputError
from degauss.timeseries.forecasting import Report
from degauss.timeseries.regular import Regular
from degauss.timeseries.tsdiff import Sampling, TSDiff, draw

Array = NDArray[np.float64]


class Filled(NamedTuple):
    """Where a record had gaps, ``[gaps]`` grid indices, and samples of what was there, ``[samples, gaps]``."""

    gaps: NDArray[np.int64]
    samples: Array


def impute(model: TSDiff, record: Regular, sampling: Sampling, report: Report | None = None) -> Filled:
    """Samples of every missing value of a record, each from a window with as much known on both sides as there is.

    Raises `InputError` where a window holds fewer observations than the model needs.
    """
    config = model.config
    missing = np.flatnonzero(np.isnan(record.values))
    spans = list(_spans(missing, len(record.values), config.length, config.context))
    if not spans:
        return Filled(missing, np.empty((sampling.samples, 0)))
    size = config.reach + config.length
    windows = np.stack([_stretch(record.values, start - config.reach, size) for start, _ in spans])
    for (start, _), window in zip(spans, windows, strict=True):
        seen = int((~np.isnan(window[config.reach :])).sum())
        if seen < config.min_context:
            raise InputError(
                f"series {record.name!r} has {seen} observed values among the {config.length} around grid point "
                f"{max(start, 0)}; this checkpoint needs at least {config.min_context} to fill the gaps there."
            )
    drawn = draw(model, windows, [f"{record.name}|{start}|gaps" for start, _ in spans], sampling, report)
    parts = [samples[:, index - start] for samples, (start, index) in zip(drawn, spans, strict=True)]
    return Filled(missing, np.concatenate(parts, axis=1))


def _spans(
    missing: NDArray[np.int64], count: int, length: int, context: int
) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Windows (start, the gaps it fills) that cover all gaps, each gap at least a quarter window from the ends.

    Where the record ends sooner, the window sticks to its end. A record shorter than the window lies within its
    context, as far as it fits, which the scale is taken from, and is padded as a short history is for a forecast.
    """
    rest = missing
    while len(rest):
        start = int(min(rest[0] - length // 4, count - length))
        start = max(start, 0) if count >= length else min(count - context, 0)
        reaches_end = start + length >= count
        last = count if reaches_end else start + 3 * length // 4
        taken = rest[rest < last]
        yield start, taken
        rest = rest[len(taken) :]


def _stretch(values: Array, start: int, size: int) -> Array:
    """``values[start : start + size]`` with NaN where that leaves the record."""
    out = np.full(size, np.nan)
    low, high = max(start, 0), min(start + size, len(values))
    out[low - start : high - start] = values[low:high]
    return out
