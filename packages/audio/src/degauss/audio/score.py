r"""A song or an utterance in memory, and as the `.ds` files of OpenVPI's DiffSinger.

A **score** is a tuple of segments, each sung or spoken in one breath. A segment is what an acoustic model is
told: phones and how they group, how long they last, the notes, and f0 where it is known.

    phones            SP hh | eh l | ow      | SP     hel-lo: a group is a vowel and what follows up to the next vowel
    phones_per_word   2       2      1         1      as many groups as there are notes that are no slurs
    notes             rest    C4     D4  E4    rest
    slurs             0       0      0   1     0      1: the note goes on with the vowel before

Times are seconds, f0 Hz, `offset` the time of the segment in the song. A `.ds` file is a JSON list of such
segments whose sequences are strings of numbers or names separated by spaces; what this package does not use
(`spk_mix`, `lang`, ...) is kept and written back.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, cast

from degauss.audio.pitch import REST, midi_to_note, note_to_midi
from degauss.core.errors import InputError
from degauss.core.files import atomic_path


class Curve(NamedTuple):
    """A control that varies with time: one value every ``step`` seconds."""

    values: tuple[float, ...]
    step: float


@dataclass(frozen=True)
class Segment:
    """A stretch of singing or speech. Empty durations, notes or f0 are left to a model.

    `phones [p]`, `durations [p]` s; `phones_per_word [groups]` sums to p; `notes`, `note_durations` (s) and
    `slurs` (0 or 1) `[n]`; `f0` in Hz every `f0_step` s; `offset` s; `curves` by name (energy, breathiness, ...);
    `extras` are fields of a `.ds` file that are only carried along. Nothing is checked here: see `lint`.
    """

    phones: tuple[str, ...]
    durations: tuple[float, ...] = ()
    phones_per_word: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    note_durations: tuple[float, ...] = ()
    slurs: tuple[int, ...] = ()
    f0: tuple[float, ...] = ()
    f0_step: float = 0.005
    offset: float = 0.0
    text: str = ""
    curves: Mapping[str, Curve] = field(default_factory=dict[str, Curve], hash=False)
    extras: Mapping[str, Any] = field(default_factory=dict[str, Any], hash=False)

    @property
    def duration(self) -> float:
        """Seconds: of the phones, else of the notes, else of f0, else 0."""
        if self.durations:
            return math.fsum(self.durations)
        return math.fsum(self.note_durations) or len(self.f0) * self.f0_step


Score = tuple[Segment, ...]


# --- notes --------------------------------------------------------------------------------------------------


def note_pitch(name: str) -> float | None:
    """MIDI number of a note, cents included ("A4" is 69, "C#4+10" is 61.1), or None for a rest.

    Raises:
        InputError: it is not the name of a note.
    """
    return None if name == REST else note_to_midi(name)


def note_name(pitch: float | None) -> str:
    """The name of a MIDI number with sharps, and its cents to the nearest where there are any; None is a rest."""
    if pitch is None:
        return REST
    whole = math.floor(pitch + 0.5)
    cents = round(100 * (pitch - whole))
    return f"{midi_to_note(whole)}{cents:+d}" if cents else midi_to_note(whole)


# --- .ds ----------------------------------------------------------------------------------------------------

_CURVES = ("energy", "breathiness", "voicing", "tension", "gender", "velocity")
_FIELDS = {
    "offset", "text", "ph_seq", "ph_dur", "ph_num", "note_seq", "note_dur", "note_slur", "f0_seq", "f0_timestep",
}  # fmt: skip


def read_ds(path: str | Path) -> Score:
    """Read a `.ds` file as it is: numbers are read, but only `lint` asks whether they agree.

    Raises:
        InputError: the file is missing, is no JSON list of segments, or a field cannot be read; it says which.
    """
    path = Path(path)
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist.") from None
    except (ValueError, OSError) as error:
        raise InputError(f"{path} cannot be read as JSON ({error}).") from error
    entries = found if isinstance(found, list) else [found]
    if not entries or not all(isinstance(entry, dict) for entry in entries):
        raise InputError(f"{path}: expected a JSON list of segments, as DiffSinger's .ds files are.")
    return tuple(_segment(cast("dict[str, Any]", entry), f"{path}: segment {k}") for k, entry in enumerate(entries, 1))


def _segment(entry: Mapping[str, Any], where: str) -> Segment:
    curves = {
        name: Curve(_floats(entry, name, where), _float(entry, f"{name}_timestep", where, 0.005))
        for name in _CURVES
        if entry.get(name) is not None
    }
    known = _FIELDS | curves.keys() | {f"{name}_timestep" for name in curves}
    phones = tuple(_words(entry, "ph_seq", where))
    if not phones:
        raise InputError(f"{where}: ph_seq is missing or empty; expected phones separated by spaces.")
    return Segment(
        phones=phones,
        durations=_floats(entry, "ph_dur", where),
        phones_per_word=_integers(entry, "ph_num", where),
        notes=tuple(_words(entry, "note_seq", where)),
        note_durations=_floats(entry, "note_dur", where),
        slurs=_integers(entry, "note_slur", where),
        f0=_floats(entry, "f0_seq", where),
        f0_step=_float(entry, "f0_timestep", where, 0.005),
        offset=_float(entry, "offset", where, 0.0),
        text=str(entry.get("text") or ""),
        curves=curves,
        extras={name: value for name, value in entry.items() if name not in known},
    )


def _words(entry: Mapping[str, Any], name: str, where: str) -> list[str]:
    value = entry.get(name)
    if value is None:
        return []
    if isinstance(value, list):
        return [str(part) for part in cast("list[object]", value)]
    if isinstance(value, str):
        return value.split()
    raise InputError(f"{where}: {name} is {value!r}; expected a string of values separated by spaces.")


def _floats(entry: Mapping[str, Any], name: str, where: str) -> tuple[float, ...]:
    numbers: list[float] = []
    for place, word in enumerate(_words(entry, name, where), 1):
        try:
            numbers.append(float(word))
        except ValueError:
            raise InputError(f"{where}: {name} holds {word!r} at place {place}; expected a number.") from None
    return tuple(numbers)


def _integers(entry: Mapping[str, Any], name: str, where: str) -> tuple[int, ...]:
    numbers = _floats(entry, name, where)
    for place, number in enumerate(numbers, 1):
        if not number.is_integer():
            raise InputError(f"{where}: {name} holds {number} at place {place}; expected an integer.")
    return tuple(int(number) for number in numbers)


def _float(entry: Mapping[str, Any], name: str, where: str, default: float) -> float:
    value = entry.get(name)
    if value is None:
        return default
    try:
        return float(value)
    except (TypeError, ValueError):
        raise InputError(f"{where}: {name} is {value!r}; expected a number.") from None


def write_ds(path: str | Path, score: Sequence[Segment]) -> None:
    """Write a `.ds` file; it appears whole or not at all, and `read_ds` gives the same score back."""
    entries = [_entry(segment) for segment in score]
    with atomic_path(path) as part:
        part.write_text(json.dumps(entries, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def _entry(segment: Segment) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "offset": segment.offset,
        "text": segment.text,
        "ph_seq": " ".join(segment.phones),
        "ph_dur": _joined(segment.durations),
        "ph_num": _joined(segment.phones_per_word),
        "note_seq": " ".join(segment.notes),
        "note_dur": _joined(segment.note_durations),
        "note_slur": _joined(segment.slurs),
    }
    entry = {name: value for name, value in entry.items() if value != "" or name == "text"}
    if segment.f0:
        entry |= {"f0_seq": _joined(segment.f0), "f0_timestep": str(segment.f0_step)}
    for name, curve in segment.curves.items():
        entry |= {name: _joined(curve.values), f"{name}_timestep": str(curve.step)}
    return entry | dict(segment.extras)


def _joined(numbers: Sequence[float]) -> str:
    return " ".join(map(str, numbers))
