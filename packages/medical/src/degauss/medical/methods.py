r"""From a scan to a volume: every method as one small configuration, with one way to call it.

    problem = Problem.of(scan, prior)
    x = DDSTV()(problem, seed=0, samples=range(8))          # [8, slices, rows, columns], in prior units

A method's mathematics is in `degauss.core.inverse`; here are the values that it is published with, in units where the
operator has norm 1 and data lies in [0, 1], so that they carry over between geometries, and what the method needs: a
prior, line integrals or k-space, and how many evaluations of the network it spends on each slice.

Every method is a *course*: a start, a kernel and a grid for `degauss.core.kernel.simulate`, so that all of them are
watched, stopped and gone on with alike. Draw i of a seed is a function of the seed and i alone.

Hyper-parameters in units where |A| = 1 and x is in [0, 1]
    DiffusionMBIR   lambda 1e-4, rho 0.025: the published 0.04 and 10, over the squared norm of the published operator
    DDS             5 conjugate gradients (15 where views leave out a part of the half turn); DDIM of eta 0.85
    DDS with TV     the same, and lambda 1e-4, rho 0.025 along z
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, final

import torch
from torch import Tensor

from degauss.core import inverse
from degauss.core.denoiser import Denoiser
from degauss.core.errors import InputError, check_option, check_range
from degauss.core.gaussian import ddim
from degauss.core.grid import uniform_time
from degauss.core.inverse import ConjugateGradient, LinearOperator, Measurement, Normalised
from degauss.core.kernel import Kernel, Observer, simulate
from degauss.core.noise import Noise
from degauss.core.posterior import Point
from degauss.core.sampling import Solver
from degauss.core.schedule import EDM, LinearVP, Schedule
from degauss.medical.ct import Tomography, sirt
from degauss.medical.filtered import Window, filtered_back_projection, view_weights
from degauss.medical.geometry import ParallelBeam

if TYPE_CHECKING:
    from degauss.medical.prior import SlicePrior
    from degauss.medical.scans import Modality, Scan


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


# --- with a prior: samplers ---------------------------------------------------------------------------------

_PUBLISHED = LinearVP()
"""The path on which DDS, DPS, PiGDM, DDNM and DiffPIR are published: DDPM's, in continuous time."""
_EXPLODING = EDM(378.0)
"""That of DiffusionMBIR, alpha = 1; the grid says at which levels."""


@dataclass(frozen=True)
class DDS(Method):
    """Decomposed diffusion sampling: a few conjugate gradients on each posterior mean (`degauss.core.inverse.dds`).

    ``eta``: how much fresh noise, 0 to 1; None: 0.85 for tomography and 0.5 for magnetic resonance, the paper's for 49
    evaluations. ``cg``: conjugate gradients a step; None: 5, and 15 in limited-angle scans. ``trust``: for noisy scans,
    the error that a posterior mean is taken to have, in prior units, so that gamma = (trust / sigma_y)^2; 0.1 is about
    the paper's gamma of 5 at sigma_y 0.05.
    """

    name: ClassVar[str] = "dds"
    draws: ClassVar[bool] = True

    steps: int = 50
    eta: float | None = None
    cg: int | None = None
    trust: float = 0.1

    def __post_init__(self) -> None:
        _check_steps(self.steps, self.eta, self.cg)
        _check_above_zero("trust", self.trust)

    @property
    def evaluations(self) -> int:
        return self.steps

    def course(self, problem: Problem) -> Course:
        sigma = problem.measurement.sigma_y
        guided = inverse.DDS(
            problem.denoiser(_PUBLISHED),
            problem.measurement,
            (self.trust / sigma) ** 2 if sigma else math.inf,
            _few(self.cg, problem),
        )
        return _sampled(problem, guided, ddim(eta=_eta(self.eta, problem)), self.steps)


