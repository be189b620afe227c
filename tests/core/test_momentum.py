"""Momentum: published coefficients and updates written out, limits, orders from an exact start, stability."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from degauss.core import EDM, LinearVP, Noise, RectifiedFlow, simulate
from degauss.core.gaussian import Table, TableSolver, ddim, deis, dpmpp, plms
from degauss.core.gaussian.exponential import ddim_table, noise_table
from degauss.core.gaussian.momentum import (
    constant_step,
    dpmpp_hb,
    dpmpp_hb_table,
    ghvb,
    ghvb_table,
    ghvb_variable,
    ghvb_variable_table,
    hb,
    hb_table,
    heavy_ball,
    variable_step,
)
from degauss.core.gaussian.plms import plms_table
from degauss.core.gaussian.table import Carry, TableKernel
from degauss.core.grid import uniform_log_snr, uniform_time
from degauss.core.oracle import GaussianOracle

DOUBLE = torch.float64
EDM40 = EDM(40.0)
ALL = [hb(1, 0.8), hb(3, 0.6), dpmpp_hb(0.7), ghvb(1, 0.5), ghvb(3, 0.5), ghvb_variable(2, 0.5), ghvb_variable(4, 0.3)]


def run(solver: TableSolver, schedule: Any, x: Tensor, grid: Tensor) -> Tensor:
    return simulate(solver(GaussianOracle(schedule, 1.0, 0.5), schedule), x, grid, Noise(0, range(len(x))))


def start(batch: int = 4) -> Tensor:
    return Noise(0, range(batch)).normal(torch.empty(batch, 3, dtype=DOUBLE))


# --- published forms ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("b", [1.0, 0.8, 0.25])
def test_constant_step_weights_are_the_published_ones(b: float) -> None:
    """Wizadwongsa et al. 2023 and, for the fifth order, the authors' code; b times the weights."""
    published = [
        [b],
        [(2 + b) / 2, -(2 - b) / 2],
        [(18 + 5 * b) / 12, -(24 - 8 * b) / 12, (6 - b) / 12],
        [(46 + 9 * b) / 24, -(78 - 19 * b) / 24, (42 - 5 * b) / 24, -(10 - b) / 24],
        [
            (1650 + 251 * b) / 720,
            -(3420 - 646 * b) / 720,
            (2880 - 264 * b) / 720,
            -(1380 - 106 * b) / 720,
            (270 - 19 * b) / 720,
        ],
    ]
    for order, want in enumerate(published, start=1):
        np.testing.assert_allclose(b * constant_step(order, b), want, rtol=1e-12)


def velocities(solver: TableSolver, step: Callable[[list[Tensor], Tensor | None], tuple[Tensor, Tensor]]) -> None:
    """Compare a noise-form solver with an update (eps, newest first; velocity) -> (velocity, direction) in k."""
    schedule = LinearVP()
    oracle, grid = GaussianOracle(schedule, 1.0, 0.5), uniform_time(schedule, 9, start=0.95, end=0.02)
    scales = schedule(grid)
    k = scales.sigma / scales.alpha
    want, eps, velocity = start(), [], None
    for i in range(9):
        mean = oracle(want, grid[i]).mean
        eps = [(want - scales.alpha[i] * mean) / scales.sigma[i], *eps]
        velocity, direction = step(eps, velocity)
        want = scales.alpha[i + 1] * (want / scales.alpha[i] + (k[i + 1] - k[i]) * direction)
    torch.testing.assert_close(run(solver, schedule, start(), grid), want, rtol=1e-10, atol=1e-10)


def test_heavy_ball_is_the_published_update() -> None:
    b = 0.6

    def step(eps: list[Tensor], velocity: Tensor | None) -> tuple[Tensor, Tensor]:
        bashforth = [eps[0]] if len(eps) == 1 else [1.5 * eps[0], -0.5 * eps[1]]
        plain = torch.stack(bashforth).sum(0)
        velocity = plain if velocity is None else (1 - b) * velocity + b * plain
        return velocity, velocity

    velocities(hb(2, b), step)


def test_ghvb_is_the_published_update() -> None:
    b = 0.6
    past: list[Tensor] = []

    def step(eps: list[Tensor], velocity: Tensor | None) -> tuple[Tensor, Tensor]:
        velocity = eps[0] if velocity is None else (1 - b) * velocity + b * eps[0]
        past.insert(0, velocity)
        if len(past) == 1:
            return velocity, velocity
        return velocity, ((2 + b) * past[0] - (2 - b) * past[1]) / (2 * b)

    velocities(ghvb(2, b), step)


