"""Intervals of posterior draws: calibrated on some slices of a subject, they cover others; on another subject less."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor

from degauss.core.claims import Claim, Result, Verdict
from degauss.core.inverse import (
    Calibration,
    Coverage,
    Interval,
    Summary,
    calibrate_intervals,
    coverage,
    exact_factor,
    summarise,
)
from degauss.medical.calibration import FLOOR
from degauss.medical.evaluation import tissues
from degauss.medical.methods import DDSTV
from degauss.medical.metrics import body
from degauss.medical.prior import SlicePrior
from degauss.medical.problem import Method, Problem
from degauss.medical.scans import Scan
from degauss.medical.volumes import per_prior_unit

from ._ct import EIGHT, chest, scan_of, torso, truth_of
from ._priors import shipped

CLAIM = Claim(
    paper=(
        "Papadopoulos et al. 2002, Inductive Confidence Machines for Regression, section 3; Lei et al. 2018, "
        "Distribution-Free Predictive Inference for Regression, sections 2.2 and 5.2; on draws of Chung et al. 2024 "
        "(DDS)"
    ),
    statement=(
        "Intervals around the mean of posterior draws, widened by one factor that was found where the truth is known, "
        "cover what they promise on data that is like it."
    ),
    expected=(
        "Of 6 draws from 8 views at 64 x 64, voxels of the body, medians over seeds: (a) intervals of 90 % calibrated "
        "on the lower slices at the top of a chest, which the prior has not seen, cover 85 to 95 % of the upper ones, "
        "and (b) those calibrated on the upper ones 85 to 95 % of the lower ones. Control: intervals that take the "
        "draws at their word must cover less than 85 % of both. Both and the control: holds. One of them: holds "
        "partly. What intervals of both cover on the torso of another subject is reported, whatever it is."
    ),
)

LEVEL = 0.9
NEAR = (0.85, 0.95)
LOWER, UPPER, TORSO = "lower slices of the chest", "upper slices of the chest", "torso"


@dataclass(frozen=True)
class Effort:
    """How large the experiment is. ``slices``: of each of the three volumes; ``gap``: between those of the chest."""

    size: int = 64
    slices: int = 6
    gap: int = 2
    draws: int = 6
    steps: int = 50


EFFORT = Effort()


class Subject(NamedTuple):
    """A scan, and the voxels of its body."""

    scan: Scan
    inside: Tensor

    @property
    def truth(self) -> Tensor:
        return truth_of(self.scan)


def subjects(effort: Effort) -> dict[str, Subject]:
    """Two ends of the top of the chest, and the torso."""
    top = chest(effort.size, 2 * effort.slices + effort.gap)
    volumes = {
        LOWER: top.cropped(range(effort.slices)),
        UPPER: top.cropped(range(len(top.data) - effort.slices, len(top.data))),
        TORSO: torso(effort.size, effort.slices),
    }
    return {name: Subject(scan_of(volume, EIGHT), body(volume.data, "HU")) for name, volume in volumes.items()}


def run(seeds: Sequence[int], effort: Effort = EFFORT) -> Result:
    """Draw, calibrate, and look."""
    torch.set_num_threads(1)
    prior, note = shipped("ct")
    posed = subjects(effort)
    rows = [one(posed, prior, DDSTV(effort.steps), seed, effort.draws) for seed in seeds]
    figures = {name: [row[name] for row in rows] for name in rows[0]}
    return Result(
        verdict(figures),
        figures,
        notes=(
            f"{note} {effort.draws} draws of DDS with TV along z, {effort.steps} evaluations a slice each; exact line "
            f"integrals. Each part of the chest has {effort.slices} slices of 3 mm, {3 * effort.gap} mm apart; the "
            "torso's are 6 mm. A factor of 1 is that of exact draws of a Gaussian posterior. A torso is neither the "
            "anatomy nor the resolution that was calibrated on, and nothing is promised there: its shortfall is what "
            "a user of intervals risks on a patient who is unlike the one that they were made with."
        ),
    )


def one(posed: Mapping[str, Subject], prior: SlicePrior, method: Method, seed: int, count: int) -> dict[str, float]:
    """All figures of one seed."""
    draws = {name: method(Problem.of(subject.scan, prior), seed, range(count)) for name, subject in posed.items()}
    parts = (LOWER, UPPER)
    records = {name: _record([posed[name]], [draws[name]]) for name in parts}
    both = _record([posed[name] for name in parts], [draws[name] for name in parts])
    figures: dict[str, float] = {}
    for name, other in ((UPPER, LOWER), (LOWER, UPPER)):
        found = summarise(draws[name])
        covered = _covered(posed[name], found, records[other].interval(found, {})).overall.covered
        figures[f"covered, {name}, calibrated on the others"] = covered
        figures[f"factor, {other}"] = records[other].overconfidence
    for name, subject in posed.items():
        found = summarise(draws[name])
        half = exact_factor(LEVEL, count) * found.std
        plain = _covered(subject, found, Interval(found.mean - half, found.mean + half, LEVEL))
        figures[f"covered, {name}, as drawn"] = plain.overall.covered
    found = summarise(draws[TORSO])
    judged = _covered(posed[TORSO], found, both.interval(found, {}))
    figures["covered, torso, calibrated on the chest"] = judged.overall.covered
    figures["shortfall, torso"] = LEVEL - judged.overall.covered
    figures |= {f"covered, torso, {name}": band.covered for name, band in judged.regions.items()}
    figures["mean width, torso (HU)"] = judged.overall.width * per_prior_unit(posed[TORSO].scan.full, "HU")
    return figures


def _record(known: Sequence[Subject], draws: Sequence[Tensor]) -> Calibration:
    truth, inside = (torch.cat(parts) for parts in zip(*((one.truth, one.inside) for one in known), strict=True))
    return calibrate_intervals(torch.cat(list(draws), 1), truth, level=LEVEL, floor=FLOOR, describes={}, where=inside)


def _covered(subject: Subject, found: Summary, interval: Interval) -> Coverage:
    values = subject.scan.volume(subject.truth).data
    regions = tissues(values, "HU", subject.inside)
    return coverage(subject.truth, found, interval, where=subject.inside, regions=regions)


def verdict(figures: Mapping[str, Sequence[float]]) -> Verdict:
    """As the claim says."""
    low, high = NEAR
    parts = (LOWER, UPPER)
    met = [low <= median(figures[f"covered, {name}, calibrated on the others"]) <= high for name in parts]
    control = all(median(figures[f"covered, {name}, as drawn"]) < low for name in parts)
    return "holds" if all(met) and control else "holds partly" if any(met) else "does not hold"
