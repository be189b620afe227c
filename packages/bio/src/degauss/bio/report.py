"""The report on designs as a page: one HTML file with its pictures inside, that needs no network, and a JSON card."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from degauss.bio.evaluation import Enriched, Evaluation
from degauss.bio.hacking import Gap
from degauss.bio.plots import distributions, sequence_logo
from degauss.core.files import atomic_path, write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #22272e; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: 0; } h2 { margin-top: 2.5rem; }
table { border-collapse: collapse; } td, th { text-align: left; padding: .3rem .6rem; vertical-align: top; }
tr { border-bottom: 1px solid #e6e9ed; } .number { text-align: right; font-variant-numeric: tabular-nums; }
.quiet { color: #6b7480; } .warning { color: #b3261e; } .fine { color: #2e7d32; }
img { max-width: 100%; } .wide { overflow-x: auto; } pre { background: #f5f6f8; padding: 1rem; overflow-x: auto; }
"""

_MEANING = {
    "3mer_correlation": "Pearson, counts of words of three letters, designs against natural",
    "motif_correlation": "Spearman, hits of motifs, designs against natural",
    "pair_distance": "share of positions at which two designs differ",
    "natural_pair_distance": "the same of natural sequences",
    "unique_share": "different sequences among the designs",
    "dinucleotide_entropy": "median, bits, at most 4 for DNA; a repeat of two letters has 1",
    "natural_dinucleotide_entropy": "the same of natural sequences",
    "top_dinucleotide_share": "median share of the commonest pair of neighbours",
    "natural_top_dinucleotide_share": "the same of natural sequences",
    "longest_run": "median length of the longest stretch of one letter",
    "nearest_identity": "median share of positions equal to those of the nearest natural sequence",
    "most_identity": "the largest such share",
    "copied_share": "positions inside a word that a natural sequence has, longer than chance would give",
    "gc": "share of G and C",
    "natural_gc": "the same of natural sequences",
}

_VERDICTS = {
    "transfers": "the held-out oracle follows",
    "gap": "the gap is open",
    "hacked": "hacked",
    "no gain": "no gain to judge",
    "unknown": "the oracle is no witness",
}


def write_report(path: str | os.PathLike[str], found: Evaluation, title: str, facts: Mapping[str, Any]) -> Path:
    """Write the page at ``path`` (.html) and the card beside it (.json), each whole or not at all; the card's path."""
    card = Path(path).with_suffix(".json")
    text = page(found, title, facts)
    with atomic_path(card) as part:
        write_json(part, {"title": title, **found.card(), "settings": dict(facts)})
    with atomic_path(path) as part:
        part.write_text(text, encoding="utf-8")
    return card


