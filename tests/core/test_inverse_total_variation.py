"""Total variation along one axis beside a prior of slices, and where in a step it may act."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from degauss.core import Noise, sample, simulate
from degauss.core.errors import InputError
from degauss.core.gaussian import ddim
from degauss.core.grid import karras
from degauss.core.inverse import (
    DDS,
    AxisTV,
    ConjugateGradient,
    Difference,
    Duals,
    Identity,
    MeanError,
    Measurement,
    dds_tv,
    dot_test,
)
from degauss.core.posterior import Point
from degauss.core.schedule import EDM

DOUBLE = torch.float64
SLICES, WIDTH, VIEWS, BATCH, STEPS = 16, 24, 6, 4, 50
SCHEDULE = EDM(10.0)
GRID = karras(SCHEDULE, STEPS, sigma_min=0.005, sigma_max=10.0)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return Noise(seed, range(shape[0])).normal(torch.empty(*shape, dtype=DOUBLE))


def smooth(size: int, length: float) -> Tensor:
    """The covariance of a smooth curve of unit variance."""
    place = torch.arange(size, dtype=DOUBLE)
    return torch.exp(-((place[:, None] - place) ** 2) / (2 * length**2)) + 1e-3 * torch.eye(size, dtype=DOUBLE)


@dataclass(frozen=True)
class Views:
    """The same few measurements of each slice, norm 1."""

    matrix: Tensor
    norm: float = 1.0

    def __call__(self, x: Tensor, /) -> Tensor:
        return x @ self.matrix.T

    def adjoint(self, y: Tensor, /) -> Tensor:
        return y @ self.matrix


@dataclass(frozen=True)
class SlicePrior:
    """Slices N(0.5, covariance) that know nothing of each other."""

    covariance: Tensor

    def __call__(self, x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        del cond
        variance = SCHEDULE(t).sigma ** 2
        gain = torch.linalg.solve(self.covariance + variance * torch.eye(WIDTH, dtype=DOUBLE), self.covariance)
        return Point(0.5 + (x - 0.5) @ gain)


PRIOR = SlicePrior(0.05 * smooth(WIDTH, 2.0))
MATRIX = normal(VIEWS, WIDTH, seed=3)
OPERATOR = Views(MATRIX / torch.linalg.matrix_norm(MATRIX, 2))
ALONG, ACROSS = (torch.linalg.cholesky(c) for c in (smooth(SLICES, 4.0), PRIOR.covariance))
TRUTH = (0.5 + ALONG @ normal(SLICES, WIDTH, seed=5) @ ACROSS.T)[None]
MEASUREMENT = Measurement(OPERATOR, OPERATOR(TRUTH))
"""A volume whose slices are typical of the prior, and which is smooth from slice to slice."""


def error(x: Tensor) -> float:
    return float((x - TRUTH).square().mean().sqrt())


draw = partial(sample, schedule=SCHEDULE, shape=(BATCH, SLICES, WIDTH), steps=STEPS, grid=GRID, dtype=DOUBLE)


@cache
def on_the_mean(iterations: int) -> float:
    coupling = AxisTV(-2, solve=ConjugateGradient(iterations))
    return error(draw(PRIOR, solver=dds_tv(MEASUREMENT, coupling, ddim(eta=1.0))))


@cache
def on_the_noisy_iterate(iterations: int) -> float:
    """The control: the same iteration, with duals kept as well, on the state after each step."""
    noise, coupling = Noise(0, range(BATCH)), AxisTV(-2, solve=ConjugateGradient(iterations))
    x = 10 * noise.normal(torch.empty(BATCH, SLICES, WIDTH, dtype=DOUBLE))
    kernel = ddim(eta=1.0)(PRIOR, SCHEDULE)
    carry, duals = kernel.init(x, GRID), coupling.start(x)
    for i in range(STEPS):
        carry, x = kernel.step(carry, x, i, noise)
        x, duals = coupling.update(MEASUREMENT, x, duals)
    return error(x)


def test_several_conjugate_gradients_belong_on_the_posterior_mean() -> None:
    assert on_the_noisy_iterate(5) > 3 * on_the_mean(5)
    # One is what the noisy iterate bears, and on the mean more are better.
    assert on_the_noisy_iterate(1) < 0.5 * on_the_noisy_iterate(5)
    assert on_the_mean(5) < on_the_mean(1)


def test_slices_that_agree_are_nearer_to_the_truth() -> None:
    alone = error(draw(DDS(PRIOR, MEASUREMENT), solver=ddim(eta=1.0)))
    unconditional = error(draw(PRIOR, solver=ddim(eta=1.0)))
    assert on_the_mean(5) < 0.95 * alone
    assert alone < 0.8 * unconditional


def test_admm_ends_at_the_minimum_of_its_objective() -> None:
    y, strength = normal(2, 7, 3), 0.4
    measurement = Measurement(Identity(), y)
    coupling = AxisTV(1, strength, 0.5, ConjugateGradient(20, 1e-12))
    x, duals = y, coupling.start(y)
    for _ in range(400):
        x, duals = coupling.update(measurement, x, duals)

    def objective(curve: np.ndarray, target: np.ndarray) -> float:
        return 0.5 * float(((curve - target) ** 2).sum()) + strength * float(np.abs(np.diff(curve)).sum())

    for row in range(2):
        for column in range(3):
            found, target = x[row, :, column].numpy(), y[row, :, column].numpy()
            best = minimize(objective, found, args=(target,), method="Powell", options={"xtol": 1e-10, "ftol": 1e-14})
            assert objective(found, target) <= best.fun + 1e-8
            assert objective(found, target) < objective(target, target) - 1e-3
            # Total variation leaves a curve's mean alone, and a large enough one leaves nothing else.
            assert found.mean() == pytest.approx(target.mean(), abs=1e-9)


def test_the_iteration_is_that_on_x_itself() -> None:
    """CG(A^T A + rho D^T D, A^T y + rho D^T (z - w), start x, M), written out: the same Krylov space."""
    coupling, difference = AxisTV(-2, 1e-3, 0.05, ConjugateGradient(4)), Difference(-2)
    x = normal(2, SLICES, WIDTH, seed=1)
    duals = Duals(normal(2, SLICES - 1, WIDTH, seed=2), normal(2, SLICES - 1, WIDTH, seed=4))

    def apply(x: Tensor) -> Tensor:
        return OPERATOR.adjoint(OPERATOR(x)) + 0.05 * difference.adjoint(difference(x))

    target = OPERATOR.adjoint(MEASUREMENT.y) + 0.05 * difference.adjoint(duals.split - duals.dual)
    expected = ConjugateGradient(4)(apply, target, x).x
    found, after = coupling.update(MEASUREMENT, x, duals)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    slope = difference(expected) + duals.dual
    torch.testing.assert_close(after.split + after.dual, slope, rtol=1e-12, atol=1e-12)
    assert float(after.dual.abs().max()) <= 1e-3 / 0.05 + 1e-12


def test_a_noisy_measurement_is_weighed_against_the_mean() -> None:
    """Denoising without TV: (y + tau x) / (1 + tau)."""
    x, y = normal(2, 7, 3, seed=1), normal(2, 7, 3)
    coupling = AxisTV(1, 0.0, 1e-9, ConjugateGradient(30, 1e-12))
    found, _ = coupling.update(Measurement(Identity(), y), x, coupling.start(x), 0.5)
    torch.testing.assert_close(found, (y + 0.5 * x) / 1.5, rtol=1e-6, atol=1e-6)
    assert MeanError(0.1, 3.0).weight(0.05, 1.0) == pytest.approx(0.25)
    assert MeanError(0.1, 3.0).weight(0.05, 0.01) == pytest.approx((0.05 / 0.03) ** 2)
    with pytest.raises(InputError, match="follow must be above 0"):
        MeanError(follow=0.0)


def test_the_last_steps_fit_no_noise() -> None:
    sigma_y = 0.3
    noisy = Measurement(OPERATOR, MEASUREMENT.y + sigma_y * normal(1, SLICES, VIEWS, seed=9), sigma_y)
    weighed, trusted = (
        error(draw(PRIOR, solver=dds_tv(measurement, AxisTV(-2), ddim(eta=1.0))))
        for measurement in (noisy, Measurement(OPERATOR, noisy.y))
    )
    assert weighed < 0.9 * trusted


def test_the_difference_does_not_join_the_ends() -> None:
    ramp = torch.arange(5, dtype=DOUBLE)[None, :, None].expand(2, 5, 3)
    for axis, expected in ((1, torch.ones(2, 4, 3)), (-2, torch.ones(2, 4, 3)), (2, torch.zeros(2, 5, 2))):
        slope = Difference(axis)(ramp)
        torch.testing.assert_close(slope, expected.double())
        assert dot_test(Difference(axis), ramp, slope) < 1e-14


def test_a_volume_does_not_depend_on_its_batch() -> None:
    solver = dds_tv(MEASUREMENT, AxisTV(-2))
    together = draw(PRIOR, solver=solver)
    alone = sample(
        PRIOR, SCHEDULE, (1, SLICES, WIDTH), solver=solver, steps=STEPS, grid=GRID, dtype=DOUBLE, samples=[2]
    )
    torch.testing.assert_close(together[2:3], alone, rtol=1e-9, atol=1e-9)


def test_a_run_can_be_cut_anywhere() -> None:
    kernel, noise = dds_tv(MEASUREMENT, AxisTV(-2))(PRIOR, SCHEDULE), Noise(0, range(BATCH))
    start = 10 * noise.normal(torch.empty(BATCH, SLICES, WIDTH, dtype=DOUBLE))
    whole = simulate(kernel, start, GRID[:7], noise)
    x, carry = start, kernel.init(start, GRID[:7])
    for i in range(3):
        carry, x = kernel.step(carry, x, i, noise)
    again = dds_tv(MEASUREMENT, AxisTV(-2))(PRIOR, SCHEDULE)
    for i in range(3, 6):
        carry, x = again.step(carry, x, i, Noise(0, range(BATCH)))
    assert torch.equal(x, whole)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(InputError, match="rho must be above 0"):
        AxisTV(-1, rho=0.0)
    with pytest.raises(InputError, match="strength"):
        AxisTV(-1, -1.0)
    with pytest.raises(ValueError, match="batch"):
        AxisTV(0)
