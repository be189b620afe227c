r"""Noise schedules: how noise enters as t goes from 0 (data) to 1 (noise).

Every Gaussian path here is x_t = alpha(t) x0 + sigma(t) eps with eps ~ N(0, I). A schedule gives the two
scales, their log signal-to-noise ratio

    log_snr(t) = log(alpha^2 / sigma^2) = 2 log(alpha / sigma),

and its inverse. The log-SNR is the common axis: two schedules meet there, ``b.time(a.log_snr(t))`` is the
time of schedule ``b`` at the noise level that ``a`` has at ``t``. Results are float64, on the device of t.

Each class follows its published formula and computes the log-SNR and its inverse without cancellation:
``time(log_snr(t)) == t`` to rounding even where alpha or sigma is tiny.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


class Scales(NamedTuple):
    """The coefficients of x_t = alpha x0 + sigma eps, float64, in the shape of t."""

    alpha: Tensor
    sigma: Tensor


class Schedule(Protocol):
    """How noise enters. ``t`` is any tensor with values in [0, 1]; every result is float64 in its shape."""

    def __call__(self, t: Tensor, /) -> Scales: ...

    def log_snr(self, t: Tensor, /) -> Tensor:
        """2 log(alpha / sigma), decreasing in t; ±inf where one of the scales is zero."""
        ...

    def time(self, log_snr: Tensor, /) -> Tensor:
        """The inverse of ``log_snr``."""
        ...


def _variance_preserving(log_alpha: Tensor) -> Scales:
    return Scales(log_alpha.exp(), (-torch.expm1(2 * log_alpha)).sqrt())


def _vp_log_snr(log_alpha: Tensor) -> Tensor:
    return 2 * log_alpha - torch.log(-torch.expm1(2 * log_alpha))


def _vp_log_alpha(log_snr: Tensor) -> Tensor:
    """log alpha of a variance-preserving path: alpha^2 = sigmoid(log_snr)."""
    return 0.5 * logsigmoid(log_snr.double())


class _LinearRate:
    """The integral of the rate beta(t) = beta_min + t (beta_max - beta_min), shared by VP and sub-VP."""

    beta_min: float
    beta_max: float

    def _log_alpha(self, t: Tensor) -> Tensor:
        t = t.double()
        return -0.25 * t**2 * (self.beta_max - self.beta_min) - 0.5 * t * self.beta_min

    def _time_of(self, log_alpha: Tensor) -> Tensor:
        # The quadratic's root in the form without cancellation near t = 0.
        half = 0.5 * self.beta_min
        root = torch.sqrt(half**2 - (self.beta_max - self.beta_min) * log_alpha)
        return -2 * log_alpha / (half + root)


@dataclass(frozen=True)
class LinearVP(_LinearRate):
    """Variance-preserving path of linear rate (Song et al. 2021, eq. 33): dx = -beta/2 x dt + sqrt(beta) dw.

    ``beta_min``, ``beta_max``: the rate at t = 0 and 1; 0.1 and 20 are the continuous form of DDPM's betas.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __call__(self, t: Tensor, /) -> Scales:
        return _variance_preserving(self._log_alpha(t))

    def log_snr(self, t: Tensor, /) -> Tensor:
        return _vp_log_snr(self._log_alpha(t))

    def time(self, log_snr: Tensor, /) -> Tensor:
        return self._time_of(_vp_log_alpha(log_snr))


@dataclass(frozen=True)
class SubVP(_LinearRate):
    """Sub-variance-preserving path (Song et al. 2021, eq. 29): alpha of ``LinearVP``, sigma = 1 - alpha^2."""

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __call__(self, t: Tensor, /) -> Scales:
        log_alpha = self._log_alpha(t)
        return Scales(log_alpha.exp(), -torch.expm1(2 * log_alpha))

    def log_snr(self, t: Tensor, /) -> Tensor:
        log_alpha = self._log_alpha(t)
        return 2 * (log_alpha - torch.log(-torch.expm1(2 * log_alpha)))

    def time(self, log_snr: Tensor, /) -> Tensor:
        # alpha / (1 - alpha^2) = r is a quadratic in alpha; 1 - alpha^2 = alpha / r keeps digits near 1.
        r = torch.exp(0.5 * log_snr.double())
        alpha = 2 * r / (1 + torch.sqrt(1 + 4 * r**2))
        log_alpha = torch.where(r > 1, 0.5 * torch.log1p(-alpha / r.clamp(min=1)), torch.log(alpha))
        return self._time_of(torch.where(r.isinf(), torch.zeros_like(r), log_alpha))


