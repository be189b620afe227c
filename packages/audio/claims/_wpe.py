r"""Weighted prediction error for one microphone: dereverberation without training, as a peer.

Late reverberation of a bin is predicted from its past, d[n] = x[n] - sum_{k < taps} g_k^* x[n - delay - k], with g that
minimises sum_n |d[n]|^2 / lambda[n] where lambda is the power of d itself: some rounds of weighted least squares.

Reference: Nakatani et al. 2010, "Speech Dereverberation Based on Variance-Normalized Delayed Linear Prediction".
"""

from __future__ import annotations

import torch
from torch import Tensor

from degauss.audio.spectra import istft, stft

FRAME, HOP = 0.032, 0.008  # s
TAPS, DELAY, ROUNDS = 20, 3, 3


def predicted_away(x: Tensor, rate: int) -> Tensor:
    """A sound ``[n]`` without what of it can be predicted, ``[n]``."""
    n_fft, hop = 2 * round(FRAME * rate / 2), round(HOP * rate)
    spectrum = stft(x[None].double(), n_fft, hop)[0]  # [bins, frames]
    past = torch.stack([_later(spectrum, DELAY + k) for k in range(TAPS)], dim=-2)  # [bins, taps, frames]
    left = spectrum
    for _ in range(ROUNDS):
        power = left.abs().square()
        weighted = past / power.clamp_min(1e-6 * power.max())[:, None]
        own = weighted @ past.mH
        ridge = 1e-6 * own.diagonal(dim1=-2, dim2=-1).real.mean(-1)[:, None, None] * torch.eye(TAPS)
        filters = torch.linalg.solve(own + ridge, weighted @ spectrum.conj()[..., None])
        left = spectrum - (filters.mH @ past)[:, 0]
    return istft(left[None], n_fft, hop, length=len(x))[0].float()


def _later(spectrum: Tensor, frames: int) -> Tensor:
    return torch.nn.functional.pad(spectrum[:, : spectrum.shape[1] - frames], (frames, 0))
