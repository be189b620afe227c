r"""Scans: what a scanner measured, how, and the volume that is to be made of it; kept in HDF5.

A scan holds the raw measurement y = A (full x) + noise, with x the volume in prior units (see `volumes`) and A in the
scanner's own units: line integrals without a unit in CT, k-space in the image's unit in MRI. `Scan.measurement` is the
same in units where A has norm 1,

    y' = y / (full |A|) = (A / |A|) x + noise,    sigma' = sigma / (full |A|),

which is what reconstruction works on. Where the geometry has weights (spokes; see `acquisition`), y and A are weighed
by them first, and sigma' is the root mean square of what noise then has.

**The file** has the attributes ``format``, ``format_version`` and ``about`` (JSON: geometry, noise, scale, place), and
the arrays ``y``, for Cartesian MRI ``mask``, where there are any ``sensitivities``, and where it is kept ``truth``.
There are no objects in it, no names, no dates and no paths; the same scan gives the same bytes.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from degauss.core.errors import InputError
from degauss.core.fields import expect, integer, number, table
from degauss.core.files import atomic_path
from degauss.core.inverse import (
    Composed,
    ConjugateGradient,
    LinearOperator,
    Mask,
    Measurement,
    Normalised,
    least_squares,
    normalised,
)
from degauss.medical.acquisition import CartesianGeometry, Geometry, Modality, MRIGeometry, geometry_from, needed, some
from degauss.medical.mri import (
    CartesianMRI,
    channels,
    complex_from,
    estimated_sensitivities,
)
from degauss.medical.volumes import (
    Place,
    Unit,
    Volume,
    from_prior_units,
    magnitude_full,
    per_prior_unit,
    upright_place,
)

__all__ = ["MRIGeometry", "Modality", "Scan", "from_kspace", "read_scan", "write_scan"]

FORMAT, FORMAT_VERSION = "degauss.medical/scan", 1
# The early stop of the image that sets the scale of a measured k-space.
_SCALE = ConjugateGradient(10)


@dataclass(frozen=True, eq=False)
class Scan:
    """A measurement, how it was made, and where the volume lies.

    ``y``: raw, float32 without an axis for a batch: ``[slices, views, bins]``, ``[slices, (coils,) 2, rows, columns]``
    or ``[slices, (coils,) 2, spokes, samples]``. ``sigma``: the standard deviation of its noise, 0 for exact data;
    where ``photons`` (per ray in air) were counted, which makes it differ from ray to ray, its root mean square.
    ``full``: what x = 1 stands for (1/mm in CT). ``place``, ``spacing`` (dz, dy, dx) mm, ``unit``: of the volume.
    ``truth``: x, where it is known, in prior units. Raises InputError that names what does not fit.
    """

    y: Tensor
    geometry: Geometry
    sigma: float
    photons: float | None
    full: float
    unit: Unit
    slices: int
    place: Place
    spacing: tuple[float, float, float]
    truth: Tensor | None = None

    def __post_init__(self) -> None:
        _check_numbers(self)
        _check_shapes(self)
        unseen = self.geometry.measured.expand(self.geometry.reading[-2:]) == 0
        if bool(self.y[..., unseen].any()):
            raise InputError("y has values in places of k-space that the mask says were not measured.")

    @property
    def modality(self) -> Modality:
        return self.geometry.modality

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the volume x: ``(slices, rows, columns)``, or ``(slices, 2, rows, columns)`` where x is complex."""
        return self.slices, *self.geometry.event

    def operator(self, slab: int = 32) -> LinearOperator:
        """A in the scanner's units, from ``[batch, *shape]`` to ``[batch, *y.shape]``.

        ``slab``: slices that CT projects at once (see `ct.Tomography`).
        """
        return self.geometry.operator(slab)

    def measurement(self, slab: int = 32) -> Measurement:
        """y' ``[1, *y.shape]`` of x in prior units, with an operator of norm 1 that keeps the norm before."""
        operator, weights = self.operator(slab), self.geometry.weights
        if weights is None:
            unit = Normalised(operator, operator.norm)
        else:
            unit = normalised(Composed(Mask(weights), operator), torch.empty(1, self.few, *self.geometry.event))
        (y, sigma), scale = self.weighed, self.full * unit.raw_norm
        return Measurement(unit, y[None] / scale, sigma / scale)

    @property
    def weighed(self) -> tuple[Tensor, float]:
        """y and the root mean square of its noise, both weighed as the geometry says."""
        weights = self.geometry.weights
        if weights is None:
            return self.y, self.sigma
        return weights * self.y, self.sigma * float(weights.double().square().mean().sqrt())

    @property
    def few(self) -> int:
        """As many slices as show what the operator does: 1 where all are measured alike."""
        return 1 if self.geometry.alike else self.slices

    def volume(self, x: Tensor) -> Volume:
        """A volume of x in prior units ``[*shape]``: HU, or the magnitude in the image's unit."""
        return self._volume(from_prior_units(self.magnitude(x), self.full, self.unit))

    def deviations(self, x: Tensor) -> Volume:
        """A volume of differences or standard deviations in prior units ``[slices, rows, columns]``, in its unit."""
        return self._volume(x * per_prior_unit(self.full, self.unit))

    def magnitude(self, x: Tensor) -> Tensor:
        """x ``[..., *shape]`` as ``[..., slices, rows, columns]``: itself, or of a complex one its magnitude."""
        return x if len(self.shape) == 3 else complex_from(x).abs()

    def _volume(self, data: Tensor) -> Volume:
        return Volume(data.detach().float().cpu().contiguous(), self.spacing, self.unit, self.place)


