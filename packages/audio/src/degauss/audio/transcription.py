"""What is said in recordings and when, in the files of the field.

* `transcriptions.csv` of OpenVPI and Opencpop: a line for each recording with phones, durations and notes;
* TextGrids for Praat, with a tier of words and one of phones;
* `.lab` labels: a line `start end phone` for each phone, in seconds or in HTK's units of 100 ns;
* timings in JSON.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from degauss.audio.alignment import Aligned, Interval
from degauss.audio.phones import BREATH, PAUSE
from degauss.audio.score import Segment
from degauss.core.errors import InputError
from degauss.core.files import atomic_path, read_json, write_json

COLUMNS = ("name", "ph_seq", "ph_dur", "ph_num", "note_seq", "note_dur", "note_slur", "voice")
_HTK = 1e-7  # s


class Entry(NamedTuple):
    """A line of `transcriptions.csv`: the recording's name, its phones and notes, and whose voice it is."""

    name: str
    segment: Segment
    voice: str = "voice"


# --- transcriptions.csv -------------------------------------------------------------------------------------


def read_transcriptions(path: str | Path) -> tuple[Entry, ...]:
    """Read `transcriptions.csv`; columns other than name, ph_seq and ph_dur may be missing.

    Raises:
        InputError: the file is missing or no such table, or a cell cannot be read; it names line and column.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist.") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as CSV in UTF-8 ({error}).") from None
    entries = tuple(_entry(row, f"{path}, line {line}") for line, row in enumerate(rows, 2))
    seen: set[str] = set()
    for entry in entries:
        if entry.name in seen:
            raise InputError(f"{path}: has the name {entry.name!r} twice; expected each once.")
        seen.add(entry.name)
    return entries


def _entry(row: Mapping[str, str | None], where: str) -> Entry:
    for column in ("name", "ph_seq", "ph_dur"):
        if not (row.get(column) or "").strip():
            raise InputError(f"{where}: {column} is missing or empty.")
    segment = Segment(
        phones=tuple((row.get("ph_seq") or "").split()),
        durations=_numbers(row, "ph_dur", where),
        phones_per_word=tuple(int(number) for number in _numbers(row, "ph_num", where)),
        notes=tuple((row.get("note_seq") or "").split()),
        note_durations=_numbers(row, "note_dur", where),
        slurs=tuple(int(number) for number in _numbers(row, "note_slur", where)),
    )
    return Entry((row["name"] or "").strip(), segment, (row.get("voice") or "").strip() or "voice")


def _numbers(row: Mapping[str, str | None], column: str, where: str) -> tuple[float, ...]:
    numbers: list[float] = []
    for place, word in enumerate((row.get(column) or "").split(), 1):
        try:
            numbers.append(float(word))
        except ValueError:
            raise InputError(f"{where}: {column} holds {word!r} at place {place}; expected a number.") from None
        if not math.isfinite(numbers[-1]):
            raise InputError(f"{where}: {column} holds {word!r} at place {place}; expected a finite number.")
    return tuple(numbers)


def write_transcriptions(path: str | Path, entries: Sequence[Entry]) -> None:
    """Write `transcriptions.csv`, whole or not at all; columns that nobody fills are left out."""
    rows = [_row(entry) for entry in entries]
    columns = [name for name in COLUMNS if name in COLUMNS[:3] or any(row[name] for row in rows)]
    with atomic_path(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _row(entry: Entry) -> dict[str, str]:
    segment = entry.segment
    return {
        "name": entry.name,
        "ph_seq": " ".join(segment.phones),
        "ph_dur": " ".join(map(str, segment.durations)),
        "ph_num": " ".join(map(str, segment.phones_per_word)),
        "note_seq": " ".join(segment.notes),
        "note_dur": " ".join(map(str, segment.note_durations)),
        "note_slur": " ".join(map(str, segment.slurs)),
        "voice": entry.voice,
    }


# --- Praat --------------------------------------------------------------------------------------------------


def write_textgrid(path: str | Path, words: Sequence[Aligned]) -> None:
    """Write words and phones as a TextGrid of two interval tiers, which Praat opens."""
    from praatio import textgrid

    end = words[-1].phones[-1].end
    spoken = [(word.phones[0].start, word.phones[-1].end, word.word) for word in words]
    phones = [(phone.start, phone.end, phone.phone) for word in words for phone in word.phones]
    grid = textgrid.Textgrid(0.0, end)
    for name, entries in (("words", spoken), ("phones", phones)):
        grid.addTier(textgrid.IntervalTier(name, entries, 0.0, end))  # pyright: ignore[reportArgumentType]
    with atomic_path(path) as part:
        grid.save(str(part), format="long_textgrid", includeBlankSpaces=True, reportingMode="error")


def read_textgrid(path: str | Path) -> list[Aligned]:
    """The words and phones of a TextGrid with tiers of these names (as the Montreal aligner writes too).

    Unlabelled stretches, sil, sp and spn are pauses; phones lose their stress digits.

    Raises:
        InputError: the file is missing or no TextGrid, a tier is missing, or the tiers do not fit together.
    """
    from praatio import textgrid
    from praatio.utilities.errors import PraatioException

    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist.")
    try:
        grid = textgrid.openTextgrid(str(path), includeEmptyIntervals=True, reportingMode="error")
    except (PraatioException, ValueError, IndexError, KeyError, OSError) as error:
        raise InputError(f"{path} is no TextGrid that can be read ({error or type(error).__name__}).") from None
    for name in ("words", "phones"):
        if name not in grid.tierNames:
            found = ", ".join(grid.tierNames) or "none"
            raise InputError(f"{path}: has no tier {name!r}; expected words and phones, found {found}.")
    phones = [Interval(_sound(entry.label), entry.start, entry.end) for entry in _intervals(grid, "phones")]
    words: list[Aligned] = []
    for entry in _intervals(grid, "words"):
        inside = [p for p in phones if entry.start - 1e-6 <= (p.start + p.end) / 2 < entry.end + 1e-6]
        if not inside:
            raise InputError(f"{path}: the word {entry.label!r} at {entry.start:.2f} s has no phones.")
        silent = all(phone.phone == PAUSE for phone in inside)
        words.append(Aligned(PAUSE if silent else entry.label, tuple(inside)))
    if sum(len(word.phones) for word in words) != len(phones):
        raise InputError(f"{path}: some phones belong to no word; expected a word or a blank over each.")
    return words


def _intervals(grid: Any, name: str) -> list[Any]:
    return list(grid.getTier(name).entries)


def _sound(label: str) -> str:
    label = label.strip()
    if label.lower() in ("", "sil", "sp", "spn", "pau"):
        return PAUSE
    return label if label in (PAUSE, BREATH) else label.rstrip("012").lower() if label.isupper() else label


# --- labels -------------------------------------------------------------------------------------------------

_LABELS = {"pau": PAUSE, "sil": PAUSE, "br": BREATH}


def is_lab(text: str) -> bool:
    """Whether a text is timed labels rather than words."""
    lines = [line.split() for line in text.splitlines() if line.strip()]
    return bool(lines) and all(len(line) == 3 and _is_number(line[0]) and _is_number(line[1]) for line in lines)


def _is_number(word: str) -> bool:
    try:
        return math.isfinite(float(word))
    except ValueError:
        return False


def read_lab(path: str | Path) -> list[Interval]:
    """The phones of a `.lab` file; pau and sil become SP, br AP, devoiced I and U i and u.

    Times that are whole numbers beyond any song are taken for HTK's 100 ns.

    Raises:
        InputError: the file is missing, a line is no `start end phone`, or times go back.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise InputError(f"{path} does not exist.") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not text in UTF-8; expected lines of start, end and phone.") from None
    found: list[Interval] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if not is_lab(line):
            raise InputError(f"{path}, line {number}: {line.strip()!r}; expected start, end and phone.")
        start, end, phone = line.split()
        found.append(Interval(_LABELS.get(phone, {"I": "i", "U": "u"}.get(phone, phone)), float(start), float(end)))
        if found[-1].end < found[-1].start or (len(found) > 1 and found[-1].start < found[-2].end - 1e-4):
            raise InputError(f"{path}, line {number}: begins or ends before it should; expected times that go on.")
    if not found:
        raise InputError(f"{path} is empty; expected lines of start, end and phone.")
    scale = _HTK if found[-1].end > 1e5 else 1.0
    return [Interval(phone, start * scale, end * scale) for phone, start, end in found]


# --- JSON ---------------------------------------------------------------------------------------------------


def timings(words: Sequence[Aligned]) -> dict[str, Any]:
    """Words and phones in time, as a table for JSON."""
    return {
        "words": [
            {
                "word": word.word,
                "start": word.phones[0].start,
                "end": word.phones[-1].end,
                "phones": [phone._asdict() for phone in word.phones],
            }
            for word in words
        ]
    }


def write_timings(path: str | Path, words: Sequence[Aligned]) -> None:
    """Write `timings` as JSON, whole or not at all."""
    with atomic_path(path) as part:
        write_json(part, timings(words))


def read_timings(path: str | Path) -> list[Aligned]:
    """Read what `write_timings` wrote. `InputError` if it is something else."""
    found = read_json(Path(path))
    try:
        return [
            Aligned(
                str(word["word"]),
                tuple(Interval(p["phone"], float(p["start"]), float(p["end"])) for p in word["phones"]),
            )
            for word in found["words"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: holds no timings of words and phones ({error!r}).") from None
