"""Logos have the heights that information theory gives, and pictures are written."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from degauss.bio.alphabets import DNA, PROTEIN
from degauss.bio.plots import distributions, information, sequence_logo


def test_heights():
    tokens = DNA.encode(["AAC", "ACG", "AGT", "ATT"])
    height = information(tokens, 4)
    np.testing.assert_allclose(height[0], [2, 0, 0, 0], atol=1e-12)
    np.testing.assert_allclose(height[1], 0, atol=1e-12)
    np.testing.assert_allclose(height[2], [0, 0.125, 0.125, 0.25], atol=1e-12)


def test_heights_are_logomakers():
    import logomaker

    tokens = torch.randint(4, (40, 7), generator=torch.Generator().manual_seed(0))
    theirs = logomaker.alignment_to_matrix(DNA.decode(tokens), to_type="information", pseudocount=0)
    np.testing.assert_allclose(information(tokens, 4), theirs[list("ACGT")].to_numpy(), atol=1e-10)


@pytest.mark.parametrize(("alphabet", "length"), [(DNA, 60), (PROTEIN, 4)])
def test_a_logo_is_written(here, alphabet, length):
    tokens = torch.randint(alphabet.vocabulary, (5, length), generator=torch.Generator().manual_seed(0))
    sequence_logo("logo.png", tokens, alphabet, "five")
    assert Path("logo.png").read_bytes().startswith(b"\x89PNG")


def test_distributions_are_the_same_file_twice(here):
    groups = {"natural": [1.0, 2.0, 2.5], "designed": [3.0, math.pi]}
    for name in ("a.svg", "b.svg"):
        distributions(name, groups, "bits a letter", "title")
    text = Path("a.svg").read_text()
    assert text == Path("b.svg").read_text()
    for word in ("natural (3)", "designed (2)", "bits a letter", "title"):
        assert word in text