def from_kspace(
    kspace: Tensor,
    mask: Tensor | None = None,
    *,
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    centre: tuple[int, int] = (24, 24),
    sigma: float | None = None,
) -> Scan:
    """A scan from a measured k-space, with sensitivities from its middle (see `mri.estimated_sensitivities`).

    ``kspace``: complex ``[(slices,) coils, rows, columns]``, zero frequency in the middle, zeros where nothing was
    measured. ``mask``: what is kept of it, 1 or 0, ``[rows, columns]`` or ``[columns]``: an acceleration made
    afterwards. ``spacing``: (dz, dy, dx) mm. ``centre``: rows and columns that are fully measured, also under the mask.
    ``sigma``: of each part's noise; estimated from the highest frequencies unless given, where signal adds to it.

    The truth is the least-squares image of the whole k-space, with the phase that the coils share; where that is not
    fully measured there is none. Raises InputError for another shape, or a middle with gaps.
    """
    if not kspace.is_complex() or kspace.ndim not in (3, 4) or not bool(torch.isfinite(kspace).all()):
        found = f"{kspace.dtype} {tuple(kspace.shape)}"
        raise InputError(f"A k-space must be finite complex numbers [coils, rows, columns], but is {found}.")
    kspace = (kspace if kspace.ndim == 4 else kspace[None]).to(torch.complex64)
    slices, _, rows, columns = kspace.shape
    measured = (kspace != 0).flatten(0, 1).any(0)
    kept = (measured if mask is None else measured & (mask != 0)).float()
    _check_centre(kept, centre)
    maps = estimated_sensitivities(kspace * kept, centre)
    noise = _corner_deviation(kspace, measured) if sigma is None else sigma
    y = channels(kspace * kept)
    geometry = CartesianGeometry((rows, columns), kept, maps[0] if slices == 1 else maps)
    first = least_squares(Measurement(geometry.operator(), y[None]), torch.zeros(1, slices, 2, rows, columns), _SCALE)
    full = magnitude_full(complex_from(first).abs())
    truth = CartesianMRI(torch.ones(columns), maps).adjoint(channels(kspace)) / full if bool(measured.all()) else None
    place = upright_place((slices, rows, columns), spacing)
    return Scan(y, geometry, noise, None, full, "arbitrary", slices, place, place.spacing, truth)


def write_scan(path: str | os.PathLike[str], scan: Scan) -> None:
    """Write a scan, whole or not at all."""
    import h5py

    arrays = {"y": scan.y, "truth": scan.truth, **scan.geometry.arrays}
    with atomic_path(path) as part, h5py.File(part, "w") as file:
        file.attrs["format"], file.attrs["format_version"] = FORMAT, FORMAT_VERSION
        file.attrs["about"] = json.dumps(_about(scan), allow_nan=False)
        for name, array in arrays.items():
            if array is not None:
                kind = torch.complex64 if array.is_complex() else torch.float32
                file.create_dataset(name, data=array.detach().to("cpu", kind).numpy(), compression="gzip", shuffle=True)


def read_scan(path: str | os.PathLike[str]) -> Scan:
    """Read a scan. Raises InputError for another kind of file, and for one that disagrees with itself, saying where."""
    import h5py

    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: does not exist; expected a scan (.h5).")
    try:
        with h5py.File(path, "r") as file:
            attributes: dict[str, Any] = dict(file.attrs)
            _check_format(attributes)
            arrays = {name: _array(file, name) for name in ("y", "truth", "mask", "sensitivities") if name in file}
        return _scan(json.loads(attributes["about"]), arrays)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise InputError(f"{path}: cannot be read as a scan ({' '.join(str(error).split())}).") from None


# --- the file -----------------------------------------------------------------------------------------------


def _about(scan: Scan) -> dict[str, Any]:
    about = {
        "geometry": scan.geometry.about,
        "sigma": scan.sigma,
        "full": scan.full,
        "unit": scan.unit,
        "slices": scan.slices,
        "spacing": list(scan.spacing),
        "place": scan.place.to_json(),
    }
    return about if scan.photons is None else {**about, "photons": scan.photons}


