"""The exchange-rate benchmark of the TSDiff paper: its model, trained briefly, and its score on the paper's split.

The paper trains 128,000 steps; a few thousand take minutes on a CPU core. Everything else is as published: context
360, horizon 30, lags 30 to 360, mean scaling, T = 100, batch 64, and "CRPS" as GluonTS's mean weighted quantile loss.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from degauss.timeseries import metrics, naive
from degauss.timeseries.config import TSDiffConfig
from degauss.timeseries.datasets import exchange_rate
from degauss.timeseries.forecasting import forecast
from degauss.timeseries.regular import Regular
from degauss.timeseries.training import fit, recipe
from degauss.timeseries.tsdiff import Sampling, TSDiff

Array = NDArray[np.float64]

CONFIG = TSDiffConfig(context=360, horizon=30, min_context=360, lags=tuple(range(30, 361, 30)), scaling="mean")


@dataclass(frozen=True, eq=False)
class Split:
    """The test entries: what is known of each, and the ``[entries, 30]`` values to forecast."""

    records: list[Regular]
    target: Array


def split(windows: int = 5) -> Split:
    """The paper's 40 entries, or those of the first ``windows`` of its five stretches: 8 currencies each."""
    data = exchange_rate()
    entries = data.test[: windows * len(data.train)]
    known = [
        replace(entry, name=f"{entry.name} window {k}", values=entry.values[: -data.horizon])
        for k, entry in enumerate(entries)
    ]
    return Split(known, np.stack([entry.values[-data.horizon :] for entry in entries]))


def trained(out: Path, steps: int, seed: int) -> TSDiff:
    """The model of a seed, trained for some steps in ``out``, or read from there if it is done."""
    if not (out / "model").exists():
        series = [record.values for record in exchange_rate().train]
        return fit(CONFIG, series, recipe(out, steps=steps, warmup=20, seed=seed, device="cpu"))
    return TSDiff.load(out / "model")


def score(model: TSDiff, part: Split, sampling: Sampling) -> float:
    """Mean weighted quantile loss of the model's forecasts."""
    samples = np.stack(forecast(model, part.records, part.target.shape[1], sampling), axis=1)
    return metrics.mean_weighted_quantile_loss(part.target, metrics.sample_quantiles(samples))


def naive_scores(part: Split, season: int = 5) -> dict[str, float]:
    """The same score of the naive forecasts, as single values (as the paper's table) and with their past errors."""
    horizon = part.target.shape[1]
    histories = [record.values for record in part.records]
    points = {
        "last value": [naive.last_value(h, horizon) for h in histories],
        "seasonal naive": [naive.seasonal_naive(h, horizon, season) for h in histories],
    }
    spread = {
        "last value with past errors": [naive.last_value_ensemble(h, horizon) for h in histories],
        "seasonal naive with past errors": [naive.seasonal_naive_ensemble(h, horizon, season) for h in histories],
    }
    ensembles = {name: np.stack(rows)[None] for name, rows in points.items()}
    ensembles |= {name: np.stack(rows, axis=1) for name, rows in spread.items()}
    return {
        name: metrics.mean_weighted_quantile_loss(part.target, metrics.sample_quantiles(draws))
        for name, draws in ensembles.items()
    }
