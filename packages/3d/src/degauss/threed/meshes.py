r"""A textured triangle mesh, and how it is seen.

Everything belongs to a vertex, as in glTF and on a graphics card: its place, texture coordinates, colour and normal. A
seam of a texture or a hard edge is two vertices at one place. Those are one vertex again (`Mesh.welded`) where the
surface itself is meant: for smooth normals, outlines and holes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from degauss.core.errors import InputError
from degauss.threed.cameras import Cameras
from degauss.threed.rasterise import Fragments, homogeneous, interpolate, rasterise, sample_texture, to_image
from degauss.threed.rendering import Rendered, mean_depth
from degauss.threed.silhouettes import Edges, antialias, edges_of

GREY = 0.7
"""Red, green and blue of a mesh that has no colour."""


@dataclass(frozen=True, eq=False)
class Mesh:
    """v vertices and f triangles, counter-clockwise seen from outside.

    ``vertices`` ``[v, 3]``: world units. ``faces`` int64 ``[f, 3]``. All else may be None:
    ``uv`` ``[v, 2]``: (0, 0) is the lower left corner of the texture. ``texture`` ``[height, width, 3]`` and
    ``colours`` ``[v, 3]``: RGB as displayed (sRGB), in [0, 1]; the texture goes before. ``normals`` ``[v, 3]``: unit,
    outward; without them they are smooth. Raises ValueError for shapes that do not fit.
    """

    vertices: Tensor
    faces: Tensor
    uv: Tensor | None = None
    texture: Tensor | None = None
    colours: Tensor | None = None
    normals: Tensor | None = None

    def __post_init__(self) -> None:
        v = len(self.vertices)
        _check_shape("vertices", self.vertices, (v, 3))
        _check_shape("faces", self.faces, (len(self.faces), 3))
        if self.faces.dtype != torch.int64:
            raise ValueError(f"faces are int64, got {self.faces.dtype}")
        for name, part, size in (("uv", self.uv, 2), ("colours", self.colours, 3), ("normals", self.normals, 3)):
            if part is not None:
                _check_shape(name, part, (v, size))
        if self.texture is not None:
            _check_shape("texture", self.texture, (*self.texture.shape[:2], 3))
            if self.uv is None:
                raise ValueError("a texture needs uv")

    # --- the surface ----------------------------------------------------------------------------------------

    @cached_property
    def welded(self) -> Tensor:
        """For each vertex the first one at the same place, int64 ``[v]``."""
        places, which = torch.unique(self.vertices.detach(), dim=0, return_inverse=True)
        numbers = torch.arange(len(which), device=which.device)
        first = torch.full((len(places),), len(which), device=which.device)
        return first.scatter_reduce(0, which, numbers, "amin")[which]

    @cached_property
    def edges(self) -> Edges:
        """The edges of the welded surface."""
        return edges_of(self.welded[self.faces])

    @cached_property
    def face_normals(self) -> Tensor:
        """Unit normals of the faces ``[f, 3]``; 0 where a face has no area."""
        return functional.normalize(self._area_vectors, dim=-1)

    @cached_property
    def smooth_normals(self) -> Tensor:
        """Unit normals of the vertices ``[v, 3]``: means over the faces at their place, weighted by area."""
        corners = self.welded[self.faces]
        total = torch.zeros_like(self.vertices)
        total = total.index_add(0, corners.flatten(), self._area_vectors.repeat_interleave(3, 0))
        return functional.normalize(total, dim=-1).index_select(0, self.welded)

    @property
    def _area_vectors(self) -> Tensor:
        a, b, c = self.vertices.index_select(0, self.faces.flatten()).unflatten(0, (-1, 3)).unbind(1)
        return torch.linalg.cross(b - a, c - a) / 2

    @property
    def area(self) -> Tensor:
        return self._area_vectors.norm(dim=-1).sum()

    @property
    def volume(self) -> Tensor:
        """The enclosed volume, positive where faces point outwards; of a watertight mesh."""
        return (self._area_vectors * self.vertices[self.faces[:, 0]]).sum() / 3

    def check(self, name: str) -> None:
        """Raise `InputError`, with ``name`` for the mesh, if it is empty, not finite, or a face has no such vertex."""
        if len(self.vertices) == 0 or len(self.faces) == 0:
            raise InputError(
                f"{name}: the mesh has {len(self.vertices)} vertices and {len(self.faces)} faces: it is empty."
            )
        for what in ("vertices", "uv", "texture", "colours", "normals"):
            part: Tensor | None = getattr(self, what)
            if part is not None and (bad := int((~part.isfinite()).sum())):
                raise InputError(f"{name}: {bad} of {part.numel()} numbers of the mesh's {what} are not finite.")
        wrong = (self.faces < 0) | (self.faces >= len(self.vertices))
        if bool(wrong.any()):
            index, row = int(self.faces[wrong][0]), int(wrong.any(-1).nonzero()[0])
            last = len(self.vertices) - 1
            raise InputError(f"{name}: face {row} asks for vertex {index}, but vertices go from 0 to {last}.")

    def check_watertight(self, name: str) -> None:
        """Raise `InputError`, with ``name`` for the mesh, unless each edge has exactly two faces."""
        lone = self.edges.ends[self.edges.wings[:, 1] < 0]
        faces = torch.unique(lone, dim=0, return_counts=True)[1]
        if len(faces):
            raise InputError(
                f"{name}: a watertight mesh is needed, but {len(faces)} of its edges do not have exactly two faces "
                f"({int((faces == 1).sum())} have one, {int((faces > 2).sum())} more than two)."
            )

    # --- other versions of it -------------------------------------------------------------------------------

    def moved(self, vertices: Tensor) -> Mesh:
        """The same surface with its vertices elsewhere: what is connected stays so, and normals are smooth again.

        Vertices at one place (seams) have to move together. What is seen has a gradient in ``vertices``.
        """
        mesh = replace(self, vertices=vertices, normals=None)
        mesh.__dict__.update(welded=self.welded, edges=self.edges)
        return mesh

    def fitted(self, size: float = 1.0) -> Mesh:
        """The mesh with its bounding box around the origin, the longest side being ``size``.

        Raises `InputError` if it is a single point.
        """
        low, high = self.vertices.amin(0), self.vertices.amax(0)
        longest = (high - low).max()
        if not bool(longest > 0):
            raise InputError("the mesh is a single point, so it cannot be scaled.")
        return replace(self, vertices=(self.vertices - (low + high) / 2) * (size / longest))

    def turned(self, azimuth: float) -> Mesh:
        """The mesh turned about y, so that what was seen from azimuth 0 is seen from ``azimuth`` degrees."""
        angle = torch.deg2rad(torch.tensor(azimuth, dtype=torch.float64))
        sin, cos = float(angle.sin()), float(angle.cos())
        rotation = self.vertices.new_tensor(((cos, 0, sin), (0, 1, 0), (-sin, 0, cos)))
        normals = None if self.normals is None else self.normals @ rotation.mT
        return replace(self, vertices=self.vertices @ rotation.mT, normals=normals)

    def flat(self) -> Mesh:
        """The mesh with the normals of its faces instead of smooth ones, each face with vertices of its own."""
        corners = self.faces.flatten()
        uv, colours = (None if part is None else part[corners] for part in (self.uv, self.colours))
        faces = torch.arange(len(corners), device=corners.device).view(-1, 3)
        normals = self.face_normals.repeat_interleave(3, 0)
        return Mesh(self.vertices[corners], faces, uv, self.texture, colours, normals)

    def to(self, device: torch.device | str) -> Mesh:
        """The same mesh on another device."""
        optional = (self.uv, self.texture, self.colours, self.normals)
        moved = (None if part is None else part.to(device) for part in optional)
        return Mesh(self.vertices.to(device), self.faces.to(device), *moved)

    # --- how it is seen -------------------------------------------------------------------------------------

    def render(self, cameras: Cameras, background: Tensor, /) -> Rendered:
        """Its images, unlit: differentiable in vertices (outlines too), texture and colours.

        Both sides of a face are seen; its normal points out of the front.
        """
        shape = (len(cameras), cameras.height, cameras.width)
        points = homogeneous(cameras, self.vertices)
        seen = rasterise(points, self.faces, cameras.height, cameras.width)
        normals = self.smooth_normals if self.normals is None else self.normals
        normal = functional.normalize(interpolate(normals, self.faces, seen), dim=-1)
        one = torch.ones_like(seen.depth)[:, None]
        depth = seen.depth[:, None]
        images = to_image(torch.cat((self.colour(seen), one, depth, normal), -1), seen.pixel, shape)

        behind = (1 - images[..., 3:4]) * background
        images = torch.cat((images[..., :3] + behind, images[..., 3:]), -1)
        nearest = torch.where(images[..., 3] > 0, images[..., 4], torch.inf)
        images = antialias(images, nearest, points, self.edges)
        alpha = images[..., 3]
        return Rendered(images[..., :3], alpha, mean_depth(images[..., 4], alpha), images[..., 5:])

    def colour(self, seen: Fragments) -> Tensor:
        """The colour of what is seen ``[p, 3]``: the texture's, else the vertices', else grey."""
        if self.texture is not None and self.uv is not None:
            return sample_texture(self.texture, interpolate(self.uv, self.faces, seen))
        if self.colours is not None:
            return interpolate(self.colours, self.faces, seen)
        return torch.full_like(seen.barycentric, GREY)


def _check_shape(name: str, part: Tensor, expected: tuple[int, ...]) -> None:
    if tuple(part.shape) != expected:
        raise ValueError(f"{name} of a mesh is {list(expected)} here, got {list(part.shape)}")
