"""`degauss-medical simulate`: a scan of a known volume."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from degauss.core.errors import InputError
from degauss.core.options import check_file, progress
from degauss.medical.commands.scanner_options import Scanner

if TYPE_CHECKING:
    from degauss.medical.scans import Scan


@dataclass(frozen=True, kw_only=True)
class Simulate(Scanner):
    """Simulate a scan of a volume: sparse-view, limited-angle or fan-beam CT, or accelerated MRI with --mri,
    which --spokes makes radial.

    Written is one HDF5 file with the measurement, how it was made and where the volume lies, which is all that
    'reconstruct' needs. Who the patient is and where the file lay are not in it. The same seed gives the same file.
    """

    volume: Positional[Path]
    """NIfTI, a folder of DICOM slices, .npz or .npy; CT in Hounsfield units."""
    mri: bool = False
    """Measure k-space with one coil instead of X-rays."""
    keep_truth: bool = False
    """Keep the volume itself in the scan, so that reconstructions can be judged."""
    out: Path = Path("scan.h5")
    """The file to write."""

    def run(self) -> None:
        from degauss.medical.scans import write_scan

        check_file(self.out, (".h5", ".hdf5"))
        self.check()
        if self.mri and (self.fan or self.photons is not None or self.arc is not None):
            raise InputError("--fan, --arc and --photons are of CT, but --mri is given.")
        if self.spokes is not None and not self.mri:
            raise InputError("--spokes is of MRI: expected --mri with it.")
        volume = self.volume_in(self.volume)
        if self.mri:
            scan = self.mr(volume, truth=self.keep_truth)
        else:
            with progress("projecting") as report:
                scan = self.ct(volume, truth=self.keep_truth, report=report)
        write_scan(self.out, scan)
        print(f"wrote {self.out}: {_described(scan)}")


def _described(scan: Scan) -> str:
    *_, rows, columns = scan.shape
    noise = f", noise {scan.sigma:.3g}" if scan.sigma else ", no noise"
    return f"{scan.slices} slices of {rows} x {columns}, {scan.geometry}{noise}"
