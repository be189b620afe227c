"""A segment on the frames of a mel."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from degauss.audio import framing
from degauss.audio.score import Segment
from degauss.audio.spectra import MelConfig, log_mel
from degauss.core.errors import InputError

MEL = MelConfig()  # 62.5 frames a second

# Two syllables on three notes, the second syllable over two of them; consonants in the group before.
SONG = Segment(
    phones=("SP", "k", "a", "n", "o", "SP"),
    durations=(0.3, 0.1, 0.4, 0.1, 0.9, 0.2),
    phones_per_word=(2, 2, 1, 1),
    notes=("rest", "A3", "C4", "D4", "rest"),
    note_durations=(0.4, 0.5, 0.5, 0.4, 0.2),
    slurs=(0, 0, 0, 1, 0),
)


@given(st.integers(256, 60000))
def test_as_many_frames_as_the_mel_has(length):
    length -= length % MEL.hop
    assert framing.count(length / MEL.rate, MEL) == log_mel(torch.zeros(length), MEL).shape[1]


@given(st.lists(st.floats(0.02, 2), min_size=1, max_size=60))
def test_phones_fill_the_frames(durations):
    seconds = torch.tensor(durations, dtype=torch.float64)
    frames = framing.count(float(seconds.sum()), MEL)
    whole = framing.phone_frames(seconds, MEL, frames)
    assert int(whole.sum()) == frames
    starts = torch.cumsum(seconds, 0)[:-1] * 62.5
    assert bool(((torch.cumsum(whole, 0)[:-1] - starts).abs() <= 0.5 + 1e-9).all())


def test_phones_that_begin_after_the_end():
    with pytest.raises(InputError, match="phones begin until frame 62, but there are only 40 frames"):
        framing.phone_frames(torch.tensor([1.0, 1.0]), MEL, 40)


def test_the_melody_lies_on_the_frames():
    frames = framing.count(2.0, MEL)
    line = framing.melody(SONG, MEL, frames)
    for seconds, pitch in ((0.2, 0), (0.6, 57), (1.2, 60), (1.6, 62), (1.9, 0)):
        assert float(line[round(seconds * 62.5)]) == pitch
    assert len(line) == frames == 126
    assert not bool(framing.melody(Segment(("a",), (1.0,)), MEL, 9).any())


def test_a_phone_is_sung_on_the_note_of_its_group():
    sung = framing.sung(SONG)
    assert sung.notes.tolist() == [0, 0, 57, 57, 60, 0]
    torch.testing.assert_close(sung.seconds.float(), torch.tensor([0.4, 0.4, 0.5, 0.5, 0.9, 0.2]))
    assert sung.slurs.tolist() == [0, 0, 0, 0, 1, 0]


def test_without_groups_the_note_is_what_sounds_for_most_of_the_phone():
    sung = framing.sung(Segment(SONG.phones, SONG.durations, (), SONG.notes, SONG.note_durations))
    assert sung.notes.tolist() == [0, 0, 57, 57, 60, 0]


def test_speech_has_no_notes():
    sung = framing.sung(Segment(("hh", "ay")))
    assert not any(bool(part.any()) for part in sung)


def test_neither_groups_nor_durations():
    with pytest.raises(InputError, match="6 phones in 0 groups of 0 and 5 notes that are not slurs"):
        framing.sung(Segment(SONG.phones, (), (), SONG.notes, SONG.note_durations))


@given(st.lists(st.floats(0.01, 3), min_size=6, max_size=6))
def test_predicted_durations_fit_the_notes(predicted):
    words = framing.word_seconds(SONG)
    assert [size for size, _ in words] == [2, 2, 1, 1]
    fitted = framing.fit_words(torch.tensor(predicted, dtype=torch.float64), words)
    assert bool((fitted > 0).all())
    at = 0
    for size, total in words:
        group = fitted[at : at + size]
        assert math.isclose(float(group.sum()), total, rel_tol=1e-12)
        assert float(group[0]) >= total / 2 - 1e-12
        rest = predicted[at + 1 : at + size]
        if sum(rest) <= total / 2:
            assert group[1:].tolist() == rest
        at += size


def test_f0_is_linear_in_pitch_and_keeps_its_gaps():
    # 0.02 s a value: a frame of 0.016 s is 0.8 of it.
    segment = Segment(("a",), (0.1,), f0=(100.0, 200.0, 0.0, 300.0), f0_step=0.02)
    f0 = framing.f0_on_frames(segment, MEL, 8)
    expected = [100.0, 100 * 2**0.8, 0.0, 0.0, 300.0, 300.0, 300.0, 300.0]
    torch.testing.assert_close(f0, torch.tensor(expected), rtol=1e-5, atol=0)
