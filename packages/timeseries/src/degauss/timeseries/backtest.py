r"""How good is a forecaster on one's own past? Windows at the end of each series, forecast from what came before.

A series of n values is cut at

    c_k = n - horizon - k step,    k = windows - 1, ..., 0,

and what follows each cut, at c_k ... c_k + horizon - 1, is forecast from values before c_k alone. With a step of one
horizon, which it is unless given, no value is scored twice. A cut with too little before it, or nothing observed
after it, is left out; targets that were not observed count in no score. Both are counted, never hidden.

A score means nothing by itself, so every forecaster stands beside two that cost nothing: the last value and the
seasonal naive, each with the distribution of its own past errors (see `naive`), as many draws and the same cuts.

What this cannot see is a model that was trained on the values it is scored on: hold them out of the training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from degauss.core.errors import InputError, check_range
from degauss.timeseries import metrics, naive
from degauss.timeseries.regular import Regular, Times, season_length

Array = NDArray[np.float64]
Forecaster = Callable[[Sequence[Regular]], Sequence[Array]]
"""Histories -> samples ``[draws, horizon]`` of what follows each."""
Enough = Callable[[Array], bool]
"""Whether these values ``[n]`` are enough to forecast from."""

LAST_VALUE, SEASONAL_NAIVE = "last value", "seasonal naive"


@dataclass(frozen=True, eq=False)
class Cut:
    """A record, the number of its values that are known, and how many after these are to be forecast."""

    record: Regular
    index: int
    horizon: int

    @property
    def history(self) -> Regular:
        """What was known then."""
        return replace(self.record, values=self.record.values[: self.index])

    @property
    def target(self) -> Array:
        """What happened, ``[horizon]``, NaN where it was not observed."""
        return self.record.values[self.index : self.index + self.horizon]

    @cached_property
    def span(self) -> Times:
        """The last time known, and those to forecast: ``[1 + horizon]``."""
        return self.record.times[self.index - 1 : self.index + self.horizon]


def seen_among(least: int, last: int) -> Enough:
    """Histories with at least ``least`` observations among their ``last`` values."""
    return lambda values: int((~np.isnan(values[-last:])).sum()) >= least


def cuts(
    records: Sequence[Regular], horizon: int, *, windows: int = 4, step: int | None = None, enough: Enough | None = None
) -> list[Cut]:
    """Where the records can be cut, oldest first within each: enough is seen before, and something after to score.

    ``step`` is the horizon unless given; ``enough`` decides on a history, which needs one observation in any case.
    Raises `InputError` for a horizon, a number of windows or a step below 1.
    """
    step = horizon if step is None else step
    check_range("horizon", horizon, 1)
    check_range("windows", windows, 1)
    check_range("step", step, 1)
    wanted = (
        Cut(record, len(record.values) - horizon - k * step, horizon)
        for record in records
        for k in reversed(range(windows))
    )
    return [cut for cut in wanted if _usable(cut, enough)]


def before(found: Sequence[Cut], enough: Enough | None = None, windows: int = 4) -> list[Cut]:
    """Up to ``windows`` more cuts for each record, a horizon apart, the last of them a horizon before its first.

    What is chosen on these (the steps of a sampler, say) has seen no target of ``found``.
    """
    first: dict[int, Cut] = {}
    for cut in found:
        known = first.setdefault(id(cut.record), cut)
        if cut.index < known.index:
            first[id(cut.record)] = cut
    earlier = (
        replace(cut, index=cut.index - k * cut.horizon)
        for cut in first.values()
        for k in reversed(range(1, windows + 1))
    )
    return [cut for cut in earlier if _usable(cut, enough)]


def _usable(cut: Cut, enough: Enough | None) -> bool:
    if cut.index < 1:
        return False
    known = cut.record.values[: cut.index]
    seen = not np.isnan(known).all() and not np.isnan(cut.target).all()
    return seen and (enough is None or enough(known))


@dataclass(frozen=True, eq=False)
class Scored:
    """One window: its cut, the samples ``[draws, horizon]`` of each method, and the season that scales its MASE."""

    cut: Cut
    samples: Mapping[str, Array]
    season: int

    @cached_property
    def scores(self) -> dict[str, dict[str, float]]:
        """Scores of this window by method and name."""
        target, history = self.cut.target, self.cut.history.values
        return {name: metrics.evaluate(target, drawn, history, self.season) for name, drawn in self.samples.items()}


@dataclass(frozen=True, eq=False)
class Backtest:
    """All windows of all series. ``model`` is the method that is judged; ``left_out``: cuts that could not be made."""

    model: str
    windows: tuple[Scored, ...]
    left_out: int = 0

    @property
    def methods(self) -> tuple[str, ...]:
        """The model, and what it is compared with."""
        return tuple(self.windows[0].samples)

    @cached_property
    def scores(self) -> dict[str, dict[str, float]]:
        """Scores of all windows together, by method and name (see `metrics.evaluate_all`)."""
        targets = [window.cut.target for window in self.windows]
        histories = [window.cut.history.values for window in self.windows]
        seasons = [window.season for window in self.windows]
        return {
            name: metrics.evaluate_all(targets, [window.samples[name] for window in self.windows], histories, seasons)
            for name in self.methods
        }

    @property
    def targets(self) -> int:
        """Values that were forecast and observed."""
        return sum(int((~np.isnan(window.cut.target)).sum()) for window in self.windows)

    @property
    def unobserved(self) -> int:
        """Values that were forecast and not observed: they count in no score."""
        return sum(int(np.isnan(window.cut.target).sum()) for window in self.windows)

    def loss(self, method: str) -> float:
        """Mean weighted quantile loss over all windows together; lower is better."""
        return self.scores[method]["mean_weighted_quantile_loss"]

    def skill(self, method: str) -> float:
        """1 - loss(model) / loss(method): above zero where the model is better."""
        other = self.loss(method)
        return 1 - self.loss(self.model) / other if other > 0 else math.nan

    def pit(self, method: str) -> Array:
        """The rank of every observed target among its samples, in (0, 1); uniform for a calibrated method."""
        return np.concatenate([metrics.pit(window.cut.target, window.samples[method]) for window in self.windows])

    @property
    def best_naive(self) -> str:
        return min((LAST_VALUE, SEASONAL_NAIVE), key=self.loss)

    def verdict(self) -> str:
        """One sentence: is the model worth using here?"""
        rival = self.best_naive
        mine, theirs = self.loss(self.model), self.loss(rival)
        count = f"{len(self.windows)} backtest window{'s' if len(self.windows) > 1 else ''}"
        if math.isnan(mine):
            return f"Neither {self.model} nor the naive forecasts can be scored here: all targets are zero ({count})."
        figures = f"weighted quantile loss {mine:.4g} against {theirs:.4g} of the {rival} forecast, {count}"
        if mine < theirs:
            by = f"{100 * self.skill(rival):.0f} %"
            return f"{self.model} is better than both naive forecasts here, by {by} ({figures})."
        return (
            f"The {rival} forecast is better than {self.model} here ({figures}): use that one, or train a better model "
            "of these series ('degauss-timeseries train', with whole seasons as --lags)."
        )


def backtest(
    model: str, forecaster: Forecaster, found: Sequence[Cut], *, season: int | None = None, left_out: int = 0
) -> Backtest:
    """Forecast every cut from its history, and the naive forecasts beside it, with as many draws.

    ``season``: steps in a season, for the seasonal naive and the scale of the MASE; the usual one of each record's
    step unless given. Raises `InputError` where there is nothing to forecast.
    """
    if not found:
        raise InputError(
            "no series is long enough for a backtest: expected enough to forecast from, and then a horizon."
        )
    if season is not None:
        check_range("season", season, 1)
    drawn = forecaster([cut.history for cut in found])
    windows = (_beside_naive(model, cut, samples, season) for cut, samples in zip(found, drawn, strict=True))
    return Backtest(model, tuple(windows), left_out)


def _beside_naive(model: str, cut: Cut, samples: Array, season: int | None) -> Scored:
    known, horizon, draws = cut.history.values, cut.horizon, len(samples)
    season = season_length(cut.record.step) if season is None else season
    methods = {
        model: samples,
        LAST_VALUE: naive.last_value_ensemble(known, horizon, draws),
        SEASONAL_NAIVE: naive.seasonal_naive_ensemble(known, horizon, season, draws),
    }
    return Scored(cut, methods, season)
