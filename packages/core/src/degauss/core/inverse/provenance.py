r"""Where a reconstruction comes from: what the measurement decided, and what the prior did.

An event x splits into two orthogonal parts,

    x = m + p,    m = A^+ A x (row space of A: seen),    p = (I - A^+ A) x (null space: unseen).

Any other p gives the same exact measurements, so whatever p shows, the prior put there. With noise the border is
soft: a direction of singular value s is measured against a prior of variance tau^2 to the extent

    m = (A^T A + rho)^{-1} A^T A x,    a weight s^2 / (s^2 + rho) on it,    rho = sigma_y^2 / tau^2,

the posterior mean's weight on the measurement for Gaussian data; rho = 0 is the split above. By conjugate gradients
from 0; when they stop early, directions that A hardly sees still count as the prior's.

The share of the measurement at a voxel v, from the energies of both parts in a window W(v) around it, is

    share(v) = sum over W(v) of m^2  /  sum over W(v) of (m^2 + p^2),    in [0, 1].

That is of energy about x = 0: a window's mean level counts in it, which tomography measures best and which drowns
what is finer. Of the contrast alone, with each part's own mean over the window taken off,

    contrast(v) = var of m over W(v)  /  (var of m + var of p over W(v)),    in [0, 1],

says who decided the edges and textures at v. A third map needs no reference: ``null_std``, the standard deviation of p
over draws. Where it is large, a structure in one draw may be absent in another, and the measurement cannot tell.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from degauss.core.errors import InputError, check_range
from degauss.core.inverse.conjugate_gradient import ConjugateGradient
from degauss.core.inverse.operator import LinearOperator

THOROUGH = ConjugateGradient(200, 1e-5)
"""A pseudo-inverse that is used once for a volume, and not at every step."""


class Parts(NamedTuple):
    """What A sees of events and what it does not, ``[batch, *event]`` each; they add up to the events.

    ``residual``: of the conjugate gradients, relative, ``[batch]``: above their tolerance, they ended early.
    """

    measured: Tensor
    prior: Tensor
    residual: Tensor


def decompose(operator: LinearOperator, x: Tensor, *, rho: float = 0.0, solve: ConjugateGradient = THOROUGH) -> Parts:
    """Split events ``[batch, *event]``. ``rho`` >= 0: sigma_y^2 / tau^2, in the units of A's squared singular values.

    Raises InputError for a rho that is negative, infinite or no number.
    """
    check_range("rho", rho, 0)
    if math.isinf(rho):
        raise InputError(f"rho must be finite, but is {rho}.")

    def apply(x: Tensor) -> Tensor:
        return operator.adjoint(operator(x)) + rho * x

    found = solve(apply, operator.adjoint(operator(x)))
    return Parts(found.x, x - found.x, found.residual)


def measured_share(parts: Parts, window: Sequence[int]) -> Tensor:
    """The share of the module's docstring, ``[batch, *event]``; 0 where a window holds no energy at all.

    ``window``: its odd sizes along the last axes, such as (3, 3, 3) for volumes; at an edge it is cut off. Of complex
    values the magnitude counts. Raises InputError for an even or negative size.
    """
    _check(window)
    return _ratio(*(_box(part.abs().square(), window) for part in (parts.measured, parts.prior)))


def measured_contrast(parts: Parts, window: Sequence[int]) -> Tensor:
    """The contrast's share of the module's docstring, ``[batch, *event]``; 0 where a window has no contrast at all.

    ``window``: as for `measured_share`; of more than one value, as one has no contrast.
    """
    _check(window)
    weight = _box(torch.ones_like(parts.prior.abs()[:1]), window)  # below 1 at an edge

    def variance(part: Tensor) -> Tensor:
        sides = (part.real, part.imag) if part.is_complex() else (part,)
        spreads = (_box(side**2, window) / weight - (_box(side, window) / weight) ** 2 for side in sides)
        return sum((spread.clamp(min=0) for spread in spreads), torch.zeros(()))

    return _ratio(variance(parts.measured), variance(parts.prior))


def null_std(
    operator: LinearOperator, draws: Tensor, *, rho: float = 0.0, solve: ConjugateGradient = THOROUGH
) -> Tensor:
    """The standard deviation of p over draws ``[k, *event]``, with k - 1 degrees of freedom: ``[*event]``.

    For draws that all explain y it is their standard deviation. One draw at a time, on its difference from the mean,
    so that memory does not grow with k. Raises InputError for fewer than two draws.
    """
    check_range("the number of draws", len(draws), 2)
    mean = draws.mean(0, keepdim=True)
    total = torch.zeros_like(mean.real)
    for draw in draws.split(1):
        total += decompose(operator, draw - mean, rho=rho, solve=solve).prior.abs().square()
    return (total[0] / (len(draws) - 1)).sqrt()


def _check(window: Sequence[int]) -> None:
    if any(size < 1 or size % 2 == 0 for size in window):
        raise InputError(f"a window must have odd sizes, but has {tuple(window)}.")


def _ratio(measured: Tensor, prior: Tensor) -> Tensor:
    """measured / (measured + prior), 0 where both are."""
    total = measured + prior
    return torch.where(total > 0, measured / torch.where(total > 0, total, 1), 0)


def _box(x: Tensor, window: Sequence[int]) -> Tensor:
    """The mean over a window around each place, zero beyond the edges, along the last axes."""
    for axis, size in zip(range(-len(window), 0), window, strict=True):
        lines = x.movedim(axis, -1)
        flat = lines.reshape(-1, 1, lines.shape[-1])
        smooth = torch.nn.functional.avg_pool1d(flat, size, stride=1, padding=size // 2)
        x = smooth.reshape(lines.shape).movedim(-1, axis)
    return x
