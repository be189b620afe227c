r"""Sounds with known answers, for tests, examples and training: voices whose pitch is given, and noises.

A voice is a sum of harmonics of a given f0 curve, so its pitch is exact at every sample:

    x[i] = sum_k A(k f0[i]) sin(2 pi k phi[i]),   phi[i] = sum_{j <= i} f0[j] / rate.

A(f) is an envelope: that of a glottal source, 1 / f, times three resonances for a vowel. What is random is keyed by a
seed. Every signal ``[n]`` is float32 with unit power (a mean square of 1) unless it says otherwise: scale it for use.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from degauss.core.noise import Noise

# Centres of the first three resonances of a man's vowels (Hz), after Peterson & Barney 1952, and their widths.
VOWELS = {
    "i": (270.0, 2290.0, 3010.0),
    "e": (530.0, 1840.0, 2480.0),
    "a": (730.0, 1090.0, 2440.0),
    "o": (570.0, 840.0, 2410.0),
    "u": (300.0, 870.0, 2240.0),
}
_WIDTHS = (60.0, 90.0, 150.0)

# How long a syllable of `murmur` lasts, and how long its vowel takes to sound and to fade (seconds).
_SYLLABLE, _FADE = 0.22, 0.03


# --- pitch curves -------------------------------------------------------------------------------------------


def glide(first: float, last: float, n: int) -> Tensor:
    """f0 ``[n]`` (Hz) that moves from one pitch to another at a constant number of cents a second."""
    return torch.exp(torch.linspace(math.log(first), math.log(last), n, dtype=torch.float64)).float()


def vibrato(hz: float, n: int, rate: int, depth: float = 50.0, speed: float = 5.5) -> Tensor:
    """f0 ``[n]`` (Hz) that swings ``depth`` cents to either side of ``hz``, ``speed`` times a second."""
    seconds = torch.arange(n, dtype=torch.float64) / rate
    return (hz * 2 ** (depth / 1200 * torch.sin(2 * math.pi * speed * seconds))).float()


# --- voices -------------------------------------------------------------------------------------------------


def tone(f0: Tensor, rate: int, envelope: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """Harmonics of ``f0 [n]`` (Hz, 0 where silent) below half of ``rate``, under an ``envelope`` of frequency.

    ``envelope`` maps frequencies ``[n]`` (Hz) to amplitudes; 1 / f unless given.
    """
    hz = f0.double()
    phase = torch.cumsum(hz / rate, 0)
    lowest = float(hz[hz > 0].min()) if bool((hz > 0).any()) else math.inf
    total = torch.zeros_like(hz)
    for k in range(1, int(rate / 2 / lowest) + 1):
        # A partial that nears half of the rate fades, rather than stops.
        weight = ((rate / 2 - k * hz) / hz.clamp_min(1)).clamp(0, 1) * (hz > 0)
        level = 1 / (k * hz.clamp_min(1)) if envelope is None else envelope(k * hz)
        total += weight * level * torch.sin(2 * math.pi * k * phase)
    return _unit(total)


def vowel(formants: tuple[float, ...] | Tensor, f0: Tensor, rate: int) -> Tensor:
    """A vowel, such as ``VOWELS["a"]``, sung at ``f0 [n]``. ``formants``: three in Hz, or ``[3, n]``."""
    centres = torch.as_tensor(formants, dtype=torch.float64)
    return tone(f0, rate, lambda hz: resonance(hz, centres) / hz.clamp_min(1))


def resonance(hz: Tensor, centres: Tensor) -> Tensor:
    """Gain of a vocal tract: prod_i F_i^2 / |F_i^2 - f^2 + j B_i f|, 1 at f = 0. F: ``centres [3]`` or ``[3, n]``."""
    gain = torch.ones_like(hz)
    for centre, width in zip(centres, _WIDTHS, strict=True):
        gain = gain * centre**2 / torch.hypot(centre**2 - hz**2, width * hz)
    return gain


class Murmur(NamedTuple):
    """``samples [n]`` of unit power, and their ``f0 [n]`` in Hz, 0 in the pauses."""

    samples: Tensor
    f0: Tensor


def murmur(n: int, rate: int, seed: int = 0) -> Murmur:
    """A voice that speaks no language: random vowels, one after another, on a wandering pitch, with pauses."""
    count = 2 + math.ceil(n / rate / _SYLLABLE)
    draws = Noise(seed, [0]).uniform(torch.empty(1, 3, count))[0].double()
    place = torch.arange(n, dtype=torch.float64) / rate / _SYLLABLE
    inside = place % 1 * _SYLLABLE
    sounding = (draws[2] < 0.8)[place.long()]  # one in five is a pause
    fade = (torch.minimum(inside, _SYLLABLE - inside) / _FADE).clamp(0, 1)
    names = torch.tensor([VOWELS[name] for name in VOWELS], dtype=torch.float64)
    formants = _between(names[(draws[0] * len(VOWELS)).long()].T, place)
    centre = 90 + 140 * draws[1, 0]
    f0 = torch.where(sounding, centre * 2 ** (_between(draws[1:2], place)[0] - 0.5), 0.0).float()
    return Murmur(_unit(vowel(formants, f0, rate) * fade), f0)


def _between(values: Tensor, place: Tensor) -> Tensor:
    """``values [rows, count]``, held and then moved on within the last third of each step, at ``place [n]``."""
    whole = place.long()
    moved = ((place - whole) * 3 - 2).clamp(0, 1)
    return values[:, whole] * (1 - moved) + values[:, whole + 1] * moved


# --- noises -------------------------------------------------------------------------------------------------


def white(n: int, seed: int = 0) -> Tensor:
    """Independent normals: equal power at every frequency."""
    return Noise(seed, [0]).normal(torch.empty(1, n))[0]


def pink(n: int, seed: int = 0) -> Tensor:
    """Power in proportion to 1 / f, equal in every octave; without a mean."""
    spectrum = torch.fft.rfft(white(n, seed).double())
    slope = torch.arange(len(spectrum), dtype=torch.float64).clamp_min(1).rsqrt()
    slope[0] = 0
    return _unit(torch.fft.irfft(spectrum * slope, n))


def babble(n: int, rate: int, seed: int = 0, voices: int = 6) -> Tensor:
    """Several voices at once, equally loud."""
    seeds = Noise(seed, [0]).uniform(torch.empty(1, voices))[0]
    return _unit(torch.stack([murmur(n, rate, int(one * 2**24)).samples for one in seeds]).sum(0))


def hum(n: int, rate: int, frequency: float = 50.0) -> Tensor:
    """The hum of the mains: ``frequency`` and its harmonics, the even ones strongest, up to half of ``rate``."""
    return tone(torch.full((n,), frequency), rate, lambda hz: _mains(hz / frequency))


def _mains(order: Tensor) -> Tensor:
    return torch.where(order.round() % 2 == 0, 1.0, 0.3) / order.clamp_min(1)


def clicks(n: int, rate: int, seed: int = 0, per_second: float = 8.0) -> Tensor:
    """Short knocks at random times, about ``per_second`` of them: each decays by a factor of e in a millisecond."""
    draws = Noise(seed, [0]).uniform(torch.empty(1, 2, n))[0].double()
    hits = torch.where(draws[0] < per_second / rate, 2 * draws[1] - 1, 0.0)
    if not bool((hits != 0).any()):
        hits[n // 2] = 1.0
    decay = torch.exp(-torch.arange(rate // 100, dtype=torch.float64) / (1e-3 * rate))
    size = n + len(decay)
    return _unit(torch.fft.irfft(torch.fft.rfft(hits, size) * torch.fft.rfft(decay, size), size)[:n])


def _unit(x: Tensor) -> Tensor:
    """The signal at unit power, float32; silence stays silence."""
    power = x.square().mean().sqrt()
    return (x / power.clamp_min(1e-12)).float()
