r"""DC-Solver: UniPC whose newest posterior mean is moved a little in time before each prediction (Zhao et al. 2024).

A predictor-corrector evaluates the denoiser at the predicted state and then leaves that state by correcting it, so
the mean it remembers does not belong to the state it goes on from. *Dynamic compensation* replaces the newest mean,
before the predictor uses it, by the quadratic through it and the two before, read at another time:

    y_i = sum_{k=0}^{2} l_k(t^) (mean_i, y_{i-1}, y_{i-2})_k,   t^ = ratio_i t_i + (1 - ratio_i) t_{i-1}.

A ratio of 1 is UniPC; the first two steps have no three means yet. As in the authors' program the replaced value
is the one remembered from then on, by predictors and correctors; only a correction's own new mean, the one at the
state being corrected, is taken as it is. The denoiser gives each row one value y_i to remember, so there

    mean_i = (y_i - l_1 y_{i-1} - l_2 y_{i-2}) / l_0,   l_0 != 0 for every ratio > 0,

and predictor, corrector and compensation stay one row of a table, with no further evaluation.

The ratios are numbers found by a search on a few samples (``fit_ratios``). They vary smoothly with the step, the
guidance scale and the number of steps, so a polynomial through some searches (``fit_polynomial``) gives them for
scales and numbers of steps that were never searched. The interpolation is in t and the polynomial in the step number,
both as published, for steps even in the t of a variance-preserving schedule. On steps even in log-SNR the last ratio
hardly matters, lies far from the others, and bends the polynomial: search there instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, cast, get_args

import numpy as np
import torch
from torch import Tensor

from degauss.core.denoiser import Denoiser
from degauss.core.errors import InputError, check_option
from degauss.core.fields import integer, numbers, sequence
from degauss.core.gaussian.exponential import data_scales, nodes
from degauss.core.gaussian.table import Array, Row, Table, TableSolver, index_clock, on_grid, table_solver
from degauss.core.gaussian.teacher import trajectory
from degauss.core.gaussian.unipc import (
    Variant,
    correction_weights,
    predictor_weights,
)
from degauss.core.grid import check_grid, check_times
from degauss.core.posterior import Point
from degauss.core.schedule import Schedule

# The quadratic needs three means.
_UNCOMPENSATED = 2
# A ratio of 0 would throw the newest evaluation away.
_SMALLEST = 0.05
# The units of the polynomial's variables in the paper: guidance scale and number of steps.
_SCALE_UNIT, _STEPS_UNIT = 12.0, 50.0


def dc(ratios: Sequence[float], order: int = 3, variant: Variant = "bh2") -> TableSolver:
    """UniPC-``order`` with dynamic compensation; one ratio a step, positive, the first two 1."""
    values = tuple(map(float, ratios))
    check_ratios(values)
    return table_solver(dc_table, ratios=values, order=order, variant=variant)


def dc_table(
    schedule: Schedule, grid: Tensor, *, ratios: tuple[float, ...], order: int, variant: Variant = "bh2"
) -> Table:
    """DC-Solver as a table: row i corrects the arrival at grid[i], compensates, then predicts grid[i + 1]."""
    plan = _plan(schedule, grid, order, variant)
    if len(ratios) != len(plan):
        raise InputError(f"ratios must be one for each of the {len(plan)} steps, but are {len(ratios)}.")
    return Table(tuple(map(_row, plan, ratios)), index_clock(on_grid(schedule, grid)))


class _Step(NamedTuple):
    """One step of UniPC with its two halves apart; weights are newest first.

    ``correction``: on mean_i, y_{i-1}, ..., corrects the arrival at x_i. ``predictor``: on y_i, y_{i-1}, ....
    ``knots``: the times of the last three means, or none.
    """

    state: float
    correction: Array
    predictor: Array
    knots: tuple[float, ...]


def _plan(schedule: Schedule, grid: Tensor, order: int, variant: Variant) -> list[_Step]:
    path = on_grid(schedule, grid)
    plan: list[_Step] = []
    correction = np.zeros(1)
    for i in range(path.steps):
        state, _ = data_scales(path, i, 0.0)
        used = nodes(path, i, order, lower_final=True)
        predictor = predictor_weights(path, i, used, variant)
        knots = tuple(path.time[[i, i - 1, i - 2]].tolist()) if i >= _UNCOMPENSATED else ()
        plan.append(_Step(state, correction, predictor, knots))
        correction = correction_weights(path, i, used, predictor, variant)
    return plan


def _row(step: _Step, ratio: float) -> Row:
    correction, keep = step.correction, None
    if ratio != 1:
        newest, *older = interpolation(step.knots, ratio)
        keep = (0.0, newest, *older)
        # The correction's mean_i in terms of the y that is remembered.
        correction = _padded(correction, 3)
        correction[1:3] -= correction[0] / newest * np.array(older)
        correction[0] /= newest
    weights = _padded(step.state * correction, len(step.predictor))
    weights[: len(step.predictor)] += step.predictor
    return Row(step.state, tuple(weights.tolist()), keep=keep)


def _padded(weights: Array, length: int) -> Array:
    return np.pad(weights, (0, max(0, length - len(weights))))


def interpolation(knots: Sequence[float], ratio: Any) -> tuple[Any, ...]:
    """The weights, at ratio t_0 + (1 - ratio) t_1, of the polynomial through the times t_0, t_1, ..., newest first.

    ``ratio`` may be a number or a tensor, and the weights are of its kind.
    """
    at = ratio * knots[0] + (1 - ratio) * knots[1]
    return tuple(
        math.prod((at - other) / (knot - other) for j, other in enumerate(knots) if j != k)
        for k, knot in enumerate(knots)
    )


def check_ratios(ratios: Sequence[float]) -> None:
    """InputError unless the ratios are finite and positive, and the first two 1."""
    for i, ratio in enumerate(ratios):
        if not 0 < ratio < math.inf:
            raise InputError(f"ratios[{i}] must be a positive number, but is {ratio}.")
        if i < _UNCOMPENSATED and ratio != 1:
            raise InputError(f"ratios[{i}] must be 1, since no step before the third is compensated, but is {ratio}.")


# --- the search ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Compensation:
    """Ratios and what they were found for: the grid's times ``[steps + 1]``, and UniPC's order and variant."""

    times: tuple[float, ...]
    ratios: tuple[float, ...]
    order: int
    variant: Variant

    def __post_init__(self) -> None:
        check_times("times", self.times)
        check_ratios(self.ratios)
        if len(self.ratios) != len(self.times) - 1:
            raise InputError(f"ratios must be {len(self.times) - 1} numbers, one a step, but are {len(self.ratios)}.")
        if self.order < 1:
            raise InputError(f"order must be at least 1, but is {self.order}.")
        check_option("variant", self.variant, get_args(Variant))

    @property
    def grid(self) -> Tensor:
        """The times as a grid, float64 ``[steps + 1]``."""
        return torch.tensor(self.times, dtype=torch.float64)

    @property
    def solver(self) -> TableSolver:
        """The solver that was fitted, to be run on ``grid``."""
        return dc(self.ratios, self.order, self.variant)

    def to_json(self) -> dict[str, Any]:
        """Plain numbers and lists."""
        return {**vars(self), "times": list(self.times), "ratios": list(self.ratios)}

    @classmethod
    def from_json(cls, about: Mapping[str, Any]) -> Compensation:
        """What ``to_json`` gave; InputError naming the field that is missing or of another kind."""
        variant = check_option("variant", str(about.get("variant")), get_args(Variant))
        return cls(numbers(about, "times"), numbers(about, "ratios"), integer(about, "order"), cast("Variant", variant))


@torch.no_grad()
def fit_ratios(
    denoiser: Denoiser[Point],
    schedule: Schedule,
    x: Tensor,
    grid: Tensor,
    *,
    order: int = 3,
    variant: Variant = "bh2",
    teacher: Tensor | None = None,
    iterations: int = 40,
    rate: float = 0.1,
) -> Compensation:
    """Search the ratios one step after another (Zhao et al. 2024, algorithm 1), on the solver's own trajectory.

    Each ratio starts at 1 and takes ``iterations`` steps of AdamW of learning rate ``rate`` on the mean square distance
    between the corrected next state and the teacher's; the best of those tried is kept. The denoiser is
    differentiated, and evaluated about ``iterations`` times a step. ``x``: ``[batch, *event]`` at grid[0], about ten
    samples. ``teacher``: the states to reach, ``[steps + 1, batch, *event]``, from ``trajectory`` unless given.
    """
    grid = check_grid(grid)
    goals = trajectory(denoiser, schedule, x, grid) if teacher is None else teacher
    plan = _plan(schedule, grid, order, variant)
    times = grid.to(x.device).unbind()
    past: tuple[Tensor, ...] = ()
    ratios: list[float] = []
    for i, step in enumerate(plan):
        values = (denoiser(x, times[i]).mean, *past)
        x = _combine(x, step.correction, values)
        ratio = 1.0
        if step.knots:
            after = plan[i + 1] if i + 1 < len(plan) else None
            loss = partial(_missed, denoiser, step, after, x, values, times[i + 1], goals[i + 1])
            ratio = _search(loss, i, iterations, rate, x.device)
        x, past = _predicted(step, x, values, ratio)
        ratios.append(ratio)
    return Compensation(tuple(grid.tolist()), tuple(ratios), order, variant)


def _predicted(
    step: _Step, x: Tensor, values: tuple[Tensor, ...], ratio: float | Tensor
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """From the corrected x and (mean_i, y_{i-1}, ...): the next state, and (y_i, y_{i-1}, ...)."""
    if step.knots:
        weights = interpolation(step.knots, ratio)
        values = (weights[0] * values[0] + weights[1] * values[1] + weights[2] * values[2], *values[1:])
    return _combine(x * step.state, step.predictor, values), values


def _missed(
    denoiser: Denoiser[Point],
    step: _Step,
    after: _Step | None,
    x: Tensor,
    values: tuple[Tensor, ...],
    time: Tensor,
    goal: Tensor,
    ratio: Tensor,
) -> Tensor:
    """The mean square distance of the next state, once corrected, from the teacher's."""
    end, kept = _predicted(step, x, values, ratio)
    if after is not None:
        end = _combine(end, after.correction, (denoiser(end, time).mean, *kept))
    return (end - goal).pow(2).mean()


