"""Forecasting with a TSDiff model: from regular records to samples of their future (how good: see `backtest`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from degauss.core.errors import InputError, check_range
from degauss.timeseries.regular import Regular
from degauss.timeseries.tsdiff import Sampling, TSDiff, draw
from degauss.timeseries.windows import tail

Array = NDArray[np.float64]
Report = Callable[[int, int], None]


def forecast(
    model: TSDiff, records: Sequence[Regular], horizon: int, sampling: Sampling, report: Report | None = None
) -> list[Array]:
    """Samples ``[samples, horizon]`` of what follows each record, in its units.

    Raises `InputError` for a horizon the model was not trained for, and for a record with too little to go on.
    """
    check_horizon(model, horizon)
    for record in records:
        check_observed(model, record.name, record.values)
    values = np.stack([_window(model, record.values) for record in records])
    keys = [f"{record.name}|{len(record.values)}" for record in records]
    samples = draw(model, values, keys, sampling, report)
    start = model.config.context
    return list(samples[:, :, start : start + horizon])


def check_horizon(model: TSDiff, horizon: int) -> None:
    """`InputError` unless 1 <= horizon <= what the model was trained for."""
    check_range("horizon", horizon, 1, model.config.horizon)


def check_observed(model: TSDiff, name: str, values: Array) -> None:
    """`InputError` unless the last ``context`` values hold the observations that the model needs."""
    recent = values[-model.config.context :]
    seen, needed = int((~np.isnan(recent)).sum()), model.config.min_context
    if seen < needed:
        raise InputError(
            f"series {name!r} is too short for the context of this checkpoint: {seen} observed values among its "
            f"last {len(recent)}, expected at least {needed}."
        )


def _window(model: TSDiff, history: Array) -> Array:
    config = model.config
    return np.concatenate([tail(history, config.reach + config.context), np.full(config.horizon, np.nan)])
