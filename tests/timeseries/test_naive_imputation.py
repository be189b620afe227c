"""Naive imputations, by hand."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings

from degauss.timeseries.naive_imputation import error_quantiles, last_value, linear, mean

NAN = np.nan
WINDOW = np.array([[NAN, 1.0, NAN, NAN, 4.0, NAN], [NAN] * 6, [2.0, NAN, NAN, NAN, NAN, 7.0]]).T
OTHERWISE = np.array([-1.0, -2.0, -3.0])


def test_the_mean():
    np.testing.assert_array_equal(mean(WINDOW, OTHERWISE), np.tile(OTHERWISE, (6, 1)))


def test_the_last_value():
    expected = [[1, 1, 1, 1, 4, 4], [-2] * 6, [2, 2, 2, 2, 2, 7]]
    np.testing.assert_array_equal(last_value(WINDOW, OTHERWISE), np.transpose(expected))


def test_the_line():
    expected = [[1, 1, 2, 3, 4, 4], [-2] * 6, [2, 3, 4, 5, 6, 7]]
    np.testing.assert_allclose(linear(WINDOW, OTHERWISE), np.transpose(expected))


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000))
def test_against_pandas(seed):
    random = np.random.default_rng(seed)
    values = np.where(random.random((2, 9, 3)) < 0.6, NAN, random.normal(size=(2, 9, 3)))
    for ours, theirs in (
        (last_value, lambda frame: frame.ffill().bfill()),
        (linear, lambda frame: frame.interpolate(limit_direction="both")),
    ):
        expected = np.stack([theirs(pd.DataFrame(window)).fillna(dict(enumerate(OTHERWISE))) for window in values])
        np.testing.assert_allclose(ours(values, OTHERWISE), expected, atol=1e-12)


def test_the_input_is_left_alone():
    before = WINDOW.copy()
    for method in (mean, last_value, linear):
        method(WINDOW, OTHERWISE)[:] = 0
    np.testing.assert_array_equal(WINDOW, before)


def test_the_quantiles_of_errors():
    target = np.full((2, 3, 2), NAN)
    target[0, :, 0], target[1, 1, 0] = [1.0, 3.0, 5.0], 7.0
    found = error_quantiles(target, np.ones((2, 3, 2)), 2)
    np.testing.assert_allclose(found[:, 0], np.quantile([0, 2, 4, 6], [0.25, 0.75]))
    np.testing.assert_array_equal(found[:, 1], [0, 0])
    assert np.median(error_quantiles(target, np.ones((2, 3, 2)), 19)[:, 0]) == pytest.approx(3.0)
