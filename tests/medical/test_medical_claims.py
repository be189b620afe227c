"""The claims' verdicts follow from their figures as their texts say, and what they measure on is what they promise."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch

from degauss.core.claims import find_claims, source_tree
from degauss.core.inverse import ConjugateGradient, least_squares
from degauss.medical.acquisition import CartesianGeometry

PLANES, KINDS = ("axial", "coronal", "sagittal"), ("PSNR (dB)", "SSIM")
Figures = dict[str, list[float]]


def loaded(name: str, helper: str | None = None) -> ModuleType:
    """A claim as a module, or a helper that it uses."""
    (claim,) = find_claims(source_tree(), [name])
    claim.load()
    return sys.modules[f"degauss_claims.medical.{helper or name}"]


# --- tomography ---------------------------------------------------------------------------------------------


def quality(scans: dict[str, float], methods: dict[str, float]) -> Figures:
    """Scores that are a sum of what the scan gives and what the method does, three seeds each, of which one is off."""
    return {
        f"{scan}, {plane} {kind}, {method}": [base + gain, base + gain, -9.0]
        for scan, base in scans.items()
        for method, gain in methods.items()
        for plane in PLANES
        for kind in KINDS
    }


SCANS = {"8 views": 0.7, "4 views": 0.6, "2 views": 0.5, "90 degrees": 0.6}
METHODS = {
    "FBP": 0.0, "DPS": 0.05, "RED-diff": 0.1, "DDS": 0.11, "TV": 0.12, "DiffusionMBIR": 0.125, "DDS + TV along z": 0.13,
}  # fmt: skip


@pytest.mark.parametrize("name", ["sparse_view_ct", "sparse_view_ct_128"])
def test_the_order_that_papers_tell_holds(name: str) -> None:
    assert loaded(name).verdict(quality(SCANS, METHODS)) == "holds"


@pytest.mark.parametrize("name", ["sparse_view_ct", "sparse_view_ct_128"])
@pytest.mark.parametrize("worse", ["TV", "DDS", "FBP"])
def test_a_rival_ahead_costs_a_part(name: str, worse: str) -> None:
    assert loaded(name).verdict(quality(SCANS, METHODS | {worse: 0.14})) == "holds partly"


@pytest.mark.parametrize(
    ("name", "figure", "value"),
    [
        ("sparse_view_ct", "2 views, sagittal SSIM, DPS", 0.7),
        ("sparse_view_ct", "2 views, axial SSIM, TV", 0.7),
        ("sparse_view_ct", "8 views, axial PSNR (dB), DiffusionMBIR", 0.9),
        ("sparse_view_ct", "8 views, coronal SSIM, RED-diff", 0.836),
        ("sparse_view_ct", "2 views, coronal PSNR (dB), DDS + TV along z", 0.8),
        ("sparse_view_ct_128", "90 degrees, coronal SSIM, TV", 0.8),
        ("sparse_view_ct_128", "4 views, coronal SSIM, DDS", 0.74),
    ],
)
def test_one_figure_is_enough(name: str, figure: str, value: float) -> None:
    figures = quality(SCANS, METHODS)
    assert loaded(name).verdict(figures | {figure: [value] * 3}) == "holds partly"


def test_nothing_holds_where_fbp_is_best() -> None:
    figures = quality(SCANS | {"2 views": 0.9}, METHODS | {"FBP": 0.5, "TV": 0.5, "DDS": 0.5, "DiffusionMBIR": 0.5})
    assert loaded("sparse_view_ct").verdict(figures) == "does not hold"


def test_strengths_are_tuned_on_another_subject(or_skip: Callable[[Callable[[], Any]], Any]) -> None:
    ct = loaded("sparse_view_ct", "_ct")
    tuning, test = or_skip(lambda: (ct.chest(64, 8), ct.torso(64, 4)))
    assert tuning.data.shape == (8, 64, 64)
    assert test.data.shape == (4, 64, 64)
    assert (tuning.spacing, test.spacing) == ((3.0,) * 3, (6.0,) * 3)
    assert len(ct.chest(64, 99).data) * 3.0 <= ct.HELD_OUT * 1.5  # no more than what the prior has not seen
    scan = ct.scan_of(test, ct.EIGHT)
    truth = ct.truth_of(scan)
    perfect = ct.scores(scan, truth)
    assert perfect["axial PSNR (dB)"] == 100
    assert perfect["sagittal SSIM"] == pytest.approx(1)


# --- intervals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lower", "upper", "drawn", "expected"),
    [
        (0.9, 0.86, 0.6, "holds"),
        (0.9, 0.84, 0.6, "holds partly"),
        (0.96, 0.84, 0.6, "does not hold"),
        (0.9, 0.9, 0.88, "holds partly"),  # nothing to calibrate
    ],
)
def test_intervals(lower: float, upper: float, drawn: float, expected: str) -> None:
    claim = loaded("calibrated_intervals")
    figures: Figures = {}
    for name, covered in ((claim.LOWER, lower), (claim.UPPER, upper)):
        figures[f"covered, {name}, calibrated on the others"] = [covered, covered, 0.1]
        figures[f"covered, {name}, as drawn"] = [drawn] * 3
    assert claim.verdict(figures) == expected


# --- magnetic resonance -------------------------------------------------------------------------------------


def resonance(**changes: float) -> Figures:
    """Figures in the order that the papers tell."""
    gains = {"CG": 0.1, "DPS": 0.2, "TV": 0.3, "wavelets": 0.3, "RED-diff": 0.4, "DDS": 0.4} | changes
    found = {f"x{a}, {kind}, {name}": [gain] * 3 for a in (4, 8) for kind in KINDS for name, gain in gains.items()}
    left = {"DDS": 0.3, "CG-SENSE, 10 iterations": 0.5, "CG-SENSE, 30 iterations": 0.4, "zero-filled": 0.7}
    return found | {f"measured, residual on samples kept back, {name}": [value] * 3 for name, value in left.items()}


def test_resonance() -> None:
    verdict = loaded("accelerated_mri").verdict
    assert verdict(resonance()) == "holds"
    for rival in ("DPS", "TV", "wavelets", "CG"):
        assert verdict(resonance(**{rival: 0.5})) == "holds partly"
    worst = resonance(DDS=0.0, CG=0.5)
    worst |= {"x8, SSIM, RED-diff": [0.1], "measured, residual on samples kept back, DDS": [0.45]}
    assert verdict(worst) == "does not hold"


def test_samples_kept_back_are_measured_and_not_given(or_skip: Callable[[Callable[[], Any]], Any]) -> None:
    mri = loaded("accelerated_mri", "_mri")
    kept, other = or_skip(lambda: (mri.measured(0), mri.measured(1)))
    geometry = kept.scan.geometry
    assert isinstance(geometry, CartesianGeometry)
    back = kept.held_out.mask
    assert not bool((geometry.mask * back).any())
    share = float(back.sum() / (geometry.mask.sum() + back.sum() - 24 * 24))
    assert share == pytest.approx(0.1, abs=0.02)
    assert not torch.equal(back, other.held_out.mask)
    assert bool((kept.y[..., back == 1].square().sum((0, 1, 2, 3)) > 0).all())
    assert kept.residual(torch.zeros(1, 2, *mri.SHAPE)) == 1
    assert 0.05 < kept.noise < 0.5
    # Conjugate gradients on all samples but these say something of them.
    known = kept.scan.measurement()
    x = least_squares(known, torch.zeros(1, *kept.scan.shape), ConjugateGradient(10))[0]
    assert kept.noise < kept.residual(x) < 0.5
