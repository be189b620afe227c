"""Score distillation as a difference of noises, and as a distance of images: one gradient in two forms."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import torch
from torch import Tensor

from degauss.core.claims import Claim, Result
from degauss.core.noise import Noise
from degauss.core.schedule import Cosine
from degauss.threed.cameras import Cameras, random_views
from degauss.threed.distillation.guidance import ClassifierFree
from degauss.threed.distillation.residual import (
    EPS,
    Asked,
    Block,
    Level,
    Weighting,
    ask,
    by_ratio,
    by_signal_and_variance,
    by_variance,
    loss,
    uniform,
)
from degauss.threed.distillation.sds import SDS, x0_form
from degauss.threed.oracle_views import OracleViews
from degauss.threed.rendering import render
from degauss.threed.scenes import start
from degauss.threed.shapes import shipped_mesh
from degauss.threed.views import Views

from ._scenes import scene, verdict

CLAIM = Claim(
    paper=(
        "Guo et al. 2023, StableDreamer: Taming Noisy Score Distillation Sampling for Text-to-3D, section 3.1; Shi et "
        "al. 2024, MVDream, section 3.3; Poole et al. 2023, DreamFusion, eq. 3"
    ),
    statement=(
        "The gradient of score distillation, w (eps_hat - eps), is that of a weighted L2 distance between the render "
        "and the image that the prior predicts in one step, w (alpha / sigma) |x0 - x0_hat|^2 / 2."
    ),
    expected=(
        "In float32, on the parameters of a scene of voxels, for four weightings, guidance 1 and 7.5 and four times "
        "from 0.02 to 0.98, the difference of both gradients is at most 1e-5 of their size, at its worst over all of "
        "them and in the median over seeds. Control: the distance without its weight (that of w = sigma / alpha) must "
        "differ by more than 0.1 where another w is asked for."
    ),
)

WEIGHTINGS = {
    "1 - alpha_bar": by_variance, "1": uniform, "alpha sigma^2": by_signal_and_variance, "sigma / alpha": by_ratio,
}  # fmt: skip
GUIDANCES = (1.0, 7.5)
TIMES = (0.02, 0.3, 0.7, 0.98)
SIZE = 16


def run(seeds: Sequence[int]) -> Result:
    torch.set_num_threads(1)
    prior = oracle()
    found = [one(prior, seed) for seed in seeds]
    figures = {f"largest difference, w = {name}": [values[name][0] for values in found] for name in WEIGHTINGS}
    for name, weighting in WEIGHTINGS.items():
        if weighting is not by_ratio:
            figures[f"difference without the weight, w = {name}"] = [values[name][1] for values in found]
    worst = [median(values) for name, values in figures.items() if name.startswith("largest")]
    control = [median(values) for name, values in figures.items() if not name.startswith("largest")]
    return Result(
        verdict([max(worst) <= 1e-5], [min(control) > 0.1]),
        figures,
        notes=(
            "Differences are norms over all parameters, divided by the norm of the gradient. The prior is the exact "
            "one of two objects, a car and a mug; the equality is algebra, and does not depend on it."
        ),
    )


def oracle() -> OracleViews:
    """The exact prior of two objects, so that guidance has something to say."""
    azimuth = torch.arange(8.0).repeat(2) * 45
    cameras = Cameras.orbit(azimuth, torch.tensor((0.0, 30.0)).repeat_interleave(8), size=SIZE)
    return OracleViews.of(Cosine(), {word: shipped_mesh(word) for word in ("car", "mug")}, cameras, 6, 20.0, 0.1)


def one(prior: OracleViews, seed: int) -> dict[str, tuple[float, float]]:
    """By weighting: the largest difference of both forms, and the least from the distance without its weight."""
    noise = Noise(seed, range(len(TIMES)))
    voxels = start(scene(SIZE), seed)
    cameras = random_views(noise, size=SIZE)
    t = torch.tensor(TIMES, dtype=torch.float64)
    asked = Asked(prior, "car", Views.of(cameras))
    seen = render(voxels, cameras)
    x0 = prior.encode(seen.rgb, seen.normal)
    parameters = list(voxels.parameters())

    def pulled(value: Tensor) -> Tensor:
        found = torch.autograd.grad(value, parameters, retain_graph=True)
        return torch.cat([part.flatten() for part in found]).double()

    def of_noises(weighting: Weighting, guidance: ClassifierFree, row: int) -> Tensor:
        """As the paper of score distillation writes it: w times the noise predicted less the noise added."""
        x, time = x0.detach(), t
        level = Level.of(prior.schedule, time, x)
        eps = noise.fork(0).normal(x, EPS)
        x_t = level.noised(x, eps)
        means = ask(prior, [Block(condition, x_t, time) for condition in guidance.conditions(asked)])
        noise_found = level.eps(x_t, guidance.combine(asked, means))
        gradient = weighting(level.alpha, level.sigma) * (noise_found - eps)
        return pulled((x0[row] * gradient[row].to(x0)).sum() / len(x0))

    differences: dict[str, tuple[float, float]] = {}
    for name, weighting in WEIGHTINGS.items():
        both: list[float] = []
        without: list[float] = []
        for guidance in map(ClassifierFree, GUIDANCES):
            told = SDS(guidance, weighting).residual(asked, x0, t, noise, 0)
            for row in range(len(TIMES)):
                noises = of_noises(weighting, guidance, row)
                images = pulled(
                    x0_form(x0[row : row + 1], told.target[row : row + 1], prior.schedule, t[row : row + 1], weighting)
                    / len(x0)
                )
                plain = pulled(
                    loss(x0[row : row + 1], told._replace(gradient=(x0 - told.target)[row : row + 1])) / len(x0)
                )
                size = float(noises.norm())
                both.append(float((noises - images).norm()) / size)
                without.append(float((noises - plain).norm()) / size)
        differences[name] = max(both), min(without)
    return differences
