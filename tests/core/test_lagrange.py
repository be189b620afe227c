"""The generator against closed forms, and the order conditions of every table in the package.

A step of order p is exact where what it interpolates is a polynomial of degree below p in its axis. So: the posterior
mean, or eps, is set to such a polynomial, the probability-flow ODE is then an integral, and each row of each table is
applied to exact states and compared with the exact next state.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.integrate import quad
from torch import Tensor

from degauss.core import EDM, Cosine, LinearVP, RectifiedFlow, Schedule, SubVP
from degauss.core.gaussian import Table, lagrange
from degauss.core.gaussian.exponential import data_table, ddim_table, dpm_2m_table, dpmpp_2m_table, noise_table
from degauss.core.gaussian.momentum import ghvb_table, ghvb_variable_table
from degauss.core.gaussian.plms import adams_bashforth, plms_table
from degauss.core.gaussian.table import Path, on_grid
from degauss.core.gaussian.unipc import unipc_table
from degauss.core.gaussian.usf import Decision, Plan, multistep_plan, plan_table

Array = NDArray[np.float64]

SCHEDULES = st.sampled_from([LinearVP(), Cosine(), RectifiedFlow(), SubVP(), EDM(80.0)])
GRIDS = st.lists(st.floats(0.02, 0.98), min_size=4, max_size=10, unique_by=lambda t: round(t, 2))
PROPERTY = settings(deadline=None, max_examples=20)


def as_grid(times: list[float]) -> Tensor:
    return torch.tensor(sorted(times, reverse=True), dtype=torch.float64)


# --- the generator ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "behind", "ahead"),
    [
        (1, "1", "1"),
        (2, "3/2 -1/2", "1/2 1/2"),
        (3, "23/12 -16/12 5/12", "5/12 8/12 -1/12"),
        (4, "55/24 -59/24 37/24 -9/24", "9/24 19/24 -5/24 1/24"),
        (5, "1901/720 -2774/720 2616/720 -1274/720 251/720", "251/720 646/720 -264/720 106/720 -19/720"),
    ],
)
def test_constant_steps_are_adams_bashforth_and_adams_moulton(order: int, behind: str, ahead: str) -> None:
    knots = -np.arange(float(order))
    for weights, want in (
        (adams_bashforth(order), behind),
        (lagrange.adams(knots, 0.0, 1.0), behind),
        (lagrange.adams(knots, -1.0, 0.0), ahead),
    ):
        np.testing.assert_allclose(weights, [float(Fraction(part)) for part in want.split()], rtol=1e-13)


KNOTS = st.lists(st.floats(-3, 3), min_size=1, max_size=5, unique_by=lambda u: round(u, 1))


@PROPERTY
@given(KNOTS, st.floats(-3, 3), st.floats(-3, 3))
def test_polynomials_through_the_knots_are_exact(knots: list[float], start: float, end: float) -> None:
    u = np.array(knots)
    weights, slopes = lagrange.adams(u, start, end), lagrange.derivatives(u, start)
    basis = lagrange.basis(u, u)
    np.testing.assert_allclose(basis, np.eye(len(u)), atol=1e-12)
    for degree in range(len(u)):
        polynomial = np.polynomial.Polynomial.basis(degree)
        values = polynomial(u)
        scale = 1 + np.abs(weights * values).sum()
        assert weights @ values == pytest.approx(polynomial.integ()(end) - polynomial.integ()(start), abs=1e-9 * scale)
        for d in range(len(u)):
            scale = 1 + np.abs(slopes[d] * values).sum()
            assert slopes[d] @ values == pytest.approx(polynomial.deriv(d)(start), abs=1e-9 * scale)
    if len(u) > 1:
        # Control: one degree more is not integrated exactly.
        missed = np.polynomial.Polynomial.fromroots(u)
        error = missed.integ()(end) - missed.integ()(start)
        assert weights @ missed(u) - error == pytest.approx(-error, abs=1e-9)


# --- order conditions ---------------------------------------------------------------------------------------


class Exact:
    """An exact solution: states and posterior means on the grid, given f as a polynomial in an axis."""

    def __init__(self, path: Path, axis: Callable[[Any], Any], form: str, degree: int) -> None:
        last = axis(path.lam[-1])
        width = axis(path.lam[0]) - last

        def f(lam: Any) -> Any:
            return ((axis(lam) - last) / width) ** degree

        def rate(lam: float) -> float:
            return float(np.exp(lam if form == "data" else -lam) * f(lam))

        scale = path.sigma if form == "data" else path.alpha
        gained = [quad(rate, a, b, epsabs=0, epsrel=1e-12)[0] for a, b in zip(path.lam, path.lam[1:], strict=False)]
        self.x: Array = scale * np.cumsum([0.7, *(gained if form == "data" else np.negative(gained))])
        self.mean: Array = f(path.lam) if form == "data" else (self.x - path.sigma * f(path.lam)) / path.alpha


def worst(table: Table, exact: Exact, first: int) -> float:
    """The largest relative error of the steps from ``first`` on, each taken from exact states."""
    kept: list[float] = []
    out = 0.0
    for i, row in enumerate(table.rows):
        value = exact.mean[i]
        if row.keep is not None:
            value = np.dot(row.keep[: 2 + len(kept)], [exact.x[i], value, *kept][: len(row.keep)])
        kept = [float(value), *kept]
        terms = [row.state * exact.x[i]]
        terms += [w * y for w, y in zip(row.weights, kept, strict=False)]
        terms += [w * exact.x[i - 1 - j] for j, w in enumerate(row.earlier)]
        if i >= first:
            out = max(out, abs(sum(terms) - exact.x[i + 1]) / (np.abs(terms).sum() + abs(exact.x[i + 1])))
    return out


def lam_axis(lam: Any) -> Any:
    return lam


def ratio_axis(lam: Any) -> Any:
    return np.exp(-lam)


Maker = Callable[[Schedule, Tensor, int], Table]
FULL: list[tuple[str, Maker, str, Any]] = [
    ("dpmpp", lambda s, g, p: data_table(s, g, order=p, lower_final=False), "data", lam_axis),
    ("dpm", lambda s, g, p: noise_table(s, g, order=p, lower_final=False), "noise", lam_axis),
    ("deis", lambda s, g, p: noise_table(s, g, order=p, axis="ratio", lower_final=False), "noise", ratio_axis),
    ("ghvb 0.5", lambda s, g, p: ghvb_variable_table(s, g, order=p, damping=0.5), "noise", ratio_axis),
    ("ghvb 0.1", lambda s, g, p: ghvb_variable_table(s, g, order=p, damping=0.1), "noise", ratio_axis),
    ("usf", lambda s, g, p: plan_table(s, full_plan(g, p, "data")), "data", lam_axis),
    ("usf noise", lambda s, g, p: plan_table(s, full_plan(g, p, "noise")), "noise", lam_axis),
    ("usf corrected", lambda s, g, p: plan_table(s, full_plan(g, p, "data", "pseudo")), "data", lam_axis),
    ("usf noise corrected", lambda s, g, p: plan_table(s, full_plan(g, p, "noise", "pseudo")), "noise", lam_axis),
]


def full_plan(grid: Tensor, order: int, form: Any, corrector: Any = "none") -> Plan:
    """Order ``order`` to the end, corrected where it is full."""
    last = len(grid) - 2
    decisions: list[Decision] = []
    for i, t in enumerate(grid[1:].tolist()):
        corrected = corrector if order <= i + 1 <= last else "none"
        decisions.append(Decision(t, form, tuple(range(1, min(order, i + 1))), corrector=corrected))
    return Plan(float(grid[0]), tuple(decisions))


@pytest.mark.parametrize(("maker", "form", "axis"), [row[1:] for row in FULL], ids=[row[0] for row in FULL])
@PROPERTY
@given(schedule=SCHEDULES, times=GRIDS, order=st.integers(1, 4))
def test_steps_are_exact_below_their_order(
    maker: Maker, form: str, axis: Any, schedule: Schedule, times: list[float], order: int
) -> None:
    grid = as_grid(times)
    path = on_grid(schedule, grid)
    table = maker(schedule, grid, order)
    for degree in range(order):
        # With i earlier values the order of step i is i + 1 at most.
        assert worst(table, Exact(path, axis, form, degree), first=degree) < 1e-8


def test_steps_are_not_exact_at_their_order() -> None:
    """Control of the test above."""
    grid = torch.linspace(0.9, 0.1, 8, dtype=torch.float64)
    path = on_grid(LinearVP(), grid)
    for _, maker, form, axis in FULL:
        for order in (1, 2, 3):
            assert worst(maker(LinearVP(), grid, order), Exact(path, axis, form, order), first=order) > 1e-6


@PROPERTY
@given(SCHEDULES, GRIDS)
def test_consistent_steps_are_exact_for_constants(schedule: Schedule, times: list[float]) -> None:
    """Published second-order updates are exact for constants only; their order is asymptotic."""
    grid = as_grid(times)
    path = on_grid(schedule, grid)
    data, noise = Exact(path, lam_axis, "data", 0), Exact(path, lam_axis, "noise", 0)
    for table in (ddim_table(schedule, grid), dpmpp_2m_table(schedule, grid), unipc_table(schedule, grid, order=2)):
        assert worst(table, data, first=0) < 1e-9
    for table in (
        ddim_table(schedule, grid),
        dpm_2m_table(schedule, grid),
        plms_table(schedule, grid, order=4),
        ghvb_table(schedule, grid, order=3, damping=0.5),
    ):
        assert worst(table, noise, first=0) < 1e-9


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_plms_has_its_order_on_a_uniform_ratio_only(order: int) -> None:
    schedule = EDM(1.0)
    uniform = torch.linspace(1.0, 0.1, 10, dtype=torch.float64)
    stretched = uniform**2
    for degree in range(order):
        exact = Exact(on_grid(schedule, uniform), ratio_axis, "noise", degree)
        assert worst(plms_table(schedule, uniform, order=order), exact, first=degree) < 1e-10
    if order > 1:
        exact = Exact(on_grid(schedule, stretched), ratio_axis, "noise", 1)
        assert worst(plms_table(schedule, stretched, order=order), exact, first=order) > 1e-4


@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@PROPERTY
@given(schedule=SCHEDULES, times=GRIDS, order=st.integers(3, 4))
def test_unipc_corrects_to_one_order_more(variant: Any, schedule: Schedule, times: list[float], order: int) -> None:
    """On a mean of degree p the corrected states are exact, so each state is wrong by its last prediction only."""
    grid = as_grid(times)
    path = on_grid(schedule, grid)
    if path.steps <= order:
        return
    exact = Exact(path, lam_axis, "data", order)
    rows = unipc_table(schedule, grid, order=order, variant=variant, lower_final=False).rows
    plain = data_table(schedule, grid, order=order, lower_final=False).rows
    predicted = [
        row.state * exact.x[i] + np.dot(row.weights, exact.mean[i::-1][: len(row.weights)])
        for i, row in enumerate(plain)
    ]
    for i in range(order, path.steps):
        row = rows[i]
        means = exact.mean[i::-1][: len(row.weights)]
        got = row.state * predicted[i - 1] + np.dot(row.weights, means)
        scale = np.abs(np.multiply(row.weights, means)).sum() + abs(row.state * predicted[i - 1])
        assert got == pytest.approx(predicted[i], abs=1e-8 * scale)


@PROPERTY
@given(SCHEDULES, GRIDS, st.integers(1, 4))
def test_a_taylor_step_is_the_lagrange_step(schedule: Schedule, times: list[float], order: int) -> None:
    grid = as_grid(times)
    want = data_table(schedule, grid, order=order).rows
    for row, other in zip(plan_table(schedule, multistep_plan(schedule, grid, order=order)).rows, want, strict=True):
        scale = np.abs(other.weights).sum()
        np.testing.assert_allclose(row.weights, other.weights, rtol=1e-9, atol=1e-9 * scale)
        assert row.state == pytest.approx(other.state, rel=1e-12)
