r"""Dynamic time warping: which frame of one utterance belongs to which frame of another.

A warping path runs from (0, 0) to (n - 1, m - 1) by steps of (1, 1), (1, 0) and (0, 1), all of weight 1. The best one
has the least total cost (Sakoe & Chiba 1978, symmetric form without slope limits),

    D[i, j] = C[i, j] + min(D[i - 1, j - 1], D[i - 1, j], D[i, j - 1]).

Cells of one antidiagonal do not depend on one another, so each is one operation of numpy.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from degauss.core.errors import InputError

MOST_CELLS = 50_000_000
"""The largest table that is filled: two utterances of two minutes at 16 ms a frame."""


class Path(NamedTuple):
    """Pairs of frames in order: ``first [k]`` of one utterance, ``second [k]`` of the other; int64."""

    first: Tensor
    second: Tensor


def warp(cost: Tensor) -> Path:
    """The best path through ``cost [n, m]``, which must be finite; of equal ones, that with diagonal steps at the end.

    Raises `InputError` for more than `MOST_CELLS` cells, which is a matter of minutes and of gigabytes.
    """
    if cost.ndim != 2 or cost.numel() == 0:
        raise ValueError(f"expected a cost [n, m], got {list(cost.shape)}")
    check_size(*cost.shape)
    if not bool(torch.isfinite(cost).all()):
        raise ValueError("the cost of some pair of frames is not finite")
    return _walk(_totals(cost.detach().cpu().double().numpy()))


def check_size(n: int, m: int) -> None:
    """Raise `InputError` if ``n`` by ``m`` frames are too many to align; cheaper asked before a cost is computed."""
    if n * m > MOST_CELLS:
        raise InputError(f"{n} and {m} frames are too many for time warping; cut the recordings into sentences.")


def _totals(cost: NDArray[np.float64]) -> NDArray[np.float64]:
    """D ``[n + 1, m + 1]``, with a border of infinity in front."""
    n, m = cost.shape
    total = np.full((n + 1, m + 1), np.inf)
    total[0, 0] = 0
    for diagonal in range(n + m - 1):
        i = np.arange(max(0, diagonal - m + 1), min(n, diagonal + 1))
        j = diagonal - i
        before = np.minimum(np.minimum(total[i, j], total[i, j + 1]), total[i + 1, j])
        total[i + 1, j + 1] = cost[i, j] + before
    return total


def _walk(total: NDArray[np.float64]) -> Path:
    i, j = total.shape[0] - 1, total.shape[1] - 1
    pairs = [(i, j)]
    while (i, j) != (1, 1):
        steps = ((i - 1, j - 1), (i - 1, j), (i, j - 1))
        i, j = min(steps, key=lambda cell: total[cell])
        pairs.append((i, j))
    first, second = (torch.from_numpy(np.array(pairs[::-1]).T - 1)).unbind()
    return Path(first, second)
