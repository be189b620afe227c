r"""Tau-leaping (Gillespie 2001; Campbell et al. 2022): the reverse rates at t, held until s.

With rates R_j from x to j, a position stays with probability exp(-(t - s) sum_j R_j) and else goes to j in proportion
to R_j. At most one jump counts, as tokens have no order in which several would add up. Its error is of first order in
the step. For absorbing corruption it is dominated by ``ancestral``, which costs the same and has the exact jump times;
it serves any other rates, those of a guided process first of all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from degauss.core.denoiser import Denoiser
from degauss.core.jump.ancestral import LevelCarry, levels_of
from degauss.core.jump.categorical import draw_weighted, uniforms
from degauss.core.jump.process import Process, Solver
from degauss.core.noise import Noise
from degauss.core.posterior import Categorical


class Carry(NamedTuple):
    """The grid's levels and times on the device, and the length of each step."""

    at: LevelCarry
    spans: tuple[float, ...]


@dataclass(frozen=True)
class TauLeaping:
    """Tau-leaping of either process; draw i + 1 of the noise at step i.

    The last step is ancestral, and leaves clean tokens.
    """

    denoiser: Denoiser[Categorical]
    process: Process

    def init(self, x: Tensor, grid: Tensor, /) -> Carry:
        return Carry(levels_of(self.process, x, grid), tuple((-grid.double().diff()).tolist()))

    def step(self, carry: Carry, x: Tensor, i: int, noise: Noise, /) -> tuple[Carry, Tensor]:
        posterior = self.denoiser(x, carry.at.times[i])
        levels = carry.at.levels
        if i < len(carry.spans) - 1:
            weights = self.process.leap(posterior, x, levels[i], carry.spans[i])
        else:
            weights = self.process.step_back(posterior, x, levels[i + 1], levels[i])
        # Where the law is none (NaN), a position has no token: the mask, or V.
        return carry, draw_weighted(weights, uniforms(noise, x, i + 1)).clamp(max=self.process.vocabulary)


def tau_leaping() -> Solver[Process]:
    """Tau-leaping of either process, first order in the step."""
    return TauLeaping