@pytest.mark.parametrize(("first", "last"), [(1.0, 0.0), (0.9, 0.1)])
def test_heavy_ball_on_2m_is_the_authors_update(first: float, last: float) -> None:
    """Momentum on the second-order steps, from the second of them on; steps of first order are plain."""
    schedule, b = LinearVP(), 0.7
    grid = uniform_time(schedule, 8, start=first, end=last)
    oracle = GaussianOracle(schedule, 1.0, 0.5)
    (alpha, sigma), lam = schedule(grid), 0.5 * schedule.log_snr(grid)
    x, means, velocity = start(), [], None
    for i in range(8):
        means = [oracle(x, grid[i]).mean, *means]
        h = lam[i + 1] - lam[i]
        direction = means[0]
        if 0 < i < 7:
            direction = means[0] + 0.5 * h / (lam[i] - lam[i - 1]) * (means[0] - means[1])
            direction = velocity = direction if velocity is None else (1 - b) * velocity + b * direction
        x = sigma[i + 1] / sigma[i] * x - alpha[i + 1] * torch.expm1(-h) * direction
    torch.testing.assert_close(run(dpmpp_hb(b), schedule, start(), grid), x, rtol=1e-10, atol=1e-10)


# --- limits -------------------------------------------------------------------------------------------------


SCHEDULES = st.sampled_from([LinearVP(), RectifiedFlow(), EDM(80.0)])
GRIDS = st.lists(st.floats(0.02, 0.98), min_size=3, max_size=12, unique_by=lambda t: round(t, 2))


def same_method(one: Table, other: Table) -> None:
    """The same rows, but for zeros at the end of tuples."""
    for a, b in zip(one.rows, other.rows, strict=True):
        for field in ("weights", "keep", "earlier"):
            left, right = list(getattr(a, field) or ()), list(getattr(b, field) or ())
            length = max(len(left), len(right))
            left, right = left + [0.0] * (length - len(left)), right + [0.0] * (length - len(right))
            scale = max(map(abs, right), default=0.0)
            np.testing.assert_allclose(left, right, rtol=1e-9, atol=1e-11 * scale, err_msg=field)
        assert a.state == pytest.approx(b.state, rel=1e-12)


