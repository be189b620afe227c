r"""EVODiff: a second-order step whose weights come from the data (Li et al. 2025).

Between two levels of noise the step is DDIM's plus a multiple of what the posterior means say about their slope. All
other solvers fix that multiple beforehand; EVODiff takes it from norms and projections of the means, to lower the
variance of the reverse step. With k = sigma / alpha, times 1, 0 and t from noise to data, D the posterior means,
h = 1/k_t - 1/k_0, rl = log(k_1/k_0) / log(k_0/k_t), and proj(a, b) = <a, b> / <b, b> clipped to [-2, 2],

    e   = sigma_t/sigma_0 x + sigma_t h D_0                                        DDIM
    d_1 = D_0 - r(D_0, D_1) D_1,   x_p = e + sigma_t h d_1 / (2 rl sigmoid(|r| / 4))     a probe
    d_2 = D_t - r(D_t, D_0) D_0,   D_t = D(x_p, t)                                 the one evaluation
    B   = -eta d_1 / rl + (1 - eta) rl d_2
    x_t = e + sigma_t h B / (2 zeta),

    r(a, b) = (1 - w) sqrt(sigma_t sigma_1) / sigma_0 + w proj(a, b),   w = (1 - tau^2) / 2,
    tau = (t + t_end) / (t_start + t_end),
    eta = sigmoid(|proj(rl d_2 + d_1/rl, rl d_2 - d_1/rl)| / 2) / 2,
    zeta = sigmoid(z - 1/2),   z = |proj(x_p - e - sigma_t h B / (2 rl sigmoid(|r| / 4)), d_1)| / (sigma_t h).

**What to expect.** The denoiser is evaluated at the probe x_p, never at the state x_t that a step returns, and the
weights do not tend to those of a second-order method: measured against the probability-flow ODE, EVODiff has order
one. r(a, b) tends to 1 only where neighbouring steps become alike (in log-SNR); where they do not, as at the end of
uniform times down to t = 0, it does not converge at all. Use ``uniform_log_snr`` or ``karras`` levels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from degauss.core.denoiser import Denoiser
from degauss.core.errors import InputError
from degauss.core.gaussian.table import Path, on_grid
from degauss.core.noise import Noise
from degauss.core.posterior import Point
from degauss.core.schedule import Schedule

# Above this number of steps the published method damps its correction in another way.
_FEW_STEPS = 20


class Step(NamedTuple):
    """The numbers of one step: scales before and after, and DDIM's weights on the state and on the mean."""

    sigma_s: float
    sigma_t: float
    state: float
    mean: float


class Coefficients(NamedTuple):
    """What a second-order step needs besides: rl, and the two parts of r(a, b)."""

    ratio: float
    balance: float
    weight: float


class Last(NamedTuple):
    """What a rule for the last step is given: DDIM's result, the numbers of the step, D_0, and D_1 if there is one."""

    ddim: Tensor
    step: Step
    mean: Tensor
    previous: Tensor | None


LastStep = Callable[[Last], Tensor]
"""How the last step ends; no evaluation is left for it."""


def ddim_last(last: Last) -> Tensor:
    """End with DDIM's step."""
    return last.ddim


def published_last(last: Last) -> Tensor:
    """The rule of the authors' code: (1 - sqrt(sigma_t sigma_0)) e + sigma_t h (D_0 - c D_1) / 2.

    c = 1 - sqrt(q) / 2 where q = sigma_t / sigma_0 is below 1/2, else 1 - sqrt(q - 1/2) / 2. Not consistent: the
    result differs from DDIM's by more than the step, and with five evaluations it is measured to hurt.
    """
    if last.previous is None:
        return last.ddim
    ratio = last.step.sigma_t / last.step.sigma_s
    share = 1 - 0.5 * (ratio if ratio < 0.5 else ratio - 0.5) ** 0.5
    keep = 1 - (last.step.sigma_t * last.step.sigma_s) ** 0.5
    change = torch.add(last.mean, last.previous, alpha=-share)
    return torch.add(last.ddim * keep, change, alpha=0.5 * last.step.mean)


class Carry(NamedTuple):
    """The plan of a run, its times on the device, and the last posterior means, newest first."""

    steps: tuple[Step, ...]
    second: tuple[Coefficients | None, ...]
    times: tuple[Tensor, ...]
    means: tuple[Tensor, ...]


