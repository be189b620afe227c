r"""Diffusion posterior sampling (DPS), Chung et al. 2023: the likelihood at the posterior mean.

Its one approximation is p(y | x_t) = p(y | x0_hat(x_t)), that is

    grad log p(y | x_t) = -(1 / (2 sigma_y^2)) grad_{x_t} |y - A x0_hat|^2 = J^T A^T (y - A x0_hat) / sigma_y^2,

which forgets that x0_hat is uncertain by r_t^2: it overstates what y says wherever r_t^2 |A|^2 is not small beside
sigma_y^2, and is right in the limit sigma_t -> 0 (``pigdm`` keeps the missing term).

``DPS`` is that score in any solver: mean' = mean + (sigma^2 / alpha) grad log p(y | x_t). Where sigma_y is small it is
stiff, and a solver must take steps of the order of sigma_y. ``dps`` is the published algorithm 1, whose step is free of
sigma_y: after each ancestral step, x <- x - zeta grad |y - A x0_hat|.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from degauss.core.denoiser import Denoiser, expand
from degauss.core.errors import InputError, check_range
from degauss.core.gaussian.exponential import ddim
from degauss.core.gaussian.table import Carry, TableSolver
from degauss.core.guide.loss import BayesStep
from degauss.core.inverse.measurement import Measurement
from degauss.core.inverse.operator import inner
from degauss.core.inverse.pull_back import pull_back
from degauss.core.noise import Noise
from degauss.core.posterior import Point
from degauss.core.sampling import Solver
from degauss.core.schedule import Schedule


@dataclass(frozen=True)
class DPS:
    """The denoiser guided by the likelihood at its posterior mean. Needs a measurement with sigma_y > 0."""

    denoiser: Denoiser[Point]
    schedule: Schedule
    measurement: Measurement

    def __post_init__(self) -> None:
        if not self.measurement.sigma_y > 0:
            raise InputError(f"DPS needs a noise level sigma_y above 0, but it is {self.measurement.sigma_y}.")

    def __call__(self, x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        operator, sigma_y = self.measurement.operator, self.measurement.sigma_y
        mean, gradient = pull_back(
            self.denoiser, x, t, cond, lambda mean: operator.adjoint(self.measurement.residual(mean))
        )
        return Point(mean + BayesStep(sigma_y**-2)(gradient, *self.schedule(t)))


@dataclass(frozen=True)
class DPSKernel:
    """Algorithm 1: a step of ``solver``, then x <- x - ``zeta`` grad_{x_t} |y - A x0_hat(x_t)|, norm of each row.

    ``parts``: how many axes of y after the batch's tell measurements apart that have a norm of their own: 0 for one
    measurement a row; 1 where a row is a volume of n slices that are measured one by one, ``[batch, n, ...]``. As one
    norm, its gradient in each slice would be about sqrt(n) times smaller than that of the slice's own.

    The paper writes zeta_i grad |.|^2 with zeta_i = zeta' / |y - A x0_hat|, which is zeta = 2 zeta' here; the released
    code has this form, but takes the norm over the batch. The gradient is that at the state before the step, so one
    evaluation serves both. sigma_y does not enter. The step does not shrink as the fit improves: samples end about
    zeta |J^T A^T| from the measurement and not on it, and the best zeta differs with A and the number of steps.
    """

    denoiser: Denoiser[Point]
    schedule: Schedule
    measurement: Measurement
    zeta: float
    solver: TableSolver
    parts: int = 0

    def init(self, x: Tensor, grid: Tensor, /) -> Carry:
        return self.solver(self.denoiser, self.schedule).init(x, grid)

    def step(self, carry: Carry, x: Tensor, i: int, noise: Noise, /) -> tuple[Carry, Tensor]:
        mean, towards = pull_back(self.denoiser, x, carry.times[i], {}, self._misfit)

        def answered(x: Tensor, t: Tensor, /, **cond: Any) -> Point:
            del x, t, cond
            return Point(mean)

        carry, x = self.solver(answered, self.schedule).step(carry, x, i, noise)
        return carry, torch.add(x, towards, alpha=self.zeta)

    def _misfit(self, mean: Tensor) -> Tensor:
        """-grad |y - A mean| with respect to the mean; 0 where the fit is perfect."""
        residual = self.measurement.residual(mean)
        each = residual.flatten(0, self.parts)
        power = inner(each, each)
        scale = torch.where(power > 0, power.clamp(min=1e-300).rsqrt(), 0.0)
        return self.measurement.operator.adjoint((expand(scale, each) * each).reshape(residual.shape))


def dps(measurement: Measurement, zeta: float, solver: TableSolver | None = None, *, parts: int = 0) -> Solver:
    """DPS as published, around ancestral sampling or any other table solver. InputError for a negative ``zeta``."""
    check_range("zeta", zeta, 0)
    return partial(DPSKernel, measurement=measurement, zeta=zeta, solver=solver or ddim(eta=1.0), parts=parts)
