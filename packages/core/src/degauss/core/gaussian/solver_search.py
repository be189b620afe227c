r"""S^3: evolutionary search for a solver (Liu et al. 2023, "A Unified Sampling Framework").

The population is every plan scored so far (see ``usf``), the parents are the best few of it. Each round makes many
children: a parent, sometimes crossed with another, then mutated gene by gene. A *predictor*, a ridge regression on all
plans scored so far, picks the most promising, and only those are scored. Rates are the published ones.

A score is any function of a plan, smaller is better: a Frechet distance where there is one, or ``TeacherError``, the
distance to where a fine solution ends. What is searched on a few samples fits these samples: the result also carries a
score on others, held out, and that is the one to report.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random

import numpy as np
import torch
from torch import Tensor

from degauss.core.denoiser import Denoiser
from degauss.core.errors import InputError
from degauss.core.gaussian.table import Array
from degauss.core.gaussian.unipc import unipc
from degauss.core.gaussian.usf import Corrector, Decision, First, Form, Plan, multistep_plan, usf
from degauss.core.grid import uniform_log_snr
from degauss.core.kernel import simulate
from degauss.core.noise import Noise
from degauss.core.posterior import Point
from degauss.core.sampling import Solver
from degauss.core.schedule import Schedule

Score = Callable[[Plan], float]
Report = Callable[[int, int, float], None]
"""Called after each round with the rounds done, the rounds in all and the best score so far."""

_ORDERS = ((1, 2, 3, 4), (0.2, 0.4, 0.3, 0.1))
_FORMS: tuple[Form, ...] = ("data", "noise")
_CORRECTORS: tuple[Corrector, ...] = ("none", "pseudo")
# Times of which one is nearer to the other than this ratio are one.
_APART = 0.99
_PLACES = 8


@dataclass(frozen=True)
class Settings:
    """How to search. The rates are those of the authors' configuration; the sizes suit a score that takes milliseconds.

    rounds, scored: how many rounds, and how many new plans are scored in each.
    proposed: how many children the predictor chooses from; equal to ``scored``, there is no predictor.
    parents: how many of the best plans have children.
    crossover, mutation: the chances of a second parent, and of a change in each gene.
    resize: the chance of a step more, and the chance of a step less.
    time_noise, relax_noise: standard deviations of the change of a time, relative to it, and of a relaxation.
    firsts: what may stand for the first evaluation; "mean" where the score knows the mean of the data.
    """

    rounds: int = 20
    scored: int = 20
    proposed: int = 100
    parents: int = 15
    crossover: float = 0.3
    mutation: float = 0.3
    resize: float = 0.2
    time_noise: float = 0.08
    relax_noise: float = 0.03
    firsts: tuple[First, ...] = ("network", "zero")

    def __post_init__(self) -> None:
        if self.rounds < 0 or self.scored < 1 or self.parents < 1 or self.proposed < self.scored:
            raise InputError(f"a search needs rounds >= 0, parents >= 1 and proposed >= scored >= 1, got {self}.")


@dataclass(frozen=True)
class Found:
    """What a search found: the best plan, its score, its score on held-out data, and every plan scored, best first."""

    plan: Plan
    score: float
    held_out: float
    scored: tuple[tuple[Plan, float], ...]


@dataclass(frozen=True, eq=False)
class TeacherError:
    """The median over samples of the distance between where a plan ends from ``x`` and ``target``, ``[batch, *event]``.

    ``mean``: of the data, ``[*event]``, for plans that begin with it.
    """

    denoiser: Denoiser[Point]
    schedule: Schedule
    x: Tensor
    target: Tensor
    mean: Tensor | None = None

    def __call__(self, plan: Plan) -> float:
        """The score of a plan; infinite if it diverges."""
        error = (self.run(usf(plan, self.mean), plan.grid) - self.target).flatten(1).norm(dim=1).median()
        return float(error) if torch.isfinite(error) else math.inf

    def run(self, solver: Solver, grid: Tensor) -> Tensor:
        """Where a solver takes the same noise."""
        with torch.inference_mode():
            return simulate(solver(self.denoiser, self.schedule), self.x, grid, Noise(0, range(len(self.x))))


def teacher_error(
    denoiser: Denoiser[Point],
    schedule: Schedule,
    shape: Sequence[int],
    *,
    start: float,
    end: float,
    seed: int = 0,
    samples: Sequence[int] | None = None,
    teacher: Solver | None = None,
    steps: int = 400,
    mean: Tensor | None = None,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> TeacherError:
    """The score against ``teacher`` (UniPC-3) with ``steps`` steps, uniform in log-SNR, from time ``start`` to ``end``.

    ``samples``: the ids whose noise is used; other ids or another seed make the held-out score. ``mean``: of the data,
    ``[*event]``, for plans that begin with it.
    """
    noise = Noise(seed, range(shape[0]) if samples is None else samples)
    sigma = float(schedule(torch.tensor(start, dtype=torch.float64)).sigma)
    x = sigma * noise.normal(torch.empty(*shape, dtype=dtype, device=device))
    score = TeacherError(denoiser, schedule, x, x, mean)
    target = score.run(teacher or unipc(order=3), uniform_log_snr(schedule, steps, start=start, end=end))
    return replace(score, target=target)


def known_plans(schedule: Schedule, grid: Tensor) -> tuple[Plan, ...]:
    """DDIM, 2M, 3M, UniPC-2, UniPC-3 and the noise forms of order 2 and 3 on a grid, where they exist there."""
    plans = [
        multistep_plan(schedule, grid, order=1),
        multistep_plan(schedule, grid, order=2, relax="bh2"),
        multistep_plan(schedule, grid, order=3),
        multistep_plan(schedule, grid, order=2, relax="bh2", corrector="pseudo"),
        multistep_plan(schedule, grid, order=3, relax="bh2", corrector="pseudo"),
    ]
    lam = schedule.log_snr(grid)
    if bool(torch.isfinite(lam).all()):
        plans += [multistep_plan(schedule, grid, order=order, form="noise") for order in (2, 3)]
    return tuple(plans)


def search_solver(
    score: Score,
    held_out: Score,
    first: Sequence[Plan],
    *,
    evaluations: int,
    seed: int = 0,
    settings: Settings | None = None,
    report: Report | None = None,
) -> Found:
    """Search from the plans ``first`` for a better one of at most ``evaluations`` evaluations.

    All start and end at the same times, of finite log-SNR. The same seed and score give the same result.
    ``held_out`` is called once, for the plan found.

    Raises:
        InputError: there is no first plan, they do not share their ends, or one needs more evaluations.
    """
    settings = settings or Settings()
    _check_first(first, evaluations)
    random = Random(seed)
    known = {plan: score(plan) for plan in first}
    for done in range(settings.rounds):
        children = _children(known, evaluations, settings, random)
        if len(children) > settings.scored:
            best_first = np.argsort(Predictor.fit(known)(children), kind="stable")
            children = [children[j] for j in best_first[: settings.scored]]
        known.update({plan: score(plan) for plan in children})
        if report is not None:
            report(done + 1, settings.rounds, min(known.values()))
    ranked = _ranked(known)
    best, reached = ranked[0]
    return Found(best, reached, held_out(best), tuple(ranked))


def _check_first(first: Sequence[Plan], evaluations: int) -> None:
    if not first:
        raise InputError("a search must have one first plan or more, but has none.")
    needs = [plan.evaluations for plan in first]
    if max(needs) > evaluations:
        raise InputError(f"first plans must need at most {evaluations} evaluations, but need {needs}.")
    ends = {(plan.start, plan.decisions[-1].time) for plan in first}
    if len(ends) > 1:
        raise InputError(f"first plans must share their start and end, but have {sorted(ends)}.")
    if min(ends)[1] <= 0:
        raise InputError("a search must end at a time above 0, but the first plans end on clean data.")


def _ranked(known: Mapping[Plan, float]) -> list[tuple[Plan, float]]:
    return sorted(known.items(), key=lambda item: item[1])


def _children(known: Mapping[Plan, float], evaluations: int, settings: Settings, random: Random) -> list[Plan]:
    """New plans, all different; fewer than proposed if the parents have no more to give."""
    parents = [plan for plan, _ in _ranked(known)[: settings.parents]]
    children: dict[Plan, None] = {}
    for _ in range(4 * settings.proposed):
        if len(children) == settings.proposed:
            break
        child = random.choice(parents)
        if random.random() < settings.crossover:
            child = crossed(child, random.choice(parents), evaluations, random)
        child = mutated(child, evaluations, settings, random)
        if child not in known:
            children[child] = None
    return list(children)


def crossed(plan: Plan, other: Plan, evaluations: int, random: Random) -> Plan:
    """The times of one plan, and each step's other genes from either, if both have as many steps; else ``plan``."""
    if len(plan.decisions) != len(other.decisions):
        return plan
    pairs = zip(plan.decisions, other.decisions, strict=True)
    decisions = [replace(random.choice(pair), time=pair[0].time) for pair in pairs]
    return _fitted(plan, decisions, random.choice((plan.first, other.first)), evaluations, random)


