"""Which implementation draws Gaussians on which device: the one place where that is decided.

On a CUDA device gsplat, where it is installed and its kernels are built; else the kernels of Triton, which torch's
own wheels bring; elsewhere plain torch. All follow the same conventions.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from degauss.threed import projection, splatting
from degauss.threed.cameras import Cameras
from degauss.threed.projection import Cloud, Footprints


class Tier(NamedTuple):
    """One way to draw Gaussians: `degauss.threed.projection.project` and `degauss.threed.splatting.rasterise`, or
    functions that do the same."""

    name: str
    project: Callable[[Cloud, Cameras], Footprints]
    rasterise: Callable[[Footprints, int, int], tuple[Tensor, Tensor]]


TORCH = Tier("torch", projection.project, splatting.rasterise)


@cache
def tier(device_type: str) -> Tier:
    """The tier of a device, ``"cpu"`` or ``"cuda"`` or another of torch's types."""
    if device_type != "cuda":
        return TORCH
    from degauss.threed import splatting_gsplat

    if splatting_gsplat.available():
        return Tier("gsplat", splatting_gsplat.project, splatting_gsplat.rasterise)
    return triton() if importlib.util.find_spec("triton") is not None else TORCH


def triton() -> Tier:
    """The tier of Triton's kernels, whatever else is installed."""
    from degauss.threed import projection_triton, splatting_triton

    return Tier("triton", projection_triton.project, splatting_triton.rasterise)


def splat(cloud: Cloud, cameras: Cameras, by: Tier | None = None) -> tuple[Tensor, Tensor, Footprints]:
    """The features of `FEATURES` weighted by alpha, alpha, and the footprints that they were drawn from."""
    device = cloud.means.device.type
    by = by or tier(device)
    # Pixels are compared with thresholds: half precision would show.
    with torch.autocast(device, enabled=False):
        footprints = by.project(cloud, cameras)
        return *by.rasterise(footprints, cameras.height, cameras.width), footprints
