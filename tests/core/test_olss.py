"""OLSS against its definition, DPM-Solver++ and the published fit, which must diverge; and its teacher."""

from __future__ import annotations

import itertools
import json
import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from degauss.core import EDM, Cosine, InputError, LinearVP, Noise, Schedule, simulate
from degauss.core.gaussian import dpmpp, unipc
from degauss.core.gaussian.exponential import ddim_table
from degauss.core.gaussian.olss import (
    LeastSquares,
    _gram,
    _Jumps,
    _ridge,
    fit_olss,
    jump_grid,
    olss,
)
from degauss.core.gaussian.teacher import end_errors, refine, trajectory
from degauss.core.grid import uniform_log_snr, uniform_time
from degauss.core.observe import Trajectory
from degauss.core.oracle import GaussianOracle, MixtureOracle

DOUBLE = torch.float64
EDM40 = EDM(40.0)


@cache
def mixture(schedule: Schedule = EDM40) -> MixtureOracle:
    noise = Noise(7, range(5))
    means = noise.normal(torch.empty(5, 8, dtype=DOUBLE))
    factors = noise.normal(torch.empty(5, 8, 8, dtype=DOUBLE), draw=1)
    covariances = 0.3 * torch.eye(8, dtype=DOUBLE) + factors @ factors.transpose(1, 2) / 8
    return MixtureOracle(schedule, torch.ones(5, dtype=DOUBLE), means, covariances)


def normal(ids: range, seed: int = 0) -> Tensor:
    return Noise(seed, ids).normal(torch.empty(len(ids), 8, dtype=DOUBLE))


FITTED, HELD_OUT = 40 * normal(range(16)), 40 * normal(range(100, 164))


def log_grid(steps: int) -> Tensor:
    return uniform_log_snr(EDM40, steps, start=1.0, end=0.02 / 40)


@cache
def fitted(steps: int) -> LeastSquares:
    return fit_olss(mixture(), EDM40, FITTED, log_grid(steps))


@cache
def held_out_goal(steps: int) -> Tensor:
    return trajectory(mixture(), EDM40, HELD_OUT, log_grid(steps))


def held_out(solver: Any, grid: Tensor) -> float:
    errors = end_errors(solver, mixture(), EDM40, HELD_OUT, grid, teacher=held_out_goal(10))
    return float(errors.median())


def test_beats_dpmpp_on_noise_that_was_not_fitted() -> None:
    grid = log_grid(10)
    jumps = jump_grid(mixture(), EDM40, FITTED, log_grid(60), 10)
    even = held_out(olss(fitted(10)), grid)
    chosen = held_out(olss(fit_olss(mixture(), EDM40, FITTED, jumps)), jumps)
    assert even < held_out(dpmpp(2), grid) / 4
    assert chosen < even


def published_weights(grid: Tensor) -> list[np.ndarray[Any, Any]]:
    """Weights on (x_0, eps_0, ..., eps_i) by plain least squares on the teacher's own noises."""
    states = trajectory(mixture(), EDM40, FITTED, grid)
    eps = [(x - mixture()(x, t).mean) / (40 * t) for x, t in zip(states[:-1], grid[:-1], strict=True)]
    rows: list[np.ndarray[Any, Any]] = []
    for i in range(len(eps)):
        features = torch.stack([FITTED.flatten(), *(value.flatten() for value in eps[: i + 1])], 1)
        rows.append(np.linalg.lstsq(features.numpy(), states[i + 1].flatten().numpy())[0])
    return rows


def test_the_published_fit_diverges_in_low_dimension() -> None:
    """Must fail: without the two changes, 20 steps end nowhere near the data."""
    grid = log_grid(20)
    x, eps = HELD_OUT, list[Tensor]()
    for row, t in zip(published_weights(grid), grid, strict=False):
        eps.append((x - mixture()(x, t).mean) / (40 * t))
        x = row[0] * HELD_OUT + sum(w * value for w, value in zip(row[1:].tolist(), eps, strict=True))
    assert float((x - held_out_goal(20)[-1]).norm(dim=1).median()) > 1e4
    end = simulate(olss(fitted(20))(mixture(), EDM40), HELD_OUT, grid, Noise(0, range(64)))
    assert float((end - held_out_goal(20)[-1]).norm(dim=1).median()) < 1e-2


def test_states_and_means_span_what_the_first_state_and_the_noises_span() -> None:
    """Every state of the fitted solver is a combination w x_0 + sum_j c_j eps_j, as in the paper."""
    grid = log_grid(6)
    record = Trajectory()
    fit = fitted(6)
    simulate(olss(fit)(mixture(), EDM40), FITTED, grid, Noise(0, range(16)), observe=[record])
    states = [FITTED, *record.states]
    eps = [(x - mixture()(x, t).mean) / (40 * t) for x, t in zip(states[:-1], grid[:-1], strict=True)]
    for i, state in enumerate(states[1:]):
        features = torch.stack([FITTED.flatten(), *(value.flatten() for value in eps[: i + 1])], 1).numpy()
        weights = np.linalg.lstsq(features, state.flatten().numpy())[0]
        assert np.abs(features @ weights - state.flatten().numpy()).max() < 1e-9 * float(state.abs().max())


