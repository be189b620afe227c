"""Claims: discovery, running, records that survive the disk, the page made of them; and all of it fresh."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from degauss.core.claims import (
    Figure,
    Record,
    Result,
    claims_page,
    find_claims,
    run_claim,
    source_tree,
)
from degauss.core.commands import recorded
from degauss.core.errors import InputError

SOURCE = """
from dataclasses import dataclass
from degauss.core.claims import Claim, Result

CLAIM = Claim(paper="Euler 1734", statement="The sum of 1/n^2 is pi^2/6.", expected="within 1/N of it")

@dataclass  # must find its own module by name
class Box:
    size: int = 1

def run(seeds):
    values = [sum(1 / n**2 for n in range(1, 100 + seed)) for seed in seeds]
    return Result("holds", {"sum": values, "limit": [1.6449]}, notes="Slowly.")
"""


def tree(tmp_path: Path, **sources: str) -> Path:
    claims = tmp_path / "packages" / "core" / "claims"
    claims.mkdir(parents=True)
    for name, source in sources.items():
        (claims / f"{name}.py").write_text(source)
    return tmp_path


def test_claims_are_found_by_name_and_helpers_are_not(tmp_path: Path) -> None:
    root = tree(tmp_path, basel=SOURCE, zeta=SOURCE, _shared="")
    assert [(claim.package, claim.name) for claim in find_claims(root)] == [
        ("core", "basel"),
        ("core", "zeta"),
    ]
    assert [claim.name for claim in find_claims(root, ["zeta"])] == ["zeta"]
    with pytest.raises(InputError, match=r"there is no claim 'bassel' \(did you mean 'basel'\?\)"):
        find_claims(root, ["bassel"])


def test_two_packages_cannot_have_claims_of_one_name(tmp_path: Path) -> None:
    root = tree(tmp_path, basel=SOURCE)
    other = root / "packages" / "bio" / "claims"
    other.mkdir(parents=True)
    (other / "basel.py").write_text(SOURCE)
    with pytest.raises(InputError, match="another claim has this name"):
        find_claims(root)


def test_a_run_leaves_a_record_that_reads_back(tmp_path: Path) -> None:
    (claim,) = find_claims(tree(tmp_path, basel=SOURCE))
    assert claim.record() is None
    record = run_claim(claim, [0, 1, 2])
    assert claim.record() == record
    assert record.verdict == "holds"
    assert record.seeds == (0, 1, 2)
    assert record.figures["limit"] == Figure((1.6449,), 1.6449, 1.6449, 1.6449)
    figure = record.figures["sum"]
    assert figure.median == figure.values[1]
    assert (figure.low, figure.high) == (min(figure.values), max(figure.values))
    assert record.source_sha256 == claim.sha256()
    assert {"python", "torch", "numpy", "degauss-core"} == set(record.versions)
    assert record.threads == 1
    assert record.device
    written = json.loads(claim.record_path.read_text())
    assert written["paper"] == "Euler 1734"
    files = sorted(path.name for path in claim.path.parent.iterdir() if path.is_file())
    assert files == ["basel.json", "basel.py"]


def test_a_failing_run_leaves_the_old_record(tmp_path: Path) -> None:
    (claim,) = find_claims(tree(tmp_path, basel=SOURCE))
    before = run_claim(claim, [0])
    claim.path.write_text(SOURCE.replace("return Result", "raise RuntimeError('broken')\n    return Result"))
    with pytest.raises(RuntimeError, match="broken"):
        run_claim(claim, [0])
    assert claim.record() == before
    assert before.source_sha256 != claim.sha256()  # and it is known to be stale


@pytest.mark.parametrize("source", ["", "CLAIM = 3\ndef run(seeds): ...", SOURCE.replace("def run", "def walk")])
def test_a_file_that_is_no_claim_is_named(tmp_path: Path, source: str) -> None:
    (claim,) = find_claims(tree(tmp_path, basel=source))
    with pytest.raises(InputError, match=r"basel\.py: a claim file must define CLAIM"):
        run_claim(claim, [0])


@pytest.mark.parametrize("text", ["", "{}", '{"name": 3}', "[1]"])
def test_a_broken_record_is_named(tmp_path: Path, text: str) -> None:
    (claim,) = find_claims(tree(tmp_path, basel=SOURCE))
    claim.record_path.write_text(text)
    with pytest.raises(InputError, match=r"basel\.json: this is not the record of a claim"):
        claim.record()


@pytest.mark.parametrize("values", [[], [math.nan], [1.0, math.inf]])
def test_a_figure_has_finite_values(values: list[float]) -> None:
    with pytest.raises(ValueError, match="figure 'crps' must have"):
        Result("holds", {"crps": values})


def test_a_verdict_is_one_of_three() -> None:
    with pytest.raises(ValueError, match="verdict must be one of"):
        Result("maybe", {"crps": [1.0]})  # pyright: ignore[reportArgumentType]


def test_the_page_shows_each_claim_with_figures_machine_and_date(tmp_path: Path) -> None:
    root = tree(tmp_path, zeta=SOURCE.replace('"holds"', '"does not hold"'), basel=SOURCE)
    for claim in find_claims(root):
        run_claim(claim, [0, 1, 2])
    records = recorded(root)
    page = claims_page(records)
    assert page == claims_page(records[::-1])
    assert page.index("## basel") < page.index("## zeta")
    assert "| [zeta](#zeta) | core | **does not hold** |" in page
    for shown in (
        "**Does not hold.** The sum",
        "Euler 1734",
        "within 1/N of it",
        "| limit | 1.645 |",
        "Slowly.",
    ):
        assert shown in page
    assert records[0].device in page
    assert records[0].date in page


def test_a_page_without_records_says_so() -> None:
    assert "No claim has been run yet." in claims_page([])


# What this checkout publishes.


def test_published_records_are_of_the_claims_as_they_stand() -> None:
    """Do the records come from the claim files as they are now?"""
    stale = [
        claim.name
        for claim in find_claims(source_tree())
        if (record := claim.record()) is not None and record.source_sha256 != claim.sha256()
    ]
    assert not stale, "run `degauss claims run` for these, then `degauss claims table --output CLAIMS.md`"


def test_no_record_has_lost_its_claim() -> None:
    orphans = [
        path.name for path in source_tree().glob("packages/*/claims/*.json") if not path.with_suffix(".py").exists()
    ]
    assert not orphans


def test_the_published_page_is_in_step_with_the_records() -> None:
    root = source_tree()
    records: list[Record] = recorded(root)
    if not records:
        pytest.skip("no claim has been run")
    page = (root / "CLAIMS.md").read_text(encoding="utf-8")
    assert page == claims_page(records), "run `degauss claims table --output CLAIMS.md`"
