r"""DICOM series: a folder of slices as a volume, and a volume as a derived series.

A slice's first pixel lies at ImagePositionPatient p, its rows and columns run along ImageOrientationPatient, and

    n = (direction of a row) x (direction of a column),    s = p . n

is where it lies across the slices: slices are sorted by s, never by name or number. They are a volume where s is evenly
spaced and p moves along n alone. Where the gantry was tilted, p drifts within the slices as well; `read` refuses that,
and `read_resampled` straightens it.

Values are rescaled (slope x + intercept), in CT to Hounsfield units. MONOCHROME1 says that small values are shown
bright: Hounsfield units keep their meaning, other values are turned round.

DICOM counts millimetres to the left and the back; volumes to the right and the front.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from degauss.core.errors import InputError
from degauss.core.files import atomic_path
from degauss.medical.privacy import copied
from degauss.medical.quiet import quiet
from degauss.medical.volumes import Affine, Place, Unit, Volume, check_finite, check_saturation, interpolation

NOT_FOR_DIAGNOSIS = "not for diagnostic use"
_OURS = re.compile(r"IM\d{4,}\.dcm")
_LPS = np.diag([-1.0, -1.0, 1.0])  # to RAS, and back


class Slice(NamedTuple):
    """What a volume needs of a slice's file, and no more of it."""

    name: str
    series: str
    unit: Unit
    position: NDArray[np.float64]
    """Of the first pixel's centre, mm: left, back, head."""
    along_row: NDArray[np.float64]
    along_column: NDArray[np.float64]
    spacing: tuple[float, float]
    """From row to row, and from column to column, mm."""
    stored: NDArray[Any]
    """``[rows, columns]``, integers as they lie in the file."""
    largest: int
    """That can be stored."""
    slope: float
    intercept: float
    inverted: bool
    """MONOCHROME1."""

    @property
    def normal(self) -> NDArray[np.float64]:
        return np.cross(self.along_row, self.along_column)

    @property
    def values(self) -> NDArray[np.float32]:
        """In the volume's unit."""
        stored = self.stored.astype(np.float64)
        if self.inverted and self.unit != "HU":
            smallest = -self.largest - 1 if self.stored.dtype.kind == "i" else 0
            stored = self.largest + smallest - stored
        return (stored * self.slope + self.intercept).astype(np.float32)


# --- reading ------------------------------------------------------------------------------------------------


def read(folder: Path) -> Volume:
    """The volume of a folder that holds one series. Files that are no DICOM images are passed over.

    Raises InputError for a folder without images, several series, slices of several sizes or directions, at one place,
    unevenly spaced, missing or tilted, compressed without a decoder, or with saturated voxels.
    """
    try:
        return assembled(_slices(folder))
    except InputError as error:
        raise InputError(f"{folder}: {error}") from None


def read_resampled(folder: Path, spacing: float | None = None) -> Volume:
    """Like `read`, for slices that are tilted or unevenly spaced (see `resampled`)."""
    try:
        return resampled(_slices(folder), spacing)
    except InputError as error:
        raise InputError(f"{folder}: {error}") from None


def read_slice(file: Path | IO[bytes], name: str) -> Slice:
    """One slice from a file. Raises InputError, which starts with the name, for anything that is no plain slice."""
    dataset = _dataset(file, name)
    if dataset is None:
        raise InputError(f"{name}: is not a DICOM image.")
    return _slice(dataset, name)


def assembled(slices: Sequence[Slice]) -> Volume:
    """The volume of a series' slices in any order. Raises InputError where they are not evenly stacked."""
    stack = _sorted(slices)
    places = np.array([float(one.position @ one.normal) for one in stack])
    _check_even(stack, places)
    _check_straight(stack, places)
    step = (stack[-1].position - stack[0].position) / (len(stack) - 1)
    values = np.stack([one.values for one in stack])
    return _volume(values, _affine(stack[0], stack[0].position, step), stack[0].unit)


