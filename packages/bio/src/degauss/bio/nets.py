r"""Networks that see a partly masked sequence and answer with logits for every position.

``net(x, t, label=None)``: x is tokens ``[batch, length]`` (int64, the mask is V) or weights ``[batch, length, V + 1]``
over the symbols, for gradients through soft states; a token is its one-hot row, to the bit. The answer is
``[batch, length, V]``.

**No time.** What absorbing corruption leaves to predict does not depend on t: p(x_0 | x_t) is a function of the tokens
that are there (Ou et al. 2024, theorem 1). So t is taken and not looked at; bounds and exact likelihoods hold as they
stand, and a state that did not change need not be evaluated again.

**Labels.** Class numbers 0, ..., classes - 1, 0-d or ``[batch]``; the number ``classes``, or None, is no class, which
is what classifier-free guidance learns by dropping labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class ConvNetConfig:
    """The dilated convolutional network of DRAKES (Wang et al. 2025) and Dirichlet flow matching (Stark et al. 2024).

    The published one has width 128 and its five dilations four times over (3 million weights). One layer sees
    (kernel - 1) / 2 x dilation letters to either side.
    """

    width: int = 128
    kernel: int = 9
    dilations: tuple[int, ...] = (1, 1, 4, 16, 64) * 4
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.width < 1 or self.kernel < 1 or self.kernel % 2 == 0 or not self.dilations or min(self.dilations) < 1:
            raise ValueError(f"width and dilations must be at least 1 and the kernel odd, got {self}")

    def build(self, vocabulary: int, length: int, classes: int) -> ConvNet:
        """The network for sequences over ``vocabulary`` letters; it takes any length."""
        del length
        return ConvNet(self, vocabulary, classes)


@dataclass(frozen=True)
class TransformerConfig:
    """A small diffusion transformer (Peebles and Xie 2023) with rotary positions (Su et al. 2021)."""

    width: int = 128
    depth: int = 4
    heads: int = 4
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if min(self.width, self.depth, self.heads) < 1 or self.width % (2 * self.heads):
            raise ValueError(f"the width must be a multiple of twice the heads, got {self}")

    def build(self, vocabulary: int, length: int, classes: int) -> Transformer:
        """The network for sequences of ``length`` over ``vocabulary`` letters."""
        return Transformer(self, vocabulary, length, classes)


NetConfig = ConvNetConfig | TransformerConfig


class ConvNet(nn.Module):
    r"""h <- h + relu(conv(norm(h + class))), over layers of growing dilation; then two layers that see one position."""

    def __init__(self, config: ConvNetConfig, vocabulary: int, classes: int = 0) -> None:
        super().__init__()
        self.vocabulary, self.classes = vocabulary, classes
        width, layers = config.width, len(config.dilations)
        self.inward = _convolution(vocabulary + 1, width, config.kernel, 1)
        self.convolutions = nn.ModuleList(_convolution(width, width, config.kernel, d) for d in config.dilations)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(layers))
        self.label = nn.Embedding(classes + 1, layers * width)
        self.register_buffer("no_class", torch.tensor(classes), persistent=False)
        self.dropout = nn.Dropout(config.dropout)
        self.outward = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, vocabulary))
        nn.init.zeros_(self.label.weight)

    def forward(self, x: Tensor, t: Tensor | None = None, label: Tensor | None = None) -> Tensor:
        del t
        h = F.relu(self.inward(symbol_weights(x, self.vocabulary).transpose(1, 2))).transpose(1, 2)
        shifts = self.label(self.no_class if label is None else label).chunk(len(self.norms), -1)
        for convolution, norm, shift in zip(self.convolutions, self.norms, shifts, strict=True):
            inner = self.dropout(norm(h + shift[..., None, :]))
            h = h + F.relu(convolution(inner.transpose(1, 2))).transpose(1, 2)
        return self.outward(h)


class Transformer(nn.Module):
    """Attention blocks whose scales and shifts come from the class (adaptive layer norm, zero at the start).

    Rotary positions tell letters apart by their distance only, and where all is masked not at all; what belongs to a
    fixed place, such as the start of a promoter, is learned by an embedding of each place.
    """

    def __init__(self, config: TransformerConfig, vocabulary: int, length: int, classes: int = 0) -> None:
        super().__init__()
        self.vocabulary, self.length, self.classes = vocabulary, length, classes
        self.inward = nn.Linear(vocabulary + 1, config.width, bias=False)
        self.place = nn.Parameter(torch.randn(length, config.width) * 0.02)
        self.label = nn.Embedding(classes + 1, config.width)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.depth))
        self.modulate = _zero_linear(config.width, 2 * config.width)
        self.norm = nn.LayerNorm(config.width, elementwise_affine=False)
        self.outward = nn.Linear(config.width, vocabulary)
        self.register_buffer("no_class", torch.tensor(classes), persistent=False)
        self.register_buffer("turns", rotations(length, config.width // config.heads), persistent=False)

    def forward(self, x: Tensor, t: Tensor | None = None, label: Tensor | None = None) -> Tensor:
        del t
        if x.shape[1] != self.length:
            raise ValueError(f"this network takes {self.length} positions, got {x.shape[1]}")
        h = self.inward(symbol_weights(x, self.vocabulary)) + self.place
        condition = F.silu(self.label(self.no_class if label is None else label))[..., None, :]
        for block in self.blocks:
            h = block(h, condition, self.turns)
        shift, scale = self.modulate(condition).chunk(2, -1)
        return self.outward(self.norm(h) * (1 + scale) + shift)


class _Block(nn.Module):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.norms = nn.ModuleList(nn.LayerNorm(width, elementwise_affine=False) for _ in range(2))
        self.modulate = _zero_linear(width, 6 * width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, h: Tensor, condition: Tensor, turns: Tensor) -> Tensor:
        shift, scale, gate, shift_feed, scale_feed, gate_feed = self.modulate(condition).chunk(6, -1)
        h = h + gate * self.dropout(self._attend(self.norms[0](h) * (1 + scale) + shift, turns))
        return h + gate_feed * self.dropout(self.feed(self.norms[1](h) * (1 + scale_feed) + shift_feed))

    def _attend(self, h: Tensor, turns: Tensor) -> Tensor:
        query, key, value = rearrange(
            self.query_key_value(h), "b l (three heads d) -> three b heads l d", three=3, heads=self.heads
        )
        mixed = F.scaled_dot_product_attention(turned(query, turns), turned(key, turns), value)
        return self.mix(rearrange(mixed, "b heads l d -> b l (heads d)"))


def symbol_weights(x: Tensor, vocabulary: int) -> Tensor:
    """Tokens ``[batch, length]`` as one-hot rows ``[batch, length, V + 1]``; weights as they are."""
    if x.is_floating_point():
        return x
    return F.one_hot(x, vocabulary + 1).to(torch.get_default_dtype())


def rotations(length: int, width: int) -> Tensor:
    """Cosines and sines of position / 10000^(2 k / width), ``[2, length, width / 2]``."""
    rate = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angle = torch.arange(length, dtype=torch.float64)[:, None] * rate
    return torch.stack([angle.cos(), angle.sin()]).float()


def turned(x: Tensor, turns: Tensor) -> Tensor:
    """x ``[..., length, width]`` with its two halves as the coordinates of planes, each turned by its angle."""
    cosine, sine = turns
    first, second = x.chunk(2, -1)
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], -1)


def _convolution(inward: int, outward: int, kernel: int, dilation: int) -> nn.Conv1d:
    return nn.Conv1d(inward, outward, kernel, padding=dilation * (kernel // 2), dilation=dilation)


def _zero_linear(inward: int, outward: int) -> nn.Linear:
    layer = nn.Linear(inward, outward)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
