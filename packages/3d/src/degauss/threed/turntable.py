"""A turn around an object as a film: mp4 (H.264) or gif, written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from degauss.core.errors import InputError, check_option, check_range
from degauss.core.files import atomic_path
from degauss.threed.cameras import Cameras, Size
from degauss.threed.rendering import WHITE, Representation, render

FILMS = (".mp4", ".gif")
_AT_ONCE = 4

_Frames = np.ndarray[Any, np.dtype[np.uint8]]


def turntable(
    representation: Representation,
    frames: int = 72,
    elevation: float = 15.0,
    radius: float = 2.2,
    fov: float = 40.0,
    size: Size = 256,
    background: Tensor | Sequence[float] = WHITE,
    device: torch.device | str = "cpu",
) -> Tensor:
    """RGB ``[frames, height, width, 3]`` from cameras once around the object, without gradients.

    The first is the front; the last is one step before it, so that a film can go on from the start. Angles in degrees,
    ``radius`` in world units.
    """
    check_range("the number of frames of a turntable", frames, low=1)
    azimuth = torch.arange(frames, dtype=torch.float64, device=device) * (360 / frames)
    cameras = Cameras.orbit(azimuth, elevation, radius, fov, size)
    with torch.no_grad():
        shots = [
            render(representation, cameras[start : start + _AT_ONCE], background).rgb.cpu()
            for start in range(0, frames, _AT_ONCE)
        ]
    return torch.cat(shots)


def write_film(path: str | os.PathLike[str], frames: Tensor, fps: float = 24.0) -> None:
    """Write RGB ``[n, height, width, 3]`` in [0, 1] as mp4 or gif, by the suffix; a gif repeats for ever.

    H.264 halves the colour's resolution, so an mp4 of an odd size gets one more row or column, a copy of the last. A
    gif has 256 colours a frame and counts time in 1/100 s; frames that are equal become one that lasts longer.
    Raises `InputError` for another suffix, a rate that is not above 0, or frames that are not finite.
    """
    path = Path(path)
    suffix = check_option(f"{path}: the suffix of a film", path.suffix.lower(), FILMS)
    check_range("frames per second", fps, low=0.01, high=1000)
    if frames.ndim != 4 or frames.shape[-1] != 3 or len(frames) == 0:
        raise ValueError(f"frames of a film are [n, height, width, 3], got {list(frames.shape)}")
    if not bool(frames.isfinite().all()):
        raise InputError(f"{path}: {int((~frames.isfinite()).sum())} numbers of the frames are not finite.")
    pictures: _Frames = (frames.detach().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    write = {".mp4": _write_mp4, ".gif": _write_gif}
    with atomic_path(path) as part:
        write[suffix](part, pictures, fps)


def _write_mp4(path: Path, pictures: _Frames, fps: float) -> None:
    from imageio.v3 import imwrite

    pictures = np.pad(pictures, ((0, 0), (0, pictures.shape[1] % 2), (0, pictures.shape[2] % 2), (0, 0)), mode="edge")
    to_start = ["-movflags", "+faststart"]  # the index goes first: a browser plays it while it loads
    imwrite(path, pictures, plugin="FFMPEG", fps=fps, quality=8, macro_block_size=2, output_params=to_start)


def _write_gif(path: Path, pictures: _Frames, fps: float) -> None:
    from PIL import Image

    first, *others = (Image.fromarray(picture) for picture in pictures)
    first.save(path, format="gif", save_all=True, append_images=others, duration=1000 / fps, loop=0)