@dataclass(frozen=True)
class EVODiff:
    """EVODiff of order 2 with the data prediction (Li et al. 2025): N evaluations in N steps.

    The first step evaluates twice, at its start and its end, the last one not at all. ``channels``: the axes of an
    event (0 is the first after the batch) that have coefficients of their own; (0,), for events ``[channel, ...]``, is
    what was published, and () makes one set of coefficients a sample. ``last``: how the last step ends,
    ``ddim_last`` or ``published_last``. A first step from alpha = 0 and a last step onto clean data are DDIM's.
    """

    denoiser: Denoiser[Point]
    schedule: Schedule
    channels: tuple[int, ...] = ()
    last: LastStep = ddim_last

    def init(self, x: Tensor, grid: Tensor, /) -> Carry:
        _inner_axes(x, self.channels)
        path = on_grid(self.schedule, grid)
        second = tuple(_coefficients(path, i) for i in range(path.steps))
        times = torch.unbind(torch.from_numpy(path.time).to(x.device))
        return Carry(tuple(_step(path, i) for i in range(path.steps)), second, times, ())

    def step(self, carry: Carry, x: Tensor, i: int, noise: Noise, /) -> tuple[Carry, Tensor]:
        del noise
        steps, second, times, means = carry
        newest = means[0] if means else self.denoiser(x, times[i]).mean
        ddim = torch.add(x * steps[i].state, newest, alpha=steps[i].mean)
        if i == len(steps) - 1:
            return carry, self.last(Last(ddim, steps[i], newest, means[1] if len(means) > 1 else None))
        coefficients = second[i]
        if coefficients is None:
            after = self.denoiser(ddim, times[i + 1]).mean
            return carry._replace(means=(after, newest)), ddim
        project = _Projection(_inner_axes(x, self.channels))
        r = coefficients.balance + coefficients.weight * project(newest, means[1])
        old = newest - r * means[1]
        spread = 0.5 * steps[i].mean / (coefficients.ratio * torch.sigmoid(0.25 * r.abs()))
        after = self.denoiser(ddim + spread * old, times[i + 1]).mean
        r = coefficients.balance + coefficients.weight * project(after, newest)
        new = after - r * newest
        change = _combined(project, coefficients.ratio, old, new)
        z = project(spread * (old - change), old).abs() / steps[i].mean - 0.5
        if len(steps) > _FEW_STEPS:
            z = -z * _consistency(project, steps[i], newest, means[1])
        out = ddim + 0.5 * steps[i].mean / torch.sigmoid(z) * change
        return carry._replace(means=(after, newest)), out


@dataclass(frozen=True)
class _Projection:
    """proj(a, b), for each sample and channel; 0 where b is 0, which has no direction."""

    axes: tuple[int, ...]

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        square = (b * b).sum(self.axes, keepdim=True)
        nothing = square == 0
        quotient = (a * b).sum(self.axes, keepdim=True) / square.masked_fill(nothing, 1.0)
        return quotient.masked_fill(nothing, 0.0).clamp(-2.0, 2.0)


def _combined(project: _Projection, ratio: float, old: Tensor, new: Tensor) -> Tensor:
    """B: the two estimates of the slope, weighed by how far they point the same way."""
    before, after = old / ratio, new * ratio
    eta = 0.5 * torch.sigmoid(0.5 * project(after + before, after - before).abs())
    return (1 - eta) * after - eta * before


def _consistency(project: _Projection, step: Step, newest: Tensor, previous: Tensor) -> Tensor:
    """How far the newest mean lies along its own change, between 0 and 1."""
    h = step.mean / step.sigma_t
    along = project(newest, (newest - previous) / h)
    return torch.sigmoid(along * (2 - (step.sigma_t / step.sigma_s) ** 2))


def _inner_axes(x: Tensor, channels: tuple[int, ...]) -> tuple[int, ...]:
    """The axes of x to sum over; InputError where ``channels`` names axes that an event has not, or all of them."""
    event = range(x.ndim - 1)
    inner = tuple(axis + 1 for axis in event if axis not in channels)
    if not inner or not set(channels) <= set(event):
        raise InputError(
            f"channels must be some, not all, of the {len(event)} axes of an event {tuple(x.shape[1:])}, "
            f"counted from 0, but is {channels}."
        )
    return inner


def _step(path: Path, i: int) -> Step:
    alpha_s, sigma_s = float(path.alpha[i]), float(path.sigma[i])
    alpha_t, sigma_t = float(path.alpha[i + 1]), float(path.sigma[i + 1])
    return Step(sigma_s, sigma_t, sigma_t / sigma_s, alpha_t - sigma_t * alpha_s / sigma_s)


def _coefficients(path: Path, i: int) -> Coefficients | None:
    """The coefficients of step i; None where it is DDIM's: the first, the last, and beside an infinite log-SNR."""
    if not 0 < i < path.steps - 1:
        return None
    before, here, after = (float(lam) for lam in path.lam[i - 1 : i + 2])
    if not abs(after) + abs(before) < float("inf"):
        return None
    tau = (path.time[i + 1] + path.time[-1]) / (path.time[0] + path.time[-1])
    weight = 0.5 * (1 - tau**2)
    balance = (path.sigma[i + 1] * path.sigma[i - 1]) ** 0.5 / path.sigma[i]
    return Coefficients((here - before) / (after - here), float((1 - weight) * balance), float(weight))
