r"""Ancestral sampling without the evaluations that change nothing.

When a position is restored does not depend on what the denoiser says (``ancestral``). In a step in which a row restores
nothing, the answer for it is thrown away: it need not be asked. With n even steps of a log-linear schedule a row of L
masks has an expected

    n (1 - (1 - 1/n)^L)

steps that restore something, never more than L. RADD (Ou et al. 2024) saves the same evaluations by keeping the last
answer, which asks for a denoiser without a time. Where the steps are known beforehand there is nothing to keep, and the
denoiser may have a time.

Rows do not wait for each other either. The *events* of a row are its steps that restore something; step i of the run
does the i-th event of every row, each at its own time. So the denoiser is asked as often as the busiest row has events,
about whole batches, and at the end about the rows that still have some.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from degauss.core.denoiser import Denoiser
from degauss.core.jump.absorbing import Absorbing
from degauss.core.jump.ancestral import Path, backward, path_of, rows_of, shares_of
from degauss.core.jump.categorical import draw
from degauss.core.jump.process import Solver
from degauss.core.noise import Noise
from degauss.core.posterior import Categorical


class Agenda(NamedTuple):
    """All events of a run.

    ``event`` ``[batch, length]``: the number of the event that restores a position, -1 where none does. ``times``
    ``[batch, length]``: the time of each event, float64. ``choice`` ``[batch, length]``: the uniform number that
    chooses a position's token. ``rows`` ``[batch]``: rows by falling number of events. ``active``: how many rows have
    an i-th event, for each i, on the host.
    """

    event: Tensor
    times: Tensor
    choice: Tensor
    rows: Tensor
    active: tuple[int, ...]


def agenda_of(step: Tensor, times: Callable[[Tensor], Tensor], masked: Tensor, choice: Tensor) -> Agenda:
    """The agenda in which positions of equal ``step`` are one event of their row.

    ``step`` ``[batch, length]``: lower is earlier. ``times``: of the steps. Waits for the device once, to know the
    number of events.
    """
    # Positions that are not masked go last, and are no events.
    order = step.masked_fill(~masked, step.max() + 1).argsort(1)
    rising, is_mask = step.gather(1, order), masked.gather(1, order)
    new = torch.ones_like(is_mask)
    new[:, 1:] = rising[:, 1:] != rising[:, :-1]
    number = (new & is_mask).cumsum(1) - 1
    counts = (new & is_mask).sum(1)
    event = torch.empty_like(number).scatter(1, order, number.masked_fill(~is_mask, -1))
    # Every position of an event writes the same time; unmasked positions write behind all events.
    column = torch.where(is_mask, number, number.shape[1])
    at = times(rising)
    by_event = at.new_zeros(len(at), at.shape[1] + 1).scatter(1, column, at)[:, :-1]
    falling, rows = counts.sort(descending=True, stable=True)
    numbers = torch.arange(event.shape[1], device=event.device)
    active = (falling > numbers[:, None]).sum(1).tolist()
    return Agenda(event, by_event, choice, rows, tuple(count for count in active if count))


def do_event(denoiser: Denoiser[Categorical], agenda: Agenda, x: Tensor, i: int) -> Tensor:
    """x after the i-th event of every row."""
    event, times, choice, rows, active = agenda
    if active[i] == len(x):
        tokens = draw(denoiser(x, times[:, i]).logits, choice)
        return torch.where(event == i, tokens, x)
    rows = rows[: active[i]]
    part = x[rows]
    tokens = draw(rows_of(denoiser, rows)(part, times[rows, i]).logits, choice[rows])
    return x.index_copy(0, rows, torch.where(event[rows] == i, tokens, part))


class Carry(NamedTuple):
    """The shares of gone along the grid (``ancestral``) and its times, on the device; the agenda once it is drawn."""

    shares: Tensor
    times: Tensor
    agenda: Agenda | None


@dataclass(frozen=True)
class Skipping:
    """The samples of ``Ancestral`` from the evaluations that matter.

    Step i of the run does the i-th event of every row, and nothing once there is none: between the start and the end,
    observers see rows at times of their own. Waits for the device once, in the first step. The denoiser is given a
    time for each sample; one with conditioning must be able to take rows (``Conditioned``).
    """

    denoiser: Denoiser[Categorical]
    process: Absorbing

    def init(self, x: Tensor, grid: Tensor, /) -> Carry:
        grid = backward(grid)
        return Carry(shares_of(self.process, grid).to(x.device), grid.to(x.device), None)

    def step(self, carry: Carry, x: Tensor, i: int, noise: Noise, /) -> tuple[Carry, Tensor]:
        agenda = carry.agenda or self._agenda(carry, path_of(noise, x), x)
        if i < len(agenda.active):
            x = do_event(self.denoiser, agenda, x, i)
        return carry._replace(agenda=agenda), x

    def _agenda(self, carry: Carry, path: Path, x: Tensor) -> Agenda:
        # Restored in the first step whose share is not above the level.
        step = torch.searchsorted(-carry.shares[1:], -path.level)
        return agenda_of(step, carry.times.__getitem__, x == self.process.mask, path.choice)


def skipping() -> Solver[Absorbing]:
    """Ancestral sampling of absorbing corruption, evaluated only where a step restores something."""
    return Skipping
