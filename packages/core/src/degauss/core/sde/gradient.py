r"""Gradients through long runs without keeping every step: recomputed segments, and the reversible adjoint.

``simulate`` may always be differentiated; it then remembers all that autograd needs of all N steps. Two runs with
the same values need less, and both are exact, since the noise is keyed and can be asked for again:

    ``checkpointed``  any kernel; keeps the state between segments and recomputes each; memory about sqrt(N) steps
    ``adjoint``       ``ReversibleHeun``; keeps the last state and undoes the steps one by one; memory does not grow

Both return the states at chosen indices of the grid, since a path must not be cut into runs: each would start the
noise anew.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from degauss.core.kernel import Kernel
from degauss.core.noise import Noise
from degauss.core.sde.equation import Equation, Instant, check_calculus
from degauss.core.sde.finite import ensure_finite
from degauss.core.sde.reversible import Estimate, ReversibleHeun, forward, guess, heun
from degauss.core.sde.timeline import Timeline, host_times, timeline

C = TypeVar("C")

# The path is walked from left to right, so its increments are fetched in blocks on the way back.
_BLOCK = 16


def checkpointed(
    kernel: Kernel[C],
    x: Tensor,
    grid: Tensor,
    noise: Noise,
    *,
    keep: Sequence[int] = (-1,),
    segment: int | None = None,
) -> Tensor:
    """The states at the grid indices ``keep``, ``[len(keep), *x.shape]``, as ``simulate`` computes them.

    ``segment``: steps recomputed at a time in the backward pass, sqrt(N) unless given. Costs one more forward run.
    What an equation computes for all times at once (its control path) is kept. ValueError if an index is outside
    the grid, FloatingPointError naming the step if a state is not finite.
    """
    start, steps = x, len(grid) - 1
    wanted = _indices(keep, steps)
    length = segment or math.ceil(math.sqrt(steps))

    def run(first: int, carry: C, x: Tensor) -> tuple[C, Tensor, dict[int, Tensor]]:
        kept: dict[int, Tensor] = {}
        for i in range(first, min(first + length, steps)):
            carry, x = kernel.step(carry, x, i, noise)
            if i + 1 in wanted:
                kept[i + 1] = x
        return carry, x, kept

    states = {0: x}
    carry = kernel.init(x, grid)
    for first in range(0, steps, length):
        result = checkpoint(run, first, carry, x, use_reentrant=False, preserve_rng_state=False)
        carry, x, kept = cast("tuple[C, Tensor, dict[int, Tensor]]", result)
        states |= kept
    return ensure_finite(torch.stack([states[index] for index in wanted]), kernel, start, grid, noise)


def adjoint(
    kernel: ReversibleHeun,
    x: Tensor,
    grid: Tensor,
    noise: Noise,
    *,
    keep: Sequence[int] = (-1,),
) -> Tensor:
    """The states at the grid indices ``keep``, ``[len(keep), *x.shape]``, with a backward pass in constant memory.

    Gradients reach x and the equation's ``tensors()``. They are those of backpropagation up to the rounding of the
    reconstructed states: use float64 where a drift contracts strongly, since undoing it expands. Errors as
    ``checkpointed``.
    """
    check_calculus(kernel, kernel.equation, "stratonovich")
    times = host_times(grid)
    run = _Run(kernel.equation, times, timeline(times), noise, _indices(keep, len(times) - 1))
    states = cast("Tensor", _Adjoint.apply(run, x, *kernel.equation.tensors()))
    return ensure_finite(states, kernel, x, grid, noise)


def _indices(keep: Sequence[int], steps: int) -> tuple[int, ...]:
    """Indices from 0 to ``steps``; negative ones count from the end. ValueError if one is outside the grid."""
    if not keep or not all(-steps - 1 <= index <= steps for index in keep):
        raise ValueError(f"expected indices of a grid of {steps + 1} times to keep, got {tuple(keep)}")
    return tuple(index % (steps + 1) for index in keep)


class _Run(NamedTuple):
    """What forward and backward share."""

    equation: Equation
    times: Tensor
    line: Timeline
    noise: Noise
    wanted: tuple[int, ...]

    def estimate(self, y: Tensor, i: int) -> Estimate:
        drift, diffusion = (value.broadcast_to(y.shape) for value in Estimate.of(self.instant(i), y)[1:])
        return Estimate(y, drift, diffusion)

    def instant(self, i: int) -> Instant:
        # One time at a time: all instants at once would be memory that grows with the steps.
        return self.equation.at(self.times[i : i + 1])[0]

    def increment(self, i: int, like: Tensor) -> Tensor:
        return self.noise.brownian(self.line.clock, i, like) * self.line.root[i]

    def increments_back(self, like: Tensor) -> Iterator[tuple[int, Tensor]]:
        """(i, dW_i) from the last step to the first."""
        for last in range(len(self.line.h), 0, -_BLOCK):
            block = [(i, self.increment(i, like)) for i in range(max(last - _BLOCK, 0), last)]
            yield from reversed(block)


class _Adjoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, run: _Run, x: Tensor, *tensors: Tensor) -> Tensor:
        states = {0: x}
        estimate = run.estimate(x, 0)
        for i, h in enumerate(run.line.h):
            x, estimate = forward(x, estimate, run.instant(i + 1), h, run.increment(i, x))
            if i + 1 in run.wanted:
                states[i + 1] = x
        ctx.run = run
        ctx.save_for_backward(x, estimate.y, *tensors)
        return torch.stack([states[index] for index in run.wanted])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        run: _Run = ctx.run
        x, y, *tensors = ctx.saved_tensors
        into = [tensor for tensor in tensors if tensor.requires_grad]
        sums = _Sums(into, [None] * len(into))
        steps = len(run.line.h)
        to_state = _sum_at(grad, run.wanted, steps, torch.zeros_like(x))
        to_y = to_drift = to_diffusion = torch.zeros_like(x)
        at = _tracked(run, y, steps)
        for i, dw in run.increments_back(x):
            h = run.line.h[i]
            # x_{i+1} has f_{i+1} h / 2 + g_{i+1} dW / 2; then the equation is evaluated at y_{i+1}.
            to_y = to_y + sums.through(at, to_drift + 0.5 * h * to_state, to_diffusion + 0.5 * dw * to_state)
            to_drift = h * (to_y + 0.5 * to_state)
            to_diffusion = dw * (to_y + 0.5 * to_state)
            to_state = _sum_at(grad, run.wanted, i, to_state + 2 * to_y)
            to_y = -to_y
            now = Estimate(*(value.detach() for value in at))
            at = _tracked(run, guess(x, now, -h, -dw), i)
            x = heun(x, now, Estimate(*(value.detach() for value in at)), -h, -dw)
        to_x = to_state + to_y + sums.through(at, to_drift, to_diffusion)
        found = iter(sums.totals)
        return None, to_x, *(next(found) if tensor.requires_grad else None for tensor in tensors)


@dataclass
class _Sums:
    """The gradients of some tensors, added up over the steps; None where nothing depended on one."""

    tensors: list[Tensor]
    totals: list[Tensor | None]

    def through(self, at: Estimate, drift: Tensor, diffusion: Tensor) -> Tensor:
        """The gradient at y of <drift, f(y)> + <diffusion, g(y)>; that of the tensors is added to the totals."""
        pairs = [(at.drift, drift), (at.diffusion, diffusion)]
        pairs = [(value, weight) for value, weight in pairs if value.requires_grad]
        if not pairs:
            return torch.zeros_like(drift)
        values, weights = zip(*pairs, strict=True)
        found = torch.autograd.grad(values, [at.y, *self.tensors], weights, allow_unused=True)
        to_y, *rest = cast("tuple[Tensor | None, ...]", found)
        self.totals = [_plus(total, value) for total, value in zip(self.totals, rest, strict=True)]
        return torch.zeros_like(drift) if to_y is None else to_y


def _plus(total: Tensor | None, value: Tensor | None) -> Tensor | None:
    return value if total is None else total if value is None else total + value


def _tracked(run: _Run, y: Tensor, i: int) -> Estimate:
    """The equation at y, recorded for its gradient."""
    with torch.enable_grad():
        return run.estimate(y.detach().requires_grad_(), i)


def _sum_at(grad: Tensor, wanted: Sequence[int], index: int, total: Tensor) -> Tensor:
    """``total`` and the gradients of the outputs that are the state at ``index``."""
    for place, at in enumerate(wanted):
        if at == index:
            total = total + grad[place]
    return total
