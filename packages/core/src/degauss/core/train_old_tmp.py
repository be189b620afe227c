r"""One training loop, on accelerate, whose every step is a function of (seed, step).

**Exact resume without a data state.** Step k (from 0) trains on the global samples kB, ..., kB + B - 1, where
B is the batch over all processes and micro-batches. Which items these are, the noise they are given (keyed by
seed and sample number), the dropout masks (by seed, step, process, micro-batch), the learning rate and the
decay of the average are functions of these numbers alone. So a checkpoint holds the weights, their average,
the optimizer's moments and k: going on from it gives the weights of the uninterrupted run bit for bit, on the
same device type and number of processes and micro-batches, where kernels and reductions are deterministic.

**The same training on any number of processes.** A mean loss over B samples is the mean over equal shares, so
processes and micro-batches change the result by rounding alone, dropout and batch statistics aside.

Learning rate: lr * min(1, (k+1)/warmup), and for "cosine" times (1 + cos(pi (k - warmup)/(steps - warmup)))/2
after the warm-up. Average of the weights (Polyak and Juditsky 1992; here exponential, in float32 or better):
a_{k+1} = d_k a_k + (1 - d_k) w_{k+1} with d_k = ema, or min(ema, (1 + k)/(10 + k)) with ``ema_warmup``.

A run's directory: ``checkpoints/step-NNNNNNNN/`` (the last two), ``metrics.jsonl``, and TensorBoard's events.
"""

from __future__ import annotations

import json
import logging
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from degauss.core.checkpoint import (
    FORMAT_VERSION,
    WEIGHTS,
    atomic_path,
    load_tree,
    load_weights,
    read_header,
    read_tensors,
    remove,
    remove_partial,
    save_tree,
    write_json,
    write_tensors,
)
from degauss.core.errors import InputError, Stopped, check_range
from degauss.core.noise import Noise

KIND = "degauss.core/train"
METRICS, AVERAGE, STATE, ABOUT = "metrics.jsonl", "ema.safetensors", "state", "train.json"
_KEPT = 2
# What may differ when a run goes on: where, how fast and how far it goes, not what a step computes.
_FREE = (
    "out", "steps", "accumulate", "workers", "device", "tracker", "save_every", "log_every", "evaluate_every"
)  # fmt: skip
# The purposes that the seed is split into.
_NOISE, _SHUFFLE, _DROPOUT, _EVALUATE = range(4)

B = TypeVar("B")
Data = Callable[[Sequence[int]], B]
"""Global sample numbers -> their batch: a tensor, tuple or dict of tensors, or an object with ``.to()``.

It must be a function of the numbers alone: take items by `Shuffle`, draw windows by ``Noise(seed, samples)``.
"""
Loss = Callable[[nn.Module, B, Noise], Tensor]
"""(network, batch, the noise keyed by the batch's samples) -> the mean loss, or the losses ``[batch]``."""

logger = logging.getLogger(__name__)


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


class Interrupted(Stopped):
    """SIGINT or SIGTERM came; the step was finished and saved. ``exit_code`` is what a shell expects."""

    def __init__(self, number: int, step: int, steps: int, checkpoint: Path) -> None:
        where = f"{signal.Signals(number).name} after step {step} of {steps}"
        super().__init__(f"Stopped by {where}; run the same command again to go on from {checkpoint}.")
        self.exit_code = 128 + number
        self.step = step


class Diverged(InputError):
    """The loss or the gradient stopped being a number; nothing was saved since."""


@dataclass(frozen=True)
class Shuffle:
    """Sample numbers -> items 0 ... size - 1, each once an epoch, in an order keyed by (seed, epoch)."""

    size: int
    seed: int = 0

    def __post_init__(self) -> None:
        check_range("the number of training items", self.size, 1)

    def __call__(self, samples: Sequence[int]) -> NDArray[np.int64]:
        epochs, places = np.divmod(np.asarray(samples, dtype=np.int64), self.size)
        items = np.empty_like(places)
        for epoch in np.unique(epochs).tolist():
            chosen = epochs == epoch
            items[chosen] = _permutation(self.size, self.seed, epoch)[places[chosen]]
        return items


@lru_cache(maxsize=4)
def _permutation(size: int, seed: int, epoch: int) -> NDArray[np.int64]:
    # Sorting raw words, since numpy keeps these the same between its releases and `permutation` not.
    return np.argsort(np.random.Philox(key=_key(seed, _SHUFFLE, epoch)).random_raw(size), kind="stable")


