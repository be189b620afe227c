"""NIfTI in and out: the place bit for bit, the values where nibabel and SimpleITK look for them, nothing else kept."""

from __future__ import annotations

import gzip
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.nifti1 import Nifti1Extension

from degauss.core.errors import InputError
from degauss.core.places import data_root
from degauss.medical.files import read_volume, write_volume
from degauss.medical.nifti import read, write
from degauss.medical.volumes import Volume

from .conftest import ORDERS, affine_of, ramp

SHAPE = (5, 4, 3)
GEOMETRY = (
    *("pixdim", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y"),
    *("qoffset_z", "srow_x", "srow_y", "srow_z"),
)


def load(path: Path) -> Any:
    """What nibabel makes of a file."""
    return nibabel.load(path)


def written(path: Path, affine: np.ndarray, codes: tuple[int, int] = (1, 1), kind: Any = nibabel.Nifti1Image) -> Path:
    """A file as another program would leave it: sform and qform codes, text in every field, an extension."""
    image = kind(ramp(affine, SHAPE), None)
    image.header.set_sform(affine, codes[0])
    image.header.set_qform(affine, codes[1])
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"] = b"Doe Jane 1970"
    if kind is nibabel.Nifti1Image:
        image.header["db_name"] = b"Doe Jane"
    image.header["aux_file"] = b"D:/scans/doe/jane.txt"
    image.header["intent_name"] = b"Doe"
    image.header.extensions.append(Nifti1Extension("comment", b"Doe Jane"))
    image.to_filename(path)
    return path


def fields(path: Path) -> dict[str, bytes]:
    """The geometry of a header as it lies in the file."""
    header = load(path).header
    found = {name: np.asarray(header[name]).tobytes() for name in GEOMETRY}
    # Beyond the third, steps of axes that there are not.
    return {**found, "pixdim": np.asarray(header["pixdim"][:4]).tobytes(), "units": bytes([int(header["xyzt_units"])])}


@settings(max_examples=60)
@given(
    st.sampled_from(ORDERS),
    st.tuples(*[st.floats(-20, 20)] * 3),
    st.sampled_from([(1, 1), (2, 0), (0, 1), (4, 2), (0, 0)]),
    st.sampled_from([nibabel.Nifti1Image, nibabel.Nifti2Image]),
)
def test_the_place_comes_back_bit_for_bit(
    order: tuple[int, ...], degrees: tuple[float, ...], codes: tuple[int, int], kind: Any
) -> None:
    with TemporaryDirectory() as folder:
        first = written(Path(folder) / "a.nii", affine_of(order, degrees=degrees), codes, kind)
        volume = read(first)
        second = Path(folder) / "b.nii"
        write(second, volume.with_data(2 * volume.data))
        before, after = load(first), load(second)
        assert type(before) is type(after)
        assert fields(first) == fields(second)
        assert before.affine.tobytes() == after.affine.tobytes()
        np.testing.assert_array_equal(after.get_fdata(), 2 * before.get_fdata())
        assert after.get_data_dtype() == np.float32
        content = second.read_bytes().lower()
        assert b"doe" not in content
        assert b"jane" not in content
        assert not after.header.extensions


@settings(max_examples=60)
@given(st.sampled_from(ORDERS), st.tuples(*[st.floats(-20, 20)] * 3))
def test_other_programs_find_the_values_in_their_places(order: tuple[int, ...], degrees: tuple[float, ...]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.nii"
        written(path, affine_of(order, degrees=degrees))
        write(path, read(path))
        image = load(path)
        np.testing.assert_allclose(image.get_fdata(), ramp(image.affine, SHAPE), rtol=1e-5, atol=2e-3)
        other = SimpleITK.ReadImage(str(path))
        for index in np.ndindex(*SHAPE):
            left, back, head = other.TransformIndexToPhysicalPoint(index)
            assert other.GetPixel(index) == pytest.approx(5 - left + 2 * back + 3 * head, rel=1e-5, abs=5e-3)


def test_a_volume_from_elsewhere_lies_where_it_says(tmp_path: Path) -> None:
    volume = Volume.upright(torch.arange(24.0).reshape(2, 3, 4), (4.0, 1.5, 0.5))
    write(tmp_path / "a.nii", volume)
    image = load(tmp_path / "a.nii")
    assert nibabel.aff2axcodes(image.affine) == ("L", "P", "S")
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (1, 1)
    np.testing.assert_allclose(image.header.get_qform(), image.affine, atol=1e-6)
    np.testing.assert_array_equal(image.get_fdata(), volume.data.permute(2, 1, 0))
    np.testing.assert_allclose(image.header.get_zooms(), (0.5, 1.5, 4.0))
    assert image.header.get_xyzt_units()[0] == "mm"
    again = read(tmp_path / "a.nii")
    torch.testing.assert_close(again.data, volume.data)
    assert again.spacing == volume.spacing


def test_a_sheared_grid_has_no_qform(tmp_path: Path) -> None:
    affine = affine_of((0, 1, 2, 1, 1, 1))
    affine[1, 2] = 1.4
    path = written(tmp_path / "a.nii", affine, (1, 0))
    moved = read(path).cropped(range(1, 3))
    write(tmp_path / "b.nii", moved)
    image = load(tmp_path / "b.nii")
    np.testing.assert_allclose(image.get_fdata(), ramp(image.affine, image.shape), rtol=1e-5, atol=2e-3)


@pytest.mark.parametrize("codes", [(1, 1), (0, 1), (1, 0), (0, 0)])
def test_a_resampled_volume_moves_both_of_its_affines(codes: tuple[int, int], tmp_path: Path) -> None:
    affine = affine_of((2, 0, 1, 1, -1, 1), degrees=(10, -5, 3))
    volume = read(written(tmp_path / "a.nii", affine, codes)).resampled((0.9, 1.1, 2.0))
    write(tmp_path / "b.nii", volume)
    image = load(tmp_path / "b.nii")
    np.testing.assert_allclose(image.affine, volume.place.affine, atol=1e-4)
    if all(codes):
        np.testing.assert_allclose(image.header.get_qform(), image.header.get_sform(), atol=1e-3)


def test_the_same_volume_gives_the_same_bytes(tmp_path: Path) -> None:
    volume = Volume.upright(torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0)))
    (tmp_path / "doe").mkdir()
    for name in ("a.nii.gz", "doe/jane.nii.gz"):
        write_volume(tmp_path / name, volume)
    content = (tmp_path / "a.nii.gz").read_bytes()
    assert content == (tmp_path / "doe" / "jane.nii.gz").read_bytes()
    write_volume(tmp_path / "a.nii", volume)
    assert gzip.decompress(content) == (tmp_path / "a.nii").read_bytes()


