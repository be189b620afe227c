r"""Methods side by side: the same prior, seed and scene, and as many evaluations of the prior's network each.

A step of SDS costs two evaluations a view with guidance, one of ASD three, ISM's inversion up to five more. So methods
are compared by evaluations and not by steps: each goes on until its budget is spent, which is StableDreamer's for both
of its stages.

Two figures say what a method hears. **What the prior wants** of one render: `Residual.target`, by times. **The error of
noise prediction**: with x_t = alpha x + sigma eps, the mean over pictures and noise of

    |eps_hat(x_t; y, t) - eps|^2 = (alpha / sigma)^2 |x - E[x | x_t]|^2       (per number)

of renders of the end, of a run's start, and, where the truth is known, of the truth: where the error of renders is as
low as that of true pictures, the prior takes them for true (Ma et al. 2024).

Two more say how sure a method is of itself: how much its gradient varies at a scene that all methods share, the start
(`gradient_noise`), and, of several runs, how much their ends differ (`Summary.diversity`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

import torch
from torch import Tensor

from degauss.core.denoiser import Denoiser
from degauss.core.errors import InputError
from degauss.core.noise import Noise
from degauss.core.posterior import Point as Posterior
from degauss.core.schedule import Schedule
from degauss.threed.cameras import Cameras
from degauss.threed.distillation.residual import Asked, Level, Method
from degauss.threed.distillation.vsd import Variational
from degauss.threed.exporting import MeshConfig, bare_mesh
from degauss.threed.generation import judge_of
from degauss.threed.janus import janus_rate
from degauss.threed.meshes import Mesh
from degauss.threed.prior import Prior
from degauss.threed.prior_sources import Source
from degauss.threed.quality import compare_surfaces, compare_views, diversity, gradient_variance, held_out_views
from degauss.threed.rendering import Rendered, Representation
from degauss.threed.run import Observer, Run, RunConfig
from degauss.threed.scenes import Scene, start
from degauss.threed.views import Views
from degauss.threed.watching import around_views, as_seen_by, look

TIMES = (0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.98)
"""At which noise is looked at."""
WANTED = (0.2, 0.5, 0.8)
_VIEWS = 8
_DRAWS = 16
"""Of a gradient, to see how much it varies."""
_POINTS = 10_000
"""Of a surface, to see how far it is from the true one."""


class Point(NamedTuple):
    """A run at some cost; scores are NaN where the truth is not known, the rate where nobody can judge."""

    method: str
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
    """A method's run: its curve, the end from around, what the prior wants of the front at `WANTED`, noise errors.

    ``chamfer``: of the end's surface to the true one, world units; NaN where there is none or the truth is not known.
    ``gradient_noise``: see `gradient_noise`.
    """

    method: str
    seed: int
    curve: tuple[Point, ...]
    around: Rendered
    wanted: Tensor
    noise_error: tuple[float, ...]
    chamfer: float
    gradient_noise: float
    scene: Scene


class Summary(NamedTuple):
    """Means over a method's runs at their ends; ``diversity`` is that of pictures from around, NaN for one run."""

    method: str
    runs: int
    evaluations: float
    psnr: float
    iou: float
    chamfer: float
    janus: float
    gradient_noise: float
    diversity: float
    seconds: float


Report = Callable[[int, int], None]
"""Told the number of the run and the evaluations that it has spent."""


def compare(
    configs: Sequence[RunConfig],
    source: Source,
    budget: int,
    looks: int,
    device: torch.device | str,
    report: Report,
    watchers: Sequence[Observer] = (),
) -> list[Outcome]:
    """Each configuration's run until ``budget`` evaluations are spent, looked at ``looks`` times.

    ``watchers``: who else looks on, after each step.
    Raises `InputError` where a method does not fit the prior, before the first run begins.
    """
    runs = [Run(config, source.prior, device) for config in configs]
    return [
        _outcome(run, source, budget, looks, lambda spent, number=number: report(number, spent), watchers)
        for number, run in enumerate(runs)
    ]


def summaries(outcomes: Sequence[Outcome]) -> list[Summary]:
    """A row for each method, in the order of their first runs."""
    return [_summary([one for one in outcomes if one.method == name]) for name in {one.method: 0 for one in outcomes}]


