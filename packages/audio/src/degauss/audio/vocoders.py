r"""From a mel spectrogram and f0 back to sound: three vocoders behind one callable.

    wave [hop (frames - 1)] = vocoder(mel [n_mels, frames], f0 [frames])

``mel`` is what `degauss.audio.spectra.log_mel` gives, with f0 in Hz and 0 where unvoiced, at the same frames. Each
vocoder says in ``config`` which mel spectra it takes. The same input gives the same sound, always.

**Griffin-Lim** needs no f0 and no training; its phases are made up, which is heard as a metallic echo. **World** needs
no training either: a smooth voice, but how much of it is breath is guessed. **Neural** is the
source-filter network of `degauss.audio.source_filter`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from degauss.audio import pitch
from degauss.audio.consistency import agreeing
from degauss.audio.envelope import bands_to_bins, white_level
from degauss.audio.source_filter import SourceFilter
from degauss.audio.spectra import MelConfig, griffin_lim, log_mel, mel_to_magnitude
from degauss.core.errors import InputError
from degauss.core.noise import Noise

Array = NDArray[np.float64]

SHIPPED = Path(__file__).parent / "weights" / "vocoder"
"""The neural vocoder that ships with the package: 16 kHz, the default mel spectra."""

BUILT_IN = ("neural", "world", "griffin-lim")
"""What `open_vocoder` knows by name."""


class Vocoder(Protocol):
    """(mel ``[n_mels, frames]``, f0 ``[frames]``) -> wave ``[hop (frames - 1)]``, for mel spectra of ``config``."""

    @property
    def config(self) -> MelConfig: ...

    def __call__(self, mel: Tensor, f0: Tensor, /) -> Tensor: ...


# --- Griffin-Lim --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GriffinLim:
    """The mel spectrogram inverted by least squares, and phases by the fast Griffin-Lim algorithm; f0 is not used."""

    config: MelConfig = field(default_factory=MelConfig)
    iterations: int = 32
    seed: int = 0

    def __call__(self, mel: Tensor, f0: Tensor, /) -> Tensor:
        _check(mel, f0, self.config)
        magnitude = mel_to_magnitude(mel, self.config)
        return griffin_lim(magnitude, self.config.n_fft, self.config.hop, self.iterations, seed=self.seed)


# --- WORLD --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class World:
    r"""WORLD's synthesis (Morise, Yokomori and Ozawa 2016) from what a mel spectrogram can tell.

    *Envelope.* The mel spectrogram, spread over the bins, still shows the harmonics of a high voice. As in CheapTrick,
    a mean over a width of f0 removes them. It is a mean of magnitudes; WORLD wants the root of a mean power, which for
    harmonics seen through a window with spectrum W (in Hz) is more by sqrt(f0) ||W||_2 / ||W||_1, and for noise by
    sqrt(4 / pi).

    *Aperiodicity.* A mel spectrogram does not say how much of a voiced sound is noise. It is taken to be ``breath``
    below ``low`` Hz, to rise to 1 at ``high`` Hz (on a raised cosine), and to be 1 where f0 is 0. So a creaky,
    breathy or very clear voice comes out less so, and fine detail in time (a frame is the mean of ``n_fft`` samples)
    is lost. `world_resynthesize` shows what WORLD does with an analysis of the sound itself.

    *Agreement.* So many steps of `degauss.audio.consistency` follow, which is most of the quality; 0 is WORLD alone.
    """

    config: MelConfig = field(default_factory=MelConfig)
    breath: float = 0.05
    low: float = 2000.0
    high: float = 10000.0
    agreement: int = 16

    def __call__(self, mel: Tensor, f0: Tensor, /) -> Tensor:
        _check(mel, f0, self.config)
        hertz = f0.detach().cpu().double().numpy()
        n_fft = max(self.config.n_fft, 1024)
        power = self._power(mel.detach().cpu().double().numpy(), hertz, n_fft)
        aperiodicity = np.where(hertz[:, None] > 0, self._breath(n_fft), 1 - 1e-9)
        wave = _synthesized(hertz, power, aperiodicity, self.config.rate, self.config.hop)
        smooth = torch.from_numpy(wave[: self.config.hop * (len(hertz) - 1)]).to(mel)
        return agreeing(smooth, mel, self.config, self.agreement)

    def _power(self, mel: Array, f0: Array, n_fft: int) -> Array:
        """WORLD's spectral envelope, a power density where white noise of variance 1 has 1, ``[frames, bins]``."""
        # Between bands on a line in magnitude, not in its logarithm: the mean is to be kept.
        magnitude = (
            bands_to_bins(self.config, n_fft).numpy() @ np.exp(mel - white_level(self.config).numpy()[:, None])
        ).T
        # At least the window's own resolution, below which harmonics are not seen apart.
        width = np.where(f0 > 0, np.maximum(f0, 2 * self.config.rate / self.config.n_fft), 0.0)
        smooth = _running_mean(magnitude, width * n_fft / self.config.rate)
        comb = np.sqrt(np.maximum(f0, 1.0)) * _window_ratio(self.config) * math.sqrt(math.pi / 4)
        return np.maximum(smooth * np.where(f0 > 0, np.maximum(comb, 1.0), 1.0)[:, None], 1e-8) ** 2

    def _breath(self, n_fft: int) -> Array:
        hertz = np.linspace(0, self.config.rate / 2, n_fft // 2 + 1)
        rise = 0.5 - 0.5 * np.cos(np.pi * np.clip((hertz - self.low) / (self.high - self.low), 0, 1))
        return self.breath + (1 - 1e-9 - self.breath) * rise


def _running_mean(rows: Array, widths: Array) -> Array:
    """The mean of each row ``[frames, bins]`` over so many bins (0: no change) about each; mirrored at both ends."""
    bins = rows.shape[1]
    mirrored = np.concatenate([rows[:, :0:-1], rows, rows[:, -2::-1]], axis=1)
    total = np.concatenate([np.zeros((len(rows), 1)), mirrored.cumsum(1)], axis=1)
    edges = np.arange(total.shape[1], dtype=np.float64)
    middle = np.arange(bins) + bins - 0.5  # of bin 0 in `total`
    out = rows.copy()
    for row in np.flatnonzero(widths > 0):
        half = min(float(widths[row]), bins - 1) / 2
        high, low = (np.interp(middle + side, edges, total[row]) for side in (half, -half))
        out[row] = (high - low) / (2 * half)
    return out


@lru_cache(maxsize=8)
def _window_ratio(config: MelConfig) -> float:
    """||W||_2 / ||W||_1 of the Hann window's spectrum over frequency, in Hz^(-1/2)."""
    window, more = np.hanning(config.n_fft + 1)[:-1], 16
    spectrum = np.abs(np.fft.fft(window, more * config.n_fft))
    step = config.rate / (more * config.n_fft)
    return float(np.sqrt((spectrum**2).sum() * step) / (spectrum.sum() * step))


def world_resynthesize(x: Tensor, rate: int, hop: int = 80) -> Tensor:
    """WORLD's own analysis of ``x [n]`` and its synthesis: what `World` could do if it had heard the sound.

    ``hop``: samples from frame to frame.
    """
    import pyworld

    f0 = pitch.f0(x, rate, hop).double().numpy()
    samples = np.zeros(len(x) + 2 * hop)
    samples[: len(x)] = x.detach().cpu().double().numpy()
    times = np.arange(len(f0)) * hop / rate
    power = pyworld.cheaptrick(samples, f0, times, rate)
    aperiodicity = pyworld.d4c(samples, f0, times, rate)
    return torch.from_numpy(_synthesized(f0, power, aperiodicity, rate, hop)[: len(x)]).to(x)


def _synthesized(f0: Array, power: Array, aperiodicity: Array, rate: int, hop: int) -> Array:
    """WORLD's synthesis, of a few samples more than its frames reach."""
    import pyworld

    # Two more frames, so that WORLD's rounding of the length costs nothing.
    f0, power, aperiodicity = (np.concatenate([part, part[-1:], part[-1:]]) for part in (f0, power, aperiodicity))
    return pyworld.synthesize(f0, power, aperiodicity, rate, 1000 * hop / rate)


# --- neural -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Neural:
    """The source-filter network; ``seed`` decides its hiss. ``chunk``: frames at a time, which bounds the memory."""

    model: SourceFilter
    seed: int = 0
    chunk: int = 1024

    @classmethod
    def load(cls, path: str | Path = SHIPPED, seed: int = 0) -> Neural:
        """A saved vocoder; `InputError` for anything that is not one."""
        return cls(SourceFilter.load(path), seed)

    @property
    def config(self) -> MelConfig:
        return self.model.config.mel

    def __call__(self, mel: Tensor, f0: Tensor, /) -> Tensor:
        _check(mel, f0, self.config)
        return self.model.render(mel.float(), f0, Noise(self.seed, [0]), self.chunk)


# --- any ----------------------------------------------------------------------------------------------------


def open_vocoder(name: str, config: MelConfig | None = None, seed: int = 0) -> Vocoder:
    """The vocoder that a command line names: one of `BUILT_IN`, or the folder of a trained one.

    ``config``: of the mel spectra that it must take; its own, or the default ones, unless given. `InputError` for a
    neural vocoder of other mel spectra, and for a name that is neither.
    """
    if name == "griffin-lim":
        return GriffinLim(config or MelConfig(), seed=seed)
    if name == "world":
        return World(config or MelConfig())
    if name != "neural" and not Path(name).is_dir():
        raise InputError(
            f"there is no vocoder {name!r}; expected {', '.join(BUILT_IN)} or the folder of a trained one."
        )
    path = SHIPPED if name == "neural" else Path(name)
    vocoder = Neural.load(path, seed)
    check_mel(path, vocoder.config, config or vocoder.config)
    return vocoder


def check_mel(path: str | Path, found: MelConfig, wanted: MelConfig) -> None:
    """`InputError`, with both, unless the vocoder at ``path`` takes the mel spectra that are wanted."""
    if found != wanted:
        raise InputError(f"{path}: takes mel spectra of {_spoken(found)}; expected {_spoken(wanted)}.")


def _spoken(config: MelConfig) -> str:
    return (
        f"{config.rate} Hz, n_fft {config.n_fft}, hop {config.hop}, {config.n_mels} bands of {config.f_min:g} to "
        f"{config.f_max:g} Hz, floor {config.floor:g}"
    )


class CopyErrors(NamedTuple):
    """What a vocoder lost: the mean distance of log-mel spectra; of f0, the median error in cents (NaN where no frame
    is voiced in both) and the share of frames where voiced has become unvoiced or the other way round."""

    log_mel: float
    f0_cents: float
    voicing: float


def copy_errors(mel: Tensor, f0: Tensor, wave: Tensor, config: MelConfig) -> CopyErrors:
    """How far ``wave [hop (frames - 1)]``, analysed again, is from the mel spectrogram and f0 it was made from."""
    again = pitch.f0(wave, config.rate, config.hop)
    cents = pitch.cents(again, f0).abs()
    return CopyErrors(
        float((log_mel(wave, config) - mel).abs().mean()),
        float(cents.nanmedian()),
        float(((again > 0) != (f0 > 0)).double().mean()),
    )


def _check(mel: Tensor, f0: Tensor, config: MelConfig) -> None:
    if mel.ndim != 2 or mel.shape[0] != config.n_mels or f0.shape != mel.shape[1:]:
        expected = f"[{config.n_mels}, frames] and [frames]"
        raise ValueError(f"mel and f0 are {list(mel.shape)} and {list(f0.shape)}, expected {expected}")
    if not bool(torch.isfinite(mel).all() and torch.isfinite(f0).all() and (f0 >= 0).all()):
        raise ValueError("mel and f0 must be finite, and f0 at least 0")
