"""Sparse-view CT of a head: filtered back-projection, total variation, and draws with a prior of slices.

    python packages/medical/examples/sparse_view_head.py [--volume head.nii.gz] [--views 8] [--quick] [--out head]

A known volume is scanned with a few views, so that each reconstruction can be held against it. Minutes on one core,
less than one with ``--quick``. Without ``--volume`` it is the head of the public data, which the shipped prior was
trained on: it shows how things are done, and only a volume of your own shows how well. Not for diagnostic use.

Written are OUT.nii.gz (the mean of the draws) and OUT_std.nii.gz in HU, and OUT.png: truth, reconstructions, and the
standard deviation of the draws. It is where they differ, not where they are wrong: `calibrate` turns it into intervals.
"""

from __future__ import annotations

from _arguments import Scale, parser, start

from degauss.core.inverse import summarise
from degauss.medical import datasets
from degauss.medical.files import read_volume, write_volume
from degauss.medical.geometry import Grid, ParallelBeam, evenly
from degauss.medical.methods import DDSTV, FBP, TV
from degauss.medical.metrics import body, compare
from degauss.medical.plots import Panel, deviation, error, grey, middle, montage
from degauss.medical.prior import SlicePrior, find_prior
from degauss.medical.problem import Problem
from degauss.medical.simulation import simulate_ct
from degauss.medical.volumes import Volume

WINDOW = (-500.0, 1000.0)  # HU: with so few views, soft tissue is not what can be judged


FULL, QUICK = Scale(128, 12, 4, 50), Scale(64, 8, 3, 20)


def shrunk(volume: Volume, scale: Scale) -> Volume:
    """Its middle slices, on square slices of the whole field of view."""
    count, rows, columns = volume.data.shape
    dz, dy, dx = volume.spacing
    first = max(0, (count - scale.slices) // 2)
    side = max(rows * dy, columns * dx) / scale.size
    part = volume.cropped(range(first, min(count, first + scale.slices)))
    # Scanners fill what lies outside their circle with values below air.
    air = part.with_data(part.data.clamp_min(-1000))
    return air.resampled((dz, side, side), (len(part.data), scale.size, scale.size))


def main() -> None:
    options = parser(__doc__, "a CT in HU: NIfTI, .npz, or a folder of DICOM slices", "ct", "head", FULL, QUICK)
    options.add_argument("--views", type=int, default=8)
    arguments = options.parse_args()

    scale: Scale = arguments.scale
    prior = SlicePrior.load(find_prior(arguments.prior))
    volume = datasets.ct_head() if arguments.volume is None else read_volume(arguments.volume, unit="HU")
    truth = shrunk(volume, scale)
    grid = Grid(scale.size, scale.size, truth.spacing[1:])
    scan = simulate_ct(truth, ParallelBeam.covering(grid, evenly(arguments.views)))
    problem = Problem.of(scan, prior)

    draws = DDSTV(scale.steps)(problem, arguments.seed, range(scale.draws))
    found = summarise(draws)
    volumes = {"FBP": FBP()(problem)[0], "TV": TV(iterations=100)(problem)[0], f"{scale.draws} draws": found.mean}
    panels: list[Panel] = [grey("truth", truth.data, WINDOW, "HU")]
    for name, x in volumes.items():
        values = scan.volume(x).data
        axial, _, sagittal = (compare(values, truth.data, "HU").plane(p) for p in ("axial", "coronal", "sagittal"))
        print(f"{name:8}  axial {axial.psnr:5.2f} dB, SSIM {axial.ssim:.3f}; sagittal SSIM {sagittal.ssim:.3f}")
        panels.append(grey(name, values, WINDOW, "HU"))
    mean, std = scan.volume(found.mean), scan.deviations(found.std)
    panels += [error("error of the mean", mean.data, truth.data, WINDOW, "HU"), deviation("std", std.data, "HU")]

    paths = [arguments.out.with_name(arguments.out.name + end) for end in (".nii.gz", "_std.nii.gz", ".png")]
    write_volume(paths[0], mean)
    write_volume(paths[1], std)
    montage(paths[2], panels, truth.spacing, middle(body(truth.data, "HU")), f"{arguments.views} views")
    print(f"wrote {', '.join(map(str, paths))}")


if __name__ == "__main__":
    start(main)
