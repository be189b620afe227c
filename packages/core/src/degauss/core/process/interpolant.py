r"""Stochastic interpolants: paths between any two distributions (Albergo, Boffi and Vanden-Eijnden 2023).

    x_t = a(t) x0 + b(t) x1 + g(t) z,   z ~ N(0, I),

from x0 ~ p_0 at t = 0, the data, to x1 ~ p_1 at t = 1, the other end, which may be data too: a(0) = b(1) = 1,
a(1) = b(0) = 0, g(0) = g(1) = 0. The paper counts time the other way: its t is 1 - t here, its x_1 is our x0, and its
velocity has the other sign. With the two regressions

    path  u(x, t) = E[a' x0 + b' x1 | x_t = x],      noise  eta(x, t) = E[z | x_t = x],

the velocity is v = u + g' eta and the score is s = grad log p_t = -eta / g, and for *any* eps(t) >= 0 the process

    dx = v dt + eps s |dt| + sqrt(2 eps) dW,    run in either direction of time,

has the law of x_t at every t: the ODE at eps = 0, a family of SDEs otherwise. A model is its *motion* (u, eta), not
(v, s): u and eta are bounded and easy to regress, while g' and 1/g are infinite at both ends. The kernel never forms
those; it needs only what they integrate to over a step, and so runs from t = 1 to t = 0 without a cut at the ends.

Where x1 is Gaussian noise the interpolant is an ordinary Gaussian path: ``OneSided`` is its schedule, and a motion
becomes a denoiser, and a denoiser a motion.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from degauss.core.denoiser import Denoiser, Network, expand
from degauss.core.grid import check_grid
from degauss.core.noise import Clock, Noise
from degauss.core.oracle import MixtureOracle
from degauss.core.posterior import Point
from degauss.core.schedule import Scales

_NODES = 16


class Coefficients(NamedTuple):
    """a, b and g of x_t = a x0 + b x1 + g z, float64, in the shape of t."""

    first: Tensor
    last: Tensor
    noise: Tensor


class Rates(NamedTuple):
    """The time derivatives a', b' and (g^2)', float64; g' itself may be infinite at the ends."""

    first: Tensor
    last: Tensor
    variance: Tensor


class Interpolant(Protocol):
    """A path from x0 at t = 0 to x1 at t = 1. ``t``: any tensor with values in [0, 1]."""

    def __call__(self, t: Tensor, /) -> Coefficients: ...

    def rates(self, t: Tensor, /) -> Rates: ...


class Latent(Protocol):
    """How much noise is between the ends: g^2 and its derivative, float64."""

    def variance(self, t: Tensor, /) -> Tensor: ...

    def rate(self, t: Tensor, /) -> Tensor: ...


@dataclass(frozen=True)
class NoLatent:
    """g = 0: a path without noise of its own, which has an ODE but no SDE."""

    def variance(self, t: Tensor, /) -> Tensor:
        return torch.zeros_like(t, dtype=torch.float64)

    def rate(self, t: Tensor, /) -> Tensor:
        return torch.zeros_like(t, dtype=torch.float64)


@dataclass(frozen=True)
class Bridge:
    """g = sqrt(scale t (1 - t)), the spread of a Brownian bridge; ``scale`` > 0."""

    scale: float = 1.0

    def variance(self, t: Tensor, /) -> Tensor:
        t = t.double()
        return self.scale * t * (1 - t)

    def rate(self, t: Tensor, /) -> Tensor:
        return self.scale * (1 - 2 * t.double())


@dataclass(frozen=True)
class Sine:
    """g = sin^2(pi t), smooth at both ends."""

    def variance(self, t: Tensor, /) -> Tensor:
        return _sin(t) ** 4

    def rate(self, t: Tensor, /) -> Tensor:
        return 4 * math.pi * _sin(t) ** 3 * torch.cos(math.pi * t.double())


def _sin(t: Tensor) -> Tensor:
    # Counted from the nearer end, so that it is exactly zero at both.
    t = t.double()
    return torch.sin(math.pi * torch.minimum(t, 1 - t))


@dataclass(frozen=True)
class Linear:
    """a = 1 - t, b = t. Without latent noise: rectified flow between two distributions."""

    latent: Latent = field(default_factory=Bridge)

    def __call__(self, t: Tensor, /) -> Coefficients:
        t = t.double()
        return Coefficients(1 - t, t, self.latent.variance(t).sqrt())

    def rates(self, t: Tensor, /) -> Rates:
        one = torch.ones_like(t, dtype=torch.float64)
        return Rates(-one, one, self.latent.rate(t))


@dataclass(frozen=True)
class Trigonometric:
    """a = sqrt(1 - g^2) cos(pi t / 2), b = sqrt(1 - g^2) sin(pi t / 2), so that a^2 + b^2 + g^2 = 1; needs g < 1."""

    latent: Latent = field(default_factory=Bridge)

    def __call__(self, t: Tensor, /) -> Coefficients:
        t = t.double()
        variance = self.latent.variance(t)
        rest = torch.sqrt(1 - variance)
        # The cosine as a sine of the time left: exactly zero at t = 1.
        return Coefficients(
            rest * torch.sin(0.5 * math.pi * (1 - t)), rest * torch.sin(0.5 * math.pi * t), variance.sqrt()
        )

    def rates(self, t: Tensor, /) -> Rates:
        t = t.double()
        first, last, _ = self(t)
        rate = self.latent.rate(t)
        shrink = -0.5 * rate / (1 - self.latent.variance(t))
        return Rates(shrink * first - 0.5 * math.pi * last, shrink * last + 0.5 * math.pi * first, rate)


@dataclass(frozen=True)
class EncodingDecoding:
    """x0 fades into pure noise until t = 1/2, out of which x1 appears: cos^2(pi t) on the nearer end, g = sin^2(pi t).

    The two ends never meet, so neither half needs to know the other distribution.
    """

    def __call__(self, t: Tensor, /) -> Coefficients:
        t = t.double()
        near = 1 - _sin(t) ** 2
        zero = torch.zeros_like(t)
        return Coefficients(torch.where(t < 0.5, near, zero), torch.where(t > 0.5, near, zero), _sin(t) ** 2)

    def rates(self, t: Tensor, /) -> Rates:
        t = t.double()
        rate = -math.pi * torch.sin(2 * math.pi * t)
        zero = torch.zeros_like(t)
        return Rates(torch.where(t < 0.5, rate, zero), torch.where(t > 0.5, rate, zero), Sine().rate(t))


class Motion(NamedTuple):
    """u = E[a' x0 + b' x1 | x_t] and eta = E[z | x_t], both ``[batch, *event]``, in units of x per t and of z."""

    path: Tensor
    noise: Tensor


class Mover(Protocol):
    """A model of an interpolant: ``(x_t, t, **cond) -> Motion``; ``t`` is 0-d or one a sample, ``[batch]``."""

    def __call__(self, x: Tensor, t: Tensor, /, **cond: Any) -> Motion: ...


@dataclass(frozen=True)
class PathAndNoise:
    """Two networks ``(x, t, **cond) -> [batch, *event]`` trained by ``path_loss`` and ``noise_loss``."""

    path: Network
    noise: Network

    def __call__(self, x: Tensor, t: Tensor, /, **cond: Any) -> Motion:
        time = t.to(x.dtype)
        return Motion(self.path(x, time, **cond), self.noise(x, time, **cond))


@dataclass(frozen=True)
class VelocityAlone:
    """A network of the whole velocity, trained by ``velocity_loss``.

    In ``Transport`` with ``Linear(NoLatent())`` it drives the ODE, whatever path it was trained on.
    """

    velocity: Network

    def __call__(self, x: Tensor, t: Tensor, /, **cond: Any) -> Motion:
        return Motion(self.velocity(x, t.to(x.dtype), **cond), torch.zeros_like(x))


def velocity(interpolant: Interpolant, motion: Motion, t: Tensor) -> Tensor:
    """v = u + g' eta, with g' = (g^2)' / (2 g); t inside (0, 1), or anywhere for a path without latent noise."""
    g = interpolant(t).noise
    slope = torch.where(g > 0, 0.5 * interpolant.rates(t).variance / g, torch.zeros_like(g))
    return motion.path + expand(slope, motion.path) * motion.noise


