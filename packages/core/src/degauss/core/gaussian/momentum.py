r"""Momentum: solvers that step along a running average (Wizadwongsa et al. 2023, "Diffusion Sampling with Momentum").

High-order multistep methods have small stability regions: with few steps or strong guidance they diverge. Averaging the
past, v_i = (1 - b) v_{i-1} + b (.)_i with v_0 = (.)_0 and ``damping`` b in (0, 1], widens the region; b = 1 is no
momentum. In k = sigma/alpha and y = x/alpha the probability-flow ODE is dy/dk = eps, and

    HB     p_i = Adams-Bashforth on eps,   v_i averages p,     y_{i+1} = y_i + dk v_i                     (order 1)
    GHVB   v_i averages eps,               y_{i+1} = y_i + dk (w_0 v_i + w_1 v_{i-1} + ...).

**GHVB on a constant step.** Where eps and hence, in the long run, v are polynomials of degree < r in i,
eps_i = v_{i-1} + (v_i - v_{i-1}) / b, so

    int_i^{i+1} eps = int_{i-1}^i v + (int_i^{i+1} v - int_{i-1}^i v) / b:    w = AM_r + (AB_r - AM_r) / b,

the weights of Adams-Moulton and Adams-Bashforth. These are the published ones: (2 + b, -2 + b)/2b for r = 2. They
assume that the step is constant and the average an old one; neither holds on the grids in use, where the published
method has order two at most. The paper names r and b together, as order r - 1 + b; this is a name and not an order.

**GHVB on the grid itself.** v_i, ..., v_{i-r+2} and eps_i, ..., eps_{i-r+2} determine each other given v_{i-r+1}, so
weights on v_i, ..., v_{i-r+1} are weights z_m on the r - 1 newest eps and z on v_{i-r+1}. Let L_m be the Lagrange
polynomials of the r newest knots, a_m their integrals over the step (variable-step Adams-Bashforth), and M_m what the
recursion, on the actual grid and from its actual start, makes of L_m by i - r + 1. A step is exact for every eps of
degree < r in k if and only if it is for every L_m, and L_m is 1 at its own knot and 0 at the others:

    z = a_{r-1} / M_{r-1},        z_m = a_m - z M_m.

L_{r-1} is at least 1 at every earlier time, hence so is M_{r-1}: the weights exist on every monotone grid, bounded.
In words: Adams-Bashforth whose oldest value is an average over all of the past.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from torch import Tensor

from degauss.core.gaussian import lagrange
from degauss.core.gaussian.exponential import dpmpp_2m_table, noise_path, noise_scales
from degauss.core.gaussian.plms import adams_bashforth, plms_table
from degauss.core.gaussian.table import Array, Path, Row, Table, TableSolver, eps_keep, index_clock, table_solver
from degauss.core.schedule import Schedule


def hb(order: int = 2, damping: float = 0.8) -> TableSolver:
    """PLMS of order 1 to 4 with heavy-ball momentum: converges with order 1. ``damping`` in (0, 1], 1 is ``plms``."""
    if not 1 <= order <= 4:
        raise ValueError(f"hb has orders 1 to 4, got {order}")
    return table_solver(hb_table, order=order, damping=_checked(damping))


def dpmpp_hb(damping: float = 0.8) -> TableSolver:
    """DPM-Solver++(2M) with heavy-ball momentum: converges with order 1. ``damping`` in (0, 1], 1 is ``dpmpp(2)``."""
    return table_solver(dpmpp_hb_table, damping=_checked(damping))


def ghvb(order: int = 2, damping: float = 0.5) -> TableSolver:
    """GHVB with the published weights of a constant step, ``order`` 1 to 5; the paper calls it order - 1 + damping."""
    if not 1 <= order <= 5:
        raise ValueError(f"ghvb has orders 1 to 5, got {order}")
    return table_solver(ghvb_table, order=order, damping=_checked(damping))


def ghvb_variable(order: int = 2, damping: float = 0.5) -> TableSolver:
    """GHVB with the weights of the actual grid: converges with ``order`` (1 to 5) whatever the damping."""
    if not 1 <= order <= 5:
        raise ValueError(f"ghvb_variable has orders 1 to 5, got {order}")
    return table_solver(ghvb_variable_table, order=order, damping=_checked(damping))


def hb_table(schedule: Schedule, grid: Tensor, *, order: int, damping: float) -> Table:
    """Heavy ball on PLMS; the first step is plain."""
    table = plms_table(schedule, grid, order=order)
    return heavy_ball(table, damping, range(1, len(table.rows)))


def dpmpp_hb_table(schedule: Schedule, grid: Tensor, *, damping: float) -> Table:
    """Heavy ball on the second-order steps of 2M, from the second of them on, as in the authors' code."""
    table = dpmpp_2m_table(schedule, grid)
    second = [i for i, row in enumerate(table.rows) if len(row.weights) == 2]
    return heavy_ball(table, damping, second[1:])


