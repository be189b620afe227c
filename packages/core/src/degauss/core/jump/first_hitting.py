r"""First-hitting sampling (Zheng et al. 2024): one token an evaluation, at the exact times of the continuous process.

Each masked position is restored when gone falls to its level, a uniform fraction of gone at the start (``ancestral``).
In order of these levels, the denoiser is asked once before each event, at its very time. Nothing is discretised: the
law is that of infinitely many ancestral steps, in as many evaluations as there are masks. It is also the sampler of
an any-order autoregressive model with a random order.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from torch import Tensor

from degauss.core.denoiser import Denoiser
from degauss.core.jump.absorbing import Absorbing
from degauss.core.jump.ancestral import backward, path_of
from degauss.core.jump.process import Solver
from degauss.core.jump.rates import Rates
from degauss.core.jump.skipping import Agenda, agenda_of, do_event
from degauss.core.noise import Noise
from degauss.core.posterior import Categorical


class Carry(NamedTuple):
    """gone at the start, and the agenda once it is drawn: every masked position is an event."""

    gone: float
    agenda: Agenda | None


@dataclass(frozen=True)
class FirstHitting:
    """Step i restores the i-th position of every row, and nothing once there is none.

    The grid counts steps, at least as many as any row has masks; of its times only the first matters. Observers see
    rows at times of their own. Waits for the device twice, before the first step and in it. The denoiser is given a
    time for each sample; one with conditioning must be able to take rows (``Conditioned``).
    """

    denoiser: Denoiser[Categorical]
    process: Absorbing

    def init(self, x: Tensor, grid: Tensor, /) -> Carry:
        grid = backward(grid)
        most = int((x == self.process.mask).sum(1).max())
        if most > len(grid) - 1:
            raise ValueError(f"first-hitting sampling takes a step for each mask: {most}, got {len(grid) - 1} steps")
        return Carry(float(self.process.rates(grid[0]).gone), None)

    def step(self, carry: Carry, x: Tensor, i: int, noise: Noise, /) -> tuple[Carry, Tensor]:
        agenda = carry.agenda
        if agenda is None:
            path = path_of(noise, x)
            times = partial(_time, self.process.rates, carry.gone)
            agenda = agenda_of(-path.level, times, x == self.process.mask, path.choice)
        if i < len(agenda.active):
            x = do_event(self.denoiser, agenda, x, i)
        return carry._replace(agenda=agenda), x


def _time(rates: Rates, gone: float, minus_level: Tensor) -> Tensor:
    return rates.time(-gone * minus_level)


def first_hitting() -> Solver[Absorbing]:
    """First-hitting sampling: exact, at most one evaluation for each position."""
    return FirstHitting
