"""Published tools give the numbers that they give by themselves; what has no number is refused in one sentence."""

from __future__ import annotations

import math
import sys
import types
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import Tensor

from degauss.audio import speech_metrics
from degauss.audio.waves import Wave, resample
from degauss.core.errors import InputError


@pytest.fixture(scope="module")
def clean(speech: Tensor) -> Wave:
    """Two seconds of a voice with pauses."""
    gap = torch.zeros(3200)
    return Wave(torch.cat([gap, speech * 0.5, gap, speech * 0.5, gap])[None], 16000)


def noisy(wave: Wave, level: float) -> Wave:
    noise = torch.randn(wave.samples.shape, generator=torch.Generator().manual_seed(0))
    return wave._replace(samples=wave.samples + level * noise)


def test_pesq_is_the_packages_and_falls_with_noise(clean: Wave) -> None:
    pesq = pytest.importorskip("pesq").pesq
    made = noisy(clean, 0.01)
    samples = clean.samples[0].numpy(), made.samples[0].numpy()
    assert speech_metrics.pesq_wideband(clean, made) == pytest.approx(pesq(16000, *samples, "wb"))
    assert speech_metrics.pesq_narrowband(clean, made) == pytest.approx(pesq(16000, *samples, "nb"))
    for measure, best in ((speech_metrics.pesq_wideband, 4.64), (speech_metrics.pesq_narrowband, 4.55)):
        found = [measure(clean, noisy(clean, level)) for level in (0, 0.003, 0.03)]
        assert found == sorted(found, reverse=True)
        assert found[0] == pytest.approx(best, abs=0.01)


def test_pesq_goes_by_the_rate(clean: Wave) -> None:
    pesq = pytest.importorskip("pesq").pesq
    made = noisy(clean, 0.01)
    low = resample(clean, 8000), resample(made, 8000)
    direct = pesq(8000, low[0].samples[0].numpy(), low[1].samples[0].numpy(), "nb")
    assert speech_metrics.pesq_narrowband(*low) == pytest.approx(direct)
    high = speech_metrics.pesq_wideband(resample(clean, 48000), resample(made, 48000))
    assert high == pytest.approx(speech_metrics.pesq_wideband(clean, made), abs=0.02)
    with pytest.raises(InputError, match=r"wideband PESQ is of 16 kHz, but the waves are of 8000 Hz"):
        speech_metrics.pesq_wideband(*low)


def test_pesq_says_why_it_has_no_value(clean: Wave, monkeypatch: pytest.MonkeyPatch) -> None:
    pesq = pytest.importorskip("pesq")
    short = clean._replace(samples=clean.samples[:, 4000:7500])
    with pytest.raises(InputError, match="at least 1/4 s"):
        speech_metrics.pesq_wideband(short, short)
    for error, said in (
        (pesq.NoUtterancesError(b"No utterances detected"), "no utterance"),
        (pesq.OutOfMemoryError(b"Unable to allocate memory"), "cannot score this pair"),
        (ValueError("cannot convert float NaN to integer"), "cannot score this pair"),
    ):
        monkeypatch.setattr(pesq, "pesq", Mock(side_effect=error))
        with pytest.raises(InputError, match=said):
            speech_metrics.pesq_wideband(clean, clean)


def test_a_wave_of_many_utterances_does_not_end_the_process() -> None:
    """P.862's own code writes past its table of 50 utterances."""
    pytest.importorskip("pesq")
    time = torch.arange(80 * 16000) / 16000
    bursts = torch.randn(len(time), generator=torch.Generator().manual_seed(0)) * (time % 1.0 < 0.5)
    with pytest.raises(InputError, match=r"at most 20 s, not 80\.0"):
        speech_metrics.pesq_wideband(Wave(bursts[None], 16000), Wave(bursts[None], 16000))


def test_estoi_is_the_packages_and_falls_with_noise(clean: Wave) -> None:
    stoi = pytest.importorskip("pystoi").stoi
    made = noisy(clean, 0.03)
    direct = stoi(clean.samples[0].numpy(), made.samples[0].numpy(), 16000, extended=True)
    assert speech_metrics.estoi(clean, made) == pytest.approx(direct)
    found = [speech_metrics.estoi(clean, noisy(clean, level)) for level in (0, 0.01, 0.1)]
    assert found == sorted(found, reverse=True)
    assert found[0] == pytest.approx(1)
    gain = made._replace(samples=made.samples * 0.1)
    assert speech_metrics.estoi(clean, gain) == pytest.approx(direct, abs=1e-3)


