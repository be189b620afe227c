"""Steps towards a mel spectrogram."""

from __future__ import annotations

import pytest
import torch

from degauss.audio.consistency import agreeing
from degauss.audio.spectra import MelConfig, log_mel
from degauss.audio.synthetic import tone, white

CONFIG = MelConfig()


def test_a_sound_that_agrees_stays_as_it_is(speech):
    x = speech[:15872]
    torch.testing.assert_close(agreeing(x, log_mel(x, CONFIG), CONFIG, 3), x, atol=1e-5, rtol=0)


def test_no_step_changes_nothing():
    x = white(2560)
    assert agreeing(x, log_mel(x, CONFIG) + 3, CONFIG, 0) is x


def test_a_gain_is_found_in_one_step():
    x = white(12800)
    torch.testing.assert_close(agreeing(x, log_mel(3 * x, CONFIG), CONFIG, 1), 3 * x, atol=1e-4, rtol=0)


def test_steps_come_nearer_and_keep_the_pitch(speech):
    target = log_mel(speech[:15872], CONFIG)
    pulses = tone(torch.full((15872,), 130.0), 16000, envelope=torch.ones_like)

    def distance(steps: int) -> float:
        return float((log_mel(agreeing(pulses, target, CONFIG, steps), CONFIG) - target).abs().mean())

    found = [distance(steps) for steps in (0, 1, 2, 4, 8)]
    assert sorted(found, reverse=True) == found
    assert found[-1] < 0.25 * found[0]
    # What lies between harmonics stays empty.
    spectrum = torch.fft.rfft(agreeing(pulses, target, CONFIG, 8)[4096:12288] * torch.hann_window(8192)).abs()
    comb = torch.arange(4097) * 16000 / 8192 / 130
    between = (comb - comb.round()).abs() > 0.4
    assert spectrum[between].square().sum() < 0.01 * spectrum.square().sum()


@pytest.mark.parametrize("shape", [(1,), (2, 3)])
def test_rows_do_not_depend_on_each_other(shape):
    x = torch.stack([white(2560, seed) for seed in range(int(torch.tensor(shape).prod()))])
    mel = log_mel(x.flip(0), CONFIG)
    alone = torch.stack([agreeing(a, b, CONFIG, 2) for a, b in zip(x, mel, strict=True)])
    together = agreeing(x.reshape(*shape, -1), mel.reshape(*shape, *mel.shape[1:]), CONFIG, 2)
    torch.testing.assert_close(together.reshape(alone.shape), alone, atol=1e-5, rtol=1e-5)


def test_silence_stays_silent_and_finite():
    out = agreeing(torch.zeros(2560), log_mel(white(2560), CONFIG), CONFIG, 4)
    assert torch.equal(out, torch.zeros(2560))
