r"""Guidance by a worse version of the model: autoguidance, and reflection from weak to strong.

Both take the difference between a strong and a weak model, made worse in the same way, for the direction of the
strong model's own error. Autoguidance (Karras et al. 2024) extrapolates the two answers at each evaluation, exactly as
classifier-free guidance does. W2SD (Bai et al. 2025) moves the state instead: a step of the probability-flow ODE down
with the strong model and back up with the weak one, before every ordinary step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from degauss.core.denoiser import Denoiser
from degauss.core.gaussian.table import on_grid
from degauss.core.guide.classifier_free import Extrapolated, Scale, TwoModels
from degauss.core.noise import Noise
from degauss.core.posterior import Point
from degauss.core.sampling import Solver
from degauss.core.schedule import Schedule


def autoguidance(strong: Denoiser[Point], weak: Denoiser[Point], scale: Scale) -> Extrapolated:
    """mean' = mean_weak + scale (mean_strong - mean_weak) (Karras et al. 2024, eq. 3); scale 1 is the strong model.

    The weak model is a smaller or less trained version of the strong one, under the same conditions, so the guidance
    points from what both got wrong to what is right and not towards a class: diversity stays.
    """
    return Extrapolated(TwoModels(strong, weak), scale)


class Mirror(NamedTuple):
    """The reflection of one step: x' = down . (x, strong mean), x <- up . (x', weak mean)."""

    down: tuple[float, float]
    up: tuple[float, float]


class ReflectedCarry(NamedTuple):
    """The wrapped solver's carry, the grid's times on the device, and a mirror for each step but the last."""

    inner: Any
    times: tuple[Tensor, ...]
    mirrors: tuple[Mirror, ...]


@dataclass(frozen=True)
class Reflected:
    r"""W2SD: each step but the last of any solver starts from a reflected state (Bai et al. 2025, algorithm 1).

    From time s to t, with eps(x) = (x - alpha_s mean(x, s)) / sigma_s,

        x' = (alpha_t / alpha_s) (x - sigma_s eps_strong(x)) + sigma_t eps_strong(x),
        x <- (alpha_s / alpha_t) (x' - sigma_t eps_weak(x')) + sigma_s eps_weak(x'),

    so x moves by alpha_s (k_s - k_t) (eps_weak(x') - eps_strong(x)), k = sigma/alpha. As in the authors' code the weak
    model is told the time s for x'. Two evaluations a step besides the solver's. With weak = strong what is left is
    the error of DDIM's inversion, of second order in the step. ``denoiser`` is the strong model.
    """

    denoiser: Denoiser[Point]
    schedule: Schedule
    weak: Denoiser[Point]
    solver: Solver

    def init(self, x: Tensor, grid: Tensor, /) -> ReflectedCarry:
        path = on_grid(self.schedule, grid)
        scales = list(zip(path.alpha.tolist(), path.sigma.tolist(), strict=True))
        mirrors = tuple(_mirror(*scales[i], *scales[i + 1]) for i in range(path.steps - 1))
        inner = self.solver(self.denoiser, self.schedule).init(x, grid)
        return ReflectedCarry(inner, grid.to(x.device).unbind(), mirrors)

    def step(self, carry: ReflectedCarry, x: Tensor, i: int, noise: Noise, /) -> tuple[ReflectedCarry, Tensor]:
        if i < len(carry.mirrors):
            time, (down, up) = carry.times[i], carry.mirrors[i]
            x = torch.add(x * down[0], self.denoiser(x, time).mean, alpha=down[1])
            x = torch.add(x * up[0], self.weak(x, time).mean, alpha=up[1])
        inner, x = self.solver(self.denoiser, self.schedule).step(carry.inner, x, i, noise)
        return carry._replace(inner=inner), x


def _mirror(alpha_s: float, sigma_s: float, alpha_t: float, sigma_t: float) -> Mirror:
    """DDIM down from s to t and up again, each with the eps that a mean at time s implies."""
    back = sigma_s - sigma_t * alpha_s / alpha_t
    down = (sigma_t / sigma_s, alpha_t - alpha_s * sigma_t / sigma_s)
    return Mirror(down, (alpha_s / alpha_t + back / sigma_s, -back * alpha_s / sigma_s))
