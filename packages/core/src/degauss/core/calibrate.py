r"""Calibrated solvers: fit one to a model on a few samples, keep it as a small JSON file, use it by its name.

``calibrate`` fits one of these for a number of evaluations, and reports its error on noise that the fit has not seen:

    grid    the times of UniPC-2, and with them the range of noise levels, by coordinate descent;
    dc      DC-Solver's compensation ratios (``gaussian.dc``);
    olss    least-squares coefficients on past values (``gaussian.olss``);
    v3      DPM-Solver-v3's model statistics (``gaussian.statistics``);
    plan    a solver found by S^3 in the unified sampling framework (``gaussian.solver_search``).

``choose`` tries the plain solvers and all of these, and says which won and by how much.

The file knows its schedule, its grid, and how the model answers a few fixed questions, so that it refuses another model
in place of sampling from it badly. Guidance changes a denoiser's answers: ``load`` compares the file with the plain
model, and the solver it gives may then run with any guided form of it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, cast, get_args

import torch
from torch import Tensor

from degauss.core.checkpoint import FORMAT_VERSION, read_header
from degauss.core.compare import Candidate, Outcome, Problem, compare, exact, measure, solvers
from degauss.core.denoiser import Denoiser
from degauss.core.errors import InputError, check_option
from degauss.core.fields import integer, number, numbers, table
from degauss.core.files import atomic_path, write_json
from degauss.core.gaussian import unipc
from degauss.core.gaussian.dc import Compensation, fit_ratios
from degauss.core.gaussian.dpm_v3 import dpm_v3
from degauss.core.gaussian.olss import LeastSquares, fit_olss
from degauss.core.gaussian.solver_search import Settings, TeacherError, known_plans, search_solver
from degauss.core.gaussian.statistics import ModelStatistics, measure_statistics
from degauss.core.gaussian.usf import Plan
from degauss.core.grid import check_times
from degauss.core.kernel import Kernel
from degauss.core.noise import Noise
from degauss.core.posterior import Point
from degauss.core.sampling import Solver
from degauss.core.schedule import Schedule

Method = Literal["grid", "dc", "olss", "v3", "plan"]
METHODS: tuple[Method, ...] = get_args(Method)

KIND = "degauss.core/calibrated-solver"


class Fit(Protocol):
    """A fitted solver: the grid it belongs to, the solver itself, and its numbers as plain JSON values."""

    @property
    def grid(self) -> Tensor: ...

    @property
    def solver(self) -> Solver: ...

    def to_json(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Times:
    """UniPC of an order on times of its own, ``[steps + 1]``."""

    times: tuple[float, ...]
    order: int = 2

    @property
    def grid(self) -> Tensor:
        return torch.tensor(self.times, dtype=torch.float64)

    @property
    def solver(self) -> Solver:
        return unipc(self.order)

    def to_json(self) -> dict[str, Any]:
        return {"times": list(self.times), "order": self.order}

    @classmethod
    def from_json(cls, about: Mapping[str, Any]) -> Times:
        """What ``to_json`` gave; InputError naming the field that is missing or of another kind."""
        times = numbers(about, "times")
        check_times("times", times)
        return cls(times, integer(about, "order"))


@dataclass(frozen=True, eq=False)
class Statistics:
    """DPM-Solver-v3 of an order on a grid, with the model statistics it uses."""

    times: tuple[float, ...]
    order: int
    statistics: ModelStatistics

    @property
    def grid(self) -> Tensor:
        return torch.tensor(self.times, dtype=torch.float64)

    @property
    def solver(self) -> Solver:
        return dpm_v3(self.statistics, self.order, corrector="polynomial")

    def to_json(self) -> dict[str, Any]:
        return {"times": list(self.times), "order": self.order, "statistics": self.statistics.to_json()}

    @classmethod
    def from_json(cls, about: Mapping[str, Any]) -> Statistics:
        """What ``to_json`` gave; InputError naming the field that is missing or of another kind."""
        statistics = ModelStatistics.from_json(table(about, "statistics"))
        return cls(numbers(about, "times"), integer(about, "order"), statistics)


_FITS: dict[Method, Callable[[Mapping[str, Any]], Fit]] = {
    "grid": Times.from_json,
    "dc": Compensation.from_json,
    "olss": LeastSquares.from_json,
    "v3": Statistics.from_json,
    "plan": Plan.from_json,
}


class Report(NamedTuple):
    """What a calibrated solver is worth. Errors are medians over samples, in the units of the data (``compare``).

    ``error``: on held-out noise; ``fitted``: on the noise of the fit; ``plain``: of solvers that need no fit, on the
    held-out noise, by name.
    """

    evaluations: int
    samples: int
    error: float
    fitted: float
    plain: dict[str, float]


@dataclass(frozen=True, eq=False)
class Calibrated:
    """A fitted solver with where it came from. Use it as ``sample(..., solver=it, grid=it.grid)``.

    ``schedule``: the schedule as ``named``; ``probe``: the model's answers to ``probe`` for events of shape ``event``.
    """

    method: Method
    fit: Fit
    schedule: str
    event: tuple[int, ...]
    probe: tuple[float, ...]
    report: Report

    @property
    def grid(self) -> Tensor:
        """The times it runs on, float64 ``[steps + 1]``."""
        return self.fit.grid

    def __call__(self, denoiser: Denoiser[Point], schedule: Schedule, /) -> Kernel[Any]:
        """The kernel. Raises InputError on another schedule, and when it runs on another grid."""
        if named(schedule) != self.schedule:
            raise InputError(f"this solver was calibrated for {self.schedule}, but was given {named(schedule)}.")
        return _OnItsGrid(self.fit.solver(denoiser, schedule), self.grid)

    def candidate(self, name: str) -> Candidate:
        """For ``compare``: it runs at the number of evaluations it was fitted for, and at no other."""
        return Candidate(name, lambda _, budget: (self, self.grid) if budget == self.report.evaluations else None)

    def save(self, path: str | Path) -> None:
        """Write the solver as JSON, whole or not at all."""
        about = {
            "format": KIND,
            "format_version": FORMAT_VERSION,
            "method": self.method,
            "schedule": self.schedule,
            "event": list(self.event),
            "probe": list(self.probe),
            "report": self.report._asdict(),
            "fit": self.fit.to_json(),
        }
        with atomic_path(path) as partial:
            write_json(partial, about)


@dataclass(frozen=True)
class _OnItsGrid:
    """A kernel that runs on one grid only."""

    kernel: Kernel[Any]
    grid: Tensor

    def init(self, x: Tensor, grid: Tensor, /) -> Any:
        if grid.shape != self.grid.shape or not torch.allclose(grid.cpu().double(), self.grid, rtol=0, atol=1e-9):
            raise InputError(
                f"this solver was calibrated on {len(self.grid) - 1} steps from t = {self.grid[0]:.6g} to "
                f"{self.grid[-1]:.6g}, but was given {len(grid) - 1} from {grid[0]:.6g} to {grid[-1]:.6g}: "
                f"pass its own grid."
            )
        return self.kernel.init(x, self.grid)

    def step(self, carry: Any, x: Tensor, i: int, noise: Noise, /) -> tuple[Any, Tensor]:
        return self.kernel.step(carry, x, i, noise)


# --- files --------------------------------------------------------------------------------------------------


def load(path: str | Path, denoiser: Denoiser[Point], schedule: Schedule) -> Calibrated:
    """Read what ``Calibrated.save`` wrote, for this model.

    Raises InputError naming the file if it is missing, damaged, or was calibrated for another model or schedule.
    """
    path = Path(path)
    about = read_header(path, KIND)
    try:
        method = cast("Method", check_option("method", str(about.get("method")), METHODS))
        fit = _FITS[method](table(about, "fit"))
        event = tuple(int(size) for size in numbers(about, "event"))
        made = Calibrated(method, fit, str(about.get("schedule")), event, numbers(about, "probe"), _report(about))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    if made.schedule != named(schedule):
        raise InputError(f"{path} was calibrated for {made.schedule}, but the model has {named(schedule)}.")
    answers = probe(denoiser, schedule, event)
    if not _alike(answers, made.probe):
        raise InputError(
            f"{path} was calibrated for another model: to the same questions it answered {_shown(made.probe)}, and "
            f"this one answers {_shown(answers)}."
        )
    return made


def named(schedule: Schedule) -> str:
    """The schedule as text; one of many numbers by their hash."""
    text = repr(schedule)
    if len(text) <= _READABLE:
        return text
    return f"{type(schedule).__name__}(sha256 {hashlib.sha256(text.encode()).hexdigest()[:16]})"


_READABLE = 200


def probe(denoiser: Denoiser[Point], schedule: Schedule, event: Sequence[int]) -> tuple[float, ...]:
    """How a model answers fixed noise: at three noise levels, the mean and root mean square of its posterior mean."""
    z = Noise(0, range(2)).normal(torch.empty(2, *event))
    answers: list[float] = []
    for log_snr in (-4.0, 0.0, 4.0):
        time = schedule.time(torch.tensor(log_snr, dtype=torch.float64)).clamp(0, 1)
        alpha, sigma = schedule(time)
        with torch.no_grad():
            mean = denoiser(z * math.hypot(float(alpha), float(sigma)), time).mean.double()
        answers += [float(mean.mean()), float(mean.square().mean().sqrt())]
    return tuple(answers)


def _alike(answers: Sequence[float], known: Sequence[float]) -> bool:
    # Devices and versions differ in rounding, models in the first digits.
    scale = max(map(abs, known), default=0.0)
    return len(answers) == len(known) and all(abs(a - b) <= 2e-3 * scale for a, b in zip(answers, known, strict=True))


def _shown(answers: Sequence[float]) -> str:
    return ", ".join(f"{answer:.4g}" for answer in answers)


def _report(about: Mapping[str, Any]) -> Report:
    report = table(about, "report")
    plain = table(report, "plain")
    others = {name: number(plain, name) for name in plain}
    counts = integer(report, "evaluations"), integer(report, "samples")
    return Report(*counts, number(report, "error"), number(report, "fitted"), others)


# --- fitting ------------------------------------------------------------------------------------------------


def noise_range(data: Tensor) -> tuple[float, float]:
    """The log-SNRs between which noise matters for data ``[n, *event]``: (low, high).

    The most noise is the largest distance of two samples (Song and Ermon 2020, technique 1): from there no sample is
    told from another. The least is 1/250 of the data's standard deviation, as EDM's 0.002 to 0.5.
    """
    flat = data[:256].flatten(1).double()
    if len(flat) < 2 or not bool(torch.isfinite(flat).all()):
        raise InputError("the range of noise levels needs two or more finite samples of data.")
    farthest, deviation = float(torch.cdist(flat, flat).max()), float(flat.std(0).square().mean().sqrt())
    if deviation == 0:
        raise InputError("the range of noise levels needs samples that differ, but all are the same.")
    return -2 * math.log(farthest), -2 * math.log(deviation / 250)


def calibrate(
    denoiser: Denoiser[Point],
    schedule: Schedule,
    data: Tensor,
    nfe: int,
    *,
    method: Method = "dc",
    span: tuple[float, float] | None = None,
    samples: int = 16,
    seed: int = 0,
    order: int = 3,
) -> Calibrated:
    """Fit a solver of ``nfe`` evaluations to a model; its report is on noise that the fit has not seen.

    ``data``: clean samples ``[n, *event]``, in the units, dtype and device of the model: "v3" measures its statistics
    on them, the others take the range of noise levels. ``span``: that range in log-SNR, (low, high), to set it.
    ``samples``: how many noises to fit on, and as many four times to judge it. Needs some thousands of evaluations of
    one sample, "v3" and "plan" tens of thousands.
    """
    if nfe < 2:
        raise InputError(f"a solver is calibrated for 2 evaluations or more, but {nfe} was asked for.")
    low, high = noise_range(data) if span is None else span
    problem = Problem.over_log_snr(denoiser, schedule, data.shape[1:], low, high).like(data)
    fit = _FITTERS[check_method(method)](_Task(problem, data, nfe, problem.begin(seed, samples), order))
    return _judged(method, fit, problem, nfe, samples, seed)


def check_method(method: str) -> Method:
    """InputError unless it is a method of ``calibrate``."""
    return cast("Method", check_option("method", method, METHODS))


def _judged(method: Method, fit: Fit, problem: Problem, nfe: int, samples: int, seed: int) -> Calibrated:
    """The fit with its report, on four times as many samples of the next seed."""
    seen, fresh = problem.begin(seed, samples), problem.begin(seed + 1, 4 * samples)
    truth = exact(problem, fresh)
    fitted = Candidate(method, lambda _problem, _budget: (fit.solver, fit.grid))
    plain = {name: measure(problem, solvers()[name], nfe, fresh, truth).error for name in ("ddim", "2m", "unipc-2")}
    error = measure(problem, fitted, nfe, fresh, truth).error
    if not math.isfinite(error):
        raise FloatingPointError(f"the calibrated {method} solver diverged on held-out noise")
    on_fit = measure(problem, fitted, nfe, seen, exact(problem, seen)).error
    report = Report(nfe, 4 * samples, error, on_fit, plain)
    answers = probe(problem.denoiser, problem.schedule, problem.event)
    return Calibrated(method, fit, named(problem.schedule), problem.event, answers, report)


class _Task(NamedTuple):
    """What there is to fit on: ``x``, the states of the fit at the problem's start."""

    problem: Problem
    data: Tensor
    nfe: int
    x: Tensor
    order: int

    @property
    def grid(self) -> Tensor:
        return self.problem.log_snr_grid(self.nfe)


