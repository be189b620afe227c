r"""A sequence model: a network, its alphabet, its length, and masked diffusion around it.

    model = SequenceModel.load(find_model("dna"))
    denoiser = model.denoiser("K562")                      # p(x_0 | x_t), what samplers and rewards ask for
    tokens = sample_tokens(denoiser, model.process, (16, model.length), solver=first_hitting(), steps=model.length)

``log_prob`` is exact for the shortest sequences and a lower bound of log p for the others (`degauss.core.jump.losses`).
A model lies in a folder: ``model.safetensors``, ``config.json``, and ``card.json`` where it tells of its training.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from degauss.bio.alphabets import Alphabet, alphabet_of
from degauss.bio.nets import ConvNetConfig, NetConfig, TransformerConfig
from degauss.core.checkpoint import WEIGHTS, as_tuples, load_frozen, save_model
from degauss.core.denoiser import Denoiser
from degauss.core.errors import InputError, check_option
from degauss.core.files import fingerprint, settled
from degauss.core.jump import Absorbing, Conditioned, Subs, any_order, exact_log_likelihood
from degauss.core.noise import Noise
from degauss.core.posterior import Categorical
from degauss.core.shipping import find_shipped, shipped_in

KIND = "degauss.bio/sequences"
SHIPPED = Path(__file__).parent / "weights"
"""Where the models lie that ship with the package, each in a folder of its name."""

NETS: dict[str, type[ConvNetConfig] | type[TransformerConfig]] = {
    "conv": ConvNetConfig,
    "transformer": TransformerConfig,
}

_EXACT = 8  # letters, up to which 2^length evaluations are few
_ROWS_AT_ONCE = 256
_SCORING = 1 << 20  # keeps the states of a bound apart from the noise that its sequences were drawn by


class LogProb(NamedTuple):
    """Per sequence, float64 ``[batch]`` in nats: log p, or a lower bound of it, and its standard error (0: exact)."""

    nats: Tensor
    error: Tensor


@dataclass(frozen=True)
class ModelConfig:
    """What a model is: its letters, the one length it takes, its network, and the names of its classes, if any."""

    alphabet: Alphabet
    length: int
    net: NetConfig = field(default_factory=ConvNetConfig)
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.length < 1 or len(set(self.labels)) != len(self.labels):
            raise ValueError(f"a model has a length of at least 1 and different labels, got {self}")


@dataclass(frozen=True, eq=False)
class SequenceModel:
    """A configuration and its network."""

    config: ModelConfig
    network: nn.Module = field(repr=False)

    @classmethod
    def new(cls, config: ModelConfig, seed: int = 0) -> SequenceModel:
        """A freshly initialised model."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(config, config.net.build(config.alphabet.vocabulary, config.length, len(config.labels)))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SequenceModel:
        """A saved model, frozen, in eval mode; `InputError` for anything that is not one."""
        return load_frozen(path, KIND, "a sequence model", lambda values: cls.new(_config(values)))

    def save(
        self,
        path: str | os.PathLike[str],
        card: Mapping[str, Any] | None = None,
        weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Write the model as a folder, with a card if there is one, and other weights than the network's if given."""
        net = next(name for name, kind in NETS.items() if isinstance(self.config.net, kind))
        values: dict[str, Any] = {
            "alphabet": self.config.alphabet.name,
            "length": self.length,
            "labels": list(self.config.labels),
            "net": {"kind": net, **asdict(self.config.net)},
        }
        save_model(path, self.network if weights is None else weights, KIND, values, card=card)

    @property
    def alphabet(self) -> Alphabet:
        return self.config.alphabet

    @property
    def length(self) -> int:
        return self.config.length

    @property
    def process(self) -> Absorbing:
        """The corruption it was trained on."""
        return Absorbing(self.alphabet.vocabulary)

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def denoiser(self, label: str | None = None) -> Denoiser[Categorical]:
        """p(x_0 | x_t) of a class, or of all together without one. `InputError` for a label that it has not."""
        subs = Subs(self.network, self.process)
        return subs if label is None else Conditioned(subs, {"label": self.class_number(label)})

    def class_number(self, label: str) -> Tensor:
        """The number of a class, 0-d; `InputError` for a label that the model has not."""
        if not self.config.labels:
            raise InputError(f"label is {label!r}, but this model was trained without labels.")
        number = self.config.labels.index(check_option("label", label, self.config.labels))
        return torch.tensor(number, device=self.device)

    def log_prob(self, tokens: Tensor, *, label: str | None = None, draws: int = 32, seed: int = 0) -> LogProb:
        """log p of tokens ``[batch, length]``, of up to 8 letters; for longer ones a lower bound.

        The bound is a mean over ``draws`` >= 2 states. The numbers of row i depend on (seed, i).
        """
        rows = range(len(tokens))
        parts = [self.log_prob_of(tokens[part], part, label=label, draws=draws, seed=seed) for part in _cut(rows)]
        return LogProb(*(torch.cat(values) for values in zip(*parts, strict=True)))

    @torch.no_grad()
    def log_prob_of(
        self, tokens: Tensor, samples: Sequence[int], *, label: str | None = None, draws: int = 32, seed: int = 0
    ) -> LogProb:
        """``log_prob`` of rows with these sample ids, evaluated together."""
        if tokens.shape[1:] != (self.length,):
            raise ValueError(f"this model is for {self.length} letters, got tokens of shape {tuple(tokens.shape)}")
        if draws < 2:
            raise ValueError(f"a standard error takes at least two draws, got {draws}")
        denoiser, tokens = self.denoiser(label), tokens.to(self.device)
        if self.length <= _EXACT:
            nats = exact_log_likelihood(denoiser, self.process, tokens).cpu()
            return LogProb(nats, torch.zeros_like(nats))
        noise = Noise(seed, samples).fork(_SCORING)
        draw = partial(any_order, denoiser, self.process, tokens)
        values = torch.stack([draw(noise.fork(k)) for k in range(draws)]).cpu()
        return LogProb(-values.mean(0), values.std(0) / draws**0.5)


def find_model(name: str | os.PathLike[str]) -> Path:
    """The folder of a model, by the name of one that ships or by its path; `InputError` if there is neither."""
    return find_shipped(name, SHIPPED)


def shipped_models() -> list[str]:
    """The names of the models that ship with the package."""
    return shipped_in(SHIPPED)


def weights_hash(path: str | os.PathLike[str]) -> str:
    """SHA-256 (hex) of a model's weights; its first twelve digits are what FASTA headers carry."""
    return fingerprint(settled(path) / WEIGHTS)


def _config(values: dict[str, Any]) -> ModelConfig:
    net: dict[str, Any] = as_tuples(values["net"])
    kind = NETS[net.pop("kind")]
    return ModelConfig(alphabet_of(values["alphabet"]), values["length"], kind(**net), tuple(values["labels"]))


def _cut(rows: range) -> list[range]:
    return [rows[first : first + _ROWS_AT_ONCE] for first in range(0, len(rows), _ROWS_AT_ONCE)]
