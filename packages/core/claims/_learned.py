r"""What the claims on fitted solvers share: two mixtures, noise for fitting and other noise for measuring.

The overlapping mixture is that of the other solver claims. The separated one has five components of standard
deviation 1/2 whose means are 4 times standard normal, so that a trajectory decides early where it ends, and one that
decides otherwise than the exact flow is lost: errors are medians over trajectories. Everything is fitted on 16
trajectories and measured on 64 others, against the exact flow (Runge-Kutta) or 3000 steps of UniPC-3.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from degauss.core import Denoiser, Noise, Point, Schedule, simulate
from degauss.core.gaussian.teacher import end_errors, refine, trajectory
from degauss.core.gaussian.unipc import unipc
from degauss.core.oracle import MixtureOracle

from ._problem import BATCH, DIM, DOUBLE, SCHEDULE, SIGMA_MAX, Solver, flow, log_grid, mixture, start

FITTED = range(1000, 1016)
MIXTURES = ("overlapping", "separated")


@cache
def separated(seed: int, schedule: Schedule = SCHEDULE) -> MixtureOracle:
    """Five round components far apart."""
    means = 4 * Noise(1000 + seed, range(5)).normal(torch.empty(5, DIM, dtype=DOUBLE))
    covariances = 0.25 * torch.eye(DIM, dtype=DOUBLE).repeat(5, 1, 1)
    return MixtureOracle(schedule, torch.ones(5, dtype=DOUBLE), means, covariances)


def data(name: str, seed: int) -> MixtureOracle:
    """One of the two mixtures."""
    return separated(seed) if name == "separated" else mixture(seed)


def fitting_start(seed: int) -> Tensor:
    """The 16 starts that solvers are fitted on, ``[16, 8]``: none of those of ``start``."""
    return SIGMA_MAX * Noise(seed, FITTED).normal(torch.empty(len(FITTED), DIM, dtype=DOUBLE))


@cache
def reached(name: str, seed: int) -> Tensor:
    """Where the exact flow takes ``start(seed)``."""
    if name == "overlapping":
        return flow(seed)
    fine = refine(SCHEDULE, log_grid(10), 300)
    return simulate(unipc()(separated(seed), SCHEDULE), start(seed), fine, Noise(seed, range(BATCH)))


def held_out(solver: Solver, name: str, seed: int, grid: Tensor) -> float:
    """The median distance from the exact flow on the 64 starts that were not fitted on."""
    errors = end_errors(solver, data(name, seed), SCHEDULE, start(seed), grid, teacher=reached(name, seed)[None])
    return float(errors.median()) * DIM**0.5


def published_olss(denoiser: Denoiser[Point], x: Tensor, grid: Tensor) -> list[np.ndarray[Any, Any]]:
    """OLSS as published: weights on (x_0, eps_0, ..., eps_i), least squares on the teacher's own noises."""
    states = trajectory(denoiser, SCHEDULE, x, grid)
    eps = [(y - denoiser(y, t).mean) / SCHEDULE(t).sigma for y, t in zip(states[:-1], grid[:-1], strict=True)]
    rows: list[np.ndarray[Any, Any]] = []
    for i in range(len(eps)):
        features = torch.stack([x.flatten(), *(value.flatten() for value in eps[: i + 1])], 1)
        rows.append(np.linalg.lstsq(features.numpy(), states[i + 1].flatten().numpy())[0])
    return rows


def published_run(denoiser: Denoiser[Point], x: Tensor, grid: Tensor, rows: Sequence[np.ndarray[Any, Any]]) -> Tensor:
    """Sample with such weights: the noises are now those of the sampler's own states."""
    first, eps = x, list[Tensor]()
    for row, t in zip(rows, grid, strict=False):
        eps.append((x - denoiser(x, t).mean) / SCHEDULE(t).sigma)
        x = row[0] * first + sum(weight * value for weight, value in zip(row[1:].tolist(), eps, strict=True))
    return x


def published_error(name: str, seed: int, grid: Tensor) -> float:
    """The median held-out distance of OLSS as published."""
    rows = published_olss(data(name, seed), fitting_start(seed), grid)
    end = published_run(data(name, seed), start(seed), grid, rows)
    return float((end - reached(name, seed)).norm(dim=1).median())
