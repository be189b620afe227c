r"""Training a source-filter vocoder: the one recipe behind the command and the shipped weights.

The loss compares the magnitudes |X_r| of spectra of several window lengths r, and mel spectra, of the recording x and
of what the vocoder makes of it, y:

    L = mean_r [ || |X_r| - |Y_r| || / || X_r ||  +  mean | ln |X_r| - ln |Y_r| | ]  +  mean |mel(x) - mel(y)|,

spectral convergence, log magnitude (Arik, Jun and Diamos 2019; Yamamoto, Song and Kim 2020, "Parallel WaveGAN") and
log-mel distance. No adversary: hiss that must be near to other hiss on average comes out up to 2 dB too weak, but the
steps of agreement, which follow when the vocoder is used, put that right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from degauss.audio import pitch, waves
from degauss.audio.source_filter import (
    SourceFilter,
    SourceFilterConfig,
    continued,
    frame_phase,
    pulses,
    rendered,
)
from degauss.audio.spectra import MelConfig, log_mel, stft
from degauss.core.errors import InputError, check_range
from degauss.core.noise import Noise
from degauss.core.train import TrainConfig, train

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")

_QUIETEST = -24.0  # dB, of the random gains of training
_SILENT = 1e-5  # smallest magnitude that a logarithm is taken of, of a wave through a window of sum 1
_EDGE = 2  # frames at either end of a crop that its loss leaves out


# --- data ---------------------------------------------------------------------------------------------------


class Recording(NamedTuple):
    """Sound with a peak of 1, ``wave [hop (frames - 1)]``, its ``mel [n_mels, frames]`` and ``f0 [frames]`` (Hz)."""

    wave: Tensor
    mel: Tensor
    f0: Tensor


def recording(samples: Tensor, config: MelConfig, frames: int = 0) -> Recording:
    """What training needs of ``samples [n]``, scaled to a peak of 1; silence is added to make at least ``frames``."""
    n = max(-(-len(samples) // config.hop), frames - 1) * config.hop
    wave = F.pad(samples / samples.abs().max().clamp_min(1e-9), (0, n - len(samples)))
    return Recording(wave, log_mel(wave, config), pitch.f0(wave, config.rate, config.hop))


def sounds(folder: Path) -> list[Path]:
    """The sound files under a folder, sorted. `InputError` if it is none or has none."""
    if not folder.is_dir():
        raise InputError(f"{folder}: is not a folder; expected one with sound files.")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise InputError(f"{folder}: holds no sound file; expected {', '.join(SUFFIXES)}.")
    return found


def load_recordings(
    paths: Sequence[Path], config: MelConfig, frames: int, report: Callable[[int, int], None] | None = None
) -> list[Recording]:
    """Read files, resampled and mixed to one channel. Raises `InputError` for one that is no sound, or is silent.

    ``report`` is told (files done, files in all).
    """
    made: list[Recording] = []
    for number, path in enumerate(paths, start=1):
        wave = waves.read(path)
        waves.check_audible(wave, path)
        made.append(recording(waves.mono(waves.resample(wave, config.rate)), config, frames))
        if report is not None:
            report(number, len(paths))
    return made


class Batch(NamedTuple):
    """Crops: ``mel [batch, n_mels, frames]``, ``f0`` and f0 ``pitch`` continued ``[batch, frames]``, ``wave``."""

    mel: Tensor
    f0: Tensor
    pitch: Tensor
    wave: Tensor


@dataclass(frozen=True, eq=False)
class RandomCrops:
    """Sample numbers -> crops of ``frames`` mel frames, at random gains: every place of every recording alike.

    A gain g <= 1 turns a log-mel spectrogram m into max(m + ln g, ln floor), so nothing is computed anew. Raises
    `InputError` without recordings, ValueError for one that is shorter than a crop.
    """

    recordings: Sequence[Recording]
    config: MelConfig
    frames: int = 64
    seed: int = 0
    _ends: NDArray[np.int64] = field(init=False, repr=False)
    _pitch: list[Tensor] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.recordings:
            raise InputError("there is no recording to train on.")
        counts = np.array([len(one.f0) - self.frames + 1 for one in self.recordings])
        if counts.min() < 1:
            raise ValueError(f"a recording has {counts.min() + self.frames - 1} frames, fewer than {self.frames}")
        object.__setattr__(self, "_ends", np.cumsum(counts))
        object.__setattr__(self, "_pitch", [continued(one.f0) for one in self.recordings])

    def __call__(self, samples: Sequence[int]) -> Batch:
        u = Noise(self.seed, samples).uniform(torch.empty(len(samples), 2, dtype=torch.float64)).numpy()
        places = (u[:, 0] * self._ends[-1]).astype(np.int64)
        which = np.searchsorted(self._ends, places, side="right")
        gains = 10 ** (_QUIETEST / 20 * u[:, 1])
        crops = [
            self._crop(int(k), int(self._ends[k] - 1 - p), g) for k, p, g in zip(which, places, gains, strict=True)
        ]
        return Batch(*(torch.stack(parts) for parts in zip(*crops, strict=True)))

    def _crop(self, which: int, start: int, gain: float) -> Batch:
        one, hop = self.recordings[which], self.config.hop
        part = slice(start, start + self.frames)
        mel = (one.mel[:, part] + float(np.log(gain))).clamp_min(float(np.log(self.config.floor)))
        wave = one.wave[start * hop : (start + self.frames - 1) * hop] * gain
        return Batch(mel, one.f0[part], self._pitch[which][part], wave)


# --- loss ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SpectralLoss:
    """The loss of the module's head. ``windows``: lengths in samples; each moves by a quarter of itself."""

    config: MelConfig = field(default_factory=MelConfig)
    windows: tuple[int, ...] = (128, 256, 512, 1024, 2048)

    def __call__(self, target: Tensor, made: Tensor) -> Tensor:
        """The loss of ``made``, both ``[batch, n]``: ``[batch]``."""
        terms = [_distance(_magnitude(target, n), _magnitude(made, n)) for n in self.windows]
        mel = (log_mel(target, self.config) - log_mel(made, self.config)).abs().mean((1, 2))
        return torch.stack(terms).mean(0) + mel


