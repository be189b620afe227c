"""DICOM in: sorted by place, in Hounsfield units, refused where it is no even stack. Out: a derived series like any."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK
import torch
from numpy.typing import NDArray
from pydicom.data import get_testdata_file
from pydicom.pixels.processing import apply_modality_lut

from degauss.core.errors import InputError
from degauss.medical import datasets
from degauss.medical.dicom import Slice, assembled, read, read_resampled, read_slice, resampled, write
from degauss.medical.files import read_volume, write_volume
from degauss.medical.volumes import Place, Volume

from .conftest import ORDERS, SLOPE, SliceMaker, affine_of, ramp, turned

RNG = np.random.default_rng(0)
STACK = RNG.integers(0, 3000, (5, 4, 6)).astype(np.uint16)


def by_simpleitk(folder: Path) -> Any:
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return reader.Execute()


def same_in_the_world(volume: Volume, image: Any, tolerance: float = 1e-3) -> None:
    """Every voxel is where SimpleITK finds it, and has its value."""
    affine = volume.place.axial_affine()
    assert volume.data.numel() == int(np.prod(image.GetSize()))
    for index in np.ndindex(*volume.data.shape):
        right, front, head = (affine @ [*index, 1])[:3]
        found = image.TransformPhysicalPointToIndex((-right, -front, head))
        np.testing.assert_allclose(image.TransformIndexToPhysicalPoint(found), (-right, -front, head), atol=1e-3)
        assert image.GetPixel(found) == pytest.approx(float(volume.data[index]), abs=tolerance)


# --- in -----------------------------------------------------------------------------------------------------


def test_slices_are_sorted_by_place_and_rescaled(series: SliceMaker) -> None:
    volume = read_volume(series(STACK))
    assert volume.unit == "HU"
    assert volume.spacing == (2.0, 0.75, 0.5)
    np.testing.assert_array_equal(volume.data, STACK.astype(np.float32) - 1024)  # LPS is the data's own order
    corner = volume.place.axial_affine()[:3, 3]
    np.testing.assert_allclose(corner, (10, 20, 30))  # right and front, not left and back


@pytest.mark.parametrize("degrees", [(0, 0, 0), (15, 0, 0), (4, -9, 12)])
@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal", "from the head"])
def test_other_programs_find_the_same_values_in_the_same_places(
    plane: str, degrees: tuple[int, ...], series: SliceMaker
) -> None:
    along = {
        "axial": ((1, 0, 0), (0, 1, 0)),
        "coronal": ((1, 0, 0), (0, 0, -1)),
        "sagittal": ((0, 1, 0), (0, 0, -1)),
        "from the head": ((1, 0, 0), (0, 1, 0)),
    }[plane]
    row, column = (turned(degrees) @ np.array(axis, dtype=float) for axis in along)
    step = 2.5 * np.cross(row, column) * (-1 if plane == "from the head" else 1)
    folder = series(STACK, along=[*row, *column], step=step)
    same_in_the_world(read(folder), by_simpleitk(folder))


def test_monochrome1_turns_round_what_has_no_unit(series: SliceMaker) -> None:
    shown = {"PhotometricInterpretation": "MONOCHROME1"}
    ct = read(series(STACK, **shown))
    np.testing.assert_array_equal(ct.data, STACK.astype(np.float32) - 1024)  # Hounsfield units are what they are
    mr = read(series(STACK, Modality="MR", RescaleIntercept=0, BitsStored=12, HighBit=11, **shown))
    assert mr.unit == "arbitrary"
    np.testing.assert_array_equal(mr.data, 4095.0 - STACK)
    signed = read(series(STACK.astype(np.int16) - 1500, Modality="MR", RescaleIntercept=0, **shown))
    np.testing.assert_array_equal(signed.data, -1.0 - (STACK.astype(np.float32) - 1500))


def test_slices_may_have_scales_of_their_own(series: SliceMaker) -> None:
    each = [{"RescaleSlope": 1.0 + k, "RescaleIntercept": -k} for k in range(5)]
    scale = np.arange(5.0)[:, None, None]
    volume = read(series(STACK, Modality="PT", each=each))
    np.testing.assert_allclose(volume.data, (STACK * (1 + scale) - scale).astype(np.float32))


def test_files_that_are_no_images_are_passed_over(series: SliceMaker) -> None:
    folder = series(STACK)
    (folder / "notes.txt").write_text("hello")
    (folder / ".hidden.dcm").write_bytes(b"DICM")
    assert tuple(read(folder).data.shape) == (5, 4, 6)


BROKEN: dict[str, tuple[Callable[[SliceMaker], Path], str]] = {
    "uneven": (
        lambda make: make(STACK, places=[0, 1, 2, 3.4, 4.4]),
        r"slices are 2 to 2\.8 mm apart, first unevenly after \S+-2\.dcm",
    ),
    "missing": (lambda make: make(STACK, places=[0, 1, 4, 5, 6]), r"2 slices are missing, the first after \S+-1\.dcm"),
    "tilted": (
        lambda make: make(STACK, step=(0, 0.6, 2)),
        r"tilted by 16\.7 degrees \(the last is 2\.4 mm",
    ),
    "doubled": (lambda make: make(STACK, places=[0, 1, 1, 2, 3]), "two slices lie at one place, .*-1.dcm and .*-2.dcm"),
    "single": (lambda make: make(STACK[:1]), "a single slice, which is an image and not a volume"),
    "turning": (
        lambda make: make(STACK, each=[{}, {}, {"ImageOrientationPatient": [1, 0, 0, 0, 0.8, 0.6]}, {}, {}]),
        "do not lie in one direction: .*-0.dcm and .*-2.dcm differ",
    ),
    "sizes": (
        lambda make: make(STACK, each=[{}, {}, {}, {"PixelSpacing": [0.75, 0.6]}, {}]),
        r"several sizes: \(4, 6\) pixels of \(0\.75, 0\.5\) mm",
    ),
    "series": (
        lambda make: make(STACK, each=[{}, {}, {}, {"SeriesInstanceUID": "1.2.3"}, {}]),
        r"holds 2 series \(of 4, 1 slices\); expected one",
    ),
    "saturated": (
        lambda make: make(np.where(STACK > 2700, 4095, STACK).astype(np.uint16), BitsStored=12, HighBit=11),
        r"\d+ of 120 voxels are saturated at 4095",
    ),
    "skewed": (
        lambda make: make(STACK, along=(1, 0, 0, 0.5, 0.8, 0)),
        "is not two directions at a right angle",
    ),
    "colour": (
        lambda make: make(STACK, PhotometricInterpretation="PALETTE COLOR"),
        "pixels are PALETTE COLOR; expected MONOCHROME1",
    ),
    "frames": (lambda make: make(STACK, NumberOfFrames=7), "holds 7 frames; expected one slice a file"),
    "written on": (lambda make: make(STACK, BurnedInAnnotation="YES"), "which may name the patient"),
    "placeless": (lambda make: make(STACK, ImagePositionPatient=None), "has no ImagePositionPatient"),
    "flat": (lambda make: make(STACK, PixelSpacing=[0, 1]), "PixelSpacing must be above 0"),
    "lookup": (lambda make: make(STACK, RescaleSlope=None), "has no RescaleSlope"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_no_even_stack_is_refused(what: str, series: SliceMaker) -> None:
    make, says = BROKEN[what]
    folder = make(series)
    with pytest.raises(InputError, match=says) as error:
        read(folder)
    said = str(error.value)
    assert said.startswith(f"{folder}: ")
    assert "\n" not in said
    assert said.endswith(".")
    assert "Jane" not in said


def test_folders_without_images_and_damaged_files_are_refused(series: SliceMaker, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a folder"):
        read(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.txt").write_text("hello")
    with pytest.raises(InputError, match="no DICOM image among its 1 files"):
        read_volume(tmp_path / "empty")
    folder = series(STACK)
    path = sorted(folder.iterdir())[2]
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(InputError, match=rf"{path.name}: its pixels cannot be decoded"):
        read(folder)


@pytest.mark.parametrize("unit", ["CT", "MR"])
def test_straightening_is_exact_on_linear_functions(unit: str, series: SliceMaker) -> None:
    along = np.array([[1, 0, 0], [0, np.cos(0.3), -np.sin(0.3)]])
    places = np.array([0, 1, 2, 2.6, 4, 6])
    index = np.stack(np.meshgrid(np.arange(20), np.arange(16), indexing="ij"), axis=-1) * (0.75, 0.5)
    planes = index @ along[::-1]  # back along the rows of pixels, left along the columns
    step = np.array([0, 0, 2.0])  # not along the normal: a tilted gantry
    where = np.array([-10.0, -20, 30]) + places[:, None] * step
    left_back_head = planes[None] + where[:, None, None]
    values = 5 + left_back_head @ (SLOPE * [-1, -1, 1])
    stored = np.rint((values + 500) * 40).astype(np.uint16)
    folder = series(
        stored, along=along.ravel(), step=step, places=places, Modality=unit, RescaleSlope=0.025, RescaleIntercept=-500
    )
    with pytest.raises(InputError, match=r"apart|tilted"):
        read(folder)
    volume = read_resampled(folder, 1.5)
    assert volume.spacing == pytest.approx((1.5, 0.75, 0.5))
    expected = ramp(volume.place.axial_affine(), volume.data.shape)
    seen = volume.data[:, 10:12, 2:-2]  # within every slice
    np.testing.assert_allclose(seen, expected[:, 10:12, 2:-2], atol=0.03)
    assert float(volume.data[0, 0, 0]) == (-1000.0 if unit == "CT" else 0.0)
    assert read_volume(folder, straighten=1.5).spacing == volume.spacing
    with pytest.raises(InputError, match=r"span .* mm, so they cannot be 50 mm apart"):
        read_resampled(folder, 50)


def test_straightening_an_even_stack_changes_nothing(series: SliceMaker) -> None:
    folder = series(STACK)
    plain, straight = read(folder), read_resampled(folder)
    torch.testing.assert_close(plain.data, straight.data, atol=1e-2, rtol=0)
    np.testing.assert_allclose(plain.place.axial_affine(), straight.place.axial_affine(), atol=1e-9)


@pytest.fixture(scope="module")
def head() -> list[Slice]:
    """A real head, 28 slices of 512 x 512 by GE, with a tilted gantry, 4 and 7 mm apart."""
    try:
        return datasets.ct_head_slices()
    except InputError as error:
        pytest.skip(str(error))


def test_a_real_tilted_head_is_refused_and_can_be_straightened(head: list[Slice]) -> None:
    with pytest.raises(InputError, match=r"slices are 1\.08 to 7 mm apart, first unevenly after 14\.dcm"):
        assembled(head)
    even = [one for one in head if int(one.name[:2]) <= 14]
    with pytest.raises(InputError, match=r"tilted by 18\.5 degrees \(the last is 17\.4 mm to the side of the first\)"):
        assembled(even)
    volume = resampled(even, 4.0015)
    assert tuple(volume.data.shape)[::2] == (14, 512)
    assert volume.data.shape[1] > 512
    middle = volume.place.axial_affine() @ [6, volume.data.shape[1] // 2, 256, 1]
    assert abs(middle[0]) < 1  # the head lies in the middle
    brain = volume.data[8, 250:350, 200:300]
    assert 20 < float(brain.median()) < 45
    # Neighbours agree where the slices were moved the right way, and not the other.
    start, normal = min(even, key=lambda one: one.position[2]).position, even[0].normal
    across = [start + 2 * ((one.position - start) @ normal) * normal - (one.position - start) for one in even]
    wrong = resampled([one._replace(position=at) for one, at in zip(even, across, strict=True)], 4.0015)
    steps = [float(found.data.clamp(-1000, 1000).diff(dim=0).abs().mean()) for found in (volume, wrong)]
    assert steps[0] < 0.9 * steps[1]


def test_files_of_every_kind_are_read_or_refused_in_a_sentence(caplog: pytest.LogCaptureFixture) -> None:
    folder = Path(str(get_testdata_file("CT_small.dcm"))).parent
    read_well, refusals = set[str](), list[tuple[str, str]]()
    for path in sorted(folder.glob("*.dcm")):
        try:
            one = read_slice(path, path.name)
        except InputError as error:
            refusals.append((path.name, str(error)))
        else:
            assert np.isfinite(one.values).all()
            read_well.add(path.name)
    assert refusals
    for name, said in refusals:
        assert said.startswith(f"{name}: ")
        assert said.endswith(".")
        assert "\n" not in said
    assert not caplog.records  # pydicom has much to say on them
    assert {"CT_small.dcm", "MR_small.dcm", "MR_small_RLE.dcm"} <= read_well
    assert "examples_rgb_color.dcm" not in read_well
    one = read_slice(folder / "CT_small.dcm", "CT_small.dcm")
    original = pydicom.dcmread(folder / "CT_small.dcm")
    assert one.unit == "HU"
    np.testing.assert_array_equal(one.values, apply_modality_lut(original.pixel_array, original))


# --- out ----------------------------------------------------------------------------------------------------


def a_volume(order: tuple[int, ...], unit: Any = "HU", degrees: tuple[float, ...] = (0, 0, 0)) -> Volume:
    affine = affine_of(order, degrees=degrees)
    return Volume.at(torch.from_numpy(ramp(affine, (4, 5, 6))), unit, Place.of(affine, (4, 5, 6)))


@pytest.mark.parametrize("order", ORDERS[::7])
@pytest.mark.parametrize("unit", ["HU", "arbitrary"])
def test_a_series_comes_back_to_rounding(order: tuple[int, ...], unit: str, tmp_path: Path) -> None:
    volume = a_volume(order, unit, (7, -3, 11))
    write_volume(tmp_path / "out", volume, note="a test")
    again = read(tmp_path / "out")
    step = float(pydicom.dcmread(tmp_path / "out" / "IM0001.dcm").RescaleSlope)
    assert step < float(np.ptp(volume.data.numpy())) / 32_000
    torch.testing.assert_close(again.data, volume.data, atol=0.51 * step, rtol=0)
    np.testing.assert_allclose(again.place.axial_affine(), volume.place.axial_affine(), atol=1e-4)
    assert again.unit == volume.unit
    same_in_the_world(again, by_simpleitk(tmp_path / "out"))


def test_a_series_says_what_it_is(tmp_path: Path) -> None:
    write(tmp_path / "out", a_volume(ORDERS[0]), note="DDS, 50 steps")
    slices = [pydicom.dcmread(path) for path in sorted((tmp_path / "out").iterdir())]
    assert len(slices) == 6
    first = slices[0]
    assert list(first.ImageType)[:2] == ["DERIVED", "SECONDARY"]
    for field in ("SeriesDescription", "DerivationDescription", "ImageComments"):
        assert "not for diagnostic use" in first[field].value.lower()
        assert "DDS, 50 steps" in first[field].value
    assert (first.RescaleType, first.Modality, first.PatientIdentityRemoved) == ("HU", "CT", "YES")
    assert str(first.PatientName) == "ANONYMOUS"
    assert len({ds.SOPInstanceUID for ds in slices}) == 6
    assert len({ds.SeriesInstanceUID for ds in slices}) == 1
    assert [ds.InstanceNumber for ds in slices] == [1, 2, 3, 4, 5, 6]
    assert [ds.ImagePositionPatient[2] for ds in slices] == sorted(ds.ImagePositionPatient[2] for ds in slices)


def test_uids_follow_from_the_content(tmp_path: Path) -> None:
    volume = a_volume(ORDERS[0])
    for name, other in (("a", volume), ("b", volume), ("c", volume.with_data(volume.data + 1))):
        write(tmp_path / name, other, note="")
    a, b, c = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in "abc")
    assert a == b
    uids = [pydicom.dcmread(tmp_path / name / "IM0001.dcm").SeriesInstanceUID for name in "ac"]
    assert uids[0] != uids[1]
    assert a.keys() == c.keys()


def test_a_constant_volume_can_be_written(tmp_path: Path) -> None:
    write(tmp_path / "out", Volume.upright(torch.full((2, 3, 4), -1000.0), unit="HU"), note="")
    assert bool((read(tmp_path / "out").data == -1000).all())


def test_a_series_replaces_its_like_and_nothing_else(tmp_path: Path) -> None:
    volume = a_volume(ORDERS[0])
    write(tmp_path / "out", volume, note="")
    write(tmp_path / "out", volume.cropped(range(0, 2)), note="")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["IM0001.dcm", "IM0002.dcm"]
    (tmp_path / "out" / "mine.dcm").write_text("mine")
    with pytest.raises(InputError, match=r"holds other files than a series of Degauss \(mine\.dcm\)"):
        write(tmp_path / "out", volume, note="")
    assert (tmp_path / "out" / "mine.dcm").read_text() == "mine"
    sheared = affine_of(ORDERS[0])
    sheared[1, 0] = 0.4
    with pytest.raises(InputError, match="not at right angles"):
        write(tmp_path / "b", Volume.at(torch.zeros(4, 5, 6), "HU", Place.of(sheared, (4, 5, 6))), note="")
    assert not (tmp_path / "b").exists()


def test_the_acquisition_may_be_copied_and_identifiers_only_if_asked(series: SliceMaker, tmp_path: Path) -> None:
    original = series(STACK, KVP=120, PatientPosition="HFS", PatientBirthDate="19700101", StudyDescription="Head")
    volume = read(original)
    write(tmp_path / "plain", volume, note="", like=original)
    plain = pydicom.dcmread(tmp_path / "plain" / "IM0001.dcm")
    assert (plain.KVP, plain.PatientPosition) == (120, "HFS")
    assert str(plain.PatientName) == "ANONYMOUS"
    write(tmp_path / "kept", volume, note="", like=original, keep_patient=True)
    kept, source = (pydicom.dcmread(next(folder.iterdir())) for folder in (tmp_path / "kept", original))
    for field in ("PatientName", "PatientID", "PatientBirthDate", "StudyInstanceUID", "StudyDescription"):
        assert kept[field].value == source[field].value
    assert kept.PatientIdentityRemoved == "NO"
    assert kept.SeriesInstanceUID != source.SeriesInstanceUID
    with pytest.raises(InputError, match="folder of the original series is needed"):
        write(tmp_path / "no", volume, note="", keep_patient=True)
    shutil.rmtree(original)
    with pytest.raises(InputError, match="has no DICOM image to be like"):
        write(tmp_path / "no", volume, note="", like=original)


def test_rows_of_pixels_are_the_array(series: SliceMaker) -> None:
    """A voxel that is one alone, at slice 3, row 1 and column 4, is found there."""
    stack: NDArray[np.uint16] = np.zeros((5, 4, 6), np.uint16)
    stack[3, 1, 4] = 2024
    volume = read(series(stack))
    assert torch.nonzero(volume.data > 0).tolist() == [[3, 1, 4]]
