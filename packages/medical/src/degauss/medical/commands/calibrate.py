"""`degauss-medical calibrate`: intervals that cover, from volumes whose truth is known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from degauss.core.errors import InputError, check_range
from degauss.core.options import check_file, device_of, progress

if TYPE_CHECKING:
    from degauss.medical.scans import Scan

_SUFFIXES = (".h5", ".hdf5")


@dataclass(frozen=True, kw_only=True)
class Calibrate:
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
    views: int = 8
    """Views of the CT."""
    arc: float = 180.0
    """Degrees that they are spread over."""
    photons: float | None = None
    """Count photons in CT: so many per ray in air."""
    sigma: float = 0.0
    """White noise: of the CT's line integrals, or of k-space as a share of the image's scale."""
    acceleration: float = 4.0
    """Of MRI: how many times fewer lines are measured than there are."""
    centre: float = 0.08
    """Of MRI: the share of lines in the middle that are always measured."""
    size: int | None = None
    """Resample volumes to so many pixels a side, square, over the same field of view."""
    slab: int = 32
    """Slices that are projected together."""
    chunk: int = 16
    """Slices that go through the network together."""
    seed: int = 0
    """Everything random follows from it."""
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
        from degauss.core.noise import Noise
        from degauss.medical.files import read_volume
        from degauss.medical.geometry import Grid, ParallelBeam, evenly
        from degauss.medical.mri import random_lines
        from degauss.medical.scans import read_scan
        from degauss.medical.simulation import simulate_ct, simulate_mri

        if path.suffix.lower() in _SUFFIXES:
            scan = read_scan(path)
            if scan.truth is None:
                raise InputError(f"{path}: holds no truth to calibrate with; simulate it with --keep-truth.")
            return scan
        volume = read_volume(path)
        if self.size is not None:
            slices, rows, columns = volume.data.shape
            dz, dy, dx = volume.spacing
            side = max(rows * dy, columns * dx) / self.size
            volume = volume.resampled((dz, side, side), (slices, self.size, self.size))
        if volume.unit == "HU":
            grid = Grid(volume.data.shape[1], volume.data.shape[2], volume.spacing[1:])
            beam = ParallelBeam.covering(grid, evenly(self.views, self.arc))
            return simulate_ct(volume, beam, photons=self.photons, sigma=self.sigma, seed=self.seed, truth=True)
        noise = Noise(self.seed, range(1)).fork(1)
        mask = random_lines(volume.data.shape[2], self.acceleration, self.centre, noise)[0, 0]
        return simulate_mri(volume, mask, sigma=self.sigma, seed=self.seed, truth=True)
