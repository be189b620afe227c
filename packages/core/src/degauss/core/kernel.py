"""The one loop: a kernel, a grid, some noise.

A *kernel* is one method's transition along a grid. It is frozen and holds no run's state: what it remembers
between steps is its *carry*, handed in and out, so ``(i, x, carry)`` is a complete checkpoint, one kernel may
serve several runs at once, and a run may be cut anywhere.

``simulate`` is the only loop, for sampling, inversion, SDEs and jump processes alike. It never disables autograd:
guidance, fine-tuning and neural SDEs differentiate through it. Progress bars, recordings and early stops are
observers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from degauss.core.noise import Noise

C = TypeVar("C")


class Kernel(Protocol[C]):
    """One method. ``C`` is its carry: any immutable value, rebuilt at each step."""

    def init(self, x: Tensor, grid: Tensor, /) -> C:
        """The carry before the first step: coefficients for this grid, computed once, and an empty memory.

        ``x``: ``[batch, *event]``, for its dtype and device; ``grid``: times ``[steps + 1]``.
        """
        ...

    def step(self, carry: C, x: Tensor, i: int, noise: Noise, /) -> tuple[C, Tensor]:
        """From x at grid[i] to x at grid[i + 1]."""
        ...


class Event(NamedTuple):
    """What an observer sees after each step: x is the state at grid[i + 1]."""

    i: int
    steps: int
    x: Tensor
    carry: Any


Observer = Callable[[Event], bool | None]
"""Called after every step; returning True ends the run there."""


def simulate(
    kernel: Kernel[C],
    x: Tensor,
    grid: Tensor,
    noise: Noise,
    *,
    observe: Iterable[Observer] = (),
) -> Tensor:
    """Carry x along the whole grid and return the state at its last time, in the shape, dtype and device of x."""
    observers = tuple(observe)
    if x.device.type == "cpu":
        _keep_freed_memory()
    steps = len(grid) - 1
    carry = kernel.init(x, grid)
    for i in range(steps):
        carry, x = kernel.step(carry, x, i, noise)
        if observers:
            event = Event(i, steps, x, carry)
            # All are called first: each sees the last step, also when an earlier one stops the run.
            stops = [observer(event) for observer in observers]
            if any(stops):
                break
    return x


@cache
def _keep_freed_memory() -> None:
    # glibc hands freed blocks of a megabyte back to the kernel, and every step pays for the page faults of getting
    # them again (measured: six times the step). Freeing one large block teaches it to keep them; nothing is touched.
    torch.empty(31 << 20, dtype=torch.uint8)
