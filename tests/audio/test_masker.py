"""The recurrent mask: that it is one, what it hears, and that it learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from degauss.audio.enhancement import Enhancer, EnhancerConfig, Pairs, enhance
from degauss.audio.enhancement_training import fit, recipe
from degauss.audio.masker import MASK_LOSS, Masker, MaskerConfig
from degauss.audio.metrics import si_sdr
from degauss.audio.spectra import Compressed, magnitudes
from degauss.core import Noise
from degauss.core.errors import InputError

BINS = 32
RATE = 2000


def masker(seed: int = 0) -> Masker:
    torch.manual_seed(seed)
    return Masker(MaskerConfig(16, 2), BINS).requires_grad_(False)


def spectra(batch: int = 2, frames: int = 20) -> Tensor:
    return Noise(3, range(batch)).normal(torch.empty(batch, 2, BINS, frames))


def test_it_is_a_mask() -> None:
    """Every bin keeps its phase and grows no louder."""
    y = spectra()
    found = masker()(y)
    assert found.shape == y.shape
    gain = magnitudes(found) / magnitudes(y)
    assert 0 < float(gain.min()) < float(gain.max()) < 1
    torch.testing.assert_close(found, gain[:, None] * y, rtol=1e-5, atol=1e-6)


def test_it_does_not_hear_how_loud_it_is() -> None:
    """Where little is as faint as silence."""
    y = spectra()
    loud, quiet = (masker()(scale * y) / scale for scale in (10.0, 1.0))
    torch.testing.assert_close(loud, quiet, rtol=0, atol=2e-3)
    assert float((masker()(y.flip(2)) - masker()(y)).abs().max()) > 0.02  # but all else


def test_it_hears_both_what_was_and_what_will_be() -> None:
    y = spectra(1)
    plain = masker()(y)
    for frame in (0, 19):
        other = y.clone()
        other[..., frame] *= torch.linspace(0.1, 10, BINS)[:, None].T
        assert float((masker()(other) - plain)[..., 10].abs().max()) > 1e-7


def test_silence_has_finite_slopes() -> None:
    y = torch.zeros(1, 2, BINS, 5, requires_grad=True)
    masker()(y).sum().backward()
    assert y.grad is not None
    assert bool(y.grad.isfinite().all())


def test_it_learns_which_bins_are_noise(tmp_path: Path) -> None:
    """Low tones in high noise: after seconds nearly all of the noise is gone; without training it is not."""
    spectrum = Compressed(n_fft=62, hop=31)
    config = EnhancerConfig(RATE, spectrum, MaskerConfig(16, 1), None, by_magnitude=MASK_LOSS)

    def data(samples: object) -> Pairs:
        noise = Noise(7, samples)  # pyright: ignore[reportArgumentType]
        like = torch.empty(len(samples), 1000)  # pyright: ignore[reportArgumentType]
        which = noise.uniform(like[:, :1], draw=1)
        clean = 0.5 * torch.sin(2 * torch.pi * (150 + 150 * which) * torch.arange(1000) / RATE)
        white = noise.normal(like, draw=2)
        return Pairs(clean + 0.3 * (white - white.roll(1, 1)), clean)

    settings = replace(recipe(tmp_path, steps=50, batch=4, lr=1e-2, device="cpu"), ema=0.9)
    noisy, clean = data(range(1000, 1006))

    def gain(model: Enhancer) -> float:
        found = torch.stack([enhance(sound, model) for sound in noisy])
        return float((si_sdr(clean, found) - si_sdr(clean, noisy)).mean())

    model = fit(config, data, settings)
    assert gain(model) > 8
    assert gain(Enhancer.new(config)) < 2
    again = Enhancer.load(tmp_path / "model")
    assert again.config == model.config
    assert gain(again) == gain(model)


@pytest.mark.parametrize("field", ["width", "layers"])
def test_a_size_out_of_range(field: str) -> None:
    with pytest.raises(InputError, match=field):
        MaskerConfig(**{field: 0})
