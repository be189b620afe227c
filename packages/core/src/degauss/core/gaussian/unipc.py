r"""UniPC: a predictor-corrector of any order with no extra evaluation (Zhao et al. 2023, UniPC-B, data form).

At step i the predictor of order p passes through the last p posterior means, and once the mean at the predicted
point is known, the corrector of order p redoes the same step with that point added. The weights solve
R a = b with R_{kl} = r_l^{k-1}, r_l = (lam_l - lam_s)/h, and b from the phi functions; ``B(h)`` is h ("bh1") or
e^h - 1 ("bh2"), which only matters for the last point.

The corrected state is the predicted one plus a known combination of posterior means, so both become one row
(see ``table``).
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from torch import Tensor

from degauss.core.gaussian.exponential import data_scales, nodes
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
        predictor = _predictor(path, i, used, variant)
        # The state multiplies the corrected x_i = x_i + correction . (mean_i, mean_{i-1}, ...).
        weights = state * correction
        weights = np.pad(weights, (0, max(0, len(predictor) - len(weights))))
        weights[: len(predictor)] += predictor
        rows.append(Row(state, tuple(weights.tolist())))
        correction = _correction(path, i, used, predictor, variant)
    return Table(tuple(rows), index_clock(path))


def _predictor(path: Path, i: int, used: list[int], variant: Variant) -> Array:
    """The predictor's weights on mean_i, mean_{i-1}, ...; UniP."""
    h = path.lam[i + 1] - path.lam[i]
    if len(used) == 1:
        return np.array([-path.alpha[i + 1] * np.expm1(-h)])
    ratios = (path.lam[used[1:]] - path.lam[i]) / h
    if len(ratios) == 1:
        slopes = np.array([0.5])
    else:
        slopes = np.asarray(np.linalg.solve(*_conditions(ratios, h, variant)), dtype=np.float64)
    return _expand(path, i, ratios, slopes, variant)


def _correction(path: Path, i: int, used: list[int], predictor: Array, variant: Variant) -> Array:
    """Corrector minus predictor for the step i -> i + 1, as weights on mean_{i+1}, mean_i, ...; UniC."""
    h = path.lam[i + 1] - path.lam[i]
    if not np.isfinite(h):
        return np.zeros(1)
    ratios = np.append((path.lam[used[1:]] - path.lam[i]) / h, 1.0)
    if len(ratios) == 1:
        slopes = np.array([0.5])
    else:
        slopes = np.asarray(np.linalg.solve(*_conditions(ratios, h, variant)), dtype=np.float64)
    corrector = _expand(path, i, ratios, slopes, variant)
    # The new point is last in ``corrector``; it becomes the newest value of the next row.
    return np.concatenate([corrector[-1:], corrector[:-1] - predictor])


def _conditions(ratios: Array, h: float, variant: Variant) -> tuple[Array, Array]:
    """R and b of the order conditions (Zhao et al. 2023, theorem 3.1)."""
    count = len(ratios)
    rows = np.stack([ratios**k for k in range(count)])
    phi = np.expm1(-h) / -h - 1
    right: list[float] = []
    for k in range(1, count + 1):
        right.append(phi * math.factorial(k) / _b(h, variant))
        phi = phi / -h - 1 / math.factorial(k + 1)
    return rows, np.array(right)


def _b(h: float, variant: Variant) -> float:
    return -h if variant == "bh1" else float(np.expm1(-h))


def _expand(path: Path, i: int, ratios: Array, slopes: Array, variant: Variant) -> Array:
    """Weights on mean_i and on the values at ``ratios``, from the weights on their divided differences."""
    h = path.lam[i + 1] - path.lam[i]
    scaled = -path.alpha[i + 1] * _b(h, variant) * slopes / ratios
    first = -path.alpha[i + 1] * np.expm1(-h) - scaled.sum()
    return np.concatenate([[first], scaled])
