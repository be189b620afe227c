"""Volumes: the same voxel at the same place of the world, whatever the file's order of axes; resampling; scales."""

from __future__ import annotations

import json
import math

import nibabel
import numpy as np
import pytest
import SimpleITK
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from degauss.core.errors import InputError
from degauss.medical.ct import WATER
from degauss.medical.volumes import (
    CT_FULL,
    Nifti,
    Place,
    Volume,
    check_saturation,
    from_prior_units,
    magnitude_full,
    per_prior_unit,
    prior_units,
    upright_place,
)

from .conftest import ORDERS, affine_of, ramp

SHAPE = (3, 4, 5)


def volume_of(affine: np.ndarray, shape: tuple[int, int, int] = SHAPE) -> Volume:
    return Volume.at(torch.from_numpy(ramp(affine, shape)), "arbitrary", Place.of(affine, shape))


def expected(volume: Volume) -> torch.Tensor:
    """What the test function is at the place of each voxel."""
    return torch.from_numpy(ramp(volume.place.axial_affine(), tuple(volume.data.shape)))


@settings(max_examples=60)
@given(st.sampled_from(ORDERS), st.tuples(*[st.floats(-20, 20)] * 3))
def test_axes_are_axial_and_voxels_stay_in_their_place(order: tuple[int, ...], degrees: tuple[float, ...]) -> None:
    affine = affine_of(order, degrees=degrees)
    volume = volume_of(affine)
    torch.testing.assert_close(volume.data, expected(volume), rtol=1e-5, atol=1e-3)
    towards = volume.place.axial_affine()[:3, :3] / volume.spacing
    cosines = towards[[2, 1, 0], [0, 1, 2]] * [1, -1, -1]  # head, back, left
    assert (cosines > 0.7).all()
    assert tuple(volume.data.shape) == tuple(SHAPE[axis] for axis in volume.place.order)
    canonical = nibabel.as_closest_canonical(nibabel.Nifti1Image(ramp(affine, SHAPE), affine))
    np.testing.assert_array_equal(volume.data, np.transpose(canonical.get_fdata()[::-1, ::-1], (2, 1, 0)))
    np.testing.assert_array_equal(volume.place.to_stored(volume.data), ramp(affine, SHAPE))


@settings(max_examples=60)
@given(st.sampled_from(ORDERS), st.tuples(*[st.floats(-20, 20)] * 3))
def test_resampling_and_cropping_keep_the_world(order: tuple[int, ...], degrees: tuple[float, ...]) -> None:
    volume = volume_of(affine_of(order, degrees=degrees), (9, 9, 10))
    for other in (volume.resampled((1.1, 0.9, 0.5)), volume.resampled(volume.spacing, (9, 7, 9))):
        # Beyond the outermost voxels' middles there is nothing to interpolate with.
        ends = [math.ceil(old / new) + 1 for old, new in zip(volume.spacing, other.spacing, strict=True)]
        middle = tuple(slice(end, n - end) for end, n in zip(ends, other.data.shape, strict=True))
        assert min(other.data[middle].shape) > 1
        torch.testing.assert_close(other.data[middle], expected(other)[middle], rtol=1e-4, atol=1e-2)
        middles = [v.place.axial_affine() @ [*((np.array(v.data.shape) - 1) / 2), 1] for v in (volume, other)]
        np.testing.assert_allclose(middles[0], middles[1], atol=1e-9)
    part = volume.cropped(range(2, 5))
    torch.testing.assert_close(part.data, expected(part), rtol=1e-5, atol=1e-3)
    assert part.spacing == volume.spacing
    same = volume.resampled(volume.spacing)
    torch.testing.assert_close(same.data, volume.data, rtol=1e-5, atol=1e-3)
    np.testing.assert_array_equal(same.place.affine, volume.place.affine)


