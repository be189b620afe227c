"""DC-Solver against UniPC, against the published algorithm written out with its lists, and on held-out noise."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from degauss.core import EDM, Cosine, Denoiser, InputError, LinearVP, Noise, Point, RectifiedFlow, Schedule, simulate
from degauss.core.gaussian import unipc
from degauss.core.gaussian.dc import (
    Compensation,
    RatioPolynomial,
    dc,
    dc_table,
    fit_polynomial,
    fit_ratios,
    interpolation,
)
from degauss.core.gaussian.teacher import end_errors, trajectory
from degauss.core.gaussian.unipc import Variant, unipc_table
from degauss.core.grid import uniform_log_snr, uniform_time
from degauss.core.oracle import MixtureOracle

DOUBLE = torch.float64
EDM40 = EDM(40.0)


@cache
def mixture(schedule: Schedule = EDM40) -> MixtureOracle:
    noise = Noise(7, range(5))
    means = noise.normal(torch.empty(5, 8, dtype=DOUBLE))
    factors = noise.normal(torch.empty(5, 8, 8, dtype=DOUBLE), draw=1)
    covariances = 0.3 * torch.eye(8, dtype=DOUBLE) + factors @ factors.transpose(1, 2) / 8
    return MixtureOracle(schedule, torch.ones(5, dtype=DOUBLE), means, covariances)


def normal(ids: range) -> Tensor:
    return Noise(0, ids).normal(torch.empty(len(ids), 8, dtype=DOUBLE))


FITTED, HELD_OUT = 40 * normal(range(16)), 40 * normal(range(100, 164))


def log_grid(steps: int) -> Tensor:
    return uniform_log_snr(EDM40, steps, start=1.0, end=0.02 / 40)


@cache
def fitted() -> Compensation:
    return fit_ratios(mixture(), EDM40, FITTED, log_grid(10))


SCHEDULES = st.sampled_from([LinearVP(), Cosine(), RectifiedFlow(), EDM(80.0)])
GRIDS = st.lists(st.floats(0.02, 0.98), min_size=3, max_size=12, unique_by=lambda t: round(t, 2))


@settings(deadline=None, max_examples=40)
@given(SCHEDULES, GRIDS, st.integers(1, 4), st.sampled_from(["bh1", "bh2"]))
def test_ratios_of_one_are_unipc(schedule: Schedule, times: list[float], order: int, variant: Variant) -> None:
    grid = torch.tensor(sorted(times, reverse=True), dtype=DOUBLE)
    ratios = (1.0,) * (len(times) - 1)
    assert dc_table(schedule, grid, ratios=ratios, order=order, variant=variant) == unipc_table(
        schedule, grid, order=order, variant=variant
    )


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.floats(0, 1), min_size=3, max_size=3, unique_by=lambda t: round(t, 1)),
    st.floats(0.1, 2.0),
    st.tuples(*(st.floats(-2, 2),) * 3),
)
def test_interpolation_is_exact_on_quadratics(times: list[float], ratio: float, c: tuple[float, float, float]) -> None:
    knots = sorted(times)
    at = ratio * knots[0] + (1 - ratio) * knots[1]
    got = sum(w * np.polyval(c, t) for w, t in zip(interpolation(knots, ratio), knots, strict=True))
    assert got == pytest.approx(np.polyval(c, at), abs=1e-6)
    assert interpolation(knots, 1.0) == (1.0, 0.0, 0.0)


def uni_update(
    path: dict[str, np.ndarray[Any, Any]], i: int, x: Tensor, means: Sequence[Tensor], order: int, new: Tensor | None
) -> Tensor:
    """UniPC's step i -> i + 1 from the list of remembered means (newest last); with ``new`` the corrector."""
    lam, alpha, sigma = path["lam"], path["alpha"], path["sigma"]
    if math.isinf(lam[i + 1]):
        return means[-1] * alpha[i + 1]
    h = lam[i + 1] - lam[i]
    ratios = [(lam[i - k] - lam[i]) / h for k in range(1, order)]
    slopes = [(means[-1 - k] - means[-1]) / r for k, r in zip(range(1, order), ratios, strict=True)]
    if new is not None:
        ratios.append(1.0)
        slopes.append(new - means[-1])
    b, phi = [], math.expm1(-h) / -h - 1
    for k in range(1, len(ratios) + 1):
        b.append(phi * math.factorial(k) / math.expm1(-h))
        phi = phi / -h - 1 / math.factorial(k + 1)
    rows = np.array([[r**k for r in ratios] for k in range(len(ratios))])
    rho = np.array([0.5]) if len(ratios) == 1 else np.linalg.solve(rows, b) if ratios else []
    x = sigma[i + 1] / sigma[i] * x - alpha[i + 1] * math.expm1(-h) * means[-1]
    for weight, slope in zip(rho, slopes, strict=True):
        x = x - alpha[i + 1] * math.expm1(-h) * weight * slope
    return x


