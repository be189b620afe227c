"""Films by other readers: how many frames, how long, how large, and what is in them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from imageio_ffmpeg import get_ffmpeg_exe
from PIL import Image
from torch import Tensor

from degauss.core.errors import InputError
from degauss.threed.cameras import Cameras
from degauss.threed.rendering import Rendered, render
from degauss.threed.turntable import turntable, write_film


class Compass:
    """What is seen is where from: red grows with sin, green with cos of the azimuth, blue is the elevation."""

    def render(self, cameras: Cameras, background: Tensor, /) -> Rendered:
        azimuth, elevation = (torch.deg2rad(angle) for angle in cameras.angles())
        colour = torch.stack((0.5 + 0.5 * azimuth.sin(), 0.5 + 0.5 * azimuth.cos(), elevation / 2), -1)
        shape = (len(cameras), cameras.height, cameras.width)
        ones = torch.ones(shape)
        return Rendered(colour[:, None, None].expand(*shape, 3), ones, ones, ones[..., None].expand(*shape, 3))


def ramp(frames: int, height: int = 32, width: int = 48) -> Tensor:
    """Frames of one colour each, from black to white, red in the right half."""
    film = torch.linspace(0, 1, frames)[:, None, None, None].expand(frames, height, width, 3).clone()
    film[:, :, width // 2 :, 0] = 1
    return film


def decoded(path: Path, height: int, width: int) -> tuple[np.ndarray, str]:
    """The frames of a film, and what ffmpeg says of it."""
    command = [get_ffmpeg_exe(), "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run(command, capture_output=True, check=True, timeout=60)
    return np.frombuffer(done.stdout, np.uint8).reshape(-1, height, width, 3), done.stderr.decode()


def test_a_turn_begins_at_the_front_and_does_not_show_it_twice():
    film = turntable(Compass(), frames=6, elevation=30.0, size=(4, 5))
    assert film.shape == (6, 4, 5, 3)
    azimuth = torch.atan2(2 * film[:, 0, 0, 0] - 1, 2 * film[:, 0, 0, 1] - 1)
    expected = torch.tensor([0.0, 60.0, 120.0, 180.0, -120.0, -60.0])
    torch.testing.assert_close(torch.rad2deg(azimuth).abs(), expected.abs(), rtol=0, atol=1e-2)
    torch.testing.assert_close(film[:, 0, 0, 2], torch.full((6,), torch.pi / 12))
    whole = render(Compass(), Cameras.orbit(torch.arange(6) * 60.0, 30.0, size=(4, 5))).rgb
    torch.testing.assert_close(film, whole)


def test_an_mp4_has_its_frames_rate_and_colours(here: Path):
    write_film(here / "turn.mp4", ramp(9), fps=12.0)
    film, about = decoded(here / "turn.mp4", 32, 48)
    assert film.shape == (9, 32, 48, 3)
    assert re.search(r"Video: h264 .*yuv420p.* 48x32.* 12 fps", about)
    expected = (ramp(9) * 255).numpy()
    assert float(np.abs(film - expected)[:, 8:24, 8:16].max()) < 12
    assert float(np.abs(film - expected)[:, 8:24, 32:40].max()) < 25
    assert [path.name for path in here.iterdir()] == ["turn.mp4"]


def test_an_mp4_of_an_odd_size_gets_a_row_and_a_column(here: Path):
    write_film(here / "turn.mp4", ramp(3, 31, 45))
    film, about = decoded(here / "turn.mp4", 32, 46)
    assert film.shape == (3, 32, 46, 3)
    assert " 46x32" in about


def test_a_gif_has_its_frames_and_repeats_for_ever(here: Path):
    write_film(here / "turn.gif", ramp(7), fps=10.0)
    with Image.open(here / "turn.gif") as film:
        assert (film.n_frames, film.size, film.info["loop"], film.info["duration"]) == (7, (48, 32), 0, 100)  # pyright: ignore[reportAttributeAccessIssue]
        film.seek(6)
        assert film.convert("RGB").getpixel((4, 4)) == (255, 255, 255)
        film.seek(0)
        assert film.convert("RGB").getpixel((40, 4)) == (255, 0, 0)


def test_a_single_frame_is_a_film(here: Path):
    for name in ("turn.gif", "turn.mp4"):
        write_film(here / name, ramp(1))
        assert (here / name).stat().st_size > 0


def test_a_film_that_cannot_be_made_leaves_the_old_one(here: Path):
    write_film(here / "turn.gif", ramp(2))
    before = (here / "turn.gif").read_bytes()
    film = ramp(2)
    film[0, 0, 0, :2] = torch.nan
    with pytest.raises(InputError, match="2 numbers of the frames are not finite"):
        write_film(here / "turn.gif", film)
    with pytest.raises(InputError, match=r"'\.mp4', '\.gif', but is '\.avi'"):
        write_film(here / "turn.avi", ramp(2))
    with pytest.raises(InputError, match="frames per second"):
        write_film(here / "turn.gif", ramp(2), fps=0)
    with pytest.raises(InputError, match="the number of frames of a turntable must be at least 1"):
        turntable(Compass(), frames=0)
    with pytest.raises(ValueError, match="frames of a film"):
        write_film(here / "turn.gif", ramp(2)[0])
    assert (here / "turn.gif").read_bytes() == before
    assert [path.name for path in here.iterdir()] == ["turn.gif"]
