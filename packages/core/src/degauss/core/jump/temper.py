"""Sharper posteriors: temperature and top-p as denoisers of denoisers. Tokens that are certain stay certain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from degauss.core.denoiser import Denoiser
from degauss.core.errors import InputError
from degauss.core.jump.process import per_token
from degauss.core.posterior import Categorical


@dataclass(frozen=True, eq=False)
class Tempered:
    """Logits divided by a temperature > 0: a number, or a function of t (elementwise) for one that changes on the way.

    Below 1 likely tokens become likelier. Raises `InputError` for a number that is not above 0.
    """

    denoiser: Denoiser[Categorical]
    temperature: float | Callable[[Tensor], Tensor]

    def __post_init__(self) -> None:
        if not callable(self.temperature) and not self.temperature > 0:
            raise InputError(f"temperature must be above 0, but is {self.temperature}.")

    def __call__(self, x: Tensor, t: Tensor, /, **cond: Any) -> Categorical:
        logits = self.denoiser(x, t, **cond).logits
        if not callable(self.temperature):
            return Categorical(logits / self.temperature)
        return Categorical(logits / per_token(self.temperature(t), x)[..., None].to(logits.dtype))


@dataclass(frozen=True, eq=False)
class Nucleus:
    """The most likely tokens that together have probability ``mass`` or just more; the others are ruled out.

    Top-p (Holtzman et al. 2020); ``mass`` in (0, 1], the most likely token always stays. Raises `InputError` elsewhere.
    """

    denoiser: Denoiser[Categorical]
    mass: float

    def __post_init__(self) -> None:
        if not 0 < self.mass <= 1:
            raise InputError(f"mass must be in (0, 1], but is {self.mass}.")

    def __call__(self, x: Tensor, t: Tensor, /, **cond: Any) -> Categorical:
        logits = self.denoiser(x, t, **cond).logits
        if self.mass == 1:
            return Categorical(logits)
        falling, order = logits.sort(dim=-1, descending=True, stable=True)
        probabilities = torch.softmax(falling.double(), -1)
        before = probabilities.cumsum(-1) - probabilities
        out = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before >= self.mass)
        return Categorical(logits.masked_fill(out, float("-inf")))
