r"""Unmasking by confidence: the positions that the model is surest of are restored first.

Restoring independent positions together costs likelihood where they depend on each other; a position that is nearly
certain depends on no one. ``confident`` restores as many positions a step as the schedule says, the surest first
(MaskGIT, Chang et al. 2022; the margin: Kim et al. 2025). ``entropy_bounded`` lets the model say how many (Ben-Hamu
et al. 2025): with entropies H in rising order, the longest prefix U with

    sum_{l in U} H_l - max_{l in U} H_l <= gamma,

a bound on what restoring U together can cost, in nats; one position always goes.

The order is the model's, not chance's: the law of such samples is not the model's, it is sharper. With a large
``temperature`` of ``confident``, and with gamma = 0 and equal entropies, the order is random or fixed again.
Positions that are not masked at the start never change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from degauss.core.denoiser import Denoiser
from degauss.core.errors import check_range
from degauss.core.jump.absorbing import Absorbing
from degauss.core.jump.ancestral import backward, rows_of
from degauss.core.jump.categorical import draw_weighted, uniforms
from degauss.core.jump.process import Solver
from degauss.core.noise import Noise
from degauss.core.posterior import Categorical

_ROUNDING = 1e-9

Score = Callable[[Tensor, Tensor], Tensor]
"""(probabilities ``[batch, length, V]``, the tokens drawn from them ``[batch, length]``) -> higher is surer."""


def top_probability(probabilities: Tensor, tokens: Tensor) -> Tensor:
    """The logarithm of the largest probability."""
    del tokens
    return probabilities.amax(-1).log()


def token_probability(probabilities: Tensor, tokens: Tensor) -> Tensor:
    """The logarithm of the probability of the token that was drawn (MaskGIT)."""
    return probabilities.gather(-1, tokens.clamp(max=probabilities.shape[-1] - 1)[..., None])[..., 0].log()


def margin(probabilities: Tensor, tokens: Tensor) -> Tensor:
    """The difference of the two largest probabilities (Kim et al. 2025)."""
    del tokens
    first, second = probabilities.topk(2, -1).values.unbind(-1)
    return first - second


def certainty(probabilities: Tensor, tokens: Tensor) -> Tensor:
    """Minus the entropy, in nats."""
    del tokens
    return -torch.special.entr(probabilities).sum(-1)


class Carry(NamedTuple):
    """The share of masks left after each step, the grid's times on the device, the masks at the start ``[batch]``."""

    shares: tuple[float, ...]
    times: tuple[Tensor, ...]
    masks: Tensor


@dataclass(frozen=True)
class Confident:
    """After step i, ceil(masks at the start * gone_{i+1} / gone_0) masks are left; the surest positions go first.

    ``temperature``: of Gumbel noise added to the score, falling in proportion to the masks that are left (MaskGIT).
    Draws 2 i + 1 (tokens) and 2 i + 2 (order) of the noise at step i.
    """

    denoiser: Denoiser[Categorical]
    process: Absorbing
    score: Score = top_probability
    temperature: float = 0.0

    def init(self, x: Tensor, grid: Tensor, /) -> Carry:
        grid = backward(grid)
        gone = self.process.rates(grid).gone
        shares = (*(gone / gone[0]).tolist()[1:-1], 0.0)
        return Carry(shares, grid.to(x.device).unbind(), (x == self.process.mask).sum(1))

    def step(self, carry: Carry, x: Tensor, i: int, noise: Noise, /) -> tuple[Carry, Tensor]:
        masked = x == self.process.mask
        probabilities = torch.softmax(self.denoiser(x, carry.times[i]).logits.double(), -1)
        tokens = draw_weighted(probabilities, uniforms(noise, x, 2 * i + 1))
        score = self.score(probabilities, tokens)
        if self.temperature and carry.shares[i]:
            gumbel = -torch.log(-torch.log(uniforms(noise, x, 2 * i + 2)))
            score = score + self.temperature * carry.shares[i] * gumbel
        left = (carry.masks * carry.shares[i] - _ROUNDING).ceil()
        restored = masked & (_rank(score, masked) < (masked.sum(1) - left)[:, None])
        return carry, torch.where(restored, tokens, x)


@dataclass(frozen=True)
class EntropyBounded:
    """Each step restores, in every row, as many positions as the bound allows; the last step restores all that is left.

    ``gamma`` >= 0, in nats: 0 restores one position a step (more only where they are certain). Rows without masks are
    not evaluated: which these are is read by the host once a step. The denoiser is told, for each sample, the time
    that belongs to its share of masks; of the grid, which counts steps, only the first time matters. Draw i + 1 of the
    noise at step i.
    """

    denoiser: Denoiser[Categorical]
    process: Absorbing
    gamma: float

    def init(self, x: Tensor, grid: Tensor, /) -> EntropyCarry:
        gone = float(self.process.rates(backward(grid)[0]).gone)
        zeros = torch.zeros(len(x), dtype=torch.long, device=x.device)
        return EntropyCarry(gone, len(grid) - 1, (x == self.process.mask).sum(1), zeros)

    def step(self, carry: EntropyCarry, x: Tensor, i: int, noise: Noise, /) -> tuple[EntropyCarry, Tensor]:
        masked = x == self.process.mask
        waiting = masked.any(1)
        rows = waiting.nonzero()[:, 0]
        carry = carry._replace(evaluations=carry.evaluations + waiting)
        if not len(rows):
            return carry, x
        masked, part = masked[rows], x[rows]
        t = self.process.rates.time(carry.gone * masked.sum(1) / carry.masks[rows])
        probabilities = torch.softmax(rows_of(self.denoiser, rows)(part, t).logits.double(), -1)
        tokens = draw_weighted(probabilities, uniforms(noise, x, i + 1)[rows])
        restored = masked if i == carry.steps - 1 else masked & self._allowed(probabilities, masked)
        return carry, x.index_copy(0, rows, torch.where(restored, tokens, part))

    def _allowed(self, probabilities: Tensor, masked: Tensor) -> Tensor:
        """Positions before which the entropies of the surer ones add up to gamma at most."""
        entropy = torch.special.entr(probabilities).sum(-1).masked_fill(~masked, float("inf"))
        rising, order = entropy.sort(dim=1, stable=True)
        before = rising.cumsum(1).roll(1, 1)
        before[:, 0] = 0
        return torch.zeros_like(masked).scatter(1, order, before <= self.gamma)


class EntropyCarry(NamedTuple):
    """gone at the start, the number of steps, each row's masks at the start and evaluations so far, ``[batch]``."""

    gone: float
    steps: int
    masks: Tensor
    evaluations: Tensor


def _rank(score: Tensor, masked: Tensor) -> Tensor:
    """Each masked position's place by falling score, from 0; equal scores in the order of positions."""
    order = score.masked_fill(~masked, float("-inf")).argsort(dim=1, descending=True, stable=True)
    places = torch.arange(score.shape[1], device=score.device).expand_as(order)
    return torch.empty_like(order).scatter(1, order, places)


def confident(score: Score = top_probability, temperature: float = 0.0) -> Solver[Absorbing]:
    """Unmasking by confidence, as many positions a step as the schedule says. Raises `InputError` below 0."""
    check_range("temperature", temperature, 0)
    return partial(Confident, score=score, temperature=temperature)


def entropy_bounded(gamma: float) -> Solver[Absorbing]:
    """Unmasking as many positions a step as an entropy bound allows. Raises `InputError` below 0."""
    check_range("gamma", gamma, 0, unit="nats")
    return partial(EntropyBounded, gamma=gamma)
