from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from degauss.timeseries.metrics import (
    DECILES,
    VENTILES,
    coverage,
    crps,
    csdi_quantile_loss,
    evaluate,
    evaluate_all,
    interval,
    mase,
    mean_weighted_quantile_loss,
    nd,
    pinball,
    pit,
    pit_distance,
    sample_quantiles,
    winkler,
)

FINITE = st.floats(-1e3, 1e3)


def gluonts_case():
    """Five series: history of 60, horizon 12, 37 draws; the third last target is missing on request."""
    rng = np.random.default_rng(7)
    history = rng.normal(10, 3, (5, 60)).round(2)
    target = rng.normal(10, 3, (5, 12)).round(2)
    samples = rng.normal(10, 3, (37, 5, 12)).round(2)
    return history, target, samples


# What gluonts 0.17.0's Evaluator(quantiles=deciles, seasonality=7) says of that case.
GLUONTS = {
    False: {"mean_wQuantileLoss": 0.1618753417867836, "ND": 0.20198844463465623, "MASE": 0.6552711428337046},
    True: {"mean_wQuantileLoss": 0.15973301560768, "ND": 0.19821101488449847, "MASE": 0.6491673245578957},
}


@pytest.mark.parametrize("missing", [False, True])
def test_scores_are_those_of_gluonts(missing):
    history, target, samples = gluonts_case()
    if missing:
        target[:, -3] = np.nan
    quantiles = sample_quantiles(samples)
    median = sample_quantiles(samples, [0.5])[0]
    expected = GLUONTS[missing]
    assert mean_weighted_quantile_loss(target, quantiles) == pytest.approx(expected["mean_wQuantileLoss"], rel=1e-12)
    assert nd(target, median) == pytest.approx(expected["ND"], rel=1e-12)
    assert mase(target, median, history, 7).mean() == pytest.approx(expected["MASE"], rel=1e-12)


@pytest.mark.parametrize("draws", [1, 2, 9, 10, 11, 20, 37, 100])
def test_sample_quantiles_are_those_of_gluonts(draws):
    forecast = pytest.importorskip("gluonts.model.forecast", reason="gluonts is not installed")
    import pandas as pd

    samples = np.random.default_rng(draws).normal(size=(draws, 4))
    theirs = forecast.SampleForecast(samples=samples, start_date=pd.Period("2020-01-01", freq="D"))
    for level, mine in zip(DECILES, sample_quantiles(samples), strict=True):
        np.testing.assert_array_equal(mine, theirs.quantile(level))


def test_sample_quantiles_by_hand():
    samples = np.array([5.0, 1, 4, 2, 3, 6])[:, None]  # positions (6 - 1) q: .5 -> 0, 1.5 -> 2, 2.5 -> 2
    np.testing.assert_array_equal(sample_quantiles(samples, [0.1, 0.3, 0.5, 0.9])[:, 0], [1, 3, 3, 5])


def test_pinball_by_hand():
    losses = pinball(np.array([1.0, 3, np.nan]), np.full((2, 3), 2.0), [0.1, 0.9])
    np.testing.assert_allclose(losses, [[0.9, 0.1, np.nan], [0.1, 0.9, np.nan]])


def test_a_point_forecast_scores_its_normalised_deviation():
    rng = np.random.default_rng(0)
    target, point = rng.normal(5, 1, (4, 9)), rng.normal(5, 1, (4, 9))
    repeated = np.repeat(point[None], len(DECILES), axis=0)
    assert mean_weighted_quantile_loss(target, repeated) == pytest.approx(nd(target, point), rel=1e-12)


def test_csdi_quantile_loss_is_the_published_sum():
    # The sum as CSDI's evaluation has it, in torch: forecasts [batch, draws, time, feature] and a mask.
    rng = np.random.default_rng(3)
    target = torch.tensor(rng.normal(2, 1, (3, 8, 2)))
    samples = torch.tensor(rng.normal(2, 1, (3, 25, 8, 2)))
    mask = torch.tensor(rng.random((3, 8, 2)) < 0.4).double()
    total = 0.0
    for level in np.arange(0.05, 1.0, 0.05):
        quantile = torch.quantile(samples, float(level), dim=1)
        weight = (target <= quantile).double() - level
        total += float(2 * ((quantile - target) * mask * weight).abs().sum() / (target * mask).abs().sum())
    held_out = np.where(mask.numpy() > 0, target.numpy(), np.nan)
    assert csdi_quantile_loss(held_out, samples.numpy().swapaxes(0, 1)) == pytest.approx(total / 19, rel=1e-12)
    assert len(VENTILES) == 19


