r"""Gaussian paths around an observation: diffusion that ends at a degraded signal instead of pure noise.

Speech enhancement, restoration and translation know where to start: at the observation mu. Their processes,

    x_t = mu + alpha (x0 - mu) + sigma eps,        eps ~ N(0, I),

are affine wrappers of the ordinary path: z = x - mu follows z_t = alpha z0 + sigma eps, with the same schedule and
the denoiser E[z0 | z_t] = E[x0 | x_t] - mu. Every solver therefore works on z as it is: DPM-Solver and DPM-Solver++
become MRS (Li et al. 2025; see ``mean_reverting``), ``ddim(eta=1)`` the ancestral sampler of IR-SDE (Luo et al. 2023).

The denoiser that a user brings speaks of x: what it is given and what it returns are in the units of the data.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor

from degauss.core.denoiser import Denoiser, Network, Prediction, expand
from degauss.core.grid import Grid, check_grid, uniform_time
from degauss.core.kernel import Event, Kernel, Observer
from degauss.core.noise import Noise
from degauss.core.posterior import Point
from degauss.core.sampling import Solver, sample
from degauss.core.schedule import Schedule


@dataclass(frozen=True, eq=False)
class Centred:
    """The denoiser of z = x - mu: D_z(z, t) = D(z + mu, t) - mu. ``mu`` broadcasts to the state's shape."""

    denoiser: Denoiser[Point]
    mu: Tensor

    def __call__(self, z: Tensor, t: Tensor, /, **cond: Any) -> Point:
        return Point(self.denoiser(z + self.mu, t, **cond).mean - self.mu)


