"""The enhancer that ships: on people and noises that it never heard, and on what has no noise."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import pytest
import torch
from torch import Tensor

from degauss.audio import datasets
from degauss.audio.enhancement import SHIPPED, Enhancer, enhance
from degauss.audio.metrics import si_sdr
from degauss.audio.speech_metrics import pesq_wideband
from degauss.audio.waves import Wave, mono, read, resample, write
from degauss.core import Noise
from degauss.core.errors import InputError


@pytest.fixture(scope="module")
def pairs() -> list[tuple[Tensor, Tensor]]:
    """Clean and noisy sentences of VoiceBank-DEMAND at the model's rate."""
    try:
        found = datasets.noisy_pairs()
    except InputError as missing:
        pytest.skip(str(missing))
    return [(_heard(pair.clean), _heard(pair.noisy)) for pair in found]


def _heard(path: Path) -> Tensor:
    return mono(resample(read(path), 16000))


def _ratio(clean: Tensor, found: Tensor) -> float:
    return float(si_sdr(clean.double(), found.double()))


def test_weights_are_small_and_tell_where_they_are_from() -> None:
    assert (SHIPPED / "model.safetensors").stat().st_size < 5e6
    card = json.loads((SHIPPED / "card.json").read_text())
    assert {"trained_on", "licence", "command", "date", "device", "metrics"} <= set(card)
    assert Enhancer.load(SHIPPED).config.method == card["method"] == "predictive"


def test_it_is_nearer_to_the_clean_sentence(pairs: list[tuple[Tensor, Tensor]]) -> None:
    """As the card says: by 1.2 dB on average."""
    model = Enhancer.load(SHIPPED)
    gains = [_ratio(clean, enhance(noisy, model)) - _ratio(clean, noisy) for clean, noisy in pairs]
    card = json.loads((SHIPPED / "card.json").read_text())["metrics"]["VoiceBank-DEMAND p287, six pairs"]
    assert fmean(gains) == pytest.approx(card["cleaned"]["si_sdr"] - card["as it was"]["si_sdr"], abs=0.05)
    assert fmean(gains) > 1


def test_it_sounds_nearer_and_leaves_clean_speech_alone(pairs: list[tuple[Tensor, Tensor]]) -> None:
    pytest.importorskip("pesq")
    model = Enhancer.load(SHIPPED)

    def pesq(clean: Tensor, found: Tensor) -> float:
        return pesq_wideband(Wave(clean[None], 16000), Wave(found[None], 16000))

    few = pairs[:3]
    assert fmean(pesq(clean, enhance(noisy, model)) - pesq(clean, noisy) for clean, noisy in few) > 0.1
    assert min(pesq(clean, enhance(clean, model)) for clean, _ in few) > 3.5


def test_noise_alone_is_turned_down() -> None:
    """White noise loses most of its power, whatever the volume."""
    model = Enhancer.load(SHIPPED)
    noise = 0.1 * Noise(3, [0]).normal(torch.empty(1, 32000))[0]
    left = enhance(noise, model)
    assert float(left.square().mean()) < 0.1 * float(noise.square().mean())
    torch.testing.assert_close(enhance(5 * noise, model), 5 * left, rtol=1e-3, atol=1e-4)


def test_a_recording_is_cleaned_without_naming_a_model(here: Path, invoke: Callable[..., tuple[int, str, str]]) -> None:
    """At another rate, in two channels."""
    noise = 0.1 * Noise(4, range(2)).normal(torch.empty(2, 22050))
    write(here / "noisy.wav", Wave(noise, 22050))
    status, _, said = invoke(["enhance", "noisy.wav", "--out", "clean.wav", "--device", "cpu"])
    assert status == 0
    assert "resampled" in said
    found = read(here / "clean.wav")
    assert (found.rate, found.samples.shape) == (22050, noise.shape)
    assert float(found.samples.square().mean()) < 0.1 * float(noise.square().mean())
    about = json.loads((here / "clean.json").read_text())
    assert about["settings"]["method"] == "predictive"
    assert about["real_time_factor"] > 0
    assert (here / "clean.png").stat().st_size > 1000
