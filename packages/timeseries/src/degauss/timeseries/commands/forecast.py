"""`degauss-timeseries forecast`: quantiles of the future of every series in a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from degauss.core.options import progress
from degauss.timeseries.commands.options import (
    TABLES,
    SamplingOptions,
    SeriesOptions,
    check_levels,
    check_output,
    per_series,
)


@dataclass(frozen=True, kw_only=True)
class Forecast(SeriesOptions, SamplingOptions):
    """Forecast every series of a file, and say whether the forecast beats the naive ones on their own past."""

    horizon: int = 24
    """Steps ahead."""
    out: Path = Path("forecast.csv")
    """Where the forecast goes (.csv, .tsv or .parquet); settings and scores take the same name in .toml and .json."""
    quantiles: tuple[float, ...] = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
    """Levels to write."""
    keep_samples: bool = False
    """Write the sample paths too."""
    plot: Path | None = None
    """Draw a fan chart (.png); with several series, one each."""
    backtest: int = 2
    """Windows of each series' own past to score the model on; 0 for none."""

    def run(self) -> None:
        import numpy as np

        from degauss.core.cli import write_resolved_config
        from degauss.core.errors import check_range
        from degauss.timeseries import plots
        from degauss.timeseries.backtest import backtest, before, cuts
        from degauss.timeseries.commands.backtest import NAME, enough_for, forecaster, write_report
        from degauss.timeseries.forecasting import forecast
        from degauss.timeseries.regular import future_index
        from degauss.timeseries.table import Forecast as Rows
        from degauss.timeseries.table import write_forecasts

        check_output(self.out, TABLES, self.data)
        if self.plot is not None:
            check_output(self.plot, (".png",), self.data)
        levels = check_levels(self.quantiles)
        check_range("backtest", self.backtest, 0)
        table, records = self.read()
        model = self.load()
        enough = enough_for(model, self.horizon)
        past = cuts(records, self.horizon, windows=max(self.backtest, 1), enough=enough)
        found = past if self.backtest else []
        budget = self.budget(model, before(found, enough) if found else past, len(records) + len(found))
        sampling = self.asked(model) if budget is None else budget.taken
        with progress("forecasting") as report:
            drawn = forecast(model, records, self.horizon, sampling, report)
        result = None
        if found:
            with progress("backtesting") as report:
                result = backtest(NAME, forecaster(model, self.horizon, sampling, report), found)
        rows = [
            Rows(
                name=record.name,
                times=future_index(record, self.horizon),
                mean=samples.mean(0),
                levels=levels,
                quantiles=np.quantile(samples, levels, axis=0),
                samples=samples if self.keep_samples else None,
                cutoff=record.times[-1],
                timezone=record.timezone,
            )
            for record, samples in zip(records, drawn, strict=True)
        ]
        write_forecasts(self.out, rows, table)
        write_resolved_config(self.out.with_suffix(".toml"), self, **facts(self, sampling.steps, sampling.samples))
        print(f"wrote {self.out}: {len(rows)} series, {self.horizon} steps, {sampling.samples} samples each")
        if self.plot is not None:
            paths = per_series(self.plot, [record.name for record in records])
            for path, record, row, samples in zip(paths, records, rows, drawn, strict=True):
                shown = slice(-max(4 * self.horizon, 60), None)
                plots.fan_chart(
                    path, record.times[shown], record.values[shown], row.times, levels, row.quantiles,
                    samples=samples, title=f"{record.name}: {self.horizon} steps ahead", y_label=table.target,
                    timezone=record.timezone,
                )  # fmt: skip
                print(f"wrote {path}")
        if budget is not None:
            print(budget.sentence())
        if result is not None or budget is not None:
            write_report(self.out.with_suffix(".json"), result, budget)
        if result is not None:
            print(result.verdict())
        elif self.backtest:
            print("No series is long enough to score the model on its own past, so how good this is remains unknown.")


def facts(options: SamplingOptions, steps: int, samples: int) -> dict[str, str | int | float]:
    """What the resolved config adds: the model's hash, and the steps and samples that were in fact taken."""
    from degauss.core.files import fingerprint
    from degauss.timeseries.config import GENERAL

    checkpoint = GENERAL if options.checkpoint is None else options.checkpoint
    return {"checkpoint_sha256": fingerprint(checkpoint), "steps_taken": steps, "samples_taken": samples}
