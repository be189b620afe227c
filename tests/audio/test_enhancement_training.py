"""Training an enhancer: that it learns, that it goes on where it stopped, and the folders that it reads."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from degauss.audio import enhancement_training
from degauss.audio.enhancement import Enhancer, EnhancerConfig, Pairs, Sampling, enhance
from degauss.audio.enhancement_training import (
    PairedFiles,
    fit,
    measured_spread,
    mixed_folder,
    recipe,
    sound_files,
    training_folder,
)
from degauss.audio.mixtures import Mixtures, Recordings
from degauss.audio.rooms import SomeInRooms
from degauss.audio.spectra import Compressed
from degauss.audio.synthetic import white
from degauss.audio.waves import Wave, write
from degauss.core.errors import InputError
from degauss.core.nets.ncsnpp import NCSNppConfig
from degauss.core.train import TrainConfig, train

RATE = 2000
NET = NCSNppConfig(channels=8, multipliers=(1,), attention=False)
CONFIG = EnhancerConfig(rate=RATE, spectrum=Compressed(n_fft=62, hop=16), predictive=NET, score=NET)


def tone(frequency: float, seconds: float = 0.3) -> Tensor:
    return 0.5 * torch.sin(2 * math.pi * frequency * torch.arange(round(seconds * RATE)) / RATE)


def data(seed: int = 0) -> Mixtures:
    """Tones in white noise: a task for a very small network."""
    return Mixtures([[tone(f) for f in (200, 250, 300)]], [white(8000, 3)], RATE, 0.5, (0.0, 5.0), 0.0, seed)


def settings(out: Path) -> TrainConfig:
    return replace(recipe(out, steps=30, batch=4, lr=1e-2, device="cpu"), ema=0.9)


def ratio(clean: Tensor, found: Tensor) -> float:
    return float(10 * torch.log10(clean.square().sum() / (clean - found).square().sum()))


# --- learning ---


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("enhancer")


@pytest.fixture(scope="module")
def storm(folder: Path) -> Enhancer:
    return fit(CONFIG, data(), settings(folder), first_steps=60, valid=data(1))


def test_it_learns_to_remove_noise(storm: Enhancer, folder: Path) -> None:
    """On pairs that it was not trained on: the predictive model, and what is regenerated from it."""
    alone = Enhancer.load(folder / "predictive" / "model")
    assert (alone.config.method, storm.config.method) == ("predictive", "storm")
    gains: dict[str, list[float]] = {"predictive": [], "storm": []}
    for number in range(6):
        clean, noisy = data(1).pair(number)
        before = ratio(clean, noisy)
        gains["predictive"].append(ratio(clean, enhance(noisy, alone)) - before)
        gains["storm"].append(ratio(clean, enhance(noisy, storm, Sampling(steps=5), number)) - before)
    assert sum(gains["predictive"]) / 6 > 0.5
    assert sum(gains["storm"]) / 6 > 3.0  # its predictive network was trained for longer


def test_losses_are_logged(storm: Enhancer, folder: Path) -> None:
    for run in (folder, folder / "predictive"):
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert lines[-1]["step"] == (30 if run == folder else 60)
        assert any("valid_loss" in line for line in lines)


def test_the_deviation_is_measured(storm: Enhancer, folder: Path) -> None:
    """Of the clean spectrum from D(y), which is less than from y: on spectra of sounds of unit peak."""
    alone = Enhancer.load(folder / "predictive" / "model")
    plain = Enhancer.new(replace(CONFIG, predictive=None))
    noisy, clean = data()(range(32))
    peak = noisy.abs().amax(1, keepdim=True)
    encode = CONFIG.spectrum.encode
    by_hand = float((encode(clean / peak) - encode(noisy / peak)).square().mean().sqrt())
    assert measured_spread(plain, data()) == pytest.approx(by_hand, rel=1e-5)
    assert storm.config.spread == pytest.approx(measured_spread(alone, data()), rel=1e-6)
    assert storm.config.spread < 0.9 * by_hand


def test_a_stopped_training_goes_on_exactly(tmp_path: Path) -> None:
    config = replace(CONFIG, predictive=None)

    def end(out: Path, stops: tuple[int, ...]) -> dict[str, Tensor]:
        model = Enhancer.new(config, 3)
        for stop in stops:
            chosen = replace(recipe(out, steps=stop, batch=2, device="cpu"), schedule="constant", warmup=0)
            model = Enhancer.new(config, 3)
            result = train(model.network, model.loss, data(), chosen)
        return result.weights  # pyright: ignore[reportPossiblyUnboundVariable]

    whole, parts = end(tmp_path / "a", (4,)), end(tmp_path / "b", (2, 4))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_finished_training_is_not_done_again(storm: Enhancer, folder: Path) -> None:
    again = fit(CONFIG, data(), settings(folder), first_steps=60)
    for name, value in again.network.state_dict().items():
        assert torch.equal(value, storm.network.state_dict()[name])


# --- folders ---


def make(folder: Path, names: list[str], seconds: float = 0.5, gain: float = 1.0) -> None:
    for k, name in enumerate(names):
        write(folder / name, Wave(gain * tone(200.0 + 10 * k, seconds)[None], RATE))


def test_voicebank_s_layout(tmp_path: Path) -> None:
    for part in ("train", "valid"):
        make(tmp_path / part / "clean", ["a.wav", "deep/b.wav"])
        make(tmp_path / part / "noisy", ["a.wav", "deep/b.wav"], gain=0.5)
    found = training_folder(tmp_path, RATE, 0.25, (0, 5), seed=1)
    assert found.valid is not None
    noisy, clean = found.train(range(5))
    assert noisy.shape == clean.shape == (5, 500)
    torch.testing.assert_close(noisy, 0.5 * clean, rtol=0, atol=1e-4)  # the same places of both
    assert torch.equal(found.train([3]).noisy[0], noisy[3])
    assert len({tuple(row.tolist()) for row in noisy}) > 1


def test_flat_pairs_and_rates(tmp_path: Path) -> None:
    """clean/ and noisy/ without train/, at another rate than the model's, shorter than a segment."""
    make(tmp_path / "clean", ["a.wav"], seconds=0.2)
    make(tmp_path / "noisy", ["a.wav"], seconds=0.2)
    noisy, clean = training_folder(tmp_path, 2 * RATE, 0.25, (0, 5), seed=0).train([0])
    assert noisy.shape == (1, 1000)
    assert not bool(noisy[0, 800:].any())
    torch.testing.assert_close(noisy, clean)


