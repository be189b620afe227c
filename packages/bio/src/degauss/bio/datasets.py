"""Public sequences and structures for training, tests and claims, found under `data_root()`; nothing is downloaded.

Each reader raises `InputError` where its file is not there, and says where it was looked for.
"""

from __future__ import annotations

import csv
import gzip
import io
import zipfile
from pathlib import Path
from typing import Literal, NamedTuple

from degauss.core.errors import InputError
from degauss.core.places import data_root

Split = Literal["train", "valid", "test"]

_HELD_OUT: dict[str, Split] = {"chr1": "test", "chr2": "valid"}


def _present(name: str, what: str) -> Path:
    path = data_root() / "bio" / name
    if not path.is_file():
        raise InputError(f"{path}: does not exist; expected {what} there, so set DEGAUSS_DATA.")
    return path


class Site(NamedTuple):
    """An accessible site: where it lies in the genome (hg38), the cell type, and 200 bp of it in upper case."""

    chromosome: str
    start: int
    end: int
    cell_type: str
    sequence: str

    @property
    def split(self) -> Split:
        """Chromosome 1 is the test set, chromosome 2 the validation set."""
        return _HELD_OUT.get(self.chromosome, "train")


def accessible_sites() -> list[Site]:
    """DNase-accessible sites of four cell types (GM12878, HepG2, hESCT0, K562), 11,968 of each; MIT.

    From the package DNA-Diffusion (DaSilva et al. 2024).
    """
    path = _present("dhs_200bp_four_cell_types.tsv.gz", "the accessible sites of four cell types")
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        return [
            Site(row["chr"], int(row["start"]), int(row["end"]), row["TAG"].partition("_")[0], row["sequence"].upper())
            for row in csv.DictReader(file, delimiter="\t")
        ]


class Variant(NamedTuple):
    """The letters of protein GB1 at its sites 39, 40, 41 and 54 (VDGV in nature), and its fitness; nature has 1."""

    sequence: str
    fitness: float


def gb1() -> list[Variant]:
    """All measured variants of GB1 at four sites: 149,361 of 160,000 (Wu et al. 2016, in FLIP's edition; AFL-3.0)."""
    path = _present("gb1_four_mutations_full_data.csv.zip", "the variants of GB1")
    with zipfile.ZipFile(path) as archive, archive.open(archive.namelist()[0]) as raw:
        rows = csv.reader(io.TextIOWrapper(raw, encoding="utf-8"))
        header = next(rows)
        letters, fitness = header.index("Variants"), header.index("Fitness")
        return [Variant(row[letters], float(row[fitness])) for row in rows]


class Promoter(NamedTuple):
    """A regulatory sequence of 165 bp and the logarithm of the expression it was measured to drive in E. coli."""

    sequence: str
    expression: float


def promoters() -> list[Promoter]:
    """13,972 regulatory sequences of bacteria, measured in E. coli (from the package GPro; MIT)."""
    path = _present("ecoli_mpra_expr_165bp.csv.gz", "the promoters of E. coli")
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        return [Promoter(row["seq"].upper(), float(row["expr"])) for row in csv.DictReader(file)]


def structure_path(name: str) -> Path:
    """The PDB file of a small protein: ``1pga``, ``5L33`` or ``6MRR``; CC0."""
    return _present(f"{name}.pdb", f"the structure {name}")


def motifs_path() -> Path:
    """The consensus motifs of JASPAR 2024 in MEME's format; CC BY 4.0."""
    return _present("jaspar_2024_consensus.meme", "the motifs of JASPAR")


def proteinmpnn_path() -> Path:
    """The weights v_48_020 of ProteinMPNN as safetensors; MIT."""
    return _present("proteinmpnn_v_48_020.safetensors", "the weights of ProteinMPNN")
