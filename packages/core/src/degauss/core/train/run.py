"""The state of a run: the network, the average of its weights, the optimizer, and the checkpoints of all that."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from degauss.core.checkpoint import (
    FORMAT_VERSION,
    WEIGHTS,
    load_tree,
    load_weights,
    read_header,
    read_tensors,
    save_tree,
    write_tensors,
)
from degauss.core.errors import InputError
from degauss.core.files import atomic_path, read_json, remove, write_json
from degauss.core.train.config import TrainConfig, learning_rate

KIND = "degauss.core/train"
AVERAGE, STATE, ABOUT, NOTE = "ema.safetensors", "state", "train.json", "model.json"
_KEPT = 2
# What may differ when a run goes on: where, how fast and how far it goes, not what a step computes.
_FREE = (
    "out", "steps", "accumulate", "workers", "device", "tracker", "save_every", "log_every", "evaluate_every"
)  # fmt: skip


class Diverged(InputError):
    """The loss or the gradient stopped being a number; nothing was saved since."""


def latest_checkpoint(out: Path) -> Path | None:
    """The newest checkpoint of a run, a directory with model.safetensors and, with ema, ema.safetensors."""
    saved = sorted((out / "checkpoints").glob("step-*"))
    return saved[-1] if saved else None


def remember(out: Path, what: str, about: Mapping[str, Any]) -> None:
    """Note in a run's directory what is trained there, so that it does not go on as the training of something else.

    ``what``: what a model is called ("a prior"); ``about``: whatever JSON can hold. Raises `InputError` where the
    directory holds another note.
    """
    wanted = json.loads(json.dumps(about))
    if not (out / NOTE).exists():
        with atomic_path(out / NOTE) as part:
            write_json(part, wanted)
        return
    found = read_json(out / NOTE)
    for name, value in wanted.items():
        if found.get(name) != value:
            raise InputError(
                f"{out} holds the training of {what} with {name} = {found.get(name)}, but {name} = {value} is asked "
                "for: ask for the same or name another directory."
            )


class Average:
    """The exponential average of the trained weights, in float32 or better; empty without ``ema``."""

    def __init__(self, model: nn.Module, config: TrainConfig) -> None:
        self.config = config
        self.weights = [weight for weight in model.parameters() if weight.requires_grad and config.ema]
        wide = [torch.promote_types(weight.dtype, torch.float32) for weight in self.weights]
        self.means = [w.detach().to(t, copy=True) for w, t in zip(self.weights, wide, strict=True)]

    def update(self, step: int) -> None:
        if not self.weights:
            return
        ema = self.config.ema
        decay = min(ema, (1 + step) / (10 + step)) if self.config.ema_warmup else ema
        now = [weight.detach().to(mean.dtype) for weight, mean in zip(self.weights, self.means, strict=True)]
        torch._foreach_lerp_(self.means, now, 1 - decay)  # pyright: ignore[reportPrivateImportUsage, reportPrivateUsage]

    def of(self, model: nn.Module) -> dict[str, Tensor]:
        """The model's state dict with the means in place of the weights, under every name of a tied one."""
        means = {id(weight): mean for weight, mean in zip(self.weights, self.means, strict=True)}
        state: dict[str, Tensor] = model.state_dict(keep_vars=True)
        return {name: means.get(id(value), value.detach()) for name, value in state.items()}

    def take(self, model: nn.Module, saved: Mapping[str, Tensor], source: Path) -> None:
        for name, mean in self.of(model).items():
            if name not in saved or saved[name].shape != mean.shape:
                raise InputError(f"{source} does not fit the network at {name!r}.")
        own = {id(value): name for name, value in model.state_dict(keep_vars=True).items()}
        for weight, mean in zip(self.weights, self.means, strict=True):
            mean.copy_(saved[own[id(weight)]])

    @contextmanager
    def in_place(self) -> Generator[None]:
        before = [weight.detach().clone() for weight in self.weights]
        try:
            _copy(self.weights, self.means)
            yield
        finally:
            _copy(self.weights, before)


class Window:
    """Sums over the steps since the last log, kept on the device so that no step waits for it.

    ``sums [4, 2]``; columns: loss, norm of the gradient; rows: sum of the finite values, their number, the
    number of steps before the first value that was not finite, and 1 while there was none.
    """

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(4, 2, device=device)
        self.restart(0)

    def add(self, loss: Tensor, norm: Tensor) -> None:
        pair = torch.stack([loss, norm.detach()]).to(self.sums)
        finite = torch.isfinite(pair)
        self.sums[0] += torch.where(finite, pair, 0.0)
        self.sums[1] += finite
        self.sums[3] *= finite
        self.sums[2] += self.sums[3]

    def restart(self, step: int) -> None:
        self.start = step
        self.clock = time.perf_counter()
        self.sums[:3] = 0
        self.sums[3] = 1


