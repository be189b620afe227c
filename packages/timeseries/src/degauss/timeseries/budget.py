r"""A forecast in so many seconds: which number of steps, and of samples, is worth most in that time?

Sampling costs `steps` x `samples` network evaluations a window. Few steps bias every sample, few samples blur the
distribution (the CRPS of m draws from a perfect forecast is 1 + 1/m of the best), and what to give up depends on the
model and the series. So it is measured. With a price of p seconds an evaluation, W windows to forecast and K candidates
tried on V validation windows, everything fits the time S where

    steps x samples = A = share S / (p (W + K V)),

so the candidates are the pairs on this curve, one for each of some step counts, and the one of the lowest CRPS on the
validation windows is taken. A part of the time is kept for a reference there: the settings asked for, as far as they
can be paid. How much worse the choice is than that is what the budget cost, and is reported with the whole curve.

The validation windows lie before everything that is scored later (see `backtest.before`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from degauss.core.errors import check_range
from degauss.timeseries import metrics
from degauss.timeseries.backtest import Cut
from degauss.timeseries.forecasting import Report, forecast
from degauss.timeseries.tsdiff import Sampling, TSDiff, draw

STEPS = (5, 10, 20, 50, 100)
"""Step counts to try, as far as they are at most the one asked for, which is tried as well."""
FEWEST_STEPS, FEWEST_SAMPLES = 5, 20
"""No budget goes below these, unless less is asked for."""
FEWEST_TRIES, MOST_WINDOWS = 3, 10
"""Validation windows are as many as leave time for so many candidates, and at most ten."""
RESERVE = 0.1
"""Share of the time left alone, for what takes time beside sampling."""
REFERENCE = 0.2
"""Share of the time for the reference."""


class Trial(NamedTuple):
    """A pair that was tried: its mean CRPS over the validation targets, and the seconds it took there.

    The CRPS is in the unit of the data, so that large series weigh most, as they do in the weighted quantile loss.
    """

    steps: int
    samples: int
    crps: float
    seconds: float

    @property
    def evaluations(self) -> int:
        """Network evaluations a window."""
        return self.steps * self.samples


@dataclass(frozen=True)
class Budget:
    """What was chosen for a time, and why.

    ``asked`` and ``taken``: the sampling before and after. ``trials``: the curve, in order of steps; the one taken is
    among them unless there is none. ``reference``: the dearest that was tried, the settings asked for if they could be
    paid. ``windows``, ``targets``: what the trials were scored on.
    """

    seconds: float
    asked: Sampling
    taken: Sampling
    trials: tuple[Trial, ...] = ()
    reference: Trial | None = None
    windows: int = 0
    targets: int = 0

    @property
    def chosen(self) -> Trial | None:
        """The trial of what was taken."""
        taken = (self.taken.steps, self.taken.samples)
        return next((trial for trial in self.trials if (trial.steps, trial.samples) == taken), None)

    @property
    def lost(self) -> float:
        """CRPS of the choice over that of the reference, less 1; 0 if all that was asked for is taken.

        NaN where nothing could be tried, or nothing dearer than the choice.
        """
        if (self.taken.steps, self.taken.samples) == (self.asked.steps, self.asked.samples):
            return 0.0
        if self.chosen is None or self.reference in (None, self.chosen) or not self.reference.crps > 0:
            return math.nan
        return self.chosen.crps / self.reference.crps - 1

    def report(self) -> dict[str, Any]:
        """All of it, for a JSON file."""
        return {
            "sentence": self.sentence(),
            "seconds": self.seconds,
            "asked": {"steps": self.asked.steps, "samples": self.asked.samples},
            "taken": {"steps": self.taken.steps, "samples": self.taken.samples},
            "lost": self.lost,
            "reference": None if self.reference is None else self.reference._asdict(),
            "curve": [trial._asdict() for trial in self.trials],
            "validation_windows": self.windows,
            "validation_targets": self.targets,
        }

    def sentence(self) -> str:
        """What was taken, and what that costs."""
        taken = f"{self.taken.steps} steps x {self.taken.samples} samples in about {self.seconds:g} s"
        asked = f"{self.asked.steps} x {self.asked.samples}"
        if self.lost == 0 and not self.trials:
            return f"{taken}: all that was asked for."
        if self.chosen is None or self.reference is None:
            return f"{taken} instead of {asked}; there was nothing to measure the loss on."
        measured = f"{self.targets} values in {self.windows} validation window{'s' if self.windows > 1 else ''}"
        beside = f"{self.reference.steps} x {self.reference.samples}"
        dear = "" if beside == asked else f" ({asked} was too dear to measure)"
        if self.reference == self.chosen:
            return f"{taken}, the best and dearest of {len(self.trials)} tried{dear}, on {measured}."
        if math.isnan(self.lost):
            return f"{taken}; CRPS unknown against that of {beside}{dear}, on {measured}."
        change = f"{abs(100 * self.lost):.1f} % {'above' if self.lost > 0 else 'below'}"
        return f"{taken}; CRPS {change} that of {beside}{dear}, on {measured}."


def choose(
    model: TSDiff,
    validation: Sequence[Cut],
    windows: int,
    asked: Sampling,
    seconds: float,
    report: Report | None = None,
) -> Budget:
    """The sampling to forecast ``windows`` windows with in about ``seconds``, the search for it included.

    ``validation`` are windows whose targets may be looked at, those of `backtest.before`, say; as many of them are used
    as the time allows. Where there is none, or no choice, steps are given up before samples without a measurement. The
    time is a target, not a promise. Raises `InputError` for less than a tenth of a second.
    """
    check_range("seconds", seconds, 0.1, unit="s")
    worth = (1 - RESERVE) * seconds / price(model, windows, asked)  # evaluations that can be paid, in all
    if windows * asked.steps * asked.samples <= worth:
        return Budget(seconds, asked, asked)
    count = max(1, min(len(validation), windows // FEWEST_TRIES, MOST_WINDOWS))
    tries = max(2, min(windows // count, len(STEPS)))  # no more time for the search than for the work
    pairs = candidates((1 - REFERENCE) * worth / (windows + tries * count), asked, tries)
    if not validation or len(pairs) < 2:
        return Budget(seconds, asked, shrink(worth / windows, asked))
    seen = [validation[k] for k in np.linspace(len(validation) - 1, 0, count).round().astype(int)]  # the latest first
    dear = _reference(REFERENCE * worth / count, asked)
    wanted = [*pairs, dear] if dear is not None and math.prod(dear) > max(map(math.prod, pairs)) else pairs
    trials: list[Trial] = []
    for steps, samples in wanted:
        trials.append(_try(model, seen, replace(asked, steps=steps, samples=samples)))
        if report is not None:
            report(len(trials), len(wanted))
    curve = tuple(trials[: len(pairs)])
    best = min(curve, key=lambda trial: trial.crps)
    return Budget(
        seconds,
        asked,
        replace(asked, steps=best.steps, samples=best.samples),
        curve,
        max(trials, key=lambda trial: trial.evaluations),
        len(seen),
        sum(int((~np.isnan(cut.target)).sum()) for cut in seen),
    )


def candidates(affordable: float, asked: Sampling, count: int) -> list[tuple[int, int]]:
    """At most ``count`` pairs (steps, samples) of ``affordable`` evaluations, none above what is asked for.

    Step counts that leave fewer samples than `FEWEST_SAMPLES` are none; the others are thinned evenly.
    """
    fewest = min(FEWEST_SAMPLES, asked.samples)
    ladder = sorted({*(steps for steps in STEPS if steps < asked.steps), asked.steps})
    pairs = [(steps, min(int(affordable / steps), asked.samples)) for steps in ladder]
    pairs = [(steps, samples) for steps, samples in pairs if samples >= fewest]
    if len(pairs) <= count:
        return pairs
    return [pairs[k] for k in np.linspace(0, len(pairs) - 1, count).round().astype(int)]


def _reference(affordable: float, asked: Sampling) -> tuple[int, int] | None:
    """The settings asked for, with as many samples as ``affordable`` evaluations allow; None if these are too few."""
    samples = min(int(affordable / asked.steps), asked.samples)
    return (asked.steps, samples) if samples >= min(FEWEST_SAMPLES, asked.samples) else None


def shrink(affordable: float, asked: Sampling) -> Sampling:
    """As many steps as ``affordable`` evaluations a window allow, down to 5, and then as many samples, down to 20."""
    steps = min(asked.steps, max(int(affordable / asked.samples), FEWEST_STEPS))
    samples = min(asked.samples, max(int(affordable / steps), FEWEST_SAMPLES))
    return replace(asked, steps=steps, samples=samples)


def within(model: TSDiff, windows: int, asked: Sampling, seconds: float) -> Sampling:
    """The sampling of ``windows`` windows in about ``seconds``, without validation: steps are given up first."""
    check_range("seconds", seconds, 0.1, unit="s")
    return shrink((1 - RESERVE) * seconds / price(model, windows, asked) / windows, asked)


def price(model: TSDiff, windows: int, sampling: Sampling) -> float:
    """Seconds that one network evaluation of one sample takes on this machine, in batches as they will be drawn."""
    rows = min(sampling.rows, windows * sampling.samples)
    trial = replace(sampling, samples=rows, steps=1, rows=rows)
    blank = np.full((1, model.config.reach + model.config.length), np.nan)
    blank[0, : model.config.context] = np.sin(np.arange(model.config.context))
    draw(model, blank, ["warm up"], trial)
    return _timed(lambda: draw(model, blank, ["timed"], trial)) / rows


def _try(model: TSDiff, cuts: Sequence[Cut], sampling: Sampling) -> Trial:
    drawn: list[metrics.Array] = []
    histories, horizon = [cut.history for cut in cuts], cuts[0].horizon
    seconds = _timed(lambda: drawn.extend(forecast(model, histories, horizon, sampling)))
    losses = np.concatenate([metrics.crps(cut.target, samples) for cut, samples in zip(cuts, drawn, strict=True)])
    return Trial(sampling.steps, sampling.samples, float(np.nanmean(losses)), seconds)


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
