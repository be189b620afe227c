r"""Slices made of ellipses, whose line integrals are known exactly: the oracle of every projector.

A line {p + l w} crosses an ellipse, moved and turned onto the unit circle, for a length 2 sqrt(b^2 - a c) / a, with
a = w'.w', b = p'.w', c = p'.p' - 1 of the mapped point and direction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from degauss.medical.geometry import Beam, Grid, Vectors


@dataclass(frozen=True)
class Ellipse:
    """``value`` inside, 0 outside. ``centre`` and half ``axes`` in mm, turned left by ``angle`` degrees."""

    value: float
    axes: tuple[float, float]
    centre: tuple[float, float] = (0.0, 0.0)
    angle: float = 0.0

    def onto_circle(self, points: Vectors, *, moved: bool = True) -> Vectors:
        """``points [..., 2]``, or with ``moved`` false directions, as seen where the ellipse is the unit circle."""
        angle = np.deg2rad(self.angle)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        return (points - (np.asarray(self.centre) if moved else 0.0)) @ turn / np.asarray(self.axes)


def line_integrals(ellipses: Sequence[Ellipse], beam: Beam) -> Tensor:
    """The exact integrals along every ray of a beam, float64 ``[views, bins]``, in the values' unit times mm."""
    points, directions = beam.rays()
    total = np.zeros(beam.shape)
    for ellipse in ellipses:
        p, w = ellipse.onto_circle(points), ellipse.onto_circle(directions, moved=False)
        a, b, c = (w * w).sum(-1), (p * w).sum(-1), (p * p).sum(-1) - 1
        total += ellipse.value * 2 * np.sqrt(np.maximum(b * b - a * c, 0)) / a
    return torch.from_numpy(total)


def rasterised(ellipses: Sequence[Ellipse], grid: Grid, samples: int = 8) -> Tensor:
    """The mean over each pixel, from ``samples`` x ``samples`` points in it: float64 ``[rows, columns]``."""
    dy, dx = grid.spacing
    fine = Grid(grid.rows * samples, grid.columns * samples, (dy / samples, dx / samples))
    points, values = fine.centres(), np.zeros(fine.shape)
    for ellipse in ellipses:
        values += ellipse.value * ((ellipse.onto_circle(points) ** 2).sum(-1) <= 1)
    return torch.from_numpy(values.reshape(grid.rows, samples, grid.columns, samples).mean((1, 3)))


def shepp_logan(radius: float) -> tuple[Ellipse, ...]:
    """The head phantom of Shepp & Logan with Toft's contrast, values in [0, 1], within ``radius`` mm of the origin."""
    table = (
        (1.0, 0.69, 0.92, 0.0, 0.0, 0.0),
        (-0.8, 0.6624, 0.874, 0.0, -0.0184, 0.0),
        (-0.2, 0.11, 0.31, 0.22, 0.0, -18.0),
        (-0.2, 0.16, 0.41, -0.22, 0.0, 18.0),
        (0.1, 0.21, 0.25, 0.0, 0.35, 0.0),
        (0.1, 0.046, 0.046, 0.0, 0.1, 0.0),
        (0.1, 0.046, 0.046, 0.0, -0.1, 0.0),
        (0.1, 0.046, 0.023, -0.08, -0.605, 0.0),
        (0.1, 0.023, 0.023, 0.0, -0.606, 0.0),
        (0.1, 0.023, 0.046, 0.06, -0.605, 0.0),
    )
    return tuple(
        Ellipse(value, (a * radius, b * radius), (x * radius, y * radius), angle) for value, a, b, x, y, angle in table
    )
