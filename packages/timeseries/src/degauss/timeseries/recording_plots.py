"""A picture of a repaired channel: before and after."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from degauss.core.files import atomic_path

_INK, _MEDIAN, _BAD, _WIDE, _NARROW = "#22272e", "#0b4f9e", "#d1495b", "#dceaf8", "#86b6e6"

Array = NDArray[np.float64]


def repair_plot(
    path: str | Path, times: Array, before: Array, observed: Array, quantiles: Array, *, title: str = "", unit: str = ""
) -> None:
    """One PNG of two panels: a channel as it was, and with what was filled in.

    ``times`` in s; ``before``, ``observed`` (NaN where filled in) and ``quantiles`` ``[5, n]`` at 5, 25, 50, 75 and
    95 % (NaN where not) in SI units, ``unit``. The panels have scales of their own, since what is bad may be huge.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    figure = Figure(figsize=(12, 7), dpi=100, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True)
    bad = np.isnan(observed)
    good = "_nolegend_" if bad.all() else "good"
    above.set_title(title, loc="left", fontsize=15, fontweight="bold", color=_INK, pad=30)
    above.plot(times, before, color=_BAD, linewidth=1, label="before: bad")
    above.plot(times, observed, color=_INK, linewidth=1.2, label=good)
    # What was filled in begins and ends at the values beside it.
    lower, low, median, high, upper = np.where(bad, quantiles, observed)
    beside = bad | np.roll(bad, 1) | np.roll(bad, -1)
    for edges, color, label in (((lower, upper), _WIDE, "90 % interval"), ((low, high), _NARROW, "50 % interval")):
        below.fill_between(times, *edges, where=beside.tolist(), color=color, linewidth=0, label=label)
    below.plot(times, np.where(beside, median, np.nan), color=_MEDIAN, linewidth=1.5, label="after: filled in (median)")
    below.plot(times, observed, color=_INK, linewidth=1.2, label=good)
    below.set_xlabel("s")
    for axes in (above, below):
        axes.yaxis.set_major_formatter(EngFormatter(unit))
        axes.grid(color="#e6e9ed", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), frameon=False, ncols=4)  # above, where it covers no data
        axes.margins(x=0.01)
    with atomic_path(Path(path)) as partial:
        figure.savefig(partial, format="png")
