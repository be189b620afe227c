"""`degauss-timeseries backtest`: score a model against naive forecasts on the past of one's own series."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from degauss.timeseries.commands.options import SamplingOptions, SeriesOptions, check_output, progress

if TYPE_CHECKING:
    from degauss.timeseries.forecasting import Backtest as Result


@dataclass(frozen=True, kw_only=True)
class Backtest(SeriesOptions, SamplingOptions):
    """Forecast stretches of the past from what came before them, and score TSDiff beside the naive forecasts."""

    horizon: int = 24
    """Steps ahead."""
    windows: int = 4
    """Stretches to forecast in each series, the last one ending with it."""
    step: int | None = None
    """Distance between the stretches; the horizon unless given."""
    out: Path = Path("backtest.json")
    """Where the scores go; the settings go to the same name in .toml."""
    plot: Path | None = None
    """Draw a histogram of the probability integral transform (.png), flat for a calibrated forecast."""

    def run(self) -> None:
        import numpy as np

        from degauss.core.cli import write_resolved_config
        from degauss.timeseries import metrics, plots
        from degauss.timeseries.commands.forecast import facts
        from degauss.timeseries.forecasting import MODEL, backtest

        check_output(self.out, (".json",), self.data)
        if self.plot is not None:
            check_output(self.plot, (".png",), self.data)
        _, records = self.read()
        model = self.load()
        sampling = self.sampling(model, len(records) * self.windows)
        with progress("backtesting") as report:
            result = backtest(
                model, records, self.horizon, sampling, windows=self.windows, step=self.step, report=report
            )
        write_report(self.out, result)
        write_resolved_config(self.out.with_suffix(".toml"), self, **facts(self, sampling.steps, sampling.samples))
        print_scores(result)
        print(result.verdict())
        print(f"wrote {self.out}")
        if self.plot is not None:
            ranks = [metrics.pit(scored.target, scored.samples[MODEL]) for scored in result.windows]
            plots.pit_histogram(self.plot, np.concatenate(ranks), title="TSDiff, all windows")
            print(f"wrote {self.plot}")


def write_report(path: Path, result: Result) -> None:
    """Write the scores as JSON, with null for those that do not exist (of a target that is all zero, say)."""
    from degauss.core.checkpoint import atomic_path, write_json

    with atomic_path(path) as part:
        write_json(part, _finite(report_of(result)))


def _finite(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _finite(value) for key, value in cast("dict[str, Any]", node).items()}
    if isinstance(node, list):
        return [_finite(value) for value in cast("list[Any]", node)]
    return None if isinstance(node, float) and not math.isfinite(node) else node


def report_of(result: Result) -> dict[str, Any]:
    """The scores together by method, and window by window."""
    from degauss.timeseries.forecasting import LAST_VALUE, MODEL, SEASONAL_NAIVE

    methods = (MODEL, LAST_VALUE, SEASONAL_NAIVE)
    return {
        "verdict": result.verdict(),
        "mean_weighted_quantile_loss": {method: result.loss(method) for method in methods},
        "skill": {method: result.skill(method) for method in methods[1:]},
        "windows": [
            {"series": scored.series, "cutoff_index": scored.cutoff, "scores": dict(scored.scores)}
            for scored in result.windows
        ],
    }


def print_scores(result: Result) -> None:
    """A table of the scores by method."""
    from rich.console import Console
    from rich.table import Table

    from degauss.timeseries.forecasting import LAST_VALUE, MODEL, SEASONAL_NAIVE

    table = Table("", "weighted quantile loss", "CRPS", "MASE", "inside 80 %")
    for method in (MODEL, LAST_VALUE, SEASONAL_NAIVE):
        means = [result.mean(method, score) for score in ("crps", "mase", "coverage_80")]
        table.add_row(method, f"{result.loss(method):.4g}", *(f"{value:.4g}" for value in means))
    Console().print(table)
