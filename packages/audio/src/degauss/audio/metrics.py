r"""What a generated or cleaned sound is measured by, exact and with nothing but torch.

Signals are ``[..., n]`` (full scale 1), log-mel spectra ``[n_mels, frames]`` of natural logarithms of magnitudes
(`degauss.audio.spectra.log_mel`), f0 ``[frames]`` in Hz with 0 where unvoiced. The reference comes first. All is
computed in float64. What has no value (a silent signal, no voiced frame) raises `InputError`; nothing is NaN.

Papers mean different things by the same names. What is meant here:

* SI-SDR: without removing the mean, as the enhancement papers and torchmetrics have it. SDR: nothing is projected or
  filtered, so this is what BSSEval calls SNR and the Music Demixing Challenge SDR.
* Log-spectral distance: in dB of power. (Bandwidth extension papers print log10 of power: a tenth of it.)
* Mel-cepstral distance: the cepstrum is scaled so that the distance is a root mean square difference of spectra in dB,
  see `mel_cepstrum`. Papers that take an orthonormal DCT print sqrt(n_mels / 2) times as much.
* Frechet distances here are between statistics of log-mel frames, not of a network's features: no FAD.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from degauss.audio.pitch import cents, note_to_hz
from degauss.audio.spectra import stft
from degauss.audio.warping import Path, check_size, warp
from degauss.core.errors import InputError

# --- signals ------------------------------------------------------------------------------------------------


def si_sdr(reference: Tensor, estimate: Tensor) -> Tensor:
    r"""Scale-invariant signal-to-distortion ratio ``[...]`` in dB (Le Roux et al. 2019, eq. 3).

    10 log10 |a s|^2 / |a s - y|^2 for the estimate y and the reference s, a = <y, s> / <s, s>. A copy has infinity, one
    of another gain about 300, by rounding. Raises `InputError` if shapes differ or a signal is silent.
    """
    s, y = _pair(reference, estimate)
    _check_sound(s, "reference")
    _check_sound(y, "estimate")
    target = (y * s).sum(-1, keepdim=True) / s.square().sum(-1, keepdim=True) * s
    return _decibels(target.square().sum(-1), (target - y).square().sum(-1))


def sdr(reference: Tensor, estimate: Tensor) -> Tensor:
    """Signal-to-distortion ratio ``[...]`` in dB, 10 log10 |s|^2 / |s - y|^2: gain counts. Infinity for a copy.

    Raises `InputError` if shapes differ or the reference is silent.
    """
    s, y = _pair(reference, estimate)
    _check_sound(s, "reference")
    return _decibels(s.square().sum(-1), (s - y).square().sum(-1))


def log_spectral_distance(
    reference: Tensor, estimate: Tensor, *, n_fft: int = 1024, hop: int = 256, floor: float = -100.0
) -> Tensor:
    r"""Log-spectral distance ``[...]`` in dB: the mean over frames of sqrt(mean over bins of (P - Q)^2).

    P and Q are 10 log10 of the power spectra (Gray & Markel 1976), 0 dB for a sine of full scale, and at least
    ``floor``: below it there is silence. Raises `InputError` if shapes differ.
    """
    s, y = _pair(reference, estimate)
    p, q = (_power_decibels(x, n_fft, hop, floor) for x in (s, y))
    return (p - q).square().mean(-2).sqrt().mean(-1)


def _power_decibels(x: Tensor, n_fft: int, hop: int, floor: float) -> Tensor:
    # A sine of amplitude 1 at the middle of a bin has magnitude sum(window) / 2 = n_fft / 4.
    magnitude = stft(x, n_fft, hop).abs() / (n_fft / 4)
    return 20 * magnitude.clamp_min(10 ** (floor / 20)).log10()


def _pair(reference: Tensor, estimate: Tensor) -> tuple[Tensor, Tensor]:
    if reference.shape != estimate.shape:
        raise InputError(
            f"the reference has shape {list(reference.shape)}, the estimate {list(estimate.shape)}; expected the same."
        )
    if reference.numel() == 0:
        raise InputError("the reference and the estimate are empty; expected samples.")
    for name, x in (("reference", reference), ("estimate", estimate)):
        if not bool(torch.isfinite(x).all()):
            raise InputError(f"the {name} holds values that are not finite; expected numbers.")
    return reference.detach().cpu().double(), estimate.detach().cpu().double()


def _check_sound(x: Tensor, name: str) -> None:
    if not bool((x != 0).any(-1).all()):
        raise InputError(f"the {name} is silent, so its ratio to anything is not defined; expected sound.")


def _decibels(power: Tensor, other: Tensor) -> Tensor:
    return 10 * (power / other).log10()


# --- mel spectra --------------------------------------------------------------------------------------------

_KUBICHEK = 10 * math.sqrt(2) / math.log(10)


def mel_cepstrum(mel: Tensor, coefficients: int = 13) -> Tensor:
    r"""Mel cepstrum ``[coefficients, frames]``, c_1 to c_13 of the cosine series of ``mel [n_mels, frames]``.

        mel[k] = c_0 + sum_m c_m cos(pi m (k + 1/2) / N),  c_m = 2/N sum_k mel[k] cos(pi m (k + 1/2) / N)

    c_0, the level, is left out.
    """
    bands = mel.shape[0]
    if mel.ndim != 2 or not 1 <= coefficients < bands:
        raise ValueError(f"expected mel [n_mels, frames] of more than {coefficients} bands, got {list(mel.shape)}")
    order = torch.arange(1, coefficients + 1, dtype=torch.float64)[:, None]
    place = torch.arange(bands, dtype=torch.float64) + 0.5
    return 2 / bands * torch.cos(math.pi / bands * order * place) @ mel.detach().cpu().double()


def mel_cepstral_distance(reference: Tensor, estimate: Tensor, coefficients: int = 13) -> float:
    r"""Mel-cepstral distance in dB between log-mels ``[n_mels, frames]``, frame by frame (Kubichek 1993).

    The mean over frames of (10 / ln 10) sqrt(2 sum_m (c_m - d_m)^2), m = 1 .. ``coefficients``, of their
    `mel_cepstrum`. With all N - 1 coefficients it is the root mean square difference in dB of the two spectra after
    each has lost its level; fewer compare smoothed spectra. Gain does not count. Raises `InputError` if shapes differ.
    """
    _pair(reference, estimate)
    difference = mel_cepstrum(reference, coefficients) - mel_cepstrum(estimate, coefficients)
    return float(_KUBICHEK * difference.norm(dim=0).mean())


def mel_cepstral_path(reference: Tensor, estimate: Tensor, coefficients: int = 13) -> Path:
    """The time warping that makes the mel-cepstral distance of ``[n_mels, n]`` and ``[n_mels, m]`` least in sum.

    Raises `InputError` for recordings of several minutes: see `warping.warp`.
    """
    check_size(reference.shape[1], estimate.shape[1])
    return warp(torch.cdist(mel_cepstrum(reference, coefficients).T, mel_cepstrum(estimate, coefficients).T))


def warped_mel_cepstral_distance(reference: Tensor, estimate: Tensor, coefficients: int = 13) -> float:
    """`mel_cepstral_distance` along the path of `mel_cepstral_path`: for another timing of the same words."""
    path = mel_cepstral_path(reference, estimate, coefficients)
    return mel_cepstral_distance(reference[:, path.first], estimate[:, path.second], coefficients)


def delta_variance_ratio(reference: Tensor, estimate: Tensor) -> float:
    """How lively an estimate is in time: 1 for a copy, below 1 where it is over-smoothed, above 1 where it is noisy.

    The variance over time of the differences of successive frames, its mean over bands, of ``estimate [n_mels, m]``
    divided by that of ``reference [n_mels, n]``; one needs no alignment. Raises `InputError` for fewer than three
    frames, or a reference that never changes.
    """
    real, made = (_delta_variance(mel) for mel in (reference, estimate))
    if real == 0:
        raise InputError("the reference's spectrum never changes, so nothing can be as lively; expected speech.")
    return made / real


def _delta_variance(mel: Tensor) -> float:
    if mel.shape[-1] < 3:
        raise InputError(f"{mel.shape[-1]} frames are too few to say how a spectrum changes; expected at least 3.")
    return float(mel.detach().cpu().double().diff(dim=-1).var(-1, correction=0).mean())


# --- sets of frames -----------------------------------------------------------------------------------------


class Moments(NamedTuple):
    """How many ``frames``, their ``mean [d]``, and their ``scatter [d, d]``, the sum of (x - mean)(x - mean)^T."""

    frames: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def of(cls, mel: Tensor) -> Moments:
        """Of the frames of one spectrum ``[n_mels, frames]``."""
        frames = mel.detach().cpu().double().T
        mean = frames.mean(0)
        return cls(len(frames), mean, (frames - mean).T @ (frames - mean))

    def joined(self, other: Moments) -> Moments:
        """Of the frames of both (Chan et al. 1979), so that a large set need not be held in memory."""
        frames = self.frames + other.frames
        step = other.mean - self.mean
        mean = self.mean + step * (other.frames / frames)
        spread = torch.outer(step, step) * (self.frames * other.frames / frames)
        return Moments(frames, mean, self.scatter + other.scatter + spread)


def frechet_log_mel(reference: Moments, estimate: Moments) -> float:
    r"""Frechet distance between Gaussians with the moments of two sets of log-mel frames.

    |m_1 - m_2|^2 + tr(C_1 + C_2 - 2 (C_1^(1/2) C_2 C_1^(1/2))^(1/2)) (Dowson & Landau 1982), in squared nepers. The
    order of frames does not matter. Raises `InputError` for sets of fewer than two frames.
    """
    first, second = (_covariance(moments) for moments in (reference, estimate))
    values, vectors = torch.linalg.eigh(first)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    shared = torch.linalg.eigvalsh(root @ second @ root).clamp_min(0).sqrt().sum()
    distance = (reference.mean - estimate.mean).square().sum() + first.trace() + second.trace() - 2 * shared
    return max(float(distance), 0.0)  # rounding may put that of two equal sets below 0


def _covariance(moments: Moments) -> Tensor:
    if moments.frames < 2:
        raise InputError(f"{moments.frames} frames have no covariance; expected at least 2.")
    return moments.scatter / (moments.frames - 1)


# --- pitch --------------------------------------------------------------------------------------------------


def f0_rmse(reference: Tensor, estimate: Tensor) -> float:
    """Root mean square of the difference in cents, over frames that are voiced in both ``[frames]``.

    Raises `InputError` if numbers of frames differ, or no frame is voiced in both.
    """
    return float(_cents_in_both(reference, estimate).square().mean().sqrt())


def gross_pitch_error(reference: Tensor, estimate: Tensor, tolerance: float = 0.2) -> float:
    """Share of the frames voiced in both whose f0 is off by more than ``tolerance`` of the reference's.

    Nakatani et al. 2008. Raises `InputError` if numbers of frames differ, or no frame is voiced in both.
    """
    ratio = 2 ** (_cents_in_both(reference, estimate) / 1200)
    return float(((ratio - 1).abs() > tolerance).double().mean())


def voicing_decision_error(reference: Tensor, estimate: Tensor) -> float:
    """Share of all frames that are voiced in one and unvoiced in the other. `InputError` if their numbers differ."""
    first, second = _pair(reference, estimate)
    return float(((first > 0) != (second > 0)).double().mean())


def _cents_in_both(reference: Tensor, estimate: Tensor) -> Tensor:
    first, second = _pair(reference, estimate)
    difference = cents(second, first)
    both = difference[~difference.isnan()]
    if both.numel() == 0:
        raise InputError("no frame is voiced in both the reference and the estimate, so pitch cannot be compared.")
    return both


class NoteErrors(NamedTuple):
    """``cents [k]``: how far each note that was sung is above the score. ``unsung``: notes without a voiced frame."""

    cents: Tensor
    unsung: int

    @property
    def rmse(self) -> float:
        """Root mean square over the notes that were sung."""
        return float(self.cents.square().mean().sqrt())


def steady_note_errors(
    f0: Tensor, hop: float, notes: Sequence[str], durations: Sequence[float], *, middle: float = 0.5
) -> NoteErrors:
    """How well ``f0 [frames]``, a frame every ``hop`` seconds, keeps to the notes ("C#4", "rest") of a score.

    Of each note only the ``middle`` share of its time counts, where no one glides, and of that the median f0. Raises
    `InputError` if the score has more notes than durations or the other way round, or if no note is sung at all.
    """
    if len(notes) != len(durations):
        raise InputError(f"the score has {len(notes)} notes but {len(durations)} durations; expected as many.")
    if hop <= 0 or not 0 < middle <= 1:
        raise ValueError(f"expected hop > 0 and middle in (0, 1], got {hop} and {middle}")
    track = f0.detach().cpu().double()
    times = torch.arange(len(track), dtype=torch.float64) * hop
    errors: list[float] = []
    unsung, start = 0, 0.0
    for note, duration in zip(notes, durations, strict=True):
        target = note_to_hz(note)
        if target > 0:
            steady = (times - start - duration / 2).abs() <= middle * duration / 2
            sung = track[steady & (track > 0)]
            if sung.numel():
                # The midpoint of the two in the middle: torch's own median takes the lower one.
                errors.append(cents(float(sung.quantile(0.5)), target))
            else:
                unsung += 1
        start += duration
    if not errors:
        raise InputError(f"none of the score's {unsung} notes has a voiced frame in its middle; expected singing.")
    return NoteErrors(torch.tensor(errors, dtype=torch.float64), unsung)


# --- time ---------------------------------------------------------------------------------------------------


def real_time_factor(seconds: float, audio_seconds: float) -> float:
    """Seconds of computing for a second of sound: below 1 is faster than real time."""
    if seconds < 0 or audio_seconds <= 0:
        raise ValueError(f"expected seconds >= 0 of some sound, got {seconds} for {audio_seconds}")
    return seconds / audio_seconds
