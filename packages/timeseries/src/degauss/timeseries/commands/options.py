"""Options that several verbs share, and what they turn into."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from degauss.core.errors import InputError, check_range
from degauss.core.options import check_file, device_of, progress
from degauss.core.solvers import solver_of
from degauss.timeseries.config import GENERAL

if TYPE_CHECKING:
    from degauss.timeseries.backtest import Cut
    from degauss.timeseries.budget import Budget
    from degauss.timeseries.regular import Regular
    from degauss.timeseries.table import Table
    from degauss.timeseries.tsdiff import Sampling, TSDiff

TABLES = (".csv", ".tsv", ".parquet")


@dataclass(frozen=True, kw_only=True)
class SeriesOptions:
    """Where the series are."""

    data: Positional[Path]
    """A CSV, TSV or parquet file: long (unique_id, ds, y, or names given below) or wide (a column a series)."""
    id: str | None = None
    """Column that says which series a row belongs to."""
    time: str | None = None
    """Column of time stamps (dates, or whole numbers)."""
    target: str | None = None
    """Column of values."""
    freq: str | None = None
    """Step of the series, as pandas writes it (h, D, B, W-SAT, MS, 15min, ...); found from the data unless given."""

    def read(self) -> tuple[Table, list[Regular]]:
        """The table, and its series on their regular grids."""
        from degauss.timeseries.regular import regularise
        from degauss.timeseries.table import read_table

        table = read_table(self.data, id=self.id, time=self.time, target=self.target)
        return table, [regularise(series, self.freq) for series in table.series]


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How a model is sampled."""

    checkpoint: Path | None = None
    """A model written by 'train'; the general one that ships with the package unless given."""
    samples: int = 100
    """Sample paths for each series."""
    steps: int = 50
    """Network evaluations for each sample."""
    solver: Literal["ddim", "dpmpp", "ancestral"] = "ancestral"
    """How the reverse process is solved: the paper's ancestral sampler, DDIM, or DPM-Solver++(2M).

    The first wants more steps and is better for it (see the claims); the others are for a quick look.
    """
    likelihood: Literal["quantile", "mean-square"] = "quantile"
    """How observations are believed: each sample to its own quantile (TSDiff-Q), or in the mean square (TSDiff-MS)."""
    form: Literal["searched", "published"] = "searched"
    """Guidance with a line search, or exactly as in the paper (which wants a smaller --guidance and more steps)."""
    guidance: float | None = None
    """Strength of the observations, with a search the largest tried; the checkpoint's own unless given."""
    seconds: float | None = None
    """Time to spend, about: 'forecast' and 'backtest' try which steps and samples are worth most in it, on windows that
    nothing is scored on, and say what was lost; 'impute' takes fewer steps and then fewer samples."""
    seed: int = 0
    """Everything random follows from it."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""

    def load(self) -> TSDiff:
        """The model on its device."""
        from degauss.timeseries.tsdiff import TSDiff

        device = device_of(self.device)
        model = TSDiff.load(GENERAL if self.checkpoint is None else self.checkpoint)
        model.network.to(device)
        return model

    def asked(self, model: TSDiff) -> Sampling:
        """The sampling asked for, whatever time it takes."""
        from degauss.timeseries.tsdiff import Sampling

        check_range("steps", self.steps, 1, model.config.steps)
        if self.guidance is not None:
            check_range("guidance", self.guidance, 0)
        return Sampling(
            samples=self.samples,
            steps=self.steps,
            likelihood=self.likelihood,
            form=self.form,
            guidance=self.guidance,
            solver=solver_of(self.solver),
            seed=self.seed,
        )

    def sampling(self, model: TSDiff, windows: int) -> Sampling:
        """The sampling asked for, made to fit ``seconds`` where ``windows`` windows are to be drawn."""
        from degauss.timeseries.budget import within

        asked = self.asked(model)
        return asked if self.seconds is None else within(model, windows, asked, self.seconds)

    def budget(self, model: TSDiff, validation: Sequence[Cut], windows: int) -> Budget | None:
        """What to take for ``seconds``, chosen on windows that may be looked at; None where time is not limited."""
        from degauss.timeseries.budget import choose

        if self.seconds is None:
            return None
        with progress("choosing steps and samples") as report:
            return choose(model, validation, windows, self.asked(model), self.seconds, report)


def check_output(path: Path, suffixes: tuple[str, ...], data: Path) -> None:
    """`InputError` unless a file of one of these suffixes can be written there; it must not replace ``data``."""
    check_file(path, suffixes)
    if path.resolve() == data.resolve():
        raise InputError(f"{path}: is the file that the series are read from; expected another name to write to.")


def check_levels(levels: tuple[float, ...]) -> tuple[float, ...]:
    """Quantile levels in ascending order; `InputError` unless all lie strictly between 0 and 1."""
    if not levels or any(not 0 < level < 1 for level in levels):
        raise InputError(f"quantiles must lie strictly between 0 and 1, but are {levels}.")
    return tuple(sorted(set(levels)))


def per_series(path: Path, names: list[str]) -> list[Path]:
    """A file for each series: the path itself for one, PATH-NAME.png for several."""
    if len(names) == 1:
        return [path]
    safe = ["".join(c if c.isalnum() or c in "-_." else "_" for c in name) for name in names]
    if len(set(safe)) < len(safe):
        safe = [f"{name}-{k}" for k, name in enumerate(safe)]
    return [path.with_name(f"{path.stem}-{name}{path.suffix}") for name in safe]
