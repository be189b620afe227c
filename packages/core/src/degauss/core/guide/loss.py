r"""Guidance by a loss: steer an unconditional model with any differentiable loss of the clean data.

p(x0 | y) proportional to p(x0) e^{-loss(x0)} has the guided score grad log p_t(x) - grad_x L_t(x), that is

    mean' = mean - (sigma^2 / alpha) grad_x L_t(x),        L_t(x) = -log E[e^{-loss(x0)} | x_t = x].

The methods differ in how they guess L_t from the posterior mean alone, and in how far they go along the gradient:

    ``LossGuidance``        L_t = loss(mean), with the exact weight (Chung et al. 2023; the forward guidance of Bansal
                            et al. 2023) or a step of a chosen length (FreeDoM, Yu et al. 2023).
    ``MonteCarloGuidance``  the expectation over N(mean, r_t^2) (LGD-MC, Song et al. 2023).
    ``MeanDescent``         descent on the mean itself, with no gradient of the network (Bansal et al., backward).
    ``TimeTravel``          wraps a solver: each step is taken several times, noised back in between (FreeDoM).

A loss takes a posterior mean ``[batch, *event]`` and returns one value for each sample, or one for each entry, which
are then summed; it must not mix samples. ``degauss.core.guide.observation`` has the losses of observed values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from degauss.core.denoiser import Denoiser, expand
from degauss.core.gaussian.table import on_grid
from degauss.core.guide.classifier_free import within
from degauss.core.noise import Noise
from degauss.core.posterior import Point
from degauss.core.sampling import Solver
from degauss.core.schedule import Schedule

Loss = Callable[[Tensor], Tensor]
"""Posterior mean ``[batch, *event]`` -> loss ``[batch]``, or per entry ``[batch, *event]``."""


class Steered(NamedTuple):
    """The posterior mean at x, and the gradient of its loss with respect to x."""

    mean: Tensor
    gradient: Tensor


def loss_gradient(denoiser: Denoiser[Point], loss: Loss, x: Tensor, t: Tensor, cond: Mapping[str, Any]) -> Steered:
    """grad_x loss(mean(x)) through the denoiser: one forward and one backward pass.

    The gradient is itself differentiable where gradients are on and x asks for them; it is computed in
    ``torch.inference_mode`` too.
    """
    outer = torch.is_grad_enabled()
    twice = outer and x.requires_grad
    with torch.inference_mode(False), torch.enable_grad():
        # What inference mode made cannot be saved for a backward pass, but its copy can.
        x, t = (value.clone() if value.is_inference() else value for value in (x, t))
        leaf = x if twice else x.detach().requires_grad_(True)
        mean = denoiser(leaf, t, **cond).mean
        (gradient,) = torch.autograd.grad(loss(mean).sum(), leaf, create_graph=twice)
    return Steered(mean if outer else mean.detach(), gradient)


class Step(Protocol):
    """How far the mean goes along a gradient, given alpha and sigma of the time (0-d or ``[batch]``)."""

    def __call__(self, gradient: Tensor, alpha: Tensor, sigma: Tensor, /) -> Tensor: ...


@dataclass(frozen=True)
class BayesStep:
    """scale (sigma^2 / alpha) gradient: at scale 1 the loss is a negative log-likelihood.

    The same as adding scale sigma gradient to the noise (Bansal et al. 2023, eq. 6). At alpha = 0 the state says
    nothing of the data and the gradient is zero; so is the step.
    """

    scale: float = 1.0

    def __call__(self, gradient: Tensor, alpha: Tensor, sigma: Tensor, /) -> Tensor:
        informed = alpha > 0
        weight = torch.where(informed, self.scale * sigma**2 / torch.where(informed, alpha, 1.0), 0.0)
        return expand(weight, gradient) * gradient


@dataclass(frozen=True)
class UnitStep:
    """scale r gradient / RMS(gradient) for each sample, r = sigma / sqrt(alpha^2 + sigma^2).

    Only the direction of the gradient counts, as in FreeDoM, where the length is that of another correction of the same
    step. Here it is ``scale`` times r, what the state leaves open of data of unit variance. No gradient, no step.
    """

    scale: float = 1.0

    def __call__(self, gradient: Tensor, alpha: Tensor, sigma: Tensor, /) -> Tensor:
        power = gradient.flatten(1).square().mean(1)
        moving = power > 0
        length = torch.where(moving, torch.where(moving, power, 1.0).rsqrt(), 0.0)
        return expand(self.scale * _open(alpha, sigma), gradient) * expand(length, gradient) * gradient


def _open(alpha: Tensor, sigma: Tensor) -> Tensor:
    """The posterior standard deviation of data of unit variance."""
    return sigma / torch.sqrt(alpha**2 + sigma**2)


@dataclass(frozen=True)
class LossGuidance:
    """mean' = mean - step(grad_x loss(mean(x)))."""

    denoiser: Denoiser[Point]
    schedule: Schedule
    loss: Loss
    step: Step = BayesStep()

    def __call__(self, x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        mean, gradient = loss_gradient(self.denoiser, self.loss, x, t, cond)
        return Point(mean - self.step(gradient, *self.schedule(t)))


@dataclass(frozen=True)
class MonteCarloGuidance:
    """LGD-MC: L_t(x) = -log (1/n) sum_j e^{-loss(mean + r_t z_j)} (Song et al. 2023, eq. 13; section 4.1 for r_t).

    With r = sigma / sqrt(alpha^2 + sigma^2) this is exact, as n grows, for Gaussian data of unit variance: choose the
    units of the data so. ``loss`` returns one value for each sample, ``[batch]``. ``noise``: the key of the draws
    z_1..z_n, with a seed of its own; they are the same in every step, so the guided mean is a smooth function of time.
    """

    denoiser: Denoiser[Point]
    schedule: Schedule
    loss: Loss
    noise: Noise
    draws: int = 10
    step: Step = BayesStep()

    def __call__(self, x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        alpha, sigma = self.schedule(t)
        spread = expand(_open(alpha, sigma), x)

        def smoothed(mean: Tensor) -> Tensor:
            drawn = (self.loss(mean + spread * self.noise.normal(mean.detach(), draw)) for draw in range(self.draws))
            return math.log(self.draws) - torch.logsumexp(-torch.stack(list(drawn)), 0)

        return LossGuidance(self.denoiser, self.schedule, smoothed, self.step)(x, t, **cond)


@dataclass(frozen=True)
class MeanDescent:
    """mean' after ``iterations`` steps of gradient descent on the loss from the mean (Bansal et al. 2023, section 3.3).

    One forward pass of the network and none back. ``rate``: the length of a step per unit of gradient.
    """

    denoiser: Denoiser[Point]
    loss: Loss
    rate: float
    iterations: int = 1

    def __call__(self, x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        mean = self.denoiser(x, t, **cond).mean
        for _ in range(self.iterations):
            _, gradient = loss_gradient(_itself, self.loss, mean, t, {})
            mean = torch.add(mean, gradient, alpha=-self.rate)
        return Point(mean)


def _itself(x: Tensor, t: Tensor, /, **cond: Any) -> Point:
    del t, cond
    return Point(x)


class TravelCarry(NamedTuple):
    """The wrapped solver's carry; for each step how often it is taken, and the coefficients (state, noise) back."""

    inner: Any
    times: tuple[int, ...]
    back: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class TimeTravel:
    """A solver that takes each step from noise levels low < sigma / alpha <= high ``repeats`` times.

    After each attempt but the last the state is noised back to where the step began, x_s = (alpha_s / alpha_t) x_t +
    sqrt(sigma_s^2 - (alpha_s sigma_t / alpha_t)^2) z (FreeDoM, algorithm 2; self-recurrence in Bansal et al. 2023), so
    a guided denoiser gets several chances at one noise level. All randomness is fresh in each attempt.
    """

    denoiser: Denoiser[Point]
    schedule: Schedule
    solver: Solver
    repeats: int = 2
    low: float = 0.0
    high: float = math.inf

    def init(self, x: Tensor, grid: Tensor, /) -> TravelCarry:
        path = on_grid(self.schedule, grid)
        ratio = path.alpha[:-1] / path.alpha[1:]
        fresh = (path.sigma[:-1] ** 2 - (ratio * path.sigma[1:]) ** 2).clip(min=0) ** 0.5
        inside = within(self.schedule, grid, self.low, self.high)
        inner = self.solver(self.denoiser, self.schedule).init(x, grid)
        back = tuple(zip(ratio.tolist(), fresh.tolist(), strict=True))
        return TravelCarry(inner, tuple(self.repeats if here else 1 for here in inside), back)

    def step(self, carry: TravelCarry, x: Tensor, i: int, noise: Noise, /) -> tuple[TravelCarry, Tensor]:
        kernel = self.solver(self.denoiser, self.schedule)
        inner, out = kernel.step(carry.inner, x, i, noise)
        for attempt in range(1, carry.times[i]):
            state, spread = carry.back[i]
            x = torch.add(out * state, noise.fork(2 * attempt - 1).normal(out, i), alpha=spread)
            inner, out = kernel.step(carry.inner, x, i, noise.fork(2 * attempt))
        return carry._replace(inner=inner), out