@dataclass(frozen=True)
class DDSTV(Method):
    """DDS whose slices are coupled by total variation along z (`degauss.core.inverse.total_variation`).

    The first choice: within 50 evaluations a slice. ``strength``, ``rho``: of slices as far apart as their pixels; for
    others the difference along z is that of the pixels' spacing, so thick slices are coupled more weakly. ``eta``,
    ``cg``: as in `DDS`. Noise has no weight of its own here: the few conjugate gradients stop before they fit it.
    """

    name: ClassVar[str] = "dds-tv"
    draws: ClassVar[bool] = True
    volumes: ClassVar[int] = 19

    steps: int = 50
    eta: float | None = None
    cg: int | None = None
    strength: float = 1e-4
    rho: float = 0.025

    def __post_init__(self) -> None:
        _check_steps(self.steps, self.eta, self.cg)
        check_range("strength", self.strength, 0)
        _check_above_zero("rho", self.rho)

    @property
    def evaluations(self) -> int:
        return self.steps

    def course(self, problem: Problem) -> Course:
        coupling = coupled(problem, self.strength, self.rho, _few(self.cg, problem))
        solver = inverse.dds_tv(problem.measurement, coupling, ddim(eta=_eta(self.eta, problem)))
        return _sampled(problem, problem.denoiser(_PUBLISHED), solver, self.steps)


@dataclass(frozen=True)
class MBIR(Method):
    """DiffusionMBIR as published: predictor, corrector, and one conjugate gradient of ADMM on the noisy volume in each
    of ``steps`` noise levels from 378 to 0.01 (`degauss.core.inverse.mbir`).

    It wants its many steps: at 150 of them it is behind `DDSTV` at 50 evaluations. ``strength``, ``rho``: as there.
    """

    name: ClassVar[str] = "mbir"
    draws: ClassVar[bool] = True
    volumes: ClassVar[int] = 26

    steps: int = 2000
    strength: float = 1e-4
    rho: float = 0.025
    snr: float = 0.16

    def __post_init__(self) -> None:
        check_range("steps", self.steps, 2)
        check_range("strength", self.strength, 0)
        _check_above_zero("rho", self.rho)

    @property
    def evaluations(self) -> int:
        return 2 * self.steps - 1  # the step onto clean data has no corrector

    def course(self, problem: Problem) -> Course:
        coupling = coupled(problem, self.strength, self.rho, ConjugateGradient(1))
        # A transform has entries of both signs, so the published divisor is not for it.
        divisor = inverse.kaczmarz if problem.modality == "ct" else inverse.landweber
        solver = inverse.mbir(problem.measurement, coupling, self.snr, divisor)
        grid = inverse.geometric(_EXPLODING, self.steps, sigma_max=_EXPLODING.sigma_max)
        kernel = solver(problem.denoiser(_EXPLODING), _EXPLODING)
        return Course(_from_noise(problem, _EXPLODING.sigma_max), kernel, grid)


@dataclass(frozen=True)
class DPS(Method):
    """Diffusion posterior sampling, as published: ancestral steps, each with one down the gradient of the misfit
    (`degauss.core.inverse.dps`). Goes back through the network.

    ``zeta``: its length for a volume of one slice. The misfit of a volume is one norm, whose gradient in each of n
    slices is sqrt(n) times smaller than that of the slice's own; this is made up for, so that a taller volume needs no
    other zeta.
    """

    name: ClassVar[str] = "dps"
    draws: ClassVar[bool] = True
    backward: ClassVar[bool] = True

    steps: int = 100
    zeta: float = 1.0

    def __post_init__(self) -> None:
        check_range("steps", self.steps, 1)
        check_range("zeta", self.zeta, 0)

    @property
    def evaluations(self) -> int:
        return self.steps

    def course(self, problem: Problem) -> Course:
        solver = inverse.dps(problem.measurement, self.zeta * math.sqrt(problem.event[0]))
        return _sampled(problem, problem.denoiser(_PUBLISHED), solver, self.steps)


