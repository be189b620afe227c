"""`degauss-medical evaluate`: files in, a folder with scores, pictures and a page out."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from degauss.core.inverse import calibrate_intervals
from degauss.medical.files import write_volume
from degauss.medical.geometry import Grid, ParallelBeam, evenly
from degauss.medical.metrics import body, in_prior_units
from degauss.medical.scans import write_scan
from degauss.medical.simulation import simulate_ct
from degauss.medical.volumes import CT_FULL, Place, Volume

SHAPE, DRAWS, STD = (16, 20, 24), 6, 25.0


def torso() -> Volume:
    z, y, x = torch.meshgrid(*(torch.linspace(-1.2, 1.2, n) for n in SHAPE), indexing="ij")
    data = torch.where(z**2 + y**2 + x**2 < 1, 40.0, -1000.0)
    return Volume.upright(data, (3.0, 2.0, 2.0), "HU")


def draws(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    centre = torso().data + STD * torch.randn(SHAPE, generator=generator)
    return centre + 0.5 * STD * torch.randn(DRAWS, *SHAPE, generator=generator)


@pytest.fixture
def folder(here: Path) -> Path:
    """A truth, a reconstruction with its deviation, a calibration, a provenance map and the scan."""
    truth, ensemble = torso(), draws(0)
    write_volume(here / "truth.nii.gz", truth)
    write_volume(here / "recon.nii.gz", truth.with_data(ensemble.mean(0)))
    write_volume(here / "std.nii.gz", truth.with_data(ensemble.std(0)))
    write_volume(here / "share.nii.gz", truth.with_data(torch.rand(SHAPE, generator=torch.Generator().manual_seed(1))))
    x, known = (in_prior_units(part, CT_FULL, "HU") for part in (draws(5), truth.data))
    inside = body(truth.data, "HU")
    calibrate_intervals(x, known, describes={"method": "toy"}, where=inside).save(here / "intervals.json")
    beam = ParallelBeam.covering(Grid(*SHAPE[1:], (2.0, 2.0)), evenly(8, 180.0))
    write_scan(here / "scan.h5", simulate_ct(truth, beam, sigma=0.05))
    return here


WORDS = ["evaluate", "recon.nii.gz", "--truth", "truth.nii.gz"]
ALL = [*WORDS, "--std", "std.nii.gz", "--calibration", "intervals.json", "--provenance", "share.nii.gz"]


def test_all_of_it(invoke, folder: Path) -> None:
    status, out, error = invoke([*ALL, "--scan", "scan.h5", "--out", "found"])
    assert (status, error) == (0, "")
    assert {path.name for path in (folder / "found").iterdir()} == {
        "metrics.json",
        "metrics.csv",
        "montage.png",
        "coverage.png",
        "report.html",
    }
    card = json.loads((folder / "found" / "metrics.json").read_text())
    assert card["rmse"] == pytest.approx(STD * np.sqrt(1 + 0.25 / DRAWS), rel=0.03)
    assert card["sagittal"]["psnr"] > 20 * np.log10(2000 / card["rmse"]), "errors below air do not count"
    assert card["coverage"]["overall"]["covered"] == pytest.approx(0.9, abs=0.03)
    assert card["settings"]["draws"] == DRAWS
    assert card["settings"]["calibration"]["describes"] == {"method": "toy"}
    assert 0 < card["residual"] < 0.2
    assert "Calibrated intervals of 90% cover" in out
    rows = list(csv.DictReader((folder / "found" / "metrics.csv").read_text().splitlines()))
    assert len(rows) == sum(card[plane]["slices"] for plane in ("axial", "coronal", "sagittal"))
    page = (folder / "found" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert f"{card['coronal']['psnr']:.2f}" in page


def test_nothing_of_a_files_name_is_written(invoke, folder: Path) -> None:
    (folder / "recon.nii.gz").rename(folder / "Doe_Jane.nii.gz")
    words = ["evaluate", "Doe_Jane.nii.gz", "--truth", "truth.nii.gz", "--out", "found"]
    assert invoke(words)[0] == 0
    assert not (folder / "found" / "coverage.png").exists()
    for path in (folder / "found").iterdir():
        assert b"Doe_Jane" not in path.read_bytes()


def test_a_volume_that_is_stored_in_another_way_scores_the_same(invoke, folder: Path) -> None:
    assert invoke(WORDS)[0] == 0
    recon = torso().with_data(draws(0).mean(0))
    affine, (a, b, c) = recon.place.affine, recon.place.shape
    turn = np.diag([-1.0, -1.0, 1.0, 1.0])
    turn[:2, 3] = a - 1, b - 1
    other = Volume(recon.data, recon.spacing, "HU", Place.of(affine @ turn, (a, b, c)))
    write_volume(folder / "recon.nii.gz", other)
    assert invoke([*WORDS, "--out", "other"])[0] == 0
    first, second = (json.loads((folder / name / "metrics.json").read_text()) for name in ("evaluation", "other"))
    assert first["axial"] == second["axial"]


def test_the_range_and_the_window_are_the_users(invoke, folder: Path) -> None:
    assert invoke([*WORDS, "--data-range", "200", "--window", "-100", "100", "--at", "1", "2", "3"])[0] == 0
    card = json.loads((folder / "evaluation" / "metrics.json").read_text())
    assert card["data_range"] == 200
    assert card["axial"]["psnr"] < 20
    assert (card["settings"]["at"], card["settings"]["window"]) == ([1, 2, 3], [-100, 100])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--std", "std.nii.gz"], "--std needs --draws"),
        (["--draws", "8"], "expected --std with them"),
        (["--std", "std.nii.gz", "--draws", "1"], "draws must be at least 2"),
        (
            ["--std", "std.nii.gz", "--draws", "8", "--calibration", "intervals.json"],
            "calibrated with draws 6, but are asked for with draws 8",
        ),
        (["--window", "100", "-100"], "from black up to white"),
        (["--slab", "0"], "slab must be at least 1"),
        (["--data-range", "0"], "data range must be a number above 0"),
        (["--at", "99", "0", "0"], "inside the volume of (16, 20, 24) voxels"),
        (["--scan", "truth.nii.gz"], "truth.nii.gz"),
        (["--out", "truth.nii.gz"], "is a file; expected a directory"),
        (["--truth", "thin.nii.gz"], "recon.nii.gz has 16 x 20 x 24 voxels"),
        (["--truth", "moved.nii.gz"], "recon.nii.gz and moved.nii.gz lie up to 12 mm apart"),
        (["--scan", "scan.h5", "--truth", "moved.nii.gz"], "apart: bring them to one grid"),
        (["--truth", "nothing.nii.gz"], "does not exist"),
    ],
)
def test_it_refuses(invoke, refusal, folder: Path, words: list[str], message: str) -> None:
    truth = torso()
    write_volume(folder / "thin.nii.gz", truth.cropped(range(2, 12)))
    affine = truth.place.affine.copy()
    affine[1, 3] += 12
    write_volume(folder / "moved.nii.gz", Volume(truth.data, truth.spacing, "HU", Place.of(affine, truth.place.shape)))
    assert message in refusal(lambda: invoke([*WORDS, *words]))


def test_help_does_not_import_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from degauss.medical.cli import PROGRAM\n"
        "for verb in ('evaluate', 'montage'): PROGRAM.verbs[verb].load()\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
