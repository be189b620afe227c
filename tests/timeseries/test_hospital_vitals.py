"""The example of hospital vitals runs from its first line to its picture."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLE = Path(__file__).parents[2] / "packages" / "timeseries" / "examples" / "hospital_vitals.py"


def test_it_runs_without_any_data(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DEGAUSS_DATA", str(tmp_path / "nowhere"))
    words = ["hospital_vitals.py", "--steps", "2", "--stays", "20", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", words)
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("20 synthetic stays, ")
    assert [line.split("  ")[0] for line in lines[2:7]] == [
        "CSDI after 2 steps", "the line with its errors", "the line", "the last value", "the mean",
    ]  # fmt: skip
    assert lines[6].split()[-2] == "1.000"  # the CRPS of the mean is one by its definition
    assert (tmp_path / "out" / "hospital_vitals.png").read_bytes().startswith(b"\x89PNG")


def test_the_synthetic_stays_are_like_the_real_ones():
    stays = runpy.run_path(str(EXAMPLE))["synthetic_stays"](300)
    assert stays.shape == (300, 48, 6)
    assert 0.3 < np.isnan(stays).mean() < 0.7
    np.testing.assert_allclose(np.nanmean(stays, (0, 1)), [85, 120, 60, 80, 37, 19], rtol=0.05)
    # What is near in time is alike, and heart rate and blood pressure move apart.
    pulse, pressure = stays[..., 0], stays[..., 1]
    assert np.nanstd(np.diff(pulse, axis=1)) < 0.6 * np.nanstd(pulse)
    moves = [np.nan_to_num(x - np.nanmean(x, 1, keepdims=True)).ravel() for x in (pulse, pressure)]
    assert np.corrcoef(*moves)[0, 1] < -0.2


@pytest.mark.parametrize("wrong", ["--steps=0", "--stays=x"])
def test_it_refuses(wrong, tmp_path, monkeypatch):
    monkeypatch.setenv("DEGAUSS_DATA", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["hospital_vitals.py", wrong, "--out", str(tmp_path)])
    with pytest.raises((ValueError, SystemExit)):
        runpy.run_path(str(EXAMPLE), run_name="__main__")
