"""From a scene to files that other programs open: a textured mesh, splats, a film, and where they came from.

Of a volume the surface is a level set of its density, and its colour is asked of the field there. Gaussians have no
surface of their own: theirs is fused from views. A GLB carries its provenance in `asset.extras`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from degauss.core.errors import InputError, check_option
from degauss.threed.fusion import fused_mesh
from degauss.threed.gaussians import Gaussians
from degauss.threed.mesh_files import write_mesh
from degauss.threed.meshes import Mesh
from degauss.threed.scenes import Scene, kind_of
from degauss.threed.splats import write_splats
from degauss.threed.surface import decimate, extract, largest_component
from degauss.threed.texturing import Colour, textured
from degauss.threed.volume import Volume

MESHES = (".glb", ".obj")
FORMATS = (*MESHES, ".ply")


@dataclass(frozen=True)
class MeshConfig:
    """How a scene becomes a mesh.

    ``resolution``: points a side of the grid that the surface is found on. ``texture``: texels a side. ``faces``: at
    most about so many (needs the package fast-simplification); None keeps all. ``level``: the density, per world unit,
    of the surface of a volume; None chooses it. ``pieces``: "largest" drops what floats around, "all" keeps it.
    """

    resolution: int = 64
    texture: int = 512
    faces: int | None = None
    level: float | None = None
    pieces: str = "largest"

    def __post_init__(self) -> None:
        if self.resolution < 4 or self.texture < 16:
            raise InputError(
                f"a mesh needs a grid of 4 points a side or more and a texture of 16 texels or more, but they are "
                f"{self.resolution} and {self.texture}."
            )
        if self.faces is not None and self.faces < 4:
            raise InputError(f"faces must be at least 4, but is {self.faces}.")
        check_option("pieces", self.pieces, ("largest", "all"))


def to_mesh(scene: Scene, config: MeshConfig = MeshConfig()) -> Mesh:
    """The scene as a mesh with texture coordinates and a texture, on the scene's device.

    Raises `InputError` where it has no surface, with the range of its density.
    """
    mesh, colour = bare_mesh(scene, config)
    if config.pieces == "largest":
        mesh = largest_component(mesh)
    if config.faces is not None and len(mesh.faces) > config.faces:
        mesh = decimate(mesh, config.faces)
    return textured(mesh, colour, config.texture)


def bare_mesh(scene: Scene, config: MeshConfig) -> tuple[Mesh, Colour]:
    """The surface alone, and its colour as a function of points on it."""
    if isinstance(scene, Gaussians):
        mesh, fused = fused_mesh(scene, config.resolution)
        return mesh, fused.colour
    device = next(scene.parameters()).device
    return extract(scene.density, config.resolution, config.level, device).mesh, field_colour(scene)


def field_colour(volume: Volume) -> Colour:
    """The colour that a field holds at points of a surface."""

    def colour(points: Tensor, normals: Tensor) -> Tensor:
        del normals
        with torch.no_grad():
            return volume(points).rgb

    return colour


def check_export(path: Path, scene: Scene) -> None:
    """`InputError` unless such a scene can be written in the format of this file."""
    suffix = check_option(f"{path}: the suffix", path.suffix.lower(), FORMATS)
    if suffix == ".ply" and not isinstance(scene, Gaussians):
        raise InputError(
            f"{path}: splats are written of Gaussians, but this is a {kind_of(scene)}: choose {' or '.join(MESHES)}."
        )


def export(
    path: str | os.PathLike[str],
    scene: Scene,
    config: MeshConfig = MeshConfig(),
    provenance: Mapping[str, Any] | None = None,
) -> Mesh | None:
    """Write a scene: a GLB or OBJ with a texture, or a PLY of Gaussians in the layout of their viewers.

    ``provenance``: what JSON can hold; a GLB keeps it in `asset.extras`. Returns the mesh that was written, None for
    splats. Raises `InputError` for another suffix, and where there is no surface.
    """
    path = Path(path)
    check_export(path, scene)
    if path.suffix.lower() == ".ply" and isinstance(scene, Gaussians):
        write_splats(path, scene.cloud())
        return None
    mesh = to_mesh(scene, config)
    write_mesh(path, mesh, provenance)
    return mesh
