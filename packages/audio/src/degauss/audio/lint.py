"""Faults of a score, each with its place, before anything is rendered.

A segment's sequences must agree with each other: phones with their durations and groups, groups with notes, notes with
the time the phones take, f0 with both. Sums of times may differ by 50 ms and one in a hundred, which is what rounding
in real files amounts to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path

from degauss.audio.pitch import REST
from degauss.audio.score import Segment, note_name, note_pitch
from degauss.core.errors import InputError, near_miss

_SLACK, _SHARE = 0.05, 0.01  # s, of the duration


@dataclass(frozen=True)
class Limits:
    """What a voice can sing: its phones, and its lowest and highest note as MIDI numbers; None: whatever comes."""

    phones: Collection[str] | None = None
    lowest: float | None = None
    highest: float | None = None


@dataclass(frozen=True)
class Fault:
    """What is wrong and where: segment and place in its field from 1, and the time in the song in seconds."""

    segment: int
    field: str
    message: str
    place: int | None = None
    time: float | None = None

    def __str__(self) -> str:
        place = "" if self.place is None else f" place {self.place}"
        time = "" if self.time is None else f" (at {self.time:.2f} s)"
        return f"segment {self.segment}, {self.field}{place}{time}: {self.message}"


def lint(score: Sequence[Segment], limits: Limits | None = None) -> list[Fault]:
    """All faults of a score, in its order."""
    limits = limits or Limits()
    faults = [
        fault
        for number, segment in enumerate(score, 1)
        for check in (_phones, _groups, _notes, _lengths, _curves)
        for fault in check(_Place(number, segment), limits)
    ]
    return faults + list(_overlaps(score))


def check(score: Sequence[Segment], path: str | Path, limits: Limits | None = None) -> None:
    """Raise `InputError` with the first fault, and how many more there are."""
    faults = lint(score, limits)
    if faults:
        more = f" ({len(faults) - 1} more: see score-lint)" if len(faults) > 1 else ""
        raise InputError(f"{path}: {faults[0]}{more}.")


class _Place:
    """A segment with its number and the times at which its phones and notes begin."""

    def __init__(self, number: int, segment: Segment) -> None:
        self.number = number
        self.segment = segment
        self.phone_times = self._starts(segment.durations, len(segment.phones))
        self.note_times = self._starts(segment.note_durations, len(segment.notes))

    def _starts(self, durations: Sequence[float], count: int) -> list[float] | None:
        """Where each begins, if that can be known."""
        fine = len(durations) == count and all(map(math.isfinite, [*durations, self.segment.offset]))
        return list(accumulate(durations, initial=self.segment.offset)) if fine else None

    def fault(self, field: str, message: str, at: int | None = None, times: list[float] | None = None) -> Fault:
        """A fault of the field, at an index from 0 into it."""
        time = times[at] if times is not None and at is not None and at < len(times) else None
        return Fault(self.number, field, message, None if at is None else at + 1, time)


Check = Callable[[_Place, Limits], Iterator[Fault]]


def _phones(place: _Place, limits: Limits) -> Iterator[Fault]:
    segment = place.segment
    if not math.isfinite(segment.offset):
        yield place.fault("offset", f"is {segment.offset}; expected seconds")
    if limits.phones is not None:
        for i, phone in enumerate(segment.phones):
            if phone not in limits.phones:
                yield place.fault(
                    "ph_seq", f"no phone {phone!r}{near_miss(phone, limits.phones)}", i, place.phone_times
                )
    if segment.durations and len(segment.durations) != len(segment.phones):
        yield place.fault("ph_dur", f"{len(segment.durations)} durations for {len(segment.phones)} phones")
    yield from _durations(place, "ph_dur", segment.durations, place.phone_times)


def _groups(place: _Place, limits: Limits) -> Iterator[Fault]:
    segment = place.segment
    groups = segment.phones_per_word
    for i, count in enumerate(groups):
        if count < 1:
            yield place.fault("ph_num", f"is {count}; expected at least 1", i)
    if groups and sum(groups) != len(segment.phones):
        yield place.fault("ph_num", f"adds up to {sum(groups)}, but there are {len(segment.phones)} phones")
    if not segment.notes:
        return
    struck = segment.slurs.count(0) if segment.slurs else len(segment.notes)
    if groups and len(segment.slurs) in (0, len(segment.notes)) and len(groups) != struck:
        yield place.fault("ph_num", f"{len(groups)} groups for {struck} notes that are no slurs")
    if not groups and not segment.durations:
        yield place.fault("ph_num", "is missing, and ph_dur too; expected one of them, to lay phones on notes")


def _notes(place: _Place, limits: Limits) -> Iterator[Fault]:
    segment, times = place.segment, place.note_times
    count = len(segment.notes)
    if len(segment.note_durations) != count:
        yield place.fault("note_dur", f"{len(segment.note_durations)} durations for {count} notes")
    if segment.slurs and len(segment.slurs) != count:
        yield place.fault("note_slur", f"{len(segment.slurs)} slurs for {count} notes")
    yield from _durations(place, "note_dur", segment.note_durations, times)
    for i, name in enumerate(segment.notes):
        try:
            pitch = note_pitch(name)
        except InputError as error:
            yield place.fault("note_seq", str(error).removesuffix("."), i, times)
            continue
        if pitch is not None and not _within(pitch, limits):
            yield place.fault("note_seq", f"{name} is out of range; expected {_range(limits)}", i, times)
    for i, slur in enumerate(segment.slurs):
        if slur not in (0, 1):
            yield place.fault("note_slur", f"is {slur}; expected 0 or 1", i, times)
        elif slur == 1 and i == 0:
            yield place.fault("note_slur", "the first note is a slur, with nothing to go on with", i, times)
        elif slur == 1 and REST in segment.notes[i - 1 : i + 1]:
            yield place.fault("note_slur", "a slur on a rest or after one; expected it between notes", i, times)


def _lengths(place: _Place, limits: Limits) -> Iterator[Fault]:
    segment = place.segment
    if place.phone_times is not None and place.note_times is not None and segment.durations and segment.notes:
        phones, notes = math.fsum(segment.durations), math.fsum(segment.note_durations)
        if not _agree(phones, notes):
            said, at = f"the notes last {notes:.3f} s, but the phones {phones:.3f} s", None
            if apart := _most_apart(segment):
                at, note, under = apart
                said += f"; here the note lasts {note:.3f} s, but its phones {under:.3f} s"
            yield place.fault("note_dur", said, at, place.note_times)
    for i, hz in enumerate(segment.f0):
        if not (math.isfinite(hz) and hz >= 0):
            yield place.fault("f0_seq", f"is {hz}; expected Hz, 0 or more", i)
            break
    if segment.f0 and not segment.f0_step > 0:
        yield place.fault("f0_timestep", f"is {segment.f0_step}; expected seconds, more than 0")
    elif segment.f0 and (segment.durations or segment.note_durations) and math.isfinite(segment.duration):
        seconds = len(segment.f0) * segment.f0_step
        if not _agree(seconds, segment.duration):
            yield place.fault("f0_seq", f"lasts {seconds:.3f} s, but the segment {segment.duration:.3f} s")


def _most_apart(segment: Segment) -> tuple[int, float, float] | None:
    """The note that differs most from its phones, and how long both last; None where phones are not grouped by note."""
    slurs = segment.slurs or (0,) * len(segment.notes)
    heads = [i for i, slur in enumerate(slurs) if not slur]
    sizes = segment.phones_per_word
    if not sizes or len(sizes) != len(heads) or sum(sizes) != len(segment.phones) or len(slurs) != len(segment.notes):
        return None
    found: list[tuple[int, float, float]] = []
    for head, end, last, size in zip(heads, [*heads[1:], len(slurs)], accumulate(sizes), sizes, strict=True):
        note, phones = segment.note_durations[head:end], segment.durations[last - size : last]
        found.append((head, math.fsum(note), math.fsum(phones)))
    return max(found, key=lambda row: abs(row[1] - row[2]))


def _curves(place: _Place, limits: Limits) -> Iterator[Fault]:
    for name, curve in place.segment.curves.items():
        wrong = next((i for i, value in enumerate(curve.values) if not math.isfinite(value)), None)
        if wrong is not None:
            yield place.fault(name, f"is {curve.values[wrong]}; expected a number", wrong)
        if not curve.step > 0:
            yield place.fault(f"{name}_timestep", f"is {curve.step}; expected seconds, more than 0")


def _durations(place: _Place, field: str, durations: Sequence[float], times: list[float] | None) -> Iterator[Fault]:
    for i, seconds in enumerate(durations):
        if not (math.isfinite(seconds) and seconds >= 0):
            yield place.fault(field, f"is {seconds}; expected seconds, 0 or more", i, times)


def _overlaps(score: Sequence[Segment]) -> Iterator[Fault]:
    """Sung parts that begin before those of the segment before end; the rests around a phrase may overlap."""
    for number, (before, after) in enumerate(pairwise(score), 2):
        end, start = _sung(before)[1], _sung(after)[0]
        if start < end - _SLACK:
            yield Fault(number, "offset", f"begins {end - start:.3f} s before segment {number - 1} ends", time=start)


def _sung(segment: Segment) -> tuple[float, float]:
    """When the first note begins and the last ends; the whole segment where there are no notes."""
    names, durations = list(segment.notes), list(segment.note_durations)
    if not names or len(names) != len(durations):
        return segment.offset, segment.offset + segment.duration
    lead = next((i for i, name in enumerate(names) if name != REST), 0)
    tail = next((i for i, name in enumerate(reversed(names)) if name != REST), 0)
    total = math.fsum(durations)
    return segment.offset + math.fsum(durations[:lead]), segment.offset + total - math.fsum(
        durations[len(names) - tail :]
    )


def _agree(a: float, b: float) -> bool:
    return abs(a - b) <= _SLACK + _SHARE * max(abs(a), abs(b))


def _within(pitch: float, limits: Limits) -> bool:
    return (limits.lowest is None or pitch >= limits.lowest) and (limits.highest is None or pitch <= limits.highest)


def _range(limits: Limits) -> str:
    low, high = limits.lowest, limits.highest
    if low is not None and high is not None:
        return f"{note_name(low)} to {note_name(high)}"
    return f"{note_name(low)} or higher" if low is not None else f"{note_name(high)} or lower"
