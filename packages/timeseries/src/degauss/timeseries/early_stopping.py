"""Training on the core's loop until a validation loss stops falling; the best weights are kept.

The network is judged before training and after every epoch. Training ends ``patience`` epochs after the best one,
though not before epoch ``least`` + ``patience``, and after ``epochs`` at the latest. What was found so far lies in
``out/validation`` beside the checkpoints, so a run that was stopped goes on to the result of an uninterrupted one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from degauss.core.checkpoint import load_tree, save_tree
from degauss.core.errors import check_range
from degauss.core.files import atomic_path, settled
from degauss.core.train import Data, Diverged, Loss, TrainConfig, latest_checkpoint, train

FOLDER = "validation"


@dataclass(frozen=True)
class Stopping:
    """When to stop, in epochs. `InputError` for a value out of range."""

    epochs: int = 100
    patience: int = 10
    least: int = 20

    def __post_init__(self) -> None:
        check_range("epochs", self.epochs, 1)
        check_range("patience", self.patience, 1)
        check_range("least", self.least, 0)


class Best(NamedTuple):
    """The weights after the best epoch, and the validation loss after each; epoch 0 is before training."""

    weights: dict[str, Tensor]
    epoch: int
    losses: tuple[float, ...]


class _Enough(Exception):
    """Ends a run from within its evaluation."""


@dataclass
class _Watch:
    """Judges the network after each epoch."""

    judge: Callable[[nn.Module], float]
    stopping: Stopping
    place: Path | None
    losses: list[float] = field(default_factory=list[float])
    weights: dict[str, Tensor] = field(default_factory=dict[str, Tensor])

    @property
    def epoch(self) -> int:
        return self.losses.index(min(self.losses))

    def __call__(self, network: nn.Module) -> Mapping[str, float]:
        value = self.judge(network)
        if not math.isfinite(value):
            raise Diverged(
                f"The validation loss is not finite after epoch {len(self.losses) + 1}. A lower lr may help."
            )
        if value < min(self.losses, default=math.inf):
            self.weights = {name: weight.detach().clone() for name, weight in network.state_dict().items()}
        self.losses.append(value)
        if self.place is not None:
            with atomic_path(self.place) as partial:
                partial.mkdir()
                save_tree(partial, FOLDER, {"losses": self.losses, "weights": self.weights})
        if len(self.losses) - 1 - max(self.epoch, self.stopping.least) >= self.stopping.patience:
            raise _Enough
        return {"validation_loss": value}

    def restore(self, step: int, every: int) -> None:
        """Go on from what was known at a step. Weights of a later epoch are found again, since training repeats."""
        if self.place is not None and settled(self.place).is_dir():
            tree = load_tree(settled(self.place), FOLDER)
            self.losses, self.weights = tree["losses"][: step // every + 1], tree["weights"]


def train_until_best(
    network: nn.Module,
    loss: Loss[Any],
    data: Data[Any],
    config: TrainConfig,
    judge: Callable[[nn.Module], float],
    stopping: Stopping,
    *,
    resumable: bool,
) -> Best:
    """Train ``network`` in place and return the weights of its best epoch.

    ``config`` has ``steps`` = ``stopping.epochs`` x ``evaluate_every``, an epoch being the latter. ``judge``: a
    network in eval mode -> its validation loss. Unless ``resumable``, nothing of the judgements is written. Raises as
    `train` does, and `Diverged` for a validation loss that is not finite.
    """
    if config.steps != stopping.epochs * config.evaluate_every:
        raise ValueError(
            f"expected {stopping.epochs} epochs of {config.evaluate_every} steps, got {config.steps} steps"
        )
    watch = _Watch(judge, stopping, config.out / FOLDER if resumable else None)
    start = latest_checkpoint(config.out)
    if start is not None:
        watch.restore(int(start.name.removeprefix("step-")), config.evaluate_every)
    with suppress(_Enough):
        if not watch.losses:
            watch(network.eval())
        train(network, loss, data, config, evaluate=watch)
    return Best(watch.weights, watch.epoch, tuple(watch.losses))
