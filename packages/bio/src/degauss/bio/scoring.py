"""A table of scores: a row for each sequence of a file, whatever its length."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from degauss.bio import metrics
from degauss.bio.alphabets import DNA, Alphabet
from degauss.bio.rewards import Term, evaluate
from degauss.bio.sequences import Record
from degauss.core.errors import InputError
from degauss.core.files import atomic_path
from degauss.core.options import Report

Row = Mapping[str, str | float | int]

COPIED = 0.5
"""The share of a sequence that must be copied for the flag ``copy``."""
# What a repeat of two or three letters has at most, in bits of dinucleotide entropy.
_SIMPLE = 1.6


def score_records(
    records: Sequence[Record],
    alphabet: Alphabet,
    terms: Sequence[Term],
    natural: Sequence[Record] = (),
    report: Report = lambda done, total: None,
) -> list[Row]:
    """The rows of records, in their order; see `degauss.bio.commands.score.Score` for the columns.

    Raises `InputError` for a letter outside the alphabet and for a reward whose number is not finite.
    """
    known = _known(natural, alphabet)
    rows: dict[int, dict[str, str | float | int]] = {}
    for numbers in by_length([record.sequence for record in records]):
        some = [records[number] for number in numbers]
        tokens = alphabet.encode([record.sequence for record in some], [record.name for record in some])
        columns = _columns(tokens, alphabet, terms, known)
        for place, number in enumerate(numbers):
            told = {name: values[place] for name, values in columns.items()}
            rows[number] = {"id": records[number].name, "sequence": records[number].sequence, **told}
        report(len(rows), len(records))
    return _flagged([rows[number] for number in range(len(records))])


def by_length(sequences: Sequence[str]) -> list[list[int]]:
    """The numbers of the sequences of each length, lengths in the order of their first."""
    found: dict[int, list[int]] = {}
    for number, sequence in enumerate(sequences):
        found.setdefault(len(sequence), []).append(number)
    return list(found.values())


def write_table(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as CSV, whole or not at all; numbers with six digits. ValueError for no row."""
    if not rows:
        raise ValueError("no rows to write")
    names = list(dict.fromkeys(name for row in rows for name in row))
    with atomic_path(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names, restval="")
        writer.writeheader()
        for row in rows:
            writer.writerow({name: f"{v:.6g}" if isinstance(v, float) else v for name, v in row.items()})


Known = Mapping[int, tuple[list[str], Tensor]]


def _known(natural: Sequence[Record], alphabet: Alphabet) -> Known:
    """Names and tokens of the natural sequences of each length."""
    found: dict[int, tuple[list[str], Tensor]] = {}
    for numbers in by_length([record.sequence for record in natural]):
        some = [natural[number] for number in numbers]
        names = [record.name for record in some]
        try:
            tokens = alphabet.encode([record.sequence for record in some], names)
        except InputError as error:
            raise InputError(f"natural sequences: {error}") from None
        found[tokens.shape[1]] = names, tokens
    return found


def _columns(
    tokens: Tensor, alphabet: Alphabet, terms: Sequence[Term], known: Known
) -> dict[str, list[float] | list[int] | list[str]]:
    found: dict[str, list[float] | list[int] | list[str]] = {}
    scores = [evaluate(term.reward, tokens) for term in terms]
    for term, values in zip(terms, scores, strict=True):
        found[term.reward.name] = values.tolist()
    if len(terms) > 1:
        weights = torch.tensor([term.weight for term in terms], dtype=torch.float64)
        found["total"] = (weights @ torch.stack(scores)).tolist()
    if alphabet == DNA:
        found["gc"] = ((tokens == 1) | (tokens == 2)).double().mean(1).tolist()
    found["longest_run"] = metrics.longest_run(tokens).tolist()
    if tokens.shape[1] > 1:
        found["dinucleotide_entropy"] = metrics.dinucleotide_entropy(tokens, alphabet.vocabulary).tolist()
    if known:
        found |= _novelty(tokens, alphabet.vocabulary, known)
    return found


def _novelty(tokens: Tensor, vocabulary: int, known: Known) -> dict[str, list[float] | list[int] | list[str]]:
    """The nearest natural sequence of this length, if any has it, and what is copied from those of any length."""
    found: dict[str, list[float] | list[int] | list[str]] = {}
    if tokens.shape[1] in known:
        names, natural = known[tokens.shape[1]]
        nearest = metrics.nearest(tokens, natural, vocabulary)
        found["nearest"] = [names[row] for row in nearest.row.tolist()]
        found["identity"] = nearest.identity.tolist()
    letters = sum(natural.numel() for _, natural in known.values())
    k = metrics.word_length(letters, tokens.shape[1], vocabulary)
    found["copied"] = metrics.copied(tokens, [natural for _, natural in known.values()], vocabulary, k).tolist()
    return found


def _flagged(rows: Sequence[dict[str, str | float | int]]) -> list[Row]:
    seen: set[str | float | int] = set()
    found: list[Row] = []
    for row in rows:
        flags = [
            *(["duplicate"] if row["sequence"] in seen else []),
            *(["simple"] if float(row.get("dinucleotide_entropy", 9)) <= _SIMPLE else []),
            *(["copy"] if float(row.get("copied", 0)) >= COPIED or float(row.get("identity", 0)) == 1 else []),
        ]
        seen.add(row["sequence"])
        found.append({**row, "flags": " ".join(flags)})
    return found
