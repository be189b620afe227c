"""The command line `degauss-timeseries`."""

from __future__ import annotations

from degauss.core.cli import Program, Verb

PROGRAM = Program(
    name="degauss-timeseries",
    summary="diffusion models for time series",
    verbs={
        "train": Verb("degauss.timeseries.commands.train:Train", "Train a model on your series"),
        "forecast": Verb("degauss.timeseries.commands.forecast:Forecast", "Forecast with quantiles"),
        "impute": Verb("degauss.timeseries.commands.impute:Impute", "Fill in what is missing"),
        "backtest": Verb("degauss.timeseries.commands.backtest:Backtest", "Score against naive forecasts"),
    },
)


def main() -> int:
    """Run the command line and return its exit status."""
    return PROGRAM.main()
