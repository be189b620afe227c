r"""Intervals from a few posterior draws, calibrated so that they cover (split conformal prediction).

k draws of one posterior give each value a mean and a standard deviation (``summarise``). The interval

    mean - q (std + floor)  to  mean + q (std + floor)

has one free number, q. On a tuning subject whose truth x is known, each of its n values has a score

    s = |x - mean| / (std + floor),

and q is the ceil((n + 1) level)-th smallest of them (Papadopoulos et al. 2002; Lei et al. 2018, section 2.2 and 5.2).
That absorbs whatever is wrong with the draws on average: too narrow or too wide, and the noise of a standard deviation
of few draws. Were the draws exact and the posterior Gaussian, then (x - mean) / std would be sqrt(1 + 1/k) times a
Student variable of k - 1 degrees of freedom, and q its quantile (``exact_factor``): q over that number says by how
much the draws are overconfident.

What is guaranteed: if a new value's score is exchangeable with the n scores, its interval covers it with probability
at least ``level``, and less than level + 1 / (n + 1) where scores do not tie. Nothing is asked of the prior, the
method or the draws.

What is not:

- a coverage in any one place, or where the standard deviation is small: the level is an average over the values that
  were calibrated on. ``coverage`` looks at each region.
- the level for each subject. Values of one volume are dependent, so a subject's coverage scatters about the level by
  more than the binomial law of its count; and another subject's values are exchangeable with the tuning subject's only
  so far as the two are alike. (A promise about a subject to come takes level / (1 - level) tuning subjects or more,
  9 for 90 %, with the quantile of Lee et al. 2023, "Distribution-free inference with hierarchical data".)
- anything at all for another scan geometry, another method or another number of draws: a ``Calibration`` says what it
  was made for, and refuses to be used elsewhere. Nor for anatomy that is unlike the tuning subject's, which no record
  can notice.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from degauss.core.checkpoint import FORMAT_VERSION, read_header
from degauss.core.errors import InputError, check_range
from degauss.core.fields import expect, integer, number, table
from degauss.core.files import atomic_path, write_json

KIND = "degauss.core/interval-calibration"

Facts = Mapping[str, str | int | float]
"""What a measurement and a method are, in numbers and words: ``{"method": "dds", "views": 8, ...}``."""

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
"""Where ``reliability`` looks."""


class Summary(NamedTuple):
    """Mean and standard deviation (of k - 1 degrees of freedom) of ``draws`` = k draws, each in an event's shape."""

    mean: Tensor
    std: Tensor
    draws: int


class Interval(NamedTuple):
    """The two ends, in an event's shape and the unit of x, and the share of values that should lie between them."""

    low: Tensor
    high: Tensor
    level: float


def summarise(draws: Tensor) -> Summary:
    """Of draws ``[k, *event]`` of one posterior. Raises InputError for fewer than two, or values not finite."""
    check_range("the number of draws", len(draws), 2)
    wrong = int((~torch.isfinite(draws)).sum())
    if wrong:
        raise InputError(f"draws must be finite, but {wrong} of their {draws.numel()} values are not.")
    return Summary(draws.mean(0), draws.std(0), len(draws))


def exact_factor(level: float, draws: int) -> float:
    r"""The q of k exact draws of a Gaussian posterior with floor 0: sqrt(1 + 1/k) t_{k-1, (1 + level)/2}.

    At level 0.9 that is 1.64 for many draws, 2.01 for 8 and 7.73 for 2. Of Student's T with n degrees of freedom,
    P(|T| <= t) is the share of the integral of cos^{n-1} over [0, pi/2] that lies below atan(t / sqrt n).
    """
    _check_level(level)
    check_range("draws", draws, 2)
    degrees = draws - 1
    angle = np.linspace(0.0, np.pi / 2, 100_001)
    weight = np.cos(angle) ** (degrees - 1)
    below = np.concatenate(([0.0], np.cumsum((weight[1:] + weight[:-1]) / 2)))
    t = math.sqrt(degrees) * math.tan(float(np.interp(level, below / below[-1], angle)))
    return math.sqrt(1 + 1 / draws) * t


