r"""Rectified flow and what it grew into: time laws, reflow, rectified diffusion, measures of straightness.

Rectified flow (Liu et al. 2023) is the Gaussian path alpha = 1 - t, sigma = t with the target eps - x0
(``RectifiedFlow()`` and ``flow_prediction``), so every solver of ``degauss.core.gaussian`` samples it.

*Reflow* runs a trained model's ODE from noise to data and trains a new model on the pairs (eps, x0) that it joins, with
the loss it was trained with. Paths of the new model hardly cross, since the pairs' paths do not. For rectified flow
they are then straight in t, and one Euler step is enough.

*Rectified diffusion* (Wang et al. 2024): straightness in t is not the point. On any schedule, pairs and the original
loss lead to paths x_t = alpha x0 + sigma eps with one x0 and one eps all along: *first-order* paths, which DDIM crosses
in one step however curved they are in t. Straight paths are the first-order paths of rectified flow.

Time laws say at which t a loss is taken: quantile functions from u uniform in (0, 1), so that they take keyed or
stratified numbers alike. Scaling Stable Diffusion 3 (Esser et al. 2024) compared them; its shift of the noise levels is
``degauss.core.schedule.Shifted``, and ``LogitNormal(mean + log(shift), std)`` in training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from degauss.core.denoiser import Denoiser, Network, Prediction, expand
from degauss.core.errors import InputError
from degauss.core.grid import Grid, check_grid, uniform_time
from degauss.core.noise import Noise
from degauss.core.posterior import Point
from degauss.core.sampling import Solver, sample
from degauss.core.schedule import RectifiedFlow, Schedule

TimeLaw = Callable[[Tensor], Tensor]
"""u uniform in (0, 1) -> training times in (0, 1), float64, in the shape of u; increasing."""


@dataclass(frozen=True)
class LogitNormal:
    """t = sigmoid(mean + std n), n ~ N(0, 1) (Esser et al. 2024, section 3.1): most of the training at middle times.

    ``mean`` > 0 leans towards noise. ``std`` > 0.
    """

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise InputError(f"std of the logit-normal time law must be positive, but is {self.std}.")

    def __call__(self, u: Tensor) -> Tensor:
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(u.double()))

    def density(self, t: Tensor) -> Tensor:
        """The density at t inside (0, 1), for weights: training at uniform times with it gives the same loss."""
        t = t.double()
        n = (torch.logit(t) - self.mean) / self.std
        return torch.exp(-0.5 * n**2) / (self.std * math.sqrt(2 * math.pi) * t * (1 - t))


@dataclass(frozen=True)
class Mode:
    """t = u - scale (sin^2(pi u / 2) - u) (Esser et al. 2024, section 3.1, whose u counts down).

    Reaches both ends with positive density; ``scale`` > 0 prefers the middle. In [-1, 2 / (pi - 2)], beyond which it
    is not monotone; 0 is the uniform law.
    """

    scale: float = 1.29

    def __post_init__(self) -> None:
        if not -1 <= self.scale <= 2 / (math.pi - 2):
            raise InputError(f"scale of the mode time law must be between -1 and 2 / (pi - 2), but is {self.scale}.")

    def __call__(self, u: Tensor) -> Tensor:
        u = u.double()
        return u - self.scale * (torch.sin(0.5 * math.pi * u) ** 2 - u)


def matching_loss(
    network: Network, schedule: Schedule, prediction: Prediction, x0: Tensor, eps: Tensor, t: Tensor, **cond: Any
) -> Tensor:
    """|network - (u x0 + w eps)|^2 at x_t = alpha x0 + sigma eps, the mean over each event, ``[batch]``.

    With ``RectifiedFlow()`` and ``Flow()``: rectified flow; with any other schedule and prediction: its own loss. On
    independent (x0, eps) it trains a first model; on ``Pairs`` it is reflow, or rectified diffusion.
    ``t``: ``[batch]``.
    """
    alpha, sigma = schedule(t)
    factor, time = prediction.network_input(alpha, sigma, t)
    on_x0, on_eps = prediction.target(alpha, sigma)
    x = expand(alpha, x0) * x0 + expand(sigma, x0) * eps
    output = network(x if factor is None else expand(factor, x) * x, time.to(x.dtype), **cond)
    error = output - (expand(on_x0, x) * x0 + expand(on_eps, x) * eps)
    return (error**2).flatten(1).mean(1)


class Pairs(NamedTuple):
    """Noise and the data that an ODE joins it to, both ``[batch, *event]``."""

    eps: Tensor
    x0: Tensor


def reflow_pairs(
    denoiser: Denoiser[Point],
    schedule: Schedule,
    event: Sequence[int],
    samples: Sequence[int],
    *,
    solver: Solver,
    steps: int,
    grid: Grid | Tensor = uniform_time,
    seed: int = 0,
    cond: Callable[[Sequence[int]], Mapping[str, Any]] | None = None,
    batch: int = 256,
    report: Callable[[int, int], None] | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Pairs:
    """The pairs of the sample ids ``samples``: keyed noise of shape ``event``, and where ``solver`` takes it.

    A pair is a function of (seed, id), so pairs may be made in any order, in parts or on many machines, and made again
    rather than stored; ``batch`` of them are made at a time. ``solver``: deterministic, or the pairs are no function of
    the noise. ``cond``: the conditioning of given ids. ``report(done, total)`` is called after every batch. Raises
    FloatingPointError as ``sample`` does.
    """
    if batch < 1:
        raise InputError(f"batch must be at least 1, but is {batch}.")
    like = torch.empty(len(samples), *event, dtype=dtype, device=device)
    ends = torch.empty_like(like)
    for first in range(0, len(samples), batch):
        rows = slice(first, first + batch)
        ids = samples[rows]
        with torch.no_grad():
            ends[rows] = sample(
                denoiser,
                schedule,
                (len(ids), *event),
                solver=solver,
                steps=steps,
                grid=grid,
                seed=seed,
                samples=ids,
                cond=None if cond is None else cond(ids),
                device=device,
                dtype=dtype,
            )
        if report is not None:
            report(first + len(ids), len(samples))
    # The noise that ``sample`` starts from.
    return Pairs(Noise(seed, samples).normal(like), ends)


def first_orderness(states: Tensor, grid: Tensor, schedule: Schedule) -> Tensor:
    r"""How far a trajectory is from x_t = alpha x0 + sigma eps with one (x0, eps), ``[batch]``; 0 is first-order.

    ``states``: ``[steps + 1, batch, *event]`` on the times ``grid``. (x0, eps) are those that meet both ends; the
    result is the mean over each event of int |dx/dt - alpha' x0 - sigma' eps|^2 |dt|, in units of x^2 per t. DDIM in
    one step makes an error only where this is not zero.
    """
    grid = check_grid(grid)
    if states.ndim < 2 or len(states) != len(grid):
        raise ValueError(
            f"states have shape [{len(grid)}, batch, *event], one for each time, got {tuple(states.shape)}"
        )
    alpha, sigma = schedule(grid)
    determinant = alpha[0] * sigma[-1] - alpha[-1] * sigma[0]
    start, end = states[0], states[-1]
    x0 = expand(sigma[-1] / determinant, start) * start - expand(sigma[0] / determinant, start) * end
    eps = expand(alpha[0] / determinant, start) * end - expand(alpha[-1] / determinant, start) * start
    moves = [scale.diff().to(states).reshape(-1, *(1,) * (states.ndim - 1)) for scale in (alpha, sigma)]
    rest = states.diff(dim=0) - moves[0] * x0 - moves[1] * eps
    weights = (1 / grid.diff().abs()).to(states)
    squares = (rest**2).reshape(*rest.shape[:2], -1).mean(2)
    return weights @ squares


def straightness(states: Tensor, grid: Tensor) -> Tensor:
    """int |dx/dt - (x_end - x_start) / (t_end - t_start)|^2 |dt|, the mean over each event, ``[batch]``.

    The S of Liu et al. 2023. It is 0 for trajectories that are straight in t at constant speed, and it is
    ``first_orderness`` on the schedule of rectified flow.
    """
    return first_orderness(states, grid, RectifiedFlow())
