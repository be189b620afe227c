"""What the commands of every domain ask of their options before any work, and the bar that shows the work."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from degauss.core.errors import InputError

Report = Callable[[int, int], None]
"""(what is done, of how much)."""


def device_of(name: Literal["auto", "cpu", "cuda"]) -> Literal["cpu", "cuda"]:
    """Where to compute; `InputError` for a device that this machine has not.

    Where it is CUDA, convolutions are in full float32 from here on: cuDNN would round them to ten bits, and what is
    drawn would be another sample than on a CPU.
    """
    import torch

    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise InputError("device is 'cuda', but this machine has no CUDA device that torch can use.")
    if name == "cpu" or not there:
        return "cpu"
    torch.backends.cudnn.allow_tf32 = False
    return "cuda"


def check_file(path: Path, suffixes: Sequence[str]) -> None:
    """`InputError` unless a file of one of these suffixes can be written there."""
    if path.suffix.lower() not in suffixes:
        raise InputError(f"{path}: expected a name that ends in {' or '.join(suffixes)}.")
    if path.is_dir():
        raise InputError(f"{path}: is a directory; expected the name of a file to write.")
    check_place(path)


def check_directory(path: Path) -> None:
    """`InputError` unless this is a directory, or one can be made there."""
    if path.exists() and not path.is_dir():
        raise InputError(f"{path}: is a file; expected a directory, or a name to make one.")
    check_place(path)


def check_place(path: Path) -> None:
    """`InputError` unless a file or directory of this name can be made."""
    place = path.absolute().parent
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise InputError(f"{path}: cannot be written, as {place} is not a directory that can be written to.")


@contextmanager
def progress(title: str) -> Generator[Report]:
    """A bar on stderr with what is done and the time left, where stderr is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
