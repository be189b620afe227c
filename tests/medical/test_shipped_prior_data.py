"""What the shipped priors are trained on: the split is what the card says, and nothing of the test volumes is in it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

from degauss.core.places import data_root
from degauss.medical import datasets
from degauss.medical.volumes import prior_units

SCRIPT = Path(__file__).parents[2] / "packages" / "medical" / "examples" / "train_shipped_prior.py"

pytestmark = pytest.mark.skipif(
    not (data_root() / "medical" / "ct_chest.nii.gz").is_file(), reason="needs the medical data sets (DEGAUSS_DATA)"
)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_shipped_prior", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_ct_is_split_with_a_gap(script: ModuleType) -> None:
    data = script.ct()
    chest, head, atlas = data.training
    (held_out,) = data.held_out
    whole, _ = prior_units(datasets.ct_chest())
    assert torch.equal(chest.data, whole[:131])
    assert torch.equal(held_out.data, whole[135:])
    assert (chest.cut_off, head.cut_off, atlas.cut_off) == (True, False, False)
    # The head as it was measured; its first slices are the neck's.
    assert head.data.shape == (28, 512, 512)
    assert head.spacing == pytest.approx((0.488, 0.488), abs=1e-3)
    # Around the atlas is air, as around everything else; inside, brain.
    assert float(atlas.data[:, 0, 0].max()) == 0
    inside = atlas.data[atlas.data > 0]
    assert float(inside.mean()) == pytest.approx(0.517, abs=0.01)
    assert len(data.origins) == 3


def test_mr_is_split_with_a_gap(script: ModuleType) -> None:
    data = script.mr()
    (held_out,) = data.held_out
    t1 = datasets.stroke("T1").data
    for found, slices in ((data.training[1], t1[:105]), (held_out, t1[109:])):
        torch.testing.assert_close(found.data / found.data.max(), slices.clamp_min(0) / slices.max())
    assert all(not source.cut_off for source in (*data.training, *data.held_out))
    # Four volumes from two places, and perhaps the average.
    assert len(data.origins) == len(data.training) - 2
