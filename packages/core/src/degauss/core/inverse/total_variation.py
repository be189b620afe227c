r"""Slices that agree: total variation along one axis, beside a prior that knows only single slices.

A prior of two-dimensional slices leaves the third axis free. One iteration of ADMM for

    min over x   1/2 |y - A x|^2 + lambda |D x|_1,       D the difference along the axis,

with M conjugate gradients inside (Chung et al. 2023, DiffusionMBIR; Chung et al. 2024, DDS) is

    x <- CG(A^T A + rho D^T D, A^T y + rho D^T (z - w), start x, M)
    z <- soft(D x + w, lambda / rho),      w <- w + D x - z,

and z and w are kept from one noise level to the next. Here it is done on the posterior mean (``DDSTV``). On the noisy
iterate one conjugate gradient does little harm; several fit noise to noiseless measurements and shrink its
differences, and the duals remember it.

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

    def update(self, measurement: Measurement, x: Tensor, duals: Duals) -> tuple[Tensor, Duals]:
        """The iteration from ``x`` and the duals of the last one."""
        operator, difference = measurement.operator, Difference(self.axis)

        def apply(x: Tensor) -> Tensor:
            return operator.adjoint(operator(x)) + self.rho * difference.adjoint(difference(x))

        target = operator.adjoint(measurement.y) + self.rho * difference.adjoint(duals.split - duals.dual)
        x = self.solve(apply, target, x).x
        slope = difference(x) + duals.dual
        split = slope.sign() * (slope.abs() - self.strength / self.rho).clamp(min=0)
        return x, Duals(split, slope - split)


class CoupledCarry(NamedTuple):
    """The solver's carry, and the duals."""

    inner: Carry
    duals: Duals


@dataclass(frozen=True)
class DDSTV:
    """The posterior mean of each step goes through one iteration of ``coupling`` before ``solver`` uses it."""

    denoiser: Denoiser[Point]
    schedule: Schedule
    measurement: Measurement
    coupling: AxisTV
    solver: TableSolver

    def init(self, x: Tensor, grid: Tensor, /) -> CoupledCarry:
        inner = self.solver(self.denoiser, self.schedule).init(x, grid)
        return CoupledCarry(inner, self.coupling.start(x))

    def step(self, carry: CoupledCarry, x: Tensor, i: int, noise: Noise, /) -> tuple[CoupledCarry, Tensor]:
        mean = self.denoiser(x, carry.inner.times[i]).mean
        mean, duals = self.coupling.update(self.measurement, mean, carry.duals)

        def answered(x: Tensor, t: Tensor, /, **cond: Any) -> Point:
            del x, t, cond
            return Point(mean)

        inner, x = self.solver(answered, self.schedule).step(carry.inner, x, i, noise)
        return CoupledCarry(inner, duals), x


def dds_tv(measurement: Measurement, coupling: AxisTV, solver: TableSolver | None = None) -> Solver:
    """DDS for volumes as a solver, around DDIM of eta 0.85 (the paper's, for tomography) or any table solver."""
    return partial(DDSTV, measurement=measurement, coupling=coupling, solver=solver or ddim(eta=0.85))
