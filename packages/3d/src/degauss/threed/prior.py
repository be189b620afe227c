r"""What a 3D object is distilled from: a diffusion model of its images, told of a word and of where it is seen from.

A prior answers under a *condition*, a prompt and views, each of which may be missing. All that the methods of
`degauss.threed.distillation` need is made of such answers: guidance is two conditions at one state, ASD three at two
states. So the one thing a prior must do well is to answer for several conditions in a single batch, `Prior.together`:
its rows come in blocks, one block a condition.

Timesteps: t in [0, 1] is the fraction of the schedule; a paper's timestep k of 1000 is t = k / 1000.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, final, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from degauss.core.denoiser import Denoiser
from degauss.core.guide.classifier_free import Answers, Extrapolated
from degauss.core.posterior import Point
from degauss.core.schedule import Schedule
from degauss.threed.views import Views


@dataclass(frozen=True, eq=False)
class Condition:
    """What one block of rows is conditioned on.

    ``prompt``: None is the unconditional model; of a text model, the empty prompt. ``views`` ``[n]``: one for each row
    of the block; None: it is not told.
    """

    prompt: str | None
    views: Views | None = None


class Prior(Protocol):
    """A diffusion model of images of objects.

    Its x0 are ``[n, channels, size, size]`` in [-1, 1] (a latent model has its own channels, size and range). A model
    that knows no views ignores them.
    """

    @property
    def schedule(self) -> Schedule:
        """Variance-preserving."""
        ...

    @property
    def size(self) -> int:
        """Height and width of its x0."""
        ...

    @property
    def channels(self) -> int:
        """Of its x0: 3 are colour, 6 colour and normals."""
        ...

    @property
    def vocabulary(self) -> tuple[str, ...] | None:
        """The prompts that it knows; None where any text will do."""
        ...

    def check(self, prompt: str, /) -> None:
        """InputError for a prompt that it does not know, which lists those it does."""
        ...

    def together(self, conditions: Sequence[Condition], /) -> Denoiser[Point]:
        """The denoiser of k conditions in one batch, the conditions embedded here and once.

        It is asked for k n rows, the first n under ``conditions[0]`` and so on, with a time for each row or one for
        all. It leaves autograd as it is. Raises InputError for a prompt that it does not know, and the denoiser
        ValueError for rows that do not fit the conditions.
        """
        ...

    def denoiser(self, prompt: str, guidance: float = 1.0, views: Views | None = None) -> Denoiser[Point]:
        """The posterior mean under a prompt, extrapolated from the unconditional one: see `guided`."""
        ...

    def unconditional(self, views: Views | None = None) -> Denoiser[Point]:
        """The posterior mean without a prompt."""
        ...

    def encode(self, rgb: Tensor, normal: Tensor) -> Tensor:
        """Its x0 of renders, differentiable: see `encode_pixels`; a latent model encodes further."""
        ...

    def decode(self, x0: Tensor) -> Tensor:
        """Colour ``[n, h, w, 3]`` in [0, 1] of its x0."""
        ...


@runtime_checkable
class HasNetwork(Protocol):
    """A prior with weights that can be adapted, as VSD does: the module that every answer goes through."""

    @property
    def network(self) -> nn.Module: ...


@dataclass(frozen=True)
class _TwoBlocks:
    """The two answers of a denoiser of two conditions, a `degauss.core.guide.Contrast`."""

    denoiser: Denoiser[Point]

    def __call__(self, x: Tensor, t: Tensor, /, **cond: Any) -> Answers:
        times = torch.cat((t, t)) if t.ndim else t
        strong, weak = self.denoiser(torch.cat((x, x)), times, **cond).mean.chunk(2)
        return Answers(strong, weak)


class Together(Protocol):
    """The one thing that guidance needs of a prior: see `Prior.together`."""

    def together(self, conditions: Sequence[Condition], /) -> Denoiser[Point]: ...


def guided(prior: Together, prompt: str, guidance: float = 1.0, views: Views | None = None) -> Denoiser[Point]:
    """What `Prior.denoiser` is made of: mean(none) + guidance (mean(prompt) - mean(none)), in one batch.

    Guidance 1 is the conditional model alone, at half the cost.
    """
    wanted = Condition(prompt, views)
    if guidance == 1:
        return prior.together((wanted,))
    return Extrapolated(_TwoBlocks(prior.together((wanted, Condition(None, views)))), guidance)


def block_rows(rows: int, conditions: Sequence[Condition]) -> int:
    """How many rows each of the conditions has in a batch; ValueError where the rows, or its views, do not fit."""
    count = len(conditions)
    each = rows // count
    told = {len(condition.views) for condition in conditions if condition.views is not None}
    if each * count != rows or told - {each}:
        raise ValueError(f"{rows} rows do not fit {count} conditions with views of {sorted(told)} rows")
    return each


def encode_pixels(rgb: Tensor, normal: Tensor, size: int, channels: int = 3) -> Tensor:
    """x0 ``[n, channels, size, size]`` of a model of pixels, of renders ``[n, h, w, 3]``; differentiable.

    Colour goes from [0, 1] to [-1, 1]. With 6 channels world normals follow as they are (as colours in [0, 1] they
    would be (1 + normal) / 2), and are 0 where nothing is. Resized with antialiasing. Raises ValueError for another
    number of channels.
    """
    if channels not in (3, 6):
        raise ValueError(f"images have 3 channels, or 6 with normals, got {channels}")
    x0 = 2 * rgb - 1
    if channels == 6:
        x0 = torch.cat((x0, normal), -1)
    x0 = x0.movedim(-1, 1)
    if x0.shape[-2:] == (size, size):
        return x0
    return F.interpolate(x0, (size, size), mode="bilinear", align_corners=False, antialias=True)


def decode_pixels(x0: Tensor) -> Tensor:
    """Colour ``[n, h, w, 3]`` in [0, 1] of a pixel model's x0."""
    return (0.5 * x0[:, :3].movedim(1, -1) + 0.5).clamp(0, 1)


class PixelPrior(ABC):
    """What all priors of pixels share, made of their `Prior.together`: they encode by resizing, and guide alike."""

    @property
    @abstractmethod
    def size(self) -> int: ...

    @property
    @abstractmethod
    def channels(self) -> int: ...

    @abstractmethod
    def together(self, conditions: Sequence[Condition], /) -> Denoiser[Point]: ...

    @final
    def denoiser(self, prompt: str, guidance: float = 1.0, views: Views | None = None) -> Denoiser[Point]:
        """The posterior mean under a prompt, extrapolated from that of any object in the same view: see `guided`."""
        return guided(self, prompt, guidance, views)

    @final
    def unconditional(self, views: Views | None = None) -> Denoiser[Point]:
        """The posterior mean of any object."""
        return self.together((Condition(None, views),))

    @final
    def encode(self, rgb: Tensor, normal: Tensor) -> Tensor:
        """See `encode_pixels`."""
        return encode_pixels(rgb, normal, self.size, self.channels)

    @final
    def decode(self, x0: Tensor) -> Tensor:
        """See `decode_pixels`."""
        return decode_pixels(x0)
