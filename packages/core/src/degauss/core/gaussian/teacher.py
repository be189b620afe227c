r"""The teacher of a fitted solver: fine trajectories through the times of a grid, and the distance to their ends.

A solver that is fitted to a teacher must be judged on noise that the fit has not seen (``end_errors``): on the fitting
batch any solver with enough numbers is perfect.
"""

from __future__ import annotations

import torch
from torch import Tensor

from degauss.core.denoiser import Denoiser
from degauss.core.gaussian.unipc import unipc
from degauss.core.grid import check_grid
from degauss.core.kernel import Event, simulate
from degauss.core.noise import Noise
from degauss.core.observe import Trajectory
from degauss.core.posterior import Point
from degauss.core.sampling import Solver
from degauss.core.schedule import Schedule


def refine(schedule: Schedule, grid: Tensor, pieces: int) -> Tensor:
    """Each interval in ``pieces``, even in log-SNR, or in time where the log-SNR of an end is infinite."""
    grid = check_grid(grid)
    log_snr = schedule.log_snr(grid)
    parts = torch.arange(pieces, dtype=torch.float64) / pieces
    out: list[Tensor] = []
    for start, end, low, high in zip(grid[:-1], grid[1:], log_snr[:-1], log_snr[1:], strict=True):
        finite = bool(torch.isfinite(low) & torch.isfinite(high))
        inside = schedule.time(torch.lerp(low, high, parts)) if finite else torch.lerp(start, end, parts)
        # The grid's own times stay as they are, to the bit.
        out.extend((start[None], inside[1:]))
    return torch.cat([*out, grid[-1:]])


@torch.no_grad()
def trajectory(
    denoiser: Denoiser[Point],
    schedule: Schedule,
    x: Tensor,
    grid: Tensor,
    *,
    pieces: int = 20,
    solver: Solver | None = None,
) -> Tensor:
    """The teacher's states at the times of ``grid``, ``[steps + 1, batch, *event]``; the first is x.

    ``solver`` (UniPC-3 unless given; any deterministic one) takes ``pieces`` steps in each interval of the grid.
    Raises FloatingPointError if a state is not finite.
    """
    fine = refine(schedule, grid, pieces)
    kept = Trajectory()

    def keep(event: Event) -> None:
        if (event.i + 1) % pieces == 0:
            kept(event)

    kernel = (solver or unipc())(denoiser, schedule)
    simulate(kernel, x, fine, Noise(0, range(len(x))), observe=[keep])
    states = torch.stack([x, *kept.states])
    if not bool(torch.isfinite(states).all()):
        raise FloatingPointError(f"the teacher's {len(fine) - 1} steps made its states non-finite")
    return states


@torch.no_grad()
def end_errors(
    solver: Solver,
    denoiser: Denoiser[Point],
    schedule: Schedule,
    x: Tensor,
    grid: Tensor,
    *,
    teacher: Tensor | None = None,
) -> Tensor:
    """How far from the teacher each sample ends: the root mean square over the event, ``[batch]``.

    ``x``: start states *not used in fitting*; the error on the fitting batch says nothing about the next one. Give
    the median of the result: a mean is ruled by the few samples that end in another mode.
    """
    goal = (trajectory(denoiser, schedule, x, grid) if teacher is None else teacher)[-1]
    end = simulate(solver(denoiser, schedule), x, check_grid(grid), Noise(0, range(len(x))))
    return (end - goal).flatten(1).pow(2).mean(1).sqrt()
