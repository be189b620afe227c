"""Train the general checkpoint that the package ships: TSDiff on synthetic series alone.

    python packages/timeseries/examples/train_general.py OUT [--steps N] [--batch N] [--device auto|cpu]

Interrupt it and run it again: it goes on where it stopped. The defaults take about an hour on one CPU core; more
steps want a GPU. ``OUT/model`` is the checkpoint.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from degauss.core.train import TrainConfig, train
from degauss.timeseries.config import TSDiffConfig
from degauss.timeseries.synthetic import SyntheticWindows
from degauss.timeseries.tsdiff import TSDiff

CONFIG = TSDiffConfig(context=256, horizon=64, min_context=32, scaling="standard", state=64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto")
    arguments = parser.parse_args()
    cuda = arguments.device == "auto" and torch.cuda.is_available()
    model = TSDiff.new(CONFIG)
    result = train(
        model.network,
        model.loss,
        SyntheticWindows(CONFIG, device=torch.device("cuda" if cuda else "cpu")),
        TrainConfig(
            out=arguments.out,
            steps=arguments.steps,
            batch_size=arguments.batch,
            lr=arguments.lr,
            warmup=500,
            schedule="cosine",
            ema=0.999,
            clip=0.5,
            device=arguments.device,
            tracker=None,
            save_every=2000,
            log_every=200,
        ),
    )
    model.save(arguments.out / "model", result.weights)


if __name__ == "__main__":
    main()
