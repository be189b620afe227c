"""Refining: the Langevin kernel against the Gaussian, whose every moment is known, and forecasts of records."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from degauss.core.errors import InputError
from degauss.core.guide.observation import MeanSquare, Quantile
from degauss.core.kernel import simulate
from degauss.core.noise import Noise
from degauss.core.oracle import GaussianOracle
from degauss.core.schedule import DiscreteVP, linear_betas
from degauss.timeseries import metrics, naive
from degauss.timeseries.backtest import Cut
from degauss.timeseries.refinement import (
    Case,
    Judgement,
    Langevin,
    Refining,
    judge,
    loss,
    losses_by_step,
    matched,
    refine,
    representative_step,
    spread_out,
    stand_ins,
    without_model,
)
from degauss.timeseries.regular import Regular
from degauss.timeseries.tsdiff import windows_of

NAN = np.nan
SCHEDULE = DiscreteVP.from_betas(linear_betas(100, 1e-4, 0.1))
MEAN, STD, TIME = 1.5, 0.8, 0.4
ORACLE = GaussianOracle(SCHEDULE, MEAN, STD)
QUICK = Refining(samples=6, iterations=4, step_size=0.05)
STEP = 40


def curvature(time: float = TIME) -> tuple[float, float]:
    """h and c of the Gaussian's energy, whose gradient is h (y - mean) - c eps."""
    alpha, sigma = (float(scale) for scale in SCHEDULE(torch.tensor(time, dtype=torch.float64)))
    variance = (alpha * STD) ** 2 + sigma**2
    slope = alpha * sigma / variance
    return 2 * slope**2, 2 * slope * (alpha * STD) ** 2 / variance


def free(like: torch.Tensor) -> MeanSquare:
    """No regulariser."""
    return MeanSquare(torch.zeros_like(like), torch.zeros_like(like))


def run(kernel: Langevin, x: torch.Tensor, iterations: int, seed: int = 0) -> torch.Tensor:
    return simulate(kernel, x, torch.linspace(1, 0, iterations + 1, dtype=torch.float64), Noise(seed, range(len(x))))


# --- the kernel ---


