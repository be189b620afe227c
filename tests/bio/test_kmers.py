"""The k-mer regression: scikit-learn's solution, from counts that are those of a plain loop."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from degauss.bio.alphabets import DNA, PROTEIN, reverse_complement
from degauss.bio.kmers import KmerModel, either_strand, features, fit, words
from degauss.bio.metrics import auroc
from degauss.core.errors import InputError


def tokens_of(n: int, length: int, seed: int = 0, vocabulary: int = 4) -> torch.Tensor:
    return torch.randint(vocabulary, (n, length), generator=torch.Generator().manual_seed(seed))


def planted(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Sequences of 40 letters, half of them with GATAAG somewhere, on either strand."""
    tokens, word = tokens_of(n, 40, seed), DNA.encode("GATAAG")
    labels = torch.arange(n) % 2 == 0
    for row in labels.nonzero()[:, 0].tolist():
        place = 3 * row % 34
        tokens[row, place : place + 6] = word if row % 4 else reverse_complement(word)
    return tokens, labels


def counts(tokens: torch.Tensor, k: int) -> np.ndarray:
    """Counts of words and their reverse complements by a plain loop over strings, a column for each that occurs."""
    rows = []
    for sequence in DNA.decode(tokens):
        both = (sequence[i : i + k] for i in range(len(sequence) - k + 1))
        rows.append(Counter(min(word, word[::-1].translate(str.maketrans("ACGT", "TGCA"))) for word in both))
    names = sorted(set().union(*rows))
    return np.array([[row[name] for name in names] for row in rows], dtype=float)


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
def test_a_word_and_its_reverse_complement_are_one(k):
    tokens = tokens_of(3, 30)
    there, back = (features(strand, k, DNA, True) for strand in (tokens, reverse_complement(tokens)))
    assert torch.equal(there.sort(1).values, back.sort(1).values)
    assert torch.equal(either_strand(tokens, k), either_strand(reverse_complement(tokens), k).flip(1))
    every = features(tokens_of(1, 6000, 1), k, DNA, True).unique()
    size = (4**k + (4 ** (k // 2) if k % 2 == 0 else 0)) // 2
    assert every.tolist() == list(range(size)), "numbered without gaps"


def test_words_are_numbers_in_base_v():
    assert words(torch.tensor([[3, 0, 2, 1]]), 3).tolist() == [[3 * 16 + 0 + 2, 0 + 2 * 4 + 1]]
    assert words(torch.tensor([[19, 1]]), 2, 20).tolist() == [[381]]


@pytest.mark.parametrize("strength", [0.01, 1.0])
def test_the_solution_is_scikit_learns(strength):
    from sklearn.linear_model import LogisticRegression

    tokens, labels = planted(200)
    model = fit(tokens, labels, k=4, strength=strength)
    table = counts(tokens, 4)
    reference = LogisticRegression(C=strength, tol=1e-10, solver="newton-cholesky").fit(table, labels.numpy())
    found = model.score(tokens)
    wanted = torch.tensor(reference.decision_function(table))
    torch.testing.assert_close(found, wanted, atol=2e-4, rtol=1e-4)
    assert float(model.weights.norm()) == pytest.approx(float(np.linalg.norm(reference.coef_)), rel=1e-4)
    assert float(model.bias) == pytest.approx(float(reference.intercept_[0]), abs=1e-3)


def test_it_finds_a_planted_word_in_sequences_it_has_not_seen():
    train, labels = planted(600)
    model = fit(train, labels, k=6, strength=0.1)
    unseen, wanted = planted(400, seed=9)
    assert auroc(model.score(unseen), wanted) > 0.9
    # The control: labels that the sequences say nothing of.
    shuffled = fit(train, labels[torch.randperm(600, generator=torch.Generator().manual_seed(0))], k=6, strength=0.1)
    assert abs(auroc(shuffled.score(unseen), wanted) - 0.5) < 0.15


def test_a_strand_matters_where_it_should():
    tokens, labels = planted(60)
    one, both = (fit(tokens, labels, k=3, both_strands=strands) for strands in (False, True))
    turned = reverse_complement(tokens)
    torch.testing.assert_close(both.score(tokens), both.score(turned))
    assert not torch.allclose(one.score(tokens), one.score(turned))


def test_a_model_comes_back_from_its_folder(tmp_path):
    tokens, labels = planted(60)
    model = fit(tokens, labels, target="HepG2", k=4)
    model.save(tmp_path / "oracle", {"auroc": 0.9})
    again = KmerModel.load(tmp_path / "oracle")
    assert torch.equal(again.score(tokens), model.score(tokens))
    assert (again.targets, again.length) == (("HepG2",), 40)


def test_proteins_have_one_strand():
    tokens = tokens_of(50, 12, vocabulary=20)
    labels = (tokens == 3).any(1)
    model = fit(tokens, labels, k=1, alphabet=PROTEIN, both_strands=False, strength=10)
    assert auroc(model.score(tokens), labels) > 0.95
    with pytest.raises(InputError, match="protein has one strand"):
        fit(tokens, labels, k=1, alphabet=PROTEIN)


def test_what_cannot_be_fitted_is_refused():
    tokens, labels = planted(20)
    with pytest.raises(InputError, match="all 20 sequences have one label"):
        fit(tokens, torch.ones(20, dtype=torch.bool))
    with pytest.raises(InputError, match="words of 21 letters need sequences of at least 21, but these have 20"):
        words(tokens_of(2, 20), 21)
    with pytest.raises(InputError, match="k = 12 makes"):
        fit(tokens, labels, k=12)
    with pytest.raises(ValueError, match="63 bits"):
        words(tokens, 32)


@pytest.mark.slow
def test_accessible_sites_are_told_apart_on_a_chromosome_that_was_not_seen(sites):
    from degauss.bio.predictor_training import site_examples
    from degauss.bio.splits import chromosomes

    types = ("GM12878", "HepG2", "K562", "hESCT0")
    train, test = (site_examples(sites, chromosomes(text), types) for text in ("12-22,X", "1"))
    model = fit(train.tokens, train.labels == 1, target="HepG2")
    assert auroc(model.score(test.tokens), test.labels == 1) > 0.925
