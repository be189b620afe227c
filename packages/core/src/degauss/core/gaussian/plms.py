r"""PLMS: Adams-Bashforth on the predicted noise (Liu et al. 2022, "PNDM", the pseudo linear multistep part).

The published weights are those of a constant step, applied to eps and then moved by DDIM's transfer,

    x_t = (alpha_t/alpha_s) x_s + alpha_t (k_t - k_s) (w_0 eps_i + w_1 eps_{i-1} + ...),   k = sigma/alpha.

On a grid that is not uniform in k the higher orders are not reached, whatever their names say: every order above
one converges with order two at most. Adams-Bashforth with the weights of the actual grid is ``deis(axis="ratio")``.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from degauss.core.gaussian import lagrange
from degauss.core.gaussian.exponential import noise_path, noise_scales
from degauss.core.gaussian.table import Array, Row, Table, TableSolver, eps_keep, index_clock, table_solver
from degauss.core.schedule import Schedule

LARGEST_ORDER = 4


def plms(order: int = 4) -> TableSolver:
    """PLMS of order 1 to 4, started with lower orders. The grid must keep alpha > 0."""
    if not 1 <= order <= LARGEST_ORDER:
        raise ValueError(f"plms has orders 1 to {LARGEST_ORDER}, got {order}")
    return table_solver(plms_table, order=order)


def plms_table(schedule: Schedule, grid: Tensor, *, order: int) -> Table:
    """PLMS as a table."""
    path = noise_path(schedule, grid)
    k = path.sigma / path.alpha
    rows: list[Row] = []
    for i in range(path.steps):
        state, _ = noise_scales(path, i, 0.0)
        weights = path.alpha[i + 1] * (k[i + 1] - k[i]) * adams_bashforth(min(order, i + 1))
        rows.append(Row(state, tuple(weights.tolist()), keep=eps_keep(path, i)))
    return Table(tuple(rows), index_clock(path))


def adams_bashforth(order: int) -> Array:
    """The weights of a constant unit step, newest first: (1), (3, -1)/2, (23, -16, 5)/12, (55, -59, 37, -9)/24, ..."""
    return lagrange.adams(-np.arange(float(order)), 0.0, 1.0)
