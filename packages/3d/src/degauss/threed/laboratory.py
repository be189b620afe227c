r"""Methods side by side: the same prior, seed and scene, and as many evaluations of the prior's network each.

A step of SDS costs two evaluations a view with guidance, one of ASD three, ISM's inversion up to five more. So methods
are compared by evaluations and not by steps: each goes on until its budget is spent.

Two figures say what a method hears. **What the prior wants** of one render: `Residual.target`, by times. **The error of
noise prediction**: with x_t = alpha x + sigma eps, the mean over pictures and noise of

    |eps_hat(x_t; y, t) - eps|^2 = (alpha / sigma)^2 |x - E[x | x_t]|^2       (per number)

of renders of the end, of a run's start, and, where the truth is known, of the truth: where the error of renders is as
low as that of true pictures, the prior takes them for true (Ma et al. 2024, figure 3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from degauss.core.noise import Noise
from degauss.threed.cameras import Cameras
from degauss.threed.distillation.residual import Asked, Block, Level, ask
from degauss.threed.generation import judge_of
from degauss.threed.janus import janus_rate
from degauss.threed.methods import Name, method_of
from degauss.threed.prior import Prior
from degauss.threed.prior_sources import Source
from degauss.threed.quality import compare_views, held_out_views
from degauss.threed.rendering import Rendered, Representation
from degauss.threed.run import Run, RunConfig
from degauss.threed.scenes import start
from degauss.threed.views import Views
from degauss.threed.watching import around_views, as_seen_by, look

TIMES = (0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.98)
"""At which noise is looked at."""
WANTED = (0.2, 0.5, 0.8)
_VIEWS = 8


class Point(NamedTuple):
    """A run at some cost; scores are NaN where the truth is not known, the rate where nobody can judge."""

    method: Name
    evaluations: int
    step: int
    loss: float
    psnr: float
    iou: float
    normal_angle: float
    janus: float
    seconds: float


@dataclass(frozen=True, eq=False)
class Outcome:
    """A method's run: its curve, the end from around, what the prior wants of the front at `WANTED`, noise errors."""

    method: Name
    curve: tuple[Point, ...]
    around: Rendered
    wanted: Tensor
    noise_error: tuple[float, ...]
    scene: Representation


Report = Callable[[Name, int], None]


def compare(
    configs: Sequence[RunConfig], source: Source, budget: int, looks: int, device: torch.device | str, report: Report
) -> list[Outcome]:
    """Each configuration's run until ``budget`` evaluations are spent, looked at ``looks`` times.

    Raises `InputError` where a method does not fit the prior, before the first run begins.
    """
    runs = [Run(config, source.prior, device) for config in configs]
    return [_outcome(run, source, budget, looks, report) for run in runs]


def steps_within(config: RunConfig, source: Source, budget: int, device: torch.device | str) -> int:
    """How many steps a budget pays for, from the cost of a first step at the middle of the times."""
    run = Run(config, source.prior, device)
    run.step = config.steps // 2
    return max(1, budget // run.advance().residual.evaluations)


def noise_error(prior: Prior, prompt: str, images: Tensor, views: Views, seed: int = 0) -> tuple[float, ...]:
    """The mean error of noise prediction of images ``[n, c, h, w]`` as the prior sees them, at each of `TIMES`."""
    noise = Noise(seed, range(len(images)))
    errors: list[float] = []
    for draw, time in enumerate(TIMES):
        t = torch.full((len(images),), time, dtype=torch.float64, device=images.device)
        level = Level.of(prior.schedule, t, images)
        eps = noise.normal(images, draw)
        x_t = level.noised(images, eps)
        (mean,) = ask(prior, [Block(Asked(prior, prompt, views).wanted, x_t, t)])
        errors.append(float((level.eps(x_t, mean) - eps).square().mean()))
    return tuple(errors)


def seen_around(prior: Prior, scene: Representation, device: torch.device | str) -> tuple[Tensor, Views]:
    """A scene from around as a prior sees it, and from where."""
    cameras = around_views(2 * prior.size, device, _VIEWS)
    seen = look(scene, cameras)
    with torch.no_grad():
        return prior.encode(seen.rgb, seen.normal), Views.of(cameras)


def noise_errors(source: Source, config: RunConfig, outcomes: Sequence[Outcome]) -> dict[str, tuple[float, ...]]:
    """By name: each method's, that of the start, and, where it is known, that of the truth."""
    device = source.prior.encode(*(torch.zeros(1, 8, 8, 3),) * 2).device
    begun = start(config.scene, config.seed).to(device)
    found = {outcome.method: outcome.noise_error for outcome in outcomes}
    others: dict[str, Representation] = {"start": begun}
    if source.truth is not None:
        others["truth"] = source.truth
    for name, scene in others.items():
        found[name] = noise_error(source.prior, config.prompt, *seen_around(source.prior, scene, device))
    return found


def _outcome(run: Run, source: Source, budget: int, looks: int, report: Report) -> Outcome:
    name = run.config.method.name
    curve: list[Point] = []
    while run.evaluations < budget:
        seen = run.advance()
        report(name, min(run.evaluations, budget))
        if run.evaluations >= budget or run.evaluations >= budget * (len(curve) + 1) / looks:
            curve.append(_measured(run, source, float(seen.loss)))
    images, views = seen_around(source.prior, run.scene, run.device)
    around = look(run.scene, around_views(64, run.device, 6))
    error = noise_error(source.prior, run.config.prompt, images, views)
    return Outcome(name, tuple(curve), around, _wanted(run), error, run.scene)


def _wanted(run: Run) -> Tensor:
    """What the prior wants of the front, ``[times, h, w, 3]``."""
    prior, config = run.prior, run.config
    cameras = Cameras.orbit(torch.zeros(1, device=run.device), 15.0, size=config.size)
    seen = look(run.scene, cameras)
    x0, asked = prior.encode(seen.rgb, seen.normal), Asked(prior, config.prompt, Views.of(cameras))
    noise = Noise(config.seed, (0,))
    # A method of its own: looking must not teach the one that runs.
    method = method_of(config.method, config.steps, prior, noise)
    times = (torch.full((1,), time, dtype=torch.float64, device=run.device) for time in WANTED)
    return torch.cat([prior.decode(method.residual(asked, x0, t, noise, config.steps).target) for t in times])


def _measured(run: Run, source: Source, loss: float) -> Point:
    psnr, iou, angle = (torch.nan,) * 3
    if source.truth is not None:
        psnr, iou, angle = compare_views(run.scene, source.truth, held_out_views(48, device=run.device))
    judge = judge_of(run.config.prompt, source)
    rate = torch.nan if judge is None else janus_rate(judge(*as_seen_by(run.prior, run.scene, run.device)))
    return Point(
        run.config.method.name, run.evaluations, run.step, loss, psnr, iou, angle, rate, sum(run.seconds.values())
    )
