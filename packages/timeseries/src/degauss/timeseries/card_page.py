"""The generator card as a page: one HTML file with its pictures inside, that needs no network."""

from __future__ import annotations

import base64
import io
import json
import os
from html import escape
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from degauss.core.files import atomic_path, write_json
from degauss.timeseries.card import MEANING, Card, Comparison
from degauss.timeseries.population import cross_correlations

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

_INK, _QUIET, _GRID = "#22272e", "#6b7480", "#e6e9ed"
_REAL, _HELD, _MADE = "#22272e", "#e09f3e", "#0b4f9e"
_PANELS = 12
_DRAWN = 2000
_WINDOWS = 8

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #22272e; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: 0; } h2 { margin-top: 2.5rem; }
table { border-collapse: collapse; width: 100%; } td, th { text-align: left; padding: .3rem .6rem; }
tr { border-bottom: 1px solid #e6e9ed; } .number { text-align: right; font-variant-numeric: tabular-nums; }
.above { color: #b3261e; font-weight: 600; } .at { color: #1d7a46; font-weight: 600; }
img { max-width: 100%; } .quiet { color: #6b7480; } pre { background: #f5f6f8; padding: 1rem; overflow-x: auto; }
"""


def write_card(path: str | os.PathLike[str], card: Card) -> None:
    """Write the page at ``path`` (.html), and the same numbers beside it as .json; each whole or not at all."""
    path = Path(path)
    with atomic_path(path) as part:
        part.write_text(page(card), encoding="utf-8")
    with atomic_path(path.with_suffix(".json")) as part:
        write_json(part, card.numbers())


def page(card: Card) -> str:
    """The card as HTML."""
    counts = ", ".join(f"{count} {kind}" for kind, count in card.counts.items())
    sentences = "".join(f"<li>{escape(sentence)}</li>" for sentence in card.words())
    rows = "".join(_row(comparison) for comparison in card.comparisons)
    meanings = "".join(
        f"<li><b>{name}</b>: {MEANING[name]}</li>" for name in dict.fromkeys(c.score for c in card.comparisons)
    )
    facts = escape(json.dumps(dict(card.facts), indent=2, ensure_ascii=False))
    pictures = "".join(f"<h2>{title}</h2>\n{_image(title, figure)}\n" for title, figure in _figures(card))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(card.title)}</title><style>{_STYLE}</style></head><body>
<h1>{escape(card.title)}</h1>
<p class="quiet">{counts} windows of {card.train.shape[1]} steps and {len(card.names)} series. This page names the
series and shows real windows: it is as confidential as the data.</p>
<ul>{sentences}</ul>
<h2>Scores</h2>
<p>Smaller is better, down to the <b>floor</b>: what as many real windows score in place of the synthetic ones. Medians
of {len(card.comparisons[0].synthetic)} repeats, and their range.</p>
<table><tr><th>score</th><th>against</th><th class="number">windows</th><th class="number">synthetic</th>
<th class="number">floor (real)</th><th></th></tr>{rows}</table>
<ul class="quiet">{meanings}</ul>
<h2>Copies</h2>
<table>{_copies(card)}</table>
<p class="quiet">A check that is passed is no proof of privacy.</p>
{pictures}<h2>Training</h2>
<pre>{facts}</pre>
</body></html>
"""


def _row(comparison: Comparison) -> str:
    verdict = '<td class="above">above the floor</td>' if comparison.above else '<td class="at">at the floor</td>'
    cells = "".join(f'<td class="number">{_spread(values)}</td>' for values in (comparison.synthetic, comparison.floor))
    name = f"<td>{comparison.score}</td><td>{comparison.against}</td>"
    return f'<tr>{name}<td class="number">{comparison.windows}</td>{cells}{verdict}</tr>\n'


def _spread(values: tuple[float, ...]) -> str:
    if len(values) == 1:
        return f"{values[0]:.3g}"
    return f"{median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


def _copies(card: Card) -> str:
    copies = card.copies
    lines: dict[str, str] = {
        "synthetic windows nearer to a training window than all but 5 % of the held-out ones": f"{copies.near:.2%}",
        "the same, up to which chance explains it": f"{copies.limit:.2%}",
        "chance that a synthetic window is nearer than a held-out one (50 % if alike)": f"{copies.closer:.1%}",
        "synthetic windows that are training windows": f"{copies.same}",
        "median distance to the nearest training window, synthetic": f"{np.median(copies.synthetic):.3g}",
        "the same of held-out windows": f"{np.median(copies.held):.3g}",
    }
    rows = [f'<tr><td>{name}</td><td class="number">{value}</td></tr>' for name, value in lines.items()]
    word, kind = ("flagged", "above") if copies.flagged else ("not flagged", "at")
    return "".join([*rows, f'<tr><td>outcome</td><td class="number {kind}">{word}</td></tr>'])


# --- pictures -----------------------------------------------------------------------------------------------


def _image(title: str, figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'<img alt="{title}" src="data:image/png;base64,{data}">'


def _figures(card: Card) -> list[tuple[str, Figure]]:
    figures = [("Values", _values(card)), ("Windows, real above, synthetic below", _windows(card))]
    if len(card.names) > 1:
        figures.insert(1, ("Correlations within windows", _correlations(card)))
    return [*figures, ("Distance to the nearest training window", _distances(card))]


def _values(card: Card) -> Figure:
    figure, panels = _panels(min(len(card.names), _PANELS))
    for feature, axes in enumerate(panels):
        parts = [windows[:, :, feature].ravel() for windows in (card.train, card.held, card.synthetic)]
        _histograms(axes, parts, card.names[feature])
    _legend(panels[0])
    return figure


def _correlations(card: Card) -> Figure:
    sides = [cross_correlations(torch.from_numpy(w[:_DRAWN])).numpy() for w in (card.train, card.held, card.synthetic)]
    first, second = np.triu_indices(len(card.names), 1)
    gap = np.abs(sides[0].mean(0) - sides[2].mean(0))
    shown = np.argsort(-gap, kind="stable")[:_PANELS]
    figure, panels = _panels(len(shown))
    for pair, axes in zip(shown, panels, strict=True):
        names = f"{card.names[first[pair]]} - {card.names[second[pair]]}"
        _histograms(axes, [side[:, pair] for side in sides], names)
    _legend(panels[0])
    return figure


def _histograms(axes: Axes, parts: list[Array], title: str) -> None:
    low, high = min(part.min() for part in parts), max(part.max() for part in parts)
    bins = np.linspace(low, high if high > low else low + 1, 41)
    for part, color, label in zip(parts, (_REAL, _HELD, _MADE), ("training", "held-out", "synthetic"), strict=True):
        axes.hist(part, bins.tolist(), density=True, histtype="step", color=color, linewidth=1.3, label=label)
    _titled(axes, title)
    axes.set_yticks([])


def _windows(card: Card) -> Figure:
    count = min(len(card.names), 6)
    figure, panels = _panels(2 * count, columns=count)
    for row, (windows, color) in enumerate(((card.train, _REAL), (card.synthetic, _MADE))):
        chosen = windows[np.linspace(0, len(windows) - 1, min(_WINDOWS, len(windows))).astype(int)]
        for feature in range(count):
            axes = panels[row * count + feature]
            axes.plot(chosen[:, :, feature].T, color=color, linewidth=1, alpha=0.7)
            axes.set_ylim(-0.05, 1.05)
            if row == 0:
                _titled(axes, card.names[feature])
    return figure


def _distances(card: Card) -> Figure:
    figure, (axes,) = _panels(1, columns=1)
    top = float(max(np.quantile(card.copies.held, 0.99), np.quantile(card.copies.synthetic, 0.99), 1e-9))
    bins = np.linspace(0, top, 61)
    for part, color, label in ((card.copies.held, _HELD, "held-out"), (card.copies.synthetic, _MADE, "synthetic")):
        axes.hist(
            np.minimum(part, top), bins.tolist(), density=True, histtype="step", color=color, linewidth=1.5, label=label
        )
    axes.set_yticks([])
    _legend(axes)
    return figure


def _panels(count: int, columns: int = 4) -> tuple[Figure, list[Axes]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(10, 2.1 * rows + 0.4), dpi=110, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    panels: list[Any] = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for axes in panels[count:]:
        axes.set_visible(False)
    for axes in panels:
        axes.tick_params(colors=_QUIET, labelsize=8)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        for side in ("left", "bottom"):
            axes.spines[side].set_color(_GRID)
    return figure, panels[:count]


def _titled(axes: Axes, title: str) -> None:
    short = title if len(title) <= 28 else f"{title[:27]}…"
    # A name is no formula.
    axes.set_title(short.replace("$", r"\$"), fontsize=9, color=_INK, loc="left")


def _legend(axes: Axes) -> None:
    axes.legend(frameon=False, fontsize=8, labelcolor=_INK)
