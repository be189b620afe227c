r"""Euler-Maruyama and Milstein, with h the step and dW = sqrt(h) z (Kloeden and Platen 1992, 10.2 and 10.3).

    Euler-Maruyama:  x + f h + g dW                                   Ito, strong order 1/2, weak order 1
    Milstein:        x + f h + g dW + g g' (dW^2 - h) / 2             Ito, strong order 1, weak order 1
                     x + f h + g dW + g g' dW^2 / 2                   Stratonovich, the same

With additive noise the two are one method, of strong order 1. Milstein needs g_i to depend on x_i alone.
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


class Carry(NamedTuple):
    """The timeline, and the equation at the start of each step."""

    line: Timeline
    instants: Sequence[Instant]


def start(equation: Equation, grid: Tensor) -> Carry:
    """The carry of a method that evaluates its equation where a step starts."""
    times = host_times(grid)
    return Carry(timeline(times), equation.at(times[:-1]))


@dataclass(frozen=True)
class EulerMaruyama:
    """One evaluation of drift and diffusion a step; for Ito equations."""

    equation: Equation

    def init(self, x: Tensor, grid: Tensor, /) -> Carry:
        del x
        check_calculus(self, self.equation, "ito")
        return start(self.equation, grid)

    def step(self, carry: Carry, x: Tensor, i: int, noise: Noise, /) -> tuple[Carry, Tensor]:
        line, instants = carry
        moved = torch.add(x, instants[i].drift(x), alpha=line.h[i])
        z = noise.brownian(line.clock, i, x)
        return carry, torch.addcmul(moved, instants[i].diffusion(x), z, value=line.root[i])


@dataclass(frozen=True)
class Milstein:
    """Euler-Maruyama with the next term of the expansion; for either calculus, and it follows the equation's."""

    equation: Equation

    def init(self, x: Tensor, grid: Tensor, /) -> Carry:
        del x
        return start(self.equation, grid)

    def step(self, carry: Carry, x: Tensor, i: int, noise: Noise, /) -> tuple[Carry, Tensor]:
        line, instants = carry
        z = noise.brownian(line.clock, i, x)
        square = z.square() if self.equation.calculus == "stratonovich" else z.square() - 1
        g, slope = instants[i].diffusion_and_slope(x)
        weight = torch.addcmul(z * line.root[i], slope, square, value=0.5 * line.h[i])
        return carry, torch.addcmul(torch.add(x, instants[i].drift(x), alpha=line.h[i]), g, weight)