def test_each_step_is_the_ridge_regression_on_the_own_trajectory() -> None:
    """The minimiser of the stated objective, by an augmented least-squares problem."""
    grid, ridge = log_grid(5), 1e-3
    goals = trajectory(mixture(), EDM40, FITTED, grid)
    fit = fit_olss(mixture(), EDM40, FITTED, grid, ridge=ridge)
    x, means = FITTED, list[Tensor]()
    for i, row in enumerate(ddim_table(EDM40, grid).rows):
        means.insert(0, mixture()(x, grid[i]).mean)
        a = torch.stack([x.flatten(), *(mean.flatten() for mean in means)], 1).numpy()
        prior = np.array([row.state, row.weights[0], *(0.0,) * i])
        size = np.sqrt(ridge * (a**2).sum(0))
        target = goals[i + 1].flatten().numpy()
        want = np.linalg.lstsq(np.vstack([a, np.diag(size)]), np.concatenate([target, size * prior]))[0]
        np.testing.assert_allclose([fit.states[i], *fit.weights[i]], want, rtol=1e-6, atol=1e-9)
        x = torch.from_numpy((a @ want).reshape(x.shape))


def test_an_endless_ridge_is_ddim() -> None:
    grid = log_grid(8)
    fit = fit_olss(mixture(), EDM40, FITTED, grid, ridge=1e12)
    for row, want in zip(olss(fit).tabulate(EDM40, grid).rows, ddim_table(EDM40, grid).rows, strict=True):
        assert row.state == pytest.approx(want.state, abs=1e-10)
        assert row.weights == pytest.approx((*want.weights, *(0.0,) * (len(row.weights) - 1)), abs=1e-10)


@pytest.mark.parametrize("schedule", [Cosine(), LinearVP(), EDM(40.0)], ids=str)
def test_one_step_is_exact_on_gaussian_data(schedule: Schedule) -> None:
    """There the flow is affine in (state, mean): no other step is needed, also from pure noise to clean data."""
    oracle = GaussianOracle(schedule, mean=1.5, std=0.7)
    grid = torch.tensor([1.0, 0.0], dtype=DOUBLE)
    sigma = schedule(grid[0]).sigma
    goal = torch.stack([(x := sigma * normal(range(16))), oracle.flow(x, grid[0], grid[1])])
    fit = fit_olss(oracle, schedule, x, grid, ridge=1e-12, teacher=goal)
    other = sigma * normal(range(50, 60))
    end = simulate(olss(fit)(oracle, schedule), other, grid, Noise(0, range(10)))
    # At alpha = 0 the posterior mean is constant and so is no help with the state: the flow is still affine.
    torch.testing.assert_close(end, oracle.flow(other, grid[0], grid[1]), rtol=1e-4, atol=1e-4)


def test_gram_gives_weights_and_error_of_a_direct_fit() -> None:
    features, target = [normal(range(9), seed) for seed in (1, 2, 3)], normal(range(9), 4)
    solution = _ridge(_gram([*features, target]), np.zeros(3), 1e-14)
    a = torch.stack([f.flatten() for f in features], 1).numpy()
    want, residual = np.linalg.lstsq(a, target.flatten().numpy())[:2]
    np.testing.assert_allclose(solution.weights, want, rtol=1e-9)
    assert solution.error == pytest.approx(math.sqrt(residual[0] / target.numel()), rel=1e-9)


def test_jumps_have_the_least_largest_error_of_all_grids() -> None:
    fine = log_grid(9)
    jumps = _Jumps.along(mixture(), EDM40, FITTED, fine, 1e-4)

    def largest(indices: tuple[int, ...]) -> float:
        path = (0, *indices, 9)
        return max(jumps.error(path[: i + 1], path[i + 1]) for i in range(len(path) - 1))

    best = min(largest(inside) for inside in itertools.combinations(range(1, 9), 3))
    grid = jump_grid(mixture(), EDM40, FITTED, fine, 4)
    chosen = tuple(int((fine - t).abs().argmin()) for t in grid)
    assert len(grid) == 5
    assert torch.equal(grid, fine[list(chosen)])
    assert largest(chosen[1:-1]) == pytest.approx(best, rel=0.02)


@pytest.mark.parametrize("steps", [1, 5, 11, 12])
def test_jumps_spend_exactly_the_steps(steps: int) -> None:
    fine = log_grid(12)
    grid = jump_grid(mixture(), EDM40, FITTED, fine, steps)
    assert len(grid) == steps + 1
    assert (grid[0], grid[-1]) == (fine[0], fine[-1])
    assert bool((grid.diff() < 0).all())


def test_jump_grid_does_not_depend_on_units() -> None:
    """Scaling the noise and the data by one factor scales everything."""
    scaled = EDM(400.0)
    oracle = mixture()
    big = MixtureOracle(scaled, oracle.weights, 10 * oracle.means, 100 * oracle.covariances)
    small = jump_grid(oracle, EDM40, FITTED, log_grid(20), 6)
    large = jump_grid(big, scaled, 10 * FITTED, log_grid(20), 6)
    torch.testing.assert_close(small, large)