def published(
    denoiser: Denoiser[Point], schedule: Schedule, x: Tensor, grid: Tensor, ratios: Sequence[float], order: int
) -> Tensor:
    """The published program: a list of means, whose last entry is overwritten before each predictor."""
    alpha, sigma = schedule(grid)
    path = {"lam": (0.5 * schedule.log_snr(grid)).numpy(), "alpha": alpha.numpy(), "sigma": sigma.numpy()}
    steps = len(ratios)
    means: list[Tensor] = []
    corrected, used = x, 0
    for i, ratio in enumerate(ratios):
        mean = denoiser(x, grid[i]).mean
        if means:
            x = uni_update(path, i - 1, corrected, means, used, mean)
        means.append(mean)
        if ratio != 1:
            t0, t1, t2 = grid[i], grid[i - 1], grid[i - 2]
            t = ratio * (t0 - t1) + t1
            means[-1] = (
                means[-1] * (t - t1) * (t - t2) / ((t0 - t1) * (t0 - t2))
                + means[-2] * (t - t0) * (t - t2) / ((t1 - t0) * (t1 - t2))
                + means[-3] * (t - t0) * (t - t1) / ((t2 - t0) * (t2 - t1))
            )
        used = min(order, steps - i, i + 1)
        corrected, x = x, uni_update(path, i, x, means, used, None)
    return x


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("schedule", [LinearVP(), RectifiedFlow(), EDM(80.0)], ids=str)
def test_is_the_published_algorithm(schedule: Schedule, order: int) -> None:
    grid = uniform_time(schedule, 8, start=0.98, end=0.0)
    ratios = (1.0, 1.0, 0.7, 1.4, 1.1, 0.4, 1.0, 0.9)
    x = float(schedule(grid[0]).sigma) * normal(range(8))
    want = published(mixture(schedule), schedule, x, grid, ratios, order)
    got = simulate(dc(ratios, order)(mixture(schedule), schedule), x, grid, Noise(0, range(8)))
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
    plain = simulate(unipc(order)(mixture(schedule), schedule), x, grid, Noise(0, range(8)))
    assert float((got - plain).abs().max()) > 1e-3


def test_starts_at_pure_noise() -> None:
    schedule = Cosine()
    grid = uniform_time(schedule, 8)
    x = normal(range(8))
    got = simulate(dc((1.0, 1.0, *(0.9,) * 6))(mixture(schedule), schedule), x, grid, Noise(0, range(8)))
    assert bool(torch.isfinite(got).all())


def held_out(solver: Any, steps: int) -> float:
    return float(end_errors(solver, mixture(), EDM40, HELD_OUT, log_grid(steps)).median())


def test_fitted_ratios_beat_unipc_on_held_out_noise() -> None:
    assert held_out(fitted().solver, 10) < 0.6 * held_out(unipc(3), 10)
    reversed_ratios = (1.0, 1.0, *reversed(fitted().ratios[2:]))
    assert held_out(dc(reversed_ratios), 10) > held_out(unipc(3), 10)


