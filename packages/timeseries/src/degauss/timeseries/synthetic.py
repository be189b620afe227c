r"""Series that no one measured: random compositions of level, trend, seasons and noise, to train a general model.

    y = level + trend + sum_k season_k + wander + noise, sometimes through a nonlinearity,

where a season is a few harmonics of a random period, and wander and noise are Gaussian with a power-law spectrum
f^(-b): b near 0 is white noise, 2 a random walk, 3 something smooth. Each part is present or absent, large or small,
at random. Nothing is borrowed from any data set, so a model trained on this may be shipped under any licence. The
idea that such compositions teach forecasting is that of KernelSynth (Ansari et al. 2024, Chronos, section 4.2) and
ForecastPFN (Dooley et al. 2023); sampling in the spectrum instead of factorising covariances makes a series as cheap
as an FFT.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from degauss.core.noise import Noise
from degauss.timeseries.config import TSDiffConfig
from degauss.timeseries.tsdiff import Windows

# Seasons that calendars produce, in steps: business and calendar weeks, days of hours and half-hours, years of
# quarters, months and weeks, and hours of shorter steps. The other half of the periods drawn is anything.
_CALENDAR = (4.0, 5.0, 7.0, 12.0, 24.0, 48.0, 52.18, 60.0, 96.0, 168.0)
_HARMONICS = 4
_UNIFORMS = 48
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class SyntheticWindows:
    """Sample numbers -> `Windows` of synthetic series, generated on ``device``.

    Half of them hide a random part of their beginning, so that a model also learns the scale of a short past.
    """

    config: TSDiffConfig
    seed: int = 0
    device: torch.device = _CPU

    def __call__(self, samples: Sequence[int]) -> Windows:
        size = self.config.reach + self.config.length
        noise = Noise(self.seed, samples)
        values = synthesize(noise, size, self.device)
        u = noise.uniform(torch.empty(len(samples), 2), draw=1).to(self.device)
        room = self.config.context - self.config.min_context
        hidden = torch.where(u[:, 0] < 0.5, (u[:, 1] * (room + 1)).floor() + self.config.reach, 0.0)
        seen = (torch.arange(size, device=self.device) >= hidden[:, None]).float()
        return Windows(values, seen)


def synthesize(noise: Noise, size: int, device: torch.device) -> Tensor:
    """One series for each sample id, float64 ``[batch, size]``, of order one about a level of order one."""
    batch = len(noise.samples)
    u = noise.uniform(torch.empty(batch, _UNIFORMS, dtype=torch.float64)).to(device)
    column = iter(u.unbind(1))

    def draw() -> Tensor:
        return next(column)[:, None]

    time = torch.arange(size, device=device, dtype=torch.float64) / size
    parts = [_trend(draw(), draw(), draw(), draw(), time)]
    for k in range(2):
        present = (draw() < (0.7, 0.35)[k]).double()
        waves = _season(draw(), draw(), draw(), [(draw(), draw()) for _ in range(_HARMONICS)], time, size)
        parts.append(present * waves)
    # Wander: from a random walk to a smooth path. Noise: from white to a little coloured.
    wander, rough = draw(), draw()
    parts.append((draw() < 0.6) * _size(rough, -2.0, 0.6) * _coloured(noise, 2, 1.4 + 1.8 * wander, size, device))
    quiet, colour = draw(), draw()
    parts.append(_size(quiet, -3.0, 0.3) * _coloured(noise, 3, 0.9 * colour * (draw() < 0.5), size, device))
    total = sum(parts, torch.zeros_like(parts[0]))
    total = (total - total.mean(1, keepdim=True)) / total.std(1, keepdim=True).clamp(min=1e-6)
    return _bend(draw(), draw(), draw(), total)


def _size(u: Tensor, low: float, high: float) -> Tensor:
    """Log-uniform between e^low and e^high."""
    return torch.exp(low + (high - low) * u)


def _trend(present: Tensor, slope: Tensor, bend: Tensor, where: Tensor, time: Tensor) -> Tensor:
    """A line, in some series with one bend."""
    line = 4 * (slope - 0.5) * time
    hinge = 6 * (bend - 0.5) * (time - where).clamp(min=0) * (present < 0.2)
    return (present < 0.55) * (line + hinge)


def _season(
    kind: Tensor, which: Tensor, amplitude: Tensor, waves: list[tuple[Tensor, Tensor]], time: Tensor, size: int
) -> Tensor:
    calendar = torch.tensor(_CALENDAR, device=time.device, dtype=torch.float64)
    fixed = calendar[(which * len(_CALENDAR)).long().clamp(max=len(_CALENDAR) - 1)]
    free = torch.exp(torch.log(torch.tensor(3.0)) + which * torch.log(torch.tensor(size / 6.0)))
    period = torch.where(kind < 0.6, fixed, free)
    total = torch.zeros(len(kind), size, device=time.device, dtype=torch.float64)
    for k, (weight, phase) in enumerate(waves, start=1):
        wave = torch.sin(2 * torch.pi * (k * time * size / period + phase))
        # Harmonics fall off at random rates; those above the Nyquist frequency would alias.
        total += weight ** (0.5 * k) / k * wave * (period > 2 * k)
    return _size(amplitude, -1.5, 1.0) * total


def _coloured(noise: Noise, draw: int, exponent: Tensor, size: int, device: torch.device) -> Tensor:
    """Gaussian noise of unit variance with spectrum f^-exponent: a stretch of a longer, periodic record."""
    record = 2 * size
    white = noise.normal(torch.empty(len(noise.samples), record, device=device), draw=draw).double()
    frequency = torch.arange(record // 2 + 1, device=device, dtype=torch.float64).clamp(min=1)
    shaped = torch.fft.irfft(torch.fft.rfft(white) * frequency ** (-0.5 * exponent), record)[:, :size]
    return (shaped - shaped[:, :1]) / shaped.std(1, keepdim=True).clamp(min=1e-9)


def _bend(kind: Tensor, strength: Tensor, level: Tensor, y: Tensor) -> Tensor:
    """Leave most series as they are; give some a positive skew, some a floor at zero."""
    skewed = torch.exp((0.3 + 0.9 * strength) * y)
    floored = (y - (strength - 0.5)).clamp(min=0)
    bent = torch.where(kind < 0.7, y, torch.where(kind < 0.88, skewed, floored))
    return bent + 4 * level * (kind < 0.7)
