r"""Whether a generator repeats its training windows: the nearest-neighbour check.

For every synthetic window the distance to the nearest training window, and the same for every held-out real window:
nobody can have copied those. A generator that has learned the distribution comes as near to its training windows as
held-out windows do, and one that repeats them comes nearer. ``closer`` is the chance that a synthetic window is nearer
than a held-out one (1/2 if alike), and ``near`` the share of synthetic windows that are nearer than all but 5 % of the
held-out ones (5 % if alike). The check is flagged where that share is above 5 % by more than chance allows,

    near > 0.05 + 3 sqrt(0.05 * 0.95 (1/n + 1/m)).

A generator that makes only the most usual windows is nearer too, and is flagged as well: look at its VDS.

Distances are root mean squares over a window, in units where the data lie in [0, 1]. A check that is passed is no proof
of privacy: a generator may reveal what it has learned in other ways.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[np.float64]

LEVEL = 0.05
_SAME = 1e-6
_AT_ONCE = 1 << 20


@dataclass(frozen=True, eq=False)
class CopyCheck:
    """Distances to the nearest training window: ``synthetic [n]`` and ``held [m]``."""

    synthetic: Array = field(repr=False)
    held: Array = field(repr=False)

    @property
    def closer(self) -> float:
        """The chance that a synthetic window is nearer to the training windows than a held-out one; ties count half."""
        ordered = np.sort(self.held)
        below = np.searchsorted(ordered, self.synthetic, side="left")
        upto = np.searchsorted(ordered, self.synthetic, side="right")
        return float(1 - (below + upto).mean() / 2 / len(ordered))

    @property
    def near(self) -> float:
        """The share of synthetic windows nearer than all but 5 % of the held-out ones."""
        return float((self.synthetic < np.quantile(self.held, LEVEL)).mean())

    @property
    def limit(self) -> float:
        """The largest such share that chance explains."""
        return LEVEL + 3 * math.sqrt(LEVEL * (1 - LEVEL) * (1 / len(self.synthetic) + 1 / len(self.held)))

    @property
    def same(self) -> int:
        """How many synthetic windows are training windows, to rounding."""
        return int((self.synthetic < _SAME).sum())

    @property
    def flagged(self) -> bool:
        """Whether the generator comes nearer to its training windows than chance explains."""
        return self.near > self.limit or self.same > 0

    def words(self) -> str:
        """The outcome in a sentence."""
        if self.same:
            return f"{self.same} of {len(self.synthetic)} synthetic windows are training windows: they are copies."
        found = f"{self.near:.1%} of the synthetic windows are nearer to a training window than all but 5 % of the "
        found += f"held-out ones (5 % expected, up to {self.limit:.1%} by chance)"
        if self.flagged:
            return f"{found}: the generator may repeat its training data, or make usual windows alone."
        return f"{found}: no sign of copying."


def check_copies(train: Array, held: Array, synthetic: Array) -> CopyCheck:
    """The check of windows ``[n, length, features]`` in units where the data lie in [0, 1]."""
    return CopyCheck(nearest(synthetic, train), nearest(held, train))


def nearest(windows: Array, train: Array) -> Array:
    """The root mean square distance of each window to the nearest of ``train``."""
    rows, table = (torch.from_numpy(np.ascontiguousarray(part)).float().flatten(1) for part in (windows, train))
    chunk = max(1, _AT_ONCE // len(table))
    # Not by the product form |a|^2 + |b|^2 - 2ab, whose rounding hides exact copies.
    exact = "donot_use_mm_for_euclid_dist"
    parts = [torch.cdist(some, table, compute_mode=exact).amin(1) for some in rows.split(chunk)]
    return torch.cat(parts).double().numpy() / math.sqrt(table.shape[1])
