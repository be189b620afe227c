r"""How a scan is measured: rays through the body, lines of k-space, or spokes of it.

A geometry has the shapes of the volume and of the measurement, the operator from one to the other, and what a file and
a reader are told of it. Both geometries of magnetic resonance have coils, and images that are real or complex.

**Weights.** Methods here are set up for an operator whose non-zero singular values are much alike: few conjugate
gradients then go far, and one strength of a penalty is right for coarse and for fine. Spokes are crowded in the middle
of k-space, so their values are weighed by what each stands for, W^(1/2) y = W^(1/2) A x + W^(1/2) n, before anything is
solved (`radial.spoke_weights`). Exact data have the same solutions with any weights. The noise is taken for white after
the weighing: too pessimistic a view of the middle, where many spokes say the same, and right where they are sparse.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, final

import numpy as np
import torch
from torch import Tensor

from degauss.core.errors import InputError
from degauss.core.fields import expect, integer, number, numbers, table
from degauss.core.inverse import LinearOperator
from degauss.medical.ct import Tomography
from degauss.medical.geometry import Beam, Detector, FanBeam, Grid, ParallelBeam
from degauss.medical.joseph import expected_bytes
from degauss.medical.mri import CartesianMRI, RealImages
from degauss.medical.radial import RadialMRI, largest_gap, nyquist_spokes, spoke_weights

Modality = Literal["ct", "mr"]
Facts = dict[str, str | int | float]


class Geometry(ABC):
    """How slices are measured."""

    modality: ClassVar[Modality]
    axes: ClassVar[str]
    """Of y, in words."""

    @property
    @abstractmethod
    def event(self) -> tuple[int, ...]:
        """The shape of one slice of x: ``(rows, columns)``, with 2 before them where x is complex."""

    @property
    @abstractmethod
    def reading(self) -> tuple[int, ...]:
        """The shape of one slice of y."""

    @property
    @abstractmethod
    def alike(self) -> bool:
        """Whether one slice is measured as the other, so that one is enough to find a norm."""

    @property
    @abstractmethod
    def measured(self) -> Tensor:
        """1 where y was measured and 0 where it is empty, broadcasting to ``reading``."""

    @property
    @abstractmethod
    def weights(self) -> Tensor | None:
        """W^(1/2) of the module's docstring, broadcasting to ``reading``; None: all 1."""

    @abstractmethod
    def operator(self, slab: int = 32) -> LinearOperator:
        """A in the scanner's units, from ``[batch, slices, *event]`` to ``[batch, slices, *reading]``.

        ``slab``: slices that CT projects at once (see `ct.Tomography`).
        """

    @abstractmethod
    def held_bytes(self, slices: int) -> int:
        """About what the operator holds at its peak, beside its argument and its result."""

    @abstractmethod
    def check(self, slices: int, spacing: tuple[float, float, float]) -> None:
        """Raise InputError where it is not for a volume of so many slices and voxels of ``spacing`` (dz, dy, dx) mm."""

    @property
    @abstractmethod
    def facts(self) -> Facts:
        """What intervals that were calibrated for it must find again."""

    @abstractmethod
    def __str__(self) -> str:
        """What was measured, for a reader."""

    @property
    @abstractmethod
    def about(self) -> dict[str, Any]:
        """What a file says of it (JSON), beside ``arrays``."""

    @property
    @abstractmethod
    def arrays(self) -> dict[str, Tensor | None]:
        """What a file keeps of it as arrays."""


