r"""Series that were measured when they were measured: values with gaps, each series on times of its own.

What people have comes in the shapes of the field's own libraries: an array ``[n, channels, length]`` with NaN for
what is missing, or a list of arrays ``[channels, length_i]``, with or without times. Here it becomes one pair of
arrays, and two views of it on a grid that all series share:

    ``resampled``  the straight line between a channel's values on both sides, as a control path goes
    ``placed``     every value at the grid time nearest to its own, NaN elsewhere, as a recurrent network reads

A series whose times are the grid itself keeps its values and gaps in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from degauss.core.errors import InputError, check_range

Array = NDArray[np.float64]
Times = Literal["stretched", "steps"] | Sequence[Any] | Array
"""Times of all series ``[length]`` or of each; "stretched": from 0 to 1, however long; "steps": 0, 1, 2, ..."""


class Irregular(NamedTuple):
    """``values [n, length, channels]``, NaN where missing; ``times [n, length]``, increasing, NaN after the end."""

    values: Array
    times: Array

    def take(self, rows: Sequence[int] | NDArray[np.integer[Any]]) -> Irregular:
        return Irregular(self.values[rows], self.times[rows])


class Scale(NamedTuple):
    """Model units are (value - centre) / width; both ``[channels]``."""

    centre: Array
    width: Array

    def apply(self, series: Irregular) -> Irregular:
        return Irregular((series.values - self.centre) / self.width, series.times)


def scale_of(series: Irregular) -> Scale:
    """Mean and standard deviation of what is there of each channel; width 1 for a channel that does not vary."""
    flat = series.values.reshape(-1, series.values.shape[2])
    seen = ~np.isnan(flat)
    count = np.maximum(seen.sum(0), 1)
    centre = np.where(seen, flat, 0.0).sum(0) / count
    width = np.sqrt((np.where(seen, flat - centre, 0.0) ** 2).sum(0) / count)
    # Rounding of the mean of a constant is no width.
    return Scale(centre, np.where(width > 1e-9 * np.abs(centre), width, 1.0))


def irregular(series: Any, times: Times = "stretched") -> Irregular:
    """Series from an array ``[n, channels, length]`` or a list of arrays ``[channels, length_i]``.

    Raises `InputError` for another shape, an infinite value, a series without any value, or times that are not
    finite, do not increase, or are not as many as the values.
    """
    parts = [_part(k, one) for k, one in enumerate(series)]
    if not parts:
        raise InputError(
            "there are no series; expected an array [n, channels, length] or a list of [channels, length]."
        )
    channels = len(parts[0])
    for k, part in enumerate(parts):
        if len(part) != channels:
            raise InputError(f"series {k} has {len(part)} channels; expected {channels}, as series 0 has.")
    length = max(part.shape[1] for part in parts)
    values = np.full((len(parts), length, channels), np.nan)
    stamps = np.full((len(parts), length), np.nan)
    for k, (part, own) in enumerate(zip(parts, _times(parts, times), strict=True)):
        count = part.shape[1]
        _check_times(k, own, count)
        values[k, :count], stamps[k, :count] = part.T, own
    return Irregular(values, stamps)


def grid_of(series: Irregular) -> Array:
    """The times that all series share, or else as many even ones over their span as the longest has.

    Raises `InputError` where they span no time.
    """
    first = series.times[0]
    if np.isnan(first).any() or not (series.times == first).all():
        first = np.linspace(np.nanmin(series.times), np.nanmax(series.times), series.times.shape[1])
    if len(first) < 2 or not first[-1] > first[0]:
        raise InputError("the series have one time only; expected two or more.")
    return first


def check_span(series: Irregular, grid: Array) -> None:
    """`InputError` if a time lies outside the grid."""
    slack = 1e-9 * (grid[-1] - grid[0])
    low, high = float(np.nanmin(series.times)), float(np.nanmax(series.times))
    if low < grid[0] - slack or high > grid[-1] + slack:
        raise InputError(
            f"the series have times from {low:g} to {high:g}; this model was trained on {grid[0]:g} to {grid[-1]:g}."
        )


def resampled(series: Irregular, grid: Array) -> Array:
    """``[n, len(grid), channels]``: lines between the values, held at the ends; NaN for a channel without values."""
    out = np.full((len(series.values), len(grid), series.values.shape[2]), np.nan)
    for k, (values, times) in enumerate(zip(*series, strict=True)):
        if np.array_equal(times, grid):
            out[k] = values
            continue
        for channel, column in enumerate(values.T):
            seen = ~np.isnan(column)
            if seen.any():
                out[k, :, channel] = np.interp(grid, times[seen], column[seen])
    return out


def placed(series: Irregular, grid: Array) -> Array:
    """``[n, len(grid), channels]``: each value at the nearest grid time, the mean where several are, NaN elsewhere."""
    seen = ~np.isnan(series.values)
    row, step, channel = np.nonzero(seen)
    middles = (grid[1:] + grid[:-1]) / 2
    place = np.searchsorted(middles, series.times[row, step])
    shape = (len(seen), len(grid), seen.shape[2])
    total, count = np.zeros(shape), np.zeros(shape)
    np.add.at(total, (row, place, channel), series.values[seen])
    np.add.at(count, (row, place, channel), 1.0)
    return np.divide(total, count, out=np.full(shape, np.nan), where=count > 0)


def drop(series: Irregular, share: float, seed: int = 0) -> Irregular:
    """The published way to make gaps: of L values, int(L share) of each channel, at random, are taken away.

    ``share`` in [0, 1). L is the length of the series, so that what is missing already counts too.
    """
    check_range("share", share, 0.0, np.nextafter(1.0, 0.0))
    generator = np.random.default_rng([seed, 0xD0])
    values = series.values.copy()
    for k, times in enumerate(series.times):
        length = int((~np.isnan(times)).sum())
        for channel in range(values.shape[2]):
            values[k, generator.permutation(length)[: int(length * share)], channel] = np.nan
    return Irregular(values, series.times)


def _part(k: int, one: Any) -> Array:
    """One series as float64 ``[channels, length]``."""
    try:
        part = np.asarray(one, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"series {k} holds something else than numbers; expected floats, NaN where missing.") from None
    if part.ndim != 2 or not part.size:
        raise InputError(f"series {k} has shape {part.shape}; expected [channels, length].")
    if np.isinf(part).any():
        raise InputError(f"series {k} holds an infinite value; expected finite numbers or NaN.")
    if np.isnan(part).all():
        raise InputError(f"series {k} has no values: all {part.size} are missing.")
    return part


def _times(parts: Sequence[Array], times: Times) -> list[Array]:
    lengths = [part.shape[1] for part in parts]
    if isinstance(times, str):
        if times == "stretched":
            return [np.linspace(0.0, 1.0, length) for length in lengths]
        if times == "steps":
            return [np.arange(length, dtype=np.float64) for length in lengths]
        raise InputError(f"times must be 'stretched', 'steps' or numbers, but is {times!r}.")
    try:
        if np.ndim(times[0]) == 0:
            return [np.asarray(times, dtype=np.float64)] * len(parts)
        own = [np.asarray(each, dtype=np.float64) for each in times]
    except (TypeError, ValueError, IndexError):
        raise InputError(
            "times hold something else than numbers; expected [length], or one such for each series."
        ) from None
    if len(own) != len(parts):
        raise InputError(f"there are times of {len(own)} series; expected those of {len(parts)}.")
    return own


def _check_times(k: int, times: Array, count: int) -> None:
    if times.shape != (count,):
        raise InputError(f"series {k} has {count} values but times of shape {times.shape}; expected a time for each.")
    if not np.isfinite(times).all() or not (np.diff(times) > 0).all():
        raise InputError(f"the times of series {k} must be finite and increasing.")
