"""Drawing tokens: probabilities and one uniform number each, by inversion.

Sampling by float32 Gumbel noise (or uniforms with few bits) never draws the rarest tokens, which silently lowers the
temperature of a sampler with many small steps (Zheng et al. 2024). Here the distribution function is
summed in float64 and compared with a 52-bit uniform number: one number a position, whatever the vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from degauss.core.noise import Noise


def uniforms(noise: Noise, x: Tensor, draw: int) -> Tensor:
    """Uniform numbers in (0, 1), float64 in the shape of x."""
    return noise.uniform(torch.empty(x.shape, dtype=torch.float64, device=x.device), draw)


def is_symbol(x: Tensor, symbols: int) -> Tensor:
    """Which symbol each position has, bool ``[..., symbols]``; all false where it is none of them."""
    return x[..., None] == torch.arange(symbols, device=x.device)


def draw(logits: Tensor, u: Tensor) -> Tensor:
    """Tokens from unnormalised log-probabilities ``[..., V]`` and uniform numbers ``[...]``, integers ``[...]``."""
    return draw_weighted(torch.softmax(logits.double(), -1), u)


def draw_weighted(weights: Tensor, u: Tensor) -> Tensor:
    """Tokens from unnormalised probabilities ``[..., V]`` (>= 0) and uniform numbers ``[...]``.

    A token of probability 0 is never drawn. Where the weights are no distribution (NaN, or all 0) the answer is V,
    which is no token.
    """
    cumulative = weights.double().cumsum(-1)
    # Divided, not multiplied out: the last is exactly 1, above every u. Not (u >= c): a NaN must count.
    return (~(u[..., None] < cumulative / cumulative[..., -1:])).sum(-1)
