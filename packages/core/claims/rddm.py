"""RDDM: residual and noise are removed along any path."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from degauss.core import Noise, simulate
from degauss.core.claims import Claim, Result
from degauss.core.grid import uniform_time
from degauss.core.process.residual import RDDM, rddm

from ._problem import DIM, DOUBLE, median, rate, verdict
from ._process import COUNT, restoration

CLAIM = Claim(
    paper=(
        "Liu, Wang, Fan, Wang, Tang and Qu 2024, Residual Denoising Diffusion Models (partially path-independent "
        "generation)"
    ),
    statement=(
        "Where the networks are told the amounts of residual and noise instead of the step, the deterministic sampler "
        "is (partially) independent of the path: other schedules of the two at test time give the same samples."
    ),
    expected=(
        "For three schedules other than the trained one: (a) with 640 steps the samples are within 0.02 spreads of "
        "the trained schedule's (median distance over the samples), and (b) the gap falls with order 1, within 0.25; "
        "(c) with 20 steps their sliced W2 distance to p(x0 | y) is at most 1.5 times the trained schedule's. Control: "
        "with the step instead of the amounts told, the samples must be more than 0.1 spreads away."
    ),
)

SCALE, NOISE_END = 0.4, 1.0
# Trajectories compared one by one; distances between laws take COUNT.
FEW = 512
TRAINED = RDDM(1.0, 1.0, NOISE_END)
OTHERS = {
    "both even": RDDM(0.0, 0.0, NOISE_END),
    "residual first": RDDM(0.0, 3.0, NOISE_END),
    "noise first": RDDM(3.0, 0.0, NOISE_END),
}


@cache
def along(path: RDDM, told: RDDM, seed: int, steps: int, count: int) -> Tensor:
    """The deterministic sampler on one schedule, its denoiser told the amounts of another at the same t."""
    problem, noise = restoration(seed, SCALE), Noise(seed, range(count))
    z = NOISE_END * noise.normal(torch.empty(count, DIM, dtype=DOUBLE))
    kernel = rddm()(problem.around(problem.observed, told), path)
    return problem.observed + simulate(kernel, z, uniform_time(path, steps), noise)


def run(seeds: Sequence[int]) -> Result:
    def gap(path: RDDM, told: RDDM, seed: int, steps: int) -> float:
        difference = along(path, told, seed, steps, FEW) - along(TRAINED, TRAINED, seed, steps, FEW)
        return float(difference.norm(dim=1).median()) / (restoration(seed, SCALE).spread() * DIM**0.5)

    def distances(path: RDDM) -> list[float]:
        return [restoration(seed, SCALE).distance(along(path, path, seed, 20, COUNT)) for seed in seeds]

    fine = {name: [gap(path, path, seed, 640) for seed in seeds] for name, path in OTHERS.items()}
    orders = {
        name: [rate(gap(path, path, seed, 320), gap(path, path, seed, 640), 2) for seed in seeds]
        for name, path in OTHERS.items()
    }
    few = {name: distances(path) for name, path in OTHERS.items()}
    trained = distances(TRAINED)
    control = {name: [gap(path, TRAINED, seed, 640) for seed in seeds] for name, path in OTHERS.items()}
    return Result(
        verdict(
            [
                all(median(values) <= 0.02 for values in fine.values()),
                all(abs(median(values) - 1) <= 0.25 for values in orders.values()),
                all(median(values) <= 1.5 * median(trained) for values in few.values()),
            ],
            [median(values) > 0.1 for values in control.values()],
        ),
        {
            **{f"gap in spreads, 640 steps, {name}": values for name, values in fine.items()},
            **{f"order of the gap, {name}": values for name, values in orders.items()},
            "distance, 20 steps, trained schedule": trained,
            **{f"distance, 20 steps, {name}": values for name, values in few.items()},
            **{f"gap in spreads, told the step, {name} (control)": values for name, values in control.items()},
        },
        notes=(
            "Exact denoiser, noise 1 at the end. In x / alpha the sampler's ODE depends on sigma / alpha alone, hence "
            "paths of any shape meet where both ends are shared. "
            "Residual first: rates (1, t^3); noise first: (4 (1 - t)^3, 1); trained: (2 (1 - t), 2 t)."
        ),
    )