@dataclass(frozen=True)
class DiscreteVP:
    """Variance-preserving path through given points: DDPM-style tables of N training steps.

    ``alpha_bar``: the N cumulative products of (1 - beta), decreasing in (0, 1). Step i (0-based) sits at
    t = (i + 1) / N and t = 0 is clean data; between the points log alpha is linear (Lu et al. 2022, D.4).
    Raises ValueError where ``alpha_bar`` is not decreasing inside (0, 1).
    """

    alpha_bar: tuple[float, ...]

    def __post_init__(self) -> None:
        points = (1.0, *self.alpha_bar)
        if len(points) < 2 or any(not 0 < b < a for a, b in pairwise(points)):
            raise ValueError(f"alpha_bar must decrease strictly inside (0, 1), got {self.alpha_bar[:3]}...")

    @classmethod
    def from_betas(cls, betas: Sequence[float] | Tensor) -> DiscreteVP:
        """From the per-step variances beta_1..beta_N of DDPM (Ho et al. 2020), each in (0, 1)."""
        values = torch.as_tensor(betas, dtype=torch.float64)
        return cls(tuple(torch.cumprod(1 - values, 0).tolist()))

    @cached_property
    def _hash(self) -> int:
        return hash(self.alpha_bar)

    def __hash__(self) -> int:
        # A thousand numbers are not worth hashing at every lookup of a solver's table.
        return self._hash

    @property
    def steps(self) -> int:
        """N, the number of training steps."""
        return len(self.alpha_bar)

    @cached_property
    def _knots(self) -> dict[torch.device, Tensor]:
        log_alpha = 0.5 * torch.tensor((1.0, *self.alpha_bar), dtype=torch.float64).log()
        return {log_alpha.device: log_alpha}

    def _log_alpha_knots(self, device: torch.device) -> Tensor:
        if device not in self._knots:
            self._knots[device] = next(iter(self._knots.values())).to(device)
        return self._knots[device]

    def _log_alpha(self, t: Tensor) -> Tensor:
        knots = self._log_alpha_knots(t.device)
        position = t.double() * self.steps
        left = position.floor().clamp(0, self.steps - 1)
        index = left.long()
        # Indexing with a tensor of no dimension would make the host wait for its number.
        return torch.lerp(knots.take(index), knots.take(index + 1), position - left)

    def __call__(self, t: Tensor, /) -> Scales:
        return _variance_preserving(self._log_alpha(t))

    def log_snr(self, t: Tensor, /) -> Tensor:
        return _vp_log_snr(self._log_alpha(t))

    def time(self, log_snr: Tensor, /) -> Tensor:
        log_alpha = _vp_log_alpha(log_snr)
        falling = -self._log_alpha_knots(log_alpha.device)
        index = torch.searchsorted(falling, (-log_alpha).contiguous()).clamp(1, self.steps)
        low, high = falling[index - 1], falling[index]
        return (index - 1 + (-log_alpha - low) / (high - low)) / self.steps


