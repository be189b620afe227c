"""MRS: exponential integrators for mean-reverting diffusion."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from torch import Tensor

from degauss.core import Noise
from degauss.core.claims import Claim, Result
from degauss.core.gaussian import TableSolver, ddim, dpmpp, table_solver
from degauss.core.gaussian.exponential import data_table
from degauss.core.grid import uniform_log_snr, uniform_time
from degauss.core.process.mean_reverting import IRSDE

from ._problem import median, verdict
from ._process import COUNT, predictor_corrector, restoration

CLAIM = Claim(
    paper=(
        "Li, Fang, Zhao, Lu, Yang and Xu 2025, MRS: A Fast Sampler for Mean Reverting Diffusion Based on ODE and SDE "
        "Solvers (abstract)"
    ),
    statement=(
        "On IR-SDE, semi-analytic ODE and SDE solvers of order 2 reach with 5 to 10 evaluations the quality that "
        "posterior (ancestral) sampling needs 100 for: 10 to 20 times fewer."
    ),
    expected=(
        "(a) With 10 evaluations the sliced W2 distance to p(x0 | y) of the ODE solver of order 2 is at most 1.05 "
        "times that of posterior sampling with 100, and (b) the same with 5 evaluations; (c) the SDE solver of order 2 "
        "with 10 evaluations is nearer than posterior sampling with 20. Control: Euler-Maruyama on the reverse SDE "
        "with 10 evaluations must be at least twice as far as posterior sampling with 100."
    ),
)

SCHEDULE = IRSDE(std=0.3)
LAST = 0.01


def run(seeds: Sequence[int]) -> Result:
    def reached(seed: int, solver: TableSolver, steps: int, grid: Callable[..., Tensor] = uniform_time) -> float:
        problem = restoration(seed)
        return problem.distance(problem.sampled(SCHEDULE, solver, grid(SCHEDULE, steps, end=LAST)))

    def ours(steps: int, eta: float, grid: Callable[..., Tensor] = uniform_time) -> list[float]:
        return [reached(seed, table_solver(data_table, order=2, eta=eta), steps, grid) for seed in seeds]

    def euler(seed: int) -> float:
        problem = restoration(seed)
        grid = uniform_time(SCHEDULE, 10, end=LAST)
        z = predictor_corrector(problem.around(problem.observed, SCHEDULE), SCHEDULE, grid, Noise(seed, range(COUNT)))
        return problem.distance(problem.observed + z)

    ode = {steps: ours(steps, 0.0) for steps in (5, 10)}
    sde = {steps: ours(steps, 1.0) for steps in (5, 10)}
    ancestral = {steps: [reached(seed, ddim(1.0), steps) for seed in seeds] for steps in (10, 20, 50, 100)}
    equal = {steps: [matched(d, ancestral, i) / steps for i, d in enumerate(ode[steps])] for steps in (5, 10)}
    control = [euler(seed) for seed in seeds]
    target = median(ancestral[100])
    return Result(
        verdict(
            [
                median(ode[10]) <= 1.05 * target,
                median(ode[5]) <= 1.05 * target,
                median(sde[10]) < median(ancestral[20]),
            ],
            [median(control) >= 2 * target],
        ),
        {
            **{f"distance, MRS-ODE-2, {steps} evaluations": values for steps, values in ode.items()},
            **{f"distance, MRS-SDE-2, {steps} evaluations": values for steps, values in sde.items()},
            **{f"distance, posterior sampling, {steps} evaluations": values for steps, values in ancestral.items()},
            **{f"times fewer than posterior sampling, {steps} evaluations": values for steps, values in equal.items()},
            "distance, Euler-Maruyama, 10 evaluations (control)": control,
            "distance, MRS-ODE-2, 10 evaluations uniform in log-SNR": ours(10, 0.0, uniform_log_snr),
            "distance, DPM-Solver++(2M), the same": [reached(seed, dpmpp(2), 10, uniform_log_snr) for seed in seeds],
            "distance between two draws of p(x0 | y)": [restoration(seed).floor() for seed in seeds],
        },
        notes=(
            "Exact denoiser, cosine rate, lambda = 0.3 where y - x0 has deviation 0.7; data prediction. All steps are "
            "uniform in time, as published, but for two figures that are not judged. Nor is how many times fewer: the "
            "evaluations with which posterior sampling reaches the distance of MRS-ODE-2, over those of the latter."
        ),
    )


def matched(distance: float, ancestral: Mapping[int, Sequence[float]], i: int) -> float:
    """The evaluations at which posterior sampling has this distance for seed i, by a power law between runs."""
    steps = sorted(ancestral)
    logs = [math.log(ancestral[n][i]) for n in reversed(steps)]
    return math.exp(float(np.interp(math.log(distance), logs, [math.log(n) for n in reversed(steps)])))
