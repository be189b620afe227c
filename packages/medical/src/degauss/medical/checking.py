r"""Is an operator what it says it is? Its adjoint, its norm, and for rays the integrals that are known exactly.

    dot test    |<A u, v> - <u, A^T v>| / (|A u| rms(v)) for normal u and v              below 1e-6
    norm        |stored - found by Lanczos| / found                                      below 1e-3
    chords      integrals of a disk against 2 sqrt(R^2 - s^2), relative, root mean square  below 1e-2

Chords are compared where s < 0.7 R, and where rays miss the disk by two pixels or more: at its edge, what a pixel that
is partly covered ought to show is a matter of taste, and not of geometry. Below 24 pixels a side a disk is too coarse
for this to say anything.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from degauss.core.errors import InputError, near_miss
from degauss.core.fields import expect, integer, number, numbers, table
from degauss.core.inverse import LinearOperator, dot_test, spectral_norm
from degauss.medical.ct import Tomography
from degauss.medical.geometry import Beam, Detector, FanBeam, Grid, ParallelBeam, evenly
from degauss.medical.phantoms import Ellipse, line_integrals, rasterised

_INNER = 0.7  # of the disk's radius


@dataclass(frozen=True)
class Check:
    """One check: what it is called, what was found, and the most that passes."""

    name: str
    found: float
    limit: float

    @property
    def passed(self) -> bool:
        return self.found <= self.limit  # not a number does not pass

    @property
    def sentence(self) -> str:
        """What to tell of it."""
        return f"The {self.name} is {self.found:.1e}, and at most {self.limit:.0e} passes."


def check_operator(
    operator: LinearOperator, event: tuple[int, ...], measured: tuple[int, ...], *, seed: int = 0
) -> tuple[Check, ...]:
    """Dot test and norm, and chords where it is a `Tomography`. ``event``, ``measured``: shapes without a batch."""
    x, y = torch.empty(1, *event), torch.empty(1, *measured)
    adjoint = Check("error of the dot test", dot_test(operator, x, y, seed), 1e-6)
    found = spectral_norm(operator, x)
    checks = (adjoint, Check("error of the stored norm", abs(operator.norm - found) / found, 1e-3))
    if not isinstance(operator, Tomography):
        return checks
    return *checks, Check("error along a disk's chords", chord_error(operator, operator.grid, operator.beam), 1e-2)


def chord_error(operator: LinearOperator, grid: Grid, beam: Beam) -> float:
    """How far the integrals of a disk of value 1 are from its chords, relative, root mean square over rays.

    ``operator``: from ``[1, 1, rows, columns]`` to ``[1, 1, views, bins]`` in mm. Raises InputError where no ray of the
    beam goes through the disk, whose radius is 0.28 of the shorter side of the slice.
    """
    side = min(grid.rows * grid.spacing[0], grid.columns * grid.spacing[1])
    radius, margin = 0.28 * side, 2 * max(grid.spacing)
    # Off the middle on both axes: what is turned or mirrored would not show otherwise.
    centre = (0.15 * side, -0.1 * side)
    disk = Ellipse(1.0, (radius, radius), centre)
    exact = line_integrals([disk], beam)
    around = line_integrals([Ellipse(1.0, (radius + margin, radius + margin), centre)], beam)
    inner = exact > 2 * radius * math.sqrt(1 - _INNER**2)
    if not bool(inner.any()):
        raise InputError("no ray goes through the middle of the slice: check the detector's offset and its spacing.")
    found = operator(rasterised([disk], grid).float()[None, None])[0, 0].double().cpu()
    error = (found - exact)[inner | (around == 0)].square().sum()
    return math.sqrt(float(error / exact[inner].square().sum()))


# --- a geometry of one's own --------------------------------------------------------------------------------


def read_geometry(path: Path) -> tuple[Grid, Beam]:
    """A geometry from TOML (see `commands.check_op`). Raises InputError naming what is missing, wrong or unknown."""
    try:
        about = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is not TOML ({error}).") from None
    try:
        _known(about, "", ("grid", "beam"))
        grid = _grid(table(about, "grid"))
        return grid, _beam(table(about, "beam"), grid)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _grid(about: Mapping[str, Any]) -> Grid:
    _known(about, "grid.", ("rows", "columns", "spacing"))
    dy, dx = _pair(about, "spacing") if "spacing" in about else (1.0, 1.0)
    return Grid(integer(about, "rows"), integer(about, "columns"), (dy, dx))


def _beam(about: Mapping[str, Any], grid: Grid) -> Beam:
    fan = ("source_to_axis", "source_to_detector")
    _known(about, "beam.", ("kind", "views", "arc", "start", "angles", "detector", *fan))
    kind = about.get("kind", "parallel")
    expect("beam.kind", kind in ("parallel", "fan"), "'parallel' or 'fan'", repr(kind))
    angles = _angles(about, 180.0 if kind == "parallel" else 360.0)
    detector = _detector(table(about, "detector")) if "detector" in about else None
    if kind == "parallel":
        return ParallelBeam.covering(grid, angles) if detector is None else ParallelBeam(angles, detector)
    near, far = (number(about, name) for name in fan)
    return FanBeam.covering(grid, angles, near, far) if detector is None else FanBeam(angles, detector, near, far)


def _angles(about: Mapping[str, Any], turn: float) -> tuple[float, ...]:
    if "angles" in about:
        expect("beam.angles", "views" not in about and "arc" not in about, "no views and no arc beside it", "both")
        return numbers(about, "angles")
    arc = number(about, "arc") if "arc" in about else turn
    return evenly(integer(about, "views"), arc, number(about, "start") if "start" in about else 0.0)


def _detector(about: Mapping[str, Any]) -> Detector:
    _known(about, "beam.detector.", ("bins", "spacing", "offset"))
    offset = number(about, "offset") if "offset" in about else 0.0
    return Detector(integer(about, "bins"), number(about, "spacing"), offset)


def _pair(about: Mapping[str, Any], field: str) -> tuple[float, float]:
    values = numbers(about, field)
    expect(field, len(values) == 2, "two numbers", f"{len(values)} numbers")
    return values[0], values[1]


def _known(about: Mapping[str, Any], where: str, fields: tuple[str, ...]) -> None:
    for name in about:
        if name not in fields:
            raise InputError(f"{where}{name} is not a part of a geometry{near_miss(name, fields)}.")
