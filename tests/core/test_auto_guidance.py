"""Autoguidance and W2SD: identities, the published formula by hand, and what happens when weak equals strong."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from degauss.core import Cosine, LinearVP, Noise, RectifiedFlow, Schedule, sample, simulate
from degauss.core.gaussian import Heun, ddim, dpmpp
from degauss.core.grid import uniform_log_snr, uniform_time
from degauss.core.guide.auto import Reflected, autoguidance
from degauss.core.oracle import GaussianOracle, MixtureOracle
from degauss.core.posterior import Point

DOUBLE = torch.float64
VP = LinearVP()


def blurred(extra: float, schedule: Schedule = VP) -> MixtureOracle:
    """A mixture whose components are wider than the data's by a variance."""
    means = torch.tensor([[-1.5, 0.0], [1.0, 1.0], [0.5, -2.0]], dtype=DOUBLE)
    covariances = (0.05 + extra) * torch.eye(2, dtype=DOUBLE).expand(3, 2, 2)
    return MixtureOracle(schedule, torch.ones(3, dtype=DOUBLE), means, covariances)


def batch(rows: range = range(5), seed: int = 0) -> Tensor:
    return Noise(seed, rows).normal(torch.empty(len(rows), 2, dtype=DOUBLE))


def run(kernel: Any, grid: Tensor, rows: range = range(5)) -> Tensor:
    return simulate(kernel, batch(rows), grid, Noise(1, rows))


def test_a_model_guided_by_itself_is_itself() -> None:
    strong, x, t = blurred(0.1), batch(), torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9], dtype=DOUBLE)
    for scale in (0.0, 1.0, 3.0, torch.linspace(0, 5, 5)):
        torch.testing.assert_close(autoguidance(strong, strong, scale)(x, t).mean, strong(x, t).mean)


def test_autoguidance_is_the_extrapolation() -> None:
    strong, weak, x, t = blurred(0.1), blurred(0.3), batch(), torch.tensor(0.4, dtype=DOUBLE)
    expected = 2.5 * strong(x, t).mean - 1.5 * weak(x, t).mean
    torch.testing.assert_close(autoguidance(strong, weak, 2.5)(x, t).mean, expected)


def test_twice_the_blur_extrapolated_twice_cancels_to_first_order() -> None:
    """With blur b and 2b, 2 strong - weak removes the term linear in b: the error falls with b^2."""
    x, t = batch(), torch.tensor(0.3, dtype=DOUBLE)

    def errors(b: float) -> tuple[float, float]:
        exact = blurred(0.0)(x, t).mean
        guided = autoguidance(blurred(b), blurred(2 * b), 2.0)(x, t).mean
        return float((blurred(b)(x, t).mean - exact).norm()), float((guided - exact).norm())

    (plain, guided), (plain_half, guided_half) = errors(0.01), errors(0.005)
    assert math.log2(plain / plain_half) == pytest.approx(1.0, abs=0.15)
    assert math.log2(guided / guided_half) == pytest.approx(2.0, abs=0.25)


def test_the_same_conditions_reach_both_models() -> None:
    def model(gain: float) -> Any:
        return lambda x, t, /, **cond: Point(gain * x + cond["y"])

    x = batch()
    got = autoguidance(model(1.0), model(0.5), 2.0)(x, torch.tensor(0.5), y=1.0).mean
    torch.testing.assert_close(got, 1.5 * x + 1)


@pytest.mark.parametrize("schedule", [VP, RectifiedFlow(), Cosine()], ids=str)
def test_the_reflected_step_is_the_formula(schedule: Schedule) -> None:
    """In eps, as in the paper, for every step; the last one is not reflected."""
    strong, weak = blurred(0.1, schedule), blurred(0.4, schedule)
    grid = uniform_time(schedule, 4, start=0.95, end=0.1)
    alpha, sigma = schedule(grid)

    def eps(model: Any, x: Tensor, i: int) -> Tensor:
        return (x - alpha[i] * model(x, grid[i]).mean) / sigma[i]

    def move(x: Tensor, e: Tensor, i: int, j: int) -> Tensor:
        return alpha[j] * (x - sigma[i] * e) / alpha[i] + sigma[j] * e

    x = batch()
    for i in range(4):
        if i < 3:
            lower = move(x, eps(strong, x, i), i, i + 1)
            x = move(lower, eps(weak, lower, i), i + 1, i)
        x = move(x, eps(strong, x, i), i, i + 1)
    torch.testing.assert_close(run(Reflected(strong, schedule, weak, ddim()), grid), x)


