r"""The line integrals of a slice as one sparse matrix, by Joseph's method.

A ray steps from one column of pixels to the next (from one row to the next where it is steeper), and the slice between
two pixels of a column is interpolated linearly:

    (A x)_ray = l sum_k (1 - f_k) x[i_k, k] + f_k x[i_k + 1, k],    i_k + f_k = the ray's row at column k,

with l the length in mm of the ray between two columns (Joseph, IEEE Trans. Med. Imaging 1(3), 1982). The matrix does
not depend on the slice, so all slices of a volume are one product. Its transpose is stored as a matrix of its own:
the product with it is as fast, and it is the exact transpose, number for number.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from degauss.core.checkpoint import read_tensors, write_tensors
from degauss.core.errors import InputError
from degauss.core.files import atomic_path
from degauss.core.inverse import spectral_norm
from degauss.core.places import cache_root
from degauss.medical.geometry import Beam, Grid, Vectors

_FORMAT = 1
# Rays times steps that are worked out at once: the temporaries stay in the cache's reach, at about 100 MB.
_STEPS_AT_ONCE = 1 << 20
# A matrix with fewer numbers than this is made faster than it is worth a file.
_WORTH_A_FILE = 1 << 22


class CSR(NamedTuple):
    """A sparse matrix by rows: row r holds ``values[starts[r] : starts[r + 1]]`` in columns ``indices[...]``."""

    starts: Tensor
    indices: Tensor
    values: Tensor

    def __matmul__(self, dense: Tensor) -> Tensor:
        """The product with ``dense [columns, n]``, ``[rows, n]``."""
        # Faster on a CPU than torch's own sparse product, and the same on any device.
        values = self.values.to(dense.dtype)
        return functional.embedding_bag(
            self.indices, dense, self.starts, mode="sum", per_sample_weights=values, include_last_offset=True
        )

    def transposed(self, columns: int) -> CSR:
        """The transpose of a matrix of ``columns`` columns."""
        starts, indices, values = self
        rows = torch.arange(len(starts) - 1, dtype=torch.int32).repeat_interleave(starts.diff())
        order = torch.sort(indices, stable=True).indices
        return CSR(_starts(torch.bincount(indices, minlength=columns)), rows[order], values[order])

    def to(self, device: torch.device) -> CSR:
        return CSR(*(part.to(device) for part in self))


class SystemMatrix:
    """A matrix ``[views * bins, rows * columns]``, its transpose, and its ``norm`` (mm): what all slices share."""

    def __init__(self, forward: CSR, pixels: int, norm: float | None = None) -> None:
        self.forward = forward
        self.transpose = forward.transposed(pixels)
        self._elsewhere: dict[torch.device, tuple[CSR, CSR]] = {}
        self.norm = spectral_norm(self, torch.empty(1, pixels)) if norm is None else norm

    def __call__(self, x: Tensor, /) -> Tensor:
        """The rays of slices ``[slices, rows * columns]``, ``[slices, views * bins]``."""
        return (self.on(x.device)[0] @ x.mT.contiguous()).mT

    def adjoint(self, y: Tensor, /) -> Tensor:
        """The transpose, ``[slices, views * bins]`` -> ``[slices, rows * columns]``."""
        return (self.on(y.device)[1] @ y.mT.contiguous()).mT

    def on(self, device: torch.device) -> tuple[CSR, CSR]:
        """The matrix and its transpose on a device; copies are kept."""
        if device.type == "cpu":
            return self.forward, self.transpose
        if device not in self._elsewhere:
            self._elsewhere[device] = self.forward.to(device), self.transpose.to(device)
        return self._elsewhere[device]


@lru_cache(maxsize=4)
def system_matrix(grid: Grid, beam: Beam) -> SystemMatrix:
    """The matrix of a geometry, made once: it is kept in memory and, where making it takes long, in the user's cache.

    Its values are float32. Raises `InputError` if no ray meets the slice.
    """
    about = {"format": _FORMAT, "beam": type(beam).__name__, "grid": asdict(grid), "geometry": asdict(beam)}
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    path = cache_root() / "medical" / f"joseph-{key[:32]}.safetensors"
    pixels = grid.rows * grid.columns
    if path.is_file():
        try:
            kept = read_tensors(path)
            return SystemMatrix(CSR(kept["starts"], kept["indices"], kept["values"]), pixels, float(kept["norm"]))
        except (InputError, KeyError):
            pass  # damaged: it is made again, and replaced
    forward = joseph(grid, beam)
    if not len(forward.values):
        raise InputError(
            "No ray of the scan meets the slice: check the detector's offset and the spacing of the pixels."
        )
    matrix = SystemMatrix(forward, pixels)
    if len(forward.values) >= _WORTH_A_FILE:
        norm = torch.tensor(matrix.norm, dtype=torch.float64)
        with atomic_path(path) as partial:  # the transpose is quicker to sort again than to read
            write_tensors(partial, {**forward._asdict(), "norm": norm})
    return matrix


def expected_bytes(grid: Grid, beam: Beam) -> int:
    """About how much memory `system_matrix` keeps for a geometry; at its making, a copy more. From above."""
    views, bins = beam.shape
    return 2 * 8 * 2 * views * bins * max(grid.shape)


def joseph(grid: Grid, beam: Beam) -> CSR:
    """The matrix of a geometry in mm, float32 with int32 indices: ray (view, bin) is row ``view * bins + bin``."""
    parts = list(_parts(grid, beam))
    counts, indices, values = (torch.from_numpy(np.concatenate(part)) for part in zip(*parts, strict=True))
    if len(values) >= 2**31:
        need = len(values) * 16 / 2**30
        raise InputError(
            f"The scan's matrix would hold {len(values)} numbers ({need:.0f} GiB): use fewer views or bins."
        )
    return CSR(_starts(counts), indices, values)


def _starts(counts: Tensor) -> Tensor:
    return functional.pad(counts.cumsum(0), (1, 0)).to(torch.int32)


def _parts(grid: Grid, beam: Beam) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]]:
    """For one block of rays after another: numbers in each row, their columns and values."""
    points, directions = (part.reshape(-1, 2) for part in beam.rays())
    at_once = max(1, _STEPS_AT_ONCE // max(grid.shape))
    for first in range(0, len(points), at_once):
        yield _rays(grid, points[first : first + at_once], directions[first : first + at_once])


def _rays(
    grid: Grid, points: Vectors, directions: Vectors
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
    # A ray in pixels: columns grow with x and rows fall with y. Its parameter still counts mm.
    dy, dx = grid.spacing
    point = np.stack((points[:, 0] / dx + (grid.columns - 1) / 2, -points[:, 1] / dy + (grid.rows - 1) / 2))
    slope = np.stack((directions[:, 0] / dx, -directions[:, 1] / dy))
    # Along the axis where it passes more pixels the ray takes steps; across it, it is interpolated.
    flat = np.abs(slope[0]) >= np.abs(slope[1])
    along, across = np.where(flat, point, point[::-1])
    speed, drift = np.where(flat, slope, slope[::-1])
    steps, width = np.where(flat, [[grid.columns], [grid.rows]], [[grid.rows], [grid.columns]])[:, :, None]
    stride, across_stride = np.where(flat, [[1], [grid.columns]], [[grid.columns], [1]]).astype(np.int32)[:, :, None]

    k = np.arange(max(grid.shape), dtype=np.int32)
    turn = drift / speed
    place = (across - along * turn)[:, None] + turn[:, None] * k
    lower = np.floor(place)
    share = (place - lower).astype(np.float32)
    lower = np.clip(lower, -2, max(grid.shape)).astype(np.int32)
    column = k * stride + lower * across_stride
    length = (1 / np.abs(speed)).astype(np.float32)[:, None]
    inside = k < steps
    columns = np.stack((column, column + across_stride), axis=-1)
    values = np.stack(((1 - share) * length, share * length), axis=-1)
    kept = np.stack((inside & (lower >= 0) & (lower < width), inside & (lower >= -1) & (lower < width - 1)), axis=-1)
    kept &= values > 0
    return kept.sum(axis=(1, 2)), columns[kept], values[kept]
