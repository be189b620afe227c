"""What the claims about refining, synthesis and missing values share: the exchange-rate models and eight test entries.

The models are those of the claim on the exchange rate (1,200 of the paper's 128,000 training steps), trained by whoever
comes first. Every fifth of the paper's 40 test entries gives each of the 8 currencies once and all 5 stretches of time.
"""

from __future__ import annotations

from pathlib import Path

from degauss.timeseries.datasets import exchange_rate
from degauss.timeseries.exchange import trained
from degauss.timeseries.regular import Regular
from degauss.timeseries.tsdiff import TSDiff

STEPS, HORIZON, SEASON, SAMPLES = 1200, 30, 5, 16


def entries() -> list[Regular]:
    """Eight test entries, one of each currency; the last 30 values of each are to be forecast."""
    return exchange_rate().test[::5]


def model(seed: int) -> TSDiff:
    return trained(Path(f"out/claims/exchange-rate-{STEPS}-{seed}"), STEPS, seed)
