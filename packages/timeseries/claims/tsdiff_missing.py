"""TSDiff forecasts with half of its context missing, three ways, from the checkpoint that was trained on whole ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import median

import numpy as np
import torch

from degauss.core.claims import Claim, Result
from degauss.core.gaussian import ddim
from degauss.timeseries.exchange import CONFIG
from degauss.timeseries.scenarios import SCENARIOS, hidden, last_values, loss, with_gaps
from degauss.timeseries.tsdiff import Sampling

from ._tsdiff import HORIZON, SAMPLES, entries, model

CLAIM = Claim(
    paper="Kollovieh et al. 2023, Predict, Refine, Synthesize (TSDiff), section 4.1, forecasting with missing values",
    statement="The checkpoint that forecasts also forecasts with half of its context missing, at random (RM), in a "
    "block at the start (BM-B) or at the end (BM-E), without training for any of them, and stays close to models that "
    "were.",
    expected="For RM and for BM-B the median CRPS over seeds is at most 20 % above that with the whole context; for "
    "BM-E, where the last 180 days are gone, it is below that of the last value that is left. All three: holds; two: "
    "holds partly. Control that must fail: without guidance, so without observations, the CRPS is above all of these "
    "for every seed. Models trained for a scenario are not reproduced here.",
)
MISSING, WHOLE, FREE = 180, "whole context", "no guidance"


def run(seeds: Sequence[int]) -> Result:
    """Forecast eight entries in every scenario with each seed's model."""
    torch.set_num_threads(1)
    known = [replace(entry, values=entry.values[:-HORIZON]) for entry in entries()]
    target = np.stack([entry.values[-HORIZON:] for entry in entries()])
    names = (WHOLE, *SCENARIOS)
    found: dict[str, list[float]] = {f"CRPS, {name}": [] for name in (*names, FREE)}
    found |= {f"CRPS of the last value left, {name}": [] for name in names}
    for seed in seeds:
        learnt = model(seed)
        sampling = Sampling(samples=SAMPLES, steps=25, solver=ddim(eta=1.0), seed=seed)
        cases = {WHOLE: known}
        cases |= {name: hidden(known, CONFIG.context, MISSING, hide, seed) for name, hide in SCENARIOS.items()}
        for name, left in cases.items():
            found[f"CRPS, {name}"].append(loss(target, with_gaps(learnt, left, HORIZON, sampling)))
            found[f"CRPS of the last value left, {name}"].append(loss(target, last_values(left, HORIZON)))
        free = replace(sampling, form="published", guidance=0.0)
        found[f"CRPS, {FREE}"].append(loss(target, with_gaps(learnt, known, HORIZON, free)))
    middle = {name: median(values) for name, values in found.items()}
    held = [middle[f"CRPS, {name}"] <= 1.2 * middle[f"CRPS, {WHOLE}"] for name in ("RM", "BM-B")]
    held.append(middle["CRPS, BM-E"] < middle["CRPS of the last value left, BM-E"])
    control = all(
        free > max(found[f"CRPS, {name}"][k] for name in names) for k, free in enumerate(found[f"CRPS, {FREE}"])
    )
    if not control or sum(held) < 2:
        verdict = "does not hold"
    else:
        verdict = "holds" if all(held) else "holds partly"
    return Result(
        verdict,
        found,
        notes=f"Eight test entries, one of each currency, {SAMPLES} samples of 25 ancestral steps, quantile guidance "
        "with a line search. 180 of 360 context values are missing; what lies before the context is seen through lags.",
    )
