"""Volumes in the user's files: NIfTI, a folder of DICOM slices, or numpy's arrays, chosen by the name."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from degauss.core.errors import InputError
from degauss.core.files import atomic_path
from degauss.medical import dicom, nifti
from degauss.medical.volumes import (
    Place,
    Unit,
    Volume,
    check_finite,
    check_saturation,
    check_three,
    upright_place,
)

SUFFIXES = (*nifti.SUFFIXES, ".npz", ".npy")
_EXPECTED = f"a file ending in {', '.join(SUFFIXES)}, or a folder of DICOM slices"


def read_volume(
    path: str | os.PathLike[str],
    *,
    unit: Unit | None = None,
    spacing: tuple[float, float, float] | None = None,
    straighten: float | None = None,
) -> Volume:
    """A volume from a file, or from a folder of DICOM slices.

    ``unit``: where the file does not say; None guesses it (see `nifti.read`). ``spacing``: (dz, dy, dx) mm of a .npy or
    .npz that has none; 1 mm unless given. ``straighten``: mm that tilted or unevenly spaced DICOM slices are resampled
    to; None refuses them. Raises InputError, one sentence, for what is no volume or cannot be trusted.
    """
    path = Path(path)
    if path.is_dir():
        return dicom.read(path) if straighten is None else dicom.read_resampled(path, straighten)
    kind = suffix(path)
    if not path.is_file():
        raise InputError(f"{path}: does not exist; expected {_EXPECTED}.")
    if kind in nifti.SUFFIXES:
        return nifti.read(path, unit)
    if kind in (".npy", ".npz"):
        return _read_array(path, unit, spacing)
    raise InputError(f"{path}: is not a volume; expected {_EXPECTED}.")


def write_volume(path: str | os.PathLike[str], volume: Volume, *, note: str = "") -> None:
    """Write a volume, whole or not at all: NIfTI, .npz, .npy (its values alone), or, without a suffix, DICOM slices.

    ``note``: what made it, for the description that DICOM has. No file gets anything from the input's header but the
    voxels' place.
    """
    path = Path(path)
    kind = suffix(path)
    if kind in nifti.SUFFIXES:
        nifti.write(path, volume)
    elif kind == ".npy":
        with atomic_path(path) as part, part.open("wb") as file:
            np.save(file, volume.data.numpy(), allow_pickle=False)
    elif kind == ".npz":
        place = volume.place
        arrays = {
            "data": volume.data.numpy(),
            "spacing": np.array(volume.spacing),
            "affine": place.affine * np.array([[place.millimetres]] * 3 + [[1.0]]),
            "shape": np.array(place.shape),
            "unit": np.array(volume.unit),
        }
        with atomic_path(path) as part, part.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
    elif not kind:
        dicom.write(path, volume, note=note)
    else:
        raise InputError(f"{path}: no volume can be written there; expected {_EXPECTED}.")


def suffix(path: Path) -> str:
    """In lower case, ``.nii.gz`` as one; empty for a folder."""
    name = path.name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix


def _read_array(path: Path, unit: Unit | None, spacing: tuple[float, float, float] | None) -> Volume:
    try:
        if suffix(path) == ".npy":
            arrays: dict[str, Any] = {"data": np.load(path, allow_pickle=False)}
        else:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as loaded:
                arrays = {name: loaded[name] for name in loaded.files}
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: cannot be read as an array ({' '.join(str(error).split())}).") from None
    try:
        data = _data(arrays)
        check_three(data.shape)
        check_saturation(data)
        voxels = torch.from_numpy(np.ascontiguousarray(data, dtype=np.float32))
        check_finite(voxels)
        place = _place(arrays, (data.shape[0], data.shape[1], data.shape[2]), spacing)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    said = str(arrays["unit"]) if "unit" in arrays else None
    found: Unit = "HU" if said == "HU" else "arbitrary" if said == "arbitrary" else nifti.guessed_unit(data)
    return Volume(voxels, place.spacing, unit or found, place)


def _data(arrays: dict[str, Any]) -> Any:
    """The array named data, else the only one of three axes."""
    volumes = [array for array in arrays.values() if array.ndim == 3 and array.dtype.kind in "iuf"]
    if "data" not in arrays and len(volumes) != 1:
        raise InputError(f"has {len(volumes)} volumes in it; expected one, or one that is named data.")
    data = arrays["data"] if "data" in arrays else volumes[0]
    if data.dtype.kind not in "iuf":
        raise InputError(f"its voxels are of type {data.dtype}; expected numbers.")
    return data


def _place(arrays: dict[str, Any], shape: tuple[int, int, int], spacing: tuple[float, float, float] | None) -> Place:
    if "affine" in arrays and "shape" in arrays:
        a, b, c = (int(size) for size in arrays["shape"])
        place = Place.of(np.asarray(arrays["affine"], dtype=np.float64), (a, b, c))
        if place.data_shape != shape:
            raise InputError(f"its data is {shape}, but its affine is for {place.data_shape}.")
        return place
    said = arrays.get("spacing", spacing or (1.0, 1.0, 1.0))
    lengths = tuple(float(value) for value in np.ravel(said))
    if len(lengths) != 3 or not all(0 < length < np.inf for length in lengths):
        raise InputError(f"the spacing must be three lengths in mm above 0, but is {lengths}.")
    return upright_place(shape, (lengths[0], lengths[1], lengths[2]))