def test_one_step_is_the_gradient_of_the_energy():
    h, c = curvature()
    x = torch.linspace(-2, 4, 24, dtype=torch.float64).reshape(6, 4)
    target = torch.full_like(x, 0.3)
    noise = Noise(3, range(6))
    kernel = Langevin(ORACLE, SCHEDULE, MeanSquare(target, torch.ones_like(x)), TIME, 0.01, gamma=0.7, strength=2.0)
    gradient = h * (x - MEAN) - c * noise.normal(x, 0) + 2.0 * 2 * (x - target)
    expected = x - 0.01 * gradient + math.sqrt(2 * 0.01) * 0.7 * noise.normal(x, 1)
    torch.testing.assert_close(run(kernel, x, 1, seed=3), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("strength", [0.0, 1.0])
@pytest.mark.parametrize("gamma", [0.0, 0.1, 1.0])
def test_its_stationary_law_on_a_gaussian(gamma, strength):
    """y is an autoregression of order one: mean and variance are known, step size and drawn noise included."""
    eta, pull = 0.2, -2.0
    h, c = curvature()
    x = torch.full((4000, 1), 5.0, dtype=torch.float64)
    regulariser = MeanSquare(torch.full_like(x, pull), torch.ones_like(x))
    end = run(Langevin(ORACLE, SCHEDULE, regulariser, TIME, eta, gamma, strength), x, 60)
    total = h + 2 * strength
    variance = ((eta * c) ** 2 + 2 * eta * gamma**2) / (1 - (1 - eta * total) ** 2)
    optimum = (h * MEAN + 2 * strength * pull) / total
    assert float(end.mean()) == pytest.approx(optimum, abs=5 * math.sqrt(variance / len(x)))
    assert float(end.var()) == pytest.approx(variance, rel=0.1)


def test_gamma_outside_the_root_is_not_gamma_inside_it():
    x = torch.zeros(2, 3)
    moved, still = (run(Langevin(ORACLE, SCHEDULE, free(x), TIME, 0.1, gamma), x, 1) for gamma in (0.1, 0.0))
    expected = math.sqrt(2 * 0.1) * 0.1 * Noise(0, [0, 1]).normal(x, 1)
    torch.testing.assert_close(moved - still, expected)


class Silent(Noise):
    """No noise at all: what is left of a step is its mean."""

    def normal(self, like: torch.Tensor, draw: int = 0) -> torch.Tensor:
        return torch.zeros_like(like)


@pytest.mark.parametrize("strength", [0.03, 0.5, 2.0])
def test_maximum_likelihood_under_the_quantile_loss_is_a_soft_threshold(strength):
    """argmin h/2 (y - mean)^2 + strength rho(y~ - y): at y~, or off the mean by strength times a level over h."""
    h, _ = curvature()
    levels = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    x = torch.linspace(-3, 5, 9, dtype=torch.float64).expand(3, 9)
    kernel = Langevin(
        ORACLE, SCHEDULE, Quantile(x, torch.ones_like(x), levels), TIME, 0.02, gamma=0.0, strength=strength
    )
    end = simulate(kernel, x, torch.linspace(1, 0, 501, dtype=torch.float64), Silent(0, range(3)))
    # Below y~ the loss pulls up by its level, above it down by the rest.
    low, high = MEAN + strength * levels[:, None] / h, MEAN - strength * (1 - levels[:, None]) / h
    expected = torch.where(low < x, low, torch.where(high > x, high, x))
    torch.testing.assert_close(end, expected, rtol=0, atol=0.02 * strength + 0.01)


def test_equal_draws_part_by_their_levels():
    """A point forecast, repeated: at the tie of the quantile loss each draw moves by eta (level - 1/2)."""
    x = torch.full((9, 2), MEAN, dtype=torch.float64)
    levels = torch.arange(1, 10, dtype=torch.float64) / 10

    kernel = Langevin(ORACLE, SCHEDULE, Quantile(x.clone(), torch.ones_like(x), levels), TIME, 0.1, gamma=0.0)
    end = simulate(kernel, x, torch.tensor([1.0, 0.0]), Silent(0, range(9)))
    torch.testing.assert_close(end - x, (0.1 * (levels - 0.5))[:, None].expand(9, 2))


def test_a_sample_does_not_depend_on_its_batch():
    x = Noise(1, range(5)).normal(torch.empty(5, 3, dtype=torch.float64))
    kernel = Langevin(ORACLE, SCHEDULE, free(x[:1]), TIME)
    grid = torch.linspace(1, 0, 6, dtype=torch.float64)
    together = simulate(kernel, x, grid, Noise(0, range(5)))
    for row in range(5):
        assert torch.equal(simulate(kernel, x[row : row + 1], grid, Noise(0, [row])), together[row : row + 1])


def test_gradients_flow_through_the_steps():
    h, _ = curvature()
    x = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    run(Langevin(ORACLE, SCHEDULE, free(x.detach()), TIME, 0.1), x, 5).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.full_like(x, (1 - 0.1 * h) ** 5))
    assert not run(Langevin(ORACLE, SCHEDULE, free(x.detach()), TIME, 0.1), x.detach(), 1).requires_grad


# --- the representative step ---


def test_the_loss_of_each_step_of_a_gaussian():
    noise = Noise(0, range(20_000))
    x0 = MEAN + STD * noise.normal(torch.empty(20_000, 2, dtype=torch.float64), 7)
    alpha, sigma = SCHEDULE((torch.arange(100, dtype=torch.float64) + 1) / 100)
    signal = (alpha * STD) ** 2
    losses = losses_by_step(ORACLE, SCHEDULE, x0, torch.ones_like(x0), noise)
    torch.testing.assert_close(losses, signal / (signal + sigma**2), rtol=0, atol=0.02)


