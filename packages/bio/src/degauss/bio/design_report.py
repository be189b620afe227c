r"""What is said about designs: the records and the facts that `degauss-bio design` writes.

A design is scored by each reward by itself, by one that was held out, and by the model. Whether it meets the
constraints is asked of a check that knows nothing of how they were enforced. Gains are measured from natural sequences,
or from samples of the model where there are none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from degauss.bio.constraints import Constraints
from degauss.bio.designing import Found, Settings
from degauss.bio.hacking import HackingReport, Scores, hacking_report
from degauss.bio.metrics import pair_distance
from degauss.bio.model import SequenceModel
from degauss.bio.rewards import Reward, Term, evaluate, total
from degauss.bio.sequences import Record, read_sequences, tokens_of
from degauss.core.cli import provenance
from degauss.core.errors import InputError
from degauss.core.reward import BestOf, design

HELD_OUT = "held_out"

_HASH = 12
_NATURAL = 128  # samples of the model that stand for nature where no file does
_ELSEWHERE = 1 << 30  # their ids, apart from those of designs


@dataclass(frozen=True, eq=False)
class Job:
    """What was asked for. ``sha256``: of the model's weights. ``natural``: a file of sequences."""

    model: SequenceModel
    sha256: str
    settings: Settings
    terms: tuple[Term, ...]
    constraints: Constraints
    held_out: Reward | None = None
    natural: Path | None = None

    @property
    def rewards(self) -> dict[str, Reward]:
        """Those that are optimised, by short names: ``gc`` for gc:.4-.6, and ``gc_2`` for the next of its kind."""
        kinds = [term.reward.name.partition(":")[0] for term in self.terms]
        counts = [kinds[: place + 1].count(kind) for place, kind in enumerate(kinds)]
        names = [kind if count == 1 else f"{kind}_{count}" for kind, count in zip(kinds, counts, strict=True)]
        return dict(zip(names, (term.reward for term in self.terms), strict=True))


class Said(NamedTuple):
    """What is written: a record for each design, the best first, and the facts; ``warnings``: a sentence each."""

    records: list[Record]
    facts: dict[str, Any]
    warnings: list[str]


def report_of(job: Job, found: Found) -> Said:
    """What is to be said about designs.

    Raises RuntimeError where one does not meet the constraints, and `InputError` for a held-out reward that answers
    with no number and natural sequences that are not for this model.
    """
    sequences = job.model.alphabet.decode(found.tokens)
    check_met(job.constraints, sequences)
    log_prob = log_prob_of(job, found.tokens, [one.sample for one in found.designs])
    columns: dict[str, list[float]] = {"reward": [one.reward for one in found.designs]}
    if len(job.terms) > 1:
        columns |= {name: evaluate(reward, found.tokens).tolist() for name, reward in job.rewards.items()}
    hacking = None
    if job.held_out is not None:
        held_out = evaluate(job.held_out, found.tokens)
        columns[HELD_OUT] = held_out.tolist()
        hacking = _hacking(job, found, held_out, log_prob)
    columns["log_prob"] = log_prob.tolist()
    label = {} if job.settings.label is None else {"label": "_".join(job.settings.label.split())}
    common = {"method": job.settings.method, **label, "seed": str(job.settings.seed), "model": job.sha256[:_HASH]}
    records: list[Record] = []
    for rank, (sequence, one) in enumerate(zip(sequences, found.designs, strict=True)):
        own = {name: f"{values[rank]:.4f}" for name, values in columns.items()}
        records.append(Record(f"design_{rank + 1}", sequence, "", {**common, "sample": str(one.sample), **own}))
    return Said(records, _facts(job, found, hacking), [] if hacking is None else _warnings(hacking))


def log_prob_of(job: Job, tokens: Tensor, samples: Sequence[int]) -> Tensor:
    """log p of the model, or its bound, in nats: float64 ``[n]``; it does not depend on the batch."""
    parts: list[Tensor] = []
    for first in range(0, len(samples), job.settings.batch):
        rows = slice(first, first + job.settings.batch)
        label, seed = job.settings.label, job.settings.seed
        parts.append(job.model.log_prob_of(tokens[rows], samples[rows], label=label, seed=seed).nats)
    return torch.cat(parts)


