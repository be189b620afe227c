r"""Training a sequence model: masked diffusion on tokens, in the one loop of the core.

Each sample of a batch has one share of masks; its loss is the any-order form of the evidence bound
(`degauss.core.jump.losses.any_order`), an unbiased estimate of the bits per letter for any network that ignores time.
The numbers of masks of a batch spread evenly (Weyl's sequence, which does what antithetic times do). Labels are dropped
for a share of the samples, so that the model also knows what it is like to have none.

What is held out is chosen by sequence: copies of a sequence are never on both sides.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from degauss.bio.alphabets import DNA, reverse_complement
from degauss.bio.markov import fit_markov, profile_bits
from degauss.bio.model import ModelConfig, SequenceModel
from degauss.bio.nets import ConvNetConfig, NetConfig, TransformerConfig
from degauss.bio.sequences import Record
from degauss.core.cli import provenance
from degauss.core.errors import InputError, check_range
from degauss.core.jump import Absorbing, Subs, any_order, bits_per_token, weyl
from degauss.core.noise import Noise
from degauss.core.train import Shuffle, TrainConfig, remember, train

_DROP, _TURN, _PLACE = 2, 3, 4  # draws of the noise; 0 and 1 are the loss's
_VALID = 20  # keys the states that held-out sequences are measured in
_MEASURED, _MEASURED_DRAWS = 512, 4
_KERNEL, _DILATIONS, _HEADS = 9, (1, 1, 4, 16, 64), 4


class Batch(NamedTuple):
    """``tokens`` ``[batch, length]`` and ``labels`` ``[batch]``, the number of classes where there is none."""

    tokens: Tensor
    labels: Tensor


# --- data ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Sequences:
    """Sample numbers -> sequences, each once an epoch.

    ``tokens`` ``[items, longer]``: a window of ``length`` is cut out of each at a random place, if they are longer.
    ``labels`` ``[items]``. ``both_strands``: DNA is turned to its other strand every second time, by chance.
    """

    tokens: Tensor
    labels: Tensor
    length: int
    both_strands: bool = False
    seed: int = 0
    _order: Shuffle = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.tokens.shape[1] < self.length or len(self.labels) != len(self.tokens):
            shapes = tuple(self.tokens.shape), tuple(self.labels.shape)
            raise ValueError(f"tokens [items, >= {self.length}] and labels [items] are needed, got {shapes}")
        object.__setattr__(self, "_order", Shuffle(len(self.tokens), self.seed))

    def __call__(self, samples: Sequence[int]) -> Batch:
        items = torch.from_numpy(self._order(samples))
        noise, like = Noise(self.seed, samples), torch.empty(len(samples), dtype=torch.float64)
        free = self.tokens.shape[1] - self.length
        start = (noise.uniform(like, _PLACE) * (free + 1)).long()
        tokens = self.tokens[items[:, None], start[:, None] + torch.arange(self.length)].long()
        if self.both_strands:
            tokens = torch.where((noise.uniform(like, _TURN) < 0.5)[:, None], reverse_complement(tokens), tokens)
        return Batch(tokens, self.labels[items])


def held_out(sequences: Sequence[str], share: float, seed: int = 0) -> Tensor:
    """Which of the sequences are held out, bool ``[items]``: ``share`` of the different ones, at least one.

    Raises `InputError` where fewer than two are different, or for a share outside (0, 1).
    """
    if not 0 < share < 1:
        raise InputError(f"the share of sequences to hold out must be between 0 and 1, but is {share}.")
    numbers: dict[str, int] = {}
    own = torch.tensor([numbers.setdefault(sequence.upper(), len(numbers)) for sequence in sequences])
    if len(numbers) < 2:
        raise InputError(f"there are {len(numbers)} different sequences; expected at least two, as one is held out.")
    count = min(len(numbers) - 1, max(1, round(share * len(numbers))))
    chosen = torch.zeros(len(numbers), dtype=torch.bool)
    chosen[torch.from_numpy(Shuffle(len(numbers), seed)(range(count)))] = True
    return chosen[own]


def classes_of(
    path: str | os.PathLike[str], records: Sequence[Record], key: str | None
) -> tuple[tuple[str, ...], Tensor]:
    """The classes that the label ``key`` of records has, sorted, and the class of each record, ``[records]``.

    Without a key there is none. Raises `InputError` for a record without the label, naming the file and record.
    """
    if key is None:
        return (), torch.zeros(len(records), dtype=torch.long)
    for record in records:
        if not record.labels.get(key):
            known = ", ".join(record.labels) or "none"
            raise InputError(f"{path}: record {record.name!r} has no label {key!r}; its labels are {known}.")
    names = sorted({record.labels[key] for record in records})
    return tuple(names), torch.tensor([names.index(record.labels[key]) for record in records])


# --- loss ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MaskedLoss:
    """What `degauss.core.train.train` is given: bits per letter of each sample, ``[batch]``.

    ``dropped``: the share of samples that are shown without their label.
    """

    config: ModelConfig
    dropped: float = 0.1

    def __post_init__(self) -> None:
        check_range("the share of labels to drop", self.dropped, 0, 1)

    def __call__(self, network: nn.Module, batch: Batch, noise: Noise) -> Tensor:
        u = noise.uniform(torch.empty(len(batch.labels), device=batch.labels.device), _DROP)
        labels = batch.labels.masked_fill(u < self.dropped, len(self.config.labels))
        process = Absorbing(self.config.alphabet.vocabulary)
        denoiser = Subs(partial(network, label=labels), process)
        nats = any_order(denoiser, process, batch.tokens, noise, times=weyl)
        return bits_per_token(nats, self.config.length)


# --- runs ---------------------------------------------------------------------------------------------------


def net_of(
    kind: Literal["conv", "transformer"], length: int, width: int, depth: int, dropout: float = 0.0
) -> NetConfig:
    """A network of this width and depth for sequences of ``length``; `InputError` for sizes that it cannot have.

    Convolutions have DRAKES' dilations, none so wide that only its middle would see letters.
    """
    check_range("depth", depth, 1)
    check_range("dropout", dropout, 0, 1)
    widest = max(1, (length - 1) // (_KERNEL // 2))
    dilations = tuple(min(_DILATIONS[layer % len(_DILATIONS)], widest) for layer in range(depth))
    try:
        if kind == "conv":
            return ConvNetConfig(width, _KERNEL, dilations, dropout)
        return TransformerConfig(width, depth, _HEADS, dropout)
    except ValueError as error:
        raise InputError(f"the network cannot be made: {error}.") from None


def recipe(
    out: Path,
    *,
    steps: int,
    batch: int = 64,
    lr: float = 2e-3,
    weight_decay: float = 1e-2,
    ema: float = 0.999,
    seed: int = 0,
    save_every: int = 500,
    precision: Literal["no", "bf16", "fp16"] = "no",
    device: Literal["auto", "cpu"] = "auto",
    tracker: Literal["tensorboard"] | None = None,
) -> TrainConfig:
    """How a sequence model is trained, in the directory ``out``; `InputError` for a value out of its range."""
    return TrainConfig(
        out=out,
        steps=steps,
        batch_size=batch,
        lr=lr,
        warmup=min(200, steps // 10),
        weight_decay=weight_decay,
        ema=ema,
        precision=precision,
        seed=seed,
        save_every=save_every,
        evaluate_every=save_every,
        tracker=tracker,
        device=device,
    )


def fit(
    config: ModelConfig, data: Sequences, valid: Batch | None, settings: TrainConfig, dropped: float = 0.1
) -> SequenceModel:
    """Train a model, write it to ``out/model``, and return it, frozen, on the CPU.

    ``valid``: held-out sequences, whose bits per letter are logged, in the same states every time. A run that was
    stopped goes on; see `degauss.core.train` for what it raises. `InputError` where ``out`` holds the run of another
    model, or of other sequences.
    """
    about = {
        "alphabet": config.alphabet.name,
        "length": config.length,
        "labels": config.labels,
        "network": asdict(config.net),
        "sequences": hashlib.sha256(data.tokens.numpy().tobytes() + data.labels.numpy().tobytes()).hexdigest()[:12],
    }
    remember(settings.out, "a model", about)
    model = SequenceModel.new(config, settings.seed)
    loss = MaskedLoss(config, dropped)
    evaluate = None if valid is None else _validation(MaskedLoss(config, 0.0), valid)
    result = train(model.network, loss, data, settings, evaluate=evaluate)
    model.save(settings.out / "model", weights=result.weights)
    return SequenceModel.load(settings.out / "model")


class Bits(NamedTuple):
    """Mean bits per letter over sequences (at most so many; exact for the shortest), and its standard error."""

    mean: float
    error: float


def bits_of(model: SequenceModel, batch: Batch, *, labelled: bool, draws: int = 16, seed: int = _VALID) -> Bits:
    """Of sequences that the model knows the labels of, or of the same without them."""
    nats = torch.empty(len(batch.tokens), dtype=torch.float64)
    for number in torch.unique(batch.labels).tolist():
        rows = (batch.labels == number).nonzero()[:, 0]
        label = model.config.labels[number] if labelled and number < len(model.config.labels) else None
        nats[rows] = -model.log_prob(batch.tokens[rows], label=label, draws=draws, seed=seed + number).nats
    bits = nats / (model.length * math.log(2))
    error = float(bits.std() / math.sqrt(len(bits))) if len(bits) > 1 else 0.0
    return Bits(float(bits.mean()), error)


def card_of(
    model: SequenceModel, data: Sequences, valid: Batch, settings: TrainConfig, trained_on: Mapping[str, Any]
) -> dict[str, Any]:
    """What a model's ``card.json`` says: how it was trained, and what held-out letters cost it and simpler models."""
    train_tokens, vocabulary = data.tokens.long(), model.alphabet.vocabulary
    if data.both_strands:
        train_tokens = torch.cat([train_tokens, reverse_complement(train_tokens)])
    orders = range(9) if vocabulary == DNA.vocabulary else range(3)
    alone, classed = (bits_of(model, valid, labelled=labelled) for labelled in (False, True))
    return {
        "trained_on": dict(trained_on),
        "sequences": {"trained": len(data.tokens), "held_out": len(valid.tokens)},
        "steps": settings.steps,
        "batch": settings.batch_size,
        "lr": settings.lr,
        "seed": settings.seed,
        "parameters": sum(weight.numel() for weight in model.network.parameters()),
        "metrics": {
            "what": "bits a letter on held-out sequences: of the model an upper bound (exact up to 8 letters)",
            "bits_per_letter": round(alone.mean, 4),
            "standard_error": round(alone.error, 4),
            **({"bits_per_letter_given_class": round(classed.mean, 4)} if model.config.labels else {}),
            "markov_bits_per_letter": {
                str(markov.order): round(markov.bits(valid.tokens), 4)
                for markov in fit_markov(train_tokens, valid.tokens, vocabulary, orders)
            },
            "letters_by_place_bits_per_letter": round(profile_bits(train_tokens, valid.tokens, vocabulary), 4),
        },
        "provenance": provenance(),
    }


def _validation(loss: MaskedLoss, valid: Batch) -> Callable[[nn.Module], Mapping[str, float]]:
    """Bits per letter of the first held-out sequences, shown with their labels."""
    part = Batch(*(values[:_MEASURED] for values in valid))

    def evaluate(network: nn.Module) -> Mapping[str, float]:
        device = next(network.parameters()).device
        batch = Batch(*(values.to(device) for values in part))
        noise = Noise(_VALID, range(len(batch.tokens)))
        with torch.no_grad():
            draws = [loss(network, batch, noise.fork(k)).mean() for k in range(_MEASURED_DRAWS)]
        return {"valid_bits": float(torch.stack(draws).mean())}

    return evaluate
