r"""Antialiased outlines, whose coverage has a gradient: how a mesh learns from the pixels around it.

A rasteriser samples pixels' centres, so an image jumps when an outline moves over one. Here each crossing of an outline
with the segment between two neighbouring centres blends the two pixels, as in the antialiasing of Laine et al. (2020),
"Modular primitives for high-performance differentiable rendering". Let A be the pixel that sees the surface, B the one
beyond, and s in [0, 1) the place of the crossing on the way from A's centre to B's. The border of the two pixels is at
s = 1/2, so

    A <- A + u max(1/2 - s, 0) (B - A),      B <- B + u max(s - 1/2, 0) (A - B),

where u is n_x^2 for neighbours in a row and n_y^2 in a column, n being the edge's unit normal. An outline that moves by
d along its normal crosses a row d / n_x further on, and there are |n_x| rows to a unit of its length, so both together
move the covered area by (n_x^2 + n_y^2) d: the exact amount, by the midpoint rule along rows and columns. Where a pixel
would give away more than itself (a part thinner than a pixel), its weights are scaled to sum to 1, so that all that
comes out is a mean of what came in.

The original looks for the outline among the edges of the triangle that A sees. On a mesh finer than the pixels the
outline mostly belongs to triangles that no centre hits. So here edges are walked to the pixels instead, and the
outermost outline between A and B counts.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from degauss.threed.rasterise import NEAR


class Edges(NamedTuple):
    """The e edges of a surface.

    ``ends`` int64 ``[e, 2]``: the vertices of each. ``wings`` int64 ``[e, 2]``: the third vertices of its two faces.
    The second is -1 where there is one face; where more than two meet, each has an edge of its own.
    """

    ends: Tensor
    wings: Tensor


def edges_of(faces: Tensor) -> Edges:
    """The edges of faces ``[f, 3]``; faces with a vertex twice have none."""
    a, b, c = faces.unbind(-1)
    faces = faces[(a != b) & (b != c) & (c != a)]
    ends = torch.cat((faces[:, [1, 2]], faces[:, [2, 0]], faces[:, [0, 1]])).sort(-1).values
    wings = faces.mT.flatten()
    by_second = ends[:, 1].argsort(stable=True)
    order = by_second[ends[by_second, 0].argsort(stable=True)]
    ends, wings = ends[order], wings[order]
    _, which, counts = torch.unique_consecutive(ends, dim=0, return_inverse=True, return_counts=True)
    paired = counts[which] == 2
    lone = ends[~paired], torch.stack((wings[~paired], torch.full_like(wings[~paired], -1)), -1)
    return Edges(torch.cat((ends[paired][::2], lone[0])), torch.cat((wings[paired].view(-1, 2), lone[1])))


class _Crossings(NamedTuple):
    """Where outlines cross the segments between the centres of neighbours.

    ``inside``, ``outside`` int64 ``[k]``: flat pixels A and B. ``place`` ``[k]``: s, with its gradient. ``share``
    ``[k]``: u.
    """

    inside: Tensor
    outside: Tensor
    place: Tensor
    share: Tensor


def antialias(images: Tensor, depth: Tensor, points: Tensor, edges: Edges) -> Tensor:
    """Images ``[n, height, width, c]`` of a mesh with the pixels at its outlines blended.

    ``depth`` ``[n, height, width]``: of what is seen, infinite where nothing is. ``points`` ``[n, v, 3]``: homogeneous
    pixels, as `rasterise` takes them. An outline is an edge with one face, or one with both faces on its one side.
    """
    flat = images.flatten(0, -2)
    in_rows, in_columns = (_crossings(depth.detach(), points, edges, across) for across in (0, 1))
    inside, outside, place, share = (torch.cat(parts) for parts in zip(in_rows, in_columns, strict=True))
    beyond = place > 0.5
    weight = share * (place - 0.5).abs()
    blended, other = torch.where(beyond, outside, inside), torch.where(beyond, inside, outside)
    total = flat.new_zeros(len(flat)).index_add(0, blended, weight.detach())
    weight = weight / total.clamp(min=1)[blended]
    step = weight[:, None] * (flat.index_select(0, other) - flat.index_select(0, blended))
    return flat.index_add(0, blended, step).view_as(images)


def _crossings(depth: Tensor, points: Tensor, edges: Edges, across: int) -> _Crossings:
    """The crossings of outlines with rows of centres (``across`` is 0: at some x), or with columns (1: at some y)."""
    _, height, width = depth.shape
    along = 1 - across
    lines, places = (height, width) if across == 0 else (width, height)
    camera, edge, first, count = _outlines(points.detach(), edges, along, lines)

    # An outline for each line of centres that it crosses.
    which = torch.repeat_interleave(torch.arange(len(count), device=count.device), count)
    line = first[which] + torch.arange(len(which), device=count.device) - (count.cumsum(0) - count)[which]
    camera, edge = camera[which], edge[which]
    ends = camera[:, None] * points.shape[1] + edges.ends[edge]
    corners = points.flatten(0, 1).index_select(0, ends.flatten()).unflatten(0, (-1, 2))
    (start, end), (near, far) = (corners[..., :2] / corners[..., 2:]).unbind(1), corners.detach()[..., 2].unbind(-1)
    share = (line + 0.5 - start[:, along]) / (end - start)[:, along]
    at = start[:, across] + share * (end - start)[:, across] - 0.5
    left = at.detach().floor().long()

    wing = points.detach()[camera, edges.wings[edge, 0]]
    wing = wing[:, :2] / wing[:, 2:]
    run = (end - start).detach()
    slope = run[:, across] / run[:, along]
    beside = wing[:, across] - start.detach()[:, across] - (wing[:, along] - start.detach()[:, along]) * slope
    inwards = beside < 0  # towards smaller numbers: A is the left pixel, or the upper one

    on_image = (left >= 0) & (left < places - 1)
    left = left.clamp(0, max(places - 2, 0))
    row, column = (line, left) if across == 0 else (left, line)
    lower = (camera * height + row) * width + column
    upper = (lower + (1 if across == 0 else width)).clamp(max=depth.numel() - 1)
    inside, outside = torch.where(inwards, lower, upper), torch.where(inwards, upper, lower)
    place = torch.where(inwards, at - left, 1 - (at - left))

    seen = depth.flatten()
    edge_depth = 1 / torch.lerp(1 / near, 1 / far, share.detach())
    kept = on_image & (seen[inside] < seen[outside]) & (edge_depth < seen[outside])
    kept &= _outermost(place.detach(), lower, kept, depth.numel())
    chosen = kept.nonzero().squeeze(-1)
    normal_squared = 1 / (1 + slope[chosen] ** 2)
    return _Crossings(inside[chosen], outside[chosen], place[chosen], normal_squared)


def _outlines(points: Tensor, edges: Edges, along: int, lines: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Camera and edge of each outline that crosses lines of centres, the first line, and how many."""
    depth = points[..., 2]
    flat = points[..., :2] / points[..., 2:].clamp(min=NEAR)
    start, end = flat[:, edges.ends[:, 0]], flat[:, edges.ends[:, 1]]
    one, other = (_side(start, end, flat[:, edges.wings[:, wing].clamp(min=0)]) for wing in (0, 1))
    outline = (edges.wings[:, 1] < 0) | (one * other > 0)
    outline &= (depth[:, edges.ends] > NEAR).all(-1) & (depth[:, edges.wings[:, 0]] > NEAR)
    low = torch.minimum(start[..., along], end[..., along])
    high = torch.maximum(start[..., along], end[..., along])
    # Centres in [low, high): where two edges meet, one of them has the centre.
    first = (low - 0.5).ceil().clamp(0, lines)
    count = (((high - 0.5).ceil().clamp(0, lines) - first) * outline).long()
    camera, edge = count.nonzero(as_tuple=True)
    return camera, edge, first.long()[camera, edge], count[camera, edge]


def _side(start: Tensor, end: Tensor, point: Tensor) -> Tensor:
    """The side of the line from start to end that a point is on: positive, negative, or 0 on it."""
    ahead, aside = end - start, point - start
    return ahead[..., 0] * aside[..., 1] - ahead[..., 1] * aside[..., 0]


def _outermost(place: Tensor, pair: Tensor, allowed: Tensor, pixels: int) -> Tensor:
    """Which of the allowed crossings is the last on the way out of A, one for each pair of pixels."""
    number = torch.arange(len(place), device=place.device)
    key = ((place.double().clamp(0, 1) * (1 << 30)).long() << 32 | number).masked_fill(~allowed, -1)
    best = torch.full((pixels,), -1, dtype=torch.int64, device=place.device)
    best.scatter_reduce_(0, pair, key, "amax")
    return best[pair] == key