def test_what_was_not_seen_has_no_loss():
    noise = Noise(0, range(50))
    x0 = noise.normal(torch.empty(50, 4), 1)
    seen = torch.ones_like(x0)
    seen[:, 2:] = 0
    whole = losses_by_step(ORACLE, SCHEDULE, x0, seen, noise)
    torch.testing.assert_close(losses_by_step(ORACLE, SCHEDULE, torch.where(seen > 0, x0, 99.0), seen, noise), whole)


def test_the_representative_step_is_nearest_to_the_mean_loss(tiny):
    windows = windows_of(np.stack([np.sin(2 * np.pi * np.arange(32) / 8 + phase) for phase in range(6)]))
    x0, seen = tiny.channels(windows, tiny.scale(windows))
    losses = losses_by_step(tiny.denoiser, tiny.schedule, x0, seen, Noise(3, range(6))).numpy()
    step = representative_step(tiny, windows, seed=3)
    assert step == 1 + int(((losses - losses.mean()) ** 2).argmin())
    assert losses[-1] < losses[0]  # at the last step nearly all is noise, which the network passes on


def test_windows_spread_over_series_and_time(tiny):
    series = [np.arange(40.0), np.arange(100.0, 200.0), np.arange(20.0)]
    windows = spread_out(tiny, series, 6)
    assert windows.values.shape == (5, 32)  # the short series has one
    np.testing.assert_array_equal(windows.values[:, -1], [31, 39, 131, 199, 19])
    assert float(windows.seen[-1].sum()) == 20
    assert spread_out(tiny, [np.arange(40.0)] * 100, 10).values.shape == (10, 32)


# --- draws ---


def test_as_many_draws_are_only_sorted():
    samples = np.random.default_rng(0).normal(size=(7, 3))
    np.testing.assert_allclose(matched(samples, 7), np.sort(samples, 0), rtol=0, atol=1e-12)


def test_a_point_is_repeated_and_more_draws_keep_their_order():
    np.testing.assert_array_equal(matched(np.array([[1.0, 2.0]]), 4), [[1.0, 2.0]] * 4)
    many = matched(np.random.default_rng(1).normal(size=(50, 3)), 9)
    assert many.shape == (9, 3)
    assert (np.diff(many, axis=0) > 0).all()


# --- forecasts of records ---


def sine(count: int = 60, name: str = "wave", phase: float = 0.0) -> Regular:
    values = np.sin(2 * np.pi * np.arange(count) / 8 + phase)
    return Regular(name, pd.Timestamp("2024-01-01"), pd.offsets.Day(), values)


def flat(record: Regular, cutoff: int, horizon: int = 8) -> Case:
    return Case(record, cutoff, np.zeros((1, horizon)))


@pytest.mark.parametrize("gamma", [0.0, 0.1])
@pytest.mark.parametrize("likelihood", ["quantile", "mean-square"])
def test_it_pulls_a_flat_forecast_towards_the_wave(tiny, likelihood, gamma):
    refining = Refining(20, likelihood, gamma, step_size=0.05, iterations=40)
    cases = [flat(sine(phase=phase), 48) for phase in (0.0, 1.0, 2.0)]
    for case, drawn in zip(cases, refine(tiny, cases, STEP, refining), strict=True):
        assert drawn.shape == (20, 8)
        assert np.corrcoef(np.median(drawn, 0), case.target)[0, 1] > 0.8
        assert np.abs(np.median(drawn, 0) - case.target).mean() < 0.8 * np.abs(case.target).mean()


def test_no_step_is_no_change(tiny):
    samples = np.random.default_rng(0).normal(size=(6, 5))
    (drawn,) = refine(tiny, [Case(sine(), 50, samples)], STEP, replace(QUICK, step_size=0.0))
    np.testing.assert_allclose(drawn, np.sort(samples, 0), rtol=0, atol=1e-6)


