"""`degauss-timeseries refine`: other people's forecasts, made better by a model of the series, or refused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from degauss.core.errors import InputError, check_range, near_miss
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
    import numpy as np
    from numpy.typing import NDArray

    from degauss.timeseries.refinement import Case, Judgement, Refining
    from degauss.timeseries.regular import Regular
    from degauss.timeseries.table import Table
    from degauss.timeseries.tsdiff import TSDiff


@dataclass(frozen=True, kw_only=True)
class Refine(SeriesOptions):
    """Refine the forecasts in a table, whoever made them, if that helps: it is tried on the past first.

    Forecasts of several cutoffs are tried on those that have come to pass. Otherwise naive forecasts of past windows
    stand in for them. Where refining does not lower the CRPS, or the same steps lower it more without the model, the
    scores are given and nothing is written.
    """

    forecasts: Positional[Path]
    """Their table: the ids and times of the series, and samples (sample_0, ...), quantiles (q0.1, ...), intervals
    (Model-lo-90, Model-hi-90, ...) or one column of numbers; a column cutoff where there are several of a series."""
    column: str | None = None
    """The model to take of a table with several, or the column that holds the forecast."""
    checkpoint: Path | None = None
    """A model written by 'train'; the general one that ships with the package unless given."""
    out: Path = Path("refined.csv")
    """Where they go (.csv, .tsv or .parquet); settings and scores take the same name in .toml and .json."""
    quantiles: tuple[float, ...] = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
    """Levels to write."""
    keep_samples: bool = False
    """Write the refined draws too."""
    plot: Path | None = None
    """Draw a fan chart of each series' last forecast, refined (.png)."""
    backtest: int = 4
    """Past windows of each series to try it on, where the table holds no past forecasts."""
    samples: int = 100
    """Draws of each refined forecast."""
    likelihood: Literal["quantile", "mean-square"] = "quantile"
    """What holds a forecast near to what it was: each draw its own quantile; or the history alone, mean-square."""
    gamma: float = 0.1
    """Size of the noise of Langevin Monte Carlo; 0 for maximum likelihood."""
    step_size: float = 0.1
    """Length of a step; very regular series want less (0.01 for exchange rates in the paper)."""
    iterations: int = 20
    """Steps, of one network evaluation and its gradient each."""
    strength: float = 1.0
    """Weight of what holds a forecast where it was, against the model."""
    seed: int = 0
    """Everything random follows from it."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""

    def run(self) -> None:
        from degauss.timeseries.refinement import judge, refine, representative_step, spread_out, without_model

        for data in (self.data, self.forecasts):
            check_output(self.out, TABLES, data)
            if self.plot is not None:
                check_output(self.plot, (".png",), data)
        levels = check_levels(self.quantiles)
        check_range("backtest", self.backtest, 1)
        refining = self.refining()
        table, records = self.read()
        model = SamplingOptions(checkpoint=self.checkpoint, device=self.device).load()
        cases = self.cases(records, model.config.horizon)
        step = representative_step(model, spread_out(model, [record.values for record in records]), self.seed)
        own = [k for k, case in enumerate(cases) if has_come(case)]
        what, trial = ("these forecasts", [cases[k] for k in own]) if own else self.stand_ins(model, cases)
        with progress("trying it on the past") as report:
            tried = refine(model, trial, step, refining, report)
        with progress("and without the model") as report:
            control = refine(without_model(model), trial, step, refining, report)
        judgement = judge(trial, tried, control, what)
        if not judgement.helps:
            raise InputError(refusal(judgement))
        refined = dict(zip(own, tried, strict=True)) if own else {}
        rest = [k for k in range(len(cases)) if k not in refined]
        if rest:
            with progress("refining") as report:
                drawn = refine(model, [cases[k] for k in rest], step, refining, report)
            refined |= dict(zip(rest, drawn, strict=True))
        samples = [refined[k] for k in range(len(cases))]
        self.write(table, cases, samples, levels, judgement, step)
        print(judgement.verdict())

    def refining(self) -> Refining:
        from degauss.timeseries.refinement import Refining

        return Refining(
            samples=self.samples,
            likelihood=self.likelihood,
            gamma=self.gamma,
            step_size=self.step_size,
            iterations=self.iterations,
            strength=self.strength,
            seed=self.seed,
        )

    def cases(self, records: Sequence[Regular], horizon: int) -> list[Case]:
        """The forecasts of the table, each with its series and its place in it."""
        from degauss.timeseries.forecast_table import place, read_forecasts
        from degauss.timeseries.refinement import Case

        known = {record.name: record for record in records}
        found: list[Case] = []
        for given in read_forecasts(self.forecasts, id=self.id, time=self.time, column=self.column, draws=self.samples):
            name = records[0].name if given.name is None and len(records) == 1 else given.name
            if name is None:
                raise InputError(
                    f"{self.forecasts}: has no id column, but {self.data} has {len(records)} series; expected one."
                )
            if name not in known:
                raise InputError(
                    f"{self.forecasts}: forecasts series {name!r}{near_miss(name, known)}, which is not in {self.data}."
                )
            found.append(Case(known[name], place(self.forecasts, given, known[name], horizon), given.samples))
        return found

    def stand_ins(self, model: TSDiff, cases: Sequence[Case]) -> tuple[str, list[Case]]:
        """Naive forecasts of past windows, as sharp as these forecasts are, and what to call them."""
        from degauss.timeseries.backtest import cuts, seen_among
        from degauss.timeseries.forecasting import check_horizon
        from degauss.timeseries.refinement import stand_ins

        horizon = max(case.samples.shape[1] for case in cases)
        check_horizon(model, horizon)
        records = list({case.record.name: case.record for case in cases}.values())
        enough = seen_among(model.config.min_context, model.config.context)
        found = cuts(records, horizon, windows=self.backtest, enough=enough)
        if not found:
            raise InputError(
                f"{self.data}: no series is long enough to try refining on its past; expected at least "
                f"{model.config.min_context} observed values and then {horizon} more."
            )
        draws = 1 if all(len(case.samples) == 1 for case in cases) else self.samples
        name, trial = stand_ins(found, horizon, draws)
        return f"{name}, which stands in for these forecasts", trial

    def write(
        self,
        table: Table,
        cases: Sequence[Case],
        samples: Sequence[NDArray[np.float64]],
        levels: tuple[float, ...],
        judgement: Judgement,
        step: int,
    ) -> None:
        """The table, its settings and scores, and the pictures."""
        import numpy as np

        from degauss.core.cli import write_resolved_config
        from degauss.core.files import atomic_path, fingerprint, write_json
        from degauss.timeseries import plots
        from degauss.timeseries.config import GENERAL
        from degauss.timeseries.regular import grid_times
        from degauss.timeseries.table import Forecast, write_forecasts

        rows: list[Forecast] = []
        for (record, cutoff, given), drawn in zip(cases, samples, strict=True):
            grid = grid_times(record.start, record.step, cutoff + given.shape[1])
            rows.append(
                Forecast(
                    name=record.name,
                    times=grid[cutoff:],
                    mean=drawn.mean(0),
                    levels=levels,
                    quantiles=np.quantile(drawn, levels, axis=0),
                    samples=drawn if self.keep_samples else None,
                    cutoff=grid[cutoff - 1],
                    timezone=record.timezone,
                )
            )
        write_forecasts(self.out, rows, table)
        checkpoint = GENERAL if self.checkpoint is None else self.checkpoint
        facts = {"checkpoint_sha256": fingerprint(checkpoint), "representative_step": step}
        write_resolved_config(self.out.with_suffix(".toml"), self, **facts)
        with atomic_path(self.out.with_suffix(".json")) as part:
            scores = {"given": judgement.given, "refined": judgement.refined, "without_model": judgement.without}
            about = {"verdict": judgement.verdict(), "windows": judgement.cases, "judged_on": judgement.what}
            write_json(part, about | {"mean_weighted_quantile_loss": scores})
        print(f"wrote {self.out}: {len(rows)} forecasts, {len(samples[0])} draws each")
        if self.plot is None:
            return
        last = {case.record.name: k for k, case in enumerate(cases)}
        for path, k in zip(per_series(self.plot, list(last)), last.values(), strict=True):
            case, row = cases[k], rows[k]
            shown = slice(max(0, case.cutoff - max(4 * len(row.times), 60)), case.cutoff)
            actual = None if np.isnan(case.target).all() else case.target
            plots.fan_chart(
                path, case.record.times[shown], case.record.values[shown], row.times, levels, row.quantiles,
                samples=samples[k], actual=actual, title=f"{row.name}: refined", y_label=table.target,
                timezone=row.timezone,
            )  # fmt: skip
            print(f"wrote {path}")


def has_come(case: Case) -> bool:
    """Whether what was forecast is known by now, some of it at least."""
    import numpy as np

    return case.cutoff + case.samples.shape[1] <= len(case.record.values) and not np.isnan(case.target).all()


def refusal(judgement: Judgement) -> str:
    """Why nothing is written."""
    if math.isnan(judgement.given):
        return "refining cannot be judged here, as all past targets are zero; nothing was written."
    said = judgement.verdict()
    return (
        f"{said[0].lower()}{said[1:-1]}; nothing was written. A smaller --step-size may help, or a model trained on "
        "these series ('degauss-timeseries train')."
    )
