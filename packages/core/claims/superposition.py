"""Superposition: OR mixes models by their densities, AND keeps them equal."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from degauss.core import EDM, Noise
from degauss.core.claims import Claim, Result
from degauss.core.grid import uniform_log_snr
from degauss.core.guide.superposition import And, Or, Rule, superpose
from degauss.core.oracle import MixtureOracle

from ._problem import median, sliced_distance, verdict

CLAIM = Claim(
    paper="Skreta et al. 2025, The Superposition of Diffusion Models Using the Ito Density Estimator (algorithm 1)",
    statement=(
        "Weights from the estimated densities turn two trained models into one: OR samples their mixture, AND samples "
        "to which both give the same density, which averaging their noise does not."
    ),
    expected=(
        "(a) AND: the median |log q_1 - log q_2| is below a third of that of averaging, and the median of the smaller "
        "of the two is higher; (b) OR: its sliced Wasserstein distance to the mixture is below a third of that of "
        "averaging."
    ),
)

SCHEDULE = EDM(20.0)
GRID = uniform_log_snr(SCHEDULE, 500, start=1.0, end=0.001)
AVERAGE = Or(temperature=0.0)


def run(seeds: Sequence[int]) -> Result:
    gaps: dict[str, list[float]] = {"AND": [], "average": []}
    lows: dict[str, list[float]] = {"AND": [], "average": []}
    distances: dict[str, list[float]] = {"OR": [], "average": []}
    for seed in seeds:
        models = (_model(seed, 0), _model(seed, 1))
        for name, rule in {"AND": And(), "average": AVERAGE}.items():
            log_q = _exact(models, _draw(models, rule, seed))
            gaps[name].append(float(log_q.diff(dim=0).abs().median()))
            lows[name].append(float(log_q.amin(0).median()))
        noise = Noise(100 + seed, range(1024))
        mixture = torch.where(
            noise.uniform(torch.empty(1024, 1, dtype=torch.float64), draw=3) < 0.5,
            models[0].draw(noise),
            models[1].draw(Noise(200 + seed, range(1024))),
        )
        for name, rule in {"OR": Or(), "average": AVERAGE}.items():
            distances[name].append(sliced_distance(_draw(models, rule, seed), mixture))
    balanced = median(gaps["AND"]) < median(gaps["average"]) / 3
    likelier = median(lows["AND"]) > median(lows["average"])
    mixed = median(distances["OR"]) < median(distances["average"]) / 3
    return Result(
        verdict([balanced, likelier, mixed]),
        {
            **{f"median |log q_1 - log q_2|, {name}": values for name, values in gaps.items()},
            **{f"median of min(log q_1, log q_2), {name}": values for name, values in lows.items()},
            **{f"distance to the mixture, {name}": values for name, values in distances.items()},
        },
        notes="Two mixtures of three Gaussians in 2 dimensions, 500 steps; densities are the exact ones at the end.",
    )


def _model(seed: int, which: int) -> MixtureOracle:
    """Three components of standard deviation 0.5 with means of standard deviation 2."""
    means = 2 * Noise(1000 + 2 * seed + which, range(3)).normal(torch.empty(3, 2, dtype=torch.float64))
    covariances = 0.25 * torch.eye(2, dtype=torch.float64).expand(3, 2, 2)
    return MixtureOracle(SCHEDULE, torch.ones(3, dtype=torch.float64), means, covariances)


def _draw(models: tuple[MixtureOracle, MixtureOracle], rule: Rule, seed: int) -> Tensor:
    with torch.inference_mode():
        return superpose(models, SCHEDULE, (1024, 2), GRID, rule=rule, seed=seed, dtype=torch.float64).x


def _exact(models: tuple[MixtureOracle, MixtureOracle], x: Tensor) -> Tensor:
    """log q of each model at the end of the grid, ``[2, batch]``."""
    return torch.stack([model.log_density(x, GRID[-1]) for model in models])
