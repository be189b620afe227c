r"""Total variation: the reconstruction that explains y with the least edge, by ADMM.

    min over x   1/2 |y - A x|^2 + lambda sum_g |(D x)_g|,        x >= low where a bound is given,

(Rudin, Osher and Fatemi 1992). D holds the differences along the chosen axes, each divided by the voxels' spacing
along it (in units of the spacing in the plane), so thick slices are coupled more weakly than thin ones. The groups g
say what total variation is meant: ``ISOTROPIC`` has one a voxel, its whole gradient; ``ANISOTROPIC`` one a difference.

The splitting z = D x with scaled duals w (Boyd et al. 2011, section 3.1; Wang et al. 2008) repeats

    x <- CG(A^T A + rho D^T D, A^T y + rho D^T (z - w), start x),
    z <- shrink(D x + w, lambda / rho),      w <- w + D x - z,

and a bound is a second splitting p = max(x + q, low), q <- q + x - p of the same kind. After each iteration rho w is
a subgradient of the penalty at z by construction, so x is a minimiser as soon as two numbers vanish,

    |D x - z| / |D x|     and     |A^T (A x - y) + rho D^T w (+ rho_b q)| / |A^T y|,

and the iterations stop when both are below the tolerance, however exactly the inner systems were solved.
This needs no prior, no training and no noise level: it is what a learned reconstruction has to beat, once its lambda
is chosen as carefully (``tuned_tv_by_discrepancy``, ``tuned_tv_by_truth``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from degauss.core.denoiser import expand
from degauss.core.errors import InputError, check_range
from degauss.core.inverse.conjugate_gradient import ConjugateGradient
from degauss.core.inverse.measurement import Measurement
from degauss.core.inverse.operator import inner


@dataclass(frozen=True)
class Gradient:
    """(D x)_a = weights_a (x_{k+1} - x_k) along each of ``axes``, and 0 at the far end: the ends are not joined.

    Maps ``[batch, *event]`` to ``[batch, len(axes), *event]``. ``axes``: of the event, counted from the end (-1, -2,
    ...). Raises ValueError for other axes, or as many weights as axes are not given.
    """

    axes: tuple[int, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.axes or len(self.axes) != len(self.weights) or any(axis >= 0 for axis in self.axes):
            raise ValueError(f"need a weight for each axis, counted from the end, got {self.axes} and {self.weights}")

    @property
    def norm(self) -> float:
        """An upper bound that long axes come close to."""
        return 2 * math.hypot(*self.weights)

    def __call__(self, x: Tensor, /) -> Tensor:
        y = x.new_zeros(len(x), len(self.axes), *x.shape[1:])
        for place, (axis, weight) in enumerate(self._of(x)):
            y[:, place].narrow(axis, 0, x.shape[axis] - 1).add_(x.diff(dim=axis), alpha=weight)
        return y

    def adjoint(self, y: Tensor, /) -> Tensor:
        x = y.new_zeros(len(y), *y.shape[2:])
        for place, (axis, weight) in enumerate(self._of(x)):
            _add_transposed(x, y[:, place].narrow(axis, 0, x.shape[axis] - 1), axis, weight)
        return x

    def normal(self, x: Tensor, /) -> Tensor:
        """D^T D x, with one axis in memory at a time."""
        result = torch.zeros_like(x)
        for axis, weight in self._of(x):
            _add_transposed(result, x.diff(dim=axis), axis, weight**2)
        return result

    def _of(self, x: Tensor) -> list[tuple[int, float]]:
        if -min(self.axes) >= x.ndim:
            raise ValueError(f"the axes {self.axes} are not all of an event: a batch has shape {tuple(x.shape)}")
        return list(zip(self.axes, self.weights, strict=True))


def _add_transposed(x: Tensor, difference: Tensor, axis: int, weight: float) -> None:
    n = x.shape[axis] - 1
    x.narrow(axis, 0, n).sub_(difference, alpha=weight)
    x.narrow(axis, 1, n).add_(difference, alpha=weight)


def inverse_spacing(spacing: Sequence[float]) -> tuple[float, ...]:
    """Weights for voxels of ``spacing`` (mm; slices, rows, columns): the spacing in the plane over that of each axis.

    In the plane: the geometric mean of the last two. (5, 1, 1) gives (0.2, 1, 1). Raises InputError for a spacing that
    is not a positive number.
    """
    for step in spacing:
        if not 0 < step < math.inf:
            raise InputError(f"the spacing of voxels must be lengths above 0, but is {tuple(spacing)}.")
    plane = math.exp(sum(math.log(step) for step in spacing[-2:]) / len(spacing[-2:]))
    return tuple(plane / step for step in spacing)


@dataclass(frozen=True)
class MixedNorm:
    """sum over groups g of |v_g|: Euclidean lengths of groups, summed.

    ``together``: the axes of v over which a group reaches; none: every value is its own group.
    """

    together: tuple[int, ...] = ()

    def value(self, v: Tensor) -> Tensor:
        """The sum, ``[batch]``, in float64."""
        return self._lengths(v).flatten(1).sum(1, dtype=torch.float64)

    def shrink(self, v: Tensor, threshold: float) -> Tensor:
        """argmin over z of 1/2 |z - v|^2 + threshold sum |z_g|: groups lose ``threshold`` > 0 of length, or all."""
        # A group of length 0 has the scale -inf, and is left at 0.
        scale = (-threshold / self._lengths(v)).add_(1).clamp_(min=0)
        return scale.mul_(v) if scale.shape == v.shape else scale * v

    def _lengths(self, v: Tensor) -> Tensor:
        return torch.linalg.vector_norm(v, dim=self.together, keepdim=True) if self.together else v.abs()


ANISOTROPIC = MixedNorm()
"""sum |D_a x|: each difference by itself. Prefers edges along the axes."""

ISOTROPIC = MixedNorm((1,))
"""sum sqrt(sum_a |D_a x|^2): the length of a voxel's gradient."""

