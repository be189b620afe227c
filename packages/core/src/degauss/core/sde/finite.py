"""Runs that end in finite numbers, or say where they stopped being so."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from degauss.core.kernel import Event, Kernel, Observer, simulate
from degauss.core.noise import Noise


def solve(kernel: Kernel[Any], x: Tensor, grid: Tensor, noise: Noise, *, observe: Iterable[Observer] = ()) -> Tensor:
    """``simulate``, with FloatingPointError naming the first step that made a state non-finite."""
    return ensure_finite(simulate(kernel, x, grid, noise, observe=observe), kernel, x, grid, noise)


def ensure_finite(states: Tensor, kernel: Kernel[Any], x: Tensor, grid: Tensor, noise: Noise) -> Tensor:
    """``states`` that a run of the kernel from x gave, or FloatingPointError.

    Runs are exact functions of their noise, so none is watched: one that failed is repeated to find the step.
    """
    if not bool(states.isfinite().all()):
        with torch.no_grad():
            raise FloatingPointError(_blame(kernel, x, grid, noise))
    return states


def _blame(kernel: Kernel[Any], x: Tensor, grid: Tensor, noise: Noise) -> str:
    name = type(kernel).__name__
    if wrong := _count(x):
        return f"{wrong} of {len(x)} states were not finite before the first step of {name}"
    found = [f"{name} gave non-finite states, but finite ones when repeated: the equation is not deterministic"]

    def watch(event: Event) -> bool:
        wrong = _count(event.x)
        if wrong:
            start, end = grid[event.i : event.i + 2].tolist()
            found.append(
                f"step {event.i + 1} of {event.steps} of {name}, from t = {start:.4g} to {end:.4g}, "
                f"made {wrong} of {len(x)} states non-finite: take smaller steps, or a method made for the equation"
            )
        return wrong > 0

    simulate(kernel, x, grid, noise, observe=(watch,))
    return found[-1]


def _count(x: Tensor) -> int:
    """How many rows are not finite."""
    return int((~x.isfinite()).flatten(1).any(1).sum())
