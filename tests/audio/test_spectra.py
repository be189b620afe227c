"""Spectra against librosa, torchaudio and closed forms; the ways back against what went in."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import librosa
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from degauss.audio.spectra import (
    Compressed,
    MelConfig,
    griffin_lim,
    hz_to_mel,
    istft,
    log_mel,
    mel_filters,
    mel_to_hz,
    mel_to_magnitude,
    stft,
)
from degauss.audio.synthetic import white

CONFIGS = [
    MelConfig(),
    MelConfig(rate=8000, n_fft=512, hop=128, n_mels=40, f_max=4000.0),
    MelConfig(rate=22050, n_mels=80, f_min=80.0, f_max=7600.0),
    MelConfig(rate=44100, n_fft=2048, hop=512, n_mels=128, f_min=40.0, f_max=16000.0),
]


def torchaudio() -> Any:
    """torchaudio, where it imports: beside some builds of torch it does not."""
    try:
        import torchaudio
    except (ImportError, OSError) as error:
        pytest.skip(f"torchaudio does not import ({error})")
    return torchaudio


def convergence(signal: torch.Tensor, magnitude: torch.Tensor, n_fft: int, hop: int) -> float:
    """Spectral convergence: || |STFT(signal)| - magnitude || / || magnitude ||."""
    found = stft(signal, n_fft, hop).abs()
    return float((found - magnitude).norm() / magnitude.norm())


# --- short-time Fourier transform ---------------------------------------------------------------------------


def test_a_frame_is_the_transform_of_its_windowed_samples(speech: torch.Tensor):
    """The formula of the module, frame by frame."""
    x, n_fft, hop = speech[:2000].double(), 510, 128
    window = 0.5 - 0.5 * torch.cos(2 * math.pi * torch.arange(n_fft, dtype=torch.float64) / n_fft)
    padded = torch.nn.functional.pad(x, (n_fft // 2, n_fft))
    spectrum = stft(x, n_fft, hop)
    assert spectrum.shape == (256, 1 + 2000 // 128)
    for k in (0, 3, 15):
        expected = torch.fft.rfft(padded[k * hop : k * hop + n_fft] * window)
        torch.testing.assert_close(spectrum[:, k], expected, rtol=0, atol=1e-10)


def test_the_transform_is_that_of_librosa(speech: torch.Tensor):
    reference = librosa.stft(speech.double().numpy(), n_fft=1024, hop_length=256)
    np.testing.assert_allclose(stft(speech.double(), 1024, 256).numpy(), reference, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4000), st.sampled_from([(1024, 256), (510, 128), (512, 64), (254, 64)]), st.integers(0, 99))
def test_any_length_comes_back(n: int, sizes: tuple[int, int], seed: int):
    x = white(n, seed)
    spectrum = stft(x, *sizes)
    assert spectrum.shape == (sizes[0] // 2 + 1, 1 + n // sizes[1])
    torch.testing.assert_close(istft(spectrum, *sizes, length=n), x, rtol=0, atol=1e-5)
    exact = istft(stft(x.double(), *sizes), *sizes, length=n)
    torch.testing.assert_close(exact, x.double(), rtol=0, atol=1e-6)


def test_the_way_back_is_the_least_squares_one(speech: torch.Tensor):
    """istft is a projection and minimises the distance: its residual is orthogonal to every signal's spectrum."""
    x = speech[:3000].double()
    altered = stft(x, 512, 128) * torch.polar(torch.ones(257, 24), 6 * torch.rand(257, 24, generator=_generator()))
    signal = istft(altered, 512, 128, length=3000)
    back = stft(signal, 512, 128)
    torch.testing.assert_close(istft(back, 512, 128, length=3000), signal, rtol=0, atol=1e-9)
    # Bins between the first and the last stand for two of the full transform.
    weight = torch.full((257, 1), 2.0).index_fill_(0, torch.tensor([0, 256]), 1.0)
    probe = stft(white(3000).double(), 512, 128)
    inner = (weight * ((altered - back) * probe.conj()).real).sum()
    assert abs(float(inner)) < 1e-6 * float(altered.abs().square().sum())


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_rows_are_transformed_by_themselves(speech: torch.Tensor):
    batch = torch.stack([speech[:1600], speech[4000:5600]])[:, None]
    both = stft(batch, 512, 128)
    assert both.shape == (2, 1, 257, 13)
    torch.testing.assert_close(both[1, 0], stft(speech[4000:5600], 512, 128))
    assert istft(both, 512, 128, length=1600).shape == (2, 1, 1600)


