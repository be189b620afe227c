"""What the claims about tomography share: two subjects, their scans, what is tuned on which, and the scores.

The subject of the test is a torso that no shipped prior has seen. What has a setting to choose is tuned on another
one, the top of a chest: slices that the prior of CT was held out from too, continued by reflection to the outline of a
body in the torso's field of view of 384 mm, in the same voxels and the same views. The package's own settings of
sampling were chosen on such slices as well. Scans are exact, as in the papers, and the angles of a limited arc are 2
degrees apart. (Intervals are calibrated on the chest itself, which fills 192 mm.)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice, pairwise
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor

from degauss.core.inverse import ISOTROPIC, TotalVariation, inverse_spacing
from degauss.medical import datasets
from degauss.medical.geometry import Grid, ParallelBeam, evenly
from degauss.medical.metrics import AXES, compare
from degauss.medical.prior import SlicePrior
from degauss.medical.problem import Method, Problem
from degauss.medical.scans import Scan
from degauss.medical.simulation import simulate_ct
from degauss.medical.slices import Pose, Source, cut
from degauss.medical.volumes import CT_FULL, Volume, from_prior_units

FIELD, TUNING_FIELD = 384.0, 192.0  # mm: the sides of the torso's and of the chest's field of view
OUTLINE = 1.2, 1.5  # half axes of the body, down and across, relative to the chest's
HELD_OUT = 29  # slices of 1.5 mm at the top of the chest, with a gap to those that the prior was trained on
OFF_AXIS = ("coronal", "sagittal")
STRENGTHS, ITERATIONS = tuple(10 ** (-3 - k / 2) for k in range(8)), 60
"""Of total variation, and how many iterations each has, from the solution of the one before."""
COUPLED = "DDS + TV along z"
"""What the fast form of DiffusionMBIR is called in figures."""

Figures = dict[str, list[float]]


class Geometry(NamedTuple):
    """Views over an arc in degrees."""

    name: str
    views: int
    arc: float = 180.0


EIGHT, FOUR, TWO = Geometry("8 views", 8), Geometry("4 views", 4), Geometry("2 views", 2)
LIMITED = Geometry("90 degrees", 45, 90.0)


# --- subjects -----------------------------------------------------------------------------------------------


def torso(size: int, slices: int) -> Volume:
    """Slices in the middle of the torso, ``size`` x ``size``, in cubic voxels."""
    side = FIELD / size
    return datasets.ct_torso().resampled((side, side, side), (slices, size, size))


def chest(size: int, slices: int) -> Volume:
    """As many as ``slices`` at the top of the chest, ``size`` x ``size``, in cubic voxels."""
    side = TUNING_FIELD / size
    whole = datasets.ct_chest()
    top = whole.cropped(range(len(whole.data) - HELD_OUT, len(whole.data)))
    return top.resampled((side, side, side), (min(slices, round(HELD_OUT * top.spacing[0] / side)), size, size))


def tuning_body(size: int, slices: int) -> Volume:
    """The top of the chest as a body with air around it, at most ``slices``, in the torso's voxels.

    Its veins are full of contrast agent, unlike the torso's, so values above +1000 HU are cut.
    """
    whole, side = datasets.ct_chest(), FIELD / size
    top = whole.cropped(range(len(whole.data) - HELD_OUT, len(whole.data)))
    source = Source.of(top.with_data(top.data.clamp(-1000, 1000)))
    together = max(1, round(side / top.spacing[0]))
    count = min(slices, HELD_OUT // together)
    cuts = [cut(source, k, size, side, Pose(), OUTLINE) for k in range(count * together)]
    x = torch.stack(cuts).unflatten(0, (count, together)).mean(1)
    return Volume.upright(from_prior_units(x, CT_FULL, "HU"), (together * top.spacing[0], side, side), "HU")


def scan_of(volume: Volume, geometry: Geometry) -> Scan:
    """The exact scan of a volume, which keeps its truth."""
    grid = Grid(volume.data.shape[1], volume.data.shape[2], volume.spacing[1:])
    return simulate_ct(volume, ParallelBeam.covering(grid, evenly(geometry.views, geometry.arc)), truth=True)


def truth_of(scan: Scan) -> Tensor:
    """x in prior units ``[slices, rows, columns]``."""
    assert scan.truth is not None
    return scan.truth


def relaxed(scan: Scan) -> Iterator[tuple[float, Tensor]]:
    """Total variation in three dimensions, weaker and weaker: each strength, and x ``[slices, rows, columns]``.

    Each solution starts from the one before, since a weak one is far from any other start.
    """
    measurement, found = scan.measurement(), None
    for strength in STRENGTHS:
        tv = TotalVariation(
            strength, weights=inverse_spacing(scan.spacing), norm=ISOTROPIC, low=0.0, iterations=ITERATIONS
        )
        found = tv(measurement, found)
        yield strength, found.x[0]


def tuned(scan: Scan) -> int:
    """Where in `STRENGTHS` total variation comes nearest to the truth of this scan."""
    truth = truth_of(scan)
    errors = [float((x - truth).square().mean()) for _, x in relaxed(scan)]
    return errors.index(min(errors))


# --- scores -------------------------------------------------------------------------------------------------


def scores(scan: Scan, x: Tensor) -> dict[str, float]:
    """PSNR and SSIM in three planes, of x ``[slices, rows, columns]`` in prior units."""
    found = compare(scan.volume(x).data, scan.volume(truth_of(scan)).data, "HU")
    planes = {plane: found.plane(plane) for plane in AXES}
    psnr = {f"{plane} PSNR (dB)": score.psnr for plane, score in planes.items()}
    return psnr | {f"{plane} SSIM": score.ssim for plane, score in planes.items()}


def judged(scan: Scan, prior: SlicePrior, methods: Mapping[str, Method], seeds: Sequence[int]) -> Figures:
    """``<score>, <method>`` for each seed, or once where a method has no randomness; and seconds of CPU for each."""
    figures: Figures = {}
    problem = Problem.of(scan, prior)
    for name, method in methods.items():
        for seed in seeds if method.evaluations else seeds[:1]:
            began = time.process_time()
            x = method(problem, seed)[0]
            row = {"CPU seconds": time.process_time() - began} | scores(scan, x)
            for score, value in row.items():
                figures.setdefault(f"{score}, {name}", []).append(value)
    return figures


def compared(
    geometries: Iterable[Geometry],
    subjects: tuple[Volume, Volume],
    prior: SlicePrior,
    methods: Callable[[Geometry], Mapping[str, Method]],
    seeds: Sequence[int],
) -> Figures:
    """``<geometry>, <score>, <method>`` on the second subject, with TV tuned on the first beside."""
    figures: Figures = {}
    tuning, test = subjects
    for geometry in geometries:
        scan = scan_of(test, geometry)
        found = _with_tv(scan, tuned(scan_of(tuning, geometry))) | judged(scan, prior, methods(geometry), seeds)
        figures |= {f"{geometry.name}, {name}": values for name, values in found.items()}
    return figures


def _with_tv(scan: Scan, place: int) -> Figures:
    began = time.process_time()
    strength, x = next(islice(relaxed(scan), place, None))
    row = {"CPU seconds": time.process_time() - began, **scores(scan, x)}
    return {"strength of TV": [strength]} | {f"{score}, TV": [value] for score, value in row.items()}


class Medians:
    """The medians of figures over the seeds, by geometry, score and method."""

    def __init__(self, figures: Mapping[str, Sequence[float]]) -> None:
        self.figures = figures

    def __call__(self, geometry: Geometry, score: str, method: str) -> float:
        return median(self.figures[f"{geometry.name}, {score}, {method}"])

    def ordered(self, geometry: Geometry, methods: Sequence[tuple[str, float]]) -> bool:
        """Whether in coronal and in sagittal SSIM each method is above the next, or less than its margin below it."""
        return all(
            self(geometry, f"{plane} SSIM", better) > self(geometry, f"{plane} SSIM", worse) - margin
            for plane in OFF_AXIS
            for (better, margin), (worse, _) in pairwise(methods)
        )

    def not_below(self, geometry: Geometry, method: str, other: str, kinds: Iterable[str]) -> bool:
        """Whether a method is at or above another in these scores in all three planes."""
        return all(
            self(geometry, f"{plane} {kind}", method) >= self(geometry, f"{plane} {kind}", other)
            for plane in AXES
            for kind in kinds
        )

    def falling(self, geometries: Sequence[Geometry], method: str) -> bool:
        """Whether PSNR and SSIM fall from each geometry to the next in all three planes."""
        return all(
            self(more, f"{plane} {kind}", method) > self(fewer, f"{plane} {kind}", method)
            for more, fewer in pairwise(geometries)
            for plane in AXES
            for kind in ("PSNR (dB)", "SSIM")
        )

    def coupled(self, geometry: Geometry, method: str, alone: str) -> bool:
        """Whether a method is above another in coronal and in sagittal SSIM."""
        return self.ordered(geometry, ((method, 0.0), (alone, 0.0)))
