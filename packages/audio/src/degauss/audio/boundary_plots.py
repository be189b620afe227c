"""The picture of a boundary: the margin that falls with t, and the score of shallow samples by where they start."""

from __future__ import annotations

from pathlib import Path

from degauss.audio.boundary import LIMIT, Boundary
from degauss.core.files import atomic_path

_INK, _GRID = "#22272e", "#e6e9ed"
_COLORS = {"margin": "#0b4f9e", "kl": "#e09f3e", "sweep": "#d1495b"}


def boundary_picture(path: Path, boundary: Boundary, title: str = "") -> None:
    """Draw the margin curve, raw and decreasing, above the sweep; K of each rule is a vertical line. PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True)
    steps = range(1, boundary.steps + 1)
    upper.plot(steps, boundary.margin.curve, color=_COLORS["margin"], linewidth=0.8, alpha=0.6, label="margin")
    upper.plot(steps, boundary.margin.smooth, color=_COLORS["margin"], linewidth=2, label="nearest decreasing curve")
    upper.axhline(LIMIT, color=_INK, linewidth=0.8, linestyle=(0, (4, 3)))
    upper.set(ylabel="|BP(truth) - BP(auxiliary)|", ylim=(0, 1))
    lower.errorbar(
        boundary.sweep.candidates,
        boundary.sweep.scores,
        yerr=boundary.sweep.errors,
        color=_COLORS["sweep"],
        linewidth=1.5,
        marker="o",
        markersize=3.5,
        elinewidth=0.8,
    )
    lower.set(ylabel="energy score (lower is better)", xlabel=f"step K of {boundary.steps}", xlim=(0, boundary.steps))
    found = {"margin": boundary.margin.step, "kl": boundary.kl.step, "sweep": boundary.sweep.step}
    for axes in (upper, lower):
        for rule, step in found.items():
            width = 2 if rule == boundary.rule else 1
            label = f"K by {rule}: {step}" if axes is upper else None
            axes.axvline(step, color=_COLORS[rule], linewidth=width, linestyle=(0, (2, 2)), label=label)
        axes.grid(color=_GRID)
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    upper.legend(frameon=False, fontsize=8)
    upper.set_title(title, loc="left", fontsize=11, color=_INK)
    with atomic_path(path) as part:
        figure.savefig(part, format="png", metadata={"Software": None})