@dataclass(frozen=True)
class PiGDM(Method):
    """Pseudo-inverse guidance (`degauss.core.inverse.pigdm`). Goes back through the network.

    ``data_std``: of the data, in prior units; 1 in the paper, whose data lies in [-1, 1]. ``cg``: conjugate gradients
    for each pseudo-inverse.
    """

    name: ClassVar[str] = "pigdm"
    draws: ClassVar[bool] = True
    backward: ClassVar[bool] = True

    steps: int = 50
    eta: float = 1.0
    data_std: float = 0.5
    cg: int = 20

    def __post_init__(self) -> None:
        _check_steps(self.steps, self.eta, self.cg)
        _check_above_zero("data_std", self.data_std)

    @property
    def evaluations(self) -> int:
        return self.steps

    def course(self, problem: Problem) -> Course:
        denoiser, solve = problem.denoiser(_PUBLISHED), ConjugateGradient(self.cg, _EXACT)
        guided = inverse.PiGDM(denoiser, _PUBLISHED, problem.measurement, self.data_std, solve)
        return _sampled(problem, guided, ddim(eta=self.eta), self.steps)


@dataclass(frozen=True)
class DDNM(Method):
    """Null-space sampling: what was measured is known, the rest is the prior's (`degauss.core.inverse.ddnm`).

    The pseudo-inverse is ``cg`` conjugate gradients; noisy scans take DDNM+.
    """

    name: ClassVar[str] = "ddnm"
    draws: ClassVar[bool] = True

    steps: int = 50
    eta: float = 0.85
    cg: int = 20

    def __post_init__(self) -> None:
        _check_steps(self.steps, self.eta, self.cg)

    @property
    def evaluations(self) -> int:
        return self.steps

    def course(self, problem: Problem) -> Course:
        denoiser, solve = problem.denoiser(_PUBLISHED), ConjugateGradient(self.cg, _EXACT)
        if problem.measurement.sigma_y:
            plus = inverse.ddnm_plus(problem.measurement, self.eta, solve)
            return _sampled(problem, denoiser, plus, self.steps)
        projected = inverse.DDNM(denoiser, problem.measurement, solve)
        return _sampled(problem, projected, ddim(eta=self.eta), self.steps)


@dataclass(frozen=True)
class DiffPIR(Method):
    """Half-quadratic splitting whose weight follows the noise (`degauss.core.inverse.diffpir`).

    ``strength``: the paper's lambda. ``zeta``: the share of fresh noise. ``cg``: conjugate gradients for the data step.
    """

    name: ClassVar[str] = "diffpir"
    draws: ClassVar[bool] = True

    steps: int = 50
    strength: float = 7.0
    zeta: float = 0.1
    cg: int = 20

    def __post_init__(self) -> None:
        _check_steps(self.steps, self.zeta, self.cg)
        check_range("strength", self.strength, 0)

    @property
    def evaluations(self) -> int:
        return self.steps

    def course(self, problem: Problem) -> Course:
        denoiser, solve = problem.denoiser(_PUBLISHED), ConjugateGradient(self.cg, _EXACT)
        guided = inverse.DiffPIR(denoiser, _PUBLISHED, problem.measurement, self.strength, solve=solve)
        return _sampled(problem, guided, inverse.renoising(self.zeta), self.steps)


# --- with a prior: an optimisation --------------------------------------------------------------------------


@dataclass(frozen=True)
class REDDiff(Method):
    """Reconstruction as an optimisation with the denoiser as regulariser (`degauss.core.inverse.reddiff`).

    ``strength``: the released lambda, which weighs means over values against means over measurements. ``power``: of
    the weight (sigma / alpha)^power, the inverse root of the SNR at 1. ``rate``: Adam's. ``cg``: conjugate gradients
    for the start, A^+ y. One answer for a seed, and no draw of the posterior.
    """

    name: ClassVar[str] = "reddiff"

    steps: int = 150
    strength: float = 0.05
    power: float = 1.0
    rate: float = 0.02
    cg: int = 20

    def __post_init__(self) -> None:
        _check_steps(self.steps, None, self.cg)

    @property
    def evaluations(self) -> int:
        return self.steps

    def course(self, problem: Problem) -> Course:
        measurement, like = problem.measurement, problem.like
        # Sums in core, means in the released code.
        share = measurement.y[0].numel() / like.numel()
        kernel = inverse.REDDiff(
            problem.denoiser(_PUBLISHED), _PUBLISHED, measurement, self.strength * share, self.power, self.rate
        )

        def start(noise: Noise) -> Tensor:
            x = inverse.least_squares(measurement, like, ConjugateGradient(self.cg, _EXACT))
            return x.expand(len(noise.samples), *x.shape[1:]).clone()

        return Course(start, kernel, uniform_time(_PUBLISHED, self.steps))


