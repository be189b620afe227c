# pyright: basic, reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false
# ruff: noqa: RUF005 (Triton has no starred expressions)
r"""Compositing footprints into images with Triton: what `degauss.threed.splatting` does, on a GPU.

**Forward.** One program draws one tile of 16 x 16 pixels. It goes through the tile's footprints front to back; each is
a few scalars that all pixels share. It looks once every 32 footprints whether any light still comes through.

**Backward.** The same walk, again front to back: with the gradient known, what lies behind a footprint is the whole
less what has been passed, one number a pixel, so that nothing but the images is kept from the forward pass. A
footprint's gradients are summed over the tile first, and the sums are added to memory atomically: 6 + channels
additions for a tile that it shows in, none for others.

exp is taken to base 2, which is what the hardware has; the footprints are packed with the factors that this needs.
Sums of atomic additions depend on their order: two runs agree to rounding only.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from degauss.threed.binning import Tiles
from degauss.threed.binning_triton import bin_footprints
from degauss.threed.projection import MIN_ALPHA, Footprints
from degauss.threed.splatting import MAX_ALPHA, STOP

TILE = 16
_CHUNK = 32
_FORWARD_WARPS = 2
# One warp: sums over the tile need no exchange between warps.
_BACKWARD_WARPS = 1
_LOG2_E = math.log2(math.e)
_PACKED = 6
# One program for all sizes: specialised ones would be compiled in the middle of a training.
_INTEGERS = ["height", "width", "rows", "columns"]


@triton.jit
def _place(tile, rows, columns, TILE: tl.constexpr):
    """The camera of a tile, and the row and column of its pixels."""
    pixel = tl.arange(0, TILE * TILE)
    row = (tile // columns) % rows * TILE + pixel // TILE
    column = tile % columns * TILE + pixel % TILE
    return tile // columns // rows, row, column


@triton.jit
def _uncapped(packed, i, x, y):
    """opacity exp(-d' C^-1 d / 2) of footprint i, and d."""
    at = packed + i * 6
    d_x = x - tl.load(at)
    d_y = y - tl.load(at + 1)
    by_column = tl.load(at + 5) + tl.load(at + 2) * d_x * d_x
    slant = tl.load(at + 3) * d_x
    return tl.exp2(by_column + d_y * (slant + tl.load(at + 4) * d_y)), d_x, d_y


@triton.jit(do_not_specialize=_INTEGERS)
def _forward_kernel(
    image, alpha, packed, features, ids, starts, height, width, rows, columns,
    CHANNELS: tl.constexpr, TILE: tl.constexpr, CHUNK: tl.constexpr,
    MIN_ALPHA: tl.constexpr, MAX_ALPHA: tl.constexpr, STOP: tl.constexpr,
):  # fmt: skip
    """image: float32 ``[n, height, width, channels]``. alpha: float32 ``[n, height, width]``."""
    tile = tl.program_id(0)
    camera, row, column = _place(tile, rows, columns, TILE)
    x, y = column + 0.5, row + 0.5
    through = x * 0.0 + 1.0
    total = x * 0.0
    sums = ()
    for _ in tl.static_range(CHANNELS):
        sums = sums + (x * 0.0,)
    at = tl.load(starts + tile)
    end = tl.load(starts + tile + 1)
    going = at < end
    while going:
        last = tl.minimum(at + CHUNK, end)
        while at < last:
            i = tl.load(ids + at)
            at += 1
            uncapped = _uncapped(packed, i, x, y)[0]
            a = tl.where(uncapped >= MIN_ALPHA, tl.minimum(uncapped, MAX_ALPHA), 0.0)
            left = through * (1.0 - a)
            weight = tl.where(left > STOP, a * through, 0.0)
            through = left
            total += weight
            more = ()
            for c in tl.static_range(CHANNELS):
                more = more + (sums[c] + weight * tl.load(features + i * CHANNELS + c),)
            sums = more
        going = (at < end) & (tl.max(through) > STOP)
    inside = (row < height) & (column < width)
    place = (camera.to(tl.int64) * height + row) * width + column
    tl.store(alpha + place, total, mask=inside)
    for c in tl.static_range(CHANNELS):
        tl.store(image + place * CHANNELS + c, sums[c], mask=inside)


@triton.jit(do_not_specialize=_INTEGERS)
def _backward_kernel(
    grads, d_image, d_alpha, image, alpha, packed, features, ids, starts, height, width, rows, columns,
    CHANNELS: tl.constexpr, TILE: tl.constexpr, CHUNK: tl.constexpr,
    MIN_ALPHA: tl.constexpr, MAX_ALPHA: tl.constexpr, STOP: tl.constexpr, LOG2_E: tl.constexpr,
):  # fmt: skip
    """grads: float32 ``[n * p, 6 + channels]``, zeros; gets those of x, y, a, b, c, opacity and the features."""
    tile = tl.program_id(0)
    camera, row, column = _place(tile, rows, columns, TILE)
    x, y = column + 0.5, row + 0.5
    inside = (row < height) & (column < width)
    place = (camera.to(tl.int64) * height + row) * width + column
    g_alpha = tl.load(d_alpha + place, mask=inside, other=0.0)
    behind = g_alpha * tl.load(alpha + place, mask=inside, other=0.0)
    g = ()
    for c in tl.static_range(CHANNELS):
        g = g + (tl.load(d_image + place * CHANNELS + c, mask=inside, other=0.0),)
        behind += g[c] * tl.load(image + place * CHANNELS + c, mask=inside, other=0.0)
    through = x * 0.0 + 1.0
    at = tl.load(starts + tile)
    end = tl.load(starts + tile + 1)
    going = at < end
    while going:
        last = tl.minimum(at + CHUNK, end)
        while at < last:
            i = tl.load(ids + at)
            at += 1
            uncapped, d_x, d_y = _uncapped(packed, i, x, y)
            a = tl.where(uncapped >= MIN_ALPHA, tl.minimum(uncapped, MAX_ALPHA), 0.0)
            keep = 1.0 - a
            left = through * keep
            weight = tl.where(left > STOP, a * through, 0.0)
            if tl.max(weight) > 0.0:
                s = g_alpha
                for c in tl.static_range(CHANNELS):
                    s += g[c] * tl.load(features + i * CHANNELS + c)
                behind -= weight * s
                slope = through * s - behind / keep
                u = tl.where((weight > 0.0) & (uncapped <= MAX_ALPHA), slope * uncapped, 0.0)
                u_x = u * d_x
                u_y = u * d_y
                sum_x = tl.sum(u_x)
                sum_y = tl.sum(u_y)
                conic_a = tl.load(packed + i * 6 + 2) * (-2.0 / LOG2_E)
                conic_b = tl.load(packed + i * 6 + 3) * (-1.0 / LOG2_E)
                conic_c = tl.load(packed + i * 6 + 4) * (-2.0 / LOG2_E)
                to = grads + i * (6 + CHANNELS)
                tl.atomic_add(to, conic_a * sum_x + conic_b * sum_y, sem="relaxed")
                tl.atomic_add(to + 1, conic_b * sum_x + conic_c * sum_y, sem="relaxed")
                tl.atomic_add(to + 2, -0.5 * tl.sum(u_x * d_x), sem="relaxed")
                tl.atomic_add(to + 3, -tl.sum(u_x * d_y), sem="relaxed")
                tl.atomic_add(to + 4, -0.5 * tl.sum(u_y * d_y), sem="relaxed")
                opacity = tl.exp2(tl.load(packed + i * 6 + 5))
                tl.atomic_add(to + 5, tl.sum(u) / opacity, sem="relaxed")
                for c in tl.static_range(CHANNELS):
                    tl.atomic_add(to + 6 + c, tl.sum(weight * g[c]), sem="relaxed")
            through = left
        going = (at < end) & (tl.max(through) > STOP)


def rasterise(footprints: Footprints, height: int, width: int) -> tuple[Tensor, Tensor]:
    """As `degauss.threed.splatting.rasterise`, in float32 on a CUDA device."""
    tiles = bin_footprints(footprints, height, width, TILE)
    parts = (footprints.xy, footprints.conic, footprints.opacity, footprints.features)
    return _Rasterise.apply(*parts, tiles, height, width)  # type: ignore[return-value]


class _Rasterise(torch.autograd.Function):
    @staticmethod
    def forward(ctx, xy, conic, opacity, features, tiles: Tiles, height: int, width: int):
        cameras, channels = xy.shape[0], features.shape[-1]
        image = torch.empty(cameras, height, width, channels, dtype=torch.float32, device=xy.device)
        alpha = torch.empty(cameras, height, width, dtype=torch.float32, device=xy.device)
        packed, features = _pack(xy, conic, opacity), features.contiguous()
        with torch.cuda.device_of(xy):
            _forward_kernel[(len(tiles.starts) - 1,)](
                image, alpha, packed, features, tiles.ids, tiles.starts, height, width, tiles.rows, tiles.columns,
                CHANNELS=channels, TILE=TILE, CHUNK=_CHUNK, MIN_ALPHA=MIN_ALPHA, MAX_ALPHA=MAX_ALPHA, STOP=STOP,
                num_warps=_FORWARD_WARPS,
            )  # fmt: skip
        ctx.save_for_backward(packed, features, image, alpha)
        ctx.tiles = tiles
        return image, alpha

    @staticmethod
    def backward(ctx, *d: Tensor):
        packed, features, image, alpha = ctx.saved_tensors
        tiles: Tiles = ctx.tiles
        cameras, gaussians, channels = features.shape
        grads = torch.zeros(cameras * gaussians, _PACKED + channels, dtype=torch.float32, device=image.device)
        with torch.cuda.device_of(image):
            _backward_kernel[(len(tiles.starts) - 1,)](
                grads, d[0].contiguous(), d[1].contiguous(), image, alpha, packed, features, tiles.ids, tiles.starts,
                *image.shape[1:3], tiles.rows, tiles.columns,
                CHANNELS=channels, TILE=TILE, CHUNK=_CHUNK, MIN_ALPHA=MIN_ALPHA, MAX_ALPHA=MAX_ALPHA, STOP=STOP,
                LOG2_E=_LOG2_E, num_warps=_BACKWARD_WARPS,
            )  # fmt: skip
        grads = grads.unflatten(0, (cameras, gaussians))
        return grads[..., :2], grads[..., 2:5], grads[..., 5], grads[..., 6:], None, None, None


def _pack(xy: Tensor, conic: Tensor, opacity: Tensor) -> Tensor:
    """x, y, the conic and log2 of the opacity as factors of an exponent to base 2, ``[n, p, 6]``."""
    a, b, c = conic.split(1, -1)
    scale = -0.5 * _LOG2_E
    return torch.cat((xy, scale * a, 2 * scale * b, scale * c, opacity.log2()[..., None]), -1)
