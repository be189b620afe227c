"""Training a predictor: the one recipe behind the command, the examples and the claims.

The weights that are kept are those, averaged, with the least loss on the validation set so far: on a few thousand
sequences a network learns them by heart in the end. A run that was stopped goes on and ends with the same weights, bit
for bit (see `degauss.core.train`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from degauss.bio.alphabets import reverse_complement
from degauss.bio.datasets import Site
from degauss.bio.metrics import auroc, pearson, spearman
from degauss.bio.motifs import one_hot
from degauss.bio.predictors import Predictor, PredictorConfig
from degauss.core.errors import InputError
from degauss.core.files import read_json, remove
from degauss.core.noise import Noise
from degauss.core.train import Shuffle, TrainConfig, latest_checkpoint, train

_BATCH = 512  # sequences judged at once


class Examples(NamedTuple):
    """Sequences, tokens ``[n, L]``, and what is to be predicted: classes ``[n]`` int64 or values ``[n, targets]``."""

    tokens: Tensor
    labels: Tensor

    def take(self, chosen: Tensor) -> Examples:
        return Examples(self.tokens[chosen], self.labels[chosen])


class Figures(NamedTuple):
    """How good a predictor is: its loss, and for each target AUROC (classes), or Pearson and Spearman (values)."""

    loss: float
    by_target: Mapping[str, float]


# --- data ---------------------------------------------------------------------------------------------------


def site_examples(
    sites: Sequence[Site], chromosomes: frozenset[str], cell_types: Sequence[str], window: int = 200
) -> Examples:
    """The sites on some chromosomes, their central ``window`` letters, labelled by cell type.

    Raises `InputError` where there is none, or a cell type has none there.
    """
    from degauss.bio.alphabets import DNA

    chosen = [site for site in sites if site.chromosome in chromosomes]
    found = {site.cell_type for site in chosen}
    for cell_type in cell_types:
        if cell_type not in found:
            named = ", ".join(sorted(chromosomes))
            raise InputError(f"no site of {cell_type} on {named}; expected some of each of {', '.join(cell_types)}.")
    tokens = central(DNA.encode([site.sequence for site in chosen]), window)
    return Examples(tokens, torch.tensor([list(cell_types).index(site.cell_type) for site in chosen]))


def central(tokens: Tensor, window: int) -> Tensor:
    """The middle ``window`` letters of each sequence; `InputError` for more than there are."""
    length = tokens.shape[1]
    if not 1 <= window <= length:
        raise InputError(f"window must be between 1 and {length} letters, but is {window}.")
    first = (length - window) // 2
    return tokens[:, first : first + window]


@dataclass(frozen=True, eq=False)
class Shuffled:
    """Sample numbers -> examples, each once an epoch."""

    examples: Examples
    seed: int = 0

    def __call__(self, samples: Sequence[int]) -> tuple[Tensor, Tensor]:
        rows = torch.from_numpy(Shuffle(len(self.examples.tokens), self.seed)(samples))
        return self.examples.tokens[rows], self.examples.labels[rows]


# --- training -----------------------------------------------------------------------------------------------


def recipe(
    out: Path,
    *,
    steps: int,
    batch: int = 64,
    lr: float = 2e-3,
    seed: int = 0,
    evaluate_every: int = 0,
    device: Literal["auto", "cpu"] = "auto",
    tracker: Literal["tensorboard"] | None = None,
) -> TrainConfig:
    """How a predictor is trained, in the directory ``out``; `InputError` for a value out of its range."""
    return TrainConfig(
        out=out,
        steps=steps,
        batch_size=batch,
        lr=lr,
        warmup=min(100, steps // 10),
        weight_decay=1e-2,
        ema=0.99,
        seed=seed,
        save_every=200,
        evaluate_every=evaluate_every or max(1, steps // 10),
        tracker=tracker,
        device=device,
    )


def fit(config: PredictorConfig, examples: Examples, valid: Examples, settings: TrainConfig) -> Predictor:
    """Train on examples, write the best on ``valid`` to ``out/model``, and return it, frozen, on the CPU.

    A run that was stopped goes on; see `degauss.core.train` for what it raises.
    """
    config = scaled(config, examples)
    predictor = Predictor.new(config, settings.seed)
    best = settings.out / "best"
    if latest_checkpoint(settings.out) is None:
        remove(best)

    def evaluate(network: nn.Module) -> Mapping[str, float]:
        figures = judge(replace(predictor, network=network), valid)
        if figures.loss < _least(best) and _is_main():
            predictor.save(best, network.state_dict(), {"valid_loss": figures.loss})
        return {"valid_loss": figures.loss, **figures.by_target}

    def loss(network: nn.Module, batch: tuple[Tensor, Tensor], noise: Noise) -> Tensor:
        tokens, labels = batch
        if config.both_strands:
            # One strand of each, drawn anew each time: half the cost of both.
            other = noise.uniform(torch.empty(len(tokens), device=tokens.device)) < 0.5
            tokens = torch.where(other[:, None], reverse_complement(tokens), tokens)
        return losses(config, network(one_hot(tokens, config.letters.vocabulary)), labels)

    train(predictor.network, loss, Shuffled(examples, settings.seed), settings, evaluate=evaluate)
    kept = Predictor.load(best)
    figures = judge(kept, valid)
    kept.save(settings.out / "model", metrics={"valid_loss": figures.loss, **figures.by_target})
    return kept


def scaled(config: PredictorConfig, examples: Examples) -> PredictorConfig:
    """The config with the mean and the standard deviation of each value, where it predicts values.

    Raises `InputError` for a value that is the same in all examples, or is no number.
    """
    if config.kind == "classes":
        return config
    spread = examples.labels.double().std(0, correction=0)
    for name, width in zip(config.targets, spread.tolist(), strict=True):
        if not 0 < width < float("inf"):
            raise InputError(f"{name} has a standard deviation of {width} over {len(spread)} examples.")
    return replace(config, mean=tuple(examples.labels.double().mean(0).tolist()), spread=tuple(spread.tolist()))


def losses(config: PredictorConfig, raw: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy in nats of classes, or squared error of values in units of their variance: ``[batch]``."""
    if config.kind == "classes":
        return F.cross_entropy(raw, labels, reduction="none")
    mean, spread = (torch.tensor(scale, device=raw.device) for scale in (config.mean, config.spread))
    return (raw - (labels.to(raw.dtype) - mean) / spread).square().mean(-1)


