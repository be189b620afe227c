"""Pictures of the core: error against evaluations. Drawn off screen, written whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from degauss.core.compare import Outcome

_INK, _GRID = "#22272e", "#e6e9ed"
_COLORS = ("#0b4f9e", "#d1495b", "#2e8b57", "#e09f3e", "#7b4b94", "#3a9fbf", "#8c6d46", "#6b7480")
_MARKERS = ("o", "s", "^", "D", "v", "P")


def error_curves(path: Path, outcomes: Sequence[Outcome], title: str) -> None:
    """Error against evaluations, a line for each solver, both axes logarithmic, as PNG or SVG by its suffix."""
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        from degauss.core.errors import InputError

        raise InputError("a plot needs matplotlib, which is not there: pip install 'degauss-core[plots]'.") from error

    from degauss.core.files import atomic_path

    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    names = list(dict.fromkeys(outcome.name for outcome in outcomes))
    for index, name in enumerate(names):
        points = sorted((outcome.evaluations, outcome.error) for outcome in outcomes if outcome.name == name)
        axes.plot(
            [evaluations for evaluations, _ in points],
            [error for _, error in points],
            color=_COLORS[index % len(_COLORS)],
            marker=_MARKERS[index // len(_COLORS) % len(_MARKERS)],
            markersize=4,
            linewidth=1.5,
            label=name,
        )
    axes.set(xscale="log", yscale="log", xlabel="evaluations of the denoiser", ylabel="median error (data units)")
    axes.set_title(title, loc="left", fontsize=11, color=_INK)
    counts = sorted({outcome.evaluations for outcome in outcomes})
    axes.set_xticks(counts, [str(count) for count in counts], fontsize=8)
    axes.minorticks_off()
    axes.grid(color=_GRID)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    form = path.suffix.removeprefix(".")
    # Without a date and with fixed names inside, the same figures give the same file.
    with atomic_path(path) as part, rc_context({"svg.hashsalt": "degauss", "svg.fonttype": "none"}):
        figure.savefig(part, format=form, metadata={"Date": None} if form == "svg" else None)
