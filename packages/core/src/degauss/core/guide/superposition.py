r"""Superposition of diffusion models: sample from several at once, knowing log q_i of each along the way.

Skreta et al. 2025, "The Superposition of Diffusion Models Using the Ito Density Estimator". With y = x / alpha and
k = sigma / alpha, the reverse SDE over a step is dy = -(v/k) e + sqrt(v) z, v = k_s^2 - k_t^2, for *any* predicted
noise e; along its path the density of each model obeys (their theorem 1; the Laplacians cancel)

    d log q_i(y) = -<dy, eps_i> / k - v |eps_i|^2 / (2 k^2),

so log q_i costs nothing beyond eps_i. From these numbers a rule chooses the weights of e = sum_i kappa_i eps_i:

    Or:   kappa = softmax(T log q + log w), the mixture of the models at T = 1;
    And:  kappa such that the densities of all models rise alike, a linear system in kappa.

With one model this is the Euler-Maruyama sampler that returns log q of its samples: the Ito density estimator. Its
error is of order 1/2 in the number of steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from degauss.core.denoiser import Denoiser
from degauss.core.gaussian.density import normal_log_density
from degauss.core.gaussian.table import on_grid
from degauss.core.grid import check_grid
from degauss.core.kernel import simulate
from degauss.core.noise import Clock, Noise
from degauss.core.observe import Last
from degauss.core.posterior import Point
from degauss.core.schedule import Schedule


class Proposal(NamedTuple):
    """A step before its weights are chosen. M models, ``eps`` ``[M, batch, size]``, ``log_q`` ``[M, batch]``.

    ``kick``: the step's noise sqrt(v) z, ``[batch, size]``; ``k``, ``v``: the noise level and the step's variance.
    """

    eps: Tensor
    log_q: Tensor
    kick: Tensor
    k: float
    v: float


class Rule(Protocol):
    """Chooses the weights kappa of the models, ``[M, batch]``, summing to one over M."""

    def __call__(self, proposal: Proposal, /) -> Tensor: ...


@dataclass(frozen=True)
class Or:
    """Sample what *any* of the models would: kappa = softmax(temperature log q + log weights) (their eq. 14).

    ``weights``: prior weights of the models, positive; equal ones if empty.
    """

    temperature: float = 1.0
    weights: tuple[float, ...] = ()

    def __call__(self, proposal: Proposal, /) -> Tensor:
        logits = self.temperature * proposal.log_q
        if self.weights:
            bias = [math.log(weight) for weight in self.weights]
            logits = logits + torch.tensor(bias, dtype=logits.dtype).to(logits.device)[:, None]
        return logits.softmax(0)


@dataclass(frozen=True)
class And:
    """Sample what *all* models find equally likely: the log-densities gain the same in each step (their prop. 6).

    The gain of model i is linear in kappa, so equal gains are a linear system, solved with the very noise of the
    step. It is ill-posed where two models agree: ``ridge`` (relative to the system's size) and ``largest``, a bound
    on |kappa|, keep it finite.
    """

    ridge: float = 1e-6
    largest: float = 10.0

    def __call__(self, proposal: Proposal, /) -> Tensor:
        eps, _, kick, k, v = proposal
        last, apart = eps[-1], eps[:-1] - eps[-1]
        # The step with all weight on the last model; its part in kappa is -(v/k) sum_j kappa_j apart_j.
        alone = kick - (v / k) * last
        squares = eps.square().sum(-1)
        right = (alone * apart).sum(-1) / k + v * (squares[:-1] - squares[-1]) / (2 * k**2)
        system = (v / k**2) * torch.einsum("ibd,jbd->bij", apart, apart)
        size = torch.diagonal(system, dim1=1, dim2=2).sum(-1)[:, None, None]
        # A system of size zero has right side zero too: any weights do, and these are 0.
        damped = system + (self.ridge * size + _TINY) * torch.eye(len(apart)).to(system)
        kappa = torch.linalg.solve(damped, right.T[..., None])[..., 0].T.clamp(-self.largest, self.largest)
        return torch.cat([kappa, 1 - kappa.sum(0, keepdim=True)])


_TINY = 1e-30


class Carry(NamedTuple):
    """Scales of each time, the times on the device, the noise's clock, and log q_i of the state, ``[M, batch]``."""

    alpha: tuple[float, ...]
    k: tuple[float, ...]
    times: tuple[Tensor, ...]
    clock: Clock
    log_q: Tensor


@dataclass(frozen=True)
class Superposition:
    """Euler-Maruyama for the reverse SDE of several models under a rule; densities are in ``carry.log_q``.

    ``models``: denoisers over the same events, all on ``schedule``. The start is taken to be drawn from
    N(0, sigma^2), as ``sample`` does. One evaluation of each model a step; the grid needs alpha > 0 and must end
    before t = 0. ``log_q`` is the density of x, in nats.
    """

    models: Sequence[Denoiser[Point]]
    schedule: Schedule
    rule: Rule

    def init(self, x: Tensor, grid: Tensor, /) -> Carry:
        path = on_grid(self.schedule, grid)
        if not ((path.alpha > 0).all() and (path.sigma > 0).all()):
            raise ValueError("a density needs alpha > 0 and sigma > 0 on the whole grid; keep it inside (0, 1)")
        k = path.sigma / path.alpha
        # Brownian motion in -k^2.
        clock = tuple((-(k**2)).tolist())
        log_q = normal_log_density(x, float(path.sigma[0])).expand(len(self.models), -1)
        times = grid.to(x.device, torch.float64).unbind()
        return Carry(tuple(path.alpha.tolist()), tuple(k.tolist()), times, clock, log_q)

    def step(self, carry: Carry, x: Tensor, i: int, noise: Noise, /) -> tuple[Carry, Tensor]:
        alpha_s, alpha_t = carry.alpha[i : i + 2]
        k, k_t = carry.k[i : i + 2]
        v = (k - k_t) * (k + k_t)
        means = torch.stack([model(x, carry.times[i]).mean for model in self.models])
        eps = ((x / alpha_s - means) / k).flatten(2)
        kick = math.sqrt(v) * noise.brownian(carry.clock, i, x).flatten(1)
        kappa = self.rule(Proposal(eps, carry.log_q, kick, k, v))
        move = kick - (v / k) * (kappa[..., None] * eps).sum(0)
        gained = -(move * eps).sum(-1) / k - v * eps.square().sum(-1) / (2 * k**2)
        # The density of x = alpha y.
        size = eps.shape[-1]
        log_q = carry.log_q + gained - size * math.log(alpha_t / alpha_s)
        out = (x / alpha_s + move.reshape(x.shape)) * alpha_t
        return carry._replace(log_q=log_q), out


class Superposed(NamedTuple):
    """Samples ``[batch, *event]`` and log q of each under each model in nats, ``[M, batch]``."""

    x: Tensor
    log_q: Tensor


def superpose(
    models: Sequence[Denoiser[Point]],
    schedule: Schedule,
    shape: Sequence[int],
    grid: Tensor,
    *,
    rule: Rule,
    seed: int = 0,
    samples: Sequence[int] | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Superposed:
    """Draw from several models at once under a rule; ``grid``: decreasing times inside (0, 1].

    With a single model and ``Or()`` these are its own samples with their log-densities by the Ito estimator.
    """
    times = check_grid(grid)
    noise = Noise(seed, range(shape[0]) if samples is None else samples)
    x = noise.normal(torch.empty(*shape, dtype=dtype, device=device)) * float(schedule(times[0]).sigma)
    last = Last()
    x = simulate(Superposition(models, schedule, rule), x, times, noise, observe=(last,))
    if not bool(torch.isfinite(x).all()):
        raise FloatingPointError("superposition gave non-finite values; a model or the grid is at fault")
    return Superposed(x, last.carry.log_q)
