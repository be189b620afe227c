r"""All randomness, keyed: a number is a function of (seed, sample, draw, position) and of nothing else.

Sample i of seed s is therefore the same whatever the batch size, the order of the batch, the number of
processes or of devices. There is no state to save, and nothing to split or to advance.

**Brownian paths.** A sampler's noise over the intervals of a grid is a Brownian path W in the sampler's own
clock c (for a diffusion sampler, the signal-to-noise ratio). It is built by bisection of the grid: the whole
interval's increment first, then, at each split of [a, b] at m, the two parts from the whole and one fresh normal,

    u_left = sqrt(f) u + sqrt(1 - f) z,  u_right = sqrt(1 - f) u - sqrt(f) z,  f = (c_m - c_a) / (c_b - c_a),

where each u is an increment divided by its standard deviation. This is a rotation, so the N increments are
independent standard normals and cost exactly N draws. A range of m 2^k intervals (m odd) is split after
floor(m/2) 2^k of them (in the middle where m = 1). Hence halving every interval, again and again, splits the
old path: coarse increments are exactly the sums of fine ones. Between step counts that do not nest, the paths
still share the draws of every split and stay close, without being the same path.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from degauss.core import philox

_NORMAL, _UNIFORM, _BROWNIAN = 0, 1, 2

# Increments are produced a block of intervals at a time; a block holds about this many numbers. Measured: larger
# falls out of the cache, smaller pays the per-call cost of the generator more often.
_BLOCK_NUMBERS = 1 << 18
_BLOCK_INTERVALS = 256

Clock = tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Noise:
    """The keyed randomness of one batch.

    ``seed``: any integer (used modulo 2^64). ``samples``: the sample id of each row of the batch, integers >= 0;
    ``like`` arguments below give shape ``[len(samples), *event]``, dtype and device. Normals are computed in
    float32 and cast, so that runs in different precision see the same noise.
    """

    seed: int
    samples: Sequence[int]
    _walk: list[_Path] = field(default_factory=list["_Path"], repr=False)

    def normal(self, like: Tensor, draw: int = 0) -> Tensor:
        """Standard normals in the shape of ``like``; ``draw`` >= 0 numbers independent draws."""
        return self._normals(like, (draw,), _NORMAL)[0]

    def uniform(self, like: Tensor, draw: int = 0) -> Tensor:
        """Uniform numbers strictly inside (0, 1) in the shape of ``like``."""
        size = self._event_size(like)
        flat = philox.uniforms(self.seed, self.samples, draw, _UNIFORM, size, like.dtype, like.device)
        return flat.reshape(like.shape)

    def brownian(self, clock: Clock, i: int, like: Tensor) -> Tensor:
        """The path's increment over [clock[i], clock[i+1]] divided by its standard deviation.

        ``clock``: N + 1 increasing values, the last may be infinite. Intervals are cheapest asked for in order.
        """
        # The path being walked is kept, one at a time: a sampler walks one grid, and its blocks are large.
        path = self._walk[0] if self._walk else None
        if path is None or path.clock is not clock or not path.fits(like):
            path = _Path(self, clock, like)
            self._walk[:] = [path]
        return path.increment(i).to(like.dtype)

    def take(self, rows: Sequence[int]) -> Noise:
        """The randomness of some rows of this batch."""
        return Noise(self.seed, [self.samples[row] for row in rows])

    def _event_size(self, like: Tensor) -> int:
        if like.ndim == 0 or like.shape[0] != len(self.samples):
            raise ValueError(f"noise keyed for {len(self.samples)} samples, asked for shape {tuple(like.shape)}")
        return math.prod(like.shape[1:])

    def _normals(self, like: Tensor, draws: Sequence[int], purpose: int) -> Tensor:
        size = self._event_size(like)
        flat = philox.normals(self.seed, self.samples, draws, purpose, size, like.device)
        return flat.to(like.dtype).reshape(len(draws), *like.shape)


@dataclass(frozen=True)
class _Range:
    """Intervals [first, last) of the grid, their tree node, and the normalised increment over all of them."""

    first: int
    last: int
    node: int
    increment: Tensor


class _Path:
    """A Brownian path over a grid, walked from left to right by bisection with a stack of pending ranges."""

    def __init__(self, noise: Noise, clock: Clock, like: Tensor) -> None:
        self.noise = noise
        self.clock = clock
        self.like = torch.empty_like(like, dtype=torch.float32)
        room = max(1, _BLOCK_NUMBERS // max(1, like.numel()))
        self.block_intervals = min(_BLOCK_INTERVALS, room)
        self.stack: list[_Range] = []
        self.block_first = 0
        self.block: Tensor | None = None

    def fits(self, like: Tensor) -> bool:
        return like.shape == self.like.shape and like.device == self.like.device

    def increment(self, i: int) -> Tensor:
        if self.block is None or not 0 <= i - self.block_first < len(self.block):
            self._advance(i)
        assert self.block is not None
        return self.block[i - self.block_first]

    def _advance(self, i: int) -> None:
        if not self.stack or self.stack[-1].first > i:
            self.stack = [_Range(0, len(self.clock) - 1, 1, self._draw((0,))[0])]
        while True:
            top = self.stack.pop()
            if top.last <= i:
                continue
            if top.last - top.first <= self.block_intervals:
                self.block_first, self.block = top.first, self._leaves(top)
                return
            middle, keep, fresh = _split(self.clock, top.first, top.last)
            z = self._draw((top.node,))[0]
            left = (top.increment * keep).add_(z, alpha=fresh)
            right = z.mul_(-keep).add_(top.increment, alpha=fresh)
            self.stack.append(_Range(middle, top.last, 2 * top.node + 1, right))
            self.stack.append(_Range(top.first, middle, 2 * top.node, left))

    def _draw(self, nodes: Sequence[int]) -> Tensor:
        return self.noise._normals(self.like, nodes, _BROWNIAN)  # pyright: ignore[reportPrivateUsage]

    def _leaves(self, top: _Range) -> Tensor:
        """All increments of a range at once: one rotation matrix times the draws of its nodes."""
        nodes, rotation = _rotation(self.clock, top.first, top.last, top.node)
        if not nodes:
            return top.increment[None]
        draws = torch.cat([top.increment[None], self._draw(nodes)])
        matrix = torch.from_numpy(rotation).to(draws)
        return (matrix @ draws.flatten(1)).view(draws.shape)


def _split(clock: Clock, first: int, last: int) -> tuple[int, float, float]:
    """Where a range is split, and the weights (sqrt(f), sqrt(1 - f)) of the left part."""
    count = last - first
    power = count & -count
    odd = count // power
    middle = first + (odd // 2 * power if odd > 1 else count // 2)
    a, m, b = clock[first], clock[middle], clock[last]
    f = 0.0 if math.isinf(b) else (m - a) / (b - a)
    return middle, math.sqrt(f), math.sqrt(1 - f)


@lru_cache(maxsize=64)
def _rotation(clock: Clock, first: int, last: int, node: int) -> tuple[tuple[int, ...], np.ndarray[Any, Any]]:
    """The nodes below a range, and the orthogonal matrix that takes (its increment, their draws) to its leaves."""
    count = last - first
    nodes: list[int] = []
    rows: list[np.ndarray[Any, Any]] = []

    def visit(first: int, last: int, node: int, row: np.ndarray[Any, Any]) -> None:
        if last - first == 1:
            rows.append(row)
            return
        middle, keep, fresh = _split(clock, first, last)
        nodes.append(node)
        z = np.zeros(count)
        z[len(nodes)] = 1.0
        visit(first, middle, 2 * node, keep * row + fresh * z)
        visit(middle, last, 2 * node + 1, fresh * row - keep * z)

    whole = np.zeros(count)
    whole[0] = 1.0
    visit(first, last, node, whole)
    return tuple(nodes), np.stack(rows)
