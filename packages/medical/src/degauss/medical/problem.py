r"""One scan as methods see it, and what a method is: a start, a kernel and a grid.

    problem = Problem.of(scan, prior)
    x = DDSTV()(problem, seed=0, samples=range(8))          # [8, slices, rows, columns], in prior units

Every method is a frozen configuration whose `Method.course` goes for `degauss.core.kernel.simulate`, so that all are
watched, stopped and gone on with alike. Draw i of a seed is a function of the seed and i alone. Their mathematics is in
`degauss.core.inverse`; `samplers` and `classical` hold the values that they have here, in units where the operator has
norm 1 and data lies in [0, 1], so that they carry over between geometries.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, final

import torch
from torch import Tensor

from degauss.core.denoiser import Denoiser
from degauss.core.errors import InputError, check_range
from degauss.core.inverse import LinearOperator, Measurement, Normalised
from degauss.core.kernel import Kernel, Observer, simulate
from degauss.core.noise import Noise
from degauss.core.posterior import Point
from degauss.core.schedule import Schedule
from degauss.medical.ct import Tomography
from degauss.medical.filtered import view_weights
from degauss.medical.geometry import ParallelBeam

if TYPE_CHECKING:
    from degauss.medical.acquisition import Modality
    from degauss.medical.prior import SlicePrior
    from degauss.medical.scans import Scan


SPOKEN: dict[Modality, str] = {"ct": "computed tomography", "mr": "magnetic resonance"}


@dataclass(frozen=True, eq=False)
class Problem:
    """One scan, as a method sees it: in prior units, with an operator of norm 1.

    ``event``: ``(slices, rows, columns)`` of what is to be found, with 2 before the rows where it is complex.
    ``spacing``: (dz, dy, dx), mm. ``chunk``: how many slices go through the prior's network together.
    """

    measurement: Measurement
    event: tuple[int, ...]
    spacing: tuple[float, float, float]
    modality: Modality
    prior: SlicePrior | None = field(default=None, repr=False)
    chunk: int = 16

    @classmethod
    def of(
        cls,
        scan: Scan,
        prior: SlicePrior | None = None,
        *,
        slab: int = 32,
        chunk: int = 16,
        device: torch.device | str = "cpu",
    ) -> Problem:
        """A scan's problem. ``slab``: slices that are projected together; no result depends on it, or on ``chunk``.

        Raises InputError where the prior is not for such a scan.
        """
        check_range("chunk", chunk, 1)
        if prior is not None:
            prior.check(scan)
            prior.to(device)
        found = scan.measurement(slab)
        measurement = Measurement(found.operator, found.y.to(device), found.sigma_y)
        return cls(measurement, scan.shape, scan.spacing, scan.modality, prior, chunk)

    @property
    def like(self) -> Tensor:
        """An event without values, ``[1, *event]``, for its shape, dtype and device."""
        return self.measurement.y.new_empty(1, *self.event)

    @property
    def is_complex(self) -> bool:
        return len(self.event) == 4

    @property
    def slices_axis(self) -> int:
        """Of the slices, from the end."""
        return -len(self.event)

    @property
    def tomography(self) -> Tomography | None:
        """The projector, for what needs the geometry and not only its operator; None for other scans."""
        operator: LinearOperator = self.measurement.operator
        while isinstance(operator, Normalised):
            operator = operator.operator
        return operator if isinstance(operator, Tomography) else None

    @property
    def raw_norm(self) -> float:
        """The operator's norm before it was divided by it: mm for tomography."""
        operator = self.measurement.operator
        return operator.raw_norm if isinstance(operator, Normalised) else 1.0

    @cached_property
    def covered(self) -> float:
        """The share of the directions that are needed which the views cover: 1, or less in limited-angle scans."""
        scan = self.tomography
        if scan is None:
            return 1.0
        period = 180.0 if isinstance(scan.beam, ParallelBeam) else 360.0
        return min(1.0, float(view_weights(scan.beam.angles, period).sum()) / math.radians(period))

    @property
    def parts(self) -> int:
        """How many images the network is asked about for each slice: two, where it is complex."""
        return 2 if self.is_complex else 1

    def denoiser(self, schedule: Schedule) -> Denoiser[Point]:
        """The prior's, of volumes; of complex ones, the real and the imaginary part each by itself."""
        if self.prior is None:
            raise ValueError("this problem has no prior")
        denoiser = self.prior.on_volumes(schedule, self.chunk)
        return _EachPart(denoiser) if self.is_complex else denoiser


@dataclass(frozen=True)
class _EachPart:
    """A denoiser of real volumes on ``[batch, slices, 2, rows, columns]``, whose two parts count as slices."""

    denoiser: Denoiser[Point]

    def __call__(self, x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        return Point(self.denoiser(x.flatten(1, 2), t, **cond).mean.reshape(x.shape))


class Course(NamedTuple):
    """How a method goes: ``simulate(kernel, start(noise), grid, noise)`` is its answer."""

    start: Callable[[Noise], Tensor]
    kernel: Kernel[Any]
    grid: Tensor


class Method(ABC):
    """A frozen configuration of one method. Raises InputError for settings out of range."""

    name: ClassVar[str]
    """What a command line calls it."""
    modality: ClassVar[Modality | None] = None
    """The only one it is for, if it is for one."""
    draws: ClassVar[bool] = False
    """Whether its answers are draws of the posterior: of the others one is enough."""
    volumes: ClassVar[int] = 16
    """About how many volumes it holds in memory at once, beside the network's and the operator's own."""
    backward: ClassVar[bool] = False
    """Whether it goes back through the network."""

    @property
    @abstractmethod
    def evaluations(self) -> int:
        """Of the prior's network, for each slice of each draw; 0: it needs no prior."""

    @abstractmethod
    def course(self, problem: Problem) -> Course:
        """Start, kernel and grid for a problem that `check` lets pass."""

    @final
    def check(self, problem: Problem) -> None:
        """Raise InputError, in one sentence, for a problem that this method is not for."""
        if self.modality not in (None, problem.modality):
            wanted, found = SPOKEN[self.modality], SPOKEN[problem.modality]
            raise InputError(f"{self.name} is a method of {wanted}, but the scan is of {found}.")
        if self.evaluations and problem.prior is None:
            raise InputError(f"{self.name} needs a prior, but none is given.")

    @final
    def __call__(
        self, problem: Problem, seed: int = 0, samples: Sequence[int] = (0,), observe: Iterable[Observer] = ()
    ) -> Tensor:
        """The draws of these sample ids, ``[len(samples), *event]`` in prior units.

        Raises InputError where the method does not fit the problem, or where its answer is not finite.
        """
        self.check(problem)
        course, noise = self.course(problem), Noise(seed, samples)
        with torch.no_grad():
            x = simulate(course.kernel, course.start(noise), course.grid, noise, observe=observe)
        return checked(self, x)


def checked(method: Method, x: Tensor) -> Tensor:
    """x itself, or InputError where it is not finite."""
    wrong = int((~torch.isfinite(x)).sum())
    if wrong:
        raise InputError(f"{method.name} diverged: {wrong} of its {x.numel()} values are not finite.")
    return x


def check_above_zero(name: str, value: float) -> None:
    """Raise InputError unless 0 < ``value`` < infinity."""
    if not 0 < value < math.inf:
        raise InputError(f"{name} must be a number above 0, but is {value}.")
