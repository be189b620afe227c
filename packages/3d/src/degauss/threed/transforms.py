"""Photographs with their cameras: the `transforms.json` of nerfstudio, instant-ngp and the Blender scenes.

A frame is an image and its camera's pose, in the convention of `cameras`. The intrinsics (fl_x, fl_y, cx, cy, w, h, or
the angle camera_angle_x) are shared or each frame's own. In these files z is up, here y is: a point (x, y, z) here is
(x, -z, y) there. Lenses with distortion are refused: undistort their images first.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from degauss.core.errors import InputError
from degauss.core.files import atomic_path, read_json, write_json
from degauss.threed.cameras import Cameras

_DISTORTION = ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2")
_PINHOLES = ("PINHOLE", "SIMPLE_PINHOLE", "PERSPECTIVE", "OPENCV", "RADIAL", "SIMPLE_RADIAL")
_NAMES = ("transforms.json", "transforms_train.json")
_MODES = ("RGB", "RGBA", "L", "P")
_SLACK = 1e-2
"""How far a pose's rotation may be from one, in any number; what files round away."""

_THERE_FROM_HERE = ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0), (0.0, 1.0, 0.0))


@dataclass(frozen=True, eq=False)
class Views:
    """n photographs: their cameras (float32, on the CPU) and their files, in the file's order."""

    cameras: Cameras
    images: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.images)

    def load(self) -> tuple[Tensor, Tensor]:
        """The images: RGB in [0, 1] ``[n, height, width, 3]``, and alpha ``[n, height, width]``, 1 where there is none.

        Raises `InputError` for an image that is damaged, of another size than its camera says, or has not 8 bits a
        channel.
        """
        pixels = torch.stack([_pixels(path, self.cameras.height, self.cameras.width) for path in self.images])
        return pixels[..., :3], pixels[..., 3]


def read_transforms(path: str | os.PathLike[str]) -> Views:
    """Read a `transforms.json`, or the one in a folder.

    Raises `InputError` if there is none, if it has no frames, if a frame has no pose or no image, if a pose is no rigid
    motion, if images differ in size, or if a lens is distorted or no pinhole.
    """
    path = _file(Path(path))
    shared = read_json(path)
    frames = shared.get("frames")
    if not isinstance(frames, list) or not frames:
        raise InputError(f"{path} has no 'frames', so there are no cameras to see from.")
    read = [_frame(path, number, shared, frame) for number, frame in enumerate(cast("list[Any]", frames))]
    images, poses, lenses, sizes = zip(*read, strict=True)
    for number, size in enumerate(sizes):
        if size != sizes[0]:
            (w, h), (w0, h0) = size, sizes[0]
            raise InputError(
                f"{path}: frame {number} is {w} x {h} pixels and frame 0 is {w0} x {h0}: one size is needed."
            )
    width, height = sizes[0]
    lens = torch.tensor(lenses, dtype=torch.float64)
    cameras = Cameras(torch.stack(poses), lens[:, :2], lens[:, 2:], height, width)
    return Views(cameras.to(dtype=torch.float32), images)


def write_transforms(path: str | os.PathLike[str], cameras: Cameras, images: Sequence[str | os.PathLike[str]]) -> None:
    """Write a `transforms.json` that nerfstudio reads: a pose and an image file for each of the cameras.

    Intrinsics are shared if they are equal, else each frame's own. Files are named relative to ``path`` where they can.
    """
    if len(images) != len(cameras):
        raise ValueError(f"{len(cameras)} cameras need as many images, got {len(images)}")
    path = Path(path)
    turn = torch.tensor(_THERE_FROM_HERE, dtype=torch.float64)
    poses = cameras.world_from_camera.detach().cpu().double().clone()
    poses[:, :3] = turn @ poses[:, :3]
    lenses = torch.cat((cameras.focal, cameras.centre), -1).detach().cpu().double().tolist()
    named = [{"fl_x": f_x, "fl_y": f_y, "cx": c_x, "cy": c_y} for f_x, f_y, c_x, c_y in lenses]
    one_lens = all(lens == named[0] for lens in named)
    frames: list[dict[str, Any]] = []
    for image, pose, lens in zip(images, poses.tolist(), named, strict=True):
        own = {} if one_lens else lens
        frames.append({"file_path": _relative(Path(image), path.parent), **own, "transform_matrix": pose})
    about: dict[str, Any] = {"camera_model": "PINHOLE", "w": cameras.width, "h": cameras.height}
    if one_lens and named:
        about.update(named[0])
    with atomic_path(path) as part:
        write_json(part, {**about, "frames": frames})


# --- frames -------------------------------------------------------------------------------------------------


def _file(path: Path) -> Path:
    if not path.is_dir():
        return path
    found = [path / name for name in _NAMES if (path / name).is_file()]
    if not found:
        raise InputError(f"{path} has no {_NAMES[0]}: views without cameras cannot be used.")
    return found[0]


_Frame = tuple[Path, Tensor, tuple[float, float, float, float], tuple[int, int]]
"""The image, the pose here ``[4, 4]`` (float64), fl_x, fl_y, cx, cy, and the width and height."""


