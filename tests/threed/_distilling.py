"""Priors whose answers are known in closed form, and that count what they are asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from degauss.core.denoiser import Denoiser
from degauss.core.noise import Noise
from degauss.core.oracle import GaussianOracle
from degauss.core.posterior import Point
from degauss.core.schedule import Cosine, Schedule
from degauss.threed.distillation.annealing import Times
from degauss.threed.distillation.residual import Asked, Method, loss
from degauss.threed.oracle_prior import OraclePrior
from degauss.threed.oracle_views import OracleViews
from degauss.threed.prior import Condition, PixelPrior, block_rows
from degauss.threed.views import Views

SCHEDULE = Cosine()
SHAPE = (4, 3, 4, 4)
TIMES = torch.tensor([0.1, 0.35, 0.6, 0.9], dtype=torch.float64)
NOISE = Noise(3, range(4))


class GaussianPrior(PixelPrior):
    """Data N(mean, std^2) under each prompt, None without one; ``turn`` times the azimuth in degrees is added."""

    schedule: Schedule = SCHEDULE

    def __init__(self, data: Mapping[str | None, tuple[float | Tensor, float]], turn: float = 0.0) -> None:
        self.data, self.turn = data, turn
        self.vocabulary = tuple(name for name in data if name is not None)
        self.calls, self.rows = 0, 0
        self.asked: list[tuple[str | None, Tensor]] = []

    @property
    def size(self) -> int:
        return SHAPE[2]

    @property
    def channels(self) -> int:
        return SHAPE[1]

    def check(self, prompt: str, /) -> None:
        assert prompt in self.vocabulary

    def together(self, conditions: Sequence[Condition], /) -> Denoiser[Point]:
        def answer(x: Tensor, t: Tensor, /, **cond: Any) -> Point:
            each = block_rows(len(x), conditions)
            self.calls, self.rows = self.calls + 1, self.rows + len(x)
            times = t if t.ndim else t.expand(len(x))
            parts: list[Tensor] = []
            for block, time, condition in zip(x.split(each), times.split(each), conditions, strict=True):
                mean, std = self.data[condition.prompt]
                if condition.views is not None:
                    mean = mean + self.turn * condition.views.azimuth.to(x).reshape(-1, 1, 1, 1)
                self.asked.append((condition.prompt, time))
                parts.append(GaussianOracle(self.schedule, mean, std)(block, time).mean)
            return Point(torch.cat(parts))

        return answer


def prior(**data: tuple[float, float]) -> GaussianPrior:
    """By default "thing" is N(0.5, 0.3^2) and everything N(-0.1, 0.8^2)."""
    return GaussianPrior({None: (-0.1, 0.8), "thing": (0.5, 0.3), **data})


def asked(known: GaussianPrior | None = None, **told: Any) -> Asked:
    return Asked(known or prior(), "thing", **told)


def images(seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def scales(t: Tensor = TIMES) -> tuple[Tensor, Tensor]:
    """alpha and sigma, ready to multiply images."""
    alpha, sigma = SCHEDULE(t)
    return alpha.reshape(-1, 1, 1, 1), sigma.reshape(-1, 1, 1, 1)


def views(*azimuth: float) -> Views:
    return Views(torch.tensor(azimuth), torch.zeros(len(azimuth)))


def distilled(method: Method, std: float = 0.05, sign: float = 1.0, steps: int = 120) -> float:
    """How far from its views two images of an object end, as a share of how far they were: squares of errors.

    8 x 8 pixels, an exact prior of two objects with an image a view each, blurred by ``std``.
    """
    known = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(4)) * 1.6 - 0.8
    azimuth, elevation = torch.tensor([0.0, 90.0, 180.0, -90.0]), torch.zeros(4)
    objects = {
        name: OraclePrior(SCHEDULE, known[start : start + 4].double(), azimuth, elevation, width=15.0, std=std)
        for name, start in (("one", 0), ("two", 4))
    }
    request = Asked(OracleViews(objects), "two", Views(azimuth[[1, 2]], elevation[[1, 2]]))
    image = torch.zeros(2, 3, 8, 8, requires_grad=True)
    optimiser = torch.optim.Adam([image], 0.05)
    noise, times = Noise(0, range(2)), Times.of(0.02, 0.9)
    for step in range(steps):
        told = method.residual(request, image, times.draw(noise.fork(9), step), noise, step)
        optimiser.zero_grad()
        (sign * loss(image, told)).backward()
        optimiser.step()
    wanted = known[[5, 6]]
    return float((image.detach() - wanted).square().sum() / wanted.square().sum())