def page(found: Evaluation, title: str, facts: Mapping[str, Any]) -> str:
    """The evaluation as HTML: what to worry about, the oracles, the measures, pictures, and the settings."""
    said = "".join(f'<li class="{_class(sentence)}">{escape(sentence)}</li>\n' for sentence in found.hacking.sentences)
    said = said or '<li class="quiet">No held-out oracle was given, so a hacked reward could not be noticed.</li>'
    scores = "".join(_score_row(found, name) for name in found.scores)
    measures = "".join(
        f'<tr><td>{name}</td><td class="number">{_number(value)}</td><td class="quiet">{_MEANING[name]}</td></tr>\n'
        for name, value in found.measures.items()
    )
    count, length = found.designs.shape
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style></head><body>
<h1>{escape(title)}</h1>
<p class="quiet">{count} designs of {length} letters beside {found.natural} natural sequences.</p>
<h2>Can they be trusted?</h2>
<ul>{said}</ul>
{_gap_table(found.hacking.gaps)}<h2>Oracles</h2>
<table><tr><th>oracle</th><th></th><th class="number">designs</th><th class="number">natural</th>
<th class="number">percentile</th></tr>{scores}</table>
<p class="quiet">Medians; percentile: the median design among natural sequences.</p>
{_distributions(found)}<h2>Measures</h2>
<table>{measures}</table>
{_motifs(found.enriched)}<h2>Logo</h2>
{_image(lambda path: sequence_logo(path, found.designs, found.alphabet), "logo of all designs")}
<h2>Settings</h2>
<pre>{escape(json.dumps(dict(facts), indent=2, ensure_ascii=False, default=str))}</pre>
</body></html>
"""


def _class(sentence: str) -> str:
    return "warning" if "Warning" in sentence else "fine" if "is real" in sentence else "quiet"


def _gap_table(gaps: Mapping[str, Gap]) -> str:
    if not gaps:
        return ""
    rows = "".join(
        f"<tr><td>{escape(name)}</td>"
        + "".join(f'<td class="number">{_number(value)}</td>' for value in (gap.reward, gap.held_out))
        + f'<td class="number">{_number(gap.agreement)}</td><td class="number">{_number(gap.transfer)}</td>'
        f"<td>{_VERDICTS[gap.verdict]}</td></tr>\n"
        for name, gap in gaps.items()
    )
    return (
        '<table><tr><th>held-out oracle</th><th class="number">reward rose by</th>'
        '<th class="number">oracle rose by</th><th class="number">agreement on natural</th>'
        '<th class="number">transfer</th><th></th></tr>'
        f"{rows}</table>\n"
        '<p class="quiet">Rises in natural standard deviations. Transfer: what the oracle rose by over what its '
        "agreement with the reward on natural sequences promises; 1 is honest, below 0.5 the gap is open, at 0 the "
        "reward was hacked.</p>\n"
    )


def _score_row(found: Evaluation, name: str) -> str:
    from degauss.bio.metrics import percentile

    scores = found.scores[name]
    place = 100 * float(percentile(scores.designs, scores.natural).quantile(0.5))
    role = "held out" if name in found.held_out else "optimised"
    numbers = (float(part.double().quantile(0.5)) for part in scores)
    cells = "".join(f'<td class="number">{_number(number)}</td>' for number in numbers)
    return f'<tr><td>{escape(name)}</td><td class="quiet">{role}</td>{cells}<td class="number">{place:.0f}</td></tr>\n'


def _distributions(found: Evaluation) -> str:
    shown = dict(found.scores)
    if found.likelihood is not None:
        shown["log-probability under the model (nats)"] = found.likelihood
    return "".join(
        _image(
            lambda path, name=name, scores=scores: distributions(
                path, {"natural": scores.natural.tolist(), "designs": scores.designs.tolist()}, name
            ),
            f"distribution of {name}",
        )
        for name, scores in shown.items()
    )


def _motifs(enriched: Sequence[Enriched]) -> str:
    if not enriched:
        return ""
    rows = "".join(
        f'<tr><td>{escape(one.motif.name)}</td><td class="number">{one.designs:.2f}</td>'
        f'<td class="number">{one.natural:.2f}</td><td class="number">{one.fold:+.1f}</td></tr>\n'
        for one in enriched
    )
    return (
        '<h2>Enriched motifs</h2>\n<table><tr><th>motif</th><th class="number">hits a design</th>'
        f'<th class="number">hits a natural sequence</th><th class="number">log2 ratio</th></tr>{rows}</table>\n'
        + _image(lambda path: motif_logos(path, enriched), "logos of the enriched motifs")
    )


def _number(value: float) -> str:
    return "–" if value != value else f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


# --- pictures -----------------------------------------------------------------------------------------------


def motif_logos(path: Path, enriched: Sequence[Enriched]) -> None:
    """The logos of motifs, two in a row, as PNG; the height of a column is its information in bits."""
    import logomaker
    import pandas as pd
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = -(-len(enriched) // 2)
    figure: Figure = Figure(figsize=(9, 1.5 * rows), dpi=90, layout="constrained")
    FigureCanvasAgg(figure)
    panels: Any = figure.subplots(rows, 2, squeeze=False)
    for axes in panels.flat:
        axes.axis("off")
    for axes, one in zip(panels.flat, enriched, strict=False):
        p = np.array(one.motif.probabilities)
        bits = 2 + np.where(p > 0, p * np.log2(np.where(p > 0, p, 1)), 0).sum(1, keepdims=True)
        logomaker.Logo(pd.DataFrame(p * bits, columns=list("ACGT")), ax=axes, show_spines=False)
        axes.set_title(one.motif.name, fontsize=9, loc="left")
        axes.set_ylim(0, 2)
    figure.savefig(path, format="png")


def _image(draw: Callable[[Path], None], words: str) -> str:
    """A picture inside the page."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "picture.png"
        draw(path)
        data = base64.b64encode(path.read_bytes()).decode("ascii")
    return f'<p><img alt="{escape(words)}" src="data:image/png;base64,{data}"></p>\n'
