"""Guidance by a loss, against Gaussian posteriors in closed form and updates written out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from degauss.core import Cosine, LinearVP, Noise, sample, simulate
from degauss.core.denoiser import eps_prediction
from degauss.core.gaussian import Heun, ddim, dpmpp
from degauss.core.grid import uniform_log_snr
from degauss.core.guide.loss import (
    BayesStep,
    LossGuidance,
    MeanDescent,
    MonteCarloGuidance,
    TimeTravel,
    UnitStep,
)
from degauss.core.guide.observation import MeanSquare, ObservationGuidance
from degauss.core.oracle import GaussianOracle
from degauss.core.posterior import Point

DOUBLE = torch.float64
VP = LinearVP()
TIMES = torch.tensor([0.1, 0.4, 0.7, 0.95], dtype=DOUBLE)
HALF = torch.tensor(0.5, dtype=DOUBLE)
UNIT = GaussianOracle(VP)


def batch(rows: range = range(4), dim: int = 6, seed: int = 0) -> Tensor:
    return Noise(seed, rows).normal(torch.empty(len(rows), dim, dtype=DOUBLE))


def gaussian_loss(y: Tensor, variance: float) -> Any:
    """-log N(y; x0, variance) for each sample, up to a constant."""
    return lambda mean: ((mean - y) ** 2).sum(1) / (2 * variance)


def exact_mean(x: Tensor, t: Tensor, y: Tensor, variance: float) -> Tensor:
    """E[x0 | x_t, y] for data N(0, 1): the product of N(mean, r^2) and the likelihood."""
    alpha, sigma = (scale.reshape(-1, 1) for scale in VP(t))
    r = sigma**2 / (alpha**2 + sigma**2)
    return (UNIT(x, t).mean / r + y / variance) / (1 / r + 1 / variance)


def test_a_loss_per_sample_and_one_per_entry_are_observation_guidance() -> None:
    x, y, mask = batch(), batch(seed=1), (batch(seed=2) > 0).double()
    expected = ObservationGuidance(UNIT, VP, MeanSquare(y, mask), 1.7)(x, TIMES).mean
    losses = (MeanSquare(y, mask), lambda mean: (mask * (y - mean) ** 2).sum(1))
    for loss in losses:
        got = LossGuidance(UNIT, VP, loss, BayesStep(1.7))(x, TIMES).mean
        torch.testing.assert_close(got, expected)


def test_the_bayes_step_adds_the_gradient_to_the_noise() -> None:
    weights = batch(range(6), seed=7)

    def network(x: Tensor, t: Tensor) -> Tensor:
        del t
        return torch.tanh(x @ weights)

    x, y, (alpha, sigma) = batch(), batch(seed=1), VP(HALF)
    leaf = x.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(gaussian_loss(y, 0.3)((leaf - sigma * network(leaf, HALF)) / alpha).sum(), leaf)
    got = LossGuidance(eps_prediction(network, VP), VP, gaussian_loss(y, 0.3), BayesStep(0.8))(x, HALF).mean
    torch.testing.assert_close(got, (x - sigma * (network(x, HALF) + 0.8 * sigma * gradient)) / alpha)


@torch.no_grad()
def test_the_point_guess_is_exact_in_the_limit_of_a_vague_likelihood() -> None:
    """Its likelihood lacks the spread r^2 of x0 given x_t: a relative error of r^2 / variance."""
    x, y = batch(), batch(seed=1)

    def off(variance: float) -> float:
        guided = LossGuidance(UNIT, VP, gaussian_loss(y, variance))(x, TIMES).mean
        moved = exact_mean(x, TIMES, y, variance) - UNIT(x, TIMES).mean
        return float((guided - UNIT(x, TIMES).mean - moved).norm() / moved.norm())

    assert off(100.0) < 0.011
    assert off(100.0) / off(200.0) == pytest.approx(2.0, abs=0.03)
    assert off(0.1) > 1


@torch.no_grad()
def test_monte_carlo_is_exact_for_gaussian_data_and_the_point_is_not() -> None:
    x, y, variance = batch(dim=1), batch(dim=1, seed=1), 0.5
    loss = gaussian_loss(y, variance)
    expected, plain = exact_mean(x, TIMES, y, variance), UNIT(x, TIMES).mean
    guided = MonteCarloGuidance(UNIT, VP, loss, Noise(9, range(4)), draws=4000)(x, TIMES).mean
    assert (guided - expected).abs().max() < 0.06 * (expected - plain).abs().max()
    point = LossGuidance(UNIT, VP, loss)(x, TIMES).mean
    assert (point - expected).abs().max() > 0.5 * (expected - plain).abs().max()


def test_monte_carlo_is_the_formula() -> None:
    x, y, noise = batch(), batch(seed=1), Noise(9, range(4))
    alpha, sigma = (scale[:, None] for scale in VP(TIMES))
    leaf = x.clone().requires_grad_(True)
    r = sigma / (alpha**2 + sigma**2).sqrt()
    likelihoods = [torch.exp(-gaussian_loss(y, 2.0)(UNIT(leaf, TIMES).mean + r * noise.normal(x, j))) for j in range(3)]
    (gradient,) = torch.autograd.grad(-torch.stack(likelihoods).mean(0).log().sum(), leaf)
    got = MonteCarloGuidance(UNIT, VP, gaussian_loss(y, 2.0), noise, draws=3)(x, TIMES).mean
    torch.testing.assert_close(got, UNIT(x, TIMES).mean - sigma**2 / alpha * gradient)


def test_the_unit_step_has_the_length_it_says() -> None:
    x, (alpha, sigma) = batch(), VP(TIMES)
    for strength in (1e-6, 1.0, 1e6):
        guided = LossGuidance(UNIT, VP, lambda m, s=strength: s * m.sin().sum(1), UnitStep(0.3))(x, TIMES).mean
        moved = guided - UNIT(x, TIMES).mean
        torch.testing.assert_close(moved.square().mean(1).sqrt(), 0.3 * sigma / (alpha**2 + sigma**2).sqrt())
        leaf = UNIT(x, TIMES).mean
        assert torch.nn.functional.cosine_similarity(moved, -leaf.cos()).min() > 1 - 1e-12


@pytest.mark.parametrize("step", [BayesStep(2.0), UnitStep(0.5)], ids=str)
def test_no_gradient_is_no_step_and_no_nan(step: Any) -> None:
    flat = LossGuidance(UNIT, VP, lambda mean: 0 * mean, step)
    x = batch().requires_grad_(True)
    guided = flat(x, TIMES).mean
    assert torch.equal(guided, UNIT(x, TIMES).mean)
    (gradient,) = torch.autograd.grad(guided.sum(), x)
    assert torch.isfinite(gradient).all()
    pure = torch.tensor(1.0, dtype=DOUBLE)
    oracle = GaussianOracle(Cosine(), 0.7)
    assert float(Cosine()(pure).alpha) == 0
    got = LossGuidance(oracle, Cosine(), gaussian_loss(batch(seed=1), 0.1), step)(batch(), pure).mean
    assert torch.equal(got, torch.full_like(got, 0.7))


def test_mean_descent_is_gradient_descent_in_closed_form() -> None:
    x, y, rate = batch(), batch(seed=1), 0.1
    got = MeanDescent(UNIT, lambda mean: (mean - y) ** 2, rate, 5)(x, TIMES).mean
    mean = UNIT(x, TIMES).mean
    torch.testing.assert_close(got, y + (1 - 2 * rate) ** 5 * (mean - y))


def guides() -> list[Any]:
    loss = gaussian_loss(torch.full((6,), 1.5, dtype=DOUBLE), 0.5)
    return [
        LossGuidance(UNIT, VP, loss),
        LossGuidance(UNIT, VP, loss, UnitStep(0.5)),
        MonteCarloGuidance(UNIT, VP, loss, Noise(9, range(4))),
        MeanDescent(UNIT, loss, 0.1, 3),
    ]


@pytest.mark.parametrize("which", range(4))
def test_guided_samples_have_a_lower_loss_in_any_mode_of_autograd(which: int) -> None:
    guided, grid = guides()[which], uniform_log_snr(VP, 20, end=1e-3)

    def drawn(denoiser: Any) -> Tensor:
        return sample(denoiser, VP, (4, 6), solver=dpmpp(2), steps=20, grid=grid, dtype=DOUBLE)

    with torch.no_grad():
        free, steered = drawn(UNIT), drawn(guided)
    loss = gaussian_loss(torch.full((6,), 1.5, dtype=DOUBLE), 0.5)
    assert (loss(steered) < loss(free)).all()
    assert not steered.requires_grad
    with torch.inference_mode():
        torch.testing.assert_close(drawn(guided), steered)


@pytest.mark.parametrize("which", range(4))
def test_gradients_pass_through_guidance(which: int) -> None:
    guided, x = guides()[which], batch().requires_grad_(True)
    (gradient,) = torch.autograd.grad(guided(x, TIMES).mean.sum(), x)
    shift = 1e-6 * torch.eye(6, dtype=DOUBLE)[2]
    ahead, behind = (guided(batch() + s, TIMES).mean.detach().sum(1) for s in (shift, -shift))
    torch.testing.assert_close(gradient[:, 2], (ahead - behind) / 2e-6, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("which", range(4))
def test_a_guided_sample_does_not_depend_on_its_batch(which: int) -> None:
    whole = guides()[which](batch(), TIMES).mean
    guided = guides()[which]
    if isinstance(guided, MonteCarloGuidance):
        guided = MonteCarloGuidance(UNIT, VP, guided.loss, guided.noise.take([1, 2]))
    torch.testing.assert_close(guided(batch()[1:3], TIMES[1:3]).mean, whole[1:3], rtol=1e-12, atol=1e-12)


def test_conditions_reach_the_denoiser() -> None:
    def denoiser(x: Tensor, t: Tensor, /, **cond: Tensor) -> Point:
        del t
        return Point(x * cond["gain"])

    gain, y, x = torch.tensor(0.25, dtype=DOUBLE), batch(seed=1), batch()
    got = LossGuidance(denoiser, VP, gaussian_loss(y, 1.0))(x, HALF, gain=gain).mean
    alpha, sigma = VP(HALF)
    torch.testing.assert_close(got, x / 4 - sigma**2 / alpha * (x / 4 - y) / 4)


GRID = uniform_log_snr(VP, 10, end=1e-3)


@pytest.mark.parametrize("solver", [ddim(), ddim(eta=1.0), dpmpp(2), Heun], ids=str)
def test_one_repeat_and_an_empty_range_are_the_solver(solver: Any) -> None:
    x, noise = batch(), Noise(3, range(4))
    plain = simulate(solver(UNIT, VP), x, GRID, noise)
    assert torch.equal(simulate(TimeTravel(UNIT, VP, solver, repeats=1), x, GRID, noise), plain)
    assert torch.equal(simulate(TimeTravel(UNIT, VP, solver, repeats=3, low=1e9), x, GRID, noise), plain)
    assert not torch.equal(simulate(TimeTravel(UNIT, VP, solver, repeats=2), x, GRID, noise), plain)


def test_travel_back_undoes_a_step_in_law_and_takes_it_again() -> None:
    x, grid, seen = batch(range(4000), 1), torch.tensor([0.6, 0.5, 0.4], dtype=DOUBLE), []

    class Recorded:
        def init(self, x: Tensor, grid: Tensor, /) -> int:
            del x, grid
            return 0

        def step(self, carry: int, x: Tensor, i: int, noise: Noise, /) -> tuple[int, Tensor]:
            del i, noise
            seen.append((carry, x))
            return carry + 1, torch.full_like(x, 2.0)

    kernel = TimeTravel(UNIT, VP, lambda *_: Recorded(), repeats=3)
    carry, out = kernel.step(kernel.init(x, grid), x, 0, Noise(0, range(4000)))
    (alpha_s, alpha_t), (sigma_s, sigma_t) = (scales[:2] for scales in VP(grid))
    ratio = alpha_s / alpha_t
    assert carry.inner == 1  # each attempt starts from the memory before the step
    assert [memory for memory, _ in seen] == [0, 0, 0]
    assert torch.equal(out, torch.full_like(x, 2.0))
    back = [state - 2 * ratio for _, state in seen[1:]]
    std = float((sigma_s**2 - (ratio * sigma_t) ** 2).sqrt())
    for kick in back:
        assert float(kick.mean()) == pytest.approx(0, abs=4 * std / math.sqrt(4000))
        assert float(kick.std()) == pytest.approx(std, rel=4 / math.sqrt(8000))
    assert abs(float((back[0] * back[1]).mean())) < 4 * std**2 / math.sqrt(4000)


class Exact:
    """x_t ~ p(x_t | x_s) for data N(2, 0.5^2): a step without error, so that the law of its samples is exact."""

    def init(self, x: Tensor, grid: Tensor, /) -> Tensor:
        del x
        return grid

    def step(self, carry: Tensor, x: Tensor, i: int, noise: Noise, /) -> tuple[Tensor, Tensor]:
        (alpha_s, alpha_t), (sigma_s, sigma_t) = (scales[i : i + 2] for scales in VP(carry))
        v_s, v_t = alpha_s**2 / 4 + sigma_s**2, alpha_t**2 / 4 + sigma_t**2
        gain = alpha_s / alpha_t * v_t / v_s
        z = noise.brownian(CLOCK, i, x)
        return carry, alpha_t * 2 + gain * (x - alpha_s * 2) + (v_t - gain**2 * v_s).sqrt() * z


CLOCK = tuple(float(i) for i in range(9))


def test_travelling_in_time_keeps_the_law_of_the_data() -> None:
    """Were an attempt's noise that of the attempt before, the spread of the samples would not be the data's."""
    grid, noise = uniform_log_snr(VP, 8, end=1e-4), Noise(3, range(10000))
    x = noise.normal(torch.empty(10000, 2, dtype=DOUBLE)) + 2 * VP(grid[0]).alpha
    x = simulate(TimeTravel(UNIT, VP, lambda *_: Exact(), repeats=3), x, grid, noise)
    assert float(x.mean()) == pytest.approx(2.0, abs=4 * 0.5 / math.sqrt(20000))
    assert float(x.std()) == pytest.approx(0.5, rel=4 / math.sqrt(40000))


def test_travelling_does_not_depend_on_the_batch_and_has_gradients() -> None:
    kernel = TimeTravel(guides()[0], VP, ddim(eta=1.0), repeats=2, low=0.2, high=5.0)
    whole = simulate(kernel, batch(), GRID, Noise(3, range(4)))
    part = simulate(kernel, batch(range(1, 3)), GRID, Noise(3, range(1, 3)))
    torch.testing.assert_close(part, whole[1:3], rtol=1e-12, atol=1e-12)
    x = batch().requires_grad_(True)
    (gradient,) = torch.autograd.grad(simulate(kernel, x, GRID, Noise(3, range(4))).sum(), x)
    assert torch.isfinite(gradient).all()
    assert gradient.abs().min() > 0


def test_repeats_bring_the_samples_nearer_to_the_posterior() -> None:
    """The point guess pulls too hard in high noise; every return is a chance to recover. The posterior mean is 1.5."""
    y = torch.full((6,), 3.0, dtype=DOUBLE)
    guided, x = LossGuidance(UNIT, VP, gaussian_loss(y, 1.0)), batch(range(100))

    def off(repeats: int) -> float:
        grid = uniform_log_snr(VP, 20, end=1e-3)
        with torch.no_grad():
            drawn = simulate(TimeTravel(guided, VP, ddim(), repeats), x, grid, Noise(0, range(100)))
        return abs(float(drawn.mean()) - 1.5)

    assert off(4) < 0.75 * off(1)
    assert off(2) < 0.9 * off(1)
