r"""Volumes: voxels with a place in the world, always in the same axial order.

``data [slices, rows, columns]``: slices from feet to head, rows from front to back, columns from the patient's right to
left, as axial images are shown. A file may store its axes in any of 48 orders; `Place` keeps which, so that a result
goes back into the file's own grid, with its affine bit for bit.

World coordinates are millimetres to the right, front and head (RAS+, as in NIfTI). A file's affine maps the index of a
stored voxel (i, j, k) to them.

**Prior units.** Reconstruction works on x = value / full, 0 in air or background and 1 at ``full``:

    CT    value = mu = WATER (1 + HU / 1000) in 1/mm, at least 0;    full = 2 WATER, which is +1000 HU
    MR    value = the image;    full = the 99.5th percentile inside the head (`magnitude_full`)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from degauss.core.errors import InputError
from degauss.core.fields import expect, integer, numbers, table
from degauss.medical.ct import WATER, attenuation, hounsfield

Unit = Literal["HU", "arbitrary"]
Affine = NDArray[np.float64]
"""``[4, 4]``, from the index of a stored voxel (i, j, k, 1) to (right, front, head, 1)."""

CT_FULL = 2 * WATER
"""What x = 1 stands for in CT, 1/mm: +1000 HU."""

# NIfTI's code of a length, in mm; 0 is a file that does not say.
_MILLIMETRES = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
# Where the axes of data point: towards the head, the back and the left, in (right, front, head).
_WORLD_AXIS, _WORLD_SIGN = (2, 1, 0), (1, -1, -1)


class Nifti(NamedTuple):
    """The fields of a NIfTI header that say where the voxels lie, as they were read."""

    version: int
    """1 or 2."""
    units: int
    """``xyzt_units``: the lengths' unit in the lowest three bits."""
    sform_code: int
    qform_code: int
    zooms: tuple[float, float, float]
    """``pixdim[1:4]``."""
    qfac: float
    """``pixdim[0]``: -1 where the quaternion's third axis is to be turned round."""
    quaternion: tuple[float, float, float]
    """b, c, d."""
    offset: tuple[float, float, float]
    """``qoffset_x``, ``_y``, ``_z``."""
    srow: tuple[tuple[float, ...], ...]
    """``srow_x``, ``_y``, ``_z``."""

    @property
    def millimetres(self) -> float:
        """How long the header's unit is."""
        return _MILLIMETRES.get(self.units & 7, 1.0)


