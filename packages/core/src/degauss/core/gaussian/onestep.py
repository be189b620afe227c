r"""One-step methods: several evaluations a step, no memory between steps.

All of them work with y = x / alpha and k = sigma / alpha, where every Gaussian path obeys the same equation,
dy/dk = (y - mean) / k, or with lam = -log k. They reach their order from the first step on, at two or three
evaluations a step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from degauss.core.denoiser import Denoiser
from degauss.core.gaussian.table import Array, Path, on_grid, snr_clock
from degauss.core.noise import Clock, Noise
from degauss.core.posterior import Point
from degauss.core.schedule import Schedule


class Carry(NamedTuple):
    """What a run of a one-step method needs: coefficients and times of each step, and the noise's clock."""

    steps: tuple[tuple[float, ...], ...]
    times: tuple[tuple[Tensor, ...], ...]
    clock: Clock


def _ratio(path: Path) -> Array:
    """k = sigma / alpha along the grid; ValueError where it is infinite."""
    if not (path.alpha > 0).all():
        raise ValueError("a one-step solver needs alpha > 0 on the grid: start it a little below t = 1")
    return path.sigma / path.alpha


def _times(schedule: Schedule, lam: list[float], x: Tensor) -> tuple[Tensor, ...]:
    """The times at which lam takes the given values, as tensors beside x."""
    return torch.unbind(schedule.time(2 * torch.tensor(lam, dtype=torch.float64)).to(x.device))


@dataclass(frozen=True)
class Heun:
    r"""EDM's sampler, Heun's method with optional churn (Karras et al. 2022, algorithms 1 and 2). Order 2.

    Two evaluations a step, one in a step that ends on clean data. Where k lies in [``churn_min``, ``churn_max``],
    each step first raises it by the factor 1 + min(``churn`` / steps, sqrt(2) - 1) with noise of standard
    deviation ``inflate`` times what that needs.
    """

    denoiser: Denoiser[Point]
    schedule: Schedule
    churn: float = 0.0
    churn_min: float = 0.0
    churn_max: float = math.inf
    inflate: float = 1.0

    def init(self, x: Tensor, grid: Tensor, /) -> Carry:
        path = on_grid(self.schedule, grid)
        k = _ratio(path)
        gamma = np.where((k >= self.churn_min) & (k <= self.churn_max), self.churn / path.steps, 0.0)
        raised = k * (1 + np.minimum(gamma, math.sqrt(2) - 1))
        alpha = self.schedule(self.schedule.time(torch.from_numpy(-2 * np.log(raised[:-1])))).alpha.numpy()
        added = self.inflate * np.sqrt((raised - k) * (raised + k))
        steps = np.stack([path.alpha[:-1], added[:-1], raised[:-1], alpha, k[1:], path.alpha[1:]], axis=1)
        times = zip(
            _times(self.schedule, (-np.log(raised[:-1])).tolist(), x),
            torch.unbind(grid[1:].to(x.device)),
            strict=True,
        )
        # Noise added on the way up has no counterpart in the path of any other grid: its clock is the step number.
        clock = tuple(float(i) for i in range(path.steps + 1))
        return Carry(tuple(map(tuple, steps.tolist())), tuple(times), clock)

    def step(self, carry: Carry, x: Tensor, i: int, noise: Noise, /) -> tuple[Carry, Tensor]:
        alpha_s, added, k_s, alpha_raised, k_t, alpha_t = carry.steps[i]
        time_s, time_t = carry.times[i]
        y = x / alpha_s
        if added > 0:
            y = torch.add(y, noise.brownian(carry.clock, i, x), alpha=added)
        slope = (y - self.denoiser(y * alpha_raised, time_s).mean) / k_s
        end = torch.add(y, slope, alpha=k_t - k_s)
        if k_t > 0:
            slope_end = (end - self.denoiser(end * alpha_t, time_t).mean) / k_t
            end = torch.add(y, slope + slope_end, alpha=0.5 * (k_t - k_s))
        return carry, end * alpha_t


class Transfer(NamedTuple):
    """x_t = state x_s + first f_s + slope (f_t - f_s), for f linear in lam between the times s and t."""

    state: float
    first: float
    slope: float


Form = Literal["data", "noise"]


def _transfer(form: Form, alpha_s: float, sigma_s: float, alpha_t: float, sigma_t: float) -> Transfer:
    """The exact exponential step with f, the posterior mean or eps, linear in lam."""
    h = math.log(alpha_t / sigma_t) - math.log(alpha_s / sigma_s)
    if form == "data":
        return Transfer(sigma_t / sigma_s, -alpha_t * math.expm1(-h), alpha_t * (1 + math.expm1(-h) / h))
    return Transfer(alpha_t / alpha_s, -sigma_t * math.expm1(h), -sigma_t * (math.expm1(h) / h - 1))