# --- calibration --------------------------------------------------------------------------------------------


def scores(truth: Tensor, summary: Summary, floor: float) -> Tensor:
    """|x - mean| / (std + floor) of every value, in the shape of ``truth``."""
    if truth.shape != summary.mean.shape:
        raise ValueError(f"a truth of shape {tuple(truth.shape)} for draws of {tuple(summary.mean.shape)}")
    return (truth - summary.mean).abs() / (summary.std + floor)


def conformal_quantile(scores: Tensor, level: float) -> float:
    """The ceil((n + 1) level)-th smallest of n scores of any shape; several subjects' may be concatenated.

    Raises InputError for fewer than level / (1 - level) scores, from which no finite number can be had, and for
    scores that are not finite.
    """
    _check_level(level)
    wrong = int((~torch.isfinite(scores)).sum())
    if wrong:
        raise InputError(f"intervals cannot be calibrated: {wrong} of {scores.numel()} scores are not finite.")
    count = scores.numel()
    rank, least = (math.ceil(number * (1 - 1e-12)) for number in ((count + 1) * level, level / (1 - level)))
    if rank > count:  # above: 0.07 * 100 exceeds 7, and 0.9 / (1 - 0.9) 9, by rounding alone
        raise InputError(f"intervals of level {level:g} need {least} values to be calibrated on, but have {count}.")
    return float(scores.flatten().kthvalue(rank).values)


