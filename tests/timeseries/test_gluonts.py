"""The GluonTS face: its evaluator must find in our forecasts what our own metrics find."""

from __future__ import annotations

import importlib
import sys
import warnings
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest

from degauss.core.errors import InputError
from degauss.timeseries import metrics
from degauss.timeseries.backtest import backtest, cuts
from degauss.timeseries.estimator import TSDiffForecaster
from degauss.timeseries.forecasting import forecast
from degauss.timeseries.regular import Regular
from degauss.timeseries.tsdiff import Sampling

pytest.importorskip("gluonts", reason="gluonts is not installed")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # gluonts advises a faster JSON library
    from gluonts.dataset.common import ListDataset
    from gluonts.dataset.pandas import PandasDataset
    from gluonts.evaluation import Evaluator, make_evaluation_predictions
    from gluonts.model.predictor import Predictor

    from degauss.timeseries.gluonts import Options, TSDiffEstimator, TSDiffPredictor, entries_of, records_of

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


@pytest.mark.filterwarnings("ignore")
def test_the_evaluator_agrees_with_a_backtest(tiny):
    holes = entries()
    for entry in holes:
        entry["target"][[20, 25]] = np.nan  # in the past, where they are data for both
    predictor = TSDiffPredictor(tiny, options=OPTIONS)
    drawn, known = make_evaluation_predictions(ListDataset(holes, freq="D"), predictor, num_samples=50)
    aggregate, _ = Evaluator(num_workers=0, seasonality=4, quantiles=metrics.DECILES)(known, list(drawn), num_series=3)
    model = partial(forecast, tiny, horizon=8, sampling=Sampling(samples=50, steps=4))
    records = records_of(holes)
    result = backtest("TSDiff", model, cuts(records, 8, windows=1), season=4)
    ours = result.scores["TSDiff"]
    # GluonTS holds targets and samples in float32.
    assert ours["mean_weighted_quantile_loss"] == pytest.approx(aggregate["mean_wQuantileLoss"], rel=1e-3)
    assert ours["nd"] == pytest.approx(aggregate["ND"], rel=1e-3)
    assert ours["mase"] == pytest.approx(aggregate["MASE"], rel=1e-3)


def test_data_sets_of_gluonts_go_in(tiny):
    long = pd.concat(
        [
            pd.DataFrame(
                {"item_id": e["item_id"], "y": e["target"]}, index=pd.date_range("2024-01-01", periods=len(e["target"]))
            )
            for e in entries()
        ]
    )
    whole = list(TSDiffPredictor(tiny, options=OPTIONS).predict(entries()))
    for dataset in (
        PandasDataset.from_long_dataframe(long, item_id="item_id", target="y"),
        ListDataset(entries(), "D"),
    ):
        for one, other in zip(TSDiffPredictor(tiny, options=OPTIONS).predict(dataset), whole, strict=True):
            np.testing.assert_allclose(one.samples, other.samples, rtol=0, atol=1e-2)
            assert (one.item_id, one.start_date) == (other.item_id, other.start_date)


STEPS = [
    pd.offsets.Day(), pd.offsets.BusinessDay(), pd.offsets.Week(weekday=5), pd.offsets.Week(2, weekday=0),
    pd.offsets.MonthBegin(), pd.offsets.MonthEnd(2), pd.offsets.BusinessMonthEnd(), pd.offsets.DateOffset(months=1),
    pd.offsets.QuarterBegin(startingMonth=2), pd.offsets.QuarterEnd(startingMonth=3), pd.offsets.YearBegin(month=4),
    pd.offsets.YearEnd(month=12), pd.Timedelta("15min"), pd.Timedelta("36h"),
]  # fmt: skip


@pytest.mark.parametrize("step", STEPS, ids=str)
@pytest.mark.filterwarnings("ignore:.*PeriodDtype:FutureWarning", "ignore:.*Period with BDay:FutureWarning")
def test_records_go_out_and_come_back(step):
    first = pd.Timestamp("2024-01-01")
    first = first if isinstance(step, pd.Timedelta) or step.is_on_offset(first) else step.rollforward(first)
    record = Regular("a", first, step, np.array([1.0, np.nan, 3.0, 4.0, 5.0]))
    (entry,) = entries_of([record])
    (again,) = records_of([entry])
    np.testing.assert_array_equal(again.values, record.values)
    for k, (time, other) in enumerate(zip(record.times, again.times, strict=True)):
        period = entry["start"] + k
        assert period.start_time <= pd.Timestamp(time) <= period.end_time
        assert period.start_time <= pd.Timestamp(other) <= period.end_time
    assert entries_of([again])[0]["start"] == entry["start"]


def test_time_zones_and_integers_out():
    zoned = Regular("a", pd.Timestamp("2024-01-01", tz="Europe/Berlin"), pd.offsets.Day(), np.ones(3))
    assert entries_of([zoned])[0]["start"] == pd.Period("2024-01-01", "D")
    hours = Regular("a", pd.Timestamp("2024-01-01", tz="Europe/Berlin"), pd.Timedelta("1h"), np.ones(3))
    assert entries_of([hours])[0]["start"] == pd.Period("2023-12-31 23:00", "h")
    with pytest.raises(InputError, match="'n' has integer times"):
        entries_of([Regular("n", 0, 1, np.ones(3))])


def test_an_estimator_trains_a_predictor(tmp_path):
    forecaster = TSDiffForecaster(
        horizon=4, context=12, hidden=4, blocks=1, state=4, train_steps=3, batch=4, device="cpu", samples=7, steps=3
    )
    predictor = TSDiffEstimator(forecaster).train(ListDataset(entries(), freq="D"))
    assert (predictor.prediction_length, predictor.options.samples, predictor.options.steps) == (4, 7, 3)
    (one,) = predictor.predict(entries(1))
    assert one.samples.shape == (7, 4)
    with pytest.raises(InputError, match="longest series has"):
        TSDiffEstimator(forecaster).train([entries(1)[0] | {"target": np.arange(9.0)}])


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
