"""Training a TSDiff model of given series: the one recipe behind the command, the estimator and the benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from degauss.core.train import TrainConfig, train
from degauss.timeseries.config import TSDiffConfig
from degauss.timeseries.tsdiff import TSDiff
from degauss.timeseries.windows import RandomWindows


def recipe(
    out: Path,
    *,
    steps: int,
    batch: int = 64,
    lr: float = 2e-3,
    warmup: int | None = None,
    seed: int = 0,
    precision: Literal["no", "bf16", "fp16"] = "no",
    device: Literal["auto", "cpu"] = "auto",
    tracker: Literal["tensorboard"] | None = None,
) -> TrainConfig:
    """How TSDiff is trained, in the directory ``out``; `InputError` for a value out of its range.

    AdamW with a cosine schedule after ``warmup`` steps (a tenth of them, at most 100, unless given), gradients
    clipped at 0.5, weights averaged.
    """
    return TrainConfig(
        out=out,
        steps=steps,
        batch_size=batch,
        lr=lr,
        warmup=min(100, steps // 10) if warmup is None else warmup,
        ema=0.99,
        clip=0.5,
        precision=precision,
        seed=seed,
        save_every=250,
        tracker=tracker,
        device=device,
    )


def fit(config: TSDiffConfig, series: Sequence[NDArray[np.float64]], settings: TrainConfig) -> TSDiff:
    """Train on regular records ``[n]``, write the model to ``out/model``, and return it, frozen, on the CPU.

    A run that was stopped goes on; see `degauss.core.train` for what it raises.
    """
    model = TSDiff.new(config, settings.seed)
    result = train(model.network, model.loss, RandomWindows(series, config, settings.seed), settings)
    model.save(settings.out / "model", result.weights)
    return TSDiff.load(settings.out / "model")
