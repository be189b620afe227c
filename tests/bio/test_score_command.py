"""`degauss-bio score` and `train-predictor`: tables and oracles from files, and refusals that write nothing."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from degauss.bio.alphabets import DNA
from degauss.bio.kmers import KmerModel
from degauss.bio.rewards import parse_reward


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def designs(here) -> Path:
    path = here / "in.fasta"
    path.write_text(">a\nACGTACGTCC\n>b\nTTTTTTTT\n>c\nacgtacgtcc\n>d\nATATATATAT\n")
    return path


def test_a_row_for_each_sequence_in_their_order(invoke, here, designs):
    words = ["score", designs, "--reward", "gc:.4-.6", "--reward", "2*homopolymer:3", "--out", here / "out.csv"]
    status, out, _ = invoke(words)
    assert status == 0
    assert "4 sequences, 3 with a flag" in out
    rows = rows_of(here / "out.csv")
    assert [row["id"] for row in rows] == ["a", "b", "c", "d"]
    assert [row["sequence"] for row in rows] == ["ACGTACGTCC", "TTTTTTTT", "ACGTACGTCC", "ATATATATAT"]
    assert [float(row["gc"]) for row in rows] == pytest.approx([0.6, 0, 0.6, 0])
    assert [row["longest_run"] for row in rows] == ["2", "8", "2", "1"]
    assert [row["flags"] for row in rows] == ["", "simple", "duplicate", "simple"]
    first, second = parse_reward("gc:.4-.6"), parse_reward("homopolymer:3")
    for row in rows:
        tokens = DNA.encode([row["sequence"]])
        assert float(row[first.name]) == pytest.approx(float(first(tokens)), abs=1e-5)
        assert float(row["total"]) == pytest.approx(float(first(tokens) + 2 * second(tokens)), abs=1e-5)


def test_what_is_known_already_is_said(invoke, here):
    generator = torch.Generator().manual_seed(0)
    known = DNA.decode(torch.randint(4, (30, 60), generator=generator))
    (here / "natural.csv").write_text("name,seq\n" + "".join(f"n{i},{seq}\n" for i, seq in enumerate(known)))
    near = "C" + known[3][1:]
    shifted = known[5][20:] + DNA.decode(torch.randint(4, (1, 20), generator=generator))[0]
    new = DNA.decode(torch.randint(4, (1, 60), generator=generator))[0]
    (here / "in.txt").write_text(f"{near}\n{shifted}\n{new}\n{new[:40]}\n")
    assert invoke(["score", "in.txt", "--natural", "natural.csv"])[0] == 0
    rows = rows_of(here / "scores.csv")
    assert rows[0]["nearest"] == "n3"
    assert float(rows[0]["identity"]) >= 59 / 60 - 1e-5
    assert [row["flags"] for row in rows] == ["copy", "copy", "", ""]
    assert float(rows[1]["copied"]) == pytest.approx(40 / 60, abs=0.05)
    assert rows[3]["nearest"] == "", "no natural sequence has its length"


def test_proteins(invoke, here):
    (here / "in.fasta").write_text(">p\nMKVLAAG\n")
    assert invoke(["score", "in.fasta", "--alphabet", "protein"])[0] == 0
    (row,) = rows_of(here / "scores.csv")
    assert "gc" not in row
    assert row["longest_run"] == "2"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--reward", "gcc:1"], "there is no reward 'gcc'"),
        (["--reward", "motif:TGASTCAGGGG"], "motif TGASTCAGGGG has 11 places, but the sequences have 10"),
        (["--out", "out.txt"], "expected a name that ends in .csv"),
        (["--natural", "missing.fasta"], "missing.fasta: does not exist"),
        (["--alphabet", "protein", "--reward", "gc:.4-.6", "--natural", "in.fasta", "--out", "a/in.fasta"], ".csv"),
    ],
)
def test_it_refuses(refused, designs, words, message):
    assert message in refused(["score", designs, *words])


def test_a_letter_that_is_none_is_named_with_its_place(refused, here):
    (here / "in.fasta").write_text(">first\nACGT\n>second\nACXT\n")
    said = refused(["score", "in.fasta"])
    assert "in.fasta" in said
    assert "'second' has 'X' at position 3" in said


def test_an_empty_file_is_refused(refused, here):
    (here / "in.fasta").write_text("")
    assert "in.fasta: is empty" in refused(["score", "in.fasta"])


# --- train-predictor ----------------------------------------------------------------------------------------


@pytest.fixture
def table(here) -> Path:
    """Sequences of 40 letters; ones of class "on" have GATAAG, and a higher value."""
    tokens = torch.randint(4, (240, 40), generator=torch.Generator().manual_seed(0))
    tokens[::2, 10:16] = DNA.encode("GATAAG")
    rows = ["seq,class,value,split"]
    for i, sequence in enumerate(DNA.decode(tokens)):
        split = ("train", "train", "train", "valid", "test")[i // 2 % 5]
        rows.append(f"{sequence},{'off' if i % 2 else 'on'},{'0.5' if i % 2 else '2.5'},{split}")
    path = here / "data.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def test_a_regression_on_words_becomes_a_reward(invoke, here, table):
    words = ["train-predictor", table, "--classes", "class", "--target", "on", "--kind", "kmers", "--out", "run"]
    status, out, _ = invoke(words)
    assert status == 0
    assert "auroc_on" in out
    assert KmerModel.load(here / "run" / "model").target == "on"
    reward = parse_reward("activity:run/model")
    sequences = ["A" * 17 + "GATAAG" + "C" * 17, "A" * 23 + "C" * 17]
    found = reward(DNA.encode(sequences))
    assert found[0] > found[1]


def test_a_network_and_a_fitness_model_are_trained(invoke, here, table):
    words = ["--value", "value", "--split", "split", "--steps", "10"]
    assert invoke(["train-predictor", table, *words, "--channels", "8", "--out", "net"])[0] == 0
    assert parse_reward("activity:net/model")(torch.zeros(1, 40, dtype=torch.int64)).isfinite().all()
    status, out, _ = invoke(["train-predictor", table, *words, "--kind", "fitness", "--out", "dms"])
    assert status == 0
    assert "144, 48, 48 sequences in train, valid and test" in out
    assert parse_reward("fitness:dms/model,caution=1").alphabet == DNA


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "expected either a column of classes or a column of values"),
        (["--classes", "klass"], "data.csv: record '1' has no 'klass'; what is known of it: class, value, split"),
        (["--value", "class"], "record '1' has class 'on'; expected a number"),
        (["--value", "value", "--split", "class"], "class 'on'; expected train, valid or test"),
        (["--classes", "class", "--kind", "kmers"], "target must be one of 'off', 'on'"),
        (["--classes", "class", "--kind", "fitness"], "--kind fitness predicts a number"),
        (["--value", "value", "--kind", "kmers"], "--kind kmers tells classes apart"),
        (["--value", "value", "--steps", "0"], "steps must be at least 1"),
    ],
)
def test_training_refuses(refused, table, words, message):
    assert message in refused(["train-predictor", table, *words])
