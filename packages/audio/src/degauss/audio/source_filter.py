r"""A small neural vocoder: f0 makes the source, a network reads the filters off the mel spectrogram.

    wave = H_t * pulses(f0)  +  G_t * white noise

*Source.* The pulses are all harmonics of f0 below the Nyquist frequency, with equal amplitudes,

    p = sqrt(4 f0 / rate) sum_k w_k cos(2 pi k phi),   phi = integral of f0,   w_k = clip(rate / (2 f0) - k, 0, 1),

so their power density is that of white noise of variance 1, and one that nears the Nyquist frequency fades out
before it could alias. f0 runs straight from frame to frame; phi is that line's exact integral, in float64. The sum
is a Dirichlet kernel, in closed form.

*Filters.* They act on the short-time spectrum of the sources, by overlap-add, ``hop // filter_hop`` times a mel
frame. The log magnitude is that of the mel spectrogram's envelope plus what a ConvNeXt adds for either part. H has the
minimum phase that belongs to its magnitude, as a vocal tract has. With H = 1 and G = 0 the pulses come back.

*Agreement.* At the end a few steps of `degauss.audio.consistency` make the sound agree with the mel spectrogram: they
leave the network with what a mel spectrogram does not say, pulses or hiss.

The network runs at the frame rate, so it is cheap, and sees a few hundred milliseconds at once, so a long
spectrogram can be made into sound piece by piece with the same result.

References: Wang, Takaki and Yamagishi 2019, "Neural Source-Filter Waveform Models for Statistical Parametric Speech
Synthesis" (a harmonic source that f0 drives); Engel et al. 2020, "DDSP" (ICLR; harmonics plus filtered noise);
Liu et al. 2022, "A ConvNet for the 2020s" and Siuzdak 2024, "Vocos" (ICLR; ConvNeXt at frame rate, sound by iSTFT).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from degauss.audio.consistency import agreeing
from degauss.audio.envelope import envelope
from degauss.audio.pitch import interpolated_log_f0
from degauss.audio.spectra import MelConfig, istft, stft
from degauss.core.checkpoint import load_frozen, save_model
from degauss.core.errors import InputError, check_range
from degauss.core.noise import Noise

KIND = "degauss.audio/source-filter"

_BLOCK = 4096  # samples of noise that are drawn at once; part of what a seed means
_LOUDEST = 8.0  # ln of the largest gain: e^8 is far above full scale


# --- source -------------------------------------------------------------------------------------------------


def continued(f0: Tensor) -> Tensor:
    """``f0 [..., frames]`` in Hz, float64, with a line in ln Hz through the unvoiced frames; 100 Hz if all are."""
    return interpolated_log_f0(f0.double()).exp()


def frame_phase(f0: Tensor, rate: int, hop: int) -> Tensor:
    """Cycles since frame 0, modulo 1, at each frame of ``f0 [..., frames]`` (Hz, all positive); float64."""
    cycles = (f0[..., :-1] + f0[..., 1:]).double() * (hop / (2 * rate))
    return F.pad((cycles % 1).cumsum(-1), (1, 0)) % 1


def pulses(f0: Tensor, phase: Tensor, rate: int, hop: int) -> Tensor:
    """The band-limited pulses of ``f0 [..., frames]`` (Hz), ``[..., hop (frames - 1)]``, float32.

    ``phase [..., frames]``: `frame_phase`, or a part of it with the same part of f0. Silent where f0 is above half the
    rate.
    """
    start, change = f0[..., :-1, None].double(), f0.double().diff(dim=-1)[..., None]
    j = torch.arange(hop, dtype=torch.float64, device=f0.device)
    frequency = (start + change * (j / hop)).flatten(-2)
    cycles = (phase[..., :-1, None] + (start * j + change * (j * j / (2 * hop))) / rate).flatten(-2)
    angle = math.pi * (cycles - cycles.round())  # half of 2 pi phi, in [-pi/2, pi/2]
    reach = (rate / 2 / frequency).clamp(min=1)  # in harmonics
    whole = reach.floor() - 1  # so many are at full strength
    sine = angle.sin()
    top = sine.abs() < 1e-12
    kernel = ((2 * whole + 1) * angle).sin() / (2 * torch.where(top, 1.0, sine)) - 0.5
    total = torch.where(top, whole, kernel) + (reach % 1) * (2 * (whole + 1) * angle).cos()
    return (total * (4 * frequency / rate).sqrt()).float()


def white(noise: Noise, start: int, stop: int, device: torch.device | str = "cpu") -> Tensor:
    """Samples ``start`` to ``stop`` of an endless white noise of variance 1, ``[len(noise.samples), stop - start]``."""
    like = torch.empty(len(noise.samples), _BLOCK, device=device)
    first = start // _BLOCK
    drawn = torch.cat([noise.normal(like, draw=k) for k in range(first, -(-stop // _BLOCK))], dim=-1)
    return drawn[:, start - first * _BLOCK : stop - first * _BLOCK]


# --- filter -------------------------------------------------------------------------------------------------


def minimum_phase(log_magnitude: Tensor) -> Tensor:
    """The minimum-phase response ``[..., bins, frames]``, complex, of a log magnitude of that shape.

    Its cepstrum is that of the log magnitude with all negative times folded onto the positive ones
    (Oppenheim and Schafer, "Discrete-Time Signal Processing", section 12.2).
    """
    bins = log_magnitude.shape[-2]
    n = 2 * (bins - 1)
    cepstrum = torch.fft.irfft(log_magnitude.transpose(-1, -2), n)
    fold = cepstrum.new_zeros(n)
    fold[1 : n // 2], fold[0], fold[n // 2] = 2.0, 1.0, 1.0
    return torch.fft.rfft(cepstrum * fold, n).transpose(-1, -2).exp()


def filtered(source: Tensor, response: Tensor, hop: int) -> Tensor:
    """``source [..., n]`` through ``response [..., bins, 1 + n // hop]``, which changes every ``hop`` samples.

    A response of 1 gives the source back. One longer than half a window, 2 (bins - 1) samples, is folded into it.
    """
    n_fft = 2 * (response.shape[-2] - 1)
    return istft(stft(source, n_fft, hop) * response, n_fft, hop, length=source.shape[-1])


class Filters(NamedTuple):
    """What the network makes of a spectrogram: ln of both gains, ``[batch, bins, filter frames]``."""

    harmonic: Tensor
    noise: Tensor


def rendered(filters: Filters, pulse: Tensor, noise: Tensor, hop: int) -> Tensor:
    """The sound ``[batch, n]`` of pulses and white noise ``[batch, n]`` through the filters."""
    used = slice(0, 1 + pulse.shape[-1] // hop)
    voiced = filtered(pulse, minimum_phase(filters.harmonic[..., used]), hop)
    return voiced + filtered(noise, filters.noise[..., used].exp(), hop)


# --- network ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SourceFilterConfig:
    """What a source-filter vocoder is. Raises `InputError` for a value out of its range.

    ``width``, ``blocks``, ``kernel``: of the ConvNeXt. ``window``, ``filter_hop``: of the filters, in samples; the
    latter divides the mel spectrogram's hop. ``agreement``: steps towards the mel spectrogram at the end.
    """

    mel: MelConfig = field(default_factory=MelConfig)
    width: int = 160
    blocks: int = 6
    kernel: int = 7
    window: int = 512
    filter_hop: int = 128
    agreement: int = 16

    def __post_init__(self) -> None:
        for name in ("width", "blocks", "kernel"):
            check_range(name, getattr(self, name), 1)
        check_range("agreement", self.agreement, 0)
        check_range("window", self.window, 2 * self.filter_hop, 4 * self.mel.hop)
        if self.kernel % 2 == 0 or self.window % 2:
            raise InputError(f"kernel must be odd and window even, but they are {self.kernel} and {self.window}.")
        if self.mel.hop % self.filter_hop:
            raise InputError(f"filter_hop must divide the hop of {self.mel.hop}, but is {self.filter_hop}.")

    @property
    def per_frame(self) -> int:
        """Filters a mel frame."""
        return self.mel.hop // self.filter_hop

    @property
    def reach(self) -> int:
        """Mel frames on either side that the sound of a frame, before any agreement, depends on."""
        return (self.blocks + 1) * (self.kernel // 2) + 2 + self.window // (2 * self.mel.hop)

    @property
    def agreement_reach(self) -> int:
        """Frames on either side that the agreement looks at: each step hears a window, and makes windows again."""
        return self.agreement * (1 + self.mel.n_fft // self.mel.hop)


class Block(nn.Module):
    """A ConvNeXt block on ``[batch, frames, width]``: each channel along time, then all channels of each frame."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.along = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.wide = nn.Linear(width, 3 * width)
        self.narrow = nn.Linear(3 * width, width)
        self.scale = nn.Parameter(torch.full((width,), 0.2))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.along(x.transpose(1, 2)).transpose(1, 2))
        return x + self.scale * self.narrow(F.gelu(self.wide(y)))


