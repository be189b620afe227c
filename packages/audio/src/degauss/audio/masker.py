r"""A recurrent predictive network: for each bin of each frame, how much of it is speech.

    D(y) = m(|y|) y,   0 <= m <= 1,

the mask m from the logarithms of the magnitudes, each frame normalised by itself, so that it does not hear how loud a
recording is: a layer, recurrent layers that read the sound from both ends, two layers. The phase stays that of the
noise. It learns in minutes on one core of a CPU what NCSN++ learns in hours: its work is in matrices, and it need not
learn to repeat what it hears.

References: Braun & Tashev 2020, "Data Augmentation and Loss Normalization for Deep Noise Suppression" (SPECOM), NSNet2,
which reads from one end only.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from degauss.audio.spectra import magnitudes
from degauss.core.errors import check_range

MASK_LOSS = 0.7
"""The share of a mask's loss that compares magnitudes alone: its phase is that of the noise, and cannot be mended
(Braun & Tashev 2021, "A Consolidated View of Loss Functions for Supervised Deep Learning-based Speech Enhancement").
"""

# What is added to magnitudes before their logarithm: what is that faint is heard as silence.
_FAINT = 1e-3


@dataclass(frozen=True)
class MaskerConfig:
    """The size of a network. ``width``: of its layers, in each direction; ``layers``: how many are recurrent."""

    width: int = 160
    layers: int = 2

    def __post_init__(self) -> None:
        check_range("width", self.width, 1)
        check_range("layers", self.layers, 1)


class Masker(nn.Module):
    """Compressed spectra ``[b, 2, bins, frames]`` -> the same, masked."""

    def __init__(self, config: MaskerConfig, bins: int) -> None:
        super().__init__()
        width = config.width
        self.enter = nn.Sequential(nn.LayerNorm(bins), nn.Linear(bins, width), nn.ReLU())
        self.recurrent = nn.GRU(width, width, config.layers, batch_first=True, bidirectional=True)
        self.leave = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, bins), nn.Sigmoid())

    def forward(self, y: Tensor) -> Tensor:
        heard = (magnitudes(y) + _FAINT).log().transpose(1, 2)
        h, _ = self.recurrent(self.enter(heard))
        return y * self.leave(h).transpose(1, 2)[:, None]
