r"""A surface from what views of it show: fusion of depth images (Curless and Levoy 1996), for what has no density.

A view that sees a surface at depth d along a pixel says of a point at depth z behind it how far in front it is,

    f = clamp((d - z) / reach, -1, 1),

and nothing of what lies further behind than ``reach``; where the view sees through, f is 1. The mean of f over the
views that say something is 0 at the surface. What no view says anything of lies inside: views from all around see
whatever is empty. The share (1 - f) / 2 is then an opacity, of level 1/2, for marching cubes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from degauss.threed.cameras import Cameras, Size
from degauss.threed.meshes import Mesh
from degauss.threed.rendering import BLACK, Rendered, Representation, render
from degauss.threed.surface import Surface, marching_cubes, sample_grid

_SEEN = 0.5
"""The alpha from which on a pixel shows a surface."""
_CLEAREST = 1 - 1e-6


@dataclass(frozen=True, eq=False)
class Fused:
    """Views of an object over black, and the cameras that saw them; ``reach``: world units, some cells of the grid."""

    views: Rendered
    cameras: Cameras
    reach: float

    @classmethod
    def of(
        cls, representation: Representation, reach: float, size: Size = 128, turns: int = 12, at_once: int = 4
    ) -> Fused:
        """From ``turns`` views around at three elevations each, without gradients."""
        azimuth = torch.arange(turns, dtype=torch.float64).repeat(3) * (360 / turns)
        elevation = torch.tensor((-35.0, 10.0, 55.0), dtype=torch.float64).repeat_interleave(turns)
        cameras = Cameras.orbit(azimuth, elevation, size=size)
        if isinstance(representation, torch.nn.Module):
            cameras = cameras.to(next(representation.parameters()).device)
        with torch.no_grad():
            parts = [
                render(representation, cameras[first : first + at_once], BLACK)
                for first in range(0, len(cameras), at_once)
            ]
        return cls(Rendered(*(torch.cat(part) for part in zip(*parts, strict=True))), cameras, reach)

    def opacity(self, points: Tensor) -> Tensor:
        """(1 - f) / 2 at points ``[p, 3]``, in [0, 1]."""
        total, count = points.new_zeros(len(points)), points.new_zeros(len(points))
        for view in range(len(self.cameras)):
            where, depth = self._seen_from(view, points)
            image = torch.stack((self.views.depth[view], self.views.alpha[view]))
            d, alpha = _lookup(image, where, "nearest")
            outside = (where.abs() > 1).any(-1)
            front = torch.where(alpha < _SEEN, 1.0, ((d - depth) / self.reach).clamp(-1, 1))
            says = ((front > -1) & ~outside).to(points)
            total, count = total + says * front, count + says
        f = torch.where(count > 0, total / count.clamp(min=1), -1.0)
        return (1 - f) / 2

    def colour(self, points: Tensor, normals: Tensor) -> Tensor:
        """What the views show at points of the surface ``[p, 3]``, weighted by how squarely they see them."""
        total, count = points.new_zeros(len(points), 3), points.new_zeros(len(points), 1)
        plain, any_alpha = points.new_zeros(3), 0.0
        for view in range(len(self.cameras)):
            where, depth = self._seen_from(view, points)
            rgb, alpha = self.views.rgb[view].movedim(-1, 0), self.views.alpha[view][None]
            image = torch.cat((rgb, alpha, self.views.depth[view][None] * alpha))
            *colour, alpha, d = _lookup(image, where, "bilinear")
            towards = torch.nn.functional.normalize(self.cameras.place[view] - points, dim=-1)
            square = (towards * normals).sum(-1).clamp(min=0).square()
            near = (alpha > _SEEN) & ((d / alpha.clamp(min=1e-6) - depth).abs() < self.reach)
            weight = (square * near)[:, None]
            total = total + weight * torch.stack(colour, -1) / alpha.clamp(min=1e-6)[:, None]
            count = count + weight
            plain, any_alpha = plain + rgb.sum((1, 2)), any_alpha + self.views.alpha[view].sum()
        mean = plain / torch.as_tensor(any_alpha).clamp(min=1e-6)
        return torch.where(count > 1e-4, total / count.clamp(min=1e-4), mean)

    def surface(self, resolution: int) -> Surface:
        """Where the opacity is 1/2, on a grid of ``resolution`` points a side.

        Raises `InputError` if no view shows a surface.
        """
        step = 1 / (resolution - 1)

        def density(points: Tensor) -> Tensor:
            # The one whose opacity over a cell is ours.
            return -torch.log1p(-self.opacity(points) * _CLEAREST) / step

        level = -torch.log1p(torch.tensor(-0.5 * _CLEAREST, dtype=torch.float64)) / step
        return marching_cubes(sample_grid(density, resolution, self.cameras.device), float(level))

    def _seen_from(self, view: int, points: Tensor) -> tuple[Tensor, Tensor]:
        """Places in the image, in [-1, 1] across and down ``[p, 2]``, and depths ``[p]``."""
        x, y, depth = self.cameras[view].project(points)[0].unbind(-1)
        where = torch.stack((2 * x / self.cameras.width - 1, 2 * y / self.cameras.height - 1), -1)
        return where, depth


def fused_mesh(representation: Representation, resolution: int = 96) -> tuple[Mesh, Fused]:
    """The surface of anything that can be rendered, and the views that know its colour."""
    fused = Fused.of(representation, reach=4 / resolution)
    return fused.surface(resolution).mesh, fused


def _lookup(image: Tensor, where: Tensor, mode: str) -> Tensor:
    """Channels of an image ``[c, h, w]`` at places ``[p, 2]``: ``[c, p]``."""
    return grid_sample(image[None], where[None, None].to(image), mode=mode, padding_mode="border", align_corners=False)[
        0, :, 0
    ]
