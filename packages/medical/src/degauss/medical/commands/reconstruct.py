"""`degauss-medical reconstruct`: the volume behind a scan, and how well it is known."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from degauss.core.errors import InputError, check_range
from degauss.core.options import check_directory, check_file, device_of, progress

if TYPE_CHECKING:
    from torch import Tensor

    from degauss.core.inverse import Calibration, Facts
    from degauss.medical.prior import SlicePrior
    from degauss.medical.scans import Scan

MethodName = Literal[
    "mbir", "dds", "dds-tv", "dps", "pigdm", "ddnm", "diffpir", "reddiff", "tv", "wavelet", "fbp", "sirt", "cg"
]


@dataclass(frozen=True, kw_only=True)
class Reconstruct:
    """Reconstruct the volume behind a scan. Stop it and run it again: it goes on where it stopped.

    Written are the volume, in the place and unit of what was scanned (Hounsfield units in CT), and beside it OUT_std
    (of several draws) and OUT_unseen_std (of what the measurement does not see of them), OUT_low and OUT_high (where
    'calibrate' has made a record for such draws), OUT_provenance (1 where the measurement decided, 0 where the prior
    did), OUT_montage.png and, last, OUT_metrics.json. Where the scan holds the truth, PSNR and SSIM in three planes.
    A volume that the prior seems not to know is told of. Not for diagnostic use.
    """

    scan: Positional[Path]
    """A scan (.h5), as 'simulate' writes it."""
    method: MethodName = "dds-tv"
    """dds-tv: within 50 evaluations of the network a slice. mbir: thousands, as published. dds, dps, pigdm, ddnm,
    diffpir: other samplers; reddiff: an optimisation. tv, wavelet (MRI), cg, and fbp, sirt (CT) need no prior."""
    prior: str | None = None
    """A prior that ships with the package, by its name, or the folder of one that 'train-prior' wrote; the shipped one
    of the scan's modality unless given."""
    steps: int | None = None
    """Sampling steps, or iterations; the method's own number unless given."""
    samples: int = 1
    """Draws of the posterior; their mean is the volume."""
    slab: int = 32
    """Slices that are projected together; fewer take less memory, and the result is the same."""
    chunk: int = 16
    """Slices that go through the network together, likewise."""
    seed: int = 0
    """Everything random follows from it: draw i of a seed is the same whatever else is drawn."""
    intervals: Path | None = None
    """A record of 'calibrate'; the one beside the prior that fits unless given."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""
    format: Literal["nifti", "dicom"] = "nifti"
    """dicom: the volume as a folder of derived slices, named as OUT without its suffix; the maps stay NIfTI."""
    out: Path = Path("recon.nii.gz")
    """The volume to write."""

    def run(self) -> None:
        from dataclasses import asdict

        from degauss.core.cli import provenance
        from degauss.core.files import fingerprint
        from degauss.medical.memory import check_memory, peak_memory
        from degauss.medical.methods import method_of, settings
        from degauss.medical.prior import SlicePrior, find_prior
        from degauss.medical.problem import Problem
        from degauss.medical.reconstruction import Journal, describe, draw_all, result_of, write_result
        from degauss.medical.scans import read_scan

        out = self._place()
        check_range("samples", self.samples, 1)
        check_range("slab", self.slab, 1)
        check_range("chunk", self.chunk, 1)
        check_range("seed", self.seed, 0)
        device = device_of(self.device)
        method = method_of(self.method, self.steps)
        if self.samples > 1 and not method.draws:
            raise InputError(f"{self.method} gives one answer and no draws of the posterior: leave out --samples.")
        scan = read_scan(self.scan)
        folder = find_prior(self.prior or scan.modality) if method.evaluations else None
        prior = None if folder is None else SlicePrior.load(folder)
        if prior is not None:
            prior.check(scan)
        sha256 = None if folder is None else fingerprint(folder / "model.safetensors")
        describes = describe(scan, method, sha256)
        record = self._record(folder, describes)
        check_memory(scan, method, prior, self.samples, self.chunk, device)
        problem = Problem.of(scan, prior, slab=self.slab, chunk=self.chunk, device=device)
        method.check(problem)

        plan = {"scan_sha256": fingerprint(self.scan), "seed": self.seed, "settings": settings(method), **describes}
        journal = Journal(out, plan)
        with progress("evaluations a slice" if method.evaluations else "steps") as report:
            found = draw_all(problem, method, journal, samples=self.samples, seed=self.seed, report=report)
        result = result_of(scan, problem, found.draws, record, describes)
        strange = None if prior is None or folder is None else self._strangeness(scan, prior, folder, found.draws)
        about = {
            "method": self.method,
            "settings": settings(method),
            "samples": self.samples,
            "seed": self.seed,
            "scan_sha256": plan["scan_sha256"],
            "prior_sha256": sha256,
            "norm": problem.raw_norm,
            "evaluations_a_slice": method.evaluations * problem.parts * self.samples,
            "evaluations_now": found.evaluations,
            "seconds_now": found.seconds,
            "peak_memory_bytes": peak_memory(device),
            "device": device,
            "strangeness": strange,
            "intervals": None if record is None else asdict(record),
            "provenance": provenance(),
        }
        written = write_result(out, result, about, f"{self.method}, {_counted(self.samples)}")
        journal.end()
        print(f"wrote {', '.join(map(str, written))}: {_said(scan, result.residual, result.scores)}")
        if self.samples > 1 and record is None:
            print(
                "no calibrated intervals: 'calibrate' has made no record for such draws of this prior, so the standard "
                "deviation is what the draws say and has not been checked.",
                file=sys.stderr,
            )

    def _strangeness(self, scan: Scan, prior: SlicePrior, folder: Path, draws: Tensor) -> float | None:
        """How unlike the prior's own slices the result is; says so where it is."""
        from degauss.medical.familiarity import STRANGE, known_errors, strangeness

        known = known_errors(folder, max(scan.shape[-2:]))
        if not known:
            return None
        found = strangeness(prior, known, scan.magnitude(draws).mean(0))
        if found > STRANGE:
            print(
                f"the volume is {found:.1f} times as hard to denoise for this prior as the slices that it was checked "
                "on: it may not know what was scanned; compare with --method tv.",
                file=sys.stderr,
            )
        return found

    def _place(self) -> Path:
        if self.format == "nifti":
            check_file(self.out, (".nii.gz", ".gz", ".nii", ".npz", ".npy"))
            return self.out
        name = self.out.name.removesuffix(".gz").removesuffix(".nii")
        out = self.out.with_name(name)
        if out.suffix:
            raise InputError(f"{self.out}: DICOM slices go into a folder, so expected a name without a suffix.")
        check_directory(out)
        return out

    def _record(self, prior: Path | None, describes: Facts) -> Calibration | None:
        """The intervals' record that was named, or that lies beside the prior and fits."""
        from degauss.core.inverse import Calibration
        from degauss.medical.reconstruction import find_record

        if self.intervals is not None:
            record = Calibration.load(self.intervals)
            record.check(self.samples, describes)
            return record
        return None if prior is None or self.samples < 2 else find_record(prior, describes, self.samples)


def _counted(samples: int) -> str:
    return "one draw" if samples == 1 else f"the mean of {samples} draws"


def _said(scan: Scan, residual: float, scores: object) -> str:
    """One line of what came out."""
    line = f"{scan.slices} slices, residual {residual:.2%}"
    if not isinstance(scores, dict) or not scores:
        return line
    axial = scores["axial"]
    return f"{line}, axial PSNR {axial['psnr']:.2f} dB, SSIM {axial['ssim']:.3f}"
