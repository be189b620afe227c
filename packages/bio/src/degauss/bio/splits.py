"""Which sequences train a predictor, and which judge it: sets that share nothing.

Sequences of a genome are split by chromosome. Others are split by *clusters*: two sequences that share a word of k
letters are in one cluster, and so are all that are linked through others (single linkage). With k = 20 for DNA, chance
makes next to no link, and relatives are together: a predictor cannot score well on a held-out cluster by remembering
one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from degauss.bio.kmers import words
from degauss.core.errors import InputError
from degauss.core.train import Shuffle


def chromosomes(text: str) -> frozenset[str]:
    """``"3-11,X"`` -> {"chr3", ..., "chr11", "chrX"}; `InputError` for anything else."""
    found: set[str] = set()
    for part in text.split(","):
        part = part.strip().removeprefix("chr")
        first, dash, last = part.partition("-")
        if dash and first.isdigit() and last.isdigit() and int(first) <= int(last):
            found |= {f"chr{number}" for number in range(int(first), int(last) + 1)}
        elif part.isalnum():
            found.add(f"chr{part}")
        else:
            raise InputError(f"chromosomes {text!r}: {part!r} is none; expected such as 3-11 or 12-22,X.")
    return frozenset(found)


def clusters(tokens: Tensor, k: int = 20, vocabulary: int = 4) -> Tensor:
    """The cluster of each sequence, ``[n, L] -> [n]``: no two of different clusters share a word of k letters.

    Clusters are numbered from 0 in the order of their first sequence.
    """
    rows = words(tokens, k, vocabulary)
    order = rows.flatten().argsort(stable=True)
    word, owner = rows.flatten()[order], order // rows.shape[1]
    linked = word[1:] == word[:-1]
    edges = torch.stack([owner[:-1][linked], owner[1:][linked]], 1).unique(dim=0)
    parent = list(range(len(tokens)))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for a, b in edges.tolist():
        first, second = sorted((root(a), root(b)))
        parent[second] = first
    # The root of a cluster is its first sequence, so sorted roots are in that order.
    return torch.tensor([root(node) for node in range(len(tokens))]).unique(return_inverse=True)[1]


def share_out(labels: Tensor, shares: Sequence[float], seed: int = 0) -> Tensor:
    """The part of each sequence, ``[n]`` in 0, ..., len(shares) - 1: whole clusters, about in these shares.

    ``labels``: the cluster of each sequence. The largest clusters go first, equal ones in an order that follows from
    the seed, each to the part that lacks most. Raises `InputError` unless every part gets a sequence.
    """
    sizes = labels.bincount()
    wanted = [share / sum(shares) * len(labels) for share in shares]
    shuffled = torch.from_numpy(Shuffle(len(sizes), seed)(range(len(sizes))))
    part_of = torch.zeros(len(sizes), dtype=torch.int64)
    for cluster in shuffled[sizes[shuffled].argsort(descending=True, stable=True)].tolist():
        part = max(range(len(wanted)), key=lambda i: wanted[i])
        part_of[cluster] = part
        wanted[part] -= int(sizes[cluster])
    parts = part_of[labels]
    missing = set(range(len(shares))) - set(parts.tolist())
    if missing:
        raise InputError(
            f"{len(sizes)} clusters cannot be shared out into {len(shares)} parts; expected more clusters."
        )
    return parts
