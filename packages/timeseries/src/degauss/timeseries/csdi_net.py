r"""The network of CSDI: attention along time and along features, conditioned on what is known.

A window is ``[length, features]``. The network sees what is known of it, the noisy rest, the diffusion step, and *side
information*: where in time and in which feature a value stands, and whether it is known. Each residual block is

    y = Feature(Time(x + p_step)),    [g, f] = W_mid y + W_side s,    [r, k] = W_out (sigmoid(g) tanh(f)),
    x <- (x + r) / sqrt(2),           the block gives k to the sum from which the head reads,

with one transformer layer along each axis. The side information s = [time, feature, known] is a sum over its parts
after W_side, so its projection costs three small products instead of one large one, and since it does not depend on
the noisy values, a sampling run projects it once.

Parameters have the published names; the published 1x1 convolutions are linear layers here, of the same weights.

Reference: Tashiro et al. 2021, "CSDI: Conditional Score-based Diffusion Models for Probabilistic Time Series
Imputation" (NeurIPS), section 6.1 and appendix E.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from degauss.core.errors import InputError, check_range


@dataclass(frozen=True)
class CSDIConfig:
    """What a CSDI model is; the defaults are the published ones for PhysioNet 2012.

    ``features``, ``length``: the shape of a window. ``steps``, ``beta_first``, ``beta_last``: the diffusion, whose
    betas have evenly spaced square roots. ``channels``: width of the residual stream. ``heads``: of each attention;
    they divide the channels. ``feedforward``: inner width of a transformer layer. The embeddings are of the
    diffusion step, the place in time and the feature. ``dropout``: inside the transformer layers.
    """

    features: int = 35
    length: int = 48
    steps: int = 50
    beta_first: float = 1e-4
    beta_last: float = 0.5
    channels: int = 64
    layers: int = 4
    heads: int = 8
    feedforward: int = 64
    step_embedding: int = 128
    time_embedding: int = 128
    feature_embedding: int = 16
    dropout: float = 0.1

    def __post_init__(self) -> None:
        sizes = ("features", "length", "steps", "channels", "layers", "heads", "feedforward", "feature_embedding")
        for name in sizes:
            check_range(name, getattr(self, name), 1)
        for name in ("step_embedding", "time_embedding"):
            check_range(name, getattr(self, name), 4)
            if getattr(self, name) % 2:
                raise InputError(f"{name} must be even, but is {getattr(self, name)}.")
        check_range("dropout", self.dropout, 0, 1)
        if self.channels % self.heads:
            raise InputError(f"channels must be a multiple of heads {self.heads}, but is {self.channels}.")
        if not 0 < self.beta_first <= self.beta_last < 1:
            raise InputError(f"betas must rise inside (0, 1), but go from {self.beta_first} to {self.beta_last}.")


class CSDINet(nn.Module):
    """``(x, t, known, mask) -> [batch, length, features]``, the noise in x.

    ``sides``: what `sides` gave for this mask, computed here where it is not given. A batch of 1 in ``known``,
    ``mask`` and ``sides`` serves every row of x.
    """

    def __init__(self, config: CSDIConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.channels
        self.embed_layer = nn.Embedding(config.features, config.feature_embedding)
        self.diffusion_embedding = StepEmbedding(config.steps, config.step_embedding)
        self.input_projection = _pointwise(2, channels)
        self.residual_layers = nn.ModuleList(ResidualBlock(config) for _ in range(config.layers))
        self.output_projection1 = _pointwise(channels, channels)
        self.output_projection2 = _pointwise(channels, 1)
        nn.init.zeros_(self.output_projection2.weight)

    def forward(
        self, x: Tensor, t: Tensor, known: Tensor, mask: Tensor, sides: tuple[Tensor, ...] | None = None
    ) -> Tensor:
        """x ``[batch, length, features]``; t ``[batch]`` or 0-d in (0, 1], step i of T at (i + 1) / T.

        ``known``: values in model units, read only where ``mask`` is 1 (it is 0 elsewhere), both in the shape of x.
        """
        step = self.diffusion_embedding(t.to(x.device).reshape(-1))
        pair = torch.stack((*torch.broadcast_tensors(mask * known, (1 - mask) * x),), dim=-1)
        stream = F.relu(self.input_projection(pair))
        total = torch.zeros_like(stream)
        for block, side in zip(self.residual_layers, self.sides(mask) if sides is None else sides, strict=True):
            stream, skip = block(stream, step, side)
            total = total + skip
        head = F.relu(self.output_projection1(total / math.sqrt(self.config.layers)))
        return self.output_projection2(head)[..., 0]

    def sides(self, mask: Tensor) -> tuple[Tensor, ...]:
        """The side information of a mask ``[batch, length, features]``, projected for each block.

        Each ``[batch, length, features, 2 channels]``: the same for every step of the diffusion.
        """
        place = torch.arange(mask.shape[1], device=mask.device)
        time = interleaved(place, self.config.time_embedding).to(mask.dtype)
        widths = (self.config.time_embedding, self.config.feature_embedding, 1)
        sides: list[Tensor] = []
        for block in self.residual_layers:
            layer: nn.Linear = block.cond_projection  # pyright: ignore[reportAssignmentType]
            of_time, of_feature, of_mask = layer.weight.split(widths, dim=1)
            fixed = (time @ of_time.T)[:, None] + self.embed_layer.weight @ of_feature.T + layer.bias
            sides.append(fixed + mask[..., None] * of_mask[:, 0])
        return tuple(sides)


class ResidualBlock(nn.Module):
    """``(x [batch, length, features, channels], step, side) -> (x, skip)``; see the module."""

    def __init__(self, config: CSDIConfig) -> None:
        super().__init__()
        channels = config.channels
        side = config.time_embedding + config.feature_embedding + 1
        self.diffusion_projection = nn.Linear(config.step_embedding, channels)
        self.cond_projection = _pointwise(side, 2 * channels)  # applied in `CSDINet.sides`
        self.mid_projection = _pointwise(channels, 2 * channels)
        self.output_projection = _pointwise(channels, 2 * channels)
        self.time_layer = Encoder(config)
        self.feature_layer = Encoder(config)

    def forward(self, x: Tensor, step: Tensor, side: Tensor) -> tuple[Tensor, Tensor]:
        y = x + self.diffusion_projection(step)[:, None, None]
        # The published network leaves out an axis of length one, along which attention would have nothing to mix.
        if x.shape[1] > 1:
            y = self.time_layer(y.transpose(1, 2)).transpose(1, 2)
        if x.shape[2] > 1:
            y = self.feature_layer(y)
        gate, value = (self.mid_projection(y) + side).chunk(2, dim=-1)
        # tanh(h) = 2 sigmoid(2 h) - 1, and sigmoid is several times cheaper than tanh on a CPU.
        gated = torch.sigmoid(gate) * (2 * torch.sigmoid(2 * value) - 1)
        residual, skip = self.output_projection(gated).chunk(2, dim=-1)
        return (x + residual) / math.sqrt(2), skip


class StepEmbedding(nn.Module):
    """Times ``[n]`` in (0, 1] -> ``[n, dim]``: sines and cosines of the step, then two layers.

    The published frequencies run from 1 to 10^4 radians a step, so the table means nothing between whole steps:
    a time is rounded to the nearest one, and a sampler's grid should lie on them.
    """

    embedding: Tensor

    def __init__(self, steps: int, dim: int) -> None:
        super().__init__()
        half = dim // 2
        # In float32 as published: the fastest waves turn so often that float64 would give other numbers.
        frequency = 10.0 ** (torch.arange(half) / (half - 1) * 4.0)
        angle = torch.arange(steps)[:, None] * frequency
        self.register_buffer("embedding", torch.cat((angle.sin(), angle.cos()), dim=1), persistent=False)
        self.projection1 = nn.Linear(dim, dim)
        self.projection2 = nn.Linear(dim, dim)

    def forward(self, t: Tensor) -> Tensor:
        steps = len(self.embedding)
        step = torch.round(t * steps).long().clamp(1, steps) - 1
        return F.silu(self.projection2(F.silu(self.projection1(self.embedding[step]))))


class Encoder(nn.Module):
    """A transformer of one layer along the last axis but one: ``[..., n, channels]`` to the same shape."""

    def __init__(self, config: CSDIConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList([EncoderLayer(config)])

    def forward(self, x: Tensor) -> Tensor:
        return self.layers[0](x)


class EncoderLayer(nn.Module):
    """Attention and a feed-forward part, each with a residual and a LayerNorm after it (Vaswani et al. 2017)."""

    def __init__(self, config: CSDIConfig) -> None:
        super().__init__()
        channels = config.channels
        self.self_attn = Attention(channels, config.heads, config.dropout)
        self.linear1 = nn.Linear(channels, config.feedforward)
        self.linear2 = nn.Linear(config.feedforward, channels)
        self.norm1 = nn.LayerNorm(channels)
        self.norm2 = nn.LayerNorm(channels)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x + self.dropout(self.self_attn(x)))
        inner = self.dropout(F.gelu(self.linear1(x)))
        return self.norm2(x + self.dropout(self.linear2(inner)))


class Attention(nn.Module):
    """Multi-head self-attention ``[..., n, channels]``, with the parameters of ``nn.MultiheadAttention``.

    That class is two and a half times slower to train on a CPU at these sizes.
    """

    def __init__(self, channels: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * channels, channels))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * channels))
        self.out_proj = nn.Linear(channels, channels)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        n, channels = x.shape[-2:]
        parts = F.linear(x, self.in_proj_weight, self.in_proj_bias).view(-1, n, 3, self.heads, channels // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        return self.out_proj(mixed.transpose(1, 2).reshape(x.shape))


def interleaved(place: Tensor, dim: int) -> Tensor:
    """``[n]`` -> ``[n, dim]``: sin(w_k p) and cos(w_k p) in turn, w_k = 10000^(-2k / dim), k < dim / 2."""
    k = torch.arange(0, dim, 2, device=place.device)
    angle = place[:, None] / 10_000.0 ** (k / dim)
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1)


def _pointwise(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.kaiming_normal_(layer.weight)
    return layer
