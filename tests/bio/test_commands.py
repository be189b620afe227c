"""The verbs generate, infill and train as a person uses them."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

from degauss.bio import sampling
from degauss.bio.alphabets import DNA, PROTEIN
from degauss.bio.model import SequenceModel, weights_hash
from degauss.bio.sampling import SOLVERS, Journal, Sampling, draw
from degauss.bio.sequences import Record, read_sequences, write_fasta
from degauss.core.jump import sample_tokens, skipping

from .conftest import random_model

QUICK = ("--steps", "6", "--device", "cpu")


# --- generate ---


def test_generate(invoke, model_folder):
    folder = model_folder(10, ("K562", "hESC T0"))
    words = ["generate", "--model", folder, "--n", "5", "--length", "10", "--cell-type", "hESC T0", "--seed", "3"]
    status, out, error = invoke([*words, "--out", "o/x.fasta", "--logo", *QUICK])
    assert (status, error) == (0, "")
    assert out.startswith("wrote o/x.fasta: 5 sequences, ")
    records = read_sequences("o/x.fasta")
    assert [record.name for record in records] == [f"sequence_{k}" for k in range(1, 6)]
    model = SequenceModel.load(folder)
    tokens = sample_tokens(model.denoiser("hESC T0"), model.process, (5, 10), solver=skipping(), steps=6, seed=3)
    assert [record.sequence for record in records] == DNA.decode(tokens)
    expected = model.log_prob(tokens, label="hESC T0", seed=3).nats
    for k, record in enumerate(records):
        assert list(record.labels) == ["label", "seed", "sample", "model", "log_prob"]
        assert record.labels["label"] == "hESC_T0"
        assert (record.labels["seed"], record.labels["sample"]) == ("3", str(k))
        assert record.labels["model"] == weights_hash(folder)[:12]
        assert float(record.labels["log_prob"]) == pytest.approx(float(expected[k]), abs=2e-3)
    about = json.loads(Path("o/x.json").read_text())
    assert (about["sequences"], about["seed"], about["steps"], about["solver"]) == (5, 3, 6, "skipping")
    assert about["model_sha256"] == weights_hash(folder)
    assert 5 <= about["evaluations"] <= 5 * 6
    assert Path("o/x.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in Path("o").iterdir()) == ["x.fasta", "x.json", "x.png"]


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_sequence_does_not_depend_on_its_batch(solver):
    model, how = random_model(10), Sampling(solver, 6)
    together = draw(model, how, range(9))
    apart = [one for part in ([8], [3, 1, 0, 2], [7, 4, 5, 6]) for one in draw(model, how, part)]
    for one in apart:
        other = together[one.sample]
        assert one._replace(log_prob=0) == other._replace(log_prob=0)
        assert one.log_prob == pytest.approx(other.log_prob, abs=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_gpu_draws_what_a_cpu_draws(invoke, model_folder, solver):
    folder = model_folder(40, ("K562",))
    for device in ("cpu", "cuda"):
        words = ["generate", "--model", folder, "--n", "16", "--label", "K562", "--solver", solver, "--steps", "20"]
        assert invoke([*words, "--seed", "3", "--device", device, "--out", f"{device}.fasta"])[0] == 0
    here, there = (read_sequences(f"{device}.fasta") for device in ("cpu", "cuda"))
    assert [record.sequence for record in here] == [record.sequence for record in there]


def test_skipping_draws_what_ancestral_sampling_draws():
    model = random_model(10)
    skipped, ancestral = (draw(model, Sampling(name, 6), range(9)) for name in ("skipping", "ancestral"))
    assert [one.sequence for one in skipped] == [one.sequence for one in ancestral]


def test_evaluations_of_solvers():
    model = random_model(10)
    counts = {name: [one.evaluations for one in draw(model, Sampling(name, 6), range(20))] for name in SOLVERS}
    assert set(counts["ancestral"]) == {6}
    assert set(counts["first-hitting"]) == {10}
    assert all(1 <= count <= 6 for count in counts["skipping"])
    assert sum(counts["skipping"]) < 20 * 6


def test_a_cut_run_goes_on(invoke, model_folder, monkeypatch):
    words = ["generate", "--model", model_folder(10), "--n", "6", "--batch-size", "2", *QUICK]
    assert invoke([*words, "--out", "whole.fasta"])[0] == 0
    asked: list[list[int]] = []

    def failing(model, how, samples, templates=None):
        asked.append(list(samples))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return draw(model, how, samples, templates)

    monkeypatch.setattr(sampling, "draw", failing)
    assert invoke([*words, "--out", "cut.fasta"])[0] == 130
    assert not Path("cut.fasta").exists()
    with Path(".cut.fasta.partial").open("a") as file:
        file.write('[4, "ACG')  # as a kill in the middle of a line leaves it
    assert invoke([*words, "--out", "cut.fasta"])[0] == 0
    assert asked == [[0, 1], [2, 3], [4, 5], [4, 5]]
    assert Path("cut.fasta").read_bytes() == Path("whole.fasta").read_bytes()
    assert not Path(".cut.fasta.partial").exists()


def test_a_journal_of_another_plan_is_not_used(here):
    drawn = sampling.Drawn(0, "ACGT", -1.5, 3)
    journal = Journal(Path("x.fasta"), {"seed": 0})
    assert journal.begin() == {}
    journal.add([drawn])
    assert Journal(Path("x.fasta"), {"seed": 0}).begin() == {0: drawn}
    assert Journal(Path("x.fasta"), {"seed": 1}).begin() == {}


def test_unique(invoke, model_folder):
    words = ["generate", "--model", model_folder(2), "--n", "40", *QUICK]
    assert invoke([*words, "--out", "all.fasta"])[0] == 0
    status, out, _ = invoke([*words, "--unique", "--out", "x.fasta"])
    assert status == 0
    every = [record.sequence for record in read_sequences("all.fasta")]
    kept = read_sequences("x.fasta")
    assert [record.sequence for record in kept] == list(dict.fromkeys(every))
    assert len(kept) < len(every) == 40
    assert f"{len(kept)} sequences, {len(kept)} of 40 different" in out
    for record in kept:
        assert every.index(record.sequence) == int(record.labels["sample"])


def test_temperature_and_top_p_sharpen():
    model = random_model(8)

    def likelihood(temperature: float = 1.0, top_p: float = 1.0) -> float:
        how = Sampling("first-hitting", temperature=temperature, top_p=top_p)
        return sum(one.log_prob for one in draw(model, how, range(64)))

    assert likelihood() < likelihood(temperature=0.3)
    assert likelihood() < likelihood(top_p=0.05)
    assert likelihood(temperature=0.01) == pytest.approx(likelihood(top_p=1e-6), rel=0.02)  # the likeliest letters


def test_guidance_draws_sequences_more_like_their_class():
    pytest.importorskip("degauss.core.reward.guidance")
    model = random_model(8, ("a", "b"))

    def advantage(weight: float) -> float:
        """The mean of log p(x | a) - log p(x)."""
        made = draw(model, Sampling("first-hitting", label="a", guidance_weight=weight), range(100))
        x = DNA.encode([one.sequence for one in made])
        return float((model.log_prob(x, label="a").nats - model.log_prob(x).nats).mean())

    assert advantage(2.0) > advantage(0.0) + 0.5


# --- infill ---


def test_infill(invoke, model_folder):
    folder = model_folder(8)
    write_fasta("in.fasta", [Record("a", "ACNNNN-T", "a site"), Record("b", "nnnnnnnn")])
    words = ["infill", "in.fasta", "--model", folder, "--seed", "2", *QUICK]
    status, out, error = invoke([*words, "--k", "3", "--out", "x.fa"])
    assert (status, error) == (0, "")
    assert out.startswith("wrote x.fa: 2 records filled 3 times, ")
    filled = read_sequences("x.fa")
    assert [record.name for record in filled] == ["a_1", "a_2", "a_3", "b_1", "b_2", "b_3"]
    for record in filled[:3]:
        assert record.sequence[:2] + record.sequence[-1:] == "ACT"
    assert set("".join(record.sequence for record in filled)) <= set("ACGT")
    assert len({record.sequence for record in filled[3:]}) > 1
    about = json.loads(Path("x.json").read_text())
    assert (about["k"], about["filled"], about["sequences"]) == (3, "in.fasta", 6)
    # A filling does not depend on how many there are.
    assert invoke([*words, "--out", "once.fa"])[0] == 0
    assert read_sequences("once.fa") == [filled[0], filled[3]]


def test_infill_text_and_proteins(invoke, model_folder):
    Path("in.txt").write_text("XM-VXW\n")
    folder = model_folder(6, (), PROTEIN)
    assert invoke(["infill", "in.txt", "--model", folder, "--solver", "first-hitting", *QUICK])[0] == 0
    (record,) = read_sequences("filled.fasta")
    assert (record.sequence[1], record.sequence[3], record.sequence[5]) == ("M", "V", "W")
    assert json.loads(Path("filled.json").read_text())["evaluations"] == 3


# --- train ---


def _write_csv(path: str, count: int = 40) -> None:
    generator = torch.Generator().manual_seed(0)
    with Path(path).open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["sequence", "cell"])
        for sequence in DNA.decode(torch.randint(4, (count, 6), generator=generator)):
            rows.writerow([sequence, "K562" if sequence[0] in "AC" else "HepG2"])


SMALL = ("--steps", "4", "--batch", "4", "--width", "8", "--depth", "1", "--device", "cpu")


def test_train_and_use(invoke):
    _write_csv("sites.csv")
    status, out, error = invoke(["train", "sites.csv", "--out", "run", "--label", "cell", "--both-strands", *SMALL])
    assert (status, error) == (0, "")
    assert out.startswith("wrote run/model after 4 steps: ")
    model = SequenceModel.load("run/model")
    assert (model.length, model.config.labels) == (6, ("HepG2", "K562"))
    card = json.loads(Path("run/model/card.json").read_text())
    assert card["sequences"] == {"trained": 36, "held_out": 4}
    assert set(card["metrics"]["markov_bits_per_letter"]) == {"0", "1", "2", "3", "4", "5"}
    assert math.isfinite(card["metrics"]["bits_per_letter_given_class"])
    assert tomllib.loads(Path("run/train.toml").read_text())["both_strands"] is True
    assert len(Path("run/metrics.jsonl").read_text().splitlines()) == 2
    assert invoke(["generate", "--model", "run/model", "--n", "2", "--label", "K562", *QUICK])[0] == 0
    # Again: nothing is left to do, and it is the same model.
    before = weights_hash("run/model")
    assert invoke(["train", "sites.csv", "--out", "run", "--label", "cell", "--both-strands", *SMALL])[0] == 0
    assert weights_hash("run/model") == before


def test_train_a_transformer_on_proteins(invoke):
    write_fasta("p.fasta", [Record(str(k), "MKV" + "ACDEF"[k % 5] + "WY"[k % 2]) for k in range(12)])
    words = ["train", "p.fasta", "--alphabet", "protein", "--net", "transformer", "--out", "run", *SMALL]
    assert invoke(words)[0] == 0
    card = json.loads(Path("run/model/card.json").read_text())
    assert set(card["metrics"]["markov_bits_per_letter"]) == {"0", "1", "2"}
    assert SequenceModel.load("run/model").config.alphabet == PROTEIN


def test_help_does_not_import_torch():
    code = (
        "import sys; import degauss.bio.cli, degauss.bio.commands.generate, degauss.bio.commands.infill;"
        "import degauss.bio.commands.train; assert not {'torch', 'Bio', 'matplotlib', 'pandas'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# --- what cannot be done ---


def test_bad_requests(refused, model_folder, here):
    folder = model_folder(6, ("K562", "HepG2"))
    generate = ["generate", "--model", folder]
    assert refused(["generate", "--model", "gone"]).startswith("there is no model 'gone': expected the folder of one")
    assert "was trained for 6 letters" in refused([*generate, "--length", "7"])
    assert "label must be one of 'K562', 'HepG2', but is 'k562'" in refused([*generate, "--label", "k562"])
    assert "guidance_weight needs a label" in refused([*generate, "--guidance-weight", "1"])
    assert "n must be at least 1" in refused([*generate, "--n", "0"])
    assert "steps must be at least 1" in refused([*generate, "--steps", "0"])
    assert "temperature must be above 0" in refused([*generate, "--temperature", "0"])
    assert "top_p must be above 0" in refused([*generate, "--top-p", "nan"])
    assert "batch_size must be at least 1" in refused([*generate, "--batch-size", "0"])
    assert "expected a name that ends in .fasta" in refused([*generate, "--out", "x.txt"])
    plain = model_folder(6)
    assert "trained without labels" in refused(["generate", "--model", plain, "--label", "K562"])


def test_bad_templates(refused, model_folder, here):
    infill = ["--model", model_folder(6), "--out", "x.fasta"]
    write_fasta("short.fasta", [Record("a", "NNNNNN"), Record("b", "ANNN")])
    write_fasta("full.fasta", [Record("a", "NNNNNN"), Record("b", "ACGTAC")])
    write_fasta("letter.fasta", [Record("a", "NNNNNN"), Record("b", "NNRNNN")])
    Path("none.fasta").write_text("")
    assert "short.fasta: record 'b' has 4 letters, but the model" in refused(["infill", "short.fasta", *infill])
    assert "full.fasta: record 'b' has no free place" in refused(["infill", "full.fasta", *infill])
    assert "letter.fasta: sequence 'b' has 'R' at position 3" in refused(["infill", "letter.fasta", *infill])
    assert "none.fasta: is empty" in refused(["infill", "none.fasta", *infill])
    assert "gone.fasta: does not exist" in refused(["infill", "gone.fasta", *infill])
    assert "is the file of the sequences" in refused(["infill", "full.fasta", *infill[:-1], "full.fasta"])


def test_bad_training(refused, here):
    write_fasta("x.fasta", [Record("a", "ACGT", "", {"cell": "K562"}), Record("b", "ACG")])
    assert "sequence 'b' has 3 letters, but sequence 'a' has 4" in refused(["train", "x.fasta", *SMALL])
    write_fasta("y.fasta", [Record("a", "ACGT", "", {"cell": "K562"}), Record("b", "ACGA")])
    assert "y.fasta: record 'b' has no label 'cell'" in refused(["train", "y.fasta", "--label", "cell", *SMALL])
    assert "both_strands is for DNA" in refused(["train", "y.fasta", "--alphabet", "protein", "--both-strands", *SMALL])
    assert "share of sequences to hold out" in refused(["train", "y.fasta", "--held-out", "0", *SMALL])
    assert "the network cannot be made" in refused(
        ["train", "y.fasta", "--net", "transformer", *SMALL[:-6], "--width", "9", "--device", "cpu"]
    )
    assert "is a file; expected a directory" in refused(["train", "y.fasta", "--out", "x.fasta", *SMALL])
    Path("z.fasta").write_text("ACGT\n")
    assert "z.fasta: is no FASTA" in refused(["train", "z.fasta", *SMALL])
