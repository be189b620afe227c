"""What the claims on rectified paths share: eight Gaussians on a circle, a small network, and its training.

Data are eight round Gaussians of standard deviation 0.2 on a circle of radius 2; networks have three layers of 96 units
and see x, and the time as waves of eight frequencies. Every training has the same number of steps, batch and rates.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import cache
from itertools import pairwise

import torch
from torch import Tensor, nn

from degauss.core import Noise, RectifiedFlow, Schedule
from degauss.core.denoiser import Prediction
from degauss.core.oracle import MixtureOracle
from degauss.core.process.rectified import Pairs, TimeLaw, matching_loss

from ._problem import DOUBLE, sliced_distance

COUNT, STEPS, BATCH = 4096, 1000, 256

Draw = Callable[[range], Pairs]
"""Numbers of training samples -> (noise, data) to train on."""


class Network(nn.Module):
    """(x ``[batch, 2]``, t) -> ``[batch, 2]``."""

    def __init__(self) -> None:
        super().__init__()
        sizes = (2 + 16, 96, 96, 96, 2)
        layers = [[nn.Linear(a, b), nn.SiLU()] for a, b in pairwise(sizes)]
        self.layers = nn.Sequential(*[layer for pair in layers for layer in pair][:-1])
        self.register_buffer("waves", math.pi * 2.0 ** torch.arange(-1, 7))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        angles = t.expand(len(x))[:, None] * self.get_buffer("waves")
        return self.layers(torch.cat([x, angles.sin(), angles.cos()], 1))


@cache
def circle(schedule: Schedule) -> MixtureOracle:
    """The data, as the exact denoiser on a schedule."""
    angles = torch.arange(8, dtype=DOUBLE) * (math.pi / 4)
    means = 2 * torch.stack([angles.cos(), angles.sin()], 1)
    return MixtureOracle(
        schedule, torch.ones(8, dtype=DOUBLE), means, 0.04 * torch.eye(2, dtype=DOUBLE).repeat(8, 1, 1)
    )


def independent(schedule: Schedule, seed: int) -> Draw:
    """Fresh noise and fresh data, drawn independently."""

    def draw(rows: range) -> Pairs:
        x0 = circle(schedule).draw(Noise(200 + seed, rows)).float()
        return Pairs(Noise(300 + seed, rows).normal(x0), x0)

    return draw


def from_pairs(pairs: Pairs, seed: int) -> Draw:
    """Pairs out of a finite set, taken at random."""

    def draw(rows: range) -> Pairs:
        index = (Noise(400 + seed, rows).uniform(torch.empty(len(rows), dtype=DOUBLE)) * len(pairs.x0)).long()
        return Pairs(pairs.eps[index], pairs.x0[index])

    return draw


def trained(
    schedule: Schedule, prediction: Prediction, draw: Draw, seed: int, law: TimeLaw, start: Network | None = None
) -> Network:
    """A network trained from the start, or from where another left off."""
    if start is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = Network()
    else:
        network = copy.deepcopy(start).requires_grad_(True)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for step in range(STEPS):
        rows = range(step * BATCH, (step + 1) * BATCH)
        eps, x0 = draw(rows)
        t = law(Noise(500 + seed, rows).uniform(torch.empty(BATCH, dtype=DOUBLE)))
        optimizer.zero_grad()
        matching_loss(network, schedule, prediction, x0, eps, t).mean().backward()
        optimizer.step()
        decay.step()
    return network.requires_grad_(False)


def whole(u: Tensor) -> Tensor:
    """Uniform times."""
    return u


def distance(x: Tensor, seed: int) -> float:
    """Sliced W2 from the data; two draws of the data are 0.03 to 0.07 apart."""
    return sliced_distance(x.double(), circle(RectifiedFlow()).draw(Noise(9000 + seed, range(len(x)))))