def heavy_ball(table: Table, damping: float, averaged: Collection[int]) -> Table:
    r"""Momentum on any one-state table without noise: the steps in ``averaged`` move along the mean of all so far.

    Write a row as x_{i+1} = s_i x_i + c_i p_i with c_i = sum(weights), so that p_i is a weighted mean of the values.
    The velocity v_i = (1 - b) v_{i-1} + b p_i need not be remembered: the last step shows it, as in Polyak's own form,

        c_i v_{i-1} = (c_i / c_{i-1}) (x_i - s_{i-1} x_{i-1}).
    """
    if any(row.noise or row.earlier for row in table.rows):
        raise ValueError("heavy ball needs a table without noise that reads one state")
    rows = list(table.rows)
    for i in averaged:
        row, before = table.rows[i], table.rows[i - 1]
        carried = (1 - damping) * sum(row.weights) / sum(before.weights)
        fresh = tuple(damping * weight for weight in row.weights)
        rows[i] = row._replace(state=row.state + carried, weights=fresh, earlier=(-carried * before.state,))
    return Table(tuple(rows), table.clock)


def ghvb_table(schedule: Schedule, grid: Tensor, *, order: int, damping: float) -> Table:
    """Published GHVB, started with lower orders."""
    path = noise_path(schedule, grid)
    k = path.sigma / path.alpha
    steps = [(k[i + 1] - k[i]) * constant_step(min(order, i + 1), damping) for i in range(path.steps)]
    return _averaged_table(path, steps, damping)


def ghvb_variable_table(schedule: Schedule, grid: Tensor, *, order: int, damping: float) -> Table:
    """Variable-step GHVB. Its first steps have lower order, as there is no past to average yet."""
    path = noise_path(schedule, grid)
    k = path.sigma / path.alpha
    steps = [variable_step(k[: i + 1], k[i + 1], min(order, i + 1), damping) for i in range(path.steps)]
    return _averaged_table(path, steps, damping)


def constant_step(order: int, damping: float) -> Array:
    """The weights w on v_i, v_{i-1}, ... for a unit step, ``[order]``."""
    explicit = adams_bashforth(order)
    implicit = lagrange.adams(-np.arange(float(order)), -1.0, 0.0)
    return implicit + (explicit - implicit) / damping


def variable_step(k: Array, end: float, order: int, damping: float) -> Array:
    """The weights on v_i, v_{i-1}, ... for the step from the last of ``k`` = k_0, ..., k_i to ``end``, ``[order]``."""
    knots = k[::-1][:order]
    plain = lagrange.adams(knots, float(knots[0]), end)
    past = k[: len(k) - order + 1]
    share = damping * (1 - damping) ** np.arange(len(past) - 1.0, -1, -1)
    share[0] = (1 - damping) ** (len(past) - 1)
    averages = lagrange.weights(knots, past, share)
    oldest = plain[-1] / averages[-1]
    newest = plain[:-1] - oldest * averages[:-1]
    # eps_m = (v_m - (1 - b) v_{m-1}) / b.
    out = np.append(newest / damping, oldest)
    out[1:] -= (1 - damping) / damping * newest
    return out


def _averaged_table(path: Path, steps: list[Array], damping: float) -> Table:
    """y_{i+1} = y_i + steps_i . (v_i, v_{i-1}, ...) with v the running average of eps, in x."""
    rows: list[Row] = []
    for i, weights in enumerate(steps):
        on_x, on_mean = eps_keep(path, i)
        keep = (damping * on_x, damping * on_mean, 1 - damping) if i else (on_x, on_mean)
        state, _ = noise_scales(path, i, 0.0)
        rows.append(Row(state, tuple((path.alpha[i + 1] * weights).tolist()), keep=keep))
    return Table(tuple(rows), index_clock(path))


def _checked(damping: float) -> float:
    if not 0 < damping <= 1:
        raise ValueError(f"damping lies in (0, 1], got {damping}")
    return damping
