"""The envelope of a mel spectrogram, in units of white noise."""

from __future__ import annotations

import math

import pytest
import torch

from degauss.audio.envelope import bands_to_bins, envelope, white_level
from degauss.audio.spectra import MelConfig, log_mel, mel_filters
from degauss.audio.synthetic import white

CONFIG = MelConfig()


@pytest.mark.parametrize(
    "config", [CONFIG, MelConfig(22050, 1024, 256, 80, 80.0, 7600.0), MelConfig(n_fft=512, hop=128)]
)
def test_white_noise_has_the_level_that_is_said(config):
    heard = mel_filters(config).sum(1) > 0
    mean = log_mel(white(200_000), config).exp().mean(-1)
    assert mean[heard].log().sub(white_level(config)[heard]).abs().max() < 0.05


@pytest.mark.parametrize("n_fft", [256, 512, 1024])
def test_bands_are_interpolated(n_fft):
    matrix = bands_to_bins(CONFIG, n_fft)
    assert matrix.shape == (n_fft // 2 + 1, CONFIG.n_mels)
    torch.testing.assert_close(matrix.sum(1), torch.ones(n_fft // 2 + 1, dtype=torch.float64))
    # A line over frequency is a line again between the centres of the first and the last band.
    filters = mel_filters(CONFIG).double()
    centres = filters @ torch.linspace(0, 8000, 513, dtype=torch.float64) / filters.sum(1)
    hertz = torch.linspace(0, 8000, n_fft // 2 + 1, dtype=torch.float64)
    inside = (hertz > centres[0]) & (hertz < centres[-1])
    torch.testing.assert_close((matrix @ centres)[inside], hertz[inside])


def test_bands_without_a_bin_are_passed_over():
    narrow = MelConfig(n_fft=256, hop=64, n_mels=160)
    empty = mel_filters(narrow).sum(1) == 0
    assert empty.any()
    assert bands_to_bins(narrow, 256)[:, empty].abs().max() == 0
    mel = log_mel(white(20_000), narrow)
    assert torch.isfinite(envelope(mel, narrow, 256)).all()


def test_a_gain_moves_the_envelope_by_its_logarithm():
    x = white(8000)
    a, b = (envelope(log_mel(g * x, CONFIG), CONFIG, 512) for g in (1.0, 0.25))
    torch.testing.assert_close(a - b, torch.full_like(a, math.log(4)))
