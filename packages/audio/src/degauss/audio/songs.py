"""Any file with a song in it as a score: `.ds`, MIDI, MusicXML."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from degauss.audio.lyrics import Syllables, english, japanese, sung
from degauss.audio.midi import read_midi
from degauss.audio.musicxml import read_musicxml
from degauss.audio.phones import Pronounce, refuse
from degauss.audio.score import Score, read_ds
from degauss.core.errors import InputError

Language = Literal["japanese", "english"]
MIDI, MUSICXML = (".mid", ".midi", ".kar"), (".musicxml", ".mxl", ".xml")
SUFFIXES = (".ds", *MIDI, *MUSICXML)


@dataclass(frozen=True)
class Reading:
    """How a song with notes and lyrics is read; a `.ds` file has its phones already.

    ``lyric`` sings it all on one syllable; ``part`` names a part (MusicXML), ``track`` counts from 0 (MIDI);
    ``tempo`` is in quarters a minute (MusicXML). ``unknown`` is asked for English words the dictionary lacks.
    """

    language: Language = "japanese"
    lyric: str | None = None
    part: str | None = None
    verse: int = 1
    track: int | None = None
    tempo: float | None = None
    unknown: Pronounce = refuse

    @property
    def syllables(self) -> Syllables:
        return japanese if self.language == "japanese" else partial(english, unknown=self.unknown)


def read_song(path: str | Path, reading: Reading | None = None) -> Score:
    """The score of a song file, by its suffix.

    Raises:
        InputError: no reader knows the suffix, or what its reader raises, with the name of the file.
    """
    path, reading = Path(path), reading or Reading()
    kind = path.suffix.lower()
    if kind == ".ds":
        return read_ds(path)
    if kind in MIDI:
        melody = read_midi(path, reading.track)
    elif kind in MUSICXML:
        melody = read_musicxml(path, reading.part, reading.verse, reading.tempo)
    else:
        raise InputError(f"{path}: is no song that can be read; expected a name that ends in {', '.join(SUFFIXES)}.")
    try:
        return sung(melody.notes, reading.syllables, lyric=reading.lyric, bar=melody.bar)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