def test_the_reflection_moves_by_the_difference_of_the_predicted_noises() -> None:
    strong, weak = blurred(0.1), blurred(0.4)
    grid, x = uniform_time(VP, 3, start=0.8, end=0.2), batch()
    (alpha_s, alpha_t), (sigma_s, sigma_t) = (scales[:2] for scales in VP(grid))
    kernel = Reflected(strong, VP, weak, lambda *_: Identity())
    _, moved = kernel.step(kernel.init(x, grid), x, 0, Noise(0, range(5)))
    eps_strong = (x - alpha_s * strong(x, grid[0]).mean) / sigma_s
    lower = alpha_t * (x - sigma_s * eps_strong) / alpha_s + sigma_t * eps_strong
    eps_weak = (lower - alpha_s * weak(lower, grid[0]).mean) / sigma_s
    shift = alpha_s * (sigma_s / alpha_s - sigma_t / alpha_t) * (eps_weak - eps_strong)
    torch.testing.assert_close(moved - x, shift)


class Identity:
    """A kernel that does nothing, to see a wrapper alone."""

    def init(self, x: Tensor, grid: Tensor, /) -> None:
        del x, grid

    def step(self, carry: None, x: Tensor, i: int, noise: Noise, /) -> tuple[None, Tensor]:
        del i, noise
        return carry, x


def test_reflection_from_a_model_to_itself_is_of_second_order_in_the_step() -> None:
    strong, x = blurred(0.1), batch()

    def moved(width: float) -> float:
        grid = torch.tensor([0.5, 0.5 - width, 0.1], dtype=DOUBLE)
        kernel = Reflected(strong, VP, strong, lambda *_: Identity())
        return float((kernel.step(kernel.init(x, grid), x, 0, Noise(0, range(5)))[1] - x).norm())

    assert math.log2(moved(0.002) / moved(0.001)) == pytest.approx(2.0, abs=0.05)


def test_reflection_from_a_model_to_itself_vanishes_with_the_steps_and_from_a_weak_one_does_not() -> None:
    strong, weak = blurred(0.1), blurred(0.4)

    def change(other: MixtureOracle, steps: int) -> float:
        grid = uniform_log_snr(VP, steps, end=0.01)
        return float((run(Reflected(strong, VP, other, ddim()), grid) - run(ddim()(strong, VP), grid)).norm())

    assert change(strong, 400) < 0.3 * change(strong, 50)
    assert change(weak, 400) > 5 * change(strong, 400)


@pytest.mark.parametrize("solver", [ddim(), ddim(eta=1.0), dpmpp(2), Heun], ids=str)
def test_reflection_wraps_any_solver_and_samples_do_not_depend_on_their_batch(solver: Any) -> None:
    grid = uniform_log_snr(VP, 8, end=0.01)
    kernel = Reflected(blurred(0.1), VP, blurred(0.3), solver)
    whole = run(kernel, grid)
    torch.testing.assert_close(run(kernel, grid, range(1, 4)), whole[1:4], rtol=1e-12, atol=1e-12)
    assert (whole - run(solver(blurred(0.1), VP), grid)).abs().max() > 1e-3


def test_three_evaluations_a_step_and_one_in_the_last() -> None:
    calls = {"strong": 0, "weak": 0}

    def counted(name: str, model: MixtureOracle) -> Any:
        def denoiser(x: Tensor, t: Tensor, /, **cond: Any) -> Point:
            calls[name] += 1
            return model(x, t, **cond)

        return denoiser

    solver = partial(Reflected, weak=counted("weak", blurred(0.3)), solver=ddim())
    sample(counted("strong", blurred(0.1)), VP, (2, 2), solver=solver, steps=6, dtype=DOUBLE)
    assert calls == {"strong": 5 + 6, "weak": 5}


def test_reflection_starts_from_pure_noise_and_ends_on_clean_data() -> None:
    schedule = Cosine()
    kernel = Reflected(blurred(0.1, schedule), schedule, blurred(0.3, schedule), ddim())
    assert torch.isfinite(run(kernel, uniform_time(schedule, 6))).all()


def test_gradients_flow_through_the_reflection_and_through_autoguidance() -> None:
    width = torch.tensor(1.3, dtype=DOUBLE, requires_grad=True)
    strong, weak, grid = GaussianOracle(VP, 0.3, 0.8), GaussianOracle(VP, 0.3, width), uniform_time(VP, 4, end=0.1)
    x = batch().requires_grad_(True)
    kernels: list[Any] = [Reflected(strong, VP, weak, ddim()), ddim()(autoguidance(strong, weak, 2.0), VP)]
    for kernel in kernels:
        gradients = torch.autograd.grad(simulate(kernel, x, grid, Noise(0, range(5))).sum(), (x, width))
        assert all(torch.isfinite(g).all() and g.abs().sum() > 0 for g in gradients)
