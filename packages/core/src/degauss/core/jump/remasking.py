r"""Remasking (ReMDM, Wang et al. 2025): a token that was restored may be masked again, and so be put right.

From t to s, a token turns back into the mask with probability sigma, and a mask stays one with probability

    (1 - alpha_s - sigma alpha_t) / gone_t:

higher than ancestral sampling's, so that the marginals q(x_t | x_0) stay what they are for every sigma up to
min(1, gone_s / alpha_t). With sigma = 0 it is ancestral sampling.

What an imperfect model got wrong early can be mended while there is time. The price is that more positions are restored
together: for the law to tend to the model's, sigma must fall with the step (``capped(c / steps)``, of first order like
ancestral sampling); a constant sigma leaves an error of its own, however many the steps.

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
from degauss.core.jump.ancestral import backward
from degauss.core.jump.categorical import draw_weighted, is_symbol, uniforms
from degauss.core.jump.process import Solver
from degauss.core.jump.rates import Rates
from degauss.core.noise import Noise
from degauss.core.posterior import Categorical

Remask = Callable[[Tensor], Tensor]
"""The largest probabilities of remasking, one a step -> those to use, between 0 and these."""


class Odds(NamedTuple):
    """Of a step: the probability that a token is masked again, and that a mask stays one."""

    remasked: float
    stays: float


class Carry(NamedTuple):
    """The odds of each step, the grid's times on the device, and the positions that may change ``[batch, length]``."""

    odds: tuple[Odds, ...]
    times: tuple[Tensor, ...]
    free: Tensor


def odds_of(rates: Rates, grid: Tensor, remask: Remask) -> tuple[Odds, ...]:
    """The odds of each step of a grid; the last step restores everything, wherever the grid ends."""
    alpha, gone, _ = rates(backward(grid))
    alpha[-1], gone[-1] = 1, 0
    # Nothing is there to be remasked where alpha is 0.
    limit = (gone[1:] / alpha[:-1]).clamp(max=1)
    remasked = remask(limit)
    stays = (gone[1:] - remasked * alpha[:-1]) / gone[:-1]
    return tuple(map(Odds, remasked.tolist(), stays.clamp(0, 1).tolist()))


def remasking_step(posterior: Categorical, x: Tensor, free: Tensor, odds: Odds, mask: int) -> Tensor:
    """The law of each position after a step, ``[batch, length, V + 1]``; positions that are not ``free`` stay."""
    tokens = torch.softmax(posterior.logits.double(), -1) * (1 - odds.stays)
    restored = torch.cat([tokens, torch.full_like(tokens[..., :1], odds.stays)], -1)
    kept = is_symbol(x, mask + 1).double()
    doubted = (1 - odds.remasked) * kept
    doubted[..., mask] += odds.remasked
    return torch.where((x == mask)[..., None], restored, torch.where(free[..., None], doubted, kept))


@dataclass(frozen=True)
class Remasking:
    """Ancestral sampling with remasking; one evaluation and draw i + 1 of the noise at step i."""

    denoiser: Denoiser[Categorical]
    process: Absorbing
    remask: Remask

    def init(self, x: Tensor, grid: Tensor, /) -> Carry:
        odds = odds_of(self.process.rates, grid, self.remask)
        return Carry(odds, grid.to(x.device).unbind(), x == self.process.mask)

    def step(self, carry: Carry, x: Tensor, i: int, noise: Noise, /) -> tuple[Carry, Tensor]:
        posterior = self.denoiser(x, carry.times[i])
        law = remasking_step(posterior, x, carry.free, carry.odds[i], self.process.mask)
        # Where the law is none (NaN), a position stays masked.
        return carry, draw_weighted(law, uniforms(noise, x, i + 1)).clamp(max=self.process.mask)


def _capped(most: float, limit: Tensor) -> Tensor:
    return limit.clamp(max=most)


def _rescaled(share: float, limit: Tensor) -> Tensor:
    return share * limit


def capped(most: float) -> Remask:
    """sigma = min(``most``, the largest there is); ``most`` in [0, 1]. `InputError` elsewhere."""
    check_range("most", most, 0, 1)
    return partial(_capped, most)


def rescaled(share: float) -> Remask:
    """sigma = ``share`` times the largest there is; ``share`` in [0, 1]. `InputError` elsewhere."""
    check_range("share", share, 0, 1)
    return partial(_rescaled, share)


def remasking(remask: Remask) -> Solver[Absorbing]:
    """Ancestral sampling with remasking: ``remasking(capped(0.02))``, ``remasking(rescaled(0.1))``."""
    return partial(Remasking, remask=remask)
