"""Metrics: by hand, by brute force, and beside scikit-learn and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from degauss.bio.alphabets import DNA
from degauss.bio.metrics import (
    auroc,
    band,
    constraints_met,
    copied,
    dinucleotide_entropy,
    kmer_correlation,
    kmer_counts,
    longest_run,
    motif_correlation,
    nearest,
    pair_distance,
    pearson,
    percentile,
    ranks,
    spearman,
    top_dinucleotide_share,
    unique_share,
    word_length,
)
from degauss.bio.motifs import consensus

numbers = st.lists(st.integers(-5, 5), min_size=2, max_size=30)


def random_tokens(n: int, length: int, seed: int = 0, vocabulary: int = 4) -> torch.Tensor:
    return torch.randint(vocabulary, (n, length), generator=torch.Generator().manual_seed(seed))


# --- scores -------------------------------------------------------------------------------------------------


@given(numbers, numbers)
def test_a_percentile_counts_what_lies_below_and_half_of_ties(scores, reference):
    found = percentile(torch.tensor(scores), torch.tensor(reference))
    wanted = [sum((r < s) + (r == s) / 2 for r in reference) / len(reference) for s in scores]
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64))


@given(numbers)
def test_ranks_share_ties(values):
    wanted = [sum(v < w for v in values) + (sum(v == w for v in values) + 1) / 2 for w in values]
    assert ranks(torch.tensor(values)).tolist() == wanted


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=30))
def test_auroc_is_the_share_of_pairs_in_order(pairs):
    positive = [score for score, label in pairs if label]
    negative = [score for score, label in pairs if not label]
    scores, labels = (torch.tensor(column) for column in zip(*pairs, strict=True))
    if not positive or not negative:
        with pytest.raises(ValueError, match="no ROC"):
            auroc(scores, labels)
        return
    won = sum((p > q) + (p == q) / 2 for p in positive for q in negative)
    assert auroc(scores, labels) == pytest.approx(won / (len(positive) * len(negative)))


def test_auroc_and_spearman_are_those_of_scikit_learn_and_scipy():
    from scipy.stats import spearmanr
    from sklearn.metrics import roc_auc_score

    generator = np.random.default_rng(0)
    scores = np.round(generator.normal(size=500), 1)  # with ties
    labels = generator.random(500) < 0.3 + 0.1 * scores
    assert auroc(torch.tensor(scores), torch.tensor(labels)) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    other = np.round(scores + generator.normal(size=500))
    wanted = spearmanr(scores, other)[0]
    assert spearman(torch.tensor(scores), torch.tensor(other)) == pytest.approx(wanted, abs=1e-12)


def test_correlations_of_a_constant_are_no_number():
    assert math.isnan(pearson(torch.ones(4), torch.arange(4)))


def test_a_band_has_two_ends():
    """What lies above it counts as much as what lies below: the trap of likelihood alone."""
    natural = torch.linspace(-200, -100, 1001)
    found = band(natural)
    assert (found.low, found.high) == pytest.approx((-197.5, -102.5))
    assert found.outside(torch.tensor([-300.0, -150.0, -50.0, -60.0])) == (0.25, 0.5)


# --- words and motifs ---------------------------------------------------------------------------------------


def test_counts_of_words_by_hand():
    counts = kmer_counts(DNA.encode(["AAAC", "AACT"]), 3)
    found = {DNA.decode(torch.tensor([i // 16, i // 4 % 4, i % 4]))[0]: int(c) for i, c in enumerate(counts) if c}
    assert found == {"AAA": 1, "AAC": 2, "ACT": 1}


def test_the_correlation_of_words_is_pearsons_of_counts():
    """64 words; the designs have AAA twice, nature AAA and CCC once each."""
    found = kmer_correlation(DNA.encode(["AAAA"]), DNA.encode(["AAA", "CCC"]), 3)
    a, b = np.zeros(64), np.zeros(64)
    a[0], b[0], b[21] = 2, 1, 1
    assert found == pytest.approx(np.corrcoef(a, b)[0, 1])


def test_the_correlation_of_motifs_is_of_their_numbers_of_hits():
    motifs = [consensus(word) for word in ("AAAAAAAA", "CCCCCCCA", "GATTACAG")]
    natural = DNA.encode(["AAAAAAAAAAAACCCCCCCATTTTTTTTTTTT"])
    assert motif_correlation(natural, natural, motifs) == pytest.approx(1)
    assert motif_correlation(DNA.encode(["GATTACAGGATTACAGCCCCCCCAGATTACAG"]), natural, motifs) < 0


# --- diversity and complexity -------------------------------------------------------------------------------


@given(st.integers(2, 7), st.integers(1, 6), st.integers(0, 1000), st.sampled_from([2, 20]))
def test_pair_distance_is_that_over_all_pairs(n, length, seed, vocabulary):
    tokens = random_tokens(n, length, seed, vocabulary)
    pairs = [(tokens[i] != tokens[j]).double().mean() for i in range(n) for j in range(i)]
    assert pair_distance(tokens, vocabulary) == pytest.approx(float(torch.stack(pairs).mean()))


def test_pair_distance_of_one_sequence_is_no_number():
    assert math.isnan(pair_distance(random_tokens(1, 5), 4))


def test_complexity_by_hand():
    tokens = DNA.encode(["ATATATATA", "AAAAAAAAA", "ACGTTGCAA"])
    torch.testing.assert_close(
        dinucleotide_entropy(tokens)[:2], torch.tensor([1.0, 0.0], dtype=torch.float64), atol=1e-12, rtol=0
    )
    # AC CG GT TT TG GC CA AA: eight different ones.
    assert float(dinucleotide_entropy(tokens)[2]) == pytest.approx(3)
    assert top_dinucleotide_share(tokens).tolist() == [0.5, 1, 0.125]
    assert longest_run(tokens).tolist() == [1, 9, 2]


def test_unique_share():
    assert unique_share(DNA.encode(["ACG", "ACG", "TTT", "ACG"])) == 0.5


def test_a_constraint_is_met_where_nothing_violates_it():
    from degauss.bio.constraints import parse_constraints

    sequences = ["ACGTACGTAC", "ACGAATTCAC", "AAAAAACGTC", "GAATTCAAAA"]
    constraints = parse_constraints(forbid=["GAATTC"], max_homopolymer=5)
    assert constraints_met(sequences, constraints).tolist() == [True, False, False, False]
    assert constraints_met(sequences, parse_constraints()).all()


# --- novelty ------------------------------------------------------------------------------------------------


@given(st.integers(0, 1000))
def test_the_nearest_is_the_nearest(seed):
    tokens, natural = random_tokens(4, 12, seed), random_tokens(9, 12, seed + 1)
    equal = (tokens[:, None] == natural).double().mean(-1)
    found = nearest(tokens, natural, 4)
    torch.testing.assert_close(found.identity, equal.amax(1))
    torch.testing.assert_close(equal.gather(1, found.row[:, None])[:, 0], equal.amax(1))


def test_the_nearest_among_more_than_are_looked_at_together():
    natural = random_tokens(9000, 8)
    found = nearest(natural[[0, 5000, 8999]], natural, 4)
    assert torch.equal(natural[found.row], natural[[0, 5000, 8999]])
    assert found.identity.tolist() == [1, 1, 1]


def test_a_copy_from_another_place_is_seen_where_the_nearest_is_blind():
    natural = random_tokens(50, 200)
    shifted = torch.cat([natural[7:8, 60:], random_tokens(1, 60, 5)], 1)
    k = word_length(natural.numel(), 200, 4)
    assert nearest(shifted, natural, 4).identity < 0.5
    assert float(copied(shifted, [natural], 4, k)) == pytest.approx(0.7, abs=0.02)
    assert float(copied(random_tokens(20, 200, 9), [natural], 4, k).max()) == 0
    assert copied(natural[:3], [natural], 4, k).tolist() == [1, 1, 1]


def test_known_sequences_may_be_of_any_length():
    k = 5
    tokens = DNA.encode(["ACGTACGTAC", "TTTTTTTTTT"])
    known = [DNA.encode(["CGTAC"]), DNA.encode(["TTT"]), DNA.encode(["GGGGGGGACGTA"])]
    assert copied(tokens, known, 4, k).tolist() == [1, 0]
    assert copied(tokens[:, :3], known, 4, k).tolist() == [0, 0], "shorter than a word"


def test_a_word_is_as_long_as_chance_asks():
    for letters in (100, 10**6, 2 * 10**8):
        k = word_length(letters, 200, 4)
        assert 4.0**k >= 1000 * 200 * letters > 4.0 ** (k - 1)
    assert word_length(10**30, 200, 4) == 31
