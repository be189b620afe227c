"""Imputations that learn next to nothing: what a model of gaps has to beat.

Windows are ``[..., length, features]`` with NaN wherever nothing is known; ``otherwise`` ``[features]`` stands in for
a feature of which a window knows nothing. Results have the shape of the windows and no NaN.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def mean(known: Array, otherwise: Array) -> Array:
    """``otherwise``, say the training mean, at every time."""
    return np.broadcast_to(otherwise, known.shape).copy()


def last_value(known: Array, otherwise: Array) -> Array:
    """The last value before, or else the first after."""
    times = np.arange(known.shape[-2])[:, None]
    seen = ~np.isnan(known)
    latest = np.maximum.accumulate(np.where(seen, times, -1), axis=-2)
    first = seen.argmax(-2)[..., None, :]
    filled = np.take_along_axis(known, np.where(latest < 0, first, latest), -2)
    return np.where(np.isnan(filled), otherwise, filled)


def linear(known: Array, otherwise: Array) -> Array:
    """The straight line between the values before and after; beyond the first and last, the nearest value."""
    times = np.arange(known.shape[-2])
    out = mean(known, otherwise)
    for place in np.ndindex(*known.shape[:-2], known.shape[-1]):
        where = (*place[:-1], slice(None), place[-1])
        seen = ~np.isnan(known[where])
        if seen.any():
            out[where] = np.interp(times, times[seen], known[where][seen])
    return out


def error_quantiles(target: Array, imputed: Array, count: int) -> Array:
    """``[count, features]``: each feature's errors at the levels (i + 1/2) / count, 0 where it has none.

    ``target`` is NaN but at the entries that were held out. Added to a naive imputation, these errors make an
    ensemble of it, which is as honest as the errors are.
    """
    errors = (target - imputed).reshape(-1, target.shape[-1])
    levels = (np.arange(count) + 0.5) / count
    out = np.zeros((count, errors.shape[-1]))
    for feature, column in enumerate(errors.T):
        seen = column[~np.isnan(column)]
        if len(seen):
            out[:, feature] = np.quantile(seen, levels)
    return out