def resampled(slices: Sequence[Slice], spacing: float | None = None) -> Volume:
    """The volume of slices that need not be evenly spaced, nor stacked along their normal, by linear interpolation.

    The planes stay those of the slices: each is moved within itself, onto a grid that holds them all, and between
    neighbours values are interpolated. ``spacing``: mm from slice to slice; the median of the gaps unless given. What
    no slice saw is air: -1000 HU, or 0. Raises InputError as `assembled` does, but for gaps and tilt.
    """
    stack = _sorted(slices)
    first = stack[0]
    places = np.array([float(one.position @ first.normal) for one in stack])
    step = float(np.median(np.diff(places))) if spacing is None else spacing
    if not 0 < step <= places[-1] - places[0]:
        raise InputError(f"the slices span {places[-1] - places[0]:g} mm, so they cannot be {step:g} mm apart.")
    dy, dx = first.spacing
    air = -1000.0 if first.unit == "HU" else 0.0
    along = np.array(
        [[float(one.position @ first.along_column), float(one.position @ first.along_row)] for one in stack]
    )
    start, moved = along.min(0), np.ptp(along, axis=0)
    rows, columns = (
        n + math.ceil(float(drift) / length - 1e-3)
        for n, drift, length in zip(first.stored.shape, moved, (dy, dx), strict=True)
    )
    planes = np.empty((len(stack), rows, columns), dtype=np.float32)
    for plane, one, (y, x) in zip(planes, stack, along, strict=True):
        down = interpolation(one.stored.shape[0], rows, 1.0, (start[0] - y) / dy).numpy()
        across = interpolation(one.stored.shape[1], columns, 1.0, (start[1] - x) / dx).numpy()
        plane[:] = down @ (one.values - air) @ across.T + air
    wanted = places[0] + step * np.arange(int((places[-1] - places[0]) / step + 1e-6) + 1)
    above = np.clip(np.searchsorted(places, wanted), 1, len(places) - 1)
    share = ((wanted - places[above - 1]) / (places[above] - places[above - 1]))[:, None, None].astype(np.float32)
    values = (1 - share) * planes[above - 1] + share * planes[above]
    origin = start[0] * first.along_column + start[1] * first.along_row + places[0] * first.normal
    return _volume(values, _affine(first, origin, step * first.normal), first.unit)


def _volume(values: NDArray[np.float32], affine: Affine, unit: Unit) -> Volume:
    """``values [slices, rows, columns]`` as stored, (column, row, slice) by the affine."""
    stored = torch.from_numpy(np.ascontiguousarray(values.transpose(2, 1, 0)))
    check_finite(stored)
    return Volume.at(stored, unit, Place.of(affine, (stored.shape[0], stored.shape[1], stored.shape[2])))


def _affine(one: Slice, origin: NDArray[np.float64], step: NDArray[np.float64]) -> Affine:
    affine = np.eye(4)
    affine[:3] = _LPS @ np.stack((one.along_row * one.spacing[1], one.along_column * one.spacing[0], step, origin), 1)
    return affine


def _slices(folder: Path) -> list[Slice]:
    if not folder.is_dir():
        raise InputError("is not a folder; expected one of DICOM slices.")
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    datasets = ((path.name, _dataset(path, path.name)) for path in files)
    found = [_slice(dataset, name) for name, dataset in datasets if dataset is not None]
    if not found:
        raise InputError(f"has no DICOM image among its {len(files)} files.")
    return found


def _dataset(file: Path | IO[bytes], name: str) -> Any:
    """The data set of an image, None for a file that is none."""
    import pydicom
    from pydicom.errors import InvalidDicomError

    try:
        with quiet():
            dataset = pydicom.dcmread(file)
            return dataset if "PixelData" in dataset else None
    except InvalidDicomError:
        return None
    except Exception as error:  # a damaged file can break the parser anywhere
        raise InputError(f"{name}: is damaged ({_line(error)}).") from None


def _slice(dataset: Any, name: str) -> Slice:
    try:
        with quiet():
            return _parsed(dataset, name)
    except InputError:
        raise
    except Exception as error:  # pydicom looks at a value when it is asked for
        raise InputError(f"{name}: is damaged ({_line(error)}).") from None


