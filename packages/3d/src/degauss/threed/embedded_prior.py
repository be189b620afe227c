r"""The prior that ships: a small diffusion model of pictures of a few objects, told which one and seen from where.

    prior = EmbeddedPrior.load(find_prior("embedded"))
    denoiser = prior.denoiser("spot", guidance=2.0, views=Views.of(cameras))

Its vocabulary is the names of its objects and nothing else. One network answers with and without a name and with and
without a view, as both were left out at times while it learned: it is told the vector

    [one-hot of the object | sin k a, cos k a (k = 1, 2, 3), sin e, cos e],   a, e: azimuth and elevation,

where what is not told is 0. It stands inside EDM's preconditioning (Karras et al. 2022) on the cosine path, which
sends no more than a trickle of its training to levels where a distillation would not ask it. Levels outside the range
it was trained in are told as the nearest one inside.

A prior that is never told its view, of colours alone, is what text-to-image models are: it paints a front on every side
(the Janus problem). Normals in world axes would tell it where it looks from, so such a twin has none.

A prior lies in a folder: ``model.safetensors``, ``config.json``, and ``card.json`` where it tells of its training.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from degauss.core.checkpoint import as_tuples, load_frozen, save_model
from degauss.core.denoiser import Denoiser, InRange, Karras, NetworkDenoiser
from degauss.core.errors import InputError, check_range, near_miss
from degauss.core.nets.ncsnpp import NCSNpp, NCSNppConfig
from degauss.core.posterior import Point
from degauss.core.schedule import Cosine
from degauss.core.shipping import find_shipped, shipped_in
from degauss.threed.cameras import Orbits
from degauss.threed.prior import Condition, PixelPrior, block_rows
from degauss.threed.views import Views

KIND = "degauss.threed/embedded-prior"
SHIPPED = Path(__file__).parent / "weights"
"""Where the priors lie that ship with the package, each in a folder of its name."""

SMALL = NCSNppConfig(channels=32, multipliers=(1, 2, 2), patch=2)
"""1.29 million weights, 5 MB; on one CPU core about 3 ms for a picture of 32 x 32."""

ORBITS = Orbits(radius=(2.1, 2.3), fov=(40.0, 40.0))
"""Where pictures are taken from unless said otherwise: sizes vary by a pixel, as a view does not tell them."""

TURNS = 3
"""Harmonics of the azimuth that a network is told."""


@dataclass(frozen=True)
class EmbeddedConfig:
    """What a prior is.

    ``vocabulary``: the names of its objects. ``size``: pixels a side. ``views``: whether it is told where a picture is
    seen from. ``normals``: whether its pictures have normals beside colours. ``orbits``: where they were taken from.
    ``network``: its size; what it is told is added here. ``sigma_data``: root mean square of the pictures. ``times``:
    the span of the schedule that it was trained in.
    """

    vocabulary: tuple[str, ...]
    size: int = 32
    views: bool = True
    normals: bool = True
    orbits: Orbits = ORBITS
    network: NCSNppConfig = SMALL
    sigma_data: float = 0.7
    times: tuple[float, float] = (0.005, 0.998)

    def __post_init__(self) -> None:
        check_range("size", self.size, 8, unit="pixels")
        if not self.vocabulary or len(set(self.vocabulary)) != len(self.vocabulary):
            raise InputError(f"a prior knows one or more objects of different names, but has {self.vocabulary}.")
        if not 0 < self.times[0] < self.times[1] < 1:
            raise InputError(f"times must be two numbers between 0 and 1, the smaller first, but are {self.times}.")
        if not 0 < self.sigma_data < math.inf:
            raise InputError(f"sigma_data must be a number above 0, but is {self.sigma_data}.")

    @property
    def channels(self) -> int:
        """Of a picture: 3 of colour, 6 with normals."""
        return 6 if self.normals else 3

    @property
    def conditions(self) -> int:
        """Numbers that the network is told."""
        return len(self.vocabulary) + (2 * TURNS + 2) * self.views


def told(config: EmbeddedConfig, label: Tensor, views: Views | None) -> Tensor:
    """What a network is told of pictures ``[n]``: ``[n, conditions]``, float32.

    ``label`` int64 ``[n]``: the number of the object, -1 for none. ``views`` of one row stand for all.
    """
    named = (label[:, None] == torch.arange(len(config.vocabulary), device=label.device)).float()
    if not config.views:
        return named
    seen = named.new_zeros(len(label), 2 * TURNS + 2)
    if views is not None:
        turn, rise = (
            torch.deg2rad(angle.to(label.device).double())[:, None] for angle in (views.azimuth, views.elevation)
        )
        turns = turn * torch.arange(1, TURNS + 1, device=label.device)
        seen = torch.cat((turns.sin(), turns.cos(), rise.sin(), rise.cos()), -1).float().expand(len(label), -1)
    return torch.cat((named, seen), -1)


@dataclass(frozen=True, eq=False)
class EmbeddedPrior(PixelPrior):
    """A configuration and its network, a `degauss.threed.prior.Prior` of pixels."""

    config: EmbeddedConfig
    network: nn.Module = field(repr=False)

    @classmethod
    def new(cls, config: EmbeddedConfig, seed: int = 0) -> EmbeddedPrior:
        """A freshly initialised prior, which takes every picture for grey."""
        size = replace(config.network, conditions=config.conditions)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(config, NCSNpp(size, config.channels, config.channels))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> EmbeddedPrior:
        """A saved prior, frozen, in eval mode; `InputError` for anything that is not one."""
        return load_frozen(path, KIND, "an embedded prior", lambda values: cls.new(_config(values)))

    def save(
        self,
        path: str | os.PathLike[str],
        card: Mapping[str, Any] | None = None,
        weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Write the prior as a folder, with a card if there is one, and other weights than the network's if given."""
        save_model(path, self.network if weights is None else weights, KIND, asdict(self.config), card=card)

    @property
    def schedule(self) -> Cosine:
        """Half of the signal is gone at t = 1/2, all of it at 1."""
        return Cosine()

    @property
    def size(self) -> int:
        return self.config.size

    @property
    def channels(self) -> int:
        return self.config.channels

    @property
    def vocabulary(self) -> tuple[str, ...]:
        return self.config.vocabulary

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def to(self, device: torch.device | str) -> EmbeddedPrior:
        """This prior, its network moved."""
        self.network.to(device)
        return self

    def check(self, prompt: str, /) -> None:
        """`InputError` for anything but the name of an object that it has seen, listing those."""
        if prompt not in self.vocabulary:
            known = ", ".join(self.vocabulary)
            raise InputError(
                f"this prior does not know {prompt!r}{near_miss(prompt, self.vocabulary)}: it is no text-to-image "
                f"model, and all its words are {known}."
            )

    def together(self, conditions: Sequence[Condition], /) -> Denoiser[Point]:
        """The posterior means of several conditions in one batch: see `degauss.threed.prior.Prior`."""
        for condition in conditions:
            if condition.prompt is not None:
                self.check(condition.prompt)
        numbers = [-1 if under.prompt is None else self.vocabulary.index(under.prompt) for under in conditions]
        blocks = [
            told(
                self.config, torch.tensor([number]).expand(1 if under.views is None else len(under.views)), under.views
            )
            for number, under in zip(numbers, conditions, strict=True)
        ]
        return _Blocks(self.network_denoiser(), conditions, tuple(block.to(self.device) for block in blocks))

    def network_denoiser(self) -> Denoiser[Point]:
        """The network as a denoiser ``(x, t, told=[n, conditions])``; see `told`."""
        level = InRange(self.network, *(0.25 * self._log_ratio(time) for time in self.config.times))
        return NetworkDenoiser(level, self.schedule, Karras(self.config.sigma_data))

    def _log_ratio(self, time: float) -> float:
        """log(sigma / alpha)."""
        return float(-0.5 * self.schedule.log_snr(torch.tensor(time, dtype=torch.float64)))


@dataclass(frozen=True, eq=False)
class _Blocks:
    """A denoiser whose rows come in blocks; ``told``: of each block, for one row or for all of its rows."""

    denoiser: Denoiser[Point]
    conditions: Sequence[Condition]
    told: tuple[Tensor, ...]

    def __call__(self, x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        del cond
        rows = block_rows(len(x), self.conditions)
        return self.denoiser(x, t, told=torch.cat([part.expand(rows, -1) for part in self.told]))


def find_prior(name: str | os.PathLike[str]) -> Path:
    """The folder of a prior, by the name of one that ships or by its path; `InputError` if there is neither."""
    return find_shipped(name, SHIPPED, "prior", "train-prior")


def shipped_priors() -> list[str]:
    """The names of the priors that ship with the package."""
    return shipped_in(SHIPPED)


def _config(values: dict[str, Any]) -> EmbeddedConfig:
    made = {name: as_tuples(value) for name, value in values.items()}
    made["network"] = NCSNppConfig(**made["network"])
    made["orbits"] = Orbits(**made["orbits"])
    return EmbeddedConfig(**made)
