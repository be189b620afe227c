r"""What was measured: y = A x0 + sigma_y n, n ~ N(0, I); and the one linear system that most methods solve.

The event nearest to a given x that explains y, in the sense of

    min over x'   |y - A x'|^2 + rho |x' - x|^2,

is x + d with (A^T A + rho) d = A^T (y - A x). With rho = 0 it is the projection x + A^+ (y - A x): d lies in the row
space of A, and what A does not see is left alone. Since d starts from 0, k steps of conjugate gradients stay in
the k-th Krylov space of A^T A and A^T (y - A x), whatever rho is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from degauss.core.denoiser import expand
from degauss.core.errors import InputError, check_range
from degauss.core.inverse.conjugate_gradient import ConjugateGradient
from degauss.core.inverse.operator import LinearOperator, normalised


@dataclass(frozen=True)
class Measurement:
    """y = A x0 + sigma_y n.

    ``y``: ``[batch, *measurement]``, or ``[1, *measurement]`` for many draws of one posterior. ``sigma_y``: the
    standard deviation of its noise, in its units; 0 for exact measurements. Raises InputError if a value of y is not
    finite, or sigma_y is negative or infinite.
    """

    operator: LinearOperator
    y: Tensor
    sigma_y: float = 0.0

    def __post_init__(self) -> None:
        check_range("sigma_y", self.sigma_y, 0)
        wrong = int((~torch.isfinite(self.y)).sum())
        if wrong or math.isinf(self.sigma_y):
            raise InputError(
                f"a measurement must be finite, but {wrong} of its {self.y.numel()} values are not "
                f"(sigma_y is {self.sigma_y})."
            )

    def residual(self, x: Tensor) -> Tensor:
        """y - A x, ``[batch, *measurement]``."""
        return self.y - self.operator(x)

    def normalised(self, like: Tensor) -> Measurement:
        """The same measurement in units in which its operator has norm 1. ``like``: any events it acts on."""
        operator = normalised(self.operator, like)
        return Measurement(operator, self.y / operator.raw_norm, self.sigma_y / operator.raw_norm)


def displacement(measurement: Measurement, x: Tensor, rho: float | Tensor, solve: ConjugateGradient) -> Tensor:
    """d of the module's docstring, ``[batch, *event]``. ``rho``: one number >= 0, or one a row ``[batch]``."""
    operator = measurement.operator
    weight = expand(torch.as_tensor(rho, dtype=torch.float64, device=x.device), x)

    def apply(d: Tensor) -> Tensor:
        return operator.adjoint(operator(d)) + weight * d

    return solve(apply, operator.adjoint(measurement.residual(x))).x


def least_squares(measurement: Measurement, like: Tensor, solve: ConjugateGradient) -> Tensor:
    """A^+ y, the solution of least norm, ``[batch, *event]``: where an optimisation may begin."""
    return displacement(measurement, torch.zeros_like(like), 0.0, solve)


def precision(alpha: Tensor, sigma: Tensor, data_std: float) -> Tensor:
    """1 / r_t^2 = alpha^2 / sigma^2 + 1 / s^2: how sharply x_t determines x0 ~ N(., s^2), in the shape of alpha."""
    return (alpha / sigma) ** 2 + data_std**-2


def noise_ratio(measurement: Measurement, alpha: Tensor, sigma: Tensor, data_std: float) -> Tensor:
    """rho_t = sigma_y^2 / r_t^2, with which the step of the module's docstring is Bayes' rule. Needs sigma > 0."""
    return measurement.sigma_y**2 * precision(alpha, sigma, data_std)
