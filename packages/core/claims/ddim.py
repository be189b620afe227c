"""DDIM: a first-order solver of the probability-flow ODE, one end of a family whose other end is DDPM."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from degauss.core import LinearVP, Noise, simulate
from degauss.core.claims import Claim, Result
from degauss.core.gaussian import ddim
from degauss.core.gaussian.exponential import ddim_table
from degauss.core.grid import uniform_time

from ._problem import DIM, DOUBLE, median, mixture, order, sliced_distance, verdict

CLAIM = Claim(
    paper="Song, Meng and Ermon 2021, Denoising Diffusion Implicit Models (eq. 12, section 4.3, table 1)",
    statement=(
        "DDIM is an Euler step of an ODE; with eta = 1 the same formula is DDPM's ancestral sampler; and at "
        "few steps eta = 0 gives better samples than eta = 1."
    ),
    expected=(
        "(a) order of convergence within 0.15 of 1; (b) with eta = 1 the coefficients are those of the "
        "posterior of Ho et al. 2020, eq. 7, to 1e-9; (c) at 10 and at 50 steps the sliced W2 distance to "
        "the data is smaller with eta = 0 than with eta = 1 for every seed. Control: the coefficients with "
        "eta = 0.5 must differ from DDPM's by more than 1e-2."
    ),
)

VP = LinearVP()
COUNT = 2048


def run(seeds: Sequence[int]) -> Result:
    orders = [order(ddim(), seed, 160, 320) for seed in seeds]
    same, other = distance_from_ddpm(eta=1.0), distance_from_ddpm(eta=0.5)
    floor = [sliced_distance(data(seed), data(seed, key=6000)) for seed in seeds]
    reached = {
        (steps, eta): [sliced_distance(drawn(seed, steps, eta), data(seed)) for seed in seeds]
        for steps in (10, 50)
        for eta in (0.0, 1.0)
    }
    better = [all(a < b for a, b in zip(reached[steps, 0.0], reached[steps, 1.0], strict=True)) for steps in (10, 50)]
    return Result(
        verdict([abs(median(orders) - 1) <= 0.15, same <= 1e-9, *better], [other > 1e-2]),
        {
            "order": orders,
            "eta = 1: largest difference from DDPM's coefficients": [same],
            "eta = 0.5: the same (control)": [other],
            **{f"distance to the data, {n} steps, eta = {eta:g}": v for (n, eta), v in reached.items()},
            "distance between two draws of the data": floor,
        },
    )


def distance_from_ddpm(eta: float) -> float:
    """The largest difference between DDIM's coefficients and those of q(x_s | x_t, x0), on 30 times."""
    grid = uniform_time(VP, 30, end=1e-3)
    alpha_bar = (VP(grid).alpha ** 2).tolist()
    gap = 0.0
    rows = ddim_table(VP, grid, eta=eta).rows
    for row, now, then in zip(rows, alpha_bar, alpha_bar[1:], strict=False):
        beta = 1 - now / then
        on_x = math.sqrt(now / then) * (1 - then) / (1 - now)
        on_x0 = math.sqrt(then) * beta / (1 - now)
        std = math.sqrt(beta * (1 - then) / (1 - now))
        gap = max(gap, abs(row.state - on_x), abs(row.weights[0] - on_x0), abs(row.noise - std))
    return gap


def data(seed: int, key: int = 5000) -> Tensor:
    """Exact samples of the data."""
    return mixture(seed, VP).draw(Noise(key + seed, range(COUNT)))


def drawn(seed: int, steps: int, eta: float) -> Tensor:
    """Samples by DDIM on uniform times."""
    noise = Noise(seed, range(COUNT))
    x = noise.normal(torch.empty(COUNT, DIM, dtype=DOUBLE))
    return simulate(ddim(eta)(mixture(seed, VP), VP), x, uniform_time(VP, steps, end=1e-3), noise)
