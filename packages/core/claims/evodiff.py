"""EVODiff: the weights of a second-order step from the data, to beat fixed ones with few evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from degauss.core import Noise, simulate
from degauss.core.claims import Claim, Result
from degauss.core.gaussian import ddim, dpmpp, unipc
from degauss.core.gaussian.evodiff import EVODiff, published_last
from degauss.core.grid import karras
from degauss.core.oracle import MixtureOracle

from ._problem import (
    BATCH,
    DIM,
    DOUBLE,
    SCHEDULE,
    SIGMA_MAX,
    SIGMA_MIN,
    log_grid,
    median,
    mixture,
    order,
    sliced_distance,
    start,
    verdict,
)

CLAIM = Claim(
    paper=(
        "Li, Chen and Zeng 2025, EVODiff: Entropy-aware Variance Optimized Diffusion Inference (order 2; CIFAR-10 "
        "table: FID 2.78 with 10 evaluations where DPM-Solver++ has 5.10)"
    ),
    statement=(
        "A second-order multistep solver whose weights are set by the data, to lower the conditional variance, is "
        "better than DPM-Solver++(2M) with few evaluations."
    ),
    expected=(
        "As published, with its own last step: a smaller trajectory error than 2M for every seed with (a) 5, (b) 10 "
        "and (c) 20 evaluations, on an overlapping mixture and on one with its means four times as far apart, levels "
        "uniform in log-SNR; (d) with 10 evaluations a smaller sliced W2 distance to the data than 2M on both, for "
        "every seed; (e) without its last step an order of 1.85 or more. Controls: 2M must measure 1.85 or more, and "
        "DDIM must lose to 2M in (b)."
    ),
)

COUNT = 2048
PUBLISHED = partial(EVODiff, last=published_last)
SOLVERS: dict[str, Any] = {
    "EVODiff": PUBLISHED,
    "EVODiff ending with DDIM": EVODiff,
    "2M": dpmpp(2),
    "DDIM": ddim(),
}
PROBLEMS = {"overlapping": 1.0, "apart": 4.0}
COUNTS = (5, 10, 20)


@cache
def problem(seed: int, apart: float) -> MixtureOracle:
    near = mixture(seed)
    return MixtureOracle(SCHEDULE, near.weights, apart * near.means, near.covariances)


@cache
def exact(seed: int, apart: float) -> Tensor:
    kernel = unipc(3)(problem(seed, apart), SCHEDULE)
    return simulate(kernel, start(seed), log_grid(1000), Noise(seed, range(BATCH)))


def gap(name: str, seed: int, apart: float, grid: Tensor) -> float:
    """The median over trajectories of the distance to the exact end."""
    kernel = SOLVERS[name](problem(seed, apart), SCHEDULE)
    x = simulate(kernel, start(seed), grid, Noise(seed, range(BATCH)))
    return float((x - exact(seed, apart)).norm(dim=1).median())


def distance(name: str, seed: int, apart: float) -> float:
    """Sliced W2 from the data of 2048 samples with 10 evaluations."""
    noise = Noise(seed, range(COUNT))
    x = SIGMA_MAX * noise.normal(torch.empty(COUNT, DIM, dtype=DOUBLE))
    x = simulate(SOLVERS[name](problem(seed, apart), SCHEDULE), x, log_grid(10), noise)
    return sliced_distance(x, problem(seed, apart).draw(Noise(5000 + seed, range(COUNT))))


def run(seeds: Sequence[int]) -> Result:
    gaps = {
        (where, steps, name): [gap(name, seed, apart, log_grid(steps)) for seed in seeds]
        for where, apart in PROBLEMS.items()
        for steps in COUNTS
        for name in SOLVERS
    }
    rho = karras(SCHEDULE, 10, sigma_min=SIGMA_MIN, sigma_max=SIGMA_MAX, clean=False)
    on_rho = {name: [gap(name, seed, 1.0, rho) for seed in seeds] for name in SOLVERS}
    distances = {
        (where, name): [distance(name, seed, apart) for seed in seeds]
        for where, apart in PROBLEMS.items()
        for name in ("EVODiff", "EVODiff ending with DDIM", "2M")
    }
    ours, theirs = ([order(solver, seed, 80, 320) for seed in seeds] for solver in (EVODiff, dpmpp(2)))
    wins = [all(below(gaps[w, n, "EVODiff"], gaps[w, n, "2M"]) for w in PROBLEMS) for n in COUNTS]
    closer = all(below(distances[w, "EVODiff"], distances[w, "2M"]) for w in PROBLEMS)
    controls = [below(gaps[w, 10, "2M"], gaps[w, 10, "DDIM"]) for w in PROBLEMS]
    return Result(
        verdict([*wins, closer, median(ours) >= 1.85], [median(theirs) >= 1.85, *controls]),
        {
            **{f"error, {where}, {steps} evaluations, {name}": v for (where, steps, name), v in gaps.items()},
            **{f"error, overlapping, 10 evaluations on rho = 7 levels, {name}": v for name, v in on_rho.items()},
            **{f"distance to the data, {where}, 10 evaluations, {name}": v for (where, name), v in distances.items()},
            "order, EVODiff ending with DDIM": ours,
            "order, 2M (control)": theirs,
        },
        notes=(
            "One set of weights for each sample. FID is not measured here: errors are distances to the exact end of a "
            "trajectory, and between samples and data, in 8 dimensions. The rho = 7 levels are not judged."
        ),
    )


def below(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(a < b for a, b in zip(one, other, strict=True))
