"""`degauss-timeseries train-classifier` and `classify`: classes of irregular series, by a neural SDE."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from degauss.core.errors import InputError
from degauss.core.options import check_directory, progress
from degauss.timeseries.commands.options import TABLES, check_output

if TYPE_CHECKING:
    from degauss.timeseries.classification import NeuralSDEClassifier
    from degauss.timeseries.labelled import Labelled


@dataclass(frozen=True, kw_only=True)
class LabelledOptions:
    """Where the series are."""

    data: Positional[Path]
    """A .ts file (UEA and UCR archives), or a long .csv, .tsv or .parquet: id, time and label columns, and channels."""
    id: str = "unique_id"
    """Column that says which series a row belongs to."""
    time: str = "ds"
    """Column of times (numbers or dates), which need not be even or the same for all."""
    label: str = "label"
    """Column of classes."""

    def read(self) -> Labelled:
        from degauss.timeseries.labelled import read_labelled

        return read_labelled(self.data, id=self.id, time=self.time, label=self.label)


@dataclass(frozen=True, kw_only=True)
class TrainClassifier(LabelledOptions):
    """Train a neural SDE to classify series with gaps and uneven times. Stop it and run it again: it goes on.

    The model is written to OUT/model, for --checkpoint of 'classify'; what it does on series kept from training to
    OUT/metrics.json, OUT/confusion.png and OUT/predictions.csv.
    """

    out: Path = Path("runs/classifier")
    """Directory of the run."""
    model: Literal["lsde", "lnsde", "gsde", "naive", "naive+control", "cde", "gru-d"] = "lnsde"
    """Langevin-type, linear-noise or geometric SDE; the plain SDE without or with control; neural CDE; GRU-D."""
    hidden: int = 32
    """Numbers in a state."""
    layers: int = 2
    """Hidden layers of the drift."""
    control: Literal["linear", "hermite", "natural"] = "linear"
    """The path through the observations."""
    stabilisers: Literal["published", "none"] = "published"
    """Tanh clips as in the published benchmark, or the plain equations."""
    scaling: Literal["standard", "none"] = "standard"
    """Channels of mean 0 and deviation 1, or as they are."""
    span: float = 1.0
    """How long the series last in the time of the equation."""
    epochs: int = 100
    """Most epochs."""
    patience: int = 10
    """Epochs without a better validation loss before it stops."""
    min_epochs: int = 20
    """Epochs before patience is counted."""
    batch: int | None = None
    """Series a step; 16 to 128, by how many there are, unless given."""
    lr: float = 0.01
    """Learning rate at the start."""
    test: float = 0.15
    """Share of every class to keep for the metrics; 0 for none."""
    validation: float = 0.15
    """Share of every class to decide by when to stop."""
    samples: int = 4
    """Draws that a prediction is the mean of."""
    seed: int = 0
    """Everything random follows from it."""
    device: Literal["auto", "cpu"] = "auto"
    """The accelerator if there is one, or the CPU."""

    def run(self) -> None:
        import numpy as np

        from degauss.core.cli import write_resolved_config
        from degauss.core.errors import check_range
        from degauss.timeseries.classification import stratified
        from degauss.timeseries.irregular import grid_of, irregular

        check_directory(self.out)
        check_range("test", self.test, 0, 0.9)
        check_range("validation", self.validation, 0, 0.9)
        data = self.read()
        if data.labels is None:
            raise InputError(f"{self.data}: has no labels; expected a label column {self.label!r}, or @classLabel.")
        shares = (1 - self.test - self.validation, self.validation, *([self.test] if self.test else []))
        train, valid, *test = [_some(data, rows) for rows in stratified(data.labels, shares, self.seed)]
        estimator = self.estimator()
        # The grid of all of them, so that none of the series kept for the test lies outside it.
        grid = grid_of(irregular(data.series, data.times))
        estimator.fit(train.series, train.labels, train.times, (valid.series, valid.labels, valid.times), grid)
        write_resolved_config(self.out / "train.toml", self)
        estimator.save(self.out / "model")
        print(f"wrote {self.out / 'model'}, the best of {len(estimator.validation_losses_) - 1} epochs")
        for part in test:
            probabilities = np.asarray(estimator.predict_proba(part.series, part.times))
            _report(self.out / "predictions.csv", part, probabilities, estimator.classes_, self.out)

    def estimator(self) -> NeuralSDEClassifier:
        from degauss.timeseries.classification import NeuralSDEClassifier

        names = (
            "model", "hidden", "layers", "control", "stabilisers", "scaling", "span", "epochs", "patience",
            "min_epochs", "batch", "lr", "samples", "seed", "device", "out",
        )  # fmt: skip
        return NeuralSDEClassifier(**{name: getattr(self, name) for name in names})


@dataclass(frozen=True, kw_only=True)
class Classify(LabelledOptions):
    """Say of every series of a file which class it is of, with probabilities; score that where labels are there."""

    checkpoint: Path
    """A model written by 'train-classifier'."""
    out: Path = Path("predictions.csv")
    """Where the predictions go (.csv, .tsv or .parquet); the settings go to the same name in .toml.

    With labels in the data, scores go to the same name in .json, and who was taken for whom to the same in .png.
    """
    samples: int | None = None
    """Draws that a prediction is the mean of; the model's own unless given."""
    seed: int | None = None
    """Keys the draws; the model's own unless given."""

    def run(self) -> None:
        import numpy as np

        from degauss.core.cli import write_resolved_config
        from degauss.core.errors import check_range
        from degauss.core.files import fingerprint
        from degauss.timeseries.classification import NeuralSDEClassifier

        check_output(self.out, TABLES, self.data)
        data = self.read()
        estimator = NeuralSDEClassifier.load(self.checkpoint)
        for name in ("samples", "seed"):
            if getattr(self, name) is not None:
                check_range(name, getattr(self, name), 1 if name == "samples" else 0)
                setattr(estimator, name, getattr(self, name))
        if data.labels is not None:
            strange = np.setdiff1d(data.labels, estimator.classes_.astype(str))
            if len(strange):
                raise InputError(
                    f"{self.data}: has series of class {strange.tolist()[0]!r}; {self.checkpoint} knows "
                    f"{', '.join(map(repr, estimator.classes_.tolist()))}."
                )
        with progress("classifying") as report:
            probabilities = estimator.predict_proba(data.series, data.times, report)
        facts = {
            "seed": estimator.seed,
            "samples": estimator.samples,
            "checkpoint_sha256": fingerprint(self.checkpoint),
        }
        write_resolved_config(self.out.with_suffix(".toml"), self, **facts)
        _report(self.out, data, probabilities, estimator.classes_, None)


