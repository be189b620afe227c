"""The forecasts to beat: last value, seasonal naive and drift, as points and as ensembles.

All take `history [m]` with NaN where nothing was observed and return `[horizon]`. At step h the first two
repeat the value L(h) steps before the time forecast:

    last value: L(h) = h,    seasonal naive: L(h) = season * ceil(h / season).

Their ensembles add what this rule got wrong on the history itself: the quantiles, at (i + 1/2)/draws, of
y_t - y_(t - L(h)) over all t where both were observed. So the spread grows with h as the series' own changes
do, no seed is needed, and the CRPS compares with a model's. The residuals are not centred: a series that
rises gives an ensemble that rises. Where no pair at a lag was observed (a short
history, a sparse one), the nearest shorter lag stands in, or else the nearest longer one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def last_value(history: Array, horizon: int) -> Array:
    """The last observed value, `horizon` times."""
    return np.full(horizon, _observed(history)[-1])


def seasonal_naive(history: Array, horizon: int, season: int) -> Array:
    """The last observed value of the same phase of the season; the last value for a phase never seen."""
    if season < 1:
        raise ValueError(f"season must be at least 1, got {season}")
    last = _observed(history)[-1]
    padding = -len(history) % season
    cycles = np.concatenate([np.full(padding, np.nan), history]).reshape(-1, season)
    seen = ~np.isnan(cycles)
    newest = len(cycles) - 1 - np.argmax(seen[::-1], axis=0)  # the newest cycle that saw each phase
    cycle = np.where(seen.any(axis=0), cycles[newest, np.arange(season)], last)
    return cycle[np.arange(horizon) % season]


def drift(history: Array, horizon: int) -> Array:
    """The straight line through the first and the last observed value, continued."""
    _observed(history)
    seen = np.flatnonzero(~np.isnan(history))
    first, last = seen[0], seen[-1]
    slope = (history[last] - history[first]) / max(last - first, 1)
    return history[last] + slope * (len(history) - 1 - last + np.arange(1, horizon + 1))


def last_value_ensemble(history: Array, horizon: int, draws: int = 100) -> Array:
    """`[draws, horizon]`, ascending in the draw: the last value plus the quantiles of its past errors."""
    lags = np.arange(1, horizon + 1)
    return last_value(history, horizon) + _errors(history, lags, draws)


def seasonal_naive_ensemble(history: Array, horizon: int, season: int, draws: int = 100) -> Array:
    """`[draws, horizon]`, ascending in the draw: the seasonal naive plus the quantiles of its past errors."""
    lags = season * (1 + np.arange(horizon) // season)
    return seasonal_naive(history, horizon, season) + _errors(history, lags, draws)


def _errors(history: Array, lags: NDArray[np.int64], draws: int) -> Array:
    """Quantiles `[draws, horizon]` of the changes of the history over each lag."""
    levels = (np.arange(draws) + 0.5) / draws
    columns: dict[int, Array] = {}
    for lag in np.unique(lags):
        change = _changes(history, int(lag))
        if len(change):
            columns[int(lag)] = np.quantile(change, levels)
        else:
            shorter = range(min(int(lag), len(history)) - 1, 0, -1)
            others = (_changes(history, k) for k in (*shorter, *range(int(lag) + 1, len(history))))
            nearest = next((c for c in others if len(c)), np.zeros(1))
            columns[int(lag)] = np.quantile(nearest, levels)
    return np.stack([columns[int(lag)] for lag in lags], axis=1) if len(lags) else np.empty((draws, 0))


def _changes(history: Array, lag: int) -> Array:
    change = history[lag:] - history[: len(history) - lag] if lag < len(history) else np.empty(0)
    return change[~np.isnan(change)]


def _observed(history: Array) -> Array:
    seen = history[~np.isnan(history)]
    if not len(seen):
        raise ValueError("history must hold at least one observed value")
    return seen