def test_another_window_may_be_given(speech: torch.Tensor):
    window = torch.hamming_window(512)
    spectrum = stft(speech, 512, 128, window)
    torch.testing.assert_close(istft(spectrum, 512, 128, window, length=16000), speech, rtol=0, atol=1e-5)
    assert not torch.allclose(spectrum, stft(speech, 512, 128))


def test_sizes_that_lose_samples_are_refused():
    spectrum = torch.zeros(257, 5, dtype=torch.complex64)
    with pytest.raises(ValueError, match="in no window"):
        istft(spectrum, 512, 300, length=1200)
    with pytest.raises(ValueError, match="5 frames of hop 128 do not make 1000 samples"):
        istft(spectrum, 512, 128, length=1000)


# --- mel ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", CONFIGS)
def test_the_filters_are_those_of_librosa(config: MelConfig):
    ours = mel_filters(config)
    theirs = librosa.filters.mel(
        sr=config.rate, n_fft=config.n_fft, n_mels=config.n_mels, fmin=config.f_min, fmax=config.f_max
    )
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("config", CONFIGS)
def test_the_filters_are_those_of_torchaudio(config: MelConfig):
    audio = torchaudio()
    theirs = audio.functional.melscale_fbanks(
        config.n_fft // 2 + 1, config.f_min, config.f_max, config.n_mels, config.rate, "slaney", "slaney"
    )
    torch.testing.assert_close(mel_filters(config), theirs.T, rtol=1e-3, atol=1e-6)  # its frequencies are float32


def test_each_filter_has_unit_area_over_hertz():
    config = MelConfig(rate=16000, n_fft=1 << 16, hop=256)
    areas = mel_filters(config).double().sum(1) * config.rate / config.n_fft
    torch.testing.assert_close(areas, torch.ones_like(areas), rtol=1e-3, atol=0)


def test_the_mel_scale_has_its_inverse_and_its_corner():
    hz = np.array([0.0, 200.0, 999.9, 1000.0, 1000.1, 6400.0, 12000.0])
    np.testing.assert_allclose(mel_to_hz(hz_to_mel(hz)), hz, atol=1e-9)
    np.testing.assert_allclose(hz_to_mel(hz)[[1, 3, 5]], [3, 15, 42], atol=1e-12)


