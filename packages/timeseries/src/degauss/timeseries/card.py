r"""The generator card: how faithful synthetic windows are, and what real ones would have scored.

Training windows are halved at random, half A to be compared with and half B to stand in for a perfect generator. With
as many windows on every side,

    score(synthetic, A)       beside the floor  score(B, A),
    score(synthetic, held)    beside the floor  score(B, held),

the second on real windows that the generator never saw. Each is repeated on other random choices. A score is *above the
floor* where its median is above all floors; else it is *at the floor*, and no smaller score would mean anything. The
floor of held-out windows is higher where the held-out part is different, as it should be.

The card is one HTML file with its pictures inside, and a JSON file with the same numbers. It names the features and
shows some real windows, so it is as confidential as the data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from statistics import median
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from degauss.core.errors import InputError, check_range
from degauss.core.train import Shuffle
from degauss.timeseries.copies import CopyCheck, check_copies
from degauss.timeseries.generation_data import Split, Units
from degauss.timeseries.population import fdds, vds
from degauss.timeseries.posthoc import Judge, discriminative_score, predictive_score

Array = NDArray[np.float64]
Against = Literal["training", "held-out"]
Score = Callable[[Array, Array, int], float]

MEANING = {
    "FDDS": "correlations between series, window by window",
    "VDS": "values of each series",
    "discriminative": "how far above chance a classifier tells synthetic from real",
    "predictive": "error on real windows of a forecaster trained on synthetic ones",
}


@dataclass(frozen=True)
class Scoring:
    """How much is computed: ``repeats`` of each score, on at most ``windows`` windows of each side.

    ``judge``: the network of the discriminative and the predictive score.
    """

    repeats: int = 3
    windows: int = 2000
    judge: Judge = field(default_factory=Judge)
    seed: int = 0

    def __post_init__(self) -> None:
        check_range("repeats", self.repeats, 1)
        check_range("windows", self.windows, 10)


@dataclass(frozen=True)
class Comparison:
    """One score of synthetic windows against real ones, and of real ones in their place (its floor)."""

    score: str
    against: Against
    windows: int
    synthetic: tuple[float, ...]
    floor: tuple[float, ...]

    @property
    def above(self) -> bool:
        """Whether the median score is above every floor."""
        return median(self.synthetic) > max(self.floor)

    def words(self) -> str:
        """The comparison in a sentence."""
        found, floor = median(self.synthetic), median(self.floor)
        name = f"{self.score} against {self.against} windows is {found:.3g}"
        if not self.above:
            return f"{name}, at the floor of {floor:.3g} that real windows reach."
        times = f", {found / floor:.2g} times it" if floor > 0 else ""
        return f"{name}, above the floor of {floor:.3g} that real windows reach{times}."


@dataclass(frozen=True, eq=False)
class Card:
    """What was found, and the windows it was found on (in units where the training data lie in [0, 1])."""

    title: str
    names: tuple[str, ...]
    counts: Mapping[str, int]
    comparisons: tuple[Comparison, ...]
    copies: CopyCheck
    facts: Mapping[str, Any]
    train: Array = field(repr=False)
    held: Array = field(repr=False)
    synthetic: Array = field(repr=False)

    def words(self) -> list[str]:
        """The card in sentences: every score, and the copy check."""
        return [*(comparison.words() for comparison in self.comparisons), self.copies.words()]

    def numbers(self) -> dict[str, Any]:
        """The card as JSON holds it."""
        copies = self.copies
        return {
            "title": self.title,
            "features": list(self.names),
            "windows": dict(self.counts),
            "words": self.words(),
            "scores": [
                asdict(comparison) | {"above_floor": comparison.above, "meaning": MEANING[comparison.score]}
                for comparison in self.comparisons
            ],
            "copies": {
                "closer": copies.closer,
                "near": copies.near,
                "near_limit": copies.limit,
                "identical": copies.same,
                "median_distance": float(np.median(copies.synthetic)),
                "median_distance_of_held_out": float(np.median(copies.held)),
                "flagged": copies.flagged,
            },
            "training": dict(self.facts),
        }


def make_card(
    real: Split,
    synthetic: Array,
    units: Units,
    *,
    title: str = "Generator card",
    facts: Mapping[str, Any] | None = None,
    scoring: Scoring | None = None,
    report: Callable[[int, int], None] | None = None,
) -> Card:
    """Score synthetic windows ``[n, length, features]``, in data units as ``real``; `InputError` for too few of them.

    ``facts``: the training configuration, to be shown. ``report`` is told (scores done, scores in all).
    """
    scoring = Scoring() if scoring is None else scoring
    if synthetic.shape[1:] != real.train.shape[1:]:
        found, expected = synthetic.shape[1:], real.train.shape[1:]
        raise InputError(f"synthetic windows are {found}; expected {expected}, length and features of the real ones.")
    train, held, made = (units.unit(windows) for windows in (real.train, real.held, synthetic))
    return Card(
        title=title,
        names=units.names,
        counts={"training": len(train), "held-out": len(held), "synthetic": len(made)},
        comparisons=tuple(_comparisons(train, held, made, scoring, report)),
        copies=check_copies(train, _some(held, scoring.windows, 0), _some(made, scoring.windows, 0)),
        facts=dict(facts or {}),
        train=train,
        held=held,
        synthetic=made,
    )


def _comparisons(
    train: Array, held: Array, made: Array, scoring: Scoring, report: Callable[[int, int], None] | None
) -> list[Comparison]:
    scores = _scores(train.shape[2], scoring.judge)
    # The repeats halve the training windows anew, and choose anew.
    seeds = [scoring.seed + k for k in range(scoring.repeats)]
    halves = [np.array_split(_some(train, len(train), seed), 2) for seed in seeds]
    found: list[Comparison] = []
    for name, score in scores.items():
        for against in ("training", "held-out"):
            count = min(len(made), len(train) // 2, scoring.windows)
            count = count if against == "training" else min(count, len(held))
            pairs: list[tuple[float, float]] = []
            for seed, (first, second) in zip(seeds, halves, strict=True):
                real = first[:count] if against == "training" else _some(held, count, seed)
                pairs.append((score(real, _some(made, count, seed), seed), score(real, second[:count], seed)))
            synthetic, floor = zip(*pairs, strict=True)
            found.append(Comparison(name, against, count, synthetic, floor))
            if report is not None:
                report(len(found), 2 * len(scores))
    return found


def _scores(features: int, judge: Judge) -> dict[str, Score]:
    """The scores that windows of so many features have: one feature has no correlations."""

    def judged(seed: int) -> Judge:
        return replace(judge, seed=judge.seed + seed)

    scores: dict[str, Score] = {
        "FDDS": lambda real, other, seed: fdds(real, other),
        "VDS": lambda real, other, seed: vds(real, other, seed=seed),
        "discriminative": lambda real, other, seed: discriminative_score(real, other, judged(seed)),
        "predictive": lambda real, other, seed: predictive_score(real, other, judged(seed)),
    }
    return {name: score for name, score in scores.items() if features > 1 or name != "FDDS"}


def _some(windows: Array, count: int, seed: int) -> Array:
    """Windows in an order of the seed, at most so many."""
    return windows[Shuffle(len(windows), seed)(range(min(count, len(windows))))]
