r"""Shallow diffusion: the reverse process started part of the way, from a mel that is nearly right.

Noise hides detail first. At a time t_K the noised mel of a blurred decoder, alpha M~ + sigma eps, can hardly be told
from that of a real recording, alpha M + sigma eps, so the reverse process may start there, from

    x = alpha(t_K) M~ + sigma(t_K) eps,    eps ~ N(0, I),

and only detail is left for it to make (Liu et al. 2022, "DiffSinger", section 3.2 and algorithm 2). Any solver of the
core runs from t_K to 0, on evenly spaced times. t_K = 1 starts from noise alone where alpha(1) = 0, which is plain
sampling to the bit; t_K = 0 is the decoder's mel itself.

What t_K should be is asked of a *boundary*, a callable of the condition and the auxiliary mel: `at_index` for the
published way of giving it (K of T steps), `at_time`, or one that was fitted (`degauss.audio.boundary`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from degauss.audio.acoustic import AcousticModel, frames_of
from degauss.core.denoiser import Denoiser
from degauss.core.errors import InputError, check_range
from degauss.core.kernel import Observer, simulate
from degauss.core.noise import Noise
from degauss.core.posterior import Point
from degauss.core.sampling import Solver
from degauss.core.schedule import Schedule

Boundary = Callable[[Tensor, Tensor], Tensor | float]
"""(condition ``[b, hidden, n]``, auxiliary mel ``[b, mels, n]``) -> t_K in [0, 1], one for all or ``[b]``."""


def at_time(t: float) -> Boundary:
    """Always the same time; `InputError` unless it is in [0, 1]."""
    check_range("boundary", t, 0, 1)
    return lambda condition, auxiliary: t


def at_index(k: int, steps: int = 100) -> Boundary:
    """After K of T ``steps``, as the paper counts them; `InputError` unless K is in 0, ..., T."""
    check_range("K", k, 0, steps)
    return at_time(k / steps)


def start(schedule: Schedule, auxiliary: Tensor, t: float, noise: Noise) -> Tensor:
    """The auxiliary mel noised to the time t, in its own shape."""
    alpha, sigma = schedule(torch.tensor(t, dtype=torch.float64))
    return float(alpha) * auxiliary + float(sigma) * noise.normal(auxiliary)


def shallow(
    denoiser: Denoiser[Point],
    schedule: Schedule,
    auxiliary: Tensor,
    t: float,
    *,
    solver: Solver,
    steps: int,
    noise: Noise,
    observe: Iterable[Observer] = (),
) -> Tensor:
    """One run from the noised ``auxiliary [b, *event]`` at t to 0, in ``steps`` steps; at t = 0 it is given back.

    Raises `InputError` for a solver that cannot start there: at t = 1 some cannot, as alpha is 0.
    """
    check_range("steps", steps, 1)
    if t == 0:
        return auxiliary
    grid = torch.linspace(t, 0, steps + 1, dtype=torch.float64)
    kernel = solver(denoiser, schedule)
    x = start(schedule, auxiliary, t, noise)
    try:
        kernel.init(x, grid)
    except ValueError as error:
        raise InputError(f"the solver cannot start at t = {t:g}: {error}.") from None
    return simulate(kernel, x, grid, noise, observe=observe)


class Drawn(NamedTuple):
    """Mels ``[b, mels, n]`` in model units, zero beyond the end of a row; for each row t_K and the evaluations of the
    denoiser.
    """

    mel: Tensor
    times: tuple[float, ...]
    evaluations: tuple[int, ...]


@dataclass
class Counted:
    """A denoiser that counts how often it was asked."""

    denoiser: Denoiser[Point]
    report: Callable[[int], None] | None = None
    evaluations: int = 0

    def __call__(self, x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        self.evaluations += 1
        if self.report is not None:
            self.report(self.evaluations)
        return self.denoiser(x, t, **cond)


@torch.no_grad()
def draw(
    model: AcousticModel,
    condition: Tensor,
    boundary: Boundary,
    *,
    solver: Solver,
    steps: int | None = None,
    seed: int = 0,
    samples: Sequence[int] | None = None,
    report: Callable[[int], None] | None = None,
) -> Drawn:
    """A mel for each row of a condition ``[b, hidden, n]``.

    ``steps``: of the solver; None is the paper's choice, each of the K steps of T up to t_K. ``samples``: the ids of
    the rows, 0, 1, ... unless given. Each row is run by itself at its own length, so it does not depend on the others,
    on padding least of all. ``report`` is told the evaluations done of a row. Raises `InputError` if sampling diverges.
    """
    inside = frames_of(condition)
    rows: list[Tensor] = []
    times: list[float] = []
    counts: list[int] = []
    for row, sample in enumerate(range(len(condition)) if samples is None else samples):
        told = condition[row : row + 1, :, : int(inside[row].sum())]
        auxiliary = model.auxiliary(told)
        t = float(boundary(told, auxiliary))
        check_range("boundary", t, 0, 1)
        counted = Counted(model.denoiser(told), report)
        mel = shallow(
            counted,
            model.schedule,
            auxiliary,
            t,
            solver=solver,
            steps=max(1, round(t * model.config.steps)) if steps is None else steps,
            noise=Noise(seed, [sample]),
        )
        if not bool(torch.isfinite(mel).all()):
            raise InputError("sampling diverged: the mel is not finite; expected another solver or more steps.")
        rows.append(torch.nn.functional.pad(mel[0], (0, condition.shape[2] - mel.shape[2])))
        times.append(t)
        counts.append(counted.evaluations)
    return Drawn(torch.stack(rows), tuple(times), tuple(counts))
