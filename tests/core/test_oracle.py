"""Closed forms against quadrature, enumeration, autograd and simulation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor

from degauss.core.noise import Noise
from degauss.core.oracle import (
    GaussianOracle,
    GeometricBrownian,
    MixtureOracle,
    OrnsteinUhlenbeck,
)
from degauss.core.schedule import EDM, VE, Cosine, LinearVP, RectifiedFlow, Schedule, SubVP

SCHEDULES = [LinearVP(), Cosine(), SubVP(), RectifiedFlow(), EDM(10.0), VE(0.1, 5.0)]
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)


def f64(value: object) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def mixture(schedule: Schedule) -> MixtureOracle:
    """Three overlapping, tilted components in the plane."""
    return MixtureOracle(
        schedule,
        weights=f64([1.0, 2.0, 0.5]),
        means=f64([[-1.0, 0.5], [1.2, -0.3], [0.2, 1.5]]),
        covariances=f64([[[0.5, 0.2], [0.2, 0.3]], [[0.2, -0.1], [-0.1, 0.4]], [[0.1, 0.0], [0.0, 0.1]]]),
    )


def states(batch: int = 7, dim: int = 2) -> Tensor:
    return 1.5 * torch.randn(batch, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


# Gaussian


@every_schedule
@pytest.mark.parametrize("time", [0.02, 0.4, 0.95])
def test_gaussian_posterior_is_bayes(schedule: Schedule, time: float) -> None:
    alpha, sigma = (float(s) for s in schedule(f64(time)))
    mean, std, x = 0.7, 1.3, -0.8

    def joint(x0: np.ndarray) -> np.ndarray:
        return stats.norm.pdf(x0, mean, std) * stats.norm.pdf(x, alpha * x0, sigma)

    center, width = (x / alpha, sigma / alpha) if sigma < alpha * std else (mean, std)
    span = (min(center, mean) - 12 * width, max(center, mean) + 12 * width)
    points = np.linspace(*span, 20_001)
    density = joint(points)
    expected = integrate.simpson(points * density, x=points) / integrate.simpson(density, x=points)
    assert GaussianOracle(schedule, mean, std)(f64([[x]]), f64(time)).mean.item() == pytest.approx(expected, abs=1e-8)


@every_schedule
def test_gaussian_is_a_mixture_of_one(schedule: Schedule) -> None:
    mean, std = f64([0.3, -0.6]), f64([0.5, 1.5])
    gaussian = GaussianOracle(schedule, mean, std)
    one = MixtureOracle(schedule, f64([3.0]), mean[None], torch.diag(std**2)[None])
    for time in (f64(0.3), torch.linspace(0.05, 0.95, 7, dtype=torch.float64)):
        torch.testing.assert_close(gaussian(states(), time).mean, one(states(), time).mean, rtol=1e-12, atol=1e-12)


def ode_right_hand_side(schedule: Schedule, denoiser, x: np.ndarray, t: float) -> np.ndarray:
    """dx/dt = (alpha'/alpha) x + (sigma' - sigma alpha'/alpha) eps with eps = (x - alpha mean) / sigma."""
    time = f64(t).requires_grad_()
    alpha, sigma = schedule(time)
    # A path whose alpha is constant has no gradient graph for it.
    d_alpha = torch.autograd.grad(alpha, time, retain_graph=True)[0] if alpha.requires_grad else f64(0.0)
    (d_sigma,) = torch.autograd.grad(sigma, time)
    mean = denoiser(torch.from_numpy(x)[None], f64(t)).mean[0].numpy()
    eps = (x - float(alpha.detach()) * mean) / float(sigma.detach())
    return float(d_alpha) * mean + float(d_sigma) * eps


@every_schedule
def test_gaussian_flow_solves_the_probability_flow_ode(schedule: Schedule) -> None:
    oracle = GaussianOracle(schedule, 0.4, 0.8)
    x = np.array([1.3, -0.2])
    start, end = 0.9, 0.2
    solved = integrate.solve_ivp(
        lambda t, x: ode_right_hand_side(schedule, oracle, x, t), (start, end), x, rtol=1e-9, atol=1e-11
    )
    flow = oracle.flow(torch.from_numpy(x)[None], f64(start), f64(end))[0].numpy()
    np.testing.assert_allclose(flow, solved.y[:, -1], rtol=1e-6)


def test_gaussian_flow_goes_round_and_to_the_data() -> None:
    oracle = GaussianOracle(Cosine(), 0.4, 0.8)
    x = states()
    there = oracle.flow(x, f64(1.0), f64(0.3))
    torch.testing.assert_close(oracle.flow(there, f64(0.3), f64(1.0)), x)
    torch.testing.assert_close(oracle.flow(x, f64(1.0), f64(0.0)), 0.4 + 0.8 * x)
    times = torch.linspace(0.1, 0.9, 7, dtype=torch.float64)
    rows = [oracle.flow(x[i : i + 1], times[i], f64(0.0)) for i in range(7)]
    torch.testing.assert_close(oracle.flow(x, times, torch.zeros_like(times)), torch.cat(rows))


# Mixture


@every_schedule
@pytest.mark.parametrize("time", [0.05, 0.5, 0.9])
def test_mixture_score_is_the_gradient_of_its_log_density(schedule: Schedule, time: float) -> None:
    oracle, x = mixture(schedule), states().requires_grad_()
    (gradient,) = torch.autograd.grad(oracle.log_density(x, f64(time)).sum(), x)
    torch.testing.assert_close(oracle.score(x, f64(time)), gradient, rtol=1e-9, atol=1e-10)


def test_mixture_posterior_and_density_are_quadrature() -> None:
    oracle, time = mixture(RectifiedFlow()), f64(0.45)
    alpha, sigma = (float(s) for s in RectifiedFlow()(time))
    side = np.linspace(-7, 7, 701)
    cell = (side[1] - side[0]) ** 2
    points = np.stack(np.meshgrid(side, side, indexing="ij"), -1).reshape(-1, 2)
    weights = oracle.weights.numpy() / oracle.weights.numpy().sum()
    density: Any = stats.multivariate_normal.pdf
    data = sum(
        w * density(points, m, c)
        for w, m, c in zip(weights, oracle.means.numpy(), oracle.covariances.numpy(), strict=True)
    )
    for x in states(3):
        joint = data * density(alpha * points, x.numpy(), sigma**2 * np.eye(2)) * cell
        assert oracle.log_density(x[None], time).item() == pytest.approx(math.log(joint.sum()), abs=1e-8)
        expected = (joint[:, None] * points).sum(0) / joint.sum()
        np.testing.assert_allclose(oracle(x[None], time).mean[0].numpy(), expected, atol=1e-8)


def test_mixture_takes_a_time_for_each_sample_and_keeps_dtype() -> None:
    oracle, x = mixture(Cosine()), states()
    times = torch.linspace(0.1, 0.9, 7, dtype=torch.float64)
    rows = [oracle(x[i : i + 1], times[i]).mean for i in range(7)]
    torch.testing.assert_close(oracle(x, times).mean, torch.cat(rows))
    scores = [oracle.score(x[i : i + 1], times[i]) for i in range(7)]
    torch.testing.assert_close(oracle.score(x, times), torch.cat(scores))
    assert oracle(x.float(), times).mean.dtype == torch.float32


def test_mixture_at_pure_noise_is_the_data_mean_and_at_clean_data_the_state() -> None:
    oracle, x = mixture(Cosine()), states()
    weights = oracle.weights / oracle.weights.sum()
    torch.testing.assert_close(oracle(x, f64(1.0)).mean, (weights @ oracle.means).expand(7, 2))
    torch.testing.assert_close(oracle(x, f64(0.0)).mean, x)


def test_mixture_with_points_for_components() -> None:
    """Zero covariances: a weighted mean of the points, the ideal denoiser of a data set."""
    points = states(5)
    oracle = MixtureOracle(EDM(2.0), torch.ones(5, dtype=torch.float64), points, torch.zeros(5, 2, 2).double())
    x, sigma = states(3) + 0.1, 2.0 * 0.3
    weights = torch.softmax(-(torch.cdist(x, points) ** 2) / (2 * sigma**2), -1)
    torch.testing.assert_close(oracle(x, f64(0.3)).mean, weights @ points)


def test_mixture_draws_have_its_moments_and_components() -> None:
    oracle, n = mixture(Cosine()), 20_000
    x = oracle.draw(Noise(0, range(n)))
    weights = oracle.weights / oracle.weights.sum()
    mean = weights @ oracle.means
    second = torch.einsum("k,kij->ij", weights, oracle.covariances)
    second = second + torch.einsum("k,ki,kj->ij", weights, oracle.means, oracle.means)
    covariance = second - torch.outer(mean, mean)
    assert bool(((x.mean(0) - mean).abs() < 4.5 * (covariance.diag() / n).sqrt()).all())
    # Fourth moments of these mixtures are below 3 var^2 or so: 4.5 standard errors of a covariance.
    assert bool(((x.T.cov() - covariance).abs() < 4.5 * math.sqrt(2 / n) * covariance.diag().max()).all())
    responsible = oracle.draw(Noise(0, range(5)))
    assert torch.equal(responsible, x[:5])  # keyed by sample

    # Along one axis the law itself.
    def cdf(value: np.ndarray) -> np.ndarray:
        parts = zip(weights.tolist(), oracle.means[:, 0].tolist(), oracle.covariances[:, 0, 0].tolist(), strict=True)
        return np.sum([w * stats.norm.cdf(value, m, math.sqrt(v)) for w, m, v in parts], axis=0)

    assert stats.kstest(x[:, 0].numpy(), cdf).pvalue > 1e-3


def test_mixture_refuses_shapes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        MixtureOracle(Cosine(), torch.ones(2), torch.zeros(3, 2), torch.zeros(3, 2, 2))


def test_mixture_is_differentiable_after_inference() -> None:
    oracle = mixture(Cosine())
    with torch.inference_mode():
        oracle(states(), f64(0.5))
    x = states().requires_grad_()
    oracle(x, f64(0.5)).mean.sum().backward()
    assert x.grad is not None


# Processes


def simulate_sde(process, x: float, elapsed: float, paths: int, steps: int) -> np.ndarray:
    """Euler-Maruyama with numpy's own normals."""
    z = torch.from_numpy(np.random.default_rng(0).standard_normal((steps, paths)))
    state, dt = torch.full((paths,), x, dtype=torch.float64), elapsed / steps
    for i in range(steps):
        time = f64(i * dt)
        state = state + dt * process.drift(time, state) + math.sqrt(dt) * process.diffusion(time, state) * z[i]
    return state.numpy()


@pytest.mark.parametrize("process", [OrnsteinUhlenbeck(1.5, 0.5, 0.8), GeometricBrownian(0.3, 0.4)], ids=repr)
def test_process_moments_are_those_of_its_sde(process: Any) -> None:
    paths, elapsed, x = 100_000, 0.7, 2.0
    end = simulate_sde(process, x, elapsed, paths, 200)
    mean = float(process.mean(f64(x), elapsed))
    of_state = {} if isinstance(process, OrnsteinUhlenbeck) else {"x": f64(x)}
    variance = float(process.variance(elapsed=elapsed, **of_state))
    # 4.5 standard errors and a bias of order dt = 0.0035, relative.
    assert abs(end.mean() - mean) < 4.5 * math.sqrt(variance / paths) + 0.004 * mean
    fourth = np.mean((end - end.mean()) ** 4)
    assert abs(end.var() - variance) < 4.5 * math.sqrt((fourth - variance**2) / paths) + 0.01 * variance


def test_ornstein_uhlenbeck_composes_and_settles() -> None:
    process, x = OrnsteinUhlenbeck(1.5, 0.5, 0.8), f64([2.0, -1.0])
    torch.testing.assert_close(process.mean(process.mean(x, 0.2), 0.5), process.mean(x, 0.7))
    decay = math.exp(-2 * 1.5 * 0.5)
    assert process.variance(0.7) == pytest.approx(process.variance(0.5) + decay * process.variance(0.2))
    assert process.variance(100.0) == pytest.approx(0.8**2 / 3)
    assert process.variance(1e-12) == pytest.approx(0.64e-12)


def test_geometric_brownian_is_lognormal() -> None:
    process, elapsed, x = GeometricBrownian(0.3, 0.4), 0.7, 2.0
    law = stats.lognorm(s=0.4 * math.sqrt(elapsed), scale=x * math.exp((0.3 - 0.08) * elapsed))
    assert float(process.mean(f64(x), elapsed)) == pytest.approx(law.mean())
    assert float(process.variance(f64(x), elapsed)) == pytest.approx(law.var())
    quantiles = np.array([0.05, 0.5, 0.9])
    increment = torch.from_numpy(stats.norm.ppf(quantiles) * math.sqrt(elapsed))
    np.testing.assert_allclose(process.solve(f64(x), elapsed, increment).numpy(), law.ppf(quantiles))


def test_geometric_brownian_solves_its_sde_pathwise() -> None:
    process, steps = GeometricBrownian(0.3, 0.4), 4096
    dw = torch.from_numpy(np.random.default_rng(1).standard_normal(steps)) / math.sqrt(steps)
    x = f64(1.0)
    for i in range(steps):  # Milstein: strong order 1
        drift, noise = process.drift(f64(0.0), x), process.diffusion(f64(0.0), x)
        x = x + drift / steps + noise * dw[i] + 0.5 * noise * process.volatility * (dw[i] ** 2 - 1 / steps)
    assert float(x) == pytest.approx(float(process.solve(f64(1.0), 1.0, dw.sum())), rel=1e-3)
