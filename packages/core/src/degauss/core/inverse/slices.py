"""A denoiser of slices as a denoiser of volumes: the prior knows two dimensions, the volume has three.

Slices go through the network ``chunk`` at a time, so that its activations take the memory of so many slices and not of
a volume. That holds for gradients with respect to the volume too, as in guidance through the network: what a chunk's
backward pass needs is computed again when it is asked for, at the price of one more forward pass. What couples the
slices is the measurement, or ``total_variation``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from degauss.core.denoiser import Denoiser
from degauss.core.errors import check_range
from degauss.core.posterior import Point


@dataclass(frozen=True)
class SliceWise:
    """The posterior mean of volumes whose slices are independent a priori.

    ``denoiser`` sees ``[n, channels, rows, columns]`` with n <= ``chunk``. Volumes are ``[batch, slices, rows,
    columns]``, whose slices have one channel, or ``[batch, slices, channels, rows, columns]``. Times may be one for
    all or one a volume. A condition that is a tensor is one for each slice, ``[batch, slices, *condition]``; others
    go to every call as they are. Differentiable. Beside the network's, a call needs the memory of two volumes.

    Raises InputError for a chunk below 1, ValueError for volumes or conditions of other shapes.
    """

    denoiser: Denoiser[Point]
    chunk: int = 16

    def __post_init__(self) -> None:
        check_range("chunk", self.chunk, 1)

    def __call__(self, x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        if x.ndim not in (4, 5):
            raise ValueError(f"expected volumes [batch, slices, (channels,) rows, columns], got shape {tuple(x.shape)}")
        slices = (x.unsqueeze(2) if x.ndim == 4 else x).flatten(0, 1)
        times = t.repeat_interleave(x.shape[1]) if t.ndim else t
        each = {name: _of_slices(name, value, x) for name, value in cond.items() if isinstance(value, Tensor)}
        same = {name: value for name, value in cond.items() if name not in each}
        means: list[Tensor] = []
        for first in range(0, len(slices), self.chunk):
            part = slice(first, first + self.chunk)
            known = {name: value[part] for name, value in each.items()}
            mean = partial(self._mean, times[part] if t.ndim else t, {**same, **known})
            if slices.requires_grad and len(slices) > self.chunk:
                again = checkpoint(mean, slices[part], use_reentrant=False, preserve_rng_state=False)
                means.append(cast("Tensor", again))
            else:
                means.append(mean(slices[part]))
        return Point(torch.cat(means).reshape(x.shape))

    def _mean(self, t: Tensor, cond: dict[str, Any], x: Tensor) -> Tensor:
        return self.denoiser(x, t, **cond).mean


def _of_slices(name: str, value: Tensor, x: Tensor) -> Tensor:
    """``[batch * slices, *condition]``."""
    if value.shape[:2] != x.shape[:2]:
        raise ValueError(
            f"the condition {name!r} must be [batch, slices, ...] = {tuple(x.shape[:2])}, got {tuple(value.shape)}"
        )
    return value.flatten(0, 1)
