r"""Ancestral sampling: from t to s < t by p(x_s | x_t), every position by itself.

**Absorbing.** A position that is masked at t is still masked at s with probability gone_s / gone_t, whatever the
others do. So its *level*, the value of gone at which it is restored, is uniform below gone at the start: it is drawn
once, and so is the uniform number that will choose its token. This is the same law as fresh draws at every step, at
none of their cost, and the order in which positions are restored is the same for any number of steps. A finer grid is
the same path seen closer; its limit is ``first_hitting``, sample for sample. ``skipping`` gives the same samples for
fewer evaluations.

**Uniform.** Fresh draws at every step from p(x_s | x_t).

Positions that are not masked at the start never change: what is given is infilled, and where the denoiser is exact and
steps are many the law is the conditional one. The last step restores everything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from degauss.core.denoiser import Denoiser
from degauss.core.grid import check_grid
from degauss.core.jump.absorbing import Absorbing
from degauss.core.jump.categorical import draw, draw_weighted, uniforms
from degauss.core.jump.process import Process, Solver
from degauss.core.jump.rates import Level
from degauss.core.jump.uniform import Uniform
from degauss.core.kernel import Kernel
from degauss.core.noise import Noise
from degauss.core.posterior import Categorical


def backward(grid: Tensor) -> Tensor:
    """The grid as ``check_grid`` has it; ValueError unless its times fall."""
    grid = check_grid(grid)
    if not bool((grid.diff() < 0).all()):
        raise ValueError("sampling goes from noise to data: the times of its grid must fall")
    return grid


class Path(NamedTuple):
    """When and by what number each position is restored, float64 ``[batch, length]``.

    ``level``: the fraction of gone at the start below which it is restored; ``choice``: the uniform number that
    chooses its token.
    """

    level: Tensor
    choice: Tensor


def path_of(noise: Noise, x: Tensor) -> Path:
    """The path of every position: draws 0 and 1 of the noise."""
    return Path(uniforms(noise, x, 0), uniforms(noise, x, 1))


def shares_of(process: Absorbing, grid: Tensor) -> Tensor:
    """gone along the grid as a share of gone at its start; the last is 0 wherever the grid ends, so no mask is left."""
    gone = process.rates(grid).gone
    share = gone / gone[0]
    share[-1] = 0
    return share


class Carry(NamedTuple):
    """The shares of gone along the grid, its times on the device, and the path once it is drawn."""

    shares: tuple[float, ...]
    times: tuple[Tensor, ...]
    path: Path | None


@dataclass(frozen=True)
class Ancestral:
    """Ancestral sampling of absorbing corruption: one evaluation of the whole batch a step."""

    denoiser: Denoiser[Categorical]
    process: Absorbing

    def init(self, x: Tensor, grid: Tensor, /) -> Carry:
        grid = backward(grid)
        return Carry(tuple(shares_of(self.process, grid).tolist()), grid.to(x.device).unbind(), None)

    def step(self, carry: Carry, x: Tensor, i: int, noise: Noise, /) -> tuple[Carry, Tensor]:
        path = carry.path or path_of(noise, x)
        restored = (x == self.process.mask) & (path.level >= carry.shares[i + 1])
        tokens = draw(self.denoiser(x, carry.times[i]).logits, path.choice)
        return carry._replace(path=path), torch.where(restored, tokens, x)


class LevelCarry(NamedTuple):
    """The level and time of each point of the grid, on the device."""

    levels: tuple[Level, ...]
    times: tuple[Tensor, ...]


def levels_of(process: Process, x: Tensor, grid: Tensor) -> LevelCarry:
    """The levels of a process along a grid, computed on the host; the last is clean wherever the grid ends."""
    grid = backward(grid)
    alpha, gone, slope = process.rates(grid)
    alpha[-1], gone[-1] = 1, 0
    values = (value.to(x.device).unbind() for value in (alpha, gone, slope))
    return LevelCarry(tuple(map(Level, *values)), grid.to(x.device).unbind())


@dataclass(frozen=True)
class AncestralUniform:
    """Ancestral sampling of uniform corruption; draw i + 1 of the noise at step i.

    The last step draws clean tokens, also where the grid ends before t = 0.
    """

    denoiser: Denoiser[Categorical]
    process: Uniform

    def init(self, x: Tensor, grid: Tensor, /) -> LevelCarry:
        return levels_of(self.process, x, grid)

    def step(self, carry: LevelCarry, x: Tensor, i: int, noise: Noise, /) -> tuple[LevelCarry, Tensor]:
        posterior = self.denoiser(x, carry.times[i])
        weights = self.process.step_back(posterior, x, carry.levels[i + 1], carry.levels[i])
        return carry, draw_weighted(weights, uniforms(noise, x, i + 1))


def ancestral() -> Solver[Absorbing | Uniform]:
    """Ancestral sampling of either process."""

    def solver(denoiser: Denoiser[Categorical], process: Absorbing | Uniform, /) -> Kernel[Any]:
        if isinstance(process, Uniform):
            return AncestralUniform(denoiser, process)
        return Ancestral(denoiser, process)

    return solver


@dataclass(frozen=True, eq=False)
class Conditioned:
    """A denoiser with its conditioning bound. Tensors in ``cond`` have the batch first, unless they are 0-d."""

    denoiser: Denoiser[Categorical]
    cond: Mapping[str, Any]

    def __call__(self, x: Tensor, t: Tensor, /, **cond: Any) -> Categorical:
        return self.denoiser(x, t, **self.cond, **cond)

    def take(self, rows: Tensor) -> Conditioned:
        """The same for some rows of the batch."""
        taken = {
            name: value[rows] if isinstance(value, Tensor) and value.ndim else value
            for name, value in self.cond.items()
        }
        return Conditioned(self.denoiser, taken)


def rows_of(denoiser: Denoiser[Categorical], rows: Tensor) -> Denoiser[Categorical]:
    """The denoiser for some rows of the batch."""
    return denoiser.take(rows) if isinstance(denoiser, Conditioned) else denoiser