def steps_within(config: RunConfig, source: Source, budget: int, device: torch.device | str) -> int:
    """How many steps a budget pays for, from the cost of a first step at the middle of the times."""
    run = Run(config, source.prior, device)
    run.step = config.steps // 2
    return max(1, budget // run.advance().residual.evaluations)


def noise_error(
    denoiser: Denoiser[Posterior], schedule: Schedule, images: Tensor, times: Sequence[float] = TIMES, seed: int = 0
) -> tuple[float, ...]:
    """The mean error of noise prediction of images ``[n, c, h, w]`` at each of some times.

    The noise depends on the place of a time in the list and not on the time, so that lists compare number by number.
    """
    noise = Noise(seed, range(len(images)))
    errors: list[float] = []
    for draw, time in enumerate(times):
        t = torch.full((len(images),), time, dtype=torch.float64, device=images.device)
        level = Level.of(schedule, t, images)
        eps = noise.normal(images, draw)
        x_t = level.noised(images, eps)
        with torch.no_grad():
            mean = denoiser(x_t, t).mean
        errors.append(float((level.eps(x_t, mean) - eps).square().mean()))
    return tuple(errors)


def prior_error(prior: Prior, prompt: str, images: Tensor, views: Views) -> tuple[float, ...]:
    """`noise_error` of a prior that is told the prompt and the views, at `TIMES`."""
    return noise_error(prior.denoiser(prompt, 1.0, views), prior.schedule, images)


def gradient_noise(config: RunConfig, prior: Prior, device: torch.device | str, draws: int = _DRAWS) -> float:
    """E|g - E g|^2 / |E g|^2 of a method's gradient at the start, seen from around, in the middle of its schedules.

    Times and noise are what is random. VSD's score has learned nothing yet. See `quality.gradient_variance`.
    """
    run = Run(config, prior, device)
    images, views = seen_around(prior, run.scene, device)
    run.step = config.steps // 2
    stage, within = run.now()
    asked, method = Asked(prior, config.prompt, views), _still(stage.method)
    noise = Noise(config.seed, range(len(images)))

    def draw(i: int) -> Tensor:
        chance = noise.fork(i)
        return method.residual(asked, images, stage.times.draw(chance, within, device), chance, run.step).gradient

    return gradient_variance(draw, draws)


def surface_distance(scene: Scene, truth: Mesh) -> float:
    """The Chamfer distance of a scene's surface to the true one, world units; NaN where it has no surface."""
    try:
        mesh, _ = bare_mesh(scene, MeshConfig())
    except InputError:
        return math.nan
    return compare_surfaces(mesh, truth, _POINTS).chamfer


def seen_around(prior: Prior, scene: Representation, device: torch.device | str) -> tuple[Tensor, Views]:
    """A scene from around as a prior sees it, and from where."""
    cameras = around_views(2 * prior.size, device, _VIEWS)
    seen = look(scene, cameras)
    with torch.no_grad():
        return prior.encode(seen.rgb, seen.normal), Views.of(cameras)


def noise_errors(source: Source, config: RunConfig, outcomes: Sequence[Outcome]) -> Mapping[str, Sequence[float]]:
    """By name: each method's, averaged over its runs, that of the start, and, where it is known, that of the truth."""
    device = next(outcomes[0].scene.parameters()).device
    begun = start(config.scene, config.seed).to(device)
    rows: dict[str, list[tuple[float, ...]]] = {}
    for outcome in outcomes:
        rows.setdefault(outcome.method, []).append(outcome.noise_error)
    found: dict[str, Sequence[float]] = {
        name: [fmean(column) for column in zip(*some, strict=True)] for name, some in rows.items()
    }
    others: dict[str, Representation] = {"start": begun}
    if source.truth is not None:
        others["truth"] = source.truth
    for name, scene in others.items():
        found[name] = prior_error(source.prior, config.prompt, *seen_around(source.prior, scene, device))
    return found


def _outcome(
    run: Run,
    source: Source,
    budget: int,
    looks: int,
    report: Callable[[int], None],
    watchers: Sequence[Observer],
) -> Outcome:
    config, curve = run.config, list[Point]()
    noise = gradient_noise(config, source.prior, run.device)
    while run.evaluations < budget:
        seen = run.advance()
        report(min(run.evaluations, budget))
        for watch in watchers:
            watch(run, seen)
        if run.evaluations >= budget or run.evaluations >= budget * (len(curve) + 1) / looks:
            curve.append(_measured(run, source, float(seen.loss)))
    error = prior_error(source.prior, config.prompt, *seen_around(source.prior, run.scene, run.device))
    return Outcome(
        config.called,
        config.seed,
        tuple(curve),
        look(run.scene, around_views(64, run.device, 6)),
        _wanted(run),
        error,
        math.nan if source.truth is None else surface_distance(run.scene, source.truth),
        noise,
        run.scene,
    )


def _summary(outcomes: Sequence[Outcome]) -> Summary:
    ends = [one.curve[-1] for one in outcomes]
    images = torch.stack([one.around.rgb for one in outcomes])
    return Summary(
        outcomes[0].method,
        len(outcomes),
        fmean(end.evaluations for end in ends),
        fmean(end.psnr for end in ends),
        fmean(end.iou for end in ends),
        fmean(one.chamfer for one in outcomes),
        fmean(end.janus for end in ends),
        fmean(one.gradient_noise for one in outcomes),
        diversity(images) if len(outcomes) > 1 else math.nan,
        fmean(end.seconds for end in ends),
    )


def _still(method: Method) -> Method:
    """The method, but looking must not teach it."""
    return method.held() if isinstance(method, Variational) else method


def _wanted(run: Run) -> Tensor:
    """What the prior wants of the front, ``[times, h, w, 3]``."""
    prior, config = run.prior, run.config
    cameras = Cameras.orbit(torch.zeros(1, device=run.device), 15.0, size=config.size)
    seen = look(run.scene, cameras)
    x0, asked = prior.encode(seen.rgb, seen.normal), Asked(prior, config.prompt, Views.of(cameras))
    method, noise = _still(run.method), Noise(config.seed, (0,))
    times = (torch.full((1,), time, dtype=torch.float64, device=run.device) for time in WANTED)
    return torch.cat([prior.decode(method.residual(asked, x0, t, noise, config.steps).target) for t in times])


def _measured(run: Run, source: Source, loss: float) -> Point:
    psnr, iou, angle = (torch.nan,) * 3
    if source.truth is not None:
        psnr, iou, angle = compare_views(run.scene, source.truth, held_out_views(48, device=run.device))
    judge = judge_of(run.config.prompt, source)
    rate = torch.nan if judge is None else janus_rate(judge(*as_seen_by(run.prior, run.scene, run.device)))
    return Point(run.config.called, run.evaluations, run.step, loss, psnr, iou, angle, rate, sum(run.seconds.values()))
