r"""Singing of any amount from a voicebank: a score and a recorded syllable for each of its syllables, as UTAU does it.

WORLD (Morise, Yokomori and Ozawa 2016) takes each syllable apart once, into f0, a spectral envelope and aperiodicity.
A song puts the envelopes one after the other and sings them on a pitch of its own, in one synthesis over the whole
phrase, so that periods run on from syllable to syllable.

**Time.** A consonant, which lasts up to the preutterance of `oto.ini`, keeps the length it was recorded with unless
the score says otherwise. The vowel is played as it was recorded, and where its note is longer, the steady part, from
the end of what `oto.ini` never stretches to a little before the end, is played there and back as often as it takes.
Amplitudes of neighbours are cross-faded over `Manner.join` seconds around each boundary, also with silence.

**Pitch.** That of the notes, smoothed over `Manner.portamento` seconds where they change. A note that is held longer
than `Manner.vibrato_after` swings about its pitch. What is unvoiced in the recording stays so.

Phones, durations, notes and f0 of the result are exact: it was made from them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from degauss.audio import framing, pitch
from degauss.audio import japanese as ja
from degauss.audio.datasets import Syllable
from degauss.audio.phones import SILENCES
from degauss.audio.score import Segment, note_pitch
from degauss.audio.waves import Wave, mono, read, resample
from degauss.core.errors import InputError

Array = NDArray[np.float64]

STEP = 0.005  # s, between WORLD's frames
LOUDNESS = 0.1  # root mean square of a vowel at its own pitch

_TAIL = 0.06  # s before the end of a syllable that are not repeated: the voice lets go
_HALF_OCTAVE = math.sqrt(2)
_QUIET = 1e-8  # amplitude of silence

_NUCLEI = frozenset((*ja.VOWELS, ja.NASAL))
_SILENT = frozenset((*SILENCES, ja.CLOSURE))


@dataclass(frozen=True)
class Manner:
    """How it is sung. Seconds, Hz and cents; see the module."""

    portamento: float = 0.08
    vibrato_hz: float = 5.5
    vibrato_cents: float = 15.0
    vibrato_after: float = 0.35
    join: float = 0.03


class Sung(NamedTuple):
    """A segment as sound, ``wave`` of one channel, and with the durations and the f0 (0: unvoiced) it was sung with."""

    wave: Wave
    segment: Segment


# --- syllables ----------------------------------------------------------------------------------------------


class Analysis(NamedTuple):
    """A recorded syllable of s frames, one every `STEP` seconds.

    ``amplitude``, ``aperiodicity`` ``[s, bins]``; ``voiced`` ``[s]``. Seconds from its beginning: the consonant ends
    at ``vowel``, the steady part of the vowel is from ``steady`` to ``end``.
    """

    amplitude: Array
    aperiodicity: Array
    voiced: NDArray[np.bool_]
    vowel: float
    steady: float
    end: float


@dataclass(frozen=True, eq=False)
class Voicebank:
    """Syllables by their phones, taken apart when they are first sung; ``rate``: of the sound, in Hz."""

    syllables: Mapping[tuple[str, ...], Syllable]
    rate: int = 16_000
    _known: dict[tuple[str, ...], Analysis] = field(default_factory=dict[tuple[str, ...], Analysis], repr=False)

    @classmethod
    def of(cls, syllables: Sequence[Syllable], rate: int = 16_000) -> Voicebank:
        """The syllables of `degauss.audio.datasets.voicebank`, or of another bank of one consonant and one vowel."""
        return cls({ja.phones_of(one.romaji): one for one in syllables}, rate)

    def __getitem__(self, phones: tuple[str, ...]) -> Analysis:
        """`InputError` for a syllable that was not recorded."""
        if phones not in self._known:
            if phones not in self.syllables:
                raise InputError(f"the voicebank has no syllable {' '.join(phones)!r}; expected one that it has.")
            self._known[phones] = _analysed(self.syllables[phones], len(phones) > 1, self.rate)
        return self._known[phones]


def _analysed(syllable: Syllable, consonant: bool, rate: int) -> Analysis:
    import pyworld

    wave = read(syllable.path)
    oto, length = syllable.oto, wave.duration
    start, end = max(oto.offset, 0.0), min(oto.end(length), length)
    if not start + max(oto.preutterance, oto.consonant) + 2 * _TAIL < end:
        raise InputError(f"{syllable.path}: its times in oto.ini leave no vowel; expected a syllable that is held.")
    x = np.ascontiguousarray(mono(resample(wave, rate)).double().numpy())
    hertz, voiced = _pitch_of(syllable, wave, x, rate)
    times = np.arange(len(hertz)) * (round(rate * STEP) / rate)
    power = pyworld.cheaptrick(x, hertz, times, rate)
    aperiodicity = pyworld.d4c(x, hertz, times, rate)
    first, last = round(start / STEP), min(round(end / STEP), len(hertz) - 1) + 1
    vowel = oto.preutterance  # of a vowel alone, what comes before is its attack
    voiced[first + round(vowel / STEP) if consonant else first : last] = True
    steady = max(oto.consonant, vowel)
    held = power[first + round(steady / STEP) : last].mean(0)
    # White noise of variance 1 has power 1 at each bin, so a voice's variance is about the mean over bins.
    gain = LOUDNESS / math.sqrt(float(held.mean()))
    return Analysis(
        gain * np.sqrt(power[first:last]),
        aperiodicity[first:last],
        voiced[first:last],
        vowel,
        steady,
        end - start - _TAIL,
    )


def _pitch_of(syllable: Syllable, wave: Wave, x: Array, rate: int) -> tuple[Array, NDArray[np.bool_]]:
    """f0 of ``x``, without gaps, and where there is a voice. The bank's own table says in which octave to look."""
    oto, table = syllable.oto, syllable.table
    first, last = (round(at * wave.rate / table.hop) for at in (oto.offset + oto.consonant, oto.end(wave.duration)))
    heard = table.f0[max(first, 0) : last]
    middle = float(heard[heard > 0].median()) if bool((heard > 0).any()) else table.mean
    if middle <= 0:
        raise InputError(f"{syllable.path}: its frequency table has no pitch; expected that of its vowel.")
    found = pitch.f0(
        torch.from_numpy(x), rate, round(rate * STEP), low=middle / _HALF_OCTAVE, high=middle * _HALF_OCTAVE
    )
    return pitch.interpolated_log_f0(found.double(), middle).exp().numpy(), (found > 0).numpy()


