"""Plans: the known solvers, orders, evaluations, files."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from degauss.core import EDM, Cosine, LinearVP, Noise, Point, RectifiedFlow, Schedule, SubVP, sample, simulate
from degauss.core.errors import InputError
from degauss.core.gaussian import Singlestep, ddim, dpm, dpmpp, unipc
from degauss.core.gaussian.exponential import data_table, ddim_table, dpm_2m_table, dpmpp_2m_table, noise_table
from degauss.core.gaussian.table import Table
from degauss.core.gaussian.unipc import unipc_table
from degauss.core.gaussian.usf import Decision, Plan, multistep_plan, plan_table, usf
from degauss.core.grid import uniform_log_snr, uniform_time
from degauss.core.oracle import GaussianOracle

DOUBLE = torch.float64
EDM40 = EDM(40.0)
SCHEDULES = st.sampled_from([LinearVP(), Cosine(), RectifiedFlow(), SubVP(), EDM(80.0)])
GRIDS = st.lists(st.floats(0.02, 0.98), min_size=3, max_size=10, unique_by=lambda t: round(t, 2))
PROPERTY = settings(deadline=None, max_examples=25)


def as_grid(times: list[float]) -> Tensor:
    return torch.tensor(sorted(times, reverse=True), dtype=DOUBLE)


def start(batch: int = 4) -> Tensor:
    return Noise(0, range(batch)).normal(torch.empty(batch, 3, dtype=DOUBLE))


def run(solver: Any, schedule: Schedule, x: Tensor, grid: Tensor) -> Tensor:
    return simulate(solver(GaussianOracle(schedule, 1.0, 0.5), schedule), x, grid, Noise(0, range(len(x))))


# --- known solvers ------------------------------------------------------------------------------------------


def on_states_and_means(schedule: Schedule, grid: Tensor, table: Table) -> list[np.ndarray[Any, Any]]:
    """Each row as weights on all states and all means so far: what remembers eps and what remembers means compare."""
    steps = len(table.rows)
    states, means = np.split(np.eye(2 * steps), 2)
    kept: list[np.ndarray[Any, Any]] = []
    out: list[np.ndarray[Any, Any]] = []
    for i, row in enumerate(table.rows):
        keep = row.keep or (0.0, 1.0)
        value = sum((w * v for w, v in zip(keep, (states[i], means[i], *kept), strict=False)), np.zeros(2 * steps))
        kept = [value, *kept]
        total = row.state * states[i]
        total = total + sum((w * v for w, v in zip(row.weights, kept, strict=False)), np.zeros(2 * steps))
        out.append(total + sum((w * states[i - 1 - j] for j, w in enumerate(row.earlier)), np.zeros(2 * steps)))
    return out


KNOWN: list[tuple[str, Any, dict[str, Any]]] = [
    ("ddim", ddim_table, {"order": 1}),
    ("ddim, noise form", ddim_table, {"order": 1, "form": "noise"}),
    ("2M", dpmpp_2m_table, {"order": 2, "relax": "bh2"}),
    ("3M", lambda s, g: data_table(s, g, order=3), {"order": 3}),
    ("order 4", lambda s, g: data_table(s, g, order=4), {"order": 4}),
    ("DPM-Solver-2", dpm_2m_table, {"order": 2, "relax": "bh2", "form": "noise"}),
    ("DPM-Solver-3", lambda s, g: noise_table(s, g, order=3), {"order": 3, "form": "noise"}),
    ("UniPC-1", lambda s, g: unipc_table(s, g, order=1), {"order": 1, "relax": "bh2", "corrector": "pseudo"}),
    ("UniPC-2", lambda s, g: unipc_table(s, g, order=2), {"order": 2, "relax": "bh2", "corrector": "pseudo"}),
    (
        "UniPC-2 bh1",
        lambda s, g: unipc_table(s, g, order=2, variant="bh1"),
        {"order": 2, "relax": "bh1", "corrector": "pseudo"},
    ),
    ("UniPC-3", lambda s, g: unipc_table(s, g, order=3), {"order": 3, "relax": "bh2", "corrector": "pseudo"}),
]


@pytest.mark.parametrize(("known", "options"), [row[1:] for row in KNOWN], ids=[row[0] for row in KNOWN])
@PROPERTY
@given(schedule=SCHEDULES, times=GRIDS)
def test_known_solvers_are_plans(known: Any, options: dict[str, Any], schedule: Schedule, times: list[float]) -> None:
    grid = as_grid(times)
    got = on_states_and_means(schedule, grid, plan_table(schedule, multistep_plan(schedule, grid, **options)))
    want = on_states_and_means(schedule, grid, known(schedule, grid))
    for row, other in zip(got, want, strict=True):
        np.testing.assert_allclose(row, other, rtol=1e-8, atol=1e-8 * np.abs(other).max())


def test_plans_of_different_solvers_differ() -> None:
    """Control of the test above."""
    grid = uniform_time(LinearVP(), 8, start=0.9, end=0.1)
    plans = [multistep_plan(LinearVP(), grid, **options) for name, _, options in KNOWN if name != "ddim, noise form"]
    tables = [plan_table(LinearVP(), plan) for plan in plans]
    flat = [np.concatenate(on_states_and_means(LinearVP(), grid, table)) for table in tables]
    for i, one in enumerate(flat):
        for other in flat[:i]:
            assert np.abs(one - other).max() > 1e-4


@pytest.mark.parametrize(("solver", "known"), [(ddim(), 0), (dpmpp(2), 2), (unipc(3), -1)])
def test_plans_run_from_pure_noise_to_clean_data(solver: Any, known: int) -> None:
    schedule, options = Cosine(), KNOWN[known][2]
    grid = uniform_time(schedule, 8)
    plan = multistep_plan(schedule, grid, **options)
    got = run(usf(plan), schedule, start(), plan.grid)
    torch.testing.assert_close(got, run(solver, schedule, start(), grid), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("form", ["data", "noise"])
@pytest.mark.parametrize("order", [2, 3])
def test_singlestep_solvers_are_plans(form: Any, order: Any) -> None:
    """Steps to points in between, then from an older state to the end."""
    schedule = EDM40
    grid = uniform_log_snr(schedule, 4, end=0.01)
    lam = 0.5 * schedule.log_snr(grid)
    decisions: list[Decision] = []
    for s, t in pairwise(lam):
        inner = [float(schedule.time(2 * (s + r * (t - s)))) for r in ((0.5,) if order == 2 else (1 / 3, 2 / 3))]
        decisions.append(Decision(inner[0], form))
        if order == 3:
            decisions.append(Decision(inner[1], form, points=(0,), back=1))
        # The last derivative of the published order 3 uses its last point only.
        decisions.append(Decision(float(schedule.time(2 * t)), form, points=(0,), back=order - 1))
    plan = Plan(float(grid[0]), tuple(decisions))
    want = run(lambda d, s: Singlestep(d, s, order=order, form=form), schedule, 40 * start(), grid)
    torch.testing.assert_close(run(usf(plan), schedule, 40 * start(), plan.grid), want, rtol=1e-8, atol=1e-8)


# --- orders and evaluations ---------------------------------------------------------------------------------


def error(plan: Plan) -> float:
    """From sigma = 2 to 0.2, where the data's 0.7 lies: over a longer range the leading errors nearly cancel."""
    x = 2 * start()
    oracle = GaussianOracle(EDM40, 1.5, 0.7)
    got = simulate(usf(plan)(oracle, EDM40), x, plan.grid, Noise(0, range(4)))
    return float((got - oracle.flow(x, plan.grid[0], plan.grid[-1])).abs().max())