@pytest.mark.parametrize("config", CONFIGS[:2])
def test_the_mel_spectrum_is_that_of_librosa(config: MelConfig, speech: torch.Tensor):
    x = speech.double()
    theirs = librosa.feature.melspectrogram(
        y=x.numpy(),
        sr=config.rate,
        n_fft=config.n_fft,
        hop_length=config.hop,
        power=1.0,
        n_mels=config.n_mels,
        fmin=config.f_min,
        fmax=config.f_max,
    )
    expected = np.log(np.maximum(theirs, config.floor))
    ours = log_mel(x, config)
    assert ours.shape == (config.n_mels, config.frames(16000)) == (config.n_mels, 1 + 16000 // config.hop)
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(log_mel(speech, config).exp().numpy(), theirs.clip(config.floor), atol=1e-5)


def test_the_mel_spectrum_is_that_of_torchaudio(speech: torch.Tensor):
    config = MelConfig()
    transform = torchaudio().transforms.MelSpectrogram(
        sample_rate=config.rate,
        n_fft=config.n_fft,
        hop_length=config.hop,
        f_min=config.f_min,
        f_max=config.f_max,
        n_mels=config.n_mels,
        power=1.0,
        norm="slaney",
        mel_scale="slaney",
        pad_mode="constant",
    )
    np.testing.assert_allclose(log_mel(speech, config).exp(), transform(speech).clamp_min(config.floor), atol=1e-5)


def test_silence_is_the_floor_and_loudness_adds_its_logarithm(speech: torch.Tensor):
    config = MelConfig()
    assert torch.equal(log_mel(torch.zeros(1000), config), torch.full((80, 4), config.floor).log())
    louder, plain = log_mel(10 * speech, config), log_mel(speech, config)
    above = plain > math.log(2 * config.floor)
    torch.testing.assert_close(louder[above], plain[above] + math.log(10), rtol=0, atol=1e-3)


def test_the_mel_spectrum_can_be_learned_through_silence():
    x = torch.zeros(2000, requires_grad=True)
    log_mel(x, MelConfig()).sum().backward()
    assert x.grad is not None
    assert bool(torch.isfinite(x.grad).all())


@pytest.mark.parametrize(
    "wrong",
    [
        {"rate": 8000},
        {"f_min": 9000.0},
        {"f_min": -1.0},
        {"hop": 0},
        {"hop": 513},
        {"n_mels": 0},
        {"floor": 0.0},
    ],
)
def test_a_mel_spectrum_that_cannot_be_is_refused(wrong: dict[str, Any]):
    with pytest.raises(ValueError, match="expected"):
        MelConfig(**wrong)


@pytest.mark.parametrize("config", CONFIGS[:2])
def test_the_magnitude_found_has_the_mel_asked_for(config: MelConfig, speech: torch.Tensor):
    mel = log_mel(speech, config)
    found = mel_to_magnitude(mel, config)
    assert found.shape == (config.n_fft // 2 + 1, mel.shape[1])
    assert float(found.min()) >= 0
    filters = mel_filters(config)

    def miss(magnitude: torch.Tensor) -> float:
        return float((filters @ magnitude - mel.exp()).norm() / mel.exp().norm())

    start = (torch.linalg.pinv(filters) @ mel.exp()).clamp_min(0)
    assert miss(found) < 1e-3
    assert miss(start) > 30 * miss(found)  # why it is iterated
    truth = stft(speech, config.n_fft, config.hop).abs()
    assert float((found - truth).norm()) < float((start - truth).norm())


def test_the_mel_is_met_as_closely_as_by_scipy(speech: torch.Tensor):
    """Lawson & Hanson's exact solution, frame by frame."""
    from scipy.optimize import nnls

    config = MelConfig(rate=8000, n_fft=64, hop=16, n_mels=8, f_max=4000.0)
    mel = log_mel(speech[:400], config)
    ours = mel_filters(config) @ mel_to_magnitude(mel, config, 400)
    for k in range(0, mel.shape[1], 5):
        _, residual = nnls(mel_filters(config).double().numpy(), mel[:, k].double().exp().numpy())
        assert float((ours[:, k] - mel[:, k].exp()).norm()) <= residual + 1e-6


def test_bands_narrower_than_a_bin_do_no_harm(speech: torch.Tensor):
    config = MelConfig(n_fft=128, hop=32, n_mels=80)
    assert bool((mel_filters(config).sum(1) == 0).any())
    found = mel_to_magnitude(log_mel(speech, config), config)
    assert bool(torch.isfinite(found).all())
    assert float(found.max()) < 2 * float(stft(speech, 128, 32).abs().max())


# --- Griffin-Lim --------------------------------------------------------------------------------------------


def test_phases_are_found_as_well_as_by_librosa(speech: torch.Tensor):
    """Convergence depends on the first phases, so medians over five of them are compared."""
    magnitude = stft(speech, 1024, 256).abs()

    def theirs(seed: int) -> torch.Tensor:
        return torch.from_numpy(
            librosa.griffinlim(
                magnitude.numpy(), n_iter=32, hop_length=256, n_fft=1024, momentum=0.99, length=16000, random_state=seed
            )
        )

    def median(signals: list[torch.Tensor]) -> float:
        return float(np.median([convergence(signal, magnitude, 1024, 256) for signal in signals]))

    reference = median([theirs(seed) for seed in range(5)])
    found = median([griffin_lim(magnitude, 1024, 256, length=16000, seed=seed) for seed in range(5)])
    assert found < 1.15 * reference
    assert found < 0.1


def test_momentum_is_what_makes_it_fast(speech: torch.Tensor):
    magnitude = stft(speech, 1024, 256).abs()

    def after(iterations: int, momentum: float) -> float:
        signal = griffin_lim(magnitude, 1024, 256, iterations, momentum, 16000)
        return convergence(signal, magnitude, 1024, 256)

    plain = [after(n, 0.0) for n in (1, 4, 16)]
    assert plain == sorted(plain, reverse=True)  # Griffin & Lim 1984 never gets worse
    assert after(16, 0.99) < 0.8 * plain[-1]


def test_an_impulse_is_found_where_it_was():
    x = torch.zeros(1024)
    x[512] = 1
    magnitude = stft(x, 256, 64).abs()
    found = griffin_lim(magnitude, 256, 64, 200, length=1024)
    assert convergence(found, magnitude, 256, 64) < 0.05
    assert int(found.abs().argmax()) == 512


def test_a_row_does_not_depend_on_its_batch_and_seeds_differ(speech: torch.Tensor):
    magnitude = stft(torch.stack([speech[:4000], speech[8000:12000]]), 512, 128).abs()
    both = griffin_lim(magnitude, 512, 128, 8)
    assert both.shape == (2, 31 * 128)
    torch.testing.assert_close(both[1], griffin_lim(magnitude[1], 512, 128, 8), rtol=0, atol=1e-5)
    assert not torch.allclose(both, griffin_lim(magnitude, 512, 128, 8, seed=1), atol=1e-3)


def test_silence_stays_silent_and_wrong_bins_are_refused():
    assert torch.equal(griffin_lim(torch.zeros(257, 10), 512, 128, 4), torch.zeros(9 * 128))
    with pytest.raises(ValueError, match="256 bins do not belong to n_fft 512"):
        griffin_lim(torch.zeros(256, 10), 512, 128)


# --- compressed spectrum ------------------------------------------------------------------------------------


def test_the_compressed_spectrum_is_that_of_the_paper(speech: torch.Tensor):
    compressed = Compressed()
    x = speech[None].double()
    c = compressed.encode(x)
    assert c.shape == (1, 2, compressed.bins, compressed.frames(16000)) == (1, 2, 256, 126)
    spectrum = stft(x, 510, 128)
    expected = torch.polar(0.15 * spectrum.abs().sqrt(), spectrum.angle())
    loud = spectrum.abs() > 1e-5
    torch.testing.assert_close(torch.complex(c[:, 0], c[:, 1])[loud], expected[loud], rtol=1e-9, atol=0)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 3000),
    st.sampled_from([(0.5, 0.15), (0.5, 0.33), (0.667, 0.065), (1.0, 1.0)]),
    st.floats(-9, 1),
    st.integers(0, 99),
)
def test_the_compressed_spectrum_comes_back(n: int, shape: tuple[float, float], decades: float, seed: int):
    """From the linear part around zero to far beyond full scale."""
    compressed = Compressed(alpha=shape[0], beta=shape[1])
    x = white(n, seed)[None].double() * 10**decades
    back = compressed.decode(compressed.encode(x), n)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-9 * 10**decades * 10)


