r"""A segment on the frames of a mel: what stands in each of them, in whole numbers.

Frame k of a mel is centred on k * hop / rate seconds, so sound of d seconds has round(d rate / hop) + 1 frames, the
last of which belongs to the last phone. Notes are laid on the same frames, each by itself: a melody does not depend on
how long the phones are found to be.

Which note a phone is sung on follows the groups of a segment: group k belongs to the k-th note that is not a slur, and
lasts as long as that note and the slurs after it. Without groups, it is the note that sounds for most of the phone.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from degauss.audio.frontend import whole_frames
from degauss.audio.score import Segment, note_pitch
from degauss.audio.spectra import MelConfig
from degauss.core.errors import InputError

# Phones may last so much more or less than their recording: some frames of rounding in either.
TOLERANCE = 0.1  # s

# The share of a syllable that its vowel keeps where its consonants are predicted to be long.
_VOWEL_SHARE = 0.5


class Sung(NamedTuple):
    """Of each phone ``[p]``: the MIDI number of its note (0 for none), its seconds, and 1 where the syllable goes on
    over several notes.
    """

    notes: Tensor
    seconds: Tensor
    slurs: Tensor


def frames_per_second(mel: MelConfig) -> float:
    return mel.rate / mel.hop


def count(seconds: float, mel: MelConfig) -> int:
    """Frames of a mel of so many seconds."""
    return round(seconds * frames_per_second(mel)) + 1


def phone_frames(durations: Tensor, mel: MelConfig, frames: int) -> Tensor:
    """Durations ``[p]`` in seconds as whole frames, int64: the last phone takes what is left of ``frames``.

    Raises `InputError` where phones begin after the last frame.
    """
    whole = whole_frames(durations.double() * frames_per_second(mel))
    before = int(whole[:-1].sum())
    if before >= frames:
        raise InputError(f"the phones begin until frame {before}, but there are only {frames} frames.")
    whole[-1] = frames - before
    return whole


def melody(segment: Segment, mel: MelConfig, frames: int) -> Tensor:
    """The MIDI number of the note at each frame, 0 for none: float32 ``[frames]``."""
    line = torch.zeros(frames)
    if not segment.notes:
        return line
    seconds = torch.tensor(segment.note_durations, dtype=torch.float64)
    pitches = torch.tensor([note_pitch(name) or 0.0 for name in segment.notes])
    laid = torch.repeat_interleave(pitches, whole_frames(seconds * frames_per_second(mel)))[:frames]
    line[: len(laid)] = laid
    line[len(laid) :] = pitches[-1]
    return line


def sung(segment: Segment) -> Sung:
    """The note of each phone. Raises `InputError` where neither groups nor durations say which it is."""
    phones = len(segment.phones)
    if not segment.notes:
        return Sung(torch.zeros(phones), torch.zeros(phones), torch.zeros(phones, dtype=torch.int64))
    pitches = [note_pitch(name) or 0.0 for name in segment.notes]
    heads = _heads(segment)
    if heads is None:
        return _by_time(segment, pitches)
    rows: list[tuple[float, float, int]] = []
    for first, last, size in heads:
        seconds = math.fsum(segment.note_durations[first:last])
        rows += [(pitches[first], seconds, int(last - first > 1))] * size
    notes, lengths, slurs = zip(*rows, strict=True)
    return Sung(torch.tensor(notes), torch.tensor(lengths), torch.tensor(slurs))


def word_seconds(segment: Segment) -> list[tuple[int, float]]:
    """(phones, seconds) of each group, from its notes; `InputError` unless groups and notes agree."""
    heads = _heads(segment)
    if heads is None:
        groups, notes = len(segment.phones_per_word), _unslurred(segment)
        raise InputError(
            f"the segment at {segment.offset:.2f} s has {len(segment.phones)} phones in {groups} groups of "
            f"{sum(segment.phones_per_word)} and {notes} notes that are not slurs; expected as many groups as such "
            "notes, and as many phones."
        )
    return [(size, math.fsum(segment.note_durations[first:last])) for first, last, size in heads]


def _heads(segment: Segment) -> list[tuple[int, int, int]] | None:
    """(first note, end of its notes, phones) of each group, None where groups and notes do not agree."""
    if sum(segment.phones_per_word) != len(segment.phones) or len(segment.phones_per_word) != _unslurred(segment):
        return None
    slurs = segment.slurs or (0,) * len(segment.notes)
    firsts = [k for k, slur in enumerate(slurs) if not slur]
    ends = [*firsts[1:], len(slurs)]
    return list(zip(firsts, ends, segment.phones_per_word, strict=True))


def _unslurred(segment: Segment) -> int:
    return len(segment.notes) - sum(segment.slurs)


def _by_time(segment: Segment, pitches: list[float]) -> Sung:
    if not segment.durations:
        word_seconds(segment)
    starts, lengths = _edges(segment.note_durations)
    rows: list[tuple[float, float]] = []
    for first, last in zip(*_edges(segment.durations), strict=True):
        shared = [min(last, end) - max(first, start) for start, end in zip(starts, lengths, strict=True)]
        best = max(range(len(shared)), key=shared.__getitem__)
        rows.append((pitches[best], segment.note_durations[best]))
    notes, seconds = zip(*rows, strict=True)
    return Sung(torch.tensor(notes), torch.tensor(seconds), torch.zeros(len(rows), dtype=torch.int64))


def _edges(durations: tuple[float, ...]) -> tuple[list[float], list[float]]:
    """Where each begins and ends, in seconds."""
    ends = [math.fsum(durations[: k + 1]) for k in range(len(durations))]
    return [0.0, *ends[:-1]], ends


def fit_words(seconds: Tensor, words: list[tuple[int, float]]) -> Tensor:
    """Predicted durations ``[p]`` made to last as long as the notes: each group ``(phones, seconds)`` exactly.

    Consonants keep what they were predicted to last and the first phone of the group, its vowel (or a silence), takes
    what is left, at least half of the group.
    """
    out = seconds.double().clone()
    at = 0
    for size, total in words:
        rest = out[at + 1 : at + size]
        most = total * (1 - _VOWEL_SHARE)
        if float(rest.sum()) > most:
            rest *= most / float(rest.sum())
        out[at] = total - float(rest.sum())
        at += size
    return out


def f0_on_frames(segment: Segment, mel: MelConfig, frames: int) -> Tensor:
    """The segment's f0 at each frame ``[frames]``, in Hz: linear in pitch between voiced values, else the nearest.

    Beyond its end the last value goes on.
    """
    values = torch.tensor(segment.f0, dtype=torch.float64)
    place = torch.arange(frames, dtype=torch.float64) / frames_per_second(mel) / segment.f0_step
    place = place.clamp(max=len(values) - 1)
    low = place.floor().long()
    high = (low + 1).clamp(max=len(values) - 1)
    share = place - low
    a, b = values[low], values[high]
    between = torch.exp(torch.lerp(a.clamp(min=1e-3).log(), b.clamp(min=1e-3).log(), share))
    nearest = torch.where(share < 0.5, a, b)
    return torch.where((a > 0) & (b > 0), between, nearest).float()