def test_clean_and_noise_are_mixed(tmp_path: Path) -> None:
    make(tmp_path / "clean", ["x/a.wav", "x/b.wav", "y/c.wav", "loose.wav"])
    make(tmp_path / "noise", ["n.wav"])
    found = mixed_folder(tmp_path, RATE, 0.5, (3.0, 3.0), 0)
    assert [len(speaker) for speaker in found.speakers] == [1, 2, 1]
    assert found.snr == (3.0, 3.0)
    assert training_folder(tmp_path, RATE, 0.5, (3.0, 3.0), 0).train([1]).noisy.shape == (1, 1000)


def test_rooms_are_for_mixtures(tmp_path: Path) -> None:
    """With noise or without; a folder of pairs has none to offer."""
    pytest.importorskip("pyroomacoustics")
    make(tmp_path / "clean", ["x/a.wav", "y/c.wav"])
    alone = training_folder(tmp_path, RATE, 0.5, (3.0, 3.0), 0, rooms=1.0).train([1])
    assert float((alone.noisy - alone.clean).square().mean()) > 0
    make(tmp_path / "noise", ["n.wav"])
    found = training_folder(tmp_path, RATE, 0.5, (3.0, 3.0), 0, rooms=0.5)
    assert isinstance(found.train, SomeInRooms)
    assert found.train.share == 0.5
    with pytest.raises(InputError, match="rooms"):
        training_folder(tmp_path, RATE, 0.5, (3.0, 3.0), 0, rooms=1.5)
    make(tmp_path / "noisy", ["x/a.wav", "y/c.wav"])
    with pytest.raises(InputError, match=r"noisy: holds pairs, .* expected rooms to be 0"):
        training_folder(tmp_path, RATE, 0.5, (3.0, 3.0), 0, rooms=0.5)


def test_rooms_without_their_extra_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise ImportError('expected the extra of pip install "degauss-audio[rooms]".')

    monkeypatch.setattr(enhancement_training, "responses", missing)
    make(tmp_path / "clean", ["a.wav"])
    with pytest.raises(InputError, match=r"degauss-audio\[rooms\]"):
        training_folder(tmp_path, RATE, 0.5, (3.0, 3.0), 0, rooms=0.5)


def test_only_sounds_are_taken(tmp_path: Path) -> None:
    make(tmp_path, ["b.wav", "a.WAV", ".hidden.wav", ".git/x.wav", "c.flac"])
    (tmp_path / "notes.txt").write_text("no sound")
    assert [path.name for path in sound_files(tmp_path)] == ["a.WAV", "b.wav", "c.flac"]


def test_folders_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    def refused(message: str) -> None:
        with pytest.raises(InputError, match=message):
            training_folder(tmp_path, RATE, 0.25, (0, 5), 0)

    with pytest.raises(InputError, match="is no folder"):
        training_folder(tmp_path / "missing", RATE, 0.25, (0, 5), 0)
    refused("holds neither train/, noisy/ nor noise/")
    (tmp_path / "noisy").mkdir()
    refused(r"clean: is no folder")
    (tmp_path / "clean").mkdir()
    refused("holds no sound")
    make(tmp_path / "clean", ["a.wav"])
    make(tmp_path / "noisy", ["a.wav", "b.wav"])
    refused(r"noisy.b\.wav has no partner; expected .*clean.b\.wav")


def test_pairs_of_two_lengths_are_refused(tmp_path: Path) -> None:
    make(tmp_path / "clean", ["a.wav"], seconds=0.5)
    make(tmp_path / "noisy", ["a.wav"], seconds=0.4)
    noisy, clean = (Recordings([tmp_path / name / "a.wav"], RATE) for name in ("noisy", "clean"))
    with pytest.raises(InputError, match=r"has 800 samples, but .* has 1000"):
        PairedFiles(noisy, clean).pair(0)


def test_pairs_are_one_batch() -> None:
    assert isinstance(data()([0, 1]), Pairs)
