"""Mixtures: the level of active speech, the ratio that was asked for, and pairs that are functions of their number."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from degauss.audio import mixtures
from degauss.audio.mixtures import (
    Mixtures,
    Recordings,
    active_level,
    babble,
    coloured,
    digit_splits,
    excerpt,
    filtered,
    mix,
)
from degauss.audio.synthetic import pink, white
from degauss.audio.waves import Wave, write
from degauss.core.errors import InputError

RATE = 8000


def tone(seconds: float, frequency: float = 300.0) -> Tensor:
    return torch.sin(2 * math.pi * frequency * torch.arange(round(seconds * RATE)) / RATE)


def small(**changes) -> Mixtures:
    speakers = [[tone(0.3, f), tone(0.4, 1.5 * f)] for f in (200.0, 310.0, 440.0)]
    chosen: dict[str, Any] = {"seconds": 1.0, **changes}
    return Mixtures(speakers, [white(9000, 1), pink(3000, 2)], RATE, **chosen)


# --- levels ---


def test_pauses_do_not_count() -> None:
    """Speech for a quarter of the time has the power of that quarter: P.56's point."""
    talk = torch.cat([tone(1.0), torch.zeros(3 * RATE)])
    level = active_level(talk, RATE)
    assert level.power == pytest.approx(0.5, rel=1e-3)
    assert level.activity == pytest.approx(0.25, rel=1e-3)
    assert active_level(torch.zeros(100), RATE) == (0.0, 0.0)


@settings(max_examples=25, deadline=None)
@given(st.floats(1e-3, 1e3), st.integers(0, 1000))
def test_the_level_goes_with_the_square_of_the_gain(gain: float, seed: int) -> None:
    x = white(4000, seed) * (1 + torch.sin(torch.arange(4000) / 300)) ** 2
    one, other = active_level(x, RATE), active_level(gain * x, RATE)
    assert other.power == pytest.approx(gain**2 * one.power, rel=1e-4)
    assert other.activity == pytest.approx(one.activity)


def test_quiet_noise_under_speech_is_not_speech() -> None:
    """The threshold lies 15.9 dB under the level it gives: -25 dB of noise in the pauses is below it."""
    talk = torch.cat([tone(1.0), 0.04 * white(3 * RATE)])
    assert active_level(talk, RATE).activity == pytest.approx(0.25, abs=0.01)
    talk = torch.cat([tone(1.0), 0.3 * white(3 * RATE)])
    assert active_level(talk, RATE).activity > 0.9


