r"""Compositing footprints into images, in plain torch: the tier of the CPU, and the oracle of the others.

At a pixel, footprints i = 1, 2, ... are composited front to back (Kerbl et al. 2023):

    a_i = min(0.999, opacity_i exp(-d_i' C_i^-1 d_i / 2)),  0 if less than 1/255,
    T_i = prod_{j <= i} (1 - a_j),   w_i = a_i T_{i-1} if T_i > 1e-4 else 0,
    image = sum_i w_i f_i,   alpha = sum_i w_i.

T falls with i, so that the first footprint that would leave no more than 1e-4 ends the pixel.

**Backward.** Nothing is kept for each pair of footprint and pixel: the same walk is made again. With g the gradient of
the image and g_alpha that of alpha, let s_i = f_i . g + g_alpha. Then

    dL/df_i = w_i g,   dL/da_i = T_{i-1} s_i - (sum_{j > i} w_j s_j) / (1 - a_i),

and the sum over what lies behind is the known whole, image . g + alpha g_alpha, less what the walk has passed: one
number for each pixel. Below the cap, u_i = a_i dL/da_i gives the rest by its moments over the pixels of a tile:
dL/dopacity = (sum u) / opacity, dL/dxy = C^-1 sum u d, dL/dC^-1 = -1/2 sum u d d'.

**Walk.** Tiles are taken in groups of about equal depth, a chunk of footprints of all tiles of the group at once, so
that the arrays fit a processor's cache; a tile leaves when its footprints end or nothing shines through any more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from degauss.threed.binning import Tiles, bin_footprints
from degauss.threed.projection import MIN_ALPHA, Footprints

MAX_ALPHA = 0.999
"""No footprint is more opaque, so that the gradient of what lies behind stays finite."""
STOP = 1e-4
"""A pixel ends at the footprint that would let no more than this through."""

TILE = 8
_CHUNK = 32
_AT_ONCE = {"cpu": 1 << 18, "cuda": 1 << 25}
"""Pairs of footprint and pixel in one array."""


def rasterise(footprints: Footprints, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The features weighted by alpha ``[n, height, width, channels]``, and alpha ``[n, height, width]``.

    Differentiable in the footprints' xy, conic, opacity and features.
    """
    tiles = bin_footprints(footprints, height, width, TILE)
    parts = (footprints.xy, footprints.conic, footprints.opacity, footprints.features)
    image: Tensor
    alpha: Tensor
    image, alpha = _Rasterise.apply(*parts, tiles, height, width)
    return image, alpha


class _Chunk(NamedTuple):
    """Footprints ``ids [tiles, k]`` of some tiles ``which [tiles]``, at their pixels: each ``[tiles, k, pixels]``."""

    which: Tensor
    ids: Tensor
    uncapped: Tensor
    keep: Tensor
    before: Tensor
    weight: Tensor
    centres: Tensor
    """Of the footprints, from the middle of their tile, ``[tiles, k, 2]``."""


class _Rasterise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, xy: Tensor, conic: Tensor, opacity: Tensor, features: Tensor, tiles: Tiles, height: int, width: int
    ) -> tuple[Tensor, Tensor]:
        flat = _flatten(xy, conic, opacity, features)
        pixels, channels = tiles.size**2, features.shape[-1]
        image = xy.new_zeros(len(tiles.starts) - 1, pixels, channels + 1)
        shown = torch.cat((flat[3], torch.ones_like(flat[3][:, :1])), -1)

        def add(chunk: _Chunk) -> None:
            image[chunk.which] += chunk.weight.mT @ shown[chunk.ids]

        _walk(flat, tiles, add)
        ctx.save_for_backward(xy, conic, opacity, features, image)
        ctx.tiles = tiles
        whole = _from_tiles(image, len(xy), tiles, height, width)
        return whole[..., :-1], whole[..., -1]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        xy, conic, opacity, features, image = ctx.saved_tensors
        tiles: Tiles = ctx.tiles
        flat = _flatten(xy, conic, opacity, features)
        g = _to_tiles(torch.cat((grads[0], grads[1][..., None]), -1), tiles)
        shown = torch.cat((flat[3], torch.ones_like(flat[3][:, :1])), -1)
        behind = (image * g).sum(-1)
        moments, d_shown = xy.new_zeros(len(flat[0]), 6), torch.zeros_like(shown)
        basis = _pixel_moments(tiles.size, xy)

        def add(chunk: _Chunk) -> None:
            here, ids = g[chunk.which], chunk.ids.flatten()
            s = shown[chunk.ids] @ here.mT
            after = behind[chunk.which][:, None] - (chunk.weight * s).cumsum(1)
            behind[chunk.which] = after[:, -1]
            slope = chunk.before * s - after / chunk.keep
            u = torch.where((chunk.weight > 0) & (chunk.uncapped <= MAX_ALPHA), slope * chunk.uncapped, 0.0)
            d_shown.index_add_(0, ids, (chunk.weight @ here).flatten(0, 1))
            moments.index_add_(0, ids, _moved(u @ basis, chunk.centres).flatten(0, 1))

        _walk(flat, tiles, add)
        d_xy, d_conic, d_opacity = from_moments(moments, flat[1], flat[2])
        shapes = (xy, conic, opacity, features)
        found = (d_xy, d_conic, d_opacity, d_shown[:, :-1])
        return *(part.reshape(like.shape) for part, like in zip(found, shapes, strict=True)), None, None, None


