r"""Uniform corruption: every position keeps its token until, at random times, it is drawn afresh from all V tokens.

With alpha the probability of not having jumped (``rates``), a = alpha_t / alpha_s and s < t,

    q(x_t | x_0)       = alpha_t [x_t = x_0] + gone_t / V
    q(x_s | x_t, x_0)  = (a [x_s = x_t] + (1 - a) / V) (alpha_s [x_s = x_0] + gone_s / V) / q(x_t | x_0)

(Austin et al. 2021; Schiff et al. 2024). The reverse process averages this over p(x_0 | x_t). With
w_v = p(x_0 = v | x_t) / q(x_t | x_0 = v) and W = sum_v w_v,

    p(x_s = j | x_t)   = (a [j = x_t] + (1 - a) / V) (alpha_s w_j + gone_s W / V),
    rate from x_t to j = beta / V (alpha_t w_j + gone_t W / V).

w / W is the posterior given the *other* positions only. Networks of published uniform diffusion predict that one, as
their tokens are put in the place of x_0 in the formulas above: ``Context`` makes it the posterior of this package.

A state holds tokens 0, ..., V - 1: integers ``[batch, length]``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from degauss.core.jump.categorical import is_symbol, uniforms
from degauss.core.jump.process import level_of
from degauss.core.jump.rates import Level, LogLinear, Rates
from degauss.core.noise import Noise
from degauss.core.posterior import Categorical


@dataclass(frozen=True)
class Uniform:
    """The uniform process over ``vocabulary`` tokens."""

    vocabulary: int
    rates: Rates = field(default_factory=LogLinear)

    @property
    def symbols(self) -> int:
        """How many values a position of a state can have."""
        return self.vocabulary

    def start(self, like: Tensor, noise: Noise) -> Tensor:
        """The state at t = 1, tokens drawn evenly, in the shape and on the device of ``like``; draw 0 of the noise."""
        return (uniforms(noise, like, 0) * self.vocabulary).long()

    def corrupt(self, x0: Tensor, t: Tensor, noise: Noise, draw: int = 0) -> Tensor:
        """A draw from q(x_t | x_0); t: 0-d, ``[batch]`` or ``[batch, length]``."""
        gone = level_of(self.rates, t, x0).gone
        u = uniforms(noise, x0, draw)
        # Below gone, u / gone is uniform again: the same number chooses the token.
        fresh = (u / gone * self.vocabulary).clamp(max=self.vocabulary - 1).long()
        return torch.where(u < gone, fresh, x0)

    def marginal(self, x0: Tensor, t: Tensor) -> Tensor:
        """q(x_t | x_0) as probabilities ``[batch, length, V]``."""
        # The same matrix read along its rows: it is symmetric.
        return self.evidence(x0, t)

    def evidence(self, x: Tensor, t: Tensor) -> Tensor:
        """What x_t says about each token of x_0, q(x_t | x_0 = v): ``[batch, length, V]``."""
        level = level_of(self.rates, t, x)
        return _mixed(level.alpha, level.gone, x, self.vocabulary)

    def posterior(self, x: Tensor, x0: Tensor, s: Tensor, t: Tensor) -> Tensor:
        """q(x_s | x_t, x_0) as probabilities ``[batch, length, V]``, s <= t."""
        clean = is_symbol(x0, self.vocabulary).double().log()
        return self.reverse(Categorical(clean), x, s, t)

    def reverse(self, posterior: Categorical, x: Tensor, s: Tensor, t: Tensor) -> Tensor:
        """p(x_s | x_t) given p(x_0 | x_t), as probabilities ``[batch, length, V]`` in float64."""
        return self.step_back(posterior, x, level_of(self.rates, s, x), level_of(self.rates, t, x))

    def rate_matrix(self, t: Tensor) -> Tensor:
        """The generator at time t (0-d), ``[V, V]``: rates from the row's symbol to the column's."""
        eye = torch.eye(self.vocabulary, dtype=torch.float64, device=t.device)
        return self.rates(t).rate * (1 / self.vocabulary - eye)

    def reverse_rates(self, posterior: Categorical, x: Tensor, t: Tensor) -> Tensor:
        """The rate from x to every other symbol of the process run backwards, ``[batch, length, V]``, float64."""
        level = level_of(self.rates, t, x)
        rates = level.rate[..., None] / self.vocabulary * self._towards(posterior, x, level, level)
        return rates.masked_fill(is_symbol(x, self.vocabulary), 0.0)

    def step_back(self, posterior: Categorical, x: Tensor, early: Level, late: Level) -> Tensor:
        """``reverse`` for levels that are known."""
        # 1 - a = (gone_t - gone_s) / alpha_s.
        step = _mixed(late.alpha / early.alpha, (late.gone - early.gone) / early.alpha, x, self.vocabulary)
        return step * self._towards(posterior, x, early, late)

    def leap(self, posterior: Categorical, x: Tensor, late: Level, span: float) -> Tensor:
        """Where ``span`` of time leads with the reverse rates held, ``[batch, length, V]``; at most one jump counts.

        Jumps from x to x are counted too, at the rate of the formula. They change nothing in the process, and make
        the first step from t = 1 possible, where the rate is infinite and a jump certain.
        """
        towards = self._towards(posterior, x, late, late)
        total = towards.sum(-1, keepdim=True)
        stays = torch.exp(-span / self.vocabulary * late.rate[..., None] * total)
        return stays * is_symbol(x, self.vocabulary) + (1 - stays) * (towards / total)

    def _towards(self, posterior: Categorical, x: Tensor, level: Level, late: Level) -> Tensor:
        """sum_v w_v q(j | x_0 = v) with q at one level and w at that of x: ``[batch, length, V]``."""
        weight = torch.softmax(posterior.logits.double(), -1) / _mixed(late.alpha, late.gone, x, self.vocabulary)
        return level.alpha[..., None] * weight + level.gone[..., None] / self.vocabulary * weight.sum(-1, keepdim=True)


def _mixed(alpha: Tensor, gone: Tensor, x: Tensor, vocabulary: int) -> Tensor:
    """alpha [v = x] + gone / V for every token v."""
    return alpha[..., None] * is_symbol(x, vocabulary) + gone[..., None] / vocabulary


@dataclass(frozen=True, eq=False)
class Context:
    """A network that predicts each token from the *others* (UDLM, Schiff et al. 2024), as the posterior p(x_0 | x_t).

    By Bayes' rule its logits gain log q(x_t | x_0). ``network(x, t, **cond)`` gets x ``[batch, length]`` and the time
    as floats, and returns logits ``[batch, length, V]``. At t = 0 the posterior is the state itself.
    """

    network: Callable[..., Tensor]
    process: Uniform

    def __call__(self, x: Tensor, t: Tensor, /, **cond: Any) -> Categorical:
        logits = self.network(x, t.to(torch.get_default_dtype()), **cond)
        return Categorical(logits + self.process.evidence(x, t).log().to(logits.dtype))
