"""Adaptive guidance and LinearAG: their limits, what they cost, and fits against numpy's least squares."""

from __future__ import annotations

import json
import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from degauss.core import InputError, LinearVP, Noise, sample, simulate
from degauss.core.gaussian import Heun, ddim, dpmpp, unipc
from degauss.core.grid import uniform_log_snr
from degauss.core.guide.adaptive import (
    Adaptive,
    AdaptiveCarry,
    Combination,
    Linear,
    LinearPlan,
    every_other_then_none,
    fit_linear,
)
from degauss.core.guide.classifier_free import Extrapolated, TwoModels, within
from degauss.core.observe import Last
from degauss.core.oracle import GaussianOracle, MixtureOracle
from degauss.core.posterior import Point

DOUBLE = torch.float64
VP = LinearVP()
STEPS = 12
GRID = uniform_log_snr(VP, STEPS, end=1e-3)
SCALE = 2.5


def oracles() -> tuple[MixtureOracle, MixtureOracle]:
    means = 1.5 * Noise(3, range(3)).normal(torch.empty(3, 4, dtype=DOUBLE))
    covariances = torch.stack([torch.eye(4, dtype=DOUBLE) * s for s in (0.2, 0.5, 0.8)])
    every = MixtureOracle(VP, torch.ones(3, dtype=DOUBLE), means, covariances)
    return MixtureOracle(VP, every.weights[:1], means[:1], covariances[:1]), every


ONE, EVERY = oracles()
CONTRAST = TwoModels(ONE, EVERY)


def start(rows: range = range(6), seed: int = 0) -> Tensor:
    return Noise(seed, rows).normal(torch.empty(len(rows), 4, dtype=DOUBLE))


def run(kernel: Any, rows: range = range(6), last: Last | None = None) -> Tensor:
    return simulate(kernel, start(rows), GRID, Noise(1, rows), observe=[last] if last else [])


def adaptive(threshold: float, solver: Any = None, below: float = 2.0) -> Adaptive:
    return Adaptive(ONE, VP, CONTRAST, solver or dpmpp(2), SCALE, threshold, below)


@pytest.mark.parametrize("solver", [ddim(), ddim(eta=1.0), dpmpp(2), unipc(3), Heun], ids=str)
def test_above_one_it_is_guidance_and_below_minus_one_it_is_not(solver: Any) -> None:
    guided = run(solver(Extrapolated(CONTRAST, SCALE), VP))
    assert torch.equal(run(adaptive(1.01, solver)), guided)
    assert torch.equal(run(adaptive(-1.01, solver, math.inf)), run(solver(ONE, VP)))
    assert (run(adaptive(0.97, solver)) - guided).abs().max() > 1e-6


def cost(threshold: float, solver: Any = None, rows: range = range(6), below: float = 2.0) -> AdaptiveCarry:
    last = Last()
    run(adaptive(threshold, solver, below), rows, last)
    return last.carry


def test_evaluations_are_counted() -> None:
    assert cost(1.01).evaluations == 2 * STEPS
    assert cost(-1.01, below=math.inf).evaluations == STEPS + 1  # the first step must look
    watched = sum(within(VP, GRID, 0.0, 2.0))
    assert cost(-1.01).evaluations == 2 * STEPS - watched + 1
    assert cost(1.01, Heun).evaluations == 4 * STEPS
    between = cost(0.97)
    assert STEPS + 1 < between.evaluations < 2 * STEPS
    assert int(between.alone.max()) == between.evaluations
    assert int(between.alone.min()) < between.evaluations
    assert not between.any_guided
    assert cost(1.01).any_guided


def test_from_pure_noise_the_published_rule_never_guides() -> None:
    """There both predictions are the state itself; ``below`` is why the first step does not decide."""
    alone = cost(0.97, below=math.inf).alone
    assert torch.equal(alone, torch.full_like(alone, STEPS + 1))
    assert int(cost(0.97).alone.min()) > STEPS + 2