def _parsed(dataset: Any, name: str) -> Slice:
    _check_plain(dataset, name)
    stored = _pixels(dataset, name)
    orientation = _numbers(dataset, "ImageOrientationPatient", 6, name)
    along_row, along_column = np.array(orientation[:3]), np.array(orientation[3:])
    gram = np.array([along_row @ along_row, along_column @ along_column, along_row @ along_column])
    if not np.allclose(gram, [1, 1, 0], atol=1e-3):
        raise InputError(f"{name}: its ImageOrientationPatient {orientation} is not two directions at a right angle.")
    dy, dx = _numbers(dataset, "PixelSpacing", 2, name)
    if not (dy > 0 and dx > 0):
        raise InputError(f"{name}: its PixelSpacing must be above 0, but is {dy:g} and {dx:g} mm.")
    signed = int(dataset.get("PixelRepresentation", 0)) == 1
    hounsfield = dataset.get("Modality") == "CT" and str(dataset.get("RescaleType") or "HU") == "HU"
    return Slice(
        name=name,
        series=str(dataset.get("SeriesInstanceUID", "")),
        unit="HU" if hounsfield else "arbitrary",
        position=np.array(_numbers(dataset, "ImagePositionPatient", 3, name)),
        along_row=along_row,
        along_column=along_column,
        spacing=(dy, dx),
        stored=stored,
        largest=2 ** (int(dataset.BitsStored) - signed) - 1,
        slope=_numbers(dataset, "RescaleSlope", 1, name)[0] if "RescaleSlope" in dataset else 1.0,
        intercept=_numbers(dataset, "RescaleIntercept", 1, name)[0] if "RescaleIntercept" in dataset else 0.0,
        inverted=dataset.PhotometricInterpretation == "MONOCHROME1",
    )


def _check_plain(dataset: Any, name: str) -> None:
    """InputError for images that are not one grey slice of numbers."""
    if int(dataset.get("NumberOfFrames") or 1) > 1:
        raise InputError(f"{name}: holds {dataset.NumberOfFrames} frames; expected one slice a file.")
    kind = dataset.get("PhotometricInterpretation")
    if int(dataset.get("SamplesPerPixel", 1)) != 1 or kind not in ("MONOCHROME1", "MONOCHROME2"):
        raise InputError(f"{name}: its pixels are {kind}; expected MONOCHROME1 or MONOCHROME2.")
    if "ModalityLUTSequence" in dataset:
        raise InputError(f"{name}: its values go through a table (ModalityLUTSequence); expected slope and intercept.")
    if dataset.get("BurnedInAnnotation") == "YES":
        raise InputError(f"{name}: has writing in its pixels (BurnedInAnnotation), which may name the patient.")


def _pixels(dataset: Any, name: str) -> NDArray[Any]:
    try:
        return np.array(dataset.pixel_array)
    except Exception as error:  # as many kinds as there are decoders
        raise InputError(f"{name}: its pixels cannot be decoded ({_line(error)}).") from None


def _numbers(dataset: Any, field: str, count: int, name: str) -> tuple[float, ...]:
    value = dataset.get(field)
    if value is None or value == "":
        raise InputError(f"{name}: has no {field}, so its place or values are unknown.")
    values = tuple(float(number) for number in (value if count > 1 and hasattr(value, "__iter__") else [value]))
    if len(values) != count or not all(map(math.isfinite, values)):
        raise InputError(f"{name}: its {field} must be {count} finite numbers, but is {value}.")
    return values


def _sorted(slices: Sequence[Slice]) -> list[Slice]:
    """Slices of one series, in order. InputError where they are of several, or do not fit together."""
    series = {one.series for one in slices}
    if len(series) > 1:
        counts = sorted((sum(one.series == name for one in slices) for name in series), reverse=True)
        raise InputError(f"holds {len(series)} series (of {', '.join(map(str, counts))} slices); expected one.")
    if len(slices) < 2:
        raise InputError("holds a single slice, which is an image and not a volume.")
    first = slices[0]
    for one in slices[1:]:
        if one.stored.shape != first.stored.shape or not np.allclose(one.spacing, first.spacing, rtol=1e-4):
            raise InputError(
                f"its slices have several sizes: {first.stored.shape} pixels of {first.spacing} mm in {first.name}, "
                f"{one.stored.shape} of {one.spacing} mm in {one.name}."
            )
        directions = (one.along_row, one.along_column), (first.along_row, first.along_column)
        if not np.allclose(*directions, atol=1e-3) or one.unit != first.unit:
            raise InputError(f"its slices do not lie in one direction: {first.name} and {one.name} differ.")
    stack = sorted(slices, key=lambda one: float(one.position @ first.normal))
    for before, after in itertools.pairwise(stack):
        if float((after.position - before.position) @ first.normal) < 1e-3:
            raise InputError(f"two slices lie at one place, {before.name} and {after.name}; expected a single volume.")
    check_saturation(np.stack([one.stored for one in stack]), min(one.largest for one in stack))
    return stack


