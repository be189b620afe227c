"""`degauss-timeseries backtest`: score a model against naive forecasts on the past of one's own series."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from degauss.core.errors import InputError, check_range
from degauss.core.options import progress
from degauss.timeseries.commands.options import TABLES, SamplingOptions, SeriesOptions, check_output, per_series

if TYPE_CHECKING:
    from degauss.timeseries.backtest import Backtest as Result
    from degauss.timeseries.backtest import Cut, Enough, Forecaster
    from degauss.timeseries.budget import Budget
    from degauss.timeseries.forecasting import Report
    from degauss.timeseries.regular import Regular
    from degauss.timeseries.table import Table
    from degauss.timeseries.tsdiff import Sampling, TSDiff

NAME = "TSDiff"
CHARTS = 8
"""Series that get a chart of their own, the first ones of the file."""


@dataclass(frozen=True, kw_only=True)
class Backtest(SeriesOptions, SamplingOptions):
    """Forecast stretches of the past from what came before them, and score TSDiff beside the naive forecasts.

    The model must not have been trained on what it is scored on: 'train' holds back --hold-out values for this.
    """

    horizon: int = 24
    """Steps ahead."""
    windows: int = 4
    """Stretches to forecast in each series, the last one ending with it."""
    step: int | None = None
    """Distance between the stretches; the horizon unless given, so that they do not overlap."""
    season: int | None = None
    """Steps in a season, for the seasonal naive forecast and MASE; the usual one of the series' step unless given."""
    out: Path = Path("backtest.json")
    """Where the scores go (.json); the settings go to the same name in .toml."""
    table: Path | None = None
    """Where every forecast goes, with its cutoff and what happened; the name of --out in .csv unless given."""
    plot: Path | None = None
    """Draw figures (.png): NAME-windows (for each of the first series), NAME-pit, NAME-missing and NAME-budget."""

    def run(self) -> None:
        from degauss.core.cli import write_resolved_config
        from degauss.timeseries.backtest import backtest, before, cuts
        from degauss.timeseries.commands.forecast import facts

        table_path = self.out.with_suffix(".csv") if self.table is None else self.table
        check_output(self.out, (".json",), self.data)
        check_output(table_path, TABLES, self.data)
        if self.plot is not None:
            check_output(self.plot, (".png",), self.data)
        if self.season is not None:
            check_range("season", self.season, 1)
        table, records = self.read()
        model = self.load()
        enough = enough_for(model, self.horizon)
        found = cuts(records, self.horizon, windows=self.windows, step=self.step, enough=enough)
        if not found:
            raise InputError(
                f"{self.data}: no series is long enough for a backtest; expected at least {model.config.min_context} "
                f"observed values and then {self.horizon} more."
            )
        budget = self.budget(model, before(found, enough), len(found))
        sampling = self.asked(model) if budget is None else budget.taken
        left_out = len(records) * self.windows - len(found)
        with progress("backtesting") as report:
            result = backtest(
                NAME, forecaster(model, self.horizon, sampling, report), found, season=self.season, left_out=left_out
            )
        write_report(self.out, result, budget)
        write_windows(table_path, result, table)
        write_resolved_config(self.out.with_suffix(".toml"), self, **facts(self, sampling.steps, sampling.samples))
        print_scores(result)
        if budget is not None:
            print(budget.sentence())
        print(result.verdict())
        print(f"wrote {self.out} and {table_path}")
        if self.plot is not None:
            for path in draw(self.plot, result, records, budget, table.target):
                print(f"wrote {path}")


def enough_for(model: TSDiff, horizon: int) -> Enough:
    """Which histories this model can forecast from; `InputError` for a horizon it was not trained for."""
    from degauss.timeseries.backtest import seen_among
    from degauss.timeseries.forecasting import check_horizon

    check_horizon(model, horizon)
    return seen_among(model.config.min_context, model.config.context)


def forecaster(model: TSDiff, horizon: int, sampling: Sampling, report: Report) -> Forecaster:
    """The model as a backtest wants it: histories in, samples out."""
    from functools import partial

    from degauss.timeseries.forecasting import forecast

    return partial(forecast, model, horizon=horizon, sampling=sampling, report=report)


