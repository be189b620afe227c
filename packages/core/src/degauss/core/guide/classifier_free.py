r"""Classifier-free guidance, and what every guidance by a pair of answers shares.

Two answers to one noisy state, a *strong* one (conditional) and a *weak* one (unconditional), are extrapolated:

    mean' = mean_weak + scale (mean_strong - mean_weak)          (Ho and Salimans 2022, eq. 6; their w is scale - 1).

Since the noise and the score are affine in the mean, the same holds for them: at each noise level the guided score is
that of p_strong^scale p_weak^(1 - scale). Scale 1 is the strong answer, 0 the weak one. (The samples do not follow the
power of the *data* distributions: the noised powers are not the powers noised.)

A ``Contrast`` gives the two answers: ``TwoModels`` asks two denoisers, ``TwoConditions`` asks one denoiser for both in
a single batch. The conditions of a contrast are bound where it is built, so they are put together once and not at
every step; what ``sample(cond=...)`` gives goes to both answers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import torch
from torch import Tensor

from degauss.core.denoiser import Denoiser, Prediction, V, expand
from degauss.core.gaussian.table import on_grid
from degauss.core.noise import Noise
from degauss.core.posterior import Point
from degauss.core.sampling import Solver
from degauss.core.schedule import Schedule

Scale = float | Tensor
"""How strongly to guide: a number, or one for each sample, ``[batch]``."""


class Answers(NamedTuple):
    """Two posterior means of one state, each ``[batch, *event]``."""

    strong: Tensor
    weak: Tensor


class Contrast(Protocol):
    """Both answers at a noisy state."""

    def __call__(self, x: Tensor, t: Tensor, /, **cond: Any) -> Answers: ...


@dataclass(frozen=True)
class TwoModels:
    """Two denoisers, asked one after the other."""

    strong: Denoiser[Point]
    weak: Denoiser[Point]

    def __call__(self, x: Tensor, t: Tensor, /, **cond: Any) -> Answers:
        return Answers(self.strong(x, t, **cond).mean, self.weak(x, t, **cond).mean)


@dataclass(frozen=True)
class TwoConditions:
    """One denoiser under two conditions, as one batch of twice the rows.

    ``conditional``, ``unconditional``: keyword arguments of the denoiser with the same keys, their values tensors
    ``[batch, ...]`` or dicts, lists and tuples of such; a tensor of one row stands for all. What is no tensor is
    passed on as it is and must agree. They are concatenated here, once. Raises ValueError where they do not fit
    each other, or the batch.
    """

    denoiser: Denoiser[Point]
    conditional: Mapping[str, Any]
    unconditional: Mapping[str, Any]
    _rows: int = field(init=False, repr=False, compare=False)
    _both: Mapping[str, Any] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        rows = _rows((self.conditional, self.unconditional))
        object.__setattr__(self, "_rows", rows)
        object.__setattr__(self, "_both", _joined(self.conditional, self.unconditional, rows, "cond"))

    def __call__(self, x: Tensor, t: Tensor, /, **cond: Any) -> Answers:
        if len(x) != self._rows:
            raise ValueError(f"the two conditions are for {self._rows} samples, but the batch has {len(x)}")
        times = torch.cat((t, t)) if t.ndim else t
        both = {**self._both, **_joined(cond, cond, len(x), "cond")} if cond else self._both
        strong, weak = self.denoiser(torch.cat((x, x)), times, **both).mean.chunk(2)
        return Answers(strong, weak)


def _rows(tree: Any) -> int:
    """The most rows of any tensor in a tree; 0 without one."""
    if isinstance(tree, Tensor):
        return len(tree) if tree.ndim else 0
    if isinstance(tree, Mapping):
        return _rows(tuple(cast("Mapping[str, Any]", tree).values()))
    return max(map(_rows, cast("list[Any]", tree)), default=0) if isinstance(tree, list | tuple) else 0


def _joined(a: Any, b: Any, rows: int, where: str) -> Any:
    """Two trees as one: tensors of ``rows`` rows, or one for all, concatenated along the batch."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.ndim == 0 or b.ndim == 0 or a.shape[1:] != b.shape[1:] or not {len(a), len(b)} <= {1, rows}:
            shapes = f"{tuple(a.shape)} and {tuple(b.shape)}"
            raise ValueError(f"{where}: expected two tensors of one shape with {rows} rows or one, got {shapes}")
        return torch.cat((a.expand(rows, *a.shape[1:]), b.expand(rows, *b.shape[1:])))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        first, second = cast("Mapping[str, Any]", a), cast("Mapping[str, Any]", b)
        if first.keys() != second.keys():
            raise ValueError(f"{where}: the two conditions have keys {sorted(first)} and {sorted(second)}")
        return {key: _joined(first[key], second[key], rows, f"{where}[{key!r}]") for key in first}
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        first, second = cast("list[Any]", a), cast("list[Any]", b)
        if len(first) != len(second):
            raise ValueError(f"{where}: the two conditions have {len(first)} and {len(second)} entries")
        pairs = enumerate(zip(first, second, strict=True))
        return type(first)([_joined(left, right, rows, f"{where}[{i}]") for i, (left, right) in pairs])
    if type(a) is not type(b) or a != b:
        raise ValueError(f"{where}: {a!r} and {b!r} cannot share a batch; give them to two denoisers (TwoModels)")
    return a