@final
@dataclass(frozen=True, eq=False)
class CTGeometry(Geometry):
    """The pixels of a slice and the rays through it."""

    modality: ClassVar[Modality] = "ct"
    axes: ClassVar[str] = "views and bins"

    grid: Grid
    beam: Beam

    @property
    def event(self) -> tuple[int, ...]:
        return self.grid.shape

    @property
    def reading(self) -> tuple[int, ...]:
        return self.beam.shape

    @property
    def alike(self) -> bool:
        return True

    @property
    def measured(self) -> Tensor:
        return torch.ones(())

    @property
    def weights(self) -> Tensor | None:
        return None

    def operator(self, slab: int = 32) -> LinearOperator:
        return Tomography(self.grid, self.beam, slab)

    def held_bytes(self, slices: int) -> int:
        return expected_bytes(self.grid, self.beam)  # one matrix for all slices

    def check(self, slices: int, spacing: tuple[float, float, float]) -> None:
        if not np.allclose(self.grid.spacing, spacing[1:], rtol=1e-5):
            raise InputError(
                f"The grid's pixels are {self.grid.spacing} mm apart, but those of the volume {spacing[1:]} mm."
            )

    @property
    def facts(self) -> Facts:
        arc = max(self.beam.angles) - min(self.beam.angles)
        return {"beam": type(self.beam).__name__, "views": self.beam.shape[0], "arc": f"{arc:.3g} degrees"}

    def __str__(self) -> str:
        views, bins = self.beam.shape
        return f"{views} views of {bins} bins"

    @property
    def about(self) -> dict[str, Any]:
        kind = "fan" if isinstance(self.beam, FanBeam) else "parallel"
        return {"kind": kind, "grid": asdict(self.grid), "beam": asdict(self.beam)}

    @property
    def arrays(self) -> dict[str, Tensor | None]:
        return {}


class MRIGeometry(Geometry):
    """k-space of slices of ``shape`` (rows, columns), however it is gone through.

    ``sensitivities``: complex ``[(slices,) coils, rows, columns]``; None: one coil. ``real``: the image is known to
    have no phase, so x is ``[..., rows, columns]`` and not ``[..., 2, rows, columns]``.
    """

    modality: ClassVar[Modality] = "mr"
    shape: tuple[int, int]
    sensitivities: Tensor | None
    real: bool

    @property
    @abstractmethod
    def kspace(self) -> tuple[int, int]:
        """The last two axes of y."""

    @abstractmethod
    def _encoding(self) -> CartesianMRI | RadialMRI:
        """The operator on complex images ``[..., 2, rows, columns]``."""

    @cached_property
    def _operator(self) -> LinearOperator:
        return RealImages(self._encoding()) if self.real else self._encoding()

    @final
    def operator(self, slab: int = 32) -> LinearOperator:
        """A in the image's unit."""
        return self._operator

    @property
    @final
    def event(self) -> tuple[int, ...]:
        return (*(() if self.real else (2,)), *self.shape)

    @property
    @final
    def reading(self) -> tuple[int, ...]:
        coils = () if self.sensitivities is None else self.sensitivities.shape[-3:-2]
        return (*coils, 2, *self.kspace)

    @property
    @final
    def alike(self) -> bool:
        return self.sensitivities is None or self.sensitivities.ndim == 3

    @property
    @final
    def coils(self) -> int:
        """1 where there are no sensitivities."""
        return 1 if self.sensitivities is None else self.sensitivities.shape[-3]

    @final
    def held_bytes(self, slices: int) -> int:
        # Complex images of every coil: the coil's, its transform, and the copy that goes into it.
        return 3 * 8 * self.coils * slices * math.prod(self.shape)

    @final
    def check(self, slices: int, spacing: tuple[float, float, float]) -> None:
        maps = self.sensitivities
        fits = maps is None or (
            maps.ndim in (3, 4) and tuple(maps.shape[-2:]) == self.shape and maps.shape[:-3] in ((), (slices,))
        )
        if maps is not None and not fits:
            raise InputError(
                f"The sensitivities are {tuple(maps.shape)}, but k-space has {slices} slices of {self.shape} rows and "
                "columns."
            )
        _ = self._operator  # checks the values


@final
@dataclass(frozen=True, eq=False)
class CartesianGeometry(MRIGeometry):
    """Points of a grid of k-space. ``mask``: 1 where measured, ``[rows, columns]`` or ``[columns]``: whole lines."""

    axes: ClassVar[str] = "coils, parts, rows and columns"

    shape: tuple[int, int]
    mask: Tensor
    sensitivities: Tensor | None = None
    real: bool = False

    def __post_init__(self) -> None:
        if tuple(self.mask.shape) not in (self.shape, self.shape[1:]):
            raise InputError(f"The mask is {tuple(self.mask.shape)}, but k-space has {self.shape} rows and columns.")

    @property
    def kspace(self) -> tuple[int, int]:
        return self.shape

    def _encoding(self) -> CartesianMRI:
        return CartesianMRI(self.mask, self.sensitivities)

    @property
    def measured(self) -> Tensor:
        return self.mask

    @property
    def weights(self) -> Tensor | None:
        return None

    @property
    def facts(self) -> Facts:
        return {"measured": f"{float(self.mask.mean()):.2f} of k-space", "coils": self.coils}

    def __str__(self) -> str:
        return f"{float(self.mask.mean()):.1%} of k-space"

    @property
    def about(self) -> dict[str, Any]:
        return {"kind": "cartesian", "shape": list(self.shape), "real": self.real}

    @property
    def arrays(self) -> dict[str, Tensor | None]:
        return {"mask": self.mask, "sensitivities": self.sensitivities}


