"""`degauss-timeseries train-generator`, `generate` and `card`: synthetic windows of a table, and how good they are."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from degauss.core.errors import InputError, check_range
from degauss.core.options import check_directory, device_of, progress
from degauss.core.solvers import solver_of
from degauss.timeseries.commands.options import TABLES, check_output

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from degauss.timeseries.generation_data import Records, Split, Units
    from degauss.timeseries.padts import Objective, PaDTS

    Array = NDArray[np.float64]

_INDEX = ("window", "step")
_STEPS = "sampling_steps"


@dataclass(frozen=True, kw_only=True)
class TableOptions:
    """Where the records are."""

    data: Positional[Path]
    """A CSV, TSV or parquet file: wide (a column a series), long, or with --id and --columns a record for each id."""
    id: str | None = None
    """Column that says which record a row belongs to: a patient, a machine. Without it the whole table is one."""
    time: str | None = None
    """Column of time stamps (dates, or whole numbers)."""
    columns: tuple[str, ...] = ()
    """Columns of values that are generated together; all of them in a wide table unless given."""
    freq: str | None = None
    """Step of the records, as pandas writes it (h, D, B, W-SAT, MS, 15min, ...); found from the data unless given."""

    def records(self) -> Records:
        from degauss.timeseries.generation_data import read_records

        return read_records(self.data, id=self.id, time=self.time, columns=self.columns, freq=self.freq)


@dataclass(frozen=True, kw_only=True)
class GeneratingOptions:
    """How windows are drawn from a model."""

    steps: int | None = None
    """Network evaluations for each window; what 'train-generator' found best for the model unless given."""
    solver: Literal["dpmpp", "ddim", "ancestral"] = "dpmpp"
    """How the reverse process is solved: DPM-Solver++(2M), DDIM, or the paper's ancestral sampler (with 250 steps)."""
    seed: int = 0
    """Everything random follows from it."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""

    def steps_for(self, model: PaDTS) -> int:
        """The steps asked for, or the model's own."""
        return int(model.facts.get(_STEPS, 50)) if self.steps is None else self.steps

    def draw(self, model: PaDTS, count: int) -> Array:
        """So many windows in data units."""
        from degauss.timeseries.padts import Generating, generate

        model.network.to(device_of(self.device))
        generating = Generating(self.steps_for(model), solver_of(self.solver), self.seed)
        with progress("generating") as report:
            return generate(model, count, generating, report)


