"""How often the sides and the back of a distilled object look like its front, by the nearest true picture."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from statistics import fmean

import torch

from degauss.threed.cameras import Cameras
from degauss.threed.janus import LABELS, NearestRender, azimuths, janus_rate, judged_views
from degauss.threed.methods import Annealing
from degauss.threed.prior import encode_pixels
from degauss.threed.prior_sources import Source
from degauss.threed.rendering import Representation
from degauss.threed.run import Run
from degauss.threed.watching import look

from ._scenes import SIZE, config, scores, spent, truth

ELEVATIONS = (0.0, 15.0, 30.0)


@dataclass(frozen=True)
class Arm:
    """One way to distil: ``prior``: the name of one that ships."""

    prior: str
    annealing: Annealing
    guidance: float
    perp_neg: float = 0.0


@dataclass(frozen=True)
class Effort:
    """How large an experiment is. All words have fronts that nobody confuses with their backs."""

    words: tuple[str, ...] = ("spot", "chair", "snowman")
    steps: int = 200


def faces(scene: Representation, word: str) -> float:
    """The Janus rate of a scene, over five azimuths at three elevations, of colours at 32 x 32 pixels."""
    labels = [
        judge(word, elevation)(images(scene, judged_views(2 * SIZE, elevation)), torch.full((5,), elevation))
        for elevation in ELEVATIONS
    ]
    return janus_rate(torch.cat(labels))


@cache
def judge(word: str, elevation: float) -> NearestRender:
    """The true pictures of a word from one height."""
    cameras = Cameras.orbit(azimuths(LABELS), elevation, size=2 * SIZE)
    return NearestRender(images(truth(word), cameras), azimuths(LABELS))


def images(scene: Representation, cameras: Cameras) -> torch.Tensor:
    """What cameras see, in colour, at the size of a prior's pictures."""
    seen = look(scene, cameras)
    return encode_pixels(seen.rgb, seen.normal, SIZE)


def distilled(arm: Arm, source: Source, seed: int, effort: Effort) -> tuple[float, float]:
    """The Janus rate and the PSNR of an arm, means over words."""
    rates: list[float] = []
    quality: list[float] = []
    for word in effort.words:
        told = config(source, word, "sds", seed, effort.steps, arm.guidance, arm.annealing, arm.perp_neg)
        run = Run(told, source.prior)
        each = run.advance().residual.evaluations
        spent(run, each * effort.steps)
        rates.append(faces(run.scene, word))
        (score,) = scores(run.scene, word)
        quality.append(score.psnr)
    return fmean(rates), fmean(quality)