@dataclass(frozen=True)
class Cosine:
    r"""Variance-preserving cosine path (Nichol and Dhariwal 2021, eq. 17).

    alpha = cos(a(t)) / cos(a(0)) with a(t) = (pi/2) (t + s) / (1 + s); no clipping, so alpha(1) is exactly 0.
    ``s``: the offset, >= 0; with s = 0 this is alpha = cos(pi t / 2), sigma = sin(pi t / 2).
    """

    s: float = 0.008

    @property
    def _offset(self) -> float:
        return 0.5 * math.pi * self.s / (1 + self.s)

    def __call__(self, t: Tensor, /) -> Scales:
        # cos a from its complement and 1 - alpha^2 as a product of sines: exact at both ends.
        t = t.double()
        unit = 0.5 * math.pi / (1 + self.s)
        cos0 = math.cos(self._offset)
        variance = torch.sin(unit * t) * torch.sin(unit * t + 2 * self._offset)
        return Scales(torch.sin(unit * (1 - t)) / cos0, variance.sqrt() / cos0)

    def log_snr(self, t: Tensor, /) -> Tensor:
        alpha, sigma = self(t)
        return 2 * (alpha.log() - sigma.log())

    def time(self, log_snr: Tensor, /) -> Tensor:
        log_snr = log_snr.double()
        sin0, cos0 = math.sin(self._offset), math.cos(self._offset)
        variance = torch.exp(logsigmoid(-log_snr)) * cos0**2
        cosine = torch.exp(0.5 * logsigmoid(log_snr)) * cos0
        sine = torch.sqrt(sin0**2 + variance)
        # The angle a(t) counted from the nearer end: from a(0), by sin^2 a - sin^2 b = sin(a - b) sin(a + b),
        # so that small times keep all their digits, or from pi/2.
        total = (sine * cos0 + cosine * sin0).clamp(min=1e-300)
        early = torch.atan2(variance / total, cosine * cos0 + sine * sin0)
        late = torch.atan2(cosine, sine)
        unit = 0.5 * math.pi / (1 + self.s)
        return torch.where(log_snr > 0, early / unit, 1 - late / unit)


@dataclass(frozen=True)
class VE:
    """Variance-exploding path (Song et al. 2021, eq. 30): alpha = 1, sigma = sigma_min^(1-t) sigma_max^t."""

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def __call__(self, t: Tensor, /) -> Scales:
        sigma = self.sigma_min * (self.sigma_max / self.sigma_min) ** t.double()
        return Scales(torch.ones_like(sigma), sigma)

    def log_snr(self, t: Tensor, /) -> Tensor:
        return -2 * (math.log(self.sigma_min) + t.double() * math.log(self.sigma_max / self.sigma_min))

    def time(self, log_snr: Tensor, /) -> Tensor:
        log_sigma = -0.5 * log_snr.double()
        return (log_sigma - math.log(self.sigma_min)) / math.log(self.sigma_max / self.sigma_min)


@dataclass(frozen=True)
class EDM:
    """Karras et al. 2022: alpha = 1 and sigma proportional to time, here sigma = sigma_max t.

    The published rho-spaced noise levels are a grid on this path: ``degauss.core.grid.karras``.
    """

    sigma_max: float = 80.0

    def __call__(self, t: Tensor, /) -> Scales:
        sigma = self.sigma_max * t.double()
        return Scales(torch.ones_like(sigma), sigma)

    def log_snr(self, t: Tensor, /) -> Tensor:
        return -2 * torch.log(self.sigma_max * t.double())

    def time(self, log_snr: Tensor, /) -> Tensor:
        return torch.exp(-0.5 * log_snr.double()) / self.sigma_max


@dataclass(frozen=True)
class RectifiedFlow:
    """The straight path alpha = 1 - t, sigma = t (Liu et al. 2023; Lipman et al. 2023)."""

    def __call__(self, t: Tensor, /) -> Scales:
        t = t.double()
        return Scales(1 - t, t)

    def log_snr(self, t: Tensor, /) -> Tensor:
        t = t.double()
        return 2 * (torch.log1p(-t) - torch.log(t))

    def time(self, log_snr: Tensor, /) -> Tensor:
        return torch.sigmoid(-0.5 * log_snr.double())