def test_the_compressed_spectrum_of_float32_comes_back(speech: torch.Tensor):
    compressed = Compressed()
    torch.testing.assert_close(compressed.decode(compressed.encode(speech[None]), 16000)[0], speech, rtol=0, atol=1e-6)


def test_gradients_are_finite_at_zero_where_the_power_alone_has_none():
    compressed = Compressed()
    x = torch.zeros(1, 2000, requires_grad=True)
    compressed.encode(x).square().sum().backward()
    compressed.encode(x)[..., 3, 3].sum().backward()
    assert x.grad is not None
    assert bool(torch.isfinite(x.grad).all())
    assert float(x.grad.abs().max()) > 0
    c = torch.zeros(1, 2, 256, 16, requires_grad=True)
    compressed.decode(c, 1920).sum().backward()
    assert c.grad is not None
    assert bool(torch.isfinite(c.grad).all())
    bare = torch.zeros(1, requires_grad=True)
    (bare.square().sum() ** 0.25).backward()  # the control
    assert bare.grad is not None
    assert not bool(torch.isfinite(bare.grad).all())


@pytest.mark.parametrize("scale", [1.0, 1e-7])
def test_gradients_are_the_true_ones(scale: float):
    """On the power and on the line through zero: the slope along a direction is that of a small step."""
    compressed = Compressed(n_fft=64, hop=16)
    x = (white(300)[None].double() * scale).requires_grad_()
    c = compressed.encode(x).detach().requires_grad_()
    weight = white(c.numel(), seed=1).double().reshape(c.shape)

    def check(function: Callable[[torch.Tensor], torch.Tensor], at: torch.Tensor) -> None:
        direction = white(at.numel(), seed=2).double().reshape(at.shape) * float(at.detach().abs().mean())
        (slope,) = torch.autograd.grad(function(at), at)
        with torch.no_grad():
            step = 1e-5 * direction
            difference = (function(at + step) - function(at - step)) / 2e-5
        assert float((slope * direction).sum()) == pytest.approx(float(difference), rel=1e-5)

    check(lambda x: (compressed.encode(x) * weight).sum(), x)
    check(lambda c: (compressed.decode(c, 300) * weight.flatten()[:300]).sum(), c)


def test_a_compression_that_cannot_be_is_refused():
    wrongs: list[dict[str, Any]] = [{"alpha": 0.0}, {"alpha": 1.5}, {"beta": 0.0}, {"linear": 0.0}]
    for wrong in wrongs:
        with pytest.raises(ValueError, match="expected 0 < alpha <= 1"):
            Compressed(**wrong)
