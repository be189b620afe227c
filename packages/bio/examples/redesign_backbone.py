"""Redesign a protein's backbone: what to keep, how many steps to take, and which residues the network is sure of.

    python packages/bio/examples/redesign_backbone.py [model.pdb] [--keep A:1-10] [--n 16] [--out redesign]

Without a structure, a designed protein of 68 residues (6MRR) is taken from the data folder, and so are the weights of
ProteinMPNN. Writes OUT/designs.fasta, the likeliest first, and OUT/profile.csv: for each residue, its letter in the
structure, the letters of the designs, and the entropy of the network's answer when it knows all others. For chains,
ties and other solvers there is `degauss-bio invfold`.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import torch
from torch import Tensor

from degauss.bio.datasets import proteinmpnn_path, structure_path
from degauss.bio.decoding import decode
from degauss.bio.inverse_folding import PROCESS, InverseFolding, Redesign, inverse_folding, redesign, score
from degauss.bio.proteinmpnn import LETTERS, load_proteinmpnn
from degauss.bio.sequences import Record, write_fasta
from degauss.bio.structures import read_structure, select
from degauss.core.errors import InputError
from degauss.core.files import atomic_path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("structure", type=Path, nargs="?")
    parser.add_argument("--keep", nargs="*", default=[], help="residues to keep, such as A:1-10,15")
    parser.add_argument("--n", type=int, default=16)
    parser.add_argument("--temperature", type=float, default=0.2)
    parser.add_argument("--out", type=Path, default=Path("redesign"))
    arguments = parser.parse_args()

    structure = read_structure(arguments.structure or structure_path("6MRR"))
    problem = redesign(structure, select(structure, arguments.keep))
    with torch.inference_mode():
        model = inverse_folding(load_proteinmpnn(proteinmpnn_path()), problem)
        # All residues at once, four a step, and about one a step: the last are written.
        designs = problem.native()[None]
        for steps in (1, -(-problem.places // 4), problem.places):
            designs = problem.letters(decode(model, range(arguments.n), steps, temperature=arguments.temperature))
            say(steps, problem, designs, score(model, designs, orders=2).designed)
        nats = score(model, designs).designed
        unsure = entropies(model, problem)
    order = nats.argsort()
    records = [
        Record(f"design_{rank}", text(designs[row]), "", {"score": f"{nats[row]:.4f}"})
        for rank, row in enumerate(order.tolist(), 1)
    ]
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_fasta(arguments.out / "designs.fasta", records)
    write_profile(arguments.out / "profile.csv", problem, designs, unsure)
    print(f"wrote {arguments.out / 'designs.fasta'} and {arguments.out / 'profile.csv'}")


def say(steps: int, problem: Redesign, letters: Tensor, nats: Tensor) -> None:
    recovery = float(problem.recovery(letters).mean())
    print(f"{steps:4d} steps: -log p {float(nats.mean()):.3f} nats a residue, recovery {recovery:.3f}")


def text(letters: Tensor) -> str:
    return "".join(LETTERS[letter] for letter in letters.tolist())


def entropies(model: InverseFolding, problem: Redesign) -> Tensor:
    """Of each place when the native letters of all others are known, in nats, ``[places]``."""
    places = problem.places
    native = torch.zeros(places, dtype=torch.long)
    native[problem.place[problem.designed]] = problem.native()[problem.designed].clamp(max=PROCESS.vocabulary - 1)
    # Each row has one mask.
    states = native.repeat(places, 1).fill_diagonal_(PROCESS.mask)
    found = torch.cat([model(part, torch.tensor(0.0)).logits for part in states.split(16)])
    answers = found[torch.arange(places), torch.arange(places)].double().softmax(-1)
    return torch.special.entr(answers).sum(-1)


def write_profile(path: Path, problem: Redesign, designs: Tensor, unsure: Tensor) -> None:
    with atomic_path(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["residue", "structure", "designs", "entropy"])
        for row, place in enumerate(problem.place.tolist()):
            if place < 0:
                continue
            letter = problem.structure.sequence[row]
            rows.writerow([problem.structure.ids[row], letter, text(designs[:, row]), f"{float(unsure[place]):.3f}"])


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        raise SystemExit(str(error)) from None
