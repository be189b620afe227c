"""`degauss-timeseries train-imputer`: a CSDI model of all series of a file together; and how `impute` uses one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from degauss.core.errors import InputError, check_range
from degauss.core.options import check_directory, device_of, progress
from degauss.core.solvers import solver_of
from degauss.timeseries.commands.options import SamplingOptions, SeriesOptions

if TYPE_CHECKING:
    from degauss.timeseries.imputation import Filled
    from degauss.timeseries.regular import Regular


@dataclass(frozen=True, kw_only=True)
class TrainImputer(SeriesOptions):
    """Train CSDI, which fills gaps, on the series of a file together. Stop it and run it again: it goes on.

    Each series is a feature: what one measures at a time tells of the others. They share one grid of times. The model
    is written to OUT/model, for --checkpoint of 'impute', and fills gaps of series of the same names.
    """

    out: Path = Path("runs/csdi")
    """Directory of the run: checkpoints, metrics.jsonl, and at the end the model."""
    length: int = 48
    """Times in a window: how far it looks around a gap."""
    hold_out: int = 0
    """Times at the end to keep from training, for an honest test."""
    steps: int = 2000
    """Training steps."""
    batch: int = 16
    """Windows a step."""
    lr: float = 1e-3
    """Peak learning rate."""
    channels: int = 32
    """Width of the network; the paper's is 64."""
    layers: int = 2
    """Residual blocks of the network; the paper's has 4."""
    heads: int = 4
    """Attention heads; the paper's has 8."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Mixed precision, on a GPU."""
    seed: int = 0
    """Everything random follows from it."""
    device: Literal["auto", "cpu"] = "auto"
    """The accelerator if there is one, or the CPU."""

    def run(self) -> None:
        from degauss.core.cli import write_resolved_config
        from degauss.timeseries.csdi_net import CSDIConfig
        from degauss.timeseries.csdi_training import fit, recipe
        from degauss.timeseries.panel import together

        check_directory(self.out)
        check_range("hold_out", self.hold_out, 0)
        _, records = self.read()
        panel = together(records)
        config = CSDIConfig(
            features=len(records),
            length=self.length,
            channels=self.channels,
            layers=self.layers,
            heads=self.heads,
            feedforward=self.channels,
        )
        kept = len(panel.times) - self.hold_out
        if kept < self.length:
            raise InputError(
                f"{self.data}: has {len(panel.times)} times; expected at least length {self.length} + "
                f"hold_out {self.hold_out}."
            )
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
        fit(config, [panel.values[:kept]], settings, [record.name for record in records], panel.step)
        print(f"wrote {self.out / 'model'} after {self.steps} steps")


class Fills(NamedTuple):
    """What was filled in of each record, and the steps and samples that it took."""

    filled: list[Filled]
    steps: int
    samples: int


def is_imputer(checkpoint: Path | None) -> bool:
    """Whether this is a CSDI model rather than a TSDiff one, or none."""
    from degauss.core.checkpoint import CONFIG
    from degauss.core.files import read_json, settled
    from degauss.timeseries.csdi import KIND

    if checkpoint is None or not (settled(checkpoint) / CONFIG).is_file():
        return False
    return read_json(settled(checkpoint) / CONFIG).get("format") == KIND


def fill_together(options: SamplingOptions, records: Sequence[Regular]) -> Fills:
    """Samples of every gap of the records, from the CSDI model that the options name."""
    import numpy as np

    from degauss.timeseries.csdi import CSDI, Imputing, impute
    from degauss.timeseries.imputation import Filled
    from degauss.timeseries.panel import together

    assert options.checkpoint is not None
    for name in ("likelihood", "form", "guidance", "seconds"):
        if getattr(options, name) != getattr(SamplingOptions, name):
            raise InputError(f"{name} is for TSDiff checkpoints, but {options.checkpoint} is a CSDI one.")
    device = device_of(options.device)
    model = CSDI.load(options.checkpoint)
    model.network.to(device)
    check_range("steps", options.steps, 1, model.config.steps)
    order = _order(model.units.names, [record.name for record in records], options.checkpoint)
    panel = together(records)
    if panel.step != model.units.step:
        raise InputError(
            f"{options.checkpoint} was trained on series of step {model.units.step!r}; expected the same, but these "
            f"are of step {panel.step!r}."
        )
    imputing = Imputing(options.samples, options.steps, solver_of(options.solver), options.seed)
    with progress("imputing") as report:
        samples = impute(model, panel.values[:, order], imputing, report)
    filled: list[Filled] = []
    for column, record in enumerate(records):
        gaps = np.flatnonzero(np.isnan(record.values))
        places = np.searchsorted(panel.times, record.times[gaps])
        filled.append(Filled(gaps, samples[:, places, order.index(column)]))
    return Fills(filled, imputing.steps, imputing.samples)


def _order(trained: Sequence[str], given: Sequence[str], checkpoint: Path) -> list[int]:
    """Where each series that a model knows is among those given; `InputError` unless they are the same."""
    for name in given:
        if name not in trained:
            raise InputError(f"{checkpoint} was not trained on series {name!r}; it knows {', '.join(trained)}.")
    for name in trained:
        if name not in given:
            raise InputError(f"{checkpoint} expects a series {name!r}, which is not among {', '.join(given)}.")
    return [given.index(name) for name in trained]