def test_estoi_of_too_little_speech_is_no_tiny_number(clean: Wave) -> None:
    pytest.importorskip("pystoi")
    short = clean._replace(samples=clean.samples[:, 4000:8000])
    with pytest.raises(InputError, match="30 frames"):
        speech_metrics.estoi(short, short)


@pytest.mark.parametrize(
    "measure", [speech_metrics.pesq_wideband, speech_metrics.pesq_narrowband, speech_metrics.estoi]
)
def test_pairs_that_do_not_match_are_refused(clean: Wave, measure) -> None:
    with pytest.raises(InputError, match="16000 Hz, the estimate of 8000; expected one rate"):
        measure(clean, clean._replace(rate=8000))
    with pytest.raises(InputError, match="expected the same length"):
        measure(clean, clean._replace(samples=clean.samples[:, 1:]))
    with pytest.raises(InputError, match="the estimate is empty or silent"):
        measure(clean, clean._replace(samples=clean.samples * 0))
    with pytest.raises(InputError, match=r"the reference holds .* not finite"):
        measure(clean._replace(samples=clean.samples * math.nan), clean)


def test_speakers_are_told_apart() -> None:
    pytest.importorskip("resemblyzer")
    from degauss.audio.datasets import samples
    from degauss.audio.waves import read

    try:
        there = samples()
        first, again, other = (read(there[f"cmu_arctic_us_{name}"]) for name in ("aew_a0001", "aew_a0002", "axb_a0004"))
    except (InputError, KeyError):
        pytest.skip("no CMU ARCTIC recordings at hand")
    assert speech_metrics.speaker_similarity(first, first) == pytest.approx(1)
    same, different = (speech_metrics.speaker_similarity(first, one) for one in (again, other))
    assert different + 0.2 < same < 1
    assert speech_metrics.speaker_similarity(again, first) == pytest.approx(same)
    louder = again._replace(samples=again.samples * 4)
    assert speech_metrics.speaker_similarity(first, louder) == pytest.approx(same, abs=0.05)


def test_no_speech_has_no_speaker(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("resemblyzer")
    hiss = Wave(1e-4 * torch.randn(1, 16000, generator=torch.Generator().manual_seed(0)), 16000)
    with pytest.raises(InputError, match="no speech"):
        speech_metrics.speaker_embedding(hiss)
    with pytest.raises(InputError, match="empty or silent"):
        speech_metrics.speaker_embedding(Wave(torch.zeros(1, 16000), 16000))
    assert capsys.readouterr() == ("", "")


def test_dnsmos_prefers_the_clean_one(clean: Wave) -> None:
    pytest.importorskip("onnxruntime")
    from degauss.audio.datasets import noisy_pairs
    from degauss.audio.waves import read

    try:
        pair = noisy_pairs()[0]
    except InputError as absent:
        pytest.skip(str(absent))
    good, bad = (speech_metrics.dnsmos(read(path)) for path in (pair.clean, pair.noisy))
    assert all(a > b for a, b in zip(good, bad, strict=True))
    assert all(1 <= value <= 5 for value in (*good, *bad))


def test_dnsmos_is_given_one_channel_of_16_khz_within_full_scale(clean: Wave, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[np.ndarray, int]] = []

    def run(samples: np.ndarray, rate: int) -> dict[str, float]:
        asked.append((samples, rate))
        return {"ovrl_mos": 1.0, "sig_mos": 2.0, "bak_mos": 3.0, "p808_mos": 4.0}

    tool = types.SimpleNamespace(dnsmos=types.SimpleNamespace(run=run))
    monkeypatch.setitem(sys.modules, "speechmos", tool)
    loud = Wave(resample(clean, 44100).samples.repeat(2, 1) * 8, 44100)
    assert speech_metrics.dnsmos(loud) == (1.0, 2.0, 3.0, 4.0)
    (samples, rate) = asked[0]
    assert rate == 16000
    assert samples.dtype == np.float32
    assert samples.shape == (clean.samples.shape[1],)
    assert np.abs(samples).max() == pytest.approx(1)
    with pytest.raises(InputError, match="empty or silent"):  # it would repeat nothing for ever
        speech_metrics.dnsmos(Wave(torch.zeros(1, 0), 16000))


@pytest.mark.parametrize(
    ("package", "measure"),
    [
        ("pesq", speech_metrics.pesq_wideband),
        ("pystoi", speech_metrics.estoi),
        ("resemblyzer", speech_metrics.speaker_similarity),
        ("speechmos", lambda a, _: speech_metrics.dnsmos(a)),
    ],
)
def test_a_missing_package_names_the_extra(clean: Wave, package: str, measure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf'{package}.*pip install "degauss-audio\[metrics\]"'):
        measure(clean, clean)
