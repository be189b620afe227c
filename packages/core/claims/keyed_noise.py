"""Noise that is a function of its seed and its place: one Brownian path at every resolution."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from degauss.core import LinearVP, Noise, simulate
from degauss.core.claims import Claim, Result
from degauss.core.gaussian import dpmpp
from degauss.core.grid import uniform_log_snr

from ._problem import DIM, DOUBLE, median, mixture, rate, verdict

CLAIM = Claim(
    paper=(
        "Li, Wong, Chen and Duvenaud 2020, Scalable Gradients for Stochastic Differential Equations (section "
        "4, the virtual Brownian tree); Salmon, Moraes, Dror and Shaw 2011, Parallel Random Numbers: As Easy "
        "as 1, 2, 3"
    ),
    statement=(
        "A Brownian path made by bisection from a splittable, counter-based generator can be asked for at "
        "any resolution without being stored, so refining the steps of an SDE solver converges to the "
        "solution on one path; and the numbers do not depend on how the work is divided."
    ),
    expected=(
        "For SDE-DPM-Solver++(2M) on the mixture, whose noise is additive: (a) the distance between runs of "
        "n and 2n steps falls with order 0.8 or more, (b) to 2% or less of the distance between different "
        "samples at 400 and 800 steps; (c) a batch cut in two gives the same bits. Control: with independent "
        "draws at each step count the distance at 400 and 800 steps must stay above half of that between "
        "different samples."
    ),
)

VP = LinearVP()
BATCH = 128
COUNTS = (100, 200, 400, 800)


def run(seeds: Sequence[int]) -> Result:
    orders: list[float] = []
    gaps: list[float] = []
    independent: list[float] = []
    cuts: list[float] = []
    for seed in seeds:
        whole = Noise(seed, range(BATCH))
        x = whole.normal(torch.empty(BATCH, DIM, dtype=DOUBLE))
        runs = [sampled(seed, x, steps, whole) for steps in COUNTS]
        steps_apart = [apart(a, b) for a, b in pairwise(runs)]
        spread = apart(runs[-1], runs[-1].roll(1, 0))
        orders.append(rate(steps_apart[0], steps_apart[-1], COUNTS[-2] / COUNTS[0]))
        gaps.append(steps_apart[-1] / spread)
        fresh = [sampled(seed, x, steps, Noise(seed + steps, range(BATCH))) for steps in COUNTS[-2:]]
        independent.append(apart(*fresh) / spread)
        half = [slice(0, BATCH // 2), slice(BATCH // 2, BATCH)]
        parts = [sampled(seed, x[rows], COUNTS[0], whole.take(range(BATCH)[rows])) for rows in half]
        cuts.append(float((torch.cat(parts) - runs[0]).abs().max()))
    return Result(
        verdict(
            [median(orders) >= 0.8, median(gaps) <= 0.02, max(cuts) == 0.0],
            [median(independent) > 0.5],
        ),
        {
            "strong order": orders,
            "distance of 400 and 800 steps, over that of two samples": gaps,
            "the same, independent draws (control)": independent,
            "largest difference when the batch is cut in two": cuts,
        },
    )


def sampled(seed: int, x: Tensor, steps: int, noise: Noise) -> Tensor:
    """A run of the SDE from x on the given noise."""
    grid = uniform_log_snr(VP, steps, end=1e-3)
    return simulate(dpmpp(2, eta=1.0)(mixture(seed, VP), VP), x, grid, noise)


def apart(x: Tensor, y: Tensor) -> float:
    """The median distance of two runs of the same samples."""
    return float((x - y).norm(dim=1).median())
