r"""Guidance of discrete diffusion: by the gradient of a reward, and classifier-free.

**By a reward.** With V(x) = log E[exp(r(x_0) / alpha) | x] the process that ends in p exp(r / alpha) / Z restores
position l to token k at

    restoring(t) p(k | x) exp(V(x with k at l) - V(x)),

and its total over k is restoring(t) again, for the mean of exp(V(x with k at l)) over p(k | x) is exp(V(x)): guidance
changes *what* is restored and not *when*. So it is a change of the posterior, whose normalisation at each position
keeps the schedule exactly, also where V is only approximated. Here V = scale v with scale = 1 / alpha and

    v(w) = r(m(w)),   m(w)_l = w_l, its tokens alone, + w_{l, mask} p(. | w)_l,

the reward of the *expected* sequence, a function of weights w over tokens and mask, to first order at the state x
(one-hot): v(x with k at l) - v(x) ~ dv/dw_{l, k} - dv/dw_{l, mask} (Nisonoff et al. 2024, TAG; Wang et al. 2025). The
mask's share is the same for all tokens, and the logits of a masked position become log p(k | x) + scale dv/dw_{l, k}.
With g = dr/dm at the expected sequence, the chain rule is

    dv/dw_{l, k} = g_{l, k} + sum_{masked j} sum_a g_{j, a} dp(a | w)_j / dw_{l, k}.

``TaylorGuided`` takes the first part: what the token itself does to the reward. It needs no gradient of the network,
and is exact, for any scale, where the reward is a sum over positions and these are independent given x.
``StateGuided`` takes both: also what the token says about the positions that are still masked. ``ReleasedGuided`` is a
control, not a method.

A reward must be given *probabilities*, and each sample has a gradient of its own: log-probabilities are far outside of
what a reward model has seen, and the gradient of a batch's mean shrinks with the batch.

**Classifier-free.** (1 + w) log p(. | x, condition) - w log p(. | x): ``ClassifierFree``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from degauss.core.denoiser import Denoiser
from degauss.core.errors import InputError, check_range
from degauss.core.jump.absorbing import Absorbing
from degauss.core.jump.categorical import is_symbol
from degauss.core.posterior import Categorical
from degauss.core.reward.relaxed import SoftNetwork, one_hot
from degauss.core.reward.reward import SoftReward, name_of


@dataclass(frozen=True, eq=False)
class TaylorGuided:
    """Guidance by what each token does to the reward of the expected sequence.

    Asks the denoiser once, and for one gradient of the reward a row. Raises `InputError` where it is not finite.
    """

    denoiser: Denoiser[Categorical]
    process: Absorbing
    reward: SoftReward
    scale: float

    def __call__(self, x: Tensor, t: Tensor, /, **cond: Any) -> Categorical:
        logits = self.denoiser(x, t, **cond).logits
        masked = (x == self.process.mask)[..., None]
        expected = torch.where(masked, logits.double().softmax(-1), is_symbol(x, self.process.vocabulary).double())
        slope = gradient(self.reward, expected.to(torch.get_default_dtype()))
        return Categorical(torch.where(masked, logits + self.scale * slope.to(logits.dtype), logits))


@dataclass(frozen=True, eq=False)
class StateGuided:
    """Guidance by the whole gradient of the expected sequence's reward in the state, through a network.

    ``network`` is the denoiser's own, asked about weights. One forward and one backward pass beside the denoiser.
    Raises `InputError` where the gradient is not finite.
    """

    denoiser: Denoiser[Categorical]
    process: Absorbing
    reward: SoftReward
    scale: float
    network: SoftNetwork = field(kw_only=True)

    def __call__(self, x: Tensor, t: Tensor, /, **cond: Any) -> Categorical:
        logits = self.denoiser(x, t, **cond).logits
        vocabulary = self.process.vocabulary

        def expected(state: Tensor) -> Tensor:
            guess = _asked(self.network, state, t, cond)[..., :vocabulary].softmax(-1)
            return state[..., :vocabulary] + state[..., vocabulary:] * guess

        slope = gradient(_after(self.reward, expected), _state(x, self.process))[..., :vocabulary]
        masked = (x == self.process.mask)[..., None]
        return Categorical(torch.where(masked, logits + self.scale * slope.to(logits.dtype), logits))


@dataclass(frozen=True, eq=False)
class ReleasedGuided:
    """The released form of DRAKES' classifier guidance (Wang et al. 2025): a control, not a method.

    As ``StateGuided``, but the reward is given log-probabilities (0 and -10^6 where a token is known), and the gradient
    is that of the batch's mean, so a row's guidance fades with the size of its batch. (The schedule of restoring, which
    the released step changes too, is kept here.)
    """

    denoiser: Denoiser[Categorical]
    process: Absorbing
    reward: SoftReward
    scale: float
    network: SoftNetwork = field(kw_only=True)

    def __call__(self, x: Tensor, t: Tensor, /, **cond: Any) -> Categorical:
        logits = self.denoiser(x, t, **cond).logits
        vocabulary = self.process.vocabulary
        masked = (x == self.process.mask)[..., None]

        def log_probabilities(state: Tensor) -> Tensor:
            guess = _asked(self.network, state, t, cond)[..., :vocabulary].log_softmax(-1)
            tokens, mask = state.detach().split([vocabulary, 1], -1)
            return torch.where(mask > 0, guess, (tokens - 1) * _RULED_OUT)

        slope = gradient(_after(self.reward, log_probabilities), _state(x, self.process)) / len(x)
        steered = logits + self.scale * slope[..., :vocabulary].to(logits.dtype)
        return Categorical(torch.where(masked, steered, logits))


_RULED_OUT = 1e6


class Form(Protocol):
    """A kind of guidance: ``TaylorGuided``, or ``partial(StateGuided, network=...)``."""

    def __call__(
        self, denoiser: Denoiser[Categorical], process: Absorbing, reward: SoftReward, scale: float, /
    ) -> Denoiser[Categorical]: ...


@dataclass(frozen=True, eq=False)
class Guidance:
    """The reward whose gradient guides a search, and how strongly.

    ``scale``: 1 / alpha aims at p exp(r / alpha); 0 does nothing. Raises `InputError` unless it is a number.
    """

    reward: SoftReward
    scale: float
    form: Form = TaylorGuided

    def __post_init__(self) -> None:
        check_range("the scale of guidance", self.scale, -_LARGEST, _LARGEST)

    def over(self, denoiser: Denoiser[Categorical], process: Absorbing, reward: SoftReward) -> Denoiser[Categorical]:
        """The guided denoiser, with ``reward`` (this one, counted) differentiated."""
        return self.form(denoiser, process, reward, self.scale)


_LARGEST = 1e12


def gradient(reward: SoftReward, weights: Tensor) -> Tensor:
    """d reward / d weights, ``[batch, length, *]``: each row's of its own, in any autograd mode.

    Raises `InputError`, naming the reward, where there is none or it is not finite.
    """
    with torch.inference_mode(False), torch.enable_grad():
        # The copy of what inference mode made may be differentiated.
        leaf = weights.detach().clone().requires_grad_()
        values = reward(leaf)
        if not values.requires_grad:
            raise InputError(f"{name_of(reward)} cannot guide: it has no gradient in the weights that it is given.")
        (slope,) = torch.autograd.grad(values.sum(), leaf)
    if not bool(torch.isfinite(slope).all()):
        raise InputError(f"{name_of(reward)} cannot guide: its gradient must be finite, but is not.")
    return slope


def _after(reward: SoftReward, expected: Callable[[Tensor], Tensor]) -> SoftReward:
    """The reward as a function of the state."""

    def value(state: Tensor) -> Tensor:
        return reward(expected(state))

    value.__name__ = name_of(reward)
    return value


def _asked(network: SoftNetwork, state: Tensor, t: Tensor, cond: dict[str, Any]) -> Tensor:
    return network(state, t.clone().to(torch.get_default_dtype()), **cond)


def _state(x: Tensor, process: Absorbing) -> Tensor:
    return one_hot(x, process.vocabulary, torch.get_default_dtype())


@dataclass(frozen=True, eq=False)
class ClassifierFree:
    """Classifier-free guidance of each position: logits (1 + weight) log p_c - weight log p_u (Schiff et al. 2024).

    ``weight`` 0 is the conditional model, -1 the unconditional one, above 0 goes beyond. What the conditional model
    rules out stays ruled out. Two evaluations. Conditions are bound in the two denoisers (``jump.Conditioned``); what
    a sampler passes on goes to both. Raises `InputError` unless the weight is a number.
    """

    conditional: Denoiser[Categorical]
    unconditional: Denoiser[Categorical]
    weight: float

    def __post_init__(self) -> None:
        check_range("the weight of classifier-free guidance", self.weight, -_LARGEST, _LARGEST)

    def __call__(self, x: Tensor, t: Tensor, /, **cond: Any) -> Categorical:
        log_c, log_u = (
            denoiser(x, t, **cond).logits.log_softmax(-1) for denoiser in (self.conditional, self.unconditional)
        )
        out = torch.isneginf(log_c)
        return Categorical(torch.where(out, log_c, log_c + self.weight * (log_c - log_u)))
