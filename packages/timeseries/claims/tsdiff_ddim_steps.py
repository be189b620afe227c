"""How many network evaluations a guided forecast needs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median

import torch

from degauss.core.claims import Claim, Result
from degauss.core.gaussian import ddim
from degauss.timeseries.exchange import score, split, trained
from degauss.timeseries.tsdiff import Sampling

STEPS = 1200
COUNTS = (5, 10, 20, 50)

CLAIM = Claim(
    paper="Kollovieh et al. 2023 (TSDiff), section 3.1 and its code's DDIM guidance; Song et al. 2021 (DDIM)",
    statement="Guided sampling works with DDIM's shortened schedules: fewer than the 100 ancestral steps lose little.",
    expected="At 20 DDIM steps the median CRPS is at most 10 % above 100 ancestral steps: holds; at 50 steps: holds "
    "partly.",
)


def run(seeds: Sequence[int]) -> Result:
    """Score two stretches of every currency at each number of steps, with the exchange-rate claim's models."""
    torch.set_num_threads(1)
    part = split(windows=2)
    found: dict[str, list[float]] = {f"CRPS at {count} DDIM steps": [] for count in COUNTS}
    found["CRPS at 100 ancestral steps"] = []
    for seed in seeds:
        model = trained(Path(f"out/claims/exchange-rate-{STEPS}-{seed}"), STEPS, seed)
        for count in COUNTS:
            sampling = Sampling(samples=16, steps=count, solver=ddim(), seed=seed)
            found[f"CRPS at {count} DDIM steps"].append(score(model, part, sampling))
        full = Sampling(samples=16, steps=100, solver=ddim(eta=1.0), seed=seed)
        found["CRPS at 100 ancestral steps"].append(score(model, part, full))
    limit = 1.1 * median(found["CRPS at 100 ancestral steps"])
    if median(found["CRPS at 20 DDIM steps"]) <= limit:
        verdict = "holds"
    else:
        verdict = "holds partly" if median(found["CRPS at 50 DDIM steps"]) <= limit else "does not hold"
    return Result(
        verdict,
        found,
        notes="16 of the 40 test entries, two of each currency, 16 samples, guidance with a line search.",
    )