@settings(deadline=None, max_examples=25)
@given(SCHEDULES, GRIDS, st.integers(1, 4))
def test_without_damping_there_is_no_momentum(schedule: Any, times: list[float], order: int) -> None:
    grid = torch.tensor(sorted(times, reverse=True), dtype=DOUBLE)
    plain = plms_table(schedule, grid, order=order)
    same_method(ghvb_table(schedule, grid, order=order, damping=1.0), plain)
    same_method(hb_table(schedule, grid, order=order, damping=1.0), plain)
    same_method(
        ghvb_variable_table(schedule, grid, order=order, damping=1.0),
        noise_table(schedule, grid, order=order, axis="ratio", lower_final=False),
    )
    first = run(hb(1, 1.0), schedule, start(), grid)
    torch.testing.assert_close(first, run(ddim(), schedule, start(), grid), rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(
        run(dpmpp_hb(1.0), schedule, start(), grid), run(dpmpp(2), schedule, start(), grid), rtol=1e-9, atol=1e-10
    )


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("b", [0.9, 0.5, 0.3])
def test_variable_weights_become_the_published_ones_on_a_constant_step(order: int, b: float) -> None:
    k = 300.0 - np.arange(150.0)
    got = variable_step(k, k[-1] - 1, order, b)
    np.testing.assert_allclose(got, -constant_step(order, b), rtol=1e-8)
    # Control: not while the average is young.
    if order > 1:
        assert np.abs(variable_step(k[: order + 1], k[order] - 1, order, b) + constant_step(order, b)).max() > 1e-3


@settings(deadline=None, max_examples=50)
@given(GRIDS, st.integers(2, 5), st.floats(0.05, 1.0))
def test_variable_weights_are_bounded_by_the_newest_knots(times: list[float], order: int, b: float) -> None:
    """z <= a_{r-1} and |M_m| <= c_m M_{r-1}: written as weights on eps, no grid makes them singular."""
    k = np.array(sorted(times, reverse=True))
    order = min(order, len(k) - 1)
    on_eps = np.zeros(len(k) - 1)
    for j, weight in enumerate(variable_step(k[:-1], k[-1], order, b)):
        past = len(k) - 1 - j
        share = b * (1 - b) ** np.arange(past - 1.0, -1, -1)
        share[0] = (1 - b) ** (past - 1)
        on_eps[:past] += weight * share
    plain = variable_step(k[:-1], k[-1], order, 1.0)
    assert on_eps.sum() == pytest.approx(k[-1] - k[-2], rel=1e-6)
    assert np.abs(on_eps[: len(k) - order]).sum() <= abs(plain[-1]) * (1 + 1e-6)
    knots = k[-2::-1][:order]
    gaps = np.abs([np.prod([knot - other for other in knots if other != knot]) for knot in knots])
    largest = abs(plain[-1]) * gaps[-1] / gaps[:-1]
    change = np.abs(on_eps[::-1][: order - 1] - plain[:-1])
    assert (change <= largest * (1 + 1e-6) + 1e-9 * np.abs(plain).max()).all()


def test_only_plain_tables_take_heavy_ball() -> None:
    grid = uniform_time(LinearVP(), 5, start=0.9, end=0.1)
    with pytest.raises(ValueError, match="without noise"):
        heavy_ball(ddim_table(LinearVP(), grid, eta=1.0), 0.5, range(1, 5))


# --- orders -------------------------------------------------------------------------------------------------


def from_exact_start(function: Callable[..., Table], steps: int, **options: Any) -> float:
    """The error on Gaussian data with the first eight states, and the values remembered of them, exact."""
    back = 8
    grid = uniform_log_snr(EDM40, steps, start=1.0, end=0.02 / 40)
    oracle = GaussianOracle(EDM40, mean=1.5, std=0.7)
    x = 40 * start()
    table = function(EDM40, grid, **options)
    states = [oracle.flow(x, grid[0], t) for t in grid[: back + 1]]
    past: tuple[Tensor, ...] = ()
    for i in range(back):
        keep = table.rows[i].keep or (0.0, 1.0)
        values = (states[i], oracle(states[i], grid[i]).mean, *past)
        past = (sum((w * v for w, v in zip(keep, values, strict=False)), torch.zeros_like(x)), *past)
    kernel = TableKernel(oracle, EDM40, lambda *_: table)
    earlier = tuple(reversed(states[:back]))[: table.states]
    carry, x = Carry(table, torch.unbind(grid), past[: table.depth], earlier), states[back]
    for i in range(back, steps):
        carry, x = kernel.step(carry, x, i, Noise(0, range(4)))
    want = oracle.flow(states[0], grid[0], grid[-1])
    return float((x - want).abs().max())


ORDERS = [
    (hb_table, {"order": 1, "damping": 0.8}, 1),
    (hb_table, {"order": 2, "damping": 0.8}, 1),
    (dpmpp_hb_table, {"damping": 0.8}, 1),
    (ghvb_table, {"order": 1, "damping": 0.5}, 1),
    (ghvb_table, {"order": 2, "damping": 0.5}, 2),
    (ghvb_table, {"order": 2, "damping": 0.8}, 2),
    # Labels are not orders: constant-step weights on a grid that is uniform in log-SNR.
    (ghvb_table, {"order": 3, "damping": 0.5}, 2),
    (ghvb_table, {"order": 4, "damping": 0.5}, 2),
    (ghvb_variable_table, {"order": 2, "damping": 0.5}, 2),
    (ghvb_variable_table, {"order": 3, "damping": 0.5}, 3),
    (ghvb_variable_table, {"order": 3, "damping": 0.8}, 3),
    (ghvb_variable_table, {"order": 4, "damping": 0.8}, 4),
]


@pytest.mark.parametrize(("function", "options", "order"), ORDERS)
def test_order_with_an_exact_start(function: Callable[..., Table], options: dict[str, Any], order: int) -> None:
    coarse, fine = (from_exact_start(function, steps, **options) for steps in (640, 1280))
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.12)


# --- stability ----------------------------------------------------------------------------------------------


