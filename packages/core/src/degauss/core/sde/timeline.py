"""The times of a run in the units of the equation: checked once, and from then on known by their index."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from degauss.core.errors import InputError
from degauss.core.noise import Clock


class Timeline(NamedTuple):
    """A grid of N + 1 times as the clock of its Brownian path, the N steps h, and their sqrt(h)."""

    clock: Clock
    h: tuple[float, ...]
    root: tuple[float, ...]


def host_times(grid: Tensor) -> Tensor:
    """The grid as float64 on the host. InputError unless it is 1-D, finite and strictly monotone."""
    times = grid.detach().to("cpu", torch.float64)
    if times.ndim != 1 or len(times) < 2:
        raise InputError(f"a grid must have two times or more in one dimension, but has shape {tuple(times.shape)}.")
    gaps = times.diff()
    if not bool(torch.isfinite(times).all() & ((gaps > 0).all() | (gaps < 0).all())):
        raise InputError("a grid must be finite and strictly monotone, but has repeated, turning or non-finite times.")
    return times


def timeline(times: Tensor) -> Timeline:
    """The timeline of ``host_times``. InputError if they decrease: a Brownian path runs forwards."""
    h = times.diff().tolist()
    if h[0] < 0:
        raise InputError(f"the grid of a stochastic equation must increase, but goes from {times[0]} to {times[-1]}.")
    return Timeline(tuple(times.tolist()), tuple(h), tuple(map(math.sqrt, h)))
