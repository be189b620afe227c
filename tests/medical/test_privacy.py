"""Names planted in every field of a DICOM series and of a NIfTI header, and looked for in every byte that comes out."""

from __future__ import annotations

import gzip
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from nibabel.nifti1 import Nifti1Extension
from pydicom._dicom_dict import DicomDictionary
from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset

from degauss.medical.dicom import read, write
from degauss.medical.files import write_volume
from degauss.medical.nifti import read as read_nifti
from degauss.medical.privacy import ACQUISITION, IDENTIFIERS, WORDS, copied

from .conftest import SliceMaker

NAME, NUMBER = "DOE JANE", "4711081"
PLANTED = (b"DOE", b"Doe", b"doe", b"JANE", b"Jane", b"jane", NUMBER.encode(), b"19700102")
STACK = np.random.default_rng(0).integers(900, 1200, (5, 8, 8)).astype(np.uint16)
# What the reader needs, or what would make it refuse.
_NEEDED = {"ImageType", "Modality", "PhotometricInterpretation", "RescaleType", "BurnedInAnnotation", "PixelData"}
_TEXT = {"LO", "SH", "LT", "ST", "UT", "PN", "CS", "AE", "UC"}


def planted() -> dict[str, object]:
    """A name in every attribute of the standard that can hold text, and dates and numbers that identify."""
    found: dict[str, object] = {}
    for tag, (kind, *_) in DicomDictionary.items():
        keyword = keyword_for_tag(tag)
        group = tag >> 16
        if keyword and keyword not in _NEEDED and group in (0x8, 0x10, 0x12, 0x18, 0x20, 0x32, 0x40):
            if kind in _TEXT:
                found[keyword] = NAME
            elif kind == "DA":
                found[keyword] = "19700102"
    return {**found, "PatientID": NUMBER, "SpecificCharacterSet": "ISO_IR 100"}


@pytest.fixture
def original(series: SliceMaker) -> Path:
    fields = planted()
    assert len(fields) > 500
    folder = series(STACK, **fields)
    for path in folder.iterdir():
        ds = pydicom.dcmread(path)
        ds.private_block(0x0019, "DOE SCANNERS", create=True).add_new(1, "LO", NAME)
        ds.OtherPatientIDsSequence = [Dataset()]
        ds.OtherPatientIDsSequence[0].PatientID = NUMBER
        ds.save_as(path)
    return folder


def contents(path: Path) -> list[bytes]:
    """Every byte below a path, and what is compressed in it."""
    found: list[bytes] = []
    for file in [path] if path.is_file() else sorted(path.rglob("*")):
        found.append(file.name.encode())
        content = file.read_bytes()
        found.append(content)
        if file.suffix == ".gz":
            found.append(gzip.decompress(content))
        if file.suffix == ".npz":
            with zipfile.ZipFile(file) as archive:
                found += [archive.read(name) for name in archive.namelist()]
    return found


def names_in(path: Path) -> set[bytes]:
    return {name for name in PLANTED for content in contents(path) if name in content}


@pytest.mark.parametrize("name", ["out.nii", "out.nii.gz", "out.npz", "out.npy", "out"])
def test_no_name_of_a_dicom_series_is_written(name: str, original: Path, tmp_path: Path) -> None:
    assert names_in(original) >= {b"DOE", NUMBER.encode(), b"19700102"}
    volume = read(original)
    assert NAME not in repr(volume.place)
    write_volume(tmp_path / "doe" / name, volume, note="a test")
    assert not names_in(tmp_path / "doe" / name)


def test_no_name_is_copied_from_the_series_it_is_like(original: Path, tmp_path: Path) -> None:
    volume = read(original)
    write(tmp_path / "out", volume, note="", like=original)
    assert not names_in(tmp_path / "out")
    source = pydicom.dcmread(next(original.iterdir()))
    for uid in (source.StudyInstanceUID, source.SeriesInstanceUID, source.SOPInstanceUID):
        assert not any(uid.encode() in content for content in contents(tmp_path / "out"))
    write(tmp_path / "kept", volume, note="", like=original, keep_patient=True)
    assert names_in(tmp_path / "kept") >= {b"DOE", NUMBER.encode()}
    kept = pydicom.dcmread(tmp_path / "kept" / "IM0001.dcm")
    named = {element.keyword for element in kept if NAME in str(element.value) or NUMBER in str(element.value)}
    assert named <= set(IDENTIFIERS)


def test_no_name_of_a_nifti_header_is_written(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(STACK.astype(np.float32), np.diag([2, 2, 2, 1.0]))
    for field, size in (("descrip", 80), ("aux_file", 24), ("intent_name", 16), ("db_name", 18), ("data_type", 10)):
        image.header[field] = NAME[:size].encode()
    image.header.extensions.append(Nifti1Extension("comment", NAME.encode()))
    source = tmp_path / "Doe_Jane.nii"
    image.to_filename(source)
    for name in ("out.nii", "out.nii.gz", "out.npz", "out"):
        write_volume(tmp_path / name, read_nifti(source), note="")
        assert not names_in(tmp_path / name)


@pytest.mark.parametrize("how", [["--keep-truth"], ["--mri", "--unit", "arbitrary", "--keep-truth"]])
def test_no_name_or_path_gets_into_a_scan(
    how: list[str], original: Path, here: Path, invoke: Callable[[Sequence[str | Path]], tuple[int, str, str]]
) -> None:
    place = here / "Doe_Jane"
    place.mkdir()
    if "--mri" in how:
        image = nibabel.Nifti1Image(STACK.astype(np.float32), np.diag([2, 2, 2, 1.0]))
        image.header["descrip"] = NAME.encode()
        image.to_filename(source := place / "jane.nii.gz")
    else:
        source = original.rename(place / "series")
    status, said, error = invoke(["simulate", source, "--out", here / "scan.h5", *how])
    assert (status, error) == (0, "")
    assert not names_in(here / "scan.h5")
    assert str(here).encode() not in (here / "scan.h5").read_bytes()
    assert "Doe" not in said


def test_what_is_copied_is_numbers_and_known_words() -> None:
    source = Dataset()
    source.KVP, source.PatientPosition, source.WindowCenter = 120, "HFS", [40, 400]
    source.ScanningSequence, source.SequenceVariant = ["SE", "IR"], "JANE"
    source.PatientName, source.StudyDate, source.ConvolutionKernel = NAME, "19700102", "JANE"
    assert set(copied(source, keep_patient=False)) == {"KVP", "PatientPosition", "WindowCenter", "ScanningSequence"}
    assert set(copied(source, keep_patient=True)) - set(copied(source, keep_patient=False)) == {
        "PatientName",
        "StudyDate",
    }
    assert not {*ACQUISITION, *WORDS} & set(IDENTIFIERS)