def test_jump_grid_does_not_depend_on_the_path() -> None:
    """A variance-preserving path is the same process in other units at each time: errors are relative to them."""
    schedule = LinearVP()
    fine = log_grid(20)
    same = schedule.time(EDM40.log_snr(fine))
    first = float(schedule(same[0]).alpha) * FITTED
    jumps = jump_grid(mixture(), EDM40, FITTED, fine, 6)
    others = jump_grid(mixture(schedule), schedule, first, same, 6)
    torch.testing.assert_close(schedule.log_snr(others), EDM40.log_snr(jumps))


def test_samples_do_not_depend_on_their_batch_and_gradients_flow() -> None:
    kernel = olss(fitted(6))(mixture(), EDM40)
    whole = simulate(kernel, HELD_OUT, log_grid(6), Noise(0, range(64)))
    part = simulate(kernel, HELD_OUT[10:13], log_grid(6), Noise(0, range(10, 13)))
    torch.testing.assert_close(part, whole[10:13], rtol=1e-12, atol=1e-12)
    x = HELD_OUT[:2].clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(simulate(kernel, x, log_grid(6), Noise(0, range(2)))[0].sum(), x)
    assert float(gradient[0].abs().max()) > 0
    assert float(gradient[1].abs().max()) == 0


def test_json_and_back() -> None:
    fit = fitted(6)
    again = LeastSquares.from_json(json.loads(json.dumps(fit.to_json())))
    assert again == fit
    assert torch.equal(again.grid, log_grid(6))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"states": None}, "states must be a list"),
        ({"states": [0.5] * 5}, "states must be 6 numbers"),
        ({"states": [0.5] * 5 + ["x"]}, r"states\[5\] must be a finite number"),
        ({"times": [1.0] * 7}, "times must be the times of a grid"),
        ({"weights": [[1.0]] * 6}, r"weights\[1\] must be 2 numbers"),
        ({"weights": [[1.0], 3.0]}, r"weights\[1\] must be a list"),
        ({"weights": [[float("nan")]]}, r"weights\[0\]\[0\] must be a finite number"),
    ],
)
def test_damaged_json_is_named(change: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError, match=field):
        LeastSquares.from_json({**fitted(6).to_json(), **change})


def test_a_missing_field_is_named() -> None:
    about = fitted(6).to_json()
    del about["weights"]
    with pytest.raises(InputError, match="weights must be a list, but is missing"):
        LeastSquares.from_json(about)


def test_bad_requests_are_refused() -> None:
    with pytest.raises(InputError, match="fitted on a grid of 6 steps"):
        simulate(olss(fitted(6))(mixture(), EDM40), FITTED, log_grid(7), Noise(0, range(16)))
    with pytest.raises(InputError, match="ridge must be positive"):
        fit_olss(mixture(), EDM40, FITTED, log_grid(6), ridge=0.0)
    with pytest.raises(InputError, match="steps must be between 1 and the 6"):
        jump_grid(mixture(), EDM40, FITTED, log_grid(6), 7)


@pytest.mark.parametrize("schedule", [Cosine(), LinearVP(), EDM(40.0)], ids=str)
def test_refining_keeps_the_grid(schedule: Schedule) -> None:
    grid = uniform_time(schedule, 4)
    fine = refine(schedule, grid, 3)
    assert len(fine) == 13
    assert torch.equal(fine[::3], grid)
    assert bool((fine.diff() < 0).all())


def test_the_teacher_follows_the_flow() -> None:
    schedule = LinearVP()
    oracle = GaussianOracle(schedule, mean=1.0, std=0.5)
    grid = uniform_log_snr(schedule, 5, end=1e-3)
    x = normal(range(8))
    states = trajectory(oracle, schedule, x, grid, pieces=40)
    want = torch.stack([oracle.flow(x, grid[0], t) for t in grid])
    torch.testing.assert_close(states, want, rtol=1e-5, atol=1e-5)


def test_end_errors_are_per_sample_and_zero_for_the_teacher() -> None:
    grid = log_grid(5)
    goal = trajectory(mixture(), EDM40, HELD_OUT, grid, pieces=1)
    assert float(end_errors(unipc(), mixture(), EDM40, HELD_OUT, grid, teacher=goal).max()) == 0
    moved = goal + torch.arange(64.0)[:, None]
    errors = end_errors(unipc(), mixture(), EDM40, HELD_OUT, grid, teacher=moved)
    torch.testing.assert_close(errors, torch.arange(64.0, dtype=DOUBLE))


def test_a_teacher_that_is_not_finite_is_refused() -> None:
    def broken(x: Tensor, t: Tensor, /, **cond: Any) -> Any:
        return mixture()(x, t)._replace(mean=x * float("nan"))

    with pytest.raises(FloatingPointError, match="teacher"):
        fit_olss(broken, EDM40, FITTED, log_grid(4))
    goals = trajectory(mixture(), EDM40, FITTED, log_grid(4), pieces=1)
    with pytest.raises(FloatingPointError, match="to fit on"):
        fit_olss(broken, EDM40, FITTED, log_grid(4), teacher=goals)
