"""The error of the noise that a prior predicts in renders, and two ways to make it smaller: learn, or ask later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

import torch

from degauss.core.claims import Claim, Result, Verdict
from degauss.core.denoiser import Denoiser
from degauss.core.posterior import Point
from degauss.threed.distillation.residual import Asked
from degauss.threed.distillation.vsd import Variational
from degauss.threed.laboratory import noise_error, seen_around
from degauss.threed.run import Run

from ._scenes import config, gathered, note, shipped, truth, verdict

CLAIM = Claim(
    paper="Ma et al. 2024, ScaleDreamer: Scalable Text-to-3D Synthesis with Asynchronous Score Distillation, section 4",
    statement=(
        "A pretrained model's error in the noise of a render is the smaller the noisier the render. So the noise that "
        "it predicts at a later time errs less, as that of VSD's finetuned copy does, without any finetuning."
    ),
    expected=(
        "On renders of a run of VSD on the word spot after 150 steps, from 8 views around, the mean over pictures of "
        "|eps_hat - eps|^2 per number, medians over seeds: (a) the prior's error falls from each time to the next over "
        "0.1, 0.3, 0.5, 0.7, 0.9; (b) asked at t + D, D = 0.1 (t - 0.02) (the largest shift of ASD), it errs less than "
        "at t at 0.3, 0.5, 0.7 and 0.9; (c) so does VSD's finetuned copy, on average over these four; (d) ASD's error "
        "is between that of SDS, which is 0, and the prior's, and nearer to that of VSD's copy than the prior's is, on "
        "average. Control: asked as much earlier, at t - D, it must err more at all four."
    ),
)

TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)
RATIO, FIRST = 0.1, 0.02
PRIOR, LATER, EARLIER, LEARNED, TRUTH = (
    "prior at t",
    "ASD, prior at t + D",
    "prior at t - D",
    "VSD, finetuned at t",
    "truth",
)


@dataclass(frozen=True)
class Effort:
    """How large the experiment is."""

    word: str = "spot"
    steps: int = 150


EFFORT = Effort()


def run(seeds: Sequence[int], effort: Effort = EFFORT) -> Result:
    source = shipped()
    figures = gathered([one(seed, effort) for seed in seeds])
    return Result(
        judged(figures),
        figures,
        notes=(
            f"{note(source)} VSD's copy learns by AdamW at its published rate, 1e-4, one step a step. The noise is the "
            "same for all at a time. The error of true pictures is given beside: renders that the prior takes for true "
            "ones would have it."
        ),
    )


def one(seed: int, effort: Effort) -> dict[str, float]:
    """All figures of one seed."""
    source = shipped()
    distilled = Run(config(source, effort.word, "vsd", seed, effort.steps), source.prior)
    while distilled.step < effort.steps:
        distilled.advance()
    assert isinstance(distilled.method, Variational)
    images, views = seen_around(source.prior, distilled.scene, "cpu")
    true, _ = seen_around(source.prior, truth(effort.word), "cpu")
    prior = source.prior.denoiser(effort.word, 1.0, views)
    learned = distilled.method.score.denoiser(Asked(source.prior, effort.word, views))
    shifts = [RATIO * (time - FIRST) for time in TIMES]

    def errors(denoiser: Denoiser[Point], of: torch.Tensor, sign: float = 0.0) -> tuple[float, ...]:
        times = [min(0.999, time + sign * shift) for time, shift in zip(TIMES, shifts, strict=True)]
        return noise_error(denoiser, source.prior.schedule, of, times, seed)

    rows = {
        PRIOR: errors(prior, images),
        LATER: errors(prior, images, 1.0),
        EARLIER: errors(prior, images, -1.0),
        LEARNED: errors(learned, images),
        TRUTH: errors(prior, true),
    }
    return {f"{name}, t = {time}": row[i] for name, row in rows.items() for i, time in enumerate(TIMES)}


def judged(figures: Mapping[str, Sequence[float]]) -> Verdict:
    """As the claim says."""
    error = {
        name: [median(figures[f"{name}, t = {time}"]) for time in TIMES] for name in (PRIOR, LATER, EARLIER, LEARNED)
    }
    late = slice(1, None)
    mean = {name: fmean(row[late]) for name, row in error.items()}
    below = [later < at for later, at in zip(error[LATER][late], error[PRIOR][late], strict=True)]
    above = [earlier > at for earlier, at in zip(error[EARLIER][late], error[PRIOR][late], strict=True)]
    return verdict(
        [
            all(second < first for first, second in zip(error[PRIOR], error[PRIOR][1:], strict=False)),
            all(below),
            mean[LEARNED] < mean[PRIOR],
            0 < mean[LATER] < mean[PRIOR] and abs(mean[LATER] - mean[LEARNED]) < abs(mean[PRIOR] - mean[LEARNED]),
        ],
        [all(above)],
    )