@dataclass(frozen=True, eq=False)
class Place:
    """How a file stores a volume.

    ``affine``: in the file's unit of length. ``shape``: of the stored array. ``order``: which stored axis the slices,
    the rows and the columns of the data are. ``flipped``: which of these run the other way in the file. ``nifti``: the
    header's fields; None where the volume comes from elsewhere. Raises InputError for a singular affine.
    """

    affine: Affine
    shape: tuple[int, int, int]
    order: tuple[int, int, int]
    flipped: tuple[bool, bool, bool]
    nifti: Nifti | None = None

    @classmethod
    def of(cls, affine: Affine, shape: tuple[int, int, int], nifti: Nifti | None = None) -> Place:
        """The place of a stored array: its axes are named by the world's axes that they are closest to."""
        affine = np.array(affine, dtype=np.float64)
        check_affine(affine)
        order, flipped = _orientation(affine)
        affine.setflags(write=False)
        return cls(affine, shape, order, flipped, nifti)

    @property
    def millimetres(self) -> float:
        """How long the affine's unit is."""
        return 1.0 if self.nifti is None else self.nifti.millimetres

    @property
    def data_shape(self) -> tuple[int, int, int]:
        """Slices, rows and columns of the data."""
        a, b, c = (self.shape[axis] for axis in self.order)
        return a, b, c

    @property
    def spacing(self) -> tuple[float, float, float]:
        """From slice to slice, row to row and column to column, mm."""
        lengths = np.linalg.norm(self.affine[:3, :3], axis=0) * self.millimetres
        a, b, c = (float(lengths[axis]) for axis in self.order)
        return a, b, c

    def axial_affine(self) -> Affine:
        """From (slice, row, column, 1) of the data to the world, mm."""
        stored = np.zeros((4, 4))  # from the data's index to the stored one
        stored[3, 3] = 1
        for axis, (source, flip) in enumerate(zip(self.order, self.flipped, strict=True)):
            stored[source, axis] = -1 if flip else 1
            stored[source, 3] = self.shape[source] - 1 if flip else 0
        result = self.affine @ stored
        result[:3] *= self.millimetres
        return result

    def to_data(self, stored: Tensor) -> Tensor:
        """The stored array as data ``[slices, rows, columns]``."""
        axes = [axis for axis, flip in enumerate(self.flipped) if flip]
        return stored.permute(self.order).flip(axes).contiguous()

    def to_stored(self, data: Tensor) -> Tensor:
        """Undoes `to_data`."""
        axes = [axis for axis, flip in enumerate(self.flipped) if flip]
        back = sorted(range(3), key=lambda axis: self.order[axis])
        return data.flip(axes).permute(back).contiguous()

    def regridded(self, ratios: Sequence[float], shape: Sequence[int], moves: Sequence[float]) -> Place:
        """The place of a new grid: data index i of an axis lies where ``move + ratio i`` was.

        Of the data's three axes each. The codes stay, and each affine that the header holds is moved alike.
        """
        stored_ratio, stored_shape, stored_move = [1.0] * 3, [0] * 3, [0.0] * 3
        for axis, source in enumerate(self.order):
            old, new, ratio, move = self.shape[source], shape[axis], float(ratios[axis]), float(moves[axis])
            stored_ratio[source], stored_shape[source] = ratio, new
            # Counted from the other end, index 0 is the data's last one.
            stored_move[source] = (old - 1) - (move + ratio * (new - 1)) if self.flipped[axis] else move
        step = np.diag([*stored_ratio, 1.0])
        step[:3, 3] = stored_move
        affine = self.affine @ step
        nifti = None if self.nifti is None else _regridded(self.nifti, step)
        affine.setflags(write=False)
        a, b, c = stored_shape
        return Place(affine, (a, b, c), self.order, self.flipped, nifti)

    def to_json(self) -> dict[str, Any]:
        """What JSON can hold; `from_json` gives it back bit for bit."""
        about: dict[str, Any] = {"affine": self.affine.ravel().tolist(), "shape": list(self.shape)}
        if self.nifti is not None:
            about["nifti"] = {**self.nifti._asdict(), "srow": [value for row in self.nifti.srow for value in row]}
        return about

    @classmethod
    def from_json(cls, about: Mapping[str, Any]) -> Place:
        """Raises InputError naming a field that is missing or wrong."""
        shape = _three(about, "shape")
        affine = numbers(about, "affine")
        expect("affine", len(affine) == 16, "16 numbers", f"{len(affine)} numbers")
        a, b, c = (int(size) for size in shape)
        nifti = _nifti(table(about, "nifti")) if "nifti" in about else None
        return cls.of(np.array(affine).reshape(4, 4), (a, b, c), nifti)


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels and where they lie.

    ``data``: float32 ``[slices, rows, columns]``, finite, in ``unit``. ``spacing``: (dz, dy, dx) mm. ``place``: how the
    file stores it. Raises InputError for data of another number of axes, without voxels, or with values that are not
    finite; ValueError where the three do not agree.
    """

    data: Tensor
    spacing: tuple[float, float, float]
    unit: Unit
    place: Place

    def __post_init__(self) -> None:
        check_three(tuple(self.data.shape))
        check_finite(self.data)
        if self.data.dtype != torch.float32:
            raise ValueError(f"a volume is float32, but the data is {self.data.dtype}")
        if tuple(self.data.shape) != self.place.data_shape:
            raise ValueError(f"the data is {tuple(self.data.shape)}, but its place is for {self.place.data_shape}")
        if not np.allclose(self.spacing, self.place.spacing, rtol=1e-5):
            raise ValueError(f"the spacing is {self.spacing} mm, but that of its place {self.place.spacing}")

    @classmethod
    def at(cls, stored: Tensor, unit: Unit, place: Place) -> Volume:
        """A volume from an array as its file stores it."""
        return cls(place.to_data(stored.float()), place.spacing, unit, place)

    @classmethod
    def upright(
        cls, data: Tensor, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0), unit: Unit = "arbitrary"
    ) -> Volume:
        """A volume of which only the voxels and their spacing are known: its middle is the world's origin."""
        check_three(tuple(data.shape))
        for length in spacing:
            if not 0 < length < math.inf:
                raise InputError(f"The spacing of the voxels must be three lengths in mm above 0, but is {spacing}.")
        return cls.at(
            data.permute(2, 1, 0), unit, upright_place((data.shape[0], data.shape[1], data.shape[2]), spacing)
        )

    def with_data(self, data: Tensor) -> Volume:
        """Other values on the same grid, ``[slices, rows, columns]``."""
        return replace(self, data=data.detach().float().cpu())

    def resampled(self, spacing: tuple[float, float, float], shape: tuple[int, int, int] | None = None) -> Volume:
        """The volume on voxels of ``spacing`` (dz, dy, dx) mm, linearly interpolated around the same middle.

        ``shape``: as much as the field of view holds, unless given. Coarser voxels are weighted means around
        their middle (a triangle of twice the new spacing), so nothing aliases. What was outside is air: -1000 HU, or 0.
        """
        for length in spacing:
            if not 0 < length < math.inf:
                raise InputError(f"The spacing of the voxels must be three lengths in mm above 0, but is {spacing}.")
        ratios = [new / old for new, old in zip(spacing, self.spacing, strict=True)]
        sizes = [max(1, round(n / ratio)) for n, ratio in zip(self.data.shape, ratios, strict=True)]
        sizes = sizes if shape is None else list(shape)
        air = -1000.0 if self.unit == "HU" else 0.0
        data, moves = self.data - air, [0.0] * 3
        for axis, (size, ratio) in enumerate(zip(sizes, ratios, strict=True)):
            n = data.shape[axis]
            moves[axis] = ((n - 1) - ratio * (size - 1)) / 2
            weights = interpolation(n, size, ratio, moves[axis]).to(data)
            others = [m for other, m in enumerate(data.shape) if other != axis]
            data = (weights @ data.movedim(axis, 0).flatten(1)).unflatten(1, others).movedim(0, axis)
        place = self.place.regridded(ratios, sizes, moves)
        return Volume((data + air).contiguous(), place.spacing, self.unit, place)

    def cropped(self, slices: range) -> Volume:
        """Some slices that follow each other. InputError where there are none or they are not in the volume."""
        count = self.data.shape[0]
        if not (0 <= slices.start < slices.stop <= count and slices.step == 1):
            raise InputError(f"The volume has slices 0 to {count}, so {slices.start}:{slices.stop} are not in it.")
        place = self.place.regridded((1, 1, 1), (len(slices), *self.data.shape[1:]), (slices.start, 0, 0))
        return Volume(self.data[slices.start : slices.stop].clone(), self.spacing, self.unit, place)


