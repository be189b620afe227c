"""A page in the browser that shows anything that can be rendered, drawn here and not there, by viser."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from degauss.core.errors import InputError
from degauss.threed.cameras import Cameras
from degauss.threed.opening import open_any
from degauss.threed.rendering import Representation, render
from degauss.threed.run import CHECKPOINT

_POLL = 0.05


def serve(what: Path, port: int, size: int, device: torch.device | str) -> None:
    """Show it until interrupted. `InputError` if it cannot be read, or viser is not installed."""
    scene = open_any(what, device)
    if importlib.util.find_spec("viser") is None:
        raise InputError("the viewer needs viser, which is not installed: pip install 'degauss-3d[viser]'.")
    import viser  # pyright: ignore[reportMissingImports]

    server: Any = viser.ViserServer(port=port)
    print(f"http://localhost:{port} shows {what}; Ctrl-C ends it")
    shown: dict[int, tuple[float, bytes]] = {}
    age = _age(what)
    while True:
        if _age(what) != age:
            scene, age = open_any(what, device), _age(what)
            shown.clear()
        for number, client in server.get_clients().items():
            camera = camera_of(client.camera, size, device)
            key = camera.world_from_camera.cpu().numpy().tobytes()
            if shown.get(number, (0.0, b""))[1] != key:
                client.scene.set_background_image(picture(scene, camera))
                shown[number] = (age, key)
        time.sleep(_POLL)


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
