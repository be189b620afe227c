r"""Slices that agree: total variation along one axis, beside a prior that knows only single slices.

A prior of two-dimensional slices leaves the third axis free. One iteration of ADMM for

    min over x   1/2 |y - A x|^2 + lambda |D x|_1,       D the difference along the axis,

with M conjugate gradients inside (Chung et al. 2023, DiffusionMBIR; Chung et al. 2024, DDS) is

    x <- CG(A^T A + rho D^T D, A^T y + rho D^T (z - w), start x, M)
    z <- soft(D x + w, lambda / rho),      w <- w + D x - z,

and z and w are kept from one noise level to the next. Here it is done on the posterior mean (``DDSTV``). On the noisy
iterate one conjugate gradient does little harm; several fit noise to noiseless measurements and shrink its
differences, and the duals remember it.

Noisy measurements need a weight, or conjugate gradients fit their noise. With tau > 0 the first line is that of

    min over x'   1/2 |y - A x'|^2 + tau/2 |x' - x|^2 + rho/2 |D x' - z + w|^2,      tau = (sigma_y / r)^2,

Bayes' rule for a posterior mean that is wrong by r. ``MeanError`` says how r follows the noise level.

The difference does not wrap: the first and the last slice are not neighbours. With |A| = 1, values in [0, 1] and
neighbours of equal spacing, lambda 1e-4 and rho 0.025 are the published settings for computed tomography.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from degauss.core.denoiser import Denoiser
from degauss.core.errors import InputError, check_range
from degauss.core.gaussian.exponential import ddim
from degauss.core.gaussian.table import Carry, TableSolver
from degauss.core.inverse.conjugate_gradient import FIVE, ConjugateGradient
from degauss.core.inverse.measurement import Measurement
from degauss.core.noise import Noise
from degauss.core.posterior import Point
from degauss.core.sampling import Solver
from degauss.core.schedule import Schedule


@dataclass(frozen=True)
class Difference:
    """(D x)_k = x_{k+1} - x_k along ``axis`` of the tensor: n values give n - 1. Norm below 2."""

    axis: int

    @property
    def norm(self) -> float:
        return 2.0

    def __call__(self, x: Tensor, /) -> Tensor:
        return x.diff(dim=self.axis)

    def adjoint(self, y: Tensor, /) -> Tensor:
        edge = torch.zeros_like(y.narrow(self.axis, 0, 1))
        return -torch.cat([edge, y, edge], self.axis).diff(dim=self.axis)


class Duals(NamedTuple):
    """z and w, in the shape of D x."""

    split: Tensor
    dual: Tensor


@dataclass(frozen=True)
class AxisTV:
    """One ADMM iteration along ``axis``, an axis of the tensor and not the batch's.

    ``strength``: lambda >= 0; ``rho`` > 0; both in units where A has norm 1. ``solve``: M iterations.
    """

    axis: int
    strength: float = 1e-4
    rho: float = 0.025
    solve: ConjugateGradient = FIVE

    def __post_init__(self) -> None:
        check_range("strength", self.strength, 0)
        if not self.rho > 0:
            raise InputError(f"rho must be above 0, but is {self.rho}.")
        if self.axis == 0:
            raise ValueError("the batch is no axis of an event")

    def start(self, x: Tensor) -> Duals:
        """z = w = 0."""
        zero = torch.zeros_like(Difference(self.axis)(x))
        return Duals(zero, zero)

    def update(self, measurement: Measurement, x: Tensor, duals: Duals, weight: float = 0.0) -> tuple[Tensor, Duals]:
        """The iteration from ``x`` and the duals of the last one. ``weight``: tau >= 0."""
        operator, difference = measurement.operator, Difference(self.axis)

        def apply(d: Tensor) -> Tensor:
            seen = operator.adjoint(operator(d)) + self.rho * difference.adjoint(difference(d))
            return seen + weight * d if weight else seen

        missed = duals.split - duals.dual - difference(x)
        wrong = operator.adjoint(measurement.residual(x)) + self.rho * difference.adjoint(missed)
        x = x + self.solve(apply, wrong).x
        slope = difference(x) + duals.dual
        split = slope.sign() * (slope.abs() - self.strength / self.rho).clamp(min=0)
        return x, Duals(split, slope - split)


@dataclass(frozen=True)
class MeanError:
    """r, how far a posterior mean is taken to be from the truth: min(``most``, ``follow`` sigma_t / alpha_t).

    Without an end where r does not shrink with the noise, the last step fits noise that no later one takes off. Both
    > 0, in units of x and of the noise. Raises InputError for others.
    """

    most: float = 0.1
    follow: float = 3.0

    def __post_init__(self) -> None:
        for name in ("most", "follow"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} must be above 0, but is {getattr(self, name)}.")

    def weight(self, sigma_y: float, ratio: float) -> float:
        """tau, at the noise level ``ratio`` = sigma_t / alpha_t > 0."""
        return (sigma_y / min(self.most, self.follow * ratio)) ** 2


class CoupledCarry(NamedTuple):
    """The solver's carry, the duals, and tau of each step."""

    inner: Carry
    duals: Duals
    weights: tuple[float, ...]


@dataclass(frozen=True)
class DDSTV:
    """The posterior mean of each step goes through one iteration of ``coupling`` before ``solver`` uses it.

    ``error``: of the posterior mean, against the measurement's sigma_y; exact measurements have no use for it.
    """

    denoiser: Denoiser[Point]
    schedule: Schedule
    measurement: Measurement
    coupling: AxisTV
    solver: TableSolver
    error: MeanError = MeanError()

    def init(self, x: Tensor, grid: Tensor, /) -> CoupledCarry:
        inner = self.solver(self.denoiser, self.schedule).init(x, grid)
        ratios = (-self.schedule.log_snr(grid[:-1].detach().to("cpu", torch.float64)) / 2).exp().tolist()
        weights = tuple(self.error.weight(self.measurement.sigma_y, ratio) for ratio in ratios)
        return CoupledCarry(inner, self.coupling.start(x), weights)

    def step(self, carry: CoupledCarry, x: Tensor, i: int, noise: Noise, /) -> tuple[CoupledCarry, Tensor]:
        mean = self.denoiser(x, carry.inner.times[i]).mean
        mean, duals = self.coupling.update(self.measurement, mean, carry.duals, carry.weights[i])

        def answered(x: Tensor, t: Tensor, /, **cond: Any) -> Point:
            del x, t, cond
            return Point(mean)

        inner, x = self.solver(answered, self.schedule).step(carry.inner, x, i, noise)
        return carry._replace(inner=inner, duals=duals), x


def dds_tv(
    measurement: Measurement,
    coupling: AxisTV,
    solver: TableSolver | None = None,
    error: MeanError = MeanError(),
) -> Solver:
    """DDS for volumes as a solver, around DDIM of eta 0.85 (the paper's, for tomography) or any table solver."""
    return partial(DDSTV, measurement=measurement, coupling=coupling, solver=solver or ddim(eta=0.85), error=error)
