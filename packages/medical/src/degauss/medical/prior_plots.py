"""The picture of a training: slices that the prior drew, slices that it never saw, and the loss on the way."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from degauss.core.files import atomic_path

_INK, _QUIET, _GRID = "#22272e", "#6b7480", "#e6e9ed"
_COLORS = ("#0b4f9e", "#d1495b")

Curve = Sequence[tuple[int, float]]
"""(step, value)."""


def curve(metrics: Path, name: str) -> list[tuple[int, float]]:
    """One figure of a run's metrics.jsonl over its steps."""
    rows = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    return [(row["step"], row[name]) for row in rows if row.get(name) is not None]


def training_figure(path: Path, drawn: Tensor, held_out: Tensor, loss: Curve, held_out_loss: Curve) -> None:
    """Two rows of slices ``[n, 1, rows, columns]`` in prior units, shown from 0 to 1, and the losses, as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(len(drawn), len(held_out))
    figure = Figure(figsize=(1.5 * columns, 6), dpi=120, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(3, columns, height_ratios=(1, 1, 1.6))
    for row, (title, slices) in enumerate((("drawn by the prior", drawn), ("held out", held_out))):
        for column in range(columns):
            axes: Any = figure.add_subplot(grid[row, column])
            axes.imshow(slices[column, 0].cpu().numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes.set_axis_off()
            if column == 0:
                axes.set_title(title, loc="left", fontsize=9, color=_INK)
    below: Any = figure.add_subplot(grid[2, :])
    for (name, points), color in zip((("training", loss), ("held out", held_out_loss)), _COLORS, strict=True):
        if points:
            steps, values = zip(*points, strict=True)
            below.plot(steps, values, color=color, linewidth=1.2, marker="o" if len(points) < 30 else "", label=name)
    below.set(yscale="log", xlabel="step", ylabel="loss (1: says nothing)")
    below.legend(frameon=False, fontsize=8)
    below.grid(color=_GRID, which="both")
    below.set_axisbelow(True)
    below.tick_params(colors=_QUIET, labelsize=8)
    for side in ("top", "right"):
        below.spines[side].set_visible(False)
    with atomic_path(path) as part:
        figure.savefig(part, format="png", metadata={"Software": None})
