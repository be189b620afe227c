"""A page in the browser that shows anything that can be rendered, drawn here and not there, by viser."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from degauss.core.errors import InputError
from degauss.threed.cameras import Cameras
from degauss.threed.opening import open_any
from degauss.threed.rendering import Representation, render
from degauss.threed.run import CHECKPOINT, Run, Seen

_POLL = 0.05
_SHARE = 0.2
"""Of a run's time, the most that showing it takes."""


def serve(what: Path, port: int, size: int, device: torch.device | str, word: str | None = None) -> None:
    """Show it until interrupted; ``word``: of a generator. `InputError` if it cannot be read, or viser is missing."""
    scene, age = open_any(what, device, word), _age(what)
    with open_page(port, size, device) as page:
        print(f"{page.address} shows {what}; Ctrl-C ends it", flush=True)
        while True:
            if _age(what) != age:
                scene, age = open_any(what, device, word), _age(what)
            page.show(scene, age)
            time.sleep(_POLL)


@dataclass
class Page:
    """A page that is served: ``size`` pixels high, rendered on ``device``."""

    server: Any
    size: int
    device: torch.device | str
    _shown: dict[int, tuple[float, bytes]] = field(default_factory=dict[int, tuple[float, bytes]])

    @property
    def address(self) -> str:
        return f"http://localhost:{self.server.get_port()}"

    def show(self, scene: Representation, version: float) -> None:
        """Render the scene for each browser whose camera has moved, and for all where the ``version`` is another."""
        clients = self.server.get_clients()
        for number, client in clients.items():
            camera = camera_of(client.camera, self.size, self.device)
            key = (version, camera.world_from_camera.cpu().numpy().tobytes())
            if self._shown.get(number) != key:
                client.scene.set_background_image(picture(scene, camera))
                self._shown[number] = key
        for gone in self._shown.keys() - clients.keys():
            del self._shown[gone]


@contextmanager
def open_page(port: int, size: int, device: torch.device | str) -> Generator[Page]:
    """A page on this machine, closed at the end; on the next port that is free where this one is not, 0 for any.

    Browsers begin in front of the object. `InputError` if viser is not installed.
    """
    if importlib.util.find_spec("viser") is None:
        raise InputError("the viewer needs viser, which is not installed: pip install 'degauss-3d[viser]'.")
    import viser  # pyright: ignore[reportMissingImports]

    server: Any = viser.ViserServer(host="localhost", port=port, verbose=False)
    server.on_client_connect(_to_the_front)
    try:
        yield Page(server, size, device)
    finally:
        server.stop()


@dataclass
class Live:
    """An observer that shows a run's scene while it learns, by a `Page`.

    It is looked at between steps, at least ``every`` seconds apart and at most for a fifth of the time, and the run
    ends at the same bits as one that nobody looks at.
    """

    page: Page
    every: float = 0.5
    _readout: Any = None
    _next: float = 0.0

    def __call__(self, run: Run, seen: Seen) -> None:
        begun = time.monotonic()
        if begun < self._next and seen.step < run.config.steps:
            return
        if self._readout is None:
            self._readout = self.page.server.gui.add_markdown("")
        self._readout.content = (
            f"**{run.config.prompt}**, {run.config.called}: step {seen.step} of {run.config.steps}, "
            f"loss {float(seen.loss):.4g}"
        )
        self.page.show(run.scene, seen.step)
        took = time.monotonic() - begun
        self._next = begun + max(self.every, took / _SHARE)


@contextmanager
def live(port: int, size: int, device: torch.device | str) -> Generator[Live]:
    """An observer with its page; see `open_page`."""
    with open_page(port, size, device) as page:
        print(f"{page.address} shows the scene while it learns", flush=True)
        yield Live(page)


def _to_the_front(client: Any) -> None:
    """A camera of viser, whose world has z up, in front of the object and a little above it."""
    client.camera.position = (0.0, -2.1, 0.55)
    client.camera.look_at = (0.0, 0.0, 0.0)
    client.camera.fov = 0.7


def camera_of(seen: Any, size: int, device: torch.device | str) -> Cameras:
    """A viser camera (x right, y down, z ahead; its up is z) as ours, ``size`` pixels high."""
    w, x, y, z = (float(part) for part in seen.wxyz)
    rotation = torch.tensor(
        (
            (1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
            (2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
            (2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
        )
    )
    pose = torch.eye(4)
    # Its world has z up, ours y; its camera looks along +z, ours along -z.
    turn = torch.tensor(((1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.0, -1.0, 0.0)))
    pose[:3, :3] = turn @ rotation @ torch.diag(torch.tensor((1.0, -1.0, -1.0)))
    pose[:3, 3] = turn @ torch.as_tensor(np.asarray(seen.position), dtype=torch.float32)
    width = max(1, round(size * float(seen.aspect)))
    focal = 0.5 * size / np.tan(0.5 * float(seen.fov))
    intrinsics = torch.tensor(((focal, focal),), dtype=torch.float32)
    centre = torch.tensor(((0.5 * width, 0.5 * size),))
    return Cameras(pose[None], intrinsics, centre, size, width).to(device)


def picture(scene: Representation, camera: Cameras) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """What a camera sees, ``[h, w, 3]`` in bytes."""
    with torch.no_grad():
        rgb = render(scene, camera).rgb[0]
    return (rgb.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()


def _age(what: Path) -> float:
    """When a run's checkpoint was written; 0 for anything else."""
    checkpoint = what / CHECKPOINT
    return checkpoint.stat().st_mtime if checkpoint.is_dir() else 0.0
