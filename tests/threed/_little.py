"""A tiny coloured object, its oracle, and a run on it that takes fractions of a second a step."""

from __future__ import annotations

import torch

from degauss.core.schedule import Cosine
from degauss.threed.cameras import Cameras, Orbits
from degauss.threed.meshes import Mesh
from degauss.threed.methods import MethodConfig
from degauss.threed.oracle_views import OracleViews
from degauss.threed.prior_sources import Source
from degauss.threed.run import RunConfig
from degauss.threed.scenes import BallConfig, Kind, SceneConfig
from degauss.threed.volume import Blob, March
from degauss.threed.voxels import VoxelConfig

SIZE = 16


def box(front: tuple[float, float, float] = (0.9, 0.2, 0.1), half: float = 0.3) -> Mesh:
    """A cube of another colour on each side, red in front (+z)."""
    colours = torch.tensor((front, (0.1, 0.7, 0.2), (0.2, 0.3, 0.9), (0.9, 0.8, 0.1), (0.7, 0.2, 0.8), (0.2, 0.8, 0.8)))
    corners, faces, shade = [], [], []
    axes = ((2, 1.0), (2, -1.0), (0, 1.0), (0, -1.0), (1, 1.0), (1, -1.0))
    for side, (axis, sign) in enumerate(axes):
        first, second = [(1, 2), (2, 0), (0, 1)][axis]
        quad = torch.zeros(4, 3)
        quad[:, axis] = sign * half
        quad[:, first] = half * torch.tensor((-1.0, 1.0, 1.0, -1.0))
        quad[:, second] = half * torch.tensor((-1.0, -1.0, 1.0, 1.0)) * sign
        faces += [(4 * side, 4 * side + 1, 4 * side + 2), (4 * side, 4 * side + 2, 4 * side + 3)]
        corners.append(quad)
        shade.append(colours[side].expand(4, 3))
    return Mesh(torch.cat(corners), torch.tensor(faces), colours=torch.cat(shade))


def oracle(size: int = SIZE) -> Source:
    """The exact prior of the box, from 16 azimuths at 3 elevations."""
    azimuth = torch.arange(16.0).repeat(3) * 22.5
    elevation = torch.tensor((0.0, 15.0, 40.0)).repeat_interleave(16)
    cameras = Cameras.orbit(azimuth, elevation, size=size)
    prior = OracleViews.of(Cosine(), {"box": box()}, cameras, 6, 8.0, 0.05)
    orbits = Orbits(elevation=(0.0, 40.0), radius=(2.2, 2.2), fov=(40.0, 40.0))
    return Source(prior, "oracle:box", "0" * 64, "of our own making", orbits, True, box())


def little(kind: Kind = "volume", steps: int = 6, method: str = "sds", **other: object) -> RunConfig:
    """A run of a 12^3 volume, or of 60 Gaussians."""
    voxels = VoxelConfig(12, blob=Blob(10.0, 0.35), march=March(16, 11))
    scene = SceneConfig(kind, voxels, gaussians=BallConfig(60))
    config = {"steps": steps, "views": 2, "size": SIZE, "orbits": oracle_orbits(), "empty_after": 2, "empty_every": 2}
    return RunConfig("box", MethodConfig(method), scene, **{**config, **other})  # type: ignore[arg-type]


def oracle_orbits() -> Orbits:
    return Orbits(elevation=(0.0, 40.0), radius=(2.2, 2.2), fov=(40.0, 40.0))
