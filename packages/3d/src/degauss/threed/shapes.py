r"""Objects of our own making, each with a front and a back that nobody would confuse, and the shipped prior's objects.

An object is a union of parts, each a colour and a signed distance d(p), negative inside, from a handful of primitives
(Quilez, "Distance functions"). The surface is where the least distance is 0, by marching cubes on

    (c - min_k d_k) at the level c,

so that it is one closed surface without anything inside, and a vertex has the colour of its nearest part.

The front looks along +z, towards a camera at azimuth 0; y is up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from degauss.core.errors import check_option
from degauss.threed.datasets import read_known
from degauss.threed.meshes import Mesh
from degauss.threed.surface import marching_cubes

Triple = tuple[float, float, float]
Distance = Callable[[Tensor], Tensor]
"""Points ``[p, 3]`` to signed distances ``[p]``, negative inside."""

_RESOLUTION = 64
_CENTRED = 0.2
"""The level of marching cubes; distances down to minus this count, as its input is at least 0."""


@dataclass(frozen=True)
class Part:
    """A solid of one colour (sRGB, in [0, 1])."""

    distance: Distance
    colour: Triple


# --- primitives ---------------------------------------------------------------------------------------------


def ball(centre: Triple, radius: float) -> Distance:
    def distance(p: Tensor) -> Tensor:
        return (p - p.new_tensor(centre)).norm(dim=-1) - radius

    return distance


def box(centre: Triple, half: Triple, rounding: float = 0.0) -> Distance:
    """A box of these half sides, its edges rounded off."""

    def distance(p: Tensor) -> Tensor:
        beyond = (p - p.new_tensor(centre)).abs() - p.new_tensor(half) + rounding
        return beyond.clamp(min=0).norm(dim=-1) + beyond.amax(-1).clamp(max=0) - rounding

    return distance


def cylinder(centre: Triple, axis: int, radius: float, half: float) -> Distance:
    """A cylinder along x, y or z (0, 1, 2), of half the height ``half``."""

    def distance(p: Tensor) -> Tensor:
        along, around = _split(p, centre, axis)
        beyond = torch.stack((around.norm(dim=-1) - radius, along.abs() - half), -1)
        return beyond.clamp(min=0).norm(dim=-1) + beyond.amax(-1).clamp(max=0)

    return distance


def ring(centre: Triple, axis: int, radius: float, thickness: float) -> Distance:
    """A torus around an axis; ``thickness``: the radius of its tube."""

    def distance(p: Tensor) -> Tensor:
        along, around = _split(p, centre, axis)
        return torch.hypot(around.norm(dim=-1) - radius, along) - thickness

    return distance


def carrot(start: Triple, end: Triple, first: float, last: float) -> Distance:
    """A round stick whose radius goes from ``first`` to ``last``; near it, this is about the distance."""

    def distance(p: Tensor) -> Tensor:
        way = p.new_tensor(end) - p.new_tensor(start)
        from_start = p - p.new_tensor(start)
        share = ((from_start @ way) / (way @ way)).clamp(0, 1)
        return (from_start - share[:, None] * way).norm(dim=-1) - (first + (last - first) * share)

    return distance


def without(solid: Distance, hole: Distance) -> Distance:
    return lambda p: torch.maximum(solid(p), -hole(p))


def _split(p: Tensor, centre: Triple, axis: int) -> tuple[Tensor, Tensor]:
    """Coordinates along an axis through the centre ``[p]``, and across it ``[p, 2]``."""
    local = p - p.new_tensor(centre)
    return local[:, axis], local[:, [k for k in range(3) if k != axis]]


def surface_of(parts: tuple[Part, ...], resolution: int = _RESOLUTION) -> Mesh:
    """The coloured surface of a union inside the unit cube, fitted to it.

    Raises `InputError` where there is no part in the cube.
    """
    axis = torch.linspace(-0.5, 0.5, resolution)
    points = torch.cartesian_prod(axis, axis, axis)
    nearest = torch.stack([part.distance(points) for part in parts]).amin(0)
    mesh = marching_cubes((_CENTRED - nearest).clamp(min=0).view((resolution,) * 3), _CENTRED).mesh
    which = torch.stack([part.distance(mesh.vertices) for part in parts]).argmin(0)
    colours = torch.tensor([part.colour for part in parts])[which]
    return replace(mesh, colours=colours).fitted()


# --- objects ------------------------------------------------------------------------------------------------

_COAL = (0.12, 0.12, 0.14)


def snowman() -> tuple[Part, ...]:
    """Three balls with a carrot, coal, a scarf and a hat."""
    snow, wool = (0.66, 0.83, 0.95), (0.80, 0.10, 0.15)
    return (
        Part(ball((0, -0.27, 0), 0.22), snow),
        Part(ball((0, 0.06, 0), 0.155), snow),
        Part(ball((0, 0.29, 0), 0.12), snow),
        Part(carrot((0, 0.29, 0.10), (0, 0.28, 0.28), 0.04, 0.008), (0.98, 0.50, 0.06)),
        *(Part(ball((side * 0.05, 0.335, 0.103), 0.022), _COAL) for side in (-1, 1)),
        *(Part(ball((0, height, depth), 0.028), _COAL) for height, depth in ((0.10, 0.148), (0.0, 0.146))),
        Part(ring((0, 0.195, 0), 1, 0.095, 0.036), wool),
        Part(box((0.07, 0.10, 0.15), (0.03, 0.10, 0.02), 0.01), wool),
        Part(cylinder((0, 0.385, 0), 1, 0.14, 0.014), _COAL),
        Part(cylinder((0, 0.44, 0), 1, 0.085, 0.055), _COAL),
    )


def chair() -> tuple[Part, ...]:
    """A red back, a wooden seat, four dark legs."""
    red, wood, dark = (0.78, 0.16, 0.18), (0.80, 0.58, 0.32), (0.30, 0.20, 0.14)
    return (
        Part(box((0, -0.06, 0), (0.23, 0.035, 0.23), 0.015), wood),
        Part(box((0, 0.22, -0.205), (0.23, 0.26, 0.03), 0.02), red),
        *(Part(box((x * 0.195, -0.28, z * 0.195), (0.03, 0.2, 0.03)), dark) for x in (-1, 1) for z in (-1, 1)),
    )


def mug() -> tuple[Part, ...]:
    """A mug of coffee with its handle to the right of who looks at the label."""
    glaze, body = (0.10, 0.55, 0.55), cylinder((0, 0, 0), 1, 0.27, 0.33)
    return (
        Part(without(body, cylinder((0, 0.08, 0), 1, 0.225, 0.33)), glaze),
        Part(cylinder((0, 0.1, 0), 1, 0.23, 0.1), (0.30, 0.17, 0.08)),
        Part(without(ring((0.28, 0, 0), 2, 0.16, 0.045), body), glaze),
        Part(box((0, 0.0, 0.25), (0.13, 0.15, 0.035), 0.02), (0.98, 0.80, 0.15)),
        Part(ball((0, 0.0, 0.27), 0.075), (0.85, 0.15, 0.2)),
    )


def car() -> tuple[Part, ...]:
    """A car with its lights on: yellow ones in front, red ones behind."""
    paint, glass, tyre = (0.16, 0.32, 0.80), (0.55, 0.75, 0.85), _COAL
    return (
        Part(box((0, -0.09, 0), (0.22, 0.09, 0.45), 0.05), paint),
        Part(box((0, 0.07, -0.10), (0.175, 0.11, 0.24), 0.05), glass),
        Part(box((0, 0.165, -0.10), (0.16, 0.02, 0.2), 0.02), paint),
        *(Part(cylinder((x * 0.2, -0.17, z * 0.27), 0, 0.11, 0.05), tyre) for x in (-1, 1) for z in (-1, 1)),
        *(Part(ball((x * 0.13, -0.07, 0.435), 0.055), (1.0, 0.88, 0.25)) for x in (-1, 1)),
        *(Part(box((x * 0.13, -0.07, -0.44), (0.06, 0.04, 0.03), 0.015), (0.85, 0.08, 0.1)) for x in (-1, 1)),
    )


SHAPES: Mapping[str, Callable[[], tuple[Part, ...]]] = {
    "snowman": snowman,
    "chair": chair,
    "mug": mug,
    "car": car,
}
"""The objects that need no file, by name."""


def clownfish(mesh: Mesh) -> Mesh:
    """A mesh painted orange, with white bands across z that have dark rims."""
    orange, white = mesh.vertices.new_tensor((0.96, 0.45, 0.08)), mesh.vertices.new_tensor((0.95, 0.95, 0.92))
    dark = mesh.vertices.new_tensor(_COAL)
    away = (mesh.vertices[:, 2, None] - mesh.vertices.new_tensor((0.17, -0.10))).abs().amin(-1, keepdim=True)
    colours = torch.where(away < 0.055, white, torch.where(away < 0.075, dark, orange))
    return replace(mesh, uv=None, texture=None, colours=colours)


SHIPPED = ("spot", "blub", *SHAPES)
"""What the shipped prior has seen, and so what it knows: two works in the public domain, and objects of this file."""


def shipped_mesh(name: str) -> Mesh:
    """The very mesh behind a word of the shipped prior: its ground truth, fitted to the unit cube.

    Raises `InputError` for another word, and where a file of `degauss.threed.datasets` is missing.
    """
    check_option("the object", name, SHIPPED)
    if name in SHAPES:
        return surface_of(SHAPES[name]())
    mesh = read_known(name)
    return clownfish(mesh) if name == "blub" else mesh