def score(interpolant: Interpolant, motion: Motion, t: Tensor) -> Tensor:
    """grad log p_t(x) = -eta / g; t inside (0, 1)."""
    return motion.noise / expand(-interpolant(t).noise, motion.noise)


def interpolate(interpolant: Interpolant, x0: Tensor, x1: Tensor, z: Tensor, t: Tensor) -> Tensor:
    """x_t = a x0 + b x1 + g z; events ``[batch, *event]``, ``t`` 0-d or ``[batch]``."""
    a, b, g = (expand(value, x0) for value in interpolant(t))
    return a * x0 + b * x1 + g * z


def path_loss(
    network: Network, interpolant: Interpolant, x0: Tensor, x1: Tensor, z: Tensor, t: Tensor, **cond: Any
) -> Tensor:
    """|network(x_t, t) - (a' x0 + b' x1)|^2, the mean over each event, ``[batch]``; its minimum is u."""
    first, last, _ = (expand(value, x0) for value in interpolant.rates(t))
    x = interpolate(interpolant, x0, x1, z, t)
    return _mean_square(network(x, t.to(x.dtype), **cond) - (first * x0 + last * x1))


def noise_loss(
    network: Network, interpolant: Interpolant, x0: Tensor, x1: Tensor, z: Tensor, t: Tensor, **cond: Any
) -> Tensor:
    """|network(x_t, t) - z|^2, the mean over each event, ``[batch]``; its minimum is eta."""
    x = interpolate(interpolant, x0, x1, z, t)
    return _mean_square(network(x, t.to(x.dtype), **cond) - z)


