r"""DiffSinger's denoising network: a non-causal WaveNet over mel frames, told the noise level and a condition.

For a noisy mel x ``[batch, mels, frames]``, a step embedding e and a condition c ``[batch, condition, frames]``

    h_0 = relu(W_in x),    [gate, filter] = D_l(h_l + W_t e) + W_c c,    [r, k_l] = W_o (sigmoid(gate) tanh(filter)),
    h_{l+1} = (h_l + r) / sqrt(2),    out = W_2 relu(W_1 sum_l k_l / sqrt(L)),

with D_l a convolution of width 3 whose dilation is 2^(l mod cycle), and W_2 zero at first: a new network says 0.

The condition's part W_c c does not depend on x, so a sampling run computes it once, for all layers in one product
(`WaveNet.project`). In a straightforward network it is a fifth of every step's multiplications.

Parameters have the published names where the published network has such a parameter. Two are joined here: the
conditioners of all layers are rows of one ``conditioner_projection``, the step projections of one
``diffusion_projection``.

Reference: Liu et al. 2022, "DiffSinger: Singing Voice Synthesis via Shallow Diffusion Mechanism" (AAAI), section 3.3
and appendix; van den Oord et al. 2016, "WaveNet"; Kong et al. 2021, "DiffWave".
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from degauss.core.errors import InputError, check_range
from degauss.core.nets.embedding import sinusoidal


@dataclass(frozen=True)
class WaveNetConfig:
    """The sizes of the network; the published ones are 80, 256, 256, 20 layers and a cycle of 1 (4 for singing).

    ``mels``: rows of a mel. ``condition``: channels of the condition. ``cycle``: layers until the dilation is 1 again.
    ``steps``: T, the whole steps of the diffusion; t = (i + 1) / T is embedded as the published step index i.
    """

    mels: int = 80
    condition: int = 128
    channels: int = 128
    layers: int = 10
    cycle: int = 1
    steps: int = 100

    def __post_init__(self) -> None:
        for name in ("mels", "condition", "layers", "cycle", "steps"):
            check_range(name, getattr(self, name), 1)
        check_range("channels", self.channels, 4)
        if self.channels % 2:
            raise InputError(f"channels must be even, but is {self.channels}.")


class WaveNet(nn.Module):
    """``(x [batch, mels, frames], t, projected, inside) -> [batch, mels, frames]``; see the module."""

    def __init__(self, config: WaveNetConfig) -> None:
        super().__init__()
        self.config = config
        channels, layers = config.channels, config.layers
        self.input_projection = _pointwise(config.mels, channels)
        self.mlp = nn.Sequential(nn.Linear(channels, 4 * channels), nn.Mish(), nn.Linear(4 * channels, channels))
        self.diffusion_projection = nn.Linear(channels, layers * channels)
        self.conditioner_projection = nn.Conv1d(config.condition, layers * 2 * channels, 1)
        self.residual_layers = nn.ModuleList(
            ResidualLayer(channels, 2 ** (layer % config.cycle)) for layer in range(layers)
        )
        self.skip_projection = _pointwise(channels, channels)
        self.output_projection = _pointwise(channels, config.mels)
        nn.init.zeros_(self.output_projection.weight)

    def project(self, condition: Tensor) -> tuple[Tensor, ...]:
        """The condition ``[batch, condition, frames]`` as each layer adds it, ``[batch, 2 channels, frames]``.

        The same at every step of a run. The layers' convolutions lend their biases, so that a step adds once.
        """
        weight = self.conditioner_projection.weight
        lent = torch.cat([layer.dilated_conv.bias for layer in self._layers()])  # pyright: ignore[reportArgumentType]
        projected = F.conv1d(condition, weight, self.conditioner_projection.bias + lent)  # pyright: ignore[reportOptionalOperand]
        return tuple(part.contiguous() for part in projected.chunk(self.config.layers, dim=1))

    def forward(self, x: Tensor, t: Tensor, projected: tuple[Tensor, ...], inside: Tensor | None = None) -> Tensor:
        """x ``[batch, mels, frames]``, t in [0, 1], 0-d or ``[batch]``; ``projected``: what `project` gave.

        ``inside`` ``[batch, 1, frames]`` is 1 on frames and 0 on padding, None where there is no padding. What lies
        in the padding changes nothing inside; it comes out arbitrary.
        """
        steps = self._steps(t.to(x).reshape(-1))
        h = F.relu(self.input_projection(x))
        total: Tensor | None = None
        for layer, step, part in zip(self._layers(), steps, projected, strict=True):
            h, skip = layer(h, step, part, inside)
            total = skip if total is None else total + skip
        assert total is not None
        head = F.relu(self.skip_projection(total / math.sqrt(self.config.layers)))
        return self.output_projection(head)

    def _steps(self, t: Tensor) -> tuple[Tensor, ...]:
        """The embedding of the times ``[batch or 1]`` as each layer adds it, ``[batch or 1, channels, 1]``."""
        index = t * self.config.steps - 1
        embedding = self.mlp(sinusoidal(index, self.config.channels).to(t.dtype))
        return self.diffusion_projection(embedding)[..., None].chunk(self.config.layers, dim=1)

    def _layers(self) -> list[ResidualLayer]:
        return list(self.residual_layers)  # pyright: ignore[reportReturnType]


class ResidualLayer(nn.Module):
    """``(h [batch, channels, frames], step, projected, inside) -> (h, skip)``; see the module."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.dilated_conv = nn.Conv1d(channels, 2 * channels, 3, padding=dilation, dilation=dilation)
        nn.init.kaiming_normal_(self.dilated_conv.weight)
        self.output_projection = _pointwise(channels, 2 * channels)

    def forward(self, h: Tensor, step: Tensor, projected: Tensor, inside: Tensor | None) -> tuple[Tensor, Tensor]:
        # The convolution must see zeros beyond the end, as it does where an utterance is alone.
        told = h + step if inside is None else (h + step) * inside
        conv = self.dilated_conv
        mixed = F.conv1d(told, conv.weight, None, padding=conv.padding, dilation=conv.dilation).add_(projected)
        gate, value = mixed.chunk(2, dim=1)
        # tanh(v) = 2 sigmoid(2 v) - 1, and sigmoid is several times cheaper than tanh on a CPU.
        gate = torch.sigmoid(gate)
        gated = torch.addcmul(gate.neg(), gate, torch.sigmoid(2 * value), value=2)
        out = self.output_projection
        # A product is faster than the convolution of width 1 that it is.
        weight = out.weight[:, :, 0].expand(len(gated), -1, -1)
        both = torch.baddbmm(out.bias[:, None], weight, gated)  # pyright: ignore[reportOptionalSubscript]
        residual, skip = both.chunk(2, dim=1)
        return (h + residual) * math.sqrt(0.5), skip


def _pointwise(inputs: int, outputs: int) -> nn.Conv1d:
    layer = nn.Conv1d(inputs, outputs, 1)
    nn.init.kaiming_normal_(layer.weight)
    return layer
