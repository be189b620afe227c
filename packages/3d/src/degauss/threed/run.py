r"""One run of distillation: a scene is turned until its renders are what a prior takes for the prompt.

Each step, with everything random keyed by the seed and the step's number,

    views at random -> render -> x0 = encode(render) -> the method's residual g -> loss = |x0 - sg(x0 - g)|^2 / 2 n

plus regularisers, then Adam; a volume learns now and then where it is empty, Gaussians where they are too few. A run
has one stage, or StableDreamer's two, of which the second may ask another prior; the step says which it is. The
state is what a checkpoint holds: scene, optimiser, densification, the method's own state, and the number of the
step. So a run that stops and goes on ends where an unbroken one does, to the last bit.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy

from degauss.core.checkpoint import FORMAT_VERSION, load_tree, read_header, save_tree
from degauss.core.errors import InputError
from degauss.core.files import atomic_path, settled, write_json
from degauss.core.noise import Noise
from degauss.core.train.process import Interrupted, Stop
from degauss.threed.cameras import Cameras, Orbits, random_views
from degauss.threed.densify import Densifier, DensifyConfig
from degauss.threed.distillation.annealing import Times
from degauss.threed.distillation.residual import Asked, Method, Residual, loss
from degauss.threed.distillation.stable_dreamer import Now, Space, Stage, Stages, stable_dreamer
from degauss.threed.distillation.tsm import clip_pixels
from degauss.threed.distillation.vsd import Variational
from degauss.threed.gaussians import Gaussians
from degauss.threed.methods import MethodConfig, method_of, times_of
from degauss.threed.prior import Prior
from degauss.threed.rendering import Rendered, Representation, render
from degauss.threed.scenes import Scene, SceneConfig, load_scene, save_scene, start
from degauss.threed.views import Views
from degauss.threed.volume import Volume

KIND = "degauss.threed/run"
CHECKPOINT = "checkpoint"
_ABOUT, _STATE, _SCENE = "run.json", "state", "scene"

_CAMERAS, _SAMPLES, _METHOD = range(3)
"""Numbers of independent randomness within a run."""


@dataclass(frozen=True)
class Rates:
    """Learning rates of Adam, by what they are of; ``last``: the share of each that is left at the last step.

    Voxels have ``raw`` (density) and ``colour``; a hash grid ``tables`` and ``network``; Gaussians the rest, ``means``
    in world units a step.
    """

    raw: float = 0.5
    colour: float = 0.2
    tables: float = 1e-2
    network: float = 2e-3
    means: float = 4e-3
    log_scales: float = 0.02
    quaternions: float = 0.02
    opacity_logits: float = 0.1
    sh: float = 0.04
    last: float = 0.1

    def __post_init__(self) -> None:
        if min(asdict(self).values()) <= 0:
            raise InputError(f"learning rates must be above 0, but are {self}.")

    def scaled(self, factor: float) -> Rates:
        """All of them, times a factor."""
        last = asdict(self).pop("last")
        return Rates(**{name: factor * value for name, value in asdict(self).items()} | {"last": last})


@dataclass(frozen=True)
class Regularisers:
    r"""Weights of what is added to the loss, each a mean over pixels.

    ``sparsity``: sqrt(alpha^2 + 0.01), against fog (Poole et al. 2022). ``opacity``: the entropy of alpha, for
    surfaces that are there or not. ``tv``: |differences| of neighbouring pixels' colour and depth.
    """

    sparsity: float = 0.0
    opacity: float = 0.0
    tv: float = 0.0

    def __post_init__(self) -> None:
        if min(asdict(self).values()) < 0:
            raise InputError(f"weights of regularisers must be at least 0, but are {self}.")

    def __call__(self, seen: Rendered) -> Tensor:
        total = seen.alpha.new_zeros(())
        if self.sparsity:
            total = total + self.sparsity * (seen.alpha.square() + 0.01).sqrt().mean()
        if self.opacity:
            alpha = seen.alpha.clamp(1e-3, 1 - 1e-3)
            total = total + self.opacity * binary_cross_entropy(alpha, alpha)
        if self.tv:
            image = torch.cat((seen.rgb, seen.depth[..., None]), -1)
            total = total + self.tv * (image.diff(dim=1).abs().mean() + image.diff(dim=2).abs().mean())
        return total


@dataclass(frozen=True)
class RunConfig:
    """What a run computes; with the prior, its result is a function of this.

    ``views``: rendered a step. ``size``: of the renders, pixels a side. ``empty_every``: steps between looks at where
    a volume is empty, after the first ``empty_after`` of them. ``densify``: None leaves the number of Gaussians alone.
    ``clip``: the largest gradient of a pixel's colour, as `tsm.clip_pixels` has it (TSM takes 0.05); 0 for none.
    ``shape``: the share of the steps that is StableDreamer's first stage, which with its second replaces the method's
    times; None for one stage.
    """

    prompt: str
    method: MethodConfig
    scene: SceneConfig = field(default_factory=SceneConfig)
    steps: int = 400
    views: int = 4
    size: int = 48
    orbits: Orbits = field(default_factory=Orbits)
    rates: Rates = field(default_factory=Rates)
    regularisers: Regularisers = field(default_factory=Regularisers)
    densify: DensifyConfig | None = None
    clip: float = 0.0
    shape: float | None = None
    empty_every: int = 25
    empty_after: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "views", "size", "empty_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, but is {getattr(self, name)}.")
        if not self.clip >= 0:
            raise InputError(f"clip must be at least 0, but is {self.clip}.")
        if self.shape is not None:
            stable_dreamer(self.steps, self.shape)
            if self.method.name != "sds":
                raise InputError(f"the two stages of StableDreamer are of sds, but the method is {self.method.name}.")

    @property
    def called(self) -> str:
        """The method's name, as a command has it."""
        return self.method.name if self.shape is None else "stable-dreamer"