# --- without a prior ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FBP(Method):
    """Filtered back-projection (`filtered`). ``window``: "hann" damps noise."""

    name: ClassVar[str] = "fbp"
    modality: ClassVar[Modality | None] = "ct"
    volumes: ClassVar[int] = 6

    window: Window = "ramp"

    @property
    def evaluations(self) -> int:
        return 0

    def course(self, problem: Problem) -> Course:
        scan = _projector(problem)

        def solve() -> Tensor:
            integrals = problem.measurement.y * problem.raw_norm
            return filtered_back_projection(scan, integrals, self.window)

        return _at_once(problem, solve)


@dataclass(frozen=True)
class SIRT(Method):
    """The simultaneous iterative reconstruction technique (`ct.sirt`), for ``steps`` iterations, values above 0."""

    name: ClassVar[str] = "sirt"
    modality: ClassVar[Modality | None] = "ct"
    volumes: ClassVar[int] = 8

    steps: int = 200

    def __post_init__(self) -> None:
        check_range("steps", self.steps, 1)

    @property
    def evaluations(self) -> int:
        return 0

    def course(self, problem: Problem) -> Course:
        operator, y = problem.measurement.operator, problem.measurement.y
        return _at_once(
            problem, lambda: sirt(operator, operator.adjoint, y, self.steps, torch.zeros_like(problem.like))
        )


@dataclass(frozen=True)
class CG(Method):
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

    @property
    def evaluations(self) -> int:
        return 0

    def course(self, problem: Problem) -> Course:
        zero, solve = torch.zeros_like(problem.like), ConjugateGradient(self.steps)
        return _at_once(problem, lambda: inverse.displacement(problem.measurement, zero, self.damping, solve))


@dataclass(frozen=True)
class TV(Method):
    """Total variation in three dimensions (`degauss.core.inverse.tv`), each axis by its own spacing.

    ``strength``: lambda for exact scans; for noisy ones it is found by the discrepancy principle, so that the residual
    is as large as the noise. 1e-4 is a middle choice for 2 to 8 views of values in [0, 1]; against a prior, take the
    best on another subject (`tuned_tv_by_truth`). Real values stay above 0.
    """

    name: ClassVar[str] = "tv"
    volumes: ClassVar[int] = 24

    strength: float = 1e-4
    iterations: int = 300
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        _check_above_zero("strength", self.strength)

    @property
    def evaluations(self) -> int:
        return 0

    def course(self, problem: Problem) -> Course:
        return _at_once(problem, lambda: self._solved(problem))

    def _solved(self, problem: Problem) -> Tensor:
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
            return tv(measurement).x
        noisy = None if problem.modality == "ct" else int((measurement.y != 0).sum())
        return inverse.tuned_tv_by_discrepancy(tv, measurement, measured=noisy).solution.x


@dataclass(frozen=True)
class Wavelet(Method):
    """Slices that are sparse in wavelets, for magnetic resonance (`wavelets`).

    ``strength``: lambda for exact scans; noisy ones take twice the noise where that is more.
    """

    name: ClassVar[str] = "wavelet"
    modality: ClassVar[Modality | None] = "mr"
    volumes: ClassVar[int] = 14

    strength: float = 3e-4
    iterations: int = 300
    tolerance: float = 1e-4

    def __post_init__(self) -> None:
        _check_above_zero("strength", self.strength)

    @property
    def evaluations(self) -> int:
        return 0

    def course(self, problem: Problem) -> Course:
        from degauss.medical.wavelets import COMPLEX, DB4, REAL, WaveletSparsity

        strength = max(self.strength, 2 * problem.measurement.sigma_y)
        norm = COMPLEX if problem.is_complex else REAL
        sparse = WaveletSparsity(strength, DB4, norm, self.iterations, self.tolerance)
        return _at_once(problem, lambda: sparse(problem.measurement).x)


# --- by name ------------------------------------------------------------------------------------------------

