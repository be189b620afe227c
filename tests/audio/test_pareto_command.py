"""`degauss-audio pareto` on untrained models: every setting is run, and mistakes are one sentence."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from degauss.audio.acoustic import AcousticConfig, AcousticModel
from degauss.audio.acoustic_data import read_corpus
from degauss.audio.enhancement import Enhancer, EnhancerConfig
from degauss.audio.spectra import Compressed, MelConfig
from degauss.audio.waves import Wave, write
from degauss.core.nets.ncsnpp import NCSNppConfig

Invoke = Callable[[Sequence[str | Path]], tuple[int, str, str]]
Refused = Callable[[Sequence[str | Path]], str]

NET = NCSNppConfig(channels=4, multipliers=(1, 1), attention=False)
MEL = MelConfig(8000, 512, 128, 20, 0.0, 4000.0)


@pytest.fixture
def noisy(here: Path, speech: Tensor) -> Path:
    for number in range(2):
        noise = 0.05 * torch.randn(8000, generator=torch.Generator().manual_seed(number))
        part = speech[4000:12000]
        write(here / "clean" / f"{number}.wav", Wave(part[None], 16000))
        write(here / "noisy" / f"{number}.wav", Wave((part + noise)[None], 16000))
    return here / "noisy"


@pytest.fixture
def enhancer(here: Path) -> Path:
    config = EnhancerConfig(rate=8000, spectrum=Compressed(n_fft=126, hop=32), predictive=NET, score=NET)
    Enhancer.new(config).save(here / "enhancer")
    return here / "enhancer"


@pytest.fixture
def voice(here: Path, speech: Tensor) -> Path:
    """A prepared folder of two recordings, and an acoustic model of it."""
    lines = ["name,ph_seq,ph_dur"]
    for number in range(2):
        write(here / "data" / "wavs" / f"v{number}.wav", Wave(speech[None, : 12000 + 1600 * number], 16000))
        lines.append(f"v{number},a i,0.375 {0.375 + 0.1 * number}")
    (here / "data" / "transcriptions.csv").write_text("\n".join(lines) + "\n")
    corpus = read_corpus(here / "data", MEL)
    config = AcousticConfig(
        corpus.phones, corpus.voices, MEL, hidden=16, blocks=1, kernel=3, channels=16, layers=2, dropout=0.0
    )
    AcousticModel.new(config, corpus.statistics(config.voices)).save(here / "voice")
    return here / "voice"


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_settings_of_an_enhancer(invoke: Invoke, enhancer: Path, noisy: Path, here: Path) -> None:
    words = [
        "--solvers",
        "ddim",
        "heun",
        "pc",
        "--steps",
        "2",
        "4",
        "--measures",
        "si_sdr",
        "lsd",
        "--out",
        here / "found",
    ]
    status, out, error = invoke(["pareto", "enhance", enhancer, noisy, here / "clean", *words])
    assert (status, error) == (0, "")
    assert "found.png" in out
    rows = table(here / "found.csv")
    assert [row["name"] for row in rows] == ["ddim-2", "ddim-4", "heun-2", "heun-4", "pc-2", "pc-4"]
    assert [float(row["evaluations"]) for row in rows] == [3, 5, 4, 8, 5, 9]  # one is the predictive network's
    assert all(float(row["rtf"]) > 0 and float(row["lsd"]) > 0 for row in rows)
    numbers = json.loads((here / "found.json").read_text())
    assert (numbers["quality"], numbers["facts"]["items"]) == ("si_sdr", 2)
    assert (here / "found.png").read_bytes().startswith(b"\x89PNG")


def test_settings_of_a_voice(invoke: Invoke, voice: Path, here: Path) -> None:
    words = ["--solvers", "dpmpp", "--steps", "1", "3", "--measures", "mcd", "delta_variance", "--items", "1"]
    status, out, error = invoke(["pareto", "speak", voice, here / "data", *words])
    assert (status, error) == (0, "")
    assert "dpmpp-" in out
    rows = table(here / "pareto.csv")
    assert [float(row["evaluations"]) for row in rows] == [1, 3]
    assert all(float(row["mcd"]) > 0 for row in rows)
    assert json.loads((here / "pareto.json").read_text())["facts"]["items"] == 1


def test_the_predictor_corrector_is_for_enhancers(invoke: Invoke, voice: Path, here: Path) -> None:
    status, _, error = invoke(["pareto", "speak", voice, here / "data", "--solvers", "pc"])
    assert status == 2
    assert "'pc'" in error


def test_mistakes_are_one_sentence_and_leave_nothing(
    refused: Refused, enhancer: Path, voice: Path, noisy: Path, here: Path
) -> None:
    command = ["pareto", "enhance", enhancer, noisy, here / "clean"]
    assert "steps must be at least 1" in refused([*command, "--steps", "0"])
    assert "without suffix" in refused([*command, "--out", "x.png"])
    assert "measures must be one of" in refused([*command, "--measures", "loudness"])
    assert "wer has no value" in refused([*command, "--measures", "wer", "--steps", "1", "--solvers", "ddim"])
    assert "'degauss.audio/enhancer' was expected" in refused(["pareto", "enhance", voice, noisy, here / "clean"])
    (here / "clean" / "0.wav").unlink()
    assert "0.wav has no partner" in refused(command)
    assert "transcriptions.csv: does not exist" in refused(["pareto", "speak", voice, noisy])
    Enhancer.new(EnhancerConfig(rate=8000, predictive=NET, score=None)).save(here / "plain")
    assert "is a predictive model, which has no solver" in refused(
        ["pareto", "enhance", here / "plain", noisy / "1.wav", here / "clean" / "1.wav"]
    )
