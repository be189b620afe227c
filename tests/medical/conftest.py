"""What many tests need: a cache of each test's own, small volumes whose values say where they are, and slices."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from degauss.core.cli import Program
from degauss.medical.cli import PROGRAM

ORDERS = [
    (*order, *signs) for order in itertools.permutations(range(3)) for signs in itertools.product((1, -1), repeat=3)
]
"""The 48 ways to store a volume: the world's axis that each stored axis runs along, and its sign."""

SLOPE = np.array([1.0, -2.0, 3.0])
"""Of the function that fills test volumes: at (right, front, head) mm it is 5 + SLOPE . place."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache's folder, so that no matrix is read from or left in the user's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "degauss"


@pytest.fixture
def examples() -> Path:
    return Path(__file__).parents[2] / "packages" / "medical" / "examples"


@pytest.fixture
def program() -> Program:
    """The command line under test."""
    return PROGRAM


def turned(degrees: Sequence[float]) -> NDArray[np.float64]:
    """The rotation by these angles about the three axes, one after the other."""
    result = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        a, b = [other for other in range(3) if other != axis]
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        result = turn @ result
    return result


def affine_of(
    order: Sequence[int],
    spacing: Sequence[float] = (0.7, 1.3, 4.0),
    degrees: Sequence[float] = (0, 0, 0),
    origin: Sequence[float] = (-31.25, 17.5, 402.0),
) -> NDArray[np.float64]:
    """An affine of one of `ORDERS`, turned by angles."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for stored, (world, sign) in enumerate(zip(order[:3], order[3:], strict=True)):
        affine[world, stored] = sign * spacing[stored]
    affine[:3, :3] = turned(degrees) @ affine[:3, :3]
    affine[:3, 3] = origin
    return affine


def ramp(affine: NDArray[np.float64], shape: Sequence[int]) -> NDArray[np.float32]:
    """Values that are linear in the world's place of each index: 5 + SLOPE . place."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    places = index @ affine[:3, :3].T + affine[:3, 3]
    return (5 + places @ SLOPE).astype(np.float32)


SliceMaker = Callable[..., Path]


@pytest.fixture
def series(tmp_path: Path) -> SliceMaker:
    """Writes a series as a scanner would: ``series(values [n, rows, columns], **what is different)`` -> its folder."""
    made = itertools.count()

    def write(
        values: NDArray[Any],
        *,
        step: Sequence[float] | NDArray[np.float64] = (0.0, 0.0, 2.0),
        origin: Sequence[float] = (-10.0, -20.0, 30.0),
        along: Sequence[float] = (1, 0, 0, 0, 1, 0),
        places: Sequence[float] | None = None,
        each: Sequence[dict[str, Any]] | None = None,
        **fields: Any,
    ) -> Path:
        from pydicom.dataset import Dataset, FileMetaDataset
        from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

        folder = tmp_path / f"series{next(made)}"
        folder.mkdir()
        uid, study = generate_uid(), generate_uid()
        for k, plane in enumerate(values):
            ds = Dataset()
            ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, generate_uid()
            ds.StudyInstanceUID, ds.SeriesInstanceUID = study, uid
            ds.Modality, ds.PatientName, ds.PatientID = "CT", "Doe^Jane", "4711"
            ds.InstanceNumber = len(values) - k  # neither this nor the name is the order
            at = np.asarray(origin) + np.asarray(step) * (k if places is None else places[k])
            ds.ImagePositionPatient = [round(float(value), 9) for value in at]
            ds.ImageOrientationPatient = [round(float(value), 12) for value in along]
            ds.PixelSpacing, ds.SliceThickness = [0.75, 0.5], 2.0
            ds.RescaleSlope, ds.RescaleIntercept = 1, -1024
            ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
            ds.Rows, ds.Columns = plane.shape
            ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
            ds.PixelRepresentation = int(plane.dtype.kind == "i")
            ds.PixelData = plane.tobytes()
            for name, value in {**fields, **(each[k] if each else {})}.items():
                setattr(ds, name, value)
            ds.file_meta = FileMetaDataset()
            ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
            ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
            ds.save_as(folder / f"{(k * 7) % len(values):03d}-{k}.dcm", enforce_file_format=True)
        return folder

    return write
