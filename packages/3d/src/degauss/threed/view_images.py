r"""What a prior learns from: pictures of meshes from all around, with the class and the view of each.

A picture has 3 or 6 channels: red, green and blue over white, and the normals in world axes, 0 where nothing is. It is
drawn at twice its size from a random place of given orbits, encoded as a prior encodes renders, and kept as bytes,

    byte = round(127 x) + 128,   x in [-1, 1],

in which 0 and 1 are exact. What was drawn is kept in files, named by a sum over the mesh and the views, so that a
training that goes on, or another on the same meshes, draws nothing again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from degauss.core.checkpoint import read_tensors, write_tensors
from degauss.core.errors import InputError
from degauss.core.files import atomic_path
from degauss.core.noise import Noise
from degauss.core.options import Report
from degauss.core.train import Shuffle
from degauss.threed.cameras import Cameras, Orbits, random_views
from degauss.threed.mesh_files import READABLE, read_mesh
from degauss.threed.meshes import Mesh
from degauss.threed.prior import encode_pixels
from degauss.threed.rendering import render
from degauss.threed.views import Views

Classes = Mapping[str, Sequence[Mesh]]
"""The meshes of each class, by its name."""

_FINER = 2
_AT_ONCE = 16


class Pictures(NamedTuple):
    """Bytes ``[k, 6, size, size]``, and where each picture was taken from."""

    images: Tensor
    views: Views


class Batch(NamedTuple):
    """``x0`` ``[b, channels, size, size]`` in [-1, 1]; ``label`` int64 ``[b]``; the view in degrees, ``[b]``."""

    x0: Tensor
    label: Tensor
    azimuth: Tensor
    elevation: Tensor


def read_classes(folder: Path) -> dict[str, list[Mesh]]:
    """The classes of a folder: each mesh file is one, named by its stem, and each folder of mesh files is one.

    Meshes are fitted to the unit cube; y is up and the front looks along +z, as they lie in their files. Raises
    `InputError` where there is no such folder or no mesh in it, where two classes have one name, or where a mesh
    cannot be used.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no directory; expected one of meshes ({', '.join(READABLE)}).")
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        files = _meshes(path) if path.is_dir() else [path] if path.suffix.lower() in READABLE else []
        name = path.name if path.is_dir() else path.stem
        if files and name in found:
            raise InputError(f"{folder}: {found[name][0].name} and {files[0].name} are both the class {name!r}.")
        if files:
            found[name] = files
    if not found:
        raise InputError(
            f"{folder} holds no mesh; expected files that end in {', '.join(READABLE)}, or folders of them."
        )
    return {name: [read_mesh(path).fitted() for path in paths] for name, paths in found.items()}


def _meshes(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in READABLE)


def pictures(mesh: Mesh, cameras: Cameras) -> Tensor:
    """A mesh as a prior sees it ``[n, 6, size, size]`` in [-1, 1], from square cameras."""
    fine = Cameras(
        cameras.world_from_camera,
        cameras.focal * _FINER,
        cameras.centre * _FINER,
        cameras.height * _FINER,
        cameras.width * _FINER,
    )
    with torch.no_grad():
        parts = [render(mesh, fine[first : first + _AT_ONCE]) for first in range(0, len(fine), _AT_ONCE)]
        return torch.cat([encode_pixels(part.rgb, part.normal, cameras.height, 6) for part in parts]).clamp(-1, 1)


def to_bytes(x: Tensor) -> Tensor:
    return (127 * x).round().add(128).to(torch.uint8)


def from_bytes(kept: Tensor) -> Tensor:
    return (kept.float() - 128) / 127


def draw_views(mesh: Mesh, orbits: Orbits, count: int, size: int, seed: int, cache: Path) -> Pictures:
    """``count`` random pictures of a mesh; from a file in the folder ``cache`` if they are there already."""
    file = cache / f"{_sum_of(mesh, orbits, count, size, seed)}.safetensors"
    if not file.is_file():
        cameras = random_views(Noise(seed, range(count)), orbits, size)
        views = Views.of(cameras)
        drawn = {
            "images": to_bytes(pictures(mesh, cameras)),
            "azimuth": views.azimuth,
            "elevation": views.elevation,
        }
        with atomic_path(file) as part:
            write_tensors(part, drawn)
    kept = read_tensors(file)
    return Pictures(kept["images"], Views(kept["azimuth"], kept["elevation"]))


def _sum_of(mesh: Mesh, orbits: Orbits, count: int, size: int, seed: int) -> str:
    total = hashlib.sha256(repr((orbits, count, size, seed, _FINER)).encode())
    for name in ("vertices", "faces", "uv", "texture", "colours", "normals"):
        part: Tensor | None = getattr(mesh, name)
        total.update(b"-" if part is None else part.detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()[:24]


@dataclass(frozen=True, eq=False)
class ViewImages:
    """Sample numbers -> pictures, each once an epoch.

    ``images`` uint8 ``[items, channels, size, size]``; ``label``, ``azimuth``, ``elevation`` ``[items]``.
    """

    images: Tensor
    label: Tensor
    azimuth: Tensor
    elevation: Tensor
    seed: int = 0
    _order: Shuffle = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_order", Shuffle(len(self.images), self.seed))

    def __call__(self, samples: Sequence[int]) -> Batch:
        items = torch.from_numpy(self._order(samples))
        x0 = from_bytes(self.images[items])
        return Batch(x0, self.label[items], self.azimuth[items].float(), self.elevation[items].float())


def draw_classes(
    classes: Classes,
    *,
    orbits: Orbits,
    size: int,
    normals: bool,
    count: int,
    seed: int,
    cache: Path,
    report: Report,
) -> ViewImages:
    """``count`` pictures of each class, shared evenly among its meshes; without ``normals``, of colour alone."""
    labels: list[Tensor] = []
    parts: list[Pictures] = []
    total = sum(len(meshes) for meshes in classes.values())
    for label, meshes in enumerate(classes.values()):
        for mesh in meshes:
            report(len(parts), total)
            each = -(-count // len(meshes))
            # Meshes are seen from places of their own: a common set would leave the same gaps in all.
            parts.append(draw_views(mesh, orbits, each, size, seed + len(parts), cache))
            labels.append(torch.full((each,), label))
    images = torch.cat([part.images for part in parts])[:, : 6 if normals else 3].contiguous()
    azimuth = torch.cat([part.views.azimuth for part in parts])
    elevation = torch.cat([part.views.elevation for part in parts])
    return ViewImages(images, torch.cat(labels), azimuth, elevation, seed)
