"""A library that a synthesis company takes: every sequence within its rules, and between two primers.

    python packages/bio/examples/gc_constrained_library.py [--model FOLDER] [--n 48] [--out library]

Rules are not checked afterwards but sampled with: each step is drawn from the model *given* that the finished sequence
meets all of them, so none is thrown away. An independent check, by text search, looks at each. Writes OUT.fasta and
OUT.csv, to be pasted into an order.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import torch
from _model import open_model

from degauss.bio.constraints import parse_constraints
from degauss.bio.metrics import longest_run, pair_distance
from degauss.bio.sequences import Record, write_fasta
from degauss.core.errors import InputError
from degauss.core.files import atomic_path
from degauss.core.jump import sample_tokens
from degauss.core.jump.constrained import constrained

FORWARD, REVERSE = "ACTGGCCGCT", "AGATCGGAAG"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of a model of DNA")
    parser.add_argument("--n", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("library"))
    arguments = parser.parse_args()

    model = open_model(arguments.model)
    rules = parse_constraints(
        fix=[f"1:{FORWARD}", f"{model.length - len(REVERSE) + 1}:{REVERSE}"],
        forbid=["BsaI", "EcoRI"],
        gc=".45-.55",
        max_homopolymer=4,
    )
    with torch.inference_mode():
        tokens = sample_tokens(
            model.denoiser(),
            model.process,
            (arguments.n, model.length),
            solver=constrained(rules.lattice(model.length)),
            steps=32,
            seed=arguments.seed,
        )
    sequences = sorted(set(model.alphabet.decode(tokens)))
    broken = sum(bool(rules.violations(sequence)) for sequence in sequences)
    shares = [(sequence.count("G") + sequence.count("C")) / model.length for sequence in sequences]
    print(f"{len(sequences)} different sequences of {model.length} bases; {broken} break a rule")
    print(f"GC {min(shares):.3f} to {max(shares):.3f}, longest run {int(longest_run(tokens).max())}")
    print(f"two of them differ at {pair_distance(tokens, 4):.0%} of places")

    records = [Record(f"oligo_{number}", sequence) for number, sequence in enumerate(sequences, 1)]
    write_fasta(arguments.out.with_suffix(".fasta"), records)
    with atomic_path(arguments.out.with_suffix(".csv")) as part, part.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("name", "sequence"), *((one.name, one.sequence) for one in records)])
    print(f"wrote {arguments.out.with_suffix('.fasta')} and {arguments.out.with_suffix('.csv')}")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        raise SystemExit(str(error)) from None
