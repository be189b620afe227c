"""A scan whose posterior is known in closed form, and the prior that knows it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from degauss.core.inverse import Measurement, Normalised
from degauss.core.nets.ncsnpp import NCSNppConfig
from degauss.core.oracle import GaussianOracle
from degauss.core.posterior import Point
from degauss.core.schedule import Schedule
from degauss.medical.ct import Tomography
from degauss.medical.geometry import Grid, ParallelBeam, evenly
from degauss.medical.mri import CartesianMRI, RealImages, even_lines
from degauss.medical.prior import FULL, PriorConfig, SlicePrior
from degauss.medical.problem import Problem

SIZE, SLICES = 16, 3


@dataclass(frozen=True, eq=False)
class GaussianPrior:
    """Slices that are N(mean, std^2), each value by itself, instead of a trained prior. Counts slices asked about."""

    mean: float | Tensor = 0.4
    std: float = 0.2
    asked: list[int] | None = None

    def on_volumes(self, schedule: Schedule, chunk: int = 16) -> Any:
        del chunk
        oracle = GaussianOracle(schedule, self.mean, self.std)

        def answer(x: Tensor, t: Tensor, /, **cond: Any) -> Point:
            assert x.ndim == 4
            if self.asked is not None:
                self.asked.append(x.shape[0] * x.shape[1])
            return oracle(x, t)

        return answer


def phantom() -> Tensor:
    """A volume of smooth blobs that differ from slice to slice, ``[1, slices, rows, columns]`` in [0, 1]."""
    near = torch.linspace(-1, 1, SIZE)
    blobs = [torch.exp(-5 * ((near[:, None] - 0.15 * k) ** 2 + (near[None] + 0.1 * k) ** 2)) for k in range(SLICES)]
    return 0.8 * torch.stack(blobs)[None]


def ct_problem(
    views: int = 6,
    arc: float = 180.0,
    sigma: float = 0.0,
    prior: Any = None,
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> Problem:
    grid = Grid(SIZE, SIZE, spacing[1:])
    scanner = Tomography(grid, ParallelBeam.covering(grid, evenly(views, arc)))
    operator = Normalised(scanner, scanner.norm)
    return Problem(Measurement(operator, operator(phantom()), sigma), (SLICES, SIZE, SIZE), spacing, "ct", prior)


def mr_problem(sigma: float = 0.0, prior: Any = None, *, real: bool = True) -> Problem:
    scanner = CartesianMRI(even_lines(SIZE, 2.0, 0.25))
    if real:
        operator = Normalised(RealImages(scanner), 1.0)
        return Problem(Measurement(operator, operator(phantom()), sigma), (SLICES, SIZE, SIZE), (1, 1, 1), "mr", prior)
    operator, x = Normalised(scanner, 1.0), torch.stack((phantom(), 0.3 * phantom()), dim=-3)
    event = (SLICES, 2, SIZE, SIZE)
    return Problem(Measurement(operator, operator(x), sigma), event, (1, 1, 1), "mr", prior)


def blobs_hu(slices: int = 4, size: int = SIZE) -> Tensor:
    """A body of about water with denser and lighter parts, in air: HU, ``[slices, size, size]``."""
    near = torch.linspace(-1, 1, size)
    y, x = near[:, None], near[None]
    inside = (y**2 + x**2 < 0.7).float()
    bone = (((y - 0.3) ** 2 + x**2) < 0.05).float()
    lung = (((y + 0.2) ** 2 + (x - 0.3) ** 2) < 0.08).float()
    one = -1000 + inside * (1030 + 500 * bone - 700 * lung)
    return torch.stack([one + inside * 40 * k for k in range(slices)])


def save_prior(folder: Path, modality: Literal["ct", "mr"] = "ct", spacing: tuple[float, float] = (1.0, 8.0)) -> Path:
    """A prior with a small network that knows little, saved as 'train-prior' would."""
    network = NCSNppConfig(channels=4, multipliers=(1, 1), attention=False)
    prior = SlicePrior.new(PriorConfig(modality, FULL[modality], network, SIZE, spacing), seed=1)
    generator = torch.Generator().manual_seed(0)
    for weight in prior.network.parameters():
        weight.data += 0.05 * torch.randn(weight.shape, generator=generator)
    prior.save(folder)
    return folder
