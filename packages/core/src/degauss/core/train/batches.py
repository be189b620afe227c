"""What a step trains on: which samples, in which order, with which keys; all functions of (seed, step)."""

from __future__ import annotations

import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from degauss.core.errors import check_range
from degauss.core.train.config import TrainConfig

# The purposes that the seed is split into.
NOISE, SHUFFLE, DROPOUT, EVALUATE = range(4)

B = TypeVar("B")
Data = Callable[[Sequence[int]], B]
"""Global sample numbers -> their batch: a tensor, tuple or dict of tensors, or an object with ``.to()``.

It must be a function of the numbers alone: take items by `Shuffle`, draw windows by ``Noise(seed, samples)``.
"""


def key(seed: int, *words: int) -> int:
    """A seed for one purpose."""
    return int(np.random.SeedSequence([seed, *words]).generate_state(1, np.uint64)[0])


def reseed(seed: int, device: torch.device) -> None:
    """What a network draws by itself, such as its dropout, follows from this."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


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
    return np.argsort(np.random.Philox(key=key(seed, SHUFFLE, epoch)).random_raw(size), kind="stable")


@dataclass(frozen=True)
class Shares:
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


def batches_of(data: Data[B], shares: Shares, config: TrainConfig, device: torch.device) -> Generator[tuple[range, B]]:
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


def moved(batch: B, device: torch.device) -> B:
    """The batch on a device, without waiting for it."""
    from accelerate.utils import recursively_apply, send_to_device

    parts: Any = batch
    if device.type == "cuda":
        # Only from pinned memory does a copy not wait for the device.
        parts = recursively_apply(_pinned, parts)
    return cast("B", send_to_device(parts, device, non_blocking=device.type == "cuda"))


def _pinned(part: Tensor) -> Tensor:
    return part.pin_memory() if part.is_cpu else part
