"""`invfold` as a user meets it: what it writes, what holds in every design, and what it refuses."""

from __future__ import annotations

import csv
import json
import math
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import save_file

from degauss.bio import datasets
from degauss.bio.commands import invfold as command
from degauss.bio.sequences import read_sequences
from degauss.bio.structures import read_structure
from degauss.core.errors import InputError

from ._proteins import helix, random_network, written

A, B = "ACDEFGHIKL", "MNPQRSTVWY"
HEAD = re.compile(
    r">(\w+), score=(\d+\.\d{4}), global_score=(\d+\.\d{4}), fixed_chains=(\[.*?\]), designed_chains=(\[.*?\]), "
    r"model_name=(\w+), seed=(\d+)"
)
SAMPLE = re.compile(
    r">T=([\d.]+), sample=(\d+), score=(\d+\.\d{4}), global_score=(\d+\.\d{4}), seq_recovery=(\d\.\d{4})"
)

Invoke = Callable[..., tuple[int, str, str]]
Refused = Callable[..., str]


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that was never trained."""
    path = tmp_path_factory.mktemp("weights") / "untrained.safetensors"
    save_file(random_network().state_dict(), path, {"num_edges": "8"})
    return path


@pytest.fixture
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two helices, chains A (1 to 10) and B (5 to 14)."""
    residues = [*helix(A), *helix(B, chain="B", first=5, shift=9)]
    return written(tmp_path_factory.mktemp("pdb") / "model.pdb", residues)


@pytest.fixture
def fold(invoke: Invoke, model: Path, weights: Path) -> Callable[..., list[tuple[str, str]]]:
    """The FASTA of a run, as headers and sequences; it says nothing on stderr."""

    def run(*words: str) -> list[tuple[str, str]]:
        status, out, error = invoke(["invfold", model, "--weights", weights, "--temperature", "1", *words])
        assert (status, error) == (0, "")
        assert out.startswith("wrote designs.fasta: ")
        lines = Path("designs.fasta").read_text().splitlines()
        return list(zip(lines[::2], lines[1::2], strict=True))

    return run


def test_the_file_is_in_the_form_of_proteinmpnn_ranked_and_without_duplicates(fold: Callable[..., list]) -> None:
    found = fold("--n", "6", "--seed", "4")
    head = HEAD.fullmatch(found[0][0])
    assert head is not None
    assert head.group(1, 4, 5, 6, 7) == ("model", "[]", "['A', 'B']", "untrained", "4")
    assert found[0][1] == f"{A}/{B}"
    samples = [SAMPLE.fullmatch(header) for header, _ in found[1:]]
    assert [one and one[2] for one in samples] == [str(i) for i in range(1, 7)]
    scores = [float(one[3]) for one in samples if one]
    assert scores == sorted(scores)
    assert len({sequence for _, sequence in found}) == 7
    for one, (_, sequence) in zip(samples, found[1:], strict=True):
        same = sum(a == b for a, b in zip(sequence, f"{A}/{B}", strict=True) if a != "/")
        assert one
        assert float(one[5]) == pytest.approx(same / 20, abs=1e-4)


def test_beside_it_lies_what_the_designs_depend_on(fold: Callable[..., list], weights: Path) -> None:
    found = fold("--n", "3", "--chain", "A", "--fix", "A:2-3", "--omit", "c")
    about = json.loads(Path("designs.json").read_text())
    assert about["settings"]["seed"] == 0
    assert about["settings"]["steps"] == 2  # a quarter of eight residues
    assert about["settings"]["omit"] == "C"
    assert about["designed_residues"] == ["A1", *(f"A{i}" for i in range(4, 11))]
    assert about["incomplete_residues"] == []
    assert (len(about["weights_sha256"]), len(about["structure_sha256"])) == (64, 64)
    assert [one["chains"]["A"] for one in about["designs"]] == [sequence for _, sequence in found[1:]]
    assert sorted(draw for one in about["designs"] for draw in one["draws"]) == [0, 1, 2]
    assert about["native"]["chains"] == {"A": A}