# --- durations ----------------------------------------------------------------------------------------------


class Unit(NamedTuple):
    """Phones ``first`` to before ``last`` of a segment: a syllable, or a silence, whose ``phones`` are ()."""

    phones: tuple[str, ...]
    first: int
    last: int


def units(phones: Sequence[str]) -> list[Unit]:
    """Syllables and silences in order. `InputError` for a consonant without a vowel after it."""
    found: list[Unit] = []
    first = 0
    for k, phone in enumerate(phones):
        if phone in _SILENT or phone in _NUCLEI:
            if phone in _SILENT and first < k:
                break
            found.append(Unit(() if phone in _SILENT else tuple(phones[first : k + 1]), first, k + 1))
            first = k + 1
    if first < len(phones):
        raise InputError(f"phone {first + 1} of {len(phones)}, {phones[first]!r}, has no vowel after it; expected one.")
    return found


def timed(bank: Voicebank, segment: Segment) -> Segment:
    """The segment with durations: consonants as they were recorded, vowels as long as their notes let them.

    Raises:
        InputError: a syllable that the bank lacks, or notes and groups that do not agree.
    """
    seconds = torch.zeros(len(segment.phones), dtype=torch.float64)
    for unit in units(segment.phones):
        if len(unit.phones) > 1:
            seconds[unit.first] = bank[unit.phones].vowel
    fitted = framing.fit_words(seconds, framing.word_seconds(segment))
    return replace(segment, durations=tuple(fitted.tolist()))


# --- singing ------------------------------------------------------------------------------------------------


def sing(bank: Voicebank, segment: Segment, manner: Manner | None = None) -> Sung:
    """A segment with notes as sound, ``round(rate * duration)`` samples; durations that it lacks are `timed`.

    Raises:
        InputError: a syllable that the bank lacks, a consonant without a vowel, or a segment without notes.
    """
    import pyworld

    manner = Manner() if manner is None else manner
    if not any(note_pitch(name) for name in segment.notes):
        raise InputError(f"the segment at {segment.offset:.2f} s has no notes; expected some to sing.")
    segment = segment if segment.durations else timed(bank, segment)
    count = round(bank.rate * math.fsum(segment.durations))
    # Two frames more than the sound reaches, so that WORLD's rounding of the length costs nothing.
    times: Array = STEP * np.arange(round(count / bank.rate / STEP) + 3, dtype=np.float64)
    amplitude, aperiodicity, voiced = _envelopes(bank, segment, times, manner.join)
    hertz = np.where(voiced, _melody(segment, times, manner), 0.0)
    sound = pyworld.synthesize(hertz, amplitude**2, aperiodicity, bank.rate, 1000 * STEP)
    sung = replace(segment, f0=tuple(hertz[: len(times) - 2].tolist()), f0_step=STEP)
    return Sung(Wave(torch.from_numpy(sound[:count]).float()[None], bank.rate), sung)