def velocity_loss(
    network: Network, interpolant: Interpolant, x0: Tensor, x1: Tensor, z: Tensor, t: Tensor, **cond: Any
) -> Tensor:
    """The loss of the whole velocity, on z and -z together, ``[batch]``; t inside (0, 1).

    It is |v|^2 - 2 v . (a' x0 + b' x1 + g' z), the mean over each event and both signs: the squared error without its
    constant, so it may be negative. At the ends g' z is infinite; the two signs keep the variance of the gradient
    finite (the paper's antithetic sampling).
    """
    first, last, rate = (expand(value, x0) for value in interpolant.rates(t))
    g = expand(interpolant(t).noise, x0)
    drift, shake = first * x0 + last * x1, torch.where(g > 0, 0.5 * rate / g, torch.zeros_like(g)) * z
    total = torch.zeros_like(x0)
    for sign in (1, -1):
        v = network(interpolate(interpolant, x0, x1, sign * z, t), t.to(x0.dtype), **cond)
        total = total + 0.5 * (v**2 - 2 * v * (drift + sign * shake))
    return total.flatten(1).mean(1)


def _mean_square(error: Tensor) -> Tensor:
    return (error**2).flatten(1).mean(1)


Diffusion = Callable[[Tensor], Tensor]
"""eps(t) >= 0, float64 in the shape of t, in units of x^2 per t."""


def still(t: Tensor) -> Tensor:
    """eps = 0: the ODE."""
    return torch.zeros_like(t)


@dataclass(frozen=True)
class Constant:
    """The same eps at all times."""

    eps: float

    def __call__(self, t: Tensor) -> Tensor:
        return torch.full_like(t, self.eps)


class Carry(NamedTuple):
    """Weights of each step on u and eta, and the spread of its noise; the grid's times; the noise's clock."""

    steps: tuple[tuple[float, float, float], ...]
    times: tuple[Tensor, ...]
    clock: Clock