def _combine(x: Tensor, weights: Array, values: tuple[Tensor, ...]) -> Tensor:
    for weight, value in zip(weights.tolist(), values, strict=False):
        x = torch.add(x, value, alpha=weight)
    return x


def _search(loss: Callable[[Tensor], Tensor], i: int, iterations: int, rate: float, device: torch.device) -> float:
    """The ratio of lowest loss among those that the optimiser visits."""
    ratio = torch.ones((), dtype=torch.float64, device=device, requires_grad=True)
    optimizer = torch.optim.AdamW([ratio], lr=rate)
    best, lowest = 1.0, math.inf
    for _ in range(iterations):
        with torch.enable_grad():
            value = loss(ratio)
            optimizer.zero_grad()
            value.backward()
        found = float(value)
        if not math.isfinite(found):
            raise FloatingPointError(f"the search of step {i + 1} met a non-finite loss at ratio {float(ratio):g}")
        if found < lowest:
            best, lowest = float(ratio), found
        optimizer.step()
        ratio.clamp_(min=_SMALLEST)
    return best


# --- ratios without a search --------------------------------------------------------------------------------


@dataclass(frozen=True)
class RatioPolynomial:
    r"""Ratios for any guidance scale and number of steps N (cascade polynomial regression, Zhao et al. 2024).

    ratio_i = sum_{p,q,r <= 2} a_pqr ((i + 1) / N)^p (scale / 12)^q (N / 50)^r for the steps i = 2, ..., N - 1.

    ``coefficients``: a, ``[3, 3, 3]``.
    """

    coefficients: tuple[tuple[tuple[float, ...], ...], ...]

    def __post_init__(self) -> None:
        if np.shape(np.array(self.coefficients, dtype=object)) != (3, 3, 3):
            raise InputError("coefficients must be 3 x 3 x 3 numbers.")

    def ratios(self, scale: float, steps: int) -> tuple[float, ...]:
        """The ratios of a run, positive whatever the polynomial says."""
        a = np.array(self.coefficients)
        by_step = a @ _powers(steps / _STEPS_UNIT) @ _powers(scale / _SCALE_UNIT)
        searched = [(i + 1) / steps for i in range(_UNCOMPENSATED, steps)]
        values = [max(float(by_step @ _powers(at)), _SMALLEST) for at in searched]
        return (*(1.0,) * min(_UNCOMPENSATED, steps), *values)

    def to_json(self) -> dict[str, Any]:
        """The coefficients as nested lists."""
        return {"coefficients": np.array(self.coefficients).tolist()}

    @classmethod
    def from_json(cls, about: Mapping[str, Any]) -> RatioPolynomial:
        """What ``to_json`` gave; InputError naming the field that is missing or of another kind."""
        planes: list[tuple[tuple[float, ...], ...]] = []
        for p, plane in enumerate(sequence(about, "coefficients")):
            name = f"coefficients[{p}]"
            rows = sequence({name: plane}, name)
            planes.append(tuple(numbers({f"{name}[{q}]": row}, f"{name}[{q}]") for q, row in enumerate(rows)))
        return cls(tuple(planes))


