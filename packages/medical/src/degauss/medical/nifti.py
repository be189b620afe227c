"""NIfTI files: voxels as axial data, and back into the grid they came from, with the header's place bit for bit.

What is written holds float32 voxels, their place and nothing else of the file that was read: no description, no
auxiliary file, no names, no extensions, no date. The same volume gives the same bytes.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import torch

from degauss.core.errors import InputError
from degauss.core.files import atomic_path
from degauss.medical.quiet import quiet
from degauss.medical.volumes import (
    Nifti,
    Place,
    Unit,
    Volume,
    check_affine,
    check_finite,
    check_saturation,
    check_three,
)

SUFFIXES = (".nii", ".nii.gz")
_SCANNER, _MILLIMETRE = 1, 2


def read(path: Path, unit: Unit | None = None) -> Volume:
    """A volume from a NIfTI-1 or NIfTI-2 file. The affine is the sform's, else the qform's, as in nibabel.

    ``unit``: NIfTI does not say; None takes values for Hounsfield units where one voxel in a hundred is below -500.
    Raises InputError for a file that cannot be read, more or fewer than three axes (axes of one voxel at the end do not
    count), voxels that are not finite or saturated, and a singular affine.
    """
    stored, scaled, header, affine = _opened(path)
    try:
        while stored.ndim > 3 and stored.shape[-1] == 1:
            stored, scaled = stored[..., 0], scaled[..., 0]
        check_three(stored.shape)
        check_affine(affine)
        check_saturation(stored)
        voxels = torch.from_numpy(np.ascontiguousarray(scaled, dtype=np.float32))
        check_finite(voxels)
        place = Place.of(affine, (stored.shape[0], stored.shape[1], stored.shape[2]), _fields(header))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return Volume.at(voxels, unit or guessed_unit(scaled), place)


def write(path: Path, volume: Volume) -> None:
    """Write a volume into the grid of the file it came from, whole or not at all; gzipped where it ends in .gz."""
    import nibabel

    place = volume.place
    fields = place.nifti or new_fields(place)
    kind = nibabel.Nifti2Image if fields.version == 2 else nibabel.Nifti1Image
    header = kind.header_class()
    header.set_data_dtype(np.float32)
    header.set_data_shape(place.shape)
    header["pixdim"][:4] = (fields.qfac, *fields.zooms)
    header["xyzt_units"] = fields.units
    header["sform_code"], header["qform_code"] = fields.sform_code, fields.qform_code
    for name, value in zip("bcd", fields.quaternion, strict=True):
        header[f"quatern_{name}"] = value
    for name, offset, row in zip("xyz", fields.offset, fields.srow, strict=True):
        header[f"qoffset_{name}"], header[f"srow_{name}"] = offset, row
    image = kind(place.to_stored(volume.data).numpy(), None, header)
    content = image.to_bytes()
    with atomic_path(path) as part:
        # Without a name and a date inside, which a gzip file would otherwise have.
        part.write_bytes(gzip.compress(content, 4, mtime=0) if path.suffix == ".gz" else content)


def guessed_unit(values: np.ndarray[Any, Any]) -> Unit:
    """Hounsfield units where one voxel in a hundred is below -500: air around a body. Else nobody knows."""
    return "HU" if float(np.mean(values < -500)) > 0.01 else "arbitrary"


def new_fields(place: Place) -> Nifti:
    """The header's fields for a volume that comes from elsewhere: its affine as sform, and as qform where it can be."""
    import nibabel

    header = nibabel.Nifti1Header()
    header.set_data_shape(place.shape)
    header.set_sform(place.affine, _SCANNER)
    lengths = np.linalg.norm(place.affine[:3, :3], axis=0)
    axes = place.affine[:3, :3] / lengths
    square = bool(np.allclose(axes.T @ axes, np.eye(3), atol=1e-4))
    header.set_qform(place.affine, _SCANNER if square else 0)
    header["xyzt_units"] = _MILLIMETRE
    return _fields(header)


def _opened(path: Path) -> tuple[Any, Any, Any, Any]:
    """The voxels before and after scaling, the header and the affine."""
    import nibabel
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    try:
        with quiet():
            image: Any = nibabel.load(path)
            if not isinstance(image, nibabel.Nifti1Pair):  # NIfTI-2 is one of these
                raise InputError(f"{path}: is a {type(image).__name__}; expected a NIfTI file.")
            proxy: Any = image.dataobj
            stored = np.asarray(proxy.get_unscaled())
            if stored.dtype.kind not in "iuf":
                raise InputError(f"{path}: its voxels are of type {stored.dtype}; expected numbers.")
            scaled = stored if (proxy.slope, proxy.inter) == (1, 0) else stored * proxy.slope + proxy.inter
            return stored, scaled, image.header, image.affine
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: does not exist; expected a NIfTI file.") from None
    except (ImageFileError, HeaderDataError, OSError, EOFError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as NIfTI ({_line(error)}).") from None


def _fields(header: Any) -> Nifti:
    """What of a header says where the voxels lie. float64 holds the file's float32 exactly."""
    pixdim = _numbers(header["pixdim"][:4])
    b, c, d = _numbers([header[f"quatern_{name}"] for name in "bcd"])
    x, y, z = _numbers([header[f"qoffset_{name}"] for name in "xyz"])
    return Nifti(
        version=2 if int(header["sizeof_hdr"]) == 540 else 1,
        units=int(header["xyzt_units"]),
        sform_code=int(header["sform_code"]),
        qform_code=int(header["qform_code"]),
        zooms=(pixdim[1], pixdim[2], pixdim[3]),
        qfac=pixdim[0],
        quaternion=(b, c, d),
        offset=(x, y, z),
        srow=tuple(_numbers(header[f"srow_{name}"]) for name in "xyz"),
    )


def _numbers(values: Any) -> tuple[float, ...]:
    # What a code of 0 puts out of use may hold anything.
    return tuple(float(value) if np.isfinite(value) else 0.0 for value in values)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
