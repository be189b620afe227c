r"""Reversible Heun: a Stratonovich method that can be run backwards by algebra (Kidger et al. 2021, algorithm 1).

Beside the state x it carries a second estimate y of it, at which alone the equation is evaluated, once a step:

    y_{n+1} = 2 x_n - y_n + f_n h + g_n dW,                     f_n = f(t_n, y_n), g_n = g(t_n, y_n), y_0 = x_0
    x_{n+1} = x_n + (f_n + f_{n+1}) h / 2 + (g_n + g_{n+1}) dW / 2

The same lines with h and dW negated give y_n from (x, y)_{n+1}, then x_n. Strong order 1/2, and 1 with additive
noise; order 2 without noise. ``adjoint`` uses the way back for exact gradients in constant memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from degauss.core.noise import Noise
from degauss.core.sde.equation import Equation, Instant, check_calculus
from degauss.core.sde.timeline import Timeline, host_times, timeline


class Estimate(NamedTuple):
    """y, and the drift and diffusion there."""

    y: Tensor
    drift: Tensor
    diffusion: Tensor

    @classmethod
    def of(cls, instant: Instant, y: Tensor) -> Estimate:
        return cls(y, instant.drift(y), instant.diffusion(y))


class Carry(NamedTuple):
    """The timeline, the equation at each of its times, and the second estimate (None before the first step)."""

    line: Timeline
    instants: Sequence[Instant]
    estimate: Estimate | None


def guess(x: Tensor, at: Estimate, h: float, dw: Tensor) -> Tensor:
    """The y one step later, or one step earlier where h and dw are negated."""
    return torch.addcmul(torch.add(2 * x - at.y, at.drift, alpha=h), at.diffusion, dw)


def heun(x: Tensor, a: Estimate, b: Estimate, h: float, dw: Tensor) -> Tensor:
    """The state one step later, or one step earlier where h and dw are negated; a, b: the estimates at its ends."""
    moved = torch.add(x, a.drift + b.drift, alpha=0.5 * h)
    return torch.addcmul(moved, a.diffusion + b.diffusion, dw, value=0.5)


def forward(x: Tensor, at: Estimate, instant: Instant, h: float, dw: Tensor) -> tuple[Tensor, Estimate]:
    """The state and the estimate one step later, where the equation is ``instant``."""
    new = Estimate.of(instant, guess(x, at, h, dw))
    return heun(x, at, new, h, dw), new


@dataclass(frozen=True)
class ReversibleHeun:
    """One evaluation of drift and diffusion a step; for Stratonovich equations."""

    equation: Equation

    def init(self, x: Tensor, grid: Tensor, /) -> Carry:
        del x
        check_calculus(self, self.equation, "stratonovich")
        times = host_times(grid)
        return Carry(timeline(times), self.equation.at(times), None)

    def step(self, carry: Carry, x: Tensor, i: int, noise: Noise, /) -> tuple[Carry, Tensor]:
        line, instants, estimate = carry
        if estimate is None:
            estimate = Estimate.of(instants[0], x)
        dw = noise.brownian(line.clock, i, x) * line.root[i]
        x, estimate = forward(x, estimate, instants[i + 1], line.h[i], dw)
        return Carry(line, instants, estimate), x
