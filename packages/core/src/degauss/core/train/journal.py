"""What a run tells while it goes on: metrics.jsonl, the tracker, the progress bar."""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from degauss.core.files import atomic_path
from degauss.core.train.config import TrainConfig

METRICS = "metrics.jsonl"

logger = logging.getLogger(__name__)


class Journal:
    """metrics.jsonl, the tracker and the progress bar of the main process."""

    def __init__(self, path: Path, accelerator: Any, advance: Callable[[int], None]) -> None:
        self.path = path
        self.accelerator = accelerator
        self.advance = advance

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        if not self.accelerator.is_main_process:
            return
        plain = {name: float(value) for name, value in figures.items()}
        known = {name: value if math.isfinite(value) else None for name, value in plain.items()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **known}) + "\n")
        self.accelerator.log(plain, step=step)


@contextmanager
def journal_of(config: TrainConfig, accelerator: Any, step: int) -> Generator[Journal]:
    """The journal of a run that begins, or goes on, at a step."""
    path = config.out / METRICS
    with ExitStack() as stack:
        if accelerator.is_main_process:
            forget(path, step)
        if config.tracker:
            if not accelerator.log_with:
                logger.warning("tensorboard is not installed: metrics go to %s only", path)
            kwargs = {config.tracker: {"purge_step": step + 1}} if step else {}
            accelerator.init_trackers(config.tracker, init_kwargs=kwargs)
            stack.callback(lambda: [tracker.finish() for tracker in accelerator.trackers])
        bar = stack.enter_context(_progress(config, step, accelerator.is_main_process))
        yield Journal(path, accelerator, bar)


def forget(path: Path, step: int) -> None:
    """Drop the lines after a step, which the resumed run writes again, and a last one that was cut short."""
    if not path.exists():
        return
    kept: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] > step:
                break
        except (ValueError, KeyError, TypeError):
            break
        kept.append(line + "\n")
    with atomic_path(path) as partial:
        partial.write_text("".join(kept), encoding="utf-8")


@contextmanager
def _progress(config: TrainConfig, step: int, wanted: bool) -> Generator[Callable[[int], None]]:
    """A bar with the time left, on a terminal only; yields what to call after each step."""
    if not (wanted and sys.stderr.isatty()):
        yield lambda step: None
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

    columns = (MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*Progress.get_default_columns()[:2], *columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("training", total=config.steps, completed=step)
        yield lambda step: bar.update(task, completed=step)
