r"""Guidance that stops paying for itself: fewer evaluations of the unconditional model (Castillo et al. 2023).

As the noise falls, the two noise predictions of classifier-free guidance become alike. ``Adaptive`` guides a sample
until the cosine between them has passed a threshold and uses the conditional answer alone afterwards. ``Linear``
keeps the guidance but replaces eps_u in chosen steps by a fixed combination of values it has,

    eps_u,i = sum_{j <= i} a_ij eps_c,j + sum_{j < i} b_ij eps_u,j,

with a few numbers a step, fitted once on a few trajectories by ``fit_linear``. Both wrap any solver.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from degauss.core.denoiser import Denoiser, expand
from degauss.core.errors import InputError
from degauss.core.guide.classifier_free import Answers, Contrast, Scale, extrapolated, within
from degauss.core.noise import Noise
from degauss.core.posterior import Point
from degauss.core.sampling import Solver
from degauss.core.schedule import Schedule


class AdaptiveCarry(NamedTuple):
    """What an observer can read of a run of ``Adaptive``.

    ``watched``: in which steps the cosine counts.
    ``guided``: which samples are still guided, bool ``[batch]``; ``any_guided``: the same in one word, on the host.
    ``evaluations``: what has been evaluated so far, in rows for each sample of the batch (two for both answers).
    ``alone``: what each sample would have cost in a batch of its own, ``[batch]``.
    """

    inner: Any
    watched: tuple[bool, ...]
    guided: Tensor
    any_guided: bool
    evaluations: int
    alone: Tensor


@dataclass(frozen=True)
class Adaptive:
    """Adaptive Guidance: a sample is guided until the cosine of eps_c and eps_u exceeds ``threshold``, and not after.

    ``denoiser`` is the conditional answer alone, ``contrast`` gives both. ``below``: the noise level sigma / alpha from
    which on the cosine counts. The published rule is ``below=inf``; but in almost pure noise both predictions are the
    state itself and their cosine is 1, so that a run that starts there would never be guided at all. The threshold for
    images is about 0.99; other data needs its own. One above 1 is guidance throughout, one below -1 none from ``below``
    on.

    The *decision* is each sample's own, so a sample does not depend on its batch; evaluations are *saved* once all
    samples of the batch have decided. For that the host reads one flag after each watched step that was guided: on a
    GPU, the price of saving anything at all.
    """

    denoiser: Denoiser[Point]
    schedule: Schedule
    contrast: Contrast
    solver: Solver
    scale: Scale
    threshold: float = 0.99
    below: float = 1.0

    def init(self, x: Tensor, grid: Tensor, /) -> AdaptiveCarry:
        inner = self.solver(self.denoiser, self.schedule).init(x, grid)
        guided = torch.ones(len(x), dtype=torch.bool, device=x.device)
        watched = within(self.schedule, grid, 0.0, self.below)
        return AdaptiveCarry(inner, watched, guided, True, 0, torch.zeros_like(guided, dtype=torch.long))

    def step(self, carry: AdaptiveCarry, x: Tensor, i: int, noise: Noise, /) -> tuple[AdaptiveCarry, Tensor]:
        watched, guided, evaluations, alone = carry.watched[i], carry.guided, carry.evaluations, carry.alone

        def both(x: Tensor, t: Tensor, /, **cond: Any) -> Point:
            nonlocal guided, evaluations, alone
            answers = self.contrast(x, t, **cond)
            evaluations, alone = evaluations + 2, alone + 1 + carry.guided
            if watched:
                guided = guided & (_cosine(self.schedule, answers, x, t) <= self.threshold)
            mask = guided.reshape(-1, *(1,) * (x.ndim - 1))
            return Point(torch.where(mask, extrapolated(answers, self.scale), answers.strong))

        def strong(x: Tensor, t: Tensor, /, **cond: Any) -> Point:
            nonlocal evaluations, alone
            evaluations, alone = evaluations + 1, alone + 1
            return self.denoiser(x, t, **cond)

        kernel = self.solver(both if carry.any_guided else strong, self.schedule)
        inner, x = kernel.step(carry.inner, x, i, noise)
        any_guided = carry.any_guided and (not watched or bool(guided.any()))
        return AdaptiveCarry(inner, carry.watched, guided, any_guided, evaluations, alone), x


def _eps(schedule: Schedule, mean: Tensor, x: Tensor, t: Tensor) -> Tensor:
    alpha, sigma = (expand(scale, x) for scale in schedule(t))
    return (x - alpha * mean) / sigma


def _cosine(schedule: Schedule, answers: Answers, x: Tensor, t: Tensor) -> Tensor:
    """The cosine of the two noise predictions, ``[batch]``; not differentiated."""
    with torch.no_grad():
        strong, weak = (_eps(schedule, mean, x, t).flatten(1) for mean in answers)
        return cosine_similarity(strong, weak)


class Combination(NamedTuple):
    """eps_u of one step from the values so far, newest first: ``strong`` weighs eps_c from this step's on."""

    strong: tuple[float, ...]
    weak: tuple[float, ...]


