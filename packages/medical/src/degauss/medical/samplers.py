r"""Methods with a prior, each with the values that it has here.

**Where the noise is.** On data in [0, 1] the paths that these methods are published with spend their evaluations
elsewhere: evenly spaced times of DDPM's path end, at 50 steps, with an evaluation at a noise of 0.08, of which nothing
is taken off later, and begin at 150, where nothing is to be learned. All but DiffusionMBIR have the levels of Karras
et al. 2022 from 3 to 0.005 here, on the same path.

**How it was tuned.** On slices of a chest that no shipped prior has seen, continued to the outline of a body, 7 slices
of 6 mm, 64 x 64, exact; axial PSNR (dB) and SSIM of one draw, 50 evaluations a slice, with the shipped prior:

    8 views: DDS with TV, DDIM of eta 0.85, 5 conjugate gradients
             published times, lambda 1e-4, rho 0.025                                        25.8  .808
             levels from 80 to 0.005                                                        26.9  .873
             and 15 conjugate gradients                                                     27.8  .890
    8 views: levels from 3 to 0.005, 15 conjugate gradients, lambda 3e-5, rho 0.0025
             eta 0.85 / 1 / all noise fresh                               27.5 / 27.9 / 30.0  .890 / .898 / .933
             all noise fresh: mean of 4 draws / 100 evaluations                  30.3 / 30.0  .938 / .935
    total variation in three dimensions, best lambda: 8 / 4 / 2 views     30.5 / 24.9 / 19.9  .939 / .826 / .648
    DDS with TV, as it is here:                       8 / 4 / 2 views     30.0 / 25.9 / 21.1  .933 / .845 / .711
    90 degrees: best TV; DDS with TV and 15, 30 conjugate gradients       30.7; 29.6, 30.5    .927; .920, .931

    8 views, published times -> levels from 3 to 0.005, other settings as below:
             DPS 21.2 -> 25.4, DDNM 24.7 -> 25.0, PiGDM 25.2 -> 26.1, RED-diff 25.4 -> 28.7

So with few views the prior is worth 1 dB and more over the best total variation, and where total variation suffices it
only keeps up with it. Drawing all noise afresh is no better a posterior: its draws differ by 0.009 (root mean square)
and are wrong by 0.032, which is what `calibrate` is for; with eta 0.85 it is 0.015 and 0.042.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from degauss.core import inverse
from degauss.core.denoiser import Denoiser
from degauss.core.errors import check_range
from degauss.core.gaussian import ddim
from degauss.core.grid import karras
from degauss.core.inverse import ConjugateGradient
from degauss.core.noise import Noise
from degauss.core.posterior import Point
from degauss.core.sampling import Solver
from degauss.core.schedule import EDM, LinearVP
from degauss.medical.problem import Course, Method, Problem, check_above_zero

_PATH = LinearVP()
"""DDPM's, in continuous time: that on which DDS, DPS, PiGDM, DDNM, DiffPIR and RED-diff are published."""
_EXPLODING = EDM(378.0)
"""That of DiffusionMBIR, alpha = 1; the grid says at which levels."""
_HIGHEST, _LOWEST = 3.0, 0.005
"""The first and the last level sigma / alpha at which a network is asked, in prior units."""


@dataclass(frozen=True)
class DDS(Method):
    """Decomposed diffusion sampling: a few conjugate gradients on each posterior mean (`degauss.core.inverse.dds`).

    ``fresh``: the share of fresh noise in each state's variance, 0 to 1; all of it is 3 dB ahead of the published eta
    of 0.85 (about 0.15 here) and, in magnetic resonance, 6 dB ahead of 0.5. ``cg``: conjugate gradients a step; None:
    5, and 15 in limited-angle scans. ``trust``: for noisy scans, the error that a posterior mean is taken to have, in
    prior units, so that gamma = (trust / sigma_y)^2; 0.1 is about the paper's gamma of 5 at sigma_y 0.05.
    """

    name: ClassVar[str] = "dds"
    draws: ClassVar[bool] = True

    steps: int = 50
    fresh: float = 1.0
    cg: int | None = None
    trust: float = 0.1

    def __post_init__(self) -> None:
        _check_steps(self.steps, self.cg)
        check_range("fresh", self.fresh, 0, 1)
        check_above_zero("trust", self.trust)

    @property
    def evaluations(self) -> int:
        return self.steps

    def course(self, problem: Problem) -> Course:
        sigma = problem.measurement.sigma_y
        guided = inverse.DDS(
            problem.denoiser(_PATH),
            problem.measurement,
            (self.trust / sigma) ** 2 if sigma else math.inf,
            _few(self.cg, problem, 5),
        )
        return _sampled(problem, guided, inverse.renoising(self.fresh), self.steps)


