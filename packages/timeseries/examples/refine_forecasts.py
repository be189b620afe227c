"""Somebody else's forecasts, refined: a seasonal naive forecast of CO2 with the model of the demonstration.

    python packages/timeseries/examples/demo.py              # trains out/co2/model, a minute or two on a CPU
    python packages/timeseries/examples/refine_forecasts.py

Writes the forecasts of a spreadsheet (the value of the same week a year before, nothing more) for the last four years
of the weekly CO2 record and for the year after it, as a table such as any tool can write, and hands it to 'refine'. The
four years that have come to pass decide whether it helps; if it does, look at ``out/co2_refined.png``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from degauss.timeseries.cli import PROGRAM
from degauss.timeseries.datasets import co2
from degauss.timeseries.naive import seasonal_naive
from degauss.timeseries.regular import future_index, regularise

DATA = Path(__file__).parent / "data" / "co2_weekly.csv"
YEAR = 52


def spreadsheet(years: int) -> pd.DataFrame:
    """The seasonal naive forecast of each of the last years and of the next, in long form with cutoffs."""
    record = regularise(co2().series[0])
    times = np.concatenate([record.times, future_index(record, YEAR)])
    parts: list[pd.DataFrame] = []
    for k in range(years, -1, -1):
        cutoff = len(record.values) - k * YEAR
        forecast = seasonal_naive(record.values[:cutoff], YEAR, YEAR)
        ahead = times[cutoff : cutoff + YEAR]
        parts.append(
            pd.DataFrame({"unique_id": record.name, "ds": ahead, "cutoff": times[cutoff - 1], "LastYear": forecast})
        )
    return pd.concat(parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=Path("out/co2/model"))
    parser.add_argument("--out", type=Path, default=Path("out"))
    parser.add_argument("--samples", type=int, default=50)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    given = arguments.out / "co2_last_year.csv"
    spreadsheet(years=4).to_csv(given, index=False)
    words = ["refine", DATA, given, "--checkpoint", arguments.checkpoint, "--samples", arguments.samples]
    words += ["--step-size", 0.01, "--out", arguments.out / "co2_refined.csv"]
    words += ["--plot", arguments.out / "co2_refined.png"]
    print(f"$ degauss-timeseries {' '.join(map(str, words))}", flush=True)
    return PROGRAM.main([str(word) for word in words])


if __name__ == "__main__":
    sys.exit(main())