def growth(table: Table, rate: float) -> float:
    """The spectral radius of the last row's update of (x, past values, past states) where eps = rate x / alpha."""
    row = table.rows[-1]
    keep = row.keep or (0.0, 1.0)
    # EDM: alpha = 1 and sigma from the weights of eps, keep[0] = share / sigma, keep[1] = -share / sigma.
    share = 1.0 - sum(keep[2:])
    depth, states = table.depth + 1, table.states
    size = 1 + depth + states
    value = np.zeros(size)
    value[0] = share * rate
    value[1 : 1 + len(keep) - 2] = keep[2:]
    matrix = np.zeros((size, size))
    matrix[0, 0] = row.state
    matrix[0] += row.weights[0] * value
    for j, weight in enumerate(row.weights[1:]):
        matrix[0, 1 + j] += weight
    for j, weight in enumerate(row.earlier):
        matrix[0, 1 + depth + j] += weight
    matrix[1] = value
    for j in range(1, depth):
        matrix[1 + j, j] = 1
    if states:
        matrix[1 + depth, 0] = 1
        for j in range(1, states):
            matrix[1 + depth + j, depth + j] = 1
    return float(np.abs(np.linalg.eigvals(matrix)).max())


def interval(function: Callable[..., Table], **options: Any) -> float:
    """How large -dk rate may be for decay on dy/dk = rate y, with a constant step in k; bisection."""
    grid = torch.linspace(1.0, 0.2, 41, dtype=DOUBLE)
    table = function(EDM(1.0), grid, **options)
    low, high = 0.0, 50.0
    for _ in range(50):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if growth(table, middle / 0.02) < 1 else (low, middle)
    return low


def test_known_stability_intervals() -> None:
    """Adams-Bashforth of order 1 to 4, textbook values; heavy ball on Euler, 2 (2 - b) / b."""
    for order, want in ((1, 2.0), (2, 1.0), (3, 6 / 11), (4, 0.3)):
        assert interval(plms_table, order=order) == pytest.approx(want, rel=1e-6)
    for b in (0.9, 0.5, 0.3):
        assert interval(hb_table, order=1, damping=b) == pytest.approx(2 * (2 - b) / b, rel=1e-6)


@pytest.mark.parametrize("function", [hb_table, ghvb_table, ghvb_variable_table])
@pytest.mark.parametrize("order", [2, 3, 4])
def test_momentum_widens_the_stability_interval(function: Callable[..., Table], order: int) -> None:
    widths = [interval(function, order=order, damping=b) for b in (1.0, 0.8, 0.6, 0.4)]
    assert all(narrow < wide for narrow, wide in pairwise(widths))
    assert widths[-1] > 1.3 * widths[0]


# --- kernels ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ALL, ids=str)
def test_a_sample_does_not_depend_on_its_batch(solver: TableSolver) -> None:
    grid = uniform_time(LinearVP(), 7, start=0.95, end=0.02)
    whole = run(solver, LinearVP(), start(), grid)
    assert torch.equal(run(solver, LinearVP(), start()[1:3], grid), whole[1:3])


@pytest.mark.parametrize("solver", ALL, ids=str)
def test_gradients_flow(solver: TableSolver) -> None:
    x = start(1).requires_grad_()
    grid = uniform_time(LinearVP(), 5, start=0.95, end=0.02)

    def whole(x: Tensor) -> Tensor:
        return run(solver, LinearVP(), x, grid)

    assert torch.autograd.gradcheck(whole, (x,), fast_mode=True)


def test_refused() -> None:
    for wrong in (0.0, -0.5, 1.5, math.nan):
        for make in (hb, ghvb, ghvb_variable):
            with pytest.raises(ValueError, match=r"damping lies in \(0, 1\]"):
                make(2, wrong)
    with pytest.raises(ValueError, match="orders 1 to 5, got 6"):
        ghvb(6)
    with pytest.raises(ValueError, match="orders 1 to 5, got 0"):
        ghvb_variable(0)
    with pytest.raises(ValueError, match="orders 1 to 4, got 5"):
        hb(5)


def test_comparable_solvers_agree_when_fine() -> None:
    grid = uniform_time(LinearVP(), 400, start=0.95, end=0.02)
    want = GaussianOracle(LinearVP(), 1.0, 0.5).flow(start(), grid[0], grid[-1])
    for solver in (plms(2), deis(2), ghvb(2, 0.8), ghvb_variable(2, 0.8)):
        torch.testing.assert_close(run(solver, LinearVP(), start(), grid), want, rtol=1e-3, atol=1e-3)
