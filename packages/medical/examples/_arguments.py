"""What the examples share: how large they are, what they are told, and how they end."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from degauss.core.errors import InputError


class Scale(NamedTuple):
    """Pixels a side, slices, draws, and evaluations of the network for each slice of each draw."""

    size: int
    slices: int
    draws: int
    steps: int


def parser(about: str | None, volume: str, prior: str, out: str, full: Scale, quick: Scale) -> argparse.ArgumentParser:
    """The options of both: what ``volume`` may be, and the defaults of the others. ``scale`` is set by --quick."""
    found = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--volume", type=Path, help=volume)
    found.add_argument("--prior", default=prior, help="one that ships, or the folder of one")
    found.add_argument("--seed", type=int, default=0)
    shorter = f"{quick.size} pixels a side instead of {full.size}"
    found.add_argument("--quick", dest="scale", action="store_const", const=quick, default=full, help=shorter)
    found.add_argument("--out", type=Path, default=Path(out))
    return found


def start(main: Callable[[], None]) -> None:
    """Run an example on one thread; a user's mistake is one sentence."""
    torch.set_num_threads(1)
    try:
        main()
    except InputError as problem:
        raise SystemExit(str(problem)) from None
