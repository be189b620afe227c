"""``activity:FOLDER``: what a predictor of activity says, a network or a regression on k-mers of this package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from degauss.bio import kmers, predictors
from degauss.bio.alphabets import Alphabet
from degauss.bio.kmers import KmerModel
from degauss.bio.motifs import one_hot
from degauss.bio.predictors import Predictor
from degauss.bio.rewards.arguments import arguments
from degauss.bio.rewards.reward import Reward
from degauss.core.errors import InputError, check_option
from degauss.core.files import read_json, settled


def from_text(text: str) -> Reward:
    """``FOLDER`` or ``FOLDER,cell=HepG2``: the target, which must be named where the predictor has several."""
    first, named = arguments("activity", text, ("cell",))
    if not first:
        raise InputError("reward activity: expected the folder of a predictor, such as activity:runs/hepg2/model.")
    folder = Path(first)
    if not settled(folder).is_dir():
        raise InputError(f"reward activity: {folder} is no folder; expected one that train-predictor wrote.")
    about: dict[str, Any] = read_json(settled(folder) / "config.json")
    form = check_option(f"{folder}: the format", str(about.get("format")), (predictors.KIND, kmers.KIND))
    if form == kmers.KIND:
        model = KmerModel.load(folder)
        check_option(f"reward activity: the cell of {folder}", named.get("cell", model.target), (model.target,))
        return KmerActivity(model, str(folder))
    predictor = Predictor.load(folder)
    if "cell" not in named and len(predictor.targets) > 1:
        raise InputError(f"reward activity:{text}: expected ,cell= with one of {', '.join(predictor.targets)}.")
    cell = named.get("cell", next(iter(predictor.targets)))
    return Activity(predictor, check_option(f"reward activity: the cell of {folder}", cell, predictor.targets), first)


@dataclass(frozen=True, eq=False)
class Activity:
    """A network's activity in one target: log-odds against the other classes, or a value in its units."""

    predictor: Predictor
    target: str
    folder: str

    @property
    def name(self) -> str:
        return f"activity:{self.folder},cell={self.target}"

    @property
    def alphabet(self) -> Alphabet:
        return self.predictor.config.letters

    def __call__(self, tokens: Tensor) -> Tensor:
        """``[batch, L] -> [batch]``."""
        return self.soft(one_hot(tokens, self.alphabet.vocabulary))

    def soft(self, weights: Tensor) -> Tensor:
        """``[batch, L, V] -> [batch]``; `InputError` for a length that the predictor was not trained for."""
        check_length(self.name, weights.shape[1], self.predictor.config.length)
        return self.predictor.activity(weights, self.target)


@dataclass(frozen=True, eq=False)
class KmerActivity:
    """The log-odds of a regression on k-mers: a black box, since words have no soft form here."""

    model: KmerModel
    folder: str

    @property
    def name(self) -> str:
        return f"activity:{self.folder}"

    @property
    def alphabet(self) -> Alphabet:
        return self.model.alphabet

    def __call__(self, tokens: Tensor) -> Tensor:
        """``[batch, L] -> [batch]``; `InputError` for a length that the regression was not fitted to."""
        check_length(self.name, tokens.shape[1], self.model.length)
        return self.model.score(tokens)


def check_length(name: str, found: int, trained: int) -> None:
    """`InputError` unless sequences have the length that a model was trained for: at others it means nothing."""
    if found != trained:
        raise InputError(f"reward {name} was trained on {trained} letters, but the sequences have {found}.")
