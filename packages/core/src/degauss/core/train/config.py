"""What a run is, and what it ends with."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from torch import Tensor

from degauss.core.errors import InputError, check_range


@dataclass(frozen=True)
class TrainConfig:
    """What a run is. Raises `InputError` for a value out of its range."""

    out: Path
    """Directory of the run; every process must see the same one."""
    steps: int
    """Optimizer steps in all."""
    batch_size: int = 64
    """Samples a step, over all processes and micro-batches."""
    lr: float = 1e-3
    """Peak learning rate."""
    warmup: int = 0
    """Steps over which the learning rate rises linearly to its peak."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """The learning rate after the warm-up: flat, or falling to zero at the last step."""
    weight_decay: float = 0.0
    """Decoupled weight decay of AdamW."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decays of AdamW's moments."""
    ema: float = 0.0
    """Decay of the average of the weights, in [0, 1); 0 keeps none."""
    ema_warmup: bool = True
    """Start the average's decay at 0.1 and let it rise, so that the first weights are forgotten."""
    clip: float | None = 1.0
    """Largest norm of the gradient; None for no limit."""
    accumulate: int = 1
    """Micro-batches a step and process: less memory, the same gradient."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Type that the network's forward pass runs in (autocast); the weights stay as they are."""
    seed: int = 0
    """Keys the noise of the loss and the dropout."""
    save_every: int = 1000
    """Steps between checkpoints; the last step is always saved."""
    log_every: int = 50
    """Steps between lines of metrics.jsonl; each is a mean over these steps."""
    evaluate_every: int = 0
    """Steps between evaluations, 0 for one at the end."""
    tracker: Literal["tensorboard"] | None = "tensorboard"
    """Where the metrics go beside metrics.jsonl."""
    workers: int = 0
    """Processes that load data ahead; 0 loads in the training process."""
    device: Literal["auto", "cpu"] = "auto"
    """The accelerator if there is one, or the CPU."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate", "save_every", "log_every"):
            check_range(name, getattr(self, name), 1)
        for name in ("lr", "warmup", "weight_decay", "evaluate_every", "workers", "seed"):
            check_range(name, getattr(self, name), 0)
        if not 0 <= self.ema < 1:
            raise InputError(f"ema must be in [0, 1), but is {self.ema}.")
        if self.clip is not None and not self.clip > 0:
            raise InputError(f"clip must be above 0 (or none at all), but is {self.clip}.")


class Trained(NamedTuple):
    """The end of a run: its step, and the weights to use (the average where one is kept) as a state dict."""

    step: int
    weights: dict[str, Tensor]


def learning_rate(config: TrainConfig, step: int) -> float:
    """The learning rate of a step (counted from 0) as a fraction of the peak."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    if config.schedule == "constant":
        return 1.0
    return (1 + math.cos(math.pi * (step - config.warmup) / max(1, config.steps - config.warmup))) / 2
