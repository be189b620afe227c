r"""How good a reconstruction is: PSNR and SSIM in the three planes, and how well it explains its scan.

    PSNR = 10 log10(range^2 / mean squared error),    in dB,
    SSIM: Wang et al. 2004, window of 7 x 7 pixels of equal weight, K1 = 0.01, K2 = 0.03 (scikit-image's form),

of every slice of a plane, then the mean over its slices. Both depend on the data range, which is part of the result;
unless given it is what x = 1 stands for in prior units: 2000 HU (from air to +1000), or `magnitude_full` of the truth.
Slices that hold none of the body are left out: air is easily right, and would be a reward for large margins. A slice
that is exact has no PSNR, and one beyond 100 dB counts as 100.

A volume is ``[slices, rows, columns]``: axial slices, rows from front to back, columns from the right to the left.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from degauss.core.errors import InputError
from degauss.core.files import atomic_path
from degauss.core.inverse import Measurement, inner
from degauss.medical.scans import Scan
from degauss.medical.volumes import (
    CT_FULL,
    Place,
    Unit,
    Volume,
    check_finite,
    from_prior_units,
    magnitude_full,
    per_prior_unit,
)

Plane = Literal["axial", "coronal", "sagittal"]

AXES: Mapping[Plane, int] = {"axial": 0, "coronal": 1, "sagittal": 2}
"""The axis of a volume along which a plane's slices are stacked."""

_HIGHEST = 100.0  # dB
_WINDOW = 7


@dataclass(frozen=True)
class SliceScore:
    """One slice: its plane, its place along the plane's axis, PSNR in dB and SSIM."""

    plane: Plane
    index: int
    psnr: float
    ssim: float


class PlaneScore(NamedTuple):
    """The means over ``slices`` slices of a plane."""

    psnr: float
    ssim: float
    slices: int


@dataclass(frozen=True)
class Metrics:
    """All scores of one volume.

    ``data_range`` and ``rmse`` (root mean square error inside the body) in ``unit``. ``residual``: `data_residual`,
    None where no scan was asked.
    """

    slices: tuple[SliceScore, ...]
    data_range: float
    rmse: float
    unit: Unit
    residual: float | None = None

    def plane(self, plane: Plane) -> PlaneScore:
        found = [score for score in self.slices if score.plane == plane]
        count = len(found)
        return PlaneScore(sum(s.psnr for s in found) / count, sum(s.ssim for s in found) / count, count)

    def card(self) -> dict[str, Any]:
        """Plain values, for JSON: a table for each plane, and what it is to be read with."""
        return {
            **{plane: self.plane(plane)._asdict() for plane in AXES},
            "rmse": self.rmse,
            "residual": self.residual,
            "data_range": self.data_range,
            "unit": self.unit,
        }

    def write_csv(self, path: str | os.PathLike[str]) -> None:
        """A row for each slice of each plane, whole or not at all."""
        with atomic_path(path) as part, part.open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(("plane", "slice", "psnr_db", "ssim"))
            rows.writerows((s.plane, s.index, f"{s.psnr:.4f}", f"{s.ssim:.6f}") for s in self.slices)


def compare(
    volume: Tensor, truth: Tensor, unit: Unit, *, data_range: float | None = None, residual: float | None = None
) -> Metrics:
    """Score a ``volume`` against its ``truth``, both ``[slices, rows, columns]`` in ``unit``.

    ``data_range``: in that unit, as the module says unless given. ``residual``: to go with the scores. Hounsfield units
    below air count as air, as scanners fill what they do not see with such values. Raises InputError for shapes that
    differ, an axis of fewer than 3 voxels, values that are not finite, and a truth without a body.
    """
    if volume.shape != truth.shape or volume.ndim != 3 or min(volume.shape) < 3:
        raise InputError(
            "volumes to compare must have one shape [slices, rows, columns] of at least 3 each, "
            f"but have {tuple(volume.shape)} and {tuple(truth.shape)}."
        )
    check_finite(volume)
    inside = body(truth, unit)
    span = per_prior_unit(full_of(truth, unit), unit) if data_range is None else data_range
    if not 0 < span < float("inf"):
        raise InputError(f"the data range must be a number above 0, but is {span}.")
    ours, theirs = (_physical(part, unit).double().numpy() for part in (volume, truth))
    where = inside.numpy()
    scores = tuple(
        _score(plane, index, ours.take(index, axis), theirs.take(index, axis), span)
        for plane, axis in AXES.items()
        for index in np.flatnonzero(where.any(tuple({0, 1, 2} - {axis}))).tolist()
    )
    rmse = float(np.sqrt(np.mean((ours[where] - theirs[where]) ** 2)))
    return Metrics(scores, span, rmse, unit, residual)


