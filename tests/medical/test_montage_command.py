"""`degauss-medical montage`: volumes side by side."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from degauss.medical.files import write_volume
from degauss.medical.volumes import Volume

SHAPE = (6, 10, 12)


@pytest.fixture
def folder(here: Path) -> Path:
    data = torch.full(SHAPE, -1000.0)
    data[1:5, 2:8, 3:9] = 40
    truth = Volume.upright(data, (3.0, 2.0, 2.0), "HU")
    write_volume(here / "truth.nii.gz", truth)
    for number in (1, 2):
        write_volume(here / f"Doe_{number}.nii.gz", truth.with_data(data + number))
    write_volume(here / "other.nii.gz", Volume.upright(data[1:], (3.0, 2.0, 2.0), "HU"))
    return here


def test_volumes_beside_their_truth(invoke, folder: Path) -> None:
    words = ["montage", "Doe_1.nii.gz", "Doe_2.nii.gz", "--truth", "truth.nii.gz", "--std", "truth.nii.gz"]
    status, out, error = invoke([*words, "--provenance", "truth.nii.gz", "--out", "all.svg"])
    assert (status, error) == (0, "")
    assert out == "wrote all.svg: slice 2, row 4, column 5\n"
    text = (folder / "all.svg").read_text()
    for word in ("volume 1", "volume 2", "truth", "standard deviation", "provenance"):
        assert word in text
    assert "Doe_" not in text, "names of files may name a patient"


def test_names_windows_and_places(invoke, folder: Path) -> None:
    words = ["montage", "Doe_1.nii.gz", "--names", "eight views", "--window", "-1000", "1000", "--at", "0", "0", "0"]
    assert invoke([*words, "--out", "one.svg"])[0] == 0
    text = (folder / "one.svg").read_text()
    assert "eight views" in text
    assert "1000" in text
    assert invoke(["montage", "Doe_1.nii.gz"])[0] == 0
    assert (folder / "montage.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["Doe_1.nii.gz", "other.nii.gz"], "other.nii.gz has 5 x 10 x 12 voxels"),
        (["Doe_1.nii.gz", "--truth", "other.nii.gz"], "Doe_1.nii.gz has 6 x 10 x 12 voxels"),
        (["Doe_1.nii.gz", "--names", "a", "b"], "2 names were given for 1 volumes"),
        (["Doe_1.nii.gz", "--out", "a.jpg"], "expected a name that ends in .png or .svg"),
        (["Doe_1.nii.gz", "--at", "6", "0", "0"], "inside the volume"),
        (["Doe_1.nii.gz", "--window", "5", "5"], "from black up to white"),
        (["nothing.nii.gz"], "does not exist"),
        ([], "expected one volume or more"),
    ],
)
def test_it_refuses(invoke, refusal, folder: Path, words: list[str], message: str) -> None:
    assert message in refusal(lambda: invoke(["montage", *words]))
