"""Pictures for forecasters: fan charts, imputations, calibration, and where the data have holes.

Every function writes one PNG (1200 pixels wide) to `path`, whole or not at all, and keeps no state:
figures are drawn on an Agg canvas of their own, so neither a display nor `pyplot` is involved. Times are
datetime64 or integers `[n]`; with `timezone` they are UTC instants and the axis shows the local clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from degauss.timeseries.regular import Regular, Times

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

_INK, _QUIET, _GRID = "#22272e", "#6b7480", "#e6e9ed"
_MEDIAN, _ACTUAL, _HOLE = "#0b4f9e", "#d1495b", "#f5f0e8"
_BANDS = {0.9: "#dceaf8", 0.8: "#b9d5f1", 0.5: "#86b6e6"}  # the wide band first, the narrow one on top


def fan_chart(
    path: str | Path,
    history_times: Times,
    history: Array,
    times: Times,
    levels: Sequence[float],
    quantiles: Array,
    *,
    samples: Array | None = None,
    actual: Array | None = None,
    title: str = "",
    y_label: str = "",
    timezone: str | None = None,
) -> None:
    """A forecast as median and central bands of 50, 80 and 90 % after its history.

    `history [m]` may hold NaN (drawn as gaps); pass as much of it as should be seen. `quantiles [levels, n]`
    at ascending `levels` holds the forecast; bands between two levels are interpolated, bands beyond the
    outermost are taken from `samples [draws, n]` if given and left out otherwise. Some samples are drawn as
    thin lines, `actual [n]` as what happened.
    """
    figure, axes = _figure(title, y_label, 600)
    history_x, x = _axis(axes, history_times, timezone), _axis(axes, times, timezone)
    bands = {level: _band(level, levels, quantiles, samples) for level in _BANDS}
    median = _quantile(0.5, levels, quantiles, samples)
    seen = np.flatnonzero(~np.isnan(history))
    joined = bool(len(seen)) and seen[-1] == len(history) - 1
    anchor = history[-1:] if joined else np.empty(0)  # the fan opens at the last observation
    fan_x = np.concatenate([history_x[-1:], x]) if joined else x
    for level, color in _BANDS.items():
        if (band := bands[level]) is not None:
            lower, upper = (np.concatenate([anchor, edge]) for edge in band)
            axes.fill_between(fan_x, lower, upper, color=color, linewidth=0, label=f"{level * 100:.0f} % interval")
    if samples is not None:
        for draw in samples[:: max(len(samples) // 5, 1)][:5]:
            line = np.concatenate([anchor, draw])
            axes.plot(fan_x, line, color=_MEDIAN, linewidth=0.6, alpha=0.45)
        axes.plot([], [], color=_MEDIAN, linewidth=0.6, alpha=0.6, label="samples")
    _line(axes, history_x, history, color=_INK, label="observed")
    if median is not None:
        axes.plot(fan_x, np.concatenate([anchor, median]), color=_MEDIAN, linewidth=2, label="median forecast")
    if actual is not None:
        marker = "o" if len(actual) <= 60 else ""
        axes.plot(
            x,
            actual,
            color=_ACTUAL,
            linewidth=1.3,
            marker=marker,
            markersize=3.2,
            label="what happened",
            zorder=4,
        )
    axes.axvline(history_x[-1], color=_QUIET, linewidth=1, linestyle=(0, (4, 3)), zorder=1.5)
    axes.annotate(
        "forecast from here ",
        (history_x[-1], 1),
        xycoords=("data", "axes fraction"),
        xytext=(-4, -4),
        textcoords="offset points",
        ha="right",
        va="top",
        color=_QUIET,
        fontsize=10,
    )
    _legend(axes)
    axes.margins(x=0.01)
    _save(figure, path)


def backtest_chart(
    path: str | Path,
    times: Times,
    values: Array,
    windows: Sequence[tuple[Times, Array]],
    *,
    title: str = "",
    y_label: str = "",
    timezone: str | None = None,
) -> None:
    """Forecasts of the past over what happened: `values [n]` at `times`, NaN drawn as gaps.

    Each window has times `[1 + horizon]`, the first of them the last that was known (a dashed line), and samples
    `[draws, horizon]`, drawn as median and central bands of 50, 80 and 90 %.
    """
    figure, axes = _figure(title, y_label, 600)
    for number, (span, samples) in enumerate(windows):
        x = _axis(axes, span, timezone)
        axes.axvline(x[0], color=_QUIET, linewidth=1, linestyle=(0, (4, 3)), zorder=1.5)
        for level, color in _BANDS.items():
            lower, upper = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2], axis=0)
            label = "" if number else f"{level * 100:.0f} % interval"
            axes.fill_between(x[1:], lower, upper, color=color, linewidth=0, label=label)
        axes.plot(
            x[1:], np.median(samples, axis=0), color=_MEDIAN, linewidth=2, label="" if number else "median forecast"
        )
    _line(axes, _axis(axes, times, timezone), values, color=_INK, label="observed")
    _legend(axes)
    axes.margins(x=0.01)
    _save(figure, path)


def validation_curve(
    path: str | Path,
    pairs: Sequence[tuple[int, int]],
    scores: Sequence[float],
    chosen: int,
    reference: tuple[str, float],
    *,
    title: str = "",
) -> None:
    """What can be had for one price: `pairs` (steps, samples) and their `scores`, a CRPS, by number of steps.

    `chosen` is the position of the pair that was taken, `reference` the label and score of what it is compared with.
    """
    figure, axes = _figure(title or "Steps and samples for the time given", "CRPS on the validation windows", 500)
    steps = [pair[0] for pair in pairs]
    axes.plot(steps, scores, "o-", color=_MEDIAN, label="tried")
    axes.plot([steps[chosen]], [scores[chosen]], "o", color=_ACTUAL, markersize=11, label="taken", zorder=4)
    axes.axhline(reference[1], color=_QUIET, linestyle=(0, (4, 3)), label=f"reference: {reference[0]}")
    for (at, samples), score in zip(pairs, scores, strict=True):
        axes.annotate(
            f"{samples} samples",
            (at, score),
            xytext=(0, 10),
            textcoords="offset points",
            ha="center",
            color=_QUIET,
            fontsize=10,
        )
    axes.set_xscale("log")
    axes.set_xticks(steps, [str(at) for at in steps])
    axes.minorticks_off()
    axes.set_xlabel("steps", color=_QUIET)
    axes.margins(x=0.08, y=0.18)
    _legend(axes)
    _save(figure, path)


def imputation_plot(
    path: str | Path,
    times: Times,
    observed: Array,
    levels: Sequence[float],
    quantiles: Array,
    *,
    actual: Array | None = None,
    title: str = "",
    y_label: str = "",
    timezone: str | None = None,
) -> None:
    """A record with its holes filled: `observed [n]` with NaN in them, `quantiles [levels, n]` used there.

    Bands join the observations beside a hole. `actual [n]`, where not NaN, is what was held out.
    """
    figure, axes = _figure(title, y_label, 600)
    x = _axis(axes, times, timezone)
    hole = np.isnan(observed)
    runs, height = _runs(x, hole), axes.get_xaxis_transform()
    axes.broken_barh(runs, (0, 1), transform=height, color=_HOLE, linewidth=0, zorder=0.5, label="missing")
    beside = hole.copy()
    beside[1:] |= hole[:-1]
    beside[:-1] |= hole[1:]
    for level, color in _BANDS.items():
        if (band := _band(level, levels, quantiles, None)) is not None:
            lower, upper = (np.where(hole, edge, observed) for edge in band)
            axes.fill_between(
                x,
                lower,
                upper,
                where=list(beside),
                color=color,
                linewidth=0,
                label=f"{level * 100:.0f} % interval",
            )
    median = _quantile(0.5, levels, quantiles, None)
    if median is not None:
        line = np.where(hole, median, np.where(beside, observed, np.nan))
        axes.plot(x, line, color=_MEDIAN, linewidth=2, label="imputed (median)")
    _line(axes, x, observed, color=_INK, label="observed")
    if actual is not None:
        held = np.where(hole, actual, np.nan)
        axes.plot(x, held, "o", color=_ACTUAL, markersize=3.6, markeredgewidth=0, label="held out", zorder=4)
    _legend(axes)
    axes.margins(x=0.01)
    _save(figure, path)


def pit_histogram(path: str | Path, values: Array, *, bins: int = 20, title: str = "") -> None:
    """Histogram of PIT values (see `metrics.pit`) beside the range a calibrated forecast would stay in.

    The grey range holds each bar of a calibrated forecast with probability 0.9 if the values are independent.
    """
    figure, axes = _figure(title or "Calibration", "share of observations", 500)
    values = values[~np.isnan(values)]
    counts, edges = np.histogram(values, bins=bins, range=(0.0, 1.0))
    total = max(len(values), 1)
    axes.bar(edges[:-1], counts / total, width=np.diff(edges), align="edge", color="#86b6e6", edgecolor="white")
    low, high = (count / total for count in _binomial_range(total, 1 / bins))
    axes.axhspan(low, high, color="#5b6673", alpha=0.22, linewidth=0, label="90 % range of a calibrated bar")
    axes.axhline(1 / bins, color=_MEDIAN, linewidth=1.5, label="uniform")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, max(float(counts.max()) / total, 2 / bins) * 1.12)
    axes.set_xlabel(
        f"rank of the observation in its forecast (PIT), n = {len(values):,}\n"
        "high at both ends: too sure;  high in the middle: too wide;  high at one end: biased",
        color=_QUIET,
    )
    axes.yaxis.set_major_formatter("{x:.0%}")
    _legend(axes)
    _save(figure, path)


def missingness_map(path: str | Path, series: Sequence[Regular], *, title: str = "") -> None:
    """One bar for each series on a common time axis: dark where observed, light where missing."""
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    figure, axes = _figure(title or "Observed and missing values", "", int(np.clip(170 + 34 * len(series), 300, 1600)))
    tones = np.linspace([0.043, 0.310, 0.620], [0.965, 0.890, 0.870], 256)
    left, right = np.inf, -np.inf
    for row, one in enumerate(series):
        x = _axis(axes, one.times, one.timezone)
        half = (x[-1] - x[0]) / max(len(x) - 1, 1) / 2 if len(x) > 1 else 0.5
        holes = np.isnan(one.values).astype(np.float64)[None]
        extent = (x[0] - half, x[-1] + half, row + 0.36, row - 0.36)
        # Squeezed into few pixels, a bar shows the share of missing values as a tone.
        axes.imshow(holes, cmap=ListedColormap(tones), vmin=0, vmax=1, aspect="auto", extent=extent)
        left, right = min(left, extent[0]), max(right, extent[1])
    axes.set_xlim(left, right)
    axes.set_ylim(len(series) - 0.4, -0.6)
    step = -(-len(series) // 40)
    rows = list(range(0, len(series), step))
    axes.set_yticks(rows, [_short(series[row].name) for row in rows])
    shares = axes.secondary_yaxis("right")
    shares.set_yticks(rows, [f"{series[row].missing:.1%} missing" for row in rows])
    for side in (axes, shares):
        side.tick_params(axis="y", length=0, labelcolor=_INK)
    shares.spines["right"].set_visible(False)
    axes.spines["left"].set_visible(False)
    axes.grid(visible=False)
    patches = [Patch(color=tones[0], label="observed"), Patch(color=tones[-1], label="missing")]
    _legend(axes, patches)
    _save(figure, path)


def _figure(title: str, y_label: str, height: int) -> tuple[Figure, Axes]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.ticker import MaxNLocator

    layout = ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.12)
    figure = Figure(figsize=(12, height / 100), dpi=100, layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=15, fontweight="bold", color=_INK, pad=30)
    axes.set_ylabel(y_label, color=_QUIET, fontsize=11)
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#b8c0c9")
    axes.tick_params(colors=_QUIET, labelsize=11)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10]))
    return figure, axes


def _axis(axes: Axes, times: Times, timezone: str | None) -> Array:
    """Times as matplotlib numbers, and the date axis where they are dates."""
    import pandas as pd
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num

    if times.dtype.kind != "M":
        return times.astype(np.float64)
    if timezone is not None:
        times = pd.DatetimeIndex(times).tz_localize("UTC").tz_convert(timezone).tz_localize(None).to_numpy()
    locator = AutoDateLocator(minticks=5, maxticks=10)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    return np.asarray(date2num(times), dtype=np.float64)


def _line(axes: Axes, x: Array, values: Array, color: str, label: str) -> None:
    """A line with gaps; an observation alone between two gaps is a dot."""
    axes.plot(x, values, color=color, linewidth=1.4, label=label, zorder=3)
    hole = np.concatenate([[True], np.isnan(values), [True]])
    alone = ~hole[1:-1] & hole[:-2] & hole[2:]
    axes.plot(x[alone], values[alone], ".", color=color, markersize=4, zorder=3)


def _runs(x: Array, hole: NDArray[np.bool_]) -> list[tuple[float, float]]:
    """Start and width of every run of missing points, each point reaching half-way to its neighbours."""
    middle = (x[1:] + x[:-1]) / 2
    edges = np.concatenate([x[:1], middle, x[-1:]])
    turns = np.flatnonzero(np.diff(np.concatenate([[False], hole, [False]]).astype(np.int8)))
    return [(float(edges[a]), float(edges[b] - edges[a])) for a, b in turns.reshape(-1, 2)]


def _quantile(level: float, levels: Sequence[float], quantiles: Array, samples: Array | None) -> Array | None:
    """The quantile `[n]` at a level: given, interpolated between two given, from samples, or None."""
    known = np.asarray(levels, dtype=np.float64)
    if len(known) and known[0] - 1e-9 <= level <= known[-1] + 1e-9:
        right = int(np.clip(np.searchsorted(known, level - 1e-9), 0, len(known) - 1))
        if abs(known[right] - level) < 1e-9:
            return quantiles[right]
        share = (level - known[right - 1]) / (known[right] - known[right - 1])
        return quantiles[right - 1] + share * (quantiles[right] - quantiles[right - 1])
    return None if samples is None else np.quantile(samples, level, axis=0)


def _band(level: float, levels: Sequence[float], quantiles: Array, samples: Array | None) -> tuple[Array, Array] | None:
    lower = _quantile((1 - level) / 2, levels, quantiles, samples)
    upper = _quantile((1 + level) / 2, levels, quantiles, samples)
    return None if lower is None or upper is None else (lower, upper)


def _binomial_range(total: int, share: float) -> tuple[float, float]:
    """Central range of 90 % of a binomial count, by the normal approximation."""
    spread = 1.645 * np.sqrt(total * share * (1 - share))
    return max(total * share - spread, 0.0), total * share + spread


def _legend(axes: Axes, handles: Sequence[Any] | None = None) -> None:
    """One row under the title, so that it covers no data."""
    from matplotlib.lines import Line2D

    if handles is None:  # lines before bands
        handles = sorted(axes.get_legend_handles_labels()[0], key=lambda h: not isinstance(h, Line2D))
    axes.legend(
        handles=list(handles),
        loc="lower left",
        bbox_to_anchor=(-0.006, 1.0),
        ncols=max(len(handles), 1),
        frameon=False,
        fontsize=10.5,
        labelcolor=_INK,
        handlelength=1.6,
        columnspacing=1.6,
        borderaxespad=0.3,
    )


def _short(name: str) -> str:
    return name if len(name) <= 28 else name[:27] + "…"


def _save(figure: Figure, path: str | Path) -> None:
    from degauss.core.files import atomic_path

    with atomic_path(Path(path)) as partial:
        figure.savefig(partial, format="png")
