"""Observers of a run: what to do after each step besides stepping."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from degauss.core.kernel import Event


@dataclass(frozen=True)
class Trajectory:
    """Keeps the state after every step, each ``[batch, *event]``, detached."""

    states: list[Tensor] = field(default_factory=list[Tensor])

    def __call__(self, event: Event) -> None:
        self.states.append(event.x.detach().clone())

    def stack(self) -> Tensor:
        """All states, ``[steps, batch, *event]``."""
        return torch.stack(self.states)


@dataclass(frozen=True)
class Stop:
    """Ends the run once ``condition(event)`` holds."""

    condition: Callable[[Event], bool]

    def __call__(self, event: Event) -> bool:
        return self.condition(event)


@dataclass(frozen=True)
class Progress:
    """Reports (steps done, steps in all): the hook a progress bar hangs on."""

    report: Callable[[int, int], None]

    def __call__(self, event: Event) -> None:
        self.report(event.i + 1, event.steps)


@dataclass
class Last:
    """Keeps the carry of the last step: what a kernel computed besides the state."""

    carry: Any = None

    def __call__(self, event: Event) -> None:
        self.carry = event.carry
