r"""Stable neural SDEs: three classes whose solutions exist for all times and stay stable (Oh, Lim and Kim 2024).

With zbar = zeta(t, z, X(t)), X a control path made of the data, and networks gamma, sigma:

    ``LangevinSDE``     dz = gamma(zbar) dt + sigma(t) dW             zbar without explicit t
    ``LinearNoiseSDE``  dz = gamma(t, zbar) dt + sigma(t) z dW
    ``GeometricSDE``    dz = z (gamma(t, zbar) dt + sigma(t) dW)      keeps the sign of z

All are Ito equations with diagonal noise. Bind a control with ``along(model, path)``; a model with no channels is an
equation by itself. Source: Oh, Lim and Kim 2024, Stable neural stochastic differential equations in analyzing
irregular time series data, equations 4 to 9.

gamma and zeta together are one perceptron, whose first layer takes (t, z, X(t)). The published benchmark computes
something else than these equations: it adds ``Stabilisers``, which the theorems do not cover. They bound the drift,
and it is they that keep untrained networks from exploding: where gamma is unbounded the drift of a ``GeometricSDE``
grows as the square of z (measured in the claim stable_neural_sde). A clipped equation takes ``EulerMaruyama``; it has
no longer the form that ``LogStep`` and ``ExponentialStep`` solve, and they refuse it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from degauss.core.sde.control import Path
from degauss.core.sde.equation import Additive, Calculus, Function, General, Geometric, Instant, Linear
from degauss.core.sde.layers import Clock, Field, LipSwish


@dataclass(frozen=True)
class Stabilisers:
    """What the published benchmark code adds to the equations.

    clip: tanh of the drift and of the diffusion; the geometric drift is tanh(tanh(z) gamma).
    periodic: time enters as (sin t, cos t) instead of t.
    scale: the diffusion is multiplied by sigmoid(theta), one learned number.
    """

    clip: bool = False
    periodic: bool = False
    scale: bool = False


PUBLISHED = Stabilisers(clip=True, periodic=True, scale=True)


class Controlled(Protocol):
    """A model of an equation that may be driven by a control path."""

    calculus: Calculus | None

    def at(self, times: Tensor, path: Path | None = None, /) -> Sequence[Instant]: ...

    def tensors(self) -> Sequence[Tensor]: ...


@dataclass(frozen=True)
class Along:
    """The equation of a model driven by a path. From ``along``."""

    model: Controlled
    path: Path

    @property
    def calculus(self) -> Calculus | None:
        return self.model.calculus

    def at(self, times: Tensor, /) -> Sequence[Instant]:
        return self.model.at(times, self.path)

    def tensors(self) -> Sequence[Tensor]:
        return (*self.model.tensors(), self.path.coefficients)


def along(model: Controlled, path: Path) -> Along:
    """The equation of ``model`` with the control X = ``path``, whose batch is that of the states."""
    return Along(model, path)


class _Stable(nn.Module, ABC):
    """gamma and sigma; states ``[batch, dim]``."""

    explicit_time = True

    def __init__(
        self, dim: int, *, width: int, depth: int = 1, channels: int = 0, stabilisers: Stabilisers = Stabilisers()
    ) -> None:
        """``depth`` >= 1 hidden layers of ``width`` units, that of zeta among them; ``channels``: of the control path,
        0 for none. ValueError if the depth is less.
        """
        super().__init__()
        self.calculus: Calculus | None = "ito"
        self.clip = stabilisers.clip
        self.clock = Clock(periodic=stabilisers.periodic)
        clock = self.clock if self.explicit_time else None
        self.gamma = Field(dim, width, dim, depth, clock=clock, channels=channels)
        self.sigma = nn.Sequential(nn.Linear(self.clock.size, width), LipSwish(), nn.Linear(width, dim))
        self.theta = nn.Parameter(torch.zeros(())) if stabilisers.scale else None

    def at(self, times: Tensor, path: Path | None = None, /) -> tuple[Instant, ...]:
        gammas = self.gamma.at(times, None if path is None else path(times))
        sigma = self.sigma(self.clock(times.to(self.gamma.state.bias)))
        sigma = sigma if self.theta is None else sigma * self.theta.sigmoid()
        make = self.clipped if self.clip else self.plain
        return tuple(map(make, gammas, sigma.unbind()))

    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(self.parameters())

    @abstractmethod
    def plain(self, gamma: Function, sigma: Tensor) -> Instant:
        """The equation of the paper."""

    @abstractmethod
    def clipped(self, gamma: Function, sigma: Tensor) -> Instant:
        """The equation of the benchmark."""


class LangevinSDE(_Stable):
    """dz = gamma(zbar) dt + sigma(t) dW, zbar = zeta(z, X(t))."""

    explicit_time = False

    def plain(self, gamma: Function, sigma: Tensor) -> Instant:
        return Additive(gamma, sigma)

    def clipped(self, gamma: Function, sigma: Tensor) -> Instant:
        return Additive(lambda z: gamma(z).tanh(), sigma.tanh())


class LinearNoiseSDE(_Stable):
    """dz = gamma(t, zbar) dt + sigma(t) z dW."""

    def plain(self, gamma: Function, sigma: Tensor) -> Instant:
        return Linear(gamma, sigma)

    def clipped(self, gamma: Function, sigma: Tensor) -> Instant:
        return General(lambda z: gamma(z).tanh(), lambda z: (sigma * z).tanh(), separable=True)


class GeometricSDE(_Stable):
    """dz = z (gamma(t, zbar) dt + sigma(t) dW). Start it away from 0, where it stays."""

    def plain(self, gamma: Function, sigma: Tensor) -> Instant:
        return Geometric(gamma, sigma)

    def clipped(self, gamma: Function, sigma: Tensor) -> Instant:
        return General(lambda z: (z.tanh() * gamma(z)).tanh(), lambda z: (sigma * z).tanh(), separable=True)
