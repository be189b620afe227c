r"""Error against evaluations: how far a solver ends from the exact flow, for what it asks of the network.

Every candidate starts from the same noise and is compared, sample by sample, with a fine solution of the
probability-flow ODE. The error of a sample is the root mean square over its numbers, in the units of the data; a
candidate's error is the median over samples, since a mean would be ruled by the few that end in another mode.
Evaluations are counted as they happen, so that a method with two or three a step is not flattered.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from degauss.core.denoiser import Denoiser
from degauss.core.errors import InputError
from degauss.core.gaussian import Heun, Singlestep, ddim, deis, dpm, dpmpp, plms, unipc
from degauss.core.gaussian.exponential import data_table
from degauss.core.gaussian.table import table_solver
from degauss.core.grid import uniform_log_snr
from degauss.core.kernel import simulate
from degauss.core.noise import Noise
from degauss.core.oracle import GaussianOracle, MixtureOracle
from degauss.core.posterior import Point
from degauss.core.sampling import Solver
from degauss.core.schedule import EDM, Schedule


@dataclass(frozen=True)
class Problem:
    """A denoiser, its schedule, the shape of one event, and the times between which it is solved.

    ``start``, ``end``: times with finite log-SNR, 1 >= start > end > 0. ``data``: clean samples ``[n, *event]``, where
    there are some.
    """

    denoiser: Denoiser[Point]
    schedule: Schedule
    event: tuple[int, ...]
    start: float = 1.0
    end: float = 1e-3
    dtype: torch.dtype = torch.float64
    device: torch.device | str = "cpu"
    data: Tensor | None = None

    @classmethod
    def over_log_snr(
        cls, denoiser: Denoiser[Point], schedule: Schedule, event: Sequence[int], low: float = -14.0, high: float = 12.0
    ) -> Problem:
        """Between the log-SNRs ``low`` and ``high``, or the schedule's own ends where these come first."""
        first, last = schedule.log_snr(torch.tensor([1.0, 0.0], dtype=torch.float64)).tolist()
        bounds = torch.tensor([max(first, low), min(last, high)], dtype=torch.float64)
        start, end = schedule.time(bounds).clamp(0, 1).tolist()
        return cls(denoiser, schedule, tuple(event), start, end)

    def like(self, data: Tensor) -> Problem:
        """The same problem for samples of the dtype and on the device of these, which it keeps."""
        return replace(self, dtype=data.dtype, device=data.device, data=data)

    @property
    def span(self) -> tuple[float, float]:
        """The log-SNR at the start and at the end."""
        low, high = self.schedule.log_snr(torch.tensor([self.start, self.end], dtype=torch.float64)).tolist()
        return low, high

    def clean(self, samples: int) -> Tensor:
        """Its data, or else samples drawn from the model, ``[samples, *event]``."""
        return exact(self, self.begin(0, samples), 100) if self.data is None else self.data

    def log_snr_grid(self, steps: int) -> Tensor:
        """Evenly spaced in log-SNR from start to end."""
        return uniform_log_snr(self.schedule, steps, start=self.start, end=self.end)

    def begin(self, seed: int, samples: int) -> Tensor:
        """Pure noise at the start, ``[samples, *event]``."""
        like = torch.empty(samples, *self.event, dtype=self.dtype, device=self.device)
        sigma = float(self.schedule(torch.tensor(self.start, dtype=torch.float64)).sigma)
        return sigma * Noise(seed, range(samples)).normal(like)


Planned = tuple[Solver, Tensor]
"""A solver and the grid it runs on."""


@dataclass(frozen=True)
class Candidate:
    """A solver by name. ``plan(problem, budget)``: what to run for that many evaluations; None: it cannot."""

    name: str
    plan: Callable[[Problem, int], Planned | None]


def stepping(
    name: str, solver: Solver, evaluations: int = 1, grid: Callable[[Problem, int], Tensor] = Problem.log_snr_grid
) -> Candidate:
    """A solver that takes any number of steps, each of so many evaluations; log-SNR steps unless a grid is given."""

    def plan(problem: Problem, budget: int) -> Planned | None:
        steps = budget // evaluations
        return (solver, grid(problem, steps)) if steps else None

    return Candidate(name, plan)


class Outcome(NamedTuple):
    """A candidate at a budget: the evaluations it really took and its median error in the data's units."""

    name: str
    budget: int
    evaluations: int
    error: float


def solvers() -> dict[str, Candidate]:
    """The solvers that need no fitting, by the names that the command line takes."""
    plain: dict[str, Solver] = {
        "ddim": ddim(),
        "2m": dpmpp(2),
        "3m": dpmpp(3),
        "dpm-2m": dpm(2),
        "dpm-3m": dpm(3),
        "deis": deis(3),
        "plms": plms(4),
        "unipc-2": unipc(2),
        "unipc-3": unipc(3),
    }
    several: dict[str, tuple[Solver, int]] = {
        "heun": (Heun, 2),
        "dpm-2s": (partial(Singlestep, order=2), 2),
        "dpm-3s": (partial(Singlestep, order=3), 3),
    }
    return {
        **{name: stepping(name, solver) for name, solver in plain.items()},
        **{name: stepping(name, solver, count) for name, (solver, count) in several.items()},
    }


