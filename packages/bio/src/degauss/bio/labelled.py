"""Labelled sequences of a file, as examples to train a predictor on and to judge it by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from degauss.bio.alphabets import Alphabet
from degauss.bio.predictor_training import Examples
from degauss.bio.sequences import Record
from degauss.bio.splits import clusters, share_out
from degauss.core.errors import InputError

SPLITS = ("train", "valid", "test")
_SHARES = (0.8, 0.1, 0.1)
_WORD = {"DNA": 20, "protein": 6}


class Labelled(NamedTuple):
    """Three parts of a file, and what is predicted: class names, or the column of the values."""

    train: Examples
    valid: Examples
    test: Examples
    targets: tuple[str, ...]


def labelled(
    records: Sequence[Record],
    alphabet: Alphabet,
    *,
    classes: str | None = None,
    value: str | None = None,
    split: str | None = None,
    seed: int = 0,
) -> Labelled:
    """Examples of records of one length, by the column ``classes`` or ``value``.

    ``split``: a column that says train, valid or test; without one, clusters of relatives are shared out 8 : 1 : 1
    (`degauss.bio.splits.clusters`; sequences shorter than its words are related where they are equal). Raises
    `InputError` for a column that is missing, a value that is no number, and a part without sequences.
    """
    tokens = alphabet.encode([record.sequence for record in records], [record.name for record in records])
    if (classes is None) == (value is None):
        raise InputError("expected either a column of classes or a column of values (--classes or --value).")
    if classes is not None:
        said = _column(records, classes)
        targets = tuple(sorted(set(said)))
        labels = torch.tensor([targets.index(name) for name in said])
    else:
        column = str(value)
        targets = (column,)
        labels = torch.tensor([_number(record, column) for record in records], dtype=torch.float64)[:, None]
    if split is None:
        k = min(_WORD[alphabet.name], tokens.shape[1])
        part = share_out(clusters(tokens, k, alphabet.vocabulary), _SHARES, seed)
    else:
        part = torch.tensor([_part(record, split) for record in records])
    for index, name in enumerate(SPLITS):
        if not bool((part == index).any()):
            raise InputError(f"column {split!r} says {name!r} of no record; expected train, valid and test.")
    whole = Examples(tokens, labels)
    train, valid, test = (whole.take(part == index) for index in range(len(SPLITS)))
    return Labelled(train, valid, test, targets)


def _column(records: Sequence[Record], name: str) -> list[str]:
    for record in records:
        if name not in record.labels:
            there = ", ".join(record.labels) or "none"
            raise InputError(f"record {record.name!r} has no {name!r}; what is known of it: {there}.")
    return [record.labels[name] for record in records]


def _number(record: Record, name: str) -> float:
    (text,) = _column([record], name)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"record {record.name!r} has {name} {text!r}; expected a number.")
    return value


def _part(record: Record, name: str) -> int:
    (text,) = _column([record], name)
    if text not in SPLITS:
        raise InputError(f"record {record.name!r} has {name} {text!r}; expected train, valid or test.")
    return SPLITS.index(text)
