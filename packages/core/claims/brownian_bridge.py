"""BBDM: a bridge from the observation to the data."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from degauss.core import Noise, simulate
from degauss.core.claims import Claim, Result
from degauss.core.gaussian import ddim
from degauss.core.process.bridge import BrownianBridge, bbdm

from ._problem import DIM, DOUBLE, median, verdict
from ._process import COUNT, restoration, spread

CLAIM = Claim(
    paper=(
        "Li, Xue, Liu and Lai 2023, BBDM: Image-to-Image Translation with Brownian Bridge Diffusion Models "
        "(accelerated sampling; ablations on the number of steps and on the variance)"
    ),
    statement=(
        "Sampling from the observation, quality improves fast up to about 200 steps and hardly beyond; and the "
        "bridge's variance S sets the diversity of the samples."
    ),
    expected=(
        "(a) From 20 to 200 steps the sliced W2 distance to p(x0 | y) at least halves; (b) from 200 to 1000 it falls "
        "by less than a tenth of its value at 20; (c) with 200 steps the spread of the samples with S = 4 is at least "
        "1.05 times that with S = 0.25. Control: without the noise that the first step injects (the ODE from x = y at "
        "m = 0.999) the spread must be below 1e-6 of that of p(x0 | y)."
    ),
)

SCALE = 0.4


def uniform(steps: int) -> Tensor:
    return torch.linspace(1, 0, steps + 1, dtype=DOUBLE)


def run(seeds: Sequence[int]) -> Result:
    def drawn(seed: int, grid: Tensor, variance: float = 1.0) -> Tensor:
        return restoration(seed, SCALE).sampled(BrownianBridge(variance), bbdm(), grid)

    def distance(seed: int, grid: Tensor) -> float:
        return restoration(seed, SCALE).distance(drawn(seed, grid))

    def collapsed(seed: int) -> float:
        problem, schedule = restoration(seed, SCALE), BrownianBridge()
        kernel = ddim()(problem.around(problem.observed, schedule), schedule)
        grid = torch.linspace(0.999, 0, 101, dtype=DOUBLE)
        z = simulate(kernel, torch.zeros(COUNT, DIM, dtype=DOUBLE), grid, Noise(seed, range(COUNT)))
        return spread(z) / problem.spread()

    def relative_spread(seed: int, variance: float) -> float:
        return spread(drawn(seed, uniform(200), variance)) / restoration(seed, SCALE).spread()

    reached = {steps: [distance(seed, uniform(steps)) for seed in seeds] for steps in (20, 200, 1000)}
    quadratic = [distance(seed, uniform(20) ** 2) for seed in seeds]
    diversity = {variance: [relative_spread(seed, variance) for seed in seeds] for variance in (0.25, 1.0, 4.0)}
    control = [collapsed(seed) for seed in seeds]
    few, some, many = (median(reached[steps]) for steps in (20, 200, 1000))
    return Result(
        verdict(
            [some <= 0.5 * few, some - many < 0.1 * few, median(diversity[4.0]) >= 1.05 * median(diversity[0.25])],
            [max(control) < 1e-6],
        ),
        {
            **{f"distance, {steps} steps": values for steps, values in reached.items()},
            "distance, 20 steps at times (i / 20)^2": quadratic,
            **{f"spread over that of p(x0 | y), 200 steps, S = {s:g}": values for s, values in diversity.items()},
            "spread without injected noise (control)": control,
            "distance between two draws of p(x0 | y)": [restoration(seed, SCALE).floor() for seed in seeds],
        },
        notes=(
            "Exact denoiser, S = 1 unless said, steps uniform in m as published. With an exact denoiser the law of the "
            "samples tends to p(x0 | y) for every S: what S changes is how much of it a finite number of steps loses. "
            "Quadratic times, not judged, follow the noise down to the data."
        ),
    )
