"""How long until a reconstruction is as good as deepinv's DiffPIR: one prior, one geometry, one thread, one run.

    python packages/medical/benchmarks/time_to_psnr.py [--prior ct] [--size 64] [--views 8] [--steps 50]

The scan is of the torso, which shipped priors have not seen. deepinv's DiffPIR with its own values (lambda 7, zeta 0.1)
and its own Tomography sets the mark: its PSNR of the last iterate after ``--steps`` evaluations, the better of two
widely different lambdas. Then each method here runs with more and more evaluations until its own last iterate is as
good. Time is CPU time of the whole reconstruction, matrix and norm included for both. PSNR is the mean over axial
slices with a range of 2000 HU, the same code for both. Part of a ratio is the method and part the projector: DiffPIR
here shows which.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from degauss.core.schedule import EDM
from degauss.medical import datasets
from degauss.medical.geometry import Grid, ParallelBeam, evenly
from degauss.medical.joseph import system_matrix
from degauss.medical.methods import DDS, DDSTV, DiffPIR
from degauss.medical.metrics import compare
from degauss.medical.prior import SlicePrior, find_prior
from degauss.medical.problem import Method, Problem
from degauss.medical.scans import Scan
from degauss.medical.simulation import simulate_ct

_COUNTS = (5, 8, 12, 20, 30, 50, 100)
_LARGEST = 400.0


class Outcome(NamedTuple):
    psnr: float
    seconds: float


def psnr_of(scan: Scan, x: Tensor) -> float:
    """Of x ``[slices, rows, columns]`` in prior units: mean over axial slices, dB."""
    assert scan.truth is not None
    return compare(scan.volume(x).data, scan.volume(scan.truth).data, "HU").plane("axial").psnr


class AsDeepinv(nn.Module):
    """The prior as deepinv asks for one: ``model(x, sigma)`` of slices ``[n, 1, rows, columns]``."""

    def __init__(self, prior: SlicePrior) -> None:
        super().__init__()
        self.denoiser = prior.denoiser(EDM(_LARGEST))

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.denoiser(x, sigma.double() / _LARGEST).mean


def deepinv_diffpir(scan: Scan, prior: SlicePrior, angles: tuple[float, ...], steps: int, strength: float) -> Outcome:
    from deepinv.optim import L2  # pyright: ignore[reportMissingImports]
    from deepinv.physics import GaussianNoise, Tomography  # pyright: ignore[reportMissingImports]
    from deepinv.sampling import DiffPIR as Theirs  # pyright: ignore[reportMissingImports]

    assert scan.truth is not None
    torch.manual_seed(0)
    start = time.process_time()
    size = scan.shape[-1]
    degrees: Any = torch.tensor(angles)
    physics: Any = Tomography(angles=degrees, img_width=size, circle=False, normalize=True)
    # Its data step needs a noise level; this one is below what it can resolve.
    physics.noise_model = GaussianNoise(1e-3)
    with torch.no_grad():
        y = physics.A(scan.truth[:, None])
        sampler: Any = Theirs(AsDeepinv(prior), L2(), sigma=1e-3, max_iter=steps, lambda_=strength)
        x = sampler(y, physics, x_init=physics.A_dagger(y))
    seconds = time.process_time() - start
    return Outcome(psnr_of(scan, x[:, 0]), seconds)


def ours(scan: Scan, prior: SlicePrior, method: Method) -> Outcome:
    system_matrix.cache_clear()
    start = time.process_time()
    x = method(Problem.of(scan, prior))
    seconds = time.process_time() - start
    return Outcome(psnr_of(scan, x[0]), seconds)


def race(scan: Scan, prior: SlicePrior, methods: Sequence[Method], mark: Outcome) -> str:
    """The first of the methods that is as good as the mark, and how much less time it took."""
    best = Outcome(0.0, 0.0)
    for method in methods:
        found = ours(scan, prior, method)
        best = max(best, found)
        if found.psnr >= mark.psnr:
            ratio = mark.seconds / found.seconds
            line = f"{method.evaluations:4d} evaluations  {found.psnr:6.2f} dB  {found.seconds:7.2f} s"
            return f"{method.name:16} {line}  {ratio:6.1f} x less"
    return f"{methods[0].name:16} at most {best.psnr:.2f} dB: not as good"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prior", default="ct", help="a shipped one or a folder")
    for name, default in (("size", 64), ("slices", 16), ("views", 8), ("steps", 50)):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    prior = SlicePrior.load(find_prior(arguments.prior))
    volume = datasets.ct_torso()
    side = max(volume.data.shape[1] * volume.spacing[1], volume.data.shape[2] * volume.spacing[2]) / arguments.size
    middle = (len(volume.data) - arguments.slices) // 2
    volume = volume.cropped(range(middle, middle + arguments.slices))
    volume = volume.resampled((volume.spacing[0], side, side), (arguments.slices, arguments.size, arguments.size))
    grid, angles = Grid(arguments.size, arguments.size, (side, side)), evenly(arguments.views)
    scan = simulate_ct(volume, ParallelBeam.covering(grid, angles), truth=True)
    print(f"{arguments.slices} slices of {arguments.size} x {arguments.size}, {arguments.views} views")

    deepinv_diffpir(scan, prior, angles, 2, 7.0)  # what a first call loads is not its time
    tries = [deepinv_diffpir(scan, prior, angles, arguments.steps, strength) for strength in (7.0, 100.0)]
    mark = max(tries)
    print(f"{'deepinv DiffPIR':16} {arguments.steps:4d} evaluations  {mark.psnr:6.2f} dB  {mark.seconds:7.2f} s")
    for make in (DDSTV, DDS, DiffPIR):
        print(race(scan, prior, [make(steps) for steps in _COUNTS], mark))


if __name__ == "__main__":
    main()
