"""Observation guidance against formulas written out by hand, on denoisers whose gradients are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from degauss.core.denoiser import eps_prediction
from degauss.core.gaussian import ddim
from degauss.core.gaussian.exponential import ddim_table
from degauss.core.grid import uniform_time
from degauss.core.guide.observation import (
    GuidedAncestral,
    MeanSquare,
    ObservationGuidance,
    Quantile,
    SearchedGuidance,
    quantile_levels,
)
from degauss.core.kernel import simulate
from degauss.core.noise import Noise
from degauss.core.oracle import GaussianOracle
from degauss.core.posterior import Point
from degauss.core.sampling import sample
from degauss.core.schedule import DiscreteVP, LinearVP, linear_betas

SCHEDULE = LinearVP()
TIMES = [torch.tensor(0.3, dtype=torch.float64), torch.tensor([0.1, 0.5, 0.8, 0.99], dtype=torch.float64)]


def batch(seed: int = 0, *, shape: tuple[int, ...] = (4, 6)) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def observed(seed: int = 1) -> tuple[Tensor, Tensor]:
    mask = torch.zeros(4, 6, dtype=torch.float64)
    mask[:, ::2] = 1
    return batch(seed), mask


def gain(t: Tensor, std: float) -> Tensor:
    """d mean / d x of the Gaussian oracle."""
    alpha, sigma = (scale.reshape(-1, 1) for scale in SCHEDULE(t))
    return alpha * std**2 / (alpha**2 * std**2 + sigma**2)


@pytest.mark.parametrize("t", TIMES)
def test_the_guided_mean_of_a_gaussian_is_the_closed_form(t):
    oracle, (y, mask), x = GaussianOracle(SCHEDULE, 0.7, 1.3), observed(), batch()
    guided = ObservationGuidance(oracle, SCHEDULE, MeanSquare(y, mask), 2.5)(x, t).mean
    alpha, sigma = (scale.reshape(-1, 1) for scale in SCHEDULE(t))
    mean = oracle(x, t).mean
    # grad_x sum mask (y - mean)^2 = -2 mask (y - mean) d mean / d x: the gradient goes through the denoiser.
    gradient = -2 * mask * (y - mean) * gain(t, 1.3)
    torch.testing.assert_close(guided, mean - 2.5 * sigma**2 / alpha * gradient)


@pytest.mark.parametrize("t", TIMES)
def test_the_gradient_of_the_quantile_energy_is_the_level_or_the_level_less_one(t):
    oracle, (y, mask), x, level = GaussianOracle(SCHEDULE, 0.7, 1.3), observed(), batch(), torch.rand(4).double()
    guided = ObservationGuidance(oracle, SCHEDULE, Quantile(y, mask, level), 2.5)(x, t).mean
    alpha, sigma = (scale.reshape(-1, 1) for scale in SCHEDULE(t))
    mean = oracle(x, t).mean
    slope = torch.where(y > mean, level[:, None], level[:, None] - 1)
    torch.testing.assert_close(guided, mean + 2.5 * sigma**2 / alpha * mask * slope * gain(t, 1.3))


@pytest.mark.parametrize("t", TIMES)
def test_moving_the_mean_is_adding_the_gradient_to_the_noise(t):
    def network(x: Tensor, t: Tensor) -> Tensor:
        del t
        return torch.tanh(x @ weights)

    weights = batch(7, shape=(6, 6))
    denoiser, (y, mask), x = eps_prediction(network, SCHEDULE), observed(), batch()
    guided = ObservationGuidance(denoiser, SCHEDULE, MeanSquare(y, mask), 0.8)(x, t).mean
    alpha, sigma = (scale.reshape(-1, 1) for scale in SCHEDULE(t))
    leaf = x.clone().requires_grad_(True)
    energy = (mask * (y - (leaf - sigma * network(leaf, t)) / alpha) ** 2).sum()
    (gradient,) = torch.autograd.grad(energy, leaf)
    eps = network(x, t) + 0.8 * sigma * gradient
    torch.testing.assert_close(guided, (x - sigma * eps) / alpha)


@pytest.mark.parametrize("guidance", [ObservationGuidance, SearchedGuidance])
def test_without_observations_nothing_changes(guidance):
    oracle, x, t = GaussianOracle(SCHEDULE, 0.7, 1.3), batch(), torch.tensor(0.6)
    none = torch.zeros(4, 6, dtype=torch.float64)
    for energy in (MeanSquare(batch(1), none), Quantile(batch(1), none, torch.full((4,), 0.3))):
        guided = guidance(oracle, SCHEDULE, energy, 5.0)(x, t).mean
        assert torch.equal(guided, oracle(x, t).mean)


def test_energies_are_those_of_numpy():
    (y, mask), f, level = observed(), batch(2), torch.tensor([0.1, 0.5, 0.7, 0.95], dtype=torch.float64)
    error, q = (y - f).numpy(), level.numpy()[:, None]
    pinball = np.where(error >= 0, q * error, (q - 1) * error) * mask.numpy()
    np.testing.assert_allclose(Quantile(y, mask, level)(f).numpy(), pinball)
    np.testing.assert_allclose(MeanSquare(y, mask)(f).numpy(), error**2 * mask.numpy())


def test_the_levels_of_each_series_are_spread_evenly():
    np.testing.assert_allclose(quantile_levels(4, 2), [0.2, 0.4, 0.6, 0.8] * 2, rtol=1e-6)


@pytest.mark.parametrize("guidance", [ObservationGuidance, SearchedGuidance])
def test_guided_samples_move_to_the_observations_and_only_there(guidance):
    y = torch.full((6,), 2.0, dtype=torch.float64)
    mask = torch.tensor([1.0, 1, 1, 0, 0, 0], dtype=torch.float64)
    oracle = GaussianOracle(SCHEDULE)

    def drawn(scale: float) -> Tensor:
        denoiser = guidance(oracle, SCHEDULE, MeanSquare(y, mask), scale)
        return sample(denoiser, SCHEDULE, (200, 6), solver=ddim(), steps=40, dtype=torch.float64)

    free, guided = drawn(0.0), drawn(1.0)
    assert (free[:, :3] - 2).abs().mean() > 1.5
    assert (guided[:, :3] - 2).abs().mean() < 0.5
    torch.testing.assert_close(guided[:, 3:], free[:, 3:])  # the coordinates are independent


def test_the_search_takes_the_length_with_the_least_energy():
    oracle, (y, mask), x, t = GaussianOracle(SCHEDULE, 0.7, 1.3), observed(), batch(), torch.tensor(0.9).double()
    energy = MeanSquare(y, mask)
    searched = SearchedGuidance(oracle, SCHEDULE, energy, 32.0, halvings=8)(x, t).mean
    lengths = [0.0, *(32.0 * 2.0**-k for k in range(9))]
    candidates = torch.stack([ObservationGuidance(oracle, SCHEDULE, energy, s)(x, t).mean for s in lengths])
    energies = torch.stack([energy(mean).sum(1) for mean in candidates])
    best = candidates[energies.argmin(0), torch.arange(4)]
    torch.testing.assert_close(searched, best)
    # At this noise the published step of the same scale overshoots.
    assert (energy(candidates[1]).sum(1) > energy(searched).sum(1)).all()


def test_the_ancestral_step_is_the_formula():
    schedule = DiscreteVP.from_betas(linear_betas(100, 1e-4, 0.1))
    oracle, (y, mask), x = GaussianOracle(schedule, 0.7, 1.3), observed(), batch()
    grid = uniform_time(schedule, 5)
    kernel = GuidedAncestral(oracle, schedule, MeanSquare(y, mask), 0.6)
    noise = Noise(3, range(4))
    carry = kernel.init(x, grid)
    _, stepped = kernel.step(carry, x, 1, noise)

    (alpha_s, alpha_t), (sigma_s, sigma_t) = schedule(grid[1:3])
    # DDPM between two times of the grid: a = alpha_s / alpha_t, beta = 1 - a^2.
    a = alpha_s / alpha_t
    beta = 1 - a**2
    variance = beta * sigma_t**2 / sigma_s**2
    mean = oracle(x, grid[1]).mean
    z = noise.brownian(ddim_table(schedule, grid, eta=1.0).clock, 1, x)
    moved = a * sigma_t**2 / sigma_s**2 * x + alpha_t * beta / sigma_s**2 * mean + variance.sqrt() * z
    slope = alpha_s * 1.3**2 / (alpha_s**2 * 1.3**2 + sigma_s**2)
    gradient = -2 * mask * (y - oracle(moved, grid[1]).mean) * slope
    torch.testing.assert_close(stepped, moved - 0.6 * variance * gradient, rtol=1e-6, atol=1e-6)


def test_the_last_ancestral_step_is_unguided():
    schedule = DiscreteVP.from_betas(linear_betas(100, 1e-4, 0.1))
    oracle, (y, mask), x = GaussianOracle(schedule, 0.7, 1.3), observed(), batch()
    grid = uniform_time(schedule, 5)
    kernel = GuidedAncestral(oracle, schedule, MeanSquare(y, mask), 0.6)
    _, end = kernel.step(kernel.init(x, grid), x, 4, Noise(0, range(4)))
    torch.testing.assert_close(end, oracle(x, grid[4]).mean)
    whole = simulate(kernel, x, grid, Noise(0, range(4)))
    free = simulate(GuidedAncestral(oracle, schedule, MeanSquare(y, mask), 0.0), x, grid, Noise(0, range(4)))
    assert (mask * (whole - y) ** 2).sum() < (mask * (free - y) ** 2).sum()


@pytest.mark.parametrize("guidance", [ObservationGuidance, SearchedGuidance])
def test_gradients_pass_through_guidance_only_where_asked(guidance):
    oracle, (y, mask), t = GaussianOracle(SCHEDULE, 0.7, 1.3), observed(), torch.tensor(0.5).double()
    guided = guidance(oracle, SCHEDULE, MeanSquare(y, mask), 0.5)
    with torch.no_grad():
        assert not guided(batch(), t).mean.requires_grad
    x = batch().requires_grad_(True)
    (gradient,) = torch.autograd.grad(guided(x, t).mean.sum(), x)
    step = 1e-6 * torch.eye(6, dtype=torch.float64)[2]
    ahead, behind = (guided(batch() + s, t).mean.sum(1) for s in (step, -step))
    torch.testing.assert_close(gradient[:, 2], (ahead - behind).detach() / 2e-6, rtol=1e-5, atol=1e-7)


def test_conditions_reach_the_denoiser():
    def denoiser(x: Tensor, t: Tensor, /, **cond: Tensor) -> Point:
        del t
        return Point(x * cond["gain"])

    y, mask = observed()
    x, t, factor = batch(), torch.tensor(0.5).double(), torch.tensor(0.25).double()
    guided = ObservationGuidance(denoiser, SCHEDULE, MeanSquare(y, mask), 1.0)(x, t, gain=factor).mean
    alpha, sigma = SCHEDULE(t)
    expected = x / 4 + sigma**2 / alpha * 2 * mask * (y - x / 4) / 4
    torch.testing.assert_close(guided, expected)