def log_plan(steps: int, order: int, alter: dict[str, Any]) -> Plan:
    """A plan whose first steps are too short to show their lower order."""
    coarse = uniform_log_snr(EDM40, steps, start=0.05, end=0.005)
    head = uniform_log_snr(EDM40, 200, start=0.05, end=float(coarse[4]))
    grid = torch.cat([head, coarse[5:]])
    decisions = [Decision(float(t), points=tuple(range(1, min(order, i + 1)))) for i, t in enumerate(grid[1:])]
    altered = [replace(d, **(alter if len(d.points) == order - 1 else {})) for d in decisions[:-1]]
    return Plan(float(grid[0]), (*altered, decisions[-1]))


@pytest.mark.parametrize(
    ("order", "alter", "want"),
    [
        (1, {}, 1),
        (2, {}, 2),
        (2, {"relax": 0.3}, 2),
        (3, {}, 3),
        (3, {"form": "noise"}, 3),
        # The first derivative from one point is wrong by O(h): one order less.
        (3, {"slope": 1}, 2),
        # A relaxation of 1 + O(h) costs what is above order 2.
        (3, {"relax": 0.3}, 2),
        (1, {"corrector": "pseudo"}, 2),
        (2, {"corrector": "pseudo"}, 3),
        (2, {"corrector": "pseudo", "form": "noise"}, 3),
        (2, {"corrector": "implicit"}, 3),
        (2, {"corrector": "pseudo", "corrector_relax": 0.3}, 2),
    ],
)
def test_order(order: int, alter: dict[str, Any], want: int) -> None:
    coarse, fine = error(log_plan(80, order, alter)), error(log_plan(160, order, alter))
    assert math.log2(coarse / fine) == pytest.approx(want, abs=0.15)