@dataclass(frozen=True, kw_only=True)
class TrainGenerator(TableOptions):
    """Train PaD-TS to make windows like those of a table. Stop it and run it again: it goes on where it stopped.

    A part of the table is held out, whole records or blocks of rows, for 'card' to judge by. The model is written to
    OUT/model, for --checkpoint of 'generate' and 'card'. It holds the smallest and the largest value of each column.
    """

    out: Path = Path("runs/padts")
    """Directory of the run: checkpoints, metrics.jsonl, and at the end the model."""
    length: int = 24
    """Rows in a window."""
    hold_out: float = 0.2
    """Share of the table to keep from training, at most 0.5."""
    objective: Literal["pad-ts", "diffusion-ts"] = "pad-ts"
    """What is minimised: PaD-TS's population loss, or absolute errors of values and spectra as in Diffusion-TS."""
    alpha: float = 5e-4
    """Weight of the distance between the populations' correlations, for pad-ts; 0 for none."""
    steps: int = 2000
    """Training steps."""
    batch: int = 64
    """Windows a step; they are the population, so not too few."""
    lr: float = 3e-3
    """Peak learning rate."""
    hidden: int = 64
    """Width of the network; the paper's is 128 or 256."""
    heads: int = 4
    """Attention heads; they divide the width."""
    decoders: int = 3
    """Blocks of each channel that are told the diffusion step."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Mixed precision, on a GPU."""
    seed: int = 0
    """Everything random follows from it."""
    device: Literal["auto", "cpu"] = "auto"
    """The accelerator if there is one, or the CPU."""

    def run(self) -> None:
        from degauss.core.cli import write_resolved_config
        from degauss.timeseries.generation_data import Units, split
        from degauss.timeseries.padts import best_steps, fit, recipe
        from degauss.timeseries.padts_net import PaDTSConfig

        check_directory(self.out)
        check_range("hold_out", self.hold_out, 0.01, 0.5)
        records = self.records()
        taken = next((name for name in records.names if name in _INDEX), None)
        if taken is not None:
            raise InputError(f"{self.data}: has a series called {taken!r}, as a column of the output is; rename it.")
        objective = self._objective(len(records.names))
        config = PaDTSConfig(
            features=len(records.names),
            length=self.length,
            hidden=self.hidden,
            heads=self.heads,
            decoders=self.decoders,
            expansion=2,
        )
        parts = split(records.values, self.length, self.hold_out, self.seed)
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
        model = fit(config, parts.train, Units.of(parts.train, records.names), settings, objective, self._facts(parts))
        found = best_steps(model, parts.train, seed=self.seed)
        replace(model, facts={**model.facts, _STEPS: found}).save(self.out / "model")
        trained = f"{self.steps} steps on {len(parts.train)} windows"
        print(f"wrote {self.out / 'model'} after {trained}; sample it in {found}")

    def _objective(self, features: int) -> Objective:
        from degauss.timeseries.padts import Fourier, Population

        check_range("alpha", self.alpha, 0)
        if self.objective == "diffusion-ts":
            return Fourier()
        if features < 2 and self.alpha:
            raise InputError(f"{self.data}: has 1 series, and the population loss compares pairs; expected --alpha 0.")
        return Population(self.alpha)

    def _facts(self, parts: Split) -> dict[str, Any]:
        names = ("length", "hold_out", "objective", "alpha", "steps", "batch", "lr", "seed")
        facts = {name: getattr(self, name) for name in names}
        return facts | {"windows": len(parts.train), "windows_sha256": _digest(parts.train)}


@dataclass(frozen=True, kw_only=True)
class Generate(GeneratingOptions):
    """Draw synthetic windows from a model of 'train-generator': a table of window, step and the series."""

    checkpoint: Path
    """A model written by 'train-generator'."""
    count: int = 1000
    """Windows to draw."""
    out: Path = Path("synthetic.csv")
    """Where they go (.csv, .tsv or .parquet); the settings go to the same name in .toml."""

    def run(self) -> None:
        from degauss.core.cli import write_resolved_config
        from degauss.core.files import fingerprint
        from degauss.timeseries.padts import PaDTS

        check_output(self.out, TABLES, self.checkpoint)
        check_range("count", self.count, 1)
        model = PaDTS.load(self.checkpoint)
        windows = self.draw(model, self.count)
        _write_windows(self.out, windows, model.units.names)
        write_resolved_config(self.out.with_suffix(".toml"), self, checkpoint_sha256=fingerprint(self.checkpoint))
        print(f"wrote {self.out}: {self.count} windows of {model.config.length} steps, {model.config.features} series")


