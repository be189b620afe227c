"""The sktime face: sktime's own conformance checks, and that it only passes on."""

from __future__ import annotations

import importlib
import pickle
import sys
import warnings
from dataclasses import fields
from inspect import signature
from typing import Any

import numpy as np
import pandas as pd
import pytest

from degauss.core.errors import InputError
from degauss.timeseries.estimator import TSDiffForecaster

pytest.importorskip("sktime", reason="sktime is not installed")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from degauss.timeseries.sktime import SktimeForecaster

pytestmark = pytest.mark.filterwarnings("ignore")  # sktime speaks of its own next release

QUICK: dict[str, Any] = {"samples": 12, "steps": 4}


def sine(count: int = 40, name: str | None = None) -> pd.Series:
    index = pd.date_range("2024-01-01", periods=count, freq="D")
    return pd.Series(np.sin(2 * np.pi * np.arange(count) / 8), index=index, name=name)


def test_the_conformance_checks_of_sktime_without_training():
    from sktime.utils.estimator_checks import check_estimator

    names = ["test_create_test_instance", "test_constructor", "test_set_params", "test_get_test_params_coverage"]
    names += [
        "test_valid_estimator_class_tags",
        "test_inheritance",
        "test_class_has_doctest_example",
        "test_doctest_examples",
    ]
    told = check_estimator(SktimeForecaster, tests_to_run=names, raise_exceptions=False, verbose=False)
    assert len(told) >= len(names)
    assert {name: result for name, result in told.items() if result != "PASSED"} == {}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_the_conformance_checks_of_sktime():
    from sktime.utils.estimator_checks import check_estimator

    told = check_estimator(SktimeForecaster, raise_exceptions=False, verbose=False)
    assert len(told) > 300
    assert {name: result for name, result in told.items() if result != "PASSED"} == {}


@pytest.mark.parametrize("y", [sine(), sine(name="a"), pd.DataFrame({"a": sine(), "b": 5 - sine()})])
def test_it_says_what_the_forecaster_says(checkpoint, y):
    theirs = SktimeForecaster(checkpoint, **QUICK).fit(y, fh=[2, 5])
    ours = TSDiffForecaster(checkpoint, **QUICK).fit(y, fh=[2, 5])
    pairs: list[tuple[Any, Any]] = [
        (ours.predict(), theirs.predict()),
        (ours.predict_quantiles(alpha=[0.1, 0.5]), theirs.predict_quantiles(alpha=[0.1, 0.5])),
        (ours.predict_interval(coverage=0.8), theirs.predict_interval(coverage=0.8)),
    ]
    for mine, other in pairs:
        if isinstance(other, pd.Series):
            pd.testing.assert_series_equal(mine, other, check_freq=False)
        else:
            pd.testing.assert_frame_equal(mine, other, check_freq=False)


def test_its_parameters_are_those_of_the_forecaster():
    mine = {name: one.default for name, one in signature(SktimeForecaster).parameters.items()}
    theirs = {slot.name: slot.default for slot in fields(TSDiffForecaster) if slot.init}
    theirs["state_size"] = theirs.pop("state")
    assert mine == theirs


def test_a_later_start_needs_no_training(checkpoint, monkeypatch):
    forecaster: Any = SktimeForecaster(checkpoint, **QUICK).fit(sine(32), fh=[1, 2])
    monkeypatch.setattr(TSDiffForecaster, "model", None)  # a second fit would fail
    forecaster.update(sine(40)[32:], update_params=False)
    whole = TSDiffForecaster(checkpoint, **QUICK)
    monkeypatch.undo()
    whole.fit(sine(40), fh=[1, 2])
    pd.testing.assert_series_equal(forecaster.predict(), whole.predict(), check_freq=False)


def test_times_instead_of_steps_and_missing_values(checkpoint):
    y = sine()
    y.iloc[[20, 30]] = np.nan
    forecaster: Any = SktimeForecaster(checkpoint, **QUICK).fit(y)
    days = pd.DatetimeIndex(["2024-02-11", "2024-02-15"])
    assert list(forecaster.predict(days).index) == list(days)
    np.testing.assert_array_equal(forecaster.predict(days), forecaster.predict([2, 6]))


def test_sktime_evaluates_it(checkpoint):
    from sktime.forecasting.model_evaluation import evaluate
    from sktime.performance_metrics.forecasting.probabilistic import PinballLoss
    from sktime.split import SlidingWindowSplitter

    steps: Any = [1, 2, 3]
    splitter = SlidingWindowSplitter(fh=steps, window_length=30, step_length=5)
    told = evaluate(
        SktimeForecaster(checkpoint, **QUICK),
        cv=splitter,
        y=sine(),
        scoring=PinballLoss(alpha=[0.1, 0.5, 0.9]),
    )
    assert len(told) == 2
    assert told["test_PinballLoss"].between(0, 1).all()


def test_what_it_cannot_forecast(checkpoint):
    fh: Any = [0]
    with pytest.raises(InputError, match="fh must be between 1 and 8"):
        SktimeForecaster(checkpoint, **QUICK).fit(sine(), fh=9).predict()
    with pytest.raises(InputError, match="too short"):
        SktimeForecaster(checkpoint, **QUICK).fit(sine(10), fh=1).predict()
    with pytest.raises(NotImplementedError, match="in-sample"):
        SktimeForecaster(checkpoint, **QUICK).fit(sine(), fh=fh).predict()


def test_it_can_be_pickled_and_cloned(checkpoint):
    forecaster: Any = SktimeForecaster(checkpoint, **QUICK).fit(sine(), fh=[1, 2])
    again = pickle.loads(pickle.dumps(forecaster))
    pd.testing.assert_series_equal(again.predict(), forecaster.predict())
    assert not forecaster.clone().is_fitted


def test_without_sktime_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sktime.forecasting.base", None)
    monkeypatch.delitem(sys.modules, "degauss.timeseries.sktime")
    with pytest.raises(ImportError, match=r'needs sktime.*pip install "degauss-timeseries\[sktime\]"'):
        importlib.import_module("degauss.timeseries.sktime")
