r"""Making a sound agree with a mel spectrogram, by filters alone.

A step takes the sound's spectrum Z at the mel spectrogram's frames, pushed on by a part of its last change, and
multiplies each frame by the gain between the mel spectrum that is wanted and the one it has, spread over the bins. The
sound nearest to that comes next:

    Z' = Z_n + 0.8 (Z_n - Z_{n-1}),   gain = B (mel - ln F |Z'|),   Z_{n+1} = STFT(iSTFT(Z' exp(gain))),

with F the mel filters and B the interpolation of `degauss.audio.envelope`. It is the fast Griffin-Lim algorithm
(Perraudin, Balazs and Sondergaard 2013) with all spectra of the given mel spectrum in place of those of a given
magnitude: what lies between the bands, the harmonics of a voice and their phases, stays about as it is. So the sound
to begin with should have them right. A low band is narrower than the distance of two harmonics, so the spectrogram
shows them: it must belong to the f0 that the sound was made with, or both will be heard. To sing at another pitch with
the same spectrogram, take no step.

Compare Masuyama, Ueno and Ono 2023, "Signal Reconstruction from Mel-spectrogram Based on Bi-level Consistency of
Full-band Magnitude and Phase" (WASPAA), who solve for both by optimisation, from a random start.
"""

from __future__ import annotations

from torch import Tensor

from degauss.audio.envelope import bands_to_bins
from degauss.audio.spectra import MelConfig, istft, mel_filters, stft

_MOMENTUM = 0.8
_LARGEST = 5.0  # ln of the largest gain of a step: what is not there at all is not made from rounding


def agreeing(wave: Tensor, mel: Tensor, config: MelConfig, steps: int) -> Tensor:
    """``wave [..., hop (frames - 1)]`` after so many steps towards ``mel [..., n_mels, frames]``."""
    spread, filters = bands_to_bins(config, config.n_fft).to(wave), mel_filters(config).to(wave)
    before: Tensor | None = None
    for _ in range(steps):
        now = stft(wave, config.n_fft, config.hop)
        spectrum = now if before is None else now + _MOMENTUM * (now - before)
        before = now
        found = (filters @ spectrum.abs()).clamp_min(config.floor).log()
        gain = (spread @ (mel - found)).clamp(-_LARGEST, _LARGEST).exp()
        wave = istft(spectrum * gain, config.n_fft, config.hop, length=wave.shape[-1])
    return wave
