"""`degauss-bio train-predictor`: an oracle of activity or fitness, on data of one's own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from degauss.core.errors import InputError, check_option, check_range
from degauss.core.options import check_directory, progress

if TYPE_CHECKING:
    from degauss.bio.alphabets import Alphabet
    from degauss.bio.labelled import Labelled


@dataclass(frozen=True, kw_only=True)
class TrainPredictor:
    """Train a predictor on labelled sequences. Stop it and run it again: it goes on where it stopped.

    The labels are columns of a table, or key=value at the end of FASTA headers. Unless a column says which sequences
    are for train, valid and test, relatives are kept together: no two sequences of different parts share a word of 20
    letters (6 in proteins). The model is written to OUT/model, for activity:OUT/model and fitness:OUT/model. A held-out
    oracle is one of another kind (--kind kmers) or of other data.
    """

    data: Positional[Path]
    """Labelled sequences of one length."""
    classes: str | None = None
    """The column of the classes to tell apart, such as cell_type."""
    value: str | None = None
    """The column of the number to predict, such as expression."""
    target: str | None = None
    """The class that --kind kmers tells from the others."""
    split: str | None = None
    """A column that says train, valid or test."""
    kind: Literal["network", "kmers", "fitness"] = "network"
    """A convolutional network; a regression on k-mers (classes); an ensemble for variants at a few sites (values)."""
    alphabet: Literal["DNA", "protein"] = "DNA"
    """What the letters are."""
    one_strand: bool = False
    """Of DNA: the strand matters, as in a promoter."""
    k: int = 6
    """Letters of a word of --kind kmers."""
    steps: int = 2000
    """Training steps."""
    batch: int = 64
    """Sequences a step."""
    channels: int = 64
    """Width of the network."""
    out: Path = Path("runs/predictor")
    """Directory of the run: checkpoints, metrics.jsonl, and at the end the model."""
    seed: int = 0
    """Everything random follows from it."""
    device: Literal["auto", "cpu"] = "auto"
    """The accelerator if there is one, or the CPU."""

    def run(self) -> None:
        from degauss.bio.alphabets import alphabet_of
        from degauss.bio.labelled import labelled
        from degauss.bio.sequences import read_sequences
        from degauss.core.cli import write_resolved_config

        check_directory(self.out)
        check_range("steps", self.steps, 1)
        if self.kind == "kmers" and self.classes is None:
            raise InputError("--kind kmers tells classes apart; expected --classes with a column.")
        if self.kind == "fitness" and self.value is None:
            raise InputError("--kind fitness predicts a number; expected --value with a column.")
        alphabet = alphabet_of(self.alphabet)
        records = read_sequences(self.data)
        try:
            parts = labelled(
                records, alphabet, classes=self.classes, value=self.value, split=self.split, seed=self.seed
            )
        except InputError as error:
            raise InputError(f"{self.data}: {error}") from None
        if self.kind == "kmers":
            check_option("target", str(self.target), parts.targets)
        write_resolved_config(self.out / "train.toml", self)
        train = {"network": self._network, "kmers": self._kmers, "fitness": self._fitness}[self.kind]
        figures = train(parts, alphabet)
        sizes = ", ".join(f"{len(part.tokens)}" for part in parts[:3])
        print(f"{sizes} sequences in train, valid and test; on test:")
        for name, figure in figures.items():
            print(f"    {name}: {figure:.3f}")
        print(f"wrote {self.out / 'model'}")

    def _both_strands(self, alphabet: Alphabet) -> bool:
        return alphabet.name == "DNA" and not self.one_strand

    def _network(self, parts: Labelled, alphabet: Alphabet) -> dict[str, float]:
        from degauss.bio.predictor_training import fit, judge, recipe
        from degauss.bio.predictors import PredictorConfig

        config = PredictorConfig(
            parts.targets,
            parts.train.tokens.shape[1],
            "classes" if self.classes is not None else "values",
            alphabet.name,
            self._both_strands(alphabet),
            self.channels,
            mean=(0.0,) * (self.value is not None),
            spread=(1.0,) * (self.value is not None),
        )
        settings = recipe(
            self.out, steps=self.steps, batch=self.batch, seed=self.seed, device=self.device, tracker="tensorboard"
        )
        return dict(judge(fit(config, parts.train, parts.valid, settings), parts.test).by_target)

    def _kmers(self, parts: Labelled, alphabet: Alphabet) -> dict[str, float]:
        from degauss.bio import kmers
        from degauss.bio.metrics import auroc

        target = str(self.target)
        train, test = ((part.labels == parts.targets.index(target)) for part in (parts.train, parts.test))
        with progress("fitting") as report:
            model = kmers.fit(
                parts.train.tokens,
                train,
                target=target,
                k=self.k,
                alphabet=alphabet,
                both_strands=self._both_strands(alphabet),
                report=report,
            )
        found = {}
        if bool(test.any()) and not bool(test.all()):
            found = {f"auroc_{target}": auroc(model.score(parts.test.tokens), test)}
        model.save(self.out / "model", found)
        return found

    def _fitness(self, parts: Labelled, alphabet: Alphabet) -> dict[str, float]:
        from degauss.bio import fitness

        config = fitness.FitnessConfig(parts.train.tokens.shape[1], alphabet.name)
        settings = fitness.recipe(self.out, steps=self.steps, seed=self.seed, device=self.device)
        return fitness.judge(fitness.fit(config, parts.train, parts.valid, settings), parts.test)
