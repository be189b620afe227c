"""Quality against cost as a picture: one panel for evaluations of the network, one for the real-time factor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from degauss.audio.metrics_report import BY_NAME
from degauss.audio.pareto import Cost, Point, front
from degauss.core.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK, _QUIET, _GRID = "#22272e", "#6b7480", "#e6e9ed"
_FRONT = "#22272e"
_COLORS = ("#0b4f9e", "#d1495b", "#2e8b57", "#e09f3e", "#7b4b94", "#3a9fbf", "#8c6d46", "#6b7480")
_LABELS: dict[Cost, str] = {"evaluations": "network evaluations", "rtf": "real-time factor"}
_BEST = {"higher": "higher is better", "lower": "lower is better", "one": "best at 1"}


def pareto_plot(path: str | Path, points: Sequence[Point], quality: str, title: str = "") -> None:
    """Draw ``quality`` of all points, coloured by solver, with the front as a line; a PNG of 1500 by 650 pixels.

    Points of the front are labelled with their steps. Costs are on logarithmic axes; the dashed line is real time.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.33), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    first, second = figure.subplots(1, 2, sharey=True)
    _panel(first, points, "evaluations", quality)
    _panel(second, points, "rtf", quality)
    measure = BY_NAME[quality]
    first.set_ylabel(f"{quality}{f' ({measure.unit})' if measure.unit else ''}, {_BEST[measure.better]}", color=_INK)
    second.axvline(1, color=_QUIET, linestyle=(0, (4, 3)), linewidth=1, zorder=1)
    figure.suptitle(title.replace("$", r"\$"), x=0.01, ha="left", fontsize=12, color=_INK)
    handles, labels = first.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False, fontsize=9)
    with atomic_path(path) as part:
        figure.savefig(part, format="png")


def _panel(axes: Axes, points: Sequence[Point], cost: Cost, quality: str) -> None:
    solvers = list(dict.fromkeys(_solver(point) for point in points))
    best = front(points, cost, quality)
    axes.plot(
        [point.cost(cost) for point in best],
        [point.quality[quality] for point in best],
        color=_FRONT,
        linewidth=1.2,
        drawstyle="steps-post",  # between two points there is nothing to have
        label="front",
        zorder=2,
    )
    for index, solver in enumerate(solvers):
        own = [point for point in points if _solver(point) == solver]
        axes.scatter(
            [point.cost(cost) for point in own],
            [point.quality[quality] for point in own],
            s=34,
            color=_COLORS[index % len(_COLORS)],
            label=solver,
            zorder=3,
        )
    for point in best:
        at = (point.cost(cost), point.quality[quality])
        axes.annotate(
            _steps(point), at, xytext=(-4, 5), textcoords="offset points", ha="right", fontsize=8, color=_QUIET
        )
    axes.set_xscale("log")
    axes.set_xlabel(_LABELS[cost], color=_INK)
    ticks = _ticks([point.cost(cost) for point in points], cost)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.margins(x=0.08, y=0.12)
    axes.grid(color=_GRID)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_QUIET, labelsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _ticks(costs: Sequence[float], cost: Cost) -> list[float]:
    """Where a logarithmic axis is labelled: at the counts themselves, or at 1, 2 and 5 times powers of ten."""
    if cost == "rtf":
        low, high = min(*costs, 1.0) / 2, max(*costs, 1.0) * 2
        return [tick for power in range(-6, 4) for digit in (1, 2, 5) if low <= (tick := digit * 10.0**power) <= high]
    kept: list[float] = []
    for count in sorted(set(costs)):
        if not kept or count >= 1.25 * kept[-1]:  # nearer ones would be written over each other
            kept.append(count)
    return kept


def _solver(point: Point) -> str:
    return point.name.rpartition("-")[0]


def _steps(point: Point) -> str:
    return point.name.rpartition("-")[2]