def test_what_is_fixed_is_kept_and_what_is_omitted_is_left_out(fold: Callable[..., list]) -> None:
    found = fold("--n", "10", "--fix", "A:1-3,7", "--fix", "B:14", "--omit", "LK")
    for _, sequence in found[1:]:
        a, b = sequence.split("/")
        assert (a[:3], a[6], b[9]) == ("ACD", "H", "Y")
        free = a[3:6] + a[7:] + b[:9]
        assert not set(free) & set("LKX")


def test_other_chains_are_kept_and_seen(fold: Callable[..., list], invoke: Invoke, model: Path, weights: Path) -> None:
    found = fold("--chain", "B", "--n", "4")
    head = HEAD.fullmatch(found[0][0])
    assert head is not None
    assert head.group(4, 5) == ("['A']", "['B']")
    assert found[0][1] == B
    text = model.read_text()
    changed = "".join(
        line[:17] + "TRP" + line[20:] if line.startswith("ATOM") and line[21] == "A" else line
        for line in text.splitlines(True)
    )
    model.write_text(changed)
    assert [sequence for _, sequence in fold("--chain", "B", "--n", "4")] != [sequence for _, sequence in found]


def test_tied_chains_get_one_sequence(fold: Callable[..., list]) -> None:
    for _, sequence in fold("--tie", "A,B", "--n", "4")[1:]:
        a, b = sequence.split("/")
        assert a == b


@pytest.mark.parametrize("solver", ["skipping", "first-hitting", "confident", "entropy-bounded", "remasking"])
def test_every_solver_designs(solver: str, fold: Callable[..., list]) -> None:
    found = fold("--solver", solver, "--n", "3", "--fix", "A:1-5")
    assert all(re.fullmatch(r"ACDEF[A-WY]{5}/[A-WY]{10}", sequence) for _, sequence in found[1:])


def test_a_seed_says_all_whatever_the_batch(fold: Callable[..., list], monkeypatch: pytest.MonkeyPatch) -> None:
    first, other = fold("--n", "5", "--seed", "1"), fold("--n", "5", "--seed", "2")
    monkeypatch.setattr(command, "_AT_ONCE", 40)  # two a batch
    assert fold("--n", "5", "--seed", "1") == first
    assert {sequence for _, sequence in fold("--n", "2", "--seed", "1")} < {sequence for _, sequence in first}
    assert other[1:] != first[1:]


def test_equal_draws_are_written_once(fold: Callable[..., list]) -> None:
    found = fold("--n", "6", "--temperature", "0.0001", "--steps", "1")
    assert len(found) == 2
    assert json.loads(Path("designs.json").read_text())["designs"][0]["draws"] == [0, 1, 2, 3, 4, 5]


