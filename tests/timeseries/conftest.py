"""What many tests need: a model small enough to train in seconds, and a command line to run or to be refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from degauss.core.train import TrainConfig, train
from degauss.timeseries.cli import PROGRAM
from degauss.timeseries.config import TSDiffConfig
from degauss.timeseries.tsdiff import TSDiff
from degauss.timeseries.windows import RandomWindows


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved TSDiff of sines of period 8: context 24 (at least 16 seen), horizon 8."""
    config = TSDiffConfig(
        context=24, horizon=8, min_context=16, scaling="standard", hidden=8, blocks=1, state=16, step_embedding=16
    )
    folder = tmp_path_factory.mktemp("tiny")
    model = TSDiff.new(config)
    data = RandomWindows([np.sin(2 * np.pi * np.arange(200) / 8 + phase) for phase in (0.0, 1.0)], config)
    settings = TrainConfig(out=folder / "run", steps=250, batch_size=32, lr=2e-2, ema=0.9, tracker=None, device="cpu")
    model.save(folder / "model", train(model.network, model.loss, data, settings).weights)
    return folder / "model"


@pytest.fixture(scope="session")
def tiny(checkpoint: Path) -> TSDiff:
    return TSDiff.load(checkpoint)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the test's own, where it runs."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def invoke(here: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[Sequence[str | Path]], tuple[int, str, str]]:
    """A whole command line -> its exit status, stdout and stderr."""

    def command(words: Sequence[str | Path]) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            status = PROGRAM.main([str(word) for word in words])
        except SystemExit as stop:
            status = int(stop.code or 0)
        said = capsys.readouterr()
        return status, said.out, said.err

    return command


@pytest.fixture
def refused(run: Run, here: Path) -> Callable[..., str]:
    """A command line that must fail as a user's mistake does, writing nothing -> its one line. ``run``: the file's."""

    def command(*words: str | Path) -> str:
        before = sorted(here.rglob("*"))
        status, out, error = run(*words)
        assert (status, out) == (2, "")
        assert error.startswith("degauss-timeseries: error: ")
        assert error.endswith("\n")
        assert error.count("\n") == 1
        assert "Traceback" not in error
        assert sorted(here.rglob("*")) == before
        return error.removeprefix("degauss-timeseries: error: ").strip()

    return command
