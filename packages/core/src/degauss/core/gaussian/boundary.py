r"""Optimal boundary conditions: one good start noise for every condition (Ma et al. 2024).

A probability-flow ODE maps its start noise and a condition y to a sample h(x_T, y). In restoration one wants a single
faithful answer for each y, and some x_T give better ones than others. The paper finds that how good an x_T is hardly
depends on y, so it chooses one on a few pairs of a condition and its clean data,

    x_T = argmin over candidates of  sum_i d(h(x_T, y_i), x0_i),

and starts every later y from it: no training, nothing more to evaluate, and a sample that does not vary from run to
run. It gives up variety for that, so it is for point estimates, and not for drawing from p(x0 | y).

Noise here is keyed by seed and sample id, so a start noise *is* its (seed, sample id): candidate k is sample k, and

    start = optimal_start(denoiser, schedule, clean, cond, solver=solver, grid=grid)
    sample(denoiser, schedule, shape, ..., seed=start.seed, samples=start.samples(batch), cond=...)

starts every row of the batch from the chosen noise. The smallest of many errors flatters itself: measure it again
with ``start_errors`` on pairs that were not used to choose.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from degauss.core.denoiser import Denoiser
from degauss.core.errors import InputError
from degauss.core.fields import integer, numbers
from degauss.core.grid import check_grid
from degauss.core.kernel import simulate
from degauss.core.noise import Noise
from degauss.core.posterior import Point
from degauss.core.sampling import Solver
from degauss.core.schedule import Schedule

Distance = Callable[[Tensor, Tensor], Tensor]
"""(samples, clean data), each ``[batch, *event]``, to a distance for each row, ``[batch]``."""


def mean_square(x: Tensor, clean: Tensor) -> Tensor:
    """The mean over the event of (x - clean)^2."""
    return (x - clean).flatten(1).pow(2).mean(1)


@dataclass(frozen=True)
class OptimalStart:
    """A chosen start noise: that of sample id ``sample`` under ``seed``.

    ``errors``: the mean distance of each candidate on the reference pairs, ``[candidates]``; candidate ``sample`` has
    the least of them.
    """

    seed: int
    sample: int
    errors: tuple[float, ...]

    def __post_init__(self) -> None:
        if not 0 <= self.sample < len(self.errors):
            raise InputError(f"sample must be one of the {len(self.errors)} candidates, but is {self.sample}.")

    @property
    def error(self) -> float:
        """The mean distance on the pairs it was chosen on: lower than that on others."""
        return self.errors[self.sample]

    def samples(self, batch: int) -> list[int]:
        """Sample ids that give every row of a batch this noise."""
        return [self.sample] * batch

    def to_json(self) -> dict[str, Any]:
        """Plain numbers and a list."""
        return {**vars(self), "errors": list(self.errors)}

    @classmethod
    def from_json(cls, about: Mapping[str, Any]) -> OptimalStart:
        """What ``to_json`` gave; InputError naming the field that is missing or of another kind."""
        return cls(integer(about, "seed"), integer(about, "sample"), numbers(about, "errors"))


def optimal_start(
    denoiser: Denoiser[Point],
    schedule: Schedule,
    clean: Tensor,
    cond: Mapping[str, Any],
    *,
    solver: Solver,
    grid: Tensor,
    candidates: int = 200,
    seed: int = 0,
    distance: Distance = mean_square,
) -> OptimalStart:
    """The best of ``candidates`` start noises on the reference pairs.

    ``clean``: ``[pairs, *event]``; ``cond``: the denoiser's conditions, whose tensors have a row for each pair.
    ``solver``: deterministic, and with ``grid`` the one that will be run later. Costs candidates x pairs runs.
    Raises InputError for fewer than two candidates, conditions that do not fit the pairs or errors not finite.
    """
    if candidates < 2:
        raise InputError(f"candidates must be at least 2, but is {candidates}.")
    errors = start_errors(
        denoiser,
        schedule,
        clean,
        cond,
        solver=solver,
        grid=grid,
        samples=range(candidates),
        seed=seed,
        distance=distance,
    ).mean(1)
    return OptimalStart(seed, int(errors.argmin()), tuple(errors.tolist()))


@torch.no_grad()
def start_errors(
    denoiser: Denoiser[Point],
    schedule: Schedule,
    clean: Tensor,
    cond: Mapping[str, Any],
    *,
    solver: Solver,
    grid: Tensor,
    samples: Sequence[int],
    seed: int = 0,
    distance: Distance = mean_square,
) -> Tensor:
    """The distance from the clean data of each pair when started from the noise of each sample id.

    ``[len(samples), pairs]``, one batch of all pairs at a time. On other pairs than those that chose a start it is that
    start's honest error: ``start_errors(..., samples=[start.sample], seed=start.seed)``.
    """
    pairs = len(clean)
    if not pairs:
        raise InputError("clean must hold at least one reference pair, but is empty.")
    for name, value in cond.items():
        if isinstance(value, Tensor) and value.ndim and len(value) != pairs:
            raise InputError(f"cond[{name!r}] must have a row for each of the {pairs} pairs, but has {len(value)}.")
    grid = check_grid(grid)
    kernel = solver(partial(denoiser, **cond), schedule)
    sigma = float(schedule(grid[0]).sigma)
    rows: list[Tensor] = []
    for sample in samples:
        # All rows share one sample id, hence one noise.
        noise = Noise(seed, [sample] * pairs)
        errors = distance(simulate(kernel, noise.normal(clean) * sigma, grid, noise), clean)
        if errors.shape != (pairs,):
            raise ValueError(f"distance must give one number a pair, ({pairs},), but gave {tuple(errors.shape)}")
        if not bool(torch.isfinite(errors).all()):
            raise InputError(f"the start noise of sample {sample} must give finite errors, but gave {errors.tolist()}.")
        rows.append(errors)
    return torch.stack(rows)