def _check_even(stack: Sequence[Slice], places: NDArray[np.float64]) -> None:
    gaps = np.diff(places)
    usual = float(np.median(gaps))
    tolerance = max(0.01, 0.02 * usual)
    odd = np.abs(gaps - usual) > tolerance
    if not odd.any():
        return
    times = np.round(gaps / usual)
    where = stack[int(odd.argmax())].name
    if bool((np.abs(gaps - times * usual) <= tolerance * times).all()):
        raise InputError(f"{int(times.sum()) - len(gaps)} slices are missing, the first after {where}.")
    raise InputError(
        f"its slices are {gaps.min():.3g} to {gaps.max():.3g} mm apart, first unevenly after {where}; expected even "
        "gaps, or ask for them to be resampled (--straighten)."
    )


def _check_straight(stack: Sequence[Slice], places: NDArray[np.float64]) -> None:
    first = stack[0]
    moved = stack[-1].position - first.position - (places[-1] - places[0]) * first.normal
    drift = float(np.linalg.norm(moved))
    if drift > 0.5 * min(first.spacing):
        angle = math.degrees(math.atan2(drift, places[-1] - places[0]))
        raise InputError(
            f"its slices are tilted by {angle:.1f} degrees (the last is {drift:.3g} mm to the side of the first); "
            "expected a straight stack, or ask for them to be resampled (--straighten)."
        )


# --- writing ------------------------------------------------------------------------------------------------


def write(folder: Path, volume: Volume, *, note: str, like: Path | None = None, keep_patient: bool = False) -> None:
    """Write a volume as a derived series of axial slices, ``IM0001.dcm`` from the feet on; whole or not at all.

    ``note``: what made it, for the series' description. ``like``: the folder of the series that it was made from, whose
    acquisition is copied (see `privacy`), and with ``keep_patient`` also who the patient is and which study it was.
    All UIDs are new, and follow from the content. Values lie on 65,536 steps of a power of two.
    Raises InputError where the folder holds other files, or the slices' axes are not at right angles.
    """
    if keep_patient and like is None:
        raise InputError("To keep the patient's identifiers, the folder of the original series is needed.")
    strange = [path.name for path in (folder.iterdir() if folder.is_dir() else ()) if not _OURS.fullmatch(path.name)]
    if strange:
        raise InputError(f"{folder}: holds other files than a series of Degauss ({strange[0]}); name a new folder.")
    head = _head(volume, note, _template(like, keep_patient))
    affine = volume.place.axial_affine()
    directions = _directions(affine, folder)
    with atomic_path(folder) as part:
        part.mkdir()
        for index, stored in enumerate(_quantised(volume, head)):
            place = _LPS @ (affine[:3, 3] + index * affine[:3, 0])
            _write_slice(part / f"IM{index + 1:04d}.dcm", head, index, stored, place, directions)


def _template(like: Path | None, keep_patient: bool) -> dict[str, Any]:
    if like is None:
        return {}
    files = sorted(path for path in like.rglob("*") if path.is_file()) if like.is_dir() else []
    first = next((found for path in files if (found := _dataset(path, path.name)) is not None), None)
    if first is None:
        raise InputError(f"{like}: has no DICOM image to be like; expected the folder of a series.")
    return copied(first, keep_patient=keep_patient)


