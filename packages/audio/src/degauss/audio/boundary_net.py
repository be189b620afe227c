r"""DiffSinger's boundary classifier: can the diffused mel of a recording be told from that of the auxiliary decoder?

M is the mel of a recording, M~ what the auxiliary decoder makes of the same phones and pitch: blurred. Both are
diffused to the same t. The classifier BP(x, t) in (0, 1) learns to say which it sees,

    loss = -log BP(M_t, t) - log(1 - BP(M~_t, t)),

and where the best it can do is a half, t is deep enough in the noise for the two to be one, and a diffusion may start
there from M~ in place of M (Liu et al. 2022, "DiffSinger: Singing Voice Synthesis via Shallow Diffusion Mechanism",
section 3.3 and figure 4). What is made of that is in ``degauss.audio.boundary``.

Here BP is three convolutions over frames that are told t, averaged over the utterance. The two mels of a pair are
diffused with the same noise: the loss has the same mean as with two, and less variance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from degauss.core.denoiser import expand
from degauss.core.errors import InputError, check_range
from degauss.core.nets.embedding import sinusoidal
from degauss.core.noise import Noise
from degauss.core.schedule import Schedule
from degauss.core.train import TrainConfig, train

Classifier = Callable[[Tensor, Tensor], Tensor]
"""(x ``[batch, mels, frames]``, t ``[batch]``) -> the logit of BP, ``[batch]``."""

Batch = tuple[Tensor, Tensor, Tensor]
"""Truth and auxiliary ``[batch, mels, frames]``, and 1 on frames, 0 on padding ``[batch, 1, frames]``."""


class Pair(NamedTuple):
    """The mel of a recording and the auxiliary decoder's, in model units, both ``[mels, frames]``."""

    truth: Tensor
    auxiliary: Tensor


@dataclass(frozen=True)
class BoundaryConfig:
    """The sizes of the classifier. ``mels``: rows of a mel; ``width``: frames that a convolution sees, odd."""

    mels: int = 80
    channels: int = 64
    width: int = 5

    def __post_init__(self) -> None:
        check_range("mels", self.mels, 1)
        check_range("channels", self.channels, 4)
        if self.width % 2 == 0 or self.channels % 2:
            raise InputError(f"width must be odd and channels even, but they are {self.width} and {self.channels}.")


class BoundaryNet(nn.Module):
    """``(x [batch, mels, frames], t [batch], inside) -> [batch]``, the logit that x is a recording's."""

    def __init__(self, config: BoundaryConfig) -> None:
        super().__init__()
        self.config = config
        channels, half = config.channels, config.width // 2
        self.first = nn.Conv1d(config.mels, channels, config.width, padding=half)
        self.second = nn.Conv1d(channels, channels, config.width, padding=half)
        self.third = nn.Conv1d(channels, channels, config.width, padding=half)
        self.told = nn.Linear(channels, 3 * channels)
        self.read = nn.Sequential(nn.Linear(channels, channels), nn.SiLU(), nn.Linear(channels, 1))

    def forward(self, x: Tensor, t: Tensor, inside: Tensor | None = None) -> Tensor:
        """``inside`` ``[batch, 1, frames]``: 1 on frames and 0 on padding; None where there is none."""
        embedding = sinusoidal(1000 * t.reshape(-1).to(x.dtype), self.config.channels).to(x.dtype)
        told = self.told(embedding)[..., None].chunk(3, dim=1)
        kept = torch.ones_like(x[:, :1]) if inside is None else inside
        h = F.silu(self.first(x * kept) + told[0])
        h = h + F.silu(self.second(h * kept) + told[1])
        h = h + F.silu(self.third(h * kept) + told[2])
        return self.read((h * kept).sum(2) / kept.sum(2))[:, 0]


def boundary_loss(network: nn.Module, batch: Batch, noise: Noise, *, schedule: Schedule, steps: int) -> Tensor:
    """The loss above at a random step t = k / steps of 1 to ``steps``, ``[batch]``; 2 log 2 is that of ignorance."""
    truth, auxiliary, inside = batch
    u = noise.uniform(truth.new_empty(len(truth)), draw=0)
    t = (torch.floor(u * steps) + 1).clamp(max=steps) / steps
    alpha, sigma = (expand(scale, truth) for scale in schedule(t))
    eps = sigma * noise.normal(truth, draw=1)
    real, made = (network(alpha * mel + eps, t, inside) for mel in (truth, auxiliary))
    return F.softplus(-real) + F.softplus(made)


@dataclass(frozen=True, eq=False)
class Crops:
    """Sample numbers -> random stretches of random pairs, of ``frames`` frames; shorter pairs are padded with zeros."""

    pairs: Sequence[Pair]
    frames: int
    seed: int = 0

    def __post_init__(self) -> None:
        check_pairs(self.pairs)
        check_range("frames", self.frames, 1)

    def __call__(self, samples: Sequence[int]) -> Batch:
        u = Noise(self.seed, samples).uniform(torch.empty(len(samples), 2, dtype=torch.float64)).tolist()
        mels = self.pairs[0].truth.shape[0]
        batch = (torch.zeros(len(u), mels, self.frames), torch.zeros(len(u), mels, self.frames))
        inside = torch.zeros(len(u), 1, self.frames)
        for row, (which, where) in enumerate(u):
            pair = self.pairs[int(which * len(self.pairs))]
            length = min(self.frames, pair.truth.shape[1])
            start = int(where * (pair.truth.shape[1] - length + 1))
            for mel, out in zip(pair, batch, strict=True):
                out[row, :, :length] = mel[:, start : start + length]
            inside[row, :, :length] = 1
        return *batch, inside


def check_pairs(pairs: Sequence[Pair]) -> None:
    """ValueError unless there are pairs, each of two mels of one shape, with the same number of rows in all."""
    if not pairs:
        raise ValueError("a boundary is fitted to pairs of mels, but there are none")
    for truth, auxiliary in pairs:
        if truth.shape != auxiliary.shape or truth.shape[0] != pairs[0].truth.shape[0] or not truth.shape[1]:
            raise ValueError(f"expected two mels of one shape, got {tuple(truth.shape)} and {tuple(auxiliary.shape)}")


def recipe(out: Path, *, steps: int, batch: int = 32, lr: float = 2e-3, seed: int = 0) -> TrainConfig:
    """How the classifier is trained, in the directory ``out``: a cosine after a short warm-up, averaged weights."""
    return TrainConfig(
        out=out,
        steps=steps,
        batch_size=batch,
        lr=lr,
        warmup=min(50, steps // 10),
        ema=0.99,
        seed=seed,
        tracker=None,
    )


def fit_classifier(
    pairs: Sequence[Pair],
    schedule: Schedule,
    settings: TrainConfig,
    *,
    steps: int,
    frames: int = 128,
    channels: int = 64,
) -> BoundaryNet:
    """Train BP on pairs, in stretches of ``frames``, over the steps 1 to ``steps``; frozen, on the CPU."""
    config = BoundaryConfig(mels=pairs[0].truth.shape[0], channels=channels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = BoundaryNet(config)
    loss = partial(boundary_loss, schedule=schedule, steps=steps)
    result = train(network, loss, Crops(pairs, frames, settings.seed), settings)
    network.cpu().load_state_dict(result.weights)
    return network.eval().requires_grad_(False)
