"""The options that say how a known volume is scanned, and the scan that follows from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from degauss.core.errors import InputError, check_range

if TYPE_CHECKING:
    from torch import Tensor

    from degauss.core.options import Report
    from degauss.medical.geometry import Beam
    from degauss.medical.scans import Scan
    from degauss.medical.volumes import Volume


@dataclass(frozen=True, kw_only=True)
class Scanner:
    """A scanner of CT and one of MR, and what a volume is resampled to before it is scanned."""

    views: int = 8
    """Views of the CT."""
    arc: float | None = None
    """Degrees that the views are spread over; 180 unless given, with --fan 360. 90 is a limited angle."""
    fan: bool = False
    """Rays from a source to a flat detector, instead of parallel ones."""
    source_to_axis: float = 570.0
    """Of the fan, mm."""
    source_to_detector: float = 1040.0
    """Of the fan, mm."""
    photons: float | None = None
    """Count photons: so many per ray in air."""
    sigma: float = 0.0
    """White noise: its deviation on CT's line integrals (no unit), or on k-space as a share of the image's scale."""
    acceleration: float | None = None
    """How many times fewer lines of k-space are measured than there are; 4 unless given."""
    centre: float | None = None
    """The share of all lines that lie in the middle of k-space and are always measured; 0.08 unless given."""
    lines: Literal["random", "even"] | None = None
    """How the other lines are chosen; at random unless given."""
    spokes: int | None = None
    """In place of lines: so many spokes through the middle of k-space, a golden angle apart. Needs finufft."""
    spoke_samples: int | None = None
    """Points of each spoke; twice the pixels of the longer side unless given."""
    phase: float = 0.0
    """A smooth phase of this deviation (radians) on the MR image; at 0 it is real, and known to be."""
    size: int | None = None
    """Resample to so many pixels a side, square, over the same field of view."""
    slice_spacing: float | None = None
    """Resample to slices so far apart, mm."""
    slices: str | None = None
    """Take these slices only, from 0 at the feet, the last left out, such as 40:72. After resampling."""
    unit: Literal["auto", "HU", "arbitrary"] = "auto"
    """What the values are; auto takes a volume with air below -500 for Hounsfield units."""
    spacing: tuple[float, float, float] | None = None
    """Millimetres from slice to slice, row to row and column to column, for arrays that do not say; 1 unless given."""
    straighten: float | None = None
    """Resample tilted or unevenly spaced DICOM slices to so many mm apart; they are refused unless this is given."""
    seed: int = 0
    """Everything random follows from it."""

    def check(self) -> None:
        """What can be said before any file is read."""
        check_range("sigma", self.sigma, 0)
        if self.photons is not None:
            check_range("photons", self.photons, 1)
        if self.spokes is not None:
            check_range("spokes", self.spokes, 1)
            lines = {"acceleration": self.acceleration, "centre": self.centre, "lines": self.lines}
            for name, value in lines.items():
                if value is not None:
                    raise InputError(f"--{name} is of lines of k-space, but --spokes asks for spokes in their place.")
        if self.spoke_samples is not None:
            check_range("spoke-samples", self.spoke_samples, 2)
            if self.spokes is None:
                raise InputError("--spoke-samples says how spokes are measured, but no --spokes are asked for.")
        if self.size is not None:
            check_range("size", self.size, 8, unit="pixels")
        if self.slice_spacing is not None and not 0 < self.slice_spacing < float("inf"):
            raise InputError(f"slice-spacing must be a length in mm above 0, but is {self.slice_spacing}.")

    def volume_in(self, path: Path) -> Volume:
        """The volume of a file or folder, resampled and cropped as asked."""
        from degauss.medical.files import read_volume

        unit = None if self.unit == "auto" else self.unit
        volume = read_volume(path, unit=unit, spacing=self.spacing, straighten=self.straighten)
        if self.size is not None or self.slice_spacing is not None:
            volume = volume.resampled(*self._grid(volume))
        return volume if self.slices is None else volume.cropped(_range(self.slices))

    def _grid(self, volume: Volume) -> tuple[tuple[float, float, float], tuple[int, int, int]]:
        """Spacing and shape of the volume to scan: square slices around the whole field of view, if asked."""
        (slices, rows, columns), (dz, dy, dx) = volume.data.shape, volume.spacing
        if self.slice_spacing is not None:
            slices, dz = max(1, round(slices * dz / self.slice_spacing)), self.slice_spacing
        if self.size is not None:
            dy = dx = max(rows * dy, columns * dx) / self.size
            rows = columns = self.size
        return (dz, dy, dx), (slices, rows, columns)

    def ct(self, volume: Volume, *, truth: bool, report: Report | None = None) -> Scan:
        """The scan of a volume in Hounsfield units."""
        if self.spokes is not None:
            raise InputError("--spokes is of MRI, but the volume is scanned by CT.")
        from degauss.medical.simulation import simulate_ct

        beam = self._beam(volume)
        return simulate_ct(
            volume, beam, photons=self.photons, sigma=self.sigma, seed=self.seed, truth=truth, report=report
        )

    def _beam(self, volume: Volume) -> Beam:
        from degauss.medical.geometry import FanBeam, Grid, ParallelBeam, evenly

        grid = Grid(volume.data.shape[1], volume.data.shape[2], volume.spacing[1:])
        angles = evenly(self.views, self.arc if self.arc is not None else 360.0 if self.fan else 180.0)
        if self.fan:
            return FanBeam.covering(grid, angles, self.source_to_axis, self.source_to_detector)
        return ParallelBeam.covering(grid, angles)

    def mr(self, volume: Volume, *, truth: bool) -> Scan:
        """The k-space of a magnitude image along lines or spokes, as one coil sees it."""
        from degauss.medical.radial import golden_angles
        from degauss.medical.simulation import simulate_mri, simulate_radial

        if self.spokes is None:
            mask = self._mask(volume.data.shape[2])
            return simulate_mri(volume, mask, sigma=self.sigma, phase=self.phase, seed=self.seed, truth=truth)
        samples = self.spoke_samples or 2 * max(volume.data.shape[1:])
        angles = golden_angles(self.spokes)
        return simulate_radial(volume, angles, samples, sigma=self.sigma, phase=self.phase, seed=self.seed, truth=truth)

    def _mask(self, lines: int) -> Tensor:
        from degauss.core.noise import Noise
        from degauss.medical.mri import even_lines, random_lines

        acceleration = 4.0 if self.acceleration is None else self.acceleration
        centre = 0.08 if self.centre is None else self.centre
        if self.lines == "even":
            return even_lines(lines, acceleration, centre)
        return random_lines(lines, acceleration, centre, Noise(self.seed, range(1)).fork(1))[0, 0]


def _range(text: str) -> range:
    first, colon, last = text.partition(":")
    if not (colon and first.isdecimal() and last.isdecimal()):
        raise InputError(f"slices must be two numbers such as 40:72, but is {text!r}.")
    return range(int(first), int(last))
