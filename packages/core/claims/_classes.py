r"""What the claims on guidance share: classes whose exact denoisers are known, and models that are worse on purpose.

Data are three classes in the plane, each a mixture of four Gaussians of standard deviation 0.08 (in ``dim``
dimensions where asked) whose centres are normal with standard deviation 0.5, the customary spread of data on this
path, alpha = 1 and sigma from 40 to 0.02. A *blurred* model is the exact denoiser of the data with a variance added
to every component: it knows too little of the detail, and more blur means knowing less.

Starting noise and data are scrambled Sobol points with equally many data in each mode, the solver is deterministic
and takes 64 steps: the distance of 4096 samples to the data is then the method's, and hardly that of their number or
of the solver.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from degauss.core import EDM, Noise, simulate
from degauss.core.gaussian import dpmpp
from degauss.core.grid import uniform_log_snr
from degauss.core.oracle import MixtureOracle
from degauss.core.posterior import Point

CLASSES, MODES, WIDTH, SPREAD = 3, 4, 0.08, 0.5
LABEL = 0
SIGMA_MAX, SIGMA_MIN = 40.0, 0.02
SCHEDULE = EDM(SIGMA_MAX)
DOUBLE = torch.float64
COUNT, STEPS = 4096, 64
SOLVER = dpmpp(2)


def grid(steps: int = STEPS) -> Tensor:
    """Uniform in log-SNR over the whole range."""
    return uniform_log_snr(SCHEDULE, steps, start=1.0, end=SIGMA_MIN / SIGMA_MAX)


def model(seed: int, label: int | None, blur: float = 0.0, dim: int = 2) -> MixtureOracle:
    """The denoiser of one class, or of all (None), with a variance of ``blur`` added to the data."""
    centres = SPREAD * Noise(2000 + seed, range(CLASSES * MODES)).normal(
        torch.empty(CLASSES * MODES, dim, dtype=DOUBLE)
    )
    means = centres if label is None else centres[label * MODES : (label + 1) * MODES]
    covariances = (WIDTH**2 + blur) * torch.eye(dim, dtype=DOUBLE).expand(len(means), dim, dim)
    return MixtureOracle(SCHEDULE, torch.ones(len(means), dtype=DOUBLE), means, covariances)


def data(seed: int, label: int | None, count: int = COUNT, dim: int = 2) -> Tensor:
    """Exact samples of the data, as many of each mode."""
    means = model(seed, label, dim=dim).means
    # In blocks: every fourth Sobol point would lie in one part of the plane.
    return means[torch.arange(count) * len(means) // count] + WIDTH * normal(7000 + seed, count, dim)


def start(seed: int, count: int = COUNT, dim: int = 2) -> Tensor:
    """Samples of the guided class with noise of sigma = 40.

    Noise alone would misplace the class by its mean, and W2 feels the hundredth of the mass that then lands in another
    mode.
    """
    return data(seed, LABEL, count, dim) + SIGMA_MAX * normal(seed, count, dim)


def normal(seed: int, count: int, dim: int) -> Tensor:
    """Standard normals from scrambled Sobol points."""
    points = torch.quasirandom.SobolEngine(dim, scramble=True, seed=seed).draw(count, dtype=DOUBLE)
    return torch.special.ndtri(points.clamp(1e-9, 1 - 1e-9))


def drawn(kernel: Any, seed: int, steps: int = STEPS, count: int = COUNT, dim: int = 2) -> Tensor:
    """What a kernel makes of ``start(seed)``."""
    return simulate(kernel, start(seed, count, dim), grid(steps), Noise(seed, range(count)))


def sampled(denoiser: Any, seed: int, steps: int = STEPS, dim: int = 2) -> Tensor:
    """Samples by DPM-Solver++(2M)."""
    return drawn(SOLVER(denoiser, SCHEDULE), seed, steps, dim=dim)


def log_class(x: Tensor, seed: int, label: int) -> float:
    """The mean over samples of log p(class | x) under the data, slightly noised to have a density everywhere."""
    t = torch.tensor(0.05 / SIGMA_MAX, dtype=DOUBLE)
    joint = torch.stack([model(seed, c).log_density(x, t) for c in range(CLASSES)])
    return float(joint.log_softmax(0)[label].mean())


def spread(x: Tensor) -> float:
    """The root of the total variance."""
    return float(x.var(0).sum().sqrt())


class Counted:
    """A denoiser that counts how often it is asked."""

    def __init__(self, denoiser: Any) -> None:
        self.denoiser = denoiser
        self.calls = 0

    def __call__(self, x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        self.calls += 1
        return self.denoiser(x, t, **cond)


def below(low: Sequence[float], high: Sequence[float], share: float = 1.0) -> bool:
    """Whether each value of the first is below ``share`` of its partner, seed by seed."""
    return all(a < share * b for a, b in zip(low, high, strict=True))
