"""One More Step on Gaussian data, where what it must repair and what it can repair have closed forms.

Brightness is one coordinate of standard deviation s sqrt(D): x_T has variance alpha_T^2 s^2 D + 1 - alpha_T^2 in
training, but 1 in sampling, and the linear flow keeps the ratio of the standard deviations.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from degauss.core import DiscreteVP, LinearVP, Noise, Point, sample, simulate
from degauss.core.errors import InputError
from degauss.core.gaussian import Heun, ddim, dpmpp
from degauss.core.gaussian.one_more_step import OneMoreStep, Started, one_more_step_loss
from degauss.core.grid import uniform_log_snr, uniform_time
from degauss.core.oracle import GaussianOracle
from degauss.core.schedule import quadratic_betas

DOUBLE = torch.float64
STABLE_DIFFUSION = DiscreteVP.from_betas(quadratic_betas(1000, 0.00085, 0.012))
ALPHA, SIGMA = (float(scale) for scale in STABLE_DIFFUSION(torch.tensor(1.0)))


def normals(rows: int, dim: int = 1, seed: int = 0) -> Tensor:
    return Noise(seed, range(rows)).normal(torch.empty(rows, dim, dtype=DOUBLE))


def transport(spread: float, mean: float = 0.0) -> Any:
    """The network whose x_T has the law of training for N(mean, spread^2): the best one for pairs by transport."""
    gain = (math.hypot(ALPHA * spread, SIGMA) - SIGMA) / ALPHA
    return lambda z: -(mean + gain * z)


def ends(start: OneMoreStep | None, oracle: Any, count: int = 8000, steps: int = 100) -> Tensor:
    solver = dpmpp(2) if start is None else partial(Started, start=start, solver=dpmpp(2))
    return sample(oracle, STABLE_DIFFUSION, (count, 1), solver=solver, steps=steps, dtype=DOUBLE)


@pytest.mark.parametrize(("pixels", "kept"), [(4096, 0.42), (16384, 0.22)])
def test_brightness_that_sampling_loses_comes_back(pixels: int, kept: float) -> None:
    spread = 0.5 * math.sqrt(pixels)
    oracle = GaussianOracle(STABLE_DIFFUSION, std=spread)
    predicted = 1 / math.sqrt(ALPHA**2 * spread**2 + 1 - ALPHA**2)
    assert predicted == pytest.approx(kept, abs=0.005)
    bound = 4 / math.sqrt(2 * 8000)
    assert float(ends(None, oracle).std()) / spread == pytest.approx(predicted, rel=bound + 0.01)
    assert float(ends(OneMoreStep(transport(spread)), oracle).std()) / spread == pytest.approx(1.0, rel=bound + 0.01)


def test_the_first_state_is_the_transport_of_its_own_noise() -> None:
    """Sample by sample: the state after the start, carried back by the exact flow, is the data point of its z."""
    spread, mean = 32.0, 3.0
    oracle = GaussianOracle(STABLE_DIFFUSION, mean=mean, std=spread)
    z = normals(16)
    x = OneMoreStep(transport(spread, mean))(z, ALPHA, SIGMA, Noise(0, range(16)))
    end = oracle.flow(x, torch.tensor(1.0), torch.tensor(0.0))
    torch.testing.assert_close(end, mean + spread * z, rtol=1e-9, atol=1e-9)


def best(x0: Tensor, z: Tensor, prompt: Tensor) -> Tensor:
    """The affine network of (1, z, prompt) that minimises the loss on these pairs, as its three weights."""
    inputs = torch.stack([torch.ones_like(z), z, prompt], 1)
    weights = torch.zeros(3, dtype=DOUBLE, requires_grad=True)

    def network(noise: Tensor, prompt: Tensor) -> Tensor:
        return (torch.stack([torch.ones_like(noise[:, 0]), noise[:, 0], prompt], 1) @ weights)[:, None]

    # The loss is quadratic: one Newton step from anywhere is its minimum.
    loss = one_more_step_loss(network, x0[:, None], z[:, None], prompt=prompt).mean()
    (slope,) = torch.autograd.grad(loss, weights)
    hessian = 2 * inputs.T @ inputs / len(inputs)
    return torch.linalg.solve(hessian, -slope).detach()


def test_the_loss_is_least_at_the_conditional_mean() -> None:
    """On independent pairs the noise says nothing: v = -E[x0 | prompt], whatever z is."""
    count = 40000
    prompt, rest, z = normals(count, 3).unbind(1)
    x0 = 2.0 + 3.0 * prompt + 0.5 * rest
    weights = best(x0, z, prompt)
    want = torch.tensor([-2.0, 0.0, -3.0], dtype=DOUBLE)
    torch.testing.assert_close(weights, want, rtol=0, atol=5 * 0.5 / math.sqrt(count))


def test_the_loss_on_pairs_by_transport_is_least_at_a_network_that_uses_the_noise() -> None:
    z, prompt = normals(40000, 2).unbind(1)
    weights = best(2.0 + 3.0 * z, z, prompt)
    torch.testing.assert_close(weights, torch.tensor([-2.0, -3.0, 0.0], dtype=DOUBLE), rtol=0, atol=1e-9)


def test_the_best_network_without_a_prompt_repairs_the_mean_and_not_the_spread() -> None:
    spread, mean = 32.0, 40.0
    oracle = GaussianOracle(STABLE_DIFFUSION, mean=mean, std=spread)
    told_nothing = OneMoreStep(lambda z: torch.full_like(z, -mean))
    plain, repaired = ends(None, oracle), ends(told_nothing, oracle)
    kept = 1 / math.hypot(ALPHA * spread, SIGMA)
    bound = 4 * spread * kept / math.sqrt(8000)
    # The flow carries a missing alpha_T mean at T to -kept alpha_T spread mean at the end.
    assert float(plain.mean()) == pytest.approx(mean * (1 - ALPHA * spread * kept), abs=bound + 0.01 * mean)
    assert float(repaired.mean()) == pytest.approx(mean, abs=bound + 0.01 * mean)
    for x in (plain, repaired):
        assert float(x.std()) / spread == pytest.approx(kept, rel=4 / math.sqrt(16000) + 0.01)


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_a_prompt_that_says_all_repairs_the_spread(eta: float) -> None:
    brightness = 32.0 * normals(8000, seed=5)
    oracle = GaussianOracle(STABLE_DIFFUSION, mean=brightness, std=0.0)
    lost = ends(None, GaussianOracle(STABLE_DIFFUSION, std=32.0)).std() / brightness.std()
    x = ends(OneMoreStep(lambda z: -brightness, eta), oracle)
    assert float(lost) < 0.5
    assert float(x.std() / brightness.std()) == pytest.approx(1.0, rel=0.01)


def test_fresh_noise_keeps_the_level_and_its_share() -> None:
    z = normals(4000, 4)
    for eta in (0.0, 0.6, 1.0):
        x = OneMoreStep(torch.zeros_like, eta)(z, ALPHA, SIGMA, Noise(0, range(4000)))
        assert float(x.std()) == pytest.approx(SIGMA, rel=4 / math.sqrt(32000))
        shared = float((x * z).mean() / SIGMA)
        assert shared == pytest.approx(math.sqrt(1 - eta**2), abs=4 / math.sqrt(16000))


def test_a_start_that_changes_nothing_leaves_the_solver_alone() -> None:
    schedule = LinearVP()
    oracle = GaussianOracle(schedule, 1.0, 0.5)
    grid = uniform_log_snr(schedule, 8, start=0.9)
    x = float(schedule(grid[0]).sigma) * normals(6, 3)
    solvers: list[Any] = [ddim(eta=1.0), dpmpp(2), Heun]
    for solver in solvers:
        started = Started(oracle, schedule, OneMoreStep(torch.zeros_like), solver)
        got = simulate(started, x, grid, Noise(2, range(6)))
        want = simulate(solver(oracle, schedule), x, grid, Noise(2, range(6)))
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def test_one_evaluation_at_standard_normals() -> None:
    asked: list[Tensor] = []
    told: list[float] = []

    def network(z: Tensor) -> Tensor:
        asked.append(z)
        return torch.zeros_like(z)

    def denoiser(x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        told.append(float(t))
        return Point(torch.zeros_like(x))

    solver = partial(Started, start=OneMoreStep(network), solver=ddim())
    grid = uniform_time(STABLE_DIFFUSION, 5, start=0.6)
    sample(denoiser, STABLE_DIFFUSION, (7, 2), solver=solver, steps=5, grid=grid, seed=3, dtype=DOUBLE)
    assert len(asked) == 1
    torch.testing.assert_close(asked[0], normals(7, 2, seed=3), rtol=1e-12, atol=1e-12)
    assert told == grid[:-1].tolist()


def test_a_sample_does_not_depend_on_its_batch() -> None:
    def run(rows: list[int]) -> Tensor:
        solver = partial(Started, start=OneMoreStep(transport(4.0), eta=0.5), solver=ddim(eta=1.0))
        oracle = GaussianOracle(STABLE_DIFFUSION, std=4.0)
        return sample(oracle, STABLE_DIFFUSION, (len(rows), 3), solver=solver, steps=5, samples=rows, dtype=DOUBLE)

    assert torch.equal(run([9, 2]), run(list(range(10)))[[9, 2]])


def test_the_network_gets_a_gradient_through_the_run() -> None:
    gain = torch.tensor(-0.5, dtype=DOUBLE, requires_grad=True)
    oracle = GaussianOracle(STABLE_DIFFUSION, std=2.0)

    def end(gain: Tensor) -> Tensor:
        solver = partial(Started, start=OneMoreStep(lambda z: gain * z), solver=dpmpp(2))
        return sample(oracle, STABLE_DIFFUSION, (4, 2), solver=solver, steps=6, dtype=DOUBLE).pow(2).sum()

    (slope,) = torch.autograd.grad(end(gain), gain)
    with torch.no_grad():
        numeric = (end(gain + 1e-5) - end(gain - 1e-5)) / 2e-5
    assert float(slope) == pytest.approx(float(numeric), rel=1e-6)


@pytest.mark.parametrize("eta", [-0.1, 1.1, math.nan])
def test_an_impossible_share_of_fresh_noise_is_refused(eta: float) -> None:
    with pytest.raises(InputError, match="eta must be between"):
        OneMoreStep(torch.zeros_like, eta)