def _fit_grid(task: _Task) -> Times:
    """Coordinate descent on the log-SNRs of the first and the inner times; the last stays where it is."""
    problem, truth = task.problem, exact(task.problem, task.x)
    first, *_ = best = problem.schedule.log_snr(task.grid).tolist()

    def times(levels: Sequence[float]) -> tuple[float, ...]:
        inside = problem.schedule.time(torch.tensor(levels[:-1], dtype=torch.float64)).clamp(0, problem.start)
        return (*inside.tolist(), problem.end)

    def error(levels: Sequence[float]) -> float:
        fit = Times(times(levels))
        candidate = Candidate("", lambda _problem, _budget: (fit.solver, fit.grid))
        return measure(problem, candidate, task.nfe, task.x, truth).error

    lowest = error(best)
    for share in _SHARES:
        for i in range(task.nfe):
            ahead = best[i + 1] - best[i]
            behind = best[i] - best[i - 1] if i else ahead
            for move in (share * ahead, -share * behind):
                trial = [*best[:i], max(best[i] + move, first), *best[i + 1 :]]
                if trial[i] != best[i] and (found := error(trial)) < lowest:
                    best, lowest = trial, found
    return Times(times(best))


# Shares of a time's distance to its neighbours, tried in this order on every time.
_SHARES = (0.5, 0.3, 0.3, 0.15, 0.15, 0.07, 0.03)


