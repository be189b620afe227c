"""The methods of distillation that a command offers by name, with times and guidance for runs of any length.

Papers give their schedules in steps of runs of thousands. Here they are stretched or shrunk to the run: what a paper
has at its half way is had at half way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from degauss.core.errors import InputError
from degauss.core.noise import Noise
from degauss.threed.distillation.annealing import DREAMFUSION, LUCID, MVDREAM, PROLIFIC, SCALEDREAMER, Ramp, Times
from degauss.threed.distillation.asd import ASD
from degauss.threed.distillation.guidance import ClassifierFree, Guidance
from degauss.threed.distillation.ism import ISM, Trajectory
from degauss.threed.distillation.perp_neg import Perpendicular
from degauss.threed.distillation.residual import Method, Weighting, by_ratio, by_variance, uniform
from degauss.threed.distillation.sds import SDS
from degauss.threed.distillation.tsm import TSM
from degauss.threed.distillation.vsd import VSD
from degauss.threed.prior import Prior

Name = Literal["sds", "asd", "vsd", "ism", "tsm"]
NAMES: tuple[Name, ...] = get_args(Name)

Annealing = Literal["paper", "mvdream", "falling", "none"]
Weight = Literal["variance", "ratio", "uniform"]

_WEIGHTS: dict[Weight, Weighting] = {"variance": by_variance, "ratio": by_ratio, "uniform": uniform}

_TIMES: dict[Name, tuple[Times, int]] = {
    "sds": (DREAMFUSION, 10_000),
    "asd": (SCALEDREAMER, 25_000),
    "vsd": (PROLIFIC, 25_000),
    "ism": (LUCID, 5000),
    "tsm": (LUCID.scaled(0.5), 2500),
}
"""The times of each paper, and the length of its runs."""

_FIRST, _LAST, _WARM = 0.1, 0.08, 0.3
"""ISM's interval, from the first value to the last over this share of a run; TSM's is the same."""


@dataclass(frozen=True)
class MethodConfig:
    """A method by name.

    ``guidance``: 1 is the prompt alone. ``rescale`` in [0, 1]: brings the guided mean back to the prompt's contrast.
    ``perp_neg``: the weight of perpendicular negative prompts, 0 without. ``annealing``: of the times at which the
    prior is asked. ``weighting``: w(t) of the gradient; "ratio" makes it a distance of images.
    """

    name: Name = "sds"
    guidance: float = 1.0
    rescale: float = 0.0
    perp_neg: float = 0.0
    annealing: Annealing = "mvdream"
    weighting: Weight = "ratio"

    def __post_init__(self) -> None:
        if not self.guidance >= 0 or not 0 <= self.rescale <= 1 or not self.perp_neg >= 0:
            raise InputError(
                f"guidance and perp-neg must be at least 0 and rescale in [0, 1], but they are {self.guidance}, "
                f"{self.perp_neg} and {self.rescale}."
            )
        if self.perp_neg and (self.rescale or self.guidance == 1):
            raise InputError("perpendicular negative prompts need a guidance other than 1, and no rescale.")


def times_of(config: MethodConfig, steps: int) -> Times:
    """When the prior is asked, over a run of so many steps."""
    if config.annealing == "none":
        return DREAMFUSION
    if config.annealing == "falling":
        return Times.falling(steps)
    times, length = (MVDREAM, 10_000) if config.annealing == "mvdream" else _TIMES[config.name]
    return times.scaled(steps / length)


def guidance_of(config: MethodConfig) -> Guidance:
    """Classifier-free, or away from the other views."""
    if config.perp_neg:
        return Perpendicular(config.guidance, config.perp_neg)
    return ClassifierFree(config.guidance, config.rescale)


def method_of(config: MethodConfig, steps: int, prior: Prior, noise: Noise) -> Method:
    """The method itself, before its first step; its own schedules are scaled to the run.

    ``noise``: of one sample, for what VSD learns. Raises `InputError` where the prior has no network for VSD to adapt.
    """
    guidance, weighting = guidance_of(config), _WEIGHTS[config.weighting]
    walk = Trajectory(Ramp(0, _FIRST, _LAST, round(_WARM * steps)))
    match config.name:
        case "sds":
            return SDS(guidance, weighting)
        case "asd":
            # Its shift is measured from the paper's lower end: from that of times with no spread it would be 0.
            return ASD(guidance, t_min=SCALEDREAMER.scaled(steps / 25_000).low, weighting=weighting)
        case "ism":
            return ISM(guidance, walk, weighting)
        case "tsm":
            return TSM(guidance, walk, weighting=weighting)
        case "vsd":
            return VSD(guidance, weighting).begin(prior, noise)