class SourceFilterNet(nn.Module):
    """(log-mel ``[batch, n_mels, frames]``, f0 ``[batch, frames]`` in Hz, 0 unvoiced, the same continued) -> `Filters`.

    There are ``per_frame * frames`` filters, the first of each frame in its middle. Before training both gains are the
    envelope's, 3 dB lower.
    """

    def __init__(self, config: SourceFilterConfig) -> None:
        super().__init__()
        self.config = config
        bins = config.window // 2 + 1
        self.inlet = nn.Conv1d(config.mel.n_mels + 2, config.width, config.kernel, padding=config.kernel // 2)
        self.blocks = nn.Sequential(*(Block(config.width, config.kernel) for _ in range(config.blocks)))
        self.norm = nn.LayerNorm(config.width)
        self.outlet = nn.Linear(config.width, 2 * bins * config.per_frame)
        nn.init.zeros_(self.outlet.weight)
        nn.init.constant_(self.outlet.bias, -0.5 * math.log(2))

    def forward(self, mel: Tensor, f0: Tensor, pitch: Tensor) -> Filters:
        voiced = (f0 > 0).to(mel)
        seen = torch.cat([mel / 4 + 1, voiced[:, None], (pitch / 200).log2().to(mel)[:, None]], dim=1)
        hidden = self.norm(self.blocks(self.inlet(seen).transpose(1, 2)))
        change = self.outlet(hidden).unflatten(-1, (self.config.per_frame, 2, -1))  # [batch, frames, steps, part, bins]
        base = self._base(mel)
        parts = change.permute(3, 0, 4, 1, 2).flatten(-2)
        return Filters(*((base + part).clamp(max=_LOUDEST) for part in parts))

    def _base(self, mel: Tensor) -> Tensor:
        """The envelope at the times of the filters, on a line from frame to frame."""
        now = envelope(mel, self.config.mel, self.config.window)
        following = torch.cat([now[..., 1:], now[..., -1:]], dim=-1)
        share = torch.arange(self.config.per_frame, dtype=mel.dtype, device=mel.device) / self.config.per_frame
        return torch.lerp(now[..., None], following[..., None], share).flatten(-2)


# --- model --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class SourceFilter:
    """A model: its configuration and its network."""

    config: SourceFilterConfig
    network: SourceFilterNet = field(repr=False)

    @classmethod
    def new(cls, config: SourceFilterConfig, seed: int = 0) -> SourceFilter:
        """A freshly initialised model."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(config, SourceFilterNet(config))

    @classmethod
    def load(cls, path: str | Path) -> SourceFilter:
        """A saved model, frozen, in eval mode; `InputError` for anything that is not one."""
        return load_frozen(path, KIND, "a vocoder", cls._unfitted)

    @classmethod
    def _unfitted(cls, values: dict[str, Any]) -> SourceFilter:
        return cls.new(SourceFilterConfig(MelConfig(**values.pop("mel")), **values))

    def save(self, path: str | Path, weights: Mapping[str, Tensor] | None = None) -> None:
        """Write the model as a directory, with the given weights instead of the network's own if there are any."""
        values: dict[str, Any] = asdict(self.config)
        save_model(path, self.network if weights is None else weights, KIND, values)

    @torch.no_grad()
    def render(self, mel: Tensor, f0: Tensor, noise: Noise, chunk: int = 1024) -> Tensor:
        """The sound ``[hop (frames - 1)]`` of ``mel [n_mels, frames]`` and ``f0 [frames]`` (Hz, 0 unvoiced).

        ``noise``: of one sample. ``chunk``: frames that are made at a time; the result is the same for any, to
        rounding. Raises ValueError for other shapes.
        """
        hop = self.config.mel.hop
        if mel.shape != (self.config.mel.n_mels, f0.shape[-1]) or f0.ndim != 1:
            expected = f"[{self.config.mel.n_mels}, frames] and [frames]"
            raise ValueError(f"mel and f0 are {list(mel.shape)} and {list(f0.shape)}, expected {expected}")
        source = self._source(mel, f0)
        out: list[Tensor] = []
        last, around = f0.shape[-1] - 1, self.config.agreement_reach
        for first in range(0, last, chunk):
            stop = min(first + chunk, last)
            low, high = max(0, first - around), min(last, stop + around)
            wave = self._filtered(source, low, high, noise)
            wave = agreeing(wave, mel[:, low : high + 1], self.config.mel, self.config.agreement)
            out.append(wave[(first - low) * hop : (stop - low) * hop])
        return torch.cat(out) if out else mel.new_zeros(0)

    def _source(self, mel: Tensor, f0: Tensor) -> _Source:
        ends = self._ends
        mel = torch.cat([mel[:, :1].expand(-1, ends), mel, mel[:, -1:].expand(-1, ends)], dim=1)
        f0 = torch.cat([f0[:1].expand(ends), f0, f0[-1:].expand(ends)])
        pitch = continued(f0)
        return _Source(mel, f0, pitch, frame_phase(pitch, self.config.mel.rate, self.config.mel.hop))

    @property
    def _ends(self) -> int:
        """Frames that a sound is made longer by at either end, so that no window of the filters is cut."""
        return -(-self.config.window // (2 * self.config.mel.hop))

    def _filtered(self, source: _Source, first: int, last: int, noise: Noise) -> Tensor:
        """The sound from one frame to another, before any agreement, ``[hop (last - first)]``."""
        hop, rate, reach = self.config.mel.hop, self.config.mel.rate, self.config.reach
        first, last = first + self._ends, last + self._ends
        low, high = max(0, first - reach), min(len(source.f0) - 1, last + reach)
        mel, f0, pitch, phase = (part[..., low : high + 1] for part in source)
        filters = self.network(mel[None], f0[None], pitch[None])
        pulse = pulses(pitch, phase, rate, hop)
        hiss = white(noise, low * hop, high * hop, mel.device)
        wave = rendered(filters, pulse[None], hiss, self.config.filter_hop)[0]
        return wave[(first - low) * hop : (last - low) * hop]


class _Source(NamedTuple):
    """A whole sound's mel and f0, as given and continued, and phase; what is beyond either end goes on like it."""

    mel: Tensor
    f0: Tensor
    pitch: Tensor
    phase: Tensor