def test_resampling_to_finer_voxels_is_linear_interpolation() -> None:
    volume = Volume.upright(torch.rand(5, 6, 7, generator=torch.Generator().manual_seed(0)), (4.0, 1.5, 1.0))
    fine = volume.resampled((2.0, 0.8, 0.7))
    image = SimpleITK.GetImageFromArray(volume.data.numpy())
    image.SetSpacing((1.0, 1.5, 4.0))
    grid = SimpleITK.Image(*fine.data.shape[::-1], SimpleITK.sitkFloat32)
    grid.SetSpacing((0.7, 0.8, 2.0))
    middle = np.array(image.TransformContinuousIndexToPhysicalPoint([3, 2.5, 2]))
    grid.SetOrigin(tuple(middle - (np.array(grid.GetSize()) - 1) / 2 * np.array(grid.GetSpacing())))
    found = SimpleITK.GetArrayFromImage(SimpleITK.Resample(image, grid, SimpleITK.Transform(), SimpleITK.sitkLinear))
    np.testing.assert_allclose(fine.data[1:-1, 1:-1, 1:-1], found[1:-1, 1:-1, 1:-1], atol=1e-5)


def test_coarser_voxels_are_means_that_do_not_alias() -> None:
    stripes = torch.zeros(2, 2, 64)
    stripes[..., ::2] = 1.0
    coarse = Volume.upright(stripes).resampled((1.0, 1.0, 4.0))
    assert tuple(coarse.data.shape) == (2, 2, 16)
    torch.testing.assert_close(coarse.data[..., 1:-1], torch.full((2, 2, 14), 0.5))


@pytest.mark.parametrize(("unit", "air"), [("HU", -1000.0), ("arbitrary", 0.0)])
def test_a_larger_field_of_view_is_air(unit: str, air: float) -> None:
    volume = Volume.upright(torch.full((2, 3, 3), 40.0), unit=unit)  # pyright: ignore[reportArgumentType]
    wide = volume.resampled((1, 1, 1), (4, 7, 5))
    assert bool((wide.data[1:3, 2:5, 1:4] == 40).all())
    assert int((wide.data == air).sum()) == 4 * 7 * 5 - 18


def test_lengths_in_a_headers_unit_are_millimetres_outside() -> None:
    fields = Nifti(1, 1, 1, 0, (0.001, 0.001, 0.001), 1.0, (0, 0, 0), (0, 0, 0), ((0, 0, 0, 0),) * 3)  # metres
    place = Place.of(np.diag([0.001, 0.002, 0.003, 1]), (4, 4, 4), fields)
    np.testing.assert_allclose(place.spacing, (3, 2, 1))
    np.testing.assert_allclose(np.abs(np.linalg.det(place.axial_affine()[:3, :3])), 6)


@given(st.sampled_from(ORDERS))
def test_json_keeps_a_place_bit_for_bit(order: tuple[int, ...]) -> None:
    affine = affine_of(order, degrees=(3, 0.1, -7))
    fields = Nifti(1, 10, 2, 1, (0.1, 0.2, 0.3), -1.0, (0.1, 1 / 3, 0), (1e-7, 2, 3), tuple(map(tuple, affine[:3])))
    place = Place.of(affine, SHAPE, fields)
    again = Place.from_json(json.loads(json.dumps(place.to_json())))
    assert again.affine.tobytes() == place.affine.tobytes()
    assert (again.shape, again.order, again.flipped, again.nifti) == (SHAPE, place.order, place.flipped, place.nifti)
    with pytest.raises(InputError, match="affine must be 16 numbers"):
        Place.from_json({**place.to_json(), "affine": [1.0]})


def test_a_sheared_grid_keeps_its_place() -> None:
    affine = affine_of((0, 1, 2, 1, 1, 1))
    affine[1, 2] = 1.4  # the rows of a tilted gantry
    volume = volume_of(affine)
    torch.testing.assert_close(volume.data, expected(volume))


# --- scales -------------------------------------------------------------------------------------------------


def test_prior_units_of_ct_count_from_air() -> None:
    volume = Volume.upright(torch.tensor([[[-1000.0, 0.0, 1000.0, -3024.0]]]), unit="HU")
    x, full = prior_units(volume)
    torch.testing.assert_close(x, torch.tensor([[[0.0, 0.5, 1.0, 0.0]]]))
    assert full == CT_FULL == 2 * WATER
    torch.testing.assert_close(from_prior_units(x, full, "HU")[..., :3], volume.data[..., :3], atol=1e-3, rtol=0)
    assert per_prior_unit(full, "HU") == pytest.approx(2000)  # from air to +1000 HU


