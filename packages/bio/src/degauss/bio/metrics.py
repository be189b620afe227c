r"""How designed sequences compare with natural ones: eight questions, each with a number.

No one number says that a design is good. Rewards can be gamed, and so can likelihood: a repeat of two letters is *more*
likely under a model of DNA than DNA is. So what is asked of a set of designs is: does a held-out oracle rank them high
(`percentile`), are their words and motifs those of nature (`kmer_correlation`, `motif_correlation`), is their
likelihood neither below nor above what natural sequences have (`band`), do they differ from each other
(`pair_distance`, `unique_share`) and from what is known (`nearest`, `copied`), and are they more than a repeat
(`dinucleotide_entropy`, `top_dinucleotide_share`)?

Sequences are tokens, int64 ``[n, L]``; scores are ``[n]``, higher is better. Answers are float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from degauss.bio.kmers import words
from degauss.bio.motifs import HIT, Motif, hits, one_hot

if TYPE_CHECKING:
    from degauss.bio.constraints import Constraints

# --- scores -------------------------------------------------------------------------------------------------


def ranks(values: Tensor) -> Tensor:
    """The rank of each value from 1, ties sharing their mean, ``[n]`` float64."""
    _, group, count = values.unique(return_inverse=True, return_counts=True)
    last = count.cumsum(0).double()
    return (last - (count - 1) / 2)[group]


def percentile(scores: Tensor, reference: Tensor) -> Tensor:
    """The share of a reference below each score, ties counting half: ``[n]`` in [0, 1].

    ``reference``: ``[m]``, such as the same oracle's scores of natural sequences.
    """
    ordered = reference.double().sort().values
    below = torch.searchsorted(ordered, scores.double(), right=False)
    upto = torch.searchsorted(ordered, scores.double(), right=True)
    return (below + upto).double() / (2 * len(reference))


def auroc(scores: Tensor, labels: Tensor) -> float:
    """The probability that a positive scores above a negative, ties counting half (Mann-Whitney).

    Raises ValueError unless both labels occur.
    """
    positive = labels.bool()
    count, others = int(positive.sum()), int((~positive).sum())
    if not count or not others:
        raise ValueError(f"{count} positives and {others} negatives have no ROC")
    return (float(ranks(scores)[positive].sum()) - count * (count + 1) / 2) / (count * others)


def pearson(a: Tensor, b: Tensor) -> float:
    """The correlation of two lists; NaN where one of them is constant."""
    a, b = a.double() - a.double().mean(), b.double() - b.double().mean()
    scale = float(a.norm() * b.norm())
    return float(a @ b) / scale if scale > 0 else math.nan


def spearman(a: Tensor, b: Tensor) -> float:
    """The correlation of ranks; NaN where one list is constant."""
    return pearson(ranks(a), ranks(b))


class Band(NamedTuple):
    """From where to where the middle share of natural scores lies."""

    low: float
    high: float

    def outside(self, values: Tensor) -> tuple[float, float]:
        """The shares of values below it and above it."""
        return float((values < self.low).double().mean()), float((values > self.high).double().mean())


def band(natural: Tensor, share: float = 0.95) -> Band:
    """The band that holds the middle ``share`` of natural scores ``[m]``; for likelihoods, both of its ends count."""
    low, high = (
        natural.double().quantile(torch.tensor([(1 - share) / 2, (1 + share) / 2], dtype=torch.float64)).tolist()
    )
    return Band(low, high)


# --- words and motifs ---------------------------------------------------------------------------------------


def kmer_counts(tokens: Tensor, k: int = 3, vocabulary: int = 4) -> Tensor:
    """How often each word of k letters occurs in all sequences together, ``[V^k]``."""
    return torch.bincount(words(tokens, k, vocabulary).flatten(), minlength=vocabulary**k)


def kmer_correlation(tokens: Tensor, natural: Tensor, k: int = 3, vocabulary: int = 4) -> float:
    """Pearson's correlation of the counts of all words of k letters (DRAKES, Wang et al. 2024, section 6.1)."""
    return pearson(kmer_counts(tokens, k, vocabulary), kmer_counts(natural, k, vocabulary))


def motif_correlation(tokens: Tensor, natural: Tensor, motifs: Sequence[Motif], p: float = HIT) -> float:
    """Spearman's correlation over motifs of their hits in all designs and in all natural sequences (ibid.)."""
    return spearman(hits(motifs, tokens, p).sum(0), hits(motifs, natural, p).sum(0))


# --- diversity and complexity -------------------------------------------------------------------------------


