r"""Log-density along the probability-flow ODE: of samples as they are drawn, and of given data.

With lam = log(alpha/sigma), the flow of x_t = alpha x0 + sigma eps carries the density with it (Chen et al. 2018,
theorem 1; Song et al. 2021, section 4.3). For y = x / alpha it reads dy/dlam = D - y, D the posterior mean, so

    d log p(y) / dlam = d - alpha tr(dD/dx),        log p(x) = log p(y) - d log alpha,       x in R^d.

Both are solved together by the exponential form of Heun's method (order 2, two evaluations a step), towards data or
towards noise. The trace is exact (d backward passes) or Hutchinson's estimate with keyed probes (one pass a probe).
Autograd flows through the states and the densities.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from degauss.core.denoiser import Denoiser
from degauss.core.gaussian.table import Path, on_grid
from degauss.core.grid import check_grid
from degauss.core.kernel import simulate
from degauss.core.noise import Noise
from degauss.core.observe import Last
from degauss.core.posterior import Point
from degauss.core.schedule import Schedule

Trace = Callable[[Tensor, Tensor, Noise], Tensor]
"""(output, input, noise) -> tr(d output / d input) of each sample ``[batch]``, both ``[batch, *event]``."""


def exact_trace(output: Tensor, at: Tensor, noise: Noise) -> Tensor:
    """The trace of the Jacobian, one backward pass for each coordinate of an event."""
    del noise
    flat = output.flatten(1)
    total = flat.new_zeros(len(flat))
    for j in range(flat.shape[1]):
        (row,) = torch.autograd.grad(flat[:, j].sum(), at, create_graph=True)
        total = total + row.flatten(1)[:, j]
    return total


@dataclass(frozen=True)
class Hutchinson:
    """The trace estimated as the mean of v . J v over ``probes`` sign vectors v (Hutchinson 1989).

    Unbiased for each step, and the probes of a sample are the same at every step (Grathwohl et al. 2019), keyed by
    its id: the density is a smooth function of its state.
    """

    probes: int = 1

    def __call__(self, output: Tensor, at: Tensor, noise: Noise) -> Tensor:
        total = output.new_zeros(len(output))
        for probe in range(self.probes):
            v = noise.normal(output.detach(), draw=_PROBES + probe).sign()
            (row,) = torch.autograd.grad((output * v).sum(), at, create_graph=True)
            total = total + (row * v).flatten(1).sum(1)
        return total / self.probes


# Draw 0 is the start of a run.
_PROBES = 1


class _Step(NamedTuple):
    """x_t = state x_s + first D_s + slope (D_t - D_s); log p gains constant - 1/2 (trace_s tr_s + trace_t tr_t)."""

    state: float
    first: float
    slope: float
    constant: float
    trace_start: float
    trace_end: float


class Carry(NamedTuple):
    """The run's coefficients and times, and log p(x_i) - log p(x_0), ``[batch]``."""

    steps: tuple[_Step, ...]
    times: tuple[Tensor, ...]
    gained: Tensor


