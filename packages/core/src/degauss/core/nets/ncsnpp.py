r"""NCSN++, a U-net for any signal of two axes (images, slices of a volume, complex spectra), at any size.

It works on ``[batch, channels, rows, columns]``. Every block is BigGAN's,

    h = conv(act(norm(x)))  (resampled between norm and conv, as is x),  h += W act(embedded noise level),
    y = (shortcut(x) + conv(act(norm(h)))) / sqrt(2),

and the input and the output each have a pyramid of their own: every level of the encoder sees the input at its
resolution, and every level of the decoder adds its part to the output at its resolution. Resampling is by two with the
filter [1, 3, 3, 1], which keeps a constant constant and lets little alias. At the lowest resolution there may be
attention. The noise level, any real number, is embedded by random Fourier features; a network without one (a
predictive model) has no such part. What else it is told, a vector, is embedded by two layers and added there.

With ``patch`` p the whole of this happens on patches: p x p places become the channels of one, and back at the end. At
p = 2 it costs a quarter.

The normalisation is over a whole example, so what the network says of one place depends on all that it is shown, if
little on what is far away: a long signal is cut into chunks at fixed places.

Reference: Song et al. 2021, "Score-Based Generative Modeling through Stochastic Differential Equations" (ICLR),
appendix H; sizes of Lemercier et al. 2023, "StoRM" (IEEE/ACM TASLP), where the signals are complex spectra.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from degauss.core.errors import InputError, check_range

_ROOT_HALF = math.sqrt(0.5)


@dataclass(frozen=True)
class NCSNppConfig:
    """The size of a network.

    ``channels``: width at full resolution; ``multipliers``: of it, one a level, each level at half the resolution of
    the one before; ``blocks``: residual blocks a level (the decoder has one more); ``attention``: at the lowest level;
    ``fourier_scale``: standard deviation of the frequencies that embed the noise level. Published networks take 16,
    which tells apart levels that are very near and so has to learn each by itself; short trainings want about 1.
    ``conditions``: size of the vector that it is told beside the level, 0 for none; ``patch``: the side of the patches
    that it works on, 1 for single places.
    """

    channels: int = 24
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    blocks: int = 1
    attention: bool = True
    fourier_scale: float = 1.0
    conditions: int = 0
    patch: int = 1

    def __post_init__(self) -> None:
        check_range("channels", self.channels, 4)
        check_range("blocks", self.blocks, 1)
        check_range("conditions", self.conditions, 0)
        check_range("patch", self.patch, 1)
        if self.channels % 4:
            raise InputError(f"channels must be a multiple of 4, but is {self.channels}.")
        if not self.multipliers or min(self.multipliers) < 1:
            raise InputError(f"multipliers must be one or more numbers >= 1, but are {self.multipliers}.")
        if not self.fourier_scale > 0:
            raise InputError(f"fourier_scale must be above 0, but is {self.fourier_scale}.")

    @property
    def stride(self) -> int:
        """What rows and columns are padded to a multiple of."""
        return self.patch * 2 ** (len(self.multipliers) - 1)


TINY = NCSNppConfig(channels=16, multipliers=(1, 2, 2), attention=False)
"""About 0.3 million weights."""
SMALL = NCSNppConfig(channels=24)
"""About 1.0 million weights, 4 MB."""
STORM = NCSNppConfig(channels=128, fourier_scale=16.0)
"""StoRM's published size, 27.8 million weights: for a GPU."""