def check_met(constraints: Constraints, sequences: Sequence[str]) -> None:
    """RuntimeError where a sequence violates a constraint, by the check that knows no automaton."""
    for sequence in sequences:
        if faults := constraints.violations(sequence):
            raise RuntimeError(f"the design {sequence} does not meet the constraints ({'; '.join(faults)})")


def read_natural(path: Path, model: SequenceModel) -> Tensor:
    """The sequences of a file, ``[m, length]``; `InputError` where their length is not the model's."""
    tokens = tokens_of(path, read_sequences(path), model.alphabet)
    if tokens.shape[1] != model.length:
        raise InputError(
            f"{path}: its sequences have {tokens.shape[1]} letters, but the model was trained for {model.length}."
        )
    return tokens


def _samples(job: Job) -> Tensor:
    """Samples of the model, as it is without rewards and constraints, ``[m, length]``."""
    made = design(
        job.model.denoiser(job.settings.label),
        job.model.process,
        (_NATURAL, job.model.length),
        lambda x: torch.zeros(len(x), device=x.device),
        method=BestOf(),
        steps=job.settings.steps,
        seed=job.settings.seed,
        samples=range(_ELSEWHERE, _ELSEWHERE + _NATURAL),
        device=job.model.device,
    )
    return made.tokens.cpu()


def _hacking(job: Job, found: Found, held_out: Tensor, log_prob: Tensor) -> HackingReport:
    assert job.held_out is not None
    tokens = _samples(job) if job.natural is None else read_natural(job.natural, job.model)
    optimised = total(job.terms)
    rewards = torch.tensor([one.reward for one in found.designs], dtype=torch.float64)
    likelihood = log_prob_of(job, tokens, range(_ELSEWHERE, _ELSEWHERE + len(tokens)))
    return hacking_report(
        found.tokens,
        tokens,
        job.model.alphabet.vocabulary,
        Scores(rewards, evaluate(optimised, tokens)),
        [(job.held_out.name, Scores(held_out, evaluate(job.held_out, tokens)))],
        Scores(log_prob, likelihood),
    )


def _warnings(hacking: HackingReport) -> list[str]:
    verdicts = [f"{name}: {gap.sentence}" for name, gap in hacking.gaps.items() if gap.verdict != "transfers"]
    return verdicts + hacking.collapse.warnings


def _facts(job: Job, found: Found, hacking: HackingReport | None) -> dict[str, Any]:
    texts = {name: term.reward.name for name, term in zip(job.rewards, job.terms, strict=True)}
    weights = {name: term.weight for name, term in zip(job.rewards, job.terms, strict=True)}
    facts: dict[str, Any] = {
        "designs": len(found.designs),
        "drawn": found.drawn,
        "settings": asdict(job.settings),
        "rewards": texts,
        "weights": weights,
        "reward_calls": found.reward_calls,
        "gradients": found.gradients,
        "evaluations": found.evaluations,
        "survivors": found.survivors,
        "seconds": round(found.seconds, 3),
        "pair_distance": pair_distance(found.tokens, job.model.alphabet.vocabulary),
        "constraints": {
            "asked": list(map(str, job.constraints.parts)),
            "checked": len(found.designs),
            "violated": 0,  # or `check_met` would have raised
        },
        "model_sha256": job.sha256,
        "provenance": provenance(),
    }
    if hacking is not None:
        facts["hacking"] = {
            "natural": "samples of the model" if job.natural is None else str(job.natural),
            "held_out": {name: asdict(gap) for name, gap in hacking.gaps.items()},
            "collapse": asdict(hacking.collapse),
            "sentences": hacking.sentences,
        }
    return numbers_only(facts)


def numbers_only(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The same with None for each NaN, which JSON has not."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return numbers_only(value)  # pyright: ignore[reportUnknownArgumentType]
        return None if isinstance(value, float) and math.isnan(value) else value

    return {name: plain(value) for name, value in facts.items()}
