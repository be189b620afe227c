"""Missing-value scenarios: which values are hidden, and forecasts from what is left."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from hypothesis import given

from degauss.core.errors import InputError
from degauss.core.noise import Noise
from degauss.timeseries import metrics
from degauss.timeseries.forecasting import forecast
from degauss.timeseries.regular import Regular
from degauss.timeseries.scenarios import (
    SCENARIOS,
    block_at_end,
    block_at_start,
    hidden,
    hide,
    last_values,
    loss,
    random_missing,
    with_gaps,
)
from degauss.timeseries.tsdiff import Sampling, TSDiff, windows_of

QUICK = Sampling(samples=6, steps=4)


def sine(count: int = 60, name: str = "wave", phase: float = 0.0) -> Regular:
    values = np.sin(2 * np.pi * np.arange(count) / 8 + phase)
    return Regular(name, pd.Timestamp("2024-01-01"), pd.offsets.Day(), values)


def test_the_blocks():
    noise = Noise(0, range(2))
    np.testing.assert_array_equal(block_at_start(5, 2, noise), [[True, True, False, False, False]] * 2)
    np.testing.assert_array_equal(block_at_end(5, 2, noise), [[False, False, False, True, True]] * 2)


@given(st.data())
def test_every_scenario_hides_as_many_as_asked(data):
    context = data.draw(st.integers(1, 40))
    missing = data.draw(st.integers(0, context))
    noise = Noise(data.draw(st.integers(0, 99)), range(3))
    for scenario in SCENARIOS.values():
        assert (scenario(context, missing, noise).sum(1) == missing).all()


def test_random_masks_are_even_and_follow_their_window_alone():
    masks = random_missing(12, 3, Noise(5, range(4000)))
    np.testing.assert_allclose(masks.mean(0), 0.25, atol=0.035)  # five standard errors
    together = masks[:, 0] & masks[:, 1]
    assert together.mean() == pytest.approx(3 * 2 / (12 * 11), abs=0.017)  # without replacement
    np.testing.assert_array_equal(random_missing(12, 3, Noise(5, [17]))[0], masks[17])
    assert (random_missing(12, 3, Noise(6, range(4000))) != masks).any()


@pytest.mark.parametrize("scenario", SCENARIOS.values())
def test_more_cannot_be_hidden_than_there_is(scenario):
    with pytest.raises(InputError, match="missing must be between 0 and 5, but is 6"):
        scenario(5, 6, Noise(0, [0]))


def test_only_the_context_is_hidden_from():
    record = sine()
    record.values[40] = np.nan
    (after,) = hidden([record], 24, 12, block_at_start)
    expected = record.values.copy()
    expected[36:48] = np.nan
    np.testing.assert_array_equal(after.values, expected)
    assert not np.isnan(record.values[36:40]).any()  # the record itself is left alone
    with pytest.raises(ValueError, match="mask of 61 does not fit a record of 60"):
        hide(record, np.ones(61, dtype=bool))


def test_lags_of_hidden_values_are_hidden_and_earlier_ones_are_not():
    from degauss.timeseries.config import TSDiffConfig

    model = TSDiff.new(TSDiffConfig(context=4, horizon=2, min_context=4, lags=(2,), hidden=4, blocks=1, state=4))
    (after,) = hidden([sine(6)], 4, 2, block_at_start)
    windows = windows_of(np.concatenate([after.values, [np.nan, np.nan]])[None])
    seen = model.channels(windows, model.scale(windows))[1][0]
    np.testing.assert_array_equal(seen[:, 0], [0, 0, 1, 1, 0, 0])
    np.testing.assert_array_equal(seen[:, 1], [1, 1, 0, 0, 1, 1])  # two values before the context, then it


def test_one_checkpoint_forecasts_under_every_scenario(tiny):
    records = [sine(phase=phase, name=f"{phase}") for phase in (0.0, 1.0, 2.0)]
    target = np.stack([np.sin(2 * np.pi * np.arange(60, 68) / 8 + phase) for phase in (0.0, 1.0, 2.0)])
    sampling = Sampling(20, 20)
    for scenario in SCENARIOS.values():
        left = hidden(records, 24, 12, scenario)
        drawn = with_gaps(tiny, left, 8, sampling)
        assert loss(target, drawn) < 0.7 * loss(target, last_values(left, 8))


def test_less_than_was_trained_for_is_refused_elsewhere(tiny):
    left = hidden([sine()], 24, 12, block_at_end)
    with pytest.raises(InputError, match="12 observed values among its last 24"):
        forecast(tiny, left, 8, QUICK)
    assert with_gaps(tiny, left, 8, QUICK)[0].shape == (6, 8)
    with pytest.raises(InputError, match="0 observed values"):
        with_gaps(tiny, hidden([sine()], 24, 24, block_at_end), 8, QUICK)


def test_nothing_hidden_is_the_forecast(tiny):
    np.testing.assert_array_equal(
        with_gaps(tiny, hidden([sine()], 24, 0, random_missing), 8, QUICK)[0], forecast(tiny, [sine()], 8, QUICK)[0]
    )


def test_what_is_hidden_does_not_leak(tiny):
    record = sine()
    spoilt = record.values.copy()
    spoilt[36:48] = 1e6
    both = [hidden([one], 24, 12, block_at_start) for one in (record, replace(record, values=spoilt))]
    first, second = (with_gaps(tiny, left, 8, QUICK)[0] for left in both)
    np.testing.assert_array_equal(first, second)


def test_the_loss_and_the_last_value():
    left = hidden([sine(), sine(name="b", phase=1.0)], 24, 12, block_at_end)
    points = last_values(left, 3)
    np.testing.assert_array_equal(points, [np.full((1, 3), record.values[47]) for record in left])
    target = np.ones((2, 3))
    assert loss(target, points) == pytest.approx(metrics.nd(target, np.concatenate(points)))