def test_the_search_finds_the_best_ratio() -> None:
    """With three steps one ratio is searched, and its loss is the distance at the end: scan it."""
    grid = uniform_log_snr(EDM40, 3, start=0.2, end=0.02)
    x = FITTED / 5
    goals = trajectory(mixture(), EDM40, x, grid)
    fit = fit_ratios(mixture(), EDM40, x, grid, teacher=goals)

    def loss(ratio: float) -> float:
        solver = dc((1.0, 1.0, ratio))
        return float(end_errors(solver, mixture(), EDM40, x, grid, teacher=goals).pow(2).mean())

    scan = [0.05 * k for k in range(1, 60)]
    best = min(scan, key=loss)
    assert fit.ratios[:2] == (1.0, 1.0)
    assert fit.ratios[2] == pytest.approx(best, abs=0.06)
    assert loss(fit.ratios[2]) < loss(1.0)


def test_the_search_sees_the_corrector_and_its_own_trajectory() -> None:
    """With four steps the first ratio is judged after the corrector that follows it."""
    grid = uniform_log_snr(EDM40, 4, start=0.2, end=0.02)
    x = FITTED / 5
    goals = trajectory(mixture(), EDM40, x, grid)
    fit = fit_ratios(mixture(), EDM40, x, grid, teacher=goals)

    def loss(ratio: float) -> float:
        # The published program cut where the fourth step has corrected but not yet predicted.
        seen: list[Tensor] = []

        def spy(y: Tensor, t: Tensor, /, **cond: Any) -> Point:
            seen.append(y)
            return mixture()(y, t)

        kernel = dc((1.0, 1.0, ratio, 1.0))(spy, EDM40)
        end = simulate(kernel, x, grid, Noise(0, range(16)))
        mean = mixture()(seen[3], grid[3]).mean
        h = math.log(float(grid[3] / grid[4]))
        corrected = (end + math.expm1(-h) * mean) / math.exp(-h)  # the last step is of first order
        return float((corrected - goals[3]).pow(2).mean())

    best = min((0.05 * k for k in range(1, 60)), key=loss)
    assert fit.ratios[2] == pytest.approx(best, abs=0.06)


def test_samples_do_not_depend_on_their_batch_and_gradients_flow() -> None:
    kernel = fitted().solver(mixture(), EDM40)
    whole = simulate(kernel, HELD_OUT, log_grid(10), Noise(0, range(64)))
    part = simulate(kernel, HELD_OUT[10:13], log_grid(10), Noise(0, range(10, 13)))
    torch.testing.assert_close(part, whole[10:13], rtol=1e-12, atol=1e-12)
    x = HELD_OUT[:2].clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(simulate(kernel, x, log_grid(10), Noise(0, range(2)))[0].sum(), x)
    assert float(gradient[0].abs().max()) > 0
    assert float(gradient[1].abs().max()) == 0


