r"""The unified sampling framework: a solver as a list of decisions, one a step (Liu et al. 2023, "USF").

With f the posterior mean (form "data") or eps ("noise") and u = lam - lam_s, a step is a Taylor expansion at its start,

    data    x_t = (sigma_t/sigma_s) x_s + sum_d c_d f^(d),    c_d =  alpha_t int e^{-(lam_t - lam)} u^d/d! dlam,
    noise   x_t = (alpha_t/alpha_s) x_s + sum_d c_d f^(d),    c_d = -alpha_t int e^{-lam} u^d/d! dlam

(in the paper h^{d+1} phi_{d+1}), whose derivatives f^(d) come from a polynomial through other values of f. Each step
decides: where it ends, which form, which points, hence the order; how many of them estimate the first derivative; a
*relaxation* of that derivative by a factor 1 + O(h); which state it starts from; and a *corrector*, the step done again
with the new value: "pseudo" corrects the state only, "implicit" asks the denoiser again there. The first evaluation may
be left out ("analytical first step"): at pure noise the posterior mean is the mean of the data.

DDIM, DPM-Solver, DPM-Solver++ and UniPC are plans, and a plan is a table, here with one row for each evaluation: a row
weighs past means and, for the noise form or an earlier start, past states. ``solver_search`` looks for plans.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property, lru_cache, partial
from itertools import pairwise
from typing import Any, Literal, NamedTuple, cast, get_args

import numpy as np
import torch
from torch import Tensor

from degauss.core.denoiser import Denoiser
from degauss.core.errors import InputError, check_option, check_range, near_miss
from degauss.core.fields import sequence
from degauss.core.gaussian import lagrange
from degauss.core.gaussian.exponential import nodes
from degauss.core.gaussian.table import Array, Carry, Path, Row, Table, TableKernel, index_clock, on_grid
from degauss.core.noise import Noise
from degauss.core.posterior import Point
from degauss.core.sampling import Solver
from degauss.core.schedule import Schedule

Form = Literal["data", "noise"]
Relaxation = float | Literal["bh1", "bh2"]
"""The factor on the first derivative: 1 + c h for a number c; "bh1", "bh2" give a lone slope UniPC's weight B(h)/2."""
Corrector = Literal["none", "pseudo", "implicit"]
First = Literal["network", "zero", "mean"]


@dataclass(frozen=True)
class Decision:
    """One step.

    time: where it ends, in [0, 1].
    form: what is interpolated, the posterior mean or eps.
    points: whose values estimate the derivatives, counted back from the newest value (0), at most 3, without ``back``;
        the order of the step is one more than their number.
    slope: how many of the points, the first ones, estimate the first derivative; None is all.
    back: how many states back the step starts; 0 is the newest.
    relax: the factor on the first derivative.
    corrector: what is done once the value at the end is known; it uses the same points and that value, unrelaxed
        unless ``corrector_relax`` says otherwise.

    Raises:
        InputError: a field is out of its range.
    """

    time: float
    form: Form = "data"
    points: tuple[int, ...] = ()
    slope: int | None = None
    back: int = 0
    relax: Relaxation = 0.0
    corrector: Corrector = "none"
    corrector_relax: Relaxation = 0.0

    def __post_init__(self) -> None:
        _check_number("a decision's time", self.time, 0.0, 1.0)
        _check_word("form", self.form, get_args(Form))
        _check_word("corrector", self.corrector, get_args(Corrector))
        for point in self.points:
            _check_count("a decision's point", point, 0)
        _check_count("back", self.back, 0)
        if len(self.points) > 3 or len({self.back, *self.points}) <= len(self.points):
            raise InputError(f"points must be at most 3, distinct and not the start {self.back}, got {self.points}.")
        if self.slope is not None:
            _check_count("slope", self.slope, 1, len(self.points))
        _check_relaxation("relax", self.relax)
        _check_relaxation("corrector_relax", self.corrector_relax)

    @property
    def order(self) -> int:
        """The order of the Taylor expansion, 1 to 4."""
        return len(self.points) + 1


