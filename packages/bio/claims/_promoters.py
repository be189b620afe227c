"""What the claim about promoters needs: measured promoters of bacteria, a pretrained model, and who judges designs.

Promoters are shared out by clusters, relatives together: a part for the pretrained model and the reward, a part for the
held-out predictor, a part for the validation oracle, and a part that designs and predictors are measured on. Reward and
held-out predictor are convolutional networks of unlike widths; the validation oracle is a regression on words of five
letters, of whether the expression is above the median.

The thermodynamic model of transcription (La Fleur et al. 2022) was fitted to other promoters and is no network. It is
asked where its program ``promoter-calculator`` is installed, as a process of its own.
"""

from __future__ import annotations

import csv
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from degauss.bio import kmers, predictor_training, training
from degauss.bio.alphabets import DNA
from degauss.bio.datasets import promoters
from degauss.bio.kmers import KmerModel
from degauss.bio.markov import fit_markov
from degauss.bio.metrics import spearman
from degauss.bio.model import ModelConfig, SequenceModel
from degauss.bio.motifs import one_hot
from degauss.bio.predictor_training import Examples
from degauss.bio.predictors import Predictor, PredictorConfig
from degauss.bio.splits import clusters, share_out
from degauss.bio.training import Batch, Sequences, bits_of, net_of
from degauss.core.errors import InputError

from ._dna import kept

LENGTH, VOCABULARY = 165, 4
EXPRESSION = "expression"
PARTS = {
    "reward": 0.40,
    "reward, stopped by": 0.05,
    "held-out": 0.30,
    "held-out, stopped by": 0.05,
    "validation": 0.12,
    "test": 0.08,
}
PROGRAM = "promoter-calculator"


@dataclass(frozen=True)
class Effort:
    """How much is spent. Steps of training; designs of a seed."""

    pretraining: int = 800
    predictor: int = 600
    designs: int = 224
    chosen: int = 64
    """Designs that the weight of the divergence is chosen by."""
    iterations: int = 30
    """Of DRAKES, 16 trajectories each."""
    asked: int = 16
    """Designs that the thermodynamic model is asked about: it takes seconds for each."""


class Problem(NamedTuple):
    """What designs are made with and judged by, and the figures of that."""

    model: SequenceModel
    reward: Predictor
    validation: KmerModel
    held_out: Predictor
    natural: Tensor
    """Promoters of the last part."""
    figures: dict[str, float]

    def soft(self, weights: Tensor) -> Tensor:
        return self.reward.activity(weights, EXPRESSION)


def problem(effort: Effort) -> Problem:
    """The models, trained unless they were, and how good they are on the last part."""
    measured = promoters()
    tokens = DNA.encode([one.sequence for one in measured])
    expression = torch.tensor([[one.expression] for one in measured])
    parts = share_out(clusters(tokens), tuple(PARTS.values()))

    def part(name: str) -> Examples:
        return Examples(tokens, expression).take(parts == list(PARTS).index(name))

    test, valid = part("test"), part("validation")
    model = _pretrained(part("reward").tokens, effort.pretraining)
    reward, held_out = (
        _predictor(part(name), part(f"{name}, stopped by"), name, channels, effort.predictor)
        for name, channels in (("reward", 64), ("held-out", 40))
    )
    above = valid.labels[:, 0] > valid.labels.median()
    validation = kmers.fit(valid.tokens, above, target=EXPRESSION, k=5, both_strands=False)
    (markov,) = fit_markov(part("reward").tokens, valid.tokens, VOCABULARY, (6,))
    truth = test.labels[:, 0]
    figures = {
        "bits a base, pretrained": bits_of(
            model, Batch(test.tokens, torch.zeros(len(test.tokens), dtype=torch.int64)), labelled=False, draws=4
        ).mean,
        "bits a base, Markov of order 6": markov.bits(test.tokens),
        "rank correlation with expression, reward": spearman(predicted(reward, test.tokens), truth),
        "rank correlation with expression, held-out predictor": spearman(predicted(held_out, test.tokens), truth),
        "rank correlation with expression, validation oracle": spearman(validation.score(test.tokens), truth),
        "rank correlation of reward and held-out predictor": spearman(
            predicted(reward, test.tokens), predicted(held_out, test.tokens)
        ),
    }
    return Problem(model, reward, validation, held_out, test.tokens, figures)


@torch.inference_mode()
def predicted(predictor: Predictor, tokens: Tensor) -> Tensor:
    """The predicted logarithm of expression, ``[n]``."""
    return torch.cat([predictor.activity(one_hot(some, VOCABULARY), EXPRESSION) for some in tokens.split(256)])


def _pretrained(tokens: Tensor, steps: int) -> SequenceModel:
    config = ModelConfig(DNA, LENGTH, net_of("conv", LENGTH, 64, 6, 0.1))
    out = kept("promoter-model", [asdict(config), steps, PARTS])
    if (out / "model").exists():
        return SequenceModel.load(out / "model")
    data = Sequences(tokens, torch.zeros(len(tokens), dtype=torch.int64), LENGTH)
    settings = training.recipe(out, steps=steps, batch=64, lr=2e-3, ema=0.99, device="cpu")
    return training.fit(config, data, None, settings, dropped=0.0)


def _predictor(train: Examples, valid: Examples, name: str, channels: int, steps: int) -> Predictor:
    config = PredictorConfig(
        (EXPRESSION,), LENGTH, "values", both_strands=False, channels=channels, mean=(0.0,), spread=(1.0,)
    )  # these two are measured in training
    out = kept(f"promoter-{name}", [asdict(config), steps, PARTS])
    if (out / "model").exists():
        return Predictor.load(out / "model")
    return predictor_training.fit(
        config, train, valid, predictor_training.recipe(out, steps=steps, seed=channels, device="cpu")
    )


# --- the thermodynamic model --------------------------------------------------------------------------------


def installed() -> bool:
    """Whether the thermodynamic model can be asked."""
    return shutil.which(PROGRAM) is not None


def transcription_rates(sequences: Sequence[str]) -> Tensor:
    """The highest rate at which each sequence is transcribed forwards, ``[n]``, in the model's units; 0 where none is.

    Raises `InputError` where the program fails or answers otherwise.
    """
    return torch.tensor([_rate(sequence) for sequence in sequences], dtype=torch.float64)


def _rate(sequence: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rates.csv"
        command = [PROGRAM, "-i", sequence, "-o", str(out), "-v", "0", "-j", "1"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or not out.exists():
            raise InputError(f"{PROGRAM} failed: {done.stderr.strip() or 'it wrote nothing'}")
        with out.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    try:
        return max((float(row["Tx_rate"]) for row in rows if row["strand"] == "+"), default=0.0)
    except (KeyError, ValueError) as error:
        raise InputError(f"{PROGRAM} answered in an unknown form ({error!r}).") from None