def _fit_compensation(task: _Task) -> Compensation:
    return fit_ratios(task.problem.denoiser, task.problem.schedule, task.x, task.grid, order=task.order)


def _fit_least_squares(task: _Task) -> LeastSquares:
    return fit_olss(task.problem.denoiser, task.problem.schedule, task.x, task.grid)


def _fit_statistics(task: _Task) -> Statistics:
    problem, data = task.problem, task.data[:512]
    # A number for each coordinate of a large event is a large file: there, one for each place on the first axis.
    pool = tuple(range(1, data.ndim - 1)) if math.prod(problem.event) > _MANY else ()
    statistics = measure_statistics(
        problem.denoiser,
        problem.schedule,
        data,
        Noise(0, range(len(data))),
        start=problem.start,
        end=problem.end,
        cells=100,
        pool=pool,
    )
    return Statistics(tuple(task.grid.tolist()), task.order, statistics)


_MANY = 256


def _fit_plan(task: _Task) -> Plan:
    problem = task.problem
    score = TeacherError(problem.denoiser, problem.schedule, task.x, exact(problem, task.x))
    first = known_plans(problem.schedule, task.grid)
    # The report judges the plan on held-out noise, so the search need not.
    return search_solver(score, score, first, evaluations=task.nfe, settings=Settings(rounds=10)).plan


