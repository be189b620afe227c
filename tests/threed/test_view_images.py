"""Pictures to learn from: what they hold, where they are from, and that they are drawn once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from degauss.core.errors import InputError
from degauss.threed.cameras import Cameras
from degauss.threed.embedded_prior import ORBITS
from degauss.threed.mesh_files import write_mesh
from degauss.threed.meshes import Mesh
from degauss.threed.prior import encode_pixels
from degauss.threed.rendering import render
from degauss.threed.shapes import Part, ball, box, surface_of
from degauss.threed.view_images import (
    ViewImages,
    draw_classes,
    draw_views,
    from_bytes,
    pictures,
    read_classes,
    to_bytes,
)


def quiet(done: int, total: int) -> None:
    del done, total


@pytest.fixture(scope="module")
def lollipop() -> Mesh:
    """A red ball with a blue one in front of it."""
    parts = (Part(ball((0, 0, 0), 0.25), (1.0, 0.0, 0.0)), Part(ball((0, 0, 0.3), 0.12), (0.0, 0.0, 1.0)))
    return surface_of(parts, 24)


@pytest.fixture(scope="module")
def brick() -> Mesh:
    return surface_of((Part(box((0, 0, 0), (0.3, 0.2, 0.1)), (0.0, 1.0, 0.0)),), 24)


def drawn(classes: dict[str, list[Mesh]], cache: Path, *, count: int = 6, normals: bool = True) -> ViewImages:
    return draw_classes(
        classes, orbits=ORBITS, size=16, normals=normals, count=count, seed=0, cache=cache, report=quiet
    )


def test_bytes_keep_nothing_and_white_exactly() -> None:
    x = torch.tensor([-1.0, 0.0, 1.0])
    torch.testing.assert_close(from_bytes(to_bytes(x)), x, atol=0, rtol=0)
    x = torch.linspace(-1, 1, 999)
    assert (from_bytes(to_bytes(x)) - x).abs().max() <= 0.5 / 127 + 1e-6


def test_a_picture_is_the_prior_s_encoding_of_a_finer_render(lollipop: Mesh) -> None:
    found = pictures(lollipop, Cameras.orbit(torch.tensor([0.0, 90.0]), 15.0, size=16))
    seen = render(lollipop, Cameras.orbit(torch.tensor([0.0, 90.0]), 15.0, size=32))
    torch.testing.assert_close(found, encode_pixels(seen.rgb, seen.normal, 16, 6), atol=1e-6, rtol=0)
    corner = found[:, :, 0, 0]
    torch.testing.assert_close(corner, torch.tensor([1.0, 1, 1, 0, 0, 0]).expand(2, -1), atol=1e-6, rtol=0)
    # From the front blue hides red and normals look along +z; from the right they look along +x.
    assert found[0, 2, 8, 8] > 0.5 > found[0, 0, 8, 8]
    assert found[0, 5, 8, 8] > 0.5
    assert found[1, 3, 8, 8] > 0.5


def test_pictures_come_with_their_views(lollipop: Mesh, tmp_path: Path) -> None:
    kept = draw_views(lollipop, ORBITS, 5, 16, 0, tmp_path)
    azimuth, elevation = kept.views.azimuth, kept.views.elevation
    assert elevation.min() >= -15.01
    assert elevation.max() <= 60.01
    assert azimuth.unique().numel() == 5
    middle = pictures(lollipop, Cameras.orbit(azimuth, elevation, 2.2, 40.0, 16))
    away = (from_bytes(kept.images) - middle).square().mean((1, 2, 3)).sqrt()
    elsewhere = (from_bytes(kept.images) - middle.roll(1, 0)).square().mean((1, 2, 3)).sqrt()
    # The radius is another by a pixel at most.
    assert bool((away < 0.6 * elsewhere).all())


def test_drawing_again_reads_the_file_and_another_mesh_does_not(
    lollipop: Mesh, brick: Mesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = draw_views(lollipop, ORBITS, 3, 16, 0, tmp_path)
    (file,) = tmp_path.iterdir()
    draw_views(brick, ORBITS, 3, 16, 0, tmp_path)
    draw_views(lollipop, ORBITS, 3, 16, 1, tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    monkeypatch.setattr("degauss.threed.view_images.pictures", lambda *_: pytest.fail("it was drawn again"))
    again = draw_views(lollipop, ORBITS, 3, 16, 0, tmp_path)
    assert bool((first.images == again.images).all())
    assert file.is_file()


def test_every_class_has_its_share_whatever_its_number_of_meshes(lollipop: Mesh, brick: Mesh, tmp_path: Path) -> None:
    data = drawn({"a": [lollipop], "b": [brick, lollipop]}, tmp_path)
    assert data.images.shape == (12, 6, 16, 16)
    assert data.label.tolist() == [0] * 6 + [1] * 6
    batch = data(range(12))
    assert sorted(batch.label.tolist()) == [0] * 6 + [1] * 6
    assert batch.x0.dtype == torch.float32
    assert drawn({"a": [lollipop]}, tmp_path, normals=False).images.shape == (6, 3, 16, 16)


def test_files_and_folders_are_classes(lollipop: Mesh, brick: Mesh, tmp_path: Path) -> None:
    write_mesh(tmp_path / "pop.glb", lollipop)
    (tmp_path / "brick").mkdir()
    for name in ("one.ply", "two.ply"):
        write_mesh(tmp_path / "brick" / name, brick)
    (tmp_path / "notes.txt").write_text("not a mesh")
    (tmp_path / "empty").mkdir()
    classes = read_classes(tmp_path)
    assert {name: len(meshes) for name, meshes in classes.items()} == {"brick": 2, "pop": 1}
    longest = (classes["brick"][0].vertices.amax(0) - classes["brick"][0].vertices.amin(0)).max()
    assert longest.item() == pytest.approx(1.0)


def test_a_folder_that_cannot_be_used_is_refused(brick: Mesh, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no mesh; expected files that end in \.glb"):
        read_classes(tmp_path)
    with pytest.raises(InputError, match="is no directory; expected one of meshes"):
        read_classes(tmp_path / "none")
    write_mesh(tmp_path / "brick.ply", brick)
    write_mesh(tmp_path / "brick.glb", brick)
    with pytest.raises(InputError, match=r"brick.glb and brick.ply are both the class 'brick'"):
        read_classes(tmp_path)
