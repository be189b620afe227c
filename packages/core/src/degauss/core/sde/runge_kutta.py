r"""Stochastic Runge-Kutta methods of strong order 3/2 for Ito equations, and the classical one for no noise.

Beside dW they need the iterated integral I10 = int_0^h W ds of each step, which is Gaussian given dW:

    dW = sqrt(h) z,    I10 / h = sqrt(h) (z + zeta / sqrt(3)) / 2,    z, zeta independent standard normals.

Both come from the Brownian path on the grid with every interval halved: z = (u + v) / sqrt(2) and
zeta = (u - v) / sqrt(2), where u, v are its normalised increments over the two halves. Halving a grid splits the
path, so z is exactly what a method without I10 sees on the grid itself. The area I10 has the right law beside z, but
a finer grid would know more of it: where an equation feels the area, runs of different step counts follow paths
that differ by it, and their difference shrinks as h, not as h^1.5.

``SRA`` is the scheme SRA1 for additive noise, with two evaluations of the drift; ``SRI`` is SRID2 for diagonal noise
(g_i depends on x_i alone), with three of the drift and four of the diffusion. Source: Roessler 2010, Runge-Kutta
methods for the strong approximation of solutions of stochastic differential equations, section 6.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from degauss.core.noise import Noise
from degauss.core.sde.equation import Additive, Equation, Instant, check_calculus
from degauss.core.sde.timeline import Timeline, host_times, timeline


class Carry(NamedTuple):
    """The timeline with every interval halved (two entries a step), and the instants of each step's stages."""

    halves: Timeline
    stages: Sequence[Sequence[Instant]]


def _stages(equation: Equation, times: Tensor, nodes: Sequence[float]) -> tuple[Sequence[Instant], ...]:
    """The equation at t_i + c h_i for every step i and every c of ``nodes``."""
    at = times[:-1, None] + times.diff()[:, None] * torch.tensor(nodes, dtype=times.dtype)
    instants = equation.at(at.flatten())
    return tuple(instants[i : i + len(nodes)] for i in range(0, len(instants), len(nodes)))


def _halved(times: Tensor) -> Timeline:
    middles = 0.5 * (times[:-1] + times[1:])
    return timeline(torch.cat([torch.stack([times[:-1], middles], 1).flatten(), times[-1:]]))


def _draw(halves: Timeline, i: int, x: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    """z and (z + zeta / sqrt(3)) / 2: dW and I10 / h in units of sqrt(h)."""
    u, v = noise.brownian(halves.clock, 2 * i, x), noise.brownian(halves.clock, 2 * i + 1, x)
    z = (u + v) * math.sqrt(0.5)
    return z, torch.add(0.5 * z, u - v, alpha=0.5 / math.sqrt(6))


@dataclass(frozen=True)
class SRA:
    """Strong order 3/2 with additive noise. ValueError if an instant is not ``Additive``."""

    equation: Equation

    def init(self, x: Tensor, grid: Tensor, /) -> Carry:
        del x
        times = host_times(grid)
        stages = _stages(self.equation, times, (0.0, 0.75, 1.0))
        if not all(isinstance(instant, Additive) for step in stages for instant in step):
            raise ValueError("SRA expected an equation with additive noise; SRI is for noise that depends on the state")
        return Carry(_halved(times), stages)

    def step(self, carry: Carry, x: Tensor, i: int, noise: Noise, /) -> tuple[Carry, Tensor]:
        h = 2 * carry.halves.h[2 * i]
        root = math.sqrt(h)
        start, inner, end = carry.stages[i]
        z, area = _draw(carry.halves, i, x, noise)
        g0, g1 = start.diffusion(x), end.diffusion(x)
        f0 = start.drift(x)
        at = torch.addcmul(torch.add(x, f0, alpha=0.75 * h), g1, area, value=1.5 * root)
        moved = torch.add(torch.add(x, f0, alpha=h / 3), inner.drift(at), alpha=2 * h / 3)
        return carry, torch.addcmul(torch.addcmul(moved, g1, z - area, value=root), g0, area, value=root)


@dataclass(frozen=True)
class SRI:
    """Strong order 3/2 with diagonal noise. ValueError if a diffusion is not ``separable``."""

    equation: Equation

    def init(self, x: Tensor, grid: Tensor, /) -> Carry:
        del x
        check_calculus(self, self.equation, "ito")
        times = host_times(grid)
        stages = _stages(self.equation, times, (0.0, 0.25, 0.5, 1.0))
        if not all(instant.separable for step in stages for instant in step):
            raise ValueError("SRI expected diagonal noise whose i-th diffusion depends on x_i alone (separable)")
        return Carry(_halved(times), stages)

    def step(self, carry: Carry, x: Tensor, i: int, noise: Noise, /) -> tuple[Carry, Tensor]:
        h = 2 * carry.halves.h[2 * i]
        root = math.sqrt(h)
        start, quarter, middle, end = carry.stages[i]
        z, area = _draw(carry.halves, i, x, noise)

        f0, g0 = start.drift(x), start.diffusion(x)
        euler = torch.add(x, f0, alpha=h)
        f1 = end.drift(euler)
        g1 = quarter.diffusion(x + 0.25 * h * f0 - 0.5 * root * g0)
        g2 = end.diffusion(euler + root * g0)
        f2 = middle.drift(x + 0.25 * h * (f0 + f1) + root * area * (g0 + 0.5 * g1))
        g3 = quarter.diffusion(x + 0.25 * h * f2 + root * (2 * g0 - g1 + 0.5 * g2))

        second = 0.5 * (z.square() - 1)
        third = z * (z.square() - 3) / 6
        moved = x + h / 6 * (f0 + f1 + 4 * f2)
        moved = torch.addcmul(moved, g0, -z + second + 2 * area - 2 * third, value=root)
        moved = torch.addcmul(moved, g1, 4 / 3 * (z - second - area) + 5 / 3 * third, value=root)
        moved = torch.addcmul(moved, g2, (2 * z + second - 2 * area - 2 * third) / 3, value=root)
        return carry, torch.addcmul(moved, g3, third, value=root)


class Steps(NamedTuple):
    """The steps h of a grid, and the instants of the three nodes of each."""

    h: tuple[float, ...]
    stages: Sequence[Sequence[Instant]]


@dataclass(frozen=True)
class RungeKutta4:
    """The classical method of order 4 for equations without noise; the grid may decrease."""

    equation: Equation

    def init(self, x: Tensor, grid: Tensor, /) -> Steps:
        del x
        if self.equation.calculus is not None:
            raise ValueError(f"RungeKutta4 expected an equation without noise, got one in {self.equation.calculus}")
        times = host_times(grid)
        return Steps(tuple(times.diff().tolist()), _stages(self.equation, times, (0.0, 0.5, 1.0)))

    def step(self, carry: Steps, x: Tensor, i: int, noise: Noise, /) -> tuple[Steps, Tensor]:
        del noise
        h = carry.h[i]
        start, middle, end = carry.stages[i]
        a = start.drift(x)
        b = middle.drift(torch.add(x, a, alpha=0.5 * h))
        c = middle.drift(torch.add(x, b, alpha=0.5 * h))
        d = end.drift(torch.add(x, c, alpha=h))
        return carry, torch.add(x, a + 2 * (b + c) + d, alpha=h / 6)
