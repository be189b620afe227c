r"""Absorbing corruption: every position keeps its token until, at a random time, it turns into the mask for good.

With alpha the probability of not having jumped (``rates``), positions independent of each other, and s < t,

    q(x_t | x_0)       x_0 with probability alpha_t, else the mask
    q(x_s | x_t, x_0)  a token stays; the mask stays with probability gone_s / gone_t, else it was x_0

(Austin et al. 2021; Sahoo et al. 2024). The reverse process knows p(x_0 | x_t) in place of x_0: a mask
becomes token v at the rate restoring(t) p(v | x_t), with restoring = slope / gone. *When* a position is restored does
not depend on any token; p(x_0 | x_t) itself does not depend on t (Ou et al. 2024, theorem 1).

A state holds tokens 0, ..., V - 1 and the mask, which is V: integers ``[batch, length]``.
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
class Absorbing:
    """The absorbing process over ``vocabulary`` tokens; the mask is the symbol after the last token."""

    vocabulary: int
    rates: Rates = field(default_factory=LogLinear)

    @property
    def mask(self) -> int:
        return self.vocabulary

    @property
    def symbols(self) -> int:
        """How many values a position of a state can have."""
        return self.vocabulary + 1

    def start(self, like: Tensor, noise: Noise) -> Tensor:
        """The state at t = 1, all masks, in the shape and on the device of ``like``."""
        del noise
        return torch.full(like.shape, self.mask, device=like.device)

    def corrupt(self, x0: Tensor, t: Tensor, noise: Noise, draw: int = 0) -> Tensor:
        """A draw from q(x_t | x_0); t: 0-d, ``[batch]`` or ``[batch, length]``."""
        gone = level_of(self.rates, t, x0).gone
        return x0.masked_fill(uniforms(noise, x0, draw) < gone, self.mask)

    def marginal(self, x0: Tensor, t: Tensor) -> Tensor:
        """q(x_t | x_0) as probabilities ``[batch, length, V + 1]``."""
        level = level_of(self.rates, t, x0)
        kept = level.alpha.expand(x0.shape)[..., None] * is_symbol(x0, self.vocabulary)
        return _with_mask(kept, level.gone.expand(x0.shape))

    def evidence(self, x: Tensor, t: Tensor) -> Tensor:
        """What x_t says about each token of x_0, ``[batch, length, V]``: q(x_t | x_0 = v) up to a factor without v.

        A token says all and a mask nothing, at any t; so there is an answer for tokens at t = 1 too, where q is 0.
        """
        del t
        return ((x == self.mask)[..., None] | is_symbol(x, self.vocabulary)).double()

    def posterior(self, x: Tensor, x0: Tensor, s: Tensor, t: Tensor) -> Tensor:
        """q(x_s | x_t, x_0) as probabilities ``[batch, length, V + 1]``, s <= t."""
        clean = is_symbol(x0, self.vocabulary).double().log()
        return self.reverse(Categorical(clean), x, s, t)

    def reverse(self, posterior: Categorical, x: Tensor, s: Tensor, t: Tensor) -> Tensor:
        """p(x_s | x_t) given p(x_0 | x_t), as probabilities ``[batch, length, V + 1]`` in float64."""
        return self.step_back(posterior, x, level_of(self.rates, s, x), level_of(self.rates, t, x))

    def rate_matrix(self, t: Tensor) -> Tensor:
        """The generator at time t (0-d), ``[V + 1, V + 1]``: rates from the row's symbol to the column's."""
        generator = -torch.eye(self.symbols, dtype=torch.float64, device=t.device)
        generator[:, self.mask] += 1
        return self.rates(t).rate * generator

    def reverse_rates(self, posterior: Categorical, x: Tensor, t: Tensor) -> Tensor:
        """The rate from x to every other symbol of the process run backwards, ``[batch, length, V + 1]``, float64."""
        restoring = level_of(self.rates, t, x).restoring
        tokens = torch.softmax(posterior.logits.double(), -1) * restoring[..., None]
        return _with_mask(tokens * (x == self.mask)[..., None], torch.zeros_like(tokens[..., 0]))

    def step_back(self, posterior: Categorical, x: Tensor, early: Level, late: Level) -> Tensor:
        """``reverse`` for levels that are known."""
        return self._restored(posterior, x, early.gone / late.gone)

    def leap(self, posterior: Categorical, x: Tensor, late: Level, span: float) -> Tensor:
        """Where ``span`` of time leads with the reverse rates held, ``[batch, length, V + 1]``."""
        return self._restored(posterior, x, torch.exp(-span * late.restoring))

    def _restored(self, posterior: Categorical, x: Tensor, stays: Tensor) -> Tensor:
        """Probabilities ``[batch, length, V + 1]`` where a mask stays with probability ``stays`` and tokens stay."""
        tokens = torch.softmax(posterior.logits.double(), -1)
        stays = stays.expand(x.shape)
        masked = _with_mask(tokens * (1 - stays)[..., None], stays)
        return torch.where((x == self.mask)[..., None], masked, is_symbol(x, self.symbols).double())


def _with_mask(tokens: Tensor, mask: Tensor) -> Tensor:
    return torch.cat([tokens, mask[..., None]], -1)


@dataclass(frozen=True, eq=False)
class Subs:
    """A network's logits as the posterior of absorbing corruption: the SUBS parametrisation of Sahoo et al. 2024.

    Zero masking probability: the mask is no answer, so a logit for it (``[batch, length, V + 1]``) is dropped.
    Carry-over: a token that is there is certain. ``network(x, t, **cond)`` gets x ``[batch, length]`` and the time as
    floats, and returns logits ``[batch, length, V]`` or with one more.
    """

    network: Callable[..., Tensor]
    process: Absorbing

    def __call__(self, x: Tensor, t: Tensor, /, **cond: Any) -> Categorical:
        logits = self.network(x, t.to(torch.get_default_dtype()), **cond)
        return Categorical(carry_over(logits[..., : self.process.vocabulary], x, self.process.mask))


def carry_over(logits: Tensor, x: Tensor, mask: int) -> Tensor:
    """Logits ``[batch, length, V]`` where each token of x that is not the mask is certain."""
    known = (x != mask)[..., None]
    other = known & ~is_symbol(x, logits.shape[-1])
    return logits.masked_fill(known, 0.0).masked_fill(other, float("-inf"))