ISOTROPIC_COMPLEX = MixedNorm((1, -3))
"""The same where axis -3 holds the real and the imaginary part of one number: an edge of either is one of both."""


TEN = ConjugateGradient(10, 0.1)
"""The inner solver: as far as a tenth of what is wrong, since the next iteration asks another question."""


class TVSolution(NamedTuple):
    """A reconstruction, and how far from optimal it is.

    ``x``: ``[batch, *event]``. ``dual``: rho w / lambda, a subgradient of the penalty, ``[batch, axes, *event]``, its
    groups no longer than 1; ``bound``: rho q, ``[batch, *event]``, 0 where x is above the bound (None without one). A
    run on a similar problem may start from them. ``primal``, ``stationarity``: the two relative numbers of the
    module's docstring for each row, float64 ``[batch]``. ``iterations``: of ADMM.
    """

    x: Tensor
    dual: Tensor
    bound: Tensor | None
    primal: Tensor
    stationarity: Tensor
    iterations: int


@dataclass(frozen=True)
class TotalVariation:
    """The problem and its solver; calling it with a measurement solves it.

    ``strength``: lambda > 0, in units where A has norm 1. ``axes``, ``weights``: of the `Gradient`; by default slices,
    rows and columns of equal spacing, for others see `inverse_spacing`. Slices one by one: axes (-2, -1); complex
    volumes have their slices on axis -4. ``norm``: which total variation. ``low``: a bound from below, or None.

    ``edge``: lambda / rho, the height of the edges that one iteration flattens, in units of x. It changes the speed,
    not the result; 0.02 to 0.2 suits values in [0, 1]. ``tolerance``: of both residuals. ``iterations``: at most.
    ``solve``: the inner conjugate gradients, for the correction of x; their tolerance is relative to what is wrong.

    Rows of a batch are problems of their own, each with its own end. Memory, measured for three axes in float32: 22
    volumes, 24 with a bound, beside what the operator takes. Raises InputError for settings out of range.
    """

    strength: float
    axes: tuple[int, ...] = (-3, -2, -1)
    weights: tuple[float, ...] = (1.0, 1.0, 1.0)
    norm: MixedNorm = ISOTROPIC
    low: float | None = None
    edge: float = 0.1
    tolerance: float = 1e-3
    iterations: int = 300
    solve: ConjugateGradient = TEN

    def __post_init__(self) -> None:
        for name in ("strength", "edge", "tolerance"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name} must be a number above 0, but is {getattr(self, name)}.")
        check_range("iterations", self.iterations, 1)
        Gradient(self.axes, self.weights)

    @property
    def gradient(self) -> Gradient:
        """D."""
        return Gradient(self.axes, self.weights)

    @property
    def rho(self) -> float:
        """The weight of both splittings, at most 10: with more of D the inner systems say little of A."""
        return min(self.strength / self.edge, 10.0)

    def objective(self, measurement: Measurement, x: Tensor) -> Tensor:
        """1/2 |y - A x|^2 + lambda TV(x) of each row, float64 ``[batch]``."""
        residual = measurement.residual(x)
        return inner(residual, residual) / 2 + self.strength * self.norm.value(self.gradient(x))

    @torch.no_grad()
    def __call__(self, measurement: Measurement, start: TVSolution | None = None) -> TVSolution:
        """Solve, from zero or from the solution of a similar problem."""
        operator, gradient, rho = measurement.operator, self.gradient, self.rho
        bounded = self.low is not None

        def apply(x: Tensor) -> Tensor:
            # In place on ours only: an operator may hand x itself back.
            result = gradient.normal(x).mul_(rho).add_(operator.adjoint(operator(x)))
            return result.add_(x, alpha=rho) if bounded else result

        back = operator.adjoint(measurement.y)
        rounding = 8 * torch.finfo(back.dtype).eps * _length(back)
        x = torch.zeros_like(back) if start is None else start.x
        w = gradient(x) if start is None else start.dual * (self.strength / rho)
        q = beyond = None
        if bounded:
            q = torch.zeros_like(back) if start is None or start.bound is None else start.bound / rho
            beyond = torch.zeros_like(back)
        # D x - z, as ``beyond`` is x - p: what the splittings still miss.
        gap = torch.zeros_like(w)
        del back
        active, done = torch.ones(len(x), dtype=torch.bool, device=x.device), 0
        while True:
            pull = gradient.adjoint(w).mul_(rho)
            wrong = operator.adjoint(measurement.residual(x)) - pull
            if q is not None:
                wrong.sub_(q, alpha=rho)
            stationarity = (_length(wrong) - rounding).clamp(min=0) / _positive(_length(pull))
            missed = _length(gap) if beyond is None else torch.hypot(_length(gap), _length(beyond))
            primal = missed / _positive(_length(x))
            del pull
            if done:
                active = active & (torch.maximum(primal, stationarity) > self.tolerance)
            if done == self.iterations or not bool(active.any()):
                break
            wrong.sub_(gradient.adjoint(gap), alpha=rho)
            if beyond is not None:
                wrong.sub_(beyond, alpha=rho)
            del gap
            x = _where(active, x + self.solve(apply, wrong).x, x)
            del wrong
            gap = gradient(x)
            # In place where every row moves: three volumes less.
            fresh = w.add_(gap) if bool(active.all()) else w + gap
            split = self.norm.shrink(fresh, self.strength / rho)
            gap.sub_(split)
            w = _where(active, fresh.sub_(split), w)
            del fresh, split
            if q is not None:
                beyond = x - (x + q).clamp_(min=self.low)
                q = _where(active, q + beyond, q)
            done += 1
        dual = w.mul_(rho / self.strength)
        if q is None:
            return TVSolution(x, dual, None, primal, stationarity, done)
        return TVSolution(x.clamp(min=self.low), dual, q.mul_(rho), primal, stationarity, done)


