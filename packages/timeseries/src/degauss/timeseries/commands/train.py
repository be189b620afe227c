"""`degauss-timeseries train`: a TSDiff model of one's own series."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from degauss.core.errors import InputError, check_range
from degauss.core.options import check_directory
from degauss.timeseries.commands.options import SeriesOptions


@dataclass(frozen=True, kw_only=True)
class Train(SeriesOptions):
    """Train TSDiff on every series of a file. Stop it and run it again: it goes on where it stopped.

    The defaults train in minutes on a CPU. The model is written to OUT/model, for --checkpoint of the other verbs.
    """

    out: Path = Path("runs/tsdiff")
    """Directory of the run: checkpoints, metrics.jsonl, and at the end the model."""
    horizon: int = 24
    """Longest forecast the model will be asked for."""
    context: int = 168
    """Values it looks back on."""
    min_context: int | None = None
    """Fewest observed values a forecast needs; the context unless given."""
    lags: tuple[int, ...] = ()
    """Earlier values given beside each value, in steps: whole seasons work well (24 48 168 for hours)."""
    scaling: Literal["mean", "standard"] = "standard"
    """Units of the model: the mean absolute value of a window (the paper's), or its mean and standard deviation."""
    guidance: float = 64.0
    """Strength of the observations that the model is used with by default."""
    hold_out: int | None = None
    """Values at the end of each series to keep from training, for an honest backtest; the horizon unless given."""
    steps: int = 1500
    """Training steps."""
    batch: int = 64
    """Windows a step."""
    lr: float = 2e-3
    """Peak learning rate."""
    hidden: int = 64
    """Width of the network."""
    blocks: int = 3
    """Residual blocks of the network."""
    state: int = 64
    """Order of its state space models; the paper's is 128."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Mixed precision, on a GPU."""
    seed: int = 0
    """Everything random follows from it."""
    device: Literal["auto", "cpu"] = "auto"
    """The accelerator if there is one, or the CPU."""

    def run(self) -> None:
        from degauss.core.cli import write_resolved_config
        from degauss.timeseries.config import TSDiffConfig
        from degauss.timeseries.training import fit, recipe

        check_directory(self.out)
        _, records = self.read()
        config = TSDiffConfig(
            context=self.context,
            horizon=self.horizon,
            lags=self.lags,
            scaling=self.scaling,
            guidance=self.guidance,
            min_context=self.context if self.min_context is None else self.min_context,
            hidden=self.hidden,
            blocks=self.blocks,
            state=self.state,
        )
        held = self.horizon if self.hold_out is None else self.hold_out
        check_range("hold_out", held, 0)
        longest = max(len(record.values) for record in records)
        if longest < config.min_context + self.horizon + held:
            raise InputError(
                f"{self.data}: the longest series has {longest} values; expected at least min_context "
                f"{config.min_context} + horizon {self.horizon} + hold_out {held}."
            )
        series = [record.values[: max(0, len(record.values) - held)] for record in records]
        settings = recipe(
            self.out,
            steps=self.steps,
            batch=self.batch,
            lr=self.lr,
            seed=self.seed,
            precision=self.precision,
            device=self.device,
            tracker="tensorboard",
        )
        write_resolved_config(self.out / "train.toml", self)
        fit(config, series, settings)
        print(f"wrote {self.out / 'model'} after {self.steps} steps")
