r"""The one contract of everything that can be seen: cameras in; colour, alpha, depth and normals out.

A representation places weights w_k >= 0, of sum alpha <= 1, on points of each pixel's ray, and what is seen is

    rgb = sum_k w_k c_k + (1 - alpha) background,   depth = sum_k w_k z_k / alpha,   normal = sum_k w_k n_k,

so that images of a volume, of splats and of a mesh can be compared, mixed and judged by the same losses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from degauss.threed.cameras import Cameras

WHITE = (1.0, 1.0, 1.0)
BLACK = (0.0, 0.0, 0.0)

_FAINT = 1e-6
"""The alpha below which there is nothing to take a mean depth of."""


class Rendered(NamedTuple):
    """Images of n cameras.

    ``rgb`` ``[n, height, width, 3]``: in [0, 1], over the background. ``alpha`` ``[n, height, width]``: in [0, 1].
    ``depth`` ``[n, height, width]``: the mean distance along the camera's -z, world units, 0 where nothing is.
    ``normal`` ``[n, height, width, 3]``: outward, in world axes, of length alpha at most.
    """

    rgb: Tensor
    alpha: Tensor
    depth: Tensor
    normal: Tensor


class Representation(Protocol):
    """What can be rendered. ``background``: as `render` hands it over, broadcastable to ``[n, height, width, 3]``."""

    def render(self, cameras: Cameras, background: Tensor, /) -> Rendered: ...


def render(representation: Representation, cameras: Cameras, background: Tensor | Sequence[float] = WHITE) -> Rendered:
    """Images of a representation over a colour ``[3]`` or an image ``[height, width, 3]``, one or one a camera.

    Raises ValueError for a background of another shape.
    """
    behind = torch.as_tensor(background, dtype=cameras.focal.dtype, device=cameras.device)
    full = (len(cameras), cameras.height, cameras.width, 3)
    if tuple(behind.shape) not in ((3,), full[1:], full):
        raise ValueError(f"a background is [3], {list(full[1:])} or {list(full)}, got {list(behind.shape)}")
    return representation.render(cameras, behind)


def over(rgb: Tensor, alpha: Tensor, background: Tensor) -> Tensor:
    """Colour that is already weighted by alpha ``[..., 3]``, over a background."""
    return rgb + (1 - alpha)[..., None] * background


def mean_depth(weighted: Tensor, alpha: Tensor) -> Tensor:
    """sum_k w_k z_k / alpha, going to 0 with alpha."""
    return weighted / alpha.clamp(min=_FAINT)


def mean_normal(weighted: Tensor, alpha: Tensor) -> Tensor:
    """The direction of sum_k w_k n_k ``[..., 3]`` with length alpha, 0 where there is none."""
    length = weighted.square().sum(-1).clamp(min=_FAINT**2).sqrt()
    return weighted * (alpha / length)[..., None]