def test_prior_units_of_mr_ignore_the_air_and_the_brightest_voxels() -> None:
    image = torch.cat((torch.zeros(100_000), torch.linspace(50, 100, 10_000), torch.full((30,), 5000.0)))
    full = magnitude_full(image)
    assert 99 < full < 101
    x, scale = prior_units(Volume.upright((7 * image - 0.1)[None, None]))
    assert float(x.min()) == 0
    assert scale == pytest.approx(7 * full, rel=1e-2)
    assert per_prior_unit(scale, "arbitrary") == scale
    with pytest.raises(InputError, match="no voxel above 0"):
        magnitude_full(torch.zeros(3))


# --- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 4), (2, 4, 4, 4), (0, 4, 4)])
def test_other_than_three_axes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="Expected a volume of three axes"):
        Volume.upright(torch.zeros(shape))


def test_voxels_that_are_no_numbers_are_counted() -> None:
    data = torch.zeros(2, 3, 4)
    data[1, 0, 2] = data[1, 2, 3] = float("nan")
    with pytest.raises(InputError, match=r"^2 of 24 voxels are not finite, the first at index \(1, 0, 2\)\.$"):
        Volume(data, (1.0, 1.0, 1.0), "arbitrary", upright_place((2, 3, 4), (1, 1, 1)))
    with pytest.raises(InputError, match="not finite"):
        Volume.upright(torch.zeros(2, 3, 4)).with_data(data)


def test_saturation_is_many_voxels_at_the_last_number() -> None:
    stored = np.arange(2000, dtype=np.int16).reshape(10, 10, 20)
    stored[2, 3, 4:15] = 32767
    check_saturation(stored)  # eleven of 2000: metal
    stored[2, 4] = 32767
    with pytest.raises(InputError, match=r"31 of 2000 voxels are saturated at 32767.* index \(2, 3, 4\)\."):
        check_saturation(stored)
    twelve = np.where(stored == 32767, 4095, stored)
    check_saturation(twelve)
    with pytest.raises(InputError, match="saturated at 4095"):
        check_saturation(twelve, 4095)
    check_saturation(np.full((4, 4, 4), 255.0))


@pytest.mark.parametrize("wrong", ["flat", "empty", "nan"])
def test_affines_without_a_place_are_refused(wrong: str) -> None:
    affine = np.eye(4)
    if wrong == "flat":
        affine[:, 2] = affine[:, 1]
    elif wrong == "empty":
        affine[0, 0] = 0
    else:
        affine[0, 3] = np.nan
    with pytest.raises(InputError, match=r"affine must be 4 x 4 finite" if wrong == "nan" else "affine is singular"):
        Place.of(affine, (2, 2, 2))


def test_slices_that_are_not_there_are_refused() -> None:
    volume = Volume.upright(torch.zeros(4, 2, 2))
    for wrong in (range(3, 5), range(2, 2), range(0, 4, 2)):
        with pytest.raises(InputError, match="slices 0 to 4"):
            volume.cropped(wrong)
    for spacing in ((1, 1, 0), (1, 1, float("inf"))):
        with pytest.raises(InputError, match="three lengths in mm above 0"):
            volume.resampled(spacing)
        with pytest.raises(InputError, match="three lengths in mm above 0"):
            Volume.upright(volume.data, spacing)


def test_parts_that_disagree_are_a_mistake() -> None:
    place = upright_place((2, 3, 4), (1, 1, 1))
    with pytest.raises(ValueError, match="its place is for"):
        Volume(torch.zeros(2, 3, 5), (1, 1, 1), "HU", place)
    with pytest.raises(ValueError, match="spacing"):
        Volume(torch.zeros(2, 3, 4), (1, 2, 1), "HU", place)
    with pytest.raises(ValueError, match="float32"):
        Volume(torch.zeros(2, 3, 4).double(), (1, 1, 1), "HU", place)
