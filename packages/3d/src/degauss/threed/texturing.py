"""From a colour that is a function of points to a texture: unwrap, and bake.

xatlas cuts the surface into charts and lays them out in the unit square. Baking rasterises the triangles there: each
texel whose centre lies in a chart gets the colour of its point on the surface. A renderer mixes neighbouring texels, so
the colours are carried on over the rim of each chart into a gutter, and what is left gets their mean, for the smaller
levels that other renderers make of a texture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from degauss.threed.meshes import Mesh
from degauss.threed.rasterise import interpolate, rasterise

Colour = Callable[[Tensor, Tensor], Tensor]
"""Points on a surface ``[p, 3]`` and its unit normals there ``[p, 3]`` to RGB in [0, 1] ``[p, 3]``."""

GUTTER = 4
"""Texels around a chart that carry its colours on."""


def unwrap(mesh: Mesh, size: int = 1024, gutter: int = GUTTER) -> Mesh:
    """The mesh with texture coordinates for a texture of ``size`` x ``size`` texels, charts two gutters apart.

    Vertices on seams become several. It takes seconds for ten thousand faces. The texture is left out.
    """
    import xatlas

    mesh.check("a mesh to be unwrapped")
    options = xatlas.PackOptions()
    options.resolution = size
    options.padding = 2 * gutter
    atlas = xatlas.Atlas()
    places = mesh.vertices.detach().cpu().numpy().astype(np.float32)
    atlas.add_mesh(places, mesh.faces.cpu().numpy().astype(np.uint32))
    atlas.generate(pack_options=options)
    origin, faces, uv = (torch.from_numpy(np.array(part)).to(mesh.vertices.device) for part in atlas[0])
    origin = origin.long()
    colours, normals = (None if part is None else part[origin] for part in (mesh.colours, mesh.normals))
    return Mesh(mesh.vertices[origin], faces.long(), uv.to(mesh.vertices), None, colours, normals)


def bake(mesh: Mesh, colour: Colour, size: int = 1024, gutter: int = GUTTER, at_once: int = 1 << 18) -> Mesh:
    """The mesh with a texture ``[size, size, 3]`` of a colour on its surface.

    ``colour`` is asked for at most ``at_once`` points at a time, and what it answers is cut to [0, 1]. Raises
    ValueError if the mesh has no texture coordinates, or a colour is not finite.
    """
    if mesh.uv is None:
        raise ValueError("a mesh has texture coordinates before it is baked: unwrap it first")
    u, v = mesh.uv.detach().unbind(-1)
    seen = rasterise(torch.stack((u * size, (1 - v) * size, torch.ones_like(u)), -1)[None], mesh.faces, size, size)
    normals = mesh.smooth_normals if mesh.normals is None else mesh.normals
    with torch.no_grad():
        points = interpolate(mesh.vertices, mesh.faces, seen)
        directions = functional.normalize(interpolate(normals, mesh.faces, seen), dim=-1)
        parts = zip(points.split(at_once), directions.split(at_once), strict=True)
        colours = torch.cat([colour(*part) for part in parts])
    if not bool(colours.isfinite().all()):
        raise ValueError(f"{int((~colours.isfinite()).sum())} numbers of the baked colours are not finite")
    texture = points.new_zeros(size * size, 3).index_copy(0, seen.pixel, colours.to(points).clamp(0, 1))
    covered = points.new_zeros(size * size, 1).index_fill(0, seen.pixel, 1.0)
    image = _spread(texture.view(size, size, 3), covered.view(size, size, 1), gutter)
    return replace(mesh, texture=image, colours=None)


def textured(mesh: Mesh, colour: Colour, size: int = 1024) -> Mesh:
    """The mesh unwrapped, with a colour baked into its texture."""
    return bake(unwrap(mesh, size), colour, size)


def _spread(texture: Tensor, covered: Tensor, gutter: int) -> Tensor:
    """Colours ``[h, w, 3]`` carried on from where ``covered`` ``[h, w, 1]`` is 1, and their mean beyond."""
    colours, known = texture.movedim(-1, 0)[None], covered.movedim(-1, 0)[None]
    mean = (colours * known).sum((2, 3), keepdim=True) / known.sum().clamp(min=1)
    for _ in range(gutter):
        near = functional.avg_pool2d(known, 3, stride=1, padding=1)
        spread = functional.avg_pool2d(colours * known, 3, stride=1, padding=1) / near.clamp(min=1e-6)
        colours = torch.where(known > 0, colours, spread)
        known = ((known > 0) | (near > 0)).to(known)
    return torch.where(known > 0, colours, mean)[0].movedim(0, -1)
