"""Autoguidance: a worse version of the model shows where the model itself is wrong."""

from __future__ import annotations

from collections.abc import Sequence

from degauss.core.claims import Claim, Result
from degauss.core.guide.auto import autoguidance
from degauss.core.guide.classifier_free import Extrapolated, TwoModels

from ._classes import LABEL, below, data, model, sampled, spread
from ._problem import sliced_distance, verdict

CLAIM = Claim(
    paper="Karras et al. 2024, Guiding a Diffusion Model with a Bad Version of Itself (section 3, figures 1 and 2)",
    statement=(
        "Guiding a model by a worse version of itself corrects the errors that both share and keeps the diversity, "
        "where classifier-free guidance reaches its quality by dropping part of the distribution."
    ),
    expected=(
        "the model blurred by a variance of 0.01, the worse one by 0.03, scale 1.5 (which cancels blur to first "
        "order): for every seed the sliced W2 distance to the class is (a) below 70 % of the unguided model's and (b) "
        "below that of classifier-free guidance at the best of the scales 1.25, 1.5, 2 and 3; (c) the spread of the "
        "samples is within 10 % of the data's. Controls: guidance by itself moves no sample by 1e-9; by a better model "
        "in the worse one's place (blur 0.003) the distance grows."
    ),
)

GOOD, BAD, BETTER, SCALE = 0.01, 0.03, 0.003, 1.5


def run(seeds: Sequence[int]) -> Result:
    def distances(denoisers: Sequence[object]) -> list[float]:
        return [sliced_distance(sampled(d, s), data(s, LABEL)) for d, s in zip(denoisers, seeds, strict=True)]

    good = [model(seed, LABEL, GOOD) for seed in seeds]
    bad = [model(seed, LABEL, BAD) for seed in seeds]
    auto = [autoguidance(g, b, SCALE) for g, b in zip(good, bad, strict=True)]
    free = {
        scale: distances(
            [Extrapolated(TwoModels(g, model(s, None, GOOD)), scale) for g, s in zip(good, seeds, strict=True)]
        )
        for scale in (1.25, 1.5, 2.0, 3.0)
    }
    unguided, guided = distances(good), distances(auto)
    backwards = distances([autoguidance(g, model(s, LABEL, BETTER), SCALE) for g, s in zip(good, seeds, strict=True)])
    width = [spread(sampled(d, s)) / spread(data(s, LABEL)) for d, s in zip(auto, seeds, strict=True)]
    moved = [
        float((sampled(autoguidance(g, g, SCALE), s) - sampled(g, s)).abs().max())
        for g, s in zip(good, seeds, strict=True)
    ]
    return Result(
        verdict(
            [
                below(guided, unguided, 0.7),
                below(guided, [min(values) for values in zip(*free.values(), strict=True)]),
                max(abs(value - 1) for value in width) <= 0.1,
            ],
            [max(moved) < 1e-9, below(unguided, backwards)],
        ),
        {
            "sliced W2 to the class, the model alone": unguided,
            "the same, the worse model alone": distances(bad),
            "the same, autoguidance": guided,
            **{f"the same, classifier-free guidance, scale {s:g}": values for s, values in free.items()},
            "the same, guided by a better model (control)": backwards,
            "spread of the autoguided samples over the data's": width,
            "how far guidance by itself moves a sample (control)": moved,
        },
        notes=(
            "Written first with pseudo-random points and starting from noise alone, part (a) failed for one seed of "
            "three, by errors of sampling that all methods shared; these were removed, the thresholds kept."
        ),
    )
