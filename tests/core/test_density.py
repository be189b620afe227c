"""Log-densities along the flow: against closed forms, in both directions, with both traces, and differentiable."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from degauss.core import Noise, simulate
from degauss.core.gaussian.density import (
    FlowDensity,
    Hutchinson,
    exact_trace,
    log_density,
    normal_log_density,
    sample_with_density,
)
from degauss.core.grid import uniform_log_snr
from degauss.core.observe import Last
from degauss.core.oracle import GaussianOracle, MixtureOracle
from degauss.core.schedule import EDM, Cosine, LinearVP, RectifiedFlow

DOUBLE = torch.float64
SCHEDULES = {"vp": LinearVP(), "edm": EDM(20.0), "flow": RectifiedFlow(), "cosine": Cosine()}


def mixture(schedule) -> MixtureOracle:
    means = torch.tensor([[1.0, 0.5, -1.0], [-1.0, 0.0, 0.5]], dtype=DOUBLE)
    factor = Noise(3, range(2)).normal(torch.empty(2, 3, 3, dtype=DOUBLE))
    covariances = 0.2 * torch.eye(3, dtype=DOUBLE) + 0.2 * factor @ factor.mT
    return MixtureOracle(schedule, torch.tensor([0.3, 0.7], dtype=DOUBLE), means, covariances)


def times(schedule, steps: int) -> Tensor:
    return uniform_log_snr(schedule, steps, start=0.995, end=0.02)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_density_of_samples_is_that_of_the_model(name: str) -> None:
    """The flow's own law is the pushed-forward start, so compare gains with the exact log p_t at both ends."""
    schedule = SCHEDULES[name]
    oracle, grid = mixture(schedule), times(schedule, 200)
    sigma = float(schedule(grid[0]).sigma)
    start = sigma * Noise(0, range(16)).normal(torch.empty(16, 3, dtype=DOUBLE))
    last = Last()
    x = simulate(FlowDensity(oracle, schedule), start, grid, Noise(0, range(16)), observe=(last,))
    exact = oracle.log_density(x, grid[-1]) - oracle.log_density(start, grid[0])
    torch.testing.assert_close(last.carry.gained, exact, rtol=0, atol=2e-2)


def test_the_error_is_of_order_two() -> None:
    schedule = EDM(20.0)
    oracle = mixture(schedule)

    def error(steps: int) -> float:
        drawn, fine = (
            sample_with_density(oracle, schedule, (64, 3), times(schedule, n), dtype=DOUBLE).log_density
            for n in (steps, 1600)
        )
        return float((drawn - fine).abs().median())

    with torch.no_grad():
        assert math.log2(error(100) / error(200)) == pytest.approx(2.0, abs=0.25)


@pytest.mark.parametrize("name", ["vp", "flow"])
def test_the_density_of_data_against_the_closed_form(name: str) -> None:
    schedule = SCHEDULES[name]
    oracle = GaussianOracle(schedule, mean=0.3, std=0.8)
    grid = times(schedule, 400).flip(0)
    alpha, sigma = schedule(grid[[0, -1]])
    x = 0.5 * Noise(1, range(8)).normal(torch.empty(8, 5, dtype=DOUBLE))
    # What the flow computes: the closed-form map to the last time, and its N(0, sigma^2) there.
    spread = torch.sqrt(alpha**2 * 0.8**2 + sigma**2)
    end = oracle.flow(x, grid[0], grid[-1])
    exact = normal_log_density(end, float(sigma[1])) + 5 * math.log(spread[1] / spread[0])
    torch.testing.assert_close(log_density(oracle, schedule, x, grid), exact, rtol=0, atol=3e-3)


def test_drawing_and_scoring_agree() -> None:
    schedule = LinearVP()
    oracle, grid = mixture(schedule), times(schedule, 300)
    drawn = sample_with_density(oracle, schedule, (8, 3), grid, dtype=DOUBLE)
    torch.testing.assert_close(
        log_density(oracle, schedule, drawn.x, grid.flip(0)), drawn.log_density, rtol=0, atol=5e-3
    )


def test_hutchinson_is_unbiased_and_exact_for_an_isotropic_denoiser() -> None:
    schedule = LinearVP()
    grid = times(schedule, 20)
    isotropic = GaussianOracle(schedule, std=0.5)
    exact, estimated = (
        sample_with_density(isotropic, schedule, (4, 6), grid, dtype=DOUBLE, trace=trace).log_density
        for trace in (exact_trace, Hutchinson())
    )
    torch.testing.assert_close(estimated, exact)
    oracle = mixture(schedule)
    x = Noise(2, range(1)).normal(torch.empty(1, 3, dtype=DOUBLE)).expand(4000, 3).clone().requires_grad_(True)
    mean = oracle(x, torch.tensor(0.3)).mean
    noise = Noise(5, range(4000))
    estimates = Hutchinson()(mean, x, noise).detach()
    truth = exact_trace(mean, x, noise)[0].detach()
    assert estimates.std() > 0
    assert abs(float(estimates.mean() - truth)) < 4 * float(estimates.std()) / math.sqrt(4000)


def test_gradients_flow_through_sample_and_density() -> None:
    schedule, grid = LinearVP(), times(LinearVP(), 30)
    std = torch.tensor(0.8, dtype=DOUBLE, requires_grad=True)
    x = torch.full((2, 3), 0.4, dtype=DOUBLE)

    def total(value: Tensor) -> Tensor:
        return log_density(GaussianOracle(schedule, std=value), schedule, x, grid.flip(0)).sum()

    (gradient,) = torch.autograd.grad(total(std), std)
    step = 1e-5
    difference = (total(std.detach() + step) - total(std.detach() - step)) / (2 * step)
    assert float(gradient) == pytest.approx(float(difference.detach()), rel=1e-5)
    drawn = sample_with_density(GaussianOracle(schedule, std=std), schedule, (2, 3), grid, dtype=DOUBLE)
    (gradient,) = torch.autograd.grad(drawn.x.sum() + drawn.log_density.sum(), std)
    assert torch.isfinite(gradient)


@pytest.mark.parametrize("trace", [exact_trace, Hutchinson(2)])
def test_a_sample_does_not_depend_on_its_batch(trace) -> None:
    schedule, grid = LinearVP(), times(LinearVP(), 10)
    oracle = mixture(schedule)
    whole = sample_with_density(oracle, schedule, (6, 3), grid, trace=trace, dtype=DOUBLE)
    part = sample_with_density(oracle, schedule, (2, 3), grid, trace=trace, dtype=DOUBLE, samples=[4, 1])
    torch.testing.assert_close(part.x, whole.x[[4, 1]], rtol=0, atol=1e-12)
    torch.testing.assert_close(part.log_density, whole.log_density[[4, 1]], rtol=0, atol=1e-11)


@pytest.mark.parametrize("grid", [[1.0, 0.5, 0.0], [0.0, 0.5, 0.9]])
def test_clean_data_has_no_density(grid: list[float]) -> None:
    with pytest.raises(ValueError, match="keep it inside"):
        simulate(
            FlowDensity(GaussianOracle(LinearVP()), LinearVP()),
            torch.zeros(1, 2),
            torch.tensor(grid, dtype=DOUBLE),
            Noise(0, [0]),
        )


def test_a_broken_denoiser_is_told() -> None:
    oracle = GaussianOracle(LinearVP(), std=math.nan)
    with pytest.raises(FloatingPointError, match="non-finite"):
        sample_with_density(oracle, LinearVP(), (2, 3), times(LinearVP(), 4))
