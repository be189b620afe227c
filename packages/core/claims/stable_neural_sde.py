"""Stable neural SDEs without training: do random ones stay bounded and forget their start, and a naive one not?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from degauss.core import Noise, simulate
from degauss.core.claims import Claim, Result
from degauss.core.sde import (
    PUBLISHED,
    EulerMaruyama,
    ExponentialStep,
    General,
    GeometricSDE,
    Instant,
    LangevinSDE,
    LinearNoiseSDE,
    LogStep,
    NeuralSDE,
    Path,
)

from ._problem import median, verdict

CLAIM = Claim(
    paper=(
        "Oh, Lim and Kim 2024, Stable Neural Stochastic Differential Equations in Analyzing Irregular Time Series "
        "Data, section 3"
    ),
    statement=(
        "Careless drifts and diffusions make neural SDEs that explode or are destabilised by their noise; the "
        "Langevin-type, linear-noise and geometric classes have solutions for all times that stay stable, and what "
        "changes their input changes their output little."
    ),
    expected=(
        "64 random networks a seed (8 states, 16 units, weights at torch's initial scale, and three times those), 16 "
        "paths of each to time 10 in 200 steps, every class by the step made for it: (a) for each of the three classes "
        "at both scales, above 99 % of the paths end finite and below 1000 in size; (b) for each class at both scales, "
        "two states that start 0.1 apart on the same noise end, in the median over paths, nearer together than those "
        "of the naive SDE, for every seed. Control that must fail: at three times the scale the naive SDE has fewer "
        "than 99 % such paths. Nothing here is trained, and the conditions that the theorems put on the drift are not "
        "imposed, as training does not impose them."
    ),
)

NETWORKS, PATHS, DIM, WIDTH, STEPS, HORIZON = 64, 16, 8, 16, 200, 10.0
LIMIT, APART = 1000.0, 0.1
SCALES = (1.0, 3.0)


class Way(NamedTuple):
    """A class, the method for it, and what its networks are made with."""

    kind: Any
    kernel: Any
    options: dict[str, Any]


STABLE = {
    "LSDE": Way(LangevinSDE, EulerMaruyama, {}),
    "LNSDE": Way(LinearNoiseSDE, ExponentialStep, {}),
    "GSDE": Way(GeometricSDE, LogStep, {}),
}
NAIVE = Way(NeuralSDE, EulerMaruyama, {})


class ClippedNeuralSDE(NeuralSDE):
    """The naive equation with the tanh clips that the published benchmark gives the stable ones."""

    def at(self, times: Tensor, path: Path | None = None, /) -> tuple[Instant, ...]:
        return tuple(map(_clipped, super().at(times, path)))


def _clipped(instant: Instant) -> Instant:
    return General(lambda z: instant.drift(z).tanh(), lambda z: instant.diffusion(z).tanh())


CLIPPED = {
    "naive, clipped": Way(ClippedNeuralSDE, EulerMaruyama, {}),
    **{f"{name}, published": Way(way.kind, EulerMaruyama, {"stabilisers": PUBLISHED}) for name, way in STABLE.items()},
}


class Outcome(NamedTuple):
    """The share of paths that end finite and below the limit; the median distance of paths that started apart."""

    bounded: float
    apart: float


def run(seeds: Sequence[int]) -> Result:
    found = {
        (name, scale): [_outcome(way, seed, scale) for seed in seeds]
        for name, way in {**STABLE, "naive": NAIVE, **CLIPPED}.items()
        for scale in SCALES
    }
    bounded = {key: [outcome.bounded for outcome in outcomes] for key, outcomes in found.items()}
    apart = {key: [outcome.apart for outcome in outcomes] for key, outcomes in found.items()}
    parts = [
        part
        for name in STABLE
        for scale in SCALES
        for part in (
            median(bounded[name, scale]) > 0.99,
            all(a < b for a, b in zip(apart[name, scale], apart["naive", scale], strict=True)),
        )
    ]
    return Result(
        verdict(parts, [median(bounded["naive", 3.0]) < 0.99]),
        {
            **{f"share bounded, {name}, scale {scale:g}": values for (name, scale), values in bounded.items()},
            **{f"distance at the end, {name}, scale {scale:g}": values for (name, scale), values in apart.items()},
        },
        notes=(
            "published: with the published benchmark's tanh clips and other stabilisers, Euler; naive, clipped: the "
            "naive equation with the tanh clips alone. The geometric drift z gamma(z) grows as the square of z where "
            "gamma is an unbounded network, and then explodes. A distance that is not finite, or above 1e6, counts as "
            "1e6."
        ),
    )


@torch.no_grad()
def _outcome(way: Way, seed: int, scale: float) -> Outcome:
    ends = torch.stack([_ends(way, seed, network, scale) for network in range(NETWORKS)])
    sizes = ends.norm(dim=-1)
    first, second = ends.chunk(2, dim=1)
    apart = (first - second).norm(dim=-1).nan_to_num(1e6, 1e6).clamp(max=1e6)
    return Outcome(float((sizes < LIMIT).double().mean()), float(apart.median()))


def _ends(way: Way, seed: int, network: int, scale: float) -> Tensor:
    """Where the paths of one network end, ``[2 PATHS, DIM]``: the second half started 0.1 from the first."""
    model = _weighed(way.kind(DIM, width=WIDTH, **way.options), 1000 * seed + network, scale)
    noise = Noise(seed, [*range(PATHS), *range(PATHS)])
    x = noise.normal(torch.empty(2 * PATHS, DIM), draw=1 + network)
    x[PATHS:, 0] += APART
    return simulate(way.kernel(model), x, torch.linspace(0, HORIZON, STEPS + 1), noise)


def _weighed(model: nn.Module, seed: int, scale: float) -> nn.Module:
    """torch's uniform initial weights from the keyed noise, times the scale."""
    for index, (name, weight) in enumerate(model.named_parameters()):
        if name == "theta":
            continue
        bound = scale * _inputs(model, name) ** -0.5
        draw = Noise(seed, [0]).uniform(torch.empty(1, *weight.shape), index)[0]
        weight.copy_(bound * (2 * draw - 1))
    return model


def _inputs(model: nn.Module, name: str) -> int:
    """How many numbers the layer of a weight or bias takes."""
    layer = model.get_submodule(name.rpartition(".")[0])
    assert isinstance(layer, nn.Linear)
    return layer.in_features
