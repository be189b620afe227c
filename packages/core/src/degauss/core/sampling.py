"""Sampling in one call: a denoiser, its schedule, a solver, a number of steps, a seed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from degauss.core.denoiser import Denoiser
from degauss.core.grid import Grid, check_grid, uniform_time
from degauss.core.kernel import Kernel, Observer, simulate
from degauss.core.noise import Noise
from degauss.core.posterior import Point
from degauss.core.schedule import Schedule

Solver = Callable[[Denoiser[Point], Schedule], Kernel[Any]]
"""A method waiting for its denoiser and schedule: ``dpmpp(order=2)``, ``unipc(order=3)``, ``Heun``, ..."""


def sample(
    denoiser: Denoiser[Point],
    schedule: Schedule,
    shape: Sequence[int],
    *,
    solver: Solver,
    steps: int,
    grid: Grid | Tensor = uniform_time,
    seed: int = 0,
    samples: Sequence[int] | None = None,
    cond: Mapping[str, Any] | None = None,
    observe: Iterable[Observer] = (),
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Draw from the model: ``shape`` (``[batch, *event]``) samples, in the units of the denoiser's x0.

    ``grid``: a grid function, or times that replace ``steps``. ``samples``: the sample ids of the rows, 0, 1, ...
    unless given; sample i of a seed is the same whatever else is in the batch. ``cond`` goes to the denoiser at
    every step. Autograd is left as it is: wrap the call in ``torch.inference_mode()`` where nothing is
    differentiated. Raises FloatingPointError if the result is not finite.
    """
    times = check_grid(grid if isinstance(grid, Tensor) else grid(schedule, steps))
    noise = Noise(seed, range(shape[0]) if samples is None else samples)
    sigma = float(schedule(times[0]).sigma)
    x = noise.normal(torch.empty(*shape, dtype=dtype, device=device)) * sigma
    conditioned = partial(denoiser, **cond) if cond else denoiser
    x = simulate(solver(conditioned, schedule), x, times, noise, observe=observe)
    if not bool(torch.isfinite(x).all()):
        raise FloatingPointError("sampling produced non-finite values; the denoiser or the grid is at fault")
    return x
