r"""Where each phone of a recording begins and ends, given what is said: forced alignment by pocketsphinx.

Two passes of its American English model: the words are found in the sound (with a choice among the dictionary's
pronunciations, and silences anywhere between words), then the states of their phones. Times come in steps of 10 ms.
A frame of the model sees 25.6 ms of sound, so a change of phone before frame k lies about the middle of what the
frames k - 1 and k see, (10 k + 7.8) ms.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from degauss.audio.phones import PAUSE, SILENCES, Word, lexicon
from degauss.audio.waves import Wave, check_audible
from degauss.core.errors import InputError

RATE = 16_000
_FRAME = 0.01  # s
_CENTRE = (0.0256 - _FRAME) / 2  # s


class Interval(NamedTuple):
    """A phone and when it sounds, in seconds."""

    phone: str
    start: float
    end: float


class Aligned(NamedTuple):
    """A word as given and its phones in time; a pause is the word `SP` with the phone `SP`."""

    word: str
    phones: tuple[Interval, ...]


def align(samples: Tensor, words: Sequence[Word], name: str = "the recording") -> list[Interval]:
    """The phones of ``words`` in ``samples [n]`` at 16 kHz, without a gap from 0 to the end.

    See `align_words`.
    """
    return [interval for word in align_words(samples, words, name) for interval in word.phones]


def align_words(samples: Tensor, words: Sequence[Word], name: str = "the recording") -> list[Aligned]:
    """The words in time; pauses are those heard, whatever pauses ``words`` holds.

    The phones are those of the pronunciation that was heard: for a word whose given phones are the dictionary's, it
    may be another of the dictionary's. ``name`` is what errors call the recording.

    Raises:
        InputError: no word is given, the sound is silent, or the words cannot be found in it. (Of few words in a long
            sound, something will always be found.)
    """
    if samples.ndim != 1:
        raise ValueError(f"expected samples [n] at {RATE} Hz, got {list(samples.shape)}")
    said = [word for word in words if set(word.phones) - set(SILENCES)]
    if not said:
        raise InputError(f"{name}: there is no word to align with the sound.")
    if not len(samples):
        raise InputError(f"{name}: holds no samples; expected sound.")
    check_audible(Wave(samples[None], RATE), name)
    decoder = _decoder()
    entries = [_entry(decoder, word) for word in said]
    sound = (samples.clamp(-1, 1) * 32767).to(torch.int16).numpy().tobytes()
    try:
        decoder.set_align_text(" ".join(entries))
        _pass(decoder, sound)
        decoder.set_alignment()
        _pass(decoder, sound)
        found = _read(decoder.get_alignment(), said)
    except RuntimeError:
        raise InputError(
            f"{name}: the words {_shown(said)!r} cannot be found in {len(samples) / RATE:.2f} s of sound; expected a "
            "recording of someone who says just these."
        ) from None
    return _closed(found, len(samples) / RATE)


@cache
def _decoder() -> Any:
    """One for the process, as it takes 0.2 s to load.

    bestpath: with it the first pass may give a phone fewer frames than it has states, and the second then fails.
    """
    import pocketsphinx

    return pocketsphinx.Decoder(lm=None, samprate=RATE, bestpath=False, loglevel="FATAL")


def _entry(decoder: Any, word: Word) -> str:
    """A word of the decoder's dictionary that is said with these phones."""
    plain = word.text.lower()
    if lexicon().get(plain) == word.phones:
        return plain
    phones = [phone for phone in word.phones if phone not in SILENCES]
    entry = "_".join(phones)
    if decoder.lookup_word(entry) is None:
        decoder.add_word(entry, " ".join(phones).upper(), True)
    return entry


def _pass(decoder: Any, sound: bytes) -> None:
    decoder.reinit_feat()  # else what was heard before changes the noise estimate, and with it the result
    decoder.start_utt()
    try:
        decoder.process_raw(sound, full_utt=True)
    finally:
        decoder.end_utt()


def _read(alignment: Any, said: Sequence[Word]) -> list[Aligned]:
    """The decoder's alignment, with the words as they were given."""
    rest = iter(said)
    found: list[Aligned] = []
    for entry in alignment or ():
        phones = tuple(
            Interval(phone.name.lower(), phone.start * _FRAME, (phone.start + phone.duration) * _FRAME)
            for phone in entry
        )
        if phones[0].phone in ("sil", "+nsn+", "+spn+"):
            found.append(Aligned(PAUSE, (Interval(PAUSE, phones[0].start, phones[-1].end),)))
        else:
            found.append(Aligned(next(rest).text, phones))
    if next(rest, None) is not None:
        raise RuntimeError("fewer words were found than given")
    return found


def _closed(found: Sequence[Aligned], duration: float) -> list[Aligned]:
    """Neighbouring pauses made one, boundaries moved to where they are seen, the ends put at 0 and ``duration``."""
    merged: list[Aligned] = []
    for word in found:
        if merged and word.word == merged[-1].word == PAUSE:
            start = merged.pop().phones[0].start
            word = Aligned(PAUSE, (Interval(PAUSE, start, word.phones[0].end),))
        merged.append(word)
    first, last = found[0].phones[0].start, found[-1].phones[-1].end

    def moved(time: float) -> float:
        return 0.0 if time == first else duration if time == last else min(time + _CENTRE, duration)

    return [
        Aligned(word.word, tuple(Interval(p.phone, moved(p.start), moved(p.end)) for p in word.phones))
        for word in merged
    ]


def _shown(words: Sequence[Word]) -> str:
    text = " ".join(word.text for word in words)
    return text if len(text) <= 60 else f"{text[:57]}..."
