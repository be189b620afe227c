r"""Empirical model statistics: what DPM-Solver-v3 knows of a model before it takes a step (Zheng et al. 2023).

Write y = x / alpha, lam = log(alpha / sigma) and D for the posterior mean. The probability-flow ODE is
dy/dlam = D - y, and it is split as

    dy/dlam = -(l y + f),    f = (1 - l) y - D    (the paper's N / alpha, N = sigma eps - l x),

where l(lam), a number for each coordinate of the data, is chosen so that f depends on y as little as possible, and f
is predicted from its own value by the best line, df/dlam ~ s f + b along the flow:

    l = E[1 - dD_j/dy_j],    s = Cov(f, f') / Var(f),    b = E[f'] - s E[f],

all expectations over the noised data y = x0 + e^{-lam} eps at each lam. Every solver of exponential kind is one choice
of these: DPM-Solver++ is (l, s, b) = (1, 0, 0) and DPM-Solver is (0, -1, 0). In y and lam they are properties of the
model and its data, not of the schedule, so statistics measured on one schedule serve the same model on another.

``measure_statistics`` measures them, the code that the paper's authors did not publish. The derivative of the mean is
taken by autograd, exactly or with random signs; the derivative of f along the flow by central differences, which only
asks for three evaluations, whatever the network is made of. All levels see the same data, noises and signs, so that
errors of sampling vary slowly with lam and l can be differentiated.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path as FilePath
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from degauss.core.checkpoint import FORMAT_VERSION, read_header
from degauss.core.denoiser import Denoiser
from degauss.core.errors import InputError
from degauss.core.fields import expect
from degauss.core.files import atomic_path, write_json
from degauss.core.gaussian.exponential import dpmpp
from degauss.core.gaussian.unipc import unipc
from degauss.core.grid import check_grid, uniform_log_snr
from degauss.core.kernel import simulate
from degauss.core.noise import Noise
from degauss.core.posterior import Point
from degauss.core.sampling import Solver
from degauss.core.schedule import Schedule

KIND = "degauss.core/model-statistics"

# A cubic spline through fewer points has no "not a knot" ends.
_FEWEST_LEVELS = 4

# Where f varies less than this share of the mean's standard deviation, its slope is rounding: s goes to 0.
_NEGLIGIBLE = 1e-3


class Values(NamedTuple):
    """l, s and b at some lam, and their derivatives in lam, each ``[points, *shape]``."""

    l: Tensor  # noqa: E741  (the paper's letter)
    s: Tensor
    b: Tensor
    dl: Tensor
    ds: Tensor
    db: Tensor


@dataclass(frozen=True, eq=False)
class ModelStatistics:
    """l, s and b of a model along lam = log(alpha / sigma), cubic splines between the levels.

    ``lam``: ``[cells + 1]``, increasing, at least four. ``l``, ``s``, ``b``: ``[cells + 1, *shape]`` each, where
    ``shape`` is the event's, with 1 for each axis that was pooled; then they serve any length of that axis. b has the
    units of the data. All float64 on the host. ``model``: a name or fingerprint of the model, for its owner to compare.
    Raises ValueError for anything else, and for numbers that are not finite.
    """

    lam: Tensor
    l: Tensor  # noqa: E741
    s: Tensor
    b: Tensor
    model: str = ""

    def __post_init__(self) -> None:
        tensors = {"lam": self.lam, "l": self.l, "s": self.s, "b": self.b}
        for name, value in tensors.items():
            if value.dtype != torch.float64 or value.device.type != "cpu":
                raise ValueError(f"{name} must be float64 on the host, but is {value.dtype} on {value.device}")
            if not bool(torch.isfinite(value).all()):
                raise ValueError(f"{name} must be finite, but holds NaN or infinity")
        if self.lam.ndim != 1 or len(self.lam) < _FEWEST_LEVELS or not bool((self.lam.diff() > 0).all()):
            raise ValueError(f"lam must be {_FEWEST_LEVELS} or more increasing numbers, got {tuple(self.lam.shape)}")
        if not self.l.shape == self.s.shape == self.b.shape or self.l.shape[:1] != self.lam.shape:
            found = {name: tuple(value.shape) for name, value in tensors.items()}
            raise ValueError(f"l, s and b must have one shape, [len(lam), *event], got {found}")

    @property
    def shape(self) -> tuple[int, ...]:
        """The event's shape, with 1 for pooled axes."""
        return tuple(self.l.shape[1:])

    @property
    def cells(self) -> int:
        """How many intervals lam is divided in."""
        return len(self.lam) - 1

    def grid(self, schedule: Schedule, steps: int) -> Tensor:
        """Times uniform in log-SNR over the whole range that was measured: a grid function for ``sample``."""
        ends = schedule.time(2 * self.lam[[0, -1]]).tolist()
        return uniform_log_snr(schedule, steps, start=ends[0], end=ends[1])

    def at(self, lam: Tensor) -> Values:
        """The splines at lam ``[points]`` inside the range."""
        index = torch.searchsorted(self.lam, lam.contiguous(), right=True).clamp(1, self.cells)
        left, right = index - 1, index
        span = self.lam[right] - self.lam[left]
        u, span = (_column(value, self._values) for value in ((lam - self.lam[left]) / span, span))
        v, rise = self._values[left], self._values[right] - self._values[left]
        first, last = span * self._slopes[left], span * self._slopes[right]
        square, cube = 3 * rise - 2 * first - last, first + last - 2 * rise
        value = v + u * (first + u * (square + u * cube))
        slope = (first + u * (2 * square + 3 * u * cube)) / span
        return Values(*value.unbind(1), *slope.unbind(1))

    @cached_property
    def _values(self) -> Tensor:
        return torch.stack([self.l, self.s, self.b], 1)

    @cached_property
    def _slopes(self) -> Tensor:
        return spline_slopes(self.lam, self._values)

    def to_json(self) -> dict[str, Any]:
        """Plain nested lists of numbers, exact to the last bit."""
        tensors = {"lam": self.lam, "l": self.l, "s": self.s, "b": self.b}
        return {"model": self.model, **{name: value.tolist() for name, value in tensors.items()}}

    @classmethod
    def from_json(cls, about: Mapping[str, Any]) -> ModelStatistics:
        """What ``to_json`` gave; InputError naming the field that is missing or of another kind."""
        model = about.get("model")
        expect("model", isinstance(model, str), "a string", f"{model!r}")
        lam, l, s, b = (_numbers(about, name) for name in ("lam", "l", "s", "b"))  # noqa: E741
        try:
            return cls(lam, l, s, b, cast("str", model))
        except ValueError as error:
            raise InputError(f"these are no usable statistics: {error}.") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the statistics as JSON, whole or not at all."""
        with atomic_path(path) as partial:
            write_json(partial, {"format": KIND, "format_version": FORMAT_VERSION, **self.to_json()})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ModelStatistics:
        """Read what ``save`` wrote, to the last bit. Raises InputError for a file that is missing or is not that."""
        path = FilePath(path)
        about = read_header(path, KIND)
        try:
            return cls.from_json(about)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error


def _numbers(about: Mapping[str, Any], field: str) -> Tensor:
    expect(field, field in about, "nested lists of numbers of one shape", "missing")
    try:
        return torch.tensor(about[field], dtype=torch.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{field} must be nested lists of numbers of one shape, but is not ({error}).") from error


def _column(values: Tensor, like: Tensor) -> Tensor:
    """A number for each row of ``like``, ready to multiply it."""
    return values.reshape(-1, *(1,) * (like.ndim - 1))


def spline_slopes(knots: Tensor, values: Tensor) -> Tensor:
    """The derivatives at the knots of the cubic spline through ``values`` ``[n, ...]``, "not a knot" at both ends.

    knots: ``[n]``, n >= 4, increasing. The error is O(h^4), at the ends too.
    """
    n, h = len(knots), knots.diff()
    chord = values.diff(dim=0) / _column(h, values)
    system = torch.zeros(n, n, dtype=knots.dtype)
    inside = torch.arange(1, n - 1)
    system[inside, inside - 1] = h[1:]
    system[inside, inside] = 2 * (h[:-1] + h[1:])
    system[inside, inside + 1] = h[:-1]
    right = torch.empty_like(values)
    right[1:-1] = 3 * (_column(h[1:], values) * chord[:-1] + _column(h[:-1], values) * chord[1:])
    # The third derivative does not jump at the second knot and at the last but one.
    for end, near, (a, b), (outer, inner) in ((0, 1, h[:2], chord[:2]), (-1, -2, h[-2:].flip(0), chord[-2:].flip(0))):
        system[end, end], system[end, near] = b, a + b
        right[end] = ((3 * a + 2 * b) * b * outer + a**2 * inner) / (a + b)
    return torch.linalg.solve(system, right.flatten(1)).reshape(values.shape)


# --- measuring ----------------------------------------------------------------------------------------------

Diagonal = Callable[[Tensor, Tensor, Noise], Tensor]
"""(output, input, noise) -> d output_j / d input_j for every coordinate j, all ``[batch, *event]``."""


def exact_diagonal(output: Tensor, at: Tensor, noise: Noise) -> Tensor:
    """The diagonal of the Jacobian, one backward pass for each coordinate of an event."""
    del noise
    flat = output.flatten(1)
    columns = [_pullback(flat[:, j].sum(), at).flatten(1)[:, j] for j in range(flat.shape[1])]
    return torch.stack(columns, 1).reshape(output.shape)


@dataclass(frozen=True)
class Signs:
    """The diagonal estimated as the mean of v (J^T v) over ``probes`` random sign vectors v (Hutchinson 1989).

    Unbiased, and exact where the Jacobian is diagonal. The probes of a sample are keyed by its id.
    """

    probes: int = 1

    def __call__(self, output: Tensor, at: Tensor, noise: Noise) -> Tensor:
        total = torch.zeros_like(at)
        for probe in range(self.probes):
            v = noise.normal(output.detach(), draw=_PROBES + probe).sign()
            total = total + v * _pullback((output * v).sum(), at)
        return total / self.probes


# Draw 0 is the noise in the data.
_PROBES = 1


def _pullback(value: Tensor, at: Tensor) -> Tensor:
    return torch.autograd.grad(value, at, retain_graph=True)[0]


def measure_statistics(
    denoiser: Denoiser[Point],
    schedule: Schedule,
    data: Tensor,
    noise: Noise,
    *,
    start: float = 1.0,
    end: float = 1e-3,
    cells: int = 200,
    diagonal: Diagonal = Signs(),
    pool: Sequence[int] = (),
    batch: int = 256,
    model: str = "",
) -> ModelStatistics:
    """Measure l, s and b of a denoiser at ``cells`` + 1 levels from time ``start`` to ``end``, uniform in log-SNR.

    ``data``: clean samples ``[n, *event]`` in the units of the model, float32 or float64; where there are none, samples
    drawn from the model. The paper takes n = 1024 and more. ``noise``: keyed for those n; a solver must be judged on
    other noise than its statistics were measured on (``held_out_errors``). ``pool``: axes of the event (0 is its first)
    along which the statistics are the same, such as time or position: they become as small as what is left. Evaluates
    the denoiser 3 n (cells + 1) times, ``batch`` samples at once, and once backward for each probe of ``diagonal``.
    A conditional denoiser is measured with its condition bound.

    Raises InputError for data or axes that do not fit, FloatingPointError where the denoiser is not finite.
    """
    dims = _pooled_dims(data, noise, pool)
    if cells < _FEWEST_LEVELS - 1:
        raise InputError(f"cells must be at least {_FEWEST_LEVELS - 1}, but is {cells}.")
    lam = 0.5 * schedule.log_snr(uniform_log_snr(schedule, cells, start=start, end=end))
    model_at = _ModelAt(denoiser, schedule, diagonal)
    levels: list[_Moments] = []
    for level in lam.tolist():
        moments = _level_moments(model_at, level, (float(lam[0]), float(lam[-1])), data, noise, dims, batch)
        if not all(bool(torch.isfinite(value).all()) for value in moments):
            raise FloatingPointError(f"the denoiser gave non-finite values at log-SNR {2 * level:.4g}")
        levels.append(moments)
    return _fit(lam, _Moments(*map(torch.stack, zip(*levels, strict=True))), model)


def _pooled_dims(data: Tensor, noise: Noise, pool: Sequence[int]) -> tuple[int, ...]:
    """The dimensions of ``data`` to average over: the batch, and the pooled axes of the event."""
    if data.dtype not in (torch.float32, torch.float64):
        raise InputError(f"data must be float32 or float64 to be differentiated, but is {data.dtype}.")
    if len(data) < 2:
        raise InputError(f"data must hold at least 2 samples, but holds {len(data)}.")
    if len(data) != len(noise.samples):
        raise ValueError(f"noise is keyed for {len(noise.samples)} samples, but data holds {len(data)}")
    for axis in pool:
        if not 0 <= axis < data.ndim - 1:
            raise InputError(f"pool must name axes 0 to {data.ndim - 2} of the event, but names {axis}.")
    return (0, *(axis + 1 for axis in pool))


class _Moments(NamedTuple):
    """Averages over data at one level, or stacked over levels: the gain dD_j/dy_j ``[*shape]``, and the first and
    second moments of (y, D, dD/dlam along the flow), ``[3, *shape]`` and ``[3, 3, *shape]``."""

    gain: Tensor
    first: Tensor
    second: Tensor


@dataclass(frozen=True)
class _ModelAt:
    """The posterior mean as a function of y = x / alpha and lam."""

    denoiser: Denoiser[Point]
    schedule: Schedule
    diagonal: Diagonal

    def mean(self, y: Tensor, lam: float) -> Tensor:
        time = self.schedule.time(torch.tensor(2 * lam, dtype=torch.float64)).clamp(0, 1)
        return self.denoiser(y * float(self.schedule(time).alpha), time.to(y.device)).mean

    def mean_and_gain(self, y: Tensor, lam: float, noise: Noise) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            at = y.detach().requires_grad_(True)
            mean = self.mean(at, lam)
            return mean.detach(), self.diagonal(mean, at, noise).detach()


@torch.no_grad()
def _level_moments(
    model: _ModelAt,
    lam: float,
    ends: tuple[float, float],
    data: Tensor,
    noise: Noise,
    dims: tuple[int, ...],
    batch: int,
) -> _Moments:
    # The usual step of a central difference; at the ends of the range it is one-sided.
    h = torch.finfo(data.dtype).eps ** (1 / 3)
    low, high = max(lam - h, ends[0]), min(lam + h, ends[1])
    total: _Moments | None = None
    for begin in range(0, len(data), batch):
        rows = range(begin, min(begin + batch, len(data)))
        keyed = noise.take(rows)
        x0 = data[begin : rows.stop].detach()
        y = x0 + math.exp(-lam) * keyed.normal(x0)
        mean, gain = model.mean_and_gain(y, lam, keyed)
        flow = mean - y
        before, after = (model.mean(y + (level - lam) * flow, level) for level in (low, high))
        part = _average(gain, torch.stack([y, mean, (after - before) / (high - low)]), dims, len(rows) / len(data))
        total = part if total is None else _Moments(*(a + b for a, b in zip(total, part, strict=True)))
    assert total is not None
    return total


def _average(gain: Tensor, numbers: Tensor, dims: tuple[int, ...], share: float) -> _Moments:
    """gain ``[batch, *event]``, numbers ``[3, batch, *event]``; ``share``: how much of the data this batch is."""

    def over(values: Tensor, leading: int) -> Tensor:
        mean = values.mean([dim + leading for dim in dims], keepdim=True).squeeze(leading)
        return (share * mean).cpu()

    numbers = numbers.double()
    return _Moments(over(gain.double(), 0), over(numbers, 1), over(numbers[:, None] * numbers, 2))


def _fit(lam: Tensor, moments: _Moments, model: str) -> ModelStatistics:
    """l from the gain; s and b as the least-squares line through (f, f'), both linear in (y, D, dD/dlam)."""
    gain, first, second = moments
    dl = spline_slopes(lam, 1 - gain)
    one, zero = torch.ones_like(gain), torch.zeros_like(gain)
    f = torch.stack([gain, -one, zero], 1)
    df = torch.stack([-dl - gain, gain, -one], 1)
    covariance = second - first[:, :, None] * first[:, None]

    def mean(weights: Tensor) -> Tensor:
        return (weights * first).sum(1)

    def product(left: Tensor, right: Tensor) -> Tensor:
        return torch.einsum("ni...,nij...,nj...->n...", left, covariance, right)

    # The Gaussian part of f is a constant, of which rounding leaves a little: no line can be put through that.
    variance = product(f, f).clamp(min=0) + _NEGLIGIBLE**2 * covariance[:, 1, 1].clamp(min=0)
    s = torch.where(variance > 0, product(f, df) / variance, zero)
    return ModelStatistics(lam, 1 - gain, s, mean(df) - s * mean(f), model)


# --- judging ------------------------------------------------------------------------------------------------


class HeldOut(NamedTuple):
    """Errors on noise the statistics have not seen: of the solver, and of plain DPM-Solver++(2M) on the same grid."""

    solver: float
    plain: float


@torch.no_grad()
def held_out_errors(
    solver: Solver,
    denoiser: Denoiser[Point],
    schedule: Schedule,
    x: Tensor,
    grid: Tensor,
    *,
    reference: int = 500,
) -> HeldOut:
    """How far the solver, and DPM-Solver++(2M), end from where the probability-flow ODE carries x along ``grid``.

    ``x``: states ``[n, *event]`` at the grid's first time, of other noise than the solver was calibrated with. The
    errors are medians over the states of the root-mean-square over the event, in the units of the data. The truth is
    UniPC-3 with ``reference`` steps uniform in log-SNR. The grid must keep alpha and sigma above 0.
    """
    grid = check_grid(grid)
    fine = uniform_log_snr(schedule, reference, start=float(grid[0]), end=float(grid[-1]))
    noise = Noise(0, range(len(x)))
    exact = simulate(unipc(3)(denoiser, schedule), x, fine, noise)

    def error(tried: Solver) -> float:
        end = simulate(tried(denoiser, schedule), x, grid, noise)
        return float((end - exact).flatten(1).square().mean(1).sqrt().median())

    return HeldOut(error(solver), error(dpmpp(2)))
