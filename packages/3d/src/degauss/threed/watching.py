"""What a run tells while it goes on: its figures, line by line; pictures of the scene; and the Janus meter."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from degauss.core.errors import InputError
from degauss.core.options import Report
from degauss.threed.cameras import Cameras
from degauss.threed.janus import JanusMeter, judged_views
from degauss.threed.plots import grid, read_picture, write_picture
from degauss.threed.prior import Prior
from degauss.threed.rendering import Rendered, Representation, render
from degauss.threed.run import Run, Seen

METRICS = "metrics.jsonl"
SNAPSHOTS = "snapshots"


def due(step: int, every: int, last: int) -> bool:
    """Whether something that happens every so many steps, and at the last one, happens after this one."""
    return step % every == 0 or step == last


@dataclass(frozen=True)
class Bar:
    """Moves a progress bar."""

    report: Report

    def __call__(self, run: Run, seen: Seen) -> None:
        self.report(seen.step, run.config.steps)


@dataclass
class Journal:
    """A line of JSON every so many steps: losses, the gradient of x0, what is covered, what it cost so far.

    Who goes on with a run first lets `degauss.core.train.journal.forget` drop the lines that it writes again.
    """

    path: Path
    every: int = 10
    _begun: float = field(default_factory=time.perf_counter)

    def __call__(self, run: Run, seen: Seen) -> None:
        if not due(seen.step, self.every, run.config.steps):
            return
        figures = {
            "loss": float(seen.loss),
            "regularisers": float(seen.extra),
            "gradient": float(seen.residual.gradient.square().mean().sqrt()),
            "alpha": float(seen.rendered.alpha.detach().mean()),
        }
        wrong = [name for name, value in figures.items() if not math.isfinite(value)]
        if wrong:
            raise InputError(f"after step {seen.step} the {wrong[0]} is not finite: lower the learning rates.")
        line: dict[str, Any] = {"step": seen.step, **figures, "evaluations": run.evaluations}
        line["seconds"] = round(time.perf_counter() - self._begun, 3)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


@dataclass(frozen=True)
class Snapshots:
    """Now and then a picture: the scene from around, and in its last column what the prior wants of a training view."""

    folder: Path
    every: int
    size: int = 64

    def __call__(self, run: Run, seen: Seen) -> None:
        if not due(seen.step, self.every, run.config.steps):
            return
        around = look(run.scene, around_views(self.size, run.device)).rgb
        wanted = seen.prior.decode(seen.residual.target[:1])
        write_picture(self.folder / f"step-{seen.step:06d}.png", grid((with_wanted(around, wanted),)))

    def sheet(self) -> Tensor | None:
        """All pictures so far, one below the other; None if there are none."""
        found = [read_picture(path) for path in sorted(self.folder.glob("step-*.png"))]
        return torch.cat(found) if found else None


@dataclass(frozen=True)
class JanusWatch:
    """Shows the meter the side and the back of the scene, now and then after ``start`` steps."""

    meter: JanusMeter
    every: int
    start: int = 0

    def __call__(self, run: Run, seen: Seen) -> None:
        if seen.step >= self.start and due(seen.step, self.every, run.config.steps):
            images, elevation = as_seen_by(run.prior, run.scene, run.device)
            self.meter.look(seen.step, images, elevation)


def as_seen_by(prior: Prior, scene: Representation, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """The views that a Janus meter judges, as the prior sees them, and their elevations."""
    cameras = judged_views(2 * prior.size, device=device)
    seen = look(scene, cameras)
    with torch.no_grad():
        return prior.encode(seen.rgb, seen.normal), cameras.angles()[1]


def around_views(size: int, device: torch.device | str, turns: int = 4) -> Cameras:
    """Views from the front, and on around."""
    azimuth = torch.arange(turns, dtype=torch.float64, device=device) * (360 / turns)
    return Cameras.orbit(azimuth, 15.0, size=size)


def look(scene: Representation, cameras: Cameras) -> Rendered:
    """Renders without gradients, one at a time: pictures must not need more memory than training."""
    with torch.no_grad():
        parts = [render(scene, cameras[i]) for i in range(len(cameras))]
    return Rendered(*(torch.cat(part) for part in zip(*parts, strict=True)))


def with_wanted(images: Tensor, wanted: Tensor) -> Tensor:
    """Images ``[n, h, w, 3]`` and after them, at their size, what a prior wants ``[m, ...]``: ``[n + m, h, w, 3]``."""
    last = torch.nn.functional.interpolate(wanted.detach().float().cpu().movedim(-1, 1), images.shape[1:3])
    return torch.cat((images.cpu(), last.movedim(1, -1)))
