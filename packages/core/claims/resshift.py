"""ResShift: a short chain from the degraded signal to the clean one."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from degauss.core import LinearVP, Noise, simulate
from degauss.core.claims import Claim, Result
from degauss.core.gaussian import ddim
from degauss.core.grid import uniform_time
from degauss.core.process.residual import ResShift, resshift

from ._problem import DIM, DOUBLE, median, verdict
from ._process import COUNT, restoration

CLAIM = Claim(
    paper=(
        "Yue, Wang and Loy 2023, ResShift: Efficient Diffusion Model for Image Super-resolution by Residual Shifting "
        "(abstract, section 2.2)"
    ),
    statement=(
        "A chain that shifts the residual needs few steps: 15 are about as good as many more, and better than as many "
        "steps of a diffusion model that starts at pure noise."
    ),
    expected=(
        "(a) With 15 steps the sliced W2 distance to p(x0 | y) is at most 1.5 times that with 1000; (b) with 15 steps "
        "it is smaller, for every seed, than that of DDPM's ancestral sampler with 15 steps from pure noise. Control: "
        "with 4 steps it must be above 1.5 times that with 1000."
    ),
)

SCALE, KAPPA = 0.4, 2.0
VP = LinearVP()


def run(seeds: Sequence[int]) -> Result:
    def shifted(seed: int, steps: int, kappa: float = KAPPA, power: float = 0.3) -> float:
        problem, schedule = restoration(seed, SCALE), ResShift.geometric(steps, kappa, power)
        return problem.distance(problem.sampled(schedule, resshift(), uniform_time(schedule, steps)))

    def from_noise(seed: int) -> float:
        problem, noise = restoration(seed, SCALE), Noise(seed, range(COUNT))
        oracle = problem.around(torch.zeros_like(problem.observed), VP)
        x = noise.normal(torch.empty(COUNT, DIM, dtype=DOUBLE))
        return problem.distance(simulate(ddim(1.0)(oracle, VP), x, uniform_time(VP, 15), noise))

    reached = {steps: [shifted(seed, steps) for seed in seeds] for steps in (4, 15, 50, 1000)}
    weak = {kappa: [shifted(seed, 15, kappa=kappa) for seed in seeds] for kappa in (0.5, 8.0)}
    ddpm = [from_noise(seed) for seed in seeds]
    many = 1.5 * median(reached[1000])
    return Result(
        verdict(
            [median(reached[15]) <= many, all(a < b for a, b in zip(reached[15], ddpm, strict=True))],
            [median(reached[4]) > many],
        ),
        {
            **{f"distance, {steps} steps": values for steps, values in reached.items()},
            **{f"distance, 15 steps, kappa = {kappa:g}": values for kappa, values in weak.items()},
            "distance, 15 steps from pure noise": ddpm,
            "distance between two draws of p(x0 | y)": [restoration(seed, SCALE).floor() for seed in seeds],
        },
        notes="Exact denoiser, kappa = 2 and p = 0.3 as published; the other kappas are not judged.",
    )