def fit_polynomial(runs: Mapping[tuple[float, int], Sequence[float]]) -> RatioPolynomial:
    """Fit the polynomial to searched ratios, ``{(scale, steps): ratios}``.

    In a cascade: a quadratic in the step for each run, each of its coefficients a quadratic in the scale for each
    number of steps, each of those a quadratic in the number of steps. Where there are fewer than three points, the
    degree is one less than their number. Runs need at least three steps: InputError.
    """
    if not runs:
        raise InputError("runs must be at least one searched run, but are none.")
    by_steps: dict[int, dict[float, Array]] = {}
    for (scale, steps), ratios in runs.items():
        if len(ratios) != steps or steps <= _UNCOMPENSATED:
            raise InputError(f"the run of scale {scale:g} must have {max(steps, 3)} ratios, but has {len(ratios)}.")
        at = (np.arange(_UNCOMPENSATED, steps) + 1) / steps
        by_steps.setdefault(steps, {})[scale] = _quadratic(at, np.array(ratios[_UNCOMPENSATED:]))
    of_scale = {
        steps: _quadratic(np.array(list(fits)) / _SCALE_UNIT, np.stack(list(fits.values())))
        for steps, fits in by_steps.items()
    }
    powers = _quadratic(np.array(list(of_scale)) / _STEPS_UNIT, np.stack(list(of_scale.values())))
    # From [power of N, power of scale, power of step].
    return RatioPolynomial(tuple(tuple(tuple(row) for row in plane) for plane in powers.transpose(2, 1, 0).tolist()))


def _powers(value: float) -> Array:
    return np.array([1.0, value, value**2])


def _quadratic(at: Array, values: Array) -> Array:
    """Coefficients, constant first, ``[3, *]``, of the quadratics fitted to ``values`` ``[n, *]``."""
    degree = min(2, len(at) - 1)
    fitted = np.polynomial.polynomial.polyfit(at, values.reshape(len(at), -1), degree)
    padded = np.zeros((3, fitted.shape[1]))
    padded[: degree + 1] = fitted
    return padded.reshape(3, *values.shape[1:])
