r"""PFGM++: diffusion with heavy tails, by D extra dimensions (Xu et al. 2023, "PFGM++").

Data in N dimensions are charges in N + D; their field, seen at a distance r from the data, gives the kernel

    p_r(x | x0)  prop. to  (|x - x0|^2 + r^2)^{-(N + D) / 2},      r = sigma sqrt(D).

The published draw is a radius R = r sqrt(b / (1 - b)), b ~ Beta(N/2, D/2), in a uniform direction. But b / (1 - b) is
a ratio of chi-squares with N and D degrees of freedom, and a radius of N degrees in a uniform direction is a normal
vector. So the kernel is Student's t distribution with D degrees of freedom,

    x = x0 + sigma y,    y = z sqrt(D / c),    z ~ N(0, I_N),  c ~ chi-square(D), one for each sample,

for any real D > 0: D = 1 is PFGM, and y -> z as D -> infinity is EDM. This is all that changes. With y in the place of
eps, every sigma of EDM keeps its meaning (the paper's r = sigma sqrt(D)): noise levels, law of sigma in training,
preconditioning, losses, and the ODE dx/dsigma = (x - E[x0 | x]) / sigma, so the deterministic solvers run unchanged
from the prior sigma_max y,

    noise = Noise(seed, range(batch))
    x = 80 * student_noise(noise, torch.empty(batch, *event), dim=128)
    x = simulate(Heun(denoiser, EDM()), x, karras(EDM(), 18), noise)

on EDM or, in x / alpha and sigma / alpha, on any other schedule. (Solvers that add noise assume Gaussian noise: they
do not keep these laws.)

The published code clips b to [0.001, 0.999]. Where N is far below D that is no safeguard: for N = 2, D = 2048, 64% of
all radii are below the lower bound. Drawn as above nothing is 0/0, so nothing is clipped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from degauss.core.denoiser import expand
from degauss.core.errors import InputError
from degauss.core.noise import Noise
from degauss.core.posterior import Point
from degauss.core.schedule import Schedule

_NEWTON_STEPS = 12


def student_noise(noise: Noise, like: Tensor, dim: float, draw: int = 0) -> Tensor:
    """y = z sqrt(D / c): the unit noise of PFGM++ in the shape, dtype and device of ``like``, ``[batch, *event]``.

    ``dim``: D > 0, infinity for Gaussian noise. The normals are those of ``noise.normal(like, draw)`` for every D,
    and c is a quantile of one uniform number a sample, so a sample moves continuously with D.
    """
    _check_dim(dim)
    z = noise.normal(like, draw)
    if math.isinf(dim):
        return z
    u = noise.uniform(torch.empty(len(like), dtype=torch.float64, device=like.device), draw)
    return z * expand(torch.rsqrt(gamma_quantile(0.5 * dim, u) * (2 / dim)), z)


def gamma_quantile(shape: float, u: Tensor) -> Tensor:
    """The value below which a Gamma(``shape``, 1) variable lies with probability ``u`` in (0, 1), float64.

    Newton's method on the logarithm of the nearer tail as a function of log x, where both are concave: from the
    approximation of Wilson and Hilferty (1931), a fixed number of steps and so no waiting for a device.
    """
    u = u.double()
    a = torch.full_like(u, shape)
    cube = 1 - 1 / (9 * shape) + torch.special.ndtri(u) / math.sqrt(9 * shape)
    # Below every quantile, and close to the small ones: P(x) <= x^a / Gamma(a + 1).
    least = (u.log() + math.lgamma(shape + 1)) / shape
    y = torch.maximum(least, math.log(shape) + 3 * cube.clamp(min=1e-300).log())
    lower = u < 0.5
    target = torch.where(lower, u, 1 - u).log()
    for _ in range(_NEWTON_STEPS):
        x = y.exp()
        tail = torch.where(lower, torch.special.gammainc(a, x), torch.special.gammaincc(a, x)).clamp(min=1e-300)
        slope = torch.exp(shape * y - x - math.lgamma(shape)) / tail
        y = y + torch.where(lower, target - tail.log(), tail.log() - target) / slope
    return y.exp()


@dataclass(frozen=True)
class PointsOracle:
    """The exact denoiser of PFGM++ for data that are finitely many points, each as likely.

    E[x0 | x] = sum_i w_i p_i, w_i prop. to (|x - alpha p_i|^2 + D sigma^2)^{-(N + D) / 2}, or for infinite D to
    exp(-|x - alpha p_i|^2 / 2 sigma^2). ``points``: ``[K, *event]``. Computed in their dtype.
    """

    schedule: Schedule
    points: Tensor
    dim: float = math.inf

    def __post_init__(self) -> None:
        _check_dim(self.dim)
        if self.points.ndim < 2 or len(self.points) == 0:
            raise ValueError(f"points have shape [count >= 1, *event], got {tuple(self.points.shape)}")

    def __call__(self, x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        del cond
        points = self.points.flatten(1)
        alpha, sigma = (scale.to(points).reshape(-1, 1) for scale in self.schedule(t))
        gaps = x.to(points).flatten(1)[:, None] - alpha[..., None] * points
        squares = (gaps**2).sum(-1)
        # Relative to the nearest point: exact for any D, and the nearest point itself at sigma = 0.
        nearest = squares.amin(1, keepdim=True)
        tiny = torch.finfo(points.dtype).tiny
        if math.isinf(self.dim):
            log_weights = -0.5 * (squares - nearest) / (sigma**2).clamp(min=tiny)
        else:
            excess = (squares - nearest) / (nearest + self.dim * sigma**2).clamp(min=tiny)
            log_weights = -0.5 * (points.shape[1] + self.dim) * torch.log1p(excess)
        return Point((log_weights.softmax(1) @ points).reshape(x.shape).to(x))


def _check_dim(dim: float) -> None:
    if not dim > 0:
        raise InputError(f"the dimension D of PFGM++ must be a positive number or infinity, but is {dim}.")
