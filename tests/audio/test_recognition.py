"""Digits are heard in real recordings, whatever was heard before; error rates are jiwer's."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from degauss.audio.datasets import Digit
from degauss.audio.recognition import (
    DIGITS,
    DigitRecogniser,
    EnglishRecogniser,
    digit_accuracy,
    digits_of,
    edits,
    word_error_rate,
    words_of,
)
from degauss.audio.waves import Wave, read, resample
from degauss.core.errors import InputError

words = st.lists(st.sampled_from(["a", "b", "c"]), max_size=8)


@pytest.fixture(scope="module")
def spoken(digits: list[Digit]) -> list[tuple[str, Wave]]:
    """A test take of each digit and speaker."""
    return [(DIGITS[one.digit], read(one.path)) for one in digits if one.take == 0]


def test_real_digits_are_recognised_far_above_chance(spoken: list[tuple[str, Wave]]) -> None:
    """77 % of all 300 test takes when this was written; chance is 10 %."""
    waves, truth = [wave for _, wave in spoken], [word for word, _ in spoken]
    assert 0.6 < digit_accuracy(waves, truth) < 0.95
    wrong = [DIGITS[(DIGITS.index(word) + 1) % 10] for word in truth]
    assert digit_accuracy(waves, wrong) < 0.1


def test_what_is_heard_does_not_depend_on_what_was_heard_before(spoken: list[tuple[str, Wave]]) -> None:
    """The decoder's estimates of noise would carry over from wave to wave."""
    listener = DigitRecogniser(1)
    waves = [wave for _, wave in spoken[:30]]
    forward = [listener(wave) for wave in waves]
    backward = [listener(wave) for wave in reversed(waves)]
    assert forward == backward[::-1]
    assert forward[-1] == DigitRecogniser(1)(waves[-1])


def test_a_string_of_digits_is_heard_in_order(spoken: list[tuple[str, Wave]]) -> None:
    listener = DigitRecogniser(1)
    clear = {word: wave for word, wave in spoken if listener(wave) == (word,)}
    assert len(clear) >= 9
    gap = torch.zeros(1, 1600)
    string = [word for word in ("seven", "three", "one", "four") if word in clear]
    samples = torch.cat([part for word in string for part in (clear[word].samples, gap)], dim=1)
    known = DigitRecogniser(len(string))(Wave(samples, 8000))
    free = DigitRecogniser()(Wave(samples, 8000))
    assert sum(a == b for a, b in zip(string, known, strict=True)) >= len(string) - 1
    assert word_error_rate(string, free) <= 0.5


def test_the_number_of_digits_that_is_known_is_kept(spoken: list[tuple[str, Wave]]) -> None:
    listener = DigitRecogniser(2)
    assert {len(listener(wave)) for _, wave in spoken[:6]} <= {0, 2}
    with pytest.raises(ValueError, match="at least 1"):
        DigitRecogniser(0)


def test_rate_channels_and_loudness_above_full_scale_do_not_matter_much(spoken: list[tuple[str, Wave]]) -> None:
    listener = DigitRecogniser(1)
    some = spoken[::4]
    right = sum(listener(wave) == (word,) for word, wave in some)
    for change in (
        lambda wave: resample(wave, 48000),
        lambda wave: Wave(wave.samples.repeat(2, 1), wave.rate),
        lambda wave: wave._replace(samples=wave.samples * 3 / wave.samples.abs().max()),
    ):
        assert abs(sum(listener(change(wave)) == (word,) for word, wave in some) - right) <= 3


def test_silence_and_noise_are_no_crash() -> None:
    listener = DigitRecogniser()
    assert listener(Wave(torch.zeros(1, 16000), 16000)) == ()
    assert listener(Wave(torch.zeros(1, 1), 16000)) == ()
    with pytest.raises(InputError, match="empty or not finite"):
        listener(Wave(torch.zeros(1, 0), 16000))
    with pytest.raises(InputError, match="empty or not finite"):
        listener(Wave(torch.full((1, 100), math.nan), 16000))
    assert listener(Wave(torch.zeros(1, 16000), 16000)) == ()  # and it still listens


@pytest.mark.slow
def test_english_is_heard_in_a_read_sentence() -> None:
    from degauss.audio.datasets import samples

    try:
        path = samples()["cmu_arctic_us_aew_a0001"]
    except (InputError, KeyError):
        pytest.skip("no CMU ARCTIC recording at hand")
    said = words_of("Author of the danger trail, Philip Steels, etc.")
    assert word_error_rate(said, EnglishRecogniser()(read(path))) < 0.7


def test_accuracy_needs_a_truth_for_each_wave() -> None:
    with pytest.raises(InputError, match="0 waves and 1 truths"):
        digit_accuracy([], ["one"])


# --- error rates --------------------------------------------------------------------------------------------


@given(words.filter(bool), words)
def test_error_rate_is_jiwers(reference: list[str], heard: list[str]) -> None:
    jiwer = pytest.importorskip("jiwer")
    expected = jiwer.process_words(" ".join(reference), " ".join(heard))
    found = edits(reference, heard)
    assert found.total == expected.substitutions + expected.deletions + expected.insertions
    assert word_error_rate(reference, heard) == pytest.approx(expected.wer)


@given(words, words)
def test_kinds_of_edits_account_for_the_lengths(reference: list[str], heard: list[str]) -> None:
    found = edits(reference, heard)
    assert found.words == len(reference)
    assert found.insertions - found.deletions == len(heard) - len(reference)
    assert min(found[:3]) >= 0
    assert found.total >= abs(len(heard) - len(reference))
    assert (found.total == 0) == (reference == heard)
    back = edits(heard, reference)
    assert (back.total, back.deletions, back.insertions) == (found.total, found.insertions, found.deletions)


@settings(max_examples=50)
@given(words, words, words)
def test_edits_obey_the_triangle_inequality(a: list[str], b: list[str], c: list[str]) -> None:
    assert edits(a, c).total <= edits(a, b).total + edits(b, c).total


def test_edits_worked_out_by_hand() -> None:
    assert edits(["one", "two", "three"], ["one", "too", "three", "four"]) == (1, 0, 1, 3)
    assert edits(["one", "two"], []) == (0, 2, 0, 2)
    assert word_error_rate(["one"], ["two", "two"]) == 2
    with pytest.raises(InputError, match="no words"):
        word_error_rate([], ["one"])


def test_words_and_digits_of_a_text() -> None:
    assert words_of("Don’t stop, 'Philip'!") == ("don't", "stop", "philip")
    assert digits_of("731") == digits_of("Seven three, 1.") == ("seven", "three", "one")
    with pytest.raises(InputError, match=r"the word 'sevn' \(did you mean 'seven'\?\)"):
        digits_of("sevn")
    with pytest.raises(InputError, match="no digits"):
        digits_of(" - ")