@dataclass(frozen=True)
class Transport:
    r"""Carries samples of one end to the other, or of any time to any other: Heun's method on the ODE and the SDEs.

    A step from t to s is the trapezoidal rule in the measures that do not blow up,

        x_s = x_t + int u dt + int eta dm + noise,   dm = dg - (eps / g) |dt|,   noise variance int 2 eps |dt|,

    with a first guess by Euler's rule under the same noise: two evaluations a step. The order is 2, for the SDE in law
    (its noise does not depend on the state), but for a logarithm at an end where g' is infinite. The integrals are
    Gauss-Legendre sums in theta, t = sin^2(theta / 2).

    ``diffusion``: eps(t). Where g is small eps must be, too: ``init`` raises ValueError unless int eps / g |dt|
    converges, which a constant does for ``Bridge`` and does not for ``Sine``.
    """

    mover: Mover
    interpolant: Interpolant
    diffusion: Diffusion = still

    def init(self, x: Tensor, grid: Tensor, /) -> Carry:
        grid = check_grid(grid)
        moved, variance = _integrals(self.interpolant, self.diffusion, grid)
        turned = self.interpolant(grid).noise.diff() - moved
        steps = zip(grid.diff().tolist(), turned.tolist(), variance.sqrt().tolist(), strict=True)
        clock = (0.0, *variance.cumsum(0).tolist())
        return Carry(tuple(steps), grid.to(x.device).unbind(), clock)

    def step(self, carry: Carry, x: Tensor, i: int, noise: Noise, /) -> tuple[Carry, Tensor]:
        dt, turn, spread = carry.steps[i]
        path, eta = self.mover(x, carry.times[i])
        if spread > 0:
            x = torch.add(x, noise.brownian(carry.clock, i, x), alpha=spread)
        guess = torch.add(torch.add(x, path, alpha=dt), eta, alpha=turn)
        path_end, eta_end = self.mover(guess, carry.times[i + 1])
        x = torch.add(x, path + path_end, alpha=0.5 * dt)
        return carry, torch.add(x, eta + eta_end, alpha=0.5 * turn)


