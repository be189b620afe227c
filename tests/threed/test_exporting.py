"""Scenes as files: what is written is what was there, and nothing is written of nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from degauss.core.errors import InputError
from degauss.threed.exporting import MeshConfig, bare_mesh, export, to_mesh
from degauss.threed.fusion import Fused, fused_mesh
from degauss.threed.gaussians import Gaussians
from degauss.threed.mesh_files import read_mesh, read_provenance
from degauss.threed.opening import open_any, open_scene
from degauss.threed.quality import compare_surfaces
from degauss.threed.scenes import KINDS, SceneConfig, fingerprint_of, load_scene, save_scene, start
from degauss.threed.splats import read_splats
from degauss.threed.volume import Blob, March
from degauss.threed.voxels import VoxelConfig, Voxels

from ._little import box

RED = (0.8, 0.2, 0.1)
TINY = MeshConfig(resolution=24, texture=64)


def red_ball() -> Voxels:
    ball = Voxels(VoxelConfig(24, blob=Blob(20.0, 0.3), march=March(24, 23)))
    with torch.no_grad():
        ball.colour.copy_(torch.tensor(RED).logit()[:, None, None, None].expand_as(ball.colour))
    return ball


def red_cloud() -> Gaussians:
    axis = torch.linspace(-0.27, 0.27, 10)
    points = torch.cartesian_prod(axis, axis, axis)
    points = points[points.norm(dim=-1) < 0.27]
    return Gaussians.from_points(points, torch.tensor(RED).expand(len(points), 3), 0.9, scale=0.03)


def test_a_volume_becomes_a_textured_ball(tmp_path: Path) -> None:
    made = {"seed": 3, "licence": "public domain"}
    export(tmp_path / "ball.glb", red_ball(), TINY, made)
    mesh = read_mesh(tmp_path / "ball.glb")
    assert read_provenance(tmp_path / "ball.glb") == made
    assert mesh.texture is not None
    assert float(mesh.vertices.norm(dim=-1).mean()) == pytest.approx(0.29, abs=0.03)
    assert torch.allclose(mesh.texture.flatten(0, 1).median(0).values, torch.tensor(RED), atol=0.02)


def test_gaussians_become_a_mesh_of_their_colour() -> None:
    mesh, colour = bare_mesh(red_cloud(), TINY)
    radius = mesh.vertices.norm(dim=-1)
    assert 0.24 < float(radius.mean()) < 0.34
    assert float(radius.std()) < 0.03
    assert torch.allclose(colour(mesh.vertices, mesh.smooth_normals).mean(0), torch.tensor(RED), atol=0.05)


def test_fusion_finds_a_mesh_again() -> None:
    found, _ = fused_mesh(box(), 48)
    scores = compare_surfaces(found, box(), 4000, within=0.03)
    assert scores.f_score > 0.95


def test_what_views_see_through_is_outside_and_what_none_sees_is_inside() -> None:
    fused = Fused.of(box(), 0.05, size=32, turns=6)
    points = torch.tensor(((0.0, 0.0, 0.0), (0.45, 0.0, 0.0), (0.45, 0.45, 0.45)))
    assert torch.allclose(fused.opacity(points), torch.tensor((1.0, 0.0, 0.0)), atol=0.05)


def test_splats_are_written_of_gaussians_alone(tmp_path: Path) -> None:
    cloud = red_cloud()
    assert export(tmp_path / "cloud.ply", cloud) is None
    assert torch.equal(read_splats(tmp_path / "cloud.ply").means, cloud.cloud().means.detach())
    with pytest.raises(InputError, match="splats are written of Gaussians, but this is a volume"):
        export(tmp_path / "ball.ply", red_ball())
    assert [file.name for file in tmp_path.iterdir()] == ["cloud.ply"]


def test_nothing_is_written_of_an_empty_scene(tmp_path: Path) -> None:
    empty = red_ball()
    with torch.no_grad():
        empty.raw.fill_(-30)
    with pytest.raises(InputError, match="no surface: the density is between"):
        export(tmp_path / "empty.glb", empty, TINY)
    clear = red_cloud()
    with torch.no_grad():
        clear.get_parameter("opacity_logits").fill_(-20)
    with pytest.raises(InputError, match="no surface"):
        export(tmp_path / "clear.glb", clear, TINY)
    assert not list(tmp_path.iterdir())


def test_a_level_can_be_given() -> None:
    small, large = (to_mesh(red_ball(), MeshConfig(24, 32, level=level)) for level in (150.0, 5.0))
    assert float(small.vertices.norm(dim=-1).mean()) < float(large.vertices.norm(dim=-1).mean())


@pytest.mark.parametrize("kind", KINDS)
def test_scenes_come_back_bit_by_bit(kind: str, tmp_path: Path) -> None:
    scene = start(SceneConfig(kind), 0)  # type: ignore[arg-type]
    save_scene(tmp_path / "scene", scene)
    again = load_scene(tmp_path / "scene")
    assert type(again) is type(scene)
    assert fingerprint_of(again) == fingerprint_of(scene)
    other = "volume" if kind != "volume" else "gaussians"
    with pytest.raises(InputError, match=f"of the representation {kind}, but {other} was expected"):
        load_scene(tmp_path / "scene", other)  # type: ignore[arg-type]


def test_what_can_be_opened(tmp_path: Path) -> None:
    export(tmp_path / "cloud.ply", red_cloud())
    assert isinstance(open_scene(tmp_path / "cloud.ply"), Gaussians)
    with pytest.raises(InputError, match="does not exist"):
        open_any(tmp_path / "none.glb")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=r"config\.json"):
        open_any(tmp_path / "folder")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(InputError, match="expected a mesh"):
        open_any(tmp_path / "a.txt")
    with pytest.raises(InputError, match="neither"):
        open_scene(tmp_path / "a.txt")