def test_what_is_counted_is_what_is_evaluated() -> None:
    calls = 0

    def counted(model: Any, x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        nonlocal calls
        calls += 1
        return model(x, t, **cond)

    one, every = partial(counted, ONE), partial(counted, EVERY)
    solver = partial(Adaptive, contrast=TwoModels(one, every), solver=Heun, scale=SCALE, threshold=0.97)
    last = Last()
    sample(one, VP, (6, 4), solver=solver, steps=STEPS, grid=GRID, dtype=DOUBLE, observe=[last])
    assert calls == last.carry.evaluations


@pytest.mark.parametrize("solver", [ddim(eta=1.0), Heun], ids=str)
def test_the_decision_is_each_samples_own(solver: Any) -> None:
    whole, carry = run(adaptive(0.97, solver)), cost(0.97, solver)
    assert len(set(carry.alone.tolist())) > 1
    for row in range(6):
        alone = cost(0.97, solver, range(row, row + 1))
        assert alone.evaluations == int(carry.alone[row])
        part = run(adaptive(0.97, solver), range(row, row + 1))
        torch.testing.assert_close(part, whole[row : row + 1], rtol=1e-12, atol=1e-12)


def test_a_sample_switches_when_its_cosine_passes_and_never_back() -> None:
    """The same run by hand, from the states of DDIM."""
    threshold, x = 0.97, start()
    guided = torch.ones(6, dtype=torch.bool)
    for i in range(STEPS):
        alpha, sigma = VP(GRID[i])
        strong, weak = (model(x, GRID[i]).mean for model in (ONE, EVERY))
        e_c, e_u = (x - alpha * strong) / sigma, (x - alpha * weak) / sigma
        if sigma / alpha <= 2.0:
            guided &= (e_c * e_u).sum(1) / e_c.norm(dim=1) / e_u.norm(dim=1) <= threshold
        mean = torch.where(guided[:, None], weak + SCALE * (strong - weak), strong)
        alpha_t, sigma_t = VP(GRID[i + 1])
        x = alpha_t * mean + sigma_t * (x - alpha * mean) / sigma
    torch.testing.assert_close(run(adaptive(threshold, ddim())), x)


def test_gradients_flow_through_both_phases() -> None:
    x = start().requires_grad_(True)
    kernels: list[Any] = [adaptive(0.97), Linear(ONE, VP, CONTRAST, ddim(), fit().plan)]
    for kernel in kernels:
        (gradient,) = torch.autograd.grad(simulate(kernel, x, GRID, Noise(0, range(6))).sum(), x)
        assert torch.isfinite(gradient).all()
        assert gradient.abs().min() > 0


def fit(contrast: Any = CONTRAST, denoiser: Any = ONE, **options: Any) -> Any:
    options = {"evaluate": every_other_then_none(STEPS), **options}
    rows = range(100, 164)
    return fit_linear(denoiser, VP, contrast, ddim(), SCALE, start(rows), GRID, Noise(1, rows), **options)


def test_a_plan_that_evaluates_always_is_guidance() -> None:
    plan = LinearPlan(SCALE, (None,) * STEPS)
    for solver in (ddim(eta=1.0), dpmpp(2)):
        guided = run(solver(Extrapolated(CONTRAST, SCALE), VP))
        last = Last()
        assert torch.equal(run(Linear(ONE, VP, CONTRAST, solver, plan), last=last), guided)
        assert last.carry.evaluations == 2 * STEPS


def test_it_is_exact_where_eps_u_is_linear() -> None:
    """Of two Gaussians with one mean, eps_u = (alpha^2 s_c^2 + sigma^2) / (alpha^2 s_u^2 + sigma^2) eps_c."""
    one, every = GaussianOracle(VP, 0.4, 0.5), GaussianOracle(VP, 0.4, 1.2)
    contrast = TwoModels(one, every)
    fitted = fit(contrast, one, ridge=1e-12, evaluate=(0,))
    assert max(fitted.error) < 1e-4
    last = Last()
    got = run(Linear(one, VP, contrast, ddim(), fitted.plan), last=last)
    torch.testing.assert_close(got, run(ddim()(Extrapolated(contrast, SCALE), VP)), rtol=1e-3, atol=1e-4)
    assert last.carry.evaluations == STEPS + 1


def test_the_first_fitted_step_is_numpys_least_squares() -> None:
    fitted = fit(evaluate=(0, 1))
    rows, x = range(100, 164), start(range(100, 164))
    guided = ddim()(Extrapolated(CONTRAST, SCALE), VP)
    carry, eps = guided.init(x, GRID), []
    for i in range(3):
        alpha, sigma = VP(GRID[i])
        eps.append([((x - alpha * model(x, GRID[i]).mean) / sigma).numpy() for model in (ONE, EVERY)])
        carry, x = guided.step(carry, x, i, Noise(1, rows))
    columns = [eps[2][0], eps[1][0], eps[0][0], eps[1][1], eps[0][1]]
    design = np.stack([column[:48].ravel() for column in columns], 1)
    target, prior = eps[2][1][:48].ravel(), np.array([1.0, -1, 0, 1, 0])
    pull = math.sqrt(1e-6 * (design**2).sum(0).mean()) * np.eye(5)
    want, *_ = np.linalg.lstsq(np.vstack([design, pull]), np.concatenate([target, pull @ prior]), rcond=None)
    row = fitted.plan.steps[2]
    np.testing.assert_allclose([*row.strong, *row.weak], want, rtol=1e-6, atol=1e-8)
    guess = np.stack([column[48:].ravel() for column in columns], 1) @ want
    off = np.linalg.norm(guess - eps[2][1][48:].ravel()) / np.linalg.norm((eps[2][0] - eps[2][1])[48:])
    assert fitted.error[2] == pytest.approx(off, rel=1e-6)


def test_without_evidence_the_difference_stays_as_it_was() -> None:
    """A ridge beyond all data leaves the guess eps_u,i = eps_c,i - (eps_c,i-1 - eps_u,i-1)."""
    row = fit(ridge=1e12).plan.steps[3]
    np.testing.assert_allclose(row.strong, [1, -1, 0, 0], atol=1e-9)
    np.testing.assert_allclose(row.weak, [1, 0, 0], atol=1e-9)


def test_fitting_beats_the_guess_and_no_guidance_on_trajectories_it_has_not_seen() -> None:
    fitted, guess = fit(), fit(ridge=1e12)
    combined = [i for i, row in enumerate(fitted.plan.steps) if row]
    assert combined == [1, 3, 5, 6, 7, 8, 9, 10, 11]
    assert all(fitted.error[i] == 0 for i in range(STEPS) if i not in combined)
    assert np.median([fitted.error[i] / guess.error[i] for i in combined]) < 0.6
    guided = run(ddim()(Extrapolated(CONTRAST, SCALE), VP))
    linear = run(Linear(ONE, VP, CONTRAST, ddim(), fitted.plan))
    assert (linear - guided).norm() < 0.3 * (run(ddim()(ONE, VP)) - guided).norm()


def test_a_linear_sample_does_not_depend_on_its_batch() -> None:
    kernel = Linear(ONE, VP, CONTRAST, ddim(eta=1.0), fit().plan)
    torch.testing.assert_close(run(kernel, range(2, 4)), run(kernel)[2:4], rtol=1e-12, atol=1e-12)


def test_a_plan_survives_json() -> None:
    plan = fit().plan
    assert LinearPlan.from_json(json.loads(json.dumps(plan.to_json(), allow_nan=False))) == plan


@pytest.mark.parametrize("body", [{}, {"scale": 1.0}, {"scale": 1.0, "steps": [{"strong": [1.0]}]}, {"steps": 3}])
def test_what_is_no_plan_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="not a plan of linear guidance"):
        LinearPlan.from_json(body)


def test_plans_and_fits_that_cannot_be_are_refused() -> None:
    with pytest.raises(InputError, match="step 0 of a linear plan"):
        LinearPlan(1.0, (Combination((1.0,), ()),))
    with pytest.raises(InputError, match=r"step 1 .* not finite"):
        LinearPlan(1.0, (None, Combination((1.0, math.nan), (1.0,))))
    with pytest.raises(InputError, match=r"step 1 .* of \(2, 1\) steps"):
        LinearPlan(1.0, (None, Combination((1.0,), (1.0,))))
    with pytest.raises(InputError, match="for 3 steps, but the grid has 12"):
        run(Linear(ONE, VP, CONTRAST, ddim(), LinearPlan(1.0, (None,) * 3)))
    with pytest.raises(ValueError, match="once a step"):
        run(Linear(ONE, VP, CONTRAST, Heun, LinearPlan(1.0, (None,) * STEPS)))
    with pytest.raises(InputError, match=r"in step 0, but only in \[1, 2\]"):
        fit(evaluate=(2, 1))
    with pytest.raises(InputError, match="leaves 64 to fit"):
        fit(held_out=0.0)
