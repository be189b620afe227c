"""What the inversion claims share: a mixture in 16 dimensions on the linear VP path, and round trips on it.

Fifty uniform times from t = 1 to 0.001 unless a claim says otherwise. Errors are the largest over 64 trajectories
and all coordinates; the states have about unit size.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from degauss.core import LinearVP, Noise, simulate
from degauss.core.gaussian import unipc
from degauss.core.grid import uniform_log_snr, uniform_time
from degauss.core.inversion.ddim import DDIMInversion
from degauss.core.inversion.edict import EDICT
from degauss.core.inversion.encode import decode, encode
from degauss.core.observe import Last
from degauss.core.oracle import MixtureOracle

SCHEDULE = LinearVP()
DIM, COUNT, END = 16, 64, 1e-3
DOUBLE, SINGLE = torch.float64, torch.float32
ANY = 1e99  # a limit that the precision guard never reaches: these claims measure what it predicts


@cache
def data_law(seed: int) -> MixtureOracle:
    """Five overlapping components with full covariances."""
    noise = Noise(2000 + seed, range(5))
    means = noise.normal(torch.empty(5, DIM, dtype=DOUBLE))
    factors = noise.normal(torch.empty(5, DIM, DIM, dtype=DOUBLE), draw=1)
    covariances = 0.3 * torch.eye(DIM, dtype=DOUBLE) + factors @ factors.transpose(1, 2) / DIM
    return MixtureOracle(SCHEDULE, torch.ones(5, dtype=DOUBLE), means, covariances)


def start(seed: int, dtype: torch.dtype = DOUBLE) -> Tensor:
    """The noise that the trajectories of a seed start from."""
    return Noise(seed, range(COUNT)).normal(torch.empty(COUNT, DIM, dtype=dtype)) * float(SCHEDULE(GRID[0]).sigma)


def times(steps: int) -> Tensor:
    """Uniform times."""
    return uniform_time(SCHEDULE, steps, end=END)


GRID = times(50)


def made(method: Any, seed: int, grid: Tensor = GRID, dtype: torch.dtype = DOUBLE) -> tuple[Tensor, Tensor | None]:
    """The data a sampler makes, and its second state there."""
    last = Last()
    x = start(seed, dtype)
    end = simulate(method(data_law(seed), SCHEDULE), x, grid, Noise(seed, range(COUNT)), observe=(last,))
    if isinstance(method, DDIMInversion):
        return end, None
    return end, last.carry.other if isinstance(method, EDICT) else last.carry.earlier[0]


def retraced(method: Any, seed: int, dtype: torch.dtype = DOUBLE, grid: Tensor = GRID) -> float:
    """Noise to data to noise, with both states at the data: the largest error."""
    end, companion = made(method, seed, grid, dtype)
    latent = encode(data_law(seed), SCHEDULE, end, grid, method, companion=companion, limit=ANY)
    return float((latent.noise - start(seed, dtype)).abs().max())


def restored(method: Any, seed: int, dtype: torch.dtype = DOUBLE, grid: Tensor = GRID) -> float:
    """Data to noise to data, from the data alone: the largest error."""
    data = data_law(seed).draw(Noise(3000 + seed, range(COUNT))).to(dtype)
    latent = encode(data_law(seed), SCHEDULE, data, grid, method, limit=ANY)
    return float((decode(data_law(seed), SCHEDULE, latent, grid, method) - data).abs().max())


@cache
def flow(seed: int) -> Tensor:
    """Where the probability-flow ODE ends, by UniPC-3 in 2000 steps."""
    grid = uniform_log_snr(SCHEDULE, 2000, end=END)
    return simulate(unipc(order=3)(data_law(seed), SCHEDULE), start(seed), grid, Noise(seed, range(COUNT)))


def distance(method: Any, seed: int, steps: int = 50) -> float:
    """The root mean square distance of a sampler's data from the ODE's."""
    return float((made(method, seed, times(steps))[0] - flow(seed)).pow(2).mean().sqrt())
