"""Sampling tokens in one call: a denoiser, its process, a solver, a number of steps, a seed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from degauss.core.denoiser import Denoiser
from degauss.core.grid import check_grid
from degauss.core.jump.absorbing import Absorbing
from degauss.core.jump.ancestral import Conditioned
from degauss.core.jump.infill import FREE, Given, Held, check_template
from degauss.core.jump.process import Process, Solver
from degauss.core.kernel import Kernel, Observer, simulate
from degauss.core.noise import Noise
from degauss.core.posterior import Categorical

P = TypeVar("P", bound=Process)


def sample_tokens(
    denoiser: Denoiser[Categorical],
    process: P,
    shape: Sequence[int],
    *,
    solver: Solver[P],
    steps: int,
    grid: Tensor | None = None,
    template: Tensor | None = None,
    seed: int = 0,
    samples: Sequence[int] | None = None,
    cond: Mapping[str, Any] | None = None,
    observe: Iterable[Observer] = (),
    device: torch.device | str = "cpu",
) -> Tensor:
    """Draw sequences from the model: tokens 0, ..., V - 1, integers of ``shape`` = ``[batch, length]``.

    ``grid``: times falling from 1 that replace ``steps`` even ones. ``template``: tokens that are given, ``FREE``
    elsewhere (see ``infill``). ``samples``: the sample ids of the rows, 0, 1, ... unless given; sample i of a seed is
    the same whatever else is in the batch. ``cond`` goes to the denoiser at every step, its tensors with the batch
    first. Autograd is left as it is: wrap the call in ``torch.inference_mode()`` where nothing is differentiated.

    Raises FloatingPointError where the denoiser's probabilities were no numbers, so that a position has no token.
    """
    times = check_grid(torch.linspace(1, 0, steps + 1, dtype=torch.float64) if grid is None else grid)
    noise = Noise(seed, range(shape[0]) if samples is None else samples)
    x = process.start(torch.empty(*shape, device=device), noise)
    conditioned = Conditioned(denoiser, cond) if cond else denoiser
    if template is None:
        kernel = solver(conditioned, process)
    else:
        given = check_template(template, shape, process.vocabulary).to(x)
        x = torch.where(given == FREE, x, given)
        kernel = _infilling(conditioned, process, given, solver)
    x = simulate(kernel, x, times, noise, observe=observe)
    empty = int(((x < 0) | (x >= process.vocabulary)).sum())
    if empty:
        raise FloatingPointError(
            f"{empty} of {x.numel()} positions got no token: the denoiser's logits have NaN or +inf"
        )
    return x


def _infilling(denoiser: Denoiser[Categorical], process: P, given: Tensor, solver: Solver[P]) -> Kernel[Any]:
    """The kernel that keeps what is given."""
    if isinstance(process, Absorbing):
        return solver(denoiser, process)
    return Held(solver(Given(denoiser, given == FREE), process), given)
