"""The page on choosing: made of the records alone, and complete."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from degauss.core.choosing import SECTIONS, Section, compared, guide_page, write_guide
from degauss.core.claims import Figure, Record
from degauss.core.commands import recorded
from degauss.core.errors import InputError

ROOT = Path(__file__).parents[2]


def record(name: str, **figures: float) -> Record:
    told = Record(
        name=name, package="core", paper="A paper", statement="What it says.", expected="", verdict="holds partly",
        figures={}, notes="How.", seeds=(0, 1, 2), device="cpu", threads=1, seconds=1.0, date="2026-01-01",
        versions={}, source_sha256="",
    )  # fmt: skip
    return replace(told, figures={key: Figure.of([value]) for key, value in figures.items()})


BATTLE = record(
    "battle",
    **{
        "hills, 5 evaluations, euler": 0.4,
        "hills, 5 evaluations, heun": 0.1,
        "hills, 5 evaluations, calibrated: grid": 0.05,
        "hills, 10 evaluations, euler": 0.02,
        "hills, 10 evaluations, heun": 0.03,
        "a plain, 5 evaluations, euler": 0.1,
        "a plain, 5 evaluations, heun": 0.9,
        "a plain, 5 evaluations, calibrated: grid": 0.2,
    },
)
QUESTION = Section("Which", "Of these.", ("battle",), ("told",))


def test_figures_are_read_by_problem_budget_and_candidate() -> None:
    assert compared(BATTLE) == {
        "hills": {5: {"euler": 0.4, "heun": 0.1, "calibrated: grid": 0.05}, 10: {"euler": 0.02, "heun": 0.03}},
        "a plain": {5: {"euler": 0.1, "heun": 0.9, "calibrated: grid": 0.2}},
    }


def test_the_lowest_error_of_each_kind_is_bold_and_missing_ones_are_blank() -> None:
    page = guide_page([BATTLE, record("told")], [QUESTION])
    assert "| euler | 0.4 | **0.02** |" in page
    assert "| heun | **0.1** | 0.03 |" in page
    assert "| calibrated: grid | **0.05** |  |" in page
    assert "| euler | **0.1** |" in page
    assert "![a plain](battle-a-plain.svg)" in page
    assert "| [told](../CLAIMS.md#told) | What it says. | **holds partly** |" in page


def test_the_answer_in_short_is_the_lowest_geometric_mean() -> None:
    """sqrt(.4 * .1) = .2 beats sqrt(.1 * .9) = .3; only counts that every problem has are compared."""
    page = guide_page([BATTLE, record("told")], [QUESTION])
    assert "| 5 | euler (0.2) | grid (0.1) |" in page
    assert "| 10 | " not in page


def test_a_claim_that_was_not_run_is_named() -> None:
    with pytest.raises(InputError, match="needs the claim 'told', which has not been run: degauss claims run told"):
        guide_page([BATTLE], [QUESTION])


def test_the_page_that_is_kept_is_that_of_the_records(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    write_guide(tmp_path, recorded(ROOT))
    kept = ROOT / "docs"
    assert (tmp_path / "choosing.md").read_text("utf-8") == (kept / "choosing.md").read_text("utf-8")
    plots = {path.name for path in tmp_path.glob("*.svg")}
    assert plots == {path.name for path in kept.glob("*.svg")}
    assert plots


def test_every_claim_of_the_core_is_on_the_page() -> None:
    """But those of differential equations that are learned, not sampled from a diffusion model."""
    named = {name for section in SECTIONS for name in (*section.compared, *section.told)}
    assert {each.name for each in recorded(ROOT) if each.package == "core"} - named <= {
        "reversible_heun",
        "stable_neural_sde",
    }
