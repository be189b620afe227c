r"""Closed-form denoisers and processes: what methods are tested against, and what to try one on first.

For these data distributions the posterior E[x0 | x_t], the density of x_t and the exact laws are known, so a
sampler's error is its own and not a network's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from degauss.core.denoiser import expand
from degauss.core.noise import Noise
from degauss.core.posterior import Point
from degauss.core.schedule import Schedule


@dataclass(frozen=True)
class GaussianOracle:
    """Data x0 ~ N(mean, std^2), independent in each coordinate; ``mean`` and ``std`` broadcast over events.

    The probability-flow map has the closed form ``flow``, the standard test of a solver's order.
    """

    schedule: Schedule
    mean: float | Tensor = 0.0
    std: float | Tensor = 1.0

    def __call__(self, x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        """E[x0 | x_t] = mean + alpha std^2 / (alpha^2 std^2 + sigma^2) (x_t - alpha mean)."""
        del cond
        alpha, sigma = (expand(scale, x) for scale in self.schedule(t))
        gain = alpha * self.std**2 / (alpha**2 * self.std**2 + sigma**2)
        return Point(self.mean + gain * (x - alpha * self.mean))

    def flow(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Where the probability-flow ODE carries x from time t to time s."""
        alpha_t, sigma_t = (expand(scale, x) for scale in self.schedule(t))
        alpha_s, sigma_s = (expand(scale, x) for scale in self.schedule(s))
        spread = torch.sqrt((alpha_s**2 * self.std**2 + sigma_s**2) / (alpha_t**2 * self.std**2 + sigma_t**2))
        return alpha_s * self.mean + spread * (x - alpha_t * self.mean)


@dataclass(frozen=True)
class MixtureOracle:
    r"""Data x0 ~ sum_k weights_k N(means_k, covariances_k), events of shape ``[d]``.

    ``weights`` ``[K]`` (positive, normalised here), ``means`` ``[K, d]``, ``covariances`` ``[K, d, d]``
    (symmetric, positive semi-definite). Computed in the dtype of these; use float64 for measuring orders.
    """

    schedule: Schedule
    weights: Tensor
    means: Tensor
    covariances: Tensor

    def __post_init__(self) -> None:
        count, dim = self.means.shape
        if self.weights.shape != (count,) or self.covariances.shape != (count, dim, dim):
            raise ValueError(
                f"weights [K], means [K, d], covariances [K, d, d] do not fit: {tuple(self.weights.shape)}, "
                f"{tuple(self.means.shape)}, {tuple(self.covariances.shape)}"
            )

    @cached_property
    def _spectrum(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues ``[K, d]`` and eigenvectors ``[K, d, d]`` of the covariances."""
        # Kept for later calls, which may be differentiated even if this one runs in inference mode.
        with torch.inference_mode(False):
            values, vectors = torch.linalg.eigh(self.covariances)
        return values, vectors

    def _components(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Per component: log(weight x density) ``[B, K]``, centred state in its axes, variances, alpha."""
        values, vectors = self._spectrum
        alpha, sigma = (scale.to(self.means).reshape(-1, 1, 1) for scale in self.schedule(t))
        centred = x[:, None, :] - alpha * self.means
        rotated = torch.einsum("bkd,kde->bke", centred, vectors)
        variance = alpha**2 * values + sigma**2
        quadratic = (rotated**2 / variance).sum(-1) + (variance * 2 * math.pi).log().sum(-1)
        log_weights = (self.weights / self.weights.sum()).log()
        return log_weights - 0.5 * quadratic, rotated, variance, alpha

    def __call__(self, x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        """E[x0 | x_t], in the dtype of x."""
        del cond
        values, vectors = self._spectrum
        log_joint, rotated, variance, alpha = self._components(x.to(self.means), t)
        shrunk = torch.einsum("bke,kde->bkd", alpha * values / variance * rotated, vectors)
        mean = (log_joint.softmax(-1)[..., None] * (self.means + shrunk)).sum(1)
        return Point(mean.to(x))

    def log_density(self, x: Tensor, t: Tensor) -> Tensor:
        """log p_t(x), ``[batch]``, in nats."""
        return self._components(x.to(self.means), t)[0].logsumexp(-1)

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """grad log p_t(x) = (alpha E[x0 | x] - x) / sigma^2."""
        alpha, sigma = (expand(scale, x) for scale in self.schedule(t))
        return (alpha * self(x, t).mean - x) / sigma**2

    def draw(self, noise: Noise) -> Tensor:
        """Exact samples of the data, one for each of the noise's sample ids, ``[batch, d]``."""
        values, vectors = self._spectrum
        batch, dim = len(noise.samples), self.means.shape[1]
        edges = (self.weights / self.weights.sum()).cumsum(0)
        u = noise.uniform(self.means.new_empty(batch))
        component = torch.searchsorted(edges, u).clamp(max=len(edges) - 1)
        z = noise.normal(self.means.new_empty(batch, dim)) * values.clamp(min=0).sqrt()[component]
        return self.means[component] + torch.einsum("be,bde->bd", z, vectors[component])


@dataclass(frozen=True)
class OrnsteinUhlenbeck:
    """dx = rate (level - x) dt + volatility dW, whose transitions are Gaussian (x, t in any units)."""

    rate: float
    level: float
    volatility: float

    def drift(self, t: Tensor, x: Tensor, /) -> Tensor:
        del t
        return self.rate * (self.level - x)

    def diffusion(self, t: Tensor, x: Tensor, /) -> Tensor:
        del t
        return torch.full_like(x, self.volatility)

    def mean(self, x: Tensor, elapsed: float) -> Tensor:
        """E[x_{t + elapsed} | x_t = x]."""
        return self.level + math.exp(-self.rate * elapsed) * (x - self.level)

    def variance(self, elapsed: float) -> float:
        """Var[x_{t + elapsed} | x_t], the same for every x."""
        return self.volatility**2 * -math.expm1(-2 * self.rate * elapsed) / (2 * self.rate)


@dataclass(frozen=True)
class GeometricBrownian:
    """dx = growth x dt + volatility x dW (Ito), x > 0, solved pathwise by ``solve``."""

    growth: float
    volatility: float

    def drift(self, t: Tensor, x: Tensor, /) -> Tensor:
        del t
        return self.growth * x

    def diffusion(self, t: Tensor, x: Tensor, /) -> Tensor:
        del t
        return self.volatility * x

    def solve(self, x: Tensor, elapsed: float, increment: Tensor) -> Tensor:
        """x_{t + elapsed} on the path whose Brownian increment over that time is ``increment``."""
        exponent = (self.growth - 0.5 * self.volatility**2) * elapsed + self.volatility * increment
        return x * torch.exp(exponent)

    def mean(self, x: Tensor, elapsed: float) -> Tensor:
        """E[x_{t + elapsed} | x_t = x]."""
        return x * math.exp(self.growth * elapsed)

    def variance(self, x: Tensor, elapsed: float) -> Tensor:
        """Var[x_{t + elapsed} | x_t = x]."""
        return x**2 * math.exp(2 * self.growth * elapsed) * math.expm1(self.volatility**2 * elapsed)
