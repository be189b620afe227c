r"""The analytic first step: one evaluation less, where the answer is known (Dockhorn et al. 2022, GENIE, section 3).

At high noise the data hardly show through, and what the network would say there is nearly the posterior mean under
a Gaussian of the data's mean and spread,

    E[x0 | x_t] = mean + alpha std^2 / (alpha^2 std^2 + sigma^2) (x_t - alpha mean).

The wrapped solver takes its first step, however many evaluations that has, with this in place of the network, and
goes on as usual. With mean 0 and std 1 on a variance-preserving schedule this is the paper's score -x; with std 0
it is the constant mean. The step's error is the gap between the two answers, so it is worth an evaluation only where
the grid starts at high noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from degauss.core.denoiser import Denoiser
from degauss.core.errors import InputError
from degauss.core.kernel import Kernel
from degauss.core.noise import Noise
from degauss.core.oracle import GaussianOracle
from degauss.core.posterior import Point
from degauss.core.sampling import Solver
from degauss.core.schedule import Schedule


@dataclass(frozen=True)
class AnalyticFirstStep:
    """A solver whose first step asks a Gaussian prior: ``AnalyticFirstStep(dpmpp(2), mean=0.0, std=0.5)``.

    ``mean``, ``std`` >= 0: of the clean data, in its units, numbers or tensors that broadcast over an event.
    InputError where they are not finite or std is negative.
    """

    solver: Solver
    mean: float | Tensor = 0.0
    std: float | Tensor = 1.0

    def __post_init__(self) -> None:
        for name, value, low in (("mean", self.mean, -math.inf), ("std", self.std, 0.0)):
            values = torch.as_tensor(value)
            if not bool((torch.isfinite(values) & (values >= low)).all()):
                kind = "finite" if name == "mean" else "finite and at least 0"
                raise InputError(f"{name} must be {kind}, but is {value}.")

    def __call__(self, denoiser: Denoiser[Point], schedule: Schedule, /) -> FirstStepKernel:
        prior = GaussianOracle(schedule, self.mean, self.std)
        return FirstStepKernel(self.solver(prior, schedule), self.solver(denoiser, schedule))


@dataclass(frozen=True)
class FirstStepKernel:
    """Takes its first step with one kernel and the others with the next.

    Both are the same solver on two denoisers, so that either can go on from the other's carry.
    """

    first: Kernel[Any]
    rest: Kernel[Any]

    def init(self, x: Tensor, grid: Tensor, /) -> Any:
        return self.rest.init(x, grid)

    def step(self, carry: Any, x: Tensor, i: int, noise: Noise, /) -> tuple[Any, Tensor]:
        kernel = self.rest if i else self.first
        return kernel.step(carry, x, i, noise)
