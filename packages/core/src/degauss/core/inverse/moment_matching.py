r"""Moment matching (MMPS), Rozet et al. 2024: the likelihood with the covariance that the denoiser itself implies.

By Tweedie's second formula Cov[x0 | x_t] = C = (sigma^2 / alpha) J, with J the Jacobian of the posterior mean. With
p(x0 | x_t) taken for N(x0_hat, C), Bayes' rule is

    mean' = mean + C A^T (A C A^T + sigma_y^2)^{-1} (y - A mean).

No parameter is left. Exact, at every t and for every A, for any Gaussian data, where ``pigdm`` is exact only if they
are white. The system is solved by conjugate gradients in the space of measurements, each iteration of which goes once
back through the network; that needs J symmetric, as a posterior mean's is and a network's is nearly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from degauss.core.denoiser import Denoiser, expand
from degauss.core.inverse.conjugate_gradient import ConjugateGradient
from degauss.core.inverse.measurement import Measurement
from degauss.core.posterior import Point
from degauss.core.schedule import Schedule

_THREE = ConjugateGradient(3)


@dataclass(frozen=True)
class MomentMatching:
    """The guided denoiser: 1 + iterations backward passes an evaluation (the paper takes 1 to 3 iterations).

    Its answer is not differentiable with respect to x.
    """

    denoiser: Denoiser[Point]
    schedule: Schedule
    measurement: Measurement
    solve: ConjugateGradient = _THREE

    def __call__(self, x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        operator = self.measurement.operator
        alpha, sigma = self.schedule(t)
        informed = alpha > 0
        weight = torch.where(informed, sigma**2 / torch.where(informed, alpha, 1.0), 0.0)
        with torch.inference_mode(False), torch.enable_grad():
            # What inference mode made cannot be saved for a backward pass, but its copy can.
            leaf = (x.clone() if x.is_inference() else x.detach()).requires_grad_()
            mean = self.denoiser(leaf, t.clone() if t.is_inference() else t, **cond).mean

            def spread(v: Tensor) -> Tensor:
                """C A^T v."""
                (pulled,) = torch.autograd.grad(mean, leaf, operator.adjoint(v), retain_graph=True)
                return expand(weight, x) * pulled

            def apply(v: Tensor) -> Tensor:
                return operator(spread(v)) + self.measurement.sigma_y**2 * v

            clean = mean.detach()
            solved = self.solve(apply, self.measurement.residual(clean)).x
            return Point(clean + spread(solved))
