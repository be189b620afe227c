"""Sinusoidal embedding of a scalar: how a network is told the time."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sinusoidal(position: Tensor, dim: int, max_period: float = 10_000.0) -> Tensor:
    """Embed positions as sines and cosines of geometrically spaced frequencies.

        [sin(w_0 p), ..., sin(w_{m-1} p), cos(w_0 p), ..., cos(w_{m-1} p)],
        m = dim / 2,  w_k = max_period ** (-k / (m - 1))

    The frequencies are made on the fly, in at least float32, so that moving a network to bfloat16 cannot
    round them. Nothing is copied from the host: a 0-d CPU position beside a GPU network must be moved there
    by the caller.

    Args:
        position: any shape, also fractional; the published networks pass an integer step index.
        dim: size of the embedding, even and at least 4.
        max_period: the slowest wave has the period `2 * pi * max_period`.

    Returns:
        `[*position.shape, dim]`, float64 if `position` is float64, else float32.

    Raises:
        ValueError: if `dim` is odd or smaller than 4.

    Reference: Vaswani et al. 2017, section 3.5; Ho et al. 2020, appendix B.
    """
    if dim < 4 or dim % 2:
        raise ValueError(f"dim must be even and at least 4, got {dim}")
    half = dim // 2
    position = position.to(torch.promote_types(position.dtype, torch.float32))
    index = torch.arange(half, dtype=position.dtype, device=position.device)
    angle = position[..., None] * torch.exp(index * (-math.log(max_period) / (half - 1)))
    return torch.cat((angle.sin(), angle.cos()), dim=-1)
