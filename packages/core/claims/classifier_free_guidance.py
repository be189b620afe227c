"""Classifier-free guidance: fidelity to the class against diversity."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch

from degauss.core import Noise
from degauss.core.claims import Claim, Result
from degauss.core.guide.classifier_free import Extrapolated, TwoModels

from ._classes import DOUBLE, LABEL, SCHEDULE, below, data, log_class, model, sampled, spread
from ._problem import sliced_distance, verdict

CLAIM = Claim(
    paper="Ho and Salimans 2022, Classifier-Free Diffusion Guidance (eqs. 5 and 6, section 4.1, table 1)",
    statement=(
        "Extrapolating from the unconditional to the conditional prediction follows the score of p(x|c) p(c|x)^w at "
        "every noise level; more guidance gives samples more typical of their class (Inception score up) and less "
        "diverse, and the distance to the data (FID) grows again beyond little guidance."
    ),
    expected=(
        "with exact denoisers and the scales 1, 2, 4 (w = scale - 1): (a) the guided score is the gradient of the "
        "tilted log-density to 1e-8; (b) mean log p(class|x) of the samples rises with each scale, (c) their spread "
        "falls with each scale, and (d) the sliced W2 distance to the class rises with each scale, for every seed. "
        "Control: guided by itself, the conditional model's samples move by less than 1e-9."
    ),
)

SCALES = (1.0, 2.0, 4.0)


def run(seeds: Sequence[int]) -> Result:
    samples = {
        scale: [sampled(Extrapolated(TwoModels(model(seed, LABEL), model(seed, None)), scale), seed) for seed in seeds]
        for scale in SCALES
    }
    typical = {s: [log_class(x, seed, LABEL) for x, seed in zip(xs, seeds, strict=True)] for s, xs in samples.items()}
    width = {s: [spread(x) for x in xs] for s, xs in samples.items()}
    distance = {
        s: [sliced_distance(x, data(seed, LABEL)) for x, seed in zip(xs, seeds, strict=True)]
        for s, xs in samples.items()
    }
    score = [score_error(seed) for seed in seeds]
    control = [self_guided(seed) for seed in seeds]
    pairs = list(pairwise(SCALES))
    return Result(
        verdict(
            [
                max(score) <= 1e-8,
                all(below(typical[a], typical[b]) for a, b in pairs),
                all(below(width[b], width[a]) for a, b in pairs),
                all(below(distance[a], distance[b]) for a, b in pairs),
            ],
            [max(control) < 1e-9],
        ),
        {
            "largest difference of the guided score from the tilted density's": score,
            **{f"mean log p(class|x), scale {s:g}": values for s, values in typical.items()},
            **{f"spread of the samples, scale {s:g}": values for s, values in width.items()},
            **{f"sliced W2 to the class, scale {s:g}": values for s, values in distance.items()},
            "spread of the class": [spread(data(seed, LABEL)) for seed in seeds],
            "how far guidance by itself moves a sample (control)": control,
        },
        notes=(
            "The spread is the root of the total variance. Away from the other classes can mean away from one another: "
            "where the modes of a class lie on different sides of the others, guidance drives them apart."
        ),
    )


def score_error(seed: int) -> float:
    """Over noise levels 0.05 to 5, relative to the largest score."""
    one, every = model(seed, LABEL), model(seed, None)
    worst = 0.0
    for sigma in (0.05, 0.2, 1.0, 5.0):
        t = torch.tensor(sigma / SCHEDULE.sigma_max, dtype=DOUBLE)
        noisy = sigma * Noise(seed, range(64)).normal(torch.empty(64, 2, dtype=DOUBLE))
        x = (data(seed, None, 64) + noisy).requires_grad_(True)
        tilted = 4 * one.log_density(x, t) - 3 * every.log_density(x, t)
        (score,) = torch.autograd.grad(tilted.sum(), x)
        x = x.detach()
        guided = (Extrapolated(TwoModels(one, every), 4.0)(x, t).mean - x) / sigma**2
        worst = max(worst, float((guided - score).abs().max() / score.abs().max()))
    return worst


def self_guided(seed: int) -> float:
    one = model(seed, LABEL)
    return float((sampled(Extrapolated(TwoModels(one, one), 4.0), seed) - sampled(one, seed)).abs().max())
