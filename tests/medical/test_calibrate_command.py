"""`calibrate`: a record beside the prior that `reconstruct` finds, and intervals that cover what they were made on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from degauss.core.inverse import Calibration
from degauss.medical import nifti
from degauss.medical.geometry import Grid, ParallelBeam, evenly
from degauss.medical.scans import write_scan
from degauss.medical.simulation import simulate_ct
from degauss.medical.volumes import Volume

from ._oracles import SIZE, blobs_hu, save_prior

Invoke = Callable[[list[str | Path]], tuple[int, str, str]]
Refusal = Callable[[Callable[[], Any]], str]


@pytest.fixture
def volume(here: Path) -> Path:
    nifti.write(here / "ct.nii.gz", Volume.upright(blobs_hu(), (3.0, 2.0, 2.0), "HU"))
    return here / "ct.nii.gz"


@pytest.fixture
def prior(here: Path) -> Path:
    return save_prior(here / "priors" / "ct")


def words(*volumes: Path, prior: Path, more: tuple[str | Path, ...] = ()) -> list[str | Path]:
    return ["calibrate", *volumes, "--prior", prior, "--steps", "3", "--samples", "3", "--views", "5", *more]


def test_the_record_lies_beside_the_prior_and_is_found(invoke: Invoke, here: Path, volume: Path, prior: Path) -> None:
    status, out, error = invoke(words(volume, prior=prior, more=("--level", "0.8")))
    assert (status, error) == (0, "")
    (path,) = (here / "priors").glob("ct.intervals-dds-tv-*.json")
    assert str(path) in out
    assert "80% intervals are" in out
    record = Calibration.load(path)
    assert (record.level, record.draws, record.describes["views"]) == (0.8, 3, 5)
    # What it holds for is a scan of that kind, made by 'simulate'.
    simulate = ["simulate", volume, "--views", "5", "--keep-truth"]
    assert invoke(simulate)[0] == 0
    reconstruct = ["reconstruct", "scan.h5", "--prior", prior, "--steps", "3", "--samples", "3"]
    status, out, error = invoke(reconstruct)
    assert (status, error) == (0, "")
    low, high = (nifti.read(here / f"recon_{name}.nii.gz").data for name in ("low", "high"))
    truth = blobs_hu()
    body = truth > -500
    assert float(((low <= truth) & (truth <= high))[body].double().mean()) == pytest.approx(0.8, abs=0.06)
    # Of another number of draws nothing is known.
    assert "no calibrated intervals" in invoke([*reconstruct[:-1], "2"])[2]


def test_several_subjects_and_a_scan_of_ones_own(invoke: Invoke, here: Path, volume: Path, prior: Path) -> None:
    other = Volume.upright(blobs_hu().flip(2) + 20, (3.0, 2.0, 2.0), "HU")
    beam = ParallelBeam.covering(Grid(SIZE, SIZE, (2.0, 2.0)), evenly(5))
    write_scan(here / "other.h5", simulate_ct(other, beam, truth=True))
    status, _, _ = invoke(words(volume, here / "other.h5", prior=prior, more=("--out", "record.json")))
    assert status == 0
    both = Calibration.load(here / "record.json")
    status, _, _ = invoke(words(volume, prior=prior, more=("--out", "one.json")))
    assert status == 0
    assert both.count == 2 * Calibration.load(here / "one.json").count
    assert not list((here / "priors").glob("*.json"))


def test_volumes_are_resampled_if_asked(invoke: Invoke, here: Path, volume: Path, prior: Path) -> None:
    assert invoke(words(volume, prior=prior, more=("--size", "12", "--out", "r.json")))[0] == 0
    facts = json.loads((here / "r.json").read_text())["describes"]
    assert (facts["rows"], facts["columns"]) == (12, 12)
    assert facts["spacing"] == "3 x 2.67 x 2.67 mm"


def test_images_of_mri(invoke: Invoke, here: Path) -> None:
    nifti.write(here / "mr.nii.gz", Volume.upright((blobs_hu() + 1000) / 10, (3.0, 2.0, 2.0)))
    prior = save_prior(here / "mr", "mr")
    more = ("--acceleration", "2", "--centre", "0.25", "--out", "mr.json")
    assert invoke(words(here / "mr.nii.gz", prior=prior, more=more))[0] == 0
    assert json.loads((here / "mr.json").read_text())["describes"]["measured"] == "0.50 of k-space"


def test_what_is_refused(invoke: Invoke, refusal: Refusal, here: Path, volume: Path, prior: Path) -> None:
    beam = ParallelBeam.covering(Grid(SIZE, SIZE, (2.0, 2.0)), evenly(7))
    ct = Volume.upright(blobs_hu(), (3.0, 2.0, 2.0), "HU")
    write_scan(here / "blind.h5", simulate_ct(ct, beam))
    write_scan(here / "seven.h5", simulate_ct(ct, beam, truth=True))
    nifti.write(here / "mr.nii.gz", Volume.upright(torch.rand(4, SIZE, SIZE) + 0.1, (3.0, 2.0, 2.0)))

    def said(*volumes: Path, more: tuple[str | Path, ...] = ()) -> str:
        return refusal(lambda: invoke(words(*volumes, prior=prior, more=more)))

    assert "blind.h5: holds no truth to calibrate with" in said(here / "blind.h5")
    assert "its views is 7, but that of" in said(volume, here / "seven.h5")
    assert "the scan is of MR, but this prior knows CT" in said(here / "mr.nii.gz")
    assert "level must be between 0 and 1, but is 1.0" in said(volume, more=("--level", "1"))
    assert "samples must be at least 2, but is 1" in said(volume, more=("--samples", "1"))
    assert "expected a name that ends in .json" in said(volume, more=("--out", "a.txt"))