def pair_distance(tokens: Tensor, vocabulary: int) -> float:
    r"""The share of positions at which two different sequences of the set differ, in the mean over all pairs.

    At a position where letter v occurs c_v times among n, a pair is equal with probability
    sum_v c_v (c_v - 1) / (n (n - 1)): no pair is formed. NaN for fewer than two sequences.
    """
    n = len(tokens)
    if n < 2:
        return math.nan
    counts = one_hot(tokens, vocabulary).double().sum(0)
    return 1 - float((counts * (counts - 1)).sum(-1).mean()) / (n * (n - 1))


def unique_share(tokens: Tensor) -> float:
    """The number of different sequences over the number of sequences."""
    return len(tokens.unique(dim=0)) / len(tokens)


def dinucleotide_entropy(tokens: Tensor, vocabulary: int = 4) -> Tensor:
    """The entropy of the pairs of neighbours in bits, ``[n]``: 4 for even DNA, 1 for a repeat of AT."""
    share = _pairs(tokens, vocabulary)
    return -torch.xlogy(share, share).sum(1) / math.log(2)


def top_dinucleotide_share(tokens: Tensor, vocabulary: int = 4) -> Tensor:
    """The share of the commonest pair of neighbours in each sequence, ``[n]``."""
    return _pairs(tokens, vocabulary).amax(1)


def longest_run(tokens: Tensor) -> Tensor:
    """The longest stretch of one letter in each sequence, ``[n]`` int64."""
    run = torch.ones_like(tokens[:, 0])
    longest = run
    for place in range(1, tokens.shape[1]):
        run = torch.where(tokens[:, place] == tokens[:, place - 1], run + 1, 1)
        longest = torch.maximum(longest, run)
    return longest


def _pairs(tokens: Tensor, vocabulary: int) -> Tensor:
    pairs = words(tokens, 2, vocabulary)
    counts = torch.zeros(len(tokens), vocabulary**2, dtype=torch.float64)
    return counts.scatter_add_(1, pairs, torch.ones_like(pairs, dtype=torch.float64)) / pairs.shape[1]


# --- constraints --------------------------------------------------------------------------------------------


def constraints_met(sequences: Sequence[str], constraints: Constraints) -> Tensor:
    """Whether each sequence violates none of the constraints, bool ``[n]``; its mean is the share that holds."""
    return torch.tensor([not constraints.violations(sequence) for sequence in sequences], dtype=torch.bool)


# --- novelty ------------------------------------------------------------------------------------------------


class Nearest(NamedTuple):
    """For each sequence, the natural one with most equal positions: its number ``row [n]`` and the ``identity [n]``."""

    row: Tensor
    identity: Tensor


def nearest(tokens: Tensor, natural: Tensor, vocabulary: int) -> Nearest:
    """The nearest natural sequences by Hamming distance, exactly; all of one length. The first of equals."""
    best = torch.full((len(tokens),), -1.0)
    index = torch.zeros(len(tokens), dtype=torch.int64)
    designs = one_hot(tokens, vocabulary).flatten(1)
    for first, some in zip(range(0, len(natural), 4096), natural.split(4096), strict=True):
        equal, at = (designs @ one_hot(some, vocabulary).flatten(1).T).max(1)
        better = equal > best
        best, index = torch.where(better, equal, best), torch.where(better, at + first, index)
    return Nearest(index, best.double() / tokens.shape[1])


def copied(tokens: Tensor, known: Sequence[Tensor], vocabulary: int, k: int) -> Tensor:
    """The share of each sequence's positions that lie in a word of k letters of a known sequence, ``[n]``.

    Unlike `nearest`, it sees what was copied from another place. ``known``: sets of tokens, each of one length. Known
    sequences shorter than k have no word.
    """
    indexed = [words(some, k, vocabulary).flatten() for some in known if some.shape[1] >= k]
    if not indexed or tokens.shape[1] < k:
        return torch.zeros(len(tokens), dtype=torch.float64)
    found = torch.isin(words(tokens, k, vocabulary), torch.cat(indexed).unique())
    covered = torch.zeros(tokens.shape, dtype=torch.bool)
    for shift in range(k):
        covered[:, shift : shift + found.shape[1]] |= found
    return covered.double().mean(1)


def word_length(letters: int, length: int, vocabulary: int) -> int:
    """The shortest word that a random sequence of ``length`` shares with ``letters`` known ones once in a thousand.

    V^k >= 1000 letters length, as far as words fit 63 bits (k up to 31 for DNA, 14 for proteins).
    """
    most = 31 if vocabulary <= 4 else 14
    return min(most, math.ceil(math.log(1000 * max(letters, 1) * max(length, 1)) / math.log(vocabulary)))
