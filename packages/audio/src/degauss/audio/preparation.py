r"""Recordings and what is said in them -> a data set: phones, durations, f0 and notes, in the files of the field.

    OUT/transcriptions.csv      a line for each recording (OpenVPI, Opencpop)
    OUT/wavs/NAME.wav           mono, at one rate
    OUT/TextGrid/NAME.TextGrid  words and phones in time, for Praat
    OUT/ds/NAME.ds              the same with f0, as a score
    OUT/prepare.json            settings, and what was refused, with the reason

A recording is a `Source`: it gives the sound and the phones in time, by forced alignment of a text, from labels, from
an UTAU voicebank, or from flite, which speaks sentences and knows when it says what.

For **singing** notes are estimated: each group of phones that begins with a vowel is one note as long as the group, at
the median pitch of its vowel (f0 smoothed by a median of five frames), cents included; a vowel without pitch takes
that of the note before, and pauses are rests. A melisma on one vowel becomes its median: mend such notes by hand.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from degauss.audio import datasets
from degauss.audio import japanese as ja
from degauss.audio.alignment import RATE, Aligned, Interval, align_words
from degauss.audio.phones import PAUSE, SILENCES, VOWELS, Pronounce, from_flite, read_text, refuse
from degauss.audio.pitch import f0 as estimate_f0
from degauss.audio.pitch import f0_harvest, hz_to_midi, interpolated_log_f0
from degauss.audio.score import Segment, note_name, write_ds
from degauss.audio.transcription import (
    Entry,
    is_lab,
    read_lab,
    read_transcriptions,
    write_textgrid,
    write_transcriptions,
)
from degauss.audio.waves import Wave, check_audible, mono, read, resample, write
from degauss.core.errors import InputError, near_miss
from degauss.core.files import atomic_path, read_json, remove_partial, write_json

TABLE, WAVES, GRIDS, SCORES, REPORT = "transcriptions.csv", "wavs", "TextGrid", "ds", "prepare.json"
LONGEST = 120.0  # s of one recording
SOUNDS = (".wav", ".flac", ".ogg", ".mp3")
_VOWELS = frozenset((*VOWELS, *ja.VOWELS))
_STEP = 0.005  # s of f0
_GAP = 0.02  # s: what is shorter is no pause
_SAVED_EVERY = 20  # recordings

Kind = Literal["speech", "singing"]
Report = Callable[[int, int], None]


@dataclass(frozen=True)
class Settings:
    """``kind``: singing has notes; ``rate`` of the sound in Hz; f0 is looked for from ``low`` to ``high`` Hz."""

    kind: Kind = "speech"
    rate: int = 16_000
    low: float = 50.0
    high: float = 1000.0


class Source(Protocol):
    """Where a recording and its phones come from; `read` raises `InputError` for what cannot be used."""

    def read(self) -> tuple[Wave, list[Aligned]]: ...


@dataclass(frozen=True)
class Recording:
    """A recording of the data set to be: its name there, whose voice it is, and its source."""

    name: str
    voice: str
    source: Source


# --- sources ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spoken:
    """A sound file and the English text that is said in it."""

    sound: Path
    text: str
    unknown: Pronounce = refuse

    def read(self) -> tuple[Wave, list[Aligned]]:
        wave = _sound(self.sound)
        try:
            words = read_text(self.text, self.unknown)
        except InputError as error:
            raise InputError(f"{self.sound}: {error}") from None
        return wave, align_words(mono(resample(wave, RATE)), words, str(self.sound))


@dataclass(frozen=True)
class Noted:
    """A sound file and a text file beside it: what is said, or labels in time (`.lab`)."""

    sound: Path
    notes: Path
    unknown: Pronounce = refuse

    def read(self) -> tuple[Wave, list[Aligned]]:
        if not self.notes.is_file():
            raise InputError(f"{self.sound}: has no text beside it; expected {self.notes.name} with what is said.")
        try:
            text = self.notes.read_text(encoding="utf-8-sig").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{self.notes} cannot be read as text in UTF-8 ({error}).") from None
        if not is_lab(text):
            return Spoken(self.sound, text, self.unknown).read()
        wave = _sound(self.sound)
        return wave, labelled(read_lab(self.notes), wave.duration, str(self.notes))


@dataclass(frozen=True)
class Sampled:
    """A syllable of an UTAU voicebank, timed by its `oto.ini`: consonant up to the preutterance, then the vowel."""

    syllable: datasets.Syllable

    def read(self) -> tuple[Wave, list[Aligned]]:
        wave = _sound(self.syllable.path)
        oto, phones = self.syllable.oto, ja.phones_of(self.syllable.romaji)
        start, end = max(oto.offset, 0.0), min(oto.end(wave.duration), wave.duration)
        vowel = min(max(start + oto.preutterance, start), end) if len(phones) > 1 else start
        steps = [start + (vowel - start) * k / max(len(phones) - 1, 1) for k in range(len(phones))]
        times = [*steps, end]
        if not all(a < b for a, b in pairwise(times)):
            raise InputError(f"{self.syllable.path}: its times in oto.ini do not go on; expected them to.")
        sounds = [Interval(phone, a, b) for phone, a, b in zip(phones, times, times[1:], strict=False)]
        return wave, labelled(sounds, wave.duration, str(self.syllable.path))


@dataclass(frozen=True)
class Flite:
    """A sentence as one of flite's voices says it, with the times that flite itself gives; its words are syllables."""

    text: str
    voice: str

    def read(self) -> tuple[Wave, list[Aligned]]:
        with tempfile.TemporaryDirectory() as folder:
            sound = Path(folder) / "said.wav"
            said = _run_flite("-voice", self.voice, "-psdur", "-t", self.text, "-o", str(sound))
            if not sound.is_file():
                raise InputError(f"{self.text!r}: flite does not say it ({said.strip() or 'no reason given'}).")
            wave = read(sound, limit=LONGEST)
        return wave, labelled(list(_flite_phones(said)), wave.duration, repr(self.text))


