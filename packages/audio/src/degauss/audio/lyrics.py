r"""Notes with lyrics become segments that a singing model reads.

A singer's consonants come before the beat: the vowel, not the syllable, begins with the note. So the phones of
syllable k are split at its first vowel, and what precedes the vowel belongs to the group of the note before:

    lyric     |  hel-   |  lo     |
    note      rest  C4     D4       rest
    groups    SP hh | eh l  |  ow  | SP

A note without a lyric, or with one of the marks - ー + ~, goes on with the vowel before it (a slur). A rest that is
longer than a bar or two seconds ends a segment, so that a song is sung phrase by phrase; a phrase of more than twelve
seconds ends at its next rest of half a second. The model gets up to half a second of the silence before a phrase and
a little of that after it. Gaps of less than 50 ms are no rests: the note before is held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from degauss.audio import japanese as ja
from degauss.audio import phones as en
from degauss.audio.pitch import REST
from degauss.audio.score import Score, Segment, note_name
from degauss.core.errors import InputError

LEAD, TAIL = 0.5, 0.3  # s of silence around a phrase, where the song has them
LONGEST_REST = 2.0  # s
_LONG, _BREATH = 12.0, 0.5  # s: a phrase so long ends at a rest so long
_GAP = 0.05  # s
_SLURS = ("", "-", "ー", "+", "~", "〜", "_")
_NUCLEI = frozenset((*en.VOWELS, *ja.VOWELS, ja.NASAL))


@dataclass(frozen=True)
class Note:
    """A sung note: seconds, MIDI number, and the syllable that begins on it ("" goes on with the one before).

    ``joined`` syllables belong to the word of the syllable before.
    """

    start: float
    end: float
    pitch: float
    lyric: str = ""
    joined: bool = False

    @property
    def slurred(self) -> bool:
        return self.lyric.strip() in _SLURS


Syllables = Callable[[Sequence[str]], list[tuple[str, ...]]]
"""The syllables of one word, as written under its notes -> the phones sung on each note."""


def japanese(syllables: Sequence[str]) -> list[tuple[str, ...]]:
    """Kana or romaji, each by itself."""
    return [ja.phones_of(syllable) for syllable in syllables]


def english(syllables: Sequence[str], unknown: en.Pronounce = en.refuse) -> list[tuple[str, ...]]:
    """A word of the pronouncing dictionary over its notes, split before the consonants that can begin a syllable.

    More vowels than notes are sung on the last note; a note too many goes on with the vowel before it (no phones).
    """
    word = "".join(syllable.strip("-_ \u00a0\u2010") for syllable in syllables)
    words = [w for w in en.read_text(word, unknown) if w != en.SILENT]
    return split_syllables(tuple(phone for w in words for phone in w.phones), len(syllables))


def split_syllables(phones: Sequence[str], count: int) -> list[tuple[str, ...]]:
    """Phones of a word in ``count`` parts with a vowel each; of consonants between vowels, the last starts a syllable
    (with a stop or fricative before l, r, w, y, or s before a stop: the last two)."""
    vowels = [i for i, phone in enumerate(phones) if phone in _NUCLEI][:count]
    if not vowels:
        return [tuple(phones), *[()] * (count - 1)]
    cuts = [0]
    for left, right in pairwise(vowels):
        inside = right - left - 1
        pair = inside >= 2 and _begins(phones[right - 2], phones[right - 1])
        cuts.append(right - (2 if pair else min(inside, 1)) if phones[right - 1] != "ng" else right)
    ends = [*cuts[1:], len(phones)]
    parts = [tuple(phones[a:b]) for a, b in zip(cuts, ends, strict=True)]
    return parts + [()] * (count - len(parts))


def _begins(first: str, second: str) -> bool:
    """Whether an English syllable may begin with these two consonants."""
    if second in ("l", "r", "w", "y"):
        return first in ("b", "d", "f", "g", "hh", "k", "p", "s", "sh", "t", "th", "v", "m") and first + second not in (
            "dl", "tl", "thl", "sr",
        )  # fmt: skip
    return first == "s" and second in ("p", "t", "k", "m", "n")


# --- segments -----------------------------------------------------------------------------------------------


def sung(notes: Sequence[Note], syllables: Syllables, *, lyric: str | None = None, bar: float = LONGEST_REST) -> Score:
    """The score of a melody: notes in order of time that do not overlap, ``bar`` the seconds of a bar.

    ``lyric`` replaces every lyric, for a song without any or in another language.

    Raises:
        InputError: there is no note or no lyric, or a syllable cannot be read; it says at which time.
    """
    if not notes:
        raise InputError("the song has no note; expected a melody.")
    notes = _held(notes)
    if lyric is not None:
        notes = _relyriced(notes, lyric)
    elif all(note.slurred for note in notes):
        raise InputError("the song has no lyrics; expected some, or one syllable to sing it all on (--lyric la).")
    parts = _phones(notes, syllables)
    edges = _phrases(notes, max(1.0, min(bar, LONGEST_REST)))
    segments: list[Segment] = []
    for first, last in pairwise(edges):
        before = notes[first].start - (notes[first - 1].end if first else 0.0)
        after = notes[last].start - notes[last - 1].end if last < len(notes) else TAIL / 0.4
        lead = before if first == 0 else before - min(TAIL, 0.4 * before)
        segments.append(_segment(notes[first:last], parts[first:last], min(LEAD, lead), min(TAIL, 0.4 * after)))
    return tuple(segments)


def _held(notes: Sequence[Note]) -> list[Note]:
    """The notes with short gaps closed."""
    following = [*(note.start for note in notes[1:]), notes[-1].end]
    return [
        replace(note, end=start) if 0 < start - note.end < _GAP else note
        for note, start in zip(notes, following, strict=True)
    ]


def _phrases(notes: Sequence[Note], longest: float) -> list[int]:
    """The places of the first note of each phrase, and the end."""
    edges = [0]
    for i in range(1, len(notes)):
        rest = notes[i].start - notes[i - 1].end
        sung = notes[i - 1].end - notes[edges[-1]].start
        if rest > longest or (sung > _LONG and rest >= _BREATH):
            edges.append(i)
    return [*edges, len(notes)]


def _relyriced(notes: Sequence[Note], lyric: str) -> list[Note]:
    """The notes with another lyric. Slurs stay, except after a rest and in a song that has no lyric at all."""
    bare = all(note.slurred for note in notes)
    ends = [-1.0, *(note.end for note in notes)]
    return [
        replace(note, lyric=lyric, joined=False) if bare or not note.slurred or note.start - end > _GAP else note
        for note, end in zip(notes, ends, strict=False)
    ]


def _phones(notes: Sequence[Note], syllables: Syllables) -> list[tuple[str, ...]]:
    """The phones that begin on each note; none on a slur."""
    parts: list[tuple[str, ...]] = [()] * len(notes)
    for word in _written(notes):
        try:
            sounds = syllables([notes[i].lyric for i in word])
        except InputError as error:
            why = str(error).removesuffix(".")
            raise InputError(
                f"the lyric at {notes[word[0]].start:.2f} s: {why}, or one syllable for the whole song (--lyric la)."
            ) from None
        for i, phones in zip(word, sounds, strict=True):
            parts[i] = phones
    return parts


def _written(notes: Sequence[Note]) -> Iterator[list[int]]:
    """The places of the notes with lyrics, word by word."""
    word: list[int] = []
    for i, note in enumerate(notes):
        if note.slurred:
            continue
        if word and not note.joined:
            yield word
            word = []
        word.append(i)
    if word:
        yield word


def _segment(notes: Sequence[Note], parts: Sequence[tuple[str, ...]], lead: float, tail: float) -> Segment:
    """A phrase: groups of phones that begin with the vowel of each note."""
    names: list[str] = []
    durations: list[float] = []
    slurs: list[int] = []
    groups: list[list[str]] = []
    text: list[str] = []

    def add(name: str, seconds: float, group: list[str] | None) -> None:
        names.append(name)
        durations.append(round(seconds, 6))
        slurs.append(int(group is None))
        if group is not None:
            groups.append(group)

    if lead >= _GAP:
        add(REST, lead, [en.PAUSE])
    here = notes[0].start
    for note, phones in zip(notes, parts, strict=True):
        if note.start - here > _GAP / 2:
            add(REST, note.start - here, [en.PAUSE])
        if not phones and names[-1:] in ([], [REST]):
            raise InputError(f"the note at {note.start:.2f} s has no lyric, and nothing before it to go on with.")
        vowel = next((i for i, phone in enumerate(phones) if phone in _NUCLEI), 0)
        before, rest = phones[:vowel], phones[vowel:]
        if before and groups:
            groups[-1].extend(before)
            before = ()
        add(note_name(note.pitch), note.end - note.start, [*before, *rest] if phones else None)
        text += [note.lyric.strip()] if phones else []
        here = note.end
    add(REST, tail, [en.PAUSE])
    return Segment(
        phones=tuple(phone for group in groups for phone in group),
        phones_per_word=tuple(map(len, groups)),
        notes=tuple(names),
        note_durations=tuple(durations),
        slurs=tuple(slurs),
        offset=round(notes[0].start - (lead if lead >= _GAP else 0.0), 6),
        text=" ".join(text),
    )
