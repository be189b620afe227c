"""The examples do what they say, with a prior that knows little and a user's own small volume."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from degauss.core.errors import InputError
from degauss.medical import nifti
from degauss.medical.volumes import Volume

from ._oracles import blobs_hu, save_prior


@pytest.fixture
def head(here: Path) -> Path:
    """A head in HU whose surroundings a scanner has filled with a value below air."""
    data = blobs_hu(4, 40)
    data[:, 0] = -3000
    nifti.write(here / "own.nii.gz", Volume.upright(data, (4.0, 5.0, 5.0), "HU"))
    return here / "own.nii.gz"


def test_a_head_from_a_few_views(started: Callable[..., str], head: Path, here: Path, tmp_path: Path) -> None:
    prior = save_prior(tmp_path / "priors" / "ct")
    said = started("sparse_view_head", "--volume", head, "--prior", prior, "--quick", "--views", 6)
    assert [line.split("  ")[0].strip() for line in said.splitlines()[:3]] == ["FBP", "TV", "3 draws"]
    fbp, tv = (float(line.split(", SSIM ")[1].split(";")[0]) for line in said.splitlines()[:2])
    assert tv > fbp
    mean, std = nifti.read(here / "head.nii.gz"), nifti.read(here / "head_std.nii.gz", "arbitrary")
    assert mean.unit == "HU"
    assert mean.data.shape == std.data.shape == (4, 64, 64)
    assert mean.spacing == pytest.approx((4.0, 3.125, 3.125))
    assert float(std.data.min()) >= 0
    assert float(std.data.max()) > 1
    assert (here / "head.png").stat().st_size > 20_000


def test_what_lies_outside_the_scanners_circle_is_air(example: Callable[[str], ModuleType], head: Path) -> None:
    script = example("sparse_view_head")
    assert float(nifti.read(head).data.min()) < -2000
    assert float(script.shrunk(nifti.read(head), script.QUICK).data.min()) >= -1000


def test_a_brain_from_a_few_lines(started: Callable[..., str], here: Path, tmp_path: Path) -> None:
    data = (blobs_hu(12, 48) + 1000) / 10
    nifti.write(here / "own.nii.gz", Volume.upright(data, (1.0, 4.0, 4.0)))
    prior = save_prior(tmp_path / "priors" / "mr", "mr")
    said = started("accelerated_brain", "--volume", here / "own.nii.gz", "--prior", prior, "--quick", "--out", "b")
    assert [line.split("  ")[0].strip() for line in said.splitlines()[:3]] == ["CG", "TV", "3 draws"]
    cg, tv = (float(line.split(", SSIM ")[1]) for line in said.splitlines()[:2])
    assert tv > cg
    parts = {name: nifti.read(here / f"b{name}.nii.gz", "arbitrary") for name in ("", "_std", "_provenance")}
    assert {tuple(part.data.shape) for part in parts.values()} == {(4, 80, 80)}
    assert 0 <= float(parts["_provenance"].data.min()) <= float(parts["_provenance"].data.max()) <= 1 + 1e-3
    about = json.loads((here / "b_metrics.json").read_text())
    assert about["acceleration"] == 4
    assert about["scores"]["axial"]["slices"] == 4
    assert (here / "b_montage.png").is_file()


@pytest.mark.parametrize("name", ["sparse_view_head", "accelerated_brain"])
def test_without_a_prior_one_sentence(started: Callable[..., str], name: str, here: Path) -> None:
    with pytest.raises(InputError, match="there is no prior 'none'"):
        started(name, "--prior", "none")
    assert not list(here.iterdir())
