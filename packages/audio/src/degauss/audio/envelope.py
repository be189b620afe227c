r"""From a log-mel spectrogram to a spectral envelope in units of white noise.

White noise of variance 1 has, through a window w, the mean magnitude E|X| = sqrt(pi / 4 * sum w^2) in every bin, and
so a known level in every mel band. The envelope of a sound is its mel spectrogram over that level: the gain that a
filter needs at each frequency to make the sound from white noise, or from pulses of the same power density.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from degauss.audio.spectra import MelConfig, mel_filters


@lru_cache(maxsize=8)
def white_level(config: MelConfig) -> Tensor:
    """ln of the mean mel magnitude of white noise of variance 1, float64 ``[n_mels]``; 0 for a band without a bin."""
    window = np.hanning(config.n_fft + 1)[:-1]
    weight = mel_filters(config).double().sum(1) * math.sqrt(math.pi / 4 * float((window**2).sum()))
    return torch.where(weight > 0, weight, 1.0).log()


@lru_cache(maxsize=8)
def bands_to_bins(config: MelConfig, n_fft: int) -> Tensor:
    """The matrix ``[n_fft // 2 + 1, n_mels]`` that interpolates bands linearly in frequency, float64.

    A band stands at the centre of mass of its filter; beyond the outermost ones their values are held. A band that
    holds no bin of the mel spectrogram says nothing and is passed over.
    """
    filters = mel_filters(config).double().numpy()
    heard = filters.sum(1) > 0
    hertz = np.linspace(0, config.rate / 2, config.n_fft // 2 + 1)
    centres = filters[heard] @ hertz / filters[heard].sum(1)
    bins = np.linspace(0, config.rate / 2, n_fft // 2 + 1)
    matrix = np.zeros((len(bins), config.n_mels))
    matrix[:, heard] = np.stack([np.interp(bins, centres, unit) for unit in np.eye(len(centres))], axis=1)
    return torch.from_numpy(matrix)


def envelope(mel: Tensor, config: MelConfig, n_fft: int) -> Tensor:
    """ln of the gain at each bin, ``[..., n_fft // 2 + 1, frames]``, from ``mel [..., n_mels, frames]``."""
    level = white_level(config).to(mel)[:, None]
    return bands_to_bins(config, n_fft).to(mel) @ (mel - level)
