"""Accelerated MRI of a brain: least squares, total variation, draws with a prior of slices, and how sure they are.

    python packages/medical/examples/accelerated_brain.py [--volume brain.nii.gz] [--acceleration 4] [--quick]

Some lines of k-space of a known volume are kept, as one coil sees them, so that each reconstruction can be held against
it. Some minutes on one core, less than one with ``--quick``. Without ``--volume`` it is a T1 that the shipped prior has
not seen. Not for diagnostic use.

Written is what `degauss-medical reconstruct` writes: OUT.nii.gz (the mean of the draws), OUT_std.nii.gz (their standard
deviation), OUT_provenance.nii.gz (1 where the measurement decided, 0 where the prior did), OUT_montage.png and
OUT_metrics.json.
"""

from __future__ import annotations

from _arguments import Scale, parser, start

from degauss.core.noise import Noise
from degauss.medical import datasets
from degauss.medical.files import read_volume
from degauss.medical.methods import CG, DDS, TV
from degauss.medical.metrics import compare
from degauss.medical.mri import random_lines
from degauss.medical.prior import SlicePrior, find_prior
from degauss.medical.problem import Problem
from degauss.medical.reconstruction import result_of, write_result
from degauss.medical.simulation import simulate_mri
from degauss.medical.volumes import Volume

NOISE, CENTRE = 0.005, 0.08  # of k-space, as a share of the image's scale; the share of lines around zero frequency


FULL, QUICK = Scale(128, 8, 6, 50), Scale(80, 4, 3, 20)


def shrunk(volume: Volume, scale: Scale) -> Volume:
    """Its middle slices, 3 mm apart, on square slices of the whole field of view."""
    count, rows, columns = volume.data.shape
    dz, dy, dx = volume.spacing
    side = max(rows * dy, columns * dx) / scale.size
    thick = max(dz, 3.0)
    slices = min(scale.slices, max(1, round(count * dz / thick)))
    return volume.resampled((thick, side, side), (slices, scale.size, scale.size))


def main() -> None:
    options = parser(__doc__, "a magnitude image: NIfTI, .npz, or a folder of DICOM slices", "mr", "brain", FULL, QUICK)
    options.add_argument("--acceleration", type=float, default=4.0)
    arguments = options.parse_args()

    scale: Scale = arguments.scale
    prior = SlicePrior.load(find_prior(arguments.prior))
    volume = datasets.oasis_t1() if arguments.volume is None else read_volume(arguments.volume, unit="arbitrary")
    truth = shrunk(volume, scale)
    lines = random_lines(scale.size, arguments.acceleration, CENTRE, Noise(arguments.seed, range(1)))[0, 0]
    scan = simulate_mri(truth, lines, sigma=NOISE, seed=arguments.seed, truth=True)
    problem = Problem.of(scan, prior)

    draws = DDS(scale.steps)(problem, arguments.seed, range(scale.draws))
    answers = {"CG": CG()(problem)[0], "TV": TV(3e-3, iterations=60)(problem)[0], f"{scale.draws} draws": draws.mean(0)}
    for name, x in answers.items():
        axial = compare(scan.volume(x).data, truth.data, "arbitrary").plane("axial")
        print(f"{name:8}  {axial.psnr:5.2f} dB, SSIM {axial.ssim:.3f}")

    result = result_of(scan, problem, draws, record=None, describes={})
    about = {"acceleration": arguments.acceleration, "seed": arguments.seed, "scale": scale._asdict()}
    title = f"{arguments.acceleration:g} times fewer lines, mean of {scale.draws} draws"
    written = write_result(arguments.out.with_name(f"{arguments.out.name}.nii.gz"), result, about, title)
    print(f"wrote {', '.join(map(str, written))}")


if __name__ == "__main__":
    start(main)
