r"""Encode data to the noise that makes it, and decode it again, perhaps with another denoiser.

    method = BELM()
    latent = encode(denoiser, schedule, x0, grid, method)      # the grid of the sampler, from noise to data
    again = decode(denoiser, schedule, latent, grid, method)   # x0, to rounding
    edited = decode(other, schedule, latent, grid, method)     # x0 as the other denoiser has it

``method`` is BDIA, BELM, EDICT or DDIMInversion. The exact ones carry two states, and a latent keeps both. Data that
no run has made lack the second one; the method makes one up, and the round trip above is exact whatever it is.
Retracing a run, noise to data to noise, is exact only if its second state at the data is given as ``companion``.

Any latent is worth its precision only, so ``encode`` asks the guard first. It is worth its path only, too: it knows
the method, the times and the scales that made it, and decodes with nothing else.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard, cast

import numpy as np
import torch
from torch import Tensor

from degauss.core.checkpoint import FORMAT_VERSION, read_header, read_tensors, write_tensors
from degauss.core.denoiser import Denoiser
from degauss.core.errors import InputError
from degauss.core.files import atomic_path, settled, write_json
from degauss.core.gaussian.table import on_grid
from degauss.core.inversion.guard import LIMIT, Guarded, check_precision
from degauss.core.posterior import Point
from degauss.core.schedule import Schedule

KIND = "degauss.core/latent"
_TENSORS, _ABOUT = "states.safetensors", "latent.json"
# Scales are recomputed where the latent is decoded: the last bits may differ between machines.
_SAME = 1e-9


class Invertible(Guarded, Protocol):
    """A sampler that can be run backwards; its ``repr`` is its identity."""

    def encode(
        self, denoiser: Denoiser[Point], schedule: Schedule, x0: Tensor, grid: Tensor, companion: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """The method's states at the noise, x first."""
        ...

    def decode(self, denoiser: Denoiser[Point], schedule: Schedule, states: tuple[Tensor, ...], grid: Tensor) -> Tensor:
        """x at the data."""
        ...


@dataclass(frozen=True, eq=False)
class Latent:
    """What data were encoded to: the states ``[batch, *event]`` at the noise, and the path on which they mean it.

    ``method``: its repr. ``times``, ``alpha``, ``sigma``: the grid and the schedule's scales on it.
    """

    states: tuple[Tensor, ...]
    method: str
    times: tuple[float, ...]
    alpha: tuple[float, ...]
    sigma: tuple[float, ...]

    @property
    def noise(self) -> Tensor:
        """The first state: what a sampler would start from, ``[batch, *event]``."""
        return self.states[0]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a directory of ``states.safetensors`` and ``latent.json``, in one piece."""
        about: dict[str, Any] = {
            "format": KIND,
            "format_version": FORMAT_VERSION,
            "method": self.method,
            "times": self.times,
            "alpha": self.alpha,
            "sigma": self.sigma,
        }
        with atomic_path(path) as partial:
            partial.mkdir()
            write_tensors(partial / _TENSORS, {f"state_{i}": state for i, state in enumerate(self.states)})
            write_json(partial / _ABOUT, about)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Latent:
        """Read what ``save`` wrote, to the CPU. Raises InputError if it is missing, damaged or of another kind."""
        folder = settled(path)
        about = read_header(folder / _ABOUT, KIND)
        tensors = read_tensors(folder / _TENSORS)
        states = tuple(tensors[f"state_{i}"] for i in range(len(tensors)) if f"state_{i}" in tensors)
        columns = [about.get(name) for name in ("times", "alpha", "sigma")]
        method = about.get("method")
        if not states or not isinstance(method, str) or not all(map(_numbers, columns)):
            raise InputError(f"{folder} is damaged: {_ABOUT} or {_TENSORS} lacks a part of the latent.")
        times, alpha, sigma = (tuple(map(float, cast("list[float]", column))) for column in columns)
        return cls(states, method, times, alpha, sigma)


def _numbers(column: object) -> TypeGuard[list[float]]:
    return isinstance(column, list) and all(isinstance(value, (int, float)) for value in cast("list[object]", column))


def encode(
    denoiser: Denoiser[Point],
    schedule: Schedule,
    x0: Tensor,
    grid: Tensor,
    method: Invertible,
    *,
    companion: Tensor | None = None,
    limit: float = LIMIT,
) -> Latent:
    """The latent of x0 ``[batch, *event]``, the state at grid[-1]; ``grid`` is the sampler's, from noise to data.

    ``companion``: the method's second state at the data, where a run has left one: after its last step
    ``carry.earlier[0]`` for BDIA and BELM, ``carry.other`` for EDICT (see ``degauss.core.observe.Last``).
    ``limit``: the largest relative error by rounding that is accepted, as predicted by the guard. The denoiser's
    conditions are bound with ``functools.partial``. Raises InputError for a grid that rises, a companion of another
    shape or a precision that does not suffice, FloatingPointError where the latent is not finite.
    """
    path = on_grid(schedule, grid)
    if grid[-1] > grid[0]:
        raise InputError("the grid must go from noise to data, as for sampling, but its times rise.")
    if companion is not None and companion.shape != x0.shape:
        raise InputError(f"the companion is {tuple(companion.shape)}, but the data are {tuple(x0.shape)}.")
    check_precision(method, schedule, grid, x0.dtype, limit)
    states = method.encode(denoiser, schedule, x0, grid, companion)
    _check_finite(states, f"encoding with {method}")
    return Latent(states, repr(method), *(tuple(part.tolist()) for part in (path.time, path.alpha, path.sigma)))


def decode(denoiser: Denoiser[Point], schedule: Schedule, latent: Latent, grid: Tensor, method: Invertible) -> Tensor:
    """The data ``[batch, *event]`` at grid[-1] of a latent; autograd flows from them to its states.

    Raises InputError where the method, the grid or the schedule is not the one it was encoded with,
    FloatingPointError where the result is not finite.
    """
    if repr(method) != latent.method:
        raise InputError(f"this latent was encoded with {latent.method}, and cannot be decoded with {method}.")
    path = on_grid(schedule, grid)
    if tuple(path.time.tolist()) != latent.times:
        raise InputError(
            f"this latent was encoded on another grid, of {len(latent.times) - 1} steps from t = {latent.times[0]:g} "
            f"to {latent.times[-1]:g}; the one given has {path.steps} from {path.time[0]:g} to {path.time[-1]:g}."
        )
    same = np.allclose(path.alpha, latent.alpha, rtol=_SAME, atol=0) and np.allclose(
        path.sigma, latent.sigma, rtol=_SAME, atol=0
    )
    if not same:
        raise InputError(f"this latent was encoded on another schedule than {schedule}: their scales differ.")
    x = method.decode(denoiser, schedule, latent.states, grid)
    _check_finite((x,), f"decoding with {method}")
    return x


def _check_finite(states: tuple[Tensor, ...], doing: str) -> None:
    if not all(bool(torch.isfinite(state).all()) for state in states):
        raise FloatingPointError(f"{doing} gave values that are not finite")
