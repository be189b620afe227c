"""Predictor-corrector sampling against the published step, and against laws that are known in closed form."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from degauss.core import VE, Cosine, InputError, LinearVP, Noise, Point, Schedule, simulate
from degauss.core.grid import uniform_time
from degauss.core.oracle import GaussianOracle
from degauss.core.process.centred import sample_centred
from degauss.core.process.mean_reverting import IRSDE, OUVE
from degauss.core.process.predictor_corrector import PredictorCorrector, predictor_corrector

DOUBLE = torch.float64
MEAN, STD = 1.5, 0.3


def published_grid(steps: int, smallest: float = 0.03) -> Tensor:
    """1 to t_eps in even steps, then 0."""
    return torch.cat([torch.linspace(1, smallest, steps, dtype=DOUBLE), torch.zeros(1, dtype=DOUBLE)])


def marginal(schedule: Schedule, t: Tensor) -> tuple[float, float]:
    """Mean and variance of z_t for z_0 ~ N(MEAN, STD^2)."""
    alpha, sigma = (float(scale) for scale in schedule(t))
    return alpha * MEAN, (alpha * STD) ** 2 + sigma**2


@pytest.mark.parametrize(("corrections", "snr"), [(0, 0.5), (1, 0.5), (2, 0.33)])
def test_it_is_the_published_step(corrections: int, snr: float) -> None:
    """The sampler of SGMSE+ written out on x with OUVE's own drift, diffusion and standard deviation."""
    theta, low, high = 1.5, 0.05, 0.5
    log, grid, noise = math.log(high / low), published_grid(6), Noise(4, range(5))
    schedule, mu = OUVE(theta, low, high), Noise(8, range(5)).normal(torch.empty(5, 3, dtype=DOUBLE))

    def denoiser(x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        return Point(torch.tanh(x + mu) * (1 + t))

    kernel = PredictorCorrector(denoiser, schedule, snr, corrections)
    start = torch.ones(5, 3, dtype=DOUBLE)
    got = mu + simulate(kernel, start, grid, noise)

    x = start + mu
    clock = kernel.init(start, grid).clock
    for i, t in enumerate(grid[:-1].tolist()):
        variance = low**2 * (math.exp(2 * log * t) - math.exp(-2 * theta * t)) * log / (theta + log)
        g = low * math.exp(log * t) * math.sqrt(2 * log)

        def score(x: Tensor, t: float = t, variance: float = variance) -> Tensor:
            x0 = torch.tanh(x) * (1 + t) + mu
            return (mu + math.exp(-theta * t) * (x0 - mu) - x) / variance

        for number in range(corrections):
            size = 2 * (snr * math.sqrt(variance)) ** 2
            x = x + size * score(x) + math.sqrt(2 * size) * noise.fork(number).normal(x, draw=i)
        dt = t - float(grid[i + 1])
        x = x - (theta * (mu - x) - g**2 * score(x)) * dt
        if i < len(grid) - 2:
            x = x + g * math.sqrt(dt) * noise.brownian(clock, i, x)
    torch.testing.assert_close(got, x, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("schedule", [OUVE(), IRSDE(0.4), LinearVP(), VE(0.01, 5.0)], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("corrections", [0, 1])
def test_with_the_exact_score_it_reaches_the_marginal(schedule: Schedule, corrections: int) -> None:
    """From the law at one time to the law at a smaller one; the grid is fine where noise falls fast."""
    start, end, count = 0.9, 0.2, 12_000
    grid = uniform_time(schedule, 160, start=start, end=end)
    mean, variance = marginal(schedule, grid[0])
    noise = Noise(3, range(count))
    z = mean + math.sqrt(variance) * noise.normal(torch.empty(count, 1, dtype=DOUBLE))
    kernel = PredictorCorrector(GaussianOracle(schedule, MEAN, STD), schedule, 0.1, corrections)
    z = simulate(kernel, z, grid, noise)
    mean, variance = marginal(schedule, grid[-1])
    # Four standard errors, and what steps of this size may leave.
    assert float(z.mean()) == pytest.approx(mean, abs=4 * math.sqrt(variance / count) + 0.01 * math.sqrt(variance))
    assert float(z.var()) == pytest.approx(variance, rel=4 * math.sqrt(2 / count) + 0.03)


@pytest.mark.parametrize("snr", [0.1, 0.5])
def test_the_corrector_has_its_stationary_law(snr: float) -> None:
    """At one level of noise Langevin's chain is an autoregression, wider than the marginal by a known factor."""
    schedule, count, steps = OUVE(), 8_000, round(30 / snr**2) // 4
    # Steps of time so small that the predictor does nothing.
    grid = 0.5 - 1e-12 * torch.arange(steps + 1, dtype=DOUBLE)
    mean, variance = marginal(schedule, grid[0])
    noise = Noise(7, range(count))
    z = 3.0 + noise.normal(torch.empty(count, 1, dtype=DOUBLE))
    z = simulate(PredictorCorrector(GaussianOracle(schedule, MEAN, STD), schedule, snr), z, grid, noise)
    size = 2 * (snr * float(schedule(grid[0]).sigma)) ** 2
    shrink = 1 - size / variance
    exact = variance / (1 - size / (2 * variance))
    left = shrink**steps
    assert float(z.mean()) == pytest.approx(mean + left * (3 - mean), abs=4 * math.sqrt(exact / count))
    assert float(z.var()) == pytest.approx(exact + left**2 * (1 - exact), rel=4 * math.sqrt(2 / count))


def test_a_smaller_corrector_leaves_the_marginal_invariant() -> None:
    """Its stationary variance tends to the marginal's, and a single point shows the widest excess, 1 / (1 - snr^2)."""
    schedule = OUVE()
    grid = 0.5 - 1e-12 * torch.arange(2, dtype=DOUBLE)
    for std in (0.0, STD):
        mean, _ = marginal(schedule, grid[0])
        sigma = float(schedule(grid[0]).sigma)
        variance = (float(schedule(grid[0]).alpha) * std) ** 2 + sigma**2
        for snr in (0.3, 0.1, 0.01):
            kernel = PredictorCorrector(GaussianOracle(schedule, MEAN, std), schedule, snr)
            state, weight, fresh = kernel.init(torch.zeros(1, 1, dtype=DOUBLE), grid).correct[0]
            # One step is affine: z -> slope z + offset + fresh n.
            oracle = GaussianOracle(schedule, MEAN, std)
            at = [float(oracle(torch.full((1,), v, dtype=DOUBLE), grid[0]).mean) for v in (0.0, 1.0)]
            slope, offset = state + weight * (at[1] - at[0]), weight * at[0]
            assert offset / (1 - slope) == pytest.approx(mean, rel=1e-9)
            stationary = fresh**2 / (1 - slope**2)
            excess = stationary / variance - 1
            assert 0 < excess <= 1 / (1 - snr**2) - 1 + 1e-12
            if std == 0:
                assert excess == pytest.approx(1 / (1 - snr**2) - 1, rel=1e-9)


def test_more_steps_converge_on_one_brownian_path() -> None:
    """Additive noise: Euler-Maruyama has strong order one along a path that all grids share."""
    schedule, noise = OUVE(), Noise(2, range(200))
    start = noise.normal(torch.empty(200, 2, dtype=DOUBLE))
    solve = predictor_corrector(corrections=0)

    def end(steps: int) -> Tensor:
        grid = uniform_time(schedule, steps, start=0.9, end=0.2)
        oracle = GaussianOracle(schedule, MEAN, STD)
        return simulate(solve(oracle, schedule), start, grid, Noise(2, range(200)))

    fine = end(1024)
    errors = [float((end(steps) - fine).pow(2).mean().sqrt()) for steps in (16, 32, 64, 128)]
    orders = [math.log2(a / b) for a, b in pairwise(errors)]
    assert all(order > 0.85 for order in orders), (errors, orders)


def test_evaluations_are_two_a_step_and_the_last_has_no_noise() -> None:
    schedule, asked = OUVE(), []

    def denoiser(x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        asked.append(float(t))
        return Point(torch.zeros_like(x))

    mu = torch.zeros(3, 4, dtype=DOUBLE)
    sample_centred(denoiser, schedule, mu, solver=predictor_corrector(), steps=30, grid=published_grid(30))
    assert len(asked) == 60
    assert asked[-1] == asked[-2] == 0.03
    sample_centred(denoiser, schedule, mu, solver=predictor_corrector(corrections=0), steps=9, grid=published_grid(9))
    assert len(asked) == 69
    kernel = PredictorCorrector(denoiser, schedule, 0.5, 1)
    assert [weights.noise > 0 for weights in kernel.init(mu, published_grid(3)).predict] == [True, True, False]


@pytest.mark.parametrize("corrections", [0, 1, 2])
def test_a_sample_does_not_depend_on_its_batch(corrections: int) -> None:
    schedule = OUVE()

    def draw(rows: list[int]) -> Tensor:
        mu = Noise(1, rows).normal(torch.empty(len(rows), 3, dtype=DOUBLE))
        oracle = GaussianOracle(schedule, MEAN, STD)
        solver = predictor_corrector(corrections=corrections)
        return sample_centred(
            oracle, schedule, mu, solver=solver, steps=5, grid=published_grid(5), samples=rows, seed=6
        )

    assert torch.equal(draw([3, 1]), draw([0, 1, 2, 3])[[3, 1]])


def test_the_corrector_repeats_no_noise() -> None:
    """Fresh noise in every correction, and none of it the noise that the run starts from."""
    schedule, seen = OUVE(), []

    def denoiser(x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        seen.append(x)
        return Point(torch.zeros_like(x))

    mu = torch.zeros(1, 2000, dtype=DOUBLE)
    grid = 0.5 - 1e-9 * torch.arange(3, dtype=DOUBLE)
    sample_centred(denoiser, schedule, mu, solver=predictor_corrector(0.5, 2), steps=2, grid=grid)
    jumps = torch.stack([(b - a)[0] for a, b in pairwise(seen)])
    moved = jumps[[0, 1, 3, 4]]  # between them the predictor, which does nothing
    fresh = moved + torch.stack([seen[k][0] for k in (0, 1, 3, 4)]) * 0.5  # 2 snr^2 of the state is taken away
    table = torch.corrcoef(torch.cat([fresh, seen[0]]))
    assert float((table - torch.eye(5)).abs().max()) < 0.1


def test_it_runs_in_inference_mode_and_with_gradients() -> None:
    schedule = OUVE()
    weight = torch.tensor(0.5, dtype=DOUBLE, requires_grad=True)

    def denoiser(x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        return Point(weight * x)

    mu = torch.ones(2, 3, dtype=DOUBLE)

    def run() -> Tensor:
        return sample_centred(denoiser, schedule, mu, solver=predictor_corrector(), steps=4, grid=published_grid(4))

    free = run()
    free.sum().backward()
    assert weight.grad is not None
    assert float(weight.grad) != 0
    with torch.inference_mode():
        assert torch.equal(run(), free.detach())


def test_what_it_cannot_do_is_said() -> None:
    oracle = GaussianOracle(Cosine(), 0.0, 1.0)
    x = torch.zeros(1, 1)
    with pytest.raises(ValueError, match="alpha > 0"):
        PredictorCorrector(oracle, Cosine()).init(x, uniform_time(Cosine(), 3))
    with pytest.raises(ValueError, match="must fall"):
        PredictorCorrector(oracle, Cosine()).init(x, torch.tensor([0.1, 0.5]))
    for snr in (0.0, 1.0, math.nan):
        with pytest.raises(InputError, match="snr must be in"):
            predictor_corrector(snr)
    with pytest.raises(InputError, match="corrections must be at least 0"):
        predictor_corrector(corrections=-1)