@dataclass(frozen=True)
class Singlestep:
    """Single-step DPM-Solver-2 and -3 (Lu et al. 2022a, algorithms 4 and 5), or their "data" form (2022b, 2S).

    ``order`` evaluations a step, at the ratios 1/2, or 1/3 and 2/3, of each step in log-SNR. The grid needs
    alpha > 0; a last step onto clean data is one evaluation.
    """

    denoiser: Denoiser[Point]
    schedule: Schedule
    order: Literal[2, 3] = 2
    form: Form = "noise"

    @property
    def _ratios(self) -> tuple[float, ...]:
        return (0.5,) if self.order == 2 else (1 / 3, 2 / 3)

    def init(self, x: Tensor, grid: Tensor, /) -> Carry:
        path = on_grid(self.schedule, grid)
        _ratio(path)
        stages = [self._stages(path, i) for i in range(path.steps)]
        times = tuple(_times(self.schedule, [stage[0] for stage in row], x) for row in stages)
        steps = tuple(tuple(value for stage in row for value in stage[1:]) for row in stages)
        return Carry(steps, times, ())

    def _stages(self, path: Path, i: int) -> list[tuple[float, ...]]:
        """For each evaluation: its lam, alpha and sigma; the last entry is where the step ends."""
        start, end = float(path.lam[i]), float(path.lam[i + 1])
        ratios = self._ratios if math.isfinite(end) else ()
        lam = [start, *(start + r * (end - start) for r in ratios), end]
        scales = self.schedule(self.schedule.time(2 * torch.tensor(lam, dtype=torch.float64)))
        return list(zip(lam, scales.alpha.tolist(), scales.sigma.tolist(), strict=True))

    def step(self, carry: Carry, x: Tensor, i: int, noise: Noise, /) -> tuple[Carry, Tensor]:
        del noise
        values = carry.steps[i]
        scales = list(zip(values[::2], values[1::2], strict=True))
        start, end, times = scales[0], scales[-1], carry.times[i]
        mean = self.denoiser(x, times[0]).mean
        if end[1] == 0:
            return carry, end[0] * mean
        first = self._value(x, mean, start)
        slope: Tensor | None = None
        for ratio, stage, time in zip(self._ratios, scales[1:-1], times[1:-1], strict=True):
            at = self._move(x, first, None if slope is None else slope * ratio, start, stage)
            slope = (self._value(at, self.denoiser(at, time).mean, stage) - first) / ratio
        return carry, self._move(x, first, slope, start, end)

    def _value(self, x: Tensor, mean: Tensor, scales: tuple[float, float]) -> Tensor:
        return mean if self.form == "data" else (x - scales[0] * mean) / scales[1]

    def _move(
        self, x: Tensor, first: Tensor, slope: Tensor | None, start: tuple[float, float], end: tuple[float, float]
    ) -> Tensor:
        transfer = _transfer(self.form, *start, *end)
        moved = torch.add(x * transfer.state, first, alpha=transfer.first)
        return moved if slope is None else torch.add(moved, slope, alpha=transfer.slope)


@dataclass(frozen=True)
class AncestralTwo:
    """Second-order ancestral sampling: DPM-Solver++(2S) down to less noise than needed, then noise back up.

    The split is that of the posterior of DDPM: with k = sigma/alpha, k_up = eta k_t sqrt(1 - k_t^2 / k_s^2) and
    k_down^2 = k_t^2 - k_up^2. (``ddim(eta=1)`` is the first-order ancestral sampler.) Two evaluations a step.
    """

    denoiser: Denoiser[Point]
    schedule: Schedule
    eta: float = 1.0

    def init(self, x: Tensor, grid: Tensor, /) -> Carry:
        path = on_grid(self.schedule, grid)
        k = _ratio(path)
        up = self.eta * k[1:] * np.sqrt(np.maximum(1 - (k[1:] / k[:-1]) ** 2, 0))
        down = np.sqrt(k[1:] ** 2 - up**2)
        with np.errstate(divide="ignore"):
            middle = np.exp(0.5 * (np.log(k[:-1]) + np.log(down)))
        steps = np.stack([path.alpha[:-1], k[:-1], middle, down, up, path.alpha[1:]], axis=1)
        half = self.schedule.time(torch.from_numpy(-2 * np.log(np.maximum(middle, 1e-300))))
        scales = self.schedule(half).alpha.numpy()
        steps = np.column_stack([steps, scales])
        times = zip(torch.unbind(grid[:-1].to(x.device)), torch.unbind(half.to(x.device)), strict=True)
        return Carry(tuple(map(tuple, steps.tolist())), tuple(times), snr_clock(path))

    def step(self, carry: Carry, x: Tensor, i: int, noise: Noise, /) -> tuple[Carry, Tensor]:
        alpha_s, k_s, middle, down, up, alpha_t, alpha_m = carry.steps[i]
        start, half = carry.times[i]
        mean = self.denoiser(x, start).mean
        if down == 0:
            return carry, alpha_t * mean
        y = x / alpha_s
        at = torch.lerp(mean, y, middle / k_s)
        mean = self.denoiser(at * alpha_m, half).mean
        y = torch.lerp(mean, y, down / k_s)
        if up > 0:
            y = torch.add(y, noise.brownian(carry.clock, i, x), alpha=up)
        return carry, y * alpha_t
