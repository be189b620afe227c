"""A forecaster with the manners of sktime: pandas in and out, ``fit``, ``predict``, ``predict_quantiles``, ...

    forecaster = TSDiffForecaster("runs/tsdiff/model")
    forecaster.fit(y).predict_interval(fh=12, coverage=[0.5, 0.9])

Arguments, index types and column layouts are those of sktime's forecasters (and parameters those of scikit-learn),
so that code written for one takes the other; sktime itself is not needed. Missing values are data, and so are uneven
time stamps: they go to the nearest point of the grid that `regular` finds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import KW_ONLY, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, cast

import numpy as np
from numpy.typing import NDArray

from degauss.core.errors import InputError, check_range, near_miss
from degauss.timeseries.config import Scaling, TSDiffConfig
from degauss.timeseries.forecasting import forecast
from degauss.timeseries.regular import Regular, Series, Times, future_index, regularise
from degauss.timeseries.training import fit, recipe
from degauss.timeseries.tsdiff import Likelihood, Sampling, TSDiff

if TYPE_CHECKING:
    import pandas as pd
    from pandas.tseries.offsets import BaseOffset

Array = NDArray[np.float64]
Horizon = Any
"""Steps ahead: a number (that many, from 1), steps, future times as an index, or sktime's ForecastingHorizon."""


_Found = tuple[list[Regular], list[Any], bool]


@dataclass(frozen=True, eq=False)
class _Fitted:
    """What ``fit`` remembers: the model, the records, and the pandas side of them."""

    model: TSDiff
    records: list[Regular]
    names: list[Any]
    single: bool
    future: pd.Index[Any]
    steps: list[int]


