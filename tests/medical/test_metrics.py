"""Scores of volumes: closed forms, which slices count, and grids that must agree."""

from __future__ import annotations

import csv
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from degauss.core.errors import InputError
from degauss.medical.geometry import Grid, ParallelBeam, evenly
from degauss.medical.metrics import (
    AXES,
    body,
    check_grid,
    compare,
    data_residual,
    full_of,
    in_prior_units,
    noise_residual,
)
from degauss.medical.mri import even_lines
from degauss.medical.scans import Scan
from degauss.medical.simulation import simulate_ct, simulate_mri
from degauss.medical.volumes import CT_FULL, Place, Volume, from_prior_units, magnitude_full, prior_units

SHAPE = (20, 24, 28)


def head(value: float = 40.0, air: float = -1000.0) -> Tensor:
    """An ellipsoid of one value, with a margin of air on all sides."""
    z, y, x = torch.meshgrid(*(torch.linspace(-1.2, 1.2, n) for n in SHAPE), indexing="ij")
    return torch.where(z**2 + y**2 + x**2 < 1, value, air)


def test_a_constant_error_has_a_closed_form() -> None:
    truth = head()
    found = compare(truth + 20, truth, "HU")
    assert found.data_range == 2000
    for plane, axis in AXES.items():
        assert found.plane(plane).psnr == pytest.approx(20 * math.log10(2000 / 20))
        assert found.plane(plane).slices == int((truth > -1000).any(tuple({0, 1, 2} - {axis})).sum()) < SHAPE[axis]
    assert found.rmse == pytest.approx(20)
    assert compare(truth + 20, truth, "HU", data_range=200).plane("axial").psnr == pytest.approx(20)
    # SSIM in a flat region is that of the means alone.
    flat = torch.full(SHAPE, 0.5)
    c = 0.01**2
    expected = (2 * 0.5 * 0.6 + c) / (0.5**2 + 0.6**2 + c)
    assert compare(flat + 0.1, flat, "arbitrary", data_range=1.0).plane("coronal").ssim == pytest.approx(
        expected, rel=1e-5
    )


def test_each_plane_has_its_own_slices() -> None:
    truth = head()
    volume = truth.clone()
    volume[10] += 50  # one axial slice
    found = compare(volume, truth, "HU")
    wrong = [score for score in found.slices if score.plane == "axial" and score.psnr < 100]
    assert [score.index for score in wrong] == [10]
    assert wrong[0].psnr == pytest.approx(20 * math.log10(2000 / 50))
    assert [score.ssim for score in found.slices if score.plane == "axial" and score.index != 10] == [1.0] * (
        found.plane("axial").slices - 1
    )
    coronal = [score.psnr for score in found.slices if score.plane == "coronal"]
    assert coronal == pytest.approx([20 * math.log10(2000 / 50) + 10 * math.log10(20)] * len(coronal))


def test_an_exact_volume_scores_finitely() -> None:
    found = compare(head(), head(), "HU")
    assert {found.plane(plane)[:2] for plane in AXES} == {(100.0, 1.0)}


def test_empty_slices_do_not_flatter() -> None:
    truth = head()
    noisy = truth + 50 * (truth > -1000)
    padded, true = (torch.nn.functional.pad(part, (9, 9, 9, 9, 9, 9), value=-1000.0) for part in (noisy, truth))
    assert compare(padded, true, "HU").plane("axial").slices == compare(noisy, truth, "HU").plane("axial").slices


def test_what_scanners_fill_the_outside_with_is_air() -> None:
    truth = head()
    filled = truth.clone()
    filled[:, :2] = -3024
    assert compare(truth, filled, "HU").plane("axial").psnr == 100
    assert compare(truth + 1, truth, "HU").plane("axial").psnr < 100


def test_the_body_has_its_lungs_and_not_the_table() -> None:
    data = head()
    inside = data > -1000
    data[8:12, 10:14, 8:12] = -900  # a lung, enclosed in its slices
    data[:, 23, :] = 100  # a table below
    data[0, 0, 0] = 500
    assert torch.equal(body(data, "HU"), inside)
    assert torch.equal(body(head(300.0, 0.0), "arbitrary"), inside)
    with pytest.raises(InputError, match="holds no body"):
        body(torch.full(SHAPE, -1000.0), "HU")
    with pytest.raises(InputError, match="no voxel above 0"):
        body(torch.zeros(SHAPE), "arbitrary")


def test_the_range_of_other_units_is_the_priors() -> None:
    truth = head(300.0, 0.0) * torch.rand(SHAPE, generator=torch.Generator().manual_seed(0))
    assert compare(truth + 1, truth, "arbitrary").data_range == pytest.approx(magnitude_full(truth))
    scaled = compare(7 * (truth + 1), 7 * truth, "arbitrary")
    assert scaled.plane("sagittal") == pytest.approx(compare(truth + 1, truth, "arbitrary").plane("sagittal"))


def test_thin_volumes_have_a_smaller_window() -> None:
    found = compare(head()[9:12] + 5, head()[9:12], "HU")
    assert found.plane("coronal").psnr == pytest.approx(20 * math.log10(400))