MethodName = Literal[
    "mbir", "dds", "dds-tv", "dps", "pigdm", "ddnm", "diffpir", "reddiff", "tv", "wavelet", "fbp", "sirt", "cg"
]

_METHODS: tuple[type[Method], ...] = (MBIR, DDS, DDSTV, DPS, PiGDM, DDNM, DiffPIR, REDDiff, TV, Wavelet, FBP, SIRT, CG)


def method_of(name: MethodName, steps: int | None = None) -> Method:
    """The method of a name, with its own settings but for ``steps``; `InputError` for one that takes none."""
    method = {kind.name: kind for kind in _METHODS}[check_option("method", name, (kind.name for kind in _METHODS))]()
    if steps is None:
        return method
    if "steps" not in settings(method):
        raise InputError(f"{name} takes no steps, but {steps} are asked for.")
    return replace(method, steps=steps)  # pyright: ignore[reportArgumentType, reportCallIssue]


def settings(method: Method) -> dict[str, Any]:
    """The fields of a method's configuration."""
    return asdict(method)  # pyright: ignore[reportArgumentType]  (all are dataclasses)


# --- parts --------------------------------------------------------------------------------------------------

_EXACT = 1e-4
"""The relative residual at which an inner system counts as solved."""


def coupled(problem: Problem, strength: float, rho: float, solve: ConjugateGradient) -> inverse.AxisTV:
    """Total variation along z, whose differences are weighed by the pixels' spacing over that of the slices."""
    dz, dy, dx = problem.spacing
    weight = math.sqrt(dy * dx) / dz
    # lambda |w D x| + rho/2 |w D x - z|^2 is that of D with lambda w and rho w^2.
    return inverse.AxisTV(problem.slices_axis, strength * weight, rho * weight**2, solve)


def _sampled(problem: Problem, denoiser: Denoiser[Point], solver: Solver, steps: int) -> Course:
    """From noise to data along the published path, evenly in time."""
    sigma = float(_PUBLISHED(torch.ones((), dtype=torch.float64)).sigma)
    grid = uniform_time(_PUBLISHED, steps)
    return Course(_from_noise(problem, sigma), solver(denoiser, _PUBLISHED), grid)


def _from_noise(problem: Problem, sigma: float) -> Callable[[Noise], Tensor]:
    def start(noise: Noise) -> Tensor:
        return sigma * noise.normal(problem.like.expand(len(noise.samples), *problem.event))

    return start


@dataclass(frozen=True)
class _AtOnce:
    """A kernel whose one step is the whole answer."""

    solve: Callable[[], Tensor]

    def init(self, x: Tensor, grid: Tensor, /) -> None:
        del x, grid

    def step(self, carry: None, x: Tensor, i: int, noise: Noise, /) -> tuple[None, Tensor]:
        del carry, i, noise
        return None, self.solve().expand(x.shape).clone()


def _at_once(problem: Problem, solve: Callable[[], Tensor]) -> Course:
    def start(noise: Noise) -> Tensor:
        return torch.zeros_like(problem.like.expand(len(noise.samples), *problem.event))

    return Course(start, _AtOnce(solve), torch.tensor([1.0, 0.0], dtype=torch.float64))


def _few(cg: int | None, problem: Problem) -> ConjugateGradient:
    """As many as are asked for, else 5, or 15 where the views leave out more than a tenth of what is needed."""
    return ConjugateGradient((5 if problem.covered > 0.9 else 15) if cg is None else cg)


def _eta(eta: float | None, problem: Problem) -> float:
    return (0.85 if problem.modality == "ct" else 0.5) if eta is None else eta


def _projector(problem: Problem) -> Tomography:
    scan = problem.tomography
    if scan is None:
        raise InputError("The scan has no geometry of rays, so it cannot be projected back.")
    return scan


def _check_steps(steps: int, share: float | None, cg: int | None) -> None:
    check_range("steps", steps, 1)
    if share is not None:
        check_range("eta", share, 0, 1)
    if cg is not None:
        check_range("cg", cg, 1)


def _check_above_zero(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise InputError(f"{name} must be a number above 0, but is {value}.")