def _distance(true: Tensor, made: Tensor) -> Tensor:
    convergence = (true - made).flatten(1).norm(dim=1) / true.flatten(1).norm(dim=1)
    return convergence + (true.log() - made.log()).abs().mean((1, 2))


def _magnitude(wave: Tensor, n: int) -> Tensor:
    """Through windows of ``n`` samples and sum 1, no smaller than -100 dB."""
    z = stft(wave, n, n // 4) * (2 / n)
    # Not abs(): the gradient of a square root at 0 is infinite.
    return (z.real.square() + z.imag.square()).clamp_min(_SILENT**2).sqrt()


@dataclass(frozen=True)
class VocoderLoss:
    """What `degauss.core.train.train` is given: the network, a `Batch` and its noise -> losses ``[batch]``."""

    config: SourceFilterConfig
    spectral: SpectralLoss

    def __call__(self, network: nn.Module, batch: Batch, noise: Noise) -> Tensor:
        mel, hop = self.config.mel, self.config.mel.hop
        filters = network(batch.mel, batch.f0, batch.pitch)
        # Where on a wave the pulses begin is arbitrary.
        begin = noise.uniform(batch.pitch.new_empty(len(batch.pitch), 1))
        pulse = pulses(batch.pitch, frame_phase(batch.pitch, mel.rate, hop) + begin, mel.rate, hop)
        made = rendered(filters, pulse, noise.normal(batch.wave), self.config.filter_hop)
        inner = slice(_EDGE * hop, batch.wave.shape[-1] - _EDGE * hop)
        return self.spectral(batch.wave[:, inner], made[:, inner])


# --- runs ---------------------------------------------------------------------------------------------------


def recipe(
    out: Path,
    *,
    steps: int,
    batch: int = 8,
    lr: float = 2e-3,
    seed: int = 0,
    device: Literal["auto", "cpu"] = "auto",
    tracker: Literal["tensorboard"] | None = None,
) -> TrainConfig:
    """How a vocoder is trained, in the directory ``out``; `InputError` for a value out of its range."""
    return TrainConfig(
        out=out,
        steps=steps,
        batch_size=batch,
        lr=lr,
        warmup=min(100, steps // 10),
        betas=(0.8, 0.99),
        weight_decay=1e-2,
        ema=0.999,
        seed=seed,
        save_every=500,
        log_every=50,
        tracker=tracker,
        device=device,
    )


def fit(
    config: SourceFilterConfig,
    recordings: Sequence[Recording],
    settings: TrainConfig,
    frames: int = 64,
) -> SourceFilter:
    """Train on recordings of at least ``frames`` frames, write the model to ``out/model``, and return it, frozen.

    A run that was stopped goes on; see `degauss.core.train` for what it raises.
    """
    check_range("frames", frames, 2 * _EDGE + 8)
    model = SourceFilter.new(config, settings.seed)
    loss = VocoderLoss(config, SpectralLoss(config.mel))
    result = train(model.network, loss, RandomCrops(recordings, config.mel, frames, settings.seed), settings)
    model.save(settings.out / "model", result.weights)
    return SourceFilter.load(settings.out / "model")
