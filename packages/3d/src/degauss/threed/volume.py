r"""Volume rendering: a density and a colour everywhere in the unit cube, seen through the rays that cross it.

Light that travels along a ray is absorbed at the rate of the density sigma(x) >= 0, in 1 / world units. A ray's
chord of the cube is cut in N intervals of length D with one sample each, and with the optical depths
tau_k = sigma_k D and what has passed so far in log space, log T_k = -(tau_1 + ... + tau_{k-1}),

    w_k = T_k (1 - exp(-tau_k)),   sum_k w_k = alpha = 1 - exp(-(tau_1 + ... + tau_N))

(Max 1995; Mildenhall et al. 2020, eq. 3). This is exact where density and colour are constant, and of second order in D
where they are smooth and samples lie in the middle of their intervals. With `Noise`, all samples of a ray are moved
by one uniform number, so that the optical depth is right on average whatever the density, and no surface hides
between samples for ever.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool3d, normalize, pad

from degauss.core.noise import Noise
from degauss.threed.cameras import Cameras
from degauss.threed.rendering import Rendered, mean_depth, mean_normal, over

HALF = 0.5
"""Half the side of the cube around the origin outside which nothing is."""


class Sample(NamedTuple):
    """What a field holds at p points.

    ``density`` ``[p]``: 1 / world units, >= 0. ``rgb`` ``[p, 3]``: in [0, 1]. ``normal`` ``[p, 3]``: outward unit
    vectors, against the density's gradient; 0 where it has none.
    """

    density: Tensor
    rgb: Tensor
    normal: Tensor


@dataclass(frozen=True)
class March:
    """How rays are walked.

    ``samples``: on each chord of the cube. ``cells``: a side of the lattice that remembers where nothing is.
    ``rays_at_once``: bounds the memory of images without gradients.
    """

    samples: int = 64
    cells: int = 32
    rays_at_once: int = 1 << 16

    def __post_init__(self) -> None:
        if min(self.samples, self.cells, self.rays_at_once) < 1:
            raise ValueError(f"a march needs at least one sample, one cell and one ray, got {self}")


@dataclass(frozen=True)
class Blob:
    """A fuzzy ball to start from, v = ``height`` (1 - |x| / ``radius``), before v is made a density; world units."""

    height: float = 10.0
    radius: float = 0.3

    def __call__(self, points: Tensor) -> Tensor:
        """v ``[...]`` at points ``[..., 3]``."""
        return self.height * (1 - points.norm(dim=-1) / self.radius)

    def slope(self, points: Tensor) -> Tensor:
        """The gradient of v, ``[..., 3]``."""
        return -self.height / self.radius * normalize(points, dim=-1)


class Volume(nn.Module):
    """A field in the unit cube that can be rendered; subclasses say what it holds.

    ``occupied`` ``[cells, cells, cells]``, (x, y, z): where the field is asked, everywhere at first.
    """

    occupied: Tensor

    def __init__(self, march: March) -> None:
        super().__init__()
        self.march = march
        self.register_buffer("occupied", torch.ones((march.cells,) * 3, dtype=torch.bool))

    @abstractmethod
    def forward(self, points: Tensor) -> Sample:
        """What is at points ``[p, 3]`` of the cube."""

    @abstractmethod
    def density(self, points: Tensor) -> Tensor:
        """The density ``[p]`` alone."""

    def render(self, cameras: Cameras, background: Tensor, /, noise: Noise | None = None) -> Rendered:
        """What the cameras see. ``noise``: keyed by one id a camera, moves the samples; None: they lie in the middle.

        Images are differentiable in the field.
        """
        origins, directions = cameras.rays()
        offset = origins.new_full(origins.shape[:-1], 0.5) if noise is None else noise.uniform(origins[..., 0])
        flat = (part.reshape(-1, part.shape[-1]) for part in (origins, directions, offset[..., None]))
        blocks = zip(*(part.split(self.march.rays_at_once) for part in flat), strict=True)
        seen = torch.cat([self._walk(*block) for block in blocks]).reshape(*origins.shape[:-1], 8)
        rgb, normal, distance, alpha = seen.split((3, 3, 1, 1), -1)
        alpha = alpha[..., 0]
        slant = (directions * cameras.forward[:, None, None, :]).sum(-1)
        depth = mean_depth(distance[..., 0] * slant, alpha)
        return Rendered(over(rgb, alpha, background), alpha, depth, mean_normal(normal, alpha))

    def _walk(self, origins: Tensor, directions: Tensor, offset: Tensor) -> Tensor:
        """Sums over the samples of each ray, ``[r, 8]``: w rgb, w normal, w distance, w."""
        near, far = chord(origins, directions)
        hit = (far > near).nonzero()[:, 0]
        near, step = near[hit, None], (far - near)[hit, None] / self.march.samples
        index = torch.arange(self.march.samples, device=near.device, dtype=near.dtype)
        distance = near + (index + offset[hit]) * step
        points = origins[hit, None] + distance[..., None] * directions[hit, None]
        density, rgb, normal = self._at(points)
        weights, alpha = composite(density * step)
        sums = ((weights[..., None] * rgb).sum(1), (weights[..., None] * normal).sum(1))
        seen = torch.cat((*sums, (weights * distance).sum(1, keepdim=True), alpha[:, None]), -1)
        return seen.new_zeros(len(origins), seen.shape[-1]).index_copy(0, hit, seen)

    def _at(self, points: Tensor) -> Sample:
        """The field at ``[r, n, 3]``; what lies in empty cells is not asked for."""
        shape = points.shape[:-1]
        if bool(self.occupied.all()):
            density, rgb, normal = self(points.reshape(-1, 3))
            return Sample(density.reshape(shape), rgb.reshape(*shape, 3), normal.reshape(*shape, 3))
        x, y, z = ((points + HALF) * self.march.cells).long().clamp(0, self.march.cells - 1).unbind(-1)
        kept = self.occupied[x, y, z].nonzero(as_tuple=True)
        parts = cast("Sample", self(points[kept]))
        return Sample(*(part.new_zeros(*shape, *part.shape[1:]).index_put(kept, part) for part in parts))

    @torch.no_grad()
    def find_empty(self, below: float = 1e-2) -> float:
        """Skip the cells where the density is under ``below`` (1 / world units), until the next call.

        A cell is kept if the density is as large at one of its corners, or of a cell that touches it, so that a
        surface has room to grow; in the others nothing is learned. As far as the corners tell of the cells (for
        `Voxels` with a point at each, exactly), images change by 1.8 ``below`` at most. Returns the share of cells that
        are kept; with ``below`` 0 all are.
        """
        like = next(self.parameters())
        ticks = torch.linspace(-HALF, HALF, self.march.cells + 1, device=like.device, dtype=like.dtype)
        density = torch.stack([self.density(torch.cartesian_prod(x[None], ticks, ticks)) for x in ticks])
        cell = max_pool3d(density.reshape(1, 1, *(len(ticks),) * 3), 2, stride=1)
        self.occupied.copy_(max_pool3d(cell, 3, stride=1, padding=1)[0, 0] >= below)
        return float(self.occupied.double().mean())


def chord(origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Distances ``[r]`` at which rays ``[r, 3]`` enter and leave the cube; far <= near where they miss it."""
    tiny = torch.finfo(directions.dtype).tiny
    slope = torch.where(directions.abs() < tiny, tiny, directions)
    first, second = (-HALF - origins) / slope, (HALF - origins) / slope
    near = torch.minimum(first, second).amax(-1).clamp(min=0)
    return near, torch.maximum(first, second).amin(-1)


def composite(tau: Tensor) -> tuple[Tensor, Tensor]:
    """Weights ``[r, n]`` of samples along rays from their optical depths, and their sums alpha ``[r]``."""
    passed = pad(tau.cumsum(-1), (1, 0))
    weights = torch.exp(-passed[:, :-1]) * -torch.expm1(-tau)
    return weights, -torch.expm1(-passed[:, -1])
