"""The voice of a MusicXML score with its lyrics (.musicxml, .xml, .mxl), read by music21.

Tied notes are one note; a note without a syllable of its own (under a slur, or an extender line) goes on with the
vowel before it; syllables joined by hyphens make a word. The music is sung as it is written, once: repeats are not
unfolded and fermatas not held. Grace notes are left out, and where two notes are written at once (an ossia, a second
voice), the one with a syllable is sung, else the higher. Metronome marks count, also those that a tempo word implies;
without any it is 120 quarters a minute.

Needs the extra: ``pip install "degauss-audio[scores]"``.
"""

from __future__ import annotations

import bisect
import re
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from degauss.audio.lyrics import Note
from degauss.audio.midi import Melody
from degauss.core.errors import InputError, near_miss

_DEFAULT_TEMPO = 120.0  # quarters a minute
_HYPHENS = "-‐‑ \u00a0\n"


def read_musicxml(path: str | Path, part: str | None = None, verse: int = 1, tempo: float | None = None) -> Melody:
    """The melody of the part named (any case; a piece of the name will do), else of the first part with lyrics.

    ``verse`` counts from 1; ``tempo``, in quarters a minute, replaces every tempo of the score. The bar is the first.

    Raises:
        InputError: music21 is missing, the file cannot be read, or the part, its lyrics or the verse is not there.
    """
    path = Path(path)
    score = _parsed(path)
    voice = _part(score, part, path)
    verses = sorted({int(lyric.number) for note in voice.flatten().notes for lyric in note.lyrics})
    if verses and verse not in verses:
        raise InputError(f"{path}: has no verse {verse}; expected one of {', '.join(map(str, verses))}.")
    clock = _Clock(score, tempo)
    notes: list[Note] = []
    for written in _melody(voice, verse):
        start, end = clock.seconds(written.start), clock.seconds(written.end)
        notes.append(Note(start, end, written.pitch, written.lyric, written.joined))
    if not notes:
        raise InputError(f"{path}: the part has no note; expected a melody.")
    return Melody(tuple(notes), clock.seconds(_bar(voice)))


def _parsed(path: Path) -> Any:
    try:
        from music21 import converter
        from music21.exceptions21 import Music21Exception
    except ModuleNotFoundError:
        raise InputError(
            f'{path}: needs music21, which is not installed; expected the extra of pip install "degauss-audio[scores]".'
        ) from None
    if not path.is_file():
        raise InputError(f"{path} does not exist.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of dynamics and layout, which are not sung
            return converter.parse(path, format="musicxml", forceSource=True)
    except (Music21Exception, ValueError, SyntaxError, OSError, KeyError, AttributeError) as error:
        raise InputError(f"{path} is no MusicXML that can be read ({error}).") from None


def _part(score: Any, name: str | None, path: Path) -> Any:
    parts: list[Any] = list(getattr(score, "parts", []))
    names = [str(part.partName or f"part {k}") for k, part in enumerate(parts, 1)]
    if name is not None:
        for part, called in zip(parts, names, strict=True):
            if name.lower() in called.lower():
                return part
        raise InputError(f"{path}: has no part {name!r}{near_miss(name, names)}; its parts are {', '.join(names)}.")
    for part in parts:
        if any(note.lyrics for note in part.flatten().notes):
            return part
    # A melody without words can still be sung on one syllable, if it is clear which.
    if len(parts) == 1:
        return parts[0]
    raise InputError(f"{path}: no part has lyrics; name one of its parts: {', '.join(names) or 'there is none'}.")


@dataclass(frozen=True)
class _Written(Note):
    """A note in quarters instead of seconds, and whether it is tied to the one before."""

    tied: bool = False


def _melody(voice: Any, verse: int) -> list[_Written]:
    """The notes one after the other, in quarters."""
    found: list[_Written] = []
    for note in voice.toSoundingPitch(inPlace=False).flatten().notes:
        if note.duration.isGrace or note.quarterLength == 0 or not hasattr(note, "pitches"):
            continue
        start = float(note.offset)
        lyric, joined = _syllable(note, verse)
        tied = note.tie is not None and note.tie.type in ("continue", "stop")
        pitch = max(float(pitch.ps) for pitch in note.pitches)
        found.append(_Written(start, start + float(note.quarterLength), pitch, lyric, joined, tied))
    found.sort(key=lambda note: (note.start, not note.lyric, -note.pitch))
    melody: list[_Written] = []
    for note in found:
        if melody and note.start < melody[-1].end - 1e-6:
            if note.start <= melody[-1].start + 1e-6 or not note.lyric:
                continue  # beside a note that is sung
            melody[-1] = replace(melody[-1], end=note.start)
        last = melody[-1] if melody else None
        if last and note.tied and not note.lyric and note.pitch == last.pitch and abs(note.start - last.end) < 1e-6:
            melody[-1] = replace(last, end=note.end)
        else:
            melody.append(note)
    return melody


def _syllable(note: Any, verse: int) -> tuple[str, bool]:
    """The syllable of a verse on this note, and whether it goes on with a word."""
    for lyric in note.lyrics:
        if int(lyric.number) == verse:
            text = re.sub(r"\s+", " ", lyric.text or "").strip(_HYPHENS)
            return text, lyric.syllabic in ("middle", "end")
    return "", False


def _bar(voice: Any) -> float:
    """Quarters of the first bar's time signature."""
    signatures = list(voice.recurse().getElementsByClass("TimeSignature"))
    return float(signatures[0].barDuration.quarterLength) if signatures else 4.0


class _Clock:
    """Quarters to seconds, through the metronome marks of the whole score."""

    def __init__(self, score: Any, tempo: float | None) -> None:
        marks = {0.0: _DEFAULT_TEMPO}
        for mark in [] if tempo is not None else score.recurse().getElementsByClass("MetronomeMark"):
            quarters = mark.getQuarterBPM()
            if quarters:
                marks[float(mark.getOffsetInHierarchy(score))] = float(quarters)
        if tempo is not None:
            marks = {0.0: tempo}
        self.offsets = sorted(marks)
        self.rates = [marks[offset] / 60 for offset in self.offsets]  # quarters a second
        self.times = [0.0]
        for k in range(1, len(self.offsets)):
            self.times.append(self.times[-1] + (self.offsets[k] - self.offsets[k - 1]) / self.rates[k - 1])

    def seconds(self, quarters: float) -> float:
        k = bisect.bisect_right(self.offsets, quarters) - 1
        return self.times[k] + (quarters - self.offsets[k]) / self.rates[k]
