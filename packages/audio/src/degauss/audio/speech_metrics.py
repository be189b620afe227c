"""Speech quality as published tools measure it: PESQ, ESTOI, DNSMOS and speaker similarity.

Each function takes waves of one rate, the reference first, and mixes channels to one. They wrap the packages that
papers use (pesq, pystoi, speechmos, Resemblyzer), so that numbers compare; ``pip install "degauss-audio[metrics]"``
brings them. What has no score raises `InputError`: two lengths or rates, silence, too little speech. Those packages
would score some of these all the same, with a number that means nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from degauss.audio.waves import Wave, mono, resample
from degauss.core.errors import InputError

Samples = NDArray[np.float32]

_WIDE, _NARROW = 16000, 8000

# P.862's own code has room for 50 utterances, which it does not check: more end the process. An utterance and the pause
# after it last 0.4 s at least.
_LONGEST = 20.0


def pesq_wideband(reference: Wave, estimate: Wave) -> float:
    """PESQ-WB (ITU-T P.862.2), 1.04 to 4.64: mean opinion of wideband speech. Rates above 16 kHz are resampled to it.

    Raises `InputError` below 16 kHz, for waves of two rates or lengths, shorter than 1/4 s or longer than 20 s, silent
    or without speech.
    """
    rate = _checked(reference, estimate)
    if rate < _WIDE:
        raise InputError(f"wideband PESQ is of 16 kHz, but the waves are of {rate} Hz; expected at least 16000.")
    return _pesq(_samples(reference, _WIDE), _samples(estimate, _WIDE), _WIDE, "wb")


def pesq_narrowband(reference: Wave, estimate: Wave) -> float:
    """PESQ-NB (ITU-T P.862.1), 1.02 to 4.55: mean opinion over a telephone. At 8 kHz, or 16 kHz for rates from there.

    Raises `InputError` as `pesq_wideband`, here below 8 kHz.
    """
    rate = _checked(reference, estimate)
    if rate < _NARROW:
        raise InputError(f"narrowband PESQ is of 8 kHz, but the waves are of {rate} Hz; expected at least 8000.")
    used = _WIDE if rate >= _WIDE else _NARROW
    return _pesq(_samples(reference, used), _samples(estimate, used), used, "nb")


def estoi(reference: Wave, estimate: Wave) -> float:
    """Extended short-time objective intelligibility, about 0 to 1 (Jensen & Taal 2016).

    Raises `InputError` for waves of two rates or lengths, a silent one, or less than 0.4 s of speech.
    """
    rate = _checked(reference, estimate)
    with _extra():
        from pystoi import stoi
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # it warns, and returns 0.00001
        try:
            return float(stoi(_samples(reference, rate), _samples(estimate, rate), rate, extended=True))
        except (RuntimeWarning, ValueError, IndexError):
            raise InputError("ESTOI needs 30 frames of speech, about 0.4 s; expected a longer recording.") from None


class Dnsmos(NamedTuple):
    """Mean opinions from 1 to 5 that DNSMOS predicts without a reference (Reddy et al. 2022): of all, of the speech
    alone, of the background alone, and the older overall score of P.808."""

    overall: float
    signal: float
    background: float
    p808: float


def dnsmos(wave: Wave) -> Dnsmos:
    """What listeners would say of a wave, by DNSMOS P.835 at 16 kHz; waves under 9 s are repeated, as it does.

    A wave that peaks above full scale is scaled down to it. Raises `InputError` for an empty, silent or non-finite
    wave.
    """
    _check(wave, "wave")
    with _extra():
        from speechmos import dnsmos as tool  # pyright: ignore[reportMissingImports]
    found: Any = tool.run(_within(_samples(wave, _WIDE)), _WIDE)
    return Dnsmos(*(float(found[name]) for name in ("ovrl_mos", "sig_mos", "bak_mos", "p808_mos")))


def speaker_similarity(first: Wave, second: Wave) -> float:
    """Cosine of Resemblyzer's embeddings of two voices, 0 to 1; rates, lengths and words may differ.

    The network is that of Wan et al. 2018. Read sentences of one speaker have 0.8 to 0.9, of two less; in single words
    the difference is small. Raises `InputError` for a wave that is empty, silent, not finite, or without speech that a
    voice detector finds.
    """
    one, other = (speaker_embedding(wave) for wave in (first, second))
    return float(np.clip(one @ other, 0, 1))


def speaker_embedding(wave: Wave) -> Samples:
    """Resemblyzer's embedding ``[256]`` of who speaks, of length 1; raises as `speaker_similarity`."""
    _check(wave, "wave")
    with _extra():
        from resemblyzer import preprocess_wav  # pyright: ignore[reportMissingImports]
    # Its preprocessing makes quiet waves louder and cuts what its voice detector takes for silence.
    speech = preprocess_wav(_within(_samples(wave, _WIDE)))
    found: Any = _voices().embed_utterance(speech) if len(speech) else 0
    embedding = np.asarray(found, dtype=np.float32)
    if not np.isfinite(embedding).all() or not embedding.any():
        raise InputError("a wave has no speech that a voice can be told by; expected about a second of it.")
    return embedding


