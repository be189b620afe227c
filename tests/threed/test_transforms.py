"""Files of nerfstudio and of the Blender scenes, by their written conventions; and cameras that cannot be used."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from degauss.core.errors import InputError
from degauss.threed.cameras import Cameras
from degauss.threed.transforms import read_transforms, write_transforms

# A camera at (0, -4, 0), looking along +y with z up: the front of a scene in which z is up.
FRONT = [[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, -1.0, -4.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
LENS = {"fl_x": 50.0, "fl_y": 52.0, "cx": 15.5, "cy": 12.5, "w": 32, "h": 24}


def scene(here: Path, count: int = 2, **changes: Any) -> dict[str, Any]:
    """What a good file says, with changes; its images are beside it."""
    for number in range(count):
        Image.new("RGB", (32, 24), (number, 0, 255)).save(here / f"{number}.png")
    listed = [{"file_path": f"{number}.png", "transform_matrix": FRONT} for number in range(count)]
    return {"camera_model": "OPENCV", "k1": 0.0, **LENS, "frames": listed, **changes}


def written(here: Path, about: dict[str, Any]) -> Path:
    path = here / "transforms.json"
    path.write_text(json.dumps(about))
    return path


def test_a_camera_in_front_of_the_scene_is_in_front_of_it(here: Path):
    views = read_transforms(written(here, scene(here)))
    assert views.images == (here / "0.png", here / "1.png")
    cameras = views.cameras
    assert (len(cameras), cameras.height, cameras.width) == (2, 24, 32)
    torch.testing.assert_close(cameras.place[0], torch.tensor([0.0, 0.0, 4.0]))
    torch.testing.assert_close(cameras.forward[0], torch.tensor([0.0, 0.0, -1.0]))
    azimuth, elevation = cameras.angles()
    assert float(azimuth[0]) == pytest.approx(0, abs=1e-4)
    assert float(elevation[0]) == pytest.approx(0, abs=1e-4)
    # A point that is up there, (0.1, 0, 0.2), is (0.1, 0.2, 0) here: right of the centre and above it.
    x, y, depth = cameras.project(torch.tensor([[0.1, 0.2, 0.0]]))[0, 0].tolist()
    assert (x, y, depth) == pytest.approx((15.5 + 50 * 0.1 / 4, 12.5 - 52 * 0.2 / 4, 4.0), abs=1e-5)


def test_images_are_loaded_with_their_alpha(here: Path):
    path = written(here, scene(here))
    rgba = Image.new("RGBA", (32, 24), (255, 0, 0, 51))
    rgba.save(here / "1.png")
    rgb, alpha = read_transforms(path).load()
    assert (rgb.shape, alpha.shape) == ((2, 24, 32, 3), (2, 24, 32))
    assert rgb[0, 0, 0].tolist() == [0.0, 0.0, 1.0]
    assert rgb[1, 0, 0].tolist() == [1.0, 0.0, 0.0]
    torch.testing.assert_close(alpha[:, 0, 0], torch.tensor([1.0, 0.2]))


def test_a_blender_scene_has_an_angle_and_names_without_suffix(here: Path):
    about = scene(here)
    frames = [{"file_path": f"./{number}", "transform_matrix": FRONT} for number in range(2)]
    (here / "transforms_train.json").write_text(json.dumps({"camera_angle_x": 0.7, "frames": frames}))
    assert about["frames"]
    views = read_transforms(here)
    focal = 0.5 * 32 / math.tan(0.35)
    torch.testing.assert_close(views.cameras.focal[0], torch.tensor([focal, focal]))
    assert views.cameras.centre[0].tolist() == [16.0, 12.0]
    assert views.images[0].name == "0.png"


def test_a_frame_may_have_a_lens_of_its_own(here: Path):
    about = scene(here)
    about["frames"][1].update({"fl_x": 70.0, "cx": 10.0})
    cameras = read_transforms(written(here, about)).cameras
    assert cameras.focal.tolist() == [[50.0, 52.0], [70.0, 52.0]]
    assert cameras.centre.tolist() == [[15.5, 12.5], [10.0, 12.5]]


@pytest.mark.parametrize("fov", [40.0, torch.tensor([40.0, 50.0, 60.0])])
def test_cameras_come_back(here: Path, fov: float | torch.Tensor):
    cameras = Cameras.orbit(torch.tensor([0.0, 77.0, 200.0]), torch.tensor([0.0, 30.0, -80.0]), 2.5, fov, (24, 32))
    (here / "images").mkdir()
    images = [here / "images" / f"{number}.png" for number in range(3)]
    for image in images:
        Image.new("RGB", (32, 24)).save(image)
    write_transforms(here / "transforms.json", cameras, images)
    about = json.loads((here / "transforms.json").read_text())
    assert about["frames"][2]["file_path"] == "images/2.png"
    assert ("fl_x" in about) == isinstance(fov, float)
    assert ("fl_x" in about["frames"][0]) == (not isinstance(fov, float))
    assert [row[3] for row in about["frames"][0]["transform_matrix"]] == pytest.approx([0.0, -2.5, 0.0, 1.0], abs=1e-6)
    views = read_transforms(here)
    assert views.images == tuple(images)
    torch.testing.assert_close(views.cameras.world_from_camera, cameras.world_from_camera)
    torch.testing.assert_close(views.cameras.focal, cameras.focal)
    torch.testing.assert_close(views.cameras.centre, cameras.centre)


def test_a_pose_that_was_rounded_is_a_rotation_again(here: Path):
    matrix = [[round(value * 0.9995, 3) for value in row] for row in FRONT]
    about = scene(here, 1)
    about["frames"][0]["transform_matrix"] = matrix
    rotation = read_transforms(written(here, about)).cameras.world_from_camera[0, :3, :3]
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": []}, "has no 'frames', so there are no cameras to see from"),
        ({"k1": 0.02}, r"frame 0: the lens is distorted \(k1 is 0.02\): undistort the images first"),
        ({"camera_model": "OPENCV_FISHEYE"}, "frame 0: the camera model 'OPENCV_FISHEYE' is no pinhole"),
        ({"fl_x": 0}, "frame 0: the focal length must be above 0 pixels, but is 0"),
        ({"fl_y": "long"}, "frame 0: fl_y must be a number, but is 'long'"),
        ({"w": 0}, "frame 0: an image of 0 x 24 pixels is none"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(here: Path, changes: dict[str, Any], message: str):
    path = written(here, scene(here, **changes))
    with pytest.raises(InputError, match=message) as refused:
        read_transforms(path)
    assert str(refused.value).startswith(str(path))


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ({"transform_matrix": None}, "frame 1 has no 'transform_matrix': views without cameras cannot be used"),
        ({"transform_matrix": [[1.0, 2.0]]}, "frame 1: 'transform_matrix' is no 4 x 4 matrix of numbers"),
        ({"transform_matrix": "none"}, "frame 1: 'transform_matrix' is no 4 x 4 matrix of numbers"),
        ({"transform_matrix": [[0.0] * 4] * 4}, "frame 1: 'transform_matrix' is no rotation and place"),
        ({"transform_matrix": [[-value for value in row] for row in FRONT]}, "frame 1: .* no rotation and place"),
        ({"transform_matrix": [[math.nan] * 4] * 4}, "frame 1: .* no rotation and place"),
        ({"file_path": "9.png"}, "frame 1 names the image 9.png, which is not there"),
        ({"file_path": None}, "frame 1 has no 'file_path'"),
        ({"w": 16, "h": 24}, "frame 1 is 16 x 24 pixels and frame 0 is 32 x 24: one size is needed"),
        ({"p2": -0.1}, "frame 1: the lens is distorted"),
    ],
)
def test_a_frame_that_cannot_be_used_is_named(here: Path, frame: dict[str, Any], message: str):
    about = scene(here)
    about["frames"][1].update(frame)
    with pytest.raises(InputError, match=message):
        read_transforms(written(here, about))


def test_views_without_cameras_are_refused(here: Path):
    Image.new("RGB", (4, 4)).save(here / "0.png")
    with pytest.raises(InputError, match=r"has no transforms\.json: views without cameras cannot be used\.$"):
        read_transforms(here)
    with pytest.raises(InputError, match=r"nothing\.json does not exist"):
        read_transforms(here / "nothing.json")
    about = scene(here)
    for key in ("fl_x", "fl_y"):
        del about[key]
    with pytest.raises(InputError, match=r"frame 0 has no focal length: expected fl_x or camera_angle_x\.$"):
        read_transforms(written(here, about))


def test_images_that_do_not_fit_their_cameras_are_refused(here: Path):
    views = read_transforms(written(here, scene(here)))
    Image.new("RGB", (30, 24)).save(here / "1.png")
    with pytest.raises(InputError, match=r"1\.png is 30 x 24 pixels, but its camera has 32 x 24\.$"):
        views.load()
    Image.new("I;16", (32, 24)).save(here / "1.png")
    with pytest.raises(InputError, match=r"1\.png: the image has mode 'I;16'.*RGB, RGBA, L, P\.$"):
        views.load()


def test_as_many_images_as_cameras(here: Path):
    with pytest.raises(ValueError, match="1 cameras need as many images, got 2"):
        write_transforms(here / "transforms.json", Cameras.orbit(0.0, 0.0), ["0.png", "1.png"])
    assert list(here.iterdir()) == []
