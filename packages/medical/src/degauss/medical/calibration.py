r"""Intervals from draws of known subjects: what `degauss.core.inverse.intervals` asks for, made from scans.

Each subject is reconstructed k times; the scores |x - mean| / (std + floor) of all voxels inside all bodies are put
together, and their quantile is q. Air is left out: it is easily covered, and would buy narrow intervals inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from degauss.core.errors import InputError
from degauss.core.inverse import Calibration, Facts, conformal_quantile, summarise
from degauss.core.inverse.intervals import scores
from degauss.core.options import Report
from degauss.medical.metrics import body
from degauss.medical.prior import SlicePrior
from degauss.medical.problem import Method, Problem
from degauss.medical.scans import Scan
from degauss.medical.volumes import from_prior_units

FLOOR = 1e-3
"""Of a standard deviation, in prior units: 2 HU, below what matters."""


@dataclass(frozen=True)
class Plan:
    """How many ``draws``, the ``level``, the ``seed``, and how much is done at once (see `Problem.of`)."""

    draws: int
    level: float
    seed: int
    slab: int
    chunk: int
    device: str


def calibrated(
    scans: Sequence[Scan], method: Method, prior: SlicePrior, describes: Facts, plan: Plan, report: Report
) -> Calibration:
    """The record of draws of scans that hold their truth. ``report`` is told (evaluations a slice done, in all)."""
    total = len(scans) * plan.draws * method.evaluations
    found: list[Tensor] = []
    for number, scan in enumerate(scans):
        problem = Problem.of(scan, prior, slab=plan.slab, chunk=plan.chunk, device=plan.device)
        draws: list[Tensor] = []
        for sample in range(plan.draws):
            report((number * plan.draws + sample) * method.evaluations, total)
            draws.append(scan.magnitude(method(problem, plan.seed, (sample,))[0]).cpu())
        found.append(_scores(scan, torch.stack(draws)))
    report(total, total)
    joined = torch.cat(found)
    q = conformal_quantile(joined, plan.level)
    return Calibration(plan.level, q, FLOOR, plan.draws, len(joined), dict(describes))


def _scores(scan: Scan, draws: Tensor) -> Tensor:
    """Of the voxels inside the body, ``[count]``."""
    if scan.truth is None:
        raise InputError("A scan without its truth cannot be calibrated with.")
    truth = scan.magnitude(scan.truth)
    inside = body(from_prior_units(truth, scan.full, scan.unit), scan.unit)
    return scores(truth, summarise(draws), FLOOR)[inside]
