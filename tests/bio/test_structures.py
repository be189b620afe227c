"""Structures as files give them: what is a residue, what it is called, and what is no structure."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import torch

from degauss.bio.datasets import structure_path
from degauss.bio.structures import ATOMS, ResidueId, read_structure, select
from degauss.core.errors import InputError

from ._proteins import Residue, helix, pdb, written


def awkward() -> list[Residue]:
    """Two chains with what files have: insertions, a gap, negative numbers, hetero groups, a missing atom."""
    a = helix("GATC", first=-1)
    inserted = [one._replace(number=2, insertion=code) for one, code in zip(helix("HIK"), " AB", strict=True)]
    after_gap = helix("LM", first=7)
    selenium = helix("M", first=9)[0]._replace(name="MSE", record="HETATM")
    unknown = helix("X", first=10)[0]
    b = helix("DEF", chain="B", first=2, shift=12)
    b[1] = b[1]._replace(atoms={name: place for name, place in b[1].atoms.items() if name != "C"})
    water = Residue("A", 201, "HOH", {"O": (40.0, 0.0, 0.0)}, record="HETATM")
    calcium = Residue("A", 202, "CA", {"CA": (44.0, 0.0, 0.0)}, record="HETATM")
    free_glycine = helix("G", first=203)[0]._replace(record="HETATM")
    return [*a[:3], *inserted, *after_gap, selenium, unknown, *b, water, calcium, free_glycine]


def test_what_a_file_says_of_its_residues(tmp_path: Path) -> None:
    found = read_structure(written(tmp_path / "model.pdb", awkward()))
    assert found.name == "model"
    assert found.sequence == "GAT" + "HIK" + "LM" + "M" + "X" + "DEF"
    numbers = [(-1, ""), (0, ""), (1, ""), (2, ""), (2, "A"), (2, "B"), (7, ""), (8, ""), (9, ""), (10, "")]
    assert found.ids == (*(ResidueId("A", *one) for one in numbers), *(ResidueId("B", n) for n in (2, 3, 4)))
    assert found.chains == ("A", "B")
    assert found.chain_index.tolist() == [0] * 10 + [1] * 3
    assert (~found.complete).nonzero()[:, 0].tolist() == [11]
    assert found.backbone[11].isnan().all(-1).tolist() == [name == "C" for name in ATOMS]
    first = torch.tensor([awkward()[0].atoms[name] for name in ATOMS])
    torch.testing.assert_close(found.backbone[0], first)


def test_places_count_gaps_and_insertions(tmp_path: Path) -> None:
    found = read_structure(written(tmp_path / "model.pdb", awkward()), chains=("A",))
    # -1 0 1 2 2A 2B, then 3 to 6 are missing: 7 8 9 10
    assert found.places.tolist() == [0, 1, 2, 3, 4, 5, 10, 11, 12, 13]


def test_mmcif_and_gzip_say_the_same(tmp_path: Path) -> None:
    from Bio.PDB.mmcifio import MMCIFIO
    from Bio.PDB.PDBParser import PDBParser

    path = written(tmp_path / "model.pdb", awkward())
    writer = MMCIFIO()
    writer.set_structure(PDBParser(QUIET=True).get_structure("model", path))
    writer.save(str(tmp_path / "model.cif"))
    with gzip.open(tmp_path / "model.pdb.gz", "wt") as file:
        file.write(pdb(awkward()))
    want = read_structure(path)
    for name in ("model.cif", "model.pdb.gz"):
        found = read_structure(tmp_path / name)
        assert (found.name, found.sequence, found.ids) == (want.name, want.sequence, want.ids)
        torch.testing.assert_close(found.backbone, want.backbone, equal_nan=True)


def test_of_two_places_the_likelier_counts_and_only_the_first_model(tmp_path: Path) -> None:
    text = pdb(helix("AG"))
    line = next(line for line in text.splitlines(True) if " CA " in line)
    other = line[:16] + "B" + line[17:30] + "  50.000  50.000  50.000" + "  0.70" + line[60:]
    alternative = line[:16] + "A" + line[17:54] + "  0.30" + line[60:]
    model = text.replace("END\n", "").replace(line, alternative + other)
    text = f"MODEL        1\n{model}ENDMDL\nMODEL        2\n{pdb(helix('AGG')).replace('END', 'ENDMDL')}END\n"
    (tmp_path / "two.pdb").write_text(text)
    found = read_structure(tmp_path / "two.pdb")
    assert found.sequence == "AG"
    assert found.backbone[0, 1].tolist() == [50, 50, 50]


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("model.pdb", "This is a poem.\n", "model.pdb: holds no atoms; expected a PDB file with ATOM records."),
        ("model.pdb", "", "expected a PDB file with ATOM records"),
        ("model.cif", "This is a poem.\n", "expected an mmCIF file with atom sites"),
        ("model.cif", "", "expected an mmCIF file with atom sites"),
        ("model.fasta", ">a\nACD\n", "expected a structure named .pdb"),
        ("model.pdb", pdb([Residue("A", 1, "HOH", {"O": (0, 0, 0)}, record="HETATM")]), "holds no protein chain"),
        ("model.pdb", pdb([Residue("A", 1, "DA", {"P": (0, 0, 0)})]), "holds no protein chain"),
    ],
)
def test_what_is_no_protein_is_refused(tmp_path: Path, name: str, text: str, complaint: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=complaint):
        read_structure(tmp_path / name)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.pdb: does not exist"):
        read_structure(tmp_path / "none.pdb")


def test_damaged_gzip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.pdb.gz").write_bytes(gzip.compress(pdb(helix("AG")).encode())[:40])
    with pytest.raises(InputError, match="cannot be read"):
        read_structure(tmp_path / "model.pdb.gz")


def test_a_trace_of_ca_atoms_is_refused_by_chain_and_residue(tmp_path: Path) -> None:
    trace = [one._replace(atoms={"CA": one.atoms["CA"]}) for one in helix("ACD", chain="B", first=4)]
    path = written(tmp_path / "model.pdb", [*helix("GG"), *trace])
    with pytest.raises(InputError, match="chain B has no backbone: residue 4 lacks N, C, O, and no other"):
        read_structure(path)
    assert read_structure(path, chains=("A",)).sequence == "GG"


def test_an_unknown_chain_is_refused_with_those_that_are_there(tmp_path: Path) -> None:
    path = written(tmp_path / "model.pdb", [*helix("GG"), *helix("AA", chain="H", shift=10)])
    with pytest.raises(InputError, match="model has no chain 'C'; its protein chains are A, H"):
        read_structure(path, chains=("A", "C"))


def test_words_select_residues_as_the_file_numbers_them(tmp_path: Path) -> None:
    found = read_structure(written(tmp_path / "model.pdb", awkward()))

    def rows(*words: str) -> list[int]:
        return select(found, words).nonzero()[:, 0].tolist()

    assert rows() == []
    assert rows("A:-1") == [0]
    assert rows("A:-1-1") == [0, 1, 2]
    assert rows("A:2-2B") == [3, 4, 5]
    assert rows("A:2a") == [4]
    assert rows("A:2B-7,10") == [5, 6, 9]  # what the gap leaves out is not there
    assert rows("B", "A:0") == [1, 10, 11, 12]


@pytest.mark.parametrize(
    ("word", "complaint"),
    [
        ("C:1", "has no chain 'C'; its protein chains are A, B"),
        ("A:5", "has no residue 5 in chain A, which goes from -1 to 10 in 10 residues"),
        ("A:1-99", "has no residue 99 in chain A"),
        ("A:2C", "has no residue 2C"),
        ("A:7-1", "7 comes after 1 in chain A"),
        ("A:", "names no residues"),
        ("A:1-2-3", "names no residues"),
        ("A:one", "names no residues"),
        ("A:1,,2", "names no residues"),
    ],
)
def test_a_wrong_selection_is_an_error(tmp_path: Path, word: str, complaint: str) -> None:
    found = read_structure(written(tmp_path / "model.pdb", awkward()))
    with pytest.raises(InputError, match=complaint):
        select(found, [word])


def test_real_files() -> None:
    try:
        path = structure_path("5L33")
    except InputError as error:
        pytest.skip(str(error))
    found = read_structure(path)
    assert found.ids[0] == ResidueId("A", -1)
    assert found.sequence.startswith("HMPEEEKAARLFIEALEKG")
    assert len(found) == 106
    assert bool(found.complete.all())
    # Consecutive CA atoms are one peptide bond apart.
    steps = (found.backbone[1:, 1] - found.backbone[:-1, 1]).norm(dim=-1)
    assert 3.7 < float(steps.min()) <= float(steps.max()) < 3.95
