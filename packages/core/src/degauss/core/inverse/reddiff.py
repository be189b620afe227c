r"""RED-diff, Mardani et al. 2024: reconstruction as an optimisation, with the denoiser as regulariser.

The posterior is approximated by a point mu, found by Adam on (algorithm 1)

    v/2 |y - A mu|^2 + lambda_t <stop(eps_hat(x_t) - eps), mu>,    x_t = alpha_t mu + sigma_t eps,
    lambda_t = lambda (sigma_t / alpha_t)^p,

one step a time t, from noise to data; p = 1 is the paper's choice, the weight by the square root of the inverse SNR.
Since sigma (eps_hat - eps) = alpha (mu - x0_hat), the gradient is free of small divisors and of the network's Jacobian:

    v A^T (A mu - y) + lambda (sigma_t / alpha_t)^{p - 1} (mu - x0_hat(x_t)).

For Gaussian data N(0, s^2) and times visited evenly, its mean over eps and t vanishes at the ridge solution
(v A^T A + lambda c) mu = v A^T y, c = mean over t of (sigma/alpha)^{p-1} sigma^2 / (alpha^2 s^2 + sigma^2): the MAP
estimate, and the posterior mean, exactly if lambda c = v sigma_y^2 / s^2. A single pass that ends at t = 0 ends where
the regulariser is weakest, and goes on fitting y there.

Sums over values are sums here. The released code takes means, over measurements in the first term and over values in
the second: its lambda is this one times (number of values) / (number of measurements).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from degauss.core.denoiser import Denoiser
from degauss.core.errors import check_range
from degauss.core.inverse.measurement import Measurement
from degauss.core.noise import Noise
from degauss.core.posterior import Point
from degauss.core.schedule import Schedule


class REDCarry(NamedTuple):
    """(alpha, sigma) and the regulariser's weight of each step, its time on the device, and Adam's two moments."""

    scales: tuple[tuple[float, float], ...]
    weights: tuple[float, ...]
    times: tuple[Tensor, ...]
    first: Tensor
    second: Tensor


@dataclass(frozen=True)
class REDDiff:
    """The optimisation as a kernel: ``simulate(REDDiff(...), start, grid, noise)`` is a reconstruction.

    The state is mu, ``[batch, *event]``, and the start of the paper is A^+ y (``least_squares``). The grid's times are
    visited in order, its last is not; alpha and sigma must be positive there. ``strength``: lambda. ``power``: p.
    ``rate``: Adam's, in units of the data. ``fit``: v. Not a sampler: noise only chooses the states at which the
    denoiser is asked. Raises InputError for a strength or rate below 0.
    """

    denoiser: Denoiser[Point]
    schedule: Schedule
    measurement: Measurement
    strength: float = 0.25
    power: float = 1.0
    rate: float = 0.1
    fit: float = 1.0
    betas: tuple[float, float] = (0.9, 0.99)

    def __post_init__(self) -> None:
        check_range("strength", self.strength, 0)
        check_range("rate", self.rate, 0)

    def init(self, x: Tensor, grid: Tensor, /) -> REDCarry:
        times = grid[:-1].detach().to("cpu", torch.float64)
        alpha, sigma = self.schedule(times)
        if not (bool((alpha > 0).all()) and bool((sigma > 0).all())):
            raise ValueError("RED-diff needs alpha > 0 and sigma > 0: start a little below t = 1, end above t = 0")
        weights = self.strength * (sigma / alpha) ** (self.power - 1)
        scales = tuple(zip(alpha.tolist(), sigma.tolist(), strict=True))
        zero = torch.zeros_like(x)
        return REDCarry(scales, tuple(weights.tolist()), times.to(x.device).unbind(), zero, zero)

    def step(self, carry: REDCarry, x: Tensor, i: int, noise: Noise, /) -> tuple[REDCarry, Tensor]:
        alpha, sigma = carry.scales[i]
        # A fork, as draw 0 of the run itself is what a run may have started from.
        noisy = alpha * x + sigma * noise.fork(0).normal(x, draw=i)
        with torch.no_grad():
            mean = self.denoiser(noisy, carry.times[i]).mean
        misfit = self.measurement.operator.adjoint(self.measurement.residual(x))
        gradient = carry.weights[i] * (x - mean) - self.fit * misfit
        slow, slower = self.betas
        first = torch.lerp(gradient, carry.first, slow)
        second = torch.lerp(gradient**2, carry.second, slower)
        spread = (second / (1 - slower ** (i + 1))).sqrt() + 1e-8
        x = x - self.rate / (1 - slow ** (i + 1)) * first / spread
        return carry._replace(first=first, second=second), x