@torch.no_grad()
def judge(predictor: Predictor, examples: Examples) -> Figures:
    """The loss and the figures of each target on examples."""
    device = next(predictor.network.parameters()).device
    config, vocabulary = predictor.config, predictor.config.letters.vocabulary
    batches = examples.tokens.split(_BATCH)
    raw = torch.cat([predictor.outputs(one_hot(batch.to(device), vocabulary)).cpu() for batch in batches])
    found: dict[str, float] = {}
    for index, name in enumerate(config.targets):
        if config.kind == "values":
            found[f"pearson_{name}"] = pearson(raw[:, index], examples.labels[:, index])
            found[f"spearman_{name}"] = spearman(raw[:, index], examples.labels[:, index])
        elif 0 < int((examples.labels == index).sum()) < len(examples.labels):
            others = [i for i in range(len(config.targets)) if i != index]
            found[f"auroc_{name}"] = auroc(raw[:, index] - raw[:, others].logsumexp(-1), examples.labels == index)
    return Figures(float(losses(config, raw, examples.labels).mean()), found)


def _least(best: Path) -> float:
    """The least validation loss so far, as the model kept says it."""
    if not (best / "config.json").is_file():
        return float("inf")
    metrics: Any = read_json(best / "config.json").get("metrics", {})
    return float(metrics["valid_loss"])


def _is_main() -> bool:
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0
