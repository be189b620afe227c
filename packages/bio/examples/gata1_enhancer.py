"""Enhancers rich in GATA1 sites, that look like DNA otherwise.

    python packages/bio/examples/gata1_enhancer.py [--model FOLDER] [--n 16] [--out gata1]

Guided particles (TDS) are drawn towards p exp(reward / alpha). The reward counts AGATAAG on either strand; a little of
it is how well a GATA1 protein would bind, which shows the way to a first site. Sampling is constrained: there is
no site that a cloning enzyme would cut and no long run of a letter. Writes OUT.fasta and the logos OUT.png and
OUT-model.png. More methods, rewards and constraints are in `degauss-bio design`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from _model import open_model

from degauss.bio.constraints import parse_constraints
from degauss.bio.designing import Found, Settings, search
from degauss.bio.model import SequenceModel
from degauss.bio.plots import sequence_logo
from degauss.bio.rewards import parse_rewards
from degauss.bio.sequences import Record, write_fasta
from degauss.core.errors import InputError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of a model of DNA")
    parser.add_argument("--n", type=int, default=16)
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--out", type=Path, default=Path("gata1"))
    arguments = parser.parse_args()

    model = open_model(arguments.model)
    label = "K562" if "K562" in model.config.labels else None
    reward = parse_rewards(["motif:consensus=AGATAAG,how=count", "0.2*motif:consensus=AGATAAG,how=occupancy"])
    lattice = parse_constraints(forbid=["BsaI", "BsmBI"], max_homopolymer=6).lattice(model.length)

    settings = Settings("best-of-n", draws=1, n=arguments.n, steps=arguments.steps, label=label)
    show("samples of the model", search(model, reward, settings, lattice), model, f"{arguments.out}-model.png")
    settings = Settings("tds", alpha=0.3, particles=8, n=arguments.n, steps=arguments.steps, label=label)
    found = search(model, reward, settings, lattice)
    show("designs", found, model, f"{arguments.out}.png")

    sequences = model.alphabet.decode(found.tokens)
    records = [
        Record(f"gata1_{rank}", sequence, "", {"reward": f"{one.reward:.2f}"})
        for rank, (sequence, one) in enumerate(zip(sequences, found.designs, strict=True), 1)
    ]
    write_fasta(f"{arguments.out}.fasta", records)
    print(f"wrote {arguments.out}.fasta; the best:\n{sequences[0]}")


def show(title: str, found: Found, model: SequenceModel, logo: str) -> None:
    """Sites, counted letter for letter on both strands, and how likely the model finds the sequences."""
    sequences = model.alphabet.decode(found.tokens)
    sites = sum(sequence.count("AGATAAG") + sequence.count("CTTATCT") for sequence in sequences) / len(sequences)
    nats = float(model.log_prob(found.tokens).nats.mean())
    print(f"{title}: {sites:.2f} GATA1 sites each, log p {nats:.1f} nats, {found.evaluations} evaluations")
    sequence_logo(logo, found.tokens, model.alphabet, title)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        raise SystemExit(str(error)) from None
