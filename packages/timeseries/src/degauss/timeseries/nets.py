"""Networks for time series.

`S4Net` is the denoiser of TSDiff: gated residual blocks around a two-sided S4 convolution, conditioned on the
diffusion step.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from degauss.core.nets.embedding import sinusoidal
from degauss.core.nets.s4 import S4Kernel, convolve


@dataclass(frozen=True)
class S4NetConfig:
    """Sizes of an `S4Net`; the defaults are those of the published TSDiff.

    Attributes:
        channels: C, the series plus its lagged copies (13 for daily, 11 for hourly data in the paper).
        length: the window length that will be trained on, context plus horizon; others work too.
        hidden: H, width of the residual stream.
        blocks: number of residual blocks.
        state: order of the state space models.
        step_embedding: size of the sinusoidal embedding of the step.
        steps: number T of diffusion steps that the embedding counts: time t is the step `t * T - 1`.
        init_skip: add the input to the output.
        dropout: probability, after the convolution of each block.
    """

    channels: int
    length: int
    hidden: int = 64
    blocks: int = 3
    state: int = 128
    step_embedding: int = 128
    steps: int = 100
    init_skip: bool = True
    dropout: float = 0.0


class S4Block(nn.Module):
    """`h = v + Linear(GELU(S4(LayerNorm(v))))` with `v = x + time`, then the gate `tanh(h) * sigmoid(h)`."""

    def __init__(self, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden)
        self.mix = nn.Linear(hidden, hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, time: Tensor, spectrum: Tensor) -> Tensor:
        """x `[B, L, H]`, time `[B or 1, 1, H]`, spectrum from `S4Kernel` -> `[B, L, H]`."""
        x = x + time
        h = x + self.mix(self.dropout(F.gelu(convolve(self.norm(x), spectrum))))
        # tanh(h) = 2 sigmoid(2 h) - 1, and sigmoid is several times cheaper than tanh on a CPU.
        return (2 * torch.sigmoid(2 * h) - 1) * torch.sigmoid(h)


class S4Net(nn.Module):
    """The TSDiff network: `(x [B, L, C], t [B] or 0-d in (0, 1]) -> [B, L, C]`.

    Each block's output goes through one linear layer into the residual stream and through another into the
    sum from which the head reads. The kernels of all blocks belong to one `S4Kernel` of `blocks * hidden`
    channels and are computed in one go: once per sampling run while the weights are frozen, once per step in
    training.

    Reference: Kollovieh et al. 2023, "Predict, Refine, Synthesize" (TSDiff), appendix. The published network
    also holds weights that never act, an encoder of extra features in each block and the residual layer of
    the last block; they are left out.
    """

    def __init__(self, config: S4NetConfig) -> None:
        super().__init__()
        self.config = config
        hidden, blocks = config.hidden, config.blocks
        self.enter = nn.Linear(config.channels, hidden)
        self.time = nn.Sequential(
            nn.Linear(config.step_embedding, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU()
        )
        self.block_time = nn.Linear(hidden, blocks * hidden)
        self.kernel = S4Kernel(blocks * hidden, config.state, config.length)
        self.blocks = nn.ModuleList(S4Block(hidden, config.dropout) for _ in range(blocks))
        self.residuals = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(blocks - 1))
        self.skips = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(blocks))
        self.head = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, config.channels))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """x `[B, L, C]`, t `[B]`, or 0-d for the whole batch: then the step is embedded once, not B times."""
        step = t.to(x.device).reshape(-1) * self.config.steps - 1
        time = self.time(sinusoidal(step, self.config.step_embedding).to(x.dtype))[:, None]
        times = self.block_time(time).chunk(self.config.blocks, dim=-1)
        spectra = self.kernel(x.shape[-2]).chunk(self.config.blocks)
        stream = F.relu(self.enter(x))
        total = torch.zeros_like(stream)
        for i, block in enumerate(self.blocks):
            h = block(stream, times[i], spectra[i])
            total = total + self.skips[i](h)
            if i + 1 < self.config.blocks:
                stream = stream + self.residuals[i](h)
        out = self.head(total)
        return out + x if self.config.init_skip else out
