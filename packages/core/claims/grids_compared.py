"""Where to put the steps: grids and schedules side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from degauss.core.claims import Claim, Result
from degauss.core.compare import Problem, compare, overlapping, separated, stepping
from degauss.core.gaussian import ddim, unipc
from degauss.core.sampling import Solver

from ._problem import median, verdict

CLAIM = Claim(
    paper="Karras et al. 2022 (EDM, eq. 5) and Lu et al. 2022 (DPM-Solver, section 3.3), the grids side by side",
    statement=(
        "Steps belong where the noise level changes by ratios: even in log-SNR for exponential integrators "
        "(DPM-Solver), or in sigma^(1/7) (EDM); not even in sigma."
    ),
    expected=(
        "At 10 and 20 evaluations of UniPC-2, on both mixtures, log-SNR and sigma^(1/7) steps have less than a tenth "
        "of the error of steps even in sigma, and are within a factor of 3 of each other."
    ),
)

BUDGETS = (5, 7, 10, 15, 20)
PROBLEMS = {"overlapping": overlapping, "separated": separated}
SOLVERS: dict[str, Solver] = {"UniPC-2": unipc(2), "DDIM": ddim()}
RHOS = {"sigma^(1/3)": 3.0, "sigma^(1/7)": 7.0, "sigma": 1.0}


def run(seeds: Sequence[int]) -> Result:
    figures: dict[str, list[float]] = {}
    for problem_name, make in PROBLEMS.items():
        for seed in seeds:
            tried = [
                stepping(f"{solver_name}, {grid_name}", solver, grid=grid)
                for solver_name, solver in SOLVERS.items()
                for grid_name, grid in grids().items()
            ]
            for outcome in compare(make(seed), tried, BUDGETS, seed=seed + 100, samples=64):
                title = f"{problem_name}, {outcome.budget} evaluations, {outcome.name}"
                figures.setdefault(title, []).append(outcome.error)
    parts = [_holds(name, budget, figures) for name in PROBLEMS for budget in (10, 20)]
    return Result(verdict(parts), figures, notes="All grids run from sigma 40 to 0.02 with equal numbers of steps.")


def grids() -> dict[str, Callable[[Problem, int], Tensor]]:
    """Even in log-SNR, and in powers of sigma."""
    return {"log-SNR": Problem.log_snr_grid, **{name: _power(rho) for name, rho in RHOS.items()}}


def _power(rho: float) -> Callable[[Problem, int], Tensor]:
    def grid(problem: Problem, steps: int) -> Tensor:
        low, high = (k ** (1 / rho) for k in (_k(problem, problem.end), _k(problem, problem.start)))
        k = torch.linspace(high, low, steps + 1, dtype=torch.float64) ** rho
        inside = problem.schedule.time(-2 * k[1:-1].log())
        return torch.cat([inside.new_tensor([problem.start]), inside, inside.new_tensor([problem.end])])

    return grid


def _k(problem: Problem, time: float) -> float:
    alpha, sigma = problem.schedule(torch.tensor(time, dtype=torch.float64))
    return float(sigma / alpha)


def _holds(problem: str, budget: int, figures: dict[str, list[float]]) -> bool:
    found = {name: median(figures[f"{problem}, {budget} evaluations, UniPC-2, {name}"]) for name in grids()}
    best = sorted((found["log-SNR"], found["sigma^(1/7)"]))
    return best[1] < 0.1 * found["sigma"] and best[1] <= 3 * best[0]
