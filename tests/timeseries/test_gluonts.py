"""The GluonTS face: its evaluator must find in our forecasts what our own metrics find."""

from __future__ import annotations

import importlib
import sys
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest

from degauss.core.errors import InputError
from degauss.timeseries import metrics
from degauss.timeseries.forecasting import forecast
from degauss.timeseries.regular import Regular
from degauss.timeseries.tsdiff import Sampling

pytest.importorskip("gluonts", reason="gluonts is not installed")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # gluonts advises a faster JSON library
    from gluonts.dataset.common import ListDataset
    from gluonts.evaluation import Evaluator, make_evaluation_predictions
    from gluonts.model.predictor import Predictor

    from degauss.timeseries.gluonts import Options, TSDiffPredictor

OPTIONS = Options(samples=20, steps=4)


def entries(count: int = 3) -> list[dict[str, Any]]:
    waves = [(k + 1) * np.sin(2 * np.pi * np.arange(40 + k) / 8 + k) + 3 for k in range(count)]
    return [{"start": pd.Period("2024-01-01", "D"), "target": y, "item_id": f"wave {k}"} for k, y in enumerate(waves)]


@pytest.mark.filterwarnings("ignore")  # what pandas says of the evaluator's own code
def test_the_evaluator_finds_our_metric(tiny):
    dataset = ListDataset(entries(), freq="D")
    predictor = TSDiffPredictor(tiny, options=OPTIONS)
    drawn, known = make_evaluation_predictions(dataset, predictor, num_samples=50)
    forecasts: list[Any] = list(drawn)
    aggregate, _ = Evaluator(num_workers=0)(known, forecasts, num_series=3)
    target = np.stack([entry["target"][-8:] for entry in entries()])
    samples = np.stack([one.samples for one in forecasts], axis=1)
    assert samples.shape == (50, 3, 8)
    ours = metrics.mean_weighted_quantile_loss(target, metrics.sample_quantiles(samples))
    assert aggregate["mean_wQuantileLoss"] == pytest.approx(ours, rel=1e-5)
    median = metrics.sample_quantiles(samples, [0.5])[0]
    assert aggregate["ND"] == pytest.approx(metrics.nd(target, median), rel=1e-5)


def test_forecasts_are_those_of_the_model(tiny):
    predictor = TSDiffPredictor(tiny, 5, Options(samples=20, steps=4, seed=3))
    forecasts = list(predictor.predict(entries()))
    records = [Regular(str(e["item_id"]), 0, 1, np.asarray(e["target"])) for e in entries()]
    drawn = forecast(tiny, records, 5, Sampling(20, 4, seed=3))
    for one, entry, samples in zip(forecasts, entries(), drawn, strict=True):
        np.testing.assert_array_equal(one.samples, samples)
        assert one.start_date == pd.Period("2024-01-01", "D") + len(np.asarray(entry["target"]))
        assert one.item_id == entry["item_id"]


def test_entries_are_drawn_a_few_at_a_time(tiny):
    read: list[int] = []

    def source():
        for k, entry in enumerate(entries(8)):
            read.append(k)
            yield entry

    few = TSDiffPredictor(tiny, options=Options(samples=20, steps=4, rows=40)).predict(source())
    first = next(few)
    assert len(read) == 2
    whole = list(TSDiffPredictor(tiny, options=OPTIONS).predict(entries(8)))
    for one, other in zip([first, *few], whole, strict=True):
        np.testing.assert_allclose(one.samples, other.samples, rtol=0, atol=1e-2)


def test_nan_is_a_missing_value(tiny):
    entry = entries(1)[0]
    values = np.asarray(entry["target"]).copy()
    values[[20, 30]] = np.nan
    (one,) = TSDiffPredictor(tiny, options=OPTIONS).predict([entry | {"target": values}])
    assert np.isfinite(one.samples).all()


def test_entries_without_a_name(tiny):
    nameless = [{key: value for key, value in entry.items() if key != "item_id"} for entry in entries(1) * 2]
    one, other = TSDiffPredictor(tiny, options=OPTIONS).predict(nameless)
    assert one.item_id is None
    assert not np.allclose(one.samples, other.samples)


def test_written_and_read_back(tiny, tmp_path):
    predictor = TSDiffPredictor(tiny, 5, Options(samples=6, steps=3, likelihood="mean-square", guidance=2.0))
    predictor.serialize(tmp_path)
    again = Predictor.deserialize(tmp_path)
    assert isinstance(again, TSDiffPredictor)
    assert (again.prediction_length, again.options) == (5, predictor.options)
    for one, other in zip(predictor.predict(entries()), again.predict(entries()), strict=True):
        np.testing.assert_array_equal(one.samples, other.samples)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (np.zeros((2, 40)), r"'wave 0' has a target of shape \[2, 40\]"),
        (np.full(40, np.inf), "infinite"),
        (np.zeros(9), "too short"),
    ],
)
def test_entries_that_cannot_be_forecast(tiny, target, message):
    with pytest.raises(InputError, match=message):
        list(TSDiffPredictor(tiny).predict([entries(1)[0] | {"target": target}]))


def test_a_horizon_out_of_range(tiny):
    with pytest.raises(InputError, match="horizon must be between 1 and 8, but is 9"):
        TSDiffPredictor(tiny, 9)


def test_without_gluonts_the_extra_is_named(monkeypatch):
    for name in ("gluonts", "gluonts.model.forecast"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "degauss.timeseries.gluonts")
    with pytest.raises(ImportError, match=r'needs gluonts.*pip install "degauss-timeseries\[gluonts\]"'):
        importlib.import_module("degauss.timeseries.gluonts")
