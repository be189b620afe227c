r"""Operators of deepinv here, and operators from here there: the same numbers, other axes.

deepinv's events are ``[batch, channels, rows, columns]``, with one channel for real images and two (real, imaginary)
for complex ones, or ``[batch, channels, slices, rows, columns]`` where the physics is three-dimensional. Here they are
``[batch, slices, rows, columns]`` and ``[batch, slices, 2, rows, columns]``. A two-dimensional physics sees each slice
as an event of its batch; a measurement keeps the axes that its physics gave it, after ``[batch, slices]``.

`from_deepinv` only calls ``A`` and ``A_adjoint`` of what it is given; deepinv itself is needed by `to_deepinv` alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, final

import torch
from torch import Tensor

from degauss.core.errors import InputError
from degauss.core.inverse import LinearOperator, spectral_norm


class Physics(Protocol):
    """What is asked of a linear physics of deepinv (``deepinv.physics.LinearPhysics``)."""

    def A(self, x: Any, /) -> Any: ...

    def A_adjoint(self, y: Any, /) -> Any: ...


@dataclass(frozen=True, eq=False)
class _Adapted(ABC):
    """A physics on events ``(slices, rows, columns)``, or with 2 before rows, and its norm."""

    physics: Physics
    event: tuple[int, ...]

    def __post_init__(self) -> None:
        event = self.event
        if not (len(event) == 3 or (len(event) == 4 and event[1] == 2)) or min(event) < 1:
            raise InputError(
                "An event must be (slices, rows, columns), or (slices, 2, rows, columns) if it is complex, but is "
                f"{event}."
            )

    @property
    def norm(self) -> float:
        """The largest singular value, by Lanczos, at first use."""
        return self._norm

    @cached_property
    def _norm(self) -> float:
        return spectral_norm(self, torch.empty(1, *self._seen))

    @property
    def is_complex(self) -> bool:
        return len(self.event) == 4

    @property
    @abstractmethod
    def _seen(self) -> tuple[int, ...]:
        """The smallest event that has the norm of all."""

    @abstractmethod
    def __call__(self, x: Tensor, /) -> Tensor: ...

    @abstractmethod
    def adjoint(self, y: Tensor, /) -> Tensor: ...


@final
class SlicePhysics(_Adapted):
    """A two-dimensional physics on every slice."""

    @property
    def _seen(self) -> tuple[int, ...]:
        return 1, *self.event[1:]

    def __call__(self, x: Tensor, /) -> Tensor:
        """``[batch, slices, (2,) rows, columns]`` -> ``[batch, slices, *measurement of one event]``."""
        _check(x, self.event[1:], 2)
        images = x.reshape(-1, *(() if self.is_complex else (1,)), *self.event[1:])
        return _tensor(self.physics.A(images)).unflatten(0, x.shape[:2])

    def adjoint(self, y: Tensor, /) -> Tensor:
        """The other way round."""
        images = _tensor(self.physics.A_adjoint(y.flatten(0, 1)))
        return images.reshape(*y.shape[:2], *self.event[1:])


@final
class VolumePhysics(_Adapted):
    """A three-dimensional physics."""

    @property
    def _seen(self) -> tuple[int, ...]:
        return self.event

    def __call__(self, x: Tensor, /) -> Tensor:
        """``[batch, slices, (2,) rows, columns]`` -> ``[batch, *measurement]``."""
        _check(x, self.event, 1)
        volumes = x.transpose(1, 2) if self.is_complex else x.unsqueeze(1)
        return _tensor(self.physics.A(volumes))

    def adjoint(self, y: Tensor, /) -> Tensor:
        """The other way round."""
        volumes = _tensor(self.physics.A_adjoint(y))
        return volumes.transpose(1, 2) if self.is_complex else volumes.squeeze(1)


def from_deepinv(physics: Physics, event: tuple[int, ...]) -> SlicePhysics:
    """A two-dimensional linear physics as an operator on volumes ``[batch, *event]``.

    ``event``: ``(slices, rows, columns)`` for one channel, ``(slices, 2, rows, columns)`` for two. Noise and sensor
    models of the physics are left out: they belong to the measurement. Raises `InputError` for another shape.
    """
    return SlicePhysics(physics, event)


def from_deepinv_volume(physics: Physics, event: tuple[int, ...]) -> VolumePhysics:
    """A three-dimensional linear physics, such as ``MRI(three_d=True)``, as an operator on volumes."""
    return VolumePhysics(physics, event)


def to_deepinv(operator: LinearOperator, sigma: float = 0.0) -> Any:
    """The operator as a ``deepinv.physics.LinearPhysics`` whose events are ``[batch, slices, rows, columns]``.

    So deepinv's channels are slices: give one slice where a method of deepinv has a prior of one channel. ``sigma``:
    the standard deviation of white noise in its measurements. Raises `InputError` where deepinv is not installed.
    """
    physics = _deepinv_physics()
    noise = physics.GaussianNoise(sigma) if sigma else physics.ZeroNoise()

    def forward(x: Tensor, **_: Any) -> Tensor:
        return operator(x)

    def back(y: Tensor, **_: Any) -> Tensor:
        return operator.adjoint(y)

    return physics.LinearPhysics(A=forward, A_adjoint=back, noise_model=noise)


def _deepinv_physics() -> Any:
    try:
        import deepinv.physics  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise InputError("This needs deepinv: install degauss-medical[deepinv].") from None
    return deepinv.physics


def _check(x: Tensor, expected: tuple[int, ...], lead: int) -> None:
    if x.ndim != len(expected) + lead or tuple(x.shape[lead:]) != expected:
        raise InputError(f"The physics is for events that end in {expected}, but the shape is {tuple(x.shape)}.")


def _tensor(value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        raise InputError(f"The physics must give one tensor, but gave a {type(value).__name__}.")
    return value
