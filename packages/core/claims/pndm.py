"""PNDM's multistep part (PLMS): fourth-order weights, and the grids on which they are of fourth order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from degauss.core import Noise
from degauss.core.claims import Claim, Result
from degauss.core.gaussian import ddim, plms
from degauss.core.gaussian.plms import plms_table
from degauss.core.gaussian.table import Carry, TableKernel

from ._problem import (
    BATCH,
    DOUBLE,
    SCHEDULE,
    SIGMA_MAX,
    SIGMA_MIN,
    error,
    flow,
    log_grid,
    median,
    mixture,
    order,
    rate,
    start,
    verdict,
)

CLAIM = Claim(
    paper=("Liu, Ren, Lin and Zhao 2022, Pseudo Numerical Methods for Diffusion Models on Manifolds (section 3)"),
    statement=(
        "The pseudo linear multistep method with the weights (55, -59, 37, -9)/24 carries the fourth-order "
        "Adams-Bashforth method over to diffusion models, and beats DDIM with few evaluations."
    ),
    expected=(
        "(a) it measures at least 3.5 on a grid uniform in log-SNR, with an exact start; (b) on a grid "
        "uniform in sigma/alpha, where its constant step is true; (c) at 10 evaluations its error is smaller "
        "than DDIM's for every seed. Control: DDIM must measure below 1.5 on both grids."
    ),
)

BACK = 3


def run(seeds: Sequence[int]) -> Result:
    on_log = [rate(from_exact_start(seed, 160), from_exact_start(seed, 320), 2) for seed in seeds]
    on_uniform = [order(plms(4), seed, 1280, 2560, uniform_grid) for seed in seeds]
    controls = {
        "log-SNR": [order(ddim(), seed, 160, 320) for seed in seeds],
        "sigma/alpha": [order(ddim(), seed, 640, 1280, uniform_grid) for seed in seeds],
    }
    at_ten = {
        name: [error(solver, seed, log_grid(10)) for seed in seeds]
        for name, solver in {"PLMS-4": plms(4), "DDIM": ddim()}.items()
    }
    better = all(a < b for a, b in zip(at_ten["PLMS-4"], at_ten["DDIM"], strict=True))
    return Result(
        verdict(
            [median(on_log) >= 3.5, median(on_uniform) >= 3.5, better],
            [median(values) < 1.5 for values in controls.values()],
        ),
        {
            "order, grid uniform in log-SNR": on_log,
            "order, grid uniform in sigma/alpha": on_uniform,
            **{f"order of DDIM, grid uniform in {axis} (control)": v for axis, v in controls.items()},
            **{f"error with 10 evaluations, {name}": values for name, values in at_ten.items()},
        },
        notes=(
            "Sampling grids are not uniform in sigma/alpha. Weights for the steps actually taken keep the "
            "order: see deis."
        ),
    )


def uniform_grid(steps: int) -> Tensor:
    """Uniform in sigma."""
    return torch.linspace(1, SIGMA_MIN / SIGMA_MAX, steps + 1, dtype=DOUBLE)


def from_exact_start(seed: int, steps: int) -> float:
    """The error of PLMS-4 on ``log_grid(steps)`` with its first three steps and values exact."""
    denoiser, grid = mixture(seed), log_grid(steps)
    kernel = TableKernel(denoiser, SCHEDULE, lambda schedule, grid: plms_table(schedule, grid, order=4))
    sigmas = (SIGMA_MAX * grid[: BACK + 1]).tolist()
    states = [start(seed), *(flow(seed, sigma, 40) for sigma in sigmas[1:])]
    noises = [
        (x - denoiser(x, t).mean) / sigma for x, t, sigma in zip(states[:BACK], grid[:BACK], sigmas[:BACK], strict=True)
    ]
    carry, x = (
        Carry(kernel.init(states[0], grid).table, torch.unbind(grid), tuple(reversed(noises))),
        states[-1],
    )
    for i in range(BACK, steps):
        carry, x = kernel.step(carry, x, i, Noise(seed, range(BATCH)))
    return float((x - flow(seed)).norm(dim=1).median())