def test_fits_in_single_precision_and_leaves_the_denoiser_alone() -> None:
    weight = torch.nn.Parameter(torch.tensor(0.5))

    def denoiser(x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        return Point(weight * torch.tanh(x))

    fit = fit_ratios(denoiser, LinearVP(), normal(range(4)).float(), uniform_time(LinearVP(), 5, end=0.01))
    assert len(fit.ratios) == 5
    assert fit.ratios[2:] != (1.0, 1.0, 1.0)


def test_a_loss_that_is_not_finite_is_refused() -> None:
    def denoiser(x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        return Point(x / (t > 0.5))

    x, grid = normal(range(4)), uniform_time(LinearVP(), 5, end=0.01)
    with pytest.raises(FloatingPointError, match="search of step 3"):
        fit_ratios(denoiser, LinearVP(), x, grid, teacher=torch.zeros(6, 4, 8, dtype=DOUBLE))


A = np.array([[[1.0, 0.2, -0.1], [0.3, 0.1, 0.2], [-0.2, 0.1, 0.1]]] * 3) * np.array([1.0, -0.5, 0.3])[:, None, None]


def surface(step: int, scale: float, steps: int) -> float:
    """The polynomial, term by term."""
    return sum(
        A[p, q, r] * (step / steps) ** p * (scale / 12) ** q * (steps / 50) ** r
        for p in range(3)
        for q in range(3)
        for r in range(3)
    )


def searched(scale: float, steps: int) -> tuple[float, ...]:
    return (1.0, 1.0, *(surface(step, scale, steps) for step in range(3, steps + 1)))


def test_the_polynomial_is_recovered_at_scales_and_steps_never_searched() -> None:
    runs = {(scale, steps): searched(scale, steps) for steps in (6, 10, 15) for scale in (1.5, 4.0, 7.5)}
    found = fit_polynomial(runs)
    np.testing.assert_allclose(found.coefficients, A, rtol=1e-6, atol=1e-7)
    for scale, steps in ((3.0, 8), (6.0, 12), (9.0, 20)):
        assert found.ratios(scale, steps) == pytest.approx(searched(scale, steps), rel=1e-7)
    assert RatioPolynomial.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_few_runs_give_a_polynomial_of_lower_degree() -> None:
    one = fit_polynomial({(2.0, 6): searched(2.0, 6)})
    assert one.ratios(9.0, 6) == pytest.approx(one.ratios(2.0, 6))
    assert one.ratios(2.0, 3) == pytest.approx((1.0, 1.0, one.ratios(2.0, 6)[-1]))
    assert min(fit_polynomial({(2.0, 4): (1.0, 1.0, 1.0, 0.1)}).ratios(2.0, 40)) > 0


def test_json_and_back() -> None:
    again = Compensation.from_json(json.loads(json.dumps(fitted().to_json())))
    assert again == fitted()
    assert torch.equal(again.grid, log_grid(10))
    assert again.solver == fitted().solver


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"ratios": [1.0] * 9}, "ratios must be 10 numbers"),
        ({"ratios": [1.0] * 9 + [0.0]}, r"ratios\[9\] must be a positive number"),
        ({"ratios": "all"}, "ratios must be a list"),
        ({"times": [0.0, 2.0]}, "times must be the times of a grid"),
        ({"order": 2.5}, "order must be an integer"),
        ({"order": 0}, "order must be at least 1"),
        ({"variant": "bh3"}, "variant must be one of"),
    ],
)
def test_damaged_json_is_named(change: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError, match=field):
        Compensation.from_json({**fitted().to_json(), **change})


@pytest.mark.parametrize("coefficients", [[[[1.0] * 3] * 3] * 2, [[[1.0] * 3] * 3, 1.0, 2.0], [[["x"]]]])
def test_damaged_coefficients_are_named(coefficients: Any) -> None:
    with pytest.raises(InputError, match="coefficients"):
        RatioPolynomial.from_json({"coefficients": coefficients})


def test_bad_requests_are_refused() -> None:
    with pytest.raises(InputError, match="one for each of the 10 steps, but are 5"):
        simulate(dc((1.0,) * 5)(mixture(), EDM40), FITTED, log_grid(10), Noise(0, range(16)))
    with pytest.raises(InputError, match=r"ratios\[2\] must be a positive number"):
        dc((1.0, 1.0, -0.5))
    with pytest.raises(InputError, match=r"ratios\[1\] must be 1"):
        dc((1.0, 0.9, 1.0))
    with pytest.raises(InputError, match="at least one searched run"):
        fit_polynomial({})
    with pytest.raises(InputError, match="scale 2 must have 6 ratios, but has 3"):
        fit_polynomial({(2.0, 6): (1.0, 1.0, 1.0)})