def body(data: Tensor, unit: Unit) -> Tensor:
    """The voxels of the body, bool in the shape of ``data [slices, rows, columns]``.

    The largest connected part above -500 HU, or above a tenth of `magnitude_full`, with what it encloses in its axial
    slices: lungs belong to it. Raises InputError where there is none, and for values that are not finite.
    """
    from skimage.measure import label

    check_finite(data)
    dense = (data > (-500 if unit == "HU" else 0.1 * magnitude_full(data))).cpu().numpy()
    if not dense.any():
        raise InputError("the truth holds no body: none of its voxels is above -500 HU.")
    parts: Any = label(dense, connectivity=1)
    largest = int(np.bincount(parts[dense]).argmax())
    return torch.from_numpy(np.stack([_filled(one) for one in parts == largest])).to(data.device)


def _filled(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A slice's mask with its holes."""
    from skimage.measure import label

    outside: Any = label(np.pad(~mask, 1, constant_values=True), connectivity=1)
    return (outside != outside[0, 0])[1:-1, 1:-1]


def full_of(truth: Tensor, unit: Unit) -> float:
    """What x = 1 stands for: 1/mm in CT, and in other units the truth's `magnitude_full`."""
    return CT_FULL if unit == "HU" else magnitude_full(truth)


def in_prior_units(data: Tensor, full: float, unit: Unit) -> Tensor:
    """x of values in ``unit``, linear: also below air, as a reconstruction may be. Undoes `from_prior_units`."""
    return (data - from_prior_units(torch.zeros(()), full, unit)) / per_prior_unit(full, unit)


def data_residual(measurement: Measurement, x: Tensor) -> float:
    """|y - A x| / |y| of one event ``x [1, *event]``; noise of the scan is in it, so 0 is not the aim."""
    left = measurement.residual(x)
    return float((inner(left, left) / inner(measurement.y, measurement.y)).sqrt())


def noise_residual(scan: Scan) -> float:
    """What noise alone leaves of |y - A x| / |y|: sigma sqrt(number of measured values) / |y|."""
    (y, sigma), geometry = scan.weighed, scan.geometry
    sampled = float(geometry.measured.expand(geometry.reading[-2:]).mean())
    return sigma * (y.numel() * sampled) ** 0.5 / float(y.double().norm())


def check_grid(name: str, volume: Volume, other: str, place: Place) -> None:
    """Raise InputError, saying in what, unless a volume lies on the grid of ``place``, to a hundredth of a voxel."""
    if tuple(volume.data.shape) != place.data_shape:
        raise InputError(
            f"{name} has {_by(volume.data.shape)} voxels (slices x rows x columns), but {other} has "
            f"{_by(place.data_shape)}: bring them to one grid."
        )
    if not np.allclose(volume.spacing, place.spacing, rtol=1e-3):
        ours, theirs = (_by(f"{side:.4g}" for side in sides) for sides in (volume.spacing, place.spacing))
        raise InputError(f"{name} has voxels of {ours} mm, but {other} of {theirs} mm: bring them to one grid.")
    corners = np.array([(*(np.array(ends) * (np.array(place.data_shape) - 1)), 1) for ends in np.ndindex(2, 2, 2)])
    away = corners @ (volume.place.axial_affine() - place.axial_affine()).T
    farthest = float(np.linalg.norm(away[:, :3], axis=1).max())
    if farthest > 0.01 * min(volume.spacing):
        raise InputError(f"{name} and {other} lie up to {farthest:.3g} mm apart: bring them to one grid.")


def _by(values: Iterable[object]) -> str:
    return " x ".join(map(str, values))


def _score(plane: Plane, index: int, ours: NDArray[Any], theirs: NDArray[Any], span: float) -> SliceScore:
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    size = min(_WINDOW, (min(ours.shape) - 1) // 2 * 2 + 1)
    ssim: Any = structural_similarity(theirs, ours, win_size=size, data_range=span)
    exact = np.array_equal(ours, theirs)
    psnr = _HIGHEST if exact else min(_HIGHEST, float(peak_signal_noise_ratio(theirs, ours, data_range=span)))
    return SliceScore(plane, index, psnr, float(ssim))


def _physical(data: Tensor, unit: Unit) -> Tensor:
    data = data.detach().cpu()
    return data.clamp_min(-1000) if unit == "HU" else data
