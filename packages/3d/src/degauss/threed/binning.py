r"""Which footprints touch which tile of an image, front to back.

A footprint touches a tile if its ellipse of alpha >= 1/255 holds a point of the rectangle that the tile's pixel
centres span. The least value of the quadratic form d' C^-1 d over a rectangle that does not hold the centre lies on
one of the two edges that face it, and on an edge it is that of a parabola: the test is exact, and it drops the many
tiles that only the bounding box of a slanted footprint touches.

The order is of depth within each tile: one sort by depth for each camera, then a stable one by tile.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from degauss.threed.projection import MIN_ALPHA, Footprints

SLACK = 1e-3
"""How much further than its ellipse a footprint is taken to reach, relative and in pixels: rounding loses no pixel."""


class Tiles(NamedTuple):
    """The tiles of n images, camera by camera and row by row.

    ``ids`` ``[m]``: footprints (camera * p + Gaussian), tile after tile, front to back. ``starts``
    ``[n * rows * columns + 1]``: where in ``ids`` a tile's footprints begin. ``size``: a tile's edge in pixels.
    """

    ids: Tensor
    starts: Tensor
    rows: int
    columns: int
    size: int


class Boxes(NamedTuple):
    """The tiles that bounding boxes touch: first column, first row, columns and rows, each ``[n * p]``."""

    left: Tensor
    top: Tensor
    columns: Tensor
    rows: Tensor


@torch.no_grad()
def bin_footprints(footprints: Footprints, height: int, width: int, size: int) -> Tiles:
    """Tiles of ``size`` pixels and the footprints that touch them."""
    cameras, gaussians = footprints.depth.shape
    rows, columns = -(-height // size), -(-width // size)
    boxes = bounding_tiles(footprints, height, width, size)
    order = torch.argsort(footprints.depth, dim=1, stable=True)
    order = (order + gaussians * torch.arange(cameras, device=order.device)[:, None]).reshape(-1)
    counts = (boxes.columns * boxes.rows)[order]
    ids = torch.repeat_interleave(order, counts)
    nth = torch.arange(len(ids), device=ids.device) - torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    column = boxes.left[ids] + nth % boxes.columns[ids]
    row = boxes.top[ids] + nth // boxes.columns[ids]
    touched = _touches(footprints, ids, column, row, size)
    ids = ids[touched]
    tile = ((ids // gaussians) * rows + row[touched]) * columns + column[touched]
    tile, by_tile = torch.sort(tile.to(torch.int32), stable=True)
    tiles = torch.arange(cameras * rows * columns + 1, dtype=torch.int32, device=ids.device)
    return Tiles(ids[by_tile], torch.searchsorted(tile, tiles), rows, columns, size)


def bounding_tiles(footprints: Footprints, height: int, width: int, size: int) -> Boxes:
    """The tiles whose pixel centres the bounding boxes hold; none (0 columns or rows) for what is not seen."""
    xy, extent = footprints.xy.flatten(0, 1), footprints.extent.flatten(0, 1)
    last = torch.tensor((width - 1, height - 1), dtype=xy.dtype, device=xy.device)
    reach = extent * (1 + SLACK) + SLACK
    # Pixel i has its centre at i + 1/2.
    first = torch.ceil(xy - reach - 0.5).clamp(min=0)
    final = torch.minimum(torch.floor(xy + reach - 0.5), last)
    seen = ((first <= final) & (extent > 0)).all(-1)
    (left, top), (right, bottom) = ((edge.long() // size).unbind(-1) for edge in (first, final))
    return Boxes(left, top, torch.where(seen, right - left + 1, 0), torch.where(seen, bottom - top + 1, 0))


def _touches(footprints: Footprints, ids: Tensor, column: Tensor, row: Tensor, size: int) -> Tensor:
    """Whether the ellipse of a footprint reaches into the rectangle of a tile's pixel centres."""
    x, y = footprints.xy.flatten(0, 1)[ids].unbind(-1)
    a, b, c = footprints.conic.flatten(0, 1)[ids].unbind(-1)
    reach = 2 * torch.log(footprints.opacity.flatten()[ids] / MIN_ALPHA) * (1 + SLACK) + SLACK
    left, top = column * size + 0.5 - x, row * size + 0.5 - y
    right, bottom = left + (size - 1), top + (size - 1)
    near_x, near_y = _clamp(torch.zeros_like(x), left, right), _clamp(torch.zeros_like(y), top, bottom)
    on_x, on_y = _clamp(-b / c * near_x, top, bottom), _clamp(-b / a * near_y, left, right)
    by_x = a * near_x * near_x + 2 * b * near_x * on_x + c * on_x * on_x
    by_y = a * on_y * on_y + 2 * b * on_y * near_y + c * near_y * near_y
    return torch.minimum(by_x, by_y) <= reach


def _clamp(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(x, low), high)
