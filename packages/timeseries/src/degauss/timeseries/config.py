"""The configuration of a TSDiff model, apart from the model so that command lines need not import torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from degauss.core.errors import InputError, check_option, check_range

Scaling = Literal["mean", "standard"]

GENERAL = Path(__file__).parent / "weights" / "general"
"""The checkpoint that ships with the package."""


@dataclass(frozen=True)
class TSDiffConfig:
    """What a TSDiff model is. The defaults are the paper's, with daily lags left out.

    ``scaling``: divide by the mean absolute value of what is observed (the paper's), or standardise by its mean and
    standard deviation (better for series that vary little about a high level). ``guidance``: the default limit
    of observation guidance. ``min_context``: how many values the model needs to have seen before a forecast.
    """

    context: int = 336
    horizon: int = 48
    lags: tuple[int, ...] = ()
    scaling: Scaling = "mean"
    guidance: float = 64.0
    min_context: int = 336
    steps: int = 100
    beta_first: float = 1e-4
    beta_last: float = 0.1
    hidden: int = 64
    blocks: int = 3
    state: int = 128
    step_embedding: int = 128
    init_skip: bool = True
    dropout: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "lags", tuple(self.lags))
        for name in ("context", "horizon", "min_context", "steps", "hidden", "blocks", "state"):
            check_range(name, getattr(self, name), 1)
        check_range("min_context", self.min_context, 1, self.context)
        check_option("scaling", self.scaling, ("mean", "standard"))
        if any(lag < 1 for lag in self.lags):
            raise InputError(f"lags must be at least 1, but are {self.lags}.")

    @property
    def length(self) -> int:
        """Values in a window."""
        return self.context + self.horizon

    @property
    def reach(self) -> int:
        """How far the lags reach back before a window."""
        return max(self.lags, default=0)
