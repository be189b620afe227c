"""Synthetic twins of a private table: windows to give away instead of the data, and a card that says how good they are.

    python packages/timeseries/examples/synthetic_twins.py

The private table here is invented: 60 patients, their heart rate, breathing and temperature each hour for three days.
A small PaD-TS is trained on four fifths of the patients for a minute or so, a thousand days of twins are drawn, and
they are judged: look at ``out/twins/card.html``. Trained so briefly, the twins are not good, and the card says so;
train for longer with

    python packages/timeseries/examples/synthetic_twins.py --steps 3000

The same from a shell, for a table of one's own:

    degauss-timeseries train-generator table.csv --id patient --columns pulse breaths temperature --out out/twins
    degauss-timeseries generate --checkpoint out/twins/model --out twins.csv
    degauss-timeseries card table.csv --id patient --columns pulse breaths temperature --checkpoint out/twins/model

A card that shows no copies is no proof of privacy. The model itself holds the smallest and largest value of each
column.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from degauss.timeseries.cli import PROGRAM

OUT = Path("out/twins")
COLUMNS = ("pulse", "breaths", "temperature")


def private_table(patients: int = 60, hours: int = 72, seed: int = 0) -> pd.DataFrame:
    """Each patient has a level, a daily rhythm, and fevers in which all three rise together."""
    rng = np.random.default_rng(seed)
    time = np.arange(hours)
    parts: list[pd.DataFrame] = []
    for patient in range(patients):
        rhythm = np.sin(2 * np.pi * (time - rng.normal(15, 1)) / 24)
        onset, size = rng.uniform(0, hours), rng.gamma(2.0, 0.5)
        fever = size * np.exp(-((time - onset) ** 2) / (2 * 8.0**2))
        columns = {
            "pulse": rng.normal(75, 7) + 6 * rhythm + 9 * fever + rng.normal(0, 2, hours),
            "breaths": rng.normal(15, 1.5) + 0.8 * rhythm + 3 * fever + rng.normal(0, 0.5, hours),
            "temperature": 36.8 + 0.3 * rhythm + 0.8 * fever + rng.normal(0, 0.08, hours),
        }
        parts.append(pd.DataFrame({"patient": f"p{patient:03d}", "hour": time, **columns}).round(2))
    return pd.concat(parts)


def commands(table: str, steps: int, judge_steps: int) -> list[list[str]]:
    """What is run, one command line each."""
    data = [table, "--id", "patient", "--time", "hour", "--columns", *COLUMNS]
    model = ["--checkpoint", str(OUT / "model")]
    return [
        ["train-generator", *data, "--out", str(OUT), "--length", "24", "--hidden", "32", "--steps", str(steps)],
        ["generate", *model, "--count", "1000", "--out", str(OUT / "twins.csv")],
        ["card", *data, *model, "--repeats", "2", "--judge-steps", str(judge_steps), "--out", str(OUT / "card.html")],
    ]


def main() -> int:
    """Run the commands until one fails."""
    parser = argparse.ArgumentParser(description="Synthetic twins of an invented private table.")
    parser.add_argument("--steps", type=int, default=300, help="training steps")
    parser.add_argument("--judge-steps", type=int, default=150, help="training steps of the networks that judge")
    options = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    table = OUT / "private.csv"
    private_table().to_csv(table, index=False)
    for words in commands(str(table), options.steps, options.judge_steps):
        print(f"\n$ degauss-timeseries {' '.join(words)}", flush=True)
        if status := PROGRAM.main(words):
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
