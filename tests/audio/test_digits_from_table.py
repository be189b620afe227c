"""The example speaks every row with a model that was never trained, and says so in one sentence where there is none."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from degauss.audio.acoustic import AcousticConfig, AcousticModel, Statistics
from degauss.audio.phones import read_text, refuse, speech
from degauss.audio.recognition import DIGITS
from degauss.audio.spectra import MelConfig
from degauss.audio.waves import read

EXAMPLE = Path(__file__).parents[2] / "packages" / "audio" / "examples" / "digits_from_table.py"
MEL = MelConfig(8000, 512, 128, 20, 0.0, 4000.0)


def run(where: Path, *options: str | Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, str(EXAMPLE), *map(str, options)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(words, cwd=where, env=environment, capture_output=True, text=True)


@pytest.fixture
def voice(tmp_path: Path) -> Path:
    import torch

    phones = {phone for word in DIGITS for phone in speech(read_text(word, refuse)).phones}
    config = AcousticConfig(
        tuple(sorted(phones)), ("someone",), MEL, hidden=16, blocks=1, kernel=3, channels=16, layers=2, dropout=0.0
    )
    statistics = Statistics(torch.full((20,), -9.0), torch.zeros(20), torch.full((1,), 60.0))
    AcousticModel.new(config, statistics).save(tmp_path / "voice")
    return tmp_path / "voice"


@pytest.mark.slow  # two processes that import all there is
def test_every_row_is_spoken_and_heard(voice: Path, tmp_path: Path) -> None:
    (tmp_path / "digits.csv").write_text("name,text\na,73\nb,five\n")
    done = run(tmp_path, "--checkpoint", voice, "--steps", "1")
    assert done.returncode == 0, done.stderr
    assert "2 sounds" in done.stdout
    for name in ("a", "b"):
        assert read(tmp_path / "spoken" / f"{name}.wav").rate == 8000
    with (tmp_path / "spoken" / "metrics.csv").open(newline="") as file:
        assert [row["name"] for row in csv.DictReader(file)] == ["a", "b"]
    (tmp_path / "digits.csv").write_text("name,text\na,hello\n")
    done = run(tmp_path, "--checkpoint", voice)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "line 2: 'hello' has the word 'hello'" in done.stderr


def test_without_a_model_it_says_so(tmp_path: Path) -> None:
    done = run(tmp_path, "--checkpoint", tmp_path / "none")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1
    assert "no model there" in done.stdout