@dataclass(frozen=True, eq=False)
class CentredNetwork:
    """A network on the state x_t = mu + alpha (x0 - mu) + sigma eps, as a denoiser of x_t.

    ``network(x, t, **cond)`` is as in ``NetworkDenoiser``: F = u x0 + w eps for the prediction's (u, w), with the x0
    of the data, not x0 - mu. Since x_t - (1 - alpha) mu = alpha x0 + sigma eps is an ordinary state,

        D(x, t) = skip (x - (1 - alpha) mu) + out F(x, t).
    """

    network: Network
    schedule: Schedule
    prediction: Prediction
    mu: Tensor

    def __call__(self, x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        alpha, sigma = self.schedule(t)
        factor, time = self.prediction.network_input(alpha, sigma, t)
        output = self.network(x if factor is None else expand(factor, x) * x, time.to(x.dtype), **cond)
        skip, out = self.prediction.mean(alpha, sigma)
        return Point(expand(skip, x) * (x - expand(1 - alpha, x) * self.mu) + expand(out, x) * output)


class Perturbed(NamedTuple):
    """A training pair: the state x_t and the noise in it, both ``[batch, *event]``."""

    x: Tensor
    eps: Tensor


def perturb(schedule: Schedule, x0: Tensor, mu: Tensor, t: Tensor, noise: Noise) -> Perturbed:
    """x_t = mu + alpha (x0 - mu) + sigma eps at times ``t`` (0-d or ``[batch]``); x0 and mu are ``[batch, *event]``."""
    alpha, sigma = (expand(scale, x0) for scale in schedule(t.to(x0.device)))
    eps = noise.normal(x0)
    return Perturbed(mu + alpha * (x0 - mu) + sigma * eps, eps)


def sample_centred(
    denoiser: Denoiser[Point],
    schedule: Schedule,
    mu: Tensor,
    *,
    solver: Solver,
    steps: int,
    grid: Grid | Tensor = uniform_time,
    guess: Tensor | None = None,
    seed: int = 0,
    samples: Sequence[int] | None = None,
    cond: Mapping[str, Any] | None = None,
    observe: Iterable[Observer] = (),
) -> Tensor:
    """Draw from p(x0 | mu), one sample for each row of ``mu`` (``[batch, *event]``), in its dtype and device.

    ``denoiser``: E[x0 | x_t], of the uncentred state. The run starts at mu + sigma eps; with a ``guess`` of x0 (a
    predictive model's answer, say) at mu + alpha (guess - mu) + sigma eps, which is nearer the law of x_T where
    alpha does not vanish. A process that starts on the observation itself (alpha = sigma = 0, as a bridge does)
    takes its first step by ``FromObservation``. Observers see x. The rest is as in ``sample``.

    Raises ValueError where the grid starts on clean data.
    """
    times = check_grid(grid if isinstance(grid, Tensor) else grid(schedule, steps))
    alpha, sigma = (float(scale) for scale in schedule(times[0]))
    if sigma == 0 and alpha > 0:
        raise ValueError(f"the grid starts at t = {float(times[0]):g}, where the state holds no noise to remove")
    if sigma == 0:
        solver = partial(_from_observation, solver)
    elif guess is not None:
        solver = partial(_offset, solver, alpha * (guess - mu))
    z = sample(
        Centred(denoiser, mu),
        schedule,
        mu.shape,
        solver=solver,
        steps=steps,
        grid=times,
        seed=seed,
        samples=samples,
        cond=cond,
        observe=[partial(_uncentred, observer, mu) for observer in observe],
        device=mu.device,
        dtype=mu.dtype,
    )
    return mu + z


class BridgeCarry(NamedTuple):
    """The inner kernel's carry, and what the first step needs: its time, and the scales it arrives at."""

    inner: Any
    time: Tensor
    alpha: float
    sigma: float


@dataclass(frozen=True)
class FromObservation:
    """Any kernel, on a centred path whose state at grid[0] is the observation itself: alpha = sigma = 0, z = 0.

    There the state holds no noise, so the noise it implies is 0/0 and a deterministic step would send every sample
    the same way. But what it holds is known, hence the first step is a draw of the path itself,

        z_1 = alpha_1 E[z0 | mu] + sigma_1 eps,

    exact but for the spread of z0, which enters at order alpha_1. The kernel takes the grid from there.
    """

    denoiser: Denoiser[Point]
    schedule: Schedule
    kernel: Kernel[Any]

    def init(self, x: Tensor, grid: Tensor, /) -> BridgeCarry:
        if len(grid) < 3:
            raise ValueError("a run that starts on the observation needs at least two steps: one only injects noise")
        alpha, sigma = (float(scale) for scale in self.schedule(grid[1]))
        return BridgeCarry(self.kernel.init(x, grid[1:]), grid[0].to(x.device), alpha, sigma)

    def step(self, carry: BridgeCarry, x: Tensor, i: int, noise: Noise, /) -> tuple[BridgeCarry, Tensor]:
        if i == 0:
            mean = self.denoiser(x, carry.time).mean
            return carry, (mean * carry.alpha).add_(noise.normal(x), alpha=carry.sigma)
        inner, x = self.kernel.step(carry.inner, x, i - 1, noise)
        return carry._replace(inner=inner), x


@dataclass(frozen=True, eq=False)
class _Offset:
    """A kernel whose run starts ``offset`` away from where it was told to."""

    kernel: Kernel[Any]
    offset: Tensor

    def init(self, x: Tensor, grid: Tensor, /) -> Any:
        return self.kernel.init(x, grid)

    def step(self, carry: Any, x: Tensor, i: int, noise: Noise, /) -> tuple[Any, Tensor]:
        return self.kernel.step(carry, x + self.offset if i == 0 else x, i, noise)


def _from_observation(solver: Solver, denoiser: Denoiser[Point], schedule: Schedule) -> FromObservation:
    return FromObservation(denoiser, schedule, solver(denoiser, schedule))


def _offset(solver: Solver, offset: Tensor, denoiser: Denoiser[Point], schedule: Schedule) -> _Offset:
    return _Offset(solver(denoiser, schedule), offset)


def _uncentred(observer: Observer, mu: Tensor, event: Event) -> bool | None:
    return observer(event._replace(x=event.x + mu))
