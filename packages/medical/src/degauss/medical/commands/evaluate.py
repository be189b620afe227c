"""`degauss-medical evaluate`: a reconstruction against its truth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from degauss.core.errors import InputError, check_range
from degauss.core.options import check_directory

if TYPE_CHECKING:
    from degauss.medical.evaluation import Evaluation, Spread
    from degauss.medical.plots import Panel
    from degauss.medical.scans import Scan
    from degauss.medical.volumes import Volume


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Judge a reconstruction: PSNR and SSIM in three planes, whether it explains its scan, whether its intervals cover.

    Writes a folder with metrics.json, metrics.csv (a row for each slice), montage.png, coverage.png (with --std) and
    report.html, which has all of it inside. All volumes must lie on one grid.
    """

    volume: Positional[Path]
    """The reconstruction: NIfTI, a folder of DICOM slices, .npz or .npy."""
    truth: Path
    """What it should be."""
    std: Path | None = None
    """The standard deviation of its draws, in the volume's unit."""
    draws: int | None = None
    """How many draws --std is of; a calibration knows it."""
    calibration: Path | None = None
    """The record of calibrated intervals (.json)."""
    provenance: Path | None = None
    """A provenance map to show: 1 where the measurement decided, 0 where the prior did."""
    scan: Path | None = None
    """The scan that was reconstructed (.h5)."""
    unit: Literal["HU", "arbitrary"] | None = None
    """Of both volumes, where their files do not say; guessed from the truth unless given."""
    data_range: float | None = None
    """What PSNR and SSIM are relative to, in that unit; 2000 HU, or the truth's 99.5th percentile inside the head."""
    window: tuple[float, float] | None = None
    """From black to white, in that unit; -160 to 240 HU, or from 0 to the truth's 99.5th percentile."""
    at: tuple[int, int, int] | None = None
    """Slice, row and column to show, from feet, front and right; the middle of the body unless given."""
    slab: int = 32
    """How many slices the scan's operator takes at once: it bounds the memory."""
    out: Path = Path("evaluation")
    """The folder to write."""

    def run(self) -> None:
        from degauss.core.cli import provenance as versions
        from degauss.core.files import atomic_path, write_json
        from degauss.medical.evaluation import evaluate
        from degauss.medical.plots import coverage_figure, middle, montage
        from degauss.medical.report import write_report

        self._check()
        truth = self._read(self.truth)
        volume = self._read(self.volume, truth)
        spread, scan = self._spread(truth), self._scan(truth)
        share = None if self.provenance is None else self._read(self.provenance, truth)
        found = evaluate(volume, truth, spread=spread, scan=scan, data_range=self.data_range, slab=self.slab)
        at = middle(found.inside) if self.at is None else self.at
        pictures = {"Three planes": self.out / "montage.png"}
        montage(pictures["Three planes"], self._panels(volume, truth, spread, share), truth.spacing, at)
        if found.coverage is not None:
            pictures["Coverage"] = self.out / "coverage.png"
            coverage_figure(pictures["Coverage"], found.curves, found.coverage)
        facts = {**self._facts(spread), "at": at, **versions()}
        found.metrics.write_csv(self.out / "metrics.csv")
        with atomic_path(self.out / "metrics.json") as part:
            write_json(part, {**found.card(), "settings": facts})
        write_report(self.out / "report.html", found, pictures, facts)
        self._say(found)

    def _check(self) -> None:
        check_directory(self.out)
        check_range("slab", self.slab, 1)
        if self.std is None and not (self.draws is None and self.calibration is None):
            raise InputError(
                "--draws and --calibration say what a standard deviation is worth; expected --std with them."
            )
        if self.std is not None and self.draws is None and self.calibration is None:
            raise InputError("--std needs --draws, how many draws it is of, or --calibration, which knows.")
        if self.draws is not None:
            check_range("draws", self.draws, 2)
        if self.window is not None and not self.window[0] < self.window[1]:
            raise InputError(f"--window must go from black up to white, but is {self.window[0]:g} {self.window[1]:g}.")

    def _read(self, path: Path, truth: Volume | None = None) -> Volume:
        from degauss.medical.files import read_volume
        from degauss.medical.metrics import check_grid

        found = read_volume(path, unit=self.unit if truth is None else truth.unit)
        if truth is not None:
            check_grid(str(path), found, str(self.truth), truth.place)
            if found.unit != truth.unit:
                raise InputError(f"{path} is in {found.unit}, but the truth is in {truth.unit}: name --unit.")
        return found

    def _spread(self, truth: Volume) -> Spread | None:
        from degauss.core.inverse import Calibration
        from degauss.medical.evaluation import Spread

        if self.std is None:
            return None
        record = None if self.calibration is None else Calibration.load(self.calibration)
        draws = self.draws or (record.draws if record is not None else 0)
        return Spread(self._read(self.std, truth).data, draws, record)

    def _scan(self, truth: Volume) -> Scan | None:
        from degauss.medical.metrics import check_grid
        from degauss.medical.scans import read_scan

        if self.scan is None:
            return None
        scan = read_scan(self.scan)
        check_grid(str(self.truth), truth, str(self.scan), scan.place)
        if scan.unit != truth.unit:
            raise InputError(
                f"{self.scan} is of a volume in {scan.unit}, but the truth is in {truth.unit}: name --unit."
            )
        return scan

    def _panels(self, volume: Volume, truth: Volume, spread: Spread | None, share: Volume | None) -> list[Panel]:
        from degauss.medical import plots

        unit, window = truth.unit, self.window or plots.window(truth.data, truth.unit)
        panels = [
            plots.grey("reconstruction", volume.data, window, unit),
            plots.grey("truth", truth.data, window, unit),
            plots.error("error", volume.data, truth.data, window, unit),
        ]
        if spread is not None:
            panels.append(plots.deviation("standard deviation", spread.std, unit))
        return panels if share is None else [*panels, plots.share("provenance", share.data)]

    def _facts(self, spread: Spread | None) -> dict[str, object]:
        """What was compared, by its sums: names of files may name a patient."""
        from dataclasses import asdict

        from degauss.core.files import fingerprint

        paths = {
            "volume": self.volume,
            "truth": self.truth,
            "std": self.std,
            "provenance": self.provenance,
            "scan": self.scan,
        }
        record = None if spread is None else spread.calibration
        return {
            **{f"{name}_sha256": fingerprint(path) for name, path in paths.items() if path is not None},
            "draws": None if spread is None else spread.draws,
            "calibration": None if record is None else asdict(record),
            "window": self.window,
        }

    def _say(self, found: Evaluation) -> None:
        from degauss.medical.metrics import AXES

        for plane in AXES:
            score = found.metrics.plane(plane)
            print(f"{plane:<8}  PSNR {score.psnr:.2f} dB  SSIM {score.ssim:.4f}  {score.slices} slices")
        for sentence in found.sentences:
            print(sentence)
        print(f"wrote {self.out}")
