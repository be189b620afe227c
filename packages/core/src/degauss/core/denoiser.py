r"""Denoisers, and the one place where a network's output becomes a posterior mean.

A *denoiser* is any callable ``(x_t, t, **cond) -> Point``. A network is trained to output some linear
combination of clean data and noise, F = u x0 + w eps; that choice is a *prediction*. Since
x_t = alpha x0 + sigma eps, each prediction fixes the posterior mean as an affine map of (x_t, F),

    x0 = skip x_t + out F,   skip = -w / (u sigma - w alpha),   out = sigma / (u sigma - w alpha),

and each class below states both directions in the form that has no 0/0 where its denoiser is defined.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from degauss.core.posterior import Point
from degauss.core.schedule import Schedule

Network = Callable[..., Tensor]
P_co = TypeVar("P_co", covariant=True)


class Denoiser(Protocol[P_co]):
    """Posterior over clean data given a noisy state.

    ``x``: ``[batch, *event]``; ``t``: times in [0, 1], one for the batch (0-d) or one a sample (``[batch]``);
    ``cond``: whatever the network is conditioned on.
    """

    def __call__(self, x: Tensor, t: Tensor, /, **cond: Any) -> P_co: ...


class Weights(NamedTuple):
    """A pair of coefficients, on (x0, eps) or on (x_t, F)."""

    first: Tensor
    second: Tensor


class Prediction(Protocol):
    """What a network outputs, given the scales alpha and sigma (any shape, sigma > 0 unless stated)."""

    def target(self, alpha: Tensor, sigma: Tensor, /) -> Weights:
        """(u, w) of the training target F = u x0 + w eps."""
        ...

    def mean(self, alpha: Tensor, sigma: Tensor, /) -> Weights:
        """(skip, out) of the posterior mean x0 = skip x_t + out F."""
        ...

    def network_input(self, alpha: Tensor, sigma: Tensor, t: Tensor, /) -> tuple[Tensor | None, Tensor]:
        """The factor on x_t before the network (None: no factor) and the time the network is told."""
        ...


class _PlainInput:
    """The network sees x_t as it is, and t."""

    def network_input(self, alpha: Tensor, sigma: Tensor, t: Tensor, /) -> tuple[Tensor | None, Tensor]:
        del alpha, sigma
        return None, t


@dataclass(frozen=True)
class Eps(_PlainInput):
    """F = eps (Ho et al. 2020). Undefined at alpha = 0."""

    def target(self, alpha: Tensor, sigma: Tensor, /) -> Weights:
        return Weights(torch.zeros_like(alpha), torch.ones_like(sigma))

    def mean(self, alpha: Tensor, sigma: Tensor, /) -> Weights:
        return Weights(1 / alpha, -sigma / alpha)


@dataclass(frozen=True)
class X0(_PlainInput):
    """F = x0."""

    def target(self, alpha: Tensor, sigma: Tensor, /) -> Weights:
        return Weights(torch.ones_like(alpha), torch.zeros_like(sigma))

    def mean(self, alpha: Tensor, sigma: Tensor, /) -> Weights:
        return Weights(torch.zeros_like(alpha), torch.ones_like(sigma))


@dataclass(frozen=True)
class V(_PlainInput):
    """F = alpha eps - sigma x0 (Salimans and Ho 2022, section 4)."""

    def target(self, alpha: Tensor, sigma: Tensor, /) -> Weights:
        return Weights(-sigma, alpha)

    def mean(self, alpha: Tensor, sigma: Tensor, /) -> Weights:
        power = alpha**2 + sigma**2
        return Weights(alpha / power, -sigma / power)


@dataclass(frozen=True)
class Score(_PlainInput):
    """F = grad log p_t(x_t), whose regression target is -eps / sigma (Song et al. 2021)."""

    def target(self, alpha: Tensor, sigma: Tensor, /) -> Weights:
        return Weights(torch.zeros_like(alpha), -1 / sigma)

    def mean(self, alpha: Tensor, sigma: Tensor, /) -> Weights:
        return Weights(1 / alpha, sigma**2 / alpha)


@dataclass(frozen=True)
class Flow(_PlainInput):
    """F = eps - x0, the velocity dx_t/dt of a rectified flow (Liu et al. 2023); valid on any schedule."""

    def target(self, alpha: Tensor, sigma: Tensor, /) -> Weights:
        return Weights(-torch.ones_like(alpha), torch.ones_like(sigma))

    def mean(self, alpha: Tensor, sigma: Tensor, /) -> Weights:
        total = alpha + sigma
        return Weights(1 / total, -sigma / total)


@dataclass(frozen=True)
class Karras:
    """EDM's preconditioning (Karras et al. 2022, table 1), for any alpha: its sigma is our sigma / alpha.

    The network sees x_t scaled to unit variance and log(sigma / alpha) / 4 for its time, infinite at alpha 0;
    its target has unit variance. ``sigma_data``: the standard deviation of the clean data, in its units.
    """

    sigma_data: float = 0.5

    def _norm(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return torch.sqrt(sigma**2 + (alpha * self.sigma_data) ** 2)

    def target(self, alpha: Tensor, sigma: Tensor, /) -> Weights:
        norm = self._norm(alpha, sigma)
        return Weights(sigma / (self.sigma_data * norm), -alpha * self.sigma_data / norm)

    def mean(self, alpha: Tensor, sigma: Tensor, /) -> Weights:
        norm = self._norm(alpha, sigma)
        return Weights(alpha * (self.sigma_data / norm) ** 2, sigma * self.sigma_data / norm)

    def network_input(self, alpha: Tensor, sigma: Tensor, t: Tensor, /) -> tuple[Tensor | None, Tensor]:
        del t
        return 1 / self._norm(alpha, sigma), 0.25 * torch.log(sigma / alpha)


@dataclass(frozen=True, eq=False)
class InRange:
    """A network behind `Karras`, told the nearest level in the range that it was trained in.

    ``low``, ``high``: of log(sigma / alpha) / 4.
    """

    network: Network
    low: float
    high: float

    def __call__(self, x: Tensor, level: Tensor, /, **cond: Any) -> Tensor:
        return self.network(x, level.clamp(self.low, self.high), **cond)


def expand(coefficient: Tensor, x: Tensor) -> Tensor:
    """A coefficient per batch (0-d) or per sample (``[batch]``) in the dtype of x, ready to multiply x."""
    return coefficient.to(x.dtype).reshape(coefficient.shape + (1,) * (x.ndim - 1) * (coefficient.ndim > 0))


@dataclass(frozen=True)
class NetworkDenoiser:
    """A network seen as a denoiser, through what it predicts.

    ``network(x, t, **cond)`` gets x_t ``[batch, *event]`` and the time in the dtype of x, and returns F
    in the shape of x_t.
    """

    network: Network
    schedule: Schedule
    prediction: Prediction

    def __call__(self, x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        alpha, sigma = self.schedule(t)
        factor, time = self.prediction.network_input(alpha, sigma, t)
        scaled = x if factor is None else expand(factor, x) * x
        output = self.network(scaled, time.to(x.dtype), **cond)
        skip, out = self.prediction.mean(alpha, sigma)
        return Point(expand(skip, x) * x + expand(out, x) * output)


def eps_prediction(network: Network, schedule: Schedule) -> NetworkDenoiser:
    """A network that predicts the noise, as a denoiser."""
    return NetworkDenoiser(network, schedule, Eps())


def x0_prediction(network: Network, schedule: Schedule) -> NetworkDenoiser:
    """A network that predicts the clean data, as a denoiser."""
    return NetworkDenoiser(network, schedule, X0())


def v_prediction(network: Network, schedule: Schedule) -> NetworkDenoiser:
    """A network that predicts v = alpha eps - sigma x0, as a denoiser."""
    return NetworkDenoiser(network, schedule, V())


def score_prediction(network: Network, schedule: Schedule) -> NetworkDenoiser:
    """A network that predicts the score, as a denoiser."""
    return NetworkDenoiser(network, schedule, Score())


def flow_prediction(network: Network, schedule: Schedule) -> NetworkDenoiser:
    """A network that predicts the velocity eps - x0, as a denoiser."""
    return NetworkDenoiser(network, schedule, Flow())


def karras_prediction(network: Network, schedule: Schedule, sigma_data: float = 0.5) -> NetworkDenoiser:
    """A network inside EDM's preconditioning, as a denoiser."""
    return NetworkDenoiser(network, schedule, Karras(sigma_data))
