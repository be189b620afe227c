"""`degauss-medical calibrate`: intervals that cover, from volumes whose truth is known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from degauss.core.errors import InputError, check_range
from degauss.core.options import check_file, device_of, progress
from degauss.medical.commands.scanner_options import Scanner

if TYPE_CHECKING:
    from degauss.medical.scans import Scan

_SUFFIXES = (".h5", ".hdf5")


@dataclass(frozen=True, kw_only=True)
class Calibrate(Scanner):
    """Calibrate the intervals of a method's draws, so that they cover as many voxels as they say.

    Volumes are scanned, drawn from their posteriors, and compared with themselves, inside the body; the record goes
    beside the prior's folder, where 'reconstruct' finds it for scans of the same kind: method, number of draws, voxels,
    geometry and noise. A scan (.h5) with its truth ('simulate --keep-truth') may stand for a volume, and must where the
    scanner is another than the options here can say. Take subjects that the prior was not trained on, and judge the
    coverage on others again. The level is a promise on average over voxels, not for each place and not for anatomy
    that is unlike that of the subjects.
    """

    volumes: Positional[tuple[Path, ...]]
    """CT volumes in Hounsfield units, MR images, or scans with their truth."""
    prior: str | None = None
    """A prior that ships with the package, or the folder of one; the shipped one of the modality unless given."""
    method: Literal["mbir", "dds", "dds-tv", "dps", "pigdm", "ddnm", "diffpir"] = "dds-tv"
    """The sampler."""
    steps: int | None = None
    """Its steps; its own number unless given."""
    samples: int = 8
    """Draws; intervals hold for this number of them."""
    level: float = 0.9
    """The share of voxels to cover."""
    slab: int = 32
    """Slices that are projected together."""
    chunk: int = 16
    """Slices that go through the network together."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""
    out: Path | None = None
    """The record to write (.json); beside the prior, under a name of its kind, unless given."""

    def run(self) -> None:
        from degauss.core.files import fingerprint
        from degauss.medical.calibration import Plan, calibrated
        from degauss.medical.memory import check_memory
        from degauss.medical.methods import method_of
        from degauss.medical.prior import SlicePrior, find_prior
        from degauss.medical.reconstruction import describe, record_path

        if not self.volumes:
            raise InputError("expected at least one volume or scan.")
        self.check()
        check_range("samples", self.samples, 2)
        for name in ("slab", "chunk"):
            check_range(name, getattr(self, name), 1)
        if not 0 < self.level < 1:
            raise InputError(f"level must be between 0 and 1, but is {self.level}.")
        if self.out is not None:
            check_file(self.out, (".json",))
        device = device_of(self.device)
        method = method_of(self.method, self.steps)
        scans = [self._scan(path) for path in self.volumes]
        folder = find_prior(self.prior or scans[0].modality)
        prior = SlicePrior.load(folder)
        sha256 = fingerprint(folder / "model.safetensors")
        described = [describe(scan, method, sha256) for scan in scans]
        for path, scan, facts in zip(self.volumes, scans, described, strict=True):
            prior.check(scan)
            check_memory(scan, method, prior, self.samples, self.chunk, device)
            differing = [name for name, value in facts.items() if described[0].get(name) != value]
            if differing:
                name = differing[0]
                raise InputError(
                    f"{path}: its {name} is {facts[name]!r}, but that of {self.volumes[0]} is "
                    f"{described[0].get(name)!r}: calibrate each kind of scan by itself."
                )
        with progress("evaluations a slice") as report:
            plan = Plan(self.samples, self.level, self.seed, self.slab, self.chunk, device)
            record = calibrated(scans, method, prior, described[0], plan, report)
        path = record_path(folder, described[0], self.samples) if self.out is None else self.out
        record.save(path)
        print(
            f"wrote {path}: {self.level:.0%} intervals are {record.q:.2f} standard deviations either way, "
            f"{record.overconfidence:.2f} times what exact draws would ask for"
        )

    def _scan(self, path: Path) -> Scan:
        """A scan with its truth, read or simulated."""
        from degauss.medical.scans import read_scan

        if path.suffix.lower() in _SUFFIXES:
            scan = read_scan(path)
            if scan.truth is None:
                raise InputError(f"{path}: holds no truth to calibrate with; simulate it with --keep-truth.")
            return scan
        volume = self.volume_in(path)
        return self.ct(volume, truth=True) if volume.unit == "HU" else self.mr(volume, truth=True)