@settings(max_examples=25, deadline=None)
@given(st.floats(-20, 40))
def test_the_ratio_is_what_was_asked_for(snr: float) -> None:
    clean, noise = torch.cat([tone(0.5), torch.zeros(RATE // 2)]).double(), pink(RATE, 3).double()
    added = mix(clean, noise, snr, RATE) - clean
    found = 10 * math.log10(active_level(clean, RATE).power / float(added.square().mean()))
    assert found == pytest.approx(snr, abs=1e-6)
    torch.testing.assert_close(added / added.abs().max(), noise / noise.abs().max())


def test_there_is_no_ratio_to_silence() -> None:
    with pytest.raises(ValueError, match="both sound"):
        mix(tone(0.1), torch.zeros(800), 0, RATE)


# --- noises ---


def test_excerpts() -> None:
    x = torch.arange(10.0)
    assert torch.equal(excerpt(x, 4, 0.0), x[:4])
    assert torch.equal(excerpt(x, 4, 0.9999), x[6:])
    assert torch.equal(excerpt(x[:3], 7, 0.5), torch.tensor([1.0, 2, 0, 1, 2, 0, 1]))


@pytest.mark.parametrize("slope", [-6.0, 3.0])
def test_a_tilt_is_so_many_decibels_an_octave(slope: float) -> None:
    x = white(1 << 15).double()
    gain = torch.fft.rfft(coloured(x, slope)).abs() / torch.fft.rfft(x).abs()
    octaves = 20 * torch.log10(gain[[200, 400, 800, 1600]])
    torch.testing.assert_close(octaves.diff(), torch.full((3,), slope).double(), atol=1e-3, rtol=0)
    torch.testing.assert_close(coloured(x, 0.0), x)


def test_gains_are_those_of_the_octaves() -> None:
    """At half the rate, a quarter, an eighth, as given; between them on a line in octaves; below the last, the last."""
    x, gains = white(1 << 15).double(), torch.tensor([3.0, -6.0, 0.0, 9.0]).double()
    top = len(x) // 2
    found = 20 * torch.log10(torch.fft.rfft(filtered(x, gains)).abs() / torch.fft.rfft(x).abs())
    torch.testing.assert_close(found[[top // 2, top // 4, top // 8, top // 64]], gains[[1, 2, 3, 3]])
    between = round(top * 2**-1.5)
    assert float(found[between]) == pytest.approx(-3.0, abs=1e-3)
    torch.testing.assert_close(filtered(x, torch.zeros(4).double()), x)


# --- pairs ---


def test_a_pair_is_a_function_of_seed_and_number() -> None:
    """Whatever batch it is in; and no two are alike."""
    whole = small()([0, 1, 2, 3])
    other = small()([3, 1])
    assert torch.equal(other.noisy, whole.noisy[[3, 1]])
    assert torch.equal(other.clean, whole.clean[[3, 1]])
    assert len({tuple(row[:50].tolist()) for row in whole.noisy}) == 4
    assert not torch.equal(small(seed=1)([0]).noisy, whole.noisy[:1])


def test_pairs_are_noise_over_speech_within_full_scale() -> None:
    data = small(snr=(5.0, 5.0), tilt=0.0)
    clean, noisy = data.pair(7)
    assert clean.shape == noisy.shape == (RATE,)
    assert float(torch.maximum(clean.abs().max(), noisy.abs().max())) == pytest.approx(1.0)
    added = noisy - clean
    ratio = 10 * math.log10(active_level(clean, RATE).power / float(added.square().mean()))
    assert ratio == pytest.approx(5.0, abs=1e-3)


def test_every_pair_has_microphones_of_its_own() -> None:
    """The same words in the same noise, at the same ratio; speech and noise each in another colour."""
    plain, colour = small(tilt=0.0, snr=(5.0, 5.0)), small(tilt=0.0, snr=(5.0, 5.0), colour=6.0)
    assert torch.equal(small(colour=0.0).pair(3)[1], small().pair(3)[1])
    gains: list[Tensor] = []
    for number in range(40):
        (clean, noisy), (dry, wet) = plain.pair(number), colour.pair(number)
        ratio = 10 * math.log10(active_level(dry, RATE).power / float((wet - dry).square().mean()))
        assert ratio == pytest.approx(5.0, abs=1e-2)
        was, now = ((torch.fft.rfft(x).abs()) for x in (noisy - clean, wet - dry))
        middle = len(was) // 2
        gains.append(20 * torch.log10(now[[middle, middle // 2]].mean() / was[[middle, middle // 2]].mean()))
        assert not torch.allclose(dry, clean, atol=1e-2)
    assert float(torch.stack(gains).std()) > 2
    assert torch.equal(colour([5]).noisy[0], colour.pair(5)[1])


def test_the_same_speech_at_another_ratio() -> None:
    loud, quiet = small().at(20.0).pair(3), small().at(0.0).pair(3)
    torch.testing.assert_close(loud[0] / loud[0].abs().max(), quiet[0] / quiet[0].abs().max())
    assert float((quiet[1] - quiet[0]).square().mean()) > float((loud[1] - loud[0]).square().mean())


def test_ratios_and_choices_are_spread_evenly() -> None:
    """One speaker of three, one noise of two, ratios over the whole range: counted over many pairs."""
    data, counts, ratios = small(snr=(-5.0, 15.0), tilt=0.0), [0, 0, 0], list[float]()
    for number in range(150):
        clean, noisy = data.pair(number)
        added = noisy - clean
        ratios.append(10 * math.log10(active_level(clean, RATE).power / float(added.square().mean())))
        peak = int(torch.fft.rfft(clean).abs().argmax())
        counts[min(range(3), key=lambda k: min(abs(peak - f * m) for m in (1, 1.5) for f in [(200, 310, 440)[k]]))] += 1
    assert min(counts) > 25
    assert -5.01 < min(ratios) < -3
    assert 13 < max(ratios) < 15.01
    assert sum(ratios) / 150 == pytest.approx(5.0, abs=2.0)


def test_words_of_one_string_are_of_one_speaker() -> None:
    speakers = [[torch.full((2000,), 0.1 * (k + 1))] for k in range(3)]
    data = Mixtures(speakers, [white(9000)], RATE, seconds=1.0)
    for number in range(12):
        levels = data.speech(number, 0.5, 0.0)
        assert set(levels.tolist()) <= {0.0, 1.0}  # words have unit peak, pauses are silent
        assert 0.0 < float((levels == 0).double().mean()) < 0.6


def test_a_silent_recording_does_not_stop_a_training() -> None:
    quiet = Mixtures([[torch.zeros(4000)]], [white(9000)], RATE, seconds=0.5)
    clean, noisy = quiet.pair(0)
    assert not bool(clean.any())
    assert float(noisy.abs().max()) == pytest.approx(1.0)
    calm = Mixtures([[tone(0.5)]], [torch.zeros(9000)], RATE, seconds=0.5)
    clean, noisy = calm.pair(0)
    assert torch.equal(clean, noisy)


def test_files_are_read_when_they_are_needed(tmp_path: Path) -> None:
    write(tmp_path / "a.wav", Wave(torch.stack([tone(0.5), torch.zeros(4000)]), 8000))
    files = Recordings([tmp_path / "a.wav", tmp_path / "missing.wav"], 16000)
    assert len(files) == 2
    assert files[0].shape == (8000,)
    assert float(files[0].abs().max()) == pytest.approx(0.5, rel=0.05)  # the mean of its channels
    with pytest.raises(InputError, match=r"missing\.wav"):
        files[1]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"snr": (5.0, 0.0)}, "snr must be a range"),
        ({"seconds": 0.0}, "seconds must be at least"),
        ({"tilt": -1.0}, "tilt must be at least"),
        ({"colour": -1.0}, "colour must be at least"),
        ({"noises": []}, "no noise"),
        ({"speakers": []}, "no speech"),
        ({"speakers": [[]]}, "no speech"),
    ],
)
def test_what_cannot_be_mixed_is_refused(wrong: dict, message: str) -> None:
    asked: dict[str, Any] = {"speakers": [[tone(0.3)]], "noises": [white(800)], "rate": RATE, **wrong}
    with pytest.raises(InputError, match=message):
        Mixtures(**asked)


def test_babble_is_many_voices_of_unit_power() -> None:
    words = {"low": [tone(0.2, 200.0)], "high": [tone(0.2, 900.0)]}
    talk = babble(words, RATE, 0)
    assert float(talk.square().mean()) == pytest.approx(1.0)
    spectrum = torch.fft.rfft(talk).abs()
    assert min(float(spectrum[200]), float(spectrum[900])) > 20 * float(spectrum[1500:].mean())


@pytest.mark.slow
@pytest.mark.parametrize("fold", [0, 2])
def test_splits_share_no_speaker_and_no_noise(fold: int, digits: list) -> None:
    train, valid, test = digit_splits(fold)
    assert set(train.speakers) == set(valid.speakers)
    assert not set(train.speakers) & set(test.speakers)
    assert (len(train.speakers), len(test.speakers)) == (4, 2)
    assert {len(words) for words in train.speakers.values()} == {400}
    assert {len(words) for words in (*valid.speakers.values(), *test.speakers.values())} == {50}
    assert not set(train.noises) & set(test.noises)
    for name in set(train.noises) & set(valid.noises):  # other stretches, other seeds
        one, other = train.noises[name], valid.noises[name]
        size = min(len(one), len(other), 20_000)
        best = torch.fft.irfft(torch.fft.rfft(one, 1 << 21).conj() * torch.fft.rfft(other[:size], 1 << 21))
        assert float(best.abs().max()) < 0.5 * float(other[:size].square().sum() * one.square().mean() * size) ** 0.5
    clean, noisy = test.mixtures(mixtures.RATE, 0).pair(0)
    assert clean.shape == noisy.shape == (16_000,)