@settings(max_examples=60, deadline=None)
@given(samples=arrays(np.float64, st.tuples(st.integers(1, 9), st.just(3)), elements=FINITE), y=FINITE)
def test_crps_is_its_double_sum(samples, y):
    target = np.array([y, -y, np.nan])
    pairs = np.abs(samples[:, None] - samples[None]).mean(axis=(0, 1))
    expected = np.abs(samples - target).mean(axis=0) - pairs / 2
    np.testing.assert_allclose(crps(target, samples), expected, atol=1e-9, rtol=1e-9)


def test_crps_is_the_integral_over_the_distribution_function():
    samples, y = np.array([0.3, -1.2, 2.5, 0.3, 0.9]), 0.5
    grid = np.linspace(-3, 4, 700_001)
    below = (samples[:, None] <= grid).mean(axis=0) - (y <= grid)
    integral = np.sum(below**2) * (grid[1] - grid[0])
    assert crps(np.array([y]), samples[:, None])[0] == pytest.approx(integral, abs=1e-4)


def test_crps_of_many_normal_draws_is_the_closed_form():
    # Gneiting & Raftery 2007, eq. 22, of N(0, 1): y (2 Phi(y) - 1) + 2 phi(y) - 1/sqrt(pi).
    targets = np.array([-1.5, 0.0, 0.7, 3.0])
    samples = np.random.default_rng(1).normal(size=(200_000, 1)) + np.zeros(4)
    expected = [
        y * math.erf(y / math.sqrt(2)) + 2 * math.exp(-y * y / 2) / math.sqrt(2 * math.pi) - 1 / math.sqrt(math.pi)
        for y in targets
    ]
    np.testing.assert_allclose(crps(targets, samples), expected, atol=6e-3)


def test_mase_leaves_out_what_is_missing():
    history = np.array([[1.0, 2, np.nan, 4, 6, 7], [5, 5, 5, 5, 5, 5]])
    target = np.array([[8.0, np.nan], [5, 6]])
    point = np.array([[6.0, 1], [5, 5]])
    # Season 2: |4 - 2| and |7 - 4|; the constant series cannot be scaled.
    np.testing.assert_allclose(mase(target, point, history, 2), [2 / 2.5, np.nan])
    with pytest.raises(ValueError, match="season"):
        mase(target, point, history, 0)


def test_intervals_of_the_truth_cover_what_they_say():
    rng = np.random.default_rng(5)
    samples, target = rng.normal(size=(4000, 3000)), rng.normal(size=3000)
    for level in (0.5, 0.8, 0.9):
        lower, upper = interval(samples, level)
        assert coverage(target, lower, upper) == pytest.approx(level, abs=0.03)
    counts, _ = np.histogram(pit(target, samples), bins=10, range=(0, 1))
    assert np.abs(counts / 300 - 1).max() < 0.25


def test_winkler_by_hand_and_best_at_the_true_interval():
    target = np.array([0.0, 3.0, -2.0, np.nan])
    lower, upper = np.full(4, -1.0), np.full(4, 1.0)
    assert winkler(target, lower, upper, 0.8) == pytest.approx((2 + (2 + 10 * 2) + (2 + 10 * 1)) / 3)
    assert coverage(target, lower, upper) == pytest.approx(1 / 3)
    draws = np.random.default_rng(2).normal(size=200_000)
    widths = (1.0, 1.2816, 1.6)  # 1.2816: the 0.9 quantile of the normal
    scores = [winkler(draws, np.full(1, -w), np.full(1, w), 0.8) for w in widths]
    assert min(scores) == scores[1]
    with pytest.raises(ValueError, match="level"):
        winkler(target, lower, upper, 1.0)


def test_pit_by_hand():
    samples = np.array([[1.0, 0, 5], [2, 0, 5], [3, 0, 5]])
    np.testing.assert_allclose(pit(np.array([2.0, np.nan, 9]), samples), [(1 + 0.5 + 0.5) / 4, 3.5 / 4])


@settings(max_examples=60, deadline=None)
@given(arrays(np.float64, st.integers(1, 40), elements=st.floats(0, 1)))
def test_pit_distance_is_the_statistic_of_scipy(values):
    stats = pytest.importorskip("scipy.stats", reason="scipy is not installed")
    assert pit_distance(values) == pytest.approx(stats.kstest(values, "uniform").statistic, abs=1e-12)
    assert pit_distance(np.append(values, np.nan)) == pit_distance(values)


def test_pit_distance_of_nothing_is_nan():
    assert np.isnan(pit_distance(np.empty(0)))