class Tuned(NamedTuple):
    """The problem with its strength chosen, its solution, and what was tried: (strength, figure) in that order."""

    tv: TotalVariation
    solution: TVSolution
    tried: tuple[tuple[float, float], ...]


def tuned_tv_by_discrepancy(
    tv: TotalVariation,
    measurement: Measurement,
    *,
    measured: int | None = None,
    tolerance: float = 0.02,
    low: float = 1e-7,
    high: float = 1e3,
) -> Tuned:
    """The strength at which the residual is as large as the noise: |y - A x| = sigma_y sqrt(m) (Morozov 1966).

    The residual grows with the strength, so its logarithm is followed to the crossing: from ``tv.strength`` by factors
    of 4 until it is passed, then by false position in the logarithms, each run starting from the last one's solution.
    One strength serves all rows. ``measured``: m, how many values of one row of y carry noise; all unless given (a
    masked k-space has fewer). ``tolerance``: on the ratio. The figures tried are |y - A x| / (sigma_y sqrt(m)).

    It errs on the side of smoothness, since a fit to m values has less than m degrees of freedom left. Raises
    InputError if sigma_y is 0, or if no strength between ``low`` and ``high`` has that residual.
    """
    if not measurement.sigma_y > 0:
        raise InputError("the discrepancy principle needs the noise level sigma_y of the measurement, but it is 0.")
    count = (measurement.y[0].numel() if measured is None else measured) * len(measurement.y)
    tried: list[tuple[float, float]] = []
    solution: TVSolution | None = None

    def excess(strength: float) -> float:
        nonlocal solution
        solution = replace(tv, strength=strength)(measurement, solution)
        residual = measurement.residual(solution.x)
        ratio = math.sqrt(float(inner(residual, residual).sum()) / count) / measurement.sigma_y
        tried.append((strength, ratio))
        return math.log(max(ratio, 1e-12))

    goal = math.log1p(tolerance)
    here = tv.strength
    value = excess(here)
    other, other_value = here, value
    while abs(value) > goal and value * other_value >= 0:
        other, other_value = here, value
        here = here / 4 if value > 0 else here * 4
        if not low <= here <= high:
            raise InputError(
                f"no strength between {low:g} and {high:g} leaves a residual of the size of the noise: at {other:g} it "
                f"is {math.exp(other_value):.3g} times that (is sigma_y = {measurement.sigma_y:g} right?)."
            )
        value = excess(here)
    while abs(value) > goal:
        # The Illinois variant: an end that stays is believed half as much at the next step.
        middle = math.exp((math.log(here) * other_value - math.log(other) * value) / (other_value - value))
        middle_value = excess(middle)
        if middle_value * value < 0:
            other, other_value = here, value
        else:
            other_value /= 2
        here, value = middle, middle_value
        if abs(math.log(here / other)) < 1e-3:
            break
    assert solution is not None
    return Tuned(replace(tv, strength=here), solution, tuple(tried))


