r"""From a density to the surface that a picture of it shows: marching cubes at a level chosen from the density.

The density sigma (per world unit) is sampled on a grid of step h, and all is done on the opacity of one cell,

    a = 1 - exp(-sigma h),

which rises with sigma, is the share of light that the cell stops, and stays in [0, 1] where a trained field has spikes
of thousands. (For faint fields it is sigma h, so their scale does not matter.)

**The level.** Where a cell is, is a question of inside or outside. Otsu's threshold (1979) parts the cells so that the
two groups' opacities are as far apart as they can be, with the weights w,

    max_T  w_0(T) w_1(T) (m_0(T) - m_1(T))^2,

and the level is half way between the groups' means m_0 and m_1: of a solid with sharp sides this is the half of its
opacity, and the surface lies in the middle between the last cell inside and the first outside. Thin fog lies below it,
and a few cells of enormous density do not lift it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from degauss.core.errors import InputError
from degauss.threed.meshes import Mesh

_BINS = 256

_FAINTEST = 0.01
"""The share of light that the densest point, spread over the whole cube, must stop; else nothing is to be seen."""

Density = Callable[[Tensor], Tensor]
"""Points ``[p, 3]`` in world units to the density there ``[p]``, per world unit, at least 0."""


class Surface(NamedTuple):
    """What was found: the mesh, and the density whose level set it is (per world unit)."""

    mesh: Mesh
    level: float


def sample_grid(
    density: Density, resolution: int, device: torch.device | str = "cpu", at_once: int = 1 << 18
) -> Tensor:
    """The density at ``resolution``^3 points ``[x, y, z]`` that span the cube [-0.5, 0.5]^3, its faces included."""
    axis = torch.linspace(-0.5, 0.5, resolution, device=device)
    with torch.no_grad():
        points = torch.cartesian_prod(axis, axis, axis)
        values = torch.cat([density(part) for part in points.split(at_once)])
    return values.view(resolution, resolution, resolution)


def choose_level(density: Tensor) -> float:
    """The density, per world unit, between inside and outside of a density ``[x, y, z]`` over the unit cube.

    Raises `InputError`, with the range of the density, if there is no surface in it.
    """
    step = _check_grid(density)
    opacity = _opacity(density, step).flatten()
    low, high = opacity.min(), opacity.max()
    group = ((opacity - low) / (high - low) * (_BINS - 1)).round().long()
    counts = torch.bincount(group, minlength=_BINS).double()
    sums = torch.zeros_like(counts).index_add(0, group, opacity)
    below, sum_below = counts.cumsum(0)[:-1], sums.cumsum(0)[:-1]
    above, sum_above = counts.sum() - below, sums.sum() - sum_below
    mean_below, mean_above = sum_below / below, sum_above / above  # the first bin and the last hold at least one cell
    best = (below * above * (mean_above - mean_below) ** 2).argmax()
    level = (mean_below[best] + mean_above[best]) / 2
    return float(-torch.log1p(-level) / step)


def marching_cubes(density: Tensor, level: float | None = None) -> Surface:
    """The surface of a density ``[x, y, z]`` over the cube [-0.5, 0.5]^3, closed where it meets the cube's sides.

    ``level``: density per world unit; None chooses it. Faces look from the denser side outwards (Lorensen and Cline
    1987, by scikit-image in Lewiner's edition). Raises `InputError`, with the range of the density, if it is not
    finite, below 0, or has no such surface.
    """
    from skimage.measure import marching_cubes as find

    step = _check_grid(density)
    level = choose_level(density) if level is None else level
    low, high = float(density.min()), float(density.max())
    if not 0 < level < high:
        raise InputError(f"no surface at the level {level:.4g}: the density is between {low:.4g} and {high:.4g}.")
    opacity = _opacity(density, step)
    threshold = float(-torch.expm1(torch.tensor(-level * step, dtype=torch.float64)))
    padded = torch.nn.functional.pad(opacity, (1,) * 6)
    places, faces, *_ = find(padded.cpu().numpy(), threshold, gradient_direction="ascent", allow_degenerate=False)
    vertices = torch.from_numpy(places.copy()).double()
    vertices = ((vertices - 1) * step - 0.5).clamp(-0.5, 0.5)
    mesh = Mesh(vertices.float().to(density.device), torch.from_numpy(faces.copy()).long().to(density.device))
    return Surface(mesh, level)


def extract(
    density: Density, resolution: int = 128, level: float | None = None, device: torch.device | str = "cpu"
) -> Surface:
    """The surface of a density that is a function of points; ``level`` as in `marching_cubes`."""
    return marching_cubes(sample_grid(density, resolution, device), level)


def largest_component(mesh: Mesh) -> Mesh:
    """The connected part with the largest area, without the vertices of the others."""
    from trimesh.graph import connected_component_labels

    corners = mesh.welded[mesh.faces].cpu()
    links = torch.cat((corners[:, :2], corners[:, 1:])).numpy()
    labels = torch.from_numpy(connected_component_labels(links, node_count=len(mesh.vertices))).long()
    of_face = labels[corners[:, 0]].to(mesh.faces.device)
    a, b, c = mesh.vertices.detach()[mesh.faces].unbind(1)
    area = torch.linalg.cross(b - a, c - a).norm(dim=-1)
    total = area.new_zeros(int(of_face.max()) + 1).index_add(0, of_face, area)
    return _kept(mesh, mesh.faces[of_face == total.argmax()])


def decimate(mesh: Mesh, faces: int) -> Mesh:
    """A mesh of about ``faces`` triangles near the given one, without texture, colours and normals.

    By quadric edge collapse (Garland and Heckbert 1997) through trimesh. Raises `InputError` where the package
    fast-simplification is not installed.
    """
    import importlib.util

    import trimesh

    if importlib.util.find_spec("fast_simplification") is None:
        raise InputError("fewer faces need the package fast-simplification: pip install fast-simplification.")
    whole = trimesh.Trimesh(mesh.vertices.detach().cpu().numpy(), mesh.welded[mesh.faces].cpu().numpy(), process=False)
    fewer = whole.simplify_quadric_decimation(face_count=faces)
    vertices, corners = (torch.from_numpy(part.copy()) for part in (fewer.vertices, fewer.faces))
    return Mesh(vertices.to(mesh.vertices), corners.to(mesh.faces))


def _kept(mesh: Mesh, faces: Tensor) -> Mesh:
    used, renamed = faces.unique(return_inverse=True)
    uv, colours, normals = (None if part is None else part[used] for part in (mesh.uv, mesh.colours, mesh.normals))
    return replace(mesh, vertices=mesh.vertices[used], faces=renamed, uv=uv, colours=colours, normals=normals)


def _opacity(density: Tensor, step: float) -> Tensor:
    return -torch.expm1(-density.detach().double() * step)


def _check_grid(density: Tensor) -> float:
    """The step of a grid over the unit cube; raises if there is nothing on it to find."""
    size = len(density)
    if density.ndim != 3 or tuple(density.shape) != (size, size, size) or size < 2:
        raise ValueError(f"a density is a cube of numbers, got {list(density.shape)}")
    if bad := int((~density.isfinite()).sum()):
        raise InputError(f"no surface: {bad} of {density.numel()} numbers of the density are not finite.")
    low, high = float(density.min()), float(density.max())
    if low < 0:
        raise InputError(f"a density is at least 0, but this one is between {low:.4g} and {high:.4g}.")
    if high == low or -torch.expm1(torch.tensor(-high, dtype=torch.float64)) < _FAINTEST:
        raise InputError(
            f"no surface: the density is between {low:.4g} and {high:.4g} per world unit everywhere, "
            "so there is nothing to be seen."
        )
    return 1 / (size - 1)
