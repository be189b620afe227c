"""`degauss-bio evaluate`: a page and a card that tell a real gain from a hacked reward."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from degauss.bio.alphabets import DNA
from degauss.bio.kmers import KmerModel
from degauss.bio.motifs import consensus
from degauss.bio.sequences import Record, write_fasta

LENGTH = 40


def natural_tokens(n: int, seed: int) -> torch.Tensor:
    return torch.randint(4, (n, LENGTH), generator=torch.Generator().manual_seed(seed))


def written(path: Path, tokens: torch.Tensor) -> Path:
    write_fasta(path, [Record(f"s{i}", sequence) for i, sequence in enumerate(DNA.decode(tokens))])
    return path


@pytest.fixture
def folder(here) -> Path:
    """Natural sequences; two oracles on words of two letters that agree on C and G, and of which one also likes AT."""
    written(here / "natural.fasta", natural_tokens(400, 0))
    classes = ("AA", "AC", "AG", "AT", "CA", "CC", "CG", "GA", "GC", "TA")
    honest = torch.tensor([-1.0 + (word in ("AC", "CA")) + 2 * (word in ("CC", "CG", "GC")) for word in classes])
    flawed = honest + torch.tensor([2.0 * (word in ("AT", "TA")) for word in classes])
    for name, weights in (("held-out", honest), ("reward", flawed)):
        KmerModel(name, LENGTH, 2, weights.double(), torch.zeros((), dtype=torch.float64)).save(here / name)
    return here


WORDS = ["--natural", "natural.fasta", "--reward", "activity:reward", "--held-out", "activity:held-out"]


def rich(n: int) -> torch.Tensor:
    """Natural sequences with half of their letters turned into C or G: what both oracles like."""
    tokens, other = natural_tokens(n, 5), natural_tokens(n, 6)
    return torch.where(natural_tokens(n, 7) < 2, 1 + other % 2, tokens)


def test_a_real_gain_and_a_hacked_one(invoke, folder):
    written(folder / "good.fasta", rich(60))
    repeats = DNA.encode(["AT" * 20]).repeat(60, 1)
    repeats[:, 7] = torch.arange(60) % 4
    written(folder / "bad.fasta", repeats)
    status, out, _ = invoke(["evaluate", "good.fasta", *WORDS, "--out", "good.html"])
    assert status == 0
    assert "activity:held-out: The gain is real" in out
    status, out, _ = invoke(["evaluate", "bad.fasta", *WORDS, "--out", "bad.html"])
    assert status == 0
    assert "activity:held-out: Warning: the reward was hacked" in out
    assert "they may be repeats" in out
    good, bad = (json.loads((folder / f"{name}.json").read_text()) for name in ("good", "bad"))
    assert good["hacking"]["gaps"]["activity:held-out"]["verdict"] == "transfers"
    assert bad["hacking"]["gaps"]["activity:held-out"]["verdict"] == "hacked"
    rewards = [card["scores"]["activity:reward"]["designs"][1] for card in (good, bad)]
    assert rewards[1] > rewards[0], "by the reward alone the repeats would have won"
    assert not bad["hacking"]["clean"]


def test_the_page_stands_alone_and_says_what_the_card_says(invoke, folder):
    written(folder / "designs.fasta", rich(30))
    (folder / "own.meme").write_text(
        "MEME version 4\n\nMOTIF box<1>\nletter-probability matrix: alength= 4 w= 6\n"
        + "".join(" ".join(map(str, row)) + "\n" for row in consensus("SSSSSS").probabilities)
    )
    assert invoke(["evaluate", "designs.fasta", *WORDS, "--reward", ".5*gc:.4-.6", "--motifs", "own.meme"])[0] == 0
    page, card = (folder / "report.html").read_text(), json.loads((folder / "report.json").read_text())
    assert page.count("data:image/png;base64,") >= 4
    assert "http" not in page, "no network"
    assert "box<1>" not in page.split("<pre>")[0], "names are escaped"
    for name in card["measures"]:
        assert f"<td>{name}</td>" in page
    assert card["sequences"] == 30
    assert set(card["scores"]) == {"activity:reward", "gc:0.4-0.6", "reward", "activity:held-out"}
    assert card["measures"]["unique_share"] == 1
    assert card["settings"]["designs_sha256"]
    total = card["scores"]["reward"]["designs"][1]
    assert total == pytest.approx(card["scores"]["activity:reward"]["designs"][1], abs=0.5)


def test_likelihood_is_judged_at_both_ends(invoke, folder, model_folder):
    written(folder / "designs.fasta", rich(12))
    words = ["--model", model_folder(LENGTH), "--draws", "2"]
    assert invoke(["evaluate", "designs.fasta", *WORDS, *words])[0] == 0
    card = json.loads((folder / "report.json").read_text())
    assert len(card["likelihood"]["designs"]) == 3
    assert 0 <= card["hacking"]["too_likely"] + card["hacking"]["too_unlikely"] <= 1


def test_the_middle_of_longer_natural_sequences_is_taken(invoke, folder):
    longer = torch.cat([natural_tokens(30, 1), natural_tokens(30, 2)], 1)
    written(folder / "natural.fasta", longer)
    written(folder / "designs.fasta", longer[:5, 20:60])
    assert invoke(["evaluate", "designs.fasta", *WORDS])[0] == 0
    card = json.loads((folder / "report.json").read_text())
    assert card["measures"]["nearest_identity"] == 1
    assert card["measures"]["copied_share"] == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "report.txt"], "expected a name that ends in .html"),
        (["--reward", "gcc:1"], "there is no reward 'gcc'"),
        (["--held-out", "nothing:1"], "there is no reward 'nothing'"),
        (["--label", "HepG2"], "--label names a class of a model; expected --model"),
        (["--natural", "few.fasta"], "few.fasta: only 3 of 3 natural sequences have the 40 letters"),
        (["--draws", "1"], "draws must be at least 2"),
    ],
)
def test_it_refuses(refused, folder, words, message):
    written(folder / "designs.fasta", rich(3))
    written(folder / "few.fasta", rich(3))
    assert message in refused(["evaluate", "designs.fasta", *WORDS, *words])


def test_designs_of_two_lengths_are_refused(refused, folder):
    (folder / "designs.fasta").write_text(">a\nACGT\n>b\nACG\n")
    assert "equal lengths are needed" in refused(["evaluate", "designs.fasta", *WORDS])


def test_help_does_not_import_torch(folder):
    import subprocess
    import sys

    code = (
        "import sys; from degauss.bio.cli import PROGRAM\n"
        "for verb in ('score', 'evaluate', 'train-predictor'): PROGRAM.verbs[verb].load()\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
