r"""Linear operators: what a scanner, a mask or a blur does to an event, and its exact transpose.

An operator maps events to measurements, ``[batch, *event]`` -> ``[batch, *measurement]``, row by row; its adjoint is
defined by <A x, y> = <x, A^T y> for all x and y, where <., .> is the real part of the inner product where values are
complex. Nothing else is asked: no matrix, no singular values, no pseudo-inverse. Every method here that needs one of
those gets it from conjugate gradients, for which the transpose must be exact: ``dot_test`` measures that.

The methods' parameters are in units in which the operator has norm 1: ``normalised`` scales one, and keeps its norm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from degauss.core.errors import InputError
from degauss.core.noise import Noise


@runtime_checkable
class LinearOperator(Protocol):
    """A linear map of each row of a batch. Complex values may be on either side."""

    @property
    def norm(self) -> float:
        """The largest singular value, or an upper bound of it."""
        ...

    def __call__(self, x: Tensor, /) -> Tensor:
        """A x: ``[batch, *event]`` -> ``[batch, *measurement]``."""
        ...

    def adjoint(self, y: Tensor, /) -> Tensor:
        """A^T y: ``[batch, *measurement]`` -> ``[batch, *event]``."""
        ...


@dataclass(frozen=True)
class Identity:
    """Denoising: everything is measured."""

    @property
    def norm(self) -> float:
        return 1.0

    def __call__(self, x: Tensor, /) -> Tensor:
        return x

    def adjoint(self, y: Tensor, /) -> Tensor:
        return y


@dataclass(frozen=True)
class Mask:
    """Inpainting: A x = mask x, in the shape of x. ``mask``: broadcasts to it; 1 where measured, 0 elsewhere.

    Other values weigh: ``Composed(Mask(w), A)`` has measurements that count as much as w says.
    """

    mask: Tensor

    @property
    def norm(self) -> float:
        return float(self.mask.abs().max())

    def __call__(self, x: Tensor, /) -> Tensor:
        return self.mask.to(x.device) * x

    def adjoint(self, y: Tensor, /) -> Tensor:
        return self.mask.to(y.device) * y


class Matrix:
    """A dense real matrix ``[measurements, values]`` on flattened events of shape ``event`` (default: ``[values]``).

    ``norm`` is exact. Raises ValueError where the event does not have as many values as the matrix has columns.
    """

    def __init__(self, matrix: Tensor, event: tuple[int, ...] | None = None) -> None:
        event = (matrix.shape[1],) if event is None else event
        if matrix.ndim != 2 or math.prod(event) != matrix.shape[1]:
            raise ValueError(f"a matrix {tuple(matrix.shape)} does not act on events of shape {event}")
        self.matrix = matrix
        self.event = event
        self.norm = float(torch.linalg.matrix_norm(matrix, 2))

    def __call__(self, x: Tensor, /) -> Tensor:
        return x.flatten(1) @ self.matrix.mT.to(x)

    def adjoint(self, y: Tensor, /) -> Tensor:
        return (y @ self.matrix.to(y)).reshape(len(y), *self.event)


@dataclass(frozen=True)
class Composed:
    """``outer`` after ``inner``. Its norm is a bound, the product of theirs; ``normalised`` finds the norm itself."""

    outer: LinearOperator
    inner: LinearOperator

    @property
    def norm(self) -> float:
        return self.outer.norm * self.inner.norm

    def __call__(self, x: Tensor, /) -> Tensor:
        return self.outer(self.inner(x))

    def adjoint(self, y: Tensor, /) -> Tensor:
        return self.inner.adjoint(self.outer.adjoint(y))


@dataclass(frozen=True)
class Normalised:
    """A / ``raw_norm``: an operator of norm 1 that remembers what it was divided by.

    Its measurements are those of A divided by ``raw_norm``, and so is their noise level.
    """

    operator: LinearOperator
    raw_norm: float

    @property
    def norm(self) -> float:
        return self.operator.norm / self.raw_norm

    def __call__(self, x: Tensor, /) -> Tensor:
        return self.operator(x) / self.raw_norm

    def adjoint(self, y: Tensor, /) -> Tensor:
        return self.operator.adjoint(y) / self.raw_norm


def normalised(operator: LinearOperator, like: Tensor, iterations: int = 200) -> Normalised:
    """The operator divided by its norm, found by ``spectral_norm``. ``like``: any events it acts on."""
    return Normalised(operator, spectral_norm(operator, like, iterations))


def spectral_norm(
    operator: LinearOperator, like: Tensor, iterations: int = 200, tolerance: float = 1e-7, seed: int = 0
) -> float:
    """The largest singular value, from below, by the Lanczos process on A^T A from a random event.

    (Golub and Van Loan, chapter 10.) ``like``: events ``[batch, *event]``, for their shape, dtype and device; one is
    enough. Stops when the square changes by less than ``tolerance`` of itself, or after ``iterations`` applications.
    The operator's own ``norm`` is not asked. Raises InputError if it maps the start to zero or to non-finite values.
    """
    # Positive, as the leading singular vector is wherever an operator has no negative weights.
    q = Noise(seed, range(1)).uniform(torch.empty_like(like[:1]))
    q, before = q / inner(q, q).sqrt().to(q.dtype), torch.zeros_like(q)
    diagonal: list[float] = []
    beside: list[float] = []
    found = 0.0
    for _ in range(iterations):
        w = operator.adjoint(operator(q))
        diagonal.append(float(inner(w, q)))
        if not math.isfinite(diagonal[-1]):
            found = math.nan
            break
        off = torch.tensor(beside, dtype=torch.float64)
        matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64)) + torch.diag(off, 1) + torch.diag(off, -1)
        last, found = found, float(torch.linalg.eigvalsh(matrix)[-1])
        w = w - diagonal[-1] * q - (beside[-1] if beside else 0.0) * before
        length = float(inner(w, w).sqrt())
        if found - last <= tolerance * found or length <= 1e-6 * found:
            break
        beside.append(length)
        q, before = w / length, q
    if not (math.isfinite(found) and found > 0):
        raise InputError(f"the operator must have a positive, finite norm, but its square was found to be {found}.")
    return math.sqrt(found)


def dot_test(operator: LinearOperator, x: Tensor, y: Tensor, seed: int = 0) -> float:
    """How far an adjoint is from exact: max over rows of |<A u, v> - <u, A^T v>| / (|A u| rms(v)), u, v normal.

    ``x``, ``y``: events and measurements, for their shapes, dtypes and devices. A wrong adjoint gives a number of the
    order of its relative error, rounding one of the order of the dtype's; 1e-6 in float32 is a pass. 0 for A = 0.
    """
    u = _normal(x, Noise(seed, range(len(x))))
    v = _normal(y, Noise(seed, range(len(y))).fork(0))
    forward, back = operator(u), operator.adjoint(v)
    if forward.shape != v.shape or back.shape != u.shape:
        raise ValueError(
            f"the operator maps {tuple(u.shape)} to {tuple(forward.shape)} and back {tuple(v.shape)} to "
            f"{tuple(back.shape)}: the shapes of x and y must be each other's"
        )
    gap = (inner(forward, v) - inner(u, back)).abs()
    size = (inner(forward, forward) * inner(v, v) / v[0].numel()).sqrt()
    other = (inner(back, back) * inner(u, u) / u[0].numel()).sqrt()
    scale = torch.maximum(size, other)
    return float(torch.where(scale > 0, gap / scale.clamp(min=1e-300), gap).max())


def _normal(like: Tensor, noise: Noise) -> Tensor:
    if not like.is_complex():
        return noise.normal(like)
    return torch.complex(noise.normal(like.real), noise.normal(like.real, draw=1))


_PIECE = 1 << 18


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Re <a, b> of each row, ``[batch]``, summed in float64, a piece at a time: volumes are not copied."""
    if a.is_complex():
        a, b = torch.view_as_real(a), torch.view_as_real(b)
    pieces = zip(a.flatten(1).split(_PIECE, 1), b.flatten(1).split(_PIECE, 1), strict=True)
    return torch.stack([(x * y).sum(1, dtype=torch.float64) for x, y in pieces]).sum(0)