def learning_rate(config: TrainConfig, step: int) -> float:
    """The learning rate of a step (counted from 0) as a fraction of the peak."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    if config.schedule == "constant":
        return 1.0
    return (1 + math.cos(math.pi * (step - config.warmup) / max(1, config.steps - config.warmup))) / 2


def adamw(model: nn.Module, config: TrainConfig) -> Optimizer:
    """AdamW (Loshchilov and Hutter 2019) over the weights that ask for a gradient."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    fused = True if all(weight.device.type == "cuda" for weight in weights) else None
    return torch.optim.AdamW(weights, config.lr, config.betas, weight_decay=config.weight_decay, fused=fused)


def latest_checkpoint(out: Path) -> Path | None:
    """The newest checkpoint of a run, a directory with model.safetensors and, with ema, ema.safetensors."""
    saved = sorted((out / "checkpoints").glob("step-*"))
    return saved[-1] if saved else None


def train(
    model: nn.Module,
    loss: Loss[B],
    data: Data[B],
    config: TrainConfig,
    *,
    optimizer: Callable[[nn.Module, TrainConfig], Optimizer] = adamw,
    evaluate: Callable[[nn.Module], Mapping[str, float]] | None = None,
    resume: bool = True,
) -> Trained:
    """Train ``model`` in place and return the weights to use.

    Runs alike in one process and in each of several (``torchrun``, ``accelerate launch``), where ``loss`` is
    given the network wrapped for them: it must call that one, and not reach for its parts. ``optimizer`` may
    have groups with learning rates of their own; all follow the schedule. ``evaluate`` is given the network
    in eval mode with the averaged weights, in every process, and its figures are logged.

    The run goes on from the newest checkpoint in ``config.out``; with ``resume=False`` there must be none.
    Raises `InputError` for a checkpoint that cannot be used, `Diverged` at a loss or gradient that is not
    finite, `Interrupted` after a SIGINT or SIGTERM, always with the last good checkpoint in place.
    """
    accelerator = _accelerator(config)
    world, rank, device = accelerator.num_processes, accelerator.process_index, accelerator.device
    if config.batch_size % (world * config.accumulate):
        raise InputError(
            f"batch_size must be a multiple of processes x accumulate = {world} x {config.accumulate}, "
            f"but is {config.batch_size}."
        )
    if accelerator.is_main_process:
        config.out.mkdir(parents=True, exist_ok=True)
        remove_partial(config.out)
        remove_partial(config.out / "checkpoints")
    accelerator.wait_for_everyone()
    start = latest_checkpoint(config.out)
    if start is not None and not resume:
        raise InputError(f"{config.out} holds a run already ({start.name}): resume it or name another.")

    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
        stack.callback(_unwrap, accelerator, model, model.training, "forward" in vars(model))
        model.to(device).train()
        inner = optimizer(model, config)
        for group in inner.param_groups:
            group.setdefault("initial_lr", group["lr"])
        wrapped, stepper = accelerator.prepare(model, inner)
        run = _Run(config, model, inner, _Average(model, config), _Window(device), accelerator.scaler)
        if start is not None:
            run.restore(start)
        if run.step >= config.steps:
            return Trained(run.step, run.weights())
        journal = stack.enter_context(_journal(config, accelerator, run.step))
        shares = _Shares(config, run.step, rank, world)
        batches = stack.enter_context(closing(_batches(data, shares, config, device)))
        stop = stack.enter_context(_Stop(world))
        trained = [weight for group in inner.param_groups for weight in group["params"]]
        noise_seed = _key(config.seed, _NOISE)

        while run.step < config.steps:
            for group in inner.param_groups:
                group["lr"] = group["initial_lr"] * learning_rate(config, run.step)
            total = torch.zeros((), device=device)
            for micro in range(config.accumulate):
                samples, batch = next(batches)
                batch = _to(batch, device)
                _reseed(_key(config.seed, _DROPOUT, run.step, rank, micro), device)
                with nullcontext() if micro == config.accumulate - 1 else accelerator.no_sync(wrapped):
                    value = loss(wrapped, batch, Noise(noise_seed, samples)).mean() / config.accumulate
                    accelerator.backward(value)
                total += value.detach()
            norm = accelerator.clip_grad_norm_(trained, math.inf if config.clip is None else config.clip)
            stepper.step()
            stepper.zero_grad()
            run.average.update(run.step)
            run.window.add(total, norm)
            run.step += 1

            last, signalled = run.step == config.steps, stop.agreed()
            logs = last or run.step % config.log_every == 0
            saves = last or bool(signalled) or run.step % config.save_every == 0
            if logs or saves:  # the only steps that wait for the device
                figures = run.figures(accelerator)
                if logs:
                    journal.write(run.step, figures)
                    run.window.restart(run.step)
            if evaluate and (last or (config.evaluate_every and run.step % config.evaluate_every == 0)):
                _reseed(_key(config.seed, _EVALUATE, run.step), device)
                journal.write(run.step, run.evaluate(evaluate))
            if saves and accelerator.is_main_process:
                run.save()
            if signalled and not last:
                accelerator.wait_for_everyone()
                raise Interrupted(signalled, run.step, config.steps, run.checkpoint())
            journal.advance(run.step)
        accelerator.wait_for_everyone()
        return Trained(run.step, run.weights())


