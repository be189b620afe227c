r"""EDICT: exact inversion by two coupled copies (Wallace, Gokul and Naik 2023).

A step moves copy x with the noise found at copy y, then y with the noise found at the new x, and mixes:

    x' = move(x, eps(y)),   y' = move(y, eps(x')),   x <- p x' + (1 - p) y',   y <- p y' + (1 - p) x,

with ``move`` DDIM's step and both eps taken at the step's first time; the second mixing line uses the new x. Each
line is undone by itself, so the inverse is exact: y' = (y - (1 - p) x) / p, x' = (x - (1 - p) y') / p, and so on back.
As in the authors' code, x is moved first in even steps and y in odd ones, which keeps the copies alike.

Mixing contracts the copies' difference by p^2 a step; undoing it lets rounding grow by p^-2 a step. Two evaluations a
step, and both copies are needed to go either way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from degauss.core.denoiser import Denoiser
from degauss.core.errors import InputError, check_range
from degauss.core.gaussian.table import Array
from degauss.core.inversion.guard import response
from degauss.core.inversion.two_state import finite_path
from degauss.core.kernel import simulate
from degauss.core.noise import Noise
from degauss.core.observe import Last
from degauss.core.posterior import Point
from degauss.core.schedule import Schedule


class Move(NamedTuple):
    """The weights of a moved copy: on itself, on the other copy, and on the posterior mean at the other copy.

    Forwards this is alpha'/alpha x + (sigma' - sigma alpha'/alpha) eps(y), with eps(y) = (y - alpha mean(y)) / sigma.
    """

    own: float
    other: float
    mean: float

    def undone(self) -> Move:
        """The same move solved for the copy that was moved."""
        return Move(1 / self.own, -self.other / self.own, -self.mean / self.own)


class Carry(NamedTuple):
    """A run's coefficients, the time of each step's answers, and the second copy, y; the state is x."""

    moves: tuple[Move, ...]
    times: tuple[Tensor, ...]
    other: Tensor


def _moves(schedule: Schedule, grid: Tensor) -> tuple[Move, ...]:
    path = finite_path(schedule, grid)
    own = path.alpha[1:] / path.alpha[:-1]
    down = path.sigma[1:] / path.sigma[:-1]
    mean = path.alpha[1:] - path.alpha[:-1] * down
    return tuple(Move(*weights) for weights in zip(own.tolist(), (down - own).tolist(), mean.tolist(), strict=True))


def _moved(denoiser: Denoiser[Point], move: Move, own: Tensor, other: Tensor, t: Tensor) -> Tensor:
    mean = denoiser(other, t).mean
    return (own * move.own).add_(other, alpha=move.other).add_(mean, alpha=move.mean)


@dataclass(frozen=True)
class Coupled:
    """EDICT's sampler. ``other``: the copy y at the grid's first time; x itself where None."""

    denoiser: Denoiser[Point]
    schedule: Schedule
    p: float
    other: Tensor | None = None

    def init(self, x: Tensor, grid: Tensor, /) -> Carry:
        times = grid[:-1].to(x.device).unbind()
        return Carry(_moves(self.schedule, grid), times, x if self.other is None else self.other)

    def step(self, carry: Carry, x: Tensor, i: int, noise: Noise, /) -> tuple[Carry, Tensor]:
        del noise
        moves, times, y = carry
        move, t = moves[i], times[i]
        if i % 2 == 0:
            x = _moved(self.denoiser, move, x, y, t)
            y = _moved(self.denoiser, move, y, x, t)
        else:
            y = _moved(self.denoiser, move, y, x, t)
            x = _moved(self.denoiser, move, x, y, t)
        x = torch.lerp(y, x, self.p)
        y = torch.lerp(x, y, self.p)
        return Carry(moves, times, y), x


@dataclass(frozen=True)
class Uncoupled:
    """EDICT's inverse, on the reversed grid. ``other``: the copy y at the data; x itself where None."""

    denoiser: Denoiser[Point]
    schedule: Schedule
    p: float
    other: Tensor | None = None

    def init(self, x: Tensor, grid: Tensor, /) -> Carry:
        # Answers are taken at the first time of a step forwards, which is where the step backwards arrives.
        moves = tuple(move.undone() for move in reversed(_moves(self.schedule, grid.flip(0))))
        return Carry(moves, grid[1:].to(x.device).unbind(), x if self.other is None else self.other)

    def step(self, carry: Carry, x: Tensor, i: int, noise: Noise, /) -> tuple[Carry, Tensor]:
        del noise
        moves, times, y = carry
        move, t = moves[i], times[i]
        y = torch.lerp(x, y, 1 / self.p)
        x = torch.lerp(y, x, 1 / self.p)
        if (len(moves) - 1 - i) % 2 == 0:
            y = _moved(self.denoiser, move, y, x, t)
            x = _moved(self.denoiser, move, x, y, t)
        else:
            x = _moved(self.denoiser, move, x, y, t)
            y = _moved(self.denoiser, move, y, x, t)
        return Carry(moves, times, y), x


@dataclass(frozen=True)
class EDICT:
    """EDICT with mixing weight ``p`` in (0, 1], .93 as published; 1 does not mix.

    Its states are the copies (x, y). The grid must keep alpha > 0.
    """

    p: float = 0.93

    def __post_init__(self) -> None:
        check_range("p", self.p, 0.0, 1.0)
        if self.p == 0:
            raise InputError("p must be above 0, but is 0: the copies could not be told apart.")

    @property
    def remedy(self) -> str:
        """What loses less to rounding."""
        return "fewer steps, or a p nearer 1" if self.p < 1 else "fewer steps"

    def __call__(self, denoiser: Denoiser[Point], schedule: Schedule, /) -> Coupled:
        return Coupled(denoiser, schedule, self.p)

    def encode(
        self, denoiser: Denoiser[Point], schedule: Schedule, x0: Tensor, grid: Tensor, companion: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Both copies at grid[0] from x0 at grid[-1].

        ``companion``: the copy y of the run that made x0 (``carry.other`` after its last step); x0 itself without it.
        """
        last = Last()
        kernel = Uncoupled(denoiser, schedule, self.p, companion)
        x = simulate(kernel, x0, grid.flip(0), Noise(0, range(len(x0))), observe=(last,))
        return x, last.carry.other

    def decode(self, denoiser: Denoiser[Point], schedule: Schedule, states: tuple[Tensor, ...], grid: Tensor) -> Tensor:
        """x at grid[-1] from both copies at grid[0]."""
        x, y = states
        return simulate(Coupled(denoiser, schedule, self.p, y), x, grid, Noise(0, range(len(x))))

    def transfers(self, schedule: Schedule, grid: Tensor) -> Array:
        """How a step carries errors of (x, y) on standard normal data, ``[steps, 2, 2]``."""
        q = 1 - self.p
        mixed = np.array([[self.p, q], [self.p * q, self.p + q * q]])
        steps: list[Array] = []
        for i, (move, slope) in enumerate(zip(_moves(schedule, grid), response(schedule, grid), strict=False)):
            cross = move.other + move.mean * slope
            on_x, on_y = np.array([[move.own, cross], [0, 1]]), np.array([[1, 0], [cross, move.own]])
            steps.append(mixed @ (on_y @ on_x if i % 2 == 0 else on_x @ on_y))
        return np.array(steps)
