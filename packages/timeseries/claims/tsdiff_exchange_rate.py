"""TSDiff-Q forecasts the exchange rates about as well as the paper says, at a hundredth of its training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from degauss.core.claims import Claim, Result
from degauss.timeseries.exchange import naive_scores, score, split, trained
from degauss.timeseries.tsdiff import Sampling

STEPS, PAPER = 1200, 0.011

CLAIM = Claim(
    paper="Kollovieh et al. 2023, Predict, Refine, Synthesize (TSDiff), table 1, exchange rate",
    statement="TSDiff-Q reaches a CRPS (mean weighted quantile loss) of .011, level with the seasonal naive's .011.",
    expected="The median over seeds is at most .011 after 1,200 training steps (128,000 in the paper): holds. At most "
    "20 % above the seasonal naive: holds partly. The naive forecasts are printed beside it; the last value is the "
    "one to beat.",
)


def run(seeds: Sequence[int]) -> Result:
    """Train a model for each seed (about 8 minutes of one core each; kept in out/claims) and score all 40 entries."""
    torch.set_num_threads(1)
    part = split()
    naive = naive_scores(part)
    scores = [
        score(trained(Path(f"out/claims/exchange-rate-{STEPS}-{seed}"), STEPS, seed), part, sampling(seed))
        for seed in seeds
    ]
    median = sorted(scores)[len(scores) // 2]
    if round(median, 3) <= PAPER:
        verdict = "holds"
    else:
        verdict = "holds partly" if median <= 1.2 * naive["seasonal naive"] else "does not hold"
    figures = {"CRPS of TSDiff-Q": scores, **{f"CRPS of the {name}": [value] for name, value in naive.items()}}
    return Result(
        verdict,
        figures,
        notes="16 samples by 20 DDIM steps, guidance 8 as in the paper (100 samples, 100 ancestral steps there). The "
        "naive forecasts 'with past errors' are ensembles from their own errors on the history.",
    )


def sampling(seed: int) -> Sampling:
    """16 samples by 20 DDIM steps."""
    return Sampling(samples=16, steps=20, seed=seed)
