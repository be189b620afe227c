"""Sampling in one call: a denoiser, its schedule, a solver, a number of steps, a seed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from degauss.core.denoiser import Denoiser
from degauss.core.grid import Grid, check_grid, uniform_time
from degauss.core.kernel import Event, Kernel, Observer, simulate
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
    differentiated. Raises FloatingPointError, naming the step, if the result is not
    finite.
    """
    times = check_grid(grid if isinstance(grid, Tensor) else grid(schedule, steps))
    noise = Noise(seed, range(shape[0]) if samples is None else samples)
    sigma = float(schedule(times[0]).sigma)
    x = noise.normal(torch.empty(*shape, dtype=dtype, device=device)) * sigma
    conditioned = partial(denoiser, **cond) if cond else denoiser
    end = simulate(solver(conditioned, schedule), x, times, noise, observe=observe)
    if not bool(torch.isfinite(end).all()):
        raise FloatingPointError(_blame(conditioned, schedule, solver, x, times, noise))
    return end


def _blame(
    denoiser: Denoiser[Point], schedule: Schedule, solver: Solver, x: Tensor, times: Tensor, noise: Noise
) -> str:
    """Where a run went wrong. Runs are exact functions of their seed, so none is watched until one has failed."""
    steps = len(times) - 1
    done = 0

    def count(event: Event) -> None:
        nonlocal done
        done = event.i + 1
        if not bool(torch.isfinite(event.x).all()):
            raise FloatingPointError(f"the solver's step {done} of {steps} made its state non-finite")

    def checked(x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        point = denoiser(x, t, **cond)
        wrong = int((~torch.isfinite(point.mean)).sum())
        if wrong:
            raise FloatingPointError(
                f"the denoiser gave {wrong} non-finite values of {point.mean.numel()} at step {done + 1} of {steps} "
                f"(t = {float(t.flatten()[0]):.4g}), where its input was finite"
            )
        return point

    try:
        simulate(solver(checked, schedule), x, times, noise, observe=(count,))
    except FloatingPointError as error:
        return str(error)
    return "sampling gave non-finite values, but finite ones when repeated: the denoiser is not deterministic"
