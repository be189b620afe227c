"""Gaps: each filled once, from a window with as much known around it as there is."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from hypothesis import given

from degauss.core.errors import InputError
from degauss.timeseries import imputation
from degauss.timeseries.imputation import impute
from degauss.timeseries.regular import Regular
from degauss.timeseries.tsdiff import Sampling

NAN = np.nan
CONTEXT, LENGTH = 24, 32


def sine(count: int, *missing: int | slice) -> Regular:
    values = np.sin(2 * np.pi * np.arange(count) / 8)
    for where in missing:
        values[where] = NAN
    return Regular("wave", pd.Timestamp("2024-01-01"), pd.offsets.Day(), values)


def spans(missing: np.ndarray, count: int) -> list[tuple[int, np.ndarray]]:
    return list(imputation._spans(missing, count, LENGTH, CONTEXT))


@given(st.data())
def test_spans_cover_each_gap_once_and_lie_in_the_record(data):
    count = data.draw(st.integers(1, 200))
    missing = np.array(sorted(data.draw(st.sets(st.integers(0, count - 1), max_size=count))), dtype=np.int64)
    found = spans(missing, count)
    taken = np.concatenate([index for _, index in found]) if found else missing
    np.testing.assert_array_equal(taken, missing)
    for start, index in found:
        assert len(index)
        assert start <= index[0]
        assert index[-1] < start + LENGTH
        if count >= LENGTH:
            assert 0 <= start <= count - LENGTH
            # A quarter of a window on either side, unless the record ends there.
            assert index[0] - start >= LENGTH // 4 or start == 0 or index[0] >= count - LENGTH
            assert start + LENGTH - index[-1] > LENGTH // 4 or start == count - LENGTH
        else:
            assert start <= 0
            assert count <= start + LENGTH
            assert start == 0 or count - start == CONTEXT  # at the end of the context


@pytest.mark.parametrize(
    "missing",
    [
        (slice(20, 24),),
        (slice(0, 3), slice(97, 100)),
        (slice(5, 100, 7),),
        (slice(30, 33), slice(36, 38), slice(60, 61), slice(80, 85)),
    ],
)
def test_gaps_are_filled_near_the_truth(tiny, missing):
    filled = impute(tiny, sine(100, *missing), Sampling(40, 20))
    np.testing.assert_array_equal(filled.gaps, np.flatnonzero(np.isnan(sine(100, *missing).values)))
    error = np.abs(np.median(filled.samples, 0) - sine(100).values[filled.gaps])
    assert error.mean() < 0.35


def test_the_samples_are_those_of_the_gaps_in_order(tiny):
    record = sine(100, slice(20, 24), slice(60, 63))
    both = impute(tiny, record, Sampling(6, 4))
    assert both.samples.shape == (6, 7)
    assert np.isfinite(both.samples).all()
    values = record.values.copy()
    values[60:63] = sine(100).values[60:63]
    first = impute(tiny, replace(record, values=values), Sampling(6, 4))
    np.testing.assert_allclose(both.samples[:, :4], first.samples, rtol=0, atol=1e-3)


def test_the_record_itself_is_left_alone(tiny):
    record = sine(60, slice(20, 24))
    before = record.values.copy()
    impute(tiny, record, Sampling(2, 2))
    np.testing.assert_array_equal(record.values, before)


def test_what_lies_after_a_gap_counts(tiny):
    one, other = sine(32, slice(20, 24)), sine(32, slice(20, 24))
    other.values[24:] += 2.0
    drawn = [impute(tiny, record, Sampling(20, 20)).samples for record in (one, other)]
    assert np.abs(drawn[1] - drawn[0]).max() > 0.05  # the same noise, so anything seen is the observations' doing


def test_nothing_missing(tiny):
    filled = impute(tiny, sine(40), Sampling(5, 2))
    assert filled.samples.shape == (5, 0)
    assert len(filled.gaps) == 0


@pytest.mark.parametrize("count", [18, 24, 28, 31, 32])
def test_a_record_shorter_than_a_window_keeps_its_units(tiny, count):
    record = sine(count, slice(9, 11))
    plain = impute(tiny, record, Sampling(8, 8)).samples
    other = impute(tiny, replace(record, values=1000 + 50 * record.values), Sampling(8, 8)).samples
    np.testing.assert_allclose((other - 1000) / 50, plain, rtol=0, atol=1e-3)


def test_a_gap_with_too_little_around_it(tiny):
    with pytest.raises(InputError, match=r"'wave' has \d+ observed values among the 32 around grid point \d+; .* 16"):
        impute(tiny, sine(200, slice(50, 120)), Sampling(2, 2))
    with pytest.raises(InputError, match="has 15 observed values"):
        impute(tiny, sine(17, slice(9, 11)), Sampling(2, 2))


def test_progress_is_told(tiny):
    told: list[tuple[int, int]] = []
    impute(tiny, sine(100, 20, 80), Sampling(2, 2), lambda done, total: told.append((done, total)))
    assert told[-1] == (4, 4)
