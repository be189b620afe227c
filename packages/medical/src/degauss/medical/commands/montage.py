"""`degauss-medical montage`: volumes side by side in three planes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from degauss.core.errors import InputError
from degauss.core.options import check_file

if TYPE_CHECKING:
    from degauss.medical.plots import Panel
    from degauss.medical.volumes import Volume


@dataclass(frozen=True, kw_only=True)
class Montage:
    """Show volumes side by side: axial, coronal and sagittal slices in their physical proportions.

    With a truth, each is followed by its error. All volumes must lie on one grid.
    """

    volumes: Positional[tuple[Path, ...]]
    """NIfTI, folders of DICOM slices, .npz or .npy."""
    names: tuple[str, ...] = ()
    """What is written above them; numbers unless given, as the name of a file may name a patient."""
    truth: Path | None = None
    """What they should be."""
    std: Path | None = None
    """A standard deviation to show."""
    provenance: Path | None = None
    """A provenance map to show: 1 where the measurement decided, 0 where the prior did."""
    unit: Literal["HU", "arbitrary"] | None = None
    """Of the volumes, where their files do not say; guessed from the truth, or the first, unless given."""
    window: tuple[float, float] | None = None
    """From black to white; -160 to 240 HU, or from 0 to the 99.5th percentile inside the head."""
    at: tuple[int, int, int] | None = None
    """Slice, row and column to show, from feet, front and right; the middle of the body unless given."""
    out: Path = Path("montage.png")
    """The picture to write: .png or .svg."""

    def run(self) -> None:
        from degauss.medical import plots
        from degauss.medical.metrics import body

        check_file(self.out, (".png", ".svg"))
        if not self.volumes:
            raise InputError("there is nothing to show: expected one volume or more.")
        if self.names and len(self.names) != len(self.volumes):
            raise InputError(f"{len(self.names)} names were given for {len(self.volumes)} volumes: name each or none.")
        if self.window is not None and not self.window[0] < self.window[1]:
            raise InputError(f"--window must go from black up to white, but is {self.window[0]:g} {self.window[1]:g}.")
        path = self.volumes[0] if self.truth is None else self.truth
        first = self._read(path)
        at = plots.middle(body(first.data, first.unit)) if self.at is None else self.at
        plots.montage(self.out, self._panels(first, path), first.spacing, at)
        print(f"wrote {self.out}: slice {at[0]}, row {at[1]}, column {at[2]}")

    def _panels(self, first: Volume, path: Path) -> list[Panel]:
        from degauss.medical import plots

        unit, window = first.unit, self.window or plots.window(first.data, first.unit)
        names = self.names or tuple(f"volume {i}" for i in range(1, len(self.volumes) + 1))
        panels: list[Panel] = []
        for name, file in zip(names, self.volumes, strict=True):
            data = self._read(file, first, path).data
            panels.append(plots.grey(name, data, window, unit))
            if self.truth is not None:
                panels.append(plots.error("error", data, first.data, window, unit))
        if self.truth is not None:
            panels.append(plots.grey("truth", first.data, window, unit))
        if self.std is not None:
            panels.append(plots.deviation("standard deviation", self._read(self.std, first, path).data, unit))
        if self.provenance is not None:
            panels.append(plots.share("provenance", self._read(self.provenance, first, path).data))
        return panels

    def _read(self, path: Path, first: Volume | None = None, name: Path | None = None) -> Volume:
        from degauss.medical.files import read_volume
        from degauss.medical.metrics import check_grid

        found = read_volume(path, unit=self.unit if first is None else first.unit)
        if first is not None:
            check_grid(str(path), found, str(name), first.place)
        return found