def extrapolated(answers: Answers, scale: Scale) -> Tensor:
    """mean_weak + scale (mean_strong - mean_weak), in one fused operation; exact at the scales 0 and 1."""
    strong, weak = answers
    return torch.lerp(weak, strong, expand(scale, weak) if isinstance(scale, Tensor) else scale)


@dataclass(frozen=True)
class Extrapolated:
    """The guided denoiser: from the weak answer to the strong one and beyond."""

    contrast: Contrast
    scale: Scale

    def __call__(self, x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        return Point(extrapolated(self.contrast(x, t, **cond), self.scale))


def classifier_free(
    denoiser: Denoiser[Point], conditional: Mapping[str, Any], unconditional: Mapping[str, Any], scale: Scale
) -> Extrapolated:
    """Classifier-free guidance of one model, both conditions in one batch: see ``TwoConditions``."""
    return Extrapolated(TwoConditions(denoiser, conditional, unconditional), scale)


@dataclass(frozen=True)
class Rescaled:
    r"""Guidance whose prediction keeps the spread it had without (Lin et al. 2024, eqs. 14 to 16).

    Guidance at a large scale widens each sample's values. With F what the network predicts, and std over the event of
    each sample, F' = (rescale std(F_strong) / std(F_guided) + 1 - rescale) F_guided.

    ``prediction``: what F is, since the spread of x0 is not that of the noise. The paper's model predicts v; other
    software rescales whatever its network returns. At alpha = 0, where the published need was greatest, v is x0, while
    ``Eps`` is undefined. With F = (mean - skip x) / out the formula is a rescaling of mean - skip x, so ``out``
    drops out. Where F is constant over the event, it is left alone.
    """

    contrast: Contrast
    schedule: Schedule
    scale: Scale
    rescale: float = 0.7
    prediction: Prediction = field(default_factory=V)

    def __call__(self, x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        answers = self.contrast(x, t, **cond)
        guided = extrapolated(answers, self.scale)
        skip = expand(self.prediction.mean(*self.schedule(t)).first, x) * x
        factor = 1 + self.rescale * (_spread_ratio(answers.strong - skip, guided - skip) - 1)
        return Point(torch.lerp(skip, guided, expand(factor, x)))


def _spread_ratio(a: Tensor, b: Tensor) -> Tensor:
    """std(a) / std(b) over each sample, ``[batch]``; 1 where either is constant."""
    first, second = (part.flatten(1).var(1, correction=0) for part in (a, b))
    usable = (first > 0) & (second > 0)
    # Both replaced before dividing: a branch not taken must not give the gradient a NaN.
    return (torch.where(usable, first, 1.0) / torch.where(usable, second, 1.0)).sqrt()


def within(schedule: Schedule, grid: Tensor, low: float, high: float) -> tuple[bool, ...]:
    """For each step of a grid, whether it starts at a noise level with low < sigma / alpha <= high."""
    path = on_grid(schedule, grid)
    with np.errstate(divide="ignore"):
        k = path.sigma[:-1] / path.alpha[:-1]
    return tuple(((k > low) & (k <= high)).tolist())


class IntervalCarry(NamedTuple):
    """The wrapped solver's carry, and which steps are guided."""

    inner: Any
    guided: tuple[bool, ...]


@dataclass(frozen=True)
class Interval:
    """A solver guided only at noise levels low < sigma / alpha <= high (Kynkaanniemi et al. 2024, eq. 5).

    ``denoiser`` answers outside the interval, ``inside`` (any guided denoiser) within it. The choice is made for each
    step by the level at which it starts, on the host and before the run, so that a step outside really saves the
    second evaluation, on any device and without asking it. ``partial(Interval, inside=..., solver=dpmpp(), ...)`` is
    a solver. The conditions of ``inside`` must be bound in it: ``sample(cond=...)`` reaches ``denoiser`` alone.
    """

    denoiser: Denoiser[Point]
    schedule: Schedule
    inside: Denoiser[Point]
    solver: Solver
    low: float = 0.0
    high: float = math.inf

    def init(self, x: Tensor, grid: Tensor, /) -> IntervalCarry:
        guided = within(self.schedule, grid, self.low, self.high)
        return IntervalCarry(self.solver(self.denoiser, self.schedule).init(x, grid), guided)

    def step(self, carry: IntervalCarry, x: Tensor, i: int, noise: Noise, /) -> tuple[IntervalCarry, Tensor]:
        # The carry of a kernel does not depend on its denoiser, so both kernels share one memory.
        denoiser = self.inside if carry.guided[i] else self.denoiser
        inner, x = self.solver(denoiser, self.schedule).step(carry.inner, x, i, noise)
        return carry._replace(inner=inner), x