def test_the_table_has_a_row_for_each_slice(here) -> None:
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    found = compare(head() + 30 * noise, head(), "HU", residual=0.1)
    found.write_csv("metrics.csv")
    rows = list(csv.DictReader((here / "metrics.csv").read_text().splitlines()))
    assert len(rows) == len(found.slices)
    axial = [float(row["psnr_db"]) for row in rows if row["plane"] == "axial"]
    card = found.card()
    assert card["axial"]["psnr"] == pytest.approx(np.mean(axial), abs=1e-3)
    assert (card["residual"], card["unit"], card["data_range"]) == (0.1, "HU", 2000)


def test_bad_volumes_are_refused() -> None:
    truth = head()
    with pytest.raises(InputError, match=r"\(20, 24, 28\) and \(20, 24, 27\)"):
        compare(truth, truth[..., 1:], "HU")
    with pytest.raises(InputError, match="at least 3 each"):
        compare(truth[:2], truth[:2], "HU")
    with pytest.raises(InputError, match="data range must be a number above 0, but is -1"):
        compare(truth, truth, "HU", data_range=-1.0)
    volume = truth.clone()
    volume[0, 0, 0] = math.nan
    for pair in ((volume, truth), (truth, volume)):
        with pytest.raises(InputError, match="1 of 13440 voxels are not finite"):
            compare(*pair, "HU")


# --- scans --------------------------------------------------------------------------------------------------


def test_prior_units_are_undone_also_below_air() -> None:
    values = torch.tensor([-1100.0, -1000.0, 0.0, 1000.0])
    x = in_prior_units(values, CT_FULL, "HU")
    torch.testing.assert_close(x, torch.tensor([-0.05, 0.0, 0.5, 1.0]))
    torch.testing.assert_close(from_prior_units(x, CT_FULL, "HU"), values)
    torch.testing.assert_close(in_prior_units(values, 50.0, "arbitrary"), values / 50)
    assert full_of(values, "HU") == CT_FULL


def ct_scan(sigma: float) -> tuple[Volume, Scan]:
    volume = Volume.upright(head(), (2.0, 2.0, 2.0), "HU")
    grid = Grid(SHAPE[1], SHAPE[2], (2.0, 2.0))
    return volume, simulate_ct(volume, ParallelBeam.covering(grid, evenly(8, 180.0)), sigma=sigma)


@pytest.mark.parametrize("sigma", [0.0, 0.2])
def test_the_truth_leaves_what_noise_leaves_in_ct(sigma: float) -> None:
    volume, scan = ct_scan(sigma)
    x = in_prior_units(volume.data, scan.full, scan.unit)
    torch.testing.assert_close(x, prior_units(volume)[0])
    assert data_residual(scan.measurement(), x[None]) == pytest.approx(noise_residual(scan), rel=0.03, abs=1e-6)
    assert data_residual(scan.measurement(), 0 * x[None]) == pytest.approx(1)


def test_the_truth_leaves_what_noise_leaves_in_mri() -> None:
    volume = Volume.upright(head(3.0, 0.0), (2.0, 2.0, 2.0), "arbitrary")
    scan = simulate_mri(volume, even_lines(SHAPE[2], 3.0, 0.1), sigma=0.1)
    x = in_prior_units(volume.data, scan.full, scan.unit)
    assert data_residual(scan.measurement(), x[None]) == pytest.approx(noise_residual(scan), rel=0.05)


# --- grids --------------------------------------------------------------------------------------------------


def test_one_grid_may_be_stored_in_two_ways() -> None:
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    ras = Place.of(affine, (8, 7, 6))
    flipped = np.diag([-2.0, -3.0, 4.0, 1.0])
    flipped[:3, 3] = 2.0 * 7, 3.0 * 6, 0
    lps = Place.of(flipped, (8, 7, 6))
    assert ras.flipped != lps.flipped
    check_grid("a", Volume(torch.zeros(6, 7, 8), ras.spacing, "HU", ras), "b", lps)


def test_grids_that_differ_are_told_apart() -> None:
    volume = Volume.upright(torch.zeros(6, 7, 8), (4.0, 3.0, 2.0))
    place = volume.place
    with pytest.raises(InputError, match=r"^a has 6 x 7 x 8 voxels .* but b has 5 x 7 x 8: "):
        check_grid("a", volume, "b", Volume.upright(torch.zeros(5, 7, 8), (4.0, 3.0, 2.0)).place)
    with pytest.raises(InputError, match=r"^a has voxels of 4 x 3 x 2 mm, but b of 4 x 3 x 2\.5 mm"):
        check_grid("a", volume, "b", Volume.upright(torch.zeros(6, 7, 8), (4.0, 3.0, 2.5)).place)
    moved = place.affine.copy()
    moved[2, 3] += 8
    with pytest.raises(InputError, match=r"^a and b lie up to 8 mm apart"):
        check_grid("a", volume, "b", Place.of(moved, place.shape))
    moved[2, 3] = place.affine[2, 3] + 1e-3
    check_grid("a", volume, "b", Place.of(moved, place.shape))