@dataclass(frozen=True)
class Plan:
    """A solver: ``start``, the first time, in (0, 1]; what stands for the first evaluation; the steps.

    Raises:
        InputError: times do not fall, a step needs values that are not there yet, or the last one has a corrector.
    """

    start: float
    decisions: tuple[Decision, ...]
    first: First = "network"

    def __post_init__(self) -> None:
        _check_number("a plan's start", self.start, 0.0, 1.0)
        _check_word("first", self.first, get_args(First))
        if not self.decisions:
            raise InputError("a plan must have one decision or more, but has none.")
        times = [self.start, *(decision.time for decision in self.decisions)]
        if any(now <= then for now, then in pairwise(times)):
            raise InputError(f"a plan's times must fall, but are {times}.")
        for i, decision in enumerate(self.decisions):
            if max(decision.back, *decision.points, 0) > i:
                raise InputError(f"decision {i} must use at most {i} earlier values, but is {decision}.")
        if self.decisions[-1].corrector != "none":
            raise InputError(f"the last decision must have no corrector, but is {self.decisions[-1]}.")

    @property
    def grid(self) -> Tensor:
        """The plan's times, float64 ``[steps + 1]``: what ``sample`` takes for its ``grid``."""
        return torch.tensor([self.start, *(decision.time for decision in self.decisions)], dtype=torch.float64)

    @cached_property
    def asked(self) -> tuple[int, ...]:
        """The index on the grid of each row's value, in order: twice the same after an implicit corrector."""
        again = [decision.corrector == "implicit" for decision in self.decisions]
        return (0, *(i + 1 for i, twice in enumerate(again[:-1]) for _ in range(1 + twice)))

    @property
    def evaluations(self) -> int:
        """How often the plan asks the denoiser."""
        return len(self.asked) - (self.first != "network")

    @property
    def solver(self) -> Solver:
        """The solver of the plan, to be run on ``grid``; a plan that starts from the mean of the data needs ``usf``."""
        return usf(self)

    def to_json(self) -> dict[str, Any]:
        """Plain values, lists and tables."""
        body = asdict(self)
        return {**body, "decisions": [{**entry, "points": list(entry["points"])} for entry in body["decisions"]]}

    @classmethod
    def from_json(cls, about: Mapping[str, Any]) -> Plan:
        """What ``to_json`` gave; InputError naming what is missing, unknown or of another kind."""
        values = _known_fields(cls, dict(about))
        values["decisions"] = tuple(map(_read_decision, sequence(values, "decisions")))
        return cls(**values)


def multistep_plan(
    schedule: Schedule,
    grid: Tensor,
    *,
    order: int,
    form: Form = "data",
    relax: Relaxation = 0.0,
    corrector: Corrector = "none",
) -> Plan:
    """The known multistep methods as plans, with lower orders at the start, the end and infinite log-SNR.

    ``relax`` is for lone slopes, in steps of order 2 and correctors of steps of order 1. Order 1 is DDIM; order 2 with
    "bh2" is DPM-Solver++(2M), or multistep DPM-Solver-2 in form "noise"; order p with "bh2" and corrector "pseudo" is
    UniPC-p; orders 3 and 4 without relaxation are the exact exponential integrators.
    """
    path = on_grid(schedule, grid)
    decisions: list[Decision] = []
    for i in range(path.steps):
        points = tuple(i - j for j in nodes(path, i, order, True)[1:])
        inner = i + 1 < path.steps and np.isfinite(path.lam[i : i + 2]).all()
        decisions.append(
            Decision(
                float(path.time[i + 1]),
                form,
                points,
                relax=relax if len(points) == 1 else 0.0,
                corrector=corrector if inner else "none",
                corrector_relax=relax if not points else 0.0,
            )
        )
    return Plan(float(path.time[0]), tuple(decisions))


def usf(plan: Plan, mean: Tensor | None = None) -> Solver:
    """The solver of a plan, for ``grid=plan.grid``. ``mean``: of the data, ``[*event]``, if the plan begins with it."""
    return partial(PlanKernel, plan=plan, mean=mean)


class PlanCarry(NamedTuple):
    """The memory of a run: the table's, and the rows of each step."""

    table: Carry
    rows: tuple[range, ...]


