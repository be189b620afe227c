"""The examples do what they say, on a model that is there and on the toy that they train."""

from __future__ import annotations

import csv
import importlib
from collections.abc import Callable
from pathlib import Path

import pytest

from degauss.bio.constraints import parse_constraints
from degauss.bio.model import SequenceModel
from degauss.bio.sequences import Record, read_sequences, write_fasta
from degauss.core.errors import InputError

from .conftest import random_model

LENGTH = 36


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that is not sure of anything."""
    model = random_model(LENGTH)
    for name, weight in model.network.named_parameters():
        if name.startswith("outward"):
            weight.data *= 0.5
    path = tmp_path_factory.mktemp("model") / "model"
    model.save(path)
    return path


def test_enhancers_have_sites(started: Callable, folder: Path, here: Path) -> None:
    said = started("gata1_enhancer", "--model", folder, "--n", 8, "--steps", 12)
    before, after = (float(line.split(": ")[1].split()[0]) for line in said.splitlines()[:2])
    assert after > before
    records = read_sequences("gata1.fasta")
    rules = parse_constraints(forbid=["BsaI", "BsmBI"], max_homopolymer=6)
    assert [rules.violations(record.sequence) for record in records] == [[]] * 8
    assert sorted(path.name for path in here.iterdir()) == ["gata1-model.png", "gata1.fasta", "gata1.png"]


def test_a_library_meets_its_rules(started: Callable, folder: Path) -> None:
    said = started("gc_constrained_library", "--model", folder, "--n", 6)
    assert "6 different sequences of 36 bases; 0 break a rule" in said
    records = read_sequences("library.fasta")
    for record in records:
        assert record.sequence.startswith("ACTGGCCGCT")
        assert record.sequence.endswith("AGATCGGAAG")
        assert 0.45 <= (record.sequence.count("G") + record.sequence.count("C")) / LENGTH <= 0.55
    with Path("library.csv").open(newline="") as file:
        assert [row["sequence"] for row in csv.DictReader(file)] == [record.sequence for record in records]


def test_a_file_is_scored(started: Callable, folder: Path) -> None:
    write_fasta("own.fasta", [Record("one", "TGACTCA" + "AC" * 14 + "G"), Record("two", "A" * LENGTH)])
    head, one, two = started("score_a_fasta", "own.fasta", "--model", folder, "--reward", "gc:0-.1").splitlines()
    assert head.split("\t") == ["name", "gc:0-0.1", "bits a letter", "entropy of pairs"]
    assert one.split("\t")[:2] == ["one", f"{-(18 / 36 - 0.1):.3f}"]
    assert two.split("\t")[1] == "-0.000"
    assert two.split("\t")[3] in ("0.000", "-0.000")
    write_fasta("short.fasta", [Record("short", "ACGT")])
    with pytest.raises(InputError, match=r"short.fasta: has sequences of 4 letters; the model takes 36"):
        started("score_a_fasta", "short.fasta", "--model", folder)


@pytest.mark.slow  # trains
def test_without_a_model_a_toy_is_trained(started: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("degauss.bio.model.SHIPPED", Path("nothing"))
    said = started("score_a_fasta")
    rows = [line.split("\t") for line in said.splitlines()[-4:]]
    assert [row[0] for row in rows] == ["drawn_1", "drawn_2", "even_letters", "repeat"]
    bits = {row[0]: float(row[-2]) for row in rows}
    assert bits["drawn_1"] < bits["even_letters"]
    assert isinstance(importlib.import_module("_model").toy(steps=1), SequenceModel)