@lru_cache(maxsize=1)
def _voices() -> Any:
    from resemblyzer import VoiceEncoder  # pyright: ignore[reportMissingImports]

    return VoiceEncoder(device="cpu", verbose=False)


def _pesq(reference: Samples, estimate: Samples, rate: int, mode: str) -> float:
    if len(reference) > _LONGEST * rate:
        raise InputError(f"PESQ is for at most {_LONGEST:g} s, not {len(reference) / rate:.1f}; cut it into sentences.")
    with _extra():
        from pesq import BufferTooShortError, NoUtterancesError, PesqError, pesq  # pyright: ignore[reportMissingImports]
    try:
        return float(pesq(rate, reference, estimate, mode))
    except BufferTooShortError:
        raise InputError("PESQ needs at least 1/4 s; expected a longer recording.") from None
    except NoUtterancesError:
        raise InputError("PESQ finds no utterance in the reference; expected louder or longer speech.") from None
    except (PesqError, ValueError) as error:
        raise InputError(f"PESQ cannot score this pair ({error}); expected speech.") from None


# --- what all of them need ----------------------------------------------------------------------------------


@contextmanager
def _extra() -> Generator[None]:
    """Imports of the extra: without the warnings of their own dependencies, and with an error that names it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except ImportError as missing:
        raise ImportError(
            f"this metric needs {missing.name}, which is not installed; expected the extra of "
            'pip install "degauss-audio[metrics]".'
        ) from missing


def _checked(reference: Wave, estimate: Wave) -> int:
    """The rate of two waves of one rate and length, with sound in both."""
    if reference.rate != estimate.rate:
        raise InputError(
            f"the reference is of {reference.rate} Hz, the estimate of {estimate.rate}; expected one rate."
        )
    n, m = reference.samples.shape[-1], estimate.samples.shape[-1]
    if n != m:
        raise InputError(f"the reference has {n} samples, the estimate {m}; expected the same length.")
    _check(reference, "reference")
    _check(estimate, "estimate")
    return reference.rate


def _check(wave: Wave, name: str) -> None:
    if not bool(torch.isfinite(wave.samples).all()):
        raise InputError(f"the {name} holds values that are not finite; expected numbers.")
    if not bool((wave.samples != 0).any()):  # which an empty one has not either
        raise InputError(f"the {name} is empty or silent; expected speech.")


def _samples(wave: Wave, rate: int) -> Samples:
    """One channel ``[n]`` at a rate."""
    one = mono(wave).detach().cpu().float()[None]
    return resample(Wave(one, wave.rate), rate).samples[0].numpy()


def _within(samples: Samples) -> Samples:
    """At most full scale: the tools store 16 bits, or refuse."""
    return (samples / max(1.0, float(np.abs(samples).max()))).astype(np.float32)
