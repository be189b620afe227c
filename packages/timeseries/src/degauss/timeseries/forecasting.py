"""Forecasting with a TSDiff model: from regular records to samples of their future, and how good those are.

A forecast is honest only beside what costs nothing, so the backtest here scores the model and the naive forecasts
on the same windows of the user's own series, and says who won.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from degauss.core.errors import InputError, check_range
from degauss.timeseries import metrics, naive
from degauss.timeseries.regular import Regular, season_length
from degauss.timeseries.tsdiff import Sampling, TSDiff, draw
from degauss.timeseries.windows import tail

Array = NDArray[np.float64]
Report = Callable[[int, int], None]

MODEL, LAST_VALUE, SEASONAL_NAIVE = "TSDiff", "last value", "seasonal naive"


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


class Scored(NamedTuple):
    """One backtest window: who forecast it and how, with scores by method and name."""

    series: str
    cutoff: int
    target: Array
    samples: Mapping[str, Array]
    scores: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Backtest:
    """Scores of all windows of all series."""

    windows: tuple[Scored, ...]

    def loss(self, method: str) -> float:
        """Mean weighted quantile loss over all windows together; lower is better."""
        quantiles = np.concatenate([metrics.sample_quantiles(w.samples[method]) for w in self.windows], axis=1)
        return metrics.mean_weighted_quantile_loss(np.concatenate([w.target for w in self.windows]), quantiles)

    def skill(self, method: str) -> float:
        """1 - loss(TSDiff) / loss(method): above zero where TSDiff is better."""
        other = self.loss(method)
        return 1 - self.loss(MODEL) / other if other > 0 else math.nan

    def mean(self, method: str, score: str) -> float:
        """A score's mean over the windows that have it; NaN if none has."""
        found = [w.scores[method][score] for w in self.windows if not math.isnan(w.scores[method][score])]
        return sum(found) / len(found) if found else math.nan

    @property
    def best_naive(self) -> str:
        return min((LAST_VALUE, SEASONAL_NAIVE), key=self.loss)

    def verdict(self) -> str:
        """One sentence: is the model worth using here?"""
        rival = self.best_naive
        mine, theirs = self.loss(MODEL), self.loss(rival)
        count = f"{len(self.windows)} backtest window{'s' if len(self.windows) > 1 else ''}"
        if math.isnan(mine):
            return f"Neither TSDiff nor the naive forecasts can be scored here: all targets are zero ({count})."
        figures = f"weighted quantile loss {mine:.4g} against {theirs:.4g} of the {rival} forecast, {count}"
        if mine < theirs:
            return f"TSDiff is better than both naive forecasts here, by {100 * self.skill(rival):.0f} % ({figures})."
        return (
            f"The {rival} forecast is better than TSDiff here ({figures}): use that one, or train a better model of "
            "these series ('degauss-timeseries train', with whole seasons as --lags)."
        )


def backtest(
    model: TSDiff,
    records: Sequence[Regular],
    horizon: int,
    sampling: Sampling,
    *,
    windows: int = 4,
    step: int | None = None,
    report: Report | None = None,
) -> Backtest:
    """Forecast the last ``windows`` stretches of each record from what came before each, ``step`` apart.

    ``step`` is the horizon unless given. The naive forecasts get as many draws, from the errors they made on the
    history before the cutoff. Windows with too little history are left out; `InputError` if none remains.
    """
    check_range("windows", windows, 1)
    check_horizon(model, horizon)
    cuts = cutoffs(model, records, horizon, windows, step)
    if not cuts:
        raise InputError(
            f"no series is long enough for a backtest: expected at least {model.config.min_context} observed "
            f"values and then {horizon} more."
        )
    histories = [replace(record, values=record.values[:cutoff]) for record, cutoff in cuts]
    drawn = forecast(model, histories, horizon, sampling, report)
    return Backtest(
        tuple(_score(record, cutoff, horizon, samples) for (record, cutoff), samples in zip(cuts, drawn, strict=True))
    )


def cutoffs(
    model: TSDiff, records: Sequence[Regular], horizon: int, windows: int, step: int | None = None
) -> list[tuple[Regular, int]]:
    """Where a backtest can cut each record, oldest first: enough is seen before, and something after to score."""
    step = horizon if step is None else step
    check_range("step", step, 1)
    return [cut for record in records for cut in _cuts(model, record, horizon, windows, step)]


def _cuts(model: TSDiff, record: Regular, horizon: int, windows: int, step: int) -> list[tuple[Regular, int]]:
    cuts: list[tuple[Regular, int]] = []
    for k in reversed(range(windows)):
        cutoff = len(record.values) - horizon - k * step
        if cutoff < 1:
            continue
        before = record.values[:cutoff][-model.config.context :]
        target = record.values[cutoff : cutoff + horizon]
        if (~np.isnan(before)).sum() >= model.config.min_context and not np.isnan(target).all():
            cuts.append((record, cutoff))
    return cuts


def _score(record: Regular, cutoff: int, horizon: int, samples: Array) -> Scored:
    history = record.values[:cutoff]
    target = record.values[cutoff : cutoff + horizon]
    season = season_length(record.step)
    draws = len(samples)
    methods = {
        MODEL: samples,
        LAST_VALUE: naive.last_value_ensemble(history, horizon, draws),
        SEASONAL_NAIVE: naive.seasonal_naive_ensemble(history, horizon, season, draws),
    }
    scores = {name: metrics.evaluate(target, drawn, history, season) for name, drawn in methods.items()}
    return Scored(record.name, cutoff, target, methods, scores)


def within(model: TSDiff, windows: int, sampling: Sampling, seconds: float) -> Sampling:
    """The sampling that fits a time budget: fewer steps first (down to 5), then fewer samples (down to 20).

    One small batch is timed on this machine. The budget is a target, not a promise.
    """
    check_range("seconds", seconds, 0.1, unit="s")
    rows = min(sampling.rows, windows * sampling.samples)
    trial = replace(sampling, samples=rows, steps=1, rows=rows)
    blank = np.full((1, model.config.reach + model.config.length), np.nan)
    blank[0, : model.config.context] = np.sin(np.arange(model.config.context))
    draw(model, blank, ["warm up"], trial)
    start = time.perf_counter()
    draw(model, blank, ["timed"], trial)
    affordable = 0.9 * seconds / (time.perf_counter() - start) * rows
    steps = int(np.clip(affordable / (windows * sampling.samples), 5, sampling.steps))
    samples = int(np.clip(affordable / (windows * steps), 20, sampling.samples))
    return replace(sampling, steps=steps, samples=min(samples, sampling.samples))
