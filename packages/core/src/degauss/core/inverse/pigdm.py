r"""Pseudo-inverse guidance (PiGDM), Song et al. 2023: the likelihood of a posterior mean that is uncertain.

With p(x0 | x_t) taken for N(x0_hat, r_t^2 I),

    p(y | x_t) = N(A x0_hat, r_t^2 A A^T + sigma_y^2),
    grad log p(y | x_t) = J^T A^T (r_t^2 A A^T + sigma_y^2)^{-1} (y - A x0_hat),
    r_t^2 = sigma^2 / (alpha^2 + sigma^2 / s^2)

(the paper's choice, with s = 1: r_t^2 = sigma_t^2 / (1 + sigma_t^2) where alpha is 1). By the identity
A^T (A A^T + rho)^{-1} = (A^T A + rho)^{-1} A^T the vector under J^T is d / r_t^2, with d the displacement to the
event that weighs y against x0_hat by rho_t = sigma_y^2 / r_t^2. So

    mean' = mean + ((alpha^2 + sigma^2 / s^2) / alpha) J^T d,

which has no small divisor at either end; sigma_y = 0 gives d = A^+ (y - A x0_hat), the paper's noiseless form. The
gradient has the weight of Bayes' rule here. Exact, at every t and for every A, for data N(m, s^2 I); for other data,
Gaussian or not, r_t^2 I stands for a covariance that it is not (``moment_matching`` uses the denoiser's own).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from degauss.core.denoiser import Denoiser, expand
from degauss.core.inverse.conjugate_gradient import ACCURATE, ConjugateGradient
from degauss.core.inverse.measurement import Measurement, displacement, noise_ratio
from degauss.core.inverse.pull_back import pull_back
from degauss.core.posterior import Point
from degauss.core.schedule import Schedule


@dataclass(frozen=True)
class PiGDM:
    """The guided denoiser. ``data_std``: s, the standard deviation of the clean data in its units; 1 in the paper.

    ``solve`` inverts the measurement; two applications of A and of its transpose an iteration, and one backward
    pass of the network in all. Needs sigma > 0.
    """

    denoiser: Denoiser[Point]
    schedule: Schedule
    measurement: Measurement
    data_std: float = 1.0
    solve: ConjugateGradient = ACCURATE

    def __call__(self, x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        alpha, sigma = self.schedule(t)
        rho = noise_ratio(self.measurement, alpha, sigma, self.data_std)

        def towards(mean: Tensor) -> Tensor:
            return displacement(self.measurement, mean, rho, self.solve)

        mean, gradient = pull_back(self.denoiser, x, t, cond, towards)
        # At alpha = 0 the state says nothing of the data: J is 0, and so is the guidance.
        informed = alpha > 0
        weight = (alpha**2 + (sigma / self.data_std) ** 2) / torch.where(informed, alpha, 1.0)
        return Point(mean + expand(torch.where(informed, weight, 0.0), x) * gradient)
