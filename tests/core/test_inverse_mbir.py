"""DiffusionMBIR against a slow oracle that shares no code with it, and the trap of its coupling."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from degauss.core import Noise, Point, sample, simulate
from degauss.core.errors import InputError
from degauss.core.gaussian import ddim
from degauss.core.inverse import (
    DDS,
    AxisTV,
    ConjugateGradient,
    DiffusionMBIR,
    Mask,
    Matrix,
    Measurement,
    SliceWise,
    dds_tv,
    geometric,
    kaczmarz,
    landweber,
    mbir,
)
from degauss.core.schedule import EDM, VE, LinearVP, Schedule

DOUBLE = torch.float64
Array = NDArray[np.float64]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return Noise(seed, range(shape[0])).normal(torch.empty(*shape, dtype=DOUBLE))


@dataclass(frozen=True)
class GaussianSlices:
    """Slices ``[n, 1, rows, columns]`` ~ N(mean, covariance)."""

    schedule: Schedule
    mean: Tensor
    covariance: Tensor

    def __call__(self, x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        del cond
        sigma = self.schedule(t).sigma
        noisy = self.covariance + sigma**2 * torch.eye(len(self.covariance), dtype=DOUBLE)
        gain = torch.linalg.solve(noisy, self.covariance)
        return Point((self.mean + (x.double().flatten(1) - self.mean) @ gain).reshape(x.shape).to(x))


# --- the oracle ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """Volumes of ``shape``, measured by a dense matrix with positive entries and norm 1."""

    shape: tuple[int, int, int]
    matrix: Array
    y: Array
    mean: Array
    covariance: Array


def published(problem: Problem, x: Array, levels: list[float], noise: Noise, strength: float, rho: float) -> Array:
    """The algorithm written out: loops over volumes, slices and values, dense matrices, no shared code."""
    batch, (slices, rows, columns) = len(x), problem.shape
    pixels = rows * columns
    a = problem.matrix
    d = np.zeros(((slices - 1) * pixels, slices * pixels))
    for k in range(slices - 1):
        for p in range(pixels):
            d[k * pixels + p, k * pixels + p] = -1.0
            d[k * pixels + p, (k + 1) * pixels + p] = 1.0
    system = a.T @ a + rho * d.T @ d
    clock = tuple(levels[0] ** 2 - level**2 for level in levels)
    like = torch.empty(batch, *problem.shape, dtype=DOUBLE)

    def score(values: Array, level: float) -> Array:
        return -np.linalg.inv(problem.covariance + level**2 * np.eye(pixels)) @ (values - problem.mean)

    x = x.reshape(batch, slices, pixels).copy()
    split, dual = np.zeros((batch, len(d))), np.zeros((batch, len(d)))
    for i in range(len(levels) - 1):
        old, new = levels[i], levels[i + 1]
        for b in range(batch):
            for s in range(slices):
                x[b, s] = x[b, s] + (old**2 - new**2) * score(x[b, s], old)
        if new > 0:
            drift = noise.brownian(clock, i, like).numpy().reshape(x.shape)
            kick = noise.fork(0).normal(like, draw=i).numpy().reshape(x.shape)
            for b in range(batch):
                for s in range(slices):
                    x[b, s] = x[b, s] + math.sqrt(old**2 - new**2) * drift[b, s]
                scores = [score(x[b, s], new) for s in range(slices)]
                length = sum(math.sqrt(sum(v**2 for v in g)) for g in scores) / slices
                fresh = sum(math.sqrt(sum(v**2 for v in kick[b, s])) for s in range(slices)) / slices
                size = 2 * (0.16 * fresh / length) ** 2
                for s in range(slices):
                    x[b, s] = x[b, s] + size * scores[s] + math.sqrt(2 * size) * kick[b, s]
        for b in range(batch):
            flat = x[b].reshape(-1)
            target = a.T @ problem.y[b] + rho * d.T @ (split[b] - dual[b])
            r = target - system @ flat
            flat = flat + (r @ r) / (r @ system @ r) * r
            for k in range(len(d)):
                v = d[k] @ flat + dual[b, k]
                split[b, k] = math.copysign(max(abs(v) - strength / rho, 0.0), v)
                dual[b, k] = v - split[b, k]
            x[b] = flat.reshape(slices, pixels)
    for b in range(batch):
        flat = x[b].reshape(-1)
        x[b] = (flat + a.T @ (problem.y[b] - a @ flat) / (a.T @ (a @ np.ones(len(flat))))).reshape(slices, pixels)
    return x.reshape(batch, *problem.shape)


@cache
def problem() -> Problem:
    shape, batch, rows = (4, 2, 3), 2, 9
    pixels, values = 6, 24
    matrix = normal(rows, values, seed=1).abs()
    matrix = matrix / torch.linalg.matrix_norm(matrix, 2)
    root = normal(pixels, pixels, seed=2)
    covariance = 0.05 * (root @ root.T / pixels + 0.1 * torch.eye(pixels, dtype=DOUBLE))
    mean = 0.5 + 0.1 * normal(1, pixels, seed=3)[0]
    truth = mean + normal(batch, 4, pixels, seed=4) @ torch.linalg.cholesky(covariance).T
    y = truth.flatten(1) @ matrix.T
    return Problem(shape, *(value.numpy() for value in (matrix, y, mean, covariance)))


@pytest.mark.parametrize(("strength", "rho"), [(1e-4, 0.025), (2e-2, 0.1), (0.0, 0.025)])
@pytest.mark.parametrize("schedule", [EDM(378.0), VE(0.01, 378.0)], ids=["EDM", "VE"])
def test_a_whole_run_is_that_of_the_slow_oracle(schedule: Schedule, strength: float, rho: float) -> None:
    p = problem()
    grid = geometric(schedule, 40) if isinstance(schedule, EDM) else torch.linspace(1, 0, 31, dtype=DOUBLE)
    prior = SliceWise(GaussianSlices(schedule, torch.from_numpy(p.mean), torch.from_numpy(p.covariance)), 3)
    measurement = Measurement(Matrix(torch.from_numpy(p.matrix), p.shape), torch.from_numpy(p.y))
    noise, start = Noise(5, range(2)), 378 * normal(2, *p.shape, seed=6)
    coupling = AxisTV(1, strength, rho, ConjugateGradient(1))
    got = simulate(mbir(measurement, coupling)(prior, schedule), start, grid, noise)
    levels = schedule(grid).sigma.tolist()
    expected = published(p, start.numpy(), levels, noise, strength, rho)
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-6, atol=1e-8)
    # The control: the oracle tells the settings apart.
    assert np.abs(got.numpy() - published(p, start.numpy(), levels, noise, strength + 1e-3, rho)).max() > 1e-5


def test_the_published_levels() -> None:
    levels = EDM(400.0)(geometric(EDM(400.0), 2000)).sigma
    assert levels[0] == pytest.approx(378)
    assert levels[-2] == pytest.approx(0.01)
    assert levels[-1] == 0
    ratios = levels[1:-1] / levels[:-2]
    assert float(ratios.max() - ratios.min()) < 1e-9
    with pytest.raises(ValueError, match="does not reach"):
        geometric(VE(), 10)


# --- what it does -------------------------------------------------------------------------------------------

SLICES, WIDTH, VIEWS = 16, 24, 6
SCHEDULE = EDM(10.0)


def smooth(size: int, length: float) -> Tensor:
    place = torch.arange(size, dtype=DOUBLE)
    return torch.exp(-((place[:, None] - place) ** 2) / (2 * length**2)) + 1e-3 * torch.eye(size, dtype=DOUBLE)


COVARIANCE = 0.05 * smooth(WIDTH, 2.0)
PRIOR = SliceWise(GaussianSlices(SCHEDULE, torch.full((WIDTH,), 0.5, dtype=DOUBLE), COVARIANCE), 64)
ALONG, ACROSS = (torch.linalg.cholesky(c) for c in (smooth(SLICES, 4.0), COVARIANCE))
TRUTH = (0.5 + ALONG @ normal(SLICES, WIDTH, seed=5) @ ACROSS.T).reshape(1, SLICES, 1, WIDTH)


@dataclass(frozen=True)
class Views:
    """The same few measurements of each slice, norm 1."""

    matrix: Tensor
    norm: float = 1.0

    def __call__(self, x: Tensor, /) -> Tensor:
        return x @ self.matrix.T

    def adjoint(self, y: Tensor, /) -> Tensor:
        return y @ self.matrix


SIGNED = normal(VIEWS, WIDTH, seed=3)
OPERATOR = Views(SIGNED / torch.linalg.matrix_norm(SIGNED, 2))
MEASUREMENT = Measurement(OPERATOR, OPERATOR(TRUTH))


@cache
def error(iterations: int, steps: int, strength: float = 1e-4) -> float:
    """Root mean square error of a few draws."""
    coupling = AxisTV(1, strength, 0.025, ConjugateGradient(iterations))
    solver = mbir(MEASUREMENT, coupling, divisor=landweber)
    return _error(solver, steps)


def _error(solver: Any, steps: int) -> float:
    grid = partial(geometric, sigma_min=0.005, sigma_max=10.0)
    x = sample(PRIOR, SCHEDULE, (3, *TRUTH.shape[1:]), solver=solver, steps=steps, grid=grid, dtype=DOUBLE)
    return float((x - TRUTH).square().mean().sqrt())


def test_several_conjugate_gradients_on_the_noisy_iterate_diverge() -> None:
    one, five = error(1, 50), error(5, 50)
    assert five > 3 * one
    # It is no matter of too few steps: more make it worse, where one conjugate gradient gets better.
    assert error(5, 150) > five
    assert error(1, 150) < one
    # The same five on the posterior mean, with the same shared duals, are sound.
    assert _error(dds_tv(MEASUREMENT, AxisTV(1), ddim(eta=1.0)), 50) < one


def test_coupled_slices_are_nearer_to_the_truth() -> None:
    alone = _error(ddim(eta=1.0), 50)
    assert error(1, 150) < 0.98 * error(1, 150, 0.0) < 0.8 * alone


def test_draws_explain_the_measurement_and_keep_the_spread_of_what_was_not_seen() -> None:
    # A mask and white slices: what is seen is y's, what is not is independent of it and the prior's.
    schedule, std = EDM(20.0), 0.3
    mask = torch.zeros(6, 5, dtype=DOUBLE)
    mask[:, ::2] = 1
    white = GaussianSlices(schedule, torch.full((30,), 0.5, dtype=DOUBLE), std**2 * torch.eye(30, dtype=DOUBLE))
    truth = 0.5 + std * normal(1, 4, 6, 5, seed=8)
    measurement = Measurement(Mask(mask), mask * truth)
    grid = partial(geometric, sigma_min=0.01, sigma_max=20.0)
    # Nothing across the slices: lambda = 0, and a weight that does not hold them together either.
    solver = mbir(measurement, AxisTV(1, 0.0, 1e-9, ConjugateGradient(1)))
    count = 60
    x = sample(SliceWise(white, 16), schedule, (count, 4, 6, 5), solver=solver, steps=100, grid=grid, dtype=DOUBLE)
    torch.testing.assert_close(mask * x, (mask * truth).expand_as(x), rtol=1e-6, atol=1e-6)
    unseen = x[..., mask == 0] - 0.5
    values = unseen.numel()
    assert float(unseen.mean()) == pytest.approx(0, abs=5 * std / math.sqrt(values))
    # The corrector is wider than the marginal by 1 / (1 - snr^2) at most, and a step of this length adds as much.
    assert float(unseen.std()) == pytest.approx(std, rel=5 / math.sqrt(2 * values) + 0.05)


def test_draws_explain_mixed_measurements_the_better_the_more_steps() -> None:
    def misfit(solver: Any, steps: int) -> float:
        grid = partial(geometric, sigma_min=0.005, sigma_max=10.0)
        x = sample(PRIOR, SCHEDULE, (3, *TRUTH.shape[1:]), solver=solver, steps=steps, grid=grid, dtype=DOUBLE)
        return float(MEASUREMENT.residual(x).norm() / MEASUREMENT.y.norm() / math.sqrt(3))

    solver = mbir(MEASUREMENT, AxisTV(1, 0.0, 0.025, ConjugateGradient(1)), divisor=landweber)
    assert misfit(solver, 200) < misfit(solver, 50) < 0.01
    assert misfit(ddim(eta=1.0), 50) > 0.2


# --- how it runs --------------------------------------------------------------------------------------------

SOLVER = mbir(MEASUREMENT, divisor=landweber)


def test_a_volume_does_not_depend_on_its_batch() -> None:
    draw = partial(sample, PRIOR, SCHEDULE, solver=SOLVER, steps=12, dtype=DOUBLE)
    together = draw((3, SLICES, 1, WIDTH))
    alone = draw((1, SLICES, 1, WIDTH), samples=[2])
    torch.testing.assert_close(together[2:], alone, rtol=1e-9, atol=1e-9)


def test_a_run_can_be_cut_anywhere() -> None:
    kernel, noise = SOLVER(PRIOR, SCHEDULE), Noise(0, range(2))
    grid = geometric(SCHEDULE, 6, sigma_min=0.01, sigma_max=10.0)
    start = 10 * noise.normal(torch.empty(2, SLICES, 1, WIDTH, dtype=DOUBLE))
    whole = simulate(kernel, start, grid, noise)
    x, carry = start, kernel.init(start, grid)
    for i in range(3):
        carry, x = kernel.step(carry, x, i, noise)
    again = SOLVER(PRIOR, SCHEDULE)
    for i in range(3, 6):
        carry, x = again.step(carry, x, i, Noise(0, range(2)))
    assert torch.equal(x, whole)


def test_evaluations_and_single_precision() -> None:
    calls = 0

    def counted(x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        nonlocal calls
        calls += 1
        return PRIOR(x, t, **cond)

    operator = Views(OPERATOR.matrix.float())
    solver = mbir(Measurement(operator, MEASUREMENT.y.float()), divisor=landweber)
    grid = geometric(SCHEDULE, 20, sigma_min=0.01, sigma_max=10.0)
    with torch.inference_mode():
        single = sample(counted, SCHEDULE, (2, SLICES, 1, WIDTH), solver=solver, steps=20, grid=grid)
    assert single.dtype == torch.float32
    assert calls == 39
    double = sample(PRIOR, SCHEDULE, (2, SLICES, 1, WIDTH), solver=SOLVER, steps=20, grid=grid, dtype=DOUBLE)
    torch.testing.assert_close(single.double(), double, rtol=1e-3, atol=1e-3)


def test_slices_of_two_channels_are_coupled_along_their_axis() -> None:
    """Complex volumes ``[batch, slices, 2, rows, columns]``: the first axis after the batch is that of the slices."""

    def constant(x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        del t, cond
        return Point(torch.zeros_like(x))

    measurement = Measurement(Mask(torch.ones(1, dtype=DOUBLE)), normal(1, 5, 2, 3, 4))
    x = sample(constant, SCHEDULE, (2, 5, 2, 3, 4), solver=mbir(measurement), steps=4, dtype=DOUBLE)
    torch.testing.assert_close(x, measurement.y.expand_as(x))


def test_the_last_step_of_an_operator_of_both_signs_is_landwebers() -> None:
    assert float(landweber(OPERATOR, TRUTH)) == 1
    with pytest.raises(ValueError, match="landweber"):
        kaczmarz(OPERATOR, TRUTH)
    half = Mask(torch.tensor([0.0, 0.5], dtype=DOUBLE))
    assert kaczmarz(half, torch.empty(3, 2, dtype=DOUBLE)).tolist() == [[math.inf, 0.25]]


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(InputError, match="snr"):
        mbir(MEASUREMENT, snr=1.0)
    kernel = DiffusionMBIR(PRIOR, LinearVP(), MEASUREMENT, divisor=landweber)
    with pytest.raises(ValueError, match="alpha = 1"):
        kernel.init(TRUTH, torch.tensor([0.9, 0.1]))
    with pytest.raises(ValueError, match="must fall"):
        SOLVER(PRIOR, SCHEDULE).init(TRUTH, torch.tensor([0.1, 0.9]))


def test_a_denoiser_that_is_sure_of_the_state_is_not_divided_by() -> None:
    """No score, no correction: the quotient of the corrector is 0 and not infinite."""

    def sure(x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        del t, cond
        return Point(x)

    y = Measurement(Mask(torch.zeros(1, dtype=DOUBLE)), torch.zeros(1, 3, 2, 2, dtype=DOUBLE))
    grid = torch.tensor([0.5, 0.4], dtype=DOUBLE)
    x = normal(1, 3, 2, 2)
    solver = mbir(y, AxisTV(1, 0.0, 1e-9, ConjugateGradient(1)), divisor=lambda operator, like: like.new_tensor(1.0))
    got = simulate(solver(sure, SCHEDULE), x, grid, Noise(0, [0]))
    assert torch.isfinite(got).all()


def test_dds_beside_it_uses_the_same_pieces() -> None:
    """The fast form: the same prior, measurement and coupling, a fraction of the evaluations."""
    fast = _error(dds_tv(MEASUREMENT, AxisTV(1), ddim(eta=0.85)), 20)
    slices_alone = sample(
        DDS(PRIOR, MEASUREMENT), SCHEDULE, (3, *TRUTH.shape[1:]), solver=ddim(eta=0.85), steps=20, dtype=DOUBLE
    )
    assert fast < error(1, 50)
    assert fast < float((slices_alone - TRUTH).square().mean().sqrt())