def _sound(path: Path) -> Wave:
    wave = read(path, limit=LONGEST)
    check_audible(wave, path)
    return wave


def _run_flite(*options: str) -> str:
    program = shutil.which("flite")
    if program is None:
        raise InputError("the program flite is not installed; expected it on the path (Debian: apt install flite).")
    try:
        done = subprocess.run([program, *options], capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        raise InputError("flite gave no answer within 60 seconds.") from None
    return done.stdout


def _flite_phones(said: str) -> Iterator[Interval]:
    """Phones of `PHONE:END PHONE:END ...`; a syllabic consonant is halved."""
    start = 0.0
    for word in said.split():
        phone, _, end = word.partition(":")
        ours, last = from_flite(phone), float(end)
        for k, one in enumerate(ours):
            a, b = (start + (last - start) * part / len(ours) for part in (k, k + 1))
            yield Interval(one, a, b)
        start = last


@cache
def flite_voices() -> tuple[str, ...]:
    """The voices of the installed flite. `InputError` if it is not installed."""
    return tuple(_run_flite("-lv").partition(":")[2].split())


def labelled(sounds: Sequence[Interval], duration: float, name: str) -> list[Aligned]:
    """Phones in time as syllables from 0 to ``duration``: gaps become pauses, pauses side by side one.

    Raises:
        InputError: a phone ends more than 0.1 s after the recording, or phones overlap. (A pause may: flite cuts it.)
    """
    last = max((sound.end for sound in sounds if sound.phone not in SILENCES), default=0.0)
    if last > duration + 0.1:
        raise InputError(f"{name}: its phones end at {last:.2f} s, but the sound at {duration:.2f} s.")
    closed: list[Interval] = []
    for phone, start, end in sounds:
        here = closed[-1].end if closed else 0.0
        if start < here - _GAP:
            raise InputError(f"{name}: {phone!r} at {start:.2f} s begins before the phone before it ends.")
        if start > here + _GAP:
            closed = _joined(closed, Interval(PAUSE, here, start))
            here = start
        if min(end, duration) > here:
            closed = _joined(closed, Interval(phone, here, min(end, duration)))
    here = closed[-1].end if closed else 0.0
    if duration > here + _GAP:
        closed = _joined(closed, Interval(PAUSE, here, duration))
    elif closed:
        closed[-1] = closed[-1]._replace(end=duration)
    return _syllables(closed)


def _joined(phones: list[Interval], following: Interval) -> list[Interval]:
    if phones and phones[-1].phone == following.phone and following.phone in SILENCES:
        return [*phones[:-1], phones[-1]._replace(end=following.end)]
    return [*phones, following]


def _syllables(phones: Sequence[Interval]) -> list[Aligned]:
    """Phones as syllables: one begins with a pause, after one, with a consonant before a vowel, or with a vowel after
    one."""
    groups: list[list[Interval]] = []
    for i, one in enumerate(phones):
        before = phones[i - 1].phone if i else PAUSE
        after = phones[i + 1].phone if i + 1 < len(phones) else PAUSE
        opens = after in _VOWELS if one.phone not in _VOWELS else before in _VOWELS
        if one.phone in SILENCES or before in SILENCES or opens:
            groups.append([])
        groups[-1].append(one)
    return [Aligned(_label(group), tuple(group)) for group in groups]


def _label(group: Sequence[Interval]) -> str:
    return group[0].phone if group[0].phone in SILENCES else " ".join(phone.phone for phone in group)


# --- where sources are --------------------------------------------------------------------------------------


def recordings(folder: str | Path, voice: str = "voice", unknown: Pronounce = refuse) -> list[Recording]:
    """The recordings of a folder, by name.

    * `metadata.csv`, lines `id|raw|normalised` or `id|text`, with `wavs/ID.wav` or `ID.wav` (LJSpeech);
    * an UTAU voicebank, `oto.ini`;
    * sound files with NAME.txt or NAME.lab beside each;
    * folders of these, each a voice of its own.

    Raises:
        InputError: nothing of these is there, or a line of the table cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: is no folder; expected one with recordings and what is said in them.")
    found = _recordings(folder, voice, unknown)
    if not found:
        for inside in sorted(path for path in folder.iterdir() if path.is_dir()):
            ours = _recordings(inside, inside.name, unknown)
            found += [replace(one, name=f"{inside.name}_{one.name}") for one in ours]
    if not found:
        raise InputError(
            f"{folder}: holds no recording; expected metadata.csv, oto.ini, or sound files (or folders of them, one a "
            "voice) with a text file of the same name beside each."
        )
    return found


def _recordings(folder: Path, voice: str, unknown: Pronounce) -> list[Recording]:
    if (folder / "metadata.csv").is_file():
        return list(_table(folder, voice, unknown))
    if (folder / "oto.ini").is_file():
        bank = datasets.read_voicebank(folder)
        return [Recording(f"{k:04d}_{one.path.stem}", voice, Sampled(one)) for k, one in enumerate(bank)]
    sounds = sorted(path for path in folder.iterdir() if path.suffix.lower() in SOUNDS)
    return [Recording(path.stem, voice, Noted(path, _beside(path), unknown)) for path in sounds]


def _beside(sound: Path) -> Path:
    """The text of a recording: NAME.lab if there is one, else NAME.txt."""
    label = sound.with_suffix(".lab")
    return label if label.is_file() else sound.with_suffix(".txt")


def _table(folder: Path, voice: str, unknown: Pronounce) -> Iterator[Recording]:
    path = folder / "metadata.csv"
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not text in UTF-8; expected lines id|raw|normalised.") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) < 2 or not cells[0]:
            raise InputError(f"{path}, line {number}: {line[:60]!r}; expected id|raw|normalised.")
        name = Path(cells[0]).stem if Path(cells[0]).suffix.lower() in SOUNDS else Path(cells[0]).name
        yield Recording(name, voice, Spoken(_named(folder, cells[0]), cells[-1], unknown))


def _named(folder: Path, name: str) -> Path:
    places = [place / f"{name}{suffix}" for place in (folder / "wavs", folder) for suffix in (".wav", "", ".flac")]
    return next((place for place in places if place.is_file()), places[0])


def sentences(path: str | Path, voice: str) -> list[Recording]:
    """The lines of a text file (`text` or `id|text`) as one of flite's voices says them.

    Raises:
        InputError: the file cannot be read or is empty, flite is not installed or has no such voice.
    """
    path = Path(path)
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except FileNotFoundError:
        raise InputError(f"{path} does not exist.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text in UTF-8 ({error}).") from None
    if not lines:
        raise InputError(f"{path}: is empty; expected a sentence a line.")
    if voice not in flite_voices():
        known = ", ".join(flite_voices())
        raise InputError(f"flite has no voice {voice!r}{near_miss(voice, flite_voices())}; it has {known}.")
    found: list[Recording] = []
    for k, line in enumerate(lines, 1):
        name, bar, text = line.partition("|")
        found.append(
            Recording(f"{voice}_{name.strip() if bar else f'{k:05d}'}", voice, Flite(text if bar else line, voice))
        )
    return found


# --- one recording ------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Prepared:
    """A recording ready to be written: its line of the table, its words in time and its sound."""

    entry: Entry
    words: list[Aligned]
    wave: Wave


def prepare_one(recording: Recording, settings: Settings) -> Prepared:
    """Read a recording and find its phones, f0 and notes. `InputError` in one sentence where that cannot be done."""
    if not re.fullmatch(r"[^/\\\0]+", recording.name) or recording.name.startswith("."):
        raise InputError(f"{recording.name!r} cannot be the name of a file; expected one without slashes.")
    wave, words = recording.source.read()
    if not any(phone.phone not in SILENCES for word in words for phone in word.phones):
        raise InputError(f"{recording.name}: holds nothing but pauses; expected phones.")
    wave = resample(Wave(mono(wave)[None], wave.rate), settings.rate)
    hop = max(round(settings.rate * _STEP), 1)
    estimate = f0_harvest if settings.kind == "singing" else estimate_f0
    pitch = estimate(wave.samples[0], settings.rate, hop, low=settings.low, high=settings.high)
    segment = _segment(words, pitch, hop / settings.rate)
    if settings.kind == "singing":
        segment = with_notes(segment, pitch, hop / settings.rate, recording.name)
    return Prepared(Entry(recording.name, segment, recording.voice), words, wave)


def _segment(words: Sequence[Aligned], pitch: Tensor, step: float) -> Segment:
    phones = [phone for word in words for phone in word.phones]
    ends = [round(phone.end, 5) for phone in phones]
    starts = [round(phones[0].start, 5), *ends]
    voiced = bool((pitch > 0).any())
    hz = interpolated_log_f0(pitch.double()).exp().tolist() if voiced else []
    return Segment(
        phones=tuple(phone.phone for phone in phones),
        durations=tuple(round(end - start, 5) for start, end in zip(starts, ends, strict=False)),
        phones_per_word=tuple(len(word.phones) for word in words),
        f0=tuple(round(value, 1) for value in hz),
        f0_step=step,
        text=" ".join(word.word for word in words),
    )


def with_notes(segment: Segment, pitch: Tensor, step: float, name: str = "the recording") -> Segment:
    """The segment with one note for each vowel, from ``pitch [frames]`` in Hz every ``step`` seconds.

    Raises:
        InputError: no vowel has a pitch.
    """
    smooth = _median(pitch, 5)
    starts = [i for i in range(len(segment.phones)) if i == 0 or segment.phones[i] in SILENCES or _sings(segment, i)]
    ends = [*starts[1:], len(segment.phones)]
    times = list(accumulate(segment.durations, initial=0.0))
    heard: list[float | None] = []
    for start in starts:
        hz = smooth[round(times[start] / step) : round(times[start + 1] / step)]
        hz = hz[hz > 0]
        heard.append(hz_to_midi(float(hz.median())) if _sings(segment, start) and len(hz) else None)
    known = [pitch for pitch in heard if pitch is not None]
    if not known:
        raise InputError(f"{name}: no vowel has a pitch; expected singing.")
    notes: list[str] = []
    last = known[0]
    for start, found in zip(starts, heard, strict=True):
        last = last if found is None else found
        notes.append(note_name(None if segment.phones[start] in SILENCES else round(last, 2)))
    return replace(
        segment,
        phones_per_word=tuple(b - a for a, b in zip(starts, ends, strict=True)),
        notes=tuple(notes),
        note_durations=tuple(round(times[b] - times[a], 5) for a, b in zip(starts, ends, strict=True)),
        slurs=(0,) * len(starts),
    )


def _sings(segment: Segment, i: int) -> bool:
    """Whether a note begins on this phone: a vowel, or an ん with no vowel before it."""
    before = segment.phones[i - 1] if i else PAUSE
    return segment.phones[i] in _VOWELS or (segment.phones[i] == ja.NASAL and before in SILENCES)


def _median(pitch: Tensor, width: int) -> Tensor:
    """A running median of voiced frames; unvoiced frames stay 0."""
    padded = torch.nn.functional.pad(pitch, (width // 2, width // 2)).unfold(0, width, 1)
    found = torch.where(padded > 0, padded, torch.nan).nanmedian(1).values
    return torch.where(pitch > 0, found, torch.zeros_like(found))


# --- the data set -------------------------------------------------------------------------------------------


@dataclass
class Summary:
    """How many recordings were written, how many were there before, and why others were refused, by name."""

    written: int = 0
    there: int = 0
    refused: dict[str, str] = field(default_factory=dict[str, str])


def prepare(
    sources: Sequence[Recording],
    out: str | Path,
    settings: Settings | None = None,
    facts: Mapping[str, Any] | None = None,
    report: Report | None = None,
) -> Summary:
    """Add recordings to a data set, skipping those that are in its table; a run that was killed goes on.

    ``facts`` are kept in `prepare.json`; ``report`` is told (recordings looked at, recordings in all).

    Raises:
        InputError: two recordings have one name, the data set was made with other settings, or all are refused.
    """
    out, settings = Path(out), settings or Settings()
    _check_names(sources)
    entries = _begun(out, settings)
    summary = Summary()
    unsaved = 0  # the table is written anew each time, so not after each recording
    try:
        for k, recording in enumerate(sources, 1):
            if recording.name in entries:
                summary.there += 1
            else:
                try:
                    prepared = prepare_one(recording, settings)
                except InputError as error:
                    summary.refused[recording.name] = str(error)
                else:
                    if not entries:  # the folder is ours before anything else lies in it
                        _save(out, [], settings, summary, facts)
                    entries[recording.name] = _written(prepared, out)
                    summary.written += 1
                    unsaved += 1
            if unsaved >= _SAVED_EVERY:
                _save(out, entries.values(), settings, summary, facts)
                unsaved = 0
            if report is not None:
                report(k, len(sources))
    finally:
        if entries:
            _save(out, entries.values(), settings, summary, facts)
    if not entries:
        name, reason = next(iter(summary.refused.items()))
        raise InputError(f"none of the {len(sources)} recordings can be used; the first is {name}: {reason}")
    return summary


def _check_names(sources: Sequence[Recording]) -> None:
    seen: set[str] = set()
    for recording in sources:
        if recording.name in seen:
            raise InputError(f"two recordings are called {recording.name!r}; expected each name once.")
        seen.add(recording.name)


def _begun(out: Path, settings: Settings) -> dict[str, Entry]:
    """What the data set holds already; `InputError` if that was made otherwise."""
    if not (out / REPORT).is_file():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise InputError(f"{out}: holds other things than a data set; expected a name for a new folder.")
        return {}
    before = read_json(out / REPORT).get("settings")
    if before != asdict(settings):
        raise InputError(f"{out}: was made with {before}, now it is {asdict(settings)}; name another folder.")
    for folder in (WAVES, GRIDS, SCORES):
        remove_partial(out / folder)
    remove_partial(out)
    return {entry.name: entry for entry in read_transcriptions(out / TABLE)} if (out / TABLE).is_file() else {}


def _written(prepared: Prepared, out: Path) -> Entry:
    entry, name = prepared.entry, prepared.entry.name
    write(out / WAVES / f"{name}.wav", prepared.wave)
    write_textgrid(out / GRIDS / f"{name}.TextGrid", prepared.words)
    write_ds(out / SCORES / f"{name}.ds", [entry.segment])
    return entry


def _save(
    out: Path, entries: Iterable[Entry], settings: Settings, summary: Summary, facts: Mapping[str, Any] | None
) -> None:
    found = list(entries)
    with atomic_path(out / REPORT) as part:
        about = {"settings": asdict(settings), "recordings": len(found), "refused": summary.refused}
        write_json(part, {**about, **(facts or {})})
    if found:
        write_transcriptions(out / TABLE, found)