# --- the state of a run -------------------------------------------------------------------------------------


class _Average:
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


class _Window:
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
class _Run:
    """Everything that a checkpoint holds."""

    config: TrainConfig
    model: nn.Module
    optimizer: Optimizer
    average: _Average
    window: _Window
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


# --- data ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Shares:
    """The sample numbers of one process, a micro-batch at a time, from a step to the last."""

    config: TrainConfig
    first: int
    rank: int
    world: int

    def __iter__(self) -> Iterator[range]:
        size, parts = self.config.batch_size, self.world * self.config.accumulate
        for step in range(self.first, self.config.steps):
            for part in range(self.rank, parts, self.world):
                begin = step * size + part * (size // parts)
                yield range(begin, begin + size // parts)


class _Items:
    """A `Data` as the map-style data set that torch's loader asks for."""

    def __init__(self, data: Data[Any]) -> None:
        self.data = data

    def __getitem__(self, samples: Sequence[int]) -> Any:
        return self.data(samples)


def _batches(data: Data[B], shares: _Shares, config: TrainConfig, device: torch.device) -> Generator[tuple[range, B]]:
    """The shares and their batches; a generator, as closing one lets go of the loader and its workers."""
    from torch.utils.data import DataLoader

    items: Any = _Items(data)
    loader = DataLoader(
        items,
        batch_size=None,
        sampler=shares,  # pyright: ignore[reportArgumentType]
        num_workers=config.workers,
        worker_init_fn=_as_worker,
        pin_memory=device.type == "cuda" and config.workers > 0,
        generator=torch.Generator(),
    )
    yield from zip(shares, loader, strict=True)


def _as_worker(_: int) -> None:
    # Stopping is the training process's business; without this a worker would inherit its handlers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _to(batch: B, device: torch.device) -> B:
    from accelerate.utils import recursively_apply, send_to_device

    moved: Any = batch
    if device.type == "cuda":
        # Only from pinned memory does a copy not wait for the device.
        moved = recursively_apply(_pinned, moved)
    return cast("B", send_to_device(moved, device, non_blocking=device.type == "cuda"))


def _pinned(part: Tensor) -> Tensor:
    return part.pin_memory() if part.is_cpu else part


# --- randomness ---------------------------------------------------------------------------------------------


def _key(seed: int, *words: int) -> int:
    return int(np.random.SeedSequence([seed, *words]).generate_state(1, np.uint64)[0])


def _reseed(key: int, device: torch.device) -> None:
    torch.default_generator.manual_seed(key)
    if device.type == "cuda":
        torch.cuda.manual_seed(key)


# --- processes and signals ----------------------------------------------------------------------------------


def _accelerator(config: TrainConfig) -> Any:
    import torch.distributed as dist
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import GradientAccumulationPlugin

    cpu = config.device == "cpu" or not torch.accelerator.is_available()
    if cpu and config.precision == "fp16":
        raise InputError("precision 'fp16' needs a GPU: choose 'no' or 'bf16' on the CPU.")
    # accelerate keeps one configuration a process; a second run may want another precision or device.
    AcceleratorState._reset_state(not dist.is_initialized())  # pyright: ignore[reportPrivateUsage]
    # Without `cpu`, processes without a GPU would not find each other and train alone.
    accelerator = Accelerator(
        cpu=cpu,
        mixed_precision=config.precision,
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        log_with=config.tracker,
        project_dir=str(config.out),
    )
    if "DEEPSPEED" in accelerator.distributed_type or "FSDP" in accelerator.distributed_type:
        raise InputError(f"training runs data parallel (DDP) only, not as {accelerator.distributed_type}.")
    return accelerator


def _unwrap(accelerator: Any, model: nn.Module, training: bool, own_forward: bool) -> None:
    """Leave the caller's module as it came, without the mixed-precision forward that accelerate put on it."""
    accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    if not own_forward:
        vars(model).pop("forward", None)
    vars(model).pop("_is_accelerate_prepared", None)
    model.train(training)


class _Stop:
    """Notes SIGINT and SIGTERM, and lets all processes stop after the same step."""

    def __init__(self, world: int) -> None:
        self.world = world
        self.number = 0
        self.group: Any = None
        self.pending: tuple[Tensor, Any] | None = None
        self.handlers: dict[int, Any] = {}

    def __enter__(self) -> _Stop:
        if self.world > 1:
            import torch.distributed as dist

            # A group of hosts: agreeing must not wait for the device.
            self.group = dist.new_group(backend="gloo")
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.handlers[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        self._restore()
        # Not after an error: the other processes may never answer.
        if self.pending is not None and kind in (None, Interrupted):
            import torch.distributed as dist

            self.pending[1].wait()
            dist.destroy_process_group(self.group)

    def _note(self, number: int, frame: object) -> None:
        self.number = number
        self._restore()  # a second signal does not wait for the step

    def _restore(self) -> None:
        while self.handlers:
            signal.signal(*self.handlers.popitem())

    def agreed(self) -> int:
        """The signal to stop for, or 0: the same in every process, there one step after it came."""
        if self.world == 1:
            return self.number
        import torch.distributed as dist

        before, flag = self.pending, torch.tensor(self.number)
        self.pending = flag, dist.all_reduce(flag, dist.ReduceOp.MAX, self.group, async_op=True)
        if before is None:
            return 0
        before[1].wait()
        return int(before[0])


# --- reports ------------------------------------------------------------------------------------------------


class _Journal:
    """metrics.jsonl, the tracker and the progress bar of the main process."""

    def __init__(self, path: Path, accelerator: Any, advance: Callable[[int], None]) -> None:
        self.path = path
        self.accelerator = accelerator
        self.advance = advance

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        if not self.accelerator.is_main_process:
            return
        plain = {name: float(value) for name, value in figures.items()}
        known = {name: value if math.isfinite(value) else None for name, value in plain.items()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **known}) + "\n")
        self.accelerator.log(plain, step=step)


@contextmanager
def _journal(config: TrainConfig, accelerator: Any, step: int) -> Generator[_Journal]:
    path = config.out / METRICS
    with ExitStack() as stack:
        if accelerator.is_main_process:
            _forget(path, step)
        if config.tracker:
            if not accelerator.log_with:
                logger.warning("tensorboard is not installed: metrics go to %s only", path)
            kwargs = {config.tracker: {"purge_step": step + 1}} if step else {}
            accelerator.init_trackers(config.tracker, init_kwargs=kwargs)
            stack.callback(lambda: [tracker.finish() for tracker in accelerator.trackers])
        bar = stack.enter_context(_progress(config, step, accelerator.is_main_process))
        yield _Journal(path, accelerator, bar)


def _forget(path: Path, step: int) -> None:
    """Drop the lines after a step, which the resumed run writes again, and a last one that was cut short."""
    if not path.exists():
        return
    kept: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] > step:
                break
        except (ValueError, KeyError, TypeError):
            break
        kept.append(line + "\n")
    with atomic_path(path) as partial:
        partial.write_text("".join(kept), encoding="utf-8")


@contextmanager
def _progress(config: TrainConfig, step: int, wanted: bool) -> Generator[Callable[[int], None]]:
    """A bar with the time left, on a terminal only; yields what to call after each step."""
    if not (wanted and sys.stderr.isatty()):
        yield lambda step: None
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

    columns = (MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*Progress.get_default_columns()[:2], *columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("training", total=config.steps, completed=step)
        yield lambda step: bar.update(task, completed=step)


def _copy(targets: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for target, value in zip(targets, values, strict=True):
            target.copy_(value)