@dataclass(eq=False)
class TSDiffForecaster:
    """TSDiff behind ``fit`` and ``predict``.

    With a ``checkpoint`` (a directory written by 'degauss-timeseries train') there is nothing to train, and ``fit``
    only remembers the series. Without one, ``fit`` trains a model of ``horizon`` on the series it is given, with the
    options from ``context`` on; ``out`` is then the directory of the run, a temporary one unless given.
    """

    checkpoint: str | Path | None = None
    _: KW_ONLY
    horizon: int = 24
    samples: int = 100
    steps: int = 20
    seed: int = 0
    likelihood: Likelihood = "quantile"
    guidance: float | None = None
    device: Literal["auto", "cpu"] = "auto"
    context: int = 168
    min_context: int | None = None
    lags: tuple[int, ...] = ()
    scaling: Scaling = "standard"
    hidden: int = 64
    blocks: int = 3
    state: int = 64
    train_steps: int = 1500
    batch: int = 64
    lr: float = 2e-3
    out: str | Path | None = None
    _fitted: _Fitted | None = field(default=None, init=False, repr=False)
    _drawn: tuple[Sampling, list[Array]] | None = field(default=None, init=False, repr=False)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's arguments by name."""
        del deep
        return {slot.name: getattr(self, slot.name) for slot in fields(self) if slot.init}

    def set_params(self, **params: Any) -> Self:
        """Change some of them; `InputError` for one there is not. What concerns the model acts at the next fit."""
        known = self.get_params()
        for name, value in params.items():
            if name not in known:
                raise InputError(f"TSDiffForecaster has no parameter {name!r}{near_miss(name, known)}.")
            setattr(self, name, value)
        return self

    @property
    def is_fitted(self) -> bool:
        return self._fitted is not None

    def fit(self, y: pd.Series[Any] | pd.DataFrame, X: Any = None, fh: Horizon = None) -> Self:
        """Take the series to forecast: one as a Series, or several as the columns of a DataFrame.

        Their index holds dates, periods or whole numbers. ``fh``: what to predict when ``predict`` is not told.
        Raises `InputError` for anything that is no series, and for exogenous ``X``, which TSDiff does not take.
        """
        _refuse(X)
        found = _records(y)
        records = found[0]
        if self.checkpoint is None:
            _steps(fh, _future(y, records[0], self.horizon))  # a request out of range costs no training
        self._remember(y, found, self.model(records), fh)
        return self

    def update(self, y: pd.Series[Any] | pd.DataFrame) -> Self:
        """Take other values of the series, longer ones say, for the model of the last ``fit``: nothing is trained."""
        fitted, steps = self._request(None)
        self._remember(y, _records(y), fitted.model, steps)
        return self

    def model(self, records: Sequence[Regular]) -> TSDiff:
        """The model of the checkpoint, or one trained on these records, on its device."""
        model = self._train(records) if self.checkpoint is None else TSDiff.load(self.checkpoint)
        model.network.to(self._device())
        return model

    def sampling(self, n: int | None = None) -> Sampling:
        """How the model is sampled, with ``n`` samples rather than ``samples`` if it is given."""
        return Sampling(
            samples=self.samples if n is None else n,
            steps=self.steps,
            likelihood=self.likelihood,
            guidance=self.guidance,
            seed=self.seed,
        )

    def predict(self, fh: Horizon = None, X: Any = None) -> Any:
        """The mean of the samples, as a Series or a DataFrame, whichever ``y`` was."""
        import pandas as pd

        _refuse(X)
        fitted, steps = self._request(fh)
        means = {name: drawn.mean(0) for name, drawn in zip(fitted.names, self._samples(steps), strict=True)}
        frame = pd.DataFrame(means, index=_take(fitted.future, steps))
        if not fitted.single:
            return frame
        column = cast("pd.Series[Any]", frame[fitted.names[0]])
        return column.rename(fitted.records[0].name or None)

    def predict_quantiles(
        self, fh: Horizon = None, X: Any = None, alpha: float | Sequence[float] | None = None
    ) -> pd.DataFrame:
        """Quantiles, with columns (name, level); the name of a Series that has none is 0. Levels: 0.05 and 0.95."""
        levels = _levels("alpha", (0.05, 0.95) if alpha is None else alpha)
        return self._quantiles(fh, X, [((level,), level) for level in levels])

    def predict_interval(
        self, fh: Horizon = None, X: Any = None, coverage: float | Sequence[float] = 0.9
    ) -> pd.DataFrame:
        """Central intervals, with columns (name, coverage, "lower" or "upper")."""
        ends: list[tuple[tuple[Any, ...], float]] = []
        for share in _levels("coverage", coverage):
            ends += [((share, "lower"), 0.5 - share / 2), ((share, "upper"), 0.5 + share / 2)]
        return self._quantiles(fh, X, ends)

    def sample(self, fh: Horizon = None, n: int | None = None) -> pd.DataFrame:
        """``n`` sample paths (``samples`` unless given), columns 0, 1, ..., or (name, 0), ... for a DataFrame."""
        fitted, steps = self._request(fh)
        drawn = self._samples(steps, n)
        labels = [(name, k) for name in fitted.names for k in range(len(drawn[0]))]
        frame = _frame(np.concatenate(drawn), _take(fitted.future, steps), labels)
        return cast("pd.DataFrame", frame[fitted.names[0]]) if fitted.single else frame

    def _quantiles(self, fh: Horizon, X: Any, wanted: list[tuple[tuple[Any, ...], float]]) -> pd.DataFrame:
        _refuse(X)
        fitted, steps = self._request(fh)
        levels = [level for _, level in wanted]
        rows = np.concatenate([np.quantile(drawn, levels, axis=0) for drawn in self._samples(steps)])
        labels = [(name, *label) for name in fitted.names for label, _ in wanted]
        return _frame(rows, _take(fitted.future, steps), labels)

    def _remember(self, y: pd.Series[Any] | pd.DataFrame, found: _Found, model: TSDiff, fh: Horizon) -> None:
        records, names, single = found
        future = _future(y, records[0], model.config.horizon)
        self._fitted = _Fitted(model, records, names, single, future, _steps(fh, future))
        self._drawn = None

    def _request(self, fh: Horizon) -> tuple[_Fitted, list[int]]:
        if self._fitted is None:
            raise RuntimeError("this forecaster is not fitted: call fit(y) first")
        return self._fitted, self._fitted.steps if fh is None else _steps(fh, self._fitted.future)

    def _samples(self, steps: list[int], n: int | None = None) -> list[Array]:
        """The draws ``[n, steps]`` of each series. The last ones are kept: asking again costs nothing."""
        assert self._fitted is not None
        model = self._fitted.model
        sampling = self.sampling(n)
        if self._drawn is None or self._drawn[0] != sampling:
            self._drawn = sampling, forecast(model, self._fitted.records, model.config.horizon, sampling)
        columns = np.array(steps) - 1
        return [drawn[:, columns] for drawn in self._drawn[1]]

    def _train(self, records: Sequence[Regular]) -> TSDiff:
        from tempfile import TemporaryDirectory

        config = TSDiffConfig(
            context=self.context,
            horizon=self.horizon,
            lags=tuple(self.lags),
            scaling=self.scaling,
            min_context=self.context if self.min_context is None else self.min_context,
            hidden=self.hidden,
            blocks=self.blocks,
            state=self.state,
        )
        with TemporaryDirectory(prefix="degauss-") as temporary:
            settings = recipe(
                Path(temporary if self.out is None else self.out),
                steps=self.train_steps,
                batch=self.batch,
                lr=self.lr,
                seed=self.seed,
                device=self.device,
            )
            return fit(config, [record.values for record in records], settings)

    def _device(self) -> str:
        import torch

        return "cuda" if self.device == "auto" and torch.cuda.is_available() else "cpu"


def _refuse(exogenous: Any) -> None:
    if exogenous is not None:
        raise InputError("X was given, but TSDiff takes no exogenous variables; expected X=None.")


def _levels(name: str, levels: float | Sequence[float]) -> list[float]:
    found = [float(level) for level in cast("Iterable[float]", np.atleast_1d(np.asarray(levels, dtype=np.float64)))]
    if not found or any(not 0 < level < 1 for level in found):
        raise InputError(f"{name} must lie strictly between 0 and 1, but is {levels}.")
    return found


# --- from pandas ----------------------------------------------------------------------------------------------


