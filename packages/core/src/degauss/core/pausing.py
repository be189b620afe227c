r"""Long runs that may be cut: ``(i, x, carry)`` is a checkpoint, so a run goes on exactly where it stopped.

`simulate_pausing` is `kernel.simulate` with a file: now and then, and when it is interrupted, it writes down how many
steps are done, the state and the carry. Started again with the same kernel, grid and noise it reads them and goes on;
the result is the same to the last bit, since randomness is keyed and a kernel has no memory but its carry.

Of a carry only what has changed since ``init`` is written: coefficients are computed again, from the state's shape and
the grid, on which alone they may depend.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor

from degauss.core.checkpoint import load_tree, save_tree
from degauss.core.errors import InputError
from degauss.core.files import atomic_path, remove, settled
from degauss.core.kernel import Event, Kernel, Observer, simulate
from degauss.core.noise import Noise

C = TypeVar("C")

_NAME = "state"
_SAME, _VALUE, _PARTS = "same", "value", "parts"


def simulate_pausing(
    kernel: Kernel[C],
    x: Tensor,
    grid: Tensor,
    noise: Noise,
    *,
    folder: Path,
    every: float = 60.0,
    observe: Iterable[Observer] = (),
) -> Tensor:
    """The state at the grid's last time, going on from what ``folder`` holds, if anything.

    ``folder``: written after a step once ``every`` seconds have passed, and when a KeyboardInterrupt comes; it appears
    whole or not at all, and is removed at the end. ``kernel``, ``x``, ``grid`` and ``noise`` must be those of the run
    that wrote it. Observers see the steps that are taken now, under their numbers in the whole run. Raises
    `InputError` if the folder is damaged or was left by another run.
    """
    initial = kernel.init(x, grid)
    first, state, carry = _restored(folder, x, initial)
    steps = len(grid) - 1
    if first > steps:
        raise InputError(f"{folder} is of a run with at least {first} steps, but this one has {steps}.")
    saver = _Saver(folder, initial, every)
    shifted = tuple(_Shifted(observer, first, steps) for observer in (saver, *observe))
    try:
        end = simulate(_From(kernel, first, carry), state, grid[first:], noise, observe=shifted)
    except KeyboardInterrupt:
        saver.save()
        raise
    remove(settled(folder))
    return end


@dataclass(frozen=True)
class _From:
    """The kernel from its step ``first`` on."""

    kernel: Kernel[Any]
    first: int
    carry: Any

    def init(self, x: Tensor, grid: Tensor, /) -> Any:
        del x, grid
        return self.carry

    def step(self, carry: Any, x: Tensor, i: int, noise: Noise, /) -> tuple[Any, Tensor]:
        return self.kernel.step(carry, x, self.first + i, noise)


@dataclass(frozen=True)
class _Shifted:
    """An observer that is told the step's number in the whole run."""

    observer: Observer
    first: int
    steps: int

    def __call__(self, event: Event) -> bool | None:
        return self.observer(event._replace(i=self.first + event.i, steps=self.steps))


class _Saver:
    """Writes the last step's checkpoint."""

    def __init__(self, folder: Path, initial: Any, every: float) -> None:
        self.folder, self.initial, self.every = folder, initial, every
        self.last = time.monotonic()
        self.event: Event | None = None

    def __call__(self, event: Event) -> None:
        self.event = event
        if time.monotonic() - self.last >= self.every:
            self.save()
            self.last = time.monotonic()

    def save(self) -> None:
        if self.event is None:
            return
        tree = {"i": self.event.i + 1, "x": self.event.x, "carry": pack(self.event.carry, self.initial)}
        with atomic_path(self.folder) as part:
            part.mkdir()
            save_tree(part, _NAME, tree)


class _Restored(NamedTuple):
    first: int
    x: Tensor
    carry: Any


def _restored(folder: Path, x: Tensor, initial: Any) -> _Restored:
    place = settled(folder)
    if not place.exists():
        return _Restored(0, x, initial)
    tree = load_tree(place, _NAME)
    try:
        first, state = tree["i"], tree["x"]
        if state.shape != x.shape or state.dtype != x.dtype:
            raise TypeError(f"a state {state.dtype} {tuple(state.shape)}, expected {x.dtype} {tuple(x.shape)}")
        carry = unpack(tree["carry"], initial, x.device)
    except (KeyError, TypeError, IndexError) as error:
        raise InputError(f"{place} was left by another run ({error}): remove it to begin anew.") from None
    return _Restored(first, state.to(x.device), carry)


# --- carries ------------------------------------------------------------------------------------------------


def pack(carry: Any, initial: Any) -> Any:
    """A tree (`checkpoint.save_tree`) of what in ``carry`` is not the very object that ``initial`` holds there.

    Carries are nestings of tuples and named tuples. Raises `TypeError` for something else that has changed.
    """
    plain = carry is None or isinstance(carry, bool | int | float | str)
    if carry is initial and not plain:
        return (_SAME,)
    if not isinstance(carry, tuple):
        return (_VALUE, carry)
    parts = cast("tuple[Any, ...]", carry)
    before = _parts(initial, len(parts))
    named = type(parts) is not tuple
    if named and type(parts) is not type(initial):
        raise TypeError(f"a carry's {type(parts).__name__} must be there from the start, to be read back")
    return (_PARTS, tuple(pack(part, old) for part, old in zip(parts, before, strict=True)))


def unpack(tree: Any, initial: Any, device: torch.device) -> Any:
    """The carry of a tree, with ``initial`` where nothing had changed, and its tensors on ``device``."""
    tag = tree[0]
    if tag == _SAME:
        if initial is None:
            raise TypeError("a part of the carry that had not changed is not there")
        return initial
    if tag == _VALUE:
        value = tree[1]
        return value.to(device) if isinstance(value, Tensor) else value
    parts = [unpack(part, old, device) for part, old in zip(tree[1], _parts(initial, len(tree[1])), strict=True)]
    kind = type(initial)
    named = isinstance(initial, tuple) and kind is not tuple
    return kind(*parts) if named else tuple(parts)


def _parts(initial: Any, count: int) -> tuple[Any, ...]:
    """The parts of a tuple at the start, None where it had fewer or was none."""
    known = cast("tuple[Any, ...]", initial) if isinstance(initial, tuple) else ()
    return (*known[:count], *(None,) * (count - len(known)))
