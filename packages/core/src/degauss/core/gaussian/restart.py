r"""Restart: go back up and come down again, to forget the errors made so far (Xu et al. 2023).

In terms of y = x / alpha and k = sigma / alpha: a solver comes down its grid; each time it reaches the bottom of an
interval [k_low, k_high], then ``repeats`` times

    y <- y + sqrt(k_high^2 - k_low^2) z,   and a solver comes down from k_high to k_low again.

Adding noise keeps the law of an exact state exact, and makes two laws that differ more alike: what the state had
accumulated by way of errors shrinks with every round. The way down is a plain ODE on few steps, whose own errors stay
small; a stochastic solver instead adds a little noise in every step and needs many small ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from degauss.core.denoiser import Denoiser
from degauss.core.errors import InputError
from degauss.core.gaussian.table import Path, on_grid
from degauss.core.kernel import Kernel
from degauss.core.noise import Noise
from degauss.core.posterior import Point
from degauss.core.sampling import Solver
from degauss.core.schedule import Schedule


@dataclass(frozen=True)
class Interval:
    """Where to restart: ``repeats`` rounds between the noise levels ``low`` and ``high`` of k = sigma / alpha.

    ``low`` stands for the nearest level of the run's grid that is below ``high``. ``steps``: how many steps come down,
    on levels evenly spaced in k^(1/rho). The paper's [N, K, t_min, t_max] is ``Interval(t_min, t_max, K, N - 1)``.
    """

    low: float
    high: float
    repeats: int = 1
    steps: int = 3

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high < math.inf:
            raise InputError(f"a restart needs 0 <= low < high < inf, but low is {self.low:g}, high is {self.high:g}.")
        if self.repeats < 1 or self.steps < 1:
            raise InputError(
                f"a restart needs one repeat and one step or more, but has {self.repeats} and {self.steps}."
            )


class Round(NamedTuple):
    """One restart: its number in the run, the weights of the way up, and a solver ready to come down."""

    number: int
    keep: float
    fresh: float
    steps: int
    carry: Any


class Carry(NamedTuple):
    """The carry of the solver on the main grid, and the rounds that follow each of its steps."""

    main: Any
    rounds: tuple[tuple[Round, ...], ...]


@dataclass(frozen=True)
class Restart:
    """Restart sampling around any ``solver`` (Xu et al. 2023, algorithm 1; the paper's solver is ``Heun``).

    ``functools.partial(Restart, solver=..., intervals=...)`` is a solver. All rounds of a level of the grid belong to
    the step that arrives there: observers see the state after them. Each way down begins with an empty memory, so a
    multistep solver starts anew with its lowest order. ``inflate``: the factor on the added noise (1.003 in some of the
    paper's settings). Each round has randomness of its own, also for a stochastic solver.
    """

    denoiser: Denoiser[Point]
    schedule: Schedule
    solver: Solver
    intervals: Sequence[Interval]
    rho: float = 7.0
    inflate: float = 1.0

    @property
    def _kernel(self) -> Kernel[Any]:
        return self.solver(self.denoiser, self.schedule)

    def init(self, x: Tensor, grid: Tensor, /) -> Carry:
        path = on_grid(self.schedule, grid)
        with np.errstate(divide="ignore"):
            k = path.sigma / path.alpha
        arrivals = [_arrival(k, interval) for interval in self.intervals]
        rounds: list[tuple[Round, ...]] = []
        number = 0
        for i in range(path.steps):
            here: list[Round] = []
            for arrival, interval in zip(arrivals, self.intervals, strict=True):
                if arrival == i + 1:
                    prepared = self._prepared(x, path, arrival, interval)
                    here += [prepared._replace(number=number + repeat) for repeat in range(interval.repeats)]
                    number += interval.repeats
            rounds.append(tuple(here))
        return Carry(self._kernel.init(x, grid), tuple(rounds))

    def _prepared(self, x: Tensor, path: Path, arrival: int, interval: Interval) -> Round:
        low = float(path.sigma[arrival] / path.alpha[arrival])
        ramp = np.linspace(interval.high ** (1 / self.rho), low ** (1 / self.rho), interval.steps + 1) ** self.rho
        above = self.schedule.time(torch.from_numpy(-2 * np.log(ramp[:-1])))
        grid = torch.cat([above, torch.tensor([path.time[arrival]], dtype=torch.float64)])
        alpha = float(self.schedule(grid[0]).alpha)
        fresh = alpha * self.inflate * math.sqrt((interval.high - low) * (interval.high + low))
        carry = self._kernel.init(x, grid)
        return Round(0, alpha / float(path.alpha[arrival]), fresh, interval.steps, carry)

    def step(self, carry: Carry, x: Tensor, i: int, noise: Noise, /) -> tuple[Carry, Tensor]:
        kernel = self._kernel
        main, x = kernel.step(carry.main, x, i, noise)
        for number, keep, fresh, steps, inner in carry.rounds[i]:
            own = noise.fork(number)
            x = torch.add(x * keep, own.normal(x), alpha=fresh)
            for j in range(steps):
                inner, x = kernel.step(inner, x, j, own)
        return carry._replace(main=main), x


def _arrival(k: np.ndarray[Any, np.dtype[np.float64]], interval: Interval) -> int:
    """The index of the grid's level nearest to the interval's bottom, which some step must reach."""
    if not interval.high <= k[0]:
        raise InputError(f"a restart up to k = {interval.high:g} is above the grid, which starts at k = {k[0]:g}.")
    gaps = np.where(k[1:] < interval.high, np.abs(k[1:] - interval.low), math.inf)
    if not np.isfinite(gaps).any():
        raise InputError(f"a restart from k = {interval.high:g} has no level of the grid below it to come down to.")
    return int(gaps.argmin()) + 1