def _some(data: Labelled, rows: Any) -> Labelled:
    assert data.labels is not None
    return data._replace(
        names=tuple(data.names[row] for row in rows),
        series=[data.series[row] for row in rows],
        times=data.times if isinstance(data.times, str) else [data.times[row] for row in rows],
        labels=data.labels[rows],
    )


def _report(out: Path, data: Labelled, probabilities: Any, classes: Any, folder: Path | None) -> None:
    """Write the predictions and, with labels, the scores and the figure: beside them, or as files of a folder."""
    import numpy as np

    from degauss.core.files import atomic_path, write_json
    from degauss.timeseries.confusion import classification_scores, confusion_plot

    names = [str(name) for name in classes]
    _write(out, data, probabilities, names)
    print(f"wrote {out}: {len(data.names)} series")
    if data.labels is None:
        return
    scores = classification_scores(data.labels.astype(classes.dtype), probabilities, classes)
    figures, picture = (
        (out.with_suffix(".json"), out.with_suffix(".png"))
        if folder is None
        else (folder / "metrics.json", folder / "confusion.png")
    )
    with atomic_path(figures) as partial:
        write_json(partial, scores)
    title = f"{scores['accuracy']:.1%} of {scores['series']} series right"
    confusion_plot(picture, np.asarray(scores["confusion"]), names, title=title)
    print(f"wrote {figures} and {picture}: {title}")


def _write(out: Path, data: Labelled, probabilities: Any, names: list[str]) -> None:
    """id, the label where known, predicted, and p_CLASS for each class."""
    import pandas as pd

    from degauss.timeseries.frames import write_frame

    columns: dict[str, Any] = {"id": data.names}
    if data.labels is not None:
        columns["label"] = data.labels
    columns["predicted"] = [names[k] for k in probabilities.argmax(-1)]
    frame = pd.DataFrame(columns | {f"p_{name}": probabilities[:, k] for k, name in enumerate(names)})
    write_frame(out, frame)