@dataclass
class Run:
    """Everything that a checkpoint holds."""

    config: TrainConfig
    model: nn.Module
    optimizer: Optimizer
    average: Average
    window: Window
    scaler: Any
    step: int = 0

    def weights(self) -> dict[str, Tensor]:
        """The weights to use, in the network's own types and independent of it."""
        own: dict[str, Tensor] = self.model.state_dict()
        used = self.average.of(self.model)
        return {name: value.to(own[name].dtype, copy=True) for name, value in used.items()}

    def figures(self, accelerator: Any) -> dict[str, float]:
        """The means of the window over all processes; raises `Diverged` where one was not finite."""
        gathered: Tensor = accelerator.gather(self.window.sums[None])
        # A checkpoint holds one window, the mean over processes, so the run that goes on uses it too.
        self.window.sums = gathered.mean(0)
        total, count, _, alive = gathered.sum(0).tolist()
        good = gathered[:, 2].amin(0).tolist()
        if alive[0] < len(gathered) or (self.scaler is None and alive[1] < len(gathered)):
            # A bad loss has a bad gradient: the loss is named where both begin at one step. In fp16 the
            # scaler skips a step whose gradient overflowed, so there only the loss counts.
            by_loss = self.scaler is not None or good[0] <= good[1]
            step = self.window.start + int(good[0] if by_loss else good[1]) + 1
            raise self._diverged("loss" if by_loss else "gradient", step)
        if self.scaler is not None and self.scaler.get_scale() < 2.0**-10:
            raise self._diverged("gradient (in fp16, at any scale)", self.step)
        means = [s / c if c else math.nan for s, c in zip(total, count, strict=True)]
        rate = self.config.lr * learning_rate(self.config, self.step - 1)
        seconds = time.perf_counter() - self.window.clock
        return {"loss": means[0], "grad_norm": means[1], "lr": rate, "seconds": seconds}

    def evaluate(self, evaluate: Callable[[nn.Module], Mapping[str, float]]) -> dict[str, float]:
        with self.average.in_place():
            self.model.eval()
            try:
                return dict(evaluate(self.model))
            finally:
                self.model.train()

    def checkpoint(self) -> Path:
        return self.config.out / "checkpoints" / f"step-{self.step:08d}"

    def save(self) -> None:
        about = {"format": KIND, "format_version": FORMAT_VERSION}
        tree = {
            "optimizer": self.optimizer.state_dict(),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
            "window": {"start": self.window.start, "sums": self.window.sums},
        }
        with atomic_path(self.checkpoint()) as partial:
            partial.mkdir()
            write_tensors(partial / WEIGHTS, self.model.state_dict())
            if self.config.ema:
                write_tensors(partial / AVERAGE, self.average.of(self.model))
            save_tree(partial, STATE, tree)
            write_json(partial / ABOUT, {**about, "step": self.step, "config": _fixed(self.config)})
        for old in sorted(self.checkpoint().parent.glob("step-*"))[:-_KEPT]:
            remove(old)

    def restore(self, path: Path) -> None:
        about = read_header(path / ABOUT, KIND)
        saved, wanted = about.get("config"), _fixed(self.config)
        if not isinstance(saved, dict) or not isinstance(about.get("step"), int):
            raise InputError(f"{path / ABOUT} has no 'config' and 'step', so the run cannot go on from it.")
        for name, value in wanted.items():
            if saved.get(name, value) != value:
                raise InputError(
                    f"{path} was trained with {name} = {saved[name]}, but {name} = {value} is asked for: "
                    "ask for the same or name another directory."
                )
        load_weights(self.model, read_tensors(path / WEIGHTS), path / WEIGHTS)
        if self.config.ema:
            self.average.take(self.model, read_tensors(path / AVERAGE), path / AVERAGE)
        tree = load_tree(path, STATE)
        try:
            _load_optimizer(self.optimizer, tree["optimizer"])
            if self.scaler is not None:
                self.scaler.load_state_dict(tree["scaler"])
            self.window.start = tree["window"]["start"]
            self.window.sums.copy_(tree["window"]["sums"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"{path / STATE}.json does not fit this run ({error}).") from error
        self.step = about["step"]

    def _diverged(self, what: str, step: int) -> Diverged:
        last = latest_checkpoint(self.config.out)
        kept = f"the last good checkpoint is {last}" if last else "no checkpoint was written yet"
        return Diverged(f"The {what} is not finite at step {step}; {kept}. A lower lr or clip may help.")


def _fixed(config: TrainConfig) -> dict[str, Any]:
    """The part of a configuration that a run keeps to, as JSON gives it back."""
    return json.loads(json.dumps({k: v for k, v in asdict(config).items() if k not in _FREE}))


def _load_optimizer(optimizer: Optimizer, state: dict[str, Any]) -> None:
    optimizer.load_state_dict(state)
    for weight, values in optimizer.state.items():
        for name, value in values.items():
            # A moment has the memory layout of its weight (channels_last), which decides what kernel runs.
            if isinstance(value, Tensor) and value.shape == weight.shape:
                values[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)


def _copy(targets: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for target, value in zip(targets, values, strict=True):
            target.copy_(value)
