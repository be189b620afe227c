r"""Spectra and the way back from them.

Frames are centred: frame k is about sample k * hop, the signal counts as zero outside, and there are 1 + n // hop
frames. The window is the periodic Hann window unless another is given.

    X[b, k] = sum_i x[k hop + i - n_fft / 2] w[i] exp(-2 pi j b i / n_fft)

**Mel spectra** are ln(max(F |X|, floor)), F the area-normalised triangles on Slaney's mel scale; **Griffin-Lim**
finds phases for a magnitude; the **compressed spectrum** is what enhancement models see.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from degauss.core.noise import Noise

# --- short-time Fourier transform ---------------------------------------------------------------------------


def stft(x: Tensor, n_fft: int, hop: int, window: Tensor | None = None) -> Tensor:
    """Spectrum of ``x [..., n]``: complex ``[..., n_fft // 2 + 1, 1 + n // hop]``, not scaled."""
    rows = x.reshape(-1, x.shape[-1])
    spectrum = torch.stft(
        rows, n_fft, hop, window=_window(x, n_fft, window), center=True, pad_mode="constant", return_complex=True
    )
    return spectrum.reshape(*x.shape[:-1], *spectrum.shape[-2:])


def istft(spectrum: Tensor, n_fft: int, hop: int, window: Tensor | None = None, *, length: int) -> Tensor:
    """The signal ``[..., length]`` whose spectrum is nearest, in the least-squares sense, to ``[..., bins, frames]``.

    Undoes `stft` to rounding for hops up to a quarter of ``n_fft``. Raises `ValueError` unless ``frames`` is
    1 + length // hop, or if ``hop`` is above half of ``n_fft``, where samples between two windows would be lost.
    """
    if 2 * hop > n_fft:
        raise ValueError(f"hop {hop} is above half of n_fft {n_fft}: some samples are in no window")
    if spectrum.shape[-1] != 1 + length // hop:
        raise ValueError(f"{spectrum.shape[-1]} frames of hop {hop} do not make {length} samples")
    rows = spectrum.reshape(-1, *spectrum.shape[-2:])
    real = _window(rows.real, n_fft, window)
    return torch.istft(rows, n_fft, hop, window=real, center=True, length=length).reshape(*spectrum.shape[:-2], length)


def _window(like: Tensor, n_fft: int, window: Tensor | None) -> Tensor:
    if window is None:
        return torch.hann_window(n_fft, dtype=like.dtype, device=like.device)
    return window.to(like)


# --- mel ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MelConfig:
    """What a mel spectrum is made with: ``rate`` and frequencies in Hz, ``floor`` the smallest magnitude."""

    rate: int = 16000
    n_fft: int = 1024
    hop: int = 256
    n_mels: int = 80
    f_min: float = 0.0
    f_max: float = 8000.0
    floor: float = 1e-5

    def __post_init__(self) -> None:
        if not 0 <= self.f_min < self.f_max <= self.rate / 2:
            found = f"f_min {self.f_min:g} and f_max {self.f_max:g} Hz at a rate of {self.rate} Hz"
            raise ValueError(f"expected 0 <= f_min < f_max <= rate / 2, got {found}")
        if not 0 < 2 * self.hop <= self.n_fft:
            raise ValueError(f"expected a hop of 1 to n_fft / 2 samples, got {self.hop} for n_fft {self.n_fft}")
        if self.n_mels < 1 or self.floor <= 0:
            raise ValueError(f"expected n_mels >= 1 and floor > 0, got {self.n_mels} and {self.floor:g}")

    def frames(self, length: int) -> int:
        """How many frames ``length`` samples have."""
        return 1 + length // self.hop


def hz_to_mel(hz: NDArray[np.float64]) -> NDArray[np.float64]:
    """Slaney's scale: 3 mels for each 200 Hz up to 1000 Hz, from there 27 for each factor of 6.4."""
    return np.where(hz < 1000, hz * 3 / 200, 15 + 27 * np.log(np.maximum(hz, 1000) / 1000) / np.log(6.4))


def mel_to_hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    """The inverse of `hz_to_mel`."""
    return np.where(mel < 15, mel * 200 / 3, 1000 * 6.4 ** ((np.maximum(mel, 15) - 15) / 27))


def mel_filters(config: MelConfig) -> Tensor:
    """Triangles ``[n_mels, n_fft // 2 + 1]``, float32: equidistant on Slaney's scale, each of area 1 over Hz."""
    return torch.from_numpy(_filters(config)).float()


@lru_cache(maxsize=8)
def _filters(config: MelConfig) -> NDArray[np.float64]:
    lowest, highest = hz_to_mel(np.array([config.f_min, config.f_max]))
    edges = mel_to_hz(np.linspace(lowest, highest, config.n_mels + 2))
    bins = np.arange(config.n_fft // 2 + 1) * config.rate / config.n_fft
    left, peak, right = (edges[i : i + config.n_mels, None] for i in range(3))
    rising, falling = (bins - left) / (peak - left), (right - bins) / (right - peak)
    return np.maximum(0, np.minimum(rising, falling)) * 2 / (right - left)


def log_mel(x: Tensor, config: MelConfig) -> Tensor:
    """Natural logarithm of the mel magnitudes of ``x [..., n]``, at least ln(floor): ``[..., n_mels, frames]``."""
    magnitude = stft(x, config.n_fft, config.hop).abs()
    return (mel_filters(config).to(magnitude) @ magnitude).clamp_min(config.floor).log()


def mel_to_magnitude(mel: Tensor, config: MelConfig, iterations: int = 48) -> Tensor:
    r"""Magnitudes M >= 0 ``[..., bins, frames]`` whose mel is nearest to ``mel [..., n_mels, frames]``, a logarithm.

    Non-negative least squares, min ||F M - exp(mel)||^2, by projected gradient steps with Nesterov's momentum (Beck &
    Teboulle 2009), all frames at once. It starts at the pseudo-inverse, cut at zero. That alone misses the mel of
    speech by some percent, since the cut adds energy; the iterations take this to less than a thousandth.
    """
    # Bands of equal gain converge at equal speed. A band narrower than a bin has no gain, and asks for nothing.
    filters = mel_filters(config).to(mel)
    gain = filters.norm(dim=1, keepdim=True)
    gain = torch.where(gain > 0, gain, 1)
    filters, target = filters / gain, mel.exp() / gain
    step = 1 / torch.linalg.matrix_norm(filters, ord=2) ** 2
    point = ahead = (torch.linalg.pinv(filters) @ target).clamp_min(0)
    for i in range(iterations):
        new = (ahead - step * (filters.T @ (filters @ ahead - target))).clamp_min(0)
        ahead = new + (i / (i + 3)) * (new - point)
        point = new
    return point


# --- phases -------------------------------------------------------------------------------------------------


def griffin_lim(
    magnitude: Tensor,
    n_fft: int,
    hop: int,
    iterations: int = 32,
    momentum: float = 0.99,
    length: int | None = None,
    seed: int = 0,
) -> Tensor:
    r"""A signal ``[..., length]`` whose spectrum has about the given ``magnitude [..., bins, frames]``.

    The fast variant of Perraudin, Balazs & Sondergaard 2013: with P the projection on the spectra of real signals
    (`istft`, then `stft`) and c the current spectrum with the given magnitude,

        t_n = P(c_n),  c_{n+1} = magnitude * phase(t_n + momentum (t_n - t_{n-1})).

    Momentum 0 is Griffin & Lim 1984. The first phases are random: keyed by ``seed`` and the same for each row, so that
    a row does not depend on its batch. ``length``: (frames - 1) * hop unless given.
    """
    bins, frames = magnitude.shape[-2:]
    if bins != n_fft // 2 + 1:
        raise ValueError(f"{bins} bins do not belong to n_fft {n_fft}: expected {n_fft // 2 + 1}")
    length = (frames - 1) * hop if length is None else length
    turns = Noise(seed, [0]).uniform(magnitude.new_empty(1, bins, frames))[0]
    spectrum = torch.polar(magnitude, (2 * torch.pi * turns).expand_as(magnitude))
    smallest = torch.finfo(magnitude.dtype).tiny
    before: Tensor | None = None
    for _ in range(iterations):
        signal = istft(spectrum, n_fft, hop, length=length)
        now = stft(signal, n_fft, hop)
        ahead = now if before is None else now + momentum * (now - before)
        spectrum = ahead * (magnitude / ahead.abs().clamp_min(smallest))
        before = now
    return istft(spectrum, n_fft, hop, length=length)


# --- compressed spectrum ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Compressed:
    r"""The amplitude-compressed complex spectrum of SGMSE (Welker et al. 2022; Richter et al. 2023, section III-A).

        c = beta |X|^alpha exp(i angle(X))

    It brings the heavy tail of speech to about unit range. |X|^alpha has an infinite slope at 0; below a magnitude of
    ``linear`` the map is therefore the line through 0 that joins it, and the inverse is exact on both parts.
    """

    n_fft: int = 510
    hop: int = 128
    alpha: float = 0.5
    beta: float = 0.15
    linear: float = 1e-5

    def __post_init__(self) -> None:
        if not (0 < self.alpha <= 1 and self.beta > 0 and self.linear > 0):
            found = f"alpha {self.alpha:g}, beta {self.beta:g}, linear {self.linear:g}"
            raise ValueError(f"expected 0 < alpha <= 1, beta > 0 and linear > 0, got {found}")

    @property
    def bins(self) -> int:
        return self.n_fft // 2 + 1

    def frames(self, length: int) -> int:
        """How many frames ``length`` samples have."""
        return 1 + length // self.hop

    def encode(self, x: Tensor) -> Tensor:
        """``x [b, n]`` -> real and imaginary part ``[b, 2, bins, frames]``."""
        parts = torch.view_as_real(stft(x, self.n_fft, self.hop))
        parts = rearrange(parts, "b bins frames part -> b part bins frames")
        return parts * (self.beta * _power(parts, self.linear, self.alpha - 1))

    def decode(self, c: Tensor, length: int) -> Tensor:
        """``c [b, 2, bins, frames]`` -> the signal ``[b, length]``; undoes `encode`."""
        linear = self.beta * self.linear**self.alpha
        parts = c * (self.beta ** (-1 / self.alpha) * _power(c, linear, 1 / self.alpha - 1))
        parts = rearrange(parts, "b part bins frames -> b bins frames part").contiguous()
        return istft(torch.view_as_complex(parts), self.n_fft, self.hop, length=length)


def magnitudes(c: Tensor) -> Tensor:
    """|c| of complex numbers in two parts ``[b, 2, ...]``: ``[b, ...]``, at least 1e-6, differentiable everywhere."""
    return _power(c, 1e-6, 1).squeeze(1)


def _power(parts: Tensor, smallest: float, exponent: float) -> Tensor:
    """max(|c|, smallest)^exponent for c in two parts ``[b, 2, ...]``: ``[b, 1, ...]``, differentiable everywhere."""
    return parts.square().sum(1, keepdim=True).clamp_min(smallest**2).pow(exponent / 2)