def upright_place(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> Place:
    """The place of data that no file has placed: stored (column, row, slice), around the world's origin."""
    sizes, steps = np.array(shape[::-1]), np.array([-spacing[2], -spacing[1], spacing[0]])
    affine = np.diag([*steps, 1.0])
    affine[:3, 3] = -steps * (sizes - 1) / 2
    return Place.of(affine, (shape[2], shape[1], shape[0]))


# --- prior units --------------------------------------------------------------------------------------------


def prior_units(volume: Volume) -> tuple[Tensor, float]:
    """x in prior units, ``[slices, rows, columns]`` and at least 0, and ``full``: 1/mm in CT, the image's unit in MR.

    Raises InputError for an image without contrast.
    """
    if volume.unit == "HU":
        return attenuation(volume.data) / CT_FULL, CT_FULL
    full = magnitude_full(volume.data)
    return volume.data.clamp_min(0) / full, full


def from_prior_units(x: Tensor, full: float, unit: Unit) -> Tensor:
    """Undoes `prior_units`: HU, or the image's own unit. Differences and deviations: see `per_prior_unit`."""
    return hounsfield(x * full) if unit == "HU" else x * full


def per_prior_unit(full: float, unit: Unit) -> float:
    """What a difference of 1 in prior units is in the volume's unit."""
    return 1000 * full / WATER if unit == "HU" else full


def magnitude_full(data: Tensor) -> float:
    """The 99.5th percentile of the voxels that are above a tenth of the 99.9th percentile of all: inside the head.

    Raises InputError where no voxel is above 0.
    """
    values = np.asarray(data.detach().float().cpu()).ravel()
    top = float(np.quantile(values, 0.999))
    inside = values[values > 0.1 * top] if top > 0 else values[values > 0]
    if not len(inside):
        raise InputError("The image has no voxel above 0, so no scale can be found.")
    return float(np.quantile(inside, 0.995))


# --- checks -------------------------------------------------------------------------------------------------


def check_three(shape: tuple[int, ...]) -> None:
    """InputError unless a shape is that of a volume."""
    if len(shape) != 3 or min(shape) < 1:
        raise InputError(f"Expected a volume of three axes, but the shape is {shape}.")


def check_finite(stored: Tensor) -> None:
    """InputError that counts the voxels that are not finite, and says where the first one is."""
    wrong = ~torch.isfinite(stored)
    if bool(wrong.any()):
        first = tuple(torch.nonzero(wrong)[0].tolist())
        raise InputError(f"{int(wrong.sum())} of {stored.numel()} voxels are not finite, the first at index {first}.")


def check_saturation(stored: NDArray[Any], largest: int | None = None) -> None:
    """InputError where more than one voxel in a hundred is at the largest number that the file can hold.

    ``stored``: before any scaling; ``largest``: of its type, unless fewer bits are used. Floats do not saturate.
    """
    if stored.dtype.kind not in "iu":
        return
    largest = int(np.iinfo(stored.dtype).max) if largest is None else largest
    full = stored == largest
    count = int(full.sum())
    if count > 0.01 * stored.size:
        first = tuple(int(i) for i in np.unravel_index(int(full.argmax()), stored.shape))
        raise InputError(
            f"{count} of {stored.size} voxels are saturated at {largest}, the largest number that is stored, the first "
            f"at index {first}."
        )


def check_affine(affine: Affine) -> None:
    """InputError for an affine that is not finite or maps different voxels to one place."""
    if affine.shape != (4, 4) or not bool(np.isfinite(affine).all()):
        raise InputError(f"The affine must be 4 x 4 finite numbers, but is {affine.tolist()}.")
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    size = float(np.abs(np.linalg.det(affine[:3, :3])))
    if not bool((lengths > 0).all()) or size <= 1e-6 * float(lengths.prod()):
        raise InputError(f"The affine is singular, so the voxels have no place: {affine[:3, :3].tolist()}.")


def _orientation(affine: Affine) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    """Which stored axis is closest to each of the data's, and whether it runs the other way."""
    cosines = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)

    def agreement(order: tuple[int, ...]) -> float:
        return sum(abs(float(cosines[world, source])) for world, source in zip(_WORLD_AXIS, order, strict=True))

    order = max(itertools.permutations(range(3)), key=agreement)
    slices, rows, columns = (
        float(cosines[world, source]) * sign < 0
        for world, sign, source in zip(_WORLD_AXIS, _WORLD_SIGN, order, strict=True)
    )
    return (order[0], order[1], order[2]), (slices, rows, columns)


