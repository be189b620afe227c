"""The demonstration: a model of the weekly CO2 record of Mauna Loa, its forecast, and how good it is.

    python packages/timeseries/examples/demo.py

Trains a small TSDiff on the record without its last four years (a minute or two on a CPU), scores it on those years
beside the naive forecasts, forecasts the year that follows, and fills the record's real gaps. Everything lands in
``out/``; look at ``out/co2_forecast.png`` first. The same from a shell, for a table of one's own:

    degauss-timeseries train co2_weekly.csv --out out/co2 --horizon 52 --context 156 --lags 52 --hold-out 208
    degauss-timeseries forecast co2_weekly.csv --checkpoint out/co2/model --horizon 52 --plot out/co2_forecast.png
"""

from __future__ import annotations

import sys
from pathlib import Path

from degauss.timeseries.cli import PROGRAM

DATA = str(Path(__file__).parent / "data" / "co2_weekly.csv")
OUT = Path("out")
MODEL = str(OUT / "co2" / "model")


def commands() -> list[list[str]]:
    """What is run, one command line each."""
    sizes = "--horizon 52 --context 156 --min-context 100 --lags 52 --hold-out 208 --steps 500 --batch 32"
    chart, gaps = OUT / "co2_forecast.png", OUT / "co2_gaps.png"
    use = ["--checkpoint", MODEL, "--samples", "50"]
    return [
        ["train", DATA, "--out", str(OUT / "co2"), *sizes.split()],
        ["backtest", DATA, *use, "--horizon", "52", "--windows", "4", "--out", str(OUT / "co2_backtest.json")],
        ["forecast", DATA, *use, "--horizon", "52", "--backtest", "0", *where(chart)],
        ["impute", DATA, *use, *where(gaps)],
    ]


def where(picture: Path) -> list[str]:
    """The options for a picture and the table beside it."""
    return ["--out", str(picture.with_suffix(".csv")), "--plot", str(picture)]


def main() -> int:
    """Run the commands until one fails."""
    for words in commands():
        print(f"\n$ degauss-timeseries {' '.join(words)}", flush=True)
        if status := PROGRAM.main(words):
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
