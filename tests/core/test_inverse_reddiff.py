"""RED-diff on Gaussian data, where its regulariser is a ridge."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from degauss.core import Cosine, Noise, simulate
from degauss.core.denoiser import expand
from degauss.core.errors import InputError
from degauss.core.inverse import Matrix, Measurement, REDDiff
from degauss.core.oracle import GaussianOracle
from degauss.core.schedule import LinearVP

DOUBLE = torch.float64
VP = LinearVP()
STD = 1.3
PRIOR = GaussianOracle(VP, std=STD)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return Noise(seed, range(shape[0])).normal(torch.empty(*shape, dtype=DOUBLE))


A = Matrix(normal(3, 5, seed=1))
Y = A(normal(2, 5, seed=2)) + 0.3 * normal(2, 3, seed=3)
NOISY = Measurement(A, Y, 0.3)


def ridge(weight: float) -> Tensor:
    """argmin |y - A x|^2 + weight |x|^2."""
    system = A.matrix.T @ A.matrix + weight * torch.eye(5, dtype=DOUBLE)
    return torch.linalg.solve(system, (Y @ A.matrix).T).T


def pull(times: Tensor, power: float) -> float:
    """The mean over times of (sigma/alpha)^{p-1} sigma^2 / (alpha^2 s^2 + sigma^2)."""
    alpha, sigma = VP(times)
    return float(((sigma / alpha) ** (power - 1) * sigma**2 / (alpha**2 * STD**2 + sigma**2)).mean())


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_with_times_in_turn_it_ends_at_the_map_estimate(power: float) -> None:
    times = torch.linspace(0.9, 0.1, 9, dtype=DOUBLE)
    strength = NOISY.sigma_y**2 / STD**2 / pull(times, power)
    # Two stages, the second with small steps; the average of its last half is free of the optimiser's noise.
    rough, fine = (torch.cat([times.repeat(rounds), times[:1]]) for rounds in (100, 300))
    start = simulate(
        REDDiff(PRIOR, VP, NOISY, strength, power, 0.05), torch.zeros(2, 5, dtype=DOUBLE), rough, Noise(0, range(2))
    )
    seen: list[Tensor] = []
    kernel = REDDiff(PRIOR, VP, NOISY, strength, power, 0.003)
    simulate(kernel, start, fine, Noise(1, range(2)), observe=[lambda event: seen.append(event.x)])
    found = torch.stack(seen[len(seen) // 2 :]).mean(0)
    posterior_mean = ridge(NOISY.sigma_y**2 / STD**2)
    assert float((found - posterior_mean).abs().max()) < 0.03
    # The control: four times the regulariser is elsewhere.
    assert float((found - ridge(4 * NOISY.sigma_y**2 / STD**2)).abs().max()) > 0.05


def test_without_a_prior_it_fits_the_measurement() -> None:
    start, grid = torch.zeros(2, 5, dtype=DOUBLE), torch.linspace(0.9, 0.1, 400, dtype=DOUBLE)
    end = simulate(REDDiff(PRIOR, VP, NOISY, 0.0, rate=0.02), start, grid, Noise(0, range(2)))
    assert float(NOISY.residual(end).norm()) < 0.02 * float(NOISY.y.norm())


@pytest.mark.parametrize(("power", "fit"), [(1.0, 1.0), (0.5, 1.0), (2.0, 0.7), (0.0, 1.0)])
def test_two_steps_are_torchs_adam_on_the_published_loss(power: float, fit: float) -> None:
    grid, noise = torch.tensor([0.8, 0.5, 0.4], dtype=DOUBLE), Noise(5, range(2))
    start = normal(2, 5, seed=7)
    mu = start.clone().requires_grad_()
    adam = torch.optim.Adam([mu], lr=0.1, betas=(0.9, 0.99))
    for i in range(2):
        alpha, sigma = (expand(scale, start) for scale in VP(grid[i]))
        eps = noise.fork(0).normal(start, draw=i)
        with torch.no_grad():
            x = alpha * mu + sigma * eps
            predicted = (x - alpha * PRIOR(x, grid[i]).mean) / sigma
        adam.zero_grad()
        weight = 0.25 * (sigma / alpha) ** power
        loss = fit / 2 * ((Y - A(mu)) ** 2).sum() + (weight * (predicted - eps) * mu).sum()
        loss.backward()
        adam.step()
    found = simulate(REDDiff(PRIOR, VP, NOISY, 0.25, power, 0.1, fit), start, grid, noise)
    torch.testing.assert_close(found, mu.detach(), rtol=1e-7, atol=1e-9)


def test_a_row_does_not_depend_on_its_batch() -> None:
    start, grid = normal(2, 5, seed=7), torch.linspace(0.9, 0.0, 30, dtype=DOUBLE)
    together = simulate(REDDiff(PRIOR, VP, NOISY), start, grid, Noise(5, [3, 8]))
    alone = simulate(REDDiff(PRIOR, VP, Measurement(A, Y[1:], 0.3)), start[1:], grid, Noise(5, [8]))
    torch.testing.assert_close(together[1:], alone, rtol=1e-9, atol=1e-9)


def test_times_without_signal_or_noise_are_refused() -> None:
    start = torch.zeros(2, 5, dtype=DOUBLE)
    for grid in ([1.0, 0.5], [0.5, 0.0, 0.5]):
        with pytest.raises(ValueError, match="alpha > 0 and sigma > 0"):
            REDDiff(PRIOR, Cosine(0.0), NOISY).init(start, torch.tensor(grid, dtype=DOUBLE))
    with pytest.raises(InputError, match="strength"):
        REDDiff(PRIOR, VP, NOISY, -1.0)
