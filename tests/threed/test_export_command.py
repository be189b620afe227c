"""`export`: of a run, of splats, and of nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from degauss.threed.mesh_files import read_mesh, read_provenance
from degauss.threed.run import Run
from degauss.threed.scenes import fingerprint_of
from degauss.threed.splats import write_splats
from degauss.threed.volume import Volume

from ._little import little, oracle
from .test_exporting import red_cloud

Invoke = Callable[[Sequence[str | Path]], tuple[int, str, str]]
Refused = Callable[[Sequence[str | Path]], str]


def test_a_run_as_obj_and_glb(invoke: Invoke, here: Path) -> None:
    run = Run(little(), oracle().prior)
    run.save(here / "run")
    assert invoke(["export", "run", "--out", "a.obj", "--grid", "16", "--texture", "64"])[0] == 0
    mesh = read_mesh(here / "a.obj")
    assert mesh.texture is not None
    assert mesh.texture.shape == (64, 64, 3)
    assert invoke(["export", "run", "--out", "a.glb", "--grid", "16", "--texture", "32"])[0] == 0
    assert read_provenance(here / "a.glb")["scene_sha256"] == fingerprint_of(run.scene)


def test_splats_as_a_mesh(invoke: Invoke, here: Path) -> None:
    write_splats(here / "cloud.ply", red_cloud().cloud())
    status, out, _ = invoke(["export", "cloud.ply", "--out", "a.glb", "--grid", "20", "--texture", "32"])
    assert status == 0
    assert out.startswith("wrote a.glb: ")


def test_what_cannot_be_exported(here: Path, refused: Refused) -> None:
    run = Run(little(), oracle().prior)
    assert isinstance(run.scene, Volume)
    with torch.no_grad():
        run.scene.get_parameter("raw").fill_(-30)
    run.save(here / "run")
    assert "no surface: the density is between" in refused(["export", "run", "--grid", "16"])
    assert "splats are written of Gaussians" in refused(["export", "run", "--out", "a.ply"])
    assert "none does not exist" in refused(["export", "none"])
    assert "a name that ends in" in refused(["export", "run", "--out", "a.stl"])