def _head(volume: Volume, note: str, template: dict[str, Any]) -> Any:
    """What all slices of the series share."""
    from pydicom.dataset import Dataset
    from pydicom.uid import CTImageStorage, MRImageStorage, generate_uid

    content = hashlib.sha256(volume.data.numpy().tobytes())
    content.update(volume.place.affine.tobytes() + note.encode())
    key = content.hexdigest()
    said = f"{note or 'Degauss'}, {NOT_FOR_DIAGNOSIS}"
    hounsfield = volume.unit == "HU"
    head = Dataset()
    head.SpecificCharacterSet = "ISO_IR 192"
    head.ImageType = ["DERIVED", "SECONDARY", "AXIAL" if hounsfield else "OTHER"]
    head.SOPClassUID = CTImageStorage if hounsfield else MRImageStorage
    head.Modality = "CT" if hounsfield else "MR"
    for name in ("StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "StudyID", "PatientBirthDate"):
        setattr(head, name, "")
    head.PatientName, head.PatientID, head.PatientSex = "ANONYMOUS", "ANONYMOUS", ""
    head.PatientIdentityRemoved = "NO" if "PatientName" in template or "PatientID" in template else "YES"
    if head.PatientIdentityRemoved == "YES":
        head.DeidentificationMethod = "Degauss: only what a list allows is copied"
    head.StudyInstanceUID = generate_uid(entropy_srcs=[key, "study"])
    head.SeriesInstanceUID = generate_uid(entropy_srcs=[key, "series"])
    head.FrameOfReferenceUID = generate_uid(entropy_srcs=[key, "frame"])
    head.PositionReferenceIndicator = ""
    head.SeriesNumber, head.AcquisitionNumber = 1, None
    head.SeriesDescription = said[:64]
    head.DerivationDescription = said[:1024]
    head.ImageComments = f"{NOT_FOR_DIAGNOSIS.capitalize()}. Made by an algorithm: {note or 'Degauss'}."[:1024]
    head.ContentQualification = "RESEARCH"
    head.Manufacturer = "Degauss"
    head.BurnedInAnnotation = "NO"
    head.KVP = None
    for name, value in template.items():
        setattr(head, name, value)
    slope, intercept = _scale(volume)
    head.RescaleSlope, head.RescaleIntercept = slope, intercept
    head.RescaleType = "HU" if hounsfield else "US"
    head.SliceThickness = _decimal(volume.spacing[0])
    head.SpacingBetweenSlices = _decimal(volume.spacing[0])
    head.PixelSpacing = [_decimal(length) for length in volume.spacing[1:]]
    return head


def _scale(volume: Volume) -> tuple[float, float]:
    """Slope and intercept of 16 bits without a sign: the least power of two that holds all values."""
    low, high = float(volume.data.min()), float(volume.data.max())
    slope = 2.0 ** math.ceil(math.log2(max((high - low) / 65534, 1e-12)))
    return _decimal(slope), _decimal(math.floor(low / slope) * slope)


def _quantised(volume: Volume, head: Any) -> NDArray[np.uint16]:
    values = (volume.data.double().numpy() - float(head.RescaleIntercept)) / float(head.RescaleSlope)
    return np.clip(np.rint(values), 0, 65535).astype(np.uint16)


def _directions(affine: Affine, folder: Path) -> list[float]:
    """ImageOrientationPatient: along a row, then along a column."""
    axes = _LPS @ (affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0))
    if abs(float(axes[:, 1] @ axes[:, 2])) > 1e-3:
        raise InputError(f"{folder}: the rows and columns of the volume are not at right angles, as DICOM asks for.")
    return [_decimal(value) for value in (*axes[:, 2], *axes[:, 1])]


def _write_slice(
    path: Path,
    head: Any,
    index: int,
    stored: NDArray[np.uint16],
    place: NDArray[np.float64],
    directions: Sequence[float],
) -> None:
    from copy import deepcopy

    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    dataset = deepcopy(head)
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=[str(head.SeriesInstanceUID), str(index)])
    dataset.InstanceNumber = index + 1
    dataset.ImagePositionPatient = [_decimal(float(value)) for value in place]
    dataset.ImageOrientationPatient = list(directions)
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = stored.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
    dataset.PixelData = stored.astype("<u2").tobytes()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.save_as(path, enforce_file_format=True)


def _decimal(value: float) -> float:
    """The nearest number that DICOM's 16 characters can hold."""
    from pydicom.valuerep import format_number_as_ds

    return float(format_number_as_ds(float(value)))


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
