"""Training a CSDI model of given records: the one recipe behind the command, the claims and the benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from degauss.core.errors import InputError
from degauss.core.noise import Noise
from degauss.core.train import TrainConfig, train
from degauss.timeseries.csdi import CSDI, Batch, units_of
from degauss.timeseries.csdi_net import CSDIConfig

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RandomStretches:
    """Sample numbers -> training windows: every start in every record is equally likely.

    ``records``: each ``[n, features]`` with NaN where nothing was observed. Raises `InputError` if none is as long as
    the model's windows, or if one has another number of features.
    """

    records: Sequence[Array]
    model: CSDI
    seed: int = 0
    _starts: NDArray[np.int64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        config = self.model.config
        wrong = next((record.shape for record in self.records if record.shape[1:] != (config.features,)), None)
        if wrong is not None:
            raise InputError(f"a record is {wrong}; expected {config.features} features in its last axis.")
        counts = np.array([max(0, len(record) - config.length + 1) for record in self.records], dtype=np.int64)
        if not counts.sum():
            longest = max((len(record) for record in self.records), default=0)
            raise InputError(f"the longest record has {longest} times; training needs at least {config.length}.")
        object.__setattr__(self, "_starts", np.cumsum(counts))

    def __call__(self, samples: Sequence[int]) -> Batch:
        u = Noise(self.seed, samples).uniform(torch.empty(len(samples), dtype=torch.float64))
        places = (u.numpy() * self._starts[-1]).astype(np.int64)
        which = np.searchsorted(self._starts, places, side="right")
        length = self.model.config.length
        # Counted from the end of a record, which is where its share of the places ends.
        ends = [len(self.records[k]) - (self._starts[k] - 1 - place) for k, place in zip(which, places, strict=True)]
        return self.model.batch(
            np.stack([self.records[k][end - length : end] for k, end in zip(which, ends, strict=True)])
        )


def recipe(
    out: Path,
    *,
    steps: int,
    batch: int = 16,
    lr: float = 1e-3,
    seed: int = 0,
    precision: Literal["no", "bf16", "fp16"] = "no",
    device: Literal["auto", "cpu"] = "auto",
    tracker: Literal["tensorboard"] | None = None,
) -> TrainConfig:
    """How CSDI is trained, in the directory ``out``; `InputError` for a value out of its range.

    The published batch and learning rate, which falls by a cosine instead of in two steps, after a short warm-up;
    the weights are averaged.
    """
    return TrainConfig(
        out=out,
        steps=steps,
        batch_size=batch,
        lr=lr,
        warmup=min(50, steps // 10),
        weight_decay=1e-6,
        ema=0.99,
        precision=precision,
        seed=seed,
        save_every=250,
        tracker=tracker,
        device=device,
    )


def fit(
    config: CSDIConfig, records: Sequence[Array], settings: TrainConfig, names: Sequence[str] = (), step: str = ""
) -> CSDI:
    """Train on records ``[n, features]``, write the model to ``out/model``, and return it, frozen, on the CPU.

    The units come from these records; ``names`` and ``step`` are kept with them. A run that was stopped goes on; see
    `degauss.core.train` for what it raises.
    """
    model = CSDI.new(config, units_of(np.concatenate(records), names, step), settings.seed)
    result = train(model.network, model.loss, RandomStretches(records, model, settings.seed), settings)
    model.save(settings.out / "model", result.weights)
    return CSDI.load(settings.out / "model")