class Counted:
    """A denoiser that counts how often it is asked, and where."""

    def __init__(self, schedule: Schedule) -> None:
        self.oracle = GaussianOracle(schedule, 1.0, 0.5)
        self.times: list[float] = []

    def __call__(self, x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        self.times.append(float(t))
        return self.oracle(x, t)


def mixed_plan() -> Plan:
    """Every kind of decision."""
    return Plan(
        0.9,
        (
            Decision(0.8, corrector="implicit"),
            Decision(0.65, "noise", points=(1,), relax=-0.1),
            Decision(0.5, points=(1, 2), slope=1, corrector="pseudo"),
            Decision(0.35, "noise", points=(1, 2, 3), corrector="implicit", corrector_relax=0.1),
            Decision(0.25, points=(0, 2), back=1, corrector="pseudo"),
            Decision(0.1, points=(1,), relax="bh1"),
        ),
    )


def test_evaluations() -> None:
    plan = mixed_plan()
    counted = Counted(LinearVP())
    simulate(usf(plan)(counted, LinearVP()), start(), plan.grid, Noise(0, range(4)))
    assert counted.times == [0.9, 0.8, 0.8, 0.65, 0.5, 0.35, 0.35, 0.25]
    assert plan.evaluations == len(counted.times)


def test_a_mixed_plan_by_hand() -> None:
    """Every state, value, prediction and correction written out with divided differences and phi functions."""
    plan, schedule = mixed_plan(), LinearVP()
    oracle = GaussianOracle(schedule, 1.0, 0.5)
    grid = plan.grid
    (alpha, sigma), lam = schedule(grid), 0.5 * schedule.log_snr(grid)
    states: list[Tensor] = [start()]
    means, eps = [], []

    def ask(x: Tensor, i: int) -> None:
        mean = oracle(x, grid[i]).mean
        means[i:] = [mean]
        eps[i:] = [(x - alpha[i] * mean) / sigma[i]]

    def phi(k: int, z: float) -> float:
        return math.exp(z) if k == 0 else (phi(k - 1, z) - 1 / math.factorial(k - 1)) / z

    def step(i: int, decision: Decision, points: list[int], slope: int | None, relax: Any) -> Tensor:
        s = i - decision.back
        h = float(lam[i + 1] - lam[s])
        values = means if decision.form == "data" else eps
        gaps = torch.stack([lam[j] - lam[s] for j in points]) if points else torch.empty(0, dtype=DOUBLE)
        z = -h if decision.form == "data" else h
        scale = alpha[i + 1] if decision.form == "data" else -sigma[i + 1]
        ratio = sigma[i + 1] / sigma[s] if decision.form == "data" else alpha[i + 1] / alpha[s]
        out = ratio * states[s] + scale * h * phi(1, z) * values[s]
        for d in range(1, len(points) + 1):
            used = slope if d == 1 and slope is not None else len(points)
            powers = torch.stack([gaps[:used] ** n / math.factorial(n) for n in range(1, used + 1)])
            unit = torch.zeros(used, dtype=DOUBLE)
            unit[d - 1] = 1
            weights = torch.linalg.solve(powers, unit)
            derivative = sum(w * (values[j] - values[s]) for w, j in zip(weights, points[:used], strict=True))
            if d == 1:
                derivative = derivative * (0.5 * z * z / (math.expm1(z) - z) if relax == "bh1" else 1 + relax * h)
            out = out + scale * h ** (d + 1) * phi(d + 1, z) * derivative
        return out

    ask(states[0], 0)
    for i, decision in enumerate(plan.decisions):
        points = [i - back for back in decision.points]
        x = step(i, decision, points, decision.slope, decision.relax)
        if decision.corrector != "none" or i + 1 < len(plan.decisions):
            ask(x, i + 1)
        if decision.corrector != "none":
            slope = None if decision.slope is None else decision.slope + 1
            x = step(i, decision, [i + 1, *points], slope, decision.corrector_relax)
        if decision.corrector == "implicit":
            ask(x, i + 1)
        states.append(x)
    got = simulate(usf(plan)(oracle, schedule), states[0], grid, Noise(0, range(4)))
    torch.testing.assert_close(got, states[-1], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("first", "value"), [("zero", 0.0), ("mean", 2.0)])
def test_the_first_evaluation_may_be_known(first: Any, value: float) -> None:
    plan = replace(mixed_plan(), first=first)
    # A mean that the plan does not ask for changes nothing.
    mean = torch.full((3,), 2.0, dtype=DOUBLE)
    counted = Counted(LinearVP())
    got = simulate(usf(plan, mean)(counted, LinearVP()), start(), plan.grid, Noise(0, range(4)))
    assert plan.evaluations == len(counted.times) == mixed_plan().evaluations - 1

    def known(x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        return Point(torch.full_like(x, value)) if float(t) == 0.9 else counted.oracle(x, t)

    want = simulate(usf(mixed_plan())(known, LinearVP()), start(), plan.grid, Noise(0, range(4)))
    assert torch.equal(got, want)


# --- kernels ------------------------------------------------------------------------------------------------


def test_a_sample_does_not_depend_on_its_batch() -> None:
    plan = mixed_plan()
    whole = run(usf(plan), LinearVP(), start(), plan.grid)
    assert torch.equal(run(usf(plan), LinearVP(), start()[1:3], plan.grid), whole[1:3])


def test_gradients_flow() -> None:
    plan = mixed_plan()
    x = start(1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: run(usf(plan), LinearVP(), x, plan.grid), (x,), fast_mode=True)


def test_a_plan_samples() -> None:
    schedule = LinearVP()
    oracle = GaussianOracle(schedule, 2.0, 0.5)
    plan = multistep_plan(schedule, uniform_time(schedule, 30, end=1e-3), order=2, relax="bh2", corrector="pseudo")
    x = sample(oracle, schedule, (4000, 1), solver=usf(plan), steps=30, grid=plan.grid, dtype=DOUBLE)
    assert float(x.mean()) == pytest.approx(2.0, abs=0.04)
    assert float(x.std()) == pytest.approx(0.5, rel=0.05)


def test_a_plan_runs_on_its_own_times_only() -> None:
    plan = mixed_plan()
    with pytest.raises(ValueError, match=r"grid=plan\.grid"):
        run(usf(plan), LinearVP(), start(), uniform_time(LinearVP(), 6))
    with pytest.raises(ValueError, match="pass mean"):
        run(usf(replace(plan, first="mean")), LinearVP(), start(), plan.grid)


def test_infinite_log_snr_needs_order_one() -> None:
    clean = Plan(0.9, (Decision(0.5), Decision(0.0, points=(1,))))
    with pytest.raises(InputError, match=r"step to 0 must have order 1"):
        plan_table(LinearVP(), clean)
    pure = Plan(1.0, (Decision(0.5), Decision(0.2, points=(1,))))
    with pytest.raises(InputError, match=r"step to 0\.2 must have order 1"):
        plan_table(Cosine(), pure)
    with pytest.raises(InputError, match=r"step to 0\.5 must use the data form"):
        plan_table(Cosine(), Plan(1.0, (Decision(0.5, "noise"),)))
    with pytest.raises(ValueError, match="alpha > 0"):
        run(dpm(2), Cosine(), start(), uniform_time(Cosine(), 4))


# --- files --------------------------------------------------------------------------------------------------

RELAXATIONS = st.one_of(st.sampled_from(["bh1", "bh2"]), st.floats(-2, 2))


@st.composite
def plans(draw: Any) -> Plan:
    times = sorted(draw(st.lists(st.floats(0.0, 1.0), min_size=2, max_size=6, unique=True)), reverse=True)
    decisions: list[Decision] = []
    for i, time in enumerate(times[1:]):
        order = list(draw(st.permutations(range(i + 1))))[:4]
        back, *points = order
        slope = draw(st.one_of(st.none(), st.integers(1, len(points)))) if points else None
        corrector = draw(st.sampled_from(["none", "pseudo", "implicit"])) if i < len(times) - 2 else "none"
        relax = draw(RELAXATIONS), draw(RELAXATIONS)
        form = draw(st.sampled_from(["data", "noise"]))
        decisions.append(Decision(time, form, tuple(points), slope, back, relax[0], corrector, relax[1]))
    return Plan(times[0], tuple(decisions), draw(st.sampled_from(["network", "zero", "mean"])))


@settings(deadline=None, max_examples=60)
@given(plans())
def test_a_plan_survives_its_file(plan: Plan) -> None:
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_a_written_plan_is_short() -> None:
    text = '{"start": 0.9, "decisions": [{"time": 0.4}, {"time": 0.1, "points": [1], "relax": "bh2"}]}'
    assert Plan.from_json(json.loads(text)) == Plan(0.9, (Decision(0.4), Decision(0.1, points=(1,), relax="bh2")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": "x"}, "start must be a finite number, but is 'x'"),
        ({"start": float("nan")}, "finite number"),
        ({"start": 1.5}, r"start must be between 0\.0 and 1\.0, but is 1\.5"),
        ({"steps": 3}, "no field 'steps'"),
        ({"frist": "zero"}, "did you mean 'first'"),
        ({"first": "none"}, "first must be one of"),
        ({"decisions": {}}, "decisions must be a list"),
        ({"decisions": []}, "one decision or more"),
        ({"decisions": [3]}, "JSON object, but is 3"),
        ({"decisions": [{"form": "data"}]}, "must have the field 'time'"),
        ({"decisions": [{"time": 0.95}]}, "times must fall"),
        ({"decisions": [{"time": True}]}, "finite number, but is True"),
        ({"decisions": [{"time": 0.5, "form": "v"}]}, "form must be one of 'data', 'noise'"),
        ({"decisions": [{"time": 0.5, "points": [1]}]}, "at most 0 earlier values"),
        ({"decisions": [{"time": 0.5, "points": 1}]}, "points must be a list"),
        ({"decisions": [{"time": 0.5, "points": [0]}]}, "not the start"),
        ({"decisions": [{"time": 0.5, "points": [1.5]}]}, "integer"),
        ({"decisions": [{"time": 0.5, "back": 1}]}, "at most 0 earlier values"),
        ({"decisions": [{"time": 0.5, "relax": "bh3"}]}, "relax must be one of 'bh1', 'bh2'"),
        ({"decisions": [{"time": 0.5, "relax": None}]}, "finite number, but is None"),
        ({"decisions": [{"time": 0.5, "corrector": "pseudo"}]}, "last decision must have no corrector"),
    ],
)
def test_wrong_plans_say_what_is_wrong(change: dict[str, Any], message: str) -> None:
    body = {"start": 0.9, "decisions": [{"time": 0.5}], **change}
    with pytest.raises(InputError, match=message):
        Plan.from_json(body)


def test_incomplete_plans_and_decisions() -> None:
    with pytest.raises(InputError, match="'decisions'"):
        Plan.from_json({"start": 1})
    with pytest.raises(InputError, match="slope must be"):
        Decision(0.5, points=(1, 2), slope=3)
