"""What many tests need: a model small enough to train in seconds, and a command line to run or to be refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from degauss.core.cli import Program
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
def program() -> Program:
    return PROGRAM


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def refused(run: Run, refusal: Callable[[Callable[[], tuple[int, str, str]]], str]) -> Callable[..., str]:
    """Words that the file's own ``run`` must refuse, writing nothing -> its one line."""
    return lambda *words: refusal(lambda: run(*words))
