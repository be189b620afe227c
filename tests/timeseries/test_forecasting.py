"""Forecasts of records."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from degauss.core.errors import InputError
from degauss.timeseries.forecasting import forecast
from degauss.timeseries.regular import Regular
from degauss.timeseries.tsdiff import Sampling

QUICK = Sampling(samples=8, steps=4)
NAN = np.nan


def sine(count: int = 60, name: str = "wave", phase: float = 0.0) -> Regular:
    values = np.sin(2 * np.pi * np.arange(count) / 8 + phase)
    return Regular(name, pd.Timestamp("2024-01-01"), pd.offsets.Day(), values)


def test_samples_of_each_record(tiny):
    drawn = forecast(tiny, [sine(), sine(30, "b")], 5, QUICK)
    assert [samples.shape for samples in drawn] == [(8, 5), (8, 5)]
    whole = forecast(tiny, [sine(), sine(30, "b")], 8, QUICK)
    for part, samples in zip(drawn, whole, strict=True):
        np.testing.assert_array_equal(part, samples[:, :5])


def test_the_randomness_of_a_record_is_keyed_by_its_name_and_length(tiny):
    first, other, longer = forecast(tiny, [sine(), sine(name="other"), sine(68)], 8, QUICK)
    assert np.abs(first - other).max() > 0.01
    assert np.abs(first - longer).max() > 0.01  # the same values in its context, but later
    (again,) = forecast(tiny, [sine()], 8, QUICK)
    np.testing.assert_allclose(first, again, rtol=0, atol=1e-3)


def test_only_the_context_counts(tiny):
    record = sine()
    values = record.values.copy()
    values[:36] = 1e9
    one, other = (forecast(tiny, [r], 8, QUICK)[0] for r in (record, replace(record, values=values)))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("horizon", [0, -1, 9])
def test_a_horizon_out_of_range(tiny, horizon):
    with pytest.raises(InputError, match=rf"horizon must be between 1 and 8, but is {horizon}\."):
        forecast(tiny, [sine()], horizon, QUICK)


def test_a_record_with_too_little_to_go_on(tiny):
    assert forecast(tiny, [sine(16)], 8, QUICK)[0].shape == (8, 8)
    with pytest.raises(InputError, match=r"'wave' is too short .* 15 observed values among its last 15, .* 16\."):
        forecast(tiny, [sine(), sine(15)], 8, QUICK)
    values = sine().values.copy()
    values[40:55] = NAN
    with pytest.raises(InputError, match="9 observed values among its last 24"):
        forecast(tiny, [replace(sine(), values=values)], 8, QUICK)
