"""`render` and `view`: folders that trainers read, films, and what cannot be shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from degauss.threed.cameras import Cameras
from degauss.threed.mesh_files import write_mesh
from degauss.threed.splats import write_splats
from degauss.threed.transforms import read_transforms
from degauss.threed.viewer import camera_of, picture

from ._little import box
from .test_exporting import red_cloud

Invoke = Callable[[Sequence[str | Path]], tuple[int, str, str]]
Refused = Callable[[Sequence[str | Path]], str]


@pytest.fixture
def mesh(here: Path) -> Path:
    write_mesh(here / "box.glb", box())
    return here / "box.glb"


def test_views_with_their_cameras(mesh: Path, invoke: Invoke, here: Path) -> None:
    words = ["render", mesh, "--out", "views", "--views", "6", "--elevation", "0", "30", "--size", "32"]
    assert invoke(words)[:2] == (0, "wrote views: 6 views and transforms.json\n")
    views = read_transforms(here / "views")
    assert len(views.cameras) == 6
    expected = Cameras.orbit(torch.tensor((0.0, 120, 240, 0, 120, 240)), torch.tensor((0.0, 0, 0, 30, 30, 30)), size=32)
    assert torch.allclose(views.cameras.world_from_camera, expected.world_from_camera, atol=1e-5)
    front = Image.open(here / "views/rgb-0000.png")
    assert front.mode == "RGBA"
    red, _, _, alpha = front.getpixel((16, 16))  # type: ignore[misc]
    assert (red, alpha) == (230, 255)
    assert front.getpixel((0, 0))[3] == 0  # type: ignore[index]
    assert invoke(words)[0] == 0, "views may be written again"


def test_a_film_of_splats(invoke: Invoke, here: Path) -> None:
    write_splats(here / "cloud.ply", red_cloud().cloud())
    assert invoke(["render", "cloud.ply", "--out", "turn.gif", "--views", "3", "--size", "16"])[0] == 0
    with Image.open(here / "turn.gif") as film:
        assert getattr(film, "n_frames", 1) == 3


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["box.glb", "--views", "0"], "views must be at least 1"),
        (["box.glb", "--elevation", "100"], "elevation must be between -90 and 90"),
        (["none.glb"], "none.glb does not exist"),
        (["box.glb", "--background", "2", "0", "0"], "background must be between 0 and 1"),
    ],
)
def test_what_cannot_be_rendered(words: list[str], says: str, mesh: Path, refused: Refused) -> None:
    assert says in refused(["render", *words])


def test_a_folder_of_other_things_is_left_alone(mesh: Path, here: Path, refused: Refused) -> None:
    (here / "views").mkdir()
    (here / "views/mine.png").write_bytes(b"")
    assert "holds other things than views" in refused(["render", mesh, "--out", "views", "--size", "16"])


def test_the_viewer_names_its_extra(mesh: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'degauss-3d[viser]'" in refused(["view", mesh])


def test_a_viser_camera_sees_the_front_upright() -> None:
    # In viser's world (z up) our front, +z, is -y. Its camera there: x right, y down, z ahead (+y of that world).
    # Columns (1, 0, 0), (0, 0, -1), (0, 1, 0) are a turn by -90 degrees about x.
    seen = SimpleNamespace(wxyz=(0.5**0.5, -(0.5**0.5), 0.0, 0.0), position=(0.0, -2.2, 0.0), aspect=1.0, fov=0.6981317)
    camera = camera_of(seen, 16, "cpu")
    expected = Cameras.orbit(0.0, 0.0, size=16)
    assert torch.allclose(camera.world_from_camera, expected.world_from_camera, atol=1e-5)
    assert torch.allclose(camera.focal, expected.focal, atol=1e-3)
    assert picture(box(), camera).shape == (16, 16, 3)
