"""``fitness:FOLDER``: what a model of a deep mutational scan says of variants, less its doubt if asked."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from degauss.bio.alphabets import Alphabet
from degauss.bio.fitness import FitnessModel
from degauss.bio.motifs import one_hot
from degauss.bio.rewards.activity import check_length
from degauss.bio.rewards.arguments import arguments, number
from degauss.core.errors import InputError, check_range


@dataclass(frozen=True, eq=False)
class FitnessReward:
    """The ensemble's mean less ``caution`` standard deviations, in units of the fitness."""

    model: FitnessModel
    folder: str
    caution: float = 0.0

    def __post_init__(self) -> None:
        check_range("reward fitness: caution", self.caution, 0)

    @classmethod
    def from_text(cls, text: str) -> FitnessReward:
        """``FOLDER`` or ``FOLDER,caution=1``."""
        first, named = arguments("fitness", text, ("caution",))
        if not first:
            raise InputError("reward fitness: expected the folder of a fitness model, such as fitness:runs/gb1/model.")
        return cls(FitnessModel.load(first), first, number("fitness", "caution", named.get("caution", "0")))

    @property
    def name(self) -> str:
        return f"fitness:{self.folder}" + (f",caution={self.caution:g}" if self.caution else "")

    @property
    def alphabet(self) -> Alphabet:
        return self.model.config.letters

    def __call__(self, tokens: Tensor) -> Tensor:
        """``[batch, L] -> [batch]``."""
        return self.soft(one_hot(tokens, self.alphabet.vocabulary))

    def soft(self, weights: Tensor) -> Tensor:
        """``[batch, L, V] -> [batch]``; `InputError` unless there are as many letters as the model has sites."""
        check_length(self.name, weights.shape[1], self.model.config.length)
        return self.model.score(weights, self.caution)
