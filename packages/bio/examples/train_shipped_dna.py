"""Train the DNA model that the package ships: 100 bp from the middle of accessible sites of four cell types.

    python packages/bio/examples/train_shipped_dna.py OUT [--steps N] [--batch N] [--device auto|cpu] [--install]

Interrupt it and run it again: it goes on where it stopped. The defaults take about 50 minutes on one CPU core.
``OUT/model`` is the model, with its ``card.json`` beside it; with ``--score`` an existing one is only measured.

It learns from the sites of all chromosomes but 1 and 2, on either strand, from windows up to 10 bp off the middle, and
sees their cell type four times of five. Chromosome 2 is looked at on the way; chromosome 1 is what the card is about.
"""

from __future__ import annotations

import torch
from _shipping import finish, trained
from torch import Tensor

from degauss.bio import datasets
from degauss.bio.alphabets import DNA
from degauss.bio.datasets import Site
from degauss.bio.model import ModelConfig
from degauss.bio.nets import ConvNetConfig
from degauss.bio.training import Batch, Sequences
from degauss.core.shipping import parser

LENGTH, OFF = 100, 10
NET = ConvNetConfig(width=64, kernel=9, dilations=(1, 1, 4, 16) * 2)
WITHOUT_CELL_TYPE = 0.2


def middle(sites: list[Site], length: int) -> Tensor:
    """Tokens of the central ``length`` letters."""
    first = (len(sites[0].sequence) - length) // 2
    return DNA.encode([site.sequence[first : first + length] for site in sites])


def main() -> None:
    arguments = parser(__doc__, steps=12000, batch=64, lr=2e-3).parse_args()
    sites = datasets.accessible_sites()
    cells = tuple(sorted({site.cell_type for site in sites}))
    config = ModelConfig(DNA, LENGTH, NET, cells)
    by_split = {split: [site for site in sites if site.split == split] for split in ("train", "valid", "test")}
    labels = {split: torch.tensor([cells.index(site.cell_type) for site in part]) for split, part in by_split.items()}
    train = by_split["train"]
    data = Sequences(middle(train, LENGTH + 2 * OFF), labels["train"], LENGTH, both_strands=True, seed=arguments.seed)
    valid, test = (Batch(middle(by_split[split], LENGTH), labels[split]) for split in ("valid", "test"))
    # Sites are sorted by cell type; what is looked at on the way is to have all four.
    mixed = torch.randperm(len(valid.tokens), generator=torch.Generator().manual_seed(0))
    model, settings = trained(
        config, data, Batch(*(values[mixed] for values in valid)), arguments, dropped=WITHOUT_CELL_TYPE
    )
    # The Markov models learn from the very window that they are measured on.
    same_window = Sequences(middle(train, LENGTH), labels["train"], LENGTH, both_strands=True)
    finish(
        "dna",
        arguments,
        model,
        (same_window, test, settings),
        {
            "trained_on": [
                "accessible sites of GM12878, HepG2, hESCT0 and K562 in all chromosomes but 1 and 2, from the package "
                "DNA-Diffusion (MIT)"
            ],
            "licence": "Apache-2.0",
            "measured_on": "bits a letter on the central 100 bp of the sites of chromosome 1: of the model an upper "
            "bound (16 states each); of Markov models, their weights chosen on the same sites, exact",
            "limits": "100 letters, no other length. What it makes looks like accessible DNA; that a sequence acts in "
            "a cell is for a reward, an oracle and the bench to say.",
        },
    )


if __name__ == "__main__":
    main()
