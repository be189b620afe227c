"""The projector beside astra's and deepinv's: forward and adjoint of one volume, one geometry, one thread, one run.

    python packages/medical/benchmarks/projectors.py [--size 256] [--slices 128] [--views 180] [--deepinv-slices 8]

Time is CPU time, summed over threads, and the least of the repeats. Matrices and operators are made before. astra has
no projector of volumes on the CPU, so it goes slice by slice ('linear' is Joseph's interpolation, as here); deepinv
needs more memory than most machines have for a volume, so it gets a few slices, and its time is scaled up. What they
compute is compared too: to 1 % with astra, and with deepinv, whose rays are others, in each view's sum.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from degauss.medical.ct import Tomography
from degauss.medical.geometry import Grid, ParallelBeam, evenly
from degauss.medical.phantoms import rasterised, shepp_logan


class Timed(NamedTuple):
    """CPU seconds for the whole volume, and the sinogram of one slice ``[views, bins]``."""

    forward: float
    adjoint: float
    sinogram: Tensor


def least(work: Callable[[], Any], repeats: int) -> float:
    """The least CPU seconds."""
    best = math.inf
    for _ in range(repeats):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return best


def ours(scanner: Tomography, x: Tensor, repeats: int) -> Timed:
    y = scanner(x)  # makes the matrix
    return Timed(least(lambda: scanner(x), repeats), least(lambda: scanner.adjoint(y), repeats), y[0])


def astra_loop(scanner: Tomography, x: Tensor, repeats: int) -> Timed:
    import astra  # pyright: ignore[reportMissingImports]

    grid, beam = scanner.grid, scanner.beam
    volume = astra.create_vol_geom(grid.rows, grid.columns)
    angles = np.deg2rad(np.asarray(beam.angles))
    rays = astra.create_proj_geom("parallel", beam.detector.spacing, beam.detector.bins, angles)
    projector: Any = astra.OpTomo(astra.create_projector("linear", rays, volume))
    slices = x.numpy()
    y = np.stack([projector @ one.ravel() for one in slices])
    forward = least(lambda: [projector @ one.ravel() for one in slices], repeats)
    adjoint = least(lambda: [projector.T @ one for one in y], repeats)
    return Timed(forward, adjoint, torch.from_numpy(y[0].reshape(beam.shape)))


def deepinv_batch(scanner: Tomography, x: Tensor, repeats: int, count: int) -> Timed:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import deepinv  # pyright: ignore[reportMissingImports]

        library: Any = deepinv
        angles: Any = torch.tensor(scanner.beam.angles)
        physics: Any = library.physics.Tomography(
            angles=angles, img_width=scanner.grid.rows, circle=False, normalize=False
        )
        part, scale = x[:count, None], len(x) / count
        physics.A_adjoint(physics.A(part[:1]))  # what a first call loads is not its time
        with torch.no_grad():
            y = physics.A(part)
            forward = scale * least(lambda: physics.A(part), repeats)
        # Its adjoint differentiates the projection.
        adjoint = scale * least(lambda: physics.A_adjoint(y), repeats)
    return Timed(forward, adjoint, y[0, 0].T)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("size", 256), ("slices", 128), ("views", 180), ("deepinv-slices", 8), ("repeats", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    size = arguments.size
    grid = Grid(size, size)
    scanner = Tomography(grid, ParallelBeam.covering(grid, evenly(arguments.views)))
    one = rasterised(shepp_logan(0.45 * size), grid, 2).float()
    x = one.repeat(arguments.slices, 1, 1)
    print(f"{arguments.slices} slices of {size} x {size}, {arguments.views} views, CPU seconds")
    rows = {
        "here": ours(scanner, x, arguments.repeats),
        "astra, slice by slice": astra_loop(scanner, x, arguments.repeats),
        "deepinv, scaled up": deepinv_batch(scanner, x, 1, min(arguments.deepinv_slices, arguments.slices)),
    }
    first = rows["here"]
    for name, row in rows.items():
        total = row.forward + row.adjoint
        ratio = total / (first.forward + first.adjoint)
        print(f"{name:24} forward {row.forward:8.3f}  adjoint {row.adjoint:8.3f}  both {total:8.3f}  {ratio:7.1f} x")
    theirs = rows["astra, slice by slice"].sinogram
    gap = float((theirs - first.sinogram).norm() / first.sinogram.norm())
    print(f"{'difference from astra':24} {gap:.1e} of the sinogram")
    sums = rows["deepinv, scaled up"].sinogram.sum(1) / first.sinogram.sum(1) - 1
    print(f"{'difference from deepinv':24} {float(sums.abs().max()):.1e} of a view's sum")
    if gap > 0.01 or float(sums.abs().max()) > 0.01:
        raise SystemExit("the projectors differ by more than 1 %")


if __name__ == "__main__":
    main()
