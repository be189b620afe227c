r"""A reconstruction judged against its truth: is it right, does it explain its scan, and does it know what it knows.

The intervals are judged in prior units, where their floor is given. Without a `Calibration` the draws are taken at
their word: intervals of 90 % as exact draws of a Gaussian posterior would have them (`exact_factor`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from degauss.core.errors import InputError
from degauss.core.inverse import Calibration, Coverage, Interval, Summary, coverage, exact_factor, reliability
from degauss.medical.metrics import Metrics, body, compare, data_residual, full_of, in_prior_units, noise_residual
from degauss.medical.scans import Scan
from degauss.medical.volumes import Unit, Volume, per_prior_unit

Curve = tuple[tuple[float, float], ...]

_LEVEL = 0.9
_SHORT = 0.05  # a shortfall of coverage that is worth a warning
_UNEXPLAINED = 0.05  # a residual beyond noise that is worth one

TISSUES: Mapping[str, tuple[float, float]] = {
    "gas and lung": (-float("inf"), -500.0),
    "fat and soft tissue": (-500.0, 150.0),
    "bone": (150.0, float("inf")),
}
"""Regions of the body in computed tomography by the truth's value, HU, above the first bound up to the second."""


class Spread(NamedTuple):
    """A standard deviation ``[slices, rows, columns]`` in the volume's unit, of how many draws, and its calibration."""

    std: Tensor
    draws: int
    calibration: Calibration | None = None


@dataclass(frozen=True)
class Evaluation:
    """What was found.

    ``inside``: the body of the truth. ``coverage``: of the body's voxels, calibrated where it can be. ``curves``:
    (level, share covered), as drawn and calibrated. ``sentences``: what a reader should know first.
    """

    metrics: Metrics
    inside: Tensor
    coverage: Coverage | None
    curves: Mapping[str, Curve]
    sentences: tuple[str, ...]

    def card(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            **self.metrics.card(),
            "coverage": None if self.coverage is None else self.coverage.card(),
            "reliability": {name: [list(point) for point in curve] for name, curve in self.curves.items()},
            "sentences": list(self.sentences),
        }


def evaluate(
    volume: Volume,
    truth: Volume,
    *,
    spread: Spread | None = None,
    scan: Scan | None = None,
    data_range: float | None = None,
    slab: int = 32,
) -> Evaluation:
    """Judge a ``volume`` on the grid of its ``truth`` and in its unit.

    ``data_range``: see `compare`. ``slab``: how many slices the scan's operator takes at once. Raises InputError for a
    calibration of another number of draws, and as `compare` does.
    """
    residual = None if scan is None else _residual(scan, volume, slab)
    metrics = compare(volume.data, truth.data, truth.unit, data_range=data_range, residual=residual)
    inside = body(truth.data, truth.unit)
    full = full_of(truth.data, truth.unit) if scan is None else scan.full
    found, curves = (None, {}) if spread is None else _judged(volume, truth, spread, full, inside)
    said = [] if scan is None else [_on_residual(residual, noise_residual(scan))]
    sentences = [*said, *_on_coverage(found, None if spread is None else spread.calibration)]
    return Evaluation(metrics, inside, found, curves, tuple(sentences))


def tissues(truth: Tensor, unit: Unit, inside: Tensor) -> dict[str, Tensor]:
    """The parts of `TISSUES` that the body has, as masks; none in other units than HU."""
    if unit != "HU":
        return {}
    parts = {name: inside & (truth > low) & (truth <= high) for name, (low, high) in TISSUES.items()}
    return {name: part for name, part in parts.items() if bool(part.any())}


def _judged(
    volume: Volume, truth: Volume, spread: Spread, full: float, inside: Tensor
) -> tuple[Coverage, dict[str, Curve]]:
    unit, record = truth.unit, spread.calibration
    if bool((spread.std < 0).any()):
        raise InputError("a standard deviation is at least 0, but the volume given as one has values below.")
    x, mean = (in_prior_units(data, full, unit) for data in (truth.data, volume.data))
    summary = Summary(mean, spread.std / per_prior_unit(full, unit), spread.draws)
    curves = {"as drawn": reliability(x, summary, where=inside)}
    if record is None:
        half = exact_factor(_LEVEL, spread.draws) * summary.std
        interval = Interval(mean - half, mean + half, _LEVEL)
    else:
        # Its own measurement and method: that this is another one is what a comparison with the truth would show.
        interval = record.interval(summary, record.describes)
        curves["calibrated"] = reliability(x, summary, scale=record.overconfidence, floor=record.floor, where=inside)
    return coverage(x, summary, interval, where=inside, regions=tissues(truth.data, unit, inside)), curves


def _residual(scan: Scan, volume: Volume, slab: int) -> float | None:
    """None where x is complex: a volume has its magnitude alone."""
    if len(scan.shape) != 3:
        return None
    return data_residual(scan.measurement(slab), in_prior_units(volume.data, scan.full, scan.unit)[None])


def _on_residual(residual: float | None, noise: float) -> str:
    if residual is None:
        return "The scan is of a complex image, so a volume of magnitudes cannot be held against it."
    said = f"|y - A x| / |y| is {residual:.2%}, of which noise alone would leave {noise:.2%}."
    if residual**2 > noise**2 + _UNEXPLAINED**2:
        return f"Warning: the volume does not explain its scan: {said}"
    return f"The volume explains its scan: {said}"


def _on_coverage(found: Coverage | None, record: Calibration | None) -> list[str]:
    if found is None:
        return []
    share = f"cover {found.overall.covered:.1%} of the body's voxels"
    kind = "Calibrated" if record is not None else "Uncalibrated"
    short = found.overall.covered < found.level - _SHORT
    sentences = [f"{'Warning: ' if short else ''}{kind} intervals of {found.level:.0%} {share}."]
    least = min(found.regions.items(), key=lambda item: item[1].covered, default=None)
    if least is not None and least[1].covered < found.level - _SHORT:
        sentences.append(f"Warning: in {least[0]} they cover {least[1].covered:.1%}: the level is an average.")
    return sentences
