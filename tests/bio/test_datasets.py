"""The public data are what their papers say, and a file that is not there is named."""

from __future__ import annotations

from collections import Counter

import pytest

from degauss.bio import datasets
from degauss.core.errors import InputError


def test_accessible_sites(sites):
    assert len(sites) == 47872
    assert set(Counter(site.cell_type for site in sites).values()) == {11968}
    assert Counter(site.split for site in sites) == {"train": 39254, "test": 4565, "valid": 4053}
    assert {len(site.sequence) for site in sites} == {200}
    assert set("".join(site.sequence for site in sites)) == set("ACGT")
    assert {site.chromosome for site in sites if site.split == "test"} == {"chr1"}


def test_gb1(variants):
    fitness = dict(variants)
    assert len(fitness) == len(variants) == 149361
    assert fitness["VDGV"] == 1
    assert max(fitness.values()) == pytest.approx(8.76, abs=0.005)
    assert sum(f > 1 for f in fitness.values()) / len(fitness) == pytest.approx(0.023, abs=0.002)


def test_promoters(promoters):
    assert len(promoters) == 13972
    assert {len(promoter.sequence) for promoter in promoters} == {165}
    assert min(p.expression for p in promoters) == pytest.approx(-6, abs=0.05)
    assert max(p.expression for p in promoters) == pytest.approx(8.5, abs=0.05)


def test_files_that_are_read_elsewhere(sites):
    for path in (datasets.structure_path("1pga"), datasets.motifs_path(), datasets.proteinmpnn_path()):
        assert path.stat().st_size > 10_000


@pytest.mark.parametrize("read", [datasets.accessible_sites, datasets.gb1, datasets.promoters, datasets.motifs_path])
def test_what_is_not_there(here, monkeypatch, read):
    monkeypatch.setenv("DEGAUSS_DATA", str(here))
    with pytest.raises(InputError, match=r"does not exist; expected .* there, so set DEGAUSS_DATA\."):
        read()
