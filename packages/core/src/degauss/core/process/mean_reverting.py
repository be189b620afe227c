r"""Mean-reverting processes: an Ornstein-Uhlenbeck drift carries the data to the observation while noise grows.

    dx = theta_t (mu - x) dt + g_t dw   gives   x_t = mu + alpha (x0 - mu) + sigma eps,
    alpha = exp(-int theta),   sigma^2 = int_0^t exp(-2 int_s^t theta) g_s^2 ds,

so each process is a schedule for z = x - mu (see ``centred``). In these coordinates MRS (Li et al. 2025, "MR
Sampler") needs no code of its own: it is DPM-Solver (noise form) and DPM-Solver++ (data form), with eta = 0 for its
ODE and 1 for its SDE updates, and its terms in mu are what centring adds. Number for number, its orders 1 and 2 are
``noise_table`` and ``data_table`` of that order. Its published third order gives the second difference half the weight
that integrating the quadratic gives, which leaves order 2; ``dpm(3)`` and ``dpmpp(3)`` give it all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from degauss.core.errors import InputError
from degauss.core.schedule import Scales, Schedule

# z - sin z is summed to this many terms: enough for z <= pi in float64.
_TERMS = 17
# Newton's method starts within a factor of two of the root and doubles its digits.
_ITERATIONS = 8


@dataclass(frozen=True)
class OUVE:
    r"""Ornstein-Uhlenbeck drift, exploding variance: SGMSE+ (Richter et al. 2023).

    dx = gamma (mu - x) dt + g(t) dw with g(t) = sigma_min r^t sqrt(2 log r) and r = sigma_max / sigma_min, hence

        alpha = e^{-gamma t},  (sigma/alpha)^2 = c (e^{2 (gamma + log r) t} - 1)
        c = sigma_min^2 log r / (gamma + log r).

    ``sigma_min`` < ``sigma_max`` are in the units of the data, here spectrograms scaled to a peak of about one. Note
    alpha(1) = e^{-gamma} is not small: a run started at the observation lacks alpha(1) (x0 - mu) of the mean.
    """

    gamma: float = 1.5
    sigma_min: float = 0.05
    sigma_max: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max:
            raise InputError(f"OUVE needs 0 < sigma_min < sigma_max, but got {self.sigma_min} and {self.sigma_max}.")
        if not self.gamma >= 0:
            raise InputError(f"OUVE needs gamma >= 0, but got {self.gamma}.")

    @property
    def _growth(self) -> float:
        return 2 * (self.gamma + math.log(self.sigma_max / self.sigma_min))

    @property
    def _log_scale(self) -> float:
        """log c."""
        return math.log(2 * self.sigma_min**2 * math.log(self.sigma_max / self.sigma_min) / self._growth)

    def __call__(self, t: Tensor, /) -> Scales:
        alpha = torch.exp(-self.gamma * t.double())
        return Scales(alpha, alpha * torch.exp(-0.5 * self.log_snr(t)))

    def log_snr(self, t: Tensor, /) -> Tensor:
        return -self._log_scale - torch.log(torch.expm1(self._growth * t.double()))

    def time(self, log_snr: Tensor, /) -> Tensor:
        return torch.log1p(torch.exp(-log_snr.double() - self._log_scale)) / self._growth


@dataclass(frozen=True)
class CosineRate:
    r"""Variance-preserving path of IR-SDE's cosine rate (Luo et al. 2023; its published theta schedule, for all t).

    theta(t) is proportional to 1 - cos^2(a(t)) / cos^2(a(0)), a(t) = (pi/2) (t + s) / (1 + s), scaled so that
    alpha(1) = ``end``. The rate is zero at the data. ``s`` in [0, 1] is the offset.
    """

    end: float = 0.005
    s: float = 0.008

    def __post_init__(self) -> None:
        if not (0 < self.end < 1 and 0 <= self.s <= 1):
            raise InputError(f"CosineRate needs 0 < end < 1 and 0 <= s <= 1, but got end {self.end} and s {self.s}.")

    # With z = pi t / (1 + s) and b = 2 a(0), the integral of theta is proportional to
    #     G(z) = cos b (z - sin z) + sin b (1 - cos z),
    # a sum of two positive terms, so that small times keep their digits.

    @property
    def _unit(self) -> float:
        return math.pi / (1 + self.s)

    @property
    def _phase(self) -> tuple[float, float]:
        return math.cos(self.s * self._unit), math.sin(self.s * self._unit)

    def _integral(self, z: Tensor) -> Tensor:
        cos_b, sin_b = self._phase
        return cos_b * _sine_gap(z) + 2 * sin_b * torch.sin(0.5 * z) ** 2

    def _slope(self, z: Tensor) -> Tensor:
        cos_b, sin_b = self._phase
        return 2 * cos_b * torch.sin(0.5 * z) ** 2 + sin_b * torch.sin(z)

    @cached_property
    def _rate(self) -> float:
        """log alpha is minus this times G."""
        whole = self._integral(torch.tensor(self._unit, dtype=torch.float64))
        return -math.log(self.end) / float(whole)

    def _log_alpha(self, t: Tensor) -> Tensor:
        return -self._rate * self._integral(self._unit * t.double())

    def __call__(self, t: Tensor, /) -> Scales:
        log_alpha = self._log_alpha(t)
        return Scales(log_alpha.exp(), (-torch.expm1(2 * log_alpha)).sqrt())

    def log_snr(self, t: Tensor, /) -> Tensor:
        log_alpha = self._log_alpha(t)
        return 2 * log_alpha - torch.log(-torch.expm1(2 * log_alpha))

    def time(self, log_snr: Tensor, /) -> Tensor:
        cos_b, sin_b = self._phase
        goal = -0.5 * logsigmoid(log_snr.double()) / self._rate
        # On [0, pi]: z - sin z >= z^3 / pi^2 and 1 - cos z >= 2 z^2 / pi^2, so z starts above the root, from where
        # Newton's method on a convex function descends to it.
        z = torch.minimum(
            (math.pi**2 / cos_b * goal).pow(1 / 3),
            math.pi * torch.sqrt(goal / (2 * max(sin_b, 1e-300))),
        )
        for _ in range(_ITERATIONS):
            z = z - (self._integral(z) - goal) / self._slope(z).clamp(min=1e-300)
        return z / self._unit


@dataclass(frozen=True)
class IRSDE:
    r"""IR-SDE (Luo et al. 2023): dx = theta_t (mu - x) dt + g_t dw with g_t^2 = 2 theta_t std^2.

        alpha = e^{-int theta},  sigma = std sqrt(1 - alpha^2).

    ``std``: the stationary standard deviation (the paper's lambda), in the units of the data. ``rate``: any
    variance-preserving schedule, whose alpha is this one; ``LinearVP(2 theta, 2 theta)`` is a constant theta.
    """

    std: float
    rate: Schedule = field(default_factory=CosineRate)

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise InputError(f"IRSDE needs std > 0, but got {self.std}.")

    def __call__(self, t: Tensor, /) -> Scales:
        alpha, sigma = self.rate(t)
        return Scales(alpha, self.std * sigma)

    def log_snr(self, t: Tensor, /) -> Tensor:
        return self.rate.log_snr(t) - 2 * math.log(self.std)

    def time(self, log_snr: Tensor, /) -> Tensor:
        return self.rate.time(log_snr.double() + 2 * math.log(self.std))


def _sine_gap(z: Tensor) -> Tensor:
    """z - sin z for 0 <= z <= pi, without cancellation."""
    square = z**2
    series = torch.ones_like(z)
    for k in range(_TERMS, 1, -1):
        series = 1 - square / (2 * k * (2 * k + 1)) * series
    return z**3 / 6 * series