def _frame(path: Path, number: int, shared: Mapping[str, Any], frame: Any) -> _Frame:
    name = f"{path}: frame {number}"
    if not isinstance(frame, dict):
        raise InputError(f"{name} is no JSON object.")
    values: dict[str, Any] = {**shared, **cast("dict[str, Any]", frame)}
    image = _image(path, name, values.get("file_path"))
    _check_pinhole(name, values)
    size = _size(name, values, image)
    return image, _pose(name, values.get("transform_matrix")), _lens(name, values, size), size


def _image(path: Path, name: str, file: Any) -> Path:
    if not isinstance(file, str) or not file:
        raise InputError(f"{name} has no 'file_path': expected the image that was taken there.")
    image = path.parent / file
    if not image.is_file() and not image.suffix:  # the Blender scenes leave it out
        image = image.with_suffix(".png")
    if not image.is_file():
        raise InputError(f"{name} names the image {file}, which is not there.")
    return image


def _pose(name: str, matrix: Any) -> Tensor:
    if matrix is None:
        raise InputError(f"{name} has no 'transform_matrix': views without cameras cannot be used.")
    try:
        pose = torch.tensor(matrix, dtype=torch.float64)
    except (ValueError, TypeError):
        pose = torch.empty(0)
    if tuple(pose.shape) not in ((4, 4), (3, 4)):
        raise InputError(f"{name}: 'transform_matrix' is no 4 x 4 matrix of numbers.")
    rotation, place = pose[:3, :3], pose[:3, 3]
    off = (rotation @ rotation.mT - torch.eye(3, dtype=torch.float64)).abs().amax()
    if not bool(pose.isfinite().all()) or not float(off) < _SLACK or float(torch.linalg.det(rotation)) < 0:
        raise InputError(f"{name}: 'transform_matrix' is no rotation and place of a camera.")
    left, _, right = torch.linalg.svd(rotation)
    here_from_there = torch.tensor(_THERE_FROM_HERE, dtype=torch.float64).mT
    whole = torch.eye(4, dtype=torch.float64)
    whole[:3, :3] = here_from_there @ left @ right
    whole[:3, 3] = here_from_there @ place
    return whole


def _check_pinhole(name: str, values: Mapping[str, Any]) -> None:
    model = values.get("camera_model", "PINHOLE")
    if model not in _PINHOLES:
        raise InputError(f"{name}: the camera model {model!r} is no pinhole; expected one of {', '.join(_PINHOLES)}.")
    for key in _DISTORTION:
        if _number(name, values, key, 0.0) != 0.0:
            raise InputError(f"{name}: the lens is distorted ({key} is {values[key]}): undistort the images first.")
    if values.get("is_fisheye"):
        raise InputError(f"{name}: the lens is a fisheye: undistort the images first.")


def _size(name: str, values: Mapping[str, Any], image: Path) -> tuple[int, int]:
    if "w" not in values or "h" not in values:
        from PIL import Image

        try:
            with Image.open(image) as opened:
                return opened.size
        except (OSError, SyntaxError) as error:
            raise InputError(f"{image} cannot be read as an image ({error}).") from None
    w, h = (_number(name, values, key) for key in ("w", "h"))
    if w < 1 or h < 1 or w != round(w) or h != round(h):
        raise InputError(f"{name}: an image of {w:g} x {h:g} pixels is none.")
    return round(w), round(h)


def _lens(name: str, values: Mapping[str, Any], size: tuple[int, int]) -> tuple[float, float, float, float]:
    width, height = size
    f_x = _focal(name, values, "fl_x", "camera_angle_x", width)
    f_y = _focal(name, values, "fl_y", "camera_angle_y", height)
    if f_x is None and f_y is None:
        raise InputError(f"{name} has no focal length: expected fl_x or camera_angle_x.")
    f_x, f_y = f_x or f_y or 0.0, f_y or f_x or 0.0
    return f_x, f_y, _number(name, values, "cx", width / 2), _number(name, values, "cy", height / 2)


def _focal(name: str, values: Mapping[str, Any], length: str, angle: str, pixels: int) -> float | None:
    if length in values:
        focal = _number(name, values, length)
    elif angle in values:
        view = _number(name, values, angle)
        focal = 0.5 * pixels / math.tan(0.5 * view) if 0 < view < math.pi else 0.0
    else:
        return None
    if focal <= 0:
        raise InputError(f"{name}: the focal length must be above 0 pixels, but is {focal:g}.")
    return focal


def _number(name: str, values: Mapping[str, Any], key: str, default: float = math.nan) -> float:
    value = values.get(key, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InputError(f"{name}: {key} must be a number, but is {value!r}.")
    return float(value)


def _relative(image: Path, folder: Path) -> str:
    try:
        return Path(os.path.relpath(image, folder)).as_posix()
    except ValueError:  # on another drive
        return image.as_posix()


def _pixels(path: Path, height: int, width: int) -> Tensor:
    """RGBA in [0, 1], ``[height, width, 4]``."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            if image.mode not in _MODES:
                raise InputError(
                    f"{path}: the image has mode {image.mode!r}, but 8 bits a channel are needed: {', '.join(_MODES)}."
                )
            if image.size != (width, height):
                w, h = image.size
                raise InputError(f"{path} is {w} x {h} pixels, but its camera has {width} x {height}.")
            return torch.from_numpy(np.array(image.convert("RGBA"))).float() / 255
    except (OSError, SyntaxError) as error:
        raise InputError(f"{path} cannot be read as an image ({error}).") from None
