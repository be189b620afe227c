"""Methods that know no prior: each gives one answer, whatever the seed."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar, final

import torch
from torch import Tensor

from degauss.core import inverse
from degauss.core.errors import InputError, check_range
from degauss.core.inverse import ConjugateGradient, Measurement
from degauss.core.noise import Noise
from degauss.medical.ct import sirt
from degauss.medical.filtered import Window, filtered_back_projection
from degauss.medical.problem import Course, Method, Problem, check_above_zero

if TYPE_CHECKING:
    from degauss.medical.acquisition import Modality


_EASY = 1e-4
"""The strength of total variation from which zero is near enough to start at."""


class Classical(Method):
    """A method that asks no network: one step is the whole answer."""

    @property
    @final
    def evaluations(self) -> int:
        return 0

    @abstractmethod
    def solved(self, problem: Problem) -> Tensor:
        """The answer, ``[1, *event]`` in prior units."""

    @final
    def course(self, problem: Problem) -> Course:
        def start(noise: Noise) -> Tensor:
            return torch.zeros_like(problem.like.expand(len(noise.samples), *problem.event))

        return Course(start, _AtOnce(partial(self.solved, problem)), torch.tensor([1.0, 0.0], dtype=torch.float64))


@dataclass(frozen=True)
class FBP(Classical):
    """Filtered back-projection (`filtered`). ``window``: "hann" damps noise."""

    name: ClassVar[str] = "fbp"
    modality: ClassVar[Modality | None] = "ct"
    volumes: ClassVar[int] = 6

    window: Window = "ramp"

    def solved(self, problem: Problem) -> Tensor:
        scan = problem.tomography
        if scan is None:
            raise InputError("The scan has no geometry of rays, so it cannot be projected back.")
        return filtered_back_projection(scan, problem.measurement.y * problem.raw_norm, self.window)


@dataclass(frozen=True)
class SIRT(Classical):
    """The simultaneous iterative reconstruction technique (`ct.sirt`), for ``steps`` iterations, values above 0."""

    name: ClassVar[str] = "sirt"
    modality: ClassVar[Modality | None] = "ct"
    volumes: ClassVar[int] = 8

    steps: int = 200

    def __post_init__(self) -> None:
        check_range("steps", self.steps, 1)

    def solved(self, problem: Problem) -> Tensor:
        operator, y = problem.measurement.operator, problem.measurement.y
        return sirt(operator, operator.adjoint, y, self.steps, torch.zeros_like(problem.like))


@dataclass(frozen=True)
class CG(Classical):
    """Least squares by ``steps`` conjugate gradients from zero; with several coils, CG-SENSE (Pruessmann et al. 2001).

    ``damping``: the weight of |x|^2 beside that of |y - A x|^2; few steps damp too.
    """

    name: ClassVar[str] = "cg"
    volumes: ClassVar[int] = 11

    steps: int = 30
    damping: float = 0.0

    def __post_init__(self) -> None:
        check_range("steps", self.steps, 1)
        check_range("damping", self.damping, 0)

    def solved(self, problem: Problem) -> Tensor:
        zero, solve = torch.zeros_like(problem.like), ConjugateGradient(self.steps)
        return inverse.displacement(problem.measurement, zero, self.damping, solve)


@dataclass(frozen=True)
class TV(Classical):
    """Total variation in three dimensions (`degauss.core.inverse.tv`), each axis by its own spacing.

    ``strength``: lambda for exact scans; for noisy ones it is found by the discrepancy principle, so that the residual
    is as large as the noise. 1e-4 is a middle choice for 2 to 8 views of values in [0, 1]; against a prior, take the
    best on another subject (`tuned_tv_by_truth`). Real values stay above 0. A solution below 1e-4 is far from
    any start, so it is approached from there in half decades.
    """

    name: ClassVar[str] = "tv"
    volumes: ClassVar[int] = 24

    strength: float = 1e-4
    iterations: int = 300
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        check_above_zero("strength", self.strength)

    def solved(self, problem: Problem) -> Tensor:
        measurement = problem.measurement
        tv = inverse.TotalVariation(
            self.strength,
            (problem.slices_axis, -2, -1),
            inverse.inverse_spacing(problem.spacing),
            inverse.ISOTROPIC_COMPLEX if problem.is_complex else inverse.ISOTROPIC,
            low=None if problem.is_complex else 0.0,
            iterations=self.iterations,
            tolerance=self.tolerance,
        )
        if not measurement.sigma_y:
            return tv(measurement, _approached(tv, measurement)).x
        noisy = None if problem.modality == "ct" else int((measurement.y != 0).sum())
        return inverse.tuned_tv_by_discrepancy(tv, measurement, measured=noisy).solution.x


def _approached(tv: inverse.TotalVariation, measurement: Measurement) -> inverse.TVSolution | None:
    """Where a run begins: at the solution of about three times the strength, which began likewise."""
    stronger = 10**0.5 * tv.strength
    if stronger > 1.01 * _EASY:
        return None
    before = replace(tv, strength=stronger, iterations=min(tv.iterations, 60))
    return before(measurement, _approached(before, measurement))


@dataclass(frozen=True)
class Wavelet(Classical):
    """Slices that are sparse in wavelets, for magnetic resonance (`wavelets`).

    ``strength``: lambda for exact scans; noisy ones take half of the deviation of A^T n where that is more, n being the
    noise (found best of a half, 1, 2 and 4 on a head that nothing is tested on, along lines and spokes).
    """

    name: ClassVar[str] = "wavelet"
    modality: ClassVar[Modality | None] = "mr"
    volumes: ClassVar[int] = 14

    strength: float = 3e-4
    iterations: int = 300
    tolerance: float = 1e-4

    def __post_init__(self) -> None:
        check_above_zero("strength", self.strength)

    def solved(self, problem: Problem) -> Tensor:
        from degauss.medical.wavelets import COMPLEX, REAL, WaveletSparsity, scales_of

        found = problem.measurement
        noise = found.sigma_y * found.operator.adjoint(Noise(0, range(1)).normal(found.y))
        strength = max(self.strength, 0.5 * float(noise.square().mean().sqrt()))
        norm, scales = COMPLEX if problem.is_complex else REAL, scales_of(*problem.event[-2:])
        return WaveletSparsity(strength, scales, norm, self.iterations, self.tolerance)(problem.measurement).x


@dataclass(frozen=True)
class _AtOnce:
    """A kernel whose one step is the whole answer."""

    solve: Callable[[], Tensor]

    def init(self, x: Tensor, grid: Tensor, /) -> None:
        del x, grid

    def step(self, carry: None, x: Tensor, i: int, noise: Noise, /) -> tuple[None, Tensor]:
        del carry, i, noise
        return None, self.solve().expand(x.shape).clone()
