"""`degauss-bio design`: the files that it writes, the same for a seed; what it refuses, and in which words."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from degauss.bio.alphabets import PROTEIN
from degauss.bio.constraints import parse_constraints
from degauss.bio.model import SequenceModel, weights_hash
from degauss.bio.rewards import parse_reward
from degauss.bio.sequences import Record, read_sequences, write_fasta

LENGTH = 20
ASKED = ["--fix", "1:ACG", "--require", "GATAAG", "--forbid", "BsaI", "--gc", ".3-.6", "--max-homopolymer", "3"]
QUICK = ["--n", "4", "--steps", "5", "--particles", "4", "--alpha", ".5"]

Invoke = Callable[[list[str | Path]], tuple[int, str, str]]
Refused = Callable[[list[str | Path]], str]


@pytest.fixture
def folder(model_folder: Callable[..., Path]) -> Path:
    """A model that is not sure of anything."""
    path = model_folder(LENGTH, ("a", "b"))
    model = SequenceModel.load(path)
    for name, weight in model.network.named_parameters():
        if name.startswith("outward"):
            weight.data *= 0.5
    model.save(path)
    return path


def design(folder: Path, *words: str | Path) -> list[str | Path]:
    return ["design", "--model", folder, "--reward", "motif:TGACTCA", "--reward", "2*gc:.4-.6", *QUICK, *words]


def test_what_is_written(invoke: Invoke, folder: Path, here: Path) -> None:
    status, out, error = invoke(design(folder, *ASKED, "--held-out", "motif:GATAAG", "--logo", "--label", "a"))
    assert status == 0
    assert out.startswith("wrote designs.fasta: 4 designs, rewards ")
    assert all(line.startswith(("Warning: ", "motif:GATAAG: ")) for line in error.splitlines())
    records = read_sequences("designs.fasta")
    assert [record.name for record in records] == [f"design_{rank}" for rank in (1, 2, 3, 4)]
    keys = ["method", "label", "seed", "model", "sample", "reward", "motif", "gc", "held_out", "log_prob"]
    model = SequenceModel.load(folder)
    constraints = parse_constraints(fix=["1:ACG"], require=["GATAAG"], forbid=["BsaI"], gc=".3-.6", max_homopolymer=3)
    for record in records:
        assert list(record.labels) == keys
        assert record.labels["model"] == weights_hash(folder)[:12]
        assert constraints.violations(record.sequence) == []
        tokens = model.alphabet.encode([record.sequence])
        for key, reward in (("motif", "motif:TGACTCA"), ("gc", "gc:.4-.6"), ("held_out", "motif:GATAAG")):
            assert float(record.labels[key]) == pytest.approx(float(parse_reward(reward)(tokens)), abs=1e-4)
        nats = model.log_prob_of(tokens, [int(record.labels["sample"])], label="a").nats
        assert float(record.labels["log_prob"]) == pytest.approx(float(nats), abs=1e-4)
    with Path("designs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["sequence"] for row in rows] == [record.sequence for record in records]
    assert [row["reward"] for row in rows] == [record.labels["reward"] for record in records]
    facts = json.loads(Path("designs.json").read_text())
    assert facts["constraints"]["checked"] == facts["designs"] == 4
    assert facts["constraints"]["asked"] == [
        "fix 1:ACG", "gc .3-.6", "max-homopolymer 3", "require GATAAG", "forbid BsaI"
    ]  # fmt: skip
    assert facts["settings"]["method"] == "smc"
    assert facts["reward_calls"] == facts["evaluations"] > 0
    assert facts["hacking"]["natural"] == "samples of the model"
    assert set(facts["hacking"]["held_out"]) == {"motif:GATAAG"}
    assert sorted(path.name for path in here.iterdir()) == [
        "designs.csv", "designs.fasta", "designs.json", "designs.png"
    ]  # fmt: skip


def test_the_same_seed_is_the_same_file(invoke: Invoke, folder: Path) -> None:
    for name in ("one", "two"):
        invoke(design(folder, *ASKED, "--method", "tds", "--out", f"{name}.fasta", "--batch-size", "4"))
    invoke(design(folder, *ASKED, "--method", "tds", "--out", "other.fasta", "--seed", "1"))
    for suffix in (".fasta", ".csv"):
        assert Path(f"one{suffix}").read_bytes() == Path(f"two{suffix}").read_bytes()
        assert Path(f"one{suffix}").read_bytes() != Path(f"other{suffix}").read_bytes()


def test_fewer_designs_are_written_and_said(invoke: Invoke, folder: Path) -> None:
    # Four sequences are allowed, one of them almost never drawn.
    words = design(folder, "--fix", f"1:{'TA' * 9}RY", "--method", "best-of-n", "--draws", "64", "--tries", "1")
    status, _, error = invoke(words)
    assert status == 0
    assert "Warning: of 4 sequences that were drawn only " in error
    assert 1 <= len(read_sequences("designs.fasta")) < 4


def test_natural_sequences_are_what_gains_are_measured_from(invoke: Invoke, refused: Refused, folder: Path) -> None:
    natural = folder.parent / "natural.fasta"
    write_fasta(natural, [Record(str(k), ("ACGTTGCAGATAAGTTCAGT" * 2)[k : k + LENGTH]) for k in range(LENGTH)])
    held_out = ["--held-out", "gc:.9-1.", "--natural", natural]
    assert invoke(design(folder, *held_out))[0] == 0
    assert json.loads(Path("designs.json").read_text())["hacking"]["natural"] == str(natural)
    write_fasta(natural, [Record("short", "ACGT")])
    assert refused(design(folder, *held_out)).endswith("have 4 letters, but the model was trained for 20.")


# --- refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--gc", ".9-1.", "--require", "AAAAAAA"], "meets these constraints together: gc .9-1., require AAAAAAA"),
        (["--fix", "18:ACGT"], "fix 18:ACGT ends at position 21, but the sequence has 20"),
        (["--forbid", "BsaQ"], "neither a motif"),
        (["--method", "drakes"], "was not fine-tuned, so method drakes has nothing to sample from"),
        (["--method", "cfg"], "method cfg needs a label"),
        (["--label", "c"], "label must be one of 'a', 'b'"),
        (["--held-out", "gcc"], "there is no reward 'gcc' (did you mean 'gc'?)"),
        (["--n", "0"], "n must be at least 1"),
        (["--fix", "1:" + "A" * LENGTH], "n is 4, but there are only 1 different sequences"),
        (["--out", "designs.txt"], "expected a name that ends in"),
    ],
)
def test_refusals(refused: Refused, folder: Path, words: list[str], said: str) -> None:
    assert said in refused(design(folder, *words))


def test_a_black_box_has_no_gradient(refused: Refused, folder: Path) -> None:
    for method in ("cg", "tds"):
        said = refused(["design", "--model", folder, "--reward", "fold", "--method", method])
        assert said.endswith("which fold:stable does not allow; smc, svdd and best-of-n take any reward.")


def test_a_reward_of_dna_is_not_for_proteins(refused: Refused, model_folder: Callable[..., Path]) -> None:
    folder = model_folder(LENGTH, (), PROTEIN)
    assert refused(["design", "--model", folder, "--reward", "gc:.4-.6"]) == (
        "reward gc:0.4-0.6 is for DNA, but the model is for protein."
    )
    assert "gc, gc-window and protein are constraints on DNA" in refused(
        ["design", "--model", folder, "--reward", "gc:.4-.6", "--gc", ".4-.6"]
    )


def test_lists_are_given_again_and_again_or_with_commas(invoke: Invoke, folder: Path) -> None:
    for words in (["--forbid", "BsaI", "--forbid", "TATA"], ["--forbid", "BsaI,TATA"]):
        assert invoke(design(folder, *words))[0] == 0
        facts = json.loads(Path("designs.json").read_text())
        assert facts["constraints"]["asked"] == ["forbid BsaI", "forbid TATA"]
    assert invoke(design(folder, "--forbid", "BsaI", "TATA"))[0] == 2  # rather than the last one alone


def test_without_a_model_one_sentence(refused: Refused) -> None:
    assert "no model 'somewhere'" in refused(["design", "--model", "somewhere", "--reward", "gc:.4-.6"])


def test_designs_that_do_not_meet_constraints_leave_no_file(
    invoke: Invoke, folder: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("degauss.bio.constraints.Constraints.lattice", lambda self, length: None)
    with pytest.raises(RuntimeError, match="does not meet the constraints"):
        invoke(design(folder, "--fix", "1:ACGTACGT"))
    assert not list(here.iterdir())


def test_help_and_its_modules_are_light() -> None:
    code = (
        "import sys; import degauss.bio.commands.design, degauss.bio.commands.finetune; "
        "assert not {'torch', 'Bio', 'matplotlib', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_help_says_what_is_not_trained(invoke: Invoke) -> None:
    status, out, _ = invoke(["design", "--help"])
    assert status == 0
    assert "Nothing is trained here" in " ".join(out.split())