@dataclass(frozen=True)
class LinearPlan:
    """For each step either how eps_u is combined, or None where it is evaluated, as it must be in the first."""

    scale: float
    steps: tuple[Combination | None, ...]

    def __post_init__(self) -> None:
        for i, row in enumerate(self.steps):
            wanted = None if i == 0 else (i + 1, i)
            if row is not None and (len(row.strong), len(row.weak)) != wanted:
                raise InputError(f"step {i} of a linear plan must weigh (eps_c, eps_u) of {wanted} steps, not {row}.")
            if row is not None and not all(map(math.isfinite, row.strong + row.weak)):
                raise InputError(f"step {i} of a linear plan has weights that are not finite: {row}.")

    def to_json(self) -> dict[str, Any]:
        """The plan as a JSON object."""
        steps = [row and {"strong": [*row.strong], "weak": [*row.weak]} for row in self.steps]
        return {"scale": self.scale, "steps": steps}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> LinearPlan:
        """The plan that ``to_json`` wrote. Raises InputError where it is not one."""
        try:
            rows = cast("Sequence[Mapping[str, Any] | None]", body["steps"])
            return cls(float(body["scale"]), tuple(None if row is None else _combination(row) for row in rows))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"this is not a plan of linear guidance ({error}).") from error


def _combination(row: Mapping[str, Any]) -> Combination:
    return Combination(tuple(map(float, row["strong"])), tuple(map(float, row["weak"])))


class LinearCarry(NamedTuple):
    """The wrapped solver's carry, and eps_c and eps_u of all steps so far, newest first."""

    inner: Any
    strong: tuple[Tensor, ...]
    weak: tuple[Tensor, ...]
    evaluations: int


@dataclass(frozen=True)
class Linear:
    """LinearAG: guidance in every step, eps_u evaluated only where the plan says so, else combined.

    ``denoiser`` is the conditional answer alone, ``contrast`` gives both. The solver must evaluate once a step (as any
    table method does) and take as many steps as the plan; raises ValueError and InputError.
    """

    denoiser: Denoiser[Point]
    schedule: Schedule
    contrast: Contrast
    solver: Solver
    plan: LinearPlan

    def init(self, x: Tensor, grid: Tensor, /) -> LinearCarry:
        if len(grid) - 1 != len(self.plan.steps):
            raise InputError(f"the plan is for {len(self.plan.steps)} steps, but the grid has {len(grid) - 1}.")
        return LinearCarry(self.solver(self.denoiser, self.schedule).init(x, grid), (), (), 0)

    def step(self, carry: LinearCarry, x: Tensor, i: int, noise: Noise, /) -> tuple[LinearCarry, Tensor]:
        row, scale = self.plan.steps[i], self.plan.scale
        strong, weak = carry.strong, carry.weak

        def denoiser(x: Tensor, t: Tensor, /, **cond: Any) -> Point:
            nonlocal strong, weak
            if len(strong) > i:
                raise ValueError("linear guidance needs a solver that evaluates the model once a step")
            if row is None:
                answers = self.contrast(x, t, **cond)
                weak = (_eps(self.schedule, answers.weak, x, t), *weak)
                strong = (_eps(self.schedule, answers.strong, x, t), *strong)
                return Point(extrapolated(answers, scale))
            mean = self.denoiser(x, t, **cond).mean
            strong = (_eps(self.schedule, mean, x, t), *strong)
            eps = _combined(row, strong, weak)
            weak = (eps, *weak)
            alpha, sigma = (expand(scale, x) for scale in self.schedule(t))
            return Point(extrapolated(Answers(mean, (x - sigma * eps) / alpha), scale))

        inner, x = self.solver(denoiser, self.schedule).step(carry.inner, x, i, noise)
        return LinearCarry(inner, strong, weak, carry.evaluations + (2 if row is None else 1)), x


