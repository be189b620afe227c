"""The analytic first step: one evaluation saved where the data hardly show through the noise."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from degauss.core import Noise, simulate
from degauss.core.claims import Claim, Result
from degauss.core.gaussian import dpmpp, unipc
from degauss.core.gaussian.first_step import AnalyticFirstStep
from degauss.core.gaussian.teacher import trajectory
from degauss.core.grid import uniform_log_snr

from ._problem import BATCH, DIM, DOUBLE, SCHEDULE, SIGMA_MAX, SIGMA_MIN, Solver, median, mixture, start, verdict

CLAIM = Claim(
    paper="Dockhorn, Vahdat and Kreis 2022, GENIE (section 3, analytical first step; table 1)",
    statement=(
        "At the highest noise the score is nearly that of a Gaussian, so the first step can use this one in place of "
        "the network; the evaluation saved is better spent on a further step when there are few."
    ),
    expected=(
        "Started at sigma = 40, with the mean and standard deviation of 256 data: (a) on one grid of 10 steps the "
        "first step moves the ends by less than a tenth of the error of 2M; (b) with 5 and with 10 evaluations, for "
        "2M and UniPC-2, the error is lower than without it for every seed. Control: started at sigma = 2, the "
        "first step must raise the error of 2M in 10 steps by half or more."
    ),
)


def run(seeds: Sequence[int]) -> Result:
    figures: dict[str, list[float]] = {}
    parts: list[bool] = []
    solvers: dict[str, Solver] = {"2M": dpmpp(2), "UniPC-2": unipc(2)}
    for evaluations in (5, 10):
        for name, solver in solvers.items():
            plain = [error(solver, seed, evaluations, SIGMA_MAX) for seed in seeds]
            analytic = [error(with_prior(solver, seed), seed, evaluations + 1, SIGMA_MAX) for seed in seeds]
            figures[f"{evaluations} evaluations, {name}"] = plain
            figures[f"{evaluations} evaluations, {name} with the analytic first step"] = analytic
            parts.append(all(a < b for a, b in zip(analytic, plain, strict=True)))
    own = figures["10 evaluations, 2M"]
    moved = [float((end(with_prior(dpmpp(2), s), s) - end(dpmpp(2), s)).norm(dim=1).median()) for s in seeds]
    figures["10 steps of 2M, how far the analytic first step moves the end"] = moved
    late = [error(dpmpp(2), seed, 10, 2.0) for seed in seeds]
    spoilt = [error(with_prior(dpmpp(2), seed), seed, 10, 2.0) for seed in seeds]
    figures["10 steps from sigma = 2, 2M"] = late
    figures["10 steps from sigma = 2, 2M with the analytic first step (control)"] = spoilt
    return Result(verdict([median(moved) < 0.1 * median(own), *parts], [median(spoilt) >= 1.5 * median(late)]), figures)


def with_prior(solver: Solver, seed: int) -> AnalyticFirstStep:
    """A prior with each coordinate's mean and standard deviation in 256 data."""
    data = mixture(seed).draw(Noise(5000 + seed, range(256)))
    return AnalyticFirstStep(solver, data.mean(0), data.std(0))


def begin(seed: int, sigma: float) -> Tensor:
    """Exact states at a noise level; pure noise at the highest."""
    if sigma == SIGMA_MAX:
        return start(seed)
    noise = Noise(seed, range(BATCH))
    return mixture(seed).draw(noise) + sigma * noise.normal(torch.empty(BATCH, DIM, dtype=DOUBLE), draw=1)


def grid(steps: int, sigma: float) -> Tensor:
    """Even in log-SNR from a noise level."""
    return uniform_log_snr(SCHEDULE, steps, start=sigma / SIGMA_MAX, end=SIGMA_MIN / SIGMA_MAX)


def end(solver: Solver, seed: int, steps: int = 10, sigma: float = SIGMA_MAX) -> Tensor:
    """Where a solver ends."""
    kernel = solver(mixture(seed), SCHEDULE)
    return simulate(kernel, begin(seed, sigma), grid(steps, sigma), Noise(seed, range(BATCH)))


def error(solver: Solver, seed: int, steps: int, sigma: float) -> float:
    """The median distance from the end of 2000 steps of UniPC-3."""
    exact = trajectory(mixture(seed), SCHEDULE, begin(seed, sigma), grid(10, sigma), pieces=200)[-1]
    return float((end(solver, seed, steps, sigma) - exact).norm(dim=1).median())