def test_the_mean_square_leaves_the_forecast_free_and_the_quantile_loss_holds_it(tiny):
    """With R alone, strong: the history stays in both; the forecast stays only where R covers it."""
    shifted = Case(sine(), 48, np.full((6, 8), 3.0))
    strong = replace(QUICK, step_size=2e-3, iterations=60, gamma=0.0, strength=100.0)
    held, freed = (
        refine(tiny, [shifted], STEP, replace(strong, likelihood=likelihood))[0]
        for likelihood in ("quantile", "mean-square")
    )
    weak = refine(tiny, [shifted], STEP, replace(strong, likelihood="mean-square", strength=0.0))[0]
    assert np.abs(held - 3).mean() < 0.2
    assert np.abs(freed - 3).mean() > 5 * np.abs(held - 3).mean()
    assert np.abs(weak - freed).mean() < 0.3 * np.abs(freed - 3).mean()


def test_lags_that_reach_into_the_forecast_are_part_of_it():
    """In the published code they are zeros that count as observed."""
    from degauss.timeseries.config import TSDiffConfig
    from degauss.timeseries.tsdiff import TSDiff

    config = TSDiffConfig(context=6, horizon=4, min_context=6, lags=(2,), hidden=4, blocks=1, state=4)
    values = np.r_[np.arange(1.0, 9.0), 20.0, 21.0, 22.0, 23.0][None]
    windows = windows_of(values)
    x0, given_ = TSDiff.new(config).channels(windows, TSDiff.new(config).scale(windows))
    width = np.abs(values[0, 2:8]).mean()
    np.testing.assert_allclose(x0[0, -4:, 1] * width, [7, 8, 20, 21], rtol=1e-6)
    np.testing.assert_array_equal(given_[0, -4:], np.ones((4, 2)))


def test_a_case_does_not_depend_on_its_neighbours_or_on_what_came_later(tiny):
    cases = [flat(sine(phase=1.0), 40), flat(sine(name="b"), 48, 5), flat(sine(phase=1.0), 48)]
    together = refine(tiny, cases, STEP, QUICK)
    for case, drawn in zip(cases, together, strict=True):
        (alone,) = refine(tiny, [case], STEP, replace(QUICK, rows=4))
        np.testing.assert_allclose(alone, drawn, rtol=0, atol=1e-5)
    later = cases[0].record.values.copy()
    later[40:] = 1e6
    spoilt = Case(replace(cases[0].record, values=later), 40, cases[0].samples)
    np.testing.assert_array_equal(refine(tiny, [spoilt], STEP, QUICK)[0], refine(tiny, cases[:1], STEP, QUICK)[0])


def test_it_follows_the_seed_and_the_units(tiny):
    case = flat(sine(), 48)
    (plain,) = refine(tiny, [case], STEP, QUICK)
    np.testing.assert_array_equal(plain, refine(tiny, [case], STEP, QUICK)[0])
    assert np.abs(plain - refine(tiny, [case], STEP, replace(QUICK, seed=1))[0]).mean() > 1e-3
    other = Case(replace(case.record, values=300 + 50 * case.record.values), 48, 300 + 50 * case.samples)
    np.testing.assert_allclose((refine(tiny, [other], STEP, QUICK)[0] - 300) / 50, plain, rtol=0, atol=1e-4)


def test_gaps_in_the_history_hold_nothing_down(tiny):
    gappy = sine()
    gappy.values[[30, 31, 40]] = NAN
    (drawn,) = refine(tiny, [flat(gappy, 48)], STEP, replace(QUICK, strength=50.0, step_size=2e-3))
    assert np.isfinite(drawn).all()


def test_progress_is_told(tiny):
    told: list[tuple[int, int]] = []
    refine(tiny, [flat(sine(), 48)] * 2, STEP, replace(QUICK, rows=5), lambda done, total: told.append((done, total)))
    assert told == [(5, 12), (10, 12), (12, 12)]


def test_cases_that_cannot_be_refined(tiny):
    with pytest.raises(InputError, match="horizon must be between 1 and 8, but is 9"):
        refine(tiny, [flat(sine(), 40, 9)], STEP, QUICK)
    with pytest.raises(InputError, match=r"'wave' is too short .* 15 observed values"):
        refine(tiny, [flat(sine(), 15)], STEP, QUICK)
    with pytest.raises(InputError, match=r"refining diverged at a step_size of 1000; expected a smaller one\."):
        refine(tiny, [flat(sine(), 48)], STEP, replace(QUICK, step_size=1e3, iterations=60))


