"""The melody of a MIDI file, with its lyrics, and back.

A note is sung on the lyric event of its own tick; one without goes on with the vowel before it. A lyric that ends in
a hyphen is joined by the next one to a word. Tempo changes count. A key held a little into the next note (legato) is
let go where the next begins; notes that truly sound together are no melody and are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from degauss.audio.lyrics import Note
from degauss.core.errors import InputError
from degauss.core.files import atomic_path

LEGATO = 0.06  # s that a key may be held into the next note
_TICKS = 480


@dataclass(frozen=True)
class Melody:
    """Notes in order of time, and the length of a bar in seconds at the start of the song."""

    notes: tuple[Note, ...]
    bar: float = 2.0


def read_midi(path: str | Path, track: int | None = None) -> Melody:
    """The melody of one track: of the track given (from 0), else of the one with most lyrics, else with most notes.

    Raises:
        InputError: the file is missing or no MIDI, the track is not there or has no notes, or notes overlap.
    """
    import mido

    path = Path(path)
    try:
        # Lyrics are bytes to MIDI: read them as Latin-1, which loses nothing, and look what they are later.
        song: Any = mido.MidiFile(path, charset="latin-1")
    except FileNotFoundError:
        raise InputError(f"{path} does not exist.") from None
    except (OSError, ValueError, EOFError, IndexError, KeyError) as error:
        raise InputError(f"{path} is no MIDI file that can be read ({error or 'it ends too soon'}).") from None
    if track is not None and not 0 <= track < len(song.tracks):
        raise InputError(f"{path}: has no track {track}; expected one from 0 to {len(song.tracks) - 1}.")
    clock = _Clock(song)
    lines = [_line(messages, clock) for messages in song.tracks]
    chosen = track if track is not None else _busiest(lines)
    if chosen is None or not lines[chosen].notes:
        raise InputError(f"{path}: {'no track' if track is None else f'track {track}'} has a note; expected a melody.")
    lyrics = lines[chosen].lyrics or (lines[0].lyrics if song.type == 1 else {})
    return Melody(tuple(_alone(_lyriced(lines[chosen].notes, lyrics), path)), clock.bar)


@dataclass(frozen=True)
class _Line:
    """What a track holds: (tick, note) in order, and its lyrics by tick."""

    notes: list[tuple[int, Note]]
    lyrics: dict[int, str]


class _Clock:
    """Ticks to seconds through all tempo changes of a song."""

    def __init__(self, song: Any) -> None:
        changes = [(0, 500_000)]  # MIDI's own default: 120 beats a minute
        numerator, denominator = 4, 4
        for messages in song.tracks:
            tick = 0
            for message in messages:
                tick += message.time
                if message.type == "set_tempo":
                    changes.append((tick, message.tempo))
                if message.type == "time_signature" and tick == 0:
                    numerator, denominator = message.numerator, message.denominator
        changes.sort(key=lambda change: change[0])
        self.per_beat = int(song.ticks_per_beat)
        self.changes: list[tuple[int, float, int]] = []  # tick, second, microseconds a beat
        second = 0.0
        for k, (tick, tempo) in enumerate(changes):
            if k:
                last, _, before = self.changes[-1]
                second += (tick - last) * before * 1e-6 / self.per_beat
            self.changes.append((tick, second, tempo))
        at_start = [tempo for tick, tempo in changes if tick == 0][-1]
        self.bar = numerator * 4 / denominator * at_start * 1e-6

    def seconds(self, tick: int) -> float:
        last, second, tempo = next(change for change in reversed(self.changes) if change[0] <= tick)
        return second + (tick - last) * tempo * 1e-6 / self.per_beat


def _line(messages: Any, clock: _Clock) -> _Line:
    tick = 0
    held: dict[tuple[int, int], int] = {}
    notes: list[tuple[int, Note]] = []
    lyrics: dict[int, str] = {}

    def let_go(key: tuple[int, int]) -> None:
        start = held.pop(key, None)
        if start is not None and tick > start:
            notes.append((start, Note(clock.seconds(start), clock.seconds(tick), float(key[1]))))

    for message in messages:
        tick += message.time
        if message.type == "lyrics":
            lyrics[tick] = _decoded(message.text)
        elif message.type == "note_on" and message.velocity > 0:
            let_go((message.channel, message.note))
            held[message.channel, message.note] = tick
        elif message.type in ("note_on", "note_off"):
            let_go((message.channel, message.note))
    for key in list(held):  # a key that is never let go sounds to the end of the track
        let_go(key)
    return _Line(sorted(notes, key=lambda pair: (pair[0], pair[1].pitch)), lyrics)


def _busiest(lines: Sequence[_Line]) -> int | None:
    """The track most likely to be sung: with notes, most lyrics, then most notes."""
    with_notes = [k for k, line in enumerate(lines) if line.notes]
    return max(with_notes, key=lambda k: (len(lines[k].lyrics), len(lines[k].notes), -k)) if with_notes else None


def _decoded(text: str) -> str:
    """A lyric in the encoding it is written in: UTF-8, else Shift-JIS, else Latin-1."""
    raw = text.encode("latin-1")
    for encoding in ("utf-8", "cp932"):
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError:
            continue
    return text


def _lyriced(notes: Sequence[tuple[int, Note]], lyrics: dict[int, str]) -> list[Note]:
    found: list[Note] = []
    joined = False
    for tick, note in notes:
        note = replace(note, lyric=lyrics.get(tick, "").strip("\r\n\\/ "), joined=joined)
        found.append(note)
        if not note.slurred:
            joined = note.lyric.endswith("-")
    return found


def _alone(notes: list[Note], path: Path) -> list[Note]:
    """The notes one after the other; `InputError` where two sound at once."""
    for k, (note, following) in enumerate(pairwise(notes)):
        over = note.end - following.start
        if over > LEGATO or following.start <= note.start:
            raise InputError(
                f"{path}: two notes sound at once at {following.start:.2f} s; expected a melody of one note at a time "
                "(name another track?)."
            )
        if over > 0:
            notes[k] = replace(note, end=following.start)
    return notes


def write_midi(path: str | Path, notes: Sequence[Note], tempo: float = 120.0) -> None:
    """Write a melody with its lyrics (UTF-8) as a MIDI file of one track; cents are rounded to semitones.

    ``tempo`` in beats a minute only says how the time is counted (480 ticks a beat).
    """
    import mido

    beat = round(60e6 / tempo)
    tick = 1e-6 * beat / _TICKS
    track: Any = mido.MidiTrack([mido.MetaMessage("set_tempo", tempo=beat)])
    events: list[tuple[int, int, Any]] = []
    for k, note in enumerate(notes):
        start, end = round(note.start / tick), round(note.end / tick)
        joins = k + 1 < len(notes) and notes[k + 1].joined and not note.lyric.endswith("-")
        if note.lyric:
            text = f"{note.lyric}-" if joins else note.lyric
            events.append((start, 1, mido.MetaMessage("lyrics", text=text)))
        pitch = round(note.pitch)
        events.append((start, 2, mido.Message("note_on", note=pitch, velocity=96)))
        events.append((end, 0, mido.Message("note_off", note=pitch, velocity=0)))
    here = 0
    for at, _, event in sorted(events, key=lambda event: event[:2]):
        track.append(event.copy(time=at - here))
        here = at
    with atomic_path(path) as part:
        mido.MidiFile(ticks_per_beat=_TICKS, tracks=[track], charset="utf-8").save(part)