def _envelopes(bank: Voicebank, segment: Segment, times: Array, join: float) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Amplitude and aperiodicity ``[frames, bins]`` and voicing ``[frames]`` at each of the times."""
    edges = list(accumulate(segment.durations, initial=0.0))
    parts = units(segment.phones)
    cuts = [edges[part.first] for part in parts] + [edges[-1]]
    bins = next(bank[part.phones] for part in parts if part.phones).amplitude.shape[1]
    amplitude, aperiodicity = np.zeros((len(times), bins)), np.zeros((len(times), bins))
    sounding, voice = np.zeros(len(times)), np.zeros(len(times))  # the shares of syllables, and of voiced ones
    for number, part in enumerate(parts):
        share = _share(times, cuts, number, join)
        here = np.flatnonzero(share > 0)
        weight = share[here, None]
        if part.phones:
            source = bank[part.phones]
            place = _source_times(source, part, edges, times[here]) / STEP
            amplitude[here] += weight * _between(source.amplitude, place)
            aperiodicity[here] += weight * _between(source.aperiodicity, place)
            heard = source.voiced[np.clip(place.round().astype(np.int64), 0, len(source.voiced) - 1)]
            sounding[here] += share[here]
            voice[here] += share[here] * heard
        else:
            amplitude[here] += weight * _QUIET
            aperiodicity[here] += weight
    # Silence does not count, so that a vowel is voiced to the end of its fade.
    return amplitude, np.clip(aperiodicity, 0.0, 1 - 1e-9), (voice > 0) & (voice >= sounding / 2)


def _share(times: Array, cuts: Sequence[float], number: int, join: float) -> Array:
    """How much of each frame is unit ``number``'s: 1 inside, on a cosine to 0 across its boundaries; sums to 1."""
    rising = np.ones(len(times)) if number == 0 else _step(times, cuts, number, join)
    falling = np.ones(len(times)) if number + 2 == len(cuts) else 1 - _step(times, cuts, number + 1, join)
    return np.minimum(rising, falling)


def _step(times: Array, cuts: Sequence[float], number: int, join: float) -> Array:
    """0 before a boundary and 1 after it; never so wide that it meets the next."""
    near = min(cuts[number] - cuts[number - 1], cuts[number + 1] - cuts[number])
    width = max(min(join, near), 1e-6)
    return 0.5 - 0.5 * np.cos(np.pi * np.clip((times - cuts[number]) / width + 0.5, 0, 1))


def _source_times(source: Analysis, part: Unit, edges: Sequence[float], times: Array) -> Array:
    """When in its recording each of the times lies, in seconds from the beginning of the syllable."""
    begin, vowel = edges[part.first], edges[part.last - 1]
    # The consonant is stretched to its place; before and after it, time goes on as it was recorded.
    scale = source.vowel / (vowel - begin) if vowel > begin else 1.0
    before = source.vowel + (times - vowel) * scale
    after = source.vowel + (times - vowel)
    width = source.end - source.steady
    there_and_back = source.steady + width - np.abs((after - source.steady) % (2 * width) - width)
    held = np.where(after > source.steady, there_and_back, after)
    return np.maximum(np.where(times < vowel, before, held), 0.0)


def _between(rows: Array, place: Array) -> Array:
    """Rows at fractional places, linear between neighbours."""
    place = np.clip(place, 0, len(rows) - 1)
    low = np.minimum(place.astype(np.int64), max(len(rows) - 2, 0))
    share = (place - low)[:, None]
    return (1 - share) * rows[low] + share * rows[np.minimum(low + 1, len(rows) - 1)]


# --- pitch --------------------------------------------------------------------------------------------------


def _melody(segment: Segment, times: Array, manner: Manner) -> Array:
    """f0 in Hz at each of the times."""
    pitches = [note_pitch(name) for name in segment.notes]
    ends = list(accumulate(segment.note_durations))
    steps = np.array(_without_rests(pitches))[np.minimum(np.searchsorted(ends, times, side="right"), len(ends) - 1)]
    midi = _smoothed(steps, manner.portamento)
    for midi_number, (start, end) in zip(pitches, pairwise([0.0, *ends]), strict=True):
        if midi_number is not None and end - start > manner.vibrato_after:
            midi += manner.vibrato_cents / 100 * _vibrato(times - start, end - start, manner)
    return 440 * 2 ** ((midi - 69) / 12)


def _without_rests(pitches: Sequence[float | None]) -> list[float]:
    """A rest has the pitch of the note after it, for the consonant that comes before the beat; the last, of the one
    before."""
    found: list[float] = []
    following = next(one for one in reversed(pitches) if one is not None)
    for one in reversed(pitches):
        following = following if one is None else one
        found.append(following)
    return found[::-1]


def _smoothed(steps: Array, width: float) -> Array:
    """A mean over ``width`` seconds, weighted by a cosine window."""
    half = round(width / STEP / 2)
    if half < 1:
        return steps.copy()
    window = np.hanning(2 * half + 3)[1:-1]
    around = np.lib.stride_tricks.sliding_window_view(np.pad(steps, half, mode="edge"), len(window))
    return around @ (window / window.sum())


def _vibrato(since: Array, length: float, manner: Manner) -> Array:
    """A sine that swells over the second half of `vibrato_after` and fades in the last tenth of a second."""
    after = manner.vibrato_after
    swell = np.clip((since - after / 2) / (after / 2), 0, 1) * np.clip((length - since) / 0.1, 0, 1)
    return np.where((since > 0) & (since < length), swell, 0.0) * np.sin(2 * np.pi * manner.vibrato_hz * since)
