"""`degauss-timeseries impute`: fill the gaps of every series in a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from degauss.core.options import progress
from degauss.timeseries.commands.options import (
    TABLES,
    SamplingOptions,
    SeriesOptions,
    check_levels,
    check_output,
    per_series,
)

if TYPE_CHECKING:
    from degauss.timeseries.commands.csdi import Fills
    from degauss.timeseries.regular import Regular


@dataclass(frozen=True, kw_only=True)
class Impute(SeriesOptions, SamplingOptions):
    """Fill what is missing between the first and the last time of every series, with quantiles.

    A model of 'train' fills each series by itself, one of 'train-imputer' all of them together.
    """

    out: Path = Path("imputed.csv")
    """Where the filled-in values go (.csv, .tsv or .parquet); the settings go to the same name in .toml."""
    complete: Path | None = None
    """Write the whole series too, with gaps filled by the median (.csv, .tsv or .parquet)."""
    quantiles: tuple[float, ...] = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
    """Levels to write."""
    keep_samples: bool = False
    """Write the samples too."""
    plot: Path | None = None
    """Draw each record with its gaps filled (.png); with several series, one each."""

    def run(self) -> None:
        import numpy as np

        from degauss.core.cli import write_resolved_config
        from degauss.core.errors import InputError
        from degauss.timeseries import plots
        from degauss.timeseries.commands.csdi import fill_together, is_imputer
        from degauss.timeseries.commands.forecast import facts
        from degauss.timeseries.regular import Series
        from degauss.timeseries.table import Forecast as Rows
        from degauss.timeseries.table import write_forecasts, write_series

        check_output(self.out, TABLES, self.data)
        if self.complete is not None:
            check_output(self.complete, TABLES, self.data)
        if self.plot is not None:
            check_output(self.plot, (".png",), self.data)
        levels = check_levels(self.quantiles)
        table, records = self.read()
        if not any(np.isnan(record.values).any() for record in records):
            raise InputError(f"{self.data}: nothing is missing; expected at least one gap to fill.")
        fills = fill_together(self, records) if is_imputer(self.checkpoint) else self.fill_each(records)
        rows: list[Rows] = []
        whole: list[Series] = []
        for record, filled in zip(records, fills.filled, strict=True):
            values = record.values.copy()
            if len(filled.gaps):
                quantiles = np.quantile(filled.samples, levels, axis=0)
                values[filled.gaps] = np.median(filled.samples, axis=0)
                rows.append(
                    Rows(
                        name=record.name,
                        times=record.times[filled.gaps],
                        mean=filled.samples.mean(0),
                        levels=levels,
                        quantiles=quantiles,
                        samples=filled.samples if self.keep_samples else None,
                        timezone=record.timezone,
                    )
                )
            whole.append(Series(record.name, record.times, values, record.timezone))
        write_forecasts(self.out, rows, table)
        write_resolved_config(self.out.with_suffix(".toml"), self, **facts(self, fills.steps, fills.samples))
        print(f"wrote {self.out}: {sum(len(row.times) for row in rows)} values filled in {len(rows)} series")
        if self.complete is not None:
            write_series(self.complete, whole, table)
            print(f"wrote {self.complete}")
        if self.plot is not None:
            gappy = [record for record in records if np.isnan(record.values).any()]
            paths = per_series(self.plot, [record.name for record in gappy])
            for path, record, row in zip(paths, gappy, rows, strict=True):
                spread = np.full((len(levels), len(record.values)), np.nan)
                spread[:, np.isnan(record.values)] = row.quantiles
                plots.imputation_plot(
                    path, record.times, record.values, levels, spread, title=record.name, y_label=table.target,
                    timezone=record.timezone,
                )  # fmt: skip
                print(f"wrote {path}")

    def fill_each(self, records: Sequence[Regular]) -> Fills:
        """Samples of every gap of each record by itself, from a TSDiff model."""
        from degauss.timeseries.commands.csdi import Fills
        from degauss.timeseries.imputation import Filled, impute

        model = self.load()
        length = model.config.length
        sampling = self.sampling(model, sum(1 + 2 * len(record.values) // length for record in records))
        filled: list[Filled] = []
        for record in records:
            with progress(f"imputing {record.name}") as report:
                filled.append(impute(model, record, sampling, report))
        return Fills(filled, sampling.steps, sampling.samples)
