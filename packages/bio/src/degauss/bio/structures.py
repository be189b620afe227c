"""Protein structures as a designer's network sees them: the backbone of each residue, and what the file calls it.

PDB and mmCIF files, also gzipped, are read by biopython; the first model counts, and of alternative places of an atom
the one with the highest occupancy. A residue is an amino acid of a protein chain: one of the twenty, a modified one
(selenomethionine, phosphoserine) under the letter of its parent, or X for what nobody knows but has the backbone of
one. Water, ligands, ions and nucleic acids are left out. Coordinates are in angstrom.
"""

from __future__ import annotations

import gzip
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from degauss.bio.alphabets import PROTEIN
from degauss.core.errors import InputError

ATOMS = ("N", "CA", "C", "O")
"""The atoms of a backbone, in the order of `Structure.backbone`."""

_SUFFIXES = {".pdb": "pdb", ".ent": "pdb", ".cif": "cif", ".mmcif": "cif"}
_NUMBER = re.compile(r"(-?\d+)([A-Za-z]?)")
_RANGE = re.compile(r"(-?\d+[A-Za-z]?)(?:-(-?\d+[A-Za-z]?))?")


class ResidueId(NamedTuple):
    """What a file calls a residue: its chain, its number and its insertion code ("" where it has none)."""

    chain: str
    number: int
    insertion: str = ""

    def __str__(self) -> str:
        return f"{self.chain}{self.number}{self.insertion}"


@dataclass(frozen=True, eq=False)
class Structure:
    """The residues of a structure, ``length`` of them in the order of the file.

    ``backbone``: float32 ``[length, 4, 3]``, the places of N, CA, C and O in angstrom, NaN where an atom is missing.
    ``sequence``: one letter a residue, X for what is none of the twenty. ``ids``: what the file calls them.
    """

    name: str
    backbone: Tensor
    sequence: str
    ids: tuple[ResidueId, ...]

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def complete(self) -> Tensor:
        """Where a residue has all four atoms, bool ``[length]``."""
        return self.backbone.isfinite().all(-1).all(-1)

    @cached_property
    def chains(self) -> tuple[str, ...]:
        """The names of the chains, in the order of the file."""
        return tuple(dict.fromkeys(residue.chain for residue in self.ids))

    @cached_property
    def chain_index(self) -> Tensor:
        """Which of the ``chains`` each residue is in, integers ``[length]``."""
        return torch.tensor([self.chains.index(residue.chain) for residue in self.ids])

    @cached_property
    def places(self) -> Tensor:
        """The place of each residue along its chain, integers ``[length]``.

        Neighbours in the chain differ by 1, a gap in the numbering counts as the residues that it leaves out, and
        residues that differ only by insertion code follow each other.
        """
        places = [0]
        for before, residue in zip(self.ids, self.ids[1:], strict=False):
            step = residue.number - before.number if residue.chain == before.chain else 1
            places.append(places[-1] + max(1, step))
        return torch.tensor(places)

    def take(self, rows: Tensor) -> Structure:
        """Some residues: a bool mask ``[length]``."""
        kept = [i for i, one in enumerate(rows.tolist()) if one]
        letters = "".join(self.sequence[i] for i in kept)
        return Structure(self.name, self.backbone[kept], letters, tuple(self.ids[i] for i in kept))

    def index(self, chain: str, number: str) -> int:
        """The row of a residue by chain and number as the file writes it ("52", "52A", "-3").

        Raises `InputError` for an unknown chain, a number that is none, or one that the chain does not have.
        """
        self.check_chains([chain])
        match = _NUMBER.fullmatch(number)
        if match is None:
            raise InputError(f"{number!r} is no residue number; expected one as in the file, such as 52 or 52A.")
        wanted = ResidueId(chain, int(match[1]), match[2].upper())
        if wanted not in self.ids:
            own = [residue for residue in self.ids if residue.chain == chain]
            raise InputError(
                f"{self.name} has no residue {number} in chain {chain}, which goes from "
                f"{own[0].number}{own[0].insertion} to {own[-1].number}{own[-1].insertion} in {len(own)} residues."
            )
        return self.ids.index(wanted)

    def check_chains(self, chains: Sequence[str]) -> None:
        """Raise `InputError` for a chain that is not there, naming those that are."""
        for chain in chains:
            if chain not in self.chains:
                raise InputError(
                    f"{self.name} has no chain {chain!r}; its protein chains are {', '.join(self.chains)}."
                )


