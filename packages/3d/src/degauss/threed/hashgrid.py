r"""A field in hash tables of several resolutions and a small network: fine detail in little memory.

Level l lays a lattice of N_l cells a side over the cube. Each of its points owns a row of F numbers in the level's
table: a row of its own where the lattice fits the table, else the row

    (x xor 2654435761 y xor 805459861 z) mod T        (Mueller et al. 2022, Instant-NGP, eq. 4),

shared with the points of the same hash; training lets the ones on surfaces win. The interpolated rows e of all
levels go through one hidden layer,

    z = W e + b,   (v, features) = V softplus(z) + c,   v += blob(x),
    sigma = scale log(1 + e^v),   rgb = 1 / (1 + e^-features),   grad v = (V_v sigmoid(z)) W grad e + grad blob,

where grad e is interpolated from the same rows, so that normals are exact and cost no second derivative.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from degauss.core.noise import Noise
from degauss.threed.volume import HALF, Blob, March, Sample, Volume

_SECOND, _THIRD = 2654435761, 805459861
_FLAT = 1e-8
"""The slope of v, per world unit, below which there is no normal."""


@dataclass(frozen=True)
class HashConfig:
    """``levels`` from ``coarsest`` to ``finest`` cells a side, in geometric progression.

    ``rows``: of a table, T, a power of two. ``features``: F. ``hidden``: units of the network. ``scale``: of the
    density, 1 / world units. ``blob``: what is there at first.
    """

    levels: int = 8
    coarsest: int = 8
    finest: int = 256
    rows: int = 1 << 16
    features: int = 4
    hidden: int = 32
    scale: float = 10.0
    blob: Blob = field(default_factory=Blob)
    march: March = field(default_factory=March)

    def __post_init__(self) -> None:
        small = min(self.levels, self.coarsest, self.features, self.hidden, self.rows) < 1
        if small or self.finest < self.coarsest or self.rows & (self.rows - 1) or self.scale <= 0:
            raise ValueError(f"a hash grid has levels from coarse to fine and a power of two of rows, got {self}")

    @property
    def cells(self) -> tuple[int, ...]:
        """N_l of every level."""
        growth = (self.finest / self.coarsest) ** (1 / max(1, self.levels - 1))
        return tuple(math.floor(self.coarsest * growth**level + 1e-9) for level in range(self.levels))


class HashGrid(Volume):
    """A grey ball to start with, its numbers drawn from ``seed``.

    ``tables``: of each level ``[features, rows]``, no more rows than its lattice has points.
    """

    def __init__(self, config: HashConfig = HashConfig(), seed: int = 0) -> None:
        super().__init__(config.march)
        self.config = config
        noise = Noise(seed, (0,))
        width = config.levels * config.features

        def drawn(draw: int, reach: float, *shape: int) -> nn.Parameter:
            return nn.Parameter(reach * (2 * noise.uniform(torch.empty(1, *shape), draw)[0] - 1))

        rows = (min(config.rows, (cells + 1) ** 3) for cells in config.cells)
        self.tables = nn.ParameterList(
            drawn(2 + level, 1e-4, config.features, count) for level, count in enumerate(rows)
        )
        self.inner = drawn(0, width**-0.5, config.hidden, width)
        self.inner_bias = nn.Parameter(torch.zeros(config.hidden))
        self.outer = drawn(1, config.hidden**-0.5, 4, config.hidden)
        self.outer_bias = nn.Parameter(torch.zeros(4))

    def forward(self, points: Tensor) -> Sample:
        encoded, *slopes = self._encode(points, with_slopes)
        z = self._hidden(encoded)
        v, features = torch.addmm(self.outer_bias[:, None], self.outer, softplus(z)).split((1, 3))
        pull = self.inner.mT @ (self.outer[0][:, None] * z.sigmoid())
        slope = torch.stack([(pull * part).sum(0) for part in slopes], -1) + self.config.blob.slope(points)
        steepness = slope.square().sum(-1, keepdim=True).clamp(min=_FLAT**2).sqrt()
        return Sample(self._activated(v[0], points), features.sigmoid().mT, -slope / steepness)

    def density(self, points: Tensor) -> Tensor:
        (encoded,) = self._encode(points, alone)
        return self._activated(self.outer[0] @ softplus(self._hidden(encoded)) + self.outer_bias[0], points)

    def _hidden(self, encoded: Tensor) -> Tensor:
        return torch.addmm(self.inner_bias[:, None], self.inner, encoded)

    def _activated(self, v: Tensor, points: Tensor) -> Tensor:
        return self.config.scale * softplus(v + self.config.blob(points))

    def _encode(self, points: Tensor, interpolate: Interpolate) -> tuple[Tensor, ...]:
        """What ``interpolate`` makes of all levels around points ``[p, 3]``, each ``[levels * features, p]``."""
        levels: list[tuple[Tensor, ...]] = []
        for table, cells in zip(self.tables, self.config.cells, strict=True):
            per_unit = cells / (2 * HALF)
            position = (points.mT + HALF) * per_unit
            low = position.detach().floor().clamp(0, cells - 1)
            rows = corner_rows(low.long(), cells, table.shape[1])
            # A gather's backward adds along rows, several times as fast as that of indexing.
            corners = table.gather(1, rows.flatten().expand(len(table), -1)).reshape(len(table), *rows.shape)
            levels.append(interpolate(corners, position - low, per_unit))
        return tuple(torch.cat(parts) for parts in zip(*levels, strict=True))


# --- interpolation in a cell ----------------------------------------------------------------------------------

Interpolate = Callable[[Tensor, Tensor, float], tuple[Tensor, ...]]
"""Of corners ``[features, z, y, x, p]``, fractions (x, y, z) within the cell ``[3, p]``, and cells per world unit."""


def corner_rows(low: Tensor, cells: int, rows: int) -> Tensor:
    """The rows of the corners of cells, ``[z, y, x, p]`` with two of each axis, from their lowest, ``[3, p]``."""
    x, y, z = torch.stack((low, low + 1), 1)
    z, y, x = z[:, None, None], y[None, :, None], x[None, None]
    side = cells + 1
    if side**3 <= rows:
        return (z * side + y) * side + x
    return (x ^ (y * _SECOND) ^ (z * _THIRD)) & (rows - 1)


def alone(corners: Tensor, fraction: Tensor, per_unit: float) -> tuple[Tensor]:
    """Linear interpolation: values ``[features, p]``."""
    del per_unit
    for part in fraction.flip(0):
        corners = torch.lerp(corners[:, 0], corners[:, 1], part)
    return (corners,)


def with_slopes(corners: Tensor, fraction: Tensor, per_unit: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Linear interpolation and its derivatives by x, y and z: four of ``[features, p]``."""
    x, y, z = fraction

    def between(ends: Tensor, part: Tensor) -> Tensor:
        return torch.lerp(ends[:, 0], ends[:, 1], part)

    def rise(ends: Tensor) -> Tensor:
        return per_unit * (ends[:, 1] - ends[:, 0])

    plane = between(corners, z)
    line = between(plane, y)
    by_z = between(between(rise(corners), y), x)
    return between(line, x), rise(line), between(rise(plane), x), by_z
