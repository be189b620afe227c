r"""A better first state: solvers that start from something else than sigma times noise. One More Step (Hu et al. 2023).

Where a schedule keeps signal at its last time, alpha_T > 0, the states x_T of training are not the pure noise that
sampling starts from. A *start* closes that gap: it makes the first state out of standard normals z, once, and any
solver goes on from there (``Started``). One More Step is a start with a network of its own. In front of the
schedule it puts one step from pure noise, where predicting v = alpha eps - sigma x0 means v = -x0:

    x_T = alpha_T x0_hat + sigma_T (sqrt(1 - eta^2) z + eta z'),   x0_hat = -network(z).

**What the network can know.** Pure noise says nothing about x0: trained on independent pairs (x0, z), the best
network is x0_hat = E[x0 | condition]. It repairs the mean of the first state, and so as much of the variance as the
condition explains, not the rest. Pairs in which z is coupled with x0 (by optimal transport, say) have a best network
that depends on z and can repair the variance also; then ``eta`` must be 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from degauss.core.denoiser import Denoiser
from degauss.core.errors import check_range
from degauss.core.noise import Noise
from degauss.core.posterior import Point
from degauss.core.sampling import Solver
from degauss.core.schedule import Schedule

# ``sample`` makes its first state from draw 0.
FRESH_DRAW = 1


class Start(Protocol):
    """Makes first states.

    ``z``: standard normals ``[batch, *event]``; ``alpha``, ``sigma``: the scales at the first time of the grid;
    ``noise``: for further randomness, normals from draw 1 on. Returns a state in the shape of z.
    """

    def __call__(self, z: Tensor, alpha: float, sigma: float, noise: Noise, /) -> Tensor: ...


class Carry(NamedTuple):
    """The carry of the solver, and the scales at the first time of the grid."""

    inner: Any
    alpha: float
    sigma: float


@dataclass(frozen=True)
class Started:
    """Any ``solver``, from the first state that ``start`` makes out of the noise it is given.

    ``functools.partial(Started, start=..., solver=...)`` is a solver. The noise is read off the given first state, as
    x / sigma of the grid's first time, which is what ``sample`` starts from.
    """

    denoiser: Denoiser[Point]
    schedule: Schedule
    start: Start
    solver: Solver

    def init(self, x: Tensor, grid: Tensor, /) -> Carry:
        alpha, sigma = (float(scale) for scale in self.schedule(grid[0]))
        return Carry(self.solver(self.denoiser, self.schedule).init(x, grid), alpha, sigma)

    def step(self, carry: Carry, x: Tensor, i: int, noise: Noise, /) -> tuple[Carry, Tensor]:
        if i == 0:
            x = self.start(x / carry.sigma, carry.alpha, carry.sigma, noise)
        inner, x = self.solver(self.denoiser, self.schedule).step(carry.inner, x, i, noise)
        return carry._replace(inner=inner), x


@dataclass(frozen=True)
class OneMoreStep:
    """One More Step as a start: one evaluation of ``network``, which maps z ``[batch, *event]`` to v in its shape.

    The network is told no time. Its condition is bound beforehand (``functools.partial``) and may be another than the
    denoiser's. ``eta``, in [0, 1]: the share of the noise that is drawn afresh; 1 is the published code.
    """

    network: Callable[[Tensor], Tensor]
    eta: float = 0.0

    def __post_init__(self) -> None:
        check_range("eta", self.eta, 0.0, 1.0)

    def __call__(self, z: Tensor, alpha: float, sigma: float, noise: Noise, /) -> Tensor:
        mean = -self.network(z)
        if self.eta:
            z = torch.add(z * math.sqrt(1 - self.eta**2), noise.normal(z, draw=FRESH_DRAW), alpha=self.eta)
        return torch.add(z * sigma, mean, alpha=alpha)


def one_more_step_loss(network: Callable[..., Tensor], x0: Tensor, z: Tensor, /, **cond: Any) -> Tensor:
    """The mean square of v - network(z), with v = -x0 at pure noise: a loss for each sample, ``[batch]``.

    ``x0``, ``z``: data and standard normals ``[batch, *event]``, paired as sampling is meant to pair them: see above.
    """
    return (network(z, **cond) + x0).pow(2).flatten(1).mean(1)
