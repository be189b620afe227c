"""What the claim about magnetic resonance measures on: slices of a brain that no prior has seen, and a real k-space.

The measured k-space of eight coils has an eighth of its samples, a Poisson disc around a full middle of 24 x 24, and no
truth. Its middle 128 x 96 hold a quarter of their samples, at pixels of 1.8 mm, which the prior knows. A tenth of those
outside the middle is kept back: what a reconstruction from the rest says of them is a test that needs no truth.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from degauss.core.inverse import ISOTROPIC_COMPLEX, Measurement, TotalVariation, inner
from degauss.core.noise import Noise
from degauss.medical import datasets
from degauss.medical.mri import CartesianMRI, channels, random_lines
from degauss.medical.scans import MRIGeometry, Scan, from_kspace
from degauss.medical.simulation import simulate_mri
from degauss.medical.volumes import Volume
from degauss.medical.wavelets import COMPLEX, Wavelets, WaveletSparsity

FIELD = 224.0  # mm, the side of the field of view
APART = 8  # slices of 3 mm
CENTRE = 0.08  # the share of lines in the middle that are always measured
PHASE = 0.5  # radians
MIDDLE = (24, 24)
SHAPE, KSPACE_FIELD = (128, 96), (230.0, 180.0)
HELD_OUT = 0.1
ITERATIONS = 100

Solve = Callable[[Measurement], Tensor]


# --- retrospective ------------------------------------------------------------------------------------------


def brain(size: int) -> Volume:
    """Three slices of a T1 that no prior has seen, ``size`` x ``size``."""
    return _three(datasets.oasis_t1(), size, 0.6)


def tuning_head(size: int) -> Volume:
    """Three slices of another T1, from the quarter at the top that the prior was held out from."""
    t1 = datasets.stroke("T1")
    return _three(t1.cropped(range(len(t1.data) - 48, len(t1.data))), size, 0.5)


def _three(volume: Volume, size: int, place: float) -> Volume:
    """Slices 24 mm (or as far as there is room) apart, around a ``place`` from the feet, 0, to the head, 1."""
    side = FIELD / size
    whole = volume.resampled((3.0, side, side), (round(len(volume.data) * volume.spacing[0] / 3), size, size)).data
    middle, step = round(place * len(whole)), min(APART, len(whole) // 4)
    chosen = whole[[middle - step, middle, middle + step]]
    return Volume.upright(chosen, (3.0 * step, side, side), "arbitrary")


def scan_of(volume: Volume, acceleration: float, seed: int) -> Scan:
    """One coil, exact, of random lines and with a smooth phase that follow from the seed."""
    mask = random_lines(volume.data.shape[2], acceleration, CENTRE, Noise(seed, range(1)).fork(1))[0, 0]
    return simulate_mri(volume, mask, phase=PHASE, seed=seed, truth=True)


def sparse(levels: int, strength: float, measurement: Measurement) -> Tensor:
    """Slices that are sparse in wavelets over some scales, x ``[slices, 2, rows, columns]``."""
    return WaveletSparsity(strength, Wavelets("db4", levels), COMPLEX, ITERATIONS)(measurement).x[0]


def smooth(strength: float, measurement: Measurement) -> Tensor:
    """Slices of small total variation, likewise."""
    return TotalVariation(strength, (-2, -1), (1.0, 1.0), ISOTROPIC_COMPLEX, iterations=ITERATIONS)(measurement).x[0]


SPARSE: dict[str, dict[str, Solve]] = {
    "wavelets": {
        f"scales {levels}, strength {strength:g}": partial(sparse, levels, strength)
        for levels in (1, 2, 3)
        for strength in (0.03, 0.01, 0.003, 0.001, 0.0003)
    },
    "TV": {f"strength {strength:g}": partial(smooth, strength) for strength in (0.03, 0.01, 0.003, 0.001, 0.0003)},
}
"""What knows no prior, and the settings that each may choose from."""


# --- measured -----------------------------------------------------------------------------------------------


class Kept(NamedTuple):
    """A scan of most of the measured samples, and those that it was not given."""

    scan: Scan
    held_out: CartesianMRI
    y: Tensor

    def residual(self, x: Tensor) -> float:
        """|y - A x| / |y| on the samples held out, of x ``[1, 2, rows, columns]`` in prior units."""
        left = self.y - self.held_out(x[None] * self.scan.full)
        return float((inner(left, left) / inner(self.y, self.y)).sqrt())

    @property
    def noise(self) -> float:
        """What noise alone leaves of it, for the true image."""
        count = float(self.held_out.mask.sum()) * 2 * self.y.shape[-4]
        return float(self.scan.sigma * count**0.5 / self.y.double().norm())


def measured(seed: int) -> Kept:
    """The real k-space, without a tenth of its samples outside the middle, which the seed chooses."""
    whole = datasets.brain_kspace()
    noise = from_kspace(whole, centre=MIDDLE).sigma
    top, left = ((size - part) // 2 for size, part in zip(whole.shape[-2:], SHAPE, strict=True))
    kspace = whole[:, top : top + SHAPE[0], left : left + SHAPE[1]]
    there = (kspace != 0).any(0)
    away = torch.ones_like(there)
    a, b = (size // 2 - part // 2 for size, part in zip(SHAPE, MIDDLE, strict=True))
    away[a : a + MIDDLE[0], b : b + MIDDLE[1]] = False
    picked = Noise(seed, range(1)).uniform(torch.empty(1, *SHAPE))[0] < HELD_OUT
    held_out = there & away & picked
    spacing = (5.0, KSPACE_FIELD[0] / SHAPE[0], KSPACE_FIELD[1] / SHAPE[1])
    scan = from_kspace(kspace, there & ~held_out, spacing=spacing, centre=MIDDLE, sigma=noise)
    assert isinstance(scan.geometry, MRIGeometry)
    y = channels(kspace * held_out)[None, None]
    return Kept(scan, CartesianMRI(held_out.float(), scan.geometry.sensitivities), y)
