r"""Masked diffusion as a function of its noise that can be differentiated: the Gumbel-softmax trajectory.

With G standard Gumbel numbers, argmax_v (log p_v + G_v) is a draw from p, and

    y = softmax((log p + G) / tau)

goes to its one-hot as tau -> 0 (Jang et al. 2017; Maddison et al. 2017). *Straight through*: the value is the one-hot,
the derivative that of y. A state is weights ``[batch, length, V + 1]`` over tokens and the mask.

``Joint`` (Wang et al. 2024, DRAKES): whether a position is restored and by what are one draw y over V + 1 symbols, from
((1 - k) p_theta, k) with k = gone_s / gone_t, and

    x <- (1 - m) x + m y,    m the masked mass of x.

``Timed``: *when* a position is restored does not depend on the model, so there is nothing to differentiate. It is drawn
once as in ``jump.ancestral``, and only *what* is put there is relaxed. The masked mass of a state is 0 or 1 at any tau.
In soft states of ``Joint`` it goes to that of y, near 1 for small steps: positions stay mostly masked until the end,
and tokens are placed knowing little of each other, in states that no network has seen.

Both, at tau -> 0 or straight through, have the law of ancestral steps.

**Truncation.** Only the last K steps carry gradient; those before are hard. **Checkpointing.** Steps are recomputed in
the backward pass from keyed noise, at one more evaluation each. What is held is a state for each step, V + 1 numbers a
position, and the inside of one step: thousands of numbers a position for the networks that are used, however many steps
there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from degauss.core.errors import InputError, check_range
from degauss.core.jump.absorbing import Absorbing
from degauss.core.jump.ancestral import backward, shares_of
from degauss.core.jump.categorical import is_symbol, uniforms
from degauss.core.noise import Noise
from degauss.core.reward.kl import Divergence, log_transition, step_divergence

SoftNetwork = Callable[..., Tensor]
"""``network(x, t)``: x as tokens ``[batch, length]`` or weights ``[batch, length, V + 1]`` -> logits, ``[..., V]``."""


@dataclass(frozen=True)
class GumbelSoftmax:
    """A draw from a categorical law that can be differentiated. ``temperature`` > 0, else `InputError`."""

    temperature: float = 1.0
    straight_through: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise InputError(f"temperature must be above 0, but is {self.temperature}.")

    def __call__(self, log_prob: Tensor, u: Tensor) -> Tensor:
        """Weights like ``log_prob`` ``[..., symbols]``; ``u``: uniform numbers in (0, 1), float64 of the same shape."""
        scores = log_prob.double() - torch.log(-torch.log(u))
        soft = torch.softmax(scores / self.temperature, -1).to(log_prob.dtype)
        return harden(soft) if self.straight_through else soft


def harden(soft: Tensor) -> Tensor:
    """The one-hot of the largest weight, with the derivative of ``soft``."""
    hard = is_symbol(soft.argmax(-1), soft.shape[-1]).to(soft.dtype)
    return hard + (soft - soft.detach())


def one_hot(x: Tensor, vocabulary: int, dtype: torch.dtype) -> Tensor:
    """The weights ``[batch, length, V + 1]`` of a hard state ``[batch, length]``."""
    return is_symbol(x, vocabulary + 1).to(dtype)


class Step(Protocol):
    """The way from gone_t = ``late`` to gone_s = ``early``, step i of a trajectory; both as shares of gone at t = 1."""

    @property
    def draw(self) -> GumbelSoftmax: ...

    def hard(self) -> Step:
        """The same with hard states, from the same noise."""
        ...

    def __call__(self, weights: Tensor, logits: Tensor, late: float, early: float, noise: Noise, i: int) -> Tensor: ...


@dataclass(frozen=True)
class Joint:
    """The published step: whether and what in one relaxed draw. Draw i of the noise."""

    draw: GumbelSoftmax = GumbelSoftmax(straight_through=False)

    def hard(self) -> Joint:
        return Joint(replace(self.draw, straight_through=True))

    def __call__(self, weights: Tensor, logits: Tensor, late: float, early: float, noise: Noise, i: int) -> Tensor:
        stays = early / late
        tokens = logits.log_softmax(-1) + (math.log1p(-stays) if stays < 1 else -math.inf)
        mask = torch.full_like(tokens[..., :1], math.log(stays) if stays > 0 else -math.inf)
        log_prob = torch.cat([tokens, mask], -1)
        drawn = self.draw(log_prob, uniforms(noise, log_prob, i))
        masked = weights[..., -1:]
        return (1 - masked) * weights + masked * drawn


@dataclass(frozen=True)
class Timed:
    """When positions are restored is drawn, and what they become is relaxed. Draws 0 and 1 of the noise."""

    draw: GumbelSoftmax = GumbelSoftmax()

    def hard(self) -> Timed:
        return Timed(replace(self.draw, straight_through=True))

    def __call__(self, weights: Tensor, logits: Tensor, late: float, early: float, noise: Noise, i: int) -> Tensor:
        del late, i
        level = uniforms(noise, weights[..., 0], 0)
        restored = (weights[..., -1] > 0.5) & (level >= early)
        log_prob = logits.log_softmax(-1)
        # One set of numbers a position: it is restored once.
        drawn = self.draw(log_prob, uniforms(noise, log_prob, 1))
        after = torch.cat([drawn, torch.zeros_like(drawn[..., :1])], -1)
        return torch.where(restored[..., None], after, weights)


class Rolled(NamedTuple):
    """The end of a relaxed trajectory.

    ``tokens``: weights ``[batch, length, V]``, one-hot, straight through. ``divergence``: nats of each step
    ``[steps, batch]``. ``log_prob``: log P_theta of each step given its state, up to a constant, ``[steps, batch]``; it
    has a meaning where states are hard, and a graph where they are constants of the divergence.
    """

    tokens: Tensor
    divergence: Tensor
    log_prob: Tensor


@dataclass(frozen=True)
class Rollout:
    """Trajectories from masks to sequences along an even grid, with the divergence from a reference on the way.

    ``truncate``: how many of the last steps carry gradient; None for all. ``through_states``: whether the divergence
    passes its gradient on to the states before it; if not, its states are constants, evaluated apart, and
    ``kl.path_term`` has what is missing. Raises `InputError` for numbers out of their ranges.
    """

    process: Absorbing
    steps: int
    step: Step
    divergence: Divergence = step_divergence
    truncate: int | None = None
    through_states: bool = True
    checkpointing: bool = True

    def __post_init__(self) -> None:
        check_range("steps", self.steps, 1)
        if self.truncate is not None:
            check_range("truncate", self.truncate, 1, self.steps)

    def __call__(self, network: SoftNetwork, reference: SoftNetwork, x: Tensor, noise: Noise) -> Rolled:
        """Roll ``x``, tokens ``[batch, length]`` with masks where something is to be drawn, on to the data."""
        grid = backward(torch.linspace(1, 0, self.steps + 1, dtype=torch.float64))
        shares = shares_of(self.process, grid).tolist()
        times = grid.to(x.device).unbind()
        vocabulary = self.process.vocabulary

        def ask(model: SoftNetwork, weights: Tensor, i: int) -> Tensor:
            return model(weights, times[i].to(weights.dtype))[..., :vocabulary]

        def one(step: Step, weights: Tensor, i: int) -> tuple[Tensor, Tensor, Tensor]:
            logits = ask(network, weights, i)
            after = step(weights, logits, shares[i], shares[i + 1], noise, i)
            seen = weights if self.through_states else weights.detach()
            own = logits if self.through_states else ask(network, seen, i)
            cost = self.divergence(own, ask(reference, seen, i), seen, shares[i], shares[i + 1])
            # A graph that nothing is asked of would keep what was recomputed for it.
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.through_states):
                log_prob = log_transition(own, seen, after.detach())
            return after, cost, log_prob

        live = self.steps if self.truncate is None else self.truncate
        weights = one_hot(x, vocabulary, torch.get_default_dtype())
        costs: list[Tensor] = []
        log_probs: list[Tensor] = []
        for i in range(self.steps):
            if i < self.steps - live:
                with torch.no_grad():
                    weights, cost, log_prob = one(self.step.hard(), weights, i)
            elif self.checkpointing and torch.is_grad_enabled():
                recomputed = checkpoint(one, self.step, weights, i, use_reentrant=False)
                weights, cost, log_prob = cast("tuple[Tensor, Tensor, Tensor]", recomputed)
            else:
                weights, cost, log_prob = one(self.step, weights, i)
            costs.append(cost)
            log_probs.append(log_prob)
        return Rolled(harden(weights[..., :vocabulary]), torch.stack(costs), torch.stack(log_probs))