def mutated(plan: Plan, evaluations: int, settings: Settings, random: Random) -> Plan:
    """The plan with perhaps a step more or less, and perhaps a change in each gene of each step."""
    decisions = list(plan.decisions)
    draw = random.random()
    if draw < settings.resize:
        i = random.randrange(len(decisions))
        before = decisions[i - 1].time if i else plan.start
        new = Decision(random.uniform(decisions[i].time, before))
        decisions.insert(i, _mutated_step(new, replace(settings, mutation=1.0), random))
    elif draw > 1 - settings.resize and len(decisions) > 1:
        del decisions[random.randrange(len(decisions) - 1)]
    decisions = [_mutated_step(decision, settings, random) for decision in decisions]
    decisions[-1] = replace(decisions[-1], time=plan.decisions[-1].time)
    first = random.choice(settings.firsts) if random.random() < settings.mutation else plan.first
    return _fitted(plan, decisions, first, evaluations, random)


def _mutated_step(decision: Decision, settings: Settings, random: Random) -> Decision:
    def changes() -> bool:
        return random.random() < settings.mutation

    if changes():
        time = decision.time * (1 + random.gauss(0, settings.time_noise))
        decision = replace(decision, time=min(max(time, 0.0), 1.0))
    if changes():
        (order,) = random.choices(*_ORDERS)
        decision = replace(decision, points=tuple(range(1, order)), back=0, slope=None, relax=0.0)
    if changes():
        decision = replace(decision, form=random.choice(_FORMS))
    if decision.points and changes():
        decision = replace(decision, slope=random.randint(1, min(2, len(decision.points))))
    if decision.points and changes():
        relax = 0.0 if isinstance(decision.relax, str) else decision.relax
        decision = replace(decision, relax=relax + random.gauss(0, settings.relax_noise))
    if changes():
        decision = replace(decision, corrector=random.choice(_CORRECTORS))
    return decision


