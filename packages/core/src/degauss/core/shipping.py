"""Models that ship with a package: how they are found by name, and how the script that trained one puts it there.

A package's ``weights`` folder holds a model's folder for each name: weights, configuration, and ``card.json``.
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from degauss.core.checkpoint import CARD, WEIGHTS
from degauss.core.doctor import device_name
from degauss.core.errors import InputError, near_miss
from degauss.core.files import atomic_path, settled, write_json
from degauss.core.options import device_of


def shipped_in(folder: Path) -> list[str]:
    """The names of the models in a package's folder of weights."""
    return sorted(path.parent.name for path in folder.glob(f"*/{WEIGHTS}"))


def find_shipped(name: str | os.PathLike[str], folder: Path, what: str = "model", verb: str = "train") -> Path:
    """The folder of a model: of one that ships in ``folder``, by its name, or of any other, by its path.

    ``what``, ``verb``: how to call it, and the command that makes one. Raises `InputError` if there is neither.
    """
    shipped = shipped_in(folder)
    if str(name) in shipped:
        return folder / name
    path = settled(name)
    if path.is_dir():
        return path
    known = f"those that ship are {', '.join(shipped)}" if shipped else f"none ships; '{verb}' makes one"
    raise InputError(
        f"there is no {what} {str(name)!r}{near_miss(str(name), shipped)}: expected the folder of one; {known}."
    )


def parser(description: str | None, *, steps: int | None, batch: int, lr: float) -> argparse.ArgumentParser:
    """The options of a script that trains a model which ships, with the script's own defaults."""
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


def settings_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """What such options say of a training, by the names that recipes have: steps, batch, lr, seed, device."""
    return {name: getattr(arguments, name) for name in ("steps", "batch", "lr", "seed", "device")}


def made_by(name: str, script: str, arguments: argparse.Namespace, own: str = "") -> dict[str, Any]:
    """What every card begins with: the model's name, the day, the command that makes it, and the device.

    ``script``: its path in the project. ``own``: its own options, as they are written.
    """
    steps = f"--steps {arguments.steps} --batch {arguments.batch} --lr {arguments.lr:g} --seed {arguments.seed}"
    return {
        "name": name,
        "date": datetime.now(UTC).date().isoformat(),
        "command": f"python {script} OUT {steps} {own}".rstrip(),
        "device": device_name(device_of(arguments.device)),
    }


def ship(arguments: argparse.Namespace, card: Mapping[str, Any], place: Path) -> None:
    """Write the card beside the model of a run, and with ``--install`` copy both to ``place``."""
    model = arguments.out / "model"
    with atomic_path(model / CARD) as part:
        write_json(part, card)
    print(f"wrote {model}")
    if arguments.install:
        with atomic_path(place) as part:
            shutil.copytree(model, part)
        print(f"installed it as {place}")