def tuned_tv_by_truth(
    tv: TotalVariation, measurement: Measurement, truth: Tensor, *, low: float = 1e-7, high: float = 1e3
) -> Tuned:
    """The strength of the least squared error against ``truth`` ``[batch, *event]``, to an eighth of a decade.

    For a tuning measurement, whose truth is known; the strength then serves others of its kind. Downhill from
    ``tv.strength`` by half a decade, then by a quarter and an eighth, between ``low`` and ``high``. The figures tried
    are peak signal-to-noise ratios in dB for values in [0, 1].
    """
    tried: list[tuple[float, float]] = []
    errors: dict[int, float] = {}
    last: TVSolution | None = None

    def strength(place: int) -> float:
        return tv.strength * 10 ** (place / 8)

    def better(place: int, than: float) -> TVSolution | None:
        """The solution at a strength that is new, in range, and of less error."""
        nonlocal last
        if place in errors or not low <= strength(place) <= high:
            return None
        last = replace(tv, strength=strength(place))(measurement, last)
        errors[place] = float((last.x - truth).square().mean(dtype=torch.float64))
        tried.append((strength(place), -10 * math.log10(max(errors[place], 1e-300))))
        return last if errors[place] < than else None

    best, solution = 0, better(0, math.inf)
    if solution is None:
        raise InputError(f"the strength to start from must be between {low:g} and {high:g}, but is {tv.strength:g}.")
    for step in (4, 2, 1):
        moved = True
        while moved:
            moved = False
            for there in (best + step, best - step):
                found = None if moved else better(there, errors[best])
                if found is not None:
                    best, solution, moved = there, found, True
    return Tuned(replace(tv, strength=strength(best)), solution, tuple(tried))


def _where(active: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """The new values of the rows that still move."""
    return new if bool(active.all()) else torch.where(expand(active, new).bool(), new, old)


def _length(x: Tensor) -> Tensor:
    """Of each row."""
    return inner(x, x).sqrt()


def _positive(length: Tensor) -> Tensor:
    """The length, or 1 where it is 0."""
    return torch.where(length > 0, length, 1.0)
