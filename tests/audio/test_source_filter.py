"""The source against sums of sines, the filters against closed forms, and the vocoder piece by piece."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal.windows import blackmanharris
from torch import Tensor, nn

from degauss.audio import pitch
from degauss.audio.source_filter import (
    SourceFilter,
    SourceFilterConfig,
    continued,
    filtered,
    frame_phase,
    minimum_phase,
    pulses,
    white,
)
from degauss.audio.spectra import MelConfig, log_mel
from degauss.audio.synthetic import VOWELS, tone, vibrato, vowel
from degauss.audio.synthetic import white as white_noise
from degauss.core.errors import InputError
from degauss.core.noise import Noise

RATE, HOP = 16000, 256
TINY = SourceFilterConfig(width=8, blocks=1, kernel=3, agreement=2)


def source(f0: Tensor, rate: int = RATE, hop: int = HOP) -> Tensor:
    return pulses(f0, frame_phase(f0, rate, hop), rate, hop)


def restless(config: SourceFilterConfig = TINY, seed: int = 0) -> SourceFilter:
    """An untrained model whose filters do depend on what it sees."""
    model = SourceFilter.new(config, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)
        nn.init.normal_(model.network.outlet.weight, std=0.1)
    model.network.eval().requires_grad_(False)
    return model


@pytest.fixture(scope="module")
def heard() -> tuple[Tensor, Tensor]:
    """The mel spectrogram and f0 of a vowel with a pause: 61 frames."""
    x = vowel(VOWELS["a"], vibrato(180.0, 60 * HOP, RATE), RATE) * 0.1
    x[20 * HOP : 30 * HOP] = 0
    return log_mel(x, MelConfig()), pitch.f0(x, RATE, HOP)


# --- source ---


@pytest.mark.parametrize("f0", [100.0, 200.0, 440.0, 1600.0, 7000.0])
def test_pulses_are_harmonics_of_equal_strength(f0):
    x = source(torch.full((126,), f0)).double()
    assert len(x) == 2 * RATE
    lines = torch.fft.rfft(x).abs() / len(x) * 2  # of 0.5 Hz
    k = torch.arange(1, int(RATE / 2 / f0) + 1)
    strength = math.sqrt(4 * f0 / RATE) * (RATE / 2 / f0 - k).clamp(0, 1)
    torch.testing.assert_close(lines[(k * 2 * f0).long()], strength.double(), atol=1e-5, rtol=0)
    lines[(k * 2 * f0).long()] = 0
    assert lines.max() < 1e-5


@given(st.floats(60, 3900))
@settings(max_examples=25, deadline=None)
def test_nothing_is_folded_back_at_the_nyquist_frequency(f0):
    x = source(torch.full((65,), f0, dtype=torch.float64)).double()
    window = torch.from_numpy(blackmanharris(len(x), sym=False))  # side lobes below -92 dB
    power = torch.fft.rfft(x * window).abs().square()
    hertz = torch.linspace(0, RATE / 2, len(power), dtype=torch.float64)
    away = (hertz / f0 - (hertz / f0).round()).abs() * f0 > 5
    assert power[away].max() < 1e-8 * power.max()


def test_pulses_are_the_sum_of_sines_of_a_gliding_pitch():
    f0 = torch.tensor([200.0, 300.0, 310.0, 150.0, 151.0, 1000.0], dtype=torch.float64)
    j = torch.arange(5 * HOP, dtype=torch.float64)
    hertz = torch.from_numpy(np.interp(j.numpy(), np.arange(6) * HOP, f0.numpy()))
    # The trapezoid rule is exact for lines between the frames.
    cycles = torch.cat([hertz.new_zeros(1), ((hertz[1:] + hertz[:-1]) / 2).cumsum(0)]) / RATE
    k = torch.arange(1, 60, dtype=torch.float64)[:, None]
    weight = (RATE / 2 / hertz - k).clamp(0, 1)
    expected = (4 * hertz / RATE).sqrt() * (weight * torch.cos(2 * math.pi * k * cycles)).sum(0)
    torch.testing.assert_close(source(f0).double(), expected, atol=1e-5, rtol=0)


def test_pulses_have_the_power_of_white_noise():
    assert source(torch.full((126,), 50.0)).square().mean() == pytest.approx(1, abs=0.02)


def test_no_harmonic_fits_above_the_nyquist_frequency():
    assert source(torch.full((5,), 8500.0)).abs().max() == 0


@given(st.lists(st.floats(50, 2000), min_size=4, max_size=30), st.data())
@settings(max_examples=25, deadline=None)
def test_a_part_of_the_source_is_the_same_as_in_the_whole(values, data):
    f0 = torch.tensor(values, dtype=torch.float64)
    phase = frame_phase(f0, RATE, HOP)
    first = data.draw(st.integers(0, len(values) - 2))
    part = slice(first, data.draw(st.integers(first + 2, len(values))))
    found = pulses(f0[part], phase[part], RATE, HOP)
    assert torch.equal(found, pulses(f0, phase, RATE, HOP)[part.start * HOP : (part.stop - 1) * HOP])


def test_phase_is_exact_for_two_hours():
    f0 = 443.7
    phase = frame_phase(torch.full((450_001,), f0, dtype=torch.float64), RATE, HOP)
    exact = float(Fraction(f0) * HOP * 450_000 / RATE % 1)
    assert (phase[-1].item() - exact + 0.5) % 1 == pytest.approx(0.5, abs=1e-5)


def test_pitch_goes_on_through_what_is_unvoiced():
    f0 = torch.tensor([0.0, 100.0, 0.0, 400.0, 0.0])
    torch.testing.assert_close(continued(f0).float(), torch.tensor([100.0, 100.0, 200.0, 400.0, 400.0]))
    assert torch.equal(continued(torch.zeros(3)).float(), torch.full((3,), 100.0))


def test_noise_does_not_depend_on_where_it_is_cut():
    noise = Noise(3, [0])
    whole = white(noise, 0, 10_000)
    assert torch.equal(white(noise, 4000, 9000), whole[:, 4000:9000])
    assert not torch.equal(white(Noise(4, [0]), 0, 10_000), whole)
    assert whole.var() == pytest.approx(1, abs=0.05)


# --- filter ---


@pytest.mark.parametrize(("n_fft", "hop"), [(512, 128), (256, 64)])
def test_a_filter_of_one_gives_the_source_back(n_fft, hop):
    x = source(torch.linspace(80, 300, 20))
    response = torch.ones(n_fft // 2 + 1, 1 + len(x) // hop)
    torch.testing.assert_close(filtered(x, response, hop), x, atol=1e-5, rtol=0)
    # And so does the minimum phase of a gain of one.
    torch.testing.assert_close(filtered(x, minimum_phase(response.log()), hop), x, atol=1e-5, rtol=0)


def test_a_delay_moves_the_source():
    x = white_noise(5120)
    bins = torch.arange(257)
    response = torch.polar(torch.ones(257), -2 * math.pi * bins * 3 / 512)[:, None].expand(-1, 41)
    # Windows move with what they hold, by 3 of 512 samples.
    torch.testing.assert_close(filtered(x, response, 128)[600:4000], x[597:3997], atol=0.05, rtol=0.05)


def test_a_short_filter_is_a_convolution():
    x = white_noise(8192).double()
    taps = torch.tensor([1.0, -0.6, 0.3, 0.1], dtype=torch.float64)
    response = torch.fft.rfft(taps, 512)[:, None].expand(-1, 65)
    found = filtered(x, response, 128)[512:-512]
    expected = torch.from_numpy(np.convolve(x.numpy(), taps.numpy())[512 : 8192 - 512])
    assert (found - expected).square().mean() < 1e-4 * expected.square().mean()


def test_minimum_phase_of_resonances_is_their_own():
    # An all-pole filter with its poles inside the circle is of minimum phase.
    angle = torch.linspace(0, math.pi, 513, dtype=torch.float64)
    z = torch.polar(torch.ones_like(angle), -angle)
    response = torch.ones_like(z)
    for hertz, radius in ((500, 0.97), (1500, 0.95), (2500, 0.93)):
        pole = radius * complex(math.cos(2 * math.pi * hertz / RATE), math.sin(2 * math.pi * hertz / RATE))
        response = response / ((1 - pole * z) * (1 - pole.conjugate() * z))
    found = minimum_phase(response.abs().log()[:, None])[:, 0]
    torch.testing.assert_close(found, response, rtol=1e-6, atol=1e-6)


# --- network ---


def test_before_training_the_gains_are_those_of_the_envelope():
    x = white_noise(40 * HOP)
    model = SourceFilter.new(SourceFilterConfig(agreement=0))
    mel = log_mel(x, MelConfig())
    y = model.render(mel, torch.zeros(41), Noise(0, [0]))
    # Half of the power each: pulses and noise together are as loud as the noise was.
    assert y.square().mean() / x.square().mean() == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("voiced", [0.0, 150.0])
def test_a_loud_frame_is_heard_in_its_middle(voiced):
    model = SourceFilter.new(SourceFilterConfig(agreement=0))
    mel = torch.full((80, 41), math.log(MelConfig().floor))
    mel[:, 20] = 0
    energy = model.render(mel, torch.full((41,), voiced), Noise(0, [0])).square()
    middle = (energy * torch.arange(len(energy))).sum() / energy.sum()
    assert middle == pytest.approx(20 * HOP, abs=HOP / 5)


def test_rows_do_not_depend_on_their_batch(heard):
    model = restless()
    mel, f0 = heard
    mels, f0s = torch.stack([mel, mel.flip(1)]), torch.stack([f0, f0.flip(0)])
    both = model.network(mels, f0s, continued(f0s))
    for row in range(2):
        alone = model.network(mels[row, None], f0s[row, None], continued(f0s[row, None]))
        for part, whole in zip(alone, both, strict=True):
            torch.testing.assert_close(part[0], whole[row], atol=1e-5, rtol=1e-5)


def test_size():
    weights = sum(weight.numel() for weight in SourceFilter.new(SourceFilterConfig()).network.parameters())
    assert weights <= 1_200_000


# --- whole ---


def test_the_same_seed_gives_the_same_sound(heard):
    model, (mel, f0) = restless(), heard
    first, again, other = (model.render(mel, f0, Noise(seed, [0])) for seed in (0, 0, 1))
    assert first.shape == (60 * HOP,)
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=1e-3)


@given(st.integers(1, 61))
@settings(max_examples=12, deadline=None)
def test_a_sound_made_in_pieces_is_the_same(chunk):
    x = vowel(VOWELS["o"], vibrato(150.0, 60 * HOP, RATE), RATE) * 0.1
    mel, f0 = log_mel(x, MelConfig()), pitch.f0(x, RATE, HOP)
    model = restless()
    whole = model.render(mel, f0, Noise(0, [0]), chunk=1000)
    torch.testing.assert_close(model.render(mel, f0, Noise(0, [0]), chunk), whole, atol=1e-5, rtol=1e-4)


def test_pieces_with_less_around_them_would_not_be(heard, monkeypatch):
    model, (mel, f0) = restless(), heard
    whole = model.render(mel, f0, Noise(0, [0]))
    monkeypatch.setattr(SourceFilterConfig, "agreement_reach", 0)
    assert not torch.allclose(model.render(mel, f0, Noise(0, [0]), chunk=10), whole, atol=1e-3)
    monkeypatch.undo()
    monkeypatch.setattr(SourceFilterConfig, "reach", 0)
    assert not torch.allclose(model.render(mel, f0, Noise(0, [0]), chunk=10), whole, atol=1e-3)


@pytest.mark.parametrize("agreement", [0, 3])
def test_a_frame_is_heard_no_further_than_is_said(heard, agreement):
    config = SourceFilterConfig(width=8, blocks=2, kernel=3, agreement=agreement)
    model = restless(config)
    mel, f0 = heard
    other = mel.clone()
    other[:, 30] += 2
    change = (model.render(mel, f0, Noise(0, [0])) - model.render(other, f0, Noise(0, [0]))).abs()
    far = config.reach + config.agreement_reach
    assert change.max() > 1e-3
    assert change[: (30 - far) * HOP].max() < 1e-6
    assert change[(30 + far) * HOP :].max() < 1e-6


@pytest.mark.parametrize("hz", [110.0, 220.0, 440.0, 880.0])
def test_a_sung_tone_keeps_its_pitch(hz):
    curve = vibrato(hz, 80 * HOP, RATE, depth=60)
    x = 0.1 * tone(curve, RATE)
    f0 = curve[::HOP]
    f0 = torch.cat([f0, f0[-1:]])
    y = SourceFilter.new(SourceFilterConfig()).render(log_mel(x, MelConfig()), f0, Noise(0, [0]))
    cents = pitch.cents(pitch.f0(y, RATE, HOP), f0)[3:-3]
    assert cents.isnan().float().mean() < 0.05
    assert cents[~cents.isnan()].square().mean().sqrt() < 10


def test_short_and_silent_sounds():
    model = restless()
    floor = math.log(MelConfig().floor)
    assert model.render(torch.full((80, 1), floor), torch.zeros(1), Noise(0, [0])).shape == (0,)
    silent = model.render(torch.full((80, 9), floor), torch.zeros(9), Noise(0, [0]))
    assert silent.shape == (8 * HOP,)
    assert silent.abs().max() < 1e-3


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"expected \[80, frames\] and \[frames\]"):
        restless().render(torch.zeros(40, 9), torch.zeros(9), Noise(0, [0]))
    with pytest.raises(ValueError, match="mel and f0"):
        restless().render(torch.zeros(80, 9), torch.zeros(8), Noise(0, [0]))


# --- files ---


def test_saved_and_loaded(heard, tmp_path: Path):
    model, (mel, f0) = restless(), heard
    model.save(tmp_path / "model")
    loaded = SourceFilter.load(tmp_path / "model")
    assert loaded.config == model.config
    assert torch.equal(loaded.render(mel, f0, Noise(0, [0])), model.render(mel, f0, Noise(0, [0])))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"width": 9}, "does not fit the network"),
        ({"mel": {"hop": 100}}, "is not that of a vocoder"),
        ({"colour": 1}, "is not that of a vocoder"),
        ({"mel": {"f_max": 9000.0}}, "is not that of a vocoder"),
    ],
)
def test_a_configuration_that_does_not_fit(tmp_path: Path, change, said):
    restless().save(tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    about = json.loads(path.read_text())
    about["config"] |= change
    path.write_text(json.dumps(about))
    with pytest.raises(InputError, match=said):
        SourceFilter.load(tmp_path / "model")


@pytest.mark.parametrize(
    "change", [{"kernel": 4}, {"window": 128}, {"filter_hop": 100}, {"width": 0}, {"agreement": -1}]
)
def test_values_out_of_range(change):
    with pytest.raises(InputError):
        SourceFilterConfig(**change)
