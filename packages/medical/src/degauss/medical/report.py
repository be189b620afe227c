"""An evaluation as a page: one HTML file with its pictures inside, that needs no network.

Nothing in it comes from a header or from the name of a file.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from degauss.core.files import atomic_path
from degauss.core.inverse import Band, Coverage
from degauss.medical.evaluation import Evaluation
from degauss.medical.metrics import AXES

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #22272e; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: 0; } h2 { margin-top: 2.5rem; }
table { border-collapse: collapse; } td, th { text-align: left; padding: .3rem .6rem; vertical-align: top; }
tr { border-bottom: 1px solid #e6e9ed; } .number { text-align: right; font-variant-numeric: tabular-nums; }
.quiet { color: #6b7480; } .warning { color: #b3261e; }
img { max-width: 100%; } pre { background: #f5f6f8; padding: 1rem; overflow-x: auto; }
"""


def write_report(
    path: str | os.PathLike[str], found: Evaluation, pictures: Mapping[str, Path], facts: Mapping[str, Any]
) -> None:
    """Write the page (.html), whole or not at all. ``pictures``: PNG files by what they show; ``facts``: settings."""
    text = page(found, {words: picture.read_bytes() for words, picture in pictures.items()}, facts)
    with atomic_path(path) as part:
        part.write_text(text, encoding="utf-8")


def page(found: Evaluation, pictures: Mapping[str, bytes], facts: Mapping[str, Any]) -> str:
    """What to know first, the scores of the three planes, coverage, the pictures and the settings, as HTML."""
    metrics = found.metrics
    said = "".join(f'<li class="{_class(sentence)}">{escape(sentence)}</li>\n' for sentence in found.sentences)
    said = said or '<li class="quiet">Neither a scan nor a standard deviation was given, so only errors are known.</li>'
    planes = "".join(
        f'<tr><td>{plane}</td><td class="number">{metrics.plane(plane).psnr:.2f}</td>'
        f'<td class="number">{metrics.plane(plane).ssim:.4f}</td>'
        f'<td class="number">{metrics.plane(plane).slices}</td></tr>\n'
        for plane in AXES
    )
    unit = "HU" if metrics.unit == "HU" else "in the image's unit"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Reconstruction</title><style>{_STYLE}</style></head><body>
<h1>Reconstruction</h1>
<p class="quiet">Not for diagnostic use.</p>
<ul>{said}</ul>
<h2>Errors</h2>
<table><tr><th>plane</th><th class="number">PSNR (dB)</th><th class="number">SSIM</th>
<th class="number">slices</th></tr>{planes}</table>
<p class="quiet">Means over the slices that hold some of the body; data range {metrics.data_range:.5g} ({unit}).
Root mean square error inside the body: {metrics.rmse:.4g} ({unit}).</p>
{_coverage(found.coverage)}{"".join(map(_image, pictures, pictures.values()))}<h2>Settings</h2>
<pre>{escape(json.dumps(dict(facts), indent=2, ensure_ascii=False, default=str))}</pre>
</body></html>
"""


def _class(sentence: str) -> str:
    return "warning" if sentence.startswith("Warning") else "quiet"


def _coverage(found: Coverage | None) -> str:
    if found is None:
        return ""
    rows = "".join(_row(name, band) for name, band in {"body": found.overall, **found.regions}.items())
    return (
        f"<h2>Intervals of {found.level:.0%}</h2>\n"
        '<table><tr><th></th><th class="number">covered</th><th class="number">mean width (x)</th>'
        f'<th class="number">voxels</th></tr>{rows}</table>\n'
        '<p class="quiet">The level is an average over voxels like those that were calibrated on. It is not promised '
        "for any one place, nor for anatomy, a scan or a method unlike those of the calibration.</p>\n"
    )


def _row(name: str, band: Band) -> str:
    return (
        f'<tr><td>{escape(name)}</td><td class="number">{band.covered:.1%}</td>'
        f'<td class="number">{band.width:.3g}</td><td class="number">{band.count}</td></tr>\n'
    )


def _image(words: str, data: bytes) -> str:
    code = base64.b64encode(data).decode("ascii")
    return f'<h2>{escape(words)}</h2>\n<p><img alt="{escape(words)}" src="data:image/png;base64,{code}"></p>\n'
