r"""The network of PaD-TS: attention along time and, beside it, attention along features.

A window ``[length, features]`` goes through two channels that do not meet until the end,

    time channel:    tokens are times,     Linear(features -> H) + a learned position,
    feature channel: tokens are features,  Linear(length -> H),

each an encoder of plain pre-norm transformer blocks and then decoder blocks which are told the diffusion step by
adaLN-Zero (Peebles and Xie 2023): with (a1, b1, g1, a2, b2, g2) = Linear(SiLU(step)), zero at the start,

    x <- x + g1 Attention((1 + a1) LN(x) + b1),    x <- x + g2 MLP((1 + a2) LN(x) + b2).

The outputs of a channel's decoder blocks are summed and projected back to the window; the channels' windows are added.

Reference: Li et al. 2025, "Population Aware Diffusion for Time Series Generation" (PaD-TS, AAAI), section 4.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from degauss.core.errors import InputError, check_range
from degauss.core.nets.embedding import sinusoidal


@dataclass(frozen=True)
class PaDTSConfig:
    """What a PaD-TS model is; the defaults are the published ones for Sines and Stocks.

    ``features``, ``length``: the shape of a window. ``hidden``: H, a multiple of ``heads``. ``encoders``, ``decoders``:
    blocks of each channel. ``expansion``: of the MLPs. ``steps``: how many steps the embedding counts from t = 0 to 1.
    """

    features: int
    length: int = 24
    hidden: int = 128
    heads: int = 4
    encoders: int = 1
    decoders: int = 3
    expansion: int = 4
    steps: int = 250

    def __post_init__(self) -> None:
        for name in ("features", "heads", "decoders", "expansion", "steps"):
            check_range(name, getattr(self, name), 1)
        check_range("length", self.length, 2)
        check_range("hidden", self.hidden, 4)
        check_range("encoders", self.encoders, 0)
        if self.hidden % self.heads or self.hidden % 2:
            raise InputError(f"hidden must be even and a multiple of heads {self.heads}, but is {self.hidden}.")


class PaDTSNet(nn.Module):
    """``(x [batch, length, features], t [batch] or 0-d in [0, 1]) -> [batch, length, features]``, the clean window."""

    def __init__(self, config: PaDTSConfig) -> None:
        super().__init__()
        self.config = config
        hidden = config.hidden
        self.step = nn.Sequential(nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU())
        self.position = nn.Parameter(0.02 * torch.randn(config.length, hidden))
        self.along_time = Channel(config.features, config)
        self.along_features = Channel(config.length, config)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        # One time for the whole batch is embedded once, and so are the modulations of every block.
        count = t.to(x.device).reshape(-1) * self.config.steps
        step = self.step(sinusoidal(count, self.config.hidden).to(x.dtype))[:, None]
        by_time = self.along_time(self.along_time.enter(x) + self.position, step)
        by_feature = self.along_features(self.along_features.enter(x.transpose(1, 2)), step)
        return by_time + by_feature.transpose(1, 2)


class Channel(nn.Module):
    """Embedded tokens ``[batch, tokens, H]`` -> ``[batch, tokens, size]``; ``enter`` embeds tokens of that size."""

    def __init__(self, size: int, config: PaDTSConfig) -> None:
        super().__init__()
        self.enter = nn.Linear(size, config.hidden)
        self.encoders = nn.ModuleList(Block(config) for _ in range(config.encoders))
        self.decoders = nn.ModuleList(StepBlock(config) for _ in range(config.decoders))
        self.leave = nn.Linear(config.hidden, size)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, tokens: Tensor, step: Tensor) -> Tensor:
        for block in self.encoders:
            tokens = block(tokens)
        total = torch.zeros_like(tokens)
        for block in self.decoders:
            tokens = block(tokens, step)
            total = total + tokens
        return self.leave(total)


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, config: PaDTSConfig) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(config.hidden), nn.LayerNorm(config.hidden)
        self.attention, self.mlp = Attention(config.hidden, config.heads), _mlp(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class StepBlock(nn.Module):
    """A transformer block whose norms and gates follow the diffusion step (adaLN-Zero): the identity at the start."""

    def __init__(self, config: PaDTSConfig) -> None:
        super().__init__()
        hidden = config.hidden
        self.norm = nn.LayerNorm(hidden, elementwise_affine=False)
        self.attention, self.mlp = Attention(hidden, config.heads), _mlp(config)
        self.modulation = nn.Linear(hidden, 6 * hidden)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, step: Tensor) -> Tensor:
        """x ``[batch, tokens, H]``, step ``[batch or 1, 1, H]``."""
        a1, b1, g1, a2, b2, g2 = self.modulation(step).chunk(6, dim=-1)
        x = x + g1 * self.attention((1 + a1) * self.norm(x) + b1)
        return x + g2 * self.mlp((1 + a2) * self.norm(x) + b2)


class Attention(nn.Module):
    """Self-attention of several heads over ``[batch, tokens, H]``."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.enter = nn.Linear(hidden, 3 * hidden)
        self.leave = nn.Linear(hidden, hidden)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, hidden = x.shape
        parts = self.enter(x).view(batch, tokens, 3, self.heads, hidden // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(parts[0], parts[1], parts[2])
        return self.leave(mixed.transpose(1, 2).reshape(batch, tokens, hidden))


def _mlp(config: PaDTSConfig) -> nn.Sequential:
    wide = config.expansion * config.hidden
    return nn.Sequential(nn.Linear(config.hidden, wide), nn.GELU(approximate="tanh"), nn.Linear(wide, config.hidden))
