"""A prepared folder of which every answer is known: vowels sung on notes, for tests, claims and examples.

Each recording is silence, a few vowels on notes with a little vibrato, silence, and hiss at -60 dB throughout.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from degauss.audio.pitch import hz_to_midi, note_to_hz
from degauss.audio.score import Segment, note_name, write_ds
from degauss.audio.synthetic import VOWELS, vibrato, vowel
from degauss.audio.transcription import Entry, write_transcriptions
from degauss.audio.waves import Wave, write
from degauss.core.noise import Noise

PHONES = {"iy": "i", "eh": "e", "aa": "a", "ow": "o", "uw": "u"}
"""The phones that are sung, and which of `synthetic.VOWELS` each is."""

_NOTES = ("A3", "C4", "E4", "G3")
_SILENCE, _LOUDNESS, _HISS = 0.1, 0.1, 1e-3
_STEP = 0.005  # s of f0


def write_sung_vowels(
    folder: Path,
    count: int = 4,
    *,
    rate: int = 16000,
    vowels: int = 3,
    voices: tuple[str, ...] = ("voice",),
    seed: int = 0,
) -> list[Entry]:
    """Write ``count`` recordings u0, u1, ... of so many vowels each, their scores and their table; voices take turns.

    Vowels last 0.2 to 0.3 s, on one of A3, C4, E4 and G3. A second voice is a fifth higher, and so on.
    """
    (folder / "wavs").mkdir(parents=True, exist_ok=True)
    draws = Noise(seed, range(count)).uniform(torch.empty(count, vowels, 3))
    entries: list[Entry] = []
    hop = round(rate * _STEP)
    for number, draw in enumerate(draws):
        voice = number % len(voices)
        phones = [list(PHONES)[int(u * len(PHONES))] for u in draw[:, 0]]
        notes = [_NOTES[int(u * len(_NOTES))] for u in draw[:, 1]]
        lengths = [round(rate * (0.2 + 0.1 * float(u))) for u in draw[:, 2]]
        silence = torch.zeros(round(rate * _SILENCE))
        curves = [vibrato(1.5**voice * note_to_hz(note), n, rate, 20.0) for note, n in zip(notes, lengths, strict=True)]
        sounds = [
            _LOUDNESS * vowel(VOWELS[PHONES[phone]], curve, rate) for phone, curve in zip(phones, curves, strict=True)
        ]
        samples = torch.cat([silence, *sounds, silence])
        hertz = torch.cat([silence, *curves, silence])[::hop].tolist()
        samples = samples + _HISS * Noise(seed, [count + number]).normal(samples[None])[0]
        seconds = (_SILENCE, *(n / rate for n in lengths), _SILENCE)
        pitches = ("rest", *(_higher(note, voice) for note in notes), "rest")
        segment = Segment(("SP", *phones, "SP"), seconds, (1,) * (vowels + 2), pitches, seconds, (0,) * (vowels + 2))
        write_ds(folder / "ds" / f"u{number}.ds", [replace(segment, f0=tuple(hertz), f0_step=hop / rate)])
        entries.append(Entry(f"u{number}", segment, voices[voice]))
        write(folder / "wavs" / f"u{number}.wav", Wave(samples[None], rate))
    write_transcriptions(folder / "transcriptions.csv", entries)
    return entries


def _higher(note: str, fifths: int) -> str:
    """The note so many pure fifths higher."""
    return note_name(hz_to_midi(1.5**fifths * note_to_hz(note)))