def _fitted(plan: Plan, decisions: list[Decision], first: First, evaluations: int, random: Random) -> Plan:
    """A valid plan with the ends of ``plan``: times in order and apart, points that exist, steps within the budget."""
    *inner, last = decisions
    end = plan.decisions[-1].time
    spaced: list[Decision] = []
    now = plan.start
    for decision in sorted(inner, key=lambda decision: -decision.time):
        if end / _APART < decision.time < now * _APART:
            spaced.append(decision)
            now = decision.time
    spaced.append(replace(last, corrector="none"))
    while True:
        fitted = Plan(plan.start, tuple(_existing(decision, i) for i, decision in enumerate(spaced)), first)
        if fitted.evaluations <= evaluations:
            return fitted
        if len(spaced) == 1:
            return plan
        del spaced[random.randrange(len(spaced) - 1)]


def _existing(decision: Decision, i: int) -> Decision:
    """A decision without the values that step i does not have."""
    back = min(decision.back, i)
    points = tuple(point for point in decision.points if point <= i and point != back)
    slope = min(decision.slope, len(points)) if decision.slope and points else None
    return replace(decision, back=back, points=points, slope=slope)


@dataclass(frozen=True, eq=False)
class Predictor:
    """A ridge regression from a plan's description to the rank of its score, from 0 (best) to 1."""

    centre: Array
    scale: Array
    weights: Array

    @classmethod
    def fit(cls, known: Mapping[Plan, float], ridge: float = 100.0) -> Predictor:
        """Ranks are robust to scores that diverge, and the order is all that is asked for.

        ``ridge``: in plans: so many must agree before a feature counts.
        """
        ranked = _ranked(known)
        features = described([plan for plan, _ in ranked])
        ranks = np.linspace(-0.5, 0.5, len(ranked))
        centre = features.mean(0)
        scale = np.maximum(features.std(0), 1e-6)
        x = (features - centre) / scale
        normal = x.T @ x + ridge * np.eye(x.shape[1])
        return cls(centre, scale, np.asarray(np.linalg.solve(normal, x.T @ ranks), dtype=np.float64))

    def __call__(self, plans: Sequence[Plan]) -> Array:
        """The predicted ranks, ``[plans]``."""
        return 0.5 + (described(plans) - self.centre) / self.scale @ self.weights


def described(plans: Sequence[Plan]) -> Array:
    """Plans as vectors of one length, whatever their number of steps, ``[plans, features]``.

    At places evenly spaced in log t between the ends: the genes of the step that covers it.
    """
    return np.array([_description(plan) for plan in plans], dtype=np.float64)


def _description(plan: Plan) -> list[float]:
    log_times = np.log(plan.grid.numpy())
    places = np.linspace(log_times[0], log_times[-1], _PLACES + 1)[:-1]
    covering = np.searchsorted(-log_times, -places, side="right") - 1
    out = [float(len(plan.decisions)), float(plan.first != "network")]
    for i in np.minimum(covering, len(plan.decisions) - 1):
        decision = plan.decisions[i]
        length = float(log_times[i] - log_times[i + 1])
        relax = 0.0 if isinstance(decision.relax, str) else decision.relax
        slope = decision.order - 1 if decision.slope is None else decision.slope
        corrected = float(decision.corrector != "none")
        noise = float(decision.form == "noise")
        out += [length, length**2, decision.order == 1, decision.order > 2, slope, relax, noise, corrected]
    return out