def from_moments(moments: Tensor, conic: Tensor, opacity: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients in xy, conic and opacity, of the sums of u (1, d_x, d_y, d_x^2, d_x d_y, d_y^2) ``[q, 6]``."""
    u, x, y, xx, xy, yy = moments.unbind(-1)
    a, b, c = conic.unbind(-1)
    d_conic = torch.stack((-0.5 * xx, -xy, -0.5 * yy), -1)
    return torch.stack((a * x + b * y, b * x + c * y), -1), d_conic, u / opacity.clamp(min=MIN_ALPHA)


def _walk(flat: tuple[Tensor, Tensor, Tensor, Tensor], tiles: Tiles, visit: Callable[[_Chunk], None]) -> None:
    """Visit every footprint of every tile front to back, a chunk of some tiles at a time."""
    xy, conic, opacity, _ = flat
    counts = tiles.starts.diff()
    filled = counts.argsort(descending=True)[: int((counts > 0).sum())]
    nth = torch.arange(_CHUNK, device=xy.device)
    pixel = torch.arange(tiles.size, device=xy.device, dtype=xy.dtype) + 0.5 * (1 - tiles.size)
    per_tile = _CHUNK * tiles.size**2
    for which in filled.split(max(1, _AT_ONCE.get(xy.device.type, 1 << 18) // per_tile)):
        through, first = xy.new_ones(len(which), tiles.size**2), 0
        while len(which):
            at = tiles.starts[which][:, None] + first + nth
            here = at < tiles.starts[which + 1][:, None]
            ids = tiles.ids[at.clamp(max=len(tiles.ids) - 1)]
            centres = xy[ids] - _middles(which, tiles, xy)[:, None]
            uncapped = _uncapped(centres, conic[ids], torch.where(here, opacity[ids], 0.0), pixel)
            alpha = uncapped.clamp(max=MAX_ALPHA).masked_fill_(uncapped < MIN_ALPHA, 0.0)
            keep = 1 - alpha
            left = keep.cumprod(1).mul_(through[:, None])
            before = torch.cat((through[:, None], left[:, :-1]), 1)
            weight = alpha.mul_(before).mul_(left > STOP)
            visit(_Chunk(which, ids, uncapped, keep, before, weight, centres))
            first += _CHUNK
            going = (counts[which] > first) & (left[:, -1] > STOP).any(1)
            which, through = which[going], left[going, -1]


def _uncapped(centres: Tensor, conic: Tensor, opacity: Tensor, pixel: Tensor) -> Tensor:
    """opacity exp(-d' C^-1 d / 2) at the pixels of a tile, ``[tiles, k, pixels]``, without cap or threshold."""
    a, b, c = conic[..., None].unbind(-2)
    d_x, d_y = pixel - centres[..., :1], pixel - centres[..., 1:]
    by_row = opacity.log()[..., None] - 0.5 * c * d_y * d_y
    by_column = -0.5 * a * d_x * d_x
    exponent = torch.addcmul(by_row[..., None], (b * d_y)[..., None], d_x[..., None, :], value=-1)
    return exponent.add_(by_column[..., None, :]).exp_().flatten(-2)


def _pixel_moments(size: int, like: Tensor) -> Tensor:
    """1, x, y, x^2, x y, y^2 at a tile's pixels, from its middle, ``[pixels, 6]``."""
    pixel = torch.arange(size, device=like.device, dtype=like.dtype) + 0.5 * (1 - size)
    y, x = (part.flatten() for part in torch.meshgrid(pixel, pixel, indexing="ij"))
    return torch.stack((torch.ones_like(x), x, y, x * x, x * y, y * y), -1)


def _moved(moments: Tensor, centres: Tensor) -> Tensor:
    """Moments about the middle of the tile -> about the footprints' centres."""
    u, x, y, xx, xy, yy = moments.unbind(-1)
    p, q = centres.unbind(-1)
    moved = (u, x - u * p, y - u * q, xx - p * (2 * x - u * p), xy - q * x - p * (y - u * q), yy - q * (2 * y - u * q))
    return torch.stack(moved, -1)


def _middles(which: Tensor, tiles: Tiles, like: Tensor) -> Tensor:
    """The middles of tiles in pixels, ``[tiles, 2]``."""
    row, column = which // tiles.columns % tiles.rows, which % tiles.columns
    return (torch.stack((column, row), -1).to(like.dtype) + 0.5) * tiles.size


def _flatten(xy: Tensor, conic: Tensor, opacity: Tensor, features: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return xy.flatten(0, 1), conic.flatten(0, 1), opacity.flatten(), features.flatten(0, 1)


def _from_tiles(image: Tensor, cameras: int, tiles: Tiles, height: int, width: int) -> Tensor:
    """``[tiles, pixels, channels]`` -> ``[n, height, width, channels]``."""
    split = image.reshape(cameras, tiles.rows, tiles.columns, tiles.size, tiles.size, image.shape[-1])
    full = split.transpose(2, 3).reshape(cameras, tiles.rows * tiles.size, tiles.columns * tiles.size, -1)
    return full[:, :height, :width]


def _to_tiles(image: Tensor, tiles: Tiles) -> Tensor:
    """``[n, height, width, channels]`` -> ``[tiles, pixels, channels]``, 0 outside the image."""
    cameras, height, width, channels = image.shape
    right, bottom = tiles.columns * tiles.size - width, tiles.rows * tiles.size - height
    full = torch.nn.functional.pad(image, (0, 0, 0, right, 0, bottom))
    split = full.reshape(cameras, tiles.rows, tiles.size, tiles.columns, tiles.size, channels)
    return split.transpose(2, 3).reshape(-1, tiles.size**2, channels)