def _integrals(interpolant: Interpolant, diffusion: Diffusion, grid: Tensor) -> tuple[Tensor, Tensor]:
    """Over each interval, int eps / g |dt| and int 2 eps |dt|, float64 ``[steps]``."""
    fine, coarse = (_quadrature(interpolant, diffusion, grid, nodes) for nodes in (_NODES, _NODES // 2))
    # A divergent integral shows as one that grows with the number of nodes.
    settled = (fine[0] - coarse[0]).abs() <= 0.1 * fine[0]
    if not bool((settled & torch.isfinite(fine[0]) & torch.isfinite(fine[1])).all()):
        raise ValueError(
            "the integral of eps(t) / g(t) does not converge on this grid: eps must be finite, at least 0, and small "
            "where the interpolant's noise g is"
        )
    return fine


def _quadrature(interpolant: Interpolant, diffusion: Diffusion, grid: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
    where, weight = (torch.from_numpy(values) for values in np.polynomial.legendre.leggauss(nodes))
    angle = 2 * torch.atan2(grid.sqrt(), (1 - grid).sqrt())
    start, width = angle[:-1, None], angle.diff()[:, None]
    theta = start + 0.5 * (1 + where) * width
    t = torch.sin(0.5 * theta) ** 2
    elapsed = 0.25 * torch.sin(theta) * width.abs() * weight
    eps, g = diffusion(t), interpolant(t).noise
    ratio = torch.where(eps == 0, torch.zeros_like(eps), eps / g)
    return (ratio * elapsed).sum(1), (2 * eps * elapsed).sum(1)


@dataclass(frozen=True)
class OneSided:
    """The interpolant whose x1 ~ N(0, I) as a schedule: alpha = a, sigma = sqrt(b^2 + g^2).

    ``Linear(NoLatent())`` is ``RectifiedFlow()``, ``Trigonometric(NoLatent())`` is ``Cosine(s=0)`` and ``Linear()`` has
    sigma = sqrt(t). The log-SNR must fall all the way, as it does for these; its inverse is found by bisection.
    """

    interpolant: Interpolant

    def __call__(self, t: Tensor, /) -> Scales:
        first, last, noise = self.interpolant(t)
        return Scales(first, torch.hypot(last, noise))

    def log_snr(self, t: Tensor, /) -> Tensor:
        alpha, sigma = self(t)
        return 2 * (alpha.log() - sigma.log())

    def time(self, log_snr: Tensor, /) -> Tensor:
        log_snr = log_snr.double()
        low, high = torch.zeros_like(log_snr), torch.ones_like(log_snr)
        for _ in range(60):
            middle = 0.5 * (low + high)
            early = self.log_snr(middle) > log_snr
            low, high = torch.where(early, middle, low), torch.where(early, high, middle)
        return 0.5 * (low + high)


@dataclass(frozen=True)
class OneSidedMover:
    """The motion of a one-sided interpolant from a denoiser on the schedule ``OneSided(interpolant)``.

    (E[x1], E[z]) = (b, g) (x - a E[x0]) / (b^2 + g^2), since b x1 + g z is Gaussian.
    """

    denoiser: Denoiser[Point]
    interpolant: Interpolant

    def __call__(self, x: Tensor, t: Tensor, /, **cond: Any) -> Motion:
        a, b, g = self.interpolant(t)
        rates = self.interpolant.rates(t)
        power = b**2 + g**2
        # At t = 0 the state says nothing about x1 and z.
        last, noise = (torch.where(power > 0, value / power, torch.zeros_like(value)) for value in (b, g))
        mean = self.denoiser(x, t, **cond).mean
        rest = x - expand(a, x) * mean
        return Motion(expand(rates.first, x) * mean + expand(rates.last * last, x) * rest, expand(noise, x) * rest)


@dataclass(frozen=True)
class OneSidedDenoiser:
    """The denoiser of a one-sided interpolant from its motion, for every solver on ``OneSided(interpolant)``.

    E[x0] = (b' (x - g eta) - b u) / (a b' - a' b): the two ends from their sum and its rate.
    """

    mover: Mover
    interpolant: Interpolant

    def __call__(self, x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        a, b, g = self.interpolant(t)
        rates = self.interpolant.rates(t)
        path, noise = self.mover(x, t, **cond)
        wronskian = a * rates.last - rates.first * b
        ends = x - expand(g, x) * noise
        return Point(expand(rates.last / wronskian, x) * ends - expand(b / wronskian, x) * path)


@dataclass(frozen=True)
class MixtureMover:
    """The exact motion between two Gaussian mixtures that are drawn independently; events of shape ``[d]``.

    Given a pair of components, x_t ~ N(a m + b n, C) with C = a^2 S + b^2 R + g^2 I, and every expectation is linear in
    C^-1 (x - a m - b n); the pairs are weighed by their posterior. ``first``, ``last``: the two ends (their schedules
    play no part). Computed in the dtype of these.
    """

    interpolant: Interpolant
    first: MixtureOracle
    last: MixtureOracle

    def __call__(self, x: Tensor, t: Tensor, /, **cond: Any) -> Motion:
        """(u, eta), in the dtype of x."""
        del cond
        first, last = self.first, self.last
        a, b, g = self._at(self.interpolant(t))
        up, down, _ = self._at(self.interpolant.rates(t))
        log_joint, solved = self._pairs(x.to(first.means), t)
        centres = up[..., 0] * first.means[:, None] + down[..., 0] * last.means
        spread = up * a * first.covariances[:, None] + down * b * last.covariances
        path = centres[:, None] + torch.einsum("tnjkd,tjkde->tnjke", solved, spread)
        weights = log_joint.flatten(2).softmax(2).reshape(log_joint.shape)[..., None]
        noise = g[:, None, ..., 0] * solved
        return Motion(*((weights * value).sum((2, 3)).reshape(x.shape).to(x) for value in (path, noise)))

    def log_density(self, x: Tensor, t: Tensor) -> Tensor:
        """log p_t(x), ``[batch]``, in nats."""
        return self._pairs(x.to(self.first.means), t)[0].flatten(2).logsumexp(2).flatten()

    def _at(self, values: tuple[Tensor, ...]) -> list[Tensor]:
        """Coefficients as ``[T, 1, 1, 1, 1]``, with T times: 1, or one a sample."""
        return [value.to(self.first.means).reshape(-1, 1, 1, 1, 1) for value in values]

    def _pairs(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """For each pair of components: log(weight x density) ``[T, batch / T, J, K]``, and C^-1 (x - mean)."""
        first, last = self.first, self.last
        a, b, g = self._at(self.interpolant(t))
        eye = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        covariance = a**2 * first.covariances[:, None] + b**2 * last.covariances + g**2 * eye
        factor = torch.linalg.cholesky(covariance)
        log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        centres = a[..., 0] * first.means[:, None] + b[..., 0] * last.means
        # One inverse for each pair and time serves all samples at that time.
        rest = x.reshape(len(centres), -1, 1, 1, x.shape[1]) - centres[:, None]
        solved = torch.einsum("tnjkd,tjkde->tnjke", rest, torch.cholesky_inverse(factor))
        quadratic = (rest * solved).sum(-1) + (log_det + x.shape[1] * math.log(2 * math.pi))[:, None]
        log_weights = (first.weights / first.weights.sum()).log()[:, None] + (last.weights / last.weights.sum()).log()
        return log_weights - 0.5 * quadratic, solved
