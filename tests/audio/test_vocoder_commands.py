"""The verbs train-vocoder and resynthesize as a person uses them."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
import torch

from degauss.audio import waves
from degauss.audio.source_filter import SourceFilter, SourceFilterConfig
from degauss.audio.spectra import MelConfig
from degauss.audio.waves import Wave

QUICK = ("--steps", "2", "--batch", "2", "--frames", "16", "--width", "4", "--blocks", "1", "--device", "cpu")


@pytest.fixture
def voice(here: Path, speech) -> Path:
    waves.write("voice.wav", Wave(speech[None], 16000))
    return Path("voice.wav")


def test_train_and_resynthesize(invoke, voice):
    Path("voices").mkdir()
    voice.rename("voices/voice.wav")
    status, out, error = invoke(["train-vocoder", "voices", "--out", "run", *QUICK])
    assert (status, error) == (0, "")
    assert "wrote run/model after 2 steps on 0.0 minutes of sound" in out
    assert tomllib.loads(Path("run/train.toml").read_text())["steps"] == 2
    assert SourceFilter.load("run/model").config == SourceFilterConfig(width=4, blocks=1)

    status, out, error = invoke(["resynthesize", "voices/voice.wav", "--vocoder", "run/model", "--out", "o/again.wav"])
    assert (status, error) == (0, "")
    assert out.startswith("wrote o/again.wav: log-mel distance ")
    wave = waves.read("o/again.wav")
    assert wave.rate == 16000
    assert wave.samples.shape == (1, 16000 // 256 * 256)
    about = json.loads(Path("o/again.json").read_text())
    assert about["vocoder"] == "run/model"
    assert len(about["checkpoint_sha256"]) == 64
    assert about["lost"]["f0_cents"] < 20
    assert about["real_time_factor"] > 0
    assert Path("o/again.png").read_bytes().startswith(b"\x89PNG")


def test_a_vocoder_of_other_mel_spectra(invoke, voice):
    Path("voices").mkdir()
    voice.rename("voices/voice.wav")
    mel = ("--rate", "22050", "--n-mels", "40", "--hop", "128", "--n-fft", "512", "--f-max", "8000")
    assert invoke(["train-vocoder", "voices", *mel, *QUICK])[0] == 0
    assert SourceFilter.load("runs/vocoder/model").config.mel == MelConfig(22050, 512, 128, 40, 0.0, 8000.0)
    status, _, error = invoke(["resynthesize", "voices/voice.wav", "--vocoder", "runs/vocoder/model"])
    assert status == 0
    assert error.startswith("voices/voice.wav is at 16000 Hz, and this vocoder works at 22050 Hz: resampled")
    assert waves.read("resynthesized.wav").rate == 22050


@pytest.mark.parametrize("name", ["world", "griffin-lim"])
def test_the_same_seed_gives_the_same_file(invoke, voice, name):
    for out in ("one.wav", "two.wav"):
        assert invoke(["resynthesize", voice, "--vocoder", name, "--out", out, "--seed", "5"])[0] == 0
    assert Path("one.wav").read_bytes() == Path("two.wav").read_bytes()
    assert json.loads(Path("one.json").read_text())["checkpoint_sha256"] is None


def test_stereo_at_another_rate(invoke, here, speech):
    waves.write("wide.flac", Wave(speech[None].expand(2, -1), 44100))
    status, _, error = invoke(["resynthesize", "wide.flac", "--vocoder", "world"])
    assert status == 0
    assert "resampled, so nothing above 8000 Hz is left" in error
    assert waves.read("resynthesized.wav").samples.shape[0] == 1


def test_help_does_not_import_torch():
    import subprocess
    import sys

    code = (
        "import sys; import degauss.audio.commands.train_vocoder, degauss.audio.commands.resynth;"
        "assert 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# --- what cannot be done ---


def test_bad_recordings(refused, voice):
    assert refused(["resynthesize", "gone.wav", "--vocoder", "world"]) == "gone.wav: no such file; expected sound."
    Path("text.wav").write_text("no sound at all")
    assert "text.wav: is not sound of a known kind" in refused(["resynthesize", "text.wav", "--vocoder", "world"])
    waves.write("silent.wav", Wave(torch.zeros(1, 8000), 16000))
    assert "silent.wav: is silent" in refused(["resynthesize", "silent.wav", "--vocoder", "world"])
    waves.write("short.wav", Wave(torch.ones(1, 100) * torch.tensor([0.5, -0.5]).repeat(50), 16000))
    assert "short.wav: has 100 samples; expected at least one hop of 256" in refused(
        ["resynthesize", "short.wav", "--vocoder", "world"]
    )


def test_bad_names(refused, voice):
    assert refused(["resynthesize", voice, "--vocoder", "wrold"]).startswith("there is no vocoder 'wrold'; expected")
    assert "is the recording itself" in refused(["resynthesize", voice, "--vocoder", "world", "--out", voice])
    assert "no sound can be written to '.xyz'" in refused(
        ["resynthesize", voice, "--vocoder", "world", "--out", "a.xyz"]
    )
    Path("empty").mkdir()
    assert "config.json does not exist" in refused(["resynthesize", voice, "--vocoder", "empty"])
    assert "is a directory; expected the name of a file" in refused(
        ["resynthesize", voice, "--vocoder", "world", "--out", "empty"]
    )


def test_bad_training(refused, voice):
    assert "is not a folder" in refused(["train-vocoder", "nowhere", *QUICK])
    Path("empty").mkdir()
    assert "holds no sound file" in refused(["train-vocoder", "empty", *QUICK])
    assert "is a file; expected a directory" in refused(["train-vocoder", ".", "--out", voice, *QUICK])
    said = refused(["train-vocoder", ".", "--f-max", "9000", *QUICK])
    assert said == (
        "the mel spectra cannot be made: expected 0 <= f_min < f_max <= rate / 2, "
        "got f_min 0 and f_max 9000 Hz at a rate of 16000 Hz."
    )
    assert "steps must be at least 1" in refused(["train-vocoder", ".", *QUICK, "--steps", "0"])
