r"""Steps that keep what the equation keeps: the sign of a geometric state, the stability of linear noise.

    ``LogStep``          x exp((gamma - sigma^2/2) h + sigma dW)         for x (gamma dt + sigma dW)
    ``ExponentialStep``  (x + f h) exp(-sigma^2/2 h + sigma dW)          for f dt + sigma x dW

Both are for Ito equations, solve the noise exactly, and are of strong order 1. The first is exact where gamma is
constant (a geometric Brownian motion) and can never change the sign of a state, where Euler's x (1 + gamma h + sigma
dW) does with probability Phi(-(1 + gamma h) / (sigma sqrt(h))) in every step. The second is exact where f is zero,
and keeps the sign as long as x and x + f h have the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from degauss.core.noise import Noise
from degauss.core.sde.equation import Equation, Geometric, Linear, check_calculus
from degauss.core.sde.euler import Carry, start


def _exponent(carry: Carry, volatility: Tensor, x: Tensor, i: int, noise: Noise) -> Tensor:
    """sigma dW - sigma^2/2 h."""
    z = noise.brownian(carry.line.clock, i, x)
    return volatility * (z * carry.line.root[i] - 0.5 * carry.line.h[i] * volatility)


@dataclass(frozen=True)
class LogStep:
    """Euler-Maruyama in log |x|. ValueError if an instant is not ``Geometric``."""

    equation: Equation

    def init(self, x: Tensor, grid: Tensor, /) -> Carry:
        del x
        check_calculus(self, self.equation, "ito")
        carry = start(self.equation, grid)
        if not all(isinstance(instant, Geometric) for instant in carry.instants):
            raise ValueError(
                "LogStep expected x (gamma dt + sigma dW); clipped drifts and diffusions are not of this form"
            )
        return carry

    def step(self, carry: Carry, x: Tensor, i: int, noise: Noise, /) -> tuple[Carry, Tensor]:
        instant = carry.instants[i]
        assert isinstance(instant, Geometric)
        exponent = _exponent(carry, instant.volatility, x, i, noise)
        return carry, x * torch.add(exponent, instant.growth(x), alpha=carry.line.h[i]).exp()


@dataclass(frozen=True)
class ExponentialStep:
    """The drift by Euler, the noise exactly. ValueError if an instant is neither ``Linear`` nor ``Geometric``."""

    equation: Equation

    def init(self, x: Tensor, grid: Tensor, /) -> Carry:
        del x
        check_calculus(self, self.equation, "ito")
        carry = start(self.equation, grid)
        if not all(isinstance(instant, Linear | Geometric) for instant in carry.instants):
            raise ValueError("ExponentialStep expected noise sigma x dW; clipped diffusions are not of this form")
        return carry

    def step(self, carry: Carry, x: Tensor, i: int, noise: Noise, /) -> tuple[Carry, Tensor]:
        instant = carry.instants[i]
        assert isinstance(instant, Linear | Geometric)
        moved = torch.add(x, instant.drift(x), alpha=carry.line.h[i])
        return carry, moved * _exponent(carry, instant.volatility, x, i, noise).exp()
