"""`degauss-audio metrics` from files to files, and what it says to a mistake."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from degauss.audio.datasets import Digit
from degauss.audio.waves import Wave, read, write

Invoke = Callable[[Sequence[str | Path]], tuple[int, str, str]]
Refused = Callable[[Sequence[str | Path]], str]


@pytest.fixture
def folders(here: Path, speech: Tensor) -> tuple[Path, Path]:
    for number in range(2):
        noise = 0.02 * torch.randn(16000, generator=torch.Generator().manual_seed(number))
        write(here / "clean" / f"{number}.wav", Wave(speech[None], 16000))
        write(here / "noisy" / f"{number}.wav", Wave((speech + noise)[None], 16000))
    return here / "noisy", here / "clean"


def test_a_folder_against_its_references(folders: tuple[Path, Path], here: Path, invoke: Invoke) -> None:
    noisy, clean = folders
    status, out, error = invoke(["metrics", noisy, "--reference", clean, "--out", here / "report"])
    assert (status, error) == (0, "")
    assert "si_sdr" in out
    assert sorted(path.name for path in here.glob("report*")) == ["report.csv", "report.html", "report.json"]
    numbers = json.loads((here / "report.json").read_text())
    assert numbers["summary"]["si_sdr"]["files"] == 2
    assert numbers["facts"]["reference"] == str(clean)
    assert "Metrics of noisy against clean" in (here / "report.html").read_text()


def test_digits_alone_are_heard(here: Path, digits: list[Digit], invoke: Invoke) -> None:
    chosen = [one for one in digits if one.take == 0 and one.speaker == "jackson"]
    lines = ["name,text"]
    for one in chosen:
        write(here / "said" / f"{one.digit}.wav", read(one.path))
        lines.append(f"{one.digit},{one.digit}")
    (here / "text.csv").write_text("\n".join(lines))
    status, out, _ = invoke(["metrics", here / "said", "--text", here / "text.csv", "--out", "report.html"])
    assert status == 0
    assert "wer" in out
    with (here / "report.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [str(digit) for digit in range(10)]
    assert sum(float(row["wer"]) for row in rows) < 7
    assert json.loads((here / "report.json").read_text())["whole"].keys() == {"wer"}


def test_mistakes_are_one_sentence_and_leave_nothing(folders: tuple[Path, Path], here: Path, refused: Refused) -> None:
    noisy, clean = folders
    (clean / "1.wav").rename(here / "kept.wav")
    assert "1.wav has no partner in" in refused(["metrics", noisy, "--reference", clean])
    assert "no such file" in refused(["metrics", here / "none"])
    assert "no such file" in refused(["metrics", noisy, "--reference", here / "none"])
    assert "two of a kind" in refused(["metrics", noisy, "--reference", here / "kept.wav"])
    assert "is a folder" in refused(["metrics", noisy, "--out", clean])
    assert "without suffix" in refused(["metrics", noisy, "--out", "report.csv"])
    (here / "text.csv").write_text("name,text\n0,seven\n1,hello\n")
    assert "line 3: 'hello' has the word 'hello'" in refused(["metrics", noisy, "--text", here / "text.csv"])
    (here / "empty").mkdir()
    assert "has no sound file" in refused(["metrics", here / "empty"])
    (here / "empty" / "x.wav").write_bytes(b"RIFF")
    assert "expected WAV" in refused(["metrics", here / "empty" / "x.wav"])
    assert "no such file" in refused(["metrics", noisy, "--voice", here / "none.wav"])
