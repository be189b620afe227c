r"""Predictor-corrector sampling: a step of the reverse SDE, then Langevin steps that mend the marginal.

A schedule is the SDE dz = f z dt + g dw with f = d log alpha / dt and g^2 = -sigma^2 d log_snr / dt. One step of the
sampler from t to t' < t is, with the score s(z, t) = (alpha D(z, t) - z) / sigma^2,

    corrector   z <- z + e s(z, t) + sqrt(2 e) n,                e = 2 (snr sigma)^2,     as often as asked
    predictor   z <- z - (f z - g^2 s(z, t)) h + g sqrt(h) n,    h = t - t',              f, g, s at t,

each with a fresh evaluation. The predictor is the *reverse diffusion* of Song et al. 2021 (algorithms 4 and 5,
appendix E), the Euler-Maruyama step of the reverse SDE. Their corrector takes its step from the norms of n and s over
the batch; for a true score those are sqrt(d) and about sqrt(d) / sigma, and the step above is what that gives. It is
the one of SGMSE+ (Richter et al. 2023), where a sample does not depend on its neighbours.

The step is exact in the limit only: where the data has one point the corrector's law is wider than the marginal by
1 / (1 - snr^2) in variance, and the error of the predictor is of order h. On a schedule around an observation
(``centred``, ``mean_reverting.OUVE``) this is SGMSE+'s sampler. Its grid ends at t = 0 after t_eps, where the step is
taken without noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from degauss.core.denoiser import Denoiser
from degauss.core.errors import InputError, check_range
from degauss.core.grid import check_grid
from degauss.core.noise import Clock, Noise
from degauss.core.posterior import Point
from degauss.core.sampling import Solver
from degauss.core.schedule import Schedule


class Weights(NamedTuple):
    """New state = state x + mean D(x) + noise n."""

    state: float
    mean: float
    noise: float


class Carry(NamedTuple):
    """The corrector's and the predictor's weights of each step, its time on the device, and the noise's clock."""

    correct: tuple[Weights, ...]
    predict: tuple[Weights, ...]
    times: tuple[Tensor, ...]
    clock: Clock


@dataclass(frozen=True)
class PredictorCorrector:
    """Reverse diffusion with ``corrections`` Langevin steps before each step: 1 + ``corrections`` evaluations a step.

    ``snr``: the ratio r that sets the corrector's size, in (0, 1). Noise of the predictor is a Brownian path in t, so
    that a finer grid sees the same path. A step onto clean data (sigma = 0) takes no noise.
    """

    denoiser: Denoiser[Point]
    schedule: Schedule
    snr: float = 0.5
    corrections: int = 1

    def init(self, x: Tensor, grid: Tensor, /) -> Carry:
        grid = check_grid(grid)
        if not bool((grid.diff() < 0).all()):
            raise ValueError("predictor-corrector sampling goes from noise to data: its times must fall")
        alpha, sigma = self.schedule(grid)
        drift, power = _coefficients(self.schedule, grid[:-1])
        rows = zip(
            alpha.tolist()[:-1],
            sigma.tolist()[:-1],
            drift,
            power,
            (-grid.diff()).tolist(),
            (sigma[1:] > 0).tolist(),
            strict=True,
        )
        correct: list[Weights] = []
        predict: list[Weights] = []
        for a, s, f, g2, h, noisy in rows:
            langevin = 2 * (self.snr * s) ** 2
            correct.append(_along_score(1.0, langevin, math.sqrt(2 * langevin), a, s))
            predict.append(_along_score(1 - f * h, g2 * h, math.sqrt(g2 * h) if noisy else 0.0, a, s))
        times = torch.unbind(grid[:-1].to(x.device))
        return Carry(tuple(correct), tuple(predict), times, tuple((1 - grid).tolist()))

    def step(self, carry: Carry, x: Tensor, i: int, noise: Noise, /) -> tuple[Carry, Tensor]:
        for number in range(self.corrections):
            state, mean, fresh = carry.correct[i]
            # A fork, as draw 0 of the run itself is the noise that it starts from.
            z = noise.fork(number).normal(x, draw=i)
            x = torch.add(x * state, self.denoiser(x, carry.times[i]).mean, alpha=mean).add_(z, alpha=fresh)
        state, mean, fresh = carry.predict[i]
        x = torch.add(x * state, self.denoiser(x, carry.times[i]).mean, alpha=mean)
        if fresh > 0:
            x = torch.add(x, noise.brownian(carry.clock, i, x), alpha=fresh)
        return carry, x


def predictor_corrector(snr: float = 0.5, corrections: int = 1) -> Solver:
    """The sampler of SGMSE+ as a solver; 0 corrections is reverse diffusion alone, one evaluation a step.

    Published: ``snr`` 0.5 and 30 steps for noise, 0.33 and 50 for reverberation. Raises `InputError` unless
    0 < ``snr`` < 1 and ``corrections`` >= 0.
    """
    if not 0 < snr < 1:
        raise InputError(f"snr must be in (0, 1), but is {snr}.")
    check_range("corrections", corrections, 0)
    return partial(PredictorCorrector, snr=snr, corrections=corrections)


def _along_score(state: float, step: float, noise: float, alpha: float, sigma: float) -> Weights:
    """state x + step s + noise n, with the score by the posterior mean."""
    return Weights(state - step / sigma**2, step * alpha / sigma**2, noise)


def _coefficients(schedule: Schedule, times: Tensor) -> tuple[list[float], list[float]]:
    """f and g^2 of the SDE that a schedule is, at times where sigma > 0 and alpha > 0; ValueError elsewhere."""
    with torch.inference_mode(False), torch.enable_grad():
        t = times.detach().clone().requires_grad_()
        alpha, sigma = schedule(t)
        if not (bool((alpha > 0).all()) and bool((sigma > 0).all())):
            raise ValueError("predictor-corrector sampling needs alpha > 0 and sigma > 0: start a little below t = 1")
        # A constant alpha does not depend on t; the zero does.
        (drift,) = torch.autograd.grad((alpha.log() + 0 * t).sum(), t, retain_graph=True)
        (slope,) = torch.autograd.grad(schedule.log_snr(t).sum(), t)
    return drift.tolist(), (-(sigma.detach() ** 2) * slope).tolist()
