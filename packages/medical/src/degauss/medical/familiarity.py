r"""Whether a reconstruction looks like what its prior knows: how hard it is to denoise.

Noise of a few levels sigma is put on its slices x and taken off again; the root mean square errors are held against
those on slices that the prior's card reports, which were not trained on but are of their kind:

    strangeness = geometric mean over sigma of   |D(x + sigma n) - x| / (the card's error at sigma).

About 1, or below, for what is alike. With 8 views at 64 x 64 and the shipped prior of CT, reconstructions of a body
have 0.7, of a chest that its field of view cuts off 1.0; of squares of random height 1.3, and of smooth random fields
1.7. A low number is no promise: a prior can make strange anatomy look familiar.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from degauss.core.errors import InputError
from degauss.core.files import read_json
from degauss.medical.prior import SlicePrior
from degauss.medical.prior_quality import denoising

STRANGE = 1.2
"""Above this a reconstruction is unlike what the prior knows."""
LEVELS = (0.1, 0.3, 1.0)
_AT_MOST = 32  # slices


def strangeness(prior: SlicePrior, known: Mapping[float, float], x: Tensor, seed: int = 0) -> float:
    """Of x ``[slices, rows, columns]`` in prior units. ``known``: the errors at levels, from `known_errors`."""
    every = -(-len(x) // _AT_MOST)
    found = denoising(prior, x[::every, None].float().cpu(), tuple(known), seed)
    return math.exp(sum(math.log(max(row.prior, 1e-12) / known[row.sigma]) for row in found) / len(found))


def known_errors(folder: Path, pixels: int) -> dict[float, float]:
    """The card's errors on held-out slices at `LEVELS`, of the size nearest to ``pixels`` a side; empty without."""
    try:
        card: Any = read_json(folder / "card.json")
        sizes = card["metrics"]["by_size"]
        nearest = min(sizes, key=lambda row: abs(math.log(row["size"] / pixels)))
        errors = {float(row["sigma"]): float(row["prior"]) for row in nearest["denoising"]}
    except (InputError, KeyError, TypeError, ValueError):  # a prior of the user's own may have no such card
        return {}
    return {sigma: errors[sigma] for sigma in LEVELS if errors.get(sigma, 0) > 0}