def _scan(about: Any, arrays: Mapping[str, Tensor]) -> Scan:
    expect("about", isinstance(about, dict), "a table", type(about).__name__)
    unit = about.get("unit")
    expect("unit", unit in ("HU", "arbitrary"), "'HU' or 'arbitrary'", repr(unit))
    dz, dy, dx = some(about, "spacing", 3)
    return Scan(
        y=needed(arrays, "y"),
        geometry=geometry_from(table(about, "geometry"), arrays),
        sigma=number(about, "sigma"),
        photons=number(about, "photons") if "photons" in about else None,
        full=number(about, "full"),
        unit=cast("Unit", unit),
        slices=integer(about, "slices"),
        place=Place.from_json(table(about, "place")),
        spacing=(dz, dy, dx),
        truth=arrays.get("truth"),
    )


def _check_format(attributes: Mapping[str, Any]) -> None:
    found, version = attributes.get("format"), attributes.get("format_version")
    if found != FORMAT or "about" not in attributes:
        raise InputError(f"its format is {found!r}, but {FORMAT!r} was expected, as 'simulate' writes it.")
    if version is None or not 1 <= int(version) <= FORMAT_VERSION:
        raise InputError(f"its format version is {version}, and this Degauss reads up to {FORMAT_VERSION}.")


def _array(file: Any, name: str) -> Tensor:
    """An array of real or complex numbers; nothing else is ever read."""
    found = file[name]
    kind = getattr(found, "dtype", np.dtype(object)).kind
    expect(name, kind in "fc", "an array of real or complex numbers", "something else")
    return torch.from_numpy(found[()].astype(np.complex64 if kind == "c" else np.float32))


# --- checks -------------------------------------------------------------------------------------------------


def _check_numbers(scan: Scan) -> None:
    expect("sigma", 0 <= scan.sigma < math.inf, "a number of at least 0", f"{scan.sigma}")
    expect("full", 0 < scan.full < math.inf, "a number above 0", f"{scan.full}")
    photons = scan.photons
    expect("photons", photons is None or 0 < photons < math.inf, "a number above 0", f"{photons}")
    expect("unit", not (scan.modality == "mr" and scan.unit == "HU"), "'arbitrary' in MRI", "'HU'")
    for name, values in (("y", scan.y), ("truth", scan.truth)):
        if values is not None and not bool(torch.isfinite(values).all()):
            wrong = int((~torch.isfinite(values)).sum())
            raise InputError(f"{name} must be finite, but {wrong} of its {values.numel()} values are not.")


def _check_shapes(scan: Scan) -> None:
    """The data, the truth and the place against the geometry."""
    geometry, pixels = scan.geometry, scan.shape[-2:]
    geometry.check(scan.slices, scan.spacing)
    expected = (scan.slices, *geometry.reading)
    if tuple(scan.y.shape) != expected:
        raise InputError(
            f"The geometry is for y of shape {expected} (slices, {geometry.axes}), but y is {tuple(scan.y.shape)}."
        )
    if scan.truth is not None and tuple(scan.truth.shape) != scan.shape:
        raise InputError(f"The geometry is for a truth of shape {scan.shape}, but it is {tuple(scan.truth.shape)}.")
    if scan.place.data_shape != (scan.slices, *pixels):
        raise InputError(
            f"The geometry is for a volume of shape {(scan.slices, *pixels)}, but the place is for "
            f"{scan.place.data_shape}."
        )
    if not np.allclose(scan.spacing, scan.place.spacing, rtol=1e-5):
        raise InputError(f"The spacing is {scan.spacing} mm, but that of the place {scan.place.spacing} mm.")


def _check_centre(kept: Tensor, centre: tuple[int, int]) -> None:
    rows, columns = kept.shape
    if not (1 <= centre[0] <= rows and 1 <= centre[1] <= columns):
        raise InputError(f"The calibration region {centre} does not fit into a k-space of {(rows, columns)}.")
    top, left = rows // 2 - centre[0] // 2, columns // 2 - centre[1] // 2
    middle = kept[top : top + centre[0], left : left + centre[1]]
    if not bool(middle.all()):
        raise InputError(
            f"The middle {centre[0]} x {centre[1]} of k-space must be measured to find the coils' sensitivities, but "
            f"{int((middle == 0).sum())} of its samples are not: ask for a smaller centre."
        )


def _corner_deviation(kspace: Tensor, measured: Tensor) -> float:
    """The deviation of each part of the tenth of the samples that is farthest from the middle, by their median."""
    rows, columns = measured.shape
    y = (torch.arange(rows) - rows // 2)[:, None] / rows
    x = (torch.arange(columns) - columns // 2) / columns
    radius = (y.square() + x.square())[measured]
    far = radius >= torch.quantile(radius, 0.9)
    parts = torch.view_as_real(kspace[..., measured][..., far])
    return float(parts.abs().median() / 0.6745)
