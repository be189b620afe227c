"""Every metric has a value computed another way, its invariances, its limits and a control that must fail."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.fft
import scipy.linalg
import scipy.signal
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from degauss.audio import metrics
from degauss.audio.datasets import Digit
from degauss.audio.metrics import Moments
from degauss.audio.metrics_report import mel_config
from degauss.audio.spectra import log_mel
from degauss.audio.warping import MOST_CELLS, warp
from degauss.audio.waves import mono, read
from degauss.core.errors import InputError

seeds = st.integers(0, 2**31)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mel(seed: int, frames: int = 40, bands: int = 20) -> Tensor:
    return normal(seed, bands, frames).cumsum(1) * 0.3 - 4


# --- signals ------------------------------------------------------------------------------------------------


@given(seeds, st.floats(-3, 3))
def test_si_sdr_is_the_energy_of_the_projection_over_that_of_the_rest(seed: int, level: float) -> None:
    s, noise = normal(seed, 200), normal(seed + 1, 200)
    y = 0.3 * s + 10**level * noise
    gain, rest, _, _ = np.linalg.lstsq(s.numpy()[:, None], y.numpy(), rcond=None)
    expected = 10 * math.log10(float((gain[0] * s).square().sum()) / rest[0])
    assert float(metrics.si_sdr(s, y)) == pytest.approx(expected, abs=1e-6)


@given(seeds, st.floats(0.01, 100), st.floats(0.01, 100))
def test_gain_counts_for_sdr_only(seed: int, a: float, b: float) -> None:
    s, y = normal(seed, 64), normal(seed + 1, 64)
    assert float(metrics.si_sdr(a * s, -b * y)) == pytest.approx(float(metrics.si_sdr(s, y)), abs=1e-7)
    assert float(metrics.sdr(a * s, a * y)) == pytest.approx(float(metrics.sdr(s, y)), abs=1e-7)
    assert float(metrics.sdr(s, s * (1 + b))) == pytest.approx(-20 * math.log10(b), abs=1e-7)


def test_si_sdr_of_orthogonal_noise_is_its_level_and_less_noise_is_better() -> None:
    time = torch.arange(1000, dtype=torch.float64) * 2 * math.pi / 1000
    s, noise = torch.sin(10 * time), torch.cos(30 * time)
    for level in (1.0, 0.1, 0.01):
        assert float(metrics.si_sdr(s, s + level * noise)) == pytest.approx(-20 * math.log10(level), abs=1e-6)
        assert float(metrics.sdr(s, s + level * noise)) == pytest.approx(-20 * math.log10(level), abs=1e-6)
    assert float(metrics.sdr(s, s)) == math.inf


def test_ratios_of_a_batch_are_those_of_its_rows() -> None:
    s, y = normal(0, 3, 2, 100), normal(1, 3, 2, 100)
    for ratio in (metrics.si_sdr, metrics.sdr, metrics.log_spectral_distance):
        assert ratio(s, y).shape == (3, 2)
        torch.testing.assert_close(ratio(s, y)[2, 1], ratio(s[2, 1], y[2, 1]))


def test_a_delay_of_one_sample_ruins_si_sdr_but_hardly_the_spectrum() -> None:
    s = normal(0, 16000)
    late = torch.cat([torch.zeros(1, dtype=s.dtype), s[:-1]])
    assert float(metrics.si_sdr(s, late)) < -10
    assert float(metrics.log_spectral_distance(s, late)) < 2 < float(metrics.log_spectral_distance(s, normal(1, 16000)))


def test_log_spectral_distance_equals_scipys_spectrogram() -> None:
    s, y = normal(0, 4096), normal(1, 4096)
    n_fft, hop = 256, 64
    spectra = []
    for x in (s, y):
        padded = np.pad(x.numpy(), n_fft // 2)
        _, _, z = scipy.signal.stft(
            padded,
            window="hann",
            nperseg=n_fft,
            noverlap=n_fft - hop,
            boundary=None,  # pyright: ignore[reportArgumentType]
        )
        # scipy divides by the window's sum, n_fft / 2: a sine of full scale is then 1/2.
        spectra.append(20 * np.log10(np.maximum(2 * np.abs(z), 1e-5)))
    expected = np.sqrt(((spectra[0] - spectra[1]) ** 2).mean(0)).mean()
    assert float(metrics.log_spectral_distance(s, y, n_fft=n_fft, hop=hop)) == pytest.approx(expected, rel=1e-9)


def test_log_spectral_distance_of_a_gain_is_the_gain() -> None:
    s = normal(0, 8000)
    assert float(metrics.log_spectral_distance(s, s * 10)) == pytest.approx(20)
    assert float(metrics.log_spectral_distance(s, s)) == 0
    assert float(metrics.log_spectral_distance(s * 0, s * 1e-9)) == 0  # both below the floor


@pytest.mark.parametrize("measure", [metrics.si_sdr, metrics.sdr, metrics.log_spectral_distance])
def test_signals_that_have_no_ratio_are_refused(measure) -> None:
    s = normal(0, 100)
    with pytest.raises(InputError, match=r"\[100\].*\[99\].*the same"):
        measure(s, s[:99])
    with pytest.raises(InputError, match=r"the estimate holds .* not finite"):
        measure(s, s * math.nan)
    with pytest.raises(InputError, match="empty"):
        measure(s[:0], s[:0])
    if measure is not metrics.log_spectral_distance:
        with pytest.raises(InputError, match="the reference is silent"):
            measure(s * 0, s)
    if measure is metrics.si_sdr:
        with pytest.raises(InputError, match="the estimate is silent"):
            measure(s, s * 0)


# --- mel spectra --------------------------------------------------------------------------------------------


def test_mel_cepstral_distance_equals_a_double_loop() -> None:
    a, b = mel(0), mel(1)
    total = 0.0
    for frame in range(a.shape[1]):
        squares = 0.0
        for m in range(1, 14):
            c = [
                2 / 20 * sum(float(x[k, frame]) * math.cos(math.pi * m * (k + 0.5) / 20) for k in range(20))
                for x in (a, b)
            ]
            squares += (c[0] - c[1]) ** 2
        total += 10 / math.log(10) * math.sqrt(2 * squares)
    assert metrics.mel_cepstral_distance(a, b) == pytest.approx(total / a.shape[1], rel=1e-12)


def test_all_coefficients_give_the_difference_of_the_spectra_in_decibels() -> None:
    """Parseval: with c_1 to c_{N-1}, it is the root mean square of 20 log10 of the ratio, level removed."""
    a, b = mel(0, frames=1), mel(1, frames=1)
    decibels = 20 / math.log(10) * (a - b)
    expected = float((decibels - decibels.mean()).square().mean().sqrt())
    assert metrics.mel_cepstral_distance(a, b, coefficients=19) == pytest.approx(expected, rel=1e-12)
    assert metrics.mel_cepstral_distance(a, b) < expected


def test_mel_cepstrum_is_scipys_orthonormal_one_times_a_constant() -> None:
    a = mel(0)
    ortho = np.asarray(scipy.fft.dct(a.numpy(), type=2, norm="ortho", axis=0))[1:14]
    np.testing.assert_allclose(metrics.mel_cepstrum(a), ortho * math.sqrt(2 / 20), atol=1e-12)


@given(seeds, st.floats(-3, 3))
def test_mel_cepstral_distance_is_blind_to_gain_and_no_metric_of_a_copy(seed: int, gain: float) -> None:
    a, b = mel(seed), mel(seed + 1)
    assert metrics.mel_cepstral_distance(a, a) == 0 == metrics.warped_mel_cepstral_distance(a, a)
    assert metrics.mel_cepstral_distance(a, b + gain) == pytest.approx(metrics.mel_cepstral_distance(a, b))
    assert metrics.mel_cepstral_distance(a, b) == pytest.approx(metrics.mel_cepstral_distance(b, a))


def test_warping_undoes_another_timing() -> None:
    a = mel(0)
    slow = a.repeat_interleave(torch.tensor([1, 3] * 20), dim=1)
    assert metrics.warped_mel_cepstral_distance(a, slow) == 0
    with pytest.raises(InputError, match="expected the same"):
        metrics.mel_cepstral_distance(a, slow)


def test_distance_grows_with_noise() -> None:
    a, noise = mel(0), normal(9, 20, 40)
    found = [metrics.mel_cepstral_distance(a, a + level * noise) for level in (0, 0.1, 0.2, 0.5, 1)]
    assert found == sorted(found)
    assert found[4] == pytest.approx(10 * found[1])


@pytest.mark.slow  # numba compiles
@given(seeds, st.integers(1, 12), st.integers(1, 12))
def test_warping_is_librosas(seed: int, n: int, m: int) -> None:
    import librosa

    cost = normal(seed, n, m).square()
    path = warp(cost)
    total, pairs = librosa.sequence.dtw(C=cost.numpy())
    assert float(cost[path.first, path.second].sum()) == pytest.approx(total[-1, -1])
    assert torch.stack(path, 1).tolist() == pairs[::-1].tolist()


@given(seeds, st.integers(1, 5), st.integers(1, 5))
def test_no_path_is_cheaper_than_the_warping(seed: int, n: int, m: int) -> None:
    cost = normal(seed, n, m).square()

    def cheapest(i: int, j: int) -> float:
        if (i, j) == (0, 0):
            return float(cost[0, 0])
        before = [cheapest(a, b) for a, b in ((i - 1, j - 1), (i - 1, j), (i, j - 1)) if min(a, b) >= 0]
        return float(cost[i, j]) + min(before)

    path = warp(cost)
    assert float(cost[path.first, path.second].sum()) == pytest.approx(cheapest(n - 1, m - 1))
    steps = torch.stack(path, 1).diff(dim=0)
    assert bool(((steps >= 0) & (steps <= 1)).all())
    assert bool((steps.sum(1) > 0).all())


def test_too_long_a_warping_is_refused_before_it_costs_memory() -> None:
    frames = math.isqrt(MOST_CELLS) + 1
    with pytest.raises(InputError, match=f"{frames} and {frames} frames are too many"):
        metrics.mel_cepstral_path(torch.zeros(20, frames), torch.zeros(20, frames))


def test_delta_variance_tells_smoothed_from_lively_from_noisy() -> None:
    a = mel(0, frames=400)
    smooth = torch.nn.functional.avg_pool1d(a, 5, stride=1)
    assert metrics.delta_variance_ratio(a, a) == 1
    assert metrics.delta_variance_ratio(a, smooth) < 0.5
    assert metrics.delta_variance_ratio(a, a + 0.3 * normal(5, 20, 400)) > 1.5


def test_delta_variance_equals_numpys_and_forgets_gain_slope_and_length() -> None:
    a, b = mel(0), mel(1, frames=31)
    expected = np.var(np.diff(b.numpy(), axis=1), axis=1).mean() / np.var(np.diff(a.numpy(), axis=1), axis=1).mean()
    assert metrics.delta_variance_ratio(a, b) == pytest.approx(expected)
    slope = torch.arange(31, dtype=torch.float64)
    assert metrics.delta_variance_ratio(a, b + 3 + slope) == pytest.approx(expected)
    assert metrics.delta_variance_ratio(a, 2 * a) == pytest.approx(4)


def test_delta_variance_needs_something_that_changes() -> None:
    with pytest.raises(InputError, match="never changes"):
        metrics.delta_variance_ratio(torch.zeros(20, 9), mel(0))
    with pytest.raises(InputError, match="2 frames are too few"):
        metrics.delta_variance_ratio(mel(0, frames=2), mel(0))


# --- sets of frames -----------------------------------------------------------------------------------------


def test_moments_of_parts_are_those_of_the_whole() -> None:
    whole = mel(0, frames=50)
    joined = Moments.of(whole[:, :7]).joined(Moments.of(whole[:, 7:8])).joined(Moments.of(whole[:, 8:]))
    assert joined.frames == 50
    np.testing.assert_allclose(joined.mean, whole.mean(1), atol=1e-12)
    np.testing.assert_allclose(joined.scatter / 49, np.cov(whole.numpy()), atol=1e-12)


def test_frechet_distance_equals_the_formula_with_scipys_matrix_root() -> None:
    a, b = mel(0, frames=90, bands=6), mel(1, frames=80, bands=6)
    c, d = np.cov(a.numpy()), np.cov(b.numpy())
    root = np.real(scipy.linalg.sqrtm(c @ d))
    expected = float((a.mean(1) - b.mean(1)).square().sum()) + np.trace(c + d - 2 * root)
    assert metrics.frechet_log_mel(Moments.of(a), Moments.of(b)) == pytest.approx(expected, rel=1e-8)


def test_frechet_distance_of_one_dimension_is_known() -> None:
    a = normal(0, 1, 500)
    b = 3 * a + 5
    m, s = float(a.mean()), float(a.std())
    expected = (2 * m + 5) ** 2 + (2 * s) ** 2
    assert metrics.frechet_log_mel(Moments.of(a), Moments.of(b)) == pytest.approx(expected)


@given(seeds)
def test_frechet_distance_forgets_order_and_is_symmetric(seed: int) -> None:
    a, b = mel(seed, bands=5), mel(seed + 1, bands=5)
    shuffled = a[:, torch.randperm(40, generator=torch.Generator().manual_seed(seed))]
    rotation = torch.linalg.qr(normal(seed + 2, 5, 5)).Q
    found = metrics.frechet_log_mel(Moments.of(a), Moments.of(b))
    assert metrics.frechet_log_mel(Moments.of(a), Moments.of(shuffled)) == pytest.approx(0, abs=1e-9)
    assert metrics.frechet_log_mel(Moments.of(b), Moments.of(a)) == pytest.approx(found, rel=1e-6)
    assert metrics.frechet_log_mel(Moments.of(rotation @ a), Moments.of(rotation @ b)) == pytest.approx(found, rel=1e-6)


def test_frechet_distance_needs_a_covariance() -> None:
    with pytest.raises(InputError, match="1 frames have no covariance"):
        metrics.frechet_log_mel(Moments.of(mel(0, frames=1)), Moments.of(mel(1)))


# --- pitch --------------------------------------------------------------------------------------------------

TRACK = torch.tensor([0.0, 100, 200, 200, 0, 400])


def test_pitch_errors_of_a_track_worked_out_by_hand() -> None:
    made = torch.tensor([50.0, 200, 200, 0, 0, 400 * 2 ** (1 / 12)])
    # Voiced in both: 100 and 200 (an octave), 200 and 200, 400 and a semitone above.
    assert metrics.f0_rmse(TRACK, made) == pytest.approx(math.sqrt((1200**2 + 0 + 100**2) / 3), rel=1e-6)
    assert metrics.voicing_decision_error(TRACK, made) == pytest.approx(2 / 6)
    assert metrics.gross_pitch_error(TRACK, made) == pytest.approx(1 / 3)


@pytest.mark.parametrize(("ratio", "gross"), [(1.19, 0), (1.21, 1), (0.81, 0), (0.79, 1)])
def test_a_gross_error_is_a_fifth_of_the_frequency(ratio: float, gross: float) -> None:
    assert metrics.gross_pitch_error(TRACK, TRACK * ratio) == gross


@given(st.floats(-2000, 2000))
def test_a_transposition_is_its_interval(interval: float) -> None:
    assert metrics.f0_rmse(TRACK, TRACK * 2 ** (interval / 1200)) == pytest.approx(abs(interval), abs=1e-2)


def test_a_copy_has_no_pitch_error() -> None:
    assert metrics.f0_rmse(TRACK, TRACK) == metrics.gross_pitch_error(TRACK, TRACK) == 0
    assert metrics.voicing_decision_error(TRACK, TRACK) == 0
    assert metrics.voicing_decision_error(TRACK, torch.zeros(6)) == pytest.approx(4 / 6)


def test_pitch_without_voice_or_of_another_length_is_refused() -> None:
    with pytest.raises(InputError, match="no frame is voiced in both"):
        metrics.f0_rmse(TRACK, torch.zeros(6))
    with pytest.raises(InputError, match="expected the same"):
        metrics.voicing_decision_error(TRACK, TRACK[:5])


# --- notes --------------------------------------------------------------------------------------------------


def test_steady_notes_of_a_singer_who_glides() -> None:
    """Half a second each of A4 sung 10 cents sharp, a rest, and C5 sung 30 cents flat; glides at every end."""
    hop = 0.005
    track = torch.zeros(300)
    c5 = 440 * 2 ** (3 / 12)
    track[:100] = 440 * 2 ** (10 / 1200)
    track[:20] = torch.linspace(300, 440, 20)
    track[200:] = c5 * 2 ** (-30 / 1200)
    track[285:] = torch.linspace(c5, 200, 15)
    found = metrics.steady_note_errors(track, hop, ["A4", "rest", "C5"], [0.5, 0.5, 0.5])
    np.testing.assert_allclose(found.cents, [10, -30], atol=0.01)
    assert found.unsung == 0
    assert found.rmse == pytest.approx(math.sqrt((100 + 900) / 2), abs=0.01)
    whole = metrics.steady_note_errors(track, hop, ["A4", "rest", "C5"], [0.5, 0.5, 0.5], middle=1.0)
    np.testing.assert_allclose(whole.cents, [10, -30], atol=0.01)  # a median bears a few glides


def test_the_wrong_score_is_far_and_a_silent_note_is_counted() -> None:
    track = torch.full((200,), 440.0)
    track[100:] = 0
    found = metrics.steady_note_errors(track, 0.005, ["G4", "A4"], [0.5, 0.5])
    np.testing.assert_allclose(found.cents, [200], atol=0.01)
    assert found.unsung == 1
    swapped = metrics.steady_note_errors(track, 0.005, ["A4", "G4"], [0.5, 0.5])
    assert swapped.rmse == pytest.approx(0, abs=0.01)


def test_vibrato_around_a_note_is_in_tune() -> None:
    times = torch.arange(400) * 0.005
    track = 440 * 2 ** (50 / 1200 * torch.sin(2 * math.pi * 5.5 * times))
    assert metrics.steady_note_errors(track, 0.005, ["A4"], [2.0]).rmse < 5


def test_scores_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(InputError, match="2 notes but 1 durations"):
        metrics.steady_note_errors(TRACK, 0.005, ["A4", "C4"], [1.0])
    with pytest.raises(InputError, match="none of the score's 1 notes"):
        metrics.steady_note_errors(TRACK * 0, 0.005, ["rest", "A4"], [0.01, 0.02])
    with pytest.raises(InputError, match="'H4' is not a note"):
        metrics.steady_note_errors(TRACK, 0.005, ["H4"], [1.0])


def test_real_time_factor() -> None:
    assert metrics.real_time_factor(1.5, 3.0) == 0.5
    with pytest.raises(ValueError, match="some sound"):
        metrics.real_time_factor(1.0, 0.0)


# --- real speech --------------------------------------------------------------------------------------------


def test_another_digit_is_farther_than_another_take_of_the_same(digits: list[Digit]) -> None:
    """Over all speakers: the same digit again is nearer than another digit of the same speaker; a copy is at 0."""
    takes = {(one.digit, one.speaker, one.take): one.path for one in digits}
    config = mel_config(8000)

    def spectrum(digit: int, speaker: str, take: int) -> Tensor:
        return log_mel(mono(read(takes[digit, speaker, take])), config)

    same, other = [], []
    for speaker in sorted({key[1] for key in takes}):
        for digit in (0, 3, 6):
            first = spectrum(digit, speaker, 0)
            assert metrics.warped_mel_cepstral_distance(first, first) == 0
            same.append(metrics.warped_mel_cepstral_distance(first, spectrum(digit, speaker, 1)))
            other.append(metrics.warped_mel_cepstral_distance(first, spectrum((digit + 4) % 10, speaker, 1)))
    assert sum(a < b for a, b in zip(same, other, strict=True)) >= 16  # of 18
    assert np.median(other) > 1.3 * np.median(same)
