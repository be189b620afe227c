"""Stochastic interpolants: one path between two distributions, and a family of processes along it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from degauss.core import Noise, RectifiedFlow, simulate
from degauss.core.claims import Claim, Result
from degauss.core.oracle import MixtureOracle
from degauss.core.process.interpolant import Constant, Linear, MixtureMover, Motion, Mover, Transport

from ._problem import DOUBLE, median, mixture, sliced_distance, verdict

CLAIM = Claim(
    paper=(
        "Albergo, Boffi and Vanden-Eijnden 2023, Stochastic Interpolants: A Unifying Framework for Flows and "
        "Diffusions (sections 2.2 to 2.4)"
    ),
    statement=(
        "Between any two distributions the interpolant gives an ODE and, for any eps > 0, an SDE with the same "
        "law at every time. With a velocity that is wrong by delta, the SDE's KL divergence from the data is at "
        "most the mean of |delta|^2 / (4 eps); the ODE has no such bound."
    ),
    expected=(
        "(a) between two mixtures in 8 dimensions, eps = 0, 0.5 and 2 reach the data to within 1.25 of the "
        "sliced W2 distance between two draws of them, in the median; (b) with a velocity wrong by 0.5 in every "
        "coordinate, eps = 2 brings the distance to 0.75 or less of the ODE's, for every seed; (c) between two "
        "Gaussians, where the KL divergence is known, it is at most the bound for eps = 0.1, 0.3, 1, 3 and 10. "
        "Controls: with the score taken at 0.8 of itself, the distance at eps = 2 must exceed 1.25 of the floor, "
        "and the ODE's KL divergence must exceed the bound for eps = 1."
    ),
)

COUNT, STEPS, WRONG = 1024, 80, 0.5
PATH = Linear()


@dataclass(frozen=True)
class Biased:
    """An exact model whose velocity is wrong by a constant, and whose noise is wrong by a factor."""

    exact: MixtureMover
    shift: float = 0.0
    factor: float = 1.0

    def __call__(self, x: Tensor, t: Tensor, /, **cond: Any) -> Motion:
        path, noise = self.exact(x, t, **cond)
        return Motion(path + self.shift, self.factor * noise)


def run(seeds: Sequence[int]) -> Result:
    floor = [sliced_distance(data(seed), data(seed, key=6000)) for seed in seeds]
    right = {eps: [distance(seed, eps) for seed in seeds] for eps in (0.0, 0.5, 2.0)}
    wrong = {eps: [distance(seed, eps, shift=WRONG) for seed in seeds] for eps in (0.0, 0.5, 2.0)}
    weak = [distance(seed, 2.0, factor=0.8) for seed in seeds]
    divergence = {eps: kl(eps) for eps in (0.0, 0.1, 0.3, 1.0, 3.0, 10.0)}
    bound = {eps: WRONG**2 / (4 * eps) for eps in divergence if eps}
    return Result(
        verdict(
            [
                *(median(values) <= 1.25 * median(floor) for values in right.values()),
                all(b <= 0.75 * a for a, b in zip(wrong[0.0], wrong[2.0], strict=True)),
                all(divergence[eps] <= most for eps, most in bound.items()),
            ],
            [median(weak) > 1.25 * median(floor), divergence[0.0] > bound[1.0]],
        ),
        {
            "distance between two draws of the data": floor,
            **{f"distance to the data, eps = {eps:g}": values for eps, values in right.items()},
            **{f"the same, velocity wrong by 0.5, eps = {eps:g}": values for eps, values in wrong.items()},
            "distance, score at 0.8 of itself, eps = 2 (control)": weak,
            **{f"KL divergence / its bound, eps = {eps:g}": [divergence[eps] / most] for eps, most in bound.items()},
            "KL divergence of the ODE": [divergence[0.0]],
        },
        notes="Linear interpolant with g = sqrt(t (1 - t)), 80 steps of Heun's method from end to end.",
    )


def data(seed: int, key: int = 5000) -> Tensor:
    """Exact samples of the data."""
    return mixture(seed).draw(Noise(key + seed, range(COUNT)))


def distance(seed: int, eps: float, shift: float = 0.0, factor: float = 1.0) -> float:
    """Sliced W2 from the data of samples of another mixture carried there."""
    other = mixture(seed + 100)
    mover = Biased(MixtureMover(PATH, mixture(seed), other), shift, factor)
    return sliced_distance(carried(mover, other.draw(Noise(seed, range(COUNT))), eps, seed), data(seed))


def carried(mover: Mover, x: Tensor, eps: float, seed: int, steps: int = STEPS) -> Tensor:
    """From t = 1 to 0."""
    grid = torch.linspace(1, 0, steps + 1, dtype=DOUBLE)
    return simulate(Transport(mover, PATH, Constant(eps)), x, grid, Noise(seed, range(len(x))))


def kl(eps: float) -> float:
    """KL(data, model) between N(0, 1) and N(1, 0.5^2), the velocity wrong by 0.5, the score right.

    Everything is linear, so the model's law is a normal of the right variance whose mean is wrong by as much as any
    one path is, noise for noise.
    """

    def normal(mean: float, variance: float) -> MixtureOracle:
        one = torch.ones(1, 1, dtype=DOUBLE)
        return MixtureOracle(RectifiedFlow(), one[0], mean * one, variance * one[None])

    exact = MixtureMover(PATH, normal(1.0, 0.25), normal(0.0, 1.0))
    x = torch.zeros(1, 1, dtype=DOUBLE)
    ends = [carried(Biased(exact, shift), x, eps, seed=0, steps=2000) for shift in (0.0, WRONG)]
    return float((ends[1] - ends[0]).square()) / (2 * 0.25)
