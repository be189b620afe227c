r"""A dense grid of density and colour, interpolated: the volume that learns fastest where memory allows.

Points of a lattice that spans the cube, faces included, hold v and three colour features; between them all are
interpolated linearly, and only then made a density and a colour,

    sigma = scale log(1 + e^v),   rgb = 1 / (1 + e^-feature),

which lets a surface pass sharply between points (Sun et al. 2022, DVGO, section 4). The normal is against the
gradient of v, taken by central differences at the points and interpolated as the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import grid_sample, interpolate, softplus

from degauss.threed.volume import HALF, Blob, March, Sample, Volume

_FLAT = 1e-8
"""The slope of v, per world unit, below which there is no normal."""


@dataclass(frozen=True)
class VoxelConfig:
    """``resolution``: points a side. ``scale``: of the density, 1 / world units. ``blob``: what is there at first.

    Empty cells are found exactly where the march has ``resolution`` - 1 of them a side.
    """

    resolution: int = 48
    scale: float = 10.0
    blob: Blob = field(default_factory=Blob)
    march: March = field(default_factory=lambda: March(cells=47))

    def __post_init__(self) -> None:
        if self.resolution < 2 or self.scale <= 0:
            raise ValueError(f"voxels need at least 2 points a side and a positive scale, got {self}")


class Voxels(Volume):
    """A grey ball to start with.

    ``raw`` ``[resolution, resolution, resolution]``: v at (z, y, x). ``colour`` ``[3, ...]``: the features there.
    """

    def __init__(self, config: VoxelConfig = VoxelConfig()) -> None:
        super().__init__(config.march)
        self.config = config
        ticks = torch.linspace(-HALF, HALF, config.resolution)
        points = torch.stack(torch.meshgrid(ticks, ticks, ticks, indexing="ij"), -1)
        self.raw = nn.Parameter(config.blob(points))
        self.colour = nn.Parameter(torch.zeros(3, *self.raw.shape))

    def forward(self, points: Tensor) -> Sample:
        step = 2 * HALF / (self.config.resolution - 1)
        back, down, left = torch.gradient(-self.raw, spacing=step)
        # Apart, so that a loss that asks for no normals does not pay for their gradient.
        raw, *features = _interpolate(torch.cat((self.raw[None], self.colour)), points)
        outward = _interpolate(torch.stack((left, down, back)), points)
        steepness = outward.square().sum(0).clamp(min=_FLAT**2).sqrt()
        rgb = torch.stack(features).sigmoid()
        return Sample(self.config.scale * softplus(raw), rgb.mT, (outward / steepness).mT)

    def density(self, points: Tensor) -> Tensor:
        return self.config.scale * softplus(_interpolate(self.raw[None], points)[0])

    @torch.no_grad()
    def resampled(self, resolution: int) -> Voxels:
        """The same field on a finer or coarser lattice, for learning coarse shapes first."""
        finer = Voxels(replace(self.config, resolution=resolution)).to(self.raw)
        values = torch.cat((self.raw[None], self.colour))[None]
        values = interpolate(values, size=(resolution,) * 3, mode="trilinear", align_corners=True)[0]
        finer.raw.copy_(values[0])
        finer.colour.copy_(values[1:])
        return finer


def _interpolate(grid: Tensor, points: Tensor) -> Tensor:
    """Channels ``[c, z, y, x]`` that span the cube at points ``[p, 3]``: ``[c, p]``."""
    where = (points / HALF)[None, None, None]
    return grid_sample(grid[None], where, padding_mode="border", align_corners=True)[0, :, 0, 0]
