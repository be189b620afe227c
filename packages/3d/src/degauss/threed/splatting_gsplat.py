# pyright: basic
"""Gaussians drawn by gsplat's CUDA kernels, where they are installed and built (extra ``gsplat``).

gsplat projects, sorts and composites; colours and normals are made here, so that all tiers show the same channels.
Its conventions are those of `degauss.threed.projection` and `degauss.threed.splatting`.
"""

from __future__ import annotations

import importlib.util
from functools import cache

import torch
from torch import Tensor

from degauss.threed.cameras import Cameras
from degauss.threed.projection import LOW_PASS, NEAR, Cloud, Footprints, appearance

TILE = 16
_FAR = 1e10


@cache
def available() -> bool:
    """Whether gsplat imports and its kernels are built; importing it may build them once, which takes minutes."""
    if importlib.util.find_spec("gsplat") is None:
        return False
    try:
        from gsplat.cuda._backend import _C  # pyright: ignore[reportMissingImports]
    except (ImportError, RuntimeError, OSError):
        return False
    return _C is not None


def cameras_of(cameras: Cameras) -> tuple[Tensor, Tensor]:
    """gsplat's view matrices ``[n, 4, 4]`` (x right, y down, z ahead) and intrinsics ``[n, 3, 3]``."""
    intrinsics = cameras.focal.new_zeros(len(cameras), 3, 3)
    intrinsics[:, 0, 0], intrinsics[:, 1, 1] = cameras.focal.unbind(-1)
    intrinsics[:, :2, 2], intrinsics[:, 2, 2] = cameras.centre, 1.0
    right, up, back, last = cameras.view_from_world.unbind(1)
    return torch.stack((right, -up, -back, last), 1), intrinsics


def project(cloud: Cloud, cameras: Cameras) -> Footprints:
    """As `degauss.threed.projection.project`."""
    from gsplat import fully_fused_projection  # pyright: ignore[reportMissingImports]

    view, intrinsics = cameras_of(cameras)
    opacity = torch.sigmoid(cloud.opacity_logits)
    radii, xy, depth, conic, _ = fully_fused_projection(
        cloud.means, None, torch.nn.functional.normalize(cloud.quaternions, dim=-1), cloud.log_scales.exp(), view,
        intrinsics, cameras.width, cameras.height, eps2d=LOW_PASS, near_plane=NEAR, far_plane=_FAR, packed=False,
        opacities=opacity,
    )  # fmt: skip
    features = appearance(cloud, cameras, depth)
    return Footprints(xy, conic, opacity.expand(len(cameras), -1), features, depth.detach(), radii.to(xy))


def rasterise(footprints: Footprints, height: int, width: int) -> tuple[Tensor, Tensor]:
    """As `degauss.threed.splatting.rasterise`."""
    from gsplat import isect_offset_encode, isect_tiles, rasterize_to_pixels  # pyright: ignore[reportMissingImports]

    columns, rows = -(-width // TILE), -(-height // TILE)
    radii = footprints.extent.int()
    _, intersections, ids = isect_tiles(footprints.xy, radii, footprints.depth, TILE, columns, rows)
    offsets = isect_offset_encode(intersections, len(footprints.xy), columns, rows)
    image, alpha = rasterize_to_pixels(
        footprints.xy, footprints.conic, footprints.features, footprints.opacity.contiguous(), width, height, TILE,
        offsets, ids,
    )  # fmt: skip
    return image, alpha[..., 0]