_FITTERS: dict[Method, Callable[[_Task], Fit]] = {
    "grid": _fit_grid,
    "dc": _fit_compensation,
    "olss": _fit_least_squares,
    "v3": _fit_statistics,
    "plan": _fit_plan,
}


# --- choosing -----------------------------------------------------------------------------------------------


class Choice(NamedTuple):
    """All candidates on held-out noise, best first, and the calibrated ones by name."""

    ranking: list[Outcome]
    calibrated: dict[str, Calibrated]

    @property
    def winner(self) -> Outcome:
        return self.ranking[0]

    def says(self) -> str:
        """Which won and by how much, in one sentence."""
        first, second, *_ = self.ranking
        plain = next(outcome for outcome in self.ranking if outcome.name not in self.calibrated)
        return (
            f"{first.name} won at {first.budget} evaluations: its error is {first.error:.3g}, "
            f"{second.name} follows with {second.error / first.error:.2g} times that, "
            f"and the best that needs no fit, {plain.name}, has {plain.error / first.error:.2g} times that."
        )


def choose(
    denoiser: Denoiser[Point],
    schedule: Schedule,
    data: Tensor,
    nfe: int,
    *,
    methods: Sequence[Method] = ("grid", "dc", "olss", "v3"),
    span: tuple[float, float] | None = None,
    samples: int = 16,
    seed: int = 0,
    report: Callable[[str], None] = lambda _: None,
) -> Choice:
    """Try the plain solvers and the calibrated ones at ``nfe`` evaluations, all on the same held-out noise.

    The arguments are those of ``calibrate``; ``report`` is told the name of each candidate before its turn. A candidate
    whose fit or run fails to be finite is left out of the ranking.
    """
    fitted: dict[str, Calibrated] = {}
    for method in methods:
        report(method)
        try:
            fitted[method] = calibrate(
                denoiser, schedule, data, nfe, method=method, span=span, samples=samples, seed=seed
            )
        except FloatingPointError:
            continue
    report("plain solvers")
    low, high = noise_range(data) if span is None else span
    problem = Problem.over_log_snr(denoiser, schedule, data.shape[1:], low, high).like(data)
    candidates = [*solvers().values(), *(made.candidate(name) for name, made in fitted.items())]
    outcomes = compare(problem, candidates, (nfe,), seed=seed + 1, samples=4 * samples)
    finite = [outcome for outcome in outcomes if math.isfinite(outcome.error)]
    return Choice(sorted(finite, key=lambda outcome: outcome.error), fitted)