def test_stored_integers_are_scaled(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
    image.header.set_slope_inter(0.5, -3)
    image.to_filename(tmp_path / "a.nii")
    volume = read(tmp_path / "a.nii")
    np.testing.assert_array_equal(volume.place.to_stored(volume.data), load(tmp_path / "a.nii").get_fdata())


@pytest.mark.parametrize("name", ["ct_torso", "ct_chest", "ct_brain_atlas_1mm", "head_T1_electrodes", "stroke_T2"])
def test_real_files_come_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    path = data_root() / "medical" / f"{name}.nii.gz"
    if not path.is_file():
        pytest.skip(f"needs {path}")
    volume = read(path)
    assert volume.unit == ("HU" if name in ("ct_torso", "ct_chest") else "arbitrary")  # the atlas is cut out
    write(tmp_path / "a.nii", volume)
    assert fields(path) == fields(tmp_path / "a.nii")
    before, after = load(path), load(tmp_path / "a.nii")
    assert before.affine.tobytes() == after.affine.tobytes()
    np.testing.assert_array_equal(after.get_fdata(), before.get_fdata().astype(np.float32))


# --- what is refused ----------------------------------------------------------------------------------------


def refused(path: Path, match: str) -> None:
    with pytest.raises(InputError, match=match) as error:
        read_volume(path)
    said = str(error.value)
    assert said.startswith(f"{path}: ")
    assert "\n" not in said
    assert said.endswith(".")


def saved(path: Path, values: np.ndarray) -> Path:
    nibabel.Nifti1Image(values, np.eye(4)).to_filename(path)
    return path


def test_other_than_three_axes_are_refused(tmp_path: Path) -> None:
    refused(saved(tmp_path / "flat.nii", np.zeros((4, 4), np.float32)), r"three axes, but the shape is \(4, 4\)")
    refused(saved(tmp_path / "times.nii", np.zeros((4, 4, 4, 2), np.float32)), r"the shape is \(4, 4, 4, 2\)")
    assert tuple(read(saved(tmp_path / "one.nii", np.zeros((2, 3, 4, 1), np.float32))).data.shape) == (4, 3, 2)


def test_voxels_that_cannot_be_trusted_are_refused(tmp_path: Path) -> None:
    values = np.zeros((4, 5, 6), np.float32)
    values[1, 2, 3] = np.inf
    refused(saved(tmp_path / "a.nii", values), r"1 of 120 voxels are not finite, the first at index \(1, 2, 3\)")
    refused(saved(tmp_path / "b.nii", np.full((4, 5, 6), 255, np.uint8)), "120 of 120 voxels are saturated at 255")
    colour = np.zeros((4, 5, 6), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    refused(saved(tmp_path / "c.nii", colour), "voxels are of type .*expected numbers")
    refused(saved(tmp_path / "d.nii", np.zeros((4, 5, 6), np.complex64)), "complex64; expected numbers")


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_a_singular_affine_is_refused(value: float, tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.zeros((4, 5, 6), np.float32), np.eye(4))
    image.header["srow_x"] = value
    (tmp_path / "a.nii").write_bytes(nibabel.Nifti1Image(image.dataobj, None, image.header).to_bytes())
    refused(tmp_path / "a.nii", "affine (is singular|must be)")


def test_what_is_no_nifti_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "none.nii", "does not exist")
    (tmp_path / "text.nii").write_text("hello")
    refused(tmp_path / "text.nii", "cannot be read as NIfTI")
    content = saved(tmp_path / "whole.nii.gz", np.ones((9, 9, 9), np.float32)).read_bytes()
    (tmp_path / "half.nii.gz").write_bytes(content[: len(content) // 2])
    refused(tmp_path / "half.nii.gz", "cannot be read as NIfTI")
    plain = gzip.decompress(content)
    (tmp_path / "half.nii").write_bytes(plain[: len(plain) // 2])
    refused(tmp_path / "half.nii", "cannot be read as NIfTI")
    (tmp_path / "a.txt").write_text("hello")
    refused(tmp_path / "a.txt", "is not a volume; expected a file ending in .nii")


# --- arrays -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.npz", "a.npy"])
def test_arrays_of_numpy_come_back(name: str, tmp_path: Path) -> None:
    affine = affine_of((1, 2, 0, -1, 1, -1), degrees=(5, 0, 0))
    volume = read(written(tmp_path / "a.nii", affine))
    write_volume(tmp_path / name, volume)
    again = read_volume(tmp_path / name)
    torch.testing.assert_close(again.data, volume.data)
    if name == "a.npz":
        np.testing.assert_allclose(again.place.axial_affine(), volume.place.axial_affine(), atol=1e-4)
        assert again.unit == volume.unit
    else:
        assert again.spacing == (1, 1, 1)
        assert read_volume(tmp_path / name, spacing=(3, 2, 1)).spacing == (3, 2, 1)


def test_arrays_that_are_no_volume_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "flat.npy", np.zeros((3, 3)))
    refused(tmp_path / "flat.npy", "three axes")
    np.savez(tmp_path / "two.npz", a=np.zeros((3, 3, 3)), b=np.zeros((3, 3, 3)))
    refused(tmp_path / "two.npz", "has 2 volumes in it")
    np.save(tmp_path / "object.npy", np.array([{}], dtype=object), allow_pickle=True)
    refused(tmp_path / "object.npy", "cannot be read as an array")
    (tmp_path / "text.npz").write_text("hello")
    refused(tmp_path / "text.npz", "cannot be read as an array")
    np.savez(tmp_path / "far.npz", data=np.zeros((3, 3, 3)), spacing=np.array([1, 0, 1]))
    refused(tmp_path / "far.npz", "three lengths in mm above 0")
    with pytest.raises(InputError, match="no volume can be written there"):
        write_volume(tmp_path / "a.png", Volume.upright(torch.zeros(2, 2, 2)))