@dataclass(frozen=True)
class Calibration:
    """A calibrated q, and all that it holds for.

    ``level``: the share of values to cover. ``floor``: in the unit of x. ``draws``: k. ``count``: how many values it
    was calibrated on. ``describes``: the measurement and the method, as whoever calibrates and whoever applies put it.
    """

    level: float
    q: float
    floor: float
    draws: int
    count: int
    describes: Facts = field(default_factory=dict[str, str | int | float])

    def __post_init__(self) -> None:
        _check_level(self.level)
        check_range("q", self.q, 0)
        _check_floor(self.floor)
        check_range("draws", self.draws, 2)

    @property
    def overconfidence(self) -> float:
        """q over that of exact Gaussian draws; above 1: the draws are closer to each other than to the truth."""
        return self.q / exact_factor(self.level, self.draws)

    def check(self, draws: int, describes: Facts) -> None:
        """Raise InputError, naming the first difference, unless this was made for such draws."""
        expected: dict[str, Any] = {"draws": self.draws, **self.describes}
        found: dict[str, Any] = {"draws": draws, **describes}
        for name in dict.fromkeys((*expected, *found)):
            if expected.get(name) != found.get(name):
                was, now = (repr(facts[name]) if name in facts else "not given" for facts in (expected, found))
                raise InputError(
                    f"the intervals were calibrated with {name} {was}, but are asked for with {name} {now}: "
                    "calibrate again for these draws."
                )

    def interval(self, summary: Summary, describes: Facts) -> Interval:
        """The calibrated interval of every value. Raises InputError for draws that this was not made for."""
        self.check(summary.draws, describes)
        half = self.q * (summary.std + self.floor)
        return Interval(summary.mean - half, summary.mean + half, self.level)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the record as JSON, whole or not at all."""
        about = {
            "format": KIND,
            "format_version": FORMAT_VERSION,
            **asdict(self),
            "overconfidence": self.overconfidence,
        }
        with atomic_path(path) as part:
            write_json(part, about)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Calibration:
        """Read a record. Raises InputError, naming the file and field, if it is none or is damaged."""
        about = read_header(Path(path), KIND)
        try:
            describes = dict(table(about, "describes"))
            for name, value in describes.items():
                expect(f"describes.{name}", isinstance(value, str | int | float), "a number or a text", repr(value))
            level, q, floor = (number(about, name) for name in ("level", "q", "floor"))
            return cls(level, q, floor, integer(about, "draws"), integer(about, "count"), describes)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None


def calibrate_intervals(
    draws: Tensor,
    truth: Tensor,
    *,
    level: float = 0.9,
    floor: float = 1e-3,
    describes: Facts,
    where: Tensor | None = None,
) -> Calibration:
    """Find q on a tuning subject: draws ``[k, *event]`` of its posterior, and its truth ``[*event]``.

    ``floor`` > 0, in the unit of x: keeps the score of a value on which all draws agree finite; chosen beforehand, not
    from the truth. ``where``: bool ``[*event]``, the values that count, all unless given: for a scan the body, as air
    is easily covered and would buy narrow intervals inside. Raises InputError for fewer than two draws, a level
    outside (0, 1), a floor that is not positive, and too few values.
    """
    _check_floor(floor)
    found = scores(truth, summarise(draws), floor)
    found = found if where is None else found[where]
    return Calibration(level, conformal_quantile(found, level), floor, len(draws), found.numel(), dict(describes))


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise InputError(f"level must be between 0 and 1, but is {level}.")


def _check_floor(floor: float) -> None:
    if not 0 < floor < math.inf:
        raise InputError(f"floor must be a number above 0, but is {floor}.")


# --- checking -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Band:
    """Some values: the share of them inside their intervals, how many there are, and the mean width of theirs."""

    covered: float
    count: int
    width: float


@dataclass(frozen=True)
class Coverage:
    """The share of values inside their intervals: of all, by tenths of the standard deviation, and by region.

    ``by_std``: from the tenth of the values with the smallest standard deviation to that with the largest.
    """

    level: float
    overall: Band
    by_std: tuple[Band, ...]
    regions: Mapping[str, Band]

    def card(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def coverage(
    truth: Tensor,
    summary: Summary,
    interval: Interval,
    *,
    where: Tensor | None = None,
    regions: Mapping[str, Tensor] | None = None,
) -> Coverage:
    """Compare intervals with a truth ``[*event]`` that was not calibrated on.

    ``where``: bool ``[*event]``, the values that count, all unless given. ``regions``: more such masks, by name, of
    which each is reported on its own. Raises InputError for a region without values.
    """
    where = torch.ones_like(truth, dtype=torch.bool) if where is None else where
    inside, width = (interval.low <= truth) & (truth <= interval.high), interval.high - interval.low

    def band(name: str, chosen: Tensor) -> Band:
        if not chosen.numel():
            raise InputError(f"the coverage of {name} is undefined, as it has no values.")
        hit, wide = inside.flatten()[chosen], width.flatten()[chosen]
        return Band(float(hit.double().mean()), chosen.numel(), float(wide.double().mean()))

    def places(mask: Tensor) -> Tensor:
        return mask.flatten().nonzero().flatten()

    chosen = places(where)
    order = chosen[summary.std.flatten()[chosen].argsort(stable=True)]
    tenths = tuple(band("a tenth", part) for part in order.tensor_split(10) if part.numel())
    named = {name: band(f"region {name!r}", places(mask & where)) for name, mask in (regions or {}).items()}
    return Coverage(interval.level, band("the truth", chosen), tenths, named)


def reliability(
    truth: Tensor,
    summary: Summary,
    *,
    scale: float = 1.0,
    floor: float = 0.0,
    where: Tensor | None = None,
    levels: Sequence[float] = LEVELS,
) -> tuple[tuple[float, float], ...]:
    """(level, share of values covered) for intervals of half-width scale exact_factor(level) (std + floor).

    With ``scale`` 1 and ``floor`` 0 the draws are taken at their word. ``Calibration.overconfidence`` and its floor
    are the calibrated curve, which is right at the calibrated level and elsewhere so far as errors are Gaussian.
    """
    error = (truth - summary.mean).abs()
    spread = scale * (summary.std + floor)
    if where is not None:
        error, spread = error[where], spread[where]
    return tuple(
        (level, float((error <= exact_factor(level, summary.draws) * spread).double().mean())) for level in levels
    )
