"""The command line `degauss-timeseries`."""

from __future__ import annotations

from degauss.core.cli import Program, Verb

PROGRAM = Program(
    name="degauss-timeseries",
    summary="diffusion models for time series",
    verbs={
        "train": Verb("degauss.timeseries.commands.train:Train", "Train TSDiff, one model of your series"),
        "forecast": Verb("degauss.timeseries.commands.forecast:Forecast", "Forecast with quantiles"),
        "backtest": Verb("degauss.timeseries.commands.backtest:Backtest", "Score forecasts against naive ones"),
        "refine": Verb("degauss.timeseries.commands.refine:Refine", "Refine anybody's forecasts, if that helps"),
        "impute": Verb("degauss.timeseries.commands.impute:Impute", "Fill in what is missing"),
        "synthesize": Verb("degauss.timeseries.commands.synthesize:Synthesize", "Draw stretches like your series"),
        "train-imputer": Verb(
            "degauss.timeseries.commands.csdi:TrainImputer", "Train CSDI on series measured together"
        ),
        "repair": Verb("degauss.timeseries.commands.recordings:Repair", "Fill in what is bad of an EEG recording"),
        "train-generator": Verb("degauss.timeseries.commands.generate:TrainGenerator", "Train PaD-TS on a table"),
        "generate": Verb("degauss.timeseries.commands.generate:Generate", "Draw windows of its columns together"),
        "card": Verb("degauss.timeseries.commands.generate:MakeCard", "Judge synthetic windows against real ones"),
        "train-classifier": Verb(
            "degauss.timeseries.commands.classify:TrainClassifier", "Train a neural SDE that tells classes apart"
        ),
        "classify": Verb("degauss.timeseries.commands.classify:Classify", "Say of which class each series is"),
    },
)


def main() -> int:
    """Run the command line and return its exit status."""
    return PROGRAM.main()
