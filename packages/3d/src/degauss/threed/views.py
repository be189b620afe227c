"""Where images are seen from, as far as a prior is told: two angles an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from degauss.threed.cameras import Cameras


@dataclass(frozen=True, eq=False)
class Views:
    """``azimuth``, ``elevation`` ``[n]``: degrees, as in `degauss.threed.cameras`; azimuths are taken modulo 360.

    Raises ValueError where the two do not fit each other.
    """

    azimuth: Tensor
    elevation: Tensor

    def __post_init__(self) -> None:
        if self.azimuth.ndim != 1 or self.azimuth.shape != self.elevation.shape:
            shapes = f"{list(self.azimuth.shape)} and {list(self.elevation.shape)}"
            raise ValueError(f"views are an azimuth and an elevation [n] each, got {shapes}")

    @classmethod
    def of(cls, cameras: Cameras) -> Views:
        """Where the cameras are, seen from the origin."""
        return cls(*cameras.angles())

    def __len__(self) -> int:
        return len(self.azimuth)

    def __getitem__(self, rows: Sequence[int] | slice | Tensor) -> Views:
        """Some of the views."""
        return Views(self.azimuth[rows], self.elevation[rows])

    def to(self, device: torch.device | str) -> Views:
        """The same views on another device."""
        return Views(self.azimuth.to(device), self.elevation.to(device))

    def at(self, azimuth: float | Tensor) -> Views:
        """From the same heights, but from ``azimuth`` degrees, a number or ``[n]``."""
        turned = torch.as_tensor(azimuth, dtype=self.azimuth.dtype, device=self.azimuth.device)
        return Views(turned.expand_as(self.azimuth), self.elevation)

    @property
    def direction(self) -> Tensor:
        """Unit vectors from the origin to where the views are from, float64 ``[n, 3]``."""
        turn, rise = torch.deg2rad(self.azimuth.double()), torch.deg2rad(self.elevation.double())
        return torch.stack((turn.sin() * rise.cos(), rise.sin(), turn.cos() * rise.cos()), -1)
