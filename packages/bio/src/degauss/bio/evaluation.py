"""Designs judged beside natural sequences: every number of the report, measured once.

    found = evaluate_designs(tokens, natural, Judges(rewards, held_out, motifs=read_motifs(path)))
    found.hacking.sentences

What is natural is what the user says it is: the sequences a model was trained on, or others of the kind that is wanted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from degauss.bio import metrics
from degauss.bio.alphabets import DNA, Alphabet
from degauss.bio.hacking import HackingReport, Scores, hacking_report
from degauss.bio.metrics import Nearest
from degauss.bio.model import SequenceModel
from degauss.bio.motifs import Motif, hits
from degauss.bio.rewards import Reward, evaluate, total
from degauss.bio.rewards.reward import Term
from degauss.core.errors import InputError
from degauss.core.options import Report

_ENRICHED = 8
_PRIOR = 0.5  # hits that are added to both counts, so that a ratio is finite
LEAST_NATURAL = 20
"""Natural sequences without which there is no distribution to compare with."""


@dataclass(frozen=True)
class Judges:
    """Who judges: the rewards that were optimised, oracles that were not, and what else is known.

    ``motifs``: a collection, for DNA. ``model`` and ``label``: whose likelihood is asked, of which class. ``draws``:
    states that the bound of a sequence's likelihood is averaged over.
    """

    rewards: Sequence[Term]
    held_out: Sequence[Reward] = ()
    motifs: Sequence[Motif] = ()
    model: SequenceModel | None = None
    label: str | None = None
    draws: int = 32


class Enriched(NamedTuple):
    """A motif and how often a sequence has it, among designs and among natural ones."""

    motif: Motif
    designs: float
    natural: float

    @property
    def fold(self) -> float:
        """log2 of the ratio."""
        return math.log2(self.designs / self.natural)


@dataclass(frozen=True)
class Evaluation:
    """What was found.

    ``scores``: of each oracle by its name, the total of the rewards under ``"reward"`` where there are several.
    ``measures``: one number each for the whole set; see `degauss.bio.metrics`. ``copied [n]``: shares.
    """

    alphabet: Alphabet
    designs: Tensor
    natural: int
    scores: dict[str, Scores]
    held_out: tuple[str, ...]
    measures: dict[str, float]
    nearest: Nearest
    copied: Tensor
    hacking: HackingReport
    likelihood: Scores | None
    enriched: tuple[Enriched, ...]

    def card(self) -> dict[str, Any]:
        """All numbers as JSON can hold them; None for what has no value."""
        gaps = {name: {**asdict(gap), "sentence": gap.sentence} for name, gap in self.hacking.gaps.items()}
        told = {
            "sequences": len(self.designs),
            "length": self.designs.shape[1],
            "alphabet": self.alphabet.name,
            "natural_sequences": self.natural,
            "scores": {name: _quartiles(scores) for name, scores in self.scores.items()},
            "likelihood": None if self.likelihood is None else _quartiles(self.likelihood),
            "measures": self.measures,
            "hacking": {"clean": self.hacking.clean, "gaps": gaps, **asdict(self.hacking.collapse)},
            "sentences": self.hacking.sentences,
            "motifs": [
                {"name": one.motif.name, "designs": one.designs, "natural": one.natural} for one in self.enriched
            ],
        }
        return _finite(told)


def like_designs(natural: Sequence[str], length: int, alphabet: Alphabet) -> Tensor:
    """Natural sequences at the length of the designs, ``[m, length]``: the middle of longer ones; none is shorter.

    Raises `InputError` where fewer than `LEAST_NATURAL` are as long.
    """
    long_enough = [sequence for sequence in natural if len(sequence) >= length]
    if len(long_enough) < LEAST_NATURAL:
        raise InputError(
            f"only {len(long_enough)} of {len(natural)} natural sequences have the {length} letters of the designs; "
            f"expected at least {LEAST_NATURAL}."
        )
    cut = [sequence[(len(sequence) - length) // 2 :][:length] for sequence in long_enough]
    return alphabet.encode(cut)


def evaluate_designs(
    tokens: Tensor, natural: Tensor, judges: Judges, report: Report = lambda done, total: None
) -> Evaluation:
    """Judge designs ``[n, L]`` beside natural sequences ``[m, L]``.

    Raises `InputError` for judges of different alphabets, an oracle whose number is not finite, and a model of another
    length.
    """
    whole = total(judges.rewards)
    alphabet = total([*judges.rewards, *(Term(1.0, oracle) for oracle in judges.held_out)]).alphabet
    singles = [term.reward for term in judges.rewards]
    oracles = [*singles, *([whole] if len(singles) > 1 else []), *judges.held_out]
    names = [*(one.name for one in singles), *(["reward"] if len(singles) > 1 else [])]
    names += [oracle.name for oracle in judges.held_out]
    scores: dict[str, Scores] = {}
    for done, (name, oracle) in enumerate(zip(names, oracles, strict=True)):
        report(done, len(oracles) + 2)
        scores[name] = Scores(evaluate(oracle, tokens), evaluate(oracle, natural))
    likelihood = _likelihood(judges, alphabet, tokens, natural)
    report(len(oracles) + 1, len(oracles) + 2)
    optimised = scores["reward"] if len(singles) > 1 else scores[singles[0].name]
    held_out = [(oracle.name, scores[oracle.name]) for oracle in judges.held_out]
    vocabulary = alphabet.vocabulary
    copied = metrics.copied(
        tokens, [natural], vocabulary, metrics.word_length(natural.numel(), tokens.shape[1], vocabulary)
    )
    nearest = metrics.nearest(tokens, natural, vocabulary)
    motifs = judges.motifs if alphabet == DNA else ()
    return Evaluation(
        alphabet,
        tokens,
        len(natural),
        scores,
        tuple(oracle.name for oracle in judges.held_out),
        _measures(tokens, natural, alphabet, motifs, nearest, copied),
        nearest,
        copied,
        hacking_report(tokens, natural, vocabulary, optimised, held_out, likelihood),
        likelihood,
        enriched(tokens, natural, motifs),
    )


def enriched(tokens: Tensor, natural: Tensor, motifs: Sequence[Motif]) -> tuple[Enriched, ...]:
    """The eight motifs whose hits a sequence rose most, by the ratio; only ones that a fifth of the designs have."""
    if not motifs:
        return ()
    ours, theirs = ((hits(motifs, some).sum(0) + _PRIOR) / len(some) for some in (tokens, natural))
    found = [
        Enriched(motif, here, there)
        for motif, here, there in zip(motifs, ours.tolist(), theirs.tolist(), strict=True)
        if here >= 0.2
    ]
    return tuple(sorted(found, key=lambda one: -one.fold)[:_ENRICHED])


def _measures(
    tokens: Tensor, natural: Tensor, alphabet: Alphabet, motifs: Sequence[Motif], nearest: Nearest, copied: Tensor
) -> dict[str, float]:
    v = alphabet.vocabulary
    found = {
        "3mer_correlation": metrics.kmer_correlation(tokens, natural, 3, v),
        "pair_distance": metrics.pair_distance(tokens, v),
        "natural_pair_distance": metrics.pair_distance(natural, v),
        "unique_share": metrics.unique_share(tokens),
        "dinucleotide_entropy": float(metrics.dinucleotide_entropy(tokens, v).quantile(0.5)),
        "natural_dinucleotide_entropy": float(metrics.dinucleotide_entropy(natural, v).quantile(0.5)),
        "top_dinucleotide_share": float(metrics.top_dinucleotide_share(tokens, v).quantile(0.5)),
        "natural_top_dinucleotide_share": float(metrics.top_dinucleotide_share(natural, v).quantile(0.5)),
        "longest_run": float(metrics.longest_run(tokens).double().quantile(0.5)),
        "nearest_identity": float(nearest.identity.quantile(0.5)),
        "most_identity": float(nearest.identity.max()),
        "copied_share": float(copied.mean()),
    }
    if alphabet == DNA:
        found["gc"] = float(((tokens == 1) | (tokens == 2)).double().mean())
        found["natural_gc"] = float(((natural == 1) | (natural == 2)).double().mean())
    if motifs:
        found["motif_correlation"] = metrics.motif_correlation(tokens, natural, motifs)
    return found


def _likelihood(judges: Judges, alphabet: Alphabet, tokens: Tensor, natural: Tensor) -> Scores | None:
    model = judges.model
    if model is None:
        return None
    if model.alphabet != alphabet or model.length != tokens.shape[1]:
        raise InputError(
            f"the model is of {model.length} letters of {model.alphabet.name}, but the designs are of "
            f"{tokens.shape[1]} letters of {alphabet.name}."
        )
    # As many natural sequences as make the ends of a band, spread over the file.
    some = natural[torch.linspace(0, len(natural) - 1, min(len(natural), 1000)).long()]
    asked = (model.log_prob(part, label=judges.label, draws=judges.draws).nats for part in (tokens, some))
    return Scores(*asked)


def _quartiles(scores: Scores) -> dict[str, list[float]]:
    """(25 %, median, 75 %) of both."""
    at = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    return {name: part.double().quantile(at).tolist() for name, part in scores._asdict().items()}


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
