"""CycleDiffusion: data as the noises of a stochastic sampler, and translation by decoding them with another model."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from degauss.core import Noise
from degauss.core.claims import Claim, Result
from degauss.core.inversion.dpm_encoder import Noises, dpm_decode, dpm_encode
from degauss.core.oracle import MixtureOracle

from ._inversion import DOUBLE, SCHEDULE, data_law, times
from ._problem import median, sliced_distance, verdict

CLAIM = Claim(
    paper="Wu and De la Torre 2023, CycleDiffusion: A Latent Space of Stochastic Diffusion Models",
    statement=(
        "DPM-Encoder finds noises with which a stochastic sampler makes given data exactly; decoded by a model of a "
        "related domain they give a sample of that domain that stays like its source."
    ),
    expected=(
        "(a) the largest error of data to noises to data is below 1e-10 in float64 for eta 0.1 and 1, at 10 and at "
        "100 steps, for every seed; (b) with eta = 1 and 100 steps, the sliced W2 distance of translations to the "
        "other domain is at most a quarter of the distance between the domains; (c) the median distance of a "
        "translation to its source is at most 0.8 of that of a sample of the other domain from fresh noise, for every "
        "seed. Control: decoded with the noises of another sample, it must be above 0.95 of it."
    ),
)

COUNT = 512


def run(seeds: Sequence[int]) -> Result:
    errors = {(eta, n): [restored(seed, eta, n) for seed in seeds] for eta in (0.1, 1.0) for n in (10, 100)}
    found = [Translation(seed) for seed in seeds]
    figures = {name: [each.figures[name] for each in found] for name in found[0].figures}
    near = [b <= a / 4 for a, b in zip(figures[BETWEEN], figures[REACHED], strict=True)]
    alike = [value <= 0.8 for value in figures[ALIKE]]
    return Result(
        verdict(
            [*(max(values) < 1e-10 for values in errors.values()), all(near), all(alike)],
            [median(figures[SWAPPED]) > 0.95],
        ),
        {
            **{f"largest error, eta = {eta:g}, {n} steps": values for (eta, n), values in errors.items()},
            **figures,
        },
        notes="The other domain is the same mixture with its components spread out by a half and moved by one.",
    )


BETWEEN = "distance between the domains (sliced W2)"
REACHED = "distance of translations to the other domain"
ALIKE = "distance to the source, relative to fresh samples"
SWAPPED = "the same with the noises of another sample (control)"


class Translation:
    """The figures of one seed."""

    def __init__(self, seed: int) -> None:
        grid, noise = times(100), Noise(4000 + seed, range(COUNT))
        source, target = data_law(seed), other_domain(seed)
        data = source.draw(Noise(5000 + seed, range(COUNT)))
        noises = dpm_encode(source, SCHEDULE, data, grid, noise)
        translated = dpm_decode(target, SCHEDULE, noises, grid)
        swapped = dpm_decode(target, SCHEDULE, Noises(noises.start.roll(1, 0), noises.steps.roll(1, 1)), grid)
        fresh = target.draw(Noise(6000 + seed, range(COUNT)))
        away = apart(fresh, data)
        self.figures = {
            BETWEEN: sliced_distance(data, fresh),
            REACHED: sliced_distance(translated, fresh),
            ALIKE: apart(translated, data) / away,
            SWAPPED: apart(swapped, data) / away,
        }


def other_domain(seed: int) -> MixtureOracle:
    """A related law: component means times 1.5 plus 1, the same covariances."""
    law = data_law(seed)
    return MixtureOracle(SCHEDULE, law.weights, 1.5 * law.means + 1, law.covariances)


def apart(x: Tensor, y: Tensor) -> float:
    """The median distance of pairs."""
    return float((x - y).norm(dim=1).median())


def restored(seed: int, eta: float, steps: int) -> float:
    """Data to noises to data: the largest error."""
    noise = Noise(seed, range(64))
    data = data_law(seed).draw(noise).to(DOUBLE)
    noises = dpm_encode(data_law(seed), SCHEDULE, data, times(steps), noise, eta=eta)
    return float((dpm_decode(data_law(seed), SCHEDULE, noises, times(steps), eta=eta) - data).abs().max())
