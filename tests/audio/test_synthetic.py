"""Synthetic sounds have the pitch, the spectrum and the power they say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.signal import welch

from degauss.audio.pitch import cents
from degauss.audio.synthetic import (
    VOWELS,
    babble,
    clicks,
    glide,
    hum,
    murmur,
    pink,
    resonance,
    tone,
    vibrato,
    vowel,
    white,
)

RATE = 16000


def spectrum(x: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    return welch(x.double().numpy(), RATE, nperseg=RATE // 2)


def test_curves_have_their_ends_and_their_swing():
    curve = glide(100, 400, 1001)
    torch.testing.assert_close(curve[[0, 500, -1]], torch.tensor([100.0, 200.0, 400.0]))
    swing = vibrato(220, RATE, RATE, depth=50, speed=5)
    off = cents(swing, torch.full_like(swing, 220.0))
    assert float(off.max()) == pytest.approx(50, abs=0.1)
    assert float(off.min()) == pytest.approx(-50, abs=0.1)
    assert int(((off[1:] > 0) & (off[:-1] <= 0)).sum()) == 5


def test_a_tone_is_its_harmonics():
    x = tone(torch.full((RATE,), 500.0), RATE)
    power = torch.fft.rfft(x.double()).abs().square()
    assert float(power[::500].sum() / power.sum()) > 1 - 1e-6
    torch.testing.assert_close((power[500] / power[1000]).sqrt(), torch.tensor(2.0, dtype=torch.float64))
    assert float(power[8000]) < 1e-6 * float(power[500])  # nothing at half the rate


def test_nothing_aliases():
    """A glide to above half the rate leaves no harmonic that falls."""
    x = tone(glide(3000, 7900, RATE), RATE)
    last = torch.fft.rfft(x[-1600:].double() * torch.hann_window(1600, dtype=torch.float64)).abs()
    assert float(last[:700].max()) < 1e-3 * float(last.max())


def test_a_vowel_has_its_resonances():
    hz = torch.linspace(0, 4000, 4001, dtype=torch.float64)
    for formants in VOWELS.values():
        gain = resonance(hz, torch.tensor(formants))
        assert float(gain[0]) == 1
        peaks = 1 + torch.nonzero((gain[1:-1] > gain[:-2]) & (gain[1:-1] > gain[2:]))[:, 0]
        assert len(peaks) == 3
        torch.testing.assert_close(peaks.double(), torch.tensor(formants).double(), rtol=0, atol=40)


def test_silence_of_a_voice_is_silent():
    f0 = torch.cat([torch.full((8000,), 150.0), torch.zeros(8000)])
    x = vowel(VOWELS["a"], f0, RATE)
    assert float(x[8000:].abs().max()) == 0
    assert torch.equal(tone(torch.zeros(100), RATE), torch.zeros(100))


@pytest.mark.parametrize(
    "x",
    [
        tone(torch.full((RATE,), 120.0), RATE),
        white(RATE),
        pink(RATE),
        babble(RATE, RATE),
        hum(RATE, RATE),
        clicks(RATE, RATE),
        murmur(RATE, RATE).samples,
    ],
)
def test_power_is_one(x: torch.Tensor):
    assert x.dtype == torch.float32
    assert float(x.square().mean()) == pytest.approx(1, abs=0.03)
    assert bool(torch.isfinite(x).all())


def test_white_is_flat_and_pink_falls_by_three_decibels_an_octave():
    for x, slope in ((white(20 * RATE), 0.0), (pink(20 * RATE), -1.0)):
        hz, power = spectrum(x)
        inside = (hz > 50) & (hz < 6000)
        found = np.polyfit(np.log(hz[inside]), np.log(power[inside]), 1)[0]
        assert found == pytest.approx(slope, abs=0.03)


def test_hum_is_all_at_multiples_of_its_frequency():
    power = torch.fft.rfft(hum(RATE, RATE, 50).double()).abs().square()
    assert float(power[::50].sum() / power.sum()) > 1 - 1e-6
    assert float(power[100]) > float(power[50])  # rectifiers hum at twice the mains


def test_clicks_are_rare_and_short():
    x = clicks(10 * RATE, RATE, per_second=8)
    starts = int(((x[1:].abs() > 3) & (x[:-1].abs() < 1)).sum())
    assert 30 < starts < 130
    assert float((x.abs() > 0.1).float().mean()) < 0.1
    assert float(clicks(RATE, RATE, per_second=0).abs().max()) > 0  # at least one


def test_murmur_pauses_and_its_pitch_is_what_it_says():
    """The harmonics of the pitch it reports hold the power of each moment."""
    one = murmur(4 * RATE, RATE, seed=3)
    silent = one.f0 == 0
    assert 0.05 < float(silent.float().mean()) < 0.5
    assert float(one.samples[silent].abs().max()) == 0
    voiced = one.f0[~silent]
    assert float(voiced.min()) > 60
    assert float(voiced.max()) < 330
    steps = cents(voiced[1:], voiced[:-1]).abs()
    assert float(steps.quantile(0.99)) < 5  # it wanders, but for where a pause was


def test_seeds_are_keys():
    for make in (white, pink, lambda n, seed=0: babble(n, RATE, seed), lambda n, seed=0: clicks(n, RATE, seed)):
        assert torch.equal(make(4000, seed=1), make(4000, seed=1))
        assert not torch.equal(make(4000, seed=1), make(4000, seed=2))
