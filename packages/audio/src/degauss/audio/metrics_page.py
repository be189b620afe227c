"""The metrics report as a page: one HTML file with its pictures inside, that needs no network."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from html import escape
from pathlib import Path

from degauss.audio.metrics_report import BY_NAME, Measure, Report, Row
from degauss.core.files import atomic_path

_BINS = 20
_BEST = {"higher": "higher is better", "lower": "lower is better", "one": "best at 1"}

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #22272e; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: 0; } h2 { margin-top: 2.5rem; }
table { border-collapse: collapse; } td, th { text-align: left; padding: .3rem .6rem; vertical-align: top; }
tr { border-bottom: 1px solid #e6e9ed; } .number { text-align: right; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; } .quiet { color: #6b7480; } .none { color: #b3261e; cursor: help; }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem 1.5rem; } figure { margin: 0; } figcaption { font-size: .85rem; }
pre { background: #f5f6f8; padding: 1rem; overflow-x: auto; }
"""


def write_page(path: str | os.PathLike[str], report: Report) -> None:
    """Write the page at ``path`` (.html), whole or not at all."""
    with atomic_path(Path(path)) as part:
        part.write_text(page(report), encoding="utf-8")


def page(report: Report) -> str:
    """The report as HTML: summary, what could not be computed, a histogram for each measure, and every file."""
    measures = [BY_NAME[name] for name in report.names]
    summary = "".join(_summary_row(report, measure) for measure in measures)
    pictures = "".join(_picture(report, measure) for measure in measures if measure.name in report.summary)
    head = "".join(f'<th class="number">{measure.name}</th>' for measure in measures)
    rows = "".join(_file_row(row, report.names) for row in report.rows)
    facts = escape(json.dumps(dict(report.facts), indent=2, ensure_ascii=False))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(report.title)}</title><style>{_STYLE}</style></head><body>
<h1>{escape(report.title)}</h1>
<p class="quiet">{_count(len(report.rows), "file")}.{_whole(report)}</p>
<h2>Summary</h2>
<table><tr><th>measure</th><th class="number">files</th><th class="number">mean</th><th class="number">sd</th>
<th class="number">least</th><th class="number">most</th><th></th></tr>{summary}</table>
{_problems(report)}<h2>Distributions</h2>
<div class="pictures">{pictures}</div>
<h2>Files</h2>
<div class="wide"><table><tr><th>file</th>{head}</tr>{rows}</table></div>
{_notes(report)}<h2>Settings</h2>
<pre>{facts}</pre>
</body></html>
"""


def _summary_row(report: Report, measure: Measure) -> str:
    meaning = f'<td class="quiet">{escape(measure.meaning)}; {_BEST[measure.better]}</td>'
    unit = f" ({measure.unit})" if measure.unit else ""
    found = report.summary.get(measure.name)
    if found is None:
        cells = ["0", "", "", "", ""]
    else:
        sd = "" if found.sd is None else _number(found.sd)
        cells = [str(found.files), _number(found.mean), sd, _number(found.least), _number(found.most)]
    numbers = "".join(f'<td class="number">{cell}</td>' for cell in cells)
    return f"<tr><td>{measure.name}{unit}</td>{numbers}{meaning}</tr>\n"


def _whole(report: Report) -> str:
    said = {
        "frechet_log_mel": "Frechet distance between the log-mel frames of all estimates and all references: {}.",
        "wer": "Word error rate over all words: {}.",
    }
    return "".join(f" {said[name].format(_number(value))}" for name, value in report.whole.items())


def _problems(report: Report) -> str:
    """What could not be computed and why, alike ones together."""
    if not report.reasons:
        return ""
    grouped: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (name, reason), files in report.reasons.items():
        grouped.setdefault((reason, tuple(files)), []).append(name)
    lines = "".join(
        f"<li><b>{', '.join(names)}</b> of {_some(files)}: {escape(reason)}</li>\n"
        for (reason, files), names in grouped.items()
    )
    return f"<h2>Could not be computed</h2>\n<ul>{lines}</ul>\n"


def _notes(report: Report) -> str:
    lines = "".join(f"<li>{escape(row.name)}: {escape(note)}</li>\n" for row in report.rows for note in row.notes)
    return f'<ul class="quiet">{lines}</ul>\n' if lines else ""


def _some(files: Sequence[str], most: int = 5) -> str:
    shown = ", ".join(escape(name) for name in files[:most])
    return shown if len(files) <= most else f"{shown} and {len(files) - most} more"


def _file_row(row: Row, names: Sequence[str]) -> str:
    cells = "".join(_file_cell(row, name) for name in names)
    return f"<tr><td>{escape(row.name)}</td>{cells}</tr>\n"


def _file_cell(row: Row, name: str) -> str:
    if name in row.values:
        return f'<td class="number">{_number(row.values[name])}</td>'
    return f'<td class="number none" title="{escape(row.missing.get(name, ""))}">–</td>'


def _count(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


# --- pictures -----------------------------------------------------------------------------------------------


def _picture(report: Report, measure: Measure) -> str:
    values = [row.values[measure.name] for row in report.rows if measure.name in row.values]
    unit = f" ({measure.unit})" if measure.unit else ""
    caption = f"<figcaption>{measure.name}{unit}, {_BEST[measure.better]}</figcaption>"
    return f"<figure>{caption}{histogram(values, measure.name)}</figure>\n"


def histogram(values: Sequence[float], title: str) -> str:
    """A histogram as SVG, 210 by 90 points, its mean a line; all values in one bin where they are equal."""
    least, most = min(values), max(values)
    width = (most - least) / _BINS or 1.0
    counts = [0] * _BINS
    for value in values:
        counts[min(int((value - least) / width), _BINS - 1)] += 1
    tall, bar = max(counts), 200 / _BINS
    bars = "".join(
        f'<rect x="{5 + i * bar:.1f}" y="{70 - 60 * count / tall:.1f}" width="{bar - 1:.1f}" '
        f'height="{60 * count / tall:.1f}" fill="#86b6e6"/>'
        for i, count in enumerate(counts)
        if count
    )
    mean = 5 + min((sum(values) / len(values) - least) / width, _BINS) * bar
    label = '<text x="{x}" y="84" font-size="10" fill="#6b7480" text-anchor="{anchor}">{text}</text>'
    ends = label.format(x=5, anchor="start", text=_number(least))
    if most > least:
        ends += label.format(x=205, anchor="end", text=_number(most))
    return (
        f'<svg role="img" aria-label="{escape(title)}" width="210" height="90" viewBox="0 0 210 90">{bars}'
        f'<line x1="5" x2="205" y1="70" y2="70" stroke="#b8c0c9"/>'
        f'<line x1="{mean:.1f}" x2="{mean:.1f}" y1="8" y2="70" stroke="#0b4f9e" stroke-width="1.5"/>{ends}</svg>'
    )
