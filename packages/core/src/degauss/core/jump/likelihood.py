r"""How likely sequences are under an absorbing model: exactly for short ones, by bounds for the rest.

A denoiser that ignores t, with first-hitting sampling, is a model of known likelihood. It reveals positions in an order
drawn evenly from all L!, so

    p(x) = 1/L! sum_orders prod_i p(x^{l_i} | x^{l_1}, ..., x^{l_{i-1}}),

a sum over paths in the lattice of the 2^L sets of revealed positions (``exact_log_likelihood``). The evidence bound has
the mean over orders outside the logarithm and is a sum over the same sets (``exact_bound``),

    -log p(x) <= sum_{M not empty} 1 / (|M| C(L, |M|)) sum_{l in M} -log p(x^l | x outside M).

For longer sequences ``estimate_bound`` averages a loss over draws and says its standard error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from degauss.core.denoiser import Denoiser
from degauss.core.jump.absorbing import Absorbing
from degauss.core.jump.ancestral import backward
from degauss.core.noise import Noise
from degauss.core.posterior import Categorical

MOST_ENUMERATED = 16
"""The longest sequence whose 2^L sets of masks are enumerated."""

_ROWS_AT_ONCE = 1 << 14


class Estimate(NamedTuple):
    """Per sequence: the mean of a loss over draws, and its standard error, both ``[batch]`` in nats."""

    nats: Tensor
    error: Tensor


def bits_per_token(nats: Tensor, length: int) -> Tensor:
    """Nats for a sequence as bits for each of its tokens."""
    return nats / (length * math.log(2))


def exact_bound(denoiser: Denoiser[Categorical], process: Absorbing, x: Tensor) -> Tensor:
    """The evidence bound on -log p(x), ``[batch]`` in nats, of a denoiser that ignores t; x: tokens ``[batch, L]``.

    Asks for all 2^L sets of masks. Raises ValueError for L above ``MOST_ENUMERATED``.
    """
    profile = _by_masks(denoiser, process, x)
    count = torch.arange(1, x.shape[1] + 1, dtype=torch.float64, device=x.device)
    return profile[:, 1:] @ (1 / count)


def exact_discrete_bound(
    denoiser: Denoiser[Categorical], process: Absorbing, x: Tensor, grids: Sequence[Tensor]
) -> Tensor:
    """The bounds of ancestral sampling on grids (``discrete_elbo``), ``[batch, len(grids)]`` in nats.

    For a denoiser that ignores t; each grid falls from 1 to 0. Raises ValueError for L above ``MOST_ENUMERATED``.
    """
    length = x.shape[1]
    profile = _by_masks(denoiser, process, x)
    count = torch.arange(length + 1, dtype=torch.float64)
    choices = torch.tensor([math.comb(length, k) for k in range(length + 1)], dtype=torch.float64)
    weights: list[Tensor] = []
    for grid in grids:
        alpha, gone, _ = process.rates(backward(grid))
        masks = choices * gone[:-1, None] ** count * alpha[:-1, None] ** (length - count)
        weights.append(((gone[:-1] - gone[1:]) / gone[:-1]) @ masks)
    return profile @ torch.stack(weights, 1).to(x.device)


def exact_log_likelihood(denoiser: Denoiser[Categorical], process: Absorbing, x: Tensor) -> Tensor:
    """log p(x) of first-hitting sampling, ``[batch]`` in nats, of a denoiser that ignores t; x: tokens ``[batch, L]``.

    Asks for all 2^L sets of masks. Raises ValueError for L above ``MOST_ENUMERATED``.
    """
    length = x.shape[1]
    masked = _sets(length, x.device)
    log_p = _conditionals(denoiser, process, x, masked)
    numbers = torch.arange(len(masked), device=x.device)
    reached = log_p.new_full((len(x), len(masked)), float("-inf"))
    reached[:, -1] = 0
    # By the number of masks, falling: a set is reached by revealing one position of a set with one more.
    for count in range(length - 1, -1, -1):
        to = (masked.sum(1) == count).nonzero()[:, 0]
        revealed = (~masked[to]).nonzero()[:, 1].reshape(len(to), length - count)
        source = numbers[to, None] + (1 << revealed)
        # The next position is one of the count + 1 that are masked, evenly.
        paths = reached[:, source] + log_p[:, source, revealed] - math.log(count + 1)
        reached[:, to] = paths.logsumexp(-1)
    return reached[:, 0]


def estimate_bound(loss: partial[Tensor], x: Tensor, *, draws: int, seed: int = 0, **cond: Any) -> Estimate:
    """A loss of ``losses`` averaged over ``draws`` >= 2 draws of its noise, without a graph.

    ``loss``: with its model bound, ``partial(elbo, denoiser, process)``; x: tokens ``[batch, length]``.
    """
    if draws < 2:
        raise ValueError(f"a standard error takes at least two draws, got {draws}")
    noise = Noise(seed, range(len(x)))
    with torch.inference_mode():
        values = torch.stack([loss(x, noise.fork(number), **cond) for number in range(draws)])
    return Estimate(values.mean(0), values.std(0) / math.sqrt(draws))


def _by_masks(denoiser: Denoiser[Categorical], process: Absorbing, x: Tensor) -> Tensor:
    """sum_{l in M} -log p(x^l | x outside M), the mean over sets M of k masks: ``[batch, L + 1]``, k = 0, ..., L."""
    length = x.shape[1]
    masked = _sets(length, x.device)
    nats = -_conditionals(denoiser, process, x, masked)
    totals = torch.where(masked, nats, torch.zeros_like(nats)).sum(-1)
    profile = totals.new_zeros(len(x), length + 1).index_add(1, masked.sum(1), totals)
    choices = torch.tensor([math.comb(length, k) for k in range(length + 1)], dtype=torch.float64)
    return profile / choices.to(x.device)


def _sets(length: int, device: torch.device) -> Tensor:
    """All sets of positions, ``[2^L, L]``; set number n holds the positions of n's bits."""
    if length > MOST_ENUMERATED:
        raise ValueError(f"sets of masks are enumerated up to length {MOST_ENUMERATED}, got {length}")
    return (torch.arange(1 << length, device=device)[:, None] >> torch.arange(length, device=device) & 1).bool()


def _conditionals(denoiser: Denoiser[Categorical], process: Absorbing, x: Tensor, masked: Tensor) -> Tensor:
    """log p(x^l | x outside M) for each set M and position l, float64 ``[batch, sets, L]``."""
    t = torch.tensor(0.5, dtype=torch.float64, device=x.device)  # ignored
    rows = max(1, _ROWS_AT_ONCE // len(masked))
    parts: list[Tensor] = []
    for part in x.split(rows):
        states = torch.where(masked, process.mask, part[:, None]).flatten(0, 1)
        log_p = denoiser(states, t).logits.double().log_softmax(-1).unflatten(0, (len(part), len(masked)))
        tokens = part[:, None, :, None].expand(-1, len(masked), -1, 1)
        parts.append(log_p.gather(-1, tokens)[..., 0])
    return torch.cat(parts)