@dataclass(frozen=True)
class DDSTV(Method):
    """DDS whose slices are coupled by total variation along z (`degauss.core.inverse.total_variation`).

    The first choice: within 50 evaluations a slice. ``strength``, ``rho``: of slices as far apart as their pixels; for
    others the difference along z is that of the pixels' spacing, so thick slices are coupled more weakly. The published
    1e-4 and 0.025 pull harder than exact line integrals bear. ``fresh``: as in `DDS`. ``cg``: conjugate gradients a
    step; None: 15, and 30 in limited-angle scans. ``trust``: for noisy scans, the most that a posterior mean is taken
    to be wrong by, in prior units; three times the noise level where that is less, so that the last steps fit no noise.
    """

    name: ClassVar[str] = "dds-tv"
    draws: ClassVar[bool] = True
    volumes: ClassVar[int] = 19

    steps: int = 50
    fresh: float = 1.0
    cg: int | None = None
    strength: float = 3e-5
    rho: float = 0.0025
    trust: float = 0.1

    def __post_init__(self) -> None:
        _check_steps(self.steps, self.cg)
        check_range("fresh", self.fresh, 0, 1)
        check_range("strength", self.strength, 0)
        check_above_zero("rho", self.rho)
        check_above_zero("trust", self.trust)

    @property
    def evaluations(self) -> int:
        return self.steps

    def course(self, problem: Problem) -> Course:
        coupling = coupled(problem, self.strength, self.rho, _few(self.cg, problem, 15))
        renoised, error = inverse.renoising(self.fresh), inverse.MeanError(self.trust)
        solver = inverse.dds_tv(problem.measurement, coupling, renoised, error)
        return _sampled(problem, problem.denoiser(_PATH), solver, self.steps)


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
        check_above_zero("rho", self.rho)

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

    ``zeta``: its length. Each slice has the norm of its own misfit, so a taller volume needs no other zeta.
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
        solver = inverse.dps(problem.measurement, self.zeta, parts=1)
        return _sampled(problem, problem.denoiser(_PATH), solver, self.steps)


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
        _check_steps(self.steps, self.cg)
        check_range("eta", self.eta, 0, 1)
        check_above_zero("data_std", self.data_std)

    @property
    def evaluations(self) -> int:
        return self.steps

    def course(self, problem: Problem) -> Course:
        denoiser, solve = problem.denoiser(_PATH), ConjugateGradient(self.cg, _EXACT)
        guided = inverse.PiGDM(denoiser, _PATH, problem.measurement, self.data_std, solve)
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
        _check_steps(self.steps, self.cg)
        check_range("eta", self.eta, 0, 1)

    @property
    def evaluations(self) -> int:
        return self.steps

    def course(self, problem: Problem) -> Course:
        denoiser, solve = problem.denoiser(_PATH), ConjugateGradient(self.cg, _EXACT)
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
        _check_steps(self.steps, self.cg)
        check_range("zeta", self.zeta, 0, 1)
        check_range("strength", self.strength, 0)

    @property
    def evaluations(self) -> int:
        return self.steps

    def course(self, problem: Problem) -> Course:
        denoiser, solve = problem.denoiser(_PATH), ConjugateGradient(self.cg, _EXACT)
        guided = inverse.DiffPIR(denoiser, _PATH, problem.measurement, self.strength, solve=solve)
        return _sampled(problem, guided, inverse.renoising(self.zeta), self.steps)


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
        _check_steps(self.steps, self.cg)

    @property
    def evaluations(self) -> int:
        return self.steps

    def course(self, problem: Problem) -> Course:
        measurement, like = problem.measurement, problem.like
        # Sums in core, means in the released code.
        share = measurement.y[0].numel() / like.numel()
        kernel = inverse.REDDiff(
            problem.denoiser(_PATH), _PATH, measurement, self.strength * share, self.power, self.rate
        )

        def start(noise: Noise) -> Tensor:
            x = inverse.least_squares(measurement, like, ConjugateGradient(self.cg, _EXACT))
            return x.expand(len(noise.samples), *x.shape[1:]).clone()

        return Course(start, kernel, _levels(self.steps))


# --- parts ----------------------------------------------------------------------------------------------------

_EXACT = 1e-4
"""The relative residual at which an inner system counts as solved."""


def coupled(problem: Problem, strength: float, rho: float, solve: ConjugateGradient) -> inverse.AxisTV:
    """Total variation along z, whose differences are weighed by the pixels' spacing over that of the slices."""
    dz, dy, dx = problem.spacing
    weight = math.sqrt(dy * dx) / dz
    # lambda |w D x| + rho/2 |w D x - z|^2 is that of D with lambda w and rho w^2.
    return inverse.AxisTV(problem.slices_axis, strength * weight, rho * weight**2, solve)


def _sampled(problem: Problem, denoiser: Denoiser[Point], solver: Solver, steps: int) -> Course:
    """From noise to data along the published path, at the module's levels."""
    grid = _levels(steps)
    return Course(_from_noise(problem, float(_PATH(grid[0]).sigma)), solver(denoiser, _PATH), grid)


def _levels(steps: int) -> Tensor:
    return karras(_PATH, steps, sigma_min=_LOWEST, sigma_max=_HIGHEST)


def _from_noise(problem: Problem, sigma: float) -> Callable[[Noise], Tensor]:
    def start(noise: Noise) -> Tensor:
        return sigma * noise.normal(problem.like.expand(len(noise.samples), *problem.event))

    return start


def _few(cg: int | None, problem: Problem, usual: int) -> ConjugateGradient:
    """As many as are asked for, else ``usual``, and more where the views leave out a tenth of what is needed."""
    more = usual if problem.covered > 0.9 else max(15, 2 * usual)
    return ConjugateGradient(more if cg is None else cg)


def _check_steps(steps: int, cg: int | None) -> None:
    check_range("steps", steps, 1)
    if cg is not None:
        check_range("cg", cg, 1)
