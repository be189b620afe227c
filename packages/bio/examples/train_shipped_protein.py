"""Train the protein model that the package ships: variants of protein GB1 at its four epistatic sites.

    python packages/bio/examples/train_shipped_protein.py OUT [--steps N] [--batch N] [--device auto|cpu] [--install]

Interrupt it and run it again: it goes on where it stopped. The defaults take a few minutes on one CPU core.
``OUT/model`` is the model, with its ``card.json`` beside it; with ``--score`` an existing one is only measured.

It learns from the variants whose measured fitness is at least a twentieth of nature's and at most nature's: folded and
binding, but none that is better, so that what an optimiser finds beyond nature was not shown. A tenth is held out. The
four letters are those of sites 39, 40, 41 and 54 (VDGV in nature). All 160,000 sequences can be enumerated.
"""

from __future__ import annotations

import torch
from _shipping import finish, trained

from degauss.bio import datasets
from degauss.bio.alphabets import PROTEIN
from degauss.bio.model import ModelConfig
from degauss.bio.nets import TransformerConfig
from degauss.bio.training import Batch, Sequences, held_out
from degauss.core.shipping import parser

NET = TransformerConfig(width=64, depth=3, heads=4, dropout=0.1)
FITNESS = (0.05, 1.0)


def main() -> None:
    arguments = parser(__doc__, steps=4000, batch=128, lr=2e-3).parse_args()
    low, high = FITNESS
    sequences = [variant.sequence for variant in datasets.gb1() if low <= variant.fitness <= high]
    tokens = PROTEIN.encode(sequences)
    out = held_out(sequences, 0.1)
    labels = torch.zeros(len(tokens), dtype=torch.long)
    data = Sequences(tokens[~out], labels[~out], 4, seed=arguments.seed)
    test = Batch(tokens[out], labels[out])
    model, settings = trained(ModelConfig(PROTEIN, 4, NET), data, test, arguments)
    finish(
        "protein",
        arguments,
        model,
        (data, test, settings),
        {
            "trained_on": [
                f"{len(data.tokens)} of the variants of GB1 at four sites with a fitness of {low:g} to {high:g} of "
                "nature's (Wu et al. 2016, in FLIP's edition; AFL-3.0)"
            ],
            "licence": "AFL-3.0",
            "measured_on": f"bits a letter on {len(test.tokens)} held-out variants of the same kind, exact",
            "limits": "Four letters, sites 39, 40, 41 and 54 of protein GB1 and nothing else: a complete landscape to "
            "try methods on, not a model of proteins.",
        },
    )


if __name__ == "__main__":
    main()
