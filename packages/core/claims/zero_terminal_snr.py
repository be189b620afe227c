r"""Common schedules do not end on pure noise, and what the start of sampling leaves out is brightness.

For data whose D pixels share a brightness b ~ N(0, s^2), x_T along the direction of brightness has variance
alpha_T^2 s^2 D + 1 - alpha_T^2 in training, where the noise alone has 1, but 1 when sampling starts from
N(0, I). The flow of Gaussian data is linear, so the samples keep the fraction

    1 / sqrt(alpha_T^2 s^2 D + 1 - alpha_T^2)

of the brightness' standard deviation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from degauss.core import DiscreteVP, Noise, Schedule, ZeroTerminalSNR, simulate
from degauss.core.claims import Claim, Result
from degauss.core.gaussian import ddim
from degauss.core.grid import uniform_time
from degauss.core.oracle import GaussianOracle
from degauss.core.schedule import quadratic_betas

from ._problem import DOUBLE, median, verdict

CLAIM = Claim(
    paper=(
        "Lin, Liu, Li and Yang 2024, Common Diffusion Noise Schedules and Sample Steps Are Flawed (sections "
        "3.1 and 3.3, algorithm 1)"
    ),
    statement=(
        "A schedule with signal left at its last step makes samples of medium brightness; rescaling it to "
        "zero terminal SNR, and starting to sample at the last step, restores the range."
    ),
    expected=(
        "For the schedule of Stable Diffusion (alpha_T = 0.068), brightness of standard deviation 0.5 and 64 "
        "x 64 values: (a) samples keep less than 0.6 of the standard deviation, (b) within 0.03 of the "
        "closed form; (c) after rescaling they keep 0.95 to 1.05. Control: with the rescaled schedule "
        "started at t = 0.951, the first of 20 steps in the old spacing, they must keep less than 0.9."
    ),
)

PIXELS, BRIGHTNESS, STEPS, COUNT = 64 * 64, 0.5, 1000, 4096
STABLE_DIFFUSION = DiscreteVP.from_betas(quadratic_betas(STEPS, 0.00085, 0.012))


def run(seeds: Sequence[int]) -> Result:
    rescaled = ZeroTerminalSNR(STABLE_DIFFUSION, t_first=1 / STEPS)
    alpha = float(STABLE_DIFFUSION(torch.tensor(1.0)).alpha)
    predicted = 1 / math.sqrt(alpha**2 * BRIGHTNESS**2 * PIXELS + 1 - alpha**2)
    plain = [kept(STABLE_DIFFUSION, seed) for seed in seeds]
    fixed = [kept(rescaled, seed) for seed in seeds]
    control = [kept(rescaled, seed, start=0.951) for seed in seeds]
    return Result(
        verdict(
            [median(plain) < 0.6, abs(median(plain) - predicted) <= 0.03, 0.95 <= median(fixed) <= 1.05],
            [median(control) < 0.9],
        ),
        {
            "alpha at the last step": [alpha],
            "brightness kept, closed form": [predicted],
            "brightness kept, the schedule as it is": plain,
            "brightness kept, rescaled": fixed,
            "brightness kept, rescaled but started at t = 0.951 (control)": control,
        },
        notes="Gaussian data with the exact denoiser; brightness is one coordinate of a rotated basis.",
    )


def kept(schedule: Schedule, seed: int, start: float = 1.0) -> float:
    """The standard deviation of the samples' brightness over that of the data, by DDIM with 1000 steps."""
    spread = BRIGHTNESS * math.sqrt(PIXELS)
    noise = Noise(seed, range(COUNT))
    x = noise.normal(torch.empty(COUNT, 1, dtype=DOUBLE))
    denoiser = GaussianOracle(schedule, std=spread)
    x = simulate(ddim()(denoiser, schedule), x, uniform_time(schedule, STEPS, start=start), noise)
    return float(x.std()) / spread
