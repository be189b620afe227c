"""W2SD: reflection between a strong and a weak model, and what it is worth beside autoguidance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from degauss.core import LinearVP, Noise, simulate
from degauss.core.claims import Claim, Result
from degauss.core.gaussian import ddim
from degauss.core.grid import uniform_log_snr
from degauss.core.guide.auto import Reflected, autoguidance
from degauss.core.oracle import MixtureOracle

from ._classes import below
from ._problem import verdict

CLAIM = Claim(
    paper="Bai et al. 2025, Weak-to-Strong Diffusion with Reflection (algorithm 1, sections 3.2 and 4.1)",
    statement=(
        "Reflecting each state, down with the strong and back up with the weak model, brings samples nearer to the "
        "data than the strong model does, for whatever reason the weak one is weaker; the evaluations alone do not "
        "explain it."
    ),
    expected=(
        "two modes on a line, 50 DDIM steps; strong and weak model differ in the weights of the modes (0.65 and 0.8, "
        "data 0.5), or in blur (variances 0.1 and 0.3 added): (a, b) W2 to the data is below 80 % of the strong "
        "model's in each case, and (c, d) below that of the strong model with three times the steps, for every seed. "
        "Control: with weak and strong exchanged it is worse than the weak model alone."
    ),
)

VP = LinearVP()
COUNT, STEPS = 2000, 50


def run(seeds: Sequence[int]) -> Result:
    figures: dict[str, list[float]] = {}
    parts: list[bool] = []
    controls: list[bool] = []
    late: list[bool] = []
    for case, (strong, weak) in {
        "weights": (model(0.65), model(0.8)),
        "blur": (model(0.5, 0.1), model(0.5, 0.3)),
    }.items():
        reflected = [distance(Reflected(strong, VP, weak, ddim()), seed) for seed in seeds]
        alone = [distance(ddim()(strong, VP), seed) for seed in seeds]
        longer = [distance(ddim()(strong, VP), seed, 3 * STEPS) for seed in seeds]
        weaker = [distance(ddim()(weak, VP), seed) for seed in seeds]
        swapped = [distance(Reflected(weak, VP, strong, ddim()), seed) for seed in seeds]
        auto = [distance(ddim()(autoguidance(strong, weak, 2.0), VP), seed) for seed in seeds]
        parts.append(below(reflected, alone, 0.8))
        late.append(below(reflected, longer))
        controls.append(below(weaker, swapped))
        figures |= {
            f"W2, {case}, strong": alone,
            f"W2, {case}, weak": weaker,
            f"W2, {case}, strong with three times the steps": longer,
            f"W2, {case}, W2SD": reflected,
            f"W2, {case}, W2SD with the two exchanged (control)": swapped,
            f"W2, {case}, autoguidance of scale 2, two evaluations a step": auto,
        }
    return Result(verdict([*parts, *late], controls), figures)


def model(weight: float, blur: float = 0.0) -> MixtureOracle:
    """Modes at 2 and -2 of standard deviation 0.3; ``weight`` is that of the first."""
    means = torch.tensor([[2.0], [-2.0]], dtype=torch.float64)
    covariances = torch.full((2, 1, 1), 0.09 + blur, dtype=torch.float64)
    return MixtureOracle(VP, torch.tensor([weight, 1 - weight], dtype=torch.float64), means, covariances)


def distance(kernel: Any, seed: int, steps: int = STEPS) -> float:
    """W2 between samples and data on the line: the distance of their sorted values."""
    noise = Noise(seed, range(COUNT))
    x = noise.normal(torch.empty(COUNT, 1, dtype=torch.float64))
    x = simulate(kernel, x, uniform_log_snr(VP, steps, end=1e-3), noise)
    return float((x.flatten().sort().values - quantiles()).square().mean().sqrt())


def quantiles() -> Tensor:
    """The data's quantiles at the middles of COUNT equal shares, by inverting the distribution function."""
    x = torch.linspace(-4, 4, 200001, dtype=torch.float64)
    normal = torch.distributions.Normal(0.0, 0.3)
    cdf = 0.5 * (normal.cdf(x - 2) + normal.cdf(x + 2))
    shares = (torch.arange(COUNT, dtype=torch.float64) + 0.5) / COUNT
    return x[torch.searchsorted(cdf, shares)]
