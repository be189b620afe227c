r"""StableDreamer's schedule (Guo et al. 2023): shape in image space, then colour in latent space, both annealed.

SDS as a distance between a render and the image that the prior wants (`sds.x0_form`) shows what goes wrong: wanted
images that disagree from step to step, at high noise for too long. The remedies are a noise level that falls over the
run, and two stages. A model of images, whose x0 are pixels, gets the shape right and leaves colours dull; a latent
model then has the colours, on a shape that holds.

Each stage is a method, the times it asks at, and the kind of prior, over a number of steps, which it counts from 0. The
defaults are MVDream's published annealing for the first stage, and for the second what that one ends with. They are
not the constants of the paper, which published no code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from degauss.core.errors import InputError
from degauss.threed.distillation.annealing import MVDREAM, Times
from degauss.threed.distillation.guidance import ClassifierFree
from degauss.threed.distillation.residual import Method, by_ratio
from degauss.threed.distillation.sds import SDS

Space = Literal["image", "latent"]
"""Of a prior's x0: pixels or latents."""


@dataclass(frozen=True)
class Stage:
    """``steps`` of one method, with a prior of ``space``, at ``times`` in the stage's own steps."""

    space: Space
    steps: int
    method: Method
    times: Times

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f"a stage has at least one step, but has {self.steps}.")


class Now(NamedTuple):
    """The stage of a step, and the number of the step within it."""

    stage: Stage
    step: int


@dataclass(frozen=True)
class Stages:
    """Stages one after the other."""

    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        if not self.stages:
            raise InputError("a run has at least one stage, but none was given.")

    @property
    def steps(self) -> int:
        """Of all stages."""
        return sum(stage.steps for stage in self.stages)

    def at(self, step: int) -> Now:
        """Where a step of the run is. Raises ValueError for one outside it."""
        before = 0
        for stage in self.stages:
            if before <= step < before + stage.steps:
                return Now(stage, step - before)
            before += stage.steps
        raise ValueError(f"a run of {self.steps} steps has no step {step}")


def stable_dreamer(steps: int = 10_000, shape: float = 0.5, guidance: float = 50.0) -> Stages:
    """Both stages of a run of ``steps``; ``shape``: the share of the first. InputError unless both have a step.

    ``guidance``: of both, with MVDream's rescaling and loss.
    """
    first = round(shape * steps)
    if not 0 < first < steps:
        raise InputError(f"both stages need a step, but {first} of {steps} are the first one's.")
    method = SDS(ClassifierFree(guidance, rescale=0.5), by_ratio)
    falling = MVDREAM.scaled(first / MVDREAM.low.end)
    low = Times.of(MVDREAM.low.last, MVDREAM.high.last)
    return Stages((Stage("image", first, method, falling), Stage("latent", steps - first, method, low)))
