"""What the claims about CSDI share: a small model of PhysioNet 2012 and its test stays.

The paper trains on 560,000 windows (200 epochs of batches of 16, hours on a GPU) with 414,065 weights. Here it is a
network of 55,000 weights and 12,800 windows, some minutes on a CPU core. The units come from the training stays alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from degauss.core.train import Shuffle
from degauss.timeseries.csdi import CSDI
from degauss.timeseries.csdi_net import CSDIConfig
from degauss.timeseries.csdi_training import fit, recipe
from degauss.timeseries.physionet import HeldOut, hold_out, physionet

Array = NDArray[np.float64]

STEPS, BATCH, LR = 1600, 8, 2e-3
TEST, SHARE = 800, 0.1
CONFIG = CSDIConfig(
    channels=32,
    layers=2,
    heads=2,
    feedforward=32,
    step_embedding=64,
    time_embedding=32,
    feature_embedding=16,
    dropout=0.0,
)


class Split(NamedTuple):
    """Training stays ``[3200, 48, 35]``, and those of the 800 test stays that are scored, a tenth held out."""

    train: Array
    test: HeldOut


def split(seed: int, scored: int) -> Split:
    """The split of a seed, with the first ``scored`` of its test stays."""
    values = physionet().values
    order = Shuffle(len(values), seed)(range(len(values)))
    return Split(values[order[TEST:]], hold_out(values[order[:scored]], SHARE, seed))


def trained(train: Array, seed: int) -> CSDI:
    """The model of a seed, or what an earlier run left of it."""
    out = Path(f"out/claims/csdi-{STEPS}-{seed}")
    if not (out / "model").exists():
        return fit(CONFIG, list(train), recipe(out, steps=STEPS, batch=BATCH, lr=LR, seed=seed, device="cpu"))
    return CSDI.load(out / "model")
