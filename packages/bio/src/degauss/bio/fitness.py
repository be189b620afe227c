r"""Fitness learned from a deep mutational scan: an ensemble of small networks on the letters of the varied sites.

Variants of one parent differ at a few sites, so a sequence here is the letters at those sites and nothing else (four
for GB1). Each member is a perceptron of two hidden layers on weights ``[batch, L, V]``; members differ in where they
began (Lakshminarayanan et al. 2017). Where there were data they agree, and where an optimiser has left the data they do
not:

    score(x) = mean_m f_m(x) - caution * sd_m f_m(x)

is what `caution` >= 0 pays for that. It is differentiable, in the units of the fitness.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from degauss.bio.alphabets import Alphabet, alphabet_of
from degauss.bio.metrics import spearman
from degauss.bio.motifs import one_hot
from degauss.bio.predictor_training import Examples, Shuffled
from degauss.core.checkpoint import load_model, load_weights, save_model
from degauss.core.errors import InputError, check_range
from degauss.core.noise import Noise
from degauss.core.train import TrainConfig, train

KIND = "degauss.bio/fitness"


@dataclass(frozen=True)
class FitnessConfig:
    """What an ensemble is: sites, its size, and mean and standard deviation of the fitness it was trained on.

    Raises `InputError` for values out of their range.
    """

    length: int
    alphabet: str = "protein"
    members: int = 5
    hidden: int = 128
    mean: float = 0.0
    spread: float = 1.0

    def __post_init__(self) -> None:
        check_range("length", self.length, 1)
        check_range("members", self.members, 2)
        check_range("hidden", self.hidden, 1)

    @property
    def letters(self) -> Alphabet:
        return alphabet_of(self.alphabet)


class FitnessNet(nn.Module):
    """All members at once: weights ``[batch, L, V]`` -> standardised fitness ``[members, batch]``."""

    def __init__(self, config: FitnessConfig) -> None:
        super().__init__()
        inputs = config.length * config.letters.vocabulary
        self.first = _uniform(config.members, inputs, config.hidden)
        self.first_bias = nn.Parameter(torch.zeros(config.members, 1, config.hidden))
        self.second = _uniform(config.members, config.hidden, config.hidden)
        self.second_bias = nn.Parameter(torch.zeros(config.members, 1, config.hidden))
        self.last = _uniform(config.members, config.hidden, 1)

    def forward(self, weights: Tensor) -> Tensor:
        h = torch.nn.functional.gelu(weights.flatten(1) @ self.first + self.first_bias)
        h = torch.nn.functional.gelu(h @ self.second + self.second_bias)
        return (h @ self.last)[..., 0]


def _uniform(members: int, inputs: int, outputs: int) -> nn.Parameter:
    bound = math.sqrt(3 / inputs)
    return nn.Parameter(torch.empty(members, inputs, outputs).uniform_(-bound, bound))


@dataclass(frozen=True, eq=False)
class FitnessModel:
    """A trained ensemble."""

    config: FitnessConfig
    network: FitnessNet

    @classmethod
    def new(cls, config: FitnessConfig, seed: int = 0) -> FitnessModel:
        """One with fresh weights that follow from the seed."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return cls(config, FitnessNet(config).eval())

    def members(self, weights: Tensor) -> Tensor:
        """What each member says of ``weights [batch, L, V]``, ``[members, batch]`` in units of the fitness."""
        return self.config.mean + self.config.spread * self.network(weights)

    def score(self, weights: Tensor, caution: float = 0.0) -> Tensor:
        """The mean over members less ``caution`` standard deviations (of the members, n - 1), ``[batch]``."""
        members = self.members(weights)
        if not caution:
            return members.mean(0)
        # Not .std(): its gradient is not defined where members agree exactly.
        centred = members - members.mean(0)
        variance = centred.square().sum(0) / (len(members) - 1)
        return members.mean(0) - caution * (variance + 1e-12).sqrt()

    def save(
        self,
        path: str | os.PathLike[str],
        weights: Mapping[str, Tensor] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Write a folder that `load` reads, with other ``weights`` if given."""
        save_model(path, self.network if weights is None else weights, KIND, asdict(self.config), metrics)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> FitnessModel:
        """Read what `save` wrote; `InputError` if it is damaged or of another kind."""
        weights, about = load_model(path, KIND)
        try:
            model = cls.new(FitnessConfig(**about))
        except TypeError as error:
            raise InputError(f"{path}: its config is not that of a fitness model ({error}).") from None
        load_weights(model.network, weights, path)
        model.network.requires_grad_(False)
        return model


def recipe(out: Path, *, steps: int = 2000, seed: int = 0, device: Literal["auto", "cpu"] = "auto") -> TrainConfig:
    """How an ensemble is trained, in the directory ``out``."""
    return TrainConfig(
        out=out,
        steps=steps,
        batch_size=128,
        lr=2e-3,
        weight_decay=0.05,
        ema=0.99,
        seed=seed,
        tracker=None,
        device=device,
    )


def fit(config: FitnessConfig, examples: Examples, valid: Examples, settings: TrainConfig) -> FitnessModel:
    """Train on variants (labels ``[n, 1]``), write the model to ``out/model`` with its figures on ``valid``.

    A run that was stopped goes on; see `degauss.core.train` for what it raises.
    """
    fitness = examples.labels.double()
    config = replace(config, mean=float(fitness.mean()), spread=float(fitness.std(correction=0)))
    if not 0 < config.spread < math.inf:
        raise InputError(f"the fitness has a standard deviation of {config.spread} over {len(fitness)} variants.")
    model = FitnessModel.new(config, settings.seed)

    def loss(network: nn.Module, batch: tuple[Tensor, Tensor], noise: Noise) -> Tensor:
        del noise
        tokens, labels = batch
        wanted = (labels[:, 0].float() - config.mean) / config.spread
        return (network(one_hot(tokens, config.letters.vocabulary)) - wanted).square().mean(0)

    result = train(model.network, loss, Shuffled(examples, settings.seed), settings)
    model.network.load_state_dict(result.weights)
    model.network.eval().cpu()
    model.save(settings.out / "model", metrics=judge(model, valid))
    return FitnessModel.load(settings.out / "model")


@torch.no_grad()
def judge(model: FitnessModel, examples: Examples) -> dict[str, float]:
    """Spearman's correlation with the measured fitness, and the root mean square error in its units."""
    scores = model.score(one_hot(examples.tokens, model.config.letters.vocabulary)).double()
    error = (scores - examples.labels[:, 0].double()).square().mean().sqrt()
    return {"spearman": spearman(scores, examples.labels[:, 0]), "rmse": float(error)}
