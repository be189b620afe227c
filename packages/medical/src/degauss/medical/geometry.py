r"""Where the pixels of a slice lie, and along which lines a scanner measures it. Lengths in mm, angles in degrees.

The origin is the middle of the slice, x points along its columns to the right and y up, so row 0 has the largest y:

    x = (column - (columns - 1) / 2) dx,        y = ((rows - 1) / 2 - row) dy.

At angle theta the detector's axis is u = (cos, sin) and the beam's middle ray runs along v = (-sin, cos). A ray is a
line {p + l w}, given by a point p and a unit vector w.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from degauss.core.errors import InputError

Vectors = NDArray[np.float64]
"""Points or directions in the plane, ``[..., 2]``: x, y."""


@dataclass(frozen=True)
class Grid:
    """The pixels of a slice: how many, and the ``spacing`` of their centres, mm: dy in a column, dx in a row."""

    rows: int
    columns: int
    spacing: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        if self.rows < 1 or self.columns < 1:
            raise InputError(f"A slice needs pixels, but has {self.rows} rows and {self.columns} columns.")
        _check_lengths("the spacing of the pixels", self.spacing)

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows, self.columns

    @property
    def diagonal(self) -> float:
        """From corner to corner, mm."""
        return math.hypot(self.rows * self.spacing[0], self.columns * self.spacing[1])

    def centres(self) -> Vectors:
        """The centres of the pixels, ``[rows, columns, 2]`` mm."""
        dy, dx = self.spacing
        x = (np.arange(self.columns) - (self.columns - 1) / 2) * dx
        y = ((self.rows - 1) / 2 - np.arange(self.rows)) * dy
        return np.stack(np.broadcast_arrays(x[None, :], y[:, None]), axis=-1)


@dataclass(frozen=True)
class Detector:
    """A straight row of ``bins``, ``spacing`` mm apart, the middle of it moved by ``offset`` mm along its axis."""

    bins: int
    spacing: float = 1.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        if self.bins < 1:
            raise InputError(f"A detector needs bins, but has {self.bins}.")
        _check_lengths("the spacing of the detector's bins", (self.spacing,))
        if not math.isfinite(self.offset):
            raise InputError(f"The detector's offset must be a length in mm, but is {self.offset}.")

    def centres(self) -> NDArray[np.float64]:
        """Where the bins lie along the detector's axis, ``[bins]`` mm."""
        return (np.arange(self.bins, dtype=np.float64) - (self.bins - 1) / 2) * self.spacing + self.offset


@dataclass(frozen=True)
class ParallelBeam:
    """Parallel rays at each of ``angles`` (degrees): the ray of bin s is the line of all points with p . u = s."""

    angles: tuple[float, ...]
    detector: Detector

    def __post_init__(self) -> None:
        _check_angles(self.angles)

    @classmethod
    def covering(cls, grid: Grid, angles: Sequence[float]) -> ParallelBeam:
        """The beam that sees the whole slice in every view, with bins as wide as a pixel."""
        return cls(tuple(angles), _covering(grid.diagonal, min(grid.spacing)))

    @property
    def shape(self) -> tuple[int, int]:
        """Views and bins."""
        return len(self.angles), self.detector.bins

    def rays(self) -> tuple[Vectors, Vectors]:
        """A point of each ray (mm) and its unit direction, both ``[views, bins, 2]``."""
        u, v = _axes(self.angles)
        points = self.detector.centres()[None, :, None] * u[:, None]
        return points, np.broadcast_to(v[:, None], points.shape)


@dataclass(frozen=True)
class FanBeam:
    """Rays from a source that turns around the origin to a flat detector opposite it.

    At angle theta the source is at ``-source_to_axis * v`` and the detector's middle at ``(source_to_detector -
    source_to_axis) * v``; distances in mm. The bins' spacing is measured on the detector itself.
    """

    angles: tuple[float, ...]
    detector: Detector
    source_to_axis: float
    source_to_detector: float

    def __post_init__(self) -> None:
        _check_angles(self.angles)
        if not 0 < self.source_to_axis <= self.source_to_detector < math.inf:
            found = f"{self.source_to_axis:g} and {self.source_to_detector:g} mm"
            raise InputError(f"The axis must lie between source and detector, but their distances are {found}.")

    @classmethod
    def covering(cls, grid: Grid, angles: Sequence[float], source_to_axis: float, source_to_detector: float) -> FanBeam:
        """The fan that sees the whole slice in every view, with bins as wide as a pixel's shadow at the axis."""
        radius = grid.diagonal / 2
        if source_to_axis <= radius:
            raise InputError(
                f"The source is {source_to_axis:g} mm from the axis, inside a slice of radius {radius:g} mm."
            )
        shadow = 2 * source_to_detector * math.tan(math.asin(radius / source_to_axis))
        detector = _covering(shadow, min(grid.spacing) * source_to_detector / source_to_axis)
        return cls(tuple(angles), detector, source_to_axis, source_to_detector)

    @property
    def shape(self) -> tuple[int, int]:
        """Views and bins."""
        return len(self.angles), self.detector.bins

    def rays(self) -> tuple[Vectors, Vectors]:
        """The source of each ray (mm) and the ray's unit direction, both ``[views, bins, 2]``."""
        u, v = _axes(self.angles)
        ends = self.detector.centres()[None, :, None] * u[:, None] + self.source_to_detector * v[:, None]
        sources = np.broadcast_to(-self.source_to_axis * v[:, None], ends.shape)
        return sources, ends / np.linalg.norm(ends, axis=-1, keepdims=True)


Beam = ParallelBeam | FanBeam


def evenly(views: int, arc: float = 180.0, start: float = 0.0) -> tuple[float, ...]:
    """Angles of ``views`` evenly over ``arc`` degrees from ``start`` on, the arc's end left out.

    Few views of 180 degrees are sparse-view CT, an arc below 180 is limited-angle CT; a fan needs 360.
    """
    if views < 1 or not (0 < abs(arc) <= 360):
        raise InputError(f"A scan needs views over an arc of up to 360 degrees, but has {views} views over {arc:g}.")
    return tuple(start + arc * i / views for i in range(views))


def _axes(angles: Sequence[float]) -> tuple[Vectors, Vectors]:
    theta = np.deg2rad(np.asarray(angles, dtype=np.float64))
    return np.stack((np.cos(theta), np.sin(theta)), axis=-1), np.stack((-np.sin(theta), np.cos(theta)), axis=-1)


def _covering(length: float, spacing: float) -> Detector:
    return Detector(math.ceil(length / spacing - 1e-9) | 1, spacing)  # odd: a bin looks through the middle


def _check_angles(angles: Sequence[float]) -> None:
    if not angles:
        raise InputError("A scan needs at least one view, but has none.")
    wrong = next((angle for angle in angles if not math.isfinite(angle)), None)
    if wrong is not None:
        raise InputError(f"The angles of a scan must be numbers of degrees, but one is {wrong}.")


def _check_lengths(what: str, lengths: Sequence[float]) -> None:
    for length in lengths:
        if not 0 < length < math.inf:
            raise InputError(f"Expected {what} to be a length in mm above 0, but it is {length}.")
