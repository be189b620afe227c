"""Proteins for tests: ideal helices as PDB files, and a network with random weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from degauss.bio.proteinmpnn import ProteinMPNN

THREE = {
    **{"A": "ALA", "C": "CYS", "D": "ASP", "E": "GLU", "F": "PHE", "G": "GLY", "H": "HIS", "I": "ILE", "K": "LYS"},
    **{"L": "LEU", "M": "MET", "N": "ASN", "P": "PRO", "Q": "GLN", "R": "ARG", "S": "SER", "T": "THR", "V": "VAL"},
    **{"W": "TRP", "Y": "TYR", "X": "UNK"},
}
# Radius (angstrom), angle (degrees) and height (angstrom) of a helix's atoms around its axis.
HELIX = {"N": (1.55, 0.0, 0.0), "CA": (2.28, 27.0, 0.9), "C": (1.66, 73.0, 2.0), "O": (2.0, 85.0, 3.2)}


class Residue(NamedTuple):
    """What a PDB file says of a residue."""

    chain: str
    number: int
    name: str
    atoms: dict[str, tuple[float, float, float]]
    insertion: str = " "
    record: str = "ATOM"


def helix(letters: str, chain: str = "A", first: int = 1, shift: float = 0.0) -> list[Residue]:
    """An ideal helix along z, ``shift`` angstrom along x; bent a little, so that no two residues are alike."""
    found: list[Residue] = []
    for i, letter in enumerate(letters):
        atoms: dict[str, tuple[float, float, float]] = {}
        for name, (radius, angle, height) in HELIX.items():
            phase = math.radians(angle + 100 * i)
            bend = 0.02 * i * i
            x, y, z = radius * math.cos(phase) + shift + bend, radius * math.sin(phase), height + 1.5 * i
            atoms[name] = (round(x, 3), round(y, 3), round(z, 3))
        found.append(Residue(chain, first + i, THREE[letter], atoms))
    return found


def pdb(residues: Iterable[Residue]) -> str:
    """The text of a PDB file."""
    return "".join(_lines(residues)) + "END\n"


def _lines(residues: Iterable[Residue]) -> Iterator[str]:
    serial = 0
    for one in residues:
        for name, (x, y, z) in one.atoms.items():
            serial += 1
            yield (
                f"{one.record:<6}{serial:>5}  {name:<3} {one.name:>3} {one.chain}{one.number:>4}{one.insertion}   "
                f"{x:8.3f}{y:8.3f}{z:8.3f}  1.00 10.00           {name[0]}\n"
            )


def written(path: Path, residues: Iterable[Residue]) -> Path:
    """A PDB file of these residues."""
    path.write_text(pdb(residues))
    return path


def random_network(k: int = 48) -> ProteinMPNN:
    """The network with random weights, large enough that letters matter to one another."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = ProteinMPNN(k)
        for name, weight in network.named_parameters():
            # The released weights of messages are as large: sums over neighbours are divided by 30.
            if ".W1." in name or ".W3." in name or name.startswith("W_"):
                weight.data *= 3
    return network.requires_grad_(False).eval()


def turned(points: Tensor) -> Tensor:
    """Points ``[..., 3]`` turned about no special axis and moved."""
    generator = torch.Generator().manual_seed(5)
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=points.dtype))
    turn = turn * torch.linalg.det(turn)  # no mirror
    return points @ turn.T + torch.tensor([3.0, -20.0, 7.0], dtype=points.dtype)
