"""Crops, the loss as a proper score, and runs that learn and go on where they stopped."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from degauss.audio import waves
from degauss.audio.consistency import agreeing
from degauss.audio.source_filter import SourceFilter, SourceFilterConfig
from degauss.audio.spectra import MelConfig, log_mel
from degauss.audio.synthetic import VOWELS, glide, vowel, white
from degauss.audio.vocoder_training import (
    RandomCrops,
    Recording,
    SpectralLoss,
    VocoderLoss,
    fit,
    load_recordings,
    recipe,
    recording,
    sounds,
)
from degauss.audio.waves import Wave
from degauss.core.errors import InputError
from degauss.core.noise import Noise
from degauss.core.train import Interrupted

MEL = MelConfig()
TINY = SourceFilterConfig(width=8, blocks=1)


@pytest.fixture(scope="module")
def voices() -> list[Recording]:
    """Vowels with hiss, of 63 and 94 frames."""
    made = []
    for number, (name, seconds) in enumerate((("a", 1.0), ("i", 1.5))):
        n = int(seconds * MEL.rate)
        x = vowel(VOWELS[name], glide(120, 200, n), MEL.rate) + 0.2 * white(n, number)
        made.append(recording(x, MEL))
    return made


# --- data ---


def test_a_recording_is_padded_and_scaled():
    one = recording(0.3 * white(1000), MEL, frames=9)
    assert one.wave.shape == (8 * MEL.hop,)
    assert one.wave.abs().max() == pytest.approx(1)
    assert one.mel.shape == (80, 9)
    assert one.f0.shape == (9,)
    assert one.wave[1000:].abs().max() == 0
    assert len(recording(white(1025), MEL).wave) == 5 * MEL.hop


def test_crops_are_parts_of_recordings_at_a_gain(voices):
    data = RandomCrops(voices, MEL, frames=16)
    batch = data(range(20))
    assert batch.mel.shape == (20, 80, 16)
    assert batch.wave.shape == (20, 15 * MEL.hop)
    assert batch.f0.shape == batch.pitch.shape == (20, 16)
    assert (batch.pitch > 0).all()
    again = log_mel(batch.wave, MEL)
    # Frames whose whole window is inside the crop.
    torch.testing.assert_close(batch.mel[:, :, 2:-2], again[:, :, 2:-2], atol=1e-3, rtol=0)
    assert batch.wave.abs().amax(1).min() < 0.5


def test_a_crop_does_not_depend_on_its_batch(voices):
    data = RandomCrops(voices, MEL, frames=16)
    many, one = data(range(10)), data([7])
    for whole, part in zip(many, one, strict=True):
        assert torch.equal(whole[7], part[0])
    other = RandomCrops(voices, MEL, frames=16, seed=1)([7])
    assert not torch.equal(other.wave, one.wave)


def test_every_place_is_alike(voices):
    counts = [len(one.f0) - 16 + 1 for one in voices]
    data = RandomCrops(voices, MEL, frames=16)
    pitches = data(range(400)).pitch[:, 0]
    first = sum(bool((pitches[i] - data._pitch[0]).abs().min() < 1e-9) for i in range(400))
    assert first / 400 == pytest.approx(counts[0] / sum(counts), abs=0.08)


def test_too_short_or_none(voices):
    with pytest.raises(ValueError, match="fewer than 100"):
        RandomCrops(voices, MEL, frames=100)
    with pytest.raises(InputError, match="no recording"):
        RandomCrops([], MEL)


def test_folders(tmp_path: Path):
    with pytest.raises(InputError, match="is not a folder"):
        sounds(tmp_path / "nowhere")
    with pytest.raises(InputError, match="holds no sound file"):
        sounds(tmp_path)
    waves.write(tmp_path / "b.wav", Wave(0.1 * white(8000)[None].expand(2, -1), 44100))
    (tmp_path / "deep").mkdir()
    waves.write(tmp_path / "deep" / "a.flac", Wave(0.1 * white(8000)[None], 8000))
    (tmp_path / "notes.txt").write_text("no sound")
    paths = sounds(tmp_path)
    assert [path.name for path in paths] == ["b.wav", "a.flac"]
    told: list[tuple[int, int]] = []
    made = load_recordings(paths, MEL, 20, lambda *done: told.append(done))
    assert told == [(1, 2), (2, 2)]
    assert [one.mel.shape[1] for one in made] == [20, 64]
    waves.write(tmp_path / "silent.wav", Wave(torch.zeros(1, 8000), 16000))
    with pytest.raises(InputError, match=r"silent\.wav: is silent"):
        load_recordings(sounds(tmp_path), MEL, 20)


# --- loss ---


@pytest.mark.parametrize("gain", [0.5, 0.1])
def test_the_loss_of_a_gain(gain):
    # Convergence 1 - g, and -ln g everywhere in both logarithms.
    x = white(4096)[None]
    assert SpectralLoss(MEL)(x, gain * x).item() == pytest.approx(1 - gain - 2 * math.log(gain), rel=1e-3)


def test_a_copy_costs_nothing_even_upside_down():
    x = white(4096)[None]
    assert SpectralLoss(MEL)(x, x).item() == 0
    assert SpectralLoss(MEL)(x, -x).item() == 0
    assert SpectralLoss(MEL)(x, x.flip(1)).item() > 0.1


def test_silence_has_a_gradient():
    silent = torch.zeros(1, 4096, requires_grad=True)
    SpectralLoss(MEL)(white(4096)[None], silent).sum().backward()
    assert silent.grad is not None
    assert torch.isfinite(silent.grad).all()


def test_hiss_is_asked_for_a_little_weaker_and_agreement_mends_that():
    gains = torch.tensor([0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1])
    x, y = (torch.stack([white(8192, 2 * k + j) for k in range(6)]) for j in range(2))
    best = gains[int(torch.stack([SpectralLoss(MEL)(x, g * y).mean() for g in gains]).argmin())]
    assert 0.7 <= best <= 0.9
    mended = agreeing(best * y, log_mel(x, MEL), MEL, 8)
    assert mended.square().mean() / x.square().mean() == pytest.approx(1, abs=0.1)


def test_the_loss_of_a_row_does_not_depend_on_its_batch(voices):
    model = SourceFilter.new(TINY)
    loss = VocoderLoss(TINY, SpectralLoss(MEL, (256, 1024)))
    data = RandomCrops(voices, MEL, frames=16)
    with torch.no_grad():
        both = loss(model.network, data([0, 1]), Noise(0, [0, 1]))
        alone = loss(model.network, data([1]), Noise(0, [1]))
    assert both.shape == (2,)
    torch.testing.assert_close(both[1:], alone)


# --- runs ---


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def test_training_comes_nearer(voices, tmp_path: Path):
    config = SourceFilterConfig(width=16, blocks=1)
    model = fit(config, voices, recipe(tmp_path, steps=20, batch=2, lr=5e-3, device="cpu"), frames=16)
    loss = VocoderLoss(config, SpectralLoss(MEL))
    batch = RandomCrops(voices, MEL, frames=16, seed=9)(range(8))
    with torch.no_grad():
        before, after = (
            loss(m.network, batch, Noise(1, range(8))).mean().item() for m in (SourceFilter.new(config), model)
        )
    assert after < 0.96 * before


def test_a_run_that_was_stopped_goes_on_to_the_same_weights(voices, tmp_path: Path, monkeypatch):
    def settings(name: str):
        return recipe(tmp_path / name, steps=4, batch=2, device="cpu")

    whole = fit(TINY, voices, settings("whole"), frames=16)
    calls = 0
    crops = RandomCrops.__call__

    def interrupted(self, samples):
        nonlocal calls
        calls += 1
        if calls == 3:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGTERM)
        return crops(self, samples)

    monkeypatch.setattr(RandomCrops, "__call__", interrupted)
    with pytest.raises(Interrupted):
        fit(TINY, voices, settings("parts"), frames=16)
    assert not (tmp_path / "parts" / "model").exists()
    parts = fit(TINY, voices, settings("parts"), frames=16)
    assert same(whole.network.state_dict(), parts.network.state_dict())


def test_crops_shorter_than_their_edges_are_refused(voices, tmp_path: Path):
    with pytest.raises(InputError, match="frames must be at least 12"):
        fit(TINY, voices, recipe(tmp_path, steps=1), frames=8)