@dataclass(frozen=True)
class FlowDensity:
    """The probability-flow ODE with the log-density it carries; the grid may run either way.

    ``trace``: ``exact_trace`` or ``Hutchinson(probes)``. The grid needs alpha > 0 and sigma > 0 throughout: on clean
    data the density of a noised state is not defined. Order 2, two evaluations and traces a step.
    """

    denoiser: Denoiser[Point]
    schedule: Schedule
    trace: Trace = exact_trace

    def init(self, x: Tensor, grid: Tensor, /) -> Carry:
        path = on_grid(self.schedule, grid)
        if not np.isfinite(path.lam).all():
            raise ValueError("a log-density needs alpha > 0 and sigma > 0 on the whole grid; keep it inside (0, 1)")
        size = math.prod(x.shape[1:])
        steps = tuple(_coefficients(path, i, size) for i in range(path.steps))
        return Carry(steps, grid.to(x.device, torch.float64).unbind(), x.new_zeros(len(x)))

    def step(self, carry: Carry, x: Tensor, i: int, noise: Noise, /) -> tuple[Carry, Tensor]:
        step = carry.steps[i]
        mean, trace = self._evaluate(x, carry.times[i], noise)
        ahead = torch.add(x * step.state, mean, alpha=step.first)
        mean_ahead, trace_ahead = self._evaluate(ahead, carry.times[i + 1], noise)
        gained = carry.gained + step.constant - 0.5 * (step.trace_start * trace + step.trace_end * trace_ahead)
        return carry._replace(gained=gained), torch.add(ahead, mean_ahead - mean, alpha=step.slope)

    def _evaluate(self, x: Tensor, t: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        outer = torch.is_grad_enabled()
        with torch.enable_grad():
            at = x if outer and x.requires_grad else x.detach().requires_grad_(True)
            mean = self.denoiser(at, t).mean
            trace = self.trace(mean, at, noise)
        return (mean, trace) if outer else (mean.detach(), trace.detach())


def _coefficients(path: Path, i: int, size: int) -> _Step:
    alpha_s, alpha_t = float(path.alpha[i]), float(path.alpha[i + 1])
    h = float(path.lam[i + 1] - path.lam[i])
    return _Step(
        state=float(path.sigma[i + 1] / path.sigma[i]),
        first=-alpha_t * math.expm1(-h),
        slope=alpha_t * (1 + math.expm1(-h) / h),
        constant=size * (h - math.log(alpha_t / alpha_s)),
        trace_start=h * alpha_s,
        trace_end=h * alpha_t,
    )


def normal_log_density(x: Tensor, sigma: float) -> Tensor:
    """log N(x; 0, sigma^2 I) in nats, ``[batch]``."""
    size = math.prod(x.shape[1:])
    return -0.5 * (x / sigma).square().flatten(1).sum(1) - size * math.log(sigma * math.sqrt(2 * math.pi))


class Scored(NamedTuple):
    """Samples ``[batch, *event]`` and the log-density of each in nats, ``[batch]``."""

    x: Tensor
    log_density: Tensor


def sample_with_density(
    denoiser: Denoiser[Point],
    schedule: Schedule,
    shape: Sequence[int],
    grid: Tensor,
    *,
    seed: int = 0,
    samples: Sequence[int] | None = None,
    trace: Trace = exact_trace,
    cond: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Scored:
    """Draw samples at the grid's last time, each with log p of the model there, in one pass.

    ``grid``: decreasing times inside (0, 1]. The start is that of ``sample``: N(0, sigma^2) at the first time, and
    the density is that of the flow from it.
    """
    times = check_grid(grid)
    noise = Noise(seed, range(shape[0]) if samples is None else samples)
    sigma = float(schedule(times[0]).sigma)
    x = sigma * noise.normal(torch.empty(*shape, dtype=dtype, device=device))
    start = normal_log_density(x, sigma)
    last = Last()
    conditioned = partial(denoiser, **cond) if cond else denoiser
    x = simulate(FlowDensity(conditioned, schedule, trace), x, times, noise, observe=(last,))
    return Scored(_finite(x), _finite(start + last.carry.gained))


def log_density(
    denoiser: Denoiser[Point],
    schedule: Schedule,
    x: Tensor,
    grid: Tensor,
    *,
    seed: int = 0,
    samples: Sequence[int] | None = None,
    trace: Trace = exact_trace,
    cond: Mapping[str, Any] | None = None,
) -> Tensor:
    """log p of given states x ``[batch, *event]`` at the grid's first time, ``[batch]`` in nats.

    ``grid``: increasing times inside (0, 1]; the last one is where p is taken to be N(0, sigma^2). In bits for each
    number: divide by -log(2) times the size of an event.
    """
    times = check_grid(grid)
    noise = Noise(seed, range(len(x)) if samples is None else samples)
    last = Last()
    conditioned = partial(denoiser, **cond) if cond else denoiser
    end = simulate(FlowDensity(conditioned, schedule, trace), x, times, noise, observe=(last,))
    return _finite(normal_log_density(end, float(schedule(times[-1]).sigma)) - last.carry.gained)


def _finite(values: Tensor) -> Tensor:
    if not bool(torch.isfinite(values).all()):
        raise FloatingPointError("the probability flow gave non-finite values; the denoiser or the grid is at fault")
    return values
