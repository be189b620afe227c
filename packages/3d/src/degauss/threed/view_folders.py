"""Views of something as a folder that trainers of radiance fields read: images with alpha, and `transforms.json`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from degauss.core.errors import InputError
from degauss.core.files import atomic_path
from degauss.threed.cameras import Cameras
from degauss.threed.rendering import BLACK, Representation, render
from degauss.threed.transforms import write_transforms

_OURS = ("rgb-", "normal-", "transforms.json")


def write_views(folder: Path, scene: Representation, cameras: Sequence[Cameras]) -> None:
    """Write rgb-*.png (colours with straight alpha), normal-*.png and the cameras, in place of older ones there.

    ``cameras``: batches of one view each, all of one size. Raises `InputError` if the folder holds anything else.
    """
    for file in folder.iterdir() if folder.is_dir() else ():
        if not file.name.startswith(_OURS):
            raise InputError(f"{folder} holds other things than views ({file.name}): name a new folder.")
    with atomic_path(folder) as part:
        part.mkdir()
        images: list[Path] = []
        for number, camera in enumerate(cameras):
            with torch.no_grad():
                seen = render(scene, camera, BLACK)
            alpha = seen.alpha[0, ..., None]
            straight = seen.rgb[0] / alpha.clamp(min=1e-6)
            images.append(part / f"rgb-{number:04d}.png")
            _write(images[-1], torch.cat((straight, alpha), -1))
            _write(part / f"normal-{number:04d}.png", torch.cat((0.5 + 0.5 * seen.normal[0], alpha), -1))
        write_transforms(part / "transforms.json", _joined(cameras), images)


def _joined(cameras: Sequence[Cameras]) -> Cameras:
    pose, focal, centre = (
        torch.cat([getattr(one, name) for one in cameras]).cpu() for name in ("world_from_camera", "focal", "centre")
    )
    return Cameras(pose, focal, centre, cameras[0].height, cameras[0].width)


def _write(path: Path, image: Tensor) -> None:
    from PIL import Image

    Image.fromarray((image.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()).save(path)
