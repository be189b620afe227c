r"""Amortised distillation: one generator learns all words of a prior at once (ATT3D; ScaleDreamer).

Each step draws some words and some views of each, makes the words' voxels by one pass of the generator, renders them,
and pulls each render as `degauss.threed.run` does for a single word,

    loss = mean over renders of |x0 - sg(x0 - g)|^2 / 2,   g: the residual of any method, told that render's word.

VSD's additions to the prior learn beside the generator, one set for all words: their denoising loss is added, and as a
residual is never differentiated, neither loss reaches the other's weights.

Render i of the whole training has word and camera, time and noise keyed by its number i, so that `degauss.core.train`
can stop and go on to the last bit, on one process or several.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from degauss.core.errors import InputError, check_range
from degauss.core.noise import Noise
from degauss.core.train import Shuffle, TrainConfig, remember, train
from degauss.threed.cameras import Cameras, Orbits, random_views
from degauss.threed.distillation.residual import Asked, Method, loss
from degauss.threed.distillation.vsd import RendersScore, Variational
from degauss.threed.generator import Generator, GeneratorConfig
from degauss.threed.methods import MethodConfig, method_of, times_of
from degauss.threed.prior import Prior
from degauss.threed.views import Views

_CAMERAS, _SAMPLES, _METHOD = range(3)
"""Numbers of independent randomness of a render."""

Look = Callable[[Generator], Mapping[str, float]]
"""Figures of a generator as it is."""


@dataclass(frozen=True)
class AmortisedConfig:
    """What a training computes; with the prior, its result is a function of this.

    ``words_a_step``, ``views``: how many words a step has, and renders of each. ``size``: of the renders, pixels.
    ``rate``: Adam's of the generator; VSD's additions have their own.
    """

    generator: GeneratorConfig
    method: MethodConfig = field(default_factory=lambda: MethodConfig("asd"))
    steps: int = 600
    words_a_step: int = 3
    views: int = 4
    size: int = 32
    orbits: Orbits = field(default_factory=Orbits)
    rate: float = 4e-3
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "words_a_step", "views", "size"):
            check_range(name, getattr(self, name), 1)
        if not self.rate > 0:
            raise InputError(f"rate must be above 0, but is {self.rate}.")

    @property
    def renders(self) -> int:
        """Of a step."""
        return self.words_a_step * self.views


@dataclass(frozen=True)
class Batch:
    """The step, and the number of the word of each render."""

    step: int
    words: tuple[int, ...]

    def to(self, *_: object, **__: object) -> Batch:
        """Itself: what is drawn is known to the host."""
        return self


@dataclass(frozen=True)
class Draw:
    """Numbers of renders to their words: each word once before any comes again, a few renders each."""

    config: AmortisedConfig

    def __call__(self, samples: Sequence[int]) -> Batch:
        config = self.config
        shuffle = Shuffle(len(config.generator.words), config.seed)
        words = shuffle([sample // config.views for sample in samples])
        return Batch(samples[0] // config.renders, tuple(words.tolist()))


class Group(NamedTuple):
    """Renders of one word in a batch."""

    label: int
    rows: list[int]


class Distilled(nn.Module):
    """A generator, the additions of VSD if it has them, and the loss of a batch of renders."""

    def __init__(self, config: AmortisedConfig, prior: Prior) -> None:
        super().__init__()
        self.config, self.prior = config, prior
        self.generator = Generator(config.generator, config.seed)
        method = method_of(config.method, config.steps, prior, Noise(config.seed, (0,)).fork(_METHOD))
        self.method: Method = method.held() if isinstance(method, Variational) else method
        self.score: RendersScore | None = method.score if isinstance(method, Variational) else None
        self.additions = None if self.score is None else self.score.additions
        self.times = times_of(config.method, config.steps)

    def forward(self, batch: Batch, noise: Noise) -> Tensor:
        """The mean loss of the renders, 0-d."""
        groups = [
            Group(label, [row for row, _ in rows])
            for label, rows in groupby(enumerate(batch.words), key=lambda pair: pair[1])
        ]
        device = self.generator.table.weight.device
        lattices = self.generator(torch.tensor([group.label for group in groups], device=device))
        losses = [
            len(group.rows) * self._pull(group, lattice, noise.take(group.rows), batch.step)
            for group, lattice in zip(groups, lattices, strict=True)
        ]
        return torch.stack(losses).sum() / len(batch.words)

    def _pull(self, group: Group, lattice: Tensor, noise: Noise, step: int) -> Tensor:
        cameras = random_views(noise.fork(_CAMERAS), self.config.orbits, self.config.size, device=lattice.device)
        x0 = self._seen(lattice, cameras, noise.fork(_SAMPLES))
        asked, chance = (
            Asked(self.prior, self.config.generator.words[group.label], Views.of(cameras)),
            noise.fork(_METHOD),
        )
        t = self.times.draw(chance, step, lattice.device)
        pull = loss(x0, self.method.residual(asked, x0.detach(), t, chance, step))
        return pull if self.score is None else pull + self.score.lesson(asked, x0, chance, step)

    def _seen(self, lattice: Tensor, cameras: Cameras, noise: Noise) -> Tensor:
        seen = self.generator.render(lattice, cameras, lattice.new_ones(3), noise)
        return self.prior.encode(seen.rgb, seen.normal)


def check(config: AmortisedConfig, prior: Prior, out: Path, about: Mapping[str, Any] | None = None) -> None:
    """See that a training can begin or go on in a folder, and note there what is trained.

    ``about``: what else must be the same when it goes on, the prior's fingerprint say; whatever JSON can hold. Raises
    `InputError`, and writes nothing, for a word that the prior does not know, a method that does not fit it, or a
    folder with another training.
    """
    for word in config.generator.words:
        prior.check(word)
    method_of(config.method, config.steps, prior, Noise(config.seed, (0,)))
    remember(out, "a generator", {**_flat(asdict(config)), **(about or {})})


def distil(
    config: AmortisedConfig,
    prior: Prior,
    out: Path,
    look: Look | None = None,
    look_every: int = 0,
    save_every: int = 200,
    device: torch.device | str = "cpu",
    about: Mapping[str, Any] | None = None,
) -> Generator:
    """Train a generator, or go on where a run in ``out`` stopped, and return it.

    ``look``: taken every ``look_every`` steps and at the end; its figures go to ``out / "metrics.jsonl"``. ``about``:
    see `check`, which this begins with. Raises `InputError` as it and `train` do.
    """
    check(config, prior, out, about)
    model = Distilled(config, prior).to(device)
    settings = TrainConfig(
        out,
        config.steps,
        config.renders,
        config.rate,
        schedule="constant",
        clip=None,
        seed=config.seed,
        save_every=save_every,
        evaluate_every=look_every,
        tracker=None,
        device="cpu" if torch.device(device).type == "cpu" else "auto",
    )

    def looked(_: nn.Module) -> Mapping[str, float]:
        return {} if look is None else look(model.generator)

    train(
        model,
        _loss,
        Draw(config),
        settings,
        optimizer=lambda _, settings: _adam(model, settings),
        evaluate=None if look is None else looked,
    )
    return model.generator


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration in one level, so that what differs is named by its own field: "method.name"."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            inner = _flat(cast("dict[str, Any]", value))
            found |= {f"{name}.{part}": number for part, number in inner.items()}
        else:
            found[name] = value
    return found


def _loss(network: nn.Module, batch: Batch, noise: Noise) -> Tensor:
    return network(batch, noise)


def _adam(model: Distilled, config: TrainConfig) -> Optimizer:
    """Adam with the betas of ScaleDreamer, and VSD's own rate for its additions."""
    weights = [weight for weight in model.generator.parameters() if weight.requires_grad]
    groups = [{"params": weights, "lr": config.lr}]
    if model.score is not None:
        groups.append({"params": list(model.score.additions.parameters()), "lr": model.score.rate})
    return Adam(groups, betas=(0.0, 0.99))
