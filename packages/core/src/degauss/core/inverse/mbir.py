r"""DiffusionMBIR, Chung et al. 2023: slices from a diffusion prior, a volume from the measurement and TV across them.

On a path with alpha = 1 one step from noise level s to s' < s is (their algorithm 1, with shared variables)

    predictor   x <- x + (s^2 - s'^2) f(x, s) + sqrt(s^2 - s'^2) n            slice by slice,
    corrector   x <- x + e f(x, s') + sqrt(2 e) n',   e = 2 (r |n'| / |f|)^2  slice by slice,
    coupling    one iteration of ADMM with one conjugate gradient on 1/2 |y - A x|^2 + lambda |D x|_1,

with the score f = (x0_hat - x) / s^2, the reverse diffusion and the Langevin correction of Song et al. 2021 at r =
0.16, and D the difference of neighbouring slices. z and w of ADMM (``total_variation``) start at 0 and pass from each
noise level to the next, so 2000 steps are 2000 iterations of one optimisation whose iterate is denoised on the way.
At the end

    x <- x + A^T (y - A x) / A^T A 1.

The coupling acts on the *noisy* iterate, and the weak progress of one conjugate gradient is what that bears: several
fit the noise to the measurement, the duals remember it, and the run leaves the noise levels that the prior knows (five
diverge, and more so with more steps). For more of them, or fewer steps, act on the posterior mean: ``dds_tv``.

Differences to the released code, all on purpose. It joins the last slice to the first; here they are not neighbours.
Its corrector still uses s, not s': the same at 2000 steps, not at 100. |n'| and |f| are means over the slices of one
volume here, over the slices that share a call there. It adds noise of size sigma_min in the last step to 0, which is
left out here. Its lambda and rho, 0.04 and 10 for CT, belong to an A of norm 20: 1e-4 and 0.025 for |A| = 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from degauss.core.denoiser import Denoiser, expand
from degauss.core.errors import InputError
from degauss.core.grid import check_grid
from degauss.core.inverse.conjugate_gradient import ConjugateGradient
from degauss.core.inverse.measurement import Measurement
from degauss.core.inverse.operator import LinearOperator
from degauss.core.inverse.total_variation import AxisTV, Duals
from degauss.core.noise import Clock, Noise
from degauss.core.posterior import Point
from degauss.core.sampling import Solver
from degauss.core.schedule import Schedule

Divisor = Callable[[LinearOperator, Tensor], Tensor]
"""What the last step divides A^T (y - A x) by, for an operator and any events; broadcasts to events, inf: no step."""

COUPLING = AxisTV(1, 1e-4, 0.025, ConjugateGradient(1))
"""The published coupling of slices, axis 1 of ``[batch, slices, rows, columns]``, for sparse-view CT with |A| = 1."""


def kaczmarz(operator: LinearOperator, like: Tensor) -> Tensor:
    """The published divisor: A^T A 1, ``[1, *event]``, how much is seen of each value; infinite where nothing is.

    The step is a contraction for an A without negative entries. Raises ValueError if a sum is negative.
    """
    sums = operator.adjoint(operator(torch.ones_like(like[:1])))
    largest = sums.amax()
    if bool((sums < -1e-4 * largest).any()):
        raise ValueError("A^T A 1 has negative values: for such an operator let the last step divide by `landweber`")
    return torch.where(sums > 1e-6 * largest, sums, math.inf)


def landweber(operator: LinearOperator, like: Tensor) -> Tensor:
    """|A|^2, one number: a contraction for every A."""
    return like.new_tensor(operator.norm**2)


def geometric(schedule: Schedule, steps: int, *, sigma_min: float = 0.01, sigma_max: float = 378.0) -> Tensor:
    """``steps`` noise levels from ``sigma_max`` to ``sigma_min`` in even ratios, then 0: a `Grid` for alpha = 1.

    The published levels, for values in [0, 1], with 2000 steps. Only a schedule that has noise 0 has the last one:
    `EDM` with a ``sigma_max`` not below this. Raises ValueError elsewhere.
    """
    ends = torch.tensor([sigma_max, sigma_min], dtype=torch.float64).log()
    levels = torch.linspace(float(ends[0]), float(ends[1]), steps, dtype=torch.float64)
    if float(schedule(torch.zeros(())).sigma) != 0:
        raise ValueError("these levels end at sigma = 0, which the schedule does not reach")
    return check_grid(torch.cat([schedule.time(-2 * levels), levels.new_zeros(1)]))


class MBIRCarry(NamedTuple):
    """What a run knows before its first step, and the duals, which are its memory.

    ``levels``, ``times``: of the N + 1 points of the grid, the times on the device. ``clock``: of the predictor's
    noise. ``divisor``: of the last step.
    """

    levels: tuple[float, ...]
    times: tuple[Tensor, ...]
    clock: Clock
    divisor: Tensor
    duals: Duals


@dataclass(frozen=True)
class DiffusionMBIR:
    """The kernel, on volumes ``[batch, slices, *slice]``; ``denoiser`` takes volumes (``slices.SliceWise``).

    Two evaluations a step, one in a step onto sigma = 0. ``snr``: r. ``divisor``: of the last step. Noise of the
    predictor is a Brownian path in -sigma^2, so that a finer grid sees the same one. A volume does not depend on its
    batch. Memory beside the denoiser's and the operator's, measured in float32: 26 volumes for 16 steps, of which 2 are
    duals and the noise takes one more for each doubling of the steps.

    ``init`` raises ValueError where alpha is not 1, or times do not fall.
    """

    denoiser: Denoiser[Point]
    schedule: Schedule
    measurement: Measurement
    coupling: AxisTV = COUPLING
    snr: float = 0.16
    divisor: Divisor = kaczmarz

    def init(self, x: Tensor, grid: Tensor, /) -> MBIRCarry:
        grid = check_grid(grid)
        alpha, sigma = self.schedule(grid)
        if not bool((grid.diff() < 0).all()):
            raise ValueError("DiffusionMBIR goes from noise to data: its times must fall")
        if not bool((alpha == 1).all()):
            raise ValueError("DiffusionMBIR needs a path with alpha = 1, such as VE or EDM")
        clock = tuple((sigma[0] ** 2 - sigma**2).tolist())
        divisor = self.divisor(self.measurement.operator, x)
        return MBIRCarry(tuple(sigma.tolist()), grid.to(x.device).unbind(), clock, divisor, self.coupling.start(x))

    def step(self, carry: MBIRCarry, x: Tensor, i: int, noise: Noise, /) -> tuple[MBIRCarry, Tensor]:
        old, new = carry.levels[i], carry.levels[i + 1]
        x = torch.lerp(x, self.denoiser(x, carry.times[i]).mean, 1 - (new / old) ** 2)
        if new > 0:
            x = torch.add(x, noise.brownian(carry.clock, i, x), alpha=math.sqrt(old**2 - new**2))
            # A fork, as draw 0 of the run itself is the noise that it starts from.
            x = self._corrected(x, carry.times[i + 1], new, noise.fork(0).normal(x, draw=i))
        x, duals = self.coupling.update(self.measurement, x, carry.duals)
        if i == len(carry.levels) - 2:
            x = x + self.measurement.operator.adjoint(self.measurement.residual(x)) / carry.divisor
        return carry._replace(duals=duals), x

    def _corrected(self, x: Tensor, t: Tensor, sigma: float, n: Tensor) -> Tensor:
        """A step of Langevin's equation; the change is along the displacement sigma^2 f, which has no small divisor."""
        towards = self.denoiser(x, t).mean - x
        length = _length_of_slices(towards)
        ratio = torch.where(length > 0, _length_of_slices(n) / torch.where(length > 0, length, 1), 0)
        size = 2 * (self.snr * sigma**2 * ratio) ** 2
        return x + expand(size / sigma**2, x) * towards + expand((2 * size).sqrt(), x) * n


def _length_of_slices(x: Tensor) -> Tensor:
    """The Euclidean length of a slice, mean over a volume's, float64 ``[batch]``."""
    return x.flatten(2).square().sum(2, dtype=torch.float64).sqrt().mean(1)


def mbir(
    measurement: Measurement, coupling: AxisTV = COUPLING, snr: float = 0.16, divisor: Divisor = kaczmarz
) -> Solver:
    """DiffusionMBIR as a solver; the published grid is `geometric` with 2000 steps.

    ``coupling``: `COUPLING` for CT; for an operator with entries of both signs, as in magnetic resonance with coils,
    ``divisor`` is `landweber`. Raises InputError unless 0 < ``snr`` < 1.
    """
    if not 0 < snr < 1:
        raise InputError(f"snr must be in (0, 1), but is {snr}.")
    return partial(DiffusionMBIR, measurement=measurement, coupling=coupling, snr=snr, divisor=divisor)