def interpolation(n: int, size: int, ratio: float, move: float) -> Tensor:
    """Weights ``[size, n]``, float64, of the old values in a new one whose index i lies at ``move + ratio i``.

    A triangle as wide as the coarser of both grids, tilted by the little that it needs to give back any linear function
    at that very place. Rows of places outside are 0.
    """
    place = move + ratio * torch.arange(size, dtype=torch.float64)
    inside = ((place > -0.5 - 1e-9) & (place < n - 0.5 + 1e-9))[:, None]
    away = torch.arange(n) - place.clamp(0, n - 1)[:, None]
    weights = (1 - away.abs() / max(1.0, ratio)).clamp_min(0)
    first, second = ((weights * power).sum(1, keepdim=True) for power in (away, away.square()))
    weights = weights * (1 - away * torch.where(second > 0, first / second.clamp_min(1e-300), 0))
    return torch.where(inside, weights / weights.sum(1, keepdim=True), 0)


def _regridded(nifti: Nifti, step: Affine) -> Nifti:
    """The header's fields after ``affine @ step``, for a step that only scales and moves the stored axes."""
    from nibabel.quaternions import quat2mat

    scale, move = np.diag(step)[:3], step[:3, 3]
    bcd = nifti.quaternion
    turn = quat2mat(np.array([math.sqrt(max(0.0, 1 - sum(value**2 for value in bcd))), *bcd]))
    turn = turn * np.array([1.0, 1.0, nifti.qfac]) * np.array(nifti.zooms)
    srow = np.array(nifti.srow)
    srow = np.hstack((srow[:, :3] * scale, srow[:, :3] @ move[:, None] + srow[:, 3:]))
    x, y, z = (np.array(nifti.offset) + turn @ move).tolist()
    a, b, c = (np.array(nifti.zooms) * scale).tolist()
    return nifti._replace(zooms=(a, b, c), offset=(x, y, z), srow=tuple(map(tuple, srow.tolist())))


def _nifti(about: Mapping[str, Any]) -> Nifti:
    srow = numbers(about, "srow")
    expect("srow", len(srow) == 12, "12 numbers", f"{len(srow)} numbers")
    (qfac,) = numbers({"qfac": [about.get("qfac")]}, "qfac")
    return Nifti(
        integer(about, "version"),
        integer(about, "units"),
        integer(about, "sform_code"),
        integer(about, "qform_code"),
        _three(about, "zooms"),
        qfac,
        _three(about, "quaternion"),
        _three(about, "offset"),
        (srow[:4], srow[4:8], srow[8:]),
    )


def _three(about: Mapping[str, Any], field: str) -> tuple[float, float, float]:
    values = numbers(about, field)
    expect(field, len(values) == 3, "three numbers", f"{len(values)} numbers")
    return values[0], values[1], values[2]
