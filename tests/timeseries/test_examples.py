"""Every example runs at its toy size, in a folder of its own, without the data sets, and draws its picture."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "packages" / "timeseries" / "examples"
# The demonstration, which `make demo` runs; what wants the model that it trains; an hour of training.
ELSEWHERE = {"demo.py", "refine_forecasts.py", "train_general.py"}
OPTIONS = {"synthetic_twins.py": ["--steps", "20", "--judge-steps", "20"]}


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py") if path.name not in ELSEWHERE))
def test_the_example_runs(name: str, tmp_path: Path) -> None:
    environment = {**os.environ, "DEGAUSS_DATA": str(tmp_path / "nothing"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *OPTIONS.get(name, [])],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    pictures = [*tmp_path.rglob("*.png"), *tmp_path.rglob("*.html")]
    assert pictures, done.stdout
    assert all(picture.stat().st_size > 1000 for picture in pictures)
