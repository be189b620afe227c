r"""Infilling: some positions are given, the rest is drawn given them.

A *template* holds a token where it is given and ``FREE`` where it is not: ``[length]`` for all samples or
``[batch, length]``.

**Absorbing.** A given token is a position that has been restored already, so every sampler infills by starting from the
template with masks in its free places. Where the denoiser is exact so is the conditional law.

**Uniform.** The state does not show which tokens are clean. ``Given`` tells the denoiser by its times, one for each
position, 0 where it is given; that is exact for a denoiser that understands such times (``oracle.Tabular``, or a
network trained with a time for each position). ``Held`` keeps the given tokens in the state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from degauss.core.denoiser import Denoiser
from degauss.core.errors import InputError
from degauss.core.kernel import Kernel
from degauss.core.noise import Noise
from degauss.core.posterior import Categorical

C = TypeVar("C")

FREE = -1
"""A place of a template that is to be filled."""


def check_template(template: Tensor, shape: Sequence[int], vocabulary: int) -> Tensor:
    """The template for every sample, ``shape`` = ``[batch, length]``.

    Raises `InputError`, naming the first bad place, unless it has the samples' length and holds tokens or ``FREE``.
    """
    if template.is_floating_point() or template.ndim not in (1, 2) or template.shape[-1] != shape[-1]:
        raise InputError(
            f"a template must be integers [length] or [batch, length] with length {shape[-1]}, "
            f"but is {template.dtype} of shape {tuple(template.shape)}."
        )
    if template.ndim == 2 and template.shape[0] != shape[0]:
        raise InputError(f"the template has {template.shape[0]} rows, but {shape[0]} samples are asked for.")
    wrong = ((template < 0) & (template != FREE)) | (template >= vocabulary)
    if bool(wrong.any()):
        place = tuple(int(i) for i in wrong.nonzero()[0])
        raise InputError(
            f"a template must hold tokens 0 to {vocabulary - 1}, or {FREE} where it is free, "
            f"but is {int(template[place])} at position {place[-1]} (from 0)."
        )
    return template.expand(*shape)


@dataclass(frozen=True, eq=False)
class Given:
    """A denoiser told that some positions are clean: its times are 0 there. ``free``: ``[batch, length]``."""

    denoiser: Denoiser[Categorical]
    free: Tensor

    def __call__(self, x: Tensor, t: Tensor, /, **cond: Any) -> Categorical:
        times = t[:, None] if t.ndim == 1 else t
        return self.denoiser(x, torch.where(self.free, times, torch.zeros_like(times)), **cond)


@dataclass(frozen=True, eq=False)
class Held(Generic[C]):
    """A kernel whose given positions do not move. ``template``: ``[batch, length]``."""

    kernel: Kernel[C]
    template: Tensor

    def init(self, x: Tensor, grid: Tensor, /) -> C:
        return self.kernel.init(x, grid)

    def step(self, carry: C, x: Tensor, i: int, noise: Noise, /) -> tuple[C, Tensor]:
        carry, x = self.kernel.step(carry, x, i, noise)
        return carry, torch.where(self.template == FREE, x, self.template)
