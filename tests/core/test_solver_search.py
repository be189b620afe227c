"""The search: valid children, one result for a seed, a better solver on noise it has not seen."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from torch import Tensor

from degauss.core import EDM, Cosine, LinearVP, Noise, Point, simulate
from degauss.core.errors import InputError
from degauss.core.gaussian import dpmpp, unipc
from degauss.core.gaussian.solver_search import (
    Found,
    Predictor,
    Settings,
    TeacherError,
    crossed,
    described,
    known_plans,
    mutated,
    search_solver,
    teacher_error,
)
from degauss.core.gaussian.usf import Decision, Plan, multistep_plan
from degauss.core.grid import uniform_log_snr, uniform_time
from degauss.core.oracle import GaussianOracle, MixtureOracle

DOUBLE = torch.float64
EDM40 = EDM(40.0)
END = 0.02 / 40
BUDGET = 6


@cache
def mixture() -> MixtureOracle:
    noise = Noise(7, range(3))
    means = noise.normal(torch.empty(3, 4, dtype=DOUBLE))
    covariances = 0.3 * torch.eye(4, dtype=DOUBLE).repeat(3, 1, 1)
    return MixtureOracle(EDM40, torch.ones(3, dtype=DOUBLE), means, covariances)


@cache
def score(seed: int, batch: int = 32) -> TeacherError:
    return teacher_error(mixture(), EDM40, (batch, 4), start=1.0, end=END, seed=seed, steps=200)


@cache
def first() -> tuple[Plan, ...]:
    return known_plans(EDM40, uniform_log_snr(EDM40, BUDGET, end=END))


@cache
def found(seed: int = 0, proposed: int = 40) -> Found:
    sizes = Settings(rounds=8, scored=16, proposed=proposed)
    return search_solver(score(1), score(2), first(), evaluations=BUDGET, seed=seed, settings=sizes)


# --- the score ----------------------------------------------------------------------------------------------


def test_the_score_is_the_distance_to_a_fine_solution() -> None:
    """By hand, on Gaussian data with the exact end for a teacher."""
    schedule = LinearVP()
    oracle = GaussianOracle(schedule, 1.0, 0.5)
    got = teacher_error(oracle, schedule, (5, 3), start=0.9, end=0.01, seed=4, samples=[2, 9, 4, 7, 1])
    sigma = float(schedule(torch.tensor(0.9)).sigma)
    x = sigma * Noise(4, [2, 9, 4, 7, 1]).normal(torch.empty(5, 3, dtype=DOUBLE))
    grid = uniform_log_snr(schedule, 7, start=0.9, end=0.01)
    end = simulate(dpmpp(2)(oracle, schedule), x, grid, Noise(0, range(5)))
    want = (end - oracle.flow(x, grid[0], grid[-1])).norm(dim=1).median()
    plan = multistep_plan(schedule, grid, order=2, relax="bh2")
    assert got(plan) == pytest.approx(float(want), rel=1e-4)
    fine = multistep_plan(schedule, uniform_log_snr(schedule, 400, start=0.9, end=0.01), order=3)
    assert got(fine) < 1e-4 * got(plan)


def test_samples_that_diverge_score_infinity() -> None:
    def broken(x: Tensor, t: Tensor, /, **cond: object) -> Point:
        return Point(x * float("nan"))

    plan = first()[0]
    wrong = replace(score(1), denoiser=broken)
    assert wrong(plan) == math.inf
    result = search_solver(wrong, wrong, first(), evaluations=BUDGET, settings=Settings(rounds=1, scored=2, proposed=4))
    assert result.score == math.inf


def test_known_plans_are_the_known_solvers() -> None:
    ddim, two, *_, uni, _, _ = first()
    x, grid = score(1).x, uniform_log_snr(EDM40, BUDGET, end=END)
    assert all(plan.evaluations == BUDGET for plan in first())
    for plan, solver in ((ddim, dpmpp(1)), (two, dpmpp(2)), (uni, unipc(3))):
        end = simulate(solver(mixture(), EDM40), x, grid, Noise(0, range(len(x))))
        want = (end - score(1).target).norm(dim=1).median()
        assert score(1)(plan) == pytest.approx(float(want), rel=1e-9)
    assert len(known_plans(Cosine(), uniform_time(Cosine(), 5))) == 5


# --- children -----------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 8), st.sampled_from([0.0, 0.3, 1.0]))
def test_children_are_plans_within_the_budget(seed: int, steps: int, rate: float) -> None:
    random = Random(seed)
    grid = uniform_log_snr(EDM40, steps, end=END)
    parents = list(known_plans(EDM40, grid))
    rates = Settings(mutation=rate, resize=rate / 2, time_noise=0.5)
    for _ in range(10):
        mother, father = random.choice(parents), random.choice(parents)
        child = mutated(crossed(mother, father, steps, random), steps, rates, random)
        assert child.evaluations <= steps
        assert (child.start, child.decisions[-1].time) == (1.0, END)
        assert Plan.from_json(child.to_json()) == child
        parents.append(child)
    if rate == 0:
        plan = random.choice(parents)
        assert mutated(plan, steps, rates, random) == plan


def test_crossing_takes_times_from_one_and_steps_from_either() -> None:
    grid = uniform_log_snr(EDM40, 8, end=END)
    one = multistep_plan(EDM40, grid, order=1)
    other = multistep_plan(EDM40, uniform_log_snr(EDM40, 8, end=END) * 1.0, order=1, form="noise")
    children = [crossed(one, other, 8, Random(seed)) for seed in range(20)]
    forms = {tuple(decision.form for decision in child.decisions) for child in children}
    assert len(forms) > 10
    assert all(torch.equal(child.grid, grid) for child in children)
    longer = multistep_plan(EDM40, uniform_log_snr(EDM40, 9, end=END), order=1)
    assert crossed(one, longer, 9, Random(0)) == one


def test_a_known_first_value_frees_a_step() -> None:
    plan = replace(first()[0], first="zero")
    rates = Settings(mutation=0.0, resize=0.5)
    grown = {len(mutated(plan, BUDGET, rates, Random(seed)).decisions) for seed in range(30)}
    assert max(grown) == BUDGET + 1


# --- the predictor ------------------------------------------------------------------------------------------


def test_the_predictor_ranks_plans_it_has_not_seen() -> None:
    # Plans found without a predictor: one that has chosen them has taken out what it can see.
    scored = list(found(proposed=16).scored)
    Random(0).shuffle(scored)
    half = len(scored) // 2
    seen, values = [plan for plan, _ in scored[:half]], [value for _, value in scored[:half]]
    unseen, truth = [plan for plan, _ in scored[half:]], [value for _, value in scored[half:]]

    def correlation(values: list[float]) -> float:
        predicted = Predictor.fit(dict(zip(seen, values, strict=True)))(unseen)
        return float(np.asarray(spearmanr(predicted, truth))[0])

    assert correlation(values) > 0.4
    controls = [correlation(Random(seed).sample(values, half)) for seed in range(20)]
    assert abs(float(np.mean(controls))) < 0.2


def test_plans_of_any_length_have_one_description() -> None:
    plans = [multistep_plan(EDM40, uniform_log_snr(EDM40, steps, end=END), order=2) for steps in (1, 3, 20)]
    features = described(plans)
    assert features.shape[0] == 3
    assert np.isfinite(features).all()
    assert len({tuple(row) for row in features.tolist()}) == 3


# --- the search ---------------------------------------------------------------------------------------------


def test_one_seed_has_one_result() -> None:
    again = search_solver(
        score(1),
        score(2),
        first(),
        evaluations=BUDGET,
        seed=0,
        settings=Settings(rounds=8, scored=16, proposed=40),
    )
    assert again == found()
    assert found(seed=1).plan != found().plan


def test_it_finds_a_better_solver_on_noise_it_has_not_seen() -> None:
    best = min(score(2)(plan) for plan in first())
    assert found().held_out < best / 1.5
    assert found().held_out == score(2)(found().plan)
    assert found().score == score(1)(found().plan) == found().scored[0][1]
    assert found().plan.evaluations <= BUDGET
    # Control: plans drawn at random are worse than the known ones.
    draws = [mutated(first()[0], BUDGET, Settings(mutation=1.0), Random(seed)) for seed in range(30)]
    assert float(np.median([score(2)(plan) for plan in draws])) > best


def test_everything_scored_is_there_best_first_and_scored_once() -> None:
    asked: list[Plan] = []

    def counted(plan: Plan) -> float:
        asked.append(plan)
        return float(len(plan.decisions)) + plan.decisions[0].time

    calls: list[tuple[int, int, float]] = []
    result = search_solver(
        counted,
        lambda _: 0.5,
        first(),
        evaluations=BUDGET,
        settings=Settings(rounds=4, scored=5, proposed=9),
        report=lambda done, rounds, best: calls.append((done, rounds, best)),
    )
    assert len(asked) == len(set(asked)) == len(result.scored) == len(first()) + 20
    assert [value for _, value in result.scored] == sorted(value for _, value in result.scored)
    assert [call[:2] for call in calls] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert calls[-1][2] == result.score
    assert result.held_out == 0.5
    # It does what it is told: fewer steps, early times.
    assert len(result.plan.decisions) < BUDGET


def test_nothing_to_search_returns_the_best_known() -> None:
    result = search_solver(score(1), score(2), first(), evaluations=BUDGET, settings=Settings(rounds=0))
    assert result.plan == min(first(), key=score(1))


def test_refused() -> None:
    def run(plans: list[Plan], evaluations: int = BUDGET) -> Found:
        return search_solver(score(1), score(2), plans, evaluations=evaluations)

    with pytest.raises(InputError, match="one first plan or more"):
        run([])
    with pytest.raises(InputError, match="at most 5 evaluations, but need"):
        run(list(first()), 5)
    with pytest.raises(InputError, match="share their start and end"):
        run([first()[0], Plan(1.0, (Decision(0.5),))])
    with pytest.raises(InputError, match="end on clean data"):
        run([Plan(1.0, (Decision(0.5), Decision(0.0)))])
    with pytest.raises(InputError, match="proposed >= scored"):
        Settings(scored=10, proposed=5)