class NCSNpp(nn.Module):
    """``(x [b, inputs, rows, columns], level [b] or 0-d, told [b, conditions]) -> [b, outputs, rows, columns]``.

    ``inputs``, ``outputs``: channels; a complex signal has 2. With ``noisy`` it is given a noise level, any real
    number; without, it is called with x alone. ``told`` may be left out: then nothing is added to the level's
    embedding. It outputs zero before it is trained.

    Raises ValueError for conditions without a level to add them to, and for a ``told`` of another size.
    """

    def __init__(self, config: NCSNppConfig, inputs: int, outputs: int = 2, *, noisy: bool = True) -> None:
        super().__init__()
        if config.conditions and not noisy:
            raise ValueError(f"{config.conditions} conditions are added to a noise level, but the network has none")
        self.config = config
        width = config.channels
        embedding = 4 * width if noisy else 0
        inputs, outputs = inputs * config.patch**2, outputs * config.patch**2
        self.embed = LevelEmbedding(width, config.fourier_scale) if noisy else None
        self.condition = Condition(config.conditions, embedding) if config.conditions else None
        self.first = _conv(inputs, width)
        self.down = nn.ModuleList()
        skips, now = [width], width
        for level, multiplier in enumerate(config.multipliers):
            if level:
                self.down.append(Narrower(now, inputs, embedding))
                skips.append(now)
            for _ in range(config.blocks):
                self.down.append(Block(now, width * multiplier, embedding))
                now = width * multiplier
                skips.append(now)
        self.middle = nn.ModuleList(
            [
                Block(now, now, embedding),
                Attention(now) if config.attention else nn.Identity(),
                Block(now, now, embedding),
            ]
        )
        self.up, self.heads = nn.ModuleList(), nn.ModuleList()
        for level, multiplier in reversed(list(enumerate(config.multipliers))):
            blocks = nn.ModuleList()
            for _ in range(config.blocks + 1):
                blocks.append(Block(now + skips.pop(), width * multiplier, embedding))
                now = width * multiplier
            self.up.append(blocks)
            self.heads.append(Head(now, inputs))
            if level:
                self.up.append(Block(now, now, embedding, resample=Upsample()))
        self.last = _conv(inputs, outputs, size=1)

    def forward(self, x: Tensor, level: Tensor | None = None, told: Tensor | None = None) -> Tensor:
        rows, columns = x.shape[-2:]
        stride = self.config.stride
        x = F.pixel_unshuffle(F.pad(x, (0, -columns % stride, 0, -rows % stride)), self.config.patch)
        embedded = self._embedded(level, told)
        skips = list(self._encode(x, embedded))
        h = skips[-1]
        enter, attend, leave = self.middle
        h = leave(attend(enter(h, embedded)), embedded)
        output: Tensor | None = None
        heads = iter(self.heads)
        for part in self.up:
            if isinstance(part, Block):
                h = part(h, embedded)
                continue
            for block in part.children():
                h = block(torch.cat((h, skips.pop()), dim=1), embedded)
            head = next(heads)(h)
            output = head if output is None else upsample(output) + head
        assert output is not None
        return F.pixel_shuffle(self.last(output), self.config.patch)[..., :rows, :columns]

    def _embedded(self, level: Tensor | None, told: Tensor | None) -> Tensor | None:
        """What every block is given: the level, and what else is told."""
        conditions = self.config.conditions
        if told is not None and told.shape[1:] != (conditions,):
            raise ValueError(f"the network has {conditions} conditions, but is told {tuple(told.shape)}")
        if self.embed is None or level is None:
            return None
        added = None if self.condition is None or told is None else self.condition(told)
        return self.embed(level.reshape(-1), added)

    def _encode(self, x: Tensor, embedded: Tensor | None) -> Iterator[Tensor]:
        """What the encoder leaves for the decoder, one at a time."""
        h = self.first(x)
        yield h
        for part in self.down:
            if isinstance(part, Narrower):
                x = downsample(x)
                h = part(h, x, embedded)
            else:
                h = part(h, embedded)
            yield h


