r"""All randomness, keyed: a number is a function of (seed, sample, draw, position) and of nothing else.

Sample i of seed s is therefore the same whatever the batch size, the order of the batch, the number of
processes or of devices. There is no state to save, and nothing to split or to advance.

**Brownian paths.** A sampler's noise over the intervals of a grid is a Brownian path W in the sampler's own
clock c (for a diffusion sampler, the signal-to-noise ratio). It is built by bisection of the grid: the whole
interval's increment first, then, at each split of [a, b] at m, both parts from it and one fresh normal,

    u_left = sqrt(f) u + sqrt(1 - f) z,  u_right = sqrt(1 - f) u - sqrt(f) z,  f = (c_m - c_a) / (c_b - c_a),

where each u is an increment divided by its standard deviation. This is a rotation, so the N increments are
independent standard normals and cost exactly N draws. A range of m 2^k intervals (m odd) is split after
floor(m/2) 2^k of them (in the middle where m = 1). Hence halving every interval, again and again, splits the
old path: coarse increments are exactly the sums of fine ones. Step counts that do not nest share the draws of every
split too, at slightly different times: sums of their noise are correlated (above 0.9), but it is not one path.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor

from degauss.core import philox

_NORMAL, _UNIFORM, _BROWNIAN = 0, 1, 2

# Normals are drawn for as many splits of a path at once as make about this many numbers. Measured: more falls out
# of the cache, fewer pays the generator's per-call cost more often.
_DRAWN_AT_ONCE = 1 << 18

Clock = tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Noise:
    """The keyed randomness of one batch.

    ``seed``: any integer (used modulo 2^64). ``samples``: the id of each row of the batch, integers >= 0;
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

        ``clock``: N + 1 increasing values, the last may be infinite. Intervals in order are cheapest.
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

    def fork(self, number: int) -> Noise:
        """Independent randomness for the same samples, one for each ``number`` >= 0: for a run inside a run.

        It is that of another seed, far from any that a person would type next to this one.
        """
        mixed = (self.seed + 0x9E3779B97F4A7C15 * (number + 1)) * 0xD1342543DE82EF95
        return Noise(mixed % 2**64, self.samples)

    def _event_size(self, like: Tensor) -> int:
        if like.ndim == 0 or like.shape[0] != len(self.samples):
            shape = tuple(like.shape)
            raise ValueError(f"noise keyed for {len(self.samples)} samples, asked for shape {shape}")
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
    """A Brownian path over a grid, walked from left to right by bisection with a stack of pending ranges.

    Every operation is elementwise, so a sample's numbers do not depend on the batch it is in, to the bit.
    """

    def __init__(self, noise: Noise, clock: Clock, like: Tensor) -> None:
        self.noise = noise
        self.clock = clock
        self.like = torch.empty_like(like, dtype=torch.float32)
        self.at_once = max(1, _DRAWN_AT_ONCE // max(1, like.numel()))
        self.stack: list[_Range] = []
        self.ahead: dict[int, Tensor] = {}
        self.leaf: _Range | None = None

    def fits(self, like: Tensor) -> bool:
        return like.shape == self.like.shape and like.device == self.like.device

    def increment(self, i: int) -> Tensor:
        if self.leaf is None or self.leaf.first != i:
            self.leaf = self._walk_to(i)
        return self.leaf.increment

    def _walk_to(self, i: int) -> _Range:
        if not self.stack or self.stack[-1].first > i:
            self.stack = [_Range(0, len(self.clock) - 1, 1, self._draw((0,))[0])]
        while True:
            top = self.stack.pop()
            if top.last <= i:
                continue
            if top.last - top.first == 1:
                return top
            middle, keep, fresh = _split(self.clock, top.first, top.last)
            z = self._fresh(top)
            left = (top.increment * keep).add_(z, alpha=fresh)
            right = (top.increment * fresh).sub_(z, alpha=keep)
            self.stack.append(_Range(middle, top.last, 2 * top.node + 1, right))
            self.stack.append(_Range(top.first, middle, 2 * top.node, left))

    def _fresh(self, top: _Range) -> Tensor:
        """The normal that splits a range; small ranges draw those of all ranges inside them in one call."""
        if top.node not in self.ahead:
            nodes = _nodes(top.last - top.first, top.node) if top.last - top.first <= self.at_once else (top.node,)
            self.ahead = dict(zip(nodes, self._draw(nodes), strict=True))
        return self.ahead[top.node]

    def _draw(self, nodes: Sequence[int]) -> Tensor:
        return self.noise._normals(self.like, nodes, _BROWNIAN)  # pyright: ignore[reportPrivateUsage]


def _middle(count: int) -> int:
    """Where a range of ``count`` > 1 intervals is split."""
    power = count & -count
    odd = count // power
    return odd // 2 * power if odd > 1 else count // 2


def _split(clock: Clock, first: int, last: int) -> tuple[int, float, float]:
    """Where a range is split, and the weights (sqrt(f), sqrt(1 - f)) of the left part."""
    middle = first + _middle(last - first)
    a, m, b = clock[first], clock[middle], clock[last]
    f = 0.0 if math.isinf(b) else (m - a) / (b - a)
    return middle, math.sqrt(f), math.sqrt(1 - f)


@lru_cache(maxsize=256)
def _nodes(count: int, node: int) -> tuple[int, ...]:
    """The tree nodes that split a range of ``count`` intervals rooted at ``node``."""
    if count == 1:
        return ()
    left = _middle(count)
    return (node, *_nodes(left, 2 * node), *_nodes(count - left, 2 * node + 1))
