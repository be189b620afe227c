"""What the two scripts that train shipped acoustic models share: the sizes, the run, and how its model is installed."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from degauss.audio.acoustic import AcousticConfig, AcousticModel
from degauss.audio.acoustic_data import Corpus, read_corpus
from degauss.audio.acoustic_training import Recipe, fit
from degauss.audio.commands.acoustic_options import WEIGHTS
from degauss.audio.spectra import MelConfig
from degauss.audio.vocoders import SHIPPED, Vocoder, open_vocoder
from degauss.core import shipping
from degauss.core.options import progress

MEL = MelConfig()

# At most 5 MB of float32. x0, as errors in a predicted noise are magnified where the noise is all there is.
SIZES: dict[str, Any] = {
    "hidden": 80,
    "blocks": 2,
    "kernel": 5,
    "channels": 72,
    "layers": 8,
    "cycle": 4,
    "prediction": "x0",
}
MOST_PARAMETERS = 1_250_000


def parser(doc: str | None, auxiliary_steps: int, steps: int) -> argparse.ArgumentParser:
    """The options of such a script; ``--steps`` are those of the diffusion."""
    made = shipping.parser(doc, steps=steps, batch=16, lr=1e-3)
    made.add_argument("--auxiliary-steps", type=int, default=auxiliary_steps, help="of the first stage")
    return made


def corpora(out: Path) -> tuple[Corpus, Corpus]:
    """The prepared folders OUT/data and OUT/held_out."""
    with progress("reading recordings") as report:
        return read_corpus(out / "data", MEL, report), read_corpus(out / "held_out", MEL, report)


def trained(arguments: argparse.Namespace, corpus: Corpus, held_out: Corpus) -> AcousticModel:
    """The model of a run, trained unless only its score is asked for."""
    if arguments.score:
        return AcousticModel.load(arguments.out / "model")
    config = AcousticConfig(corpus.phones, corpus.voices, MEL, **SIZES)
    recipe = Recipe(
        arguments.out,
        auxiliary_steps=arguments.auxiliary_steps,
        ema=0.999,
        **shipping.settings_of(arguments),
    )
    return fit(config, corpus, held_out, recipe)


def vocoder_for(model: AcousticModel) -> Vocoder:
    """The vocoder that the package ships, or WORLD where it ships none."""
    return open_vocoder("neural" if SHIPPED.is_dir() else "world", model.config.mel)


def last_losses(out: Path) -> dict[str, float]:
    """The losses on held-out recordings at the end of both stages, by name."""
    found: dict[str, float] = {}
    for stage in ("auxiliary", "diffusion"):
        lines = map(json.loads, (out / stage / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
        rows = [row for row in lines if "validation" in row]
        last = rows[-1] if rows else {}
        found |= {f"{stage} {name}": round(value, 5) for name, value in last.items() if name.startswith("validation")}
    return found


def finish(
    name: str,
    arguments: argparse.Namespace,
    model: AcousticModel,
    trained_on: list[str],
    licence: str,
    measure: Callable[[AcousticModel], dict[str, Any]],
) -> None:
    """Write ``card.json`` beside the model, and with ``--install`` copy both to the weights of the package."""
    size = sum(weight.numel() for weight in model.network.parameters())
    assert size <= MOST_PARAMETERS, f"{size} parameters are too many to ship"
    card = {
        **shipping.made_by(
            name,
            f"packages/audio/examples/train_shipped_{name}.py",
            arguments,
            f"--auxiliary-steps {arguments.auxiliary_steps}",
        ),
        "trained_on": trained_on,
        "licence": licence,
        "mel": asdict(model.config.mel),
        "voices": list(model.config.voices),
        "parameters": size,
        "metrics": {
            "vocoder": type(vocoder_for(model)).__name__,
            "held_out_losses": last_losses(arguments.out),
            **measure(model),
        },
    }
    shipping.ship(arguments, card, WEIGHTS / name)
