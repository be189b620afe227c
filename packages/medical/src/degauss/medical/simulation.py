r"""Scans of a known volume: sparse-view and limited-angle CT, accelerated and radial MRI, with the scanner's noise.

The volume in prior units x is measured with the operator that will reconstruct it, so what is tested is the method and
not the scanner's model. Randomness is keyed by the seed and the number of the slice: it depends on nothing else.
"""

from __future__ import annotations

import math

import torch

from degauss.core.errors import InputError, check_range
from degauss.core.noise import Noise
from degauss.core.options import Report
from degauss.medical.acquisition import CartesianGeometry, CTGeometry, MRIGeometry, RadialGeometry
from degauss.medical.ct import Tomography, transmission_noise
from degauss.medical.degradations import gaussian_noise
from degauss.medical.geometry import Beam, Grid
from degauss.medical.mri import fourier
from degauss.medical.scans import Scan
from degauss.medical.volumes import CT_FULL, Volume, prior_units

_SLAB = 16


def simulate_ct(
    volume: Volume,
    beam: Beam,
    *,
    photons: float | None = None,
    sigma: float = 0.0,
    seed: int = 0,
    truth: bool = False,
    report: Report | None = None,
) -> Scan:
    """The line integrals of a volume in HU along a beam's rays.

    Noise: the counts of ``photons`` per ray in air, or white noise of ``sigma`` on the integrals (no unit), or none.
    ``truth``: keep x in the scan. ``report``: told of slices done. Raises InputError for a volume that is not in HU.
    """
    if volume.unit != "HU":
        low, high = float(volume.data.min()), float(volume.data.max())
        raise InputError(
            f"CT needs Hounsfield units, but the volume's values, {low:g} to {high:g}, have no unit: if they are, say "
            "so (--unit HU)."
        )
    if photons is not None and sigma:
        raise InputError("The noise of CT is that of photons or a sigma, but both are given.")
    x, _ = prior_units(volume)
    slices, rows, columns = x.shape
    grid = Grid(rows, columns, volume.spacing[1:])
    scanner = Tomography(grid, beam, _SLAB)
    y = torch.empty(slices, *beam.shape)
    variance = 0.0
    for first in range(0, slices, _SLAB):
        part = slice(first, min(first + _SLAB, slices))
        noise = Noise(seed, range(part.start, part.stop))
        clean = scanner(x[part] * CT_FULL)
        if photons is not None:
            y[part] = transmission_noise(clean, photons, noise)
            variance += float(clean.double().exp().clamp_max(photons).sum()) / photons
        else:
            y[part] = gaussian_noise(clean, sigma, noise)
        if report:
            report(part.stop, slices)
    deviation = sigma if photons is None else math.sqrt(variance / y.numel())
    kept = x if truth else None
    geometry = CTGeometry(grid, beam)
    return Scan(y, geometry, deviation, photons, CT_FULL, "HU", slices, volume.place, volume.spacing, kept)


def simulate_mri(
    volume: Volume,
    mask: torch.Tensor,
    *,
    sigma: float = 0.0,
    phase: float = 0.0,
    seed: int = 0,
    truth: bool = False,
) -> Scan:
    """The masked k-space of every slice of a magnitude image, as one coil sees it.

    ``mask``: as in `acquisition.CartesianGeometry`. ``sigma``: white noise on each part of k-space, as a share of
    ``full``. ``phase``: radians; the image gets a smooth phase of this deviation and is complex. At 0 it is real, and
    the scan says so, which is worth measurements: half of k-space follows from the other.
    Raises InputError for a volume in Hounsfield units.
    """
    _, rows, columns = volume.data.shape
    geometry = CartesianGeometry((rows, columns), mask, real=phase == 0)
    return _magnetic(volume, geometry, sigma, phase, seed, truth)


def simulate_radial(
    volume: Volume,
    angles: tuple[float, ...],
    samples: int,
    *,
    sigma: float = 0.0,
    phase: float = 0.0,
    seed: int = 0,
    truth: bool = False,
) -> Scan:
    """The k-space of every slice along spokes at ``angles`` (degrees) of ``samples`` points; else as `simulate_mri`."""
    _, rows, columns = volume.data.shape
    geometry = RadialGeometry((rows, columns), angles, samples, real=phase == 0)
    return _magnetic(volume, geometry, sigma, phase, seed, truth)


def _magnetic(volume: Volume, geometry: MRIGeometry, sigma: float, phase: float, seed: int, truth: bool) -> Scan:
    check_range("sigma", sigma, low=0)
    check_range("phase", phase, low=0, unit="radians")
    if volume.unit == "HU":
        raise InputError("MRI needs an image without Hounsfield units, but the volume is a CT.")
    x, full = prior_units(volume)
    slices, rows, columns = x.shape
    noise = Noise(seed, range(slices))
    if phase:
        angle = phase * smooth_field(rows, columns, Noise(seed, range(1)).fork(0))
        x = torch.stack((x * angle.cos(), x * angle.sin()), dim=-3)
    y = geometry.operator()(full * x[None])[0]
    y = y + sigma * full * geometry.measured * noise.normal(y)
    place, spacing = volume.place, volume.spacing
    return Scan(y, geometry, sigma * full, None, full, "arbitrary", slices, place, spacing, x if truth else None)


def smooth_field(rows: int, columns: int, noise: Noise) -> torch.Tensor:
    """A smooth random field ``[rows, columns]`` of mean 0 and deviation 1: normals of the lowest frequencies only."""
    k = fourier(torch.complex(*noise.normal(torch.empty(1, 2, rows, columns))[0].unbind()))
    y = (torch.arange(rows) - rows // 2)[:, None]
    x = torch.arange(columns) - columns // 2
    low = torch.exp(-(y.square() + x.square()) / 2.0)
    low[rows // 2, columns // 2] = 0
    field = fourier(k * low).real
    return (field - field.mean()) / field.std()
