r"""What quality costs: a system at several settings, and the settings that no other beats.

    run = runner(system, items)                       # system(solver, steps, item) -> (wave, evaluations)
    points = measure(run, [Setting("dpmpp", 4), Setting("dpmpp", 8)], score)
    best = front(points, "evaluations", "si_sdr")

A point is beaten, or dominated, by one that costs no more and is no worse, and is better in one of the two. Points that
are equal in both do not beat each other: all of them are on the front, or none.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, NamedTuple, TypeVar

from degauss.audio.metrics import real_time_factor
from degauss.audio.metrics_report import BY_NAME, Judge, judge_wave
from degauss.audio.waves import Wave
from degauss.core.errors import InputError
from degauss.core.files import atomic_path, write_json

T = TypeVar("T")

Cost = Literal["evaluations", "rtf"]


class Setting(NamedTuple):
    """A solver, by the name that ``--solver`` takes, and its steps."""

    solver: str
    steps: int

    @property
    def name(self) -> str:
        return f"{self.solver}-{self.steps}"


class Result(NamedTuple):
    """What a setting made: a wave for each item, the mean evaluations of the network for one, and seconds for all."""

    waves: list[Wave]
    evaluations: float
    seconds: float


System = Callable[[str, int, T], tuple[Wave, int]]
"""(solver, steps, item) -> a wave and how often the network was evaluated for it."""
Run = Callable[[Setting], Result]
Score = Callable[[Sequence[Wave]], Mapping[str, float]]


@dataclass(frozen=True)
class Point:
    """A setting: mean ``evaluations`` an item, real-time factor ``rtf``, ``seconds`` for all, ``quality`` by name."""

    name: str
    evaluations: float
    rtf: float
    seconds: float
    quality: Mapping[str, float]

    def cost(self, kind: Cost) -> float:
        return self.evaluations if kind == "evaluations" else self.rtf


def runner(system: System[T], items: Sequence[T]) -> Run:
    """``system`` over all items, timed. The first item is run once more before, untimed: first calls fill caches."""
    if not items:
        raise ValueError("expected at least one item")

    def run(setting: Setting) -> Result:
        system(setting.solver, setting.steps, items[0])
        waves: list[Wave] = []
        evaluations = 0
        begin = time.perf_counter()
        for item in items:
            wave, asked = system(setting.solver, setting.steps, item)
            waves.append(wave)
            evaluations += asked
        return Result(waves, evaluations / len(items), time.perf_counter() - begin)

    return run


def scorer(references: Sequence[Wave], measures: Sequence[str], judge: Judge | None = None) -> Score:
    """The mean of each measure (`metrics_report.MEASURES`) over waves and their references.

    Raises `InputError`, with the reason, for a measure that no wave has a value of; ones that some lack are means over
    the others, and so are to be compared only between settings that lack the same.
    """
    how = replace(judge or Judge(), only=frozenset(measures))

    def score(waves: Sequence[Wave]) -> dict[str, float]:
        pairs = zip(waves, references, strict=True)
        rows = [judge_wave(wave, how, reference=reference) for wave, reference in pairs]
        means: dict[str, float] = {}
        for name in measures:
            values = [row.values[name] for row in rows if name in row.values]
            if not values:
                raise InputError(f"{name} has no value: {rows[0].missing.get(name, 'it needs words or a voice.')}")
            means[name] = fmean(values)
        return means

    return score


def measure(
    run: Run, settings: Sequence[Setting], score: Score, report: Callable[[int, int], None] | None = None
) -> list[Point]:
    """A point for each setting, in order; ``report`` hears how many of how many are done."""
    points: list[Point] = []
    for done, setting in enumerate(settings):
        if report is not None:
            report(done, len(settings))
        result = run(setting)
        seconds = sum(wave.duration for wave in result.waves)
        factor = real_time_factor(result.seconds, seconds)
        points.append(Point(setting.name, result.evaluations, factor, result.seconds, dict(score(result.waves))))
    if report is not None:
        report(len(settings), len(settings))
    return points


# --- the front ----------------------------------------------------------------------------------------------


def non_dominated(values: Sequence[Sequence[float]]) -> list[bool]:
    """Which rows no other row beats, where less is better in every column.

    Row a beats row b if it is at most b in every column, and less in one.
    """
    return [not any(_beats(other, row) for other in values) for row in values]


def _beats(a: Sequence[float], b: Sequence[float]) -> bool:
    pairs = [*zip(a, b, strict=True)]
    return all(x <= y for x, y in pairs) and any(x < y for x, y in pairs)


def badness(name: str, value: float) -> float:
    """A measure turned so that less is better: its negative, itself, or its distance from 1."""
    better = BY_NAME[name].better
    return -value if better == "higher" else value if better == "lower" else abs(value - 1)


def front(points: Sequence[Point], cost: Cost, quality: str) -> list[Point]:
    """The points that no other beats in cost and quality, from cheap to dear."""
    kept = non_dominated([(point.cost(cost), badness(quality, point.quality[quality])) for point in points])
    return sorted((point for point, good in zip(points, kept, strict=True) if good), key=lambda point: point.cost(cost))


# --- files --------------------------------------------------------------------------------------------------


def write_points(stem: Path, points: Sequence[Point], quality: str, facts: Mapping[str, Any]) -> None:
    """Write ``stem``.csv, a row a setting, and ``stem``.json with ``facts`` too; fronts are of ``quality``."""
    fronts = {kind: {point.name for point in front(points, kind, quality)} for kind in ("evaluations", "rtf")}
    rows = [
        {
            "name": point.name,
            "evaluations": point.evaluations,
            "rtf": point.rtf,
            "seconds": point.seconds,
            **point.quality,
            **{f"front_{kind}": point.name in names for kind, names in fronts.items()},
        }
        for point in points
    ]
    with atomic_path(stem.with_suffix(".csv")) as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0]])
        writer.writeheader()
        writer.writerows(rows)
    with atomic_path(stem.with_suffix(".json")) as part:
        write_json(part, {"facts": dict(facts), "quality": quality, "points": rows})