def read_structure(path: str | os.PathLike[str], chains: Sequence[str] = ()) -> Structure:
    """Read a PDB or mmCIF file: all its protein chains, or those named.

    Raises `InputError` if the file is missing or is no such file, has no protein chain, has a chain without any whole
    backbone (a trace of CA atoms), or lacks a chain that is named.
    """
    path = Path(path)
    found = [one for one in (_residue(residue) for residue in _residues(path)) if one is not None]
    if not found:
        raise InputError(f"{path}: holds no protein chain; expected amino acids with the atoms N, CA, C and O.")
    name = path.name.removesuffix(".gz").rpartition(".")[0] or path.name
    letters = "".join(one.letter for one in found)
    structure = Structure(name, torch.stack([one.backbone for one in found]), letters, tuple(one.id for one in found))
    if chains:
        structure.check_chains(chains)
        structure = structure.take(torch.tensor([residue.chain in chains for residue in structure.ids]))
    _check_backbone(path, structure)
    return structure


class _Residue(NamedTuple):
    id: ResidueId
    letter: str
    backbone: Tensor


def _residues(path: Path) -> list[Any]:
    """Biopython's residues of the first model."""
    from Bio.PDB.MMCIFParser import MMCIFParser
    from Bio.PDB.PDBExceptions import PDBConstructionException
    from Bio.PDB.PDBParser import PDBParser

    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    if suffix not in _SUFFIXES:
        raise InputError(f"{path}: expected a structure named .pdb, .ent, .cif or .mmcif (or one of these with .gz).")
    parser = PDBParser(QUIET=True) if _SUFFIXES[suffix] == "pdb" else MMCIFParser(QUIET=True)
    expected = "a PDB file with ATOM records" if _SUFFIXES[suffix] == "pdb" else "an mmCIF file with atom sites"
    try:
        with gzip.open(path, "rt") if path.name.endswith(".gz") else path.open() as file:
            parsed = cast("Any", parser.get_structure(path.stem, file))
            model = next(iter(parsed), None)
    except (FileNotFoundError, IsADirectoryError):
        raise InputError(f"{path}: does not exist or is no file; expected {expected}.") from None
    except (PDBConstructionException, KeyError, IndexError, ValueError, OSError, EOFError) as error:
        raise InputError(f"{path}: cannot be read ({error}); expected {expected}.") from None
    if model is None:
        raise InputError(f"{path}: holds no atoms; expected {expected}.")
    return list(model.get_residues())


def _residue(residue: Any) -> _Residue | None:
    """The backbone of an amino acid; None for anything else."""
    from Bio.Data.PDBData import protein_letters_3to1, protein_letters_3to1_extended

    hetero, number, insertion = residue.id
    name = residue.get_resname().strip()
    # A free amino acid is a ligand: files list it as a heteroatom under one of the twenty names.
    if hetero.strip() and name in protein_letters_3to1:
        return None
    if name not in protein_letters_3to1_extended and not all(atom in residue for atom in ("N", "CA", "C")):
        return None
    letter = protein_letters_3to1_extended.get(name, PROTEIN.unknown)
    coordinates = torch.full((len(ATOMS), 3), float("nan"))
    for row, atom in enumerate(ATOMS):
        if atom in residue:
            coordinates[row] = torch.from_numpy(residue[atom].coord.copy())
    letter = letter if letter in PROTEIN.letters else PROTEIN.unknown
    return _Residue(ResidueId(residue.parent.id, number, insertion.strip()), letter, coordinates)


def _check_backbone(path: Path, structure: Structure) -> None:
    """`InputError` for a chain none of whose residues has its four backbone atoms."""
    for chain, name in enumerate(structure.chains):
        rows = structure.chain_index == chain
        if bool(structure.complete[rows].any()):
            continue
        first = int(rows.nonzero()[0])
        there = structure.backbone[first].isfinite().all(-1).tolist()
        missing = ", ".join(atom for atom, one in zip(ATOMS, there, strict=True) if not one)
        residue = structure.ids[first]
        raise InputError(
            f"{path}: chain {name} has no backbone: residue {residue.number}{residue.insertion} lacks {missing}, and "
            f"no other residue of the chain has all of {', '.join(ATOMS)}."
        )


def select(structure: Structure, words: Sequence[str]) -> Tensor:
    """The residues that words name, bool ``[length]``: ``"A:1-10,15"`` (as the file numbers them) or ``"B"``.

    Ranges hold both their ends and all that the file has between them. Raises `InputError` for a chain or a residue
    that is not there and for a range that goes backwards.
    """
    chosen = torch.zeros(len(structure), dtype=torch.bool)
    for word in words:
        chain, colon, parts = word.partition(":")
        structure.check_chains([chain])
        if not colon:
            chosen |= structure.chain_index == structure.chains.index(chain)
            continue
        for part in parts.split(","):
            match = _RANGE.fullmatch(part.strip())
            if match is None:
                raise InputError(f"{word!r} names no residues; expected CHAIN:FIRST-LAST,ONE,... such as A:1-10,15.")
            first = structure.index(chain, match[1])
            last = structure.index(chain, match[2] or match[1])
            if last < first:
                raise InputError(f"{word!r}: {match[1]} comes after {match[2]} in chain {chain} of {structure.name}.")
            chosen[first : last + 1] = True
    return chosen