def _records(y: Any) -> _Found:
    """The series on their grids, their names as columns, and whether there was only a Series."""
    import pandas as pd

    if isinstance(y, pd.Series):
        return [record_of(y, "" if y.name is None else str(y.name))], [0 if y.name is None else y.name], True
    if not isinstance(y, pd.DataFrame) or not len(y.columns):
        raise InputError(f"y must be a pandas Series or DataFrame with columns, but is a {type(y).__name__}.")
    if not y.columns.is_unique:
        raise InputError(f"y must have columns of different names, but has {list(y.columns)}.")
    return [record_of(y[name], str(name)) for name in y.columns], list(y.columns), False


def record_of(column: pd.Series[Any], name: str, freq: str | None = None) -> Regular:
    """A column of numbers with its times as index, on its grid; ``freq`` is found from the index unless given.

    Raises `InputError` for values that are no numbers, not finite or all missing, and for an index without times.
    """
    told = f"series {name!r}" if name else "y"
    if column.dtype.kind not in "biuf":
        raise InputError(f"{told} must hold numbers, but holds {column.dtype}.")
    values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    if np.isnan(values).all():
        raise InputError(f"{told} has no values: all {len(values)} are missing.")
    if np.isinf(values).any():
        raise InputError(f"{told} holds an infinite value; expected finite numbers or NaN.")
    times, timezone, told_freq = _times(column.index)
    order = np.argsort(times, kind="stable")
    times, values = times[order], values[order]
    same = np.flatnonzero(times[1:] == times[:-1])
    if len(same):
        raise InputError(f"{told} has {column.index[order[same[0]]]} twice in its index; expected different times.")
    return regularise(Series(name, times, values, timezone), told_freq if freq is None else freq)


def _times(index: pd.Index[Any]) -> tuple[Times, str | None, str | None]:
    """Time stamps as `regular` has them, their time zone, and the frequency where the index says it."""
    import pandas as pd

    if isinstance(index, pd.PeriodIndex):  # evenly counted, whatever calendar they follow
        offset = cast("BaseOffset", index.freq)
        return index.astype("int64").to_numpy(), None, str(offset.n)
    if isinstance(index, pd.DatetimeIndex):
        if index.hasnans:
            raise InputError("the index of y holds NaT; expected a time for every value.")
        zone = None if index.tz is None else str(index.tz)
        utc = index if index.tz is None else index.tz_convert("UTC").tz_localize(None)
        return utc.as_unit("ns").to_numpy(), zone, index.freqstr
    if index.dtype.kind in "iu":
        return index.to_numpy(dtype=np.int64), None, None
    raise InputError(f"the index of y must hold dates, periods or whole numbers, but holds {index.dtype}.")


# --- to pandas ------------------------------------------------------------------------------------------------


def _future(y: pd.Series[Any] | pd.DataFrame, record: Regular, horizon: int) -> pd.Index[Any]:
    """The index of the ``horizon`` steps that follow, of the kind that ``y`` has."""
    import pandas as pd

    index = y.index
    if isinstance(index, pd.PeriodIndex):
        return pd.period_range(index.max() + 1, periods=horizon, freq=index.freq)
    times = future_index(record, horizon)
    if not isinstance(index, pd.DatetimeIndex):
        return pd.Index(times)
    stamps = pd.DatetimeIndex(times)
    stamps = stamps if index.tz is None else stamps.tz_localize("UTC").tz_convert(index.tz)
    return stamps if index.freq is None else pd.DatetimeIndex(stamps, freq=index.freq)


def _steps(fh: Horizon, future: pd.Index[Any]) -> list[int]:
    """The steps ahead that ``fh`` asks for, each from 1 to the length of ``future``."""
    import pandas as pd

    horizon = len(future)
    if fh is None:
        return list(range(1, horizon + 1))
    relative = True
    if hasattr(fh, "to_pandas"):  # sktime's ForecastingHorizon
        fh, relative = fh.to_pandas(), bool(fh.is_relative)
    if isinstance(fh, pd.DatetimeIndex | pd.PeriodIndex) or not relative:
        steps = [int(place) + 1 for place in future.get_indexer(fh)]
        if 0 in steps:
            raise InputError(
                f"fh holds {fh[steps.index(0)]}, which is none of the {horizon} steps after the series, "
                f"{future[0]} to {future[-1]}."
            )
        return steps
    wanted = np.arange(1, fh + 1) if isinstance(fh, int | np.integer) else np.asarray(fh)
    if isinstance(fh, int | np.integer):
        check_range("fh", int(fh), 1, horizon)
    if wanted.ndim != 1 or wanted.dtype.kind not in "iu" or not len(wanted):
        raise InputError(f"fh must be a number of steps, a list of steps or future times, but is {fh!r}.")
    for step in wanted:
        check_range("fh", int(step), 1, horizon)
    return [int(step) for step in wanted]


def _take(future: pd.Index[Any], steps: list[int]) -> pd.Index[Any]:
    return future.take([step - 1 for step in steps])


def _frame(rows: Array, index: pd.Index[Any], labels: list[tuple[Any, ...]]) -> pd.DataFrame:
    """A frame whose columns are the rows of an array."""
    import pandas as pd

    return pd.DataFrame(rows.T, index=index, columns=pd.MultiIndex.from_tuples(labels))
