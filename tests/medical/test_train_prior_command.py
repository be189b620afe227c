"""`degauss-medical train-prior`: from a folder of volumes to a prior, its picture and its card; and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from degauss.core.cli import write_resolved_config
from degauss.core.errors import InputError
from degauss.medical import nifti
from degauss.medical.commands.train_prior import TrainPrior
from degauss.medical.prior import SlicePrior
from degauss.medical.prior_plots import curve
from degauss.medical.training_volumes import read_folder, volume_paths
from degauss.medical.volumes import Volume

Answer = tuple[int, str, str]
Invoke = Callable[[Sequence[str | Path]], Answer]
Refusal = Callable[[Callable[[], Answer]], str]

QUICK = ["--sizes", "16", "--width", "8", "--batch", "2", "--device", "cpu"]


def ball(slices: int = 12, hounsfield: float = 40.0, radius: float = 9.0) -> Volume:
    """A ball of soft tissue in air, voxels of 2 mm."""
    z, y, x = torch.meshgrid(*(torch.arange(n) - (n - 1) / 2 for n in (slices, 24, 24)), indexing="ij")
    inside = z**2 / 4 + y**2 + x**2 < radius**2
    return Volume.upright(torch.where(inside, hounsfield, -1000.0), (2.0, 2.0, 2.0), "HU")


@pytest.fixture
def folder(here: Path) -> Path:
    for k in range(3):
        nifti.write(here / "volumes" / f"Doe_Jane_{k}.nii.gz", ball(hounsfield=100.0 * k))
    return here / "volumes"


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer slices to measure with."""
    monkeypatch.setattr("degauss.medical.prior_quality._TRAINING", 16)


# --- the command ---


def test_a_folder_becomes_a_prior(invoke: Invoke, folder: Path, here: Path) -> None:
    words = ["train-prior", folder, "--modality", "ct", "--out", here / "prior", *QUICK]
    status, said, error = invoke([*words, "--steps", "2"])
    assert (status, error) == (0, "")
    assert "wrote" in said
    assert "2 steps" in said
    prior = SlicePrior.load(here / "prior" / "model")
    assert prior.config.modality == "ct"
    # From 0.8 to 1.25 of 48 mm, on 16 pixels.
    assert prior.config.spacing == pytest.approx((2.4, 3.75))
    assert (here / "prior" / "samples.png").read_bytes()[:4] == b"\x89PNG"
    card = json.loads((here / "prior" / "model" / "card.json").read_text())
    assert card["trained_on"] == {"volumes": 3}
    assert card["steps"] == 2
    # Names of files may be those of patients.
    for file in (here / "prior" / "model").iterdir():
        assert b"Doe" not in file.read_bytes()
        assert str(here).encode() not in file.read_bytes()

    # Asked for two more, it goes on.
    before = (here / "prior" / "metrics.jsonl").read_text()
    assert invoke([*words, "--steps", "4"])[0] == 0
    assert (here / "prior" / "metrics.jsonl").read_text().startswith(before)
    assert [step for step, _ in curve(here / "prior" / "metrics.jsonl", "held_out_loss")] == [2, 4]

    # Other volumes are another run.
    nifti.write(folder / "more.nii.gz", ball(hounsfield=-500.0))
    status, said, error = invoke([*words, "--steps", "6"])
    assert (status, said) == (2, "")
    assert "other volumes" in error


def test_options_from_its_own_config(invoke: Invoke, folder: Path, here: Path) -> None:
    first = TrainPrior(
        folder=folder, modality="ct", out=here / "a", sizes=(16,), view=(40.0, 80.0), width=8, steps=1, batch=2
    )
    write_resolved_config(here / "train.toml", first)
    assert invoke(["train-prior", "--config", here / "train.toml", "--out", here / "b"])[0] == 0
    config = SlicePrior.load(here / "b" / "model").config
    assert config.spacing == (2.5, 5.0)
    assert config.network.channels == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--view", "80", "40"], "view must be two lengths in mm, the shorter first"),
        (["--sizes", "4"], "sizes must be"),
        (["--width", "6"], "channels must be a multiple of 4"),
        (["--steps", "0"], "steps must be at least 1"),
        (["--held-out", "1"], "the share to hold out must be between 0 and 1"),
        (["--phased", "2"], "phased must be between 0 and 1"),
    ],
)
def test_options_that_cannot_be_are_refused(
    invoke: Invoke, refusal: Refusal, folder: Path, here: Path, options: list[str], message: str
) -> None:
    words: list[Any] = ["train-prior", folder, "--modality", "ct", "--out", here / "prior", *QUICK, *options]
    assert message in refusal(lambda: invoke(words))


