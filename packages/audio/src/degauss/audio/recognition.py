r"""How intelligible speech is to a machine: pocketsphinx with a grammar of digits, or with its general English model.

    recogniser = DigitRecogniser()
    recogniser(wave)                                  # ("seven", "three", "one")
    word_error_rate(["seven", "three", "one"], words)

Its acoustic model is of 16 kHz; other rates are resampled. It knows nothing of the voice, and gets some real
recordings wrong: always state its score on real ones (`digit_accuracy`) beside that on synthetic ones.

**Settings.** Chosen on training takes of the Free Spoken Digit Dataset (180 single digits, and strings of four): the
language weight is 1, since digits are equally likely and only the sound should decide; a new word costs a factor of
1000; the second pass over the word lattice is left out, as it may find no path in so small a grammar.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from degauss.audio.waves import Wave, mono, resample
from degauss.core.errors import InputError, near_miss

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

_RATE = 16000
_MARGIN = 0.2  # seconds of near silence on either side, where the decoder expects some
_LANGUAGE_WEIGHT, _WORD_COST = 1.0, 1e-3


class Recogniser(Protocol):
    """Words of a wave, in order; none where nothing was understood."""

    def __call__(self, wave: Wave) -> tuple[str, ...]: ...


class DigitRecogniser:
    """Recognises strings of digits: of ``count`` digits, or of one or more where that is not known.

    What a wave is recognised as does not depend on the waves before it. Raises `InputError` for an empty or
    non-finite wave.
    """

    def __init__(self, count: int | None = None) -> None:
        if count is not None and count < 1:
            raise ValueError(f"expected a count of at least 1, got {count}")
        digit = f"( {' | '.join(DIGITS)} )"
        sequence = f"{digit}+" if count is None else " ".join([digit] * count)
        grammar = f"#JSGF V1.0;\ngrammar digits;\npublic <digits> = {sequence};\n"
        self._decoder = _decoder(lm=None, lw=_LANGUAGE_WEIGHT, wip=_WORD_COST, bestpath=False)
        # A file, as not every release of pocketsphinx takes a grammar from memory under Windows.
        with TemporaryDirectory() as folder:
            path = Path(folder) / "digits.gram"
            path.write_text(grammar, encoding="ascii")
            self._decoder.add_jsgf_file("digits", str(path))
        self._decoder.activate_search("digits")

    def __call__(self, wave: Wave) -> tuple[str, ...]:
        return _decode(self._decoder, wave)


class EnglishRecogniser:
    """Recognises any English by pocketsphinx's general language model, which misses many words of clear speech.

    What a wave is recognised as does not depend on the waves before it. Raises as `DigitRecogniser`.
    """

    def __init__(self) -> None:
        self._decoder = _decoder()

    def __call__(self, wave: Wave) -> tuple[str, ...]:
        return tuple(word.partition("(")[0] for word in _decode(self._decoder, wave) if word[0] not in "<[")


def _decoder(**settings: Any) -> Any:
    from pocketsphinx import Decoder

    return Decoder(samprate=_RATE, loglevel="FATAL", logfn=os.devnull, **settings)


def _decode(decoder: Any, wave: Wave) -> tuple[str, ...]:
    pcm = _pcm(wave)
    decoder.reinit_feat()  # else its noise and channel estimates carry over from the wave before
    decoder.start_utt()
    decoder.process_raw(pcm, no_search=False, full_utt=True)
    decoder.end_utt()
    found = decoder.hyp()
    return () if found is None else tuple(found.hypstr.split())


def _pcm(wave: Wave) -> bytes:
    """16-bit samples at 16 kHz, with a margin of noise of one level: digital silence has no logarithm."""
    samples = mono(wave).detach().cpu()
    if samples.numel() == 0 or not bool(torch.isfinite(samples).all()):
        raise InputError("a wave to recognise is empty or not finite; expected speech.")
    samples = mono(resample(Wave(samples[None], wave.rate), _RATE))
    samples = samples / samples.abs().max().clamp_min(1)  # loud floats are scaled down, not wrapped
    margin = torch.zeros(round(_MARGIN * _RATE))
    padded = torch.cat([margin, samples, margin]) * 32767
    return (padded + _dither(len(padded))).round().clamp(-32768, 32767).to(torch.int16).numpy().tobytes()


def _dither(length: int) -> Tensor:
    """Noise between -1 and 1, the same for every wave of a length."""
    return 2 * torch.rand(length, generator=torch.Generator().manual_seed(0)) - 1


# --- error rates --------------------------------------------------------------------------------------------


class Edits(NamedTuple):
    """The fewest changes that make a reference out of what was heard, by kind; ``words`` of the reference."""

    substitutions: int
    deletions: int
    insertions: int
    words: int

    @property
    def total(self) -> int:
        return self.substitutions + self.deletions + self.insertions


def edits(reference: Sequence[str], heard: Sequence[str]) -> Edits:
    """Levenshtein alignment of two sequences of words; deletions are words of the reference that were not heard.

    The total is unique; of alignments with the same total, one with the most substitutions is counted.
    """
    # Each cell: total, then deletions and insertions, so that substitutions are preferred.
    row: list[tuple[int, int, int]] = [(j, 0, j) for j in range(len(heard) + 1)]
    for i, word in enumerate(reference, start=1):
        above, row = row, [(i, i, 0)]
        for j, other in enumerate(heard, start=1):
            diagonal, up, left = above[j - 1], above[j], row[j - 1]
            row.append(
                min(
                    (diagonal[0] + (word != other), diagonal[1], diagonal[2]),
                    (up[0] + 1, up[1] + 1, up[2]),
                    (left[0] + 1, left[1], left[2] + 1),
                )
            )
    total, deletions, insertions = row[-1]
    return Edits(total - deletions - insertions, deletions, insertions, len(reference))


def word_error_rate(reference: Sequence[str], heard: Sequence[str]) -> float:
    """Edits for each word of the reference: 0 for all right, above 1 where more was heard than said.

    Raises `InputError` for a reference without words.
    """
    found = edits(reference, heard)
    if found.words == 0:
        raise InputError("the transcript has no words, so no rate of errors; expected text.")
    return found.total / found.words


def words_of(text: str) -> tuple[str, ...]:
    """The words of a text for comparing: lower case, without punctuation; an apostrophe inside a word stays."""
    kept = "".join(c if c.isalnum() or c == "'" else " " for c in text.lower().replace("’", "'"))
    return tuple(word.strip("'") for word in kept.split() if word.strip("'"))


def digits_of(text: str) -> tuple[str, ...]:
    """The digits of "731", "7 3 1" or "seven three one" as words. `InputError` for any other word."""
    found: list[str] = []
    for word in words_of(text):
        if word.isascii() and word.isdigit():
            found += [DIGITS[int(figure)] for figure in word]
        elif word in DIGITS:
            found.append(word)
        else:
            raise InputError(f"{text!r} has the word {word!r}{near_miss(word, DIGITS)}; expected digits only.")
    if not found:
        raise InputError(f"{text!r} has no digits; expected some.")
    return tuple(found)


def digit_accuracy(waves: Iterable[Wave], truth: Iterable[Sequence[str] | str]) -> float:
    """Share of digits that are recognised at their place, where it is known how many each wave has.

    ``truth``: the digits of each wave, as words or as `digits_of` reads them. On the 300 test takes of the Free Spoken
    Digit Dataset it is about three in four. Raises `InputError` if there are more waves than truths, or fewer.
    """
    recognisers: dict[int, DigitRecogniser] = {}
    right = total = 0
    spoken = [digits_of(one if isinstance(one, str) else " ".join(one)) for one in truth]
    heard = list(waves)
    if not heard or len(heard) != len(spoken):
        raise InputError(f"there are {len(heard)} waves and {len(spoken)} truths; expected as many, and some.")
    for wave, digits in zip(heard, spoken, strict=True):
        count = len(digits)
        if count not in recognisers:
            recognisers[count] = DigitRecogniser(count)
        found = recognisers[count](wave)
        right += sum(a == b for a, b in zip(digits, found, strict=False))
        total += count
    return right / total
