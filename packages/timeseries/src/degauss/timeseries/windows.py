"""Training windows: random stretches of many series, as a function of the sample number alone.

Every start of every series is equally likely. A window may begin before its series does, as long as
``least`` values of it are there; what is missing is marked as not seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from degauss.core.errors import InputError
from degauss.core.noise import Noise
from degauss.timeseries.config import TSDiffConfig
from degauss.timeseries.tsdiff import Windows, windows_of

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RandomWindows:
    """Sample numbers -> `Windows`. ``series``: regular records ``[n]`` with NaN in their gaps.

    Raises `InputError` if no series has the ``min_context + horizon`` values a window needs.
    """

    series: Sequence[Array]
    config: TSDiffConfig
    seed: int = 0
    _starts: NDArray[np.int64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        least = self.config.min_context + self.config.horizon
        counts = np.array([max(0, len(values) - least + 1) for values in self.series], dtype=np.int64)
        if not counts.sum():
            longest = max((len(values) for values in self.series), default=0)
            raise InputError(
                f"the longest series has {longest} values; training needs at least {least} "
                f"(min_context {self.config.min_context} + horizon {self.config.horizon})."
            )
        object.__setattr__(self, "_starts", np.cumsum(counts))

    def __call__(self, samples: Sequence[int]) -> Windows:
        u = Noise(self.seed, samples).uniform(torch.empty(len(samples), dtype=torch.float64))
        places = (u.numpy() * self._starts[-1]).astype(np.int64)
        which = np.searchsorted(self._starts, places, side="right")
        # Counted from the end, so that short series are padded at their beginning.
        ends = [len(self.series[k]) - (self._starts[k] - 1 - p) for k, p in zip(which, places, strict=True)]
        size = self.config.reach + self.config.length
        return windows_of(np.stack([tail(self.series[k][:end], size) for k, end in zip(which, ends, strict=True)]))


def tail(values: Array, size: int) -> Array:
    """The last ``size`` values, with NaN before the first where there are fewer."""
    kept = values[max(0, len(values) - size) :]
    return np.concatenate([np.full(size - len(kept), np.nan), kept])
