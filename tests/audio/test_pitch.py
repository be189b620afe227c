"""Pitch: known curves are found, at the frames of the mel spectrum; notes have their names."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import librosa
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from degauss.audio.datasets import Syllable
from degauss.audio.pitch import (
    cents,
    f0,
    f0_harvest,
    hz_to_midi,
    hz_to_note,
    interpolated_log_f0,
    midi_to_hz,
    midi_to_note,
    note_to_hz,
    note_to_midi,
)
from degauss.audio.spectra import MelConfig, log_mel
from degauss.audio.synthetic import VOWELS, glide, hum, tone, vibrato, vowel, white
from degauss.audio.waves import Wave, mono, read, resample
from degauss.core.errors import InputError


def at_frames(curve: torch.Tensor, hop: int, frames: int) -> torch.Tensor:
    """The true pitch at k * hop samples."""
    return curve[(torch.arange(frames) * hop).clamp_max(len(curve) - 1)]


# --- estimation ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "i", "u"])
@pytest.mark.parametrize("ends", [(80, 160), (400, 200), (600, 900)])
@pytest.mark.parametrize(("rate", "hop"), [(16000, 256), (8000, 64)])
def test_a_glide_is_followed(name: str, ends: tuple[int, int], rate: int, hop: int):
    """Also above rate / 12, where StoneMask alone finds nothing."""
    curve = glide(*ends, rate)
    found = f0(0.1 * vowel(VOWELS[name], curve, rate), rate, hop)
    off = cents(found, at_frames(curve, hop, len(found))).abs()
    voiced = found > 0
    assert float(voiced.float().mean()) > 0.95
    assert float(off[voiced].median()) < 5
    assert int((off[voiced] > 600).sum()) == 0  # no octave too high or too low
    assert float(off[2:-2][voiced[2:-2]].max()) < 50


def test_harvest_follows_it_too():
    curve = vibrato(220, 16000, 16000, depth=80)
    found = f0_harvest(0.1 * vowel(VOWELS["a"], curve, 16000), 16000, 160)
    off = cents(found, at_frames(curve, 160, len(found))).abs()
    assert float(off[3:-3].median()) < 5
    assert float(off[3:-3].max()) < 50


def test_a_missing_or_weak_fundamental_is_no_octave():
    """A telephone passes nothing below 300 Hz; its listeners hear the pitch all the same."""
    curve = torch.full((16000,), 120.0)
    telephone = tone(curve, 16000, lambda hz: (hz > 300).double() / hz.clamp_min(1))
    weak = tone(curve, 16000, lambda hz: torch.where(hz < 200, 0.1, 1.0) / hz.clamp_min(1))
    off = cents(f0_harvest(0.1 * weak, 16000, 256)[3:-3], torch.full((57,), 120.0)).abs()
    assert float(off.max()) < 10
    octave = cents(f0(0.1 * telephone, 16000, 256), torch.full((63,), 120.0))
    heard = octave[~octave.isnan()]
    assert int(((heard.abs() - 1200).abs() < 100).sum()) == 0


def test_a_frame_is_where_the_mel_spectrum_has_it(speech: torch.Tensor, speech_f0: torch.Tensor):
    """A late or early frame would be off by 6 cents for each, on this slope."""
    config = MelConfig(hop=256)
    steep = glide(100, 800, 16000)
    for x, curve in ((speech, speech_f0), (0.1 * tone(steep, 16000), steep)):
        found = f0(x, config.rate, config.hop)
        assert found.shape == log_mel(x, config).shape[-1:]
        off = cents(found, at_frames(curve, 256, len(found)))[5:-5]
        assert abs(float(off.nanmedian())) < 3


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9000), st.sampled_from([(16000, 256), (8000, 80), (22050, 256), (44100, 441), (16000, 200)]))
def test_there_are_as_many_frames_as_of_the_mel_spectrum(n: int, grid: tuple[int, int]):
    """Rounded seconds would now and then lose the last one where n is a multiple of hop."""
    rate, hop = grid
    for length in (n, n // hop * hop + hop):
        assert f0(white(length), rate, hop).shape == (1 + length // hop,)


def test_silence_has_no_pitch():
    x = torch.cat([torch.zeros(8000), 0.1 * tone(torch.full((8000,), 200.0), 16000), torch.zeros(8000)])
    for estimate in (f0, f0_harvest):
        found = estimate(x, 16000, 160)
        assert float(found[:40].abs().max()) == 0
        assert float(found[-40:].abs().max()) == 0
        assert float(found[60:90].min()) > 190
    assert torch.equal(f0(torch.zeros(5000), 16000, 256), torch.zeros(20))


def test_the_hum_of_the_mains_is_no_voice(speech: torch.Tensor):
    x = torch.cat([torch.zeros(8000), speech, torch.zeros(8000)])
    x = x + 1e-3 * hum(len(x), 16000, 60.0) + 1e-4 * white(len(x))
    found = f0(x, 16000, 160)
    assert float((found[52:148] > 0).float().mean()) > 0.9
    assert float((found[:45] > 0).float().mean()) < 0.1
    taken = f0(x, 16000, 160, low=50.0)  # the control
    assert float((taken[:45] > 0).float().mean()) > 0.5


def test_pitches_outside_the_range_asked_for_are_not_reported():
    x = 0.1 * tone(torch.full((16000,), 220.0), 16000)
    assert float(f0(x, 16000, 256, low=300.0).max()) in (0.0, pytest.approx(440, abs=5))
    inside = f0(x, 16000, 256, low=100.0, high=300.0)
    assert float(inside[inside > 0].median()) == pytest.approx(220, rel=1e-3)


def test_what_has_no_pitch_is_refused():
    with pytest.raises(ValueError, match="not finite"):
        f0(torch.tensor([0.0, math.nan]), 16000, 256)
    with pytest.raises(ValueError, match=r"expected samples \[n\]"):
        f0(torch.zeros(1, 100), 16000, 256)
    with pytest.raises(ValueError, match=r"expected samples \[n\]"):
        f0(torch.zeros(0), 16000, 256)
    with pytest.raises(ValueError, match="low < high < rate / 2"):
        f0(torch.zeros(100), 16000, 256, low=100, high=8000)


def test_the_pitch_of_a_singer_is_that_of_the_voicebank(voicebank: list[Syllable]):
    """UTAU's own table of the held vowels, another program's estimate of the same sound."""
    found: list[float] = []
    for syllable in voicebank[::10]:
        wave = read(syllable.path)
        small = resample(Wave(mono(wave)[None], wave.rate), 16000)
        ours = f0(small.samples[0], 16000, 160)
        start = syllable.oto.offset + syllable.oto.consonant
        middle = (start + syllable.oto.end(wave.duration)) / 2
        theirs = float(syllable.table.f0[round(middle * wave.rate / syllable.table.hop)])
        found.append(cents(float(ours[round(middle * 100)]), theirs))
    assert np.nanmedian(np.abs(found)) < 15
    assert not np.isnan(found).any()


# --- curves -------------------------------------------------------------------------------------------------


def test_gaps_are_bridged_in_cents():
    curve = torch.tensor([0.0, 100.0, 0.0, 400.0, 0.0])
    torch.testing.assert_close(interpolated_log_f0(curve).exp(), torch.tensor([100.0, 100.0, 200.0, 400.0, 400.0]))
    rows = interpolated_log_f0(torch.stack([curve, torch.zeros(5)]), unvoiced=150.0)
    torch.testing.assert_close(rows[0], interpolated_log_f0(curve))
    torch.testing.assert_close(rows[1].exp(), torch.full((5,), 150.0))


@given(st.lists(st.floats(50, 1000), min_size=1, max_size=20))
def test_voiced_frames_keep_their_pitch(values: list[float]):
    curve = torch.tensor(values, dtype=torch.float64)
    torch.testing.assert_close(interpolated_log_f0(curve), curve.log())


def test_cents_are_twelve_hundred_an_octave():
    assert cents(880.0, 440.0) == 1200
    assert cents(440.0, 466.1637615180899) == pytest.approx(-100)
    assert math.isnan(cents(0.0, 440.0))
    both = cents(torch.tensor([220.0, 0.0, 100.0]), torch.tensor([440.0, 440.0, 0.0]))
    assert both[0] == -1200
    assert both[1:].isnan().all()


# --- notes --------------------------------------------------------------------------------------------------


@given(st.integers(0, 127))
def test_every_key_has_a_name_and_a_frequency(key: int):
    name = midi_to_note(key)
    assert note_to_midi(name) == key
    assert hz_to_note(note_to_hz(name)) == name
    assert note_to_hz(name) == pytest.approx(librosa.midi_to_hz(key), rel=1e-12)
    assert librosa.midi_to_note(key, unicode=False) == name
    assert hz_to_midi(midi_to_hz(key)) == pytest.approx(key, abs=1e-9)


@pytest.mark.parametrize(
    ("note", "key"),
    [
        ("C4", 60),
        ("A4", 69),
        ("C#4", 61),
        ("Db4", 61),
        ("C♯4", 61),
        ("Cb4", 59),
        ("B#3", 60),
        ("A-1", 9),
        ("a4+50", 69.5),
    ],
)
def test_notes_are_read_as_musicians_write_them(note: str, key: float):
    assert note_to_midi(note) == key


def test_a_rest_has_no_frequency():
    assert note_to_hz("rest") == 0
    assert hz_to_note(0.0) == "rest"
    assert hz_to_note(442.0) == "A4"


@pytest.mark.parametrize("wrong", ["", "H4", "C", "4", "C#b4", "C4x", "rest4", "C 4"])
def test_what_is_no_note_is_refused(wrong: str):
    with pytest.raises(InputError, match=r"is not a note; expected .* such as C#4"):
        note_to_hz(wrong)