def write_report(path: Path, result: Result | None, budget: Budget | None) -> None:
    """Write the scores as JSON, with null for those that do not exist (of a target that is all zero, say)."""
    from degauss.core.files import atomic_path, write_json

    told = {} if result is None else report_of(result)
    if budget is not None:
        told["budget"] = budget.report()
    with atomic_path(path) as part:
        write_json(part, _finite(told))


def _finite(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _finite(value) for key, value in cast("dict[str, Any]", node).items()}
    if isinstance(node, list):
        return [_finite(value) for value in cast("list[Any]", node)]
    return None if isinstance(node, float) and not math.isfinite(node) else node


def report_of(result: Result) -> dict[str, Any]:
    """The scores by method, all together and window by window, and how much they rest on."""
    from degauss.timeseries.metrics import pit_distance

    return {
        "verdict": result.verdict(),
        "model": result.model,
        "scores": result.scores,
        "skill": {method: result.skill(method) for method in result.methods[1:]},
        "pit_distance": {method: pit_distance(result.pit(method)) for method in result.methods},
        "targets": {"scored": result.targets, "not_observed": result.unobserved},
        "windows_left_out": result.left_out,
        "windows": [
            {
                "series": window.cut.record.name,
                "cutoff": _cutoff(window.cut),
                "cutoff_index": window.cut.index,
                "season": window.season,
                "scores": window.scores,
            }
            for window in result.windows
        ],
    }


def _cutoff(cut: Cut) -> int | str:
    from degauss.timeseries.nixtla import stamps

    last = stamps(cut.record, cut.span[:1])[0]
    return int(last) if cut.span.dtype.kind != "M" else last.isoformat(sep=" ").removesuffix(" 00:00:00")


def write_windows(path: Path, result: Result, like: Table) -> None:
    """Write every forecast of a backtest in Nixtla's layout, with the names of columns that the file has."""
    from degauss.timeseries.frames import write_frame
    from degauss.timeseries.nixtla import Columns, backtest_frame

    frame = backtest_frame(result, columns=Columns(like.id, like.time, like.target))
    if like.integer_ids:
        frame[like.id] = frame[like.id].astype("int64")
    write_frame(path, frame)


def print_scores(result: Result) -> None:
    """A table of the scores by method."""
    from rich.console import Console
    from rich.table import Table

    table = Table("", *result.methods)
    for score in result.scores[result.model]:
        table.add_row(score, *(f"{result.scores[method][score]:.4g}" for method in result.methods))
    console = Console()
    console.print(table)
    console.print(
        f"{result.targets} values in {len(result.windows)} windows; {result.unobserved} were not observed and "
        f"{result.left_out} windows could not be made, which count nowhere.",
        highlight=False,
    )


def draw(path: Path, result: Result, records: list[Regular], budget: Budget | None, unit: str) -> list[Path]:
    """The figures of a backtest, under names that begin as ``path`` does."""
    from degauss.timeseries import plots

    paths = [figure(path, "pit"), figure(path, "missing")]
    plots.pit_histogram(paths[0], result.pit(result.model), title=f"{result.model}, all windows")
    plots.missingness_map(paths[1], records)
    shown = [record for record in records if any(window.cut.record is record for window in result.windows)][:CHARTS]
    for one, record in zip(per_series(figure(path, "windows"), [record.name for record in shown]), shown, strict=True):
        windows = [window for window in result.windows if window.cut.record is record]
        start = max(windows[0].cut.index - max(4 * windows[0].cut.horizon, 60), 0)
        plots.backtest_chart(
            one,
            record.times[start:],
            record.values[start:],
            [(window.cut.span, window.samples[result.model]) for window in windows],
            title=f"{record.name}: {result.model}, {windows[0].cut.horizon} steps ahead",
            y_label=unit,
            timezone=record.timezone,
        )
        paths.append(one)
    if budget is not None and budget.chosen is not None and budget.reference is not None:
        paths.append(figure(path, "budget"))
        plots.validation_curve(
            paths[-1],
            [(trial.steps, trial.samples) for trial in budget.trials],
            [trial.crps for trial in budget.trials],
            budget.trials.index(budget.chosen),
            (f"{budget.reference.steps} x {budget.reference.samples}", budget.reference.crps),
            title=f"Steps and samples for {budget.seconds:g} s",
        )
    return paths


def figure(path: Path, name: str) -> Path:
    """NAME-name.png of NAME.png."""
    return path.with_name(f"{path.stem}-{name}{path.suffix}")
