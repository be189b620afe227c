# pyright: basic, reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false
"""Which footprints touch which tile, with Triton: what `degauss.threed.binning` does, in two kernels and two sorts.

A lane looks at one tile of one footprint's bounding box. Tiles that the ellipse misses are not taken out, which would
cost another wait for the device: their key is greater than any tile's, and the sort puts them at the end.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from degauss.threed.binning import SLACK, Tiles
from degauss.threed.projection import MIN_ALPHA, Footprints

_LANES = 256
# One program for all numbers of pairs, which are others at every step.
_BOX_INTEGERS = ["height", "width", "size", "total"]
_PAIR_INTEGERS = ["rows", "columns", "size", "gaussians", "missed", "total"]


@triton.jit
def _floor_div(x, size):
    """For x >= 0."""
    return x.to(tl.int32) // size


@triton.jit(do_not_specialize=_BOX_INTEGERS)
def _box_kernel(boxes, counts, order, xy, extent, height, width, size, total, LANES: tl.constexpr, SLACK: tl.constexpr):
    """boxes: int32 ``[q, 3]``, first column, first row, columns of the footprints in order. counts: int64 ``[q]``."""
    at = tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
    mask = at < total
    i = tl.load(order + at, mask=mask, other=0)
    x = tl.load(xy + i * 2, mask=mask, other=0.0)
    y = tl.load(xy + i * 2 + 1, mask=mask, other=0.0)
    wide = tl.load(extent + i * 2, mask=mask, other=0.0)
    high = tl.load(extent + i * 2 + 1, mask=mask, other=0.0)
    reach_x = wide * (1 + SLACK) + SLACK
    reach_y = high * (1 + SLACK) + SLACK
    # Pixel k has its centre at k + 1/2.
    left = tl.maximum(tl.ceil(x - reach_x - 0.5), 0.0)
    top = tl.maximum(tl.ceil(y - reach_y - 0.5), 0.0)
    right = tl.minimum(tl.floor(x + reach_x - 0.5), width - 1.0)
    bottom = tl.minimum(tl.floor(y + reach_y - 0.5), height - 1.0)
    seen = (left <= right) & (top <= bottom) & (wide > 0) & (high > 0)
    left, right = tl.where(seen, left, 0.0), tl.where(seen, right, 0.0)
    top, bottom = tl.where(seen, top, 0.0), tl.where(seen, bottom, 0.0)
    first, above = _floor_div(left, size), _floor_div(top, size)
    columns = _floor_div(right, size) - first + 1
    rows = _floor_div(bottom, size) - above + 1
    tl.store(boxes + at * 3, first, mask=mask)
    tl.store(boxes + at * 3 + 1, above, mask=mask)
    tl.store(boxes + at * 3 + 2, columns, mask=mask)
    tl.store(counts + at, tl.where(seen, columns.to(tl.int64) * rows, 0), mask=mask)


@triton.jit(do_not_specialize=_PAIR_INTEGERS)
def _pair_kernel(
    keys, ids, nth, ends, counts, boxes, order, xy, conic, opacity, rows, columns, size, gaussians, missed, total,
    LANES: tl.constexpr, SLACK: tl.constexpr, MIN_ALPHA: tl.constexpr,
):  # fmt: skip
    """keys ``[m]``: the tile, or ``missed``. ids: int64 ``[m]``. nth ``[m]``: which footprint of the order it is."""
    at = tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
    mask = at < total
    j = tl.load(nth + at, mask=mask, other=0)
    i = tl.load(order + j, mask=mask, other=0)
    k = (at - tl.load(ends + j, mask=mask, other=0) + tl.load(counts + j, mask=mask, other=0)).to(tl.int32)
    across = tl.load(boxes + j * 3 + 2, mask=mask, other=1)
    column = tl.load(boxes + j * 3, mask=mask, other=0) + k % across
    row = tl.load(boxes + j * 3 + 1, mask=mask, other=0) + k // across
    a = tl.load(conic + i * 3, mask=mask, other=1.0)
    b = tl.load(conic + i * 3 + 1, mask=mask, other=0.0)
    c = tl.load(conic + i * 3 + 2, mask=mask, other=1.0)
    left = column * size + 0.5 - tl.load(xy + i * 2, mask=mask, other=0.0)
    top = row * size + 0.5 - tl.load(xy + i * 2 + 1, mask=mask, other=0.0)
    right, bottom = left + (size - 1.0), top + (size - 1.0)
    near_x = tl.minimum(tl.maximum(0.0, left), right)
    near_y = tl.minimum(tl.maximum(0.0, top), bottom)
    on_x = tl.minimum(tl.maximum(-b / c * near_x, top), bottom)
    on_y = tl.minimum(tl.maximum(-b / a * near_y, left), right)
    by_x = a * near_x * near_x + 2 * b * near_x * on_x + c * on_x * on_x
    by_y = a * on_y * on_y + 2 * b * on_y * near_y + c * near_y * near_y
    reach = 2 * tl.log(tl.load(opacity + i, mask=mask, other=1.0) / MIN_ALPHA) * (1 + SLACK) + SLACK
    tile = ((i // gaussians).to(tl.int32) * rows + row) * columns + column
    tl.store(keys + at, tl.where(tl.minimum(by_x, by_y) <= reach, tile, missed), mask=mask)
    tl.store(ids + at, i, mask=mask)


@torch.no_grad()
def bin_footprints(footprints: Footprints, height: int, width: int, size: int) -> Tiles:
    """As `degauss.threed.binning.bin_footprints`, on a CUDA device; ``ids`` may end in some that no tile holds."""
    cameras, gaussians = footprints.depth.shape
    rows, columns = -(-height // size), -(-width // size)
    xy, extent, conic, opacity = (
        part.contiguous() for part in (footprints.xy, footprints.extent, footprints.conic, footprints.opacity)
    )
    order = torch.argsort(footprints.depth, dim=1, stable=True)
    order = (order + gaussians * torch.arange(cameras, device=order.device)[:, None]).flatten()
    counts = torch.empty_like(order)
    boxes = torch.empty(len(order), 3, dtype=torch.int32, device=order.device)
    missed = cameras * rows * columns
    with torch.cuda.device_of(xy):
        _box_kernel[(triton.cdiv(len(order), _LANES),)](
            boxes, counts, order, xy, extent, height, width, size, len(order), LANES=_LANES, SLACK=SLACK
        )
        ends = counts.cumsum(0)
        total = int(ends[-1]) if len(ends) else 0
        every = torch.arange(len(order), device=order.device)
        nth = torch.repeat_interleave(every, counts, output_size=total)
        # Half the bits are half the sort.
        keys = torch.empty(total, dtype=torch.int16 if missed < 1 << 15 else torch.int32, device=order.device)
        ids = torch.empty(total, dtype=torch.int64, device=order.device)
        if total:
            _pair_kernel[(triton.cdiv(total, _LANES),)](
                keys, ids, nth, ends, counts, boxes, order, xy, conic, opacity, rows, columns, size, gaussians, missed,
                total, LANES=_LANES, SLACK=SLACK, MIN_ALPHA=MIN_ALPHA,
            )  # fmt: skip
    keys, by_tile = torch.sort(keys, stable=True)
    tiles = torch.arange(missed + 1, dtype=keys.dtype, device=keys.device)
    return Tiles(ids[by_tile], torch.searchsorted(keys, tiles), rows, columns, size)
