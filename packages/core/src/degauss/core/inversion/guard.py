r"""The precision guard: what rounding will do to an inversion, known before it is run.

An exact inverse undoes contractions, so it expands rounding errors: BDIA by 1/gamma a step, EDICT by p^-2. Past some
number of steps the latent is noise that has nothing to do with the data. The growth is that of a linear recursion:
with M_i the matrix by which step i carries an error of the method's states, an error made at step j arrives as

    M_{N-1} ... M_{j+1} error   at the data,      M_0^-1 ... M_{j-1}^-1 error   at the noise.

The matrices contain the denoiser's derivative, for which that of standard normal data, alpha / (alpha^2 + sigma^2),
stands in. The prediction is the root of the sum of squares of these products' norms times the dtype's epsilon,
relative to the size sqrt(alpha^2 + sigma^2) of the states; the worse of both directions counts. Data narrower
than a standard normal, or a network that is not smooth, lose more: the guard knows the method, not the model.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from degauss.core.errors import InputError
from degauss.core.gaussian.table import Array, on_grid
from degauss.core.schedule import Schedule

LIMIT = 1e-2


class Guarded(Protocol):
    """A method whose loss can be predicted."""

    @property
    def remedy(self) -> str:
        """What loses less to rounding, as the end of a sentence."""
        ...

    def transfers(self, schedule: Schedule, grid: Tensor) -> Array:
        """How each of the steps that are inverted carries errors of the states, ``[steps, m, m]``."""
        ...


def response(schedule: Schedule, grid: Tensor) -> Array:
    """The denoiser's derivative d mean / d x along a grid for standard normal data."""
    path = on_grid(schedule, grid)
    return path.alpha / (path.alpha**2 + path.sigma**2)


def predicted_error(method: Guarded, schedule: Schedule, grid: Tensor, dtype: torch.dtype) -> float:
    """The error of a round trip relative to the size of the states; above 1, nothing is left.

    ``grid``: the sampler's, from noise to data.
    """
    path = on_grid(schedule, grid)
    onward = method.transfers(schedule, grid)
    sizes = np.hypot(path.alpha, path.sigma)[-len(onward) - 1 :]
    back: Array = np.linalg.inv(onward).astype(np.float64)[::-1]
    return torch.finfo(dtype).eps * max(_growth(onward, sizes), _growth(back, sizes[::-1]))


def _growth(matrices: Array, sizes: Array) -> float:
    """The root of the sum of squares of what an error of relative size 1, made at each time, has grown to."""
    total, product = 1.0, np.eye(matrices.shape[1])
    for matrix, size in zip(matrices[::-1], sizes[-2::-1], strict=True):
        product = product @ matrix
        total += (np.linalg.norm(product, 2) * size / sizes[-1]) ** 2
    return float(np.sqrt(total))


def check_precision(
    method: Guarded, schedule: Schedule, grid: Tensor, dtype: torch.dtype, limit: float = LIMIT
) -> None:
    """Raise InputError where the predicted error is above ``limit`` or not a number."""
    error = predicted_error(method, schedule, grid, dtype)
    if error <= limit:
        return
    wider = "" if dtype == torch.float64 else "float64, "
    raise InputError(
        f"{method} over {len(grid) - 1} steps in {str(dtype).removeprefix('torch.')} would lose too much to rounding: "
        f"the predicted relative error is {error:.0e}, at most {limit:g} is accepted; use {wider}{method.remedy}."
    )
