r"""Numbers that change over a run, and the times at which a prior is asked.

A schedule ``[start, v0, v1, end]`` is v0 until step ``start``, v1 from step ``end`` on, and linear between, the form
that threestudio's configurations have for every number. Noise levels that fall over a run (time annealing) go from
shape to detail, as a sampler does; they also cure many a second face (StableDreamer; DreamTime).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from degauss.core.errors import InputError
from degauss.core.noise import Noise


@dataclass(frozen=True)
class Ramp:
    """``first`` until step ``start``, ``last`` from step ``end`` on, linear between. InputError unless start <= end."""

    start: int
    first: float
    last: float
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end:
            raise InputError(f"a schedule [start, v0, v1, end] needs steps 0 <= start <= end, but is {self.listed()}.")

    @classmethod
    def of(cls, value: float | Sequence[float]) -> Ramp:
        """From a number, or from ``[start, v0, v1, end]``; InputError for a list of another length."""
        if isinstance(value, int | float):
            return cls(0, value, value, 0)
        if len(value) != 4:
            raise InputError(f"a schedule is a number or [start, v0, v1, end], but is {list(value)}.")
        start, first, last, end = value
        if start != int(start) or end != int(end):
            raise InputError(f"a schedule [start, v0, v1, end] has whole steps, but is {list(value)}.")
        return cls(int(start), first, last, int(end))

    def __call__(self, step: int) -> float:
        if step >= self.end:
            return self.last
        if step <= self.start:
            return self.first
        return self.first + (self.last - self.first) * (step - self.start) / (self.end - self.start)

    def listed(self) -> list[float]:
        """``[start, v0, v1, end]``."""
        return [self.start, self.first, self.last, self.end]

    def scaled(self, factor: float) -> Ramp:
        """The same values over ``factor`` times the steps."""
        return Ramp(round(self.start * factor), self.first, self.last, round(self.end * factor))


@dataclass(frozen=True)
class Times:
    """t uniform between two schedules, in (0, 1). InputError where they cross or leave it."""

    low: Ramp
    high: Ramp

    def __post_init__(self) -> None:
        # Between the steps at which either bends both are linear; a schedule may also jump there.
        bends = {self.low.start, self.low.end, self.high.start, self.high.end}
        for step in sorted(bends | {max(0, bend - 1) for bend in bends}):
            low, high = self.low(step), self.high(step)
            if not 0 < low <= high < 1:
                raise InputError(f"times go from low to high inside (0, 1), but at step {step} from {low} to {high}.")

    @classmethod
    def of(cls, low: float | Sequence[float], high: float | Sequence[float]) -> Times:
        return cls(Ramp.of(low), Ramp.of(high))

    @classmethod
    def falling(cls, steps: int, first: float = 0.98, last: float = 0.02) -> Times:
        """One time for each step, falling linearly: DreamGaussian's."""
        ramp = Ramp(0, first, last, steps)
        return cls(ramp, ramp)

    def draw(self, noise: Noise, step: int, device: torch.device | str = "cpu") -> Tensor:
        """A time for each sample of the noise, float64 ``[n]``."""
        u = noise.fork(step).uniform(torch.empty(len(noise.samples), dtype=torch.float64, device=device))
        low, high = self.low(step), self.high(step)
        return low + (high - low) * u

    def scaled(self, factor: float) -> Times:
        """The same times over ``factor`` times the steps."""
        return Times(self.low.scaled(factor), self.high.scaled(factor))


DREAMFUSION = Times.of(0.02, 0.98)
"""SDS: the same times throughout."""
MVDREAM = Times.of([0, 0.98, 0.02, 8000], [0, 0.98, 0.5, 8000])
"""From 0.98 to (0.02, 0.5) over 8000 steps of 10 000; of MVDream's configuration."""
PROLIFIC = Times.of(0.02, [5000, 0.98, 0.5, 5001])
"""VSD: up to 0.98 for 5000 steps, then up to 0.5."""
SCALEDREAMER = Times.of([0, 0.5, 0.02, 25_000], [0, 0.98, 0.5, 25_000])
"""ASD: from (0.5, 0.98) to (0.02, 0.5) over 25 000 steps."""
LUCID = Times.of(0.02, [0, 0.98, 0.5, 1500])
"""ISM, and TSM with half the steps: up to 0.98 at first, 0.5 from step 1500 on."""
