"""TSDiff as a GluonTS predictor, for whoever has data sets, evaluators and comparisons there.

    from gluonts.evaluation import Evaluator, make_evaluation_predictions

    predictor = TSDiffPredictor(TSDiff.load("runs/tsdiff/model"))
    forecasts, series = make_evaluation_predictions(dataset.test, predictor, num_samples=100)
    scores, _ = Evaluator()(series, forecasts)

    predictor = TSDiffEstimator(TSDiffForecaster(horizon=24, context=168)).train(dataset.train)

Entries are ``{"start": Period, "target": array [n], "item_id": str}``; NaN in a target is a missing value, and other
fields are not looked at. `records_of` and `entries_of` go from a data set to the package's own records and back, for
backtests of theirs and predictors of ours. This is the one module that needs GluonTS:
``pip install "degauss-timeseries[gluonts]"``.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from degauss.core.errors import InputError
from degauss.core.files import atomic_path, read_json, write_json
from degauss.timeseries.estimator import TSDiffForecaster
from degauss.timeseries.forecasting import check_horizon, forecast
from degauss.timeseries.regular import Regular
from degauss.timeseries.tsdiff import Likelihood, Sampling, TSDiff

if TYPE_CHECKING:
    import pandas as pd

    from degauss.timeseries.regular import Step

try:
    from gluonts.model.estimator import Estimator
    from gluonts.model.forecast import SampleForecast
    from gluonts.model.predictor import Predictor
except ModuleNotFoundError as missing:
    raise ImportError(
        f"degauss.timeseries.gluonts needs {missing.name}, which is not installed; expected the extra of "
        'pip install "degauss-timeseries[gluonts]".'
    ) from missing

MODEL, OPTIONS = "tsdiff", "options.json"


@dataclass(frozen=True)
class Options:
    """How the predictor samples; see `Sampling`. ``num_samples`` of ``predict`` wins over ``samples``."""

    samples: int = 100
    steps: int = 20
    likelihood: Likelihood = "quantile"
    guidance: float | None = None
    seed: int = 0
    rows: int = 100


class TSDiffPredictor(Predictor):
    """Forecasts of ``prediction_length`` steps (the model's horizon unless given) for GluonTS entries.

    Raises `InputError` for a length the model was not trained for, and in ``predict`` for an entry that is
    multivariate, not finite, or too short for the model.
    """

    def __init__(self, model: TSDiff, prediction_length: int | None = None, options: Options | None = None) -> None:
        horizon = model.config.horizon if prediction_length is None else prediction_length
        check_horizon(model, horizon)
        super().__init__(prediction_length=horizon)
        self.model = model
        self.options = Options() if options is None else options

    def predict(
        self, dataset: Iterable[Mapping[str, Any]], num_samples: int | None = None, **kwargs: Any
    ) -> Iterator[SampleForecast]:
        """One forecast for each entry, in order; entries are read, and drawn, a few at a time.

        The samples of an entry depend on the seed, its item_id (its place, where it has none) and its length.
        """
        del kwargs
        options = self.options
        sampling = Sampling(
            samples=options.samples if num_samples is None else num_samples,
            steps=options.steps,
            likelihood=options.likelihood,
            guidance=options.guidance,
            seed=options.seed,
            rows=options.rows,
        )
        at_once = -(-sampling.rows // sampling.samples)
        entries = enumerate(dataset)
        while chunk := list(islice(entries, at_once)):
            records = [_record(place, entry) for place, entry in chunk]
            drawn = forecast(self.model, records, self.prediction_length, sampling)
            for (_, entry), record, samples in zip(chunk, records, drawn, strict=True):
                yield SampleForecast(
                    samples=samples, start_date=entry["start"] + len(record.values), item_id=entry.get("item_id")
                )

    def serialize(self, path: Path) -> None:
        """Write the predictor into an existing directory."""
        super().serialize(path)
        self.model.save(path / MODEL)
        with atomic_path(path / OPTIONS) as part:
            write_json(part, {"prediction_length": self.prediction_length, **asdict(self.options)})

    @classmethod
    def deserialize(cls, path: Path, **kwargs: Any) -> Self:
        """Read what ``serialize`` wrote."""
        del kwargs
        options = read_json(path / OPTIONS)
        horizon = options.pop("prediction_length")
        return cls(TSDiff.load(path / MODEL), horizon, Options(**options))


class TSDiffEstimator(Estimator):
    """A `TSDiffForecaster`'s model and manner of sampling, trained by GluonTS's ``train``."""

    def __init__(self, forecaster: TSDiffForecaster) -> None:
        super().__init__()
        self.forecaster = forecaster

    def train(
        self, training_data: Iterable[Mapping[str, Any]], validation_data: Iterable[Mapping[str, Any]] | None = None
    ) -> TSDiffPredictor:
        """A predictor of the forecaster's horizon; validation data are not used, since nothing is stopped early.

        Raises `InputError` for entries that ``predict`` would refuse, and for a data set of too short series.
        """
        del validation_data
        model = self.forecaster.model([_record(place, entry) for place, entry in enumerate(training_data)])
        one = self.forecaster
        options = Options(one.samples, one.steps, one.likelihood, one.guidance, one.seed)
        return TSDiffPredictor(model, options=options)


def records_of(dataset: Iterable[Mapping[str, Any]]) -> list[Regular]:
    """The entries of a data set on their calendars, for everything here that takes records."""
    records: list[Regular] = []
    for place, entry in enumerate(dataset):
        start, step = _placed(entry["start"])
        records.append(replace(_record(place, entry), start=start, step=step))
    return records


def entries_of(records: Iterable[Regular]) -> list[dict[str, Any]]:
    """The records as entries: a data set for every predictor and evaluator of GluonTS.

    A time zone is dropped, as periods have none: calendar steps keep their local dates, durations become UTC. Raises
    `InputError` for integer times, which GluonTS does not have, and for steps that are no pandas period.
    """
    return [{"start": _period(record), "target": record.values.copy(), "item_id": record.name} for record in records]


def _record(place: int, entry: Mapping[str, Any]) -> Regular:
    name = str(entry.get("item_id") or f"entry {place}")
    values = np.asarray(entry["target"], dtype=np.float64)
    if values.ndim != 1:
        raise InputError(f"series {name!r} has a target of shape {list(values.shape)}; expected one value each time.")
    if np.isinf(values).any():
        raise InputError(f"series {name!r} holds an infinite value; expected finite numbers or NaN.")
    # Only the values matter to the model: it counts steps, whatever their length.
    return Regular(name, 0, 1, values)


def _placed(start: pd.Period) -> tuple[pd.Timestamp, Step]:
    """The first time of an entry and its step: weeks, months, quarters and years stand at their ends."""
    import pandas as pd

    step: Any = start.freq  # pandas' stubs know little of offsets
    if type(step) in (pd.offsets.Day, pd.offsets.BusinessDay):
        return start.to_timestamp(), step
    if issubclass(type(step), pd.offsets.Tick):
        return start.to_timestamp(), pd.Timedelta(step)
    return start.asfreq(step.base, how="start").end_time.normalize(), step


def _period(record: Regular) -> pd.Period:
    import pandas as pd

    if isinstance(record.start, int) or isinstance(record.step, int):
        raise InputError(f"series {record.name!r} has integer times; GluonTS expects dates.")
    duration = isinstance(record.step, pd.Timedelta)
    start = record.start.tz_convert("UTC") if duration and record.start.tz is not None else record.start
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # pandas would rather have no periods of business days
            return start.tz_localize(None).to_period(_ending(record.step))
    except ValueError:
        raise InputError(
            f"series {record.name!r} has a step of {record.frequency}, for which pandas has no period."
        ) from None


def _ending(step: Any) -> Any:
    """The offset of the same length that pandas has periods of: theirs are named by their ends."""
    import pandas as pd
    from pandas.tseries.frequencies import to_offset

    kind, count = type(step), getattr(step, "n", 1)
    if kind in (pd.offsets.MonthBegin, pd.offsets.BusinessMonthBegin, pd.offsets.BusinessMonthEnd):
        return pd.offsets.MonthEnd(count)
    if kind is pd.offsets.QuarterBegin:
        return pd.offsets.QuarterEnd(count, startingMonth=(step.startingMonth + 1) % 12 + 1)
    if kind is pd.offsets.YearBegin:
        return pd.offsets.YearEnd(count, month=(step.month + 10) % 12 + 1)
    if kind is pd.offsets.DateOffset:
        return pd.offsets.MonthEnd(count * step.kwds.get("months", 0))
    return to_offset(step)