@dataclass(frozen=True, kw_only=True)
class MakeCard(TableOptions, GeneratingOptions):
    """Judge a generator on the table it was trained on: scores beside those of real windows, and a check for copies.

    With --checkpoint, windows of a model of 'train-generator', on the same table. With --synthetic, windows of any
    generator, as a table of window, step and the series; it should not have seen the part that is held out here.
    """

    checkpoint: Path | None = None
    """A model written by 'train-generator'."""
    synthetic: Path | None = None
    """Windows of some other generator: columns window, step, and one for each series."""
    hold_out: float = 0.2
    """Share of the table that the other generator has not seen: records, or the end of each of five blocks of rows."""
    count: int | None = None
    """Windows to draw from the model; as many as it was trained on, at most 2000, unless given."""
    repeats: int = 3
    """How often each score is computed, on other random choices."""
    judge_steps: int = 500
    """Training steps of the networks of the discriminative and the predictive score."""
    out: Path = Path("card.html")
    """Where the page goes; its numbers go to the same name in .json, the settings to .toml."""

    def run(self) -> None:
        from degauss.core.cli import write_resolved_config
        from degauss.timeseries.card import Scoring, make_card
        from degauss.timeseries.card_page import write_card
        from degauss.timeseries.posthoc import Judge

        check_output(self.out, (".html",), self.data)
        check_range("hold_out", self.hold_out, 0.01, 0.5)
        if (self.checkpoint is None) == (self.synthetic is None):
            raise InputError("a card is made for either --checkpoint or --synthetic; expected one of the two.")
        scoring = Scoring(repeats=self.repeats, judge=Judge(steps=self.judge_steps, seed=self.seed), seed=self.seed)
        real, windows, units, facts = self._from_model() if self.synthetic is None else self._from_file(self.synthetic)
        with progress("scoring") as report:
            card = make_card(
                real,
                windows,
                units,
                title=f"Generator card: {self.data.name}",
                facts=facts,
                scoring=scoring,
                report=report,
            )
        write_card(self.out, card)
        write_resolved_config(self.out.with_suffix(".toml"), self)
        for sentence in card.words():
            print(sentence)
        print(f"wrote {self.out}")

    def _from_model(self) -> tuple[Split, Array, Units, dict[str, Any]]:
        from degauss.timeseries.generation_data import split
        from degauss.timeseries.padts import PaDTS

        assert self.checkpoint is not None
        model = PaDTS.load(self.checkpoint)
        facts = dict(model.facts)
        if not {"hold_out", "seed", "windows_sha256"} <= facts.keys():
            raise InputError(f"{self.checkpoint} does not say what was held out; expected a 'train-generator' model.")
        records = self.records()
        if records.names != model.units.names:
            raise InputError(
                f"{self.data}: has series {list(records.names)}, but {self.checkpoint} was trained on "
                f"{list(model.units.names)}; expected the same."
            )
        real = split(records.values, model.config.length, facts["hold_out"], facts["seed"])
        if _digest(real.train) != facts["windows_sha256"]:
            raise InputError(
                f"{self.data}: holds other windows than {self.checkpoint} was trained on, so what was held out is not "
                "known; expected the same table, --id, --columns and --freq."
            )
        windows = self.draw(model, min(len(real.train), 2000) if self.count is None else self.count)
        return real, windows, model.units, facts | {_STEPS: self.steps_for(model), "solver": self.solver}

    def _from_file(self, path: Path) -> tuple[Split, Array, Units, dict[str, Any]]:
        from degauss.timeseries.generation_data import Units, split

        records = self.records()
        windows = _read_windows(path, records.names)
        real = split(records.values, windows.shape[1], self.hold_out, self.seed)
        return real, windows, Units.of(real.train, records.names), {"synthetic": path.name, "hold_out": self.hold_out}


def _digest(windows: Array) -> str:
    """SHA-256 of windows, whatever file they came from."""
    return hashlib.sha256(windows.astype("<f8").tobytes()).hexdigest()


def _write_windows(path: Path, windows: Array, names: tuple[str, ...]) -> None:
    import numpy as np
    import pandas as pd

    from degauss.timeseries.frames import write_frame

    count, length, _ = windows.shape
    columns: dict[str, Any] = {"window": np.repeat(np.arange(count), length), "step": np.tile(np.arange(length), count)}
    frame = pd.DataFrame(columns | {name: windows[:, :, k].ravel() for k, name in enumerate(names)})
    write_frame(path, frame)


def _read_windows(path: Path, names: tuple[str, ...]) -> Array:
    """Windows ``[n, length, features]`` of a table as `_write_windows` writes it."""
    import numpy as np

    from degauss.timeseries.table import read_table

    columns: list[Array] = []
    for name in names:
        series = read_table(path, id="window", time="step", target=name).series
        length = len(series[0].values)
        for one in series:
            if len(one.values) != length:
                raise InputError(
                    f"{path}: window {one.name} has {len(one.values)} steps, but window {series[0].name} has {length}; "
                    "expected windows of one length."
                )
            if np.isnan(one.values).any():
                raise InputError(f"{path}: window {one.name} has no value of {name!r} at some step; expected all.")
        columns.append(np.stack([one.values for one in series]))
    return np.stack(columns, axis=-1)
