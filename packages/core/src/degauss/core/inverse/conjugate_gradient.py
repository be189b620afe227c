r"""Conjugate gradients for a batch: M x = b for a symmetric, positive semi-definite M that is only ever applied.

Each row of the batch is a system of its own, with its own step lengths, its own residual and its own end; a row that
has converged is frozen while others go on, so a sample does not depend on its batch. Step lengths are float64, and on
an accelerator they stay there: the host is never asked to wait.

After k iterations x - x_start is the best approximation in the Krylov space of the first residual, in the norm of M
(Hestenes and Stiefel 1952). The proximal and pseudo-inverse steps of diffusion posterior sampling are all such systems.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from degauss.core.denoiser import expand
from degauss.core.errors import check_range
from degauss.core.inverse.operator import inner


class Solution(NamedTuple):
    """Where the iterations ended.

    ``x``: in the shape of b. ``residual``: |b - M x| / |b| of each row by the recursion, float64 ``[batch]``.
    """

    x: Tensor
    residual: Tensor


@dataclass(frozen=True)
class ConjugateGradient:
    """At most ``iterations`` steps for each row, fewer where |residual| <= ``tolerance`` |b| is reached.

    A tolerance below eight roundings of the dtype counts as that: further steps of a singular system would walk
    along directions that M does not see. Raises InputError for less than one iteration or a negative tolerance.
    """

    iterations: int
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        check_range("iterations", self.iterations, 1)
        check_range("tolerance", self.tolerance, 0)

    def __call__(self, apply: Callable[[Tensor], Tensor], b: Tensor, start: Tensor | None = None) -> Solution:
        """Solve ``apply(x) = b``, both ``[batch, *event]``, from ``start`` or from 0.

        From 0 a singular but consistent system gives its solution of least norm.
        """
        x = torch.zeros_like(b) if start is None else start
        residual = b if start is None else b - apply(start)
        size = inner(b, b)
        limit = max(self.tolerance, 8 * torch.finfo(b.dtype).eps) ** 2 * size
        direction, power = residual, inner(residual, residual)
        for _ in range(self.iterations):
            active = power > limit
            # Frozen rows do not change, so looking is only about time; an accelerator's answer would have to be
            # waited for.
            if active.device.type == "cpu" and not bool(active.any()):
                break
            image = apply(direction)
            curvature = inner(direction, image)
            moving = active & (curvature > 0)
            step = _ratio(power, curvature, moving)
            x = x + expand(step, x) * direction
            residual = residual - expand(step, x) * image
            fresh = inner(residual, residual)
            direction = residual + expand(_ratio(fresh, power, moving), x) * direction
            power = torch.where(moving, fresh, power)
        return Solution(x, _ratio(power, size, size > 0).sqrt())


FIVE = ConjugateGradient(5)
"""The early stop of DDS: close to the start, and towards what the operator sees best."""

ACCURATE = ConjugateGradient(50, 1e-4)
"""For methods whose step is meant to be solved; the tolerance ends it where the system is easy."""


def _ratio(a: Tensor, b: Tensor, where: Tensor) -> Tensor:
    """a / b where asked, 0 elsewhere, with gradients that are finite in both places."""
    return torch.where(where, a / torch.where(where, b, 1.0), 0.0)