def test_residues_without_a_backbone_are_kept_and_named(invoke: Invoke, here: Path, weights: Path) -> None:
    residues = helix("GATTACKA")
    residues[3] = residues[3]._replace(atoms={"CA": residues[3].atoms["CA"]})
    written(here / "model.pdb", residues)
    status, _, error = invoke(["invfold", "model.pdb", "--weights", weights, "--n", "2"])
    assert status == 0
    assert error == "model.pdb: residues without a whole backbone were kept: A4\n"
    lines = (here / "designs.fasta").read_text().splitlines()
    assert {sequence[3] for sequence in lines[1::2]} == {"T"}
    assert json.loads((here / "designs.json").read_text())["incomplete_residues"] == ["A4"]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--chain", "C"], "model has no chain 'C'; its protein chains are A, B."),
        (["--fix", "A:11"], "model has no residue 11 in chain A, which goes from 1 to 10 in 10 residues."),
        (["--fix", "A:3-1"], "3 comes after 1 in chain A"),
        (["--fix", "1-3"], "model has no chain '1-3'"),
        (["--fix", "A:1;3"], "names no residues; expected CHAIN:FIRST-LAST,ONE,... such as A:1-10,15."),
        (["--fix", "A", "--fix", "B"], "nothing is left to design"),
        (["--chain", "A", "--fix", "A:1-10"], "nothing is left to design"),
        (["--omit", "Z"], "omit has 'Z', which is none of the amino acids"),
        (["--tie", "A"], "expected two chains or more, such as A,B"),
        (["--tie", "A,C"], "has no chain 'C'"),
        (["--tie", "A,B", "--fix", "B:7"], "residue B7 is fixed or incomplete, but is tied"),
        (["--temperature", "0"], "temperature must be above 0, but is 0.0."),
        (["--temperature", "nan"], "temperature must be above 0, but is nan."),
        (["--n", "0"], "n must be at least 1, but is 0."),
        (["--steps", "0"], "steps must be at least 1, but is 0."),
        (
            ["--solver", "first-hitting", "--steps", "3"],
            "first-hitting takes a step a residue, here 20, but steps is 3.",
        ),
        (["--out", "designs.csv"], "expected a name that ends in .fasta"),
        (["--weights", "none.safetensors"], "none.safetensors: does not exist"),
    ],
)
def test_what_cannot_be_done_is_refused(
    words: list[str], complaint: str, refused: Refused, model: Path, weights: Path
) -> None:
    given = [] if "--weights" in words else ["--weights", weights]
    assert complaint in refused(["invfold", model, *given, *words])


def test_tied_chains_must_be_of_one_length(refused: Refused, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = written(tmp_path_factory.mktemp("pdb") / "model.pdb", [*helix(A), *helix("ACD", chain="B", shift=9)])
    assert "A has 10 residues and B has 3" in refused(["invfold", path, "--tie", "A,B"])


def test_files_that_are_no_structures_are_refused(refused: Refused, here: Path) -> None:
    (here / "poem.pdb").write_text("This is a poem.\n")
    assert "holds no atoms" in refused(["invfold", "poem.pdb"])
    written(here / "trace.pdb", [one._replace(atoms={"CA": one.atoms["CA"]}) for one in helix("ACD")])
    assert "chain A has no backbone: residue 1 lacks N, C, O" in refused(["invfold", "trace.pdb"])


def test_without_weights_it_says_how_to_get_them(
    refused: Refused, model: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path_factory.mktemp("data")
    monkeypatch.setenv("DEGAUSS_DATA", str(empty))
    said = refused(["invfold", model])
    assert str(empty / "bio") in said
    assert "Or name a file with --weights: the released weights (v_48_020.pt" in said
    assert "safetensors.torch.save_file" in said


def test_pickles_are_not_opened(refused: Refused, model: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("weights") / "v_48_020.pt"
    path.write_bytes(b"cos\nsystem\n(S'touch opened'\ntR.")
    assert "are pickles, which can run any code and are not read here" in refused(["invfold", model, "--weights", path])


def test_the_example_redesigns_a_real_backbone(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        datasets.proteinmpnn_path()
        path = datasets.structure_path("1pga")
    except InputError as error:
        pytest.skip(str(error))
    monkeypatch.setattr(sys, "argv", ["redesign_backbone.py", str(path), "--keep", "A:1-50", "--n", "2"])
    runpy.run_path(str(Path(command.__file__).parents[4] / "examples" / "redesign_backbone.py"), run_name="__main__")
    rows = list(csv.DictReader((here / "redesign" / "profile.csv").read_text().splitlines()))
    assert [row["residue"] for row in rows] == [f"A{i}" for i in range(51, 57)]
    assert all(0 <= float(row["entropy"]) <= math.log(20) for row in rows)
    designs = read_sequences(here / "redesign" / "designs.fasta")
    native = read_structure(path).sequence
    assert {one.sequence[:50] for one in designs} == {native[:50]}
    scores = [float(one.labels["score"]) for one in designs]
    assert scores == sorted(scores)
