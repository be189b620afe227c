"""What the scripts that train shipped models share: a run, and the card of its model."""

from __future__ import annotations

import argparse
import json
from typing import Any

from degauss.bio.model import SHIPPED, ModelConfig, SequenceModel
from degauss.bio.training import Batch, Sequences, card_of, fit, recipe
from degauss.core.shipping import made_by, settings_of, ship
from degauss.core.train import TrainConfig


def trained(
    config: ModelConfig, data: Sequences, valid: Batch, arguments: argparse.Namespace, dropped: float = 0.0
) -> tuple[SequenceModel, TrainConfig]:
    """The model of a run, trained unless only its score is asked for, and the settings of its training."""
    settings = recipe(arguments.out, **settings_of(arguments))
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
        **made_by(name, f"packages/bio/examples/train_shipped_{name}.py", arguments),
        **about,
        **{key: found[key] for key in ("sequences", "parameters", "metrics")},
    }
    card["metrics"] = {**found["metrics"], "what": about["measured_on"]}
    del card["measured_on"]
    print(json.dumps(card["metrics"], indent=2))
    ship(arguments, card, SHIPPED / name)