class Seen(NamedTuple):
    """What one step looked at, for observers: ``loss`` is the method's, ``extra`` the regularisers'.

    ``step``: how many are done with it. ``prior``: the one that was asked.
    """

    step: int
    prior: Prior
    cameras: Cameras
    rendered: Rendered
    x0: Tensor
    residual: Residual
    loss: Tensor
    extra: Tensor


class Run:
    """A scene, a prior, a method and where they stand. ``step``: how many are done."""

    def __init__(
        self, config: RunConfig, prior: Prior, device: torch.device | str = "cpu", latent: Prior | None = None
    ) -> None:
        """The run before its first step.

        ``latent``: the prior of StableDreamer's second stage, a model of latents; without one it is the same prior.
        Raises `InputError` for a prompt that a prior does not know.
        """
        for each in (prior, latent):
            if each is not None:
                each.check(config.prompt)
        self.config, self.prior, self.device = config, prior, torch.device(device)
        self.latent = latent
        self.noise = Noise(config.seed, range(config.views))
        self.method: Method = method_of(config.method, config.steps, prior, Noise(config.seed, (0,)).fork(_METHOD))
        self.times = times_of(config.method, config.steps)
        self.stages = _stages(config, self.method, self.times)
        self.step = self.evaluations = 0
        self.seconds: dict[str, float] = {}
        self.take(start(config.scene, config.seed))

    def take(self, scene: Scene) -> None:
        """Learn this scene from here on, with an optimiser that has seen nothing."""
        self.scene = scene.to(self.device)
        self.optimiser = torch.optim.Adam(_groups(self.scene, self.config.rates), betas=(0.9, 0.99), eps=1e-15)
        self.densifier: Densifier | None = None
        if isinstance(self.scene, Gaussians) and self.config.densify is not None:
            chance = Noise(self.config.seed, (0,)).fork(_SAMPLES)
            self.densifier = Densifier(self.scene, self.optimiser, chance, self.config.densify)

    def advance(self) -> Seen:
        """One step."""
        self._cool()
        seen = self.forward()
        with self._timed("backward"):
            self.optimiser.zero_grad(set_to_none=True)
            (seen.loss + seen.extra).backward()
            self.optimiser.step()
        with self._timed("upkeep"):
            self.upkeep()
        self.step += 1
        self.evaluations += seen.residual.evaluations
        return seen._replace(x0=seen.x0.detach(), loss=seen.loss.detach(), extra=seen.extra.detach())

    def forward(self) -> Seen:
        """The next step as far as its two losses, which are to be differentiated."""
        i, config = self.step, self.config
        stage, within = self.now()
        prior = self._asked_in(stage.space)
        with self._timed("render"):
            cameras = random_views(self.noise.fork(_CAMERAS), config.orbits, config.size, i, self.device)
            rendered = render(_Moved(self, i), cameras)
            if config.clip:
                rendered.rgb.register_hook(self._clipped)
            x0 = prior.encode(rendered.rgb, rendered.normal)
        with self._timed("prior"):
            chance = self.noise.fork(_METHOD)
            # A stage counts its steps from 0, but its times must not be those of another stage.
            own = chance if within == i else chance.fork(i - within)
            asked = Asked(prior, config.prompt, Views.of(cameras))
            residual = stage.method.residual(asked, x0.detach(), stage.times.draw(own, within, self.device), chance, i)
        return Seen(i + 1, prior, cameras, rendered, x0, residual, loss(x0, residual), config.regularisers(rendered))

    def now(self) -> Now:
        """The stage of the next step; after the last one, where a comparison may go on, it is the last stage's."""
        within = min(self.step, self.config.steps - 1)
        now = self.stages.at(within)
        return now._replace(step=now.step + self.step - within)

    def _asked_in(self, space: Space) -> Prior:
        return self.latent if space == "latent" and self.latent is not None else self.prior

    def _clipped(self, gradient: Tensor) -> Tensor:
        return clip_pixels(gradient, self.config.clip, -1)

    def _cool(self) -> None:
        share = self.config.rates.last ** (self.step / self.config.steps)
        for group in self.optimiser.param_groups:
            group["lr"] = group["first_lr"] * share

    def upkeep(self) -> None:
        """What a scene needs after its parameters moved in a step: more Gaussians, another look at what is empty."""
        config, done = self.config, self.step + 1
        if self.densifier is not None:
            self.densifier.step(self.step)
        if isinstance(self.scene, Volume) and done >= config.empty_after and done % config.empty_every == 0:
            self.scene.find_empty()

    @contextmanager
    def _timed(self, stage: str) -> Generator[None]:
        begun = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - begun

    # --- checkpoints ----------------------------------------------------------------------------------------

    def save(self, folder: Path) -> Path:
        """Write all of the state to ``folder / "checkpoint"``, whole or not at all; returns where."""
        path = folder / CHECKPOINT
        state = {
            "optimiser": self.optimiser.state_dict(),
            "densifier": None if self.densifier is None else self.densifier.state_dict(),
            "method": self.method.state_dict() if isinstance(self.method, Variational) else None,
            "seconds": dict(self.seconds),
        }
        with atomic_path(path) as part:
            part.mkdir()
            save_scene(part / _SCENE, self.scene)
            save_tree(part, _STATE, state)
            about = {"format": KIND, "format_version": FORMAT_VERSION, "config": _plain(self.config)}
            write_json(part / _ABOUT, {**about, "step": self.step, "evaluations": self.evaluations})
        return path

    def load(self, folder: Path) -> bool:
        """Go on from what `save` wrote to a folder, if anything; says whether there was something.

        Raises `InputError` if it is damaged or of a run with another configuration.
        """
        path = settled(folder / CHECKPOINT)
        if not path.is_dir():
            return False
        about = read_header(path / _ABOUT, KIND)
        differs = _difference(about.get("config"), _plain(self.config))
        if differs:
            raise InputError(f"{folder} holds another run: {differs}. Name another place, or remove it to start again.")
        state = load_tree(path, _STATE)
        self.take(load_scene(path / _SCENE, self.config.scene.kind))
        try:
            self.optimiser.load_state_dict(state["optimiser"])
            if self.densifier is not None:
                self.densifier.load_state_dict(state["densifier"])
            if isinstance(self.method, Variational):
                self.method.load_state_dict(state["method"])
            self.step, self.evaluations = int(about["step"]), int(about["evaluations"])
            self.seconds = dict(state["seconds"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path} is damaged ({error!r}).") from error
        return True


Observer = Callable[[Run, Seen], None]


def go_on(run: Run, folder: Path, observers: Iterable[Observer] = (), save_every: float = 120.0) -> None:
    """Take all steps that are left, and keep the state in ``folder``.

    It is written every ``save_every`` seconds, at the end, and when SIGINT or SIGTERM comes; then `Interrupted` is
    raised after the step, and the same call goes on from there.
    """
    observers, saved = tuple(observers), time.monotonic()
    with Stop(1) as stop:
        while run.step < run.config.steps:
            seen = run.advance()
            for observe in observers:
                observe(run, seen)
            number = stop.agreed()
            if number:
                raise Interrupted(number, run.step, run.config.steps, run.save(folder))
            if time.monotonic() - saved > save_every:
                run.save(folder)
                saved = time.monotonic()
        run.save(folder)


def peak_memory(device: torch.device) -> int:
    """Bytes: the most that CUDA gave out, else the most of the process that was resident, up to now."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource
    import sys

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


@dataclass(frozen=True)
class _Moved:
    """The scene as training sees it: a volume's samples moved by the step's noise, Gaussians watched."""

    run: Run
    step: int

    def render(self, cameras: Cameras, background: Tensor, /) -> Rendered:
        scene, watched = self.run.scene, self.run.densifier
        if isinstance(scene, Volume):
            return scene.render(cameras, background, noise=self.run.noise.fork(_SAMPLES).fork(self.step))
        drawn: Representation = scene if watched is None else watched
        return drawn.render(cameras, background)


def _groups(scene: Scene, rates: Rates) -> list[dict[str, Any]]:
    """A group of the optimiser for each parameter, with its own rate."""
    found = asdict(rates)

    def rate(name: str) -> float:
        return found.get(name.split(".", maxsplit=1)[0], rates.network)

    return [{"params": [value], "lr": rate(name), "first_lr": rate(name)} for name, value in scene.named_parameters()]


def _stages(config: RunConfig, method: Method, times: Times) -> Stages:
    """One stage of the method at its times, or StableDreamer's two."""
    if config.shape is None:
        return Stages((Stage("image", config.steps, method, times),))
    return Stages(tuple(replace(stage, method=method) for stage in stable_dreamer(config.steps, config.shape).stages))


def _plain(config: RunConfig) -> Any:
    """A configuration as JSON gives it back."""
    return json.loads(json.dumps(asdict(config)))


def _difference(one: Any, other: Any, where: str = "") -> str:
    """The first field in which two configurations differ, with both values; empty if there is none."""
    if isinstance(one, dict) and isinstance(other, dict):
        for name in sorted({*one, *other}):
            said = _difference(one.get(name), other.get(name), f"{where}.{name}".lstrip("."))
            if said:
                return said
        return ""
    return "" if one == other else f"{where} is {one!r} there and {other!r} here"
