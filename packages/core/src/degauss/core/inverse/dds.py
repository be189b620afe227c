r"""Decomposed diffusion sampling (DDS), Chung et al. 2024: a few conjugate gradients on the posterior mean.

If clean data lies, locally, in a Krylov subspace, then steps of conjugate gradients that start from the posterior mean
stay on the data's manifold, and no gradient of the network is needed. In each evaluation, with M iterations,

    noiseless   mean' = CG(A^T A, A^T y, start mean, M)
    noisy       mean' = argmin  gamma/2 |y - A x|^2 + 1/2 |x - mean|^2  by  CG(I + gamma A^T A, mean + gamma A^T y, M).

Both are mean + d with d the M-th Krylov iterate of (A^T A + 1/gamma) d = A^T (y - A mean); gamma infinite is the first.
The paper samples with DDIM of eta 0.15 to 0.85; any solver will do.

The step belongs on the posterior mean. On the noisy iterate it pulls a state of variance alpha^2 + sigma^2 towards
noiseless measurements, and with more than one iteration the sampler leaves the distributions that its network knows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from degauss.core.denoiser import Denoiser
from degauss.core.errors import InputError
from degauss.core.inverse.conjugate_gradient import FIVE, ConjugateGradient
from degauss.core.inverse.measurement import Measurement, displacement
from degauss.core.posterior import Point


@dataclass(frozen=True)
class DDS:
    """The denoiser, then the proximal step. ``gamma``: > 0 or infinite, in units where A has norm 1.

    ``solve``: 5 iterations in the paper. Raises InputError for a gamma that is not positive.
    """

    denoiser: Denoiser[Point]
    measurement: Measurement
    gamma: float = math.inf
    solve: ConjugateGradient = FIVE

    def __post_init__(self) -> None:
        if not self.gamma > 0:
            raise InputError(f"gamma must be above 0, but is {self.gamma}.")

    def __call__(self, x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        mean = self.denoiser(x, t, **cond).mean
        return Point(mean + displacement(self.measurement, mean, 1 / self.gamma, self.solve))