def test_folders_that_cannot_be_trained_on_are_refused(invoke: Invoke, refusal: Refusal, here: Path) -> None:
    (here / "empty").mkdir()
    (here / "notes").mkdir()
    (here / "notes" / "readme.txt").write_text("no volume")
    (here / "air").mkdir()
    nifti.write(here / "air" / "air.nii.gz", ball().with_data(torch.full((12, 24, 24), -1000.0)))
    (here / "flat").mkdir()
    np.save(here / "flat" / "flat.npy", np.zeros((4, 4), dtype=np.float32))

    def said(name: str) -> str:
        return refusal(lambda: invoke(["train-prior", here / name, "--modality", "ct", "--out", here / "out", *QUICK]))

    assert "is not a folder" in said("nowhere")
    assert "holds no volumes" in said("empty")
    assert "notes" in said("notes")
    assert "air.nii.gz: a volume shows nothing" in said("air")
    assert "flat.npy" in said("flat")


# --- the folder ---


def test_whole_volumes_are_held_out(folder: Path) -> None:
    found = read_folder(folder, "ct", held_out=0.3, seed=1)
    assert (len(found.training), len(found.held_out), found.volumes) == (2, 1, 3)
    values = {round(float(source.data.max()), 3) for source in found.training}
    assert round(float(found.held_out[0].data.max()), 3) not in values
    again = read_folder(folder, "ct", held_out=0.3, seed=1)
    assert torch.equal(found.held_out[0].data, again.held_out[0].data)
    # Never all of them, and never none.
    assert [len(read_folder(folder, "ct", held_out=share).held_out) for share in (0.01, 0.99)] == [1, 2]
    assert found.view == (38.4, 60.0)


def test_of_a_single_volume_the_top_is_held_out(here: Path) -> None:
    volume = ball(slices=20)
    marked = volume.with_data(volume.data + 10 * torch.arange(20.0)[:, None, None])
    nifti.write(here / "one" / "one.nii.gz", marked)
    found = read_folder(here / "one", "ct", held_out=0.2)
    below, above = (source.data[:, 0, 0] * 2000 - 1000 for (source,) in (found.training, found.held_out))
    torch.testing.assert_close(below, -1000 + 10 * torch.arange(12.0), atol=1e-2, rtol=0)
    torch.testing.assert_close(above, -1000 + 10 * torch.arange(16.0, 20.0), atol=1e-2, rtol=0)
    nifti.write(here / "thin" / "thin.nii.gz", ball(slices=4))
    with pytest.raises(InputError, match="has 4 slices; expected more"):
        read_folder(here / "thin", "ct")


def test_series_of_dicom_slices_are_found(here: Path, series: Callable[..., Path]) -> None:
    body = np.full((8, 24, 24), 24, dtype=np.int16)
    body[:, 6:18, 6:18] = 1064
    one = series(body)
    # A folder that is a series, and one that holds some.
    assert volume_paths(one) == [one]
    assert read_folder(one, "ct").volumes == 1
    (here / "many").mkdir()
    for k in range(2):
        series(body).rename(here / "many" / f"patient{k}")
    found = read_folder(here / "many", "ct")
    assert (found.volumes, len(found.training), len(found.held_out)) == (2, 1, 1)
    assert found.training[0].spacing == (0.75, 0.5)
    torch.testing.assert_close(found.training[0].data.unique(), torch.tensor([0.0, 0.52]))
