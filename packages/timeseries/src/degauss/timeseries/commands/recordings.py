"""`degauss-timeseries repair`: fill in the bad channels and spans of a recording of EEG, MEG and the like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from degauss.core.errors import InputError, check_range
from degauss.core.options import check_place, device_of, progress
from degauss.core.solvers import solver_of
from degauss.timeseries.commands.options import check_output

if TYPE_CHECKING:
    from degauss.timeseries.csdi import CSDI, Imputing
    from degauss.timeseries.recordings import Recording, Repaired, Survey


@dataclass(frozen=True, kw_only=True)
class Repair:
    """Fill in bad channels (info['bads']) and spans (annotations that begin with BAD) of an EEG or MEG recording.

    A CSDI model is trained on what is good of the recording and of those given by --train; one channel's neighbours
    and its own past and future tell what it should have been. A channel that is bad throughout must be good in one of
    the latter. Filter recordings before (high-pass). The last tenth of each is kept from training; there the model is
    compared with mne's own interpolation and with a regression on the other channels. What was good keeps its value;
    what was filled in is annotated as 'degauss: imputed'. Stop it and run it again: the training goes on where it
    stopped.
    """

    data: Positional[Path]
    """A recording that mne reads (.fif, .edf, .bdf, .vhdr, ...), or Epochs (..._epo.fif)."""
    train: tuple[Path, ...] = ()
    """Other recordings of the same montage and sampling rate to learn from."""
    out: Path = Path("repaired_raw.fif")
    """Where the repaired recording goes (.fif or .edf); the report goes to the same name in .json."""
    checkpoint: Path | None = None
    """A model of an earlier repair (its TRAINING/model), instead of training one."""
    training: Path = Path("runs/repair")
    """Directory of the training: checkpoints, metrics.jsonl, and at the end the model."""
    length: int = 64
    """Samples in a window: how far it looks around a hole."""
    train_steps: int = 3000
    """Training steps."""
    batch: int = 16
    """Windows a training step."""
    lr: float = 1e-3
    """Peak learning rate."""
    hidden: int = 32
    """Width of the network."""
    layers: int = 3
    """Residual blocks of the network, at least 2: attention learns which channel is which from the one before."""
    heads: int = 4
    """Attention heads."""
    samples: int = 20
    """Draws of every hole."""
    steps: int = 20
    """Network evaluations for each draw of a window."""
    solver: Literal["ddim", "dpmpp", "ancestral"] = "ddim"
    """How the reverse process is solved: DDIM, DPM-Solver++(2M), or the paper's ancestral sampler, in 50 steps."""
    value: Literal["mean", "draw"] = "mean"
    """What is written: the mean of the draws (nearest to the truth, too smooth), or one draw (the right spectrum)."""
    holes: int = 4
    """Holes of each kind to hide for the comparison with simpler repairs; 0 for none."""
    plot: Path | None = None
    """Draw the first repaired channel before and after (.png)."""
    seed: int = 0
    """Everything random follows from it."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""

    def run(self) -> None:
        from degauss.core.cli import write_resolved_config
        from degauss.core.files import atomic_path, write_json
        from degauss.timeseries.recording_plots import repair_plot
        from degauss.timeseries.recordings import Recording, check_target, check_wanted, repair, survey, write

        self._check()
        recording = Recording.read(self.data)
        check_target(recording, self.out)
        check_wanted(recording)
        found = survey(recording)
        model = self._model(recording)
        imputing = self._imputing(model)
        warnings = list(_warnings(recording, model, found))
        scores = self._backtest(recording, model, imputing, found, warnings)
        before = list(recording.data.info["bads"])
        with progress("imputing") as report:
            repaired = repair(recording, model, imputing, self.value, report)
        write(recording, self.out)
        with atomic_path(self.out.with_suffix(".json")) as partial:
            write_json(partial, self._report(recording, repaired, found, before, scores, warnings))
        write_resolved_config(self.out.with_suffix(".toml"), self)
        for warning in warnings:
            print(f"warning: {warning}")
        filled = int((repaired.filled > 0).sum())
        print(f"wrote {self.out}: {int(repaired.filled.sum())} values filled in {filled} channels")
        if self.plot is not None:
            kind = recording.data.get_channel_types([repaired.view.channel])[0]
            title = f"{repaired.view.channel}: before and after"
            repair_plot(self.plot, *repaired.view[1:], title=title, unit=UNITS.get(kind, ""))
            print(f"wrote {self.plot}")

    def _check(self) -> None:
        from degauss.timeseries.csdi_net import CSDIConfig

        device_of(self.device)
        check_output(self.out, (".fif", ".edf"), self.data)
        if self.plot is not None:
            check_output(self.plot, (".png",), self.data)
        check_range("length", self.length, 4)
        check_range("layers", self.layers, 2)
        check_range("holes", self.holes, 0)
        for name in ("samples", "steps"):
            check_range(name, getattr(self, name), 1)
        if self.checkpoint is None:
            if self.training.exists() and not self.training.is_dir():
                raise InputError(f"{self.training}: is a file; expected a directory for the training.")
            check_place(self.training)
            check_range("steps", self.steps, 1, CSDIConfig.steps)
        elif self.train:
            raise InputError("train is for training a model, but checkpoint names a trained one; expected one of them.")

    def _model(self, recording: Recording) -> CSDI:
        """The model asked for, on its device."""
        from degauss.timeseries.csdi import CSDI
        from degauss.timeseries.csdi_net import CSDIConfig
        from degauss.timeseries.csdi_training import recipe
        from degauss.timeseries.recordings import Recording, check_model, survey, training_records
        from degauss.timeseries.repair import learn

        if self.checkpoint is not None:
            model = CSDI.load(self.checkpoint)
            check_model(recording, model, str(self.checkpoint))
        else:
            others = [Recording.read(path) for path in self.train]
            for other in others:
                survey(other)
            config = CSDIConfig(
                features=len(recording.channels),
                length=self.length,
                channels=self.hidden,
                layers=self.layers,
                heads=self.heads,
                feedforward=self.hidden,
                dropout=0.0,
            )
            settings = recipe(
                self.training,
                steps=self.train_steps,
                batch=self.batch,
                lr=self.lr,
                seed=self.seed,
                device="cpu" if self.device == "cpu" else "auto",
            )
            records = training_records([recording, *others])
            model = learn(config, records, settings, recording.channels, recording.rate)
            print(f"wrote {self.training / 'model'} after {self.train_steps} steps")
        model.network.to(device_of(self.device))
        return model

    def _imputing(self, model: CSDI) -> Imputing:
        from degauss.timeseries.csdi import Imputing

        check_range("steps", self.steps, 1, model.config.steps)
        return Imputing(self.samples, self.steps, solver_of(self.solver), self.seed)

    def _backtest(
        self, recording: Recording, model: CSDI, imputing: Imputing, found: Survey, warnings: list[str]
    ) -> dict[str, Any]:
        """The scores of each kind of hole as JSON has them, and a warning where something simpler is better."""
        from degauss.timeseries.repair_backtest import backtest, holes

        scores: dict[str, Any] = {}
        for kind, hidden in holes(recording, model.config.length, self.holes, found.flat, self.seed).items():
            if not hidden:
                continue
            with progress(f"comparing on hidden {kind}") as report:
                score = backtest(recording, model, imputing, hidden, self.value, report)
            scores[kind] = score._asdict() | {"holes": [hole._asdict() for hole in score.holes]}
            simpler = {
                "mne's interpolation": score.interpolation,
                "a regression on the other channels": score.regression,
                "a straight line": score.line,
            }
            for name, other in simpler.items():
                if other is not None and other < score.model:
                    warnings.append(
                        f"on hidden {kind}, {name} errs by {other:.2g} standard deviations and this model by "
                        f"{score.model:.2g}: prefer the former, or train longer."
                    )
            others = ", ".join(
                f"{name} {other:.2g}"
                for name, other in zip(("mne", "regression", "line"), score[1:4], strict=True)
                if other is not None
            )
            print(
                f"hidden {kind}: error {score.model:.2g} standard deviations{f' ({others})' if others else ''}, "
                f"{score.coverage_90:.0%} inside the 90 % interval"
            )
        return scores

    def _report(
        self,
        recording: Recording,
        repaired: Repaired,
        found: Survey,
        before: Sequence[str],
        scores: dict[str, Any],
        warnings: Sequence[str],
    ) -> dict[str, Any]:
        import numpy as np

        rate = float(recording.data.info["sfreq"])
        kinds = recording.data.get_channel_types(recording.picks)
        return {
            "data": str(self.data),
            "out": str(self.out),
            "rate_hz": rate,
            "imputed": [
                {
                    "channel": recording.channels[k],
                    "values": int(repaired.filled[k]),
                    "seconds": int(repaired.filled[k]) / rate,
                    "spread": float(repaired.spread[k]),
                    "unit": UNITS.get(kinds[k], ""),
                }
                for k in np.flatnonzero(repaired.filled).tolist()
            ],
            "spans": [
                {
                    "description": span.description,
                    "onset": span.onset,
                    "duration": span.duration,
                    "channels": [recording.channels[column] for column in span.columns],
                }
                for span in recording.spans
                if span.wanted
            ],
            "bads_cleared": list(recording.bads),
            "bads_left": [name for name in before if name not in recording.bads],
            "flat": [name for name, flat in zip(recording.channels, found.flat, strict=True) if flat],
            "backtest": scores,
            "warnings": list(warnings),
        }


UNITS = dict.fromkeys(("eeg", "ecog", "seeg", "dbs"), "V") | {"mag": "T", "grad": "T/m"}
"""SI units of mne for the types of channels that have one."""


def _warnings(recording: Recording, model: CSDI, found: Survey) -> Sequence[str]:
    """What a user should know of the recording before trusting its repair."""
    import numpy as np

    told: list[str] = []
    flat = [name for name, is_flat in zip(recording.channels, found.flat, strict=True) if is_flat]
    if flat:
        told.append(f"{', '.join(flat)}: flat, though not marked as bad.")
    away = (found.seen > 0) & (np.abs(found.mean - model.units.centre) > 3 * model.units.width)
    if away.any():
        names = [name for name, is_away in zip(recording.channels, away, strict=True) if is_away]
        told.append(
            f"{', '.join(names)}: the mean is more than 3 standard deviations off that of the training; high-pass all "
            "recordings, since an offset of a channel that is bad throughout cannot be known."
        )
    return told
