"""`degauss-medical check-op`: is an operator what it says it is?"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from degauss.core.errors import InputError


@dataclass(frozen=True, kw_only=True)
class CheckOp:
    """Check the operator of a scan, or of a geometry of your own, and exit with 1 where it fails.

    Three checks. The dot test: <A x, y> against <x, A^T y> for random x and y, to 1e-6; iterative methods need it. The
    norm that is stored against the one that Lanczos finds, to 0.1 %. And for CT the integrals along chords of a disk
    against the exact ones, to 1 %, rays that graze the disk's edge left out: a wrong unit, angle or offset shows here.

    A geometry is a TOML file such as

        [grid]
        rows = 256
        columns = 256
        spacing = [0.8, 0.8]      # mm

        [beam]
        kind = "parallel"         # or "fan", with source_to_axis and source_to_detector in mm
        views = 180
        arc = 180.0               # degrees; or angles = [0.0, 1.5, ...] in place of both

        [beam.detector]           # one that sees the whole slice, unless given
        bins = 363
        spacing = 0.8             # mm
        offset = 0.0
    """

    scan: Annotated[Positional[Path | None], arg(metavar="SCAN")] = None
    """A scan (.h5)."""
    geometry: Path | None = None
    """A geometry of CT (.toml), in place of a scan."""
    seed: int = 0
    """Of the random x and y."""

    def run(self) -> None:
        from degauss.medical.checking import check_operator, read_geometry
        from degauss.medical.ct import Tomography
        from degauss.medical.scans import read_scan

        if (self.scan is None) == (self.geometry is None):
            raise InputError("expected a scan or a --geometry, and not both.")
        if self.scan is not None:
            scan = read_scan(self.scan)
            event, measured = (scan.few, *scan.geometry.event), (scan.few, *scan.geometry.reading)
            checks = check_operator(scan.operator(), event, measured, seed=self.seed)
        else:
            assert self.geometry is not None
            grid, beam = read_geometry(self.geometry)
            checks = check_operator(Tomography(grid, beam), (1, *grid.shape), (1, *beam.shape), seed=self.seed)
        width = max(len(check.name) for check in checks)
        for check in checks:
            verdict = "passes" if check.passed else "fails"
            print(f"{check.name:<{width}}  {check.found:8.1e}  {verdict} (at most {check.limit:.0e})")
        failed = [check.sentence for check in checks if not check.passed]
        for sentence in failed:
            print(f"degauss-medical: {sentence}", file=sys.stderr)
        if failed:
            raise SystemExit(1)
