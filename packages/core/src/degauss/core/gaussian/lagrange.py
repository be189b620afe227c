r"""One generator for every interpolating method: Adams, exponential, DEIS, UniPC, momentum, Taylor.

All of them replace a function known at some knots u_0, u_1, ... by its Lagrange polynomial sum_j f(u_j) L_j(u), with
L_j(u) = prod_{m != j} (u - u_m) / (u_j - u_m), and integrate that against a density over the coming step. So a method's
weights are

    w_j = int L_j(u(s)) density(s) ds,

exact whenever f is a polynomial in u of degree below the number of knots. Adams-Bashforth has density 1 and knots
behind the step; Adams-Moulton has one at its end; an exponential integrator's density is an exponential. Integrals are
by Gauss-Legendre quadrature in float64. A Taylor method wants the derivatives of the same polynomial instead.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from degauss.core.gaussian.table import Array

# The integrands are a polynomial times an exponential over at most a few tens of e-folds: 64 points are exact to
# rounding.
_NODES, _WEIGHTS = (np.asarray(part, dtype=np.float64) for part in np.polynomial.legendre.leggauss(64))


class Quadrature(NamedTuple):
    """Points and their weights, ``[64]`` each: int f = sum(measure * f(at))."""

    at: Array
    measure: Array


def quadrature(start: float, end: float) -> Quadrature:
    """Gauss-Legendre quadrature over [start, end]; the measure is negative where end < start."""
    half = 0.5 * (end - start)
    return Quadrature(start + half * (_NODES + 1), half * _WEIGHTS)


def basis(knots: Array, at: Array) -> Array:
    """The Lagrange polynomials of distinct ``knots`` ``[n]`` at points ``[m]``: ``[n, m]``."""
    rows: list[Array] = []
    for j, knot in enumerate(knots):
        row = np.ones_like(at)
        for m, other in enumerate(knots):
            if m != j:
                row = row * (at - other) / (knot - other)
        rows.append(row)
    return np.stack(rows)


def weights(knots: Array, at: Array, measure: Array) -> Array:
    """The weight of each knot's value in the integral of the interpolating polynomial, ``[n]``.

    ``at``, ``measure``: the quadrature, its points in the knots' variable, the density in its measure.
    """
    return np.asarray(basis(knots, at) @ measure, dtype=np.float64)


def adams(knots: Array, start: float, end: float) -> Array:
    """Adams weights on any grid: the integral of the interpolating polynomial over [start, end], ``[n]``."""
    return weights(knots, *quadrature(start, end))


def derivatives(knots: Array, at: float) -> Array:
    """The derivatives of order 0, 1, ..., n - 1 at a point of each Lagrange polynomial, ``[n, n]``, knots last."""
    columns: list[Array] = []
    for j, knot in enumerate(knots):
        powers = np.ones(1)
        for m, other in enumerate(knots):
            if m != j:
                # Times (at - other + u) / (knot - other), in ascending powers of u.
                grown = np.append(powers * (at - other), 0.0)
                grown[1:] += powers
                powers = grown / (knot - other)
        columns.append(powers * [math.factorial(d) for d in range(len(knots))])
    return np.stack(columns, axis=1)
