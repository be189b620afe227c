"""TSDiff as a GluonTS predictor, for whoever has data sets, evaluators and comparisons there.

    from gluonts.evaluation import Evaluator, make_evaluation_predictions

    predictor = TSDiffPredictor(TSDiff.load("runs/tsdiff/model"))
    forecasts, series = make_evaluation_predictions(dataset.test, predictor, num_samples=100)
    scores, _ = Evaluator()(series, forecasts)

Entries are ``{"start": Period, "target": array [n], "item_id": str}``; NaN in a target is a missing value, and other
fields are not looked at. This is the one module that needs GluonTS: ``pip install "degauss-timeseries[gluonts]"``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Self

import numpy as np

from degauss.core.checkpoint import atomic_path, read_json, write_json
from degauss.core.errors import InputError
from degauss.timeseries.forecasting import check_horizon, forecast
from degauss.timeseries.regular import Regular
from degauss.timeseries.tsdiff import Likelihood, Sampling, TSDiff

try:
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


def _record(place: int, entry: Mapping[str, Any]) -> Regular:
    name = str(entry.get("item_id") or f"entry {place}")
    values = np.asarray(entry["target"], dtype=np.float64)
    if values.ndim != 1:
        raise InputError(f"series {name!r} has a target of shape {list(values.shape)}; expected one value each time.")
    if np.isinf(values).any():
        raise InputError(f"series {name!r} holds an infinite value; expected finite numbers or NaN.")
    # Only the values matter to the model: it counts steps, whatever their length.
    return Regular(name, 0, 1, values)
