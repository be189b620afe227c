"""The checkpoint that ships: it loads, it is small and documented, and it forecasts without training or network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from degauss.core.errors import InputError
from degauss.timeseries.cli import PROGRAM
from degauss.timeseries.config import GENERAL
from degauss.timeseries.tsdiff import Sampling, TSDiff, draw

CO2 = Path(__file__).parents[2] / "packages" / "timeseries" / "examples" / "data" / "co2_weekly.csv"


def test_it_is_small_and_has_a_card() -> None:
    assert sum(file.stat().st_size for file in GENERAL.iterdir()) < 5_000_000
    card = json.loads((GENERAL / "card.json").read_text())
    assert {"command", "trained_on", "licence", "metrics", "date", "limits"} <= card.keys()


def test_it_knows_a_sine_from_noise() -> None:
    """On a clean season the median forecast is at least twice as close to the truth as the mean of the series."""
    model = TSDiff.load(GENERAL)
    time = np.arange(model.config.length)
    truth = 5 + np.sin(2 * np.pi * time / 24)
    values = np.where(time < model.config.context, truth, np.nan)[None]
    samples = draw(model, values, ["sine"], Sampling(samples=16, steps=20))[0][:, model.config.context :][:, :24]
    error = np.abs(np.median(samples, axis=0) - truth[model.config.context :][:24]).mean()
    assert error < 0.5 * np.abs(np.sin(2 * np.pi * np.arange(24) / 24)).mean()


def test_the_command_uses_it_and_judges_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "forecast",
        str(CO2),
        "--horizon",
        "12",
        "--samples",
        "8",
        "--steps",
        "5",
        "--out",
        str(tmp_path / "f.csv"),
    ]
    assert PROGRAM.main(words) == 0
    assert "naive" in capsys.readouterr().out
    assert len((tmp_path / "f.csv").read_text().splitlines()) == 13


def test_sampling_that_diverges_is_one_sentence() -> None:
    model = TSDiff.load(GENERAL)
    values = np.concatenate([np.sin(np.arange(model.config.context)), np.full(model.config.horizon, np.nan)])[None]
    wild = Sampling(samples=2, steps=20, form="published", likelihood="mean-square", guidance=1e12)
    with pytest.raises(InputError, match="smaller guidance"):
        draw(model, values, ["wild"], wild)
