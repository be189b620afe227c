r"""UniPC: a predictor-corrector of any order with no extra evaluation (Zhao et al. 2023, UniPC-B, data form).

At step i the predictor of order p passes through the last p posterior means, and once the mean at the predicted
point is known, the corrector redoes the same step with that point added. Published as the solution of R a = b with
R_{kl} = r_l^{k-1}, r_l = (lam_l - lam_s)/h, and b from the phi functions over B(h), these are the integrals of the
Lagrange polynomial (see ``lagrange``), and B(h) cancels. It does not where a lone slope gets the weight B(h)/2 instead:
in the predictor of order 2 and the corrector of order 1. ``B(h)`` is h ("bh1") or e^h - 1 ("bh2"), h taken negative.

The corrected state is the predicted one plus a known combination of posterior means, so both become one row
(see ``table``).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from torch import Tensor

from degauss.core.gaussian.exponential import data_scales, data_weights, nodes
from degauss.core.gaussian.table import Array, Path, Row, Table, TableSolver, index_clock, on_grid, table_solver
from degauss.core.schedule import Schedule

Variant = Literal["bh1", "bh2"]


def unipc(order: int = 3, variant: Variant = "bh2") -> TableSolver:
    """UniPC-``order``: converges with order + 1 where the corrector applies. ``variant``: B(h) = h or e^h - 1."""
    return table_solver(unipc_table, order=order, variant=variant)


def unipc_table(
    schedule: Schedule, grid: Tensor, *, order: int, variant: Variant = "bh2", lower_final: bool = True
) -> Table:
    """UniPC as a table: row i corrects the arrival at grid[i], then predicts grid[i + 1]."""
    path = on_grid(schedule, grid)
    rows: list[Row] = []
    correction = np.zeros(1)
    for i in range(path.steps):
        state, _ = data_scales(path, i, 0.0)
        used = nodes(path, i, order, lower_final)
        predictor = predictor_weights(path, i, used, variant)
        # The state multiplies the corrected x_i = x_i + correction . (mean_i, mean_{i-1}, ...).
        weights = state * correction
        weights = np.pad(weights, (0, max(0, len(predictor) - len(weights))))
        weights[: len(predictor)] += predictor
        rows.append(Row(state, tuple(weights.tolist())))
        correction = correction_weights(path, i, used, predictor, variant)
    return Table(tuple(rows), index_clock(path))


def predictor_weights(path: Path, i: int, used: list[int], variant: Variant) -> Array:
    """The predictor's weights on mean_i, mean_{i-1}, ...; UniP."""
    return _half_slope(path, i, used[1], variant) if len(used) == 2 else data_weights(path, i, used)


def correction_weights(path: Path, i: int, used: list[int], predictor: Array, variant: Variant) -> Array:
    """Corrector minus predictor for the step i -> i + 1, as weights on mean_{i+1}, mean_i, ...; UniC."""
    if not np.isfinite(path.lam[i : i + 2]).all():
        return np.zeros(1)
    if len(used) == 1:
        old, new = _half_slope(path, i, i + 1, variant)
        corrector = np.array([new, old])
    else:
        corrector = data_weights(path, i, [i + 1, *used])
    return np.concatenate([corrector[:1], corrector[1:] - predictor])


def _half_slope(path: Path, i: int, other: int, variant: Variant) -> Array:
    """The published weights on mean_i and one other mean: B(h)/2 times h times the slope between them."""
    h = path.lam[i + 1] - path.lam[i]
    b = h if variant == "bh1" else -np.expm1(-h)
    slope = 0.5 * path.alpha[i + 1] * b * h / (path.lam[other] - path.lam[i])
    return np.array([-path.alpha[i + 1] * np.expm1(-h) - slope, slope])
