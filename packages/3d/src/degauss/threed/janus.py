r"""The Janus meter: does the back of an object look like a front?

Distillation likes to draw a face on every side, because its prior knows faces best. The meter asks of renders from
the side and the back which azimuth they seem to be from, and counts those that seem to be the front,

    rate = share of views with |azimuth| >= 90 whose nearest label among 0, 45, ..., 315 is 0.

Chance is 1/8; a perfect object has 0. Views at 45 degrees are left out: a front and a side are both in them.

Two judges need no training. `NearestRender` knows the true renders and takes the nearest one. `PriorJudge` asks a
prior that can be told the view: with the noise shared by all labels, of

    E |x0 - E[x0 | x_t, label]|^2        at the middle of the noise

the smallest is the most likely label (Li et al. 2023, "Your diffusion model is secretly a zero-shot classifier", with
views for classes). A prior that hears no views has no opinion, and no judge.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from degauss.core.denoiser import Denoiser
from degauss.core.noise import Noise
from degauss.core.posterior import Point
from degauss.core.schedule import Schedule
from degauss.threed.cameras import Cameras
from degauss.threed.views import Views

LABELS = 8
"""Azimuths that a judge may answer, the first being the front."""

Judge = Callable[[Tensor, Tensor], Tensor]
"""Images ``[n, channels, size, size]`` as a prior sees them and elevations ``[n]``, to labels ``[n]`` of `azimuths`."""


def azimuths(count: int = LABELS) -> Tensor:
    """What the labels mean, degrees ``[count]``."""
    return torch.arange(count, dtype=torch.float64) * (360 / count)


def judged_views(size: int, elevation: float = 15.0, device: torch.device | str = "cpu") -> Cameras:
    """The cameras to be judged: one for each label that lies 90 degrees or more from the front."""
    every = azimuths()
    return Cameras.orbit(every[(every >= 90) & (every <= 270)].to(device), elevation, size=size)


@dataclass(frozen=True, eq=False)
class NearestRender:
    """Judges by the true images ``[k, channels, size, size]``, of azimuths ``[k]`` in degrees."""

    images: Tensor
    azimuth: Tensor

    def __call__(self, images: Tensor, elevation: Tensor, /) -> Tensor:
        del elevation
        distance = torch.cdist(images.detach().flatten(1).double(), self.images.flatten(1).double())
        turns = self.azimuth.to(distance)[distance.argmin(1)]
        return (turns * (LABELS / 360)).round().long() % LABELS


@dataclass(frozen=True, eq=False)
class PriorJudge:
    """Judges by a prior's own error; ``denoiser``: views to the prior's denoiser of the prompt, told those views.

    ``t``: the noise at which it is asked, in (0, 1). ``draws``: of noise, averaged, the same for every label.
    """

    denoiser: Callable[[Views], Denoiser[Point]]
    schedule: Schedule
    t: float = 0.5
    draws: int = 4
    seed: int = 0

    @torch.no_grad()
    def __call__(self, images: Tensor, elevation: Tensor, /) -> Tensor:
        images = images.detach()
        t = torch.tensor(self.t, dtype=torch.float64, device=images.device)
        alpha, sigma = (float(scale) for scale in self.schedule(t))
        noise = Noise(self.seed, range(len(images)))
        states = [alpha * images + sigma * noise.normal(images, draw) for draw in range(self.draws)]
        errors: list[Tensor] = []
        for azimuth in azimuths().tolist():
            told = Views(torch.full_like(elevation, azimuth), elevation)
            denoise = self.denoiser(told)
            error = sum((denoise(x, t).mean - images).square().flatten(1).mean(1) for x in states)
            errors.append(torch.as_tensor(error))
        return torch.stack(errors).argmin(0)


def janus_rate(labels: Tensor) -> float:
    """The share of views from the side and the back that were labelled as the front."""
    return float((labels == 0).double().mean())


# --- during a run ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Remedies:
    """What of the usual cures a run has not taken yet."""

    views: bool
    annealing: bool
    perp_neg: float

    def proposal(self) -> str:
        """One sentence on what to try next, the cure that helps most first."""
        cures: list[str] = []
        if not self.views:
            cures.append("a prior that is told the view")
        if not self.annealing:
            cures.append("annealing of the noise level")
        weight = 1.0 if self.perp_neg == 0 else 2 * self.perp_neg
        cures.append(f"perpendicular negative prompts of weight {weight:g}")
        return f"Try {', or '.join(cures)}, or another seed."


@dataclass
class JanusMeter:
    """Watches the rate of a run, and warns when it is above ``limit`` twice in a row.

    ``rates``: what it saw, by step.
    """

    judge: Judge
    remedies: Remedies
    warn: Callable[[str], None]
    limit: float = 0.4
    rates: dict[int, float] = field(default_factory=dict[int, float])
    warned: bool = False

    def look(self, step: int, images: Tensor, elevation: Tensor) -> float:
        """Judge images ``[n, channels, size, size]`` of `judged_views` after a step."""
        rate = janus_rate(self.judge(images, elevation))
        before = next(reversed(self.rates.values()), 0.0)
        self.rates[step] = rate
        if min(rate, before) > self.limit and not self.warned:
            self.warned = True
            self.warn(
                f"After step {step}, {rate:.0%} of the views from the side and the back look like a front "
                f"(chance: {1 / LABELS:.0%}). {self.remedies.proposal()}"
            )
        return rate
