"""A reconstruction judged: is it right, does it explain its scan, and does it know what it knows."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from degauss.core.errors import InputError
from degauss.core.inverse import Calibration, calibrate_intervals
from degauss.medical.evaluation import Evaluation, Spread, evaluate, tissues
from degauss.medical.geometry import Grid, ParallelBeam, evenly
from degauss.medical.metrics import body, in_prior_units
from degauss.medical.mri import even_lines
from degauss.medical.scans import Scan
from degauss.medical.simulation import simulate_ct, simulate_mri
from degauss.medical.volumes import CT_FULL, Volume

SHAPE, DRAWS, STD = (20, 24, 28), 8, 30.0


def torso() -> Volume:
    z, y, x = torch.meshgrid(*(torch.linspace(-1.2, 1.2, n) for n in SHAPE), indexing="ij")
    data = torch.where(z**2 + y**2 + x**2 < 1, 40.0, -1000.0)
    data[8:12, 10:14, 8:12] = -900
    data[8:12, 10:14, 18:20] = 700
    return Volume.upright(data, (2.0, 2.0, 2.0), "HU")


def ensemble(seed: int, shrunk: float = 1.0, outlier: float = 0.0) -> Tensor:
    """Draws of a Gaussian posterior of which the truth is one more; ``outlier``: the error in the bone beside, HU."""
    generator = torch.Generator().manual_seed(seed)
    truth = torso().data
    centre = truth + STD * torch.randn(SHAPE, generator=generator) + outlier * (truth > 150)
    return centre + shrunk * STD * torch.randn(DRAWS, *SHAPE, generator=generator)


def judged(draws: Tensor, calibration: Calibration | None = None, **options) -> Evaluation:
    truth = torso()
    spread = Spread(draws.std(0), len(draws), calibration)
    return evaluate(truth.with_data(draws.mean(0)), truth, spread=spread, **options)


def record(draws: Tensor) -> Calibration:
    truth = torso().data
    x, known = (in_prior_units(part, CT_FULL, "HU") for part in (draws, truth))
    return calibrate_intervals(x, known, floor=1e-4, describes={"method": "toy"}, where=body(truth, "HU"))


def test_exact_draws_cover_without_calibration() -> None:
    found = judged(ensemble(0))
    assert found.coverage is not None
    assert found.coverage.overall.covered == pytest.approx(0.9, abs=0.02)
    assert found.coverage.overall.count == int(found.inside.sum())
    assert found.sentences == (
        f"Uncalibrated intervals of 90% cover {found.coverage.overall.covered:.1%} of the body's voxels.",
    )
    assert dict(found.curves["as drawn"])[0.5] == pytest.approx(0.5, abs=0.03)


def test_overconfident_draws_are_warned_of_and_a_calibration_repairs_them() -> None:
    found = judged(ensemble(0, shrunk=0.4))
    assert found.sentences[0].startswith("Warning: Uncalibrated intervals")
    # In HU where the calibration was in prior units.
    repaired = judged(ensemble(1, shrunk=0.4), record(ensemble(2, shrunk=0.4)))
    assert repaired.coverage is not None
    assert repaired.coverage.overall.covered == pytest.approx(0.9, abs=0.02)
    assert dict(repaired.curves["calibrated"])[0.9] == pytest.approx(repaired.coverage.overall.covered, abs=1e-3)
    assert dict(repaired.curves["as drawn"])[0.9] < 0.7
    assert not any("Warning" in sentence for sentence in repaired.sentences)


def test_a_tissue_that_is_not_covered_is_named() -> None:
    found = judged(ensemble(0, outlier=150.0))
    assert found.coverage is not None
    assert found.coverage.overall.covered > 0.85
    assert found.coverage.regions["bone"].covered < 0.2
    assert any(sentence.startswith("Warning: in bone they cover") for sentence in found.sentences)
    assert sum(band.count for band in found.coverage.regions.values()) == found.coverage.overall.count


def test_tissues_are_of_the_body_and_of_ct() -> None:
    truth = torso().data
    inside = body(truth, "HU")
    parts = tissues(truth, "HU", inside)
    assert {name: int(part.sum()) for name, part in parts.items() if name != "fat and soft tissue"} == {
        "gas and lung": 4 * 4 * 4,
        "bone": 4 * 4 * 2,
    }
    assert tissues(truth, "arbitrary", inside) == {}


def ct(sigma: float) -> Scan:
    beam = ParallelBeam.covering(Grid(SHAPE[1], SHAPE[2], (2.0, 2.0)), evenly(8, 180.0))
    return simulate_ct(torso(), beam, sigma=sigma)


def test_it_says_whether_the_scan_is_explained() -> None:
    truth = torso()
    found = evaluate(truth, truth, scan=ct(0.05))
    assert found.sentences[0].startswith("The volume explains its scan: |y - A x| / |y| is ")
    assert found.metrics.residual is not None
    assert found.metrics.residual > 1e-3
    found = evaluate(truth.with_data(truth.data + 200 * (truth.data > 0)), truth, scan=ct(0.05))
    assert found.sentences[0].startswith("Warning: the volume does not explain its scan")


def test_a_complex_scan_is_not_held_against_magnitudes() -> None:
    image = Volume.upright(torso().data.clamp_min(0), (2.0, 2.0, 2.0))
    scan = simulate_mri(image, even_lines(SHAPE[2], 3.0, 0.1), phase=1.0)
    found = evaluate(image, image, scan=scan)
    assert found.metrics.residual is None
    assert "complex" in found.sentences[0]


def test_the_card_is_json() -> None:
    found = judged(ensemble(0), scan=ct(0.05))
    card = json.loads(json.dumps(found.card(), allow_nan=False))
    assert card["axial"]["slices"] == found.metrics.plane("axial").slices
    assert card["coverage"]["overall"]["covered"] == found.coverage.overall.covered  # type: ignore[union-attr]
    assert len(card["sentences"]) == 2
    assert card["reliability"]["as drawn"][0][0] == 0.1


def test_it_refuses() -> None:
    with pytest.raises(InputError, match="a standard deviation is at least 0"):
        evaluate(torso(), torso(), spread=Spread(torso().data, 8))
    with pytest.raises(InputError, match="with draws 8, but are asked for with draws 7"):
        judged(ensemble(0)[1:], record(ensemble(0)))
