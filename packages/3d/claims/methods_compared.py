"""Five methods of distillation on one prior, at as many evaluations of its network each, beside the true mesh."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

import torch

from degauss.core.claims import Claim, Result, Verdict
from degauss.threed.laboratory import Outcome, compare, steps_within
from degauss.threed.methods import Name
from degauss.threed.prior_sources import Source
from degauss.threed.quality import diversity
from degauss.threed.run import RunConfig
from degauss.threed.scenes import start

from ._scenes import MISSING, config, gathered, note, scene, scores, shipped, truth, verdict

CLAIM = Claim(
    paper=(
        "Ma et al. 2024, ScaleDreamer (ASD; MG15); Wang et al. 2023, ProlificDreamer (VSD); Liang et al. 2024, "
        "LucidDreamer (ISM); Miao et al. 2024, Dreamer XL (TSM); Poole et al. 2023, DreamFusion (SDS)"
    ),
    statement=(
        "ASD is as good as VSD without training a second network (CLIP similarity 0.289 and 0.276 for single prompts); "
        "VSD's results are more diverse than SDS's; ISM's gradients vary less than those of SDS; TSM is ahead of ISM."
    ),
    expected=(
        "On the word spot of the prior that ships, 1600 evaluations a run, all methods with guidance 3, the same "
        "annealing, weight, voxels and rates, medians over seeds: (a) ASD at or above VSD in PSNR and IoU of views "
        "held out and at or below it in Chamfer distance; (b) in at most 0.8 of its CPU time; (c) VSD's runs differ "
        "more than those of SDS (root mean square of colour from around, mean over pairs of seeds); (d) the gradient "
        "of ISM at the start varies less than that of SDS; (e) TSM at or above ISM in PSNR; (f) each method ends 2 dB "
        "or more above the ball it starts from. Control: the ends beside the mesh of another word (car) must be lower "
        "in PSNR for every method that (f) holds of. All: holds. Some: holds partly."
    ),
)

METHODS: tuple[Name, ...] = ("sds", "asd", "vsd", "ism", "tsm")


@dataclass(frozen=True)
class Effort:
    """How large the experiment is."""

    word: str = "spot"
    other: str = "car"
    evaluations: int = 1600


EFFORT = Effort()


@dataclass
class Clock:
    """CPU seconds of each run by its number, from the end of its first step on."""

    seconds: dict[int, float] = field(default_factory=dict[int, float])
    last: float = 0.0

    def __call__(self, number: int, spent: int) -> None:
        del spent
        now = time.process_time()
        before = self.seconds.get(number)
        self.seconds[number] = 0.0 if before is None else before + now - self.last
        self.last = now


def run(seeds: Sequence[int], effort: Effort = EFFORT) -> Result:
    source = replace(shipped(), truth=truth(effort.word))
    clocks = [Clock() for _ in seeds]
    outcomes = [one(source, seed, effort, clock) for seed, clock in zip(seeds, clocks, strict=True)]
    figures = gathered([measured(found, effort, clock) for found, clock in zip(outcomes, clocks, strict=True)])
    if len(seeds) > 1:
        for row, method in enumerate(METHODS):
            images = torch.stack([found[row].around.rgb for found in outcomes])
            figures[f"diversity, {method}"] = [diversity(images)]
    (begun,) = scores(start(scene(source.prior.size), 0), effort.word)
    figures["PSNR (dB), start"] = [begun.psnr]
    return Result(
        judged(figures),
        figures,
        notes=(
            f"{note(source)} An evaluation is one picture through the network, in learning VSD's score too; that "
            "learning's backward pass is not counted, but is in the CPU time. The noise of a gradient is the share "
            "v / (1 + v) of its power, v = E|g - E g|^2 / |E g|^2 over 16 draws of time and noise at the start, in the "
            "middle of the schedules; VSD's score has learned nothing there. A scene without a surface counts as a "
            f"Chamfer distance of {MISSING}. Janus rates are by the nearest true picture; chance is 0.125."
        ),
    )


def one(source: Source, seed: int, effort: Effort, clock: Clock) -> list[Outcome]:
    """Each method's run, its schedules stretched to the steps that the budget pays for."""

    def told(method: Name, steps: int) -> RunConfig:
        return config(source, effort.word, method, seed, steps)

    lengths = [steps_within(told(method, 100), source, effort.evaluations, "cpu") for method in METHODS]
    configs = [told(method, steps) for method, steps in zip(METHODS, lengths, strict=True)]
    return compare(configs, source, effort.evaluations, 1, "cpu", clock)


def measured(outcomes: Sequence[Outcome], effort: Effort, clock: Clock) -> dict[str, float]:
    """All figures of one seed."""
    found: dict[str, float] = {}
    for number, outcome in enumerate(outcomes):
        end, method = outcome.curve[-1], outcome.method
        varies = outcome.gradient_noise
        own, other = scores(outcome.scene, effort.word, effort.other)
        found[f"PSNR (dB), {method}"] = own.psnr
        found[f"IoU, {method}"] = own.iou
        found[f"Chamfer, {method}"] = MISSING if math.isnan(outcome.chamfer) else outcome.chamfer
        found[f"Janus rate, {method}"] = end.janus
        found[f"noise in the gradient, {method}"] = 1.0 if math.isinf(varies) else varies / (1 + varies)
        found[f"CPU seconds, {method}"] = clock.seconds[number]
        found[f"evaluations, {method}"] = float(end.evaluations)
        found[f"PSNR beside {effort.other} (dB), {method}"] = other.psnr
    return found


def judged(figures: Mapping[str, Sequence[float]], other: str = EFFORT.other) -> Verdict:
    """As the claim says."""

    def of(figure: str, method: str) -> float:
        """A median; NaN, which meets nothing, where it was not measured."""
        return median(figures.get(f"{figure}, {method}", [math.nan]))

    begun = of("PSNR (dB)", "start")
    working = [method for method in METHODS if of("PSNR (dB)", method) >= begun + 2]
    return verdict(
        [
            of("PSNR (dB)", "asd") >= of("PSNR (dB)", "vsd")
            and of("IoU", "asd") >= of("IoU", "vsd")
            and of("Chamfer", "asd") <= of("Chamfer", "vsd"),
            of("CPU seconds", "asd") <= 0.8 * of("CPU seconds", "vsd"),
            of("diversity", "vsd") > of("diversity", "sds"),
            of("noise in the gradient", "ism") < of("noise in the gradient", "sds"),
            of("PSNR (dB)", "tsm") >= of("PSNR (dB)", "ism"),
            len(working) == len(METHODS),
        ],
        [of("PSNR (dB)", method) > of(f"PSNR beside {other} (dB)", method) for method in working],
    )
