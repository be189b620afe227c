"""Letters become tokens and come back; a wrong one is named with its place."""

from __future__ import annotations

import pytest
import torch
from Bio.Seq import Seq
from hypothesis import given
from hypothesis import strategies as st

from degauss.bio.alphabets import DNA, PROTEIN, complement, reverse_complement
from degauss.core.errors import InputError
from degauss.core.jump import FREE


def test_the_order_of_letters():
    assert DNA.encode("ACGTacgt").tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert PROTEIN.encode("ACDEFGHIKLMNPQRSTVWY").tolist() == list(range(20))
    assert (DNA.vocabulary, PROTEIN.vocabulary) == (4, 20)


@pytest.mark.parametrize("alphabet", [DNA, PROTEIN])
@given(data=st.data())
def test_what_is_encoded_is_decoded(alphabet, data):
    length = data.draw(st.integers(1, 30))
    letters = st.text(alphabet.letters + alphabet.letters.lower(), min_size=length, max_size=length)
    sequences = data.draw(st.lists(letters, min_size=1, max_size=4))
    tokens = alphabet.encode(sequences)
    assert tokens.dtype == torch.int64
    assert alphabet.decode(tokens) == [sequence.upper() for sequence in sequences]
    assert torch.equal(alphabet.encode(sequences[0]), tokens[0])
    assert alphabet.decode(tokens[0]) == [sequences[0].upper()]


def test_templates():
    assert DNA.template("AnN-T").tolist() == [0, FREE, FREE, FREE, 3]
    assert PROTEIN.template(["AX-", "xNW"]).tolist() == [[0, FREE, FREE], [FREE, 11, 18]]
    assert DNA.decode(DNA.template("AN-T")) == ["ANNT"]


@pytest.mark.parametrize(
    ("sequences", "names", "message"),
    [
        ("ACNT", (), "sequence 1 has 'N' at position 3; the letters of DNA are ACGT."),
        (["ACGT", "ACGT", "TTÄA"], (), "sequence 3 has 'Ä' at position 3; the letters of DNA are ACGT."),
        (["ACGT", "ACU-"], ("a", "b"), "sequence 'b' has 'U' at position 3; the letters of DNA are ACGT."),
        (["ACGT", "AC"], ("a", "b"), "sequence 'b' has 2 letters, but sequence 'a' has 4: equal lengths are needed."),
        (["A€GT"], (), "sequence 1 has '€' at position 2; the letters of DNA are ACGT."),
    ],
)
def test_what_cannot_be_encoded(sequences, names, message):
    with pytest.raises(InputError) as error:
        DNA.encode(sequences, names)
    assert str(error.value) == message


def test_a_template_says_what_is_free():
    with pytest.raises(InputError, match="has 'R' at position 2; the letters of DNA are ACGT, and N or - where it"):
        DNA.template("ARGT")


def test_mistakes_of_a_program():
    with pytest.raises(ValueError, match="no sequences"):
        DNA.encode([])
    for wrong in (4, -2):
        with pytest.raises(ValueError, match=f"0 to 3, got {wrong}"):
            DNA.decode(torch.tensor([0, wrong]))


@given(st.text("ACGT", min_size=1, max_size=40))
def test_the_other_strand_is_biopythons(sequence):
    tokens = DNA.encode(sequence)
    assert DNA.decode(complement(tokens)) == [str(Seq(sequence).complement())]
    assert DNA.decode(reverse_complement(tokens)) == [str(Seq(sequence).reverse_complement())]


def test_free_places_of_the_other_strand_stay_free():
    assert reverse_complement(DNA.template("ANGG")).tolist() == [1, 1, FREE, 3]
