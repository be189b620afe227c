"""Restriction sites by enzyme name, against biopython's own digestion."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from Bio import Restriction
from Bio.Seq import Seq

from degauss.bio import restriction
from degauss.bio.alphabets import DNA
from degauss.bio.constraints import letters_of, parse_constraints
from degauss.core.jump import Absorbing, sample_tokens
from degauss.core.jump.automaton import allowed
from degauss.core.jump.constrained import constrained
from degauss.core.posterior import Categorical

ENZYMES = ["BsaI", "BsmBI", "EcoRI", "HindIII", "HaeIII", "XmnI"]


def flat(x: Any, t: Any, /, **cond: Any) -> Categorical:
    return Categorical(torch.zeros(*x.shape, 4))


def cuts(text: str, enzymes: list[str]) -> dict[str, list[int]]:
    batch = Restriction.RestrictionBatch(enzymes)
    analysis = Restriction.Analysis(batch, Seq(text), linear=True)
    return {str(enzyme): sites for enzyme, sites in analysis.with_sites().items()}


def test_no_enzyme_cuts_a_sample() -> None:
    length, process = 120, Absorbing(4)
    lattice = parse_constraints(forbid=ENZYMES).lattice(length)
    x = sample_tokens(flat, process, (60, length), solver=constrained(lattice), steps=4)
    assert all(cuts(text, ENZYMES) == {} for text in DNA.decode(x))
    # The test can tell: free sequences are cut.
    free = allowed(torch.ones(length, 4, dtype=torch.bool))
    y = sample_tokens(flat, process, (60, length), solver=constrained(free), steps=4)
    assert sum(bool(cuts(text, ENZYMES)) for text in DNA.decode(y)) > 20


@pytest.mark.parametrize("enzyme", ["EcoRI", "XmnI"])
def test_a_required_site_is_cut(enzyme: str) -> None:
    length = 60
    # Away from the ends, where there is no room for the cut.
    lattice = parse_constraints(require=[enzyme]).lattice(length)
    x = sample_tokens(flat, Absorbing(4), (30, length), solver=constrained(lattice), steps=4)
    assert all(set(cuts("A" * 20 + text + "A" * 20, [enzyme])) == {enzyme} for text in DNA.decode(x))


def test_every_enzyme_has_sites_that_can_be_read() -> None:
    for enzyme in Restriction.AllEnzymes:
        sites = restriction.sites_of(str(enzyme))
        assert sites
        assert all(site and all(letters_of(letter, DNA) for letter in site) for site in sites)


def test_several_sites_of_one_enzyme() -> None:
    several = next(str(enzyme) for enzyme in Restriction.AllEnzymes if "|" in enzyme.site)
    assert len(restriction.sites_of(several)) > 1
    parse_constraints(forbid=[several]).lattice(40)


def test_spelling() -> None:
    assert restriction.spelled("ecori") == "EcoRI"
    assert restriction.spelled("nothing") is None
    assert restriction.sites_of("ecori") == ()
    assert restriction.nearest("BamH1") == " (did you mean 'BamHI'?)"
    assert restriction.nearest("HindIIII") == " (did you mean 'HindIII'?)"
    assert restriction.nearest("?") == ""
    # A name that could be read as a motif is the enzyme in its own spelling, and else the motif.
    assert parse_constraints(forbid=["DrdV"]).violations("CATGNAC".replace("N", "A")) != []
    assert parse_constraints(forbid=["DRDV"]).violations("AAAT") == []
    assert parse_constraints(forbid=["ecorv"]).violations("GATATC") == ["forbid ecorv: GATATC at position 1 (+)"]
