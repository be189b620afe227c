"""Three oracles of accessibility in HepG2 that share no chromosome: to optimise, to tune by, and to report with.

    python train_oracles.py --out runs/oracles --window 200

The *reward* is a network trained on chromosomes 3 to 11, the *validation* oracle a network of another seed and width
on 14 to 18, and the *held-out* oracle a regression on words of six letters, another kind of model, on 12, 13, 19 to 22
and X. Chromosome 2 stops the trainings, and chromosome 1 is looked at once, for the figures printed here. All three
read the same assay: what they share they cannot tell from truth, so a design deserves an experiment of another kind in
the end.

It takes a few minutes on one core. Use them as ``--reward activity:runs/oracles/reward/model,cell=HepG2`` and
``--held-out activity:runs/oracles/held-out``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from degauss.bio import kmers
from degauss.bio.datasets import accessible_sites
from degauss.bio.metrics import auroc
from degauss.bio.predictor_training import Examples, fit, judge, recipe, site_examples
from degauss.bio.predictors import PredictorConfig
from degauss.bio.splits import chromosomes

CELL_TYPES = ("GM12878", "HepG2", "K562", "hESCT0")
HEPG2 = CELL_TYPES.index("HepG2")
NETWORKS = {"reward": ("3-11", 64, 0), "validation": ("14-18", 48, 1)}
HELD_OUT = "12-13,19-22,X"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/oracles"), help="folder for the three")
    parser.add_argument("--window", type=int, default=200, help="central letters of a site, at most 200")
    parser.add_argument("--steps", type=int, default=2000, help="training steps of a network")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sites = accessible_sites()

    def on(text: str) -> Examples:
        return site_examples(sites, chromosomes(text), CELL_TYPES, options.window)

    valid, test = on("2"), on("1")
    for name, (where, channels, seed) in NETWORKS.items():
        config = PredictorConfig(CELL_TYPES, options.window, channels=channels)
        settings = recipe(options.out / name, steps=options.steps, seed=seed)
        predictor = fit(config, on(where), valid, settings)
        print(f"{name}: network on chr{where}, AUROC on chr1 {judge(predictor, test).by_target['auroc_HepG2']:.3f}")
    train = on(HELD_OUT)
    model = kmers.fit(train.tokens, train.labels == HEPG2, target="HepG2")
    figure = auroc(model.score(test.tokens), test.labels == HEPG2)
    model.save(options.out / "held-out", {"auroc_HepG2": figure})
    print(f"held-out: words of six letters on chr{HELD_OUT}, AUROC on chr1 {figure:.3f}")


if __name__ == "__main__":
    main()
