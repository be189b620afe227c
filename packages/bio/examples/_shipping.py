"""What the scripts that train shipped models share: their options, the card, and where a model is put."""

from __future__ import annotations

import argparse
import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from degauss.bio.model import SHIPPED, ModelConfig, SequenceModel
from degauss.bio.training import Batch, Sequences, card_of, fit, recipe
from degauss.core.doctor import device_name
from degauss.core.files import atomic_path, write_json
from degauss.core.options import device_of
from degauss.core.train import TrainConfig


def parser(description: str | None, *, steps: int, batch: int, lr: float) -> argparse.ArgumentParser:
    """The options of both scripts, with a script's own defaults."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("out", type=Path, help="directory of the run; run again to go on")
    made.add_argument("--steps", type=int, default=steps)
    made.add_argument("--batch", type=int, default=batch)
    made.add_argument("--lr", type=float, default=lr)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--device", choices=("auto", "cpu"), default="auto")
    made.add_argument("--score", action="store_true", help="do not train: measure OUT/model and write its card")
    made.add_argument("--install", action="store_true", help="put the model where the package ships it")
    return made


def trained(
    config: ModelConfig, data: Sequences, valid: Batch, arguments: argparse.Namespace, dropped: float = 0.0
) -> tuple[SequenceModel, TrainConfig]:
    """The model of a run, trained unless only its score is asked for, and the settings of its training."""
    settings = recipe(
        arguments.out,
        steps=arguments.steps,
        batch=arguments.batch,
        lr=arguments.lr,
        seed=arguments.seed,
        device=arguments.device,
    )
    if arguments.score:
        return SequenceModel.load(arguments.out / "model"), settings
    return fit(config, data, valid, settings, dropped), settings


def finish(
    name: str,
    arguments: argparse.Namespace,
    model: SequenceModel,
    measured: tuple[Sequences, Batch, TrainConfig],
    about: dict[str, Any],
) -> None:
    """Write ``card.json`` beside the model, and with ``--install`` copy both to the weights of the package.

    ``measured``: what the model was trained on, what it is measured on, and the settings.
    """
    data, test, settings = measured
    found = card_of(model, data, test, settings, {})
    card = {
        "name": name,
        "date": datetime.now(UTC).date().isoformat(),
        "command": f"python packages/bio/examples/train_shipped_{name}.py OUT --steps {arguments.steps} "
        f"--batch {arguments.batch} --lr {arguments.lr:g} --seed {arguments.seed}",
        "device": device_name(device_of(arguments.device)),
        **about,
        **{key: found[key] for key in ("sequences", "parameters", "metrics")},
    }
    card["metrics"] = {**found["metrics"], "what": about["measured_on"]}
    del card["measured_on"]
    with atomic_path(arguments.out / "model" / "card.json") as part:
        write_json(part, card)
    print(json.dumps(card["metrics"], indent=2))
    print(f"wrote {arguments.out / 'model'}")
    if arguments.install:
        with atomic_path(SHIPPED / name) as part:
            shutil.copytree(arguments.out / "model", part)
        print(f"installed it as {SHIPPED / name}")