@pytest.mark.filterwarnings("ignore")  # what pandas says of the evaluator's own code
def test_scores_of_many_series_are_those_of_the_evaluator():
    evaluation = pytest.importorskip("gluonts.evaluation", reason="gluonts is not installed")
    import pandas as pd
    from gluonts.model.forecast import SampleForecast

    history, target, samples = gluonts_case()
    whole = np.concatenate([history, target], axis=1)
    days = pd.period_range("2020-01-01", periods=whole.shape[1], freq="D")
    known = [pd.DataFrame({0: row}, index=days) for row in whole]
    forecasts = [SampleForecast(samples=samples[:, k], start_date=days[60]) for k in range(5)]
    levels = (*DECILES, 0.05, 0.95)
    aggregate, items = evaluation.Evaluator(quantiles=levels, seasonality=7, num_workers=0)(
        known, forecasts, num_series=5
    )
    ours = evaluate_all(list(target), [samples[:, k] for k in range(5)], list(history), [7] * 5)
    deciles = np.mean([aggregate[f"wQuantileLoss[{level}]"] for level in DECILES])
    assert ours["mean_weighted_quantile_loss"] == pytest.approx(deciles, rel=1e-12)
    assert ours["nd"] == pytest.approx(aggregate["ND"], rel=1e-12)
    assert ours["mase"] == pytest.approx(aggregate["MASE"], rel=1e-12)
    quantiles = sample_quantiles(samples, (0.1, 0.9))
    for level, row in zip((0.1, 0.9), quantiles, strict=True):
        assert aggregate[f"Coverage[{level}]"] == pytest.approx(np.mean(target <= row), abs=1e-12)
    assert coverage(target, quantiles[0], quantiles[1]) == pytest.approx(
        aggregate["Coverage[0.9]"] - aggregate["Coverage[0.1]"], abs=1 / 60
    )
    for k in range(5):
        alone = evaluate(target[k], samples[:, k], history[k], 7)
        assert alone["mase"] == pytest.approx(items["MASE"][k], rel=1e-12)


def test_forecasts_of_unlike_lengths_are_pooled():
    rng = np.random.default_rng(0)
    histories, seasons = [rng.normal(5, 1, 40), rng.normal(5, 1, 30), np.ones(30)], [7, 1, 1]
    targets = [rng.normal(5, 1, 4), rng.normal(5, 1, 9), rng.normal(5, 1, 2)]
    samples = [rng.normal(5, 1, (21, len(target))) for target in targets]
    found = evaluate_all(targets, samples, histories, seasons)
    target, drawn = np.concatenate(targets), np.concatenate(samples, axis=1)
    assert found["crps"] == pytest.approx(crps(target, drawn).mean())
    assert found["csdi_quantile_loss"] == csdi_quantile_loss(target, drawn)
    lower, upper = interval(drawn, 0.8)
    assert found["winkler_80"] == winkler(target, lower, upper, 0.8)
    # One MASE a series; the constant history has none and is left out.
    own = [evaluate(*one)["mase"] for one in zip(targets, samples, histories, seasons, strict=True)]
    assert np.isnan(own[2])
    assert found["mase"] == pytest.approx(np.mean(own[:2]))


def test_missing_targets_count_nowhere():
    rng = np.random.default_rng(4)
    history, target, samples = rng.normal(5, 1, 50), rng.normal(5, 1, 20), rng.normal(5, 1, (30, 20))
    gone = rng.random(20) < 0.4
    with_holes = evaluate(np.where(gone, np.nan, target), samples, history, 7)
    without = evaluate(target[~gone], samples[:, ~gone], history, 7)
    assert with_holes == pytest.approx(without, rel=1e-12)
    assert set(with_holes) >= {
        "mean_weighted_quantile_loss",
        "crps",
        "mase",
        "nd",
        "coverage_80",
        "winkler_90",
    }


def test_a_score_of_nothing_is_nan_without_a_warning():
    nothing = np.full(3, np.nan)
    scores = evaluate(nothing, np.zeros((4, 3)), np.arange(9.0), 1)
    assert all(np.isnan(score) for score in scores.values())
    assert np.isnan(nd(np.zeros(3), np.ones(3)))


@settings(max_examples=50, deadline=None)
@given(scale=st.floats(0.1, 100), seed=st.integers(0, 1000))
def test_ratios_do_not_know_the_unit(scale, seed):
    rng = np.random.default_rng(seed)
    history, target, samples = rng.normal(3, 1, 40), rng.normal(3, 1, 6), rng.normal(3, 1, (11, 6))
    one, other = (evaluate(c * target, c * samples, c * history, 4) for c in (1.0, scale))
    for name, score in one.items():
        factor = scale if name == "crps" or name.startswith("winkler") else 1.0
        assert other[name] == pytest.approx(factor * score, rel=1e-9)
