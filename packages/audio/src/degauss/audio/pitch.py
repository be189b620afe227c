r"""The pitch of a voice, and the names of notes.

f0 is in Hz and 0 where a voice does not sound. Frame k is at k * hop / rate seconds and there are 1 + n // hop of
them, just as in `degauss.audio.spectra.log_mel`. Notes are of equal temperament with A4 = 440 Hz: note m of MIDI has
440 * 2^((m - 69) / 12) Hz.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from torch import Tensor

from degauss.core.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

REST = "rest"

_NAMES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
_STEPS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
_NOTE = re.compile(r"([A-G])([#♯]*|[b♭]*)(-?\d+)([+-]\d+(?:\.\d+)?)?", re.IGNORECASE)


# --- estimation ---------------------------------------------------------------------------------------------


def f0(x: Tensor, rate: int, hop: int, *, low: float = 71.0, high: float = 1000.0) -> Tensor:
    """f0 of ``x [n]`` between ``low`` and ``high`` Hz, ``[1 + n // hop]``: WORLD's DIO refined by StoneMask.

    Fast, and good where the recording is clean. ``low`` is WORLD's own: from 60 Hz down, the hum of the mains is taken
    for a voice wherever nobody speaks. Source: Morise, Kawahara & Katayose 2009; Morise 2016.
    """
    import pyworld

    def dio(samples: NDArray[np.float64], frame: float) -> NDArray[np.float64]:
        rough, times = pyworld.dio(samples, rate, f0_floor=low, f0_ceil=high, frame_period=frame)
        return _refined(samples, rough, times, rate)

    return _estimate(dio, x, rate, hop, low, high)


def f0_harvest(x: Tensor, rate: int, hop: int, *, low: float = 71.0, high: float = 1000.0) -> Tensor:
    """As `f0`, by Harvest (Morise 2017): fewer voiced frames lost, about fifty times slower."""
    import pyworld

    def harvest(samples: NDArray[np.float64], frame: float) -> NDArray[np.float64]:
        found, times = pyworld.harvest(samples, rate, f0_floor=low, f0_ceil=high, frame_period=frame)
        return _refined(samples, found, times, rate)

    return _estimate(harvest, x, rate, hop, low, high)


def _refined(
    samples: NDArray[np.float64], rough: NDArray[np.float64], times: NDArray[np.float64], rate: int
) -> NDArray[np.float64]:
    """StoneMask's refinement; above rate / 12, where it finds nothing, the rough estimate stands."""
    import pyworld

    fine = pyworld.stonemask(samples, rough, times, rate)
    return np.where(fine > 0, fine, rough)


def _estimate(
    estimator: Callable[[NDArray[np.float64], float], NDArray[np.float64]],
    x: Tensor,
    rate: int,
    hop: int,
    low: float,
    high: float,
) -> Tensor:
    if x.ndim != 1 or x.numel() == 0:
        raise ValueError(f"expected samples [n], got {list(x.shape)}")
    if not bool(torch.isfinite(x).all()):
        raise ValueError("f0 of samples that are not finite")
    if not 0 < low < high < rate / 2:
        raise ValueError(f"expected 0 < low < high < rate / 2, got {low:g} and {high:g} Hz at a rate of {rate} Hz")
    frames = 1 + x.numel() // hop
    # WORLD counts its frames in rounded seconds; silence of a few hops makes sure of the last.
    samples = np.zeros(max(x.numel() + 2 * hop, rate // 10))
    samples[: x.numel()] = x.detach().cpu().double().numpy()
    found = estimator(samples, 1000 * hop / rate)[:frames]
    return torch.from_numpy(np.ascontiguousarray(found)).float()


def interpolated_log_f0(f0: Tensor, unvoiced: float = 100.0) -> Tensor:
    """ln f0 of ``f0 [..., frames]``, linear across unvoiced stretches and level before the first and after the last.

    A row without any voiced frame becomes ln(``unvoiced``), in Hz.
    """
    rows = f0.detach().cpu().double().reshape(-1, f0.shape[-1]).numpy()
    places = np.arange(rows.shape[-1])
    out = np.full(rows.shape, math.log(unvoiced))
    for row, hz in zip(out, rows, strict=True):
        voiced = hz > 0
        if voiced.any():
            row[:] = np.interp(places, places[voiced], np.log(hz[voiced]))
    return torch.from_numpy(out).reshape(f0.shape).to(f0)


# --- notes --------------------------------------------------------------------------------------------------


def note_to_hz(note: str) -> float:
    """Frequency of a note such as "C#4", "Bb3" or "A4+15" (cents); 0 for "rest". `InputError` for anything else."""
    return 0.0 if note == REST else midi_to_hz(note_to_midi(note))


def hz_to_note(hz: float) -> str:
    """Name of the nearest note, with sharps ("C#4"); "rest" for 0 or less."""
    return midi_to_note(round(hz_to_midi(hz))) if hz > 0 else REST


def note_to_midi(note: str) -> float:
    """MIDI number of a note: 60 for "C4", a fraction where cents are given. `InputError` if it is no note."""
    match = _NOTE.fullmatch(note.strip())
    if match is None:
        raise InputError(f"{note!r} is not a note; expected a letter, perhaps # or b, and an octave, such as C#4.")
    letter, accidentals, octave, cents = match.groups()
    sign = 1 if accidentals[:1] in ("#", "♯") else -1
    semitones = _STEPS[letter.upper()] + sign * len(accidentals)
    return 12 * (int(octave) + 1) + semitones + float(cents or 0) / 100


def midi_to_note(number: int) -> str:
    """Name of a MIDI number: "C4" for 60."""
    return f"{_NAMES[number % 12]}{number // 12 - 1}"


def midi_to_hz(number: float) -> float:
    return 440 * 2 ** ((number - 69) / 12)


def hz_to_midi(hz: float) -> float:
    """MIDI number of a frequency above 0, with its fraction."""
    return 69 + 12 * math.log2(hz / 440)


@overload
def cents(a: Tensor, b: Tensor) -> Tensor: ...
@overload
def cents(a: float, b: float) -> float: ...
def cents(a: Any, b: Any) -> Any:
    """How far ``a`` is above ``b``, both in Hz: 1200 log2(a / b); NaN where either is unvoiced (0)."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.where((a > 0) & (b > 0), 1200 * torch.log2(a / b), torch.nan)
    return 1200 * math.log2(a / b) if a > 0 and b > 0 else math.nan
