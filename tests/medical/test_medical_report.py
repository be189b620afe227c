"""The page says what the evaluation found, and stands alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from degauss.core.inverse import Band, Coverage
from degauss.medical.evaluation import Evaluation
from degauss.medical.metrics import AXES, Metrics, SliceScore
from degauss.medical.report import page, write_report

METRICS = Metrics(
    tuple(SliceScore(plane, i, 30.0 - 10 * axis + i, 0.5 + i / 10) for plane, axis in AXES.items() for i in range(3)),
    2000.0,
    12.345,
    "HU",
    0.01,
)
COVERAGE = Coverage(0.9, Band(0.812, 1000, 0.05), (), {"<bone>": Band(0.5, 10, 0.07)})


def evaluation(coverage: Coverage | None = COVERAGE, sentences: tuple[str, ...] = ("Warning: wide.",)) -> Evaluation:
    return Evaluation(METRICS, torch.ones(1), coverage, {}, sentences)


def test_the_page_has_the_numbers() -> None:
    text = page(evaluation(), {"Three planes": b"picture"}, {"draws": 8, "odd": "<&>"})
    for number in ("31.00", "21.00", "11.00", "0.6000", "2000 (HU)", "12.35 (HU)", "81.2%", "50.0%", "1000"):
        assert number in text, number
    assert '<li class="warning">Warning: wide.</li>' in text
    assert "&lt;bone&gt;" in text
    assert "&lt;&amp;&gt;" in text
    assert "<bone>" not in text
    assert "data:image/png;base64,cGljdHVyZQ==" in text
    assert "Not for diagnostic use" in text
    assert "http" not in text, "no network"


def test_what_is_not_known_is_left_out() -> None:
    text = page(evaluation(None, ()), {}, {})
    assert "Intervals of" not in text
    assert "only errors are known" in text


def test_it_is_written_whole_or_not_at_all(here: Path) -> None:
    (here / "a.png").write_bytes(b"picture")
    write_report("report.html", evaluation(), {"Three planes": here / "a.png"}, {})
    assert "cGljdHVyZQ==" in (here / "report.html").read_text()
    with pytest.raises(FileNotFoundError):
        write_report("other.html", evaluation(), {"Three planes": here / "b.png"}, {})
    assert not (here / "other.html").exists()