@dataclass(frozen=True)
class Shifted:
    """Another schedule with its time warped, t -> shift t / (1 + (shift - 1) t) (Esser et al. 2024, eq. 23).

    ``shift`` > 1 spends more of [0, 1] at high noise; SD3 goes from events of n values to m by sqrt(m / n).
    On a rectified flow this lowers the log-SNR by 2 log(shift) everywhere.
    """

    schedule: Schedule
    shift: float

    def _warp(self, t: Tensor) -> Tensor:
        t = t.double()
        # The denominator as a sum of positive terms: t = 1 stays exactly 1.
        return self.shift * t / (self.shift * t + (1 - t))

    def __call__(self, t: Tensor, /) -> Scales:
        return self.schedule(self._warp(t))

    def log_snr(self, t: Tensor, /) -> Tensor:
        return self.schedule.log_snr(self._warp(t))

    def time(self, log_snr: Tensor, /) -> Tensor:
        warped = self.schedule.time(log_snr)
        return warped / (warped + self.shift * (1 - warped))


@dataclass(frozen=True)
class ZeroTerminalSNR:
    """A variance-preserving schedule rescaled so that t = 1 is pure noise (Lin et al. 2024, algorithm 1).

    alpha' = (alpha - alpha(1)) alpha(t_first) / (alpha(t_first) - alpha(1)), sigma' = sqrt(1 - alpha'^2).
    ``t_first``: where alpha is kept: 1/N reproduces the published rescaling of an N-step ``DiscreteVP``; at
    times before it the rescaled alpha would pass 1 and is held there.
    """

    schedule: Schedule
    t_first: float = 0.0

    @cached_property
    def _ends(self) -> tuple[float, float, float]:
        """alpha at t_first and at 1, and 1 - alpha at t_first."""
        alpha, sigma = self.schedule(torch.tensor([self.t_first, 1.0], dtype=torch.float64))
        first, last = alpha.tolist()
        return first, last, float(sigma[0]) ** 2 / (1 + first)

    def __call__(self, t: Tensor, /) -> Scales:
        first, last, first_gap = self._ends
        alpha, sigma = self.schedule(t)
        # 1 - alpha' from 1 - alpha = sigma^2 / (1 + alpha), without cancellation near t = 0.
        gap = ((first * sigma**2 / (1 + alpha) - last * first_gap) / (first - last)).clamp(0, 1)
        rescaled = ((alpha - last) * (first / (first - last))).clamp(0, 1)
        return Scales(rescaled, torch.sqrt(gap * (1 + rescaled)))

    def log_snr(self, t: Tensor, /) -> Tensor:
        alpha, sigma = self(t)
        return 2 * (alpha.log() - sigma.log())

    def time(self, log_snr: Tensor, /) -> Tensor:
        first, last, first_gap = self._ends
        log_alpha = _vp_log_alpha(log_snr)
        alpha = torch.exp(log_alpha) * ((first - last) / first) + last
        gap = (-torch.expm1(log_alpha) * (first - last) + last * first_gap) / first
        return self.schedule.time(2 * alpha.log() - torch.log(gap * (1 + alpha)))


def linear_betas(steps: int, first: float = 1e-4, last: float = 0.02) -> Tensor:
    """beta_1..beta_N evenly spaced (Ho et al. 2020), float64 ``[steps]``."""
    return torch.linspace(first, last, steps, dtype=torch.float64)


def quadratic_betas(steps: int, first: float = 1e-4, last: float = 0.5) -> Tensor:
    """Betas whose square roots are evenly spaced (Song et al. 2021 DDIM; CSDI), float64 ``[steps]``."""
    return torch.linspace(first**0.5, last**0.5, steps, dtype=torch.float64) ** 2


def cosine_betas(steps: int, s: float = 0.008, largest: float = 0.999) -> Tensor:
    """Betas of the cosine path up to ``largest`` (Nichol and Dhariwal 2021, eq. 17), float64 ``[steps]``."""
    alpha, _ = Cosine(s)(torch.arange(steps + 1, dtype=torch.float64) / steps)
    return (1 - (alpha[1:] / alpha[:-1]) ** 2).clamp(max=largest)
