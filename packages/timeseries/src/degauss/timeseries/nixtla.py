"""Long frames as Nixtla's libraries have them: ``unique_id, ds, y`` in, one column a model and its intervals out.

    frames = NixtlaForecaster(TSDiffForecaster("runs/tsdiff/model"))
    frames.fit(df).predict(h=12, level=[80, 90])
    frames.cross_validation(df, h=12, n_windows=5)

``predict`` gives ``unique_id, ds, TSDiff, TSDiff-median, TSDiff-lo-90, TSDiff-lo-80, TSDiff-hi-80, TSDiff-hi-90``: the
mean of the samples, their median, and the ends of central intervals of so many per cent. ``cross_validation`` adds
``cutoff``, the last time known, and ``y``. Both are what ``utilsforecast.evaluation.evaluate`` takes; Nixtla itself is
not needed. Series may differ in length, may have gaps, and need not be evenly spaced.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from degauss.core.errors import InputError, check_range, near_miss
from degauss.timeseries import metrics
from degauss.timeseries.backtest import LAST_VALUE, SEASONAL_NAIVE, Backtest, cuts, seen_among
from degauss.timeseries.estimator import TSDiffForecaster, record_of
from degauss.timeseries.forecasting import forecast
from degauss.timeseries.metrics import Array
from degauss.timeseries.regular import Regular, Times, future_index

if TYPE_CHECKING:
    import pandas as pd

    from degauss.timeseries.tsdiff import TSDiff

LEVELS = (20, 40, 50, 60, 80, 90)
"""Intervals in per cent: with the median their ends are the deciles, the quartiles and 0.05, 0.95."""
NAMES = {LAST_VALUE: "Naive", SEASONAL_NAIVE: "SeasonalNaive"}
"""What the naive forecasts are called there."""


class Columns(NamedTuple):
    """Names of the columns of a long frame."""

    id: str = "unique_id"
    time: str = "ds"
    target: str = "y"


class _Known(NamedTuple):
    """What ``fit`` remembers."""

    model: TSDiff
    records: list[Regular]
    ids: list[Any]
    columns: Columns


@dataclass(eq=False)
class NixtlaForecaster:
    """A `TSDiffForecaster` behind the methods of Nixtla's ``StatsForecast`` and ``NeuralForecast``.

    ``forecaster`` says which model, or how to train one, on all series together, and how to sample it. ``freq`` is the
    step of the series, as pandas writes it, found from the data unless given; ``name`` that of the columns.
    """

    forecaster: TSDiffForecaster
    _: KW_ONLY
    freq: str | int | None = None
    name: str = "TSDiff"
    _known: _Known | None = field(default=None, init=False, repr=False)

    def fit(self, df: pd.DataFrame, id_col: str = "unique_id", time_col: str = "ds", target_col: str = "y") -> Self:
        """Take the series to forecast, and train a model of them if there is no checkpoint.

        Raises `InputError` for a frame without these columns, an id or a time that is missing or there twice, and
        values that are no finite numbers.
        """
        columns = Columns(id_col, time_col, target_col)
        ids, records = self._read(df, columns)
        self._known = _Known(self.forecaster.model(records), records, ids, columns)
        return self

    def predict(self, h: int | None = None, level: Sequence[float] | None = None) -> pd.DataFrame:
        """The ``h`` steps (the model's horizon unless given) after the end of each series; intervals of ``level`` %."""
        import pandas as pd

        known = self._fitted()
        horizon = known.model.config.horizon if h is None else h
        levels = _levels(level)
        drawn = forecast(known.model, known.records, horizon, self.forecaster.sampling())
        parts = [
            pd.DataFrame(
                {
                    known.columns.id: [name] * horizon,
                    known.columns.time: stamps(record, future_index(record, horizon)),
                    **columns_of(self.name, samples, levels),
                }
            )
            for name, record, samples in zip(known.ids, known.records, drawn, strict=True)
        ]
        return pd.concat(parts, ignore_index=True)

    def cross_validation(
        self,
        df: pd.DataFrame,
        h: int,
        n_windows: int = 1,
        step_size: int | None = None,
        level: Sequence[float] | None = None,
        id_col: str = "unique_id",
        time_col: str = "ds",
        target_col: str = "y",
    ) -> pd.DataFrame:
        """Forecasts of the last ``n_windows`` stretches of each series, ``step_size`` (``h`` unless given)
        apart, each from what came before it.

        A model without a checkpoint is trained once, on what came before the first cutoff of each series. Rows whose
        target was not observed are left out, as are windows with too little before them. What ``fit`` took is not
        touched. Raises `InputError` as ``fit`` does, and where no series is long enough.
        """
        import pandas as pd

        columns = Columns(id_col, time_col, target_col)
        ids, records = self._read(df, columns)
        levels = _levels(level)
        if self.forecaster.checkpoint is None:
            check_range("h", h, 1, self.forecaster.horizon)
        wanted = cuts(records, h, windows=n_windows, step=step_size)
        firsts: dict[str, Regular] = {}
        for cut in wanted:
            firsts.setdefault(cut.record.name, cut.history)
        if not firsts:
            raise InputError(f"no series is long enough for {h} steps and something before them.")
        model = self.forecaster.model(list(firsts.values()))
        enough = seen_among(model.config.min_context, model.config.context)
        found = [cut for cut in wanted if enough(cut.record.values[: cut.index])]
        if not found:
            raise InputError(
                f"no series is long enough: expected {model.config.min_context} observed values and then {h} more."
            )
        drawn = forecast(model, [cut.history for cut in found], h, self.forecaster.sampling())
        names = dict(zip((record.name for record in records), ids, strict=True))
        parts = [
            window_frame(
                cut.record, cut.span, cut.target, {self.name: samples}, levels, columns, names[cut.record.name]
            )
            for cut, samples in zip(found, drawn, strict=True)
        ]
        return pd.concat(parts, ignore_index=True)

    def _fitted(self) -> _Known:
        if self._known is None:
            raise RuntimeError("this forecaster is not fitted: call fit(df) first")
        return self._known

    def _read(self, df: Any, columns: Columns) -> tuple[list[Any], list[Regular]]:
        """The ids, in ascending order, and their series on their grids."""
        import pandas as pd

        if not isinstance(df, pd.DataFrame):
            raise InputError(f"df must be a pandas DataFrame, but is a {type(df).__name__}.")
        names = [str(name) for name in df.columns]
        for column in columns:
            if column not in names:
                raise InputError(f"df has no column {column!r}{near_miss(column, names)}; its columns are {names}.")
        if df[columns.id].isna().any():
            raise InputError(f"column {columns.id!r} holds a missing value; expected the series of every row.")
        freq = None if self.freq is None else str(self.freq)
        groups = [(name, group) for name, group in df.groupby(columns.id, sort=True, observed=True)]
        if not groups:
            raise InputError("df has no rows; expected at least one series.")
        records = [record_of(group.set_index(columns.time)[columns.target], str(name), freq) for name, group in groups]
        return [name for name, _ in groups], records


def columns_of(model: str, samples: Array, level: Sequence[float]) -> dict[str, Array]:
    """The columns of one forecast ``samples [draws, n]``: mean, median, the lower ends from the widest, the upper."""
    rising = sorted(set(level))
    ends = {percent: metrics.interval(samples, percent / 100) for percent in rising}
    return {
        model: samples.mean(axis=0),
        f"{model}-median": metrics.sample_quantiles(samples, (0.5,))[0],
        **{f"{model}-lo-{percent:g}": ends[percent][0] for percent in reversed(rising)},
        **{f"{model}-hi-{percent:g}": ends[percent][1] for percent in rising},
    }


def window_frame(
    record: Regular,
    span: Times,
    target: Array,
    samples: Mapping[str, Array],
    level: Sequence[float],
    columns: Columns,
    name: Any,
) -> pd.DataFrame:
    """One window of a cross-validation: the observed ``target [n]`` after ``span[0]`` beside each model's columns."""
    import pandas as pd

    seen = ~np.isnan(target)
    times = stamps(record, span)
    frame = {
        columns.id: [name] * int(seen.sum()),
        columns.time: times[1:][seen],
        "cutoff": times[[0] * int(seen.sum())],
        columns.target: target[seen],
    }
    for model, drawn in samples.items():
        frame |= columns_of(model, drawn[:, seen], level)
    return pd.DataFrame(frame)


def backtest_frame(result: Backtest, level: Sequence[float] = LEVELS, columns: Columns | None = None) -> pd.DataFrame:
    """All windows of a backtest as the long frame of a cross-validation, the naive forecasts beside the model."""
    import pandas as pd

    wanted = Columns() if columns is None else columns
    parts: Iterable[pd.DataFrame] = (
        window_frame(
            window.cut.record,
            window.cut.span,
            window.cut.target,
            {NAMES.get(method, method): drawn for method, drawn in window.samples.items()},
            _levels(level),
            wanted,
            window.cut.record.name,
        )
        for window in result.windows
    )
    return pd.concat(parts, ignore_index=True)


def stamps(record: Regular, times: Times) -> pd.Index[Any]:
    """Times of a record for a column: dates, in its time zone if it has one, or integers."""
    import pandas as pd

    if times.dtype.kind != "M":
        return pd.Index(times)
    index = pd.DatetimeIndex(times)
    return index if record.timezone is None else index.tz_localize("UTC").tz_convert(record.timezone)


def _levels(level: Sequence[float] | None) -> list[float]:
    """Intervals in per cent, none unless given; `InputError` for one that is not between 0 and 100."""
    found = [] if level is None else list(level)
    for percent in found:
        if not 0 < percent < 100:
            raise InputError(f"level must lie strictly between 0 and 100 per cent, but holds {percent}.")
    return found