@final
@dataclass(frozen=True, eq=False)
class RadialGeometry(MRIGeometry):
    """Spokes through the middle of k-space, at ``angles`` (degrees), of ``samples`` points each (see `radial`)."""

    axes: ClassVar[str] = "coils, parts, spokes and samples"

    shape: tuple[int, int]
    angles: tuple[float, ...]
    samples: int
    sensitivities: Tensor | None = None
    real: bool = False

    @property
    def kspace(self) -> tuple[int, int]:
        return len(self.angles), self.samples

    def _encoding(self) -> RadialMRI:
        return RadialMRI(self.shape, self.angles, self.samples, self.sensitivities)

    @property
    def measured(self) -> Tensor:
        return torch.ones(())

    @property
    def weights(self) -> Tensor | None:
        return spoke_weights(self.shape, self.angles, self.samples).sqrt().float()

    @property
    def facts(self) -> Facts:
        gap = f"{largest_gap(self.angles):.3g} degrees"
        return {"spokes": len(self.angles), "samples": self.samples, "largest_gap": gap, "coils": self.coils}

    def __str__(self) -> str:
        spokes, needed = len(self.angles), nyquist_spokes(self.shape)
        share = f"{needed / spokes:.1f} times fewer than" if spokes < needed else "not below"
        return f"{spokes} spokes of {self.samples} samples ({share} Nyquist's {needed})"

    @property
    def about(self) -> dict[str, Any]:
        angles = list(self.angles)
        return {
            "kind": "radial",
            "shape": list(self.shape),
            "angles": angles,
            "samples": self.samples,
            "real": self.real,
        }

    @property
    def arrays(self) -> dict[str, Tensor | None]:
        return {"sensitivities": self.sensitivities}


# --- from a file ----------------------------------------------------------------------------------------------


def geometry_from(about: Mapping[str, Any], arrays: Mapping[str, Tensor]) -> Geometry:
    """A geometry from what a file says and keeps of it. Raises InputError naming what is missing or wrong."""
    kind = about.get("kind")
    known = ("parallel", "fan", "cartesian", "radial")
    expect("geometry.kind", kind in known, "'parallel', 'fan', 'cartesian' or 'radial'", repr(kind))
    if kind in ("parallel", "fan"):
        return _rays(about, parallel=kind == "parallel")
    rows, columns = some(about, "shape", 2)
    shape, maps, real = (int(rows), int(columns)), arrays.get("sensitivities"), about.get("real")
    expect("real", isinstance(real, bool), "true or false", repr(real))
    if kind == "cartesian":
        return CartesianGeometry(shape, needed(arrays, "mask"), maps, bool(real))
    return RadialGeometry(shape, numbers(about, "angles"), integer(about, "samples"), maps, bool(real))


def _rays(about: Mapping[str, Any], *, parallel: bool) -> CTGeometry:
    pixels, rays = table(about, "grid"), table(about, "beam")
    bins = table(rays, "detector")
    dy, dx = some(pixels, "spacing", 2)
    grid = Grid(integer(pixels, "rows"), integer(pixels, "columns"), (dy, dx))
    detector = Detector(integer(bins, "bins"), number(bins, "spacing"), number(bins, "offset"))
    angles = numbers(rays, "angles")
    if parallel:
        return CTGeometry(grid, ParallelBeam(angles, detector))
    distances = number(rays, "source_to_axis"), number(rays, "source_to_detector")
    return CTGeometry(grid, FanBeam(angles, detector, *distances))


def needed(arrays: Mapping[str, Tensor], name: str) -> Tensor:
    """An array of a file; InputError naming it where it is missing."""
    expect(name, name in arrays, "an array in the file", "missing")
    return arrays[name]


def some(about: Mapping[str, Any], field: str, count: int) -> tuple[float, ...]:
    """So many numbers; InputError naming the field where there are more or fewer."""
    values = numbers(about, field)
    expect(field, len(values) == count, f"{count} numbers", f"{len(values)} numbers")
    return values
