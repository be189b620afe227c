r"""Filtered back-projection: what the line integrals say where they are many and even.

Parallel rays (Kak & Slaney 1988, ch. 3.3):

    x(p) = integral over theta in [0, pi) of (h * y_theta)(p . u) d theta,

h the ramp |f| cut at the detector's Nyquist frequency, sampled in space and not in frequency, so that the mean is
right: h_0 = 1 / (4 ds^2), h_n = -1 / (pi n ds)^2 for odd n, else 0. A fan of rays to a flat detector (ch. 3.4.2) has
its readings weighted by the cosine of the fan's angle, and its back-projection by the squared ratio of distances.
Back-projection interpolates linearly between the bins at the centre of each pixel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from degauss.core.errors import InputError
from degauss.medical.ct import Tomography
from degauss.medical.geometry import Beam, FanBeam, ParallelBeam
from degauss.medical.joseph import CSR

Window = Literal["ramp", "hann"]
# Numbers of the back-projector that are made at once.
_AT_ONCE = 1 << 21


def filtered_back_projection(scan: Tomography, y: Tensor, window: Window = "ramp") -> Tensor:
    """A volume ``[..., rows, columns]`` from line integrals ``y [..., views, bins]``, in the unit of y per mm.

    ``y`` is not normalised. ``window``: "ramp", or "hann" to damp high frequencies and with them noise. Views count by
    the angle between them; angles that no view covers are left out, as they must be in limited-angle scans.
    Raises `InputError` for a fan whose views leave out a part of the full turn.
    """
    if tuple(y.shape[-2:]) != scan.beam.shape:
        raise InputError(f"The geometry has {scan.beam.shape} views and bins, but the sinogram {tuple(y.shape)}.")
    weights = _weights(scan.beam)
    detector, views = scan.beam.detector, scan.beam.shape[0]
    spacing = detector.spacing
    if isinstance(scan.beam, FanBeam):
        spacing *= scan.beam.source_to_axis / scan.beam.source_to_detector
        y = y * torch.from_numpy(_cosine(scan.beam)).to(y)
    slices = y.reshape(-1, *scan.beam.shape)
    result = y.new_zeros(len(slices), scan.grid.rows * scan.grid.columns)
    at_once = max(1, _AT_ONCE // result.shape[1])
    for view in range(0, views, at_once):
        block = slice(view, min(view + at_once, views))
        matrix = _back_projector(scan, block, weights[block]).to(y.device)
        for first in range(0, len(slices), scan.slab):
            slab = slice(first, first + scan.slab)
            filtered = ramp_filter(slices[slab, block], spacing, window)
            result[slab] += (matrix @ filtered.flatten(1).mT.contiguous()).mT
    return result.reshape(*y.shape[:-2], *scan.grid.shape)


def view_weights(angles: Sequence[float], period: float) -> NDArray[np.float64]:
    """The angle (radians) that each view stands for, ``[views]``: half of the gaps to the views beside it.

    ``period``: degrees after which a view repeats. A gap of more than twice the median is one that nobody measured,
    and counts as the median.
    """
    place = np.asarray(angles, dtype=np.float64) % period
    order = np.argsort(place, kind="stable")
    gaps = np.diff(place[order], append=place[order[0]] + period)
    positive = gaps[gaps > 1e-9]
    middle = np.median(positive)
    gaps = np.where(gaps > 2 * middle, middle, gaps)
    weights = np.empty(len(place))
    weights[order] = (gaps + np.roll(gaps, 1)) / 2
    return np.deg2rad(weights)


def ramp_filter(y: Tensor, spacing: float, window: Window = "ramp") -> Tensor:
    """``y [..., bins]`` convolved with the ramp for bins ``spacing`` mm apart; zero outside. In y's unit per mm."""
    bins = y.shape[-1]
    size = 1 << (2 * bins - 1).bit_length()
    n = torch.arange(-(size // 2), size // 2, dtype=torch.float64).roll(size // 2)
    h = torch.where(n.abs() % 2 == 1, -1 / (math.pi * n * spacing) ** 2, 0)
    h[0] = 1 / (4 * spacing**2)
    response = torch.fft.rfft(h).real * spacing
    if window == "hann":
        response *= 0.5 + 0.5 * torch.cos(math.pi * torch.arange(len(response)) / (size // 2))
    spectrum = torch.fft.rfft(y, size) * response.to(y)
    return torch.fft.irfft(spectrum, size)[..., :bins]


def _weights(beam: Beam) -> NDArray[np.float64]:
    if isinstance(beam, ParallelBeam):
        return view_weights(beam.angles, 180.0)
    weights = view_weights(beam.angles, 360.0)
    if weights.sum() < 2 * math.pi * 0.99:
        covered = np.rad2deg(weights.sum())
        raise InputError(f"A fan needs views of the full turn, but they cover {covered:.0f} degrees.")
    return weights / 2  # every line is seen from both of its ends


def _cosine(beam: FanBeam) -> NDArray[np.float64]:
    """The cosine of the angle between the ray of each bin and the middle one, ``[bins]``."""
    return beam.source_to_detector / np.hypot(beam.source_to_detector, beam.detector.centres())


def _back_projector(scan: Tomography, block: slice, weights: NDArray[np.float64]) -> CSR:
    """Weighted linear interpolation of some views at each pixel: ``[pixels, views in the block * bins]``."""
    beam, detector = scan.beam, scan.beam.detector
    theta = np.deg2rad(np.asarray(beam.angles[block]))
    x, y = np.moveaxis(scan.grid.centres().reshape(-1, 2), 1, 0)[:, :, None]
    place = x * np.cos(theta) + y * np.sin(theta)
    weight = np.broadcast_to(weights, place.shape)
    if isinstance(beam, FanBeam):
        distance = beam.source_to_axis - x * np.sin(theta) + y * np.cos(theta)
        place = place * beam.source_to_detector / distance
        weight = weight * (beam.source_to_axis / distance) ** 2
    bin_ = (place - detector.centres()[0]) / detector.spacing
    lower = np.floor(bin_)
    share = bin_ - lower
    both = np.stack((lower, lower + 1), axis=-1)
    inside = (both >= 0) & (both < detector.bins)
    values = np.stack((1 - share, share), axis=-1) * weight[..., None] * inside
    columns = np.where(inside, both, 0) + np.arange(len(theta))[:, None] * detector.bins
    starts = torch.arange(0, columns.size + 1, 2 * len(theta), dtype=torch.int32)
    indices, numbers = columns.astype(np.int32).ravel(), values.astype(np.float32).ravel()
    return CSR(starts, torch.from_numpy(indices), torch.from_numpy(numbers))
