r"""What the claim about enhancers needs: sites, a pretrained model, three oracles, and how designs are judged.

The central 100 letters of DNase-accessible sites of four cell types; the activity is accessibility in HepG2 against the
others. No chromosome serves twice:

    3 to 11          the pretrained model; the reward, a convolutional network (3 to 10, stopped by 11)
    2                the validation oracle, which chooses every method's setting: a regression on words of 5 letters
    12 to 22, X      the held-out oracle, which is asked once, at the end: a regression on words of 6 letters
    1                real sites: what designs are compared with, and what oracles and the model are measured on

The model that ships is not used here: it has learnt all chromosomes but 1 and 2, the held-out oracle's too. All oracles
read one assay, so what they share they cannot tell from truth.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from degauss.bio import kmers, predictor_training, training
from degauss.bio.alphabets import DNA, reverse_complement
from degauss.bio.datasets import accessible_sites
from degauss.bio.kmers import KmerModel
from degauss.bio.markov import fit_markov
from degauss.bio.metrics import auroc, dinucleotide_entropy, kmer_correlation, pair_distance
from degauss.bio.model import ModelConfig, SequenceModel
from degauss.bio.motifs import one_hot
from degauss.bio.predictor_training import Examples, site_examples
from degauss.bio.predictors import Predictor, PredictorConfig
from degauss.bio.splits import chromosomes
from degauss.bio.training import Batch, Sequences, bits_of, net_of
from degauss.core.reward import Hardened, Reward

LENGTH, VOCABULARY = 100, 4
CELLS = ("GM12878", "HepG2", "K562", "hESCT0")
CELL = "HepG2"
WIDTH, DEPTH = 64, 6
LIKELIHOOD_DRAWS = 4

PRETRAINED_ON, LEARNT, STOPPED, VALIDATION, HELD_OUT, TEST = "3-11", "3-10", "11", "2", "12-22,X", "1"


@dataclass(frozen=True)
class Effort:
    """How much is spent. Steps of training; designs of a seed, and of the methods that take many evaluations each."""

    pretraining: int = 1200
    reward: int = 1000
    designs: int = 640
    costly: int = 224
    chosen: int = 64
    """Designs that a setting is chosen by."""
    iterations: int = 60
    """Of DRAKES, 16 trajectories each."""
    pool: int = 1024
    """Sequences that are weighted, and then learnt for ``weighted`` steps."""
    weighted: int = 200


class Problem(NamedTuple):
    """What all methods are given, what they are judged by, and the figures of both."""

    model: SequenceModel
    reward: Predictor
    validation: KmerModel
    held_out: KmerModel
    natural: Tensor
    """The real sites of the cell on chromosome 1."""
    figures: dict[str, float]

    def soft(self, weights: Tensor) -> Tensor:
        return self.reward.activity(weights, CELL)

    @property
    def hard(self) -> Reward:
        return Hardened(self.soft, VOCABULARY)


def problem(effort: Effort) -> Problem:
    """The models, trained unless they were, and how good they are on chromosome 1."""
    sites = accessible_sites()

    def on(text: str) -> Examples:
        return site_examples(sites, chromosomes(text), CELLS, LENGTH)

    test = on(TEST)
    active = test.labels == CELLS.index(CELL)
    train = on(PRETRAINED_ON).tokens
    model = _pretrained(train, effort.pretraining)
    reward = _reward(on, effort.reward)
    validation, held_out = _regression(on(VALIDATION), 5), _regression(on(HELD_OUT), 6)
    with torch.inference_mode():
        activity = reward.activity(one_hot(test.tokens, VOCABULARY), CELL)
    figures = {
        "bits a base on chromosome 1, pretrained": bits_of(
            model, _unlabelled(test.tokens), labelled=False, draws=LIKELIHOOD_DRAWS
        ).mean,
        **_markov(train, on(VALIDATION).tokens, test.tokens),
        "AUROC on chromosome 1, reward": auroc(activity, active),
        "AUROC on chromosome 1, validation oracle": auroc(validation.score(test.tokens), active),
        "AUROC on chromosome 1, held-out oracle": auroc(held_out.score(test.tokens), active),
    }
    return Problem(model, reward, validation, held_out, test.tokens[active], figures)


def _unlabelled(tokens: Tensor) -> Batch:
    return Batch(tokens, torch.zeros(len(tokens), dtype=torch.int64))


def _pretrained(tokens: Tensor, steps: int) -> SequenceModel:
    config = ModelConfig(DNA, LENGTH, net_of("conv", LENGTH, WIDTH, DEPTH))
    out = kept("dna-model", [asdict(config), steps, PRETRAINED_ON])
    if (out / "model").exists():
        return SequenceModel.load(out / "model")
    data = Sequences(*_unlabelled(tokens), LENGTH, both_strands=True)
    settings = training.recipe(out, steps=steps, batch=64, lr=2e-3, ema=0.99, device="cpu")
    return training.fit(config, data, None, settings, dropped=0.0)


def _reward(on: Callable[[str], Examples], steps: int) -> Predictor:
    config = PredictorConfig(CELLS, LENGTH)
    out = kept("dna-reward", [asdict(config), steps, LEARNT, STOPPED])
    if (out / "model").exists():
        return Predictor.load(out / "model")
    settings = predictor_training.recipe(out, steps=steps, device="cpu")
    return predictor_training.fit(config, on(LEARNT), on(STOPPED), settings)


def _regression(examples: Examples, k: int) -> KmerModel:
    return kmers.fit(examples.tokens, examples.labels == CELLS.index(CELL), target=CELL, k=k)


def _markov(train: Tensor, valid: Tensor, test: Tensor) -> dict[str, float]:
    """Markov models of the same window: their weights are chosen on chromosome 2."""
    both = torch.cat([train, reverse_complement(train)])
    fitted = fit_markov(both, valid, VOCABULARY, range(0, 9, 2))
    return {f"bits a base on chromosome 1, Markov of order {model.order}": model.bits(test) for model in fitted}


def kept(name: str, about: object) -> Path:
    """Where something that takes long to train is kept, by all that it follows from."""
    text = json.dumps(about, sort_keys=True, default=str)
    return Path(f"out/claims/{name}-{hashlib.sha256(text.encode()).hexdigest()[:10]}")


# --- judging ------------------------------------------------------------------------------------------------


class Judged(NamedTuple):
    """What designs are like: medians, but for shares, the correlation and the mean distance of pairs.

    ``log_prob`` is the bound in nats under the pretrained model; ``complexity`` the entropy of pairs of neighbours in
    bits.
    """

    reward: float
    held_out: float
    positive: float
    words: float
    log_prob: float
    distance: float
    complexity: float


UNITS = {
    "reward": "median reward",
    "held_out": "median held-out score",
    "positive": "share with a held-out score above 0",
    "words": "correlation of 3-mers with real sites",
    "log_prob": "median log p under the pretrained model, nats",
    "distance": "pair distance",
    "complexity": "complexity, bits",
}
"""What figures call the fields of `Judged`."""


@torch.inference_mode()
def judged(posed: Problem, tokens: Tensor) -> Judged:
    """Designs, or real sites, ``[n, LENGTH]``."""
    held_out = posed.held_out.score(tokens)
    return Judged(
        float(posed.hard(tokens).median()),
        float(held_out.median()),
        float((held_out > 0).double().mean()),
        kmer_correlation(tokens, posed.natural),
        float(posed.model.log_prob(tokens, draws=LIKELIHOOD_DRAWS).nats.median()),
        pair_distance(tokens, VOCABULARY),
        float(dinucleotide_entropy(tokens).median()),
    )
