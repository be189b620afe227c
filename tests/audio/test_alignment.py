"""Forced alignment against the times that a synthesiser knows, and on real speech."""

from __future__ import annotations

import shutil
from itertools import pairwise

import numpy as np
import pytest
import torch

from degauss.audio.alignment import RATE, align, align_words
from degauss.audio.phones import Word, read_text
from degauss.audio.preparation import Flite
from degauss.audio.waves import mono, read, resample
from degauss.core.errors import InputError

needs_flite = pytest.mark.skipif(shutil.which("flite") is None, reason="needs the program flite")
SENTENCES = (
    "a rod is used to catch pink salmon",
    "it is easy to tell the depth of a well",
    "kick the ball straight and follow through",
    "the boy was there when the sun rose",
)


@needs_flite
def test_boundaries_are_where_flite_put_them():
    errors: list[float] = []
    for voice in ("slt", "kal16"):
        for sentence in SENTENCES:
            wave, known = Flite(sentence, voice).read()
            assert wave.rate == RATE
            found = align(mono(wave), read_text(sentence))
            ours = [phone for phone in found if phone.phone != "SP"]
            theirs = [phone for word in known for phone in word.phones if phone.phone != "SP"]
            if len(ours) == len(theirs):
                errors += [abs(a.end - b.end) for a, b in zip(ours, theirs, strict=True)]
    assert len(errors) > 150
    assert np.mean(errors) < 0.016  # 0.012 when it was measured; a frame is 0.010
    assert np.quantile(errors, 0.9) < 0.035


@needs_flite
def test_an_alignment_is_whole_and_does_not_depend_on_what_was_heard_before():
    wave, _ = Flite(SENTENCES[0], "slt").read()
    x = mono(wave)
    first = align_words(x, read_text(SENTENCES[0]), "x")
    other, _ = Flite(SENTENCES[1], "rms").read()
    align(mono(other), read_text(SENTENCES[1]))
    assert align_words(x, read_text(SENTENCES[0]), "x") == first
    phones = [phone for word in first for phone in word.phones]
    assert phones[0].start == 0
    assert phones[-1].end == len(x) / RATE
    assert all(a.end == b.start and a.end > a.start for a, b in pairwise(phones))
    assert [word.word for word in first if word.word != "SP"] == SENTENCES[0].split()


@needs_flite
def test_given_phones_are_found_and_a_delay_moves_them():
    wave, _ = Flite("seven", "slt").read()
    x = mono(wave)
    words = (Word("{s eh v ih n}", ("s", "eh", "v", "ih", "n")),)
    plain = align(x, words)
    assert [phone.phone for phone in plain] == ["SP", "s", "eh", "v", "ih", "n", "SP"]
    paused = (Word("{s eh SP v ih n}", ("s", "eh", "SP", "v", "ih", "n")),)
    assert align(x, paused) == plain  # pauses are those that are heard
    later = align(torch.cat([torch.zeros(RATE // 2), x]), words)
    shifts = [b.start - a.start for a, b in zip(plain[1:], later[1:], strict=True)]
    assert np.abs(np.array(shifts) - 0.5).max() < 0.045


def test_a_real_digit_is_found(digits):
    digit = next(one for one in digits if one.digit == 7 and one.held_out)
    wave = resample(read(digit.path), RATE)
    found = align(mono(wave), read_text("seven"), digit.path.name)
    assert [phone.phone for phone in found if phone.phone != "SP"] == ["s", "eh", "v", "ah", "n"]
    assert found[-1].end == pytest.approx(wave.duration)
    # s is noise and the vowel is loud: the signal must say so too.
    parts = {phone.phone: mono(wave)[int(phone.start * RATE) : int(phone.end * RATE)] for phone in found}
    crossings = {name: float((part[1:] * part[:-1] < 0).float().mean()) for name, part in parts.items()}
    assert crossings["s"] > 2 * crossings["eh"]
    assert parts["eh"].pow(2).mean() > parts["s"].pow(2).mean()


def test_words_that_are_not_there_are_refused_by_name():
    noise = 0.1 * torch.randn(RATE, generator=torch.Generator().manual_seed(0))
    with pytest.raises(InputError, match=r"x.wav: the words 'a rod is .*' cannot be found in 1.00 s of sound"):
        align(noise, read_text(SENTENCES[0]), "x.wav")
    with pytest.raises(InputError, match=r"x.wav: the words 'seven' cannot be found in 0.01 s of sound"):
        align(noise[:100], read_text("seven"), "x.wav")
    with pytest.raises(InputError, match=r"x.wav: is silent"):
        align(torch.zeros(RATE), read_text("seven"), "x.wav")


def test_what_cannot_be_aligned_is_refused():
    with pytest.raises(InputError, match=r"x.wav: there is no word to align"):
        align(torch.zeros(RATE), (Word("SP", ("SP",)),), "x.wav")
    with pytest.raises(InputError, match=r"x.wav: holds no samples"):
        align(torch.zeros(0), read_text("seven"), "x.wav")
    with pytest.raises(ValueError, match="expected samples"):
        align(torch.zeros(1, RATE), read_text("seven"))
