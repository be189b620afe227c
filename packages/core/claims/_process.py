"""The problem that the claims about restoration share: data seen through noise, with their exact posterior.

x0 is one draw of the mixture of ``_problem`` and y = x0 + 0.7 n, in units of the caller's choice. Given y, x0 is a
mixture again, so E[x0 | x_t, y] is exact on every path around y, and so are samples of p(x0 | y) to compare with. All
runs are of one y, 4096 samples each.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from degauss.core import Noise, Point, Schedule
from degauss.core.oracle import MixtureOracle
from degauss.core.process.centred import sample_centred

from ._problem import DIM, DOUBLE, mixture, sliced_distance

COUNT, NOISE = 4096, 0.7


@dataclass(frozen=True, eq=False)
class Exact:
    """E[x0 | x_t] on the path around a centre, from the mixture that x0 - centre is."""

    centred: MixtureOracle
    centre: Tensor

    def __call__(self, x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        alpha, sigma = self.centred.schedule(t)
        if alpha == 0 and sigma == 0:
            # Where a bridge starts the state is the observation itself, whatever x0 is.
            return Point((self.centre + self.centred.weights @ self.centred.means).expand_as(x))
        return Point(self.centre + self.centred(x - self.centre, t, **cond).mean)


@dataclass(frozen=True, eq=False)
class Restoration:
    """An observation ``[8]`` and the components of p(x0 | y), all multiplied by ``scale``."""

    observed: Tensor
    weights: Tensor
    means: Tensor
    covariances: Tensor
    scale: float
    seed: int

    def around(self, centre: Tensor, schedule: Schedule) -> MixtureOracle:
        """The oracle of x0 - centre."""
        return MixtureOracle(schedule, self.weights, self.means - centre, self.covariances)

    def sampled(
        self, schedule: Schedule, solver: Callable[..., Any], grid: Tensor, guess: Tensor | None = None
    ) -> Tensor:
        """Samples from the observation, or from a guess ``[8]``, to the end of the grid."""
        mu = self.observed.expand(COUNT, DIM)
        denoiser = Exact(self.around(self.observed, schedule), self.observed)
        steps = len(grid) - 1
        return sample_centred(
            denoiser, schedule, mu, solver=solver, steps=steps, grid=grid, guess=guess, seed=self.seed
        )

    def mean(self) -> Tensor:
        """E[x0 | y]."""
        return self.weights @ self.means

    def draw(self, key: int) -> Tensor:
        """Exact samples of p(x0 | y)."""
        oracle = MixtureOracle(mixture(self.seed).schedule, self.weights, self.means, self.covariances)
        return oracle.draw(Noise(key + self.seed, range(COUNT)))

    def distance(self, x: Tensor) -> float:
        """Sliced W2 from p(x0 | y), in units of ``scale``; two draws of p(x0 | y) are ``floor`` apart."""
        return sliced_distance(x, self.draw(5000)) / self.scale

    def floor(self) -> float:
        return self.distance(self.draw(6000))

    def spread(self) -> float:
        """The standard deviation of p(x0 | y), over all coordinates."""
        return spread(self.draw(5000))


def spread(x: Tensor) -> float:
    """The root mean variance over coordinates."""
    return float(x.var(0).mean().sqrt())


@cache
def restoration(seed: int, scale: float = 1.0) -> Restoration:
    """One observation of one mixture."""
    prior, noise = mixture(seed), Noise(3000 + seed, range(1))
    observed = (prior.draw(noise) + NOISE * noise.normal(torch.empty(1, DIM, dtype=DOUBLE), draw=1))[0]
    precision = torch.linalg.inv(prior.covariances)
    identity = torch.eye(DIM, dtype=DOUBLE)
    covariances = torch.linalg.inv(precision + identity / NOISE**2)
    pulled = torch.einsum("kde,ke->kd", precision, prior.means) + observed / NOISE**2
    means = torch.einsum("kde,ke->kd", covariances, pulled)
    evidence = torch.distributions.MultivariateNormal(prior.means, prior.covariances + NOISE**2 * identity)
    weights = (prior.weights.log() + evidence.log_prob(observed)).softmax(0)
    # eigh wants a covariance that is symmetric to the bit.
    covariances = 0.5 * scale**2 * (covariances + covariances.transpose(1, 2))
    return Restoration(scale * observed, weights, scale * means, covariances, scale, seed)


def predictor_corrector(
    oracle: MixtureOracle, schedule: Schedule, grid: Tensor, noise: Noise, corrector: float = 0.0
) -> Tensor:
    """The reverse SDE of z by Euler-Maruyama, after an annealed Langevin step at each time, in centred coordinates.

    ``corrector``: r of the Langevin step z + 2 (r sigma)^2 score + 2 r sigma n (none where 0). The last step leaves its
    noise out. One evaluation a step, two with a corrector.
    """
    alpha, sigma = (scale.tolist() for scale in schedule(grid))
    z = sigma[0] * noise.normal(torch.empty(COUNT, DIM, dtype=DOUBLE))
    for i in range(len(grid) - 1):

        def score(z: Tensor, i: int = i) -> Tensor:
            return (alpha[i] * oracle(z, grid[i]).mean - z) / sigma[i] ** 2

        if corrector:
            size = 2 * (corrector * sigma[i]) ** 2
            z = z + size * score(z) + math.sqrt(2 * size) * noise.normal(z, draw=2 * i + 1)
        drift = math.log(alpha[i + 1] / alpha[i])
        variance = sigma[i] ** 2 - (alpha[i] / alpha[i + 1] * sigma[i + 1]) ** 2
        z = z * (1 + drift) + variance * score(z)
        if i < len(grid) - 2:
            z = z + math.sqrt(variance) * noise.normal(z, draw=2 * i + 2)
    return z