@pytest.mark.parametrize(
    "wrong",
    [{"samples": 0}, {"iterations": 0}, {"rows": 0}, {"gamma": -0.1}, {"strength": -1.0}, {"step_size": -1.0},
     {"step_size": NAN}, {"likelihood": "l1"}],
)  # fmt: skip
def test_refinings_that_are_none(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        Refining(**wrong)


# --- does it help? ---


def test_the_target_ends_where_the_record_does():
    record = sine(50)
    np.testing.assert_array_equal(flat(record, 45).target, np.r_[record.values[45:], NAN, NAN, NAN])
    assert np.isnan(flat(record, 50).target).all()


def test_the_judgement_pools_all_windows(tiny):
    rng = np.random.default_rng(0)
    cases = [Case(sine(), 44, rng.normal(size=(6, 8))), Case(sine(name="b"), 50, rng.normal(size=(6, 5)))]
    refined = refine(tiny, cases, STEP, QUICK)
    without = refine(without_model(tiny), cases, STEP, QUICK)
    judged = judge(cases, refined, without)
    targets = np.concatenate([case.target for case in cases])
    given = [case.samples for case in cases]
    for found, samples in ((judged.given, given), (judged.refined, refined), (judged.without, without)):
        quantiles = metrics.sample_quantiles(np.concatenate(samples, axis=1))
        assert found == pytest.approx(metrics.mean_weighted_quantile_loss(targets, quantiles))
    assert judged.cases == 2


def test_without_the_model_only_the_regulariser_pulls(tiny):
    """Maximum likelihood of the quantile regulariser at rest: every draw is where it starts, but for equal ones."""
    case = Case(sine(), 44, np.sort(np.random.default_rng(0).normal(size=(6, 8)), axis=0))
    still = replace(QUICK, gamma=0.0, strength=0.0)
    (drawn,) = refine(without_model(tiny), [case], STEP, still)
    np.testing.assert_allclose(drawn, matched(case.samples, len(drawn)), atol=1e-5)
    (moved,) = refine(tiny, [case], STEP, still)
    assert np.abs(moved - drawn).max() > 1e-3


def test_the_verdict():
    good, bad = Judgement(0.02, 0.01, 0.015, 3, "these forecasts"), Judgement(0.01, 0.02, 0.03, 1, "the last value")
    spread = Judgement(0.02, 0.015, 0.01, 3, "these forecasts")
    assert good.helps
    assert not spread.helps  # what lowers the score is not the model
    assert good.verdict() == (
        "Refining lowers the CRPS (mean weighted quantile loss) of these forecasts: 0.01 refined, 0.02 as given, "
        "0.015 by the same steps without the model, on 3 past windows."
    )
    assert not bad.helps
    assert "does not lower the CRPS (mean weighted quantile loss) of the last value" in bad.verdict()
    assert bad.verdict().endswith("on 1 past window.")
    assert not Judgement(NAN, NAN, NAN, 1, "nothing").helps


def test_naive_forecasts_stand_in_as_points_or_with_a_spread():
    record = replace(sine(120), step=pd.Timedelta(hours=3))  # a season of 8 steps, as the wave has
    name, cases = stand_ins([Cut(record, 100, 5), Cut(record, 108, 5)], 5, draws=1)
    assert name == "the seasonal naive"
    for case, cutoff in zip(cases, (100, 108), strict=True):
        np.testing.assert_array_equal(case.samples, naive.seasonal_naive(record.values[:cutoff], 5, 8)[None])
    walk = replace(record, values=np.cumsum(np.random.default_rng(0).normal(size=120)))
    name, cases = stand_ins([Cut(walk, 100, 5)], 5, draws=9)
    assert name == "the last value"
    np.testing.assert_array_equal(cases[0].samples, naive.last_value_ensemble(walk.values[:100], 5, 9))
    assert loss(cases, [cases[0].samples]) > 0