class Block(nn.Module):
    """BigGAN's residual block ``(x [b, inputs, ...], told [b, embedding]) -> [b, outputs, ...]``; see the module."""

    def __init__(self, inputs: int, outputs: int, embedding: int, resample: nn.Module | None = None) -> None:
        super().__init__()
        self.norm1, self.norm2 = _norm(inputs), _norm(outputs)
        self.conv1, self.conv2 = _conv(inputs, outputs), _conv(outputs, outputs, zero=True)
        self.told = _linear(embedding, outputs) if embedding else None
        self.resample = nn.Identity() if resample is None else resample
        # As published, what is resampled has a shortcut with weights too.
        plain = inputs == outputs and resample is None
        self.shortcut = nn.Identity() if plain else _conv(inputs, outputs, size=1)

    def forward(self, x: Tensor, told: Tensor | None) -> Tensor:
        h = self.conv1(self.resample(F.silu(self.norm1(x))))
        if self.told is not None and told is not None:
            h = h + self.told(told)[..., None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return (self.shortcut(self.resample(x)) + h) * _ROOT_HALF


class Narrower(nn.Module):
    """A block that halves the resolution and takes in the input at the new one."""

    def __init__(self, width: int, inputs: int, embedding: int) -> None:
        super().__init__()
        self.block = Block(width, width, embedding, resample=Downsample())
        self.take = _conv(inputs, width, size=1)

    def forward(self, h: Tensor, x: Tensor, told: Tensor | None) -> Tensor:
        return self.block(h, told) + self.take(x)


class Head(nn.Module):
    """What a level of the decoder adds to the output's pyramid; nothing before training."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.norm = _norm(width)
        self.conv = _conv(width, outputs, zero=True)

    def forward(self, h: Tensor) -> Tensor:
        return self.conv(F.silu(self.norm(h)))


class Attention(nn.Module):
    """Attention of one head over all places of ``[b, channels, rows, columns]``, with a residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.project = _linear(channels, 3 * channels)
        self.leave = _linear(channels, channels)
        nn.init.zeros_(self.leave.weight)

    def forward(self, x: Tensor) -> Tensor:
        places = self.norm(x).flatten(2).transpose(1, 2)
        query, key, value = self.project(places).chunk(3, dim=-1)
        mixed = self.leave(F.scaled_dot_product_attention(query, key, value))
        return (x + mixed.transpose(1, 2).reshape(x.shape)) * _ROOT_HALF


class LevelEmbedding(nn.Module):
    """Noise levels ``[b]``, and what is added to them ``[b, 4 width]`` -> ``[b, 4 width]``, already activated."""

    frequency: Tensor

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.register_buffer("frequency", torch.randn(width) * scale)
        self.hidden, self.last = _linear(2 * width, 4 * width), _linear(4 * width, 4 * width)

    def forward(self, level: Tensor, added: Tensor | None = None) -> Tensor:
        angle = 2 * math.pi * level[:, None] * self.frequency
        hidden = self.hidden(torch.cat((angle.sin(), angle.cos()), dim=-1))
        embedded = self.last(F.silu(hidden))
        # Each block wants this activated; here it is done once for all.
        return F.silu(embedded if added is None else embedded + added)


class Condition(nn.Module):
    """What a network is told beside the level, ``[b, conditions]`` -> ``[b, embedding]``."""

    def __init__(self, conditions: int, embedding: int) -> None:
        super().__init__()
        self.hidden, self.last = _linear(conditions, embedding), _linear(embedding, embedding)

    def forward(self, told: Tensor) -> Tensor:
        return self.last(F.silu(self.hidden(told)))


class Downsample(nn.Module):
    """`downsample` as a module."""

    def forward(self, x: Tensor) -> Tensor:
        return downsample(x)


class Upsample(nn.Module):
    """`upsample` as a module."""

    def forward(self, x: Tensor) -> Tensor:
        return upsample(x)


def downsample(x: Tensor) -> Tensor:
    """Half the resolution of ``[b, c, h, w]``, h and w even: filtered with [1, 3, 3, 1] / 8 each way, zero outside."""
    return F.conv2d(x, _filter(x, 1 / 64), stride=2, padding=1, groups=x.shape[1])


def upsample(x: Tensor) -> Tensor:
    """Twice the resolution of ``[b, c, h, w]``: zeros put between, filtered with [1, 3, 3, 1] / 4, zero outside."""
    return F.conv_transpose2d(x, _filter(x, 1 / 16), stride=2, padding=1, groups=x.shape[1])


def _filter(x: Tensor, gain: float) -> Tensor:
    """[1, 3, 3, 1] along both axes, for each channel; made of arange, so that nothing is copied from the host."""
    place = torch.arange(4, dtype=x.dtype, device=x.device)
    line = 1 + 2 * (place * (3 - place) > 0)
    return (gain * line[:, None] * line).to(x.dtype).expand(x.shape[1], 1, 4, 4)


def _norm(channels: int) -> nn.GroupNorm:
    """Groups of four channels, or 32 groups where that is fewer."""
    groups = next(count for count in range(min(channels // 4, 32), 0, -1) if channels % count == 0)
    return nn.GroupNorm(groups, channels, eps=1e-6)


def _conv(inputs: int, outputs: int, size: int = 3, *, zero: bool = False) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, outputs, size, padding=size // 2)
    if zero:
        nn.init.zeros_(layer.weight)
    else:
        nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType]
    return layer


def _linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
