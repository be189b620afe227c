"""`degauss-timeseries synthesize`: synthetic windows of one's series, and what they are worth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from degauss.core.errors import check_range
from degauss.core.options import progress
from degauss.core.solvers import solver_of
from degauss.timeseries.commands.options import TABLES, SamplingOptions, SeriesOptions, check_output

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from degauss.timeseries.synthesis import Real
    from degauss.timeseries.table import Table
    from degauss.timeseries.tsdiff import TSDiff, Windows


@dataclass(frozen=True, kw_only=True)
class Synthesize(SeriesOptions):
    """Draw windows that look like stretches of the series, and score forecasters that are trained on them.

    Each synthetic window has the level and the size of a real window drawn at random. The scores are those of
    forecasters trained on synthetic windows and tested on the ends of the real series, beside the same trained on as
    many real windows from before these ends. A model that was trained on the ends as well flatters itself: 'train' has
    --hold-out.
    """

    windows: int = 1000
    """How many to draw."""
    checkpoint: Path | None = None
    """A model written by 'train'; the general one that ships with the package unless given."""
    out: Path = Path("synthetic.csv")
    """Where they go: long (.csv, .tsv or .parquet), or arrays (.npz); settings and scores take the same name in .toml
    and .json."""
    test: int = 4
    """Stretches at the end of each series, a horizon apart, to test on."""
    steps: int | None = None
    """Network evaluations for each window; all that the model was trained with unless given."""
    solver: Literal["ddim", "dpmpp", "ancestral"] = "ancestral"
    """How the reverse process is solved."""
    seed: int = 0
    """Everything random follows from it."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""

    def run(self) -> None:
        from degauss.core.cli import write_resolved_config
        from degauss.core.files import atomic_path, fingerprint, write_json
        from degauss.timeseries.config import GENERAL
        from degauss.timeseries.synthesis import generate, held_out, real_windows

        check_output(self.out, (*TABLES, ".npz"), self.data)
        check_range("windows", self.windows, 1)
        table, records = self.read()
        model = SamplingOptions(checkpoint=self.checkpoint, device=self.device).load()
        test = held_out(records, model.config, self.test)
        before = [record.values[: len(record.values) - self.test * model.config.horizon] for record in records]
        real = real_windows(model, before, self.windows, self.seed)
        with progress("drawing windows") as report:
            scaled = generate(
                model, self.windows, steps=self.steps, solver=solver_of(self.solver), seed=self.seed, report=report
            )
        scores = self.scores(model, scaled, real, test)
        self.write(table, scaled, model, real)
        checkpoint = GENERAL if self.checkpoint is None else self.checkpoint
        write_resolved_config(self.out.with_suffix(".toml"), self, checkpoint_sha256=fingerprint(checkpoint))
        with atomic_path(self.out.with_suffix(".json")) as part:
            write_json(part, scores)
        print(f"wrote {self.out}: {self.windows} windows of {model.config.length} values")
        print_scores(scores)

    def scores(self, model: TSDiff, scaled: NDArray[np.float64], real: Windows, test: Real) -> dict[str, Any]:
        """The loss of each forecaster by what it was trained on, and of the last value."""
        import numpy as np

        from degauss.timeseries import metrics
        from degauss.timeseries.synthesis import QuantileNetwork, in_model_units, predictive_score, ridge

        trained = {"synthetic windows": scaled, "real windows": in_model_units(model, real)}
        scaling = model.config.scaling
        last = np.broadcast_to(test.known[:, -1:], test.target.shape)
        return {
            "what": "mean weighted quantile loss on real windows of forecasters trained on each; lower is better",
            "linear predictor (LPS)": {
                name: predictive_score(windows, test, scaling, ridge) for name, windows in trained.items()
            },
            "quantile network": {
                name: predictive_score(windows, test, scaling, QuantileNetwork(self.seed))
                for name, windows in trained.items()
            },
            "last value": metrics.nd(test.target, last),
            "training windows": {name: len(windows) for name, windows in trained.items()},
            "test windows": len(test.target),
        }

    def write(self, table: Table, scaled: NDArray[np.float64], model: TSDiff, real: Windows) -> None:
        """The windows in data units, as a table or with their units as arrays."""
        from dataclasses import replace

        import numpy as np

        from degauss.core.files import atomic_path
        from degauss.timeseries.regular import Series
        from degauss.timeseries.synthesis import in_data_units
        from degauss.timeseries.table import write_series

        scale = model.scale(real)
        values = in_data_units(scaled, scale)
        if self.out.suffix.lower() == ".npz":
            with atomic_path(self.out) as part:
                np.savez(part, values=values, centre=scale.centre.numpy(), width=scale.width.numpy())
            return
        times = np.arange(values.shape[1])
        rows = [Series(f"synthetic {k}", times, row) for k, row in enumerate(values)]
        write_series(self.out, rows, replace(table, integer_ids=False))


def print_scores(scores: dict[str, Any]) -> None:
    """A table of the scores, and the last value as what to beat."""
    from rich.console import Console
    from rich.table import Table

    shown = Table("forecaster", "trained on synthetic windows", "trained on real windows")
    for name in ("linear predictor (LPS)", "quantile network"):
        shown.add_row(name, *(f"{scores[name][kind]:.4g}" for kind in ("synthetic windows", "real windows")))
    Console().print(shown)
    print(f"weighted quantile loss on {scores['test windows']} real windows; last value {scores['last value']:.4g}")
