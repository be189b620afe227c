r"""Which triangle each pixel sees, and where on it: a rasteriser in plain torch, differentiable in the vertices.

A vertex is a homogeneous pixel p = (w p_x, w p_y, w), where w is its depth. Seen from a pixel's centre c it is at
q = p_xy - c w, and a triangle of corners q_0, q_1, q_2 covers c where the three

    e_i = q_j x q_k   (j, k the two corners after i)

have one sign, zero included. Then e_i / (e_0 + e_1 + e_2) are the barycentric coordinates of the point on the triangle
itself, perspective and all, and sum_i b_i w_i is its depth (Olano and Greer 1997, "Triangle scan conversion using 2D
homogeneous coordinates"). Triangles that reach behind the camera need no clipping. Two triangles that share an edge
compute the same e for it up to its sign, to the last bit, so no pixel falls between them.

Visibility has no gradient, but the coordinates do: they are computed once more for what is visible, with autograd. What
moves with the outline is in `silhouettes`.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from degauss.threed.cameras import Cameras

NEAR = 1e-3
"""What is nearer to a camera than this is not drawn, in world units."""

_CANDIDATES = 1 << 20
"""Pairs of a triangle and a pixel that are looked at together, at about 200 bytes each."""

_NOTHING = torch.iinfo(torch.int64).max


class Fragments(NamedTuple):
    """What is seen: p covered pixels in ascending order.

    ``pixel`` int64 ``[p]``: (camera * height + row) * width + column. ``face`` int64 ``[p]``.
    ``barycentric`` ``[p, 3]``: the weights of the face's corners, at least 0, of sum 1. ``depth`` ``[p]``: along the
    camera's -z, world units.
    """

    pixel: Tensor
    face: Tensor
    barycentric: Tensor
    depth: Tensor


def homogeneous(cameras: Cameras, vertices: Tensor) -> Tensor:
    """Vertices ``[v, 3]`` as homogeneous pixels (w p_x, w p_y, w) of each camera, ``[n, v, 3]``."""
    view = cameras.view_from_world
    x, y, z = (vertices @ view[:, :3, :3].mT + view[:, None, :3, 3]).unbind(-1)
    (f_x, f_y), (c_x, c_y) = cameras.focal[:, :, None].unbind(1), cameras.centre[:, :, None].unbind(1)
    return torch.stack((f_x * x - c_x * z, -f_y * y - c_y * z, -z), -1)


def rasterise(points: Tensor, faces: Tensor, height: int, width: int) -> Fragments:
    """The nearest face at each pixel's centre; both sides of a face are seen.

    ``points`` ``[n, v, 3]``: homogeneous pixels. ``faces`` int64 ``[f, 3]``. Of faces at one depth the first is seen.
    Raises ValueError for points that are not finite.
    """
    if not bool(points.isfinite().all()):
        raise ValueError("points to be drawn must be finite: a vertex or a camera is not")
    pixel, row = _visible(points.detach(), faces, height, width)
    camera, face = row // len(faces), row % len(faces)
    corner = camera[:, None] * points.shape[1] + faces[face]
    corners = points.flatten(0, 1).index_select(0, corner.flatten()).unflatten(0, (-1, 3))
    edge = _edges(corners, pixel % width, pixel // width % height)
    barycentric = edge / edge.sum(-1, keepdim=True)
    return Fragments(pixel, face, barycentric, (barycentric * corners[..., 2]).sum(-1))


def _edges(corners: Tensor, column: Tensor, row: Tensor) -> Tensor:
    """e ``[c, 3]`` of the triangles ``corners`` ``[c, 3, 3]`` at the centres of pixels."""
    x, y, w = corners.unbind(-1)
    x = x - (column + 0.5)[:, None] * w
    y = y - (row + 0.5)[:, None] * w
    (x0, x1, x2), (y0, y1, y2) = x.unbind(-1), y.unbind(-1)
    return torch.stack((x1 * y2 - x2 * y1, x2 * y0 - x0 * y2, x0 * y1 - x1 * y0), -1)


@torch.no_grad()
def _visible(points: Tensor, faces: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Covered pixels, and what is nearest there as ``camera * len(faces) + face``."""
    corners = points[:, faces].flatten(0, 1)  # [n f, 3 corners, 3]
    first, extent = _boxes(corners, height, width)
    counts = extent.prod(-1)
    drawn = counts.nonzero().squeeze(-1)
    corners, first, extent, counts = corners[drawn], first[drawn], extent[drawn], counts[drawn]

    nearest = torch.full((len(points) * height * width,), _NOTHING, dtype=torch.int64, device=points.device)
    for part in _parts(counts):
        box = torch.repeat_interleave(torch.arange(len(counts[part]), device=points.device), counts[part])
        start = counts[part].cumsum(0) - counts[part]
        inside_box = torch.arange(len(box), device=points.device) - start[box]
        across = extent[part, 0][box]
        column = first[part, 0][box] + inside_box % across
        row = first[part, 1][box] + inside_box // across
        candidates = corners[part][box]
        edge = _edges(candidates, column, row)
        total = edge.sum(-1)
        depth = (edge * candidates[..., 2]).sum(-1) / total
        inside = ((edge >= 0).all(-1) | (edge <= 0).all(-1)) & (total != 0) & (depth > NEAR)
        hit = inside.nonzero().squeeze(-1)
        which = drawn[part][box[hit]]
        # The bits of a positive float are ordered as it is: one integer sorts by depth, then by face.
        key = (depth[hit].float().view(torch.int32).to(torch.int64) << 32) | which
        pixel = (which // len(faces) * height + row[hit]) * width + column[hit]
        nearest.scatter_reduce_(0, pixel, key, "amin")
    pixel = (nearest != _NOTHING).nonzero().squeeze(-1)
    return pixel, nearest[pixel] & 0xFFFFFFFF


def _boxes(corners: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """First pixel (x, y) and extent of the boxes that hold the triangles, int64 ``[r, 2]``; extent 0 where none."""
    depth = corners[..., 2:]
    ahead = depth > NEAR
    flat = corners[..., :2] / depth.clamp(min=NEAR)
    # The margin covers the rounding of this division; whether a pixel is inside is decided without it.
    low, high = flat.amin(1) - 0.501, flat.amax(1) - 0.499
    size = corners.new_tensor((width, height))
    reaches_behind = ~ahead.all(1)
    low = low.masked_fill(reaches_behind, 0.0)
    high = torch.where(reaches_behind, size, high)
    first = low.ceil().clamp(min=0).minimum(size)
    last = high.floor().clamp(min=-1).minimum(size - 1)
    extent = (last - first + 1).clamp(min=0) * ahead.any(1)
    return first.long(), extent.long()


def _parts(counts: Tensor) -> list[slice]:
    """Consecutive slices of the boxes, each of about `_CANDIDATES` pixels."""
    ends = counts.cumsum(0)
    parts = int(ends[-1]) // _CANDIDATES if len(ends) else 0
    limits = torch.arange(1, parts + 1, device=counts.device) * _CANDIDATES
    cuts = sorted({0, *torch.searchsorted(ends, limits).tolist(), len(counts)})
    return [slice(start, end) for start, end in pairwise(cuts)]


def interpolate(values: Tensor, faces: Tensor, seen: Fragments) -> Tensor:
    """Values of vertices ``[v, c]`` at what is seen, ``[p, c]``."""
    corners = values.index_select(0, faces[seen.face].flatten()).unflatten(0, (-1, 3))
    return (seen.barycentric[..., None] * corners).sum(1)


def sample_texture(texture: Tensor, uv: Tensor) -> Tensor:
    """The bilinear value of an image ``[height, width, c]`` at ``[p, 2]``: ``[p, c]``.

    (0, 0) is the lower left corner of the image, (1, 1) the upper right one; outside it is repeated. A texel's value is
    that at its centre. There are no smaller levels: an image much finer than the pixels is point-sampled.
    """
    height, width, _ = texture.shape
    x, y = uv[:, 0] * width - 0.5, (1 - uv[:, 1]) * height - 0.5
    left, top = x.detach().floor(), y.detach().floor()
    across, down = (x - left)[:, None], (y - top)[:, None]
    columns = [(left.long() + step) % width for step in (0, 1)]
    rows = [(top.long() + step) % height for step in (0, 1)]
    flat = texture.flatten(0, 1)
    upper, lower = (
        torch.lerp(
            flat.index_select(0, row * width + columns[0]), flat.index_select(0, row * width + columns[1]), across
        )
        for row in rows
    )
    return torch.lerp(upper, lower, down)


def to_image(values: Tensor, pixel: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Values ``[p, c]`` at their pixels of images ``[*shape, c]`` that are 0 elsewhere; ``shape``: n, height, width."""
    n, height, width = shape
    blank = values.new_zeros(n * height * width, values.shape[-1])
    return blank.index_copy(0, pixel, values).view(n, height, width, -1)