@dataclass
class _Counter:
    """A denoiser that counts how often it is asked."""

    denoiser: Denoiser[Point]
    asked: int = field(default=0)

    def __call__(self, x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        self.asked += 1
        return self.denoiser(x, t, **cond)


@torch.no_grad()
def exact(problem: Problem, x: Tensor, steps: int = 400) -> Tensor:
    """Where the flow takes x, by third-order steps fine enough to be the truth for few-step solvers."""
    solver = table_solver(data_table, order=3)
    return simulate(solver(problem.denoiser, problem.schedule), x, problem.log_snr_grid(steps), _unused(x))


@torch.no_grad()
def measure(problem: Problem, candidate: Candidate, budget: int, x: Tensor, truth: Tensor) -> Outcome:
    """The error of one candidate with at most ``budget`` evaluations from the start x.

    A grid that begins later than the problem begins with the same noise, scaled to its own first sigma. Raises
    InputError where the candidate cannot use the budget.
    """
    planned = candidate.plan(problem, budget)
    if planned is None:
        raise InputError(f"{candidate.name} cannot run on {budget} evaluations.")
    solver, grid = planned
    counter = _Counter(problem.denoiser)
    first, later = problem.schedule(torch.stack([grid.new_tensor(problem.start), grid[0]])).sigma.tolist()
    end = simulate(solver(counter, problem.schedule), x * (later / first), grid, _unused(x))
    error = (end - truth).square().flatten(1).mean(1).sqrt().median()
    return Outcome(candidate.name, budget, counter.asked, float(error))


def compare(
    problem: Problem,
    candidates: Iterable[Candidate],
    budgets: Sequence[int],
    *,
    seed: int = 0,
    samples: int = 64,
    fine: int = 400,
    report: Callable[[Outcome], None] = lambda _: None,
) -> list[Outcome]:
    """Measure all candidates at all budgets that they can use; ``report`` hears of each outcome as it comes."""
    x = problem.begin(seed, samples)
    truth = exact(problem, x, fine)
    if not bool(torch.isfinite(truth).all()):
        raise FloatingPointError("the fine solution is not finite; the denoiser or its range of times is at fault")
    outcomes: list[Outcome] = []
    for candidate in candidates:
        for budget in budgets:
            if candidate.plan(problem, budget) is not None:
                outcomes.append(measure(problem, candidate, budget, x, truth))
                report(outcomes[-1])
    return outcomes


def write_csv(path: Path, outcomes: Sequence[Outcome]) -> None:
    """One line an outcome: solver, budget, evaluations, error."""
    from degauss.core.files import atomic_path

    with atomic_path(path) as part, part.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(Outcome._fields)
        writer.writerows(outcomes)


def gaussian() -> Problem:
    """Data N(0.5, 0.6^2) in 8 dimensions under EDM's path, sigma 40 to 0.02."""
    return Problem(GaussianOracle(EDM(40.0), mean=0.5, std=0.6), EDM(40.0), (8,), 1.0, 0.02 / 40)


def overlapping(seed: int = 0) -> Problem:
    """Five overlapping Gaussians with full covariances in 8 dimensions, sigma 40 to 0.02; a seed makes the mixture."""
    return _mixture(seed, spread=1.0, width=0.3)


def separated(seed: int = 0) -> Problem:
    """Five well separated narrow Gaussians in 8 dimensions, sigma 40 to 0.02; a seed makes the mixture."""
    return _mixture(seed, spread=2.0, width=0.02)


def _mixture(seed: int, spread: float, width: float) -> Problem:
    schedule, noise = EDM(40.0), Noise(1000 + seed, range(5))
    means = spread * noise.normal(torch.empty(5, 8, dtype=torch.float64))
    factors = noise.normal(torch.empty(5, 8, 8, dtype=torch.float64), draw=1)
    covariances = width * (torch.eye(8, dtype=torch.float64) + factors @ factors.mT / math.sqrt(8))
    oracle = MixtureOracle(schedule, torch.ones(5, dtype=torch.float64), means, covariances)
    return Problem(oracle, schedule, (8,), 1.0, 0.02 / 40)


PROBLEMS: Mapping[str, Callable[[], Problem]] = {
    "gaussian": gaussian,
    "overlapping": overlapping,
    "separated": separated,
}


def _unused(x: Tensor) -> Noise:
    # The flow is deterministic; a kernel still takes the noise of its batch.
    return Noise(0, range(len(x)))
