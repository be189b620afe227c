r"""Predictors of activity: a convolutional network from a sequence to what an assay measures.

The network takes *weights* ``[batch, L, V]``: one-hot for a sequence, rows of a simplex for a relaxed one, through
which a reward's gradient flows. One convolution finds motifs, residual dilated ones their grammar, and the mean and the
maximum over positions forget where they were. What an assay of double-stranded DNA measures is the same for both
strands, so there the answer is the mean over both.

Two kinds of target:

*classes* (say cell types): the network is a softmax over all of them, and the activity in class c is its log-odds
against the others together, log p_c - log(1 - p_c): what a binary classifier of c against the rest estimates, with
one network for all.

*values* (say expression): one number a target, in the units of the assay.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from degauss.bio.alphabets import Alphabet, alphabet_of
from degauss.core.checkpoint import load_model, load_weights, save_model
from degauss.core.errors import InputError, check_option, check_range

KIND = "degauss.bio/predictor"


@dataclass(frozen=True)
class PredictorConfig:
    """What a predictor is. Raises `InputError` for values out of their range.

    ``targets``: names of the classes or values. ``length``: letters of the sequences it is trained on. ``mean`` and
    ``spread``: of each value in the training set, in its units; empty for classes.
    """

    targets: tuple[str, ...]
    length: int
    kind: Literal["classes", "values"] = "classes"
    alphabet: str = "DNA"
    both_strands: bool = True
    channels: int = 64
    kernel: int = 15
    """Width of the motifs that the first convolution finds; odd."""
    blocks: int = 2
    dropout: float = 0.2
    mean: tuple[float, ...] = ()
    spread: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check_option("kind", self.kind, ("classes", "values"))
        check_range("targets", len(self.targets), 2 if self.kind == "classes" else 1)
        check_range("length", self.length, _POOL)
        check_range("channels", self.channels, 1)
        check_range("blocks", self.blocks, 0)
        check_range("dropout", self.dropout, 0, 0.9)
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise InputError(f"kernel must be an odd width, but is {self.kernel}.")
        if self.both_strands and self.letters.name != "DNA":
            raise InputError(f"{self.alphabet} has one strand; both_strands is for DNA.")
        scales = len(self.targets) if self.kind == "values" else 0
        if len(self.mean) != scales or len(self.spread) != scales:
            raise InputError(f"mean and spread must be given for each of {scales} values.")

    @property
    def letters(self) -> Alphabet:
        return alphabet_of(self.alphabet)


_POOL = 4


class PredictorNet(nn.Module):
    """Weights ``[batch, L, V]`` -> one number a target, ``[batch, targets]``, of the strand given alone."""

    def __init__(self, config: PredictorConfig) -> None:
        super().__init__()
        width = config.channels
        self.motifs = nn.Conv1d(config.letters.vocabulary, width, config.kernel, padding=config.kernel // 2)
        self.pool = nn.MaxPool1d(_POOL, ceil_mode=True)
        self.blocks = nn.ModuleList(_Block(width, 2**i) for i in range(config.blocks))
        self.head = nn.Sequential(
            nn.LayerNorm(2 * width), nn.Dropout(config.dropout), nn.Linear(2 * width, len(config.targets))
        )

    def forward(self, weights: Tensor) -> Tensor:
        h = self.pool(nn.functional.gelu(self.motifs(weights.mT)))
        for block in self.blocks:
            h = block(h)
        return self.head(torch.cat([h.mean(-1), h.amax(-1)], -1))


class _Block(nn.Module):
    """h + conv(gelu(conv(norm(h))))."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.GroupNorm(1, width),
            nn.Conv1d(width, width, 5, padding=2 * dilation, dilation=dilation),
            nn.GELU(),
            nn.Conv1d(width, width, 1),
        )

    def forward(self, h: Tensor) -> Tensor:
        return h + self.inner(h)


@dataclass(frozen=True, eq=False)
class Predictor:
    """A trained network and what it predicts; frozen and in eval mode."""

    config: PredictorConfig
    network: PredictorNet

    @classmethod
    def new(cls, config: PredictorConfig, seed: int = 0) -> Predictor:
        """One with fresh weights that follow from the seed."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return cls(config, PredictorNet(config).eval())

    @property
    def targets(self) -> tuple[str, ...]:
        return self.config.targets

    def outputs(self, weights: Tensor) -> Tensor:
        """What the network says of ``weights [batch, L, V]``, in the mean over strands: ``[batch, targets]``."""
        raw: Tensor = self.network(weights)
        if not self.config.both_strands:
            return raw
        return (raw + self.network(weights.flip(1, 2))) / 2

    def activity(self, weights: Tensor, target: str) -> Tensor:
        """The activity in one target, ``[batch]``: log-odds against the other classes, or a value in its units."""
        index = self.targets.index(check_option("target", target, self.targets))
        raw = self.outputs(weights)
        if self.config.kind == "values":
            return self.config.mean[index] + self.config.spread[index] * raw[:, index]
        others = [i for i in range(len(self.targets)) if i != index]
        return raw[:, index] - raw[:, others].logsumexp(-1)

    def save(
        self,
        path: str | os.PathLike[str],
        weights: Mapping[str, Tensor] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Write a folder that `load` reads, with other ``weights`` if given."""
        save_model(path, self.network if weights is None else weights, KIND, asdict(self.config), metrics)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Predictor:
        """Read what `save` wrote; `InputError` if it is damaged or of another kind."""
        weights, about = load_model(path, KIND)
        predictor = cls.new(_config_of(about, path))
        load_weights(predictor.network, weights, path)
        predictor.network.requires_grad_(False)
        return predictor


def _config_of(about: dict[str, Any], path: str | os.PathLike[str]) -> PredictorConfig:
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in about.items()}
    try:
        return PredictorConfig(**values)
    except TypeError as error:
        raise InputError(f"{path}: its config is not that of a predictor ({error}).") from None