def _combined(row: Combination, strong: tuple[Tensor, ...], weak: tuple[Tensor, ...]) -> Tensor:
    out = strong[0] * row.strong[0]
    for weight, value in zip(row.strong[1:] + row.weak, strong[1:] + weak, strict=True):
        out = torch.add(out, value, alpha=weight)
    return out


class LinearFit(NamedTuple):
    """A plan, and for each step of it the error on trajectories it was not fitted to.

    ``error``: RMS of (eps_u combined - eps_u) over RMS of (eps_c - eps_u); 0 where eps_u is evaluated. At 1 the
    combination is no better than no guidance.
    """

    plan: LinearPlan
    error: tuple[float, ...]


def every_other_then_none(steps: int) -> tuple[int, ...]:
    """The paper's choice of where to evaluate eps_u: every second step of the first half, then never again."""
    return tuple(range(0, max(steps // 2, 1), 2))


def fit_linear(
    denoiser: Denoiser[Point],
    schedule: Schedule,
    contrast: Contrast,
    solver: Solver,
    scale: float,
    x: Tensor,
    grid: Tensor,
    noise: Noise,
    *,
    evaluate: Sequence[int],
    held_out: float = 0.25,
    ridge: float = 1e-6,
) -> LinearFit:
    """The plan of ``Linear`` by least squares, step after step, on the trajectories that it then takes itself.

    ``x``: starting states ``[batch, *event]``, of which the last part ``held_out`` is kept for the error. ``evaluate``:
    the steps in which eps_u is evaluated, 0 among them. ``ridge``: the pull, relative to the mean square of the
    values, towards the guess that eps_c - eps_u stays as it was: past values are nearly collinear. Costs guided
    sampling once over, with one more evaluation of both answers in each fitted step. Raises InputError for a first
    step that is not evaluated, or without a trajectory on either side.
    """
    kept = len(x) - round(held_out * len(x))
    if not 0 < kept < len(x):
        raise InputError(f"of {len(x)} trajectories a part of {held_out} held out leaves {kept} to fit; both need one.")
    if 0 not in evaluate:
        raise InputError(f"eps_u must be evaluated in step 0, but only in {sorted(evaluate)}.")
    rows: list[Combination | None] = []
    errors: list[float] = []
    carry = LinearCarry(solver(denoiser, schedule).init(x, grid), (), (), 0)
    with torch.no_grad():
        for i in range(len(grid) - 1):
            if i in evaluate:
                rows.append(None)
                errors.append(0.0)
            else:
                time = grid[i].to(x.device)
                strong, target = (_eps(schedule, mean, x, time) for mean in contrast(x, time))
                values = (strong, *carry.strong, *carry.weak)
                row = _least_squares([value[:kept] for value in values], target[:kept], i, ridge)
                rows.append(row)
                guess = _combined(row, values[: i + 1], carry.weak)
                wrong, whole = (guess - target)[kept:], (strong - target)[kept:]
                errors.append(float(wrong.norm() / whole.norm().clamp(min=torch.finfo(x.dtype).tiny)))
            method = Linear(denoiser, schedule, contrast, solver, LinearPlan(scale, tuple(rows)))
            carry, x = method.step(carry, x, i, noise)
    return LinearFit(LinearPlan(scale, tuple(rows)), tuple(errors))


def _least_squares(values: Sequence[Tensor], target: Tensor, i: int, ridge: float) -> Combination:
    design = torch.stack([value.double().flatten() for value in values], 1)
    guess = torch.zeros_like(design[0])
    guess[0], guess[1], guess[i + 1] = 1, -1, 1
    gram = design.T @ design
    damped = gram + ridge * gram.diagonal().mean() * torch.eye(len(guess)).to(gram)
    change = torch.linalg.solve(damped, design.T @ (target.double().flatten() - design @ guess))
    weights = (guess + change).tolist()
    return Combination(tuple(weights[: i + 1]), tuple(weights[i + 1 :]))