@dataclass(frozen=True)
class PlanKernel:
    """Runs a plan: the table's rows, of which a step with an implicit corrector behind it has two.

    As in a UniPC table, the state after step i is the predicted one; step i + 1 corrects it first.
    """

    denoiser: Denoiser[Point]
    schedule: Schedule
    plan: Plan
    mean: Tensor | None = None

    def init(self, x: Tensor, grid: Tensor, /) -> PlanCarry:
        if not torch.equal(grid.detach().to("cpu", torch.float64), self.plan.grid):
            raise ValueError("a plan runs on its own times only: pass grid=plan.grid")
        if self.plan.first == "mean" and self.mean is None:
            raise ValueError("this plan starts from the mean of the data: pass mean")
        asked = self.plan.asked
        times = torch.unbind(self.plan.grid[list(asked)].to(x.device))
        first = [asked.index(i) for i in range(len(self.plan.decisions))]
        spans = tuple(range(*span) for span in zip(first, [*first[1:], len(asked)], strict=True))
        return PlanCarry(Carry(plan_table(self.schedule, self.plan), times, ()), spans)

    def step(self, carry: PlanCarry, x: Tensor, i: int, noise: Noise, /) -> tuple[PlanCarry, Tensor]:
        table = carry.table
        for row in carry.rows[i]:
            table, x = self._evaluation(row).step(table, x, row, noise)
        return carry._replace(table=table), x

    def _evaluation(self, row: int) -> TableKernel:
        """What runs one row; its table is in the carry already."""
        denoiser = self.denoiser if row or self.plan.first == "network" else self._known
        return TableKernel(denoiser, self.schedule, lambda schedule, _: plan_table(schedule, self.plan))

    def _known(self, x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        del t, cond
        if self.plan.first == "zero" or self.mean is None:
            return Point(torch.zeros_like(x))
        return Point(self.mean.to(x).expand_as(x))


@lru_cache(maxsize=256)
def plan_table(schedule: Schedule, plan: Plan) -> Table:
    """The table of a plan, one row for each evaluation: row e goes from the e-th state asked about to the next.

    Raises:
        InputError: a step of order 2 or more, a corrector, or the noise form meets an infinite log-SNR.
    """
    path = on_grid(schedule, plan.grid)
    memory = _Memory(path, plan.asked)
    rows: list[Row] = []
    for i, decision in enumerate(plan.decisions):
        start = i - decision.back
        points = [i - back for back in decision.points]
        predicted = memory.moved(i, decision, points, decision.slope, decision.relax)
        rows.append(memory.row(memory.scale(i, decision) * memory.starts[start] + predicted))
        if i + 1 == path.steps:
            break
        arrival = memory.ask()
        if decision.corrector != "none":
            slope = None if decision.slope is None else decision.slope + 1
            corrected = memory.moved(i, decision, [i + 1, *points], slope, decision.corrector_relax)
            # The scaled start is in both and cancels, so that no memory grows.
            arrival = arrival + corrected - predicted
        if decision.corrector == "implicit":
            rows.append(memory.row(arrival))
            arrival = memory.ask_again()
        memory.starts.append(arrival)
    return Table(tuple(rows), index_clock(path))


class _Memory:
    """What a plan knows as it goes along, as combinations of the states asked about and the means answered.

    A combination is a vector: first the weights of all states in order, then those of all means.
    """

    def __init__(self, path: Path, asked: tuple[int, ...]) -> None:
        self.path = path
        self.states, self.means = np.split(np.eye(2 * len(asked)), 2)
        self.starts: list[Array] = [self.states[0]]
        self.newest = 0
        self.rows = [0]

    def ask(self) -> Array:
        """Go on to the next state, at the next time; that state."""
        self.newest += 1
        self.rows.append(self.newest)
        return self.states[self.newest]

    def ask_again(self) -> Array:
        """Go on to the next state, at the same time; its value replaces that of the last."""
        self.newest += 1
        self.rows[-1] = self.newest
        return self.states[self.newest]

    def row(self, combination: Array) -> Row:
        """The row that makes this combination once the newest value is known."""
        states, means = np.split(combination, 2)
        newest_first = slice(self.newest, None, -1)
        state, *earlier = states[newest_first].tolist()
        return Row(state, _trimmed(means[newest_first].tolist()), earlier=_trimmed(earlier))

    def scale(self, i: int, decision: Decision) -> float:
        """The factor on the state where step i starts."""
        scale = self.path.sigma if decision.form == "data" else self.path.alpha
        return float(scale[i + 1] / scale[i - decision.back])

    def moved(self, i: int, decision: Decision, points: list[int], slope: int | None, relax: Relaxation) -> Array:
        """What step i adds to its scaled start."""
        knots = [i - decision.back, *points]
        weights = _taylor(self.path, i + 1, knots, decision.form, slope, relax)
        return np.sum([w * self.value(decision.form, j) for w, j in zip(weights, knots, strict=True)], axis=0)

    def value(self, form: Form, j: int) -> Array:
        """The posterior mean or eps at grid point j."""
        state, mean = self.states[self.rows[j]], self.means[self.rows[j]]
        if form == "data":
            return mean
        return (state - self.path.alpha[j] * mean) / self.path.sigma[j]


def _trimmed(weights: list[float]) -> tuple[float, ...]:
    while weights and weights[-1] == 0:
        weights.pop()
    return tuple(weights)


def _taylor(path: Path, end: int, knots: list[int], form: Form, slope: int | None, relax: Relaxation) -> Array:
    """The weights of the values at ``knots``, the start first, in what the step to ``end`` adds to its start."""
    start = knots[0]
    lam, target = path.lam[knots], float(path.lam[end])
    if form == "noise" and not np.isfinite(lam).all():
        where = f"the step to {path.time[end]:g}"
        raise InputError(f"{where} must use the data form, as it starts at an infinite log-SNR.")
    if len(knots) == 1:
        return path.alpha[end : end + 1] * _first_order(path, start, end, form)
    if not np.isfinite([*lam, target]).all():
        where = f"the step to {path.time[end]:g}"
        raise InputError(f"{where} must have order 1 and no corrector, as it meets an infinite log-SNR.")
    at, measure = lagrange.quadrature(float(lam[0]), target)
    density = np.exp(at - target) if form == "data" else -np.exp(-at)
    powers = [(at - lam[0]) ** d / math.factorial(d) for d in range(len(knots))]
    derivatives = lagrange.derivatives(lam, float(lam[0]))
    if slope is not None:
        used = slope + 1
        derivatives[1] = np.append(lagrange.derivatives(lam[:used], float(lam[0]))[1], np.zeros(len(knots) - used))
    derivatives[1] *= _factor(relax, target - float(lam[0]), form)
    return path.alpha[end] * (np.stack(powers) @ (measure * density)) @ derivatives


def _first_order(path: Path, start: int, end: int, form: Form) -> float:
    if form == "data":
        return float(-np.expm1(path.lam[start] - path.lam[end]))
    return float(path.sigma[end] / path.alpha[end] - path.sigma[start] / path.alpha[start])


def _factor(relax: Relaxation, h: float, form: Form) -> float:
    if not isinstance(relax, str):
        return 1 + relax * h
    signed = -h if form == "data" else h
    b = signed if relax == "bh1" else math.expm1(signed)
    return 0.5 * signed * b / (math.expm1(signed) - signed)


def _check_number(name: str, value: object, low: float | None = None, high: float | None = None) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{name} must be a finite number, but is {value!r}.")
    check_range(name, value, low, high)


def _check_count(name: str, value: object, low: int, high: int | None = None) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(f"{name} must be an integer, but is {value!r}.")
    check_range(name, value, low, high)


def _check_word(name: str, value: object, allowed: tuple[str, ...]) -> None:
    check_option(name, value if isinstance(value, str) else repr(value), allowed)


def _check_relaxation(name: str, value: object) -> None:
    if isinstance(value, str):
        check_option(name, value, ("bh1", "bh2"))
    else:
        _check_number(name, value)


def _read_decision(body: object) -> Decision:
    values = _known_fields(Decision, body)
    if "points" in values:
        values["points"] = tuple(sequence(values, "points"))
    return Decision(**values)


def _known_fields(kind: type[Plan | Decision], body: object) -> dict[str, Any]:
    """A JSON object as the arguments of a dataclass; InputError if a field is unknown or missing."""
    name = kind.__name__.lower()
    if not isinstance(body, dict):
        raise InputError(f"a {name} must be a JSON object, but is {body!r}.")
    values = cast("dict[str, Any]", body)
    known = [field.name for field in fields(kind)]
    for key in values:
        if key not in known:
            raise InputError(f"a {name} has no field {key!r}{near_miss(key, known)}.")
    required = ("start", "decisions") if kind is Plan else ("time",)
    for key in required:
        if key not in values:
            raise InputError(f"a {name} must have the field {key!r}, but has only {sorted(values)}.")
    return dict(values)
