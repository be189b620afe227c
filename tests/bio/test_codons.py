"""Codon lattices: what they accept is translated back by biopython."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import pytest
import torch
from Bio.Data import CodonTable
from Bio.Seq import Seq
from hypothesis import given, settings

from degauss.bio.alphabets import DNA
from degauss.bio.codons import coding, codons_of, genetic_code
from degauss.core import InputError, Noise
from degauss.core.jump.constrained import draw_accepted
from degauss.core.jump.oracle import sequences

CODES = [1, 2, 4, 11, 25]


@pytest.mark.parametrize("code", CODES)
def test_every_codon_is_where_biopython_has_it(code: int) -> None:
    codons = codons_of(code)
    everything = {a + b + c for a in DNA.letters for b in DNA.letters for c in DNA.letters}
    assert {codon for some in codons.values() for codon in some} == everything
    assert sum(map(len, codons.values())) == 64
    for letter, some in codons.items():
        assert all(str(Seq(codon).translate(table=str(code))) == letter for codon in some)


@given(st.text("ACDEFGHIKLMNPQRSTVWYX*", min_size=1, max_size=12), st.integers(0, 4), st.integers(0, 4))
@settings(max_examples=30)
def test_draws_are_translated_back(protein: str, start: int, behind: int) -> None:
    length, n = start + 3 * len(protein) + behind, 10
    lattice = coding(protein, start, length, codons_of(1))
    even = torch.full((n, length, 4), 0.25, dtype=torch.float64)
    tokens = draw_accepted(even, lattice, Noise(0, range(n)).uniform(even[..., 0])).tokens
    for text in DNA.decode(tokens):
        translated = str(Seq(text[start : start + 3 * len(protein)]).translate())
        assert len(translated) == len(protein)
        for got, wanted in zip(translated, protein, strict=True):
            assert got == wanted or (wanted == "X" and got != "*")


def test_all_ways_to_write_a_protein() -> None:
    """Every synonymous sequence and no other, beside two free bases."""
    lattice = coding("LS", 1, 7, codons_of(1))
    x = sequences(4, 7)
    truth = [str(Seq(text[1:7]).translate()) == "LS" for text in DNA.decode(x)]
    assert lattice.accepts(x).tolist() == truth
    assert lattice.log_count == pytest.approx(math.log(6 * 6 * 4))


def test_a_stop_codon_is_optional() -> None:
    codons = codons_of(1)
    assert coding("M", 0, 6, codons).log_count == pytest.approx(math.log(64))
    assert coding("M*", 0, 6, codons).log_count == pytest.approx(math.log(3))
    assert coding("X", 0, 3, codons).log_count == pytest.approx(math.log(61))


DUAL = [27, 28, 31]


def test_codes_by_number_and_name() -> None:
    for number, table in CodonTable.unambiguous_dna_by_id.items():
        if number not in DUAL:
            assert genetic_code(str(number)) == number
            assert genetic_code(str(table.names[0]).lower()) == number


@pytest.mark.parametrize("code", DUAL)
def test_codes_that_do_not_settle_what_is_spelled_are_refused(code: int) -> None:
    with pytest.raises(InputError, match=f"codon table '{code}' reads T.* both as a stop and as an amino acid"):
        genetic_code(str(code))


def test_a_protein_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match="3 codons from position 1 do not fit into 9 bases"):
        coding("MKV", 1, 9, codons_of(1))
