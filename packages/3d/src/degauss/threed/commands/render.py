"""`degauss-3d render`: images of a mesh, of splats or of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from degauss.core.errors import InputError, check_range
from degauss.core.options import check_directory, check_file, device_of

_FILMS = (".mp4", ".gif")


@dataclass(frozen=True, kw_only=True)
class Render:
    """Render a mesh (.glb, .obj, .ply), splats (.ply), the folder of a run, or a word of a generator.

    OUT with the suffix .mp4 or .gif is a turntable. Any other is a folder of views: their colours with alpha
    (rgb-0000.png) and normals (normal-0000.png), and beside them the cameras (transforms.json), which nerfstudio and
    other trainers of radiance fields read.
    """

    what: Positional[Path]
    """A mesh, splats, or the folder of a run or of a generator. Meshes are fitted to a cube of side 1 around the
    origin."""
    word: str | None = None
    """Of a generator, as 'train-generator' writes it: whose scene."""
    out: Path = Path("views")
    """A folder, or a film."""
    views: int = 24
    """Images of a folder, or frames of a film."""
    elevation: tuple[float, ...] = (15.0,)
    """Of the cameras, degrees; views are shared evenly among several. A film takes the first."""
    radius: float = 2.2
    """From the origin to the cameras; the object is about 1 long."""
    fov: float = 40.0
    """Vertical field of view, degrees."""
    size: int = 256
    """Pixels a side."""
    background: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Red, green and blue of a film, from 0 to 1; the views of a folder have alpha instead."""
    fps: float = 24.0
    """Frames a second."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""

    def run(self) -> None:
        from degauss.threed.opening import open_any
        from degauss.threed.turntable import turntable, write_film

        self._check()
        film = self.out.suffix.lower() in _FILMS
        device = device_of(self.device)
        scene = open_any(self.what, device, self.word)
        if not film:
            count = self._write_views(scene, device)
            print(f"wrote {self.out}: {count} views and transforms.json")
            return
        frames = turntable(
            scene, self.views, self.elevation[0], self.radius, self.fov, self.size, self.background, device
        )
        write_film(self.out, frames, self.fps)
        print(f"wrote {self.out}: {len(frames)} frames")

    def _check(self) -> None:
        check_range("views", self.views, 1)
        check_range("size", self.size, 1, 8192, "pixels")
        check_range("fov", self.fov, 1, 170, "degrees")
        check_range("radius", self.radius, 0.1)
        check_range("fps", self.fps, 0.01, 1000)
        for part in self.background:
            check_range("background", part, 0, 1)
        if not self.elevation:
            raise InputError("elevation must be one number or more, but there is none.")
        for angle in self.elevation:
            check_range("elevation", angle, -90, 90, "degrees")
        if self.out.suffix.lower() in _FILMS:
            check_file(self.out, _FILMS)
        else:
            check_directory(self.out)

    def _write_views(self, scene: object, device: str) -> int:
        from typing import cast

        from degauss.threed.cameras import Cameras
        from degauss.threed.rendering import Representation
        from degauss.threed.view_folders import write_views

        each = -(-self.views // len(self.elevation))
        cameras = [
            Cameras.orbit(turn * 360 / each, rise, self.radius, self.fov, self.size)
            for rise in self.elevation
            for turn in range(each)
        ][: self.views]
        write_views(self.out, cast("Representation", scene), [one.to(device) for one in cameras])
        return len(cameras)
