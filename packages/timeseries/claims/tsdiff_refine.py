"""Refining point forecasts of the exchange rates by the density of TSDiff."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import torch

from degauss.core.claims import Claim, Result
from degauss.timeseries import naive
from degauss.timeseries.datasets import exchange_rate
from degauss.timeseries.exchange import CONFIG
from degauss.timeseries.refinement import Case, Refining, loss, matched, refine, representative_step, without_model
from degauss.timeseries.windows import RandomWindows

from ._tsdiff import HORIZON, SAMPLES, SEASON, entries, model

CLAIM = Claim(
    paper="Kollovieh et al. 2023, Predict, Refine, Synthesize (TSDiff), section 3.3 and the table of refinement",
    statement="On every data set some variant of refining lowers the CRPS of the base forecasts, most of all of point "
    "forecasts such as the seasonal naive.",
    expected="For both the seasonal naive and the last value, one of the variants (Langevin or maximum likelihood, "
    "mean-square or quantile) lowers the CRPS for every seed, and lowers it more than the same steps without the model "
    "(the regulariser and the noise alone: the control that must fail): holds. Lower than the base for every seed, for "
    "one base at least, whatever the control: holds partly. The base with its past errors, which costs nothing, is "
    "printed beside it.",
)
VARIANTS = {
    "LMC-MS": Refining(SAMPLES, "mean-square", step_size=0.01),
    "LMC-Q": Refining(SAMPLES, "quantile", step_size=0.01),
    "ML-MS": Refining(SAMPLES, "mean-square", gamma=0.0, step_size=0.01),
    "ML-Q": Refining(SAMPLES, "quantile", gamma=0.0, step_size=0.01),
}


def run(seeds: Sequence[int]) -> Result:
    """Refine the last value and the seasonal naive of eight entries with each seed's model, and without it."""
    torch.set_num_threads(1)
    bases = forecasts()
    found: dict[str, list[float]] = {}
    for base, cases in bases.items():
        found[f"{base}: CRPS as given"] = [loss(cases, [matched(case.samples, SAMPLES) for case in cases])]
        found[f"{base}: CRPS with its past errors"] = [with_past_errors(base, cases)]
        found |= {f"{base}: CRPS after {name}": [] for name in VARIANTS}
        found |= {f"{base}: CRPS after {name} without the model": [] for name in VARIANTS}
    series = [record.values for record in exchange_rate().train]
    for seed in seeds:
        learnt = model(seed)
        blank = without_model(learnt)
        step = representative_step(learnt, RandomWindows(series, CONFIG, seed)(range(64)), seed)
        for (base, cases), (name, refining) in product(bases.items(), VARIANTS.items()):
            seeded = replace(refining, seed=seed, rows=64)
            found[f"{base}: CRPS after {name}"].append(loss(cases, refine(learnt, cases, step, seeded)))
            without = loss(cases, refine(blank, cases, step, seeded))
            found[f"{base}: CRPS after {name} without the model"].append(without)
    helped = {base: [name for name in VARIANTS if lowers(found, base, name)] for base in bases}
    honest = {base: [name for name in names if beats_control(found, base, name)] for base, names in helped.items()}
    if all(honest.values()):
        verdict = "holds"
    else:
        verdict = "holds partly" if any(helped.values()) else "does not hold"
    return Result(
        verdict,
        found,
        notes=f"Eight test entries, one of each currency, {SAMPLES} draws (100 in the paper), 20 steps of 0.01, "
        "gamma 0.1, strength 1, as published.",
    )


def forecasts() -> dict[str, list[Case]]:
    """The naive point forecasts of the last 30 values of each entry."""
    bases: dict[str, list[Case]] = {"seasonal naive": [], "last value": []}
    for entry in entries():
        cutoff = len(entry.values) - HORIZON
        history = entry.values[:cutoff]
        bases["seasonal naive"].append(Case(entry, cutoff, naive.seasonal_naive(history, HORIZON, SEASON)[None]))
        bases["last value"].append(Case(entry, cutoff, naive.last_value(history, HORIZON)[None]))
    return bases


def with_past_errors(base: str, cases: Sequence[Case]) -> float:
    histories = [case.record.values[: case.cutoff] for case in cases]
    if base == "last value":
        return loss(cases, [naive.last_value_ensemble(history, HORIZON) for history in histories])
    return loss(cases, [naive.seasonal_naive_ensemble(history, HORIZON, SEASON) for history in histories])


def lowers(found: dict[str, list[float]], base: str, name: str) -> bool:
    (given,) = found[f"{base}: CRPS as given"]
    return all(value < given for value in found[f"{base}: CRPS after {name}"])


def beats_control(found: dict[str, list[float]], base: str, name: str) -> bool:
    pairs = zip(found[f"{base}: CRPS after {name}"], found[f"{base}: CRPS after {name} without the model"], strict=True)
    return all(value < control for value, control in pairs)
