"""Solvers against theory: measured orders on a mixture with an exact score, limits that agree, exact conditions.

The test problem is an overlapping Gaussian mixture in 8 dimensions with full covariances, noise levels 40 to 0.02, a
grid uniform in log-SNR. Errors are medians over trajectories; the reference is UniPC-3 with 4000 steps.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from degauss.core import (
    EDM,
    Cosine,
    InputError,
    LinearVP,
    Noise,
    Point,
    RectifiedFlow,
    Schedule,
    SubVP,
    sample,
    simulate,
)
from degauss.core.gaussian import (
    AncestralTwo,
    Heun,
    Singlestep,
    TableKernel,
    TableSolver,
    ddim,
    deis,
    dpm,
    dpmpp,
    plms,
    unipc,
)
from degauss.core.gaussian.exponential import data_table, ddim_table, nodes, noise_table
from degauss.core.gaussian.table import Carry, Table, on_grid
from degauss.core.gaussian.unipc import predictor_weights as unipc_predictor
from degauss.core.gaussian.unipc import unipc_table
from degauss.core.grid import karras, uniform_log_snr, uniform_time
from degauss.core.observe import Trajectory
from degauss.core.oracle import GaussianOracle, MixtureOracle
from degauss.core.process.bridge import BrownianBridge

DOUBLE = torch.float64
EDM40 = EDM(40.0)


@cache
def mixture(schedule: Schedule = EDM40, dim: int = 8) -> MixtureOracle:
    noise = Noise(7, range(5))
    means = noise.normal(torch.empty(5, dim, dtype=DOUBLE))
    factors = noise.normal(torch.empty(5, dim, dim, dtype=DOUBLE), draw=1)
    covariances = 0.3 * torch.eye(dim, dtype=DOUBLE) + factors @ factors.transpose(1, 2) / dim
    return MixtureOracle(schedule, torch.ones(5, dtype=DOUBLE), means, covariances)


@cache
def start() -> Tensor:
    return 40 * Noise(0, range(64)).normal(torch.empty(64, 8, dtype=DOUBLE))


def log_grid(steps: int) -> Tensor:
    return uniform_log_snr(EDM40, steps, start=1.0, end=0.02 / 40)


def run(solver: Callable[..., Any], steps: int) -> Tensor:
    return simulate(solver(mixture(), EDM40), start(), log_grid(steps), Noise(1, range(64)))


@cache
def exact() -> Tensor:
    return run(unipc(order=3), 4000)


def error(x: Tensor) -> float:
    return float((x - exact()).norm(dim=1).median())


def slope(solver: Callable[..., Any], coarse: int, fine: int) -> float:
    return math.log(error(run(solver, coarse)) / error(run(solver, fine))) / math.log(fine / coarse)


ORDERS = [
    (ddim(), 1.0, 80, 320),
    (dpmpp(order=1), 1.0, 80, 320),
    (dpm(order=1), 1.0, 80, 320),
    (dpmpp(order=2), 2.0, 80, 320),
    (dpm(order=2), 2.0, 80, 320),
    (Heun, 2.0, 80, 320),
    (plms(order=2), 2.0, 80, 320),
    # The weights of a constant step on a grid that is not uniform in sigma/alpha: order 2, not 4.
    (plms(order=4), 2.0, 80, 320),
    (deis(order=2), 2.0, 80, 320),
    (deis(order=3), 3.0, 160, 640),
    (deis(order=3, axis="time"), 3.0, 160, 640),
    (unipc(order=1), 2.0, 80, 320),
    (unipc(order=2), 3.0, 40, 160),
    (unipc(order=2, variant="bh1"), 3.0, 40, 160),
    (partial(Singlestep, order=2), 2.0, 80, 320),
    (partial(Singlestep, order=3), 3.0, 80, 320),
    (partial(Singlestep, order=2, form="data"), 2.0, 80, 320),
    (partial(Singlestep, order=3, form="data"), 3.0, 80, 320),
    (partial(AncestralTwo, eta=0.0), 2.0, 80, 320),
]


@pytest.mark.parametrize(("solver", "order", "coarse", "fine"), ORDERS, ids=str)
def test_measured_order(solver: Callable[..., Any], order: float, coarse: int, fine: int) -> None:
    assert slope(solver, coarse, fine) == pytest.approx(order, abs=0.11)


def from_exact_start(tabulate: partial[Table], steps: int) -> float:
    """The error with the first values taken from the exact trajectory instead of lower-order steps."""
    grid, back = log_grid(steps), 4
    schedule, denoiser = EDM40, mixture()
    record = Trajectory()
    fine = log_grid(steps * 40)
    kernel = unipc(order=3)(denoiser, schedule)
    simulate(kernel, start(), fine[: 40 * back + 1], Noise(1, range(64)), observe=[record])
    states = [start(), *record.states[39::40]]
    means = [denoiser(x, t).mean for x, t in zip(states[:-1], grid[:back], strict=True)]
    table = tabulate(schedule, grid)
    solver = TableKernel(denoiser, schedule, tabulate)
    if tabulate.func is unipc_table:
        # The first row would correct the arrival at a state that is exact already: predict only.
        path = on_grid(schedule, grid)
        predictor = unipc_predictor(path, back, nodes(path, back, 3, False), "bh2")
        first = table.rows[back]._replace(weights=tuple(predictor.tolist()))
        table = Table((*table.rows[:back], first, *table.rows[back + 1 :]), table.clock)
    carry, x = Carry(table, torch.unbind(grid), tuple(reversed(means))), states[-1]
    for i in range(back, steps):
        carry, x = solver.step(carry, x, i, Noise(1, range(64)))
    return error(x)


@pytest.mark.parametrize(
    ("tabulate", "order"),
    [
        (partial(data_table, order=3, lower_final=False), 3.0),
        (partial(unipc_table, order=3, lower_final=False), 4.0),
    ],
)
def test_order_with_an_exact_start(tabulate: partial[Table], order: float) -> None:
    coarse, fine = from_exact_start(tabulate, 160), from_exact_start(tabulate, 320)
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.1)


def test_low_step_ranking() -> None:
    at_ten = {s: error(run(solver, 10)) for s, solver in {"ddim": ddim(), "2m": dpmpp(2), "uni": unipc(3)}.items()}
    assert at_ten["uni"] < at_ten["2m"] < at_ten["ddim"] / 3


@pytest.mark.parametrize("schedule", [LinearVP(), Cosine(), RectifiedFlow(), SubVP(), EDM(20.0)], ids=str)
@pytest.mark.parametrize("solver", [ddim(), dpmpp(2), dpmpp(3), unipc(3)], ids=str)
def test_converges_to_the_closed_form_flow(schedule: Schedule, solver: TableSolver) -> None:
    """On Gaussian data the probability-flow map is known on every schedule, to clean data at t = 0."""
    oracle = GaussianOracle(schedule, mean=1.5, std=0.7)
    grid = uniform_time(schedule, 400, start=0.98)
    x = Noise(0, range(32)).normal(torch.empty(32, 3, dtype=DOUBLE))
    got = simulate(solver(oracle, schedule), x, grid, Noise(1, range(32)))
    want = oracle.flow(x, grid[0], grid[-1])
    assert float((got - want).abs().max()) < (2e-2 if solver == ddim() else 1e-3)


def test_starts_at_pure_noise_and_ends_on_clean_data() -> None:
    """alpha(1) = 0 and sigma(0) = 0 are ordinary ends of a data-form grid."""
    schedule = Cosine()
    oracle = GaussianOracle(schedule, mean=-1.0, std=0.5)
    for solver in (ddim(), dpmpp(2), dpmpp(3), unipc(3), dpmpp(2, eta=1.0), ddim(eta=1.0)):
        x = sample(oracle, schedule, (4000, 1), solver=solver, steps=100, dtype=DOUBLE)
        assert float(x.mean()) == pytest.approx(-1.0, abs=4 * 0.5 / math.sqrt(4000))
        # The variance of 4000 normal samples has a relative standard error of sqrt(2 / 4000).
        assert float(x.var()) == pytest.approx(0.25, rel=4 * math.sqrt(2 / 4000) + 0.02)


@pytest.mark.parametrize(
    "solver", [ddim(eta=0.5), ddim(eta=1.0), dpmpp(1, eta=1.0), dpmpp(2, eta=1.0), dpmpp(3, eta=0.7),
               dpm(2, eta=1.0), AncestralTwo, partial(Heun, churn=20.0)], ids=str
)  # fmt: skip
def test_stochastic_solvers_sample_the_data_law(solver: Callable[..., Any]) -> None:
    schedule = LinearVP()
    oracle = GaussianOracle(schedule, mean=2.0, std=0.5)
    grid = uniform_log_snr(schedule, 150, end=1e-4)
    noise = Noise(3, range(4000))
    x = noise.normal(torch.empty(4000, 2, dtype=DOUBLE))
    x = simulate(solver(oracle, schedule), x, grid, noise)
    assert float(x.mean()) == pytest.approx(2.0, abs=4 * 0.5 / math.sqrt(8000) + 5e-3)
    assert float(x.std()) == pytest.approx(0.5, rel=4 / math.sqrt(2 * 8000) + 0.02)
    assert float(x.std()) != pytest.approx(0.5, abs=1e-7)


def ddpm_posterior(schedule: Schedule, grid: Tensor) -> list[tuple[float, float, float]]:
    """q(x_s | x_t, x0) of Ho et al. 2020, eq. 7: coefficients on x_t and x0, and the standard deviation."""
    out: list[tuple[float, float, float]] = []
    alpha_bar = (schedule(grid).alpha ** 2).tolist()
    for now, then in itertools.pairwise(alpha_bar):
        beta = 1 - now / then
        on_x = math.sqrt(now / then) * (1 - then) / (1 - now)
        out.append((on_x, math.sqrt(then) * beta / (1 - now), math.sqrt(beta * (1 - then) / (1 - now))))
    return out


def test_ddim_with_eta_one_is_ddpm() -> None:
    grid = uniform_time(LinearVP(), 30, start=1.0, end=1e-3)
    for row, (on_x, on_x0, std) in zip(
        ddim_table(LinearVP(), grid, eta=1.0).rows, ddpm_posterior(LinearVP(), grid), strict=True
    ):
        assert (row.state, *row.weights, row.noise) == pytest.approx((on_x, on_x0, std), rel=1e-9)


def rows_as_array(table: Table) -> np.ndarray[Any, Any]:
    depth = table.depth + 1
    return np.array([(r.state, *r.weights, *(0.0,) * (depth - len(r.weights)), r.noise) for r in table.rows])


SCHEDULES = st.sampled_from([LinearVP(), Cosine(), RectifiedFlow(), SubVP(), EDM(80.0)])
GRIDS = st.lists(st.floats(0.02, 0.98), min_size=3, max_size=12, unique_by=lambda t: round(t, 2))


def as_grid(times: list[float]) -> Tensor:
    return torch.tensor(sorted(times, reverse=True), dtype=DOUBLE)


@settings(deadline=None, max_examples=40)
@given(SCHEDULES, GRIDS)
def test_first_order_methods_are_ddim(schedule: Schedule, times: list[float]) -> None:
    """DPM-Solver-1, DPM-Solver++-1, DEIS-1 and DDIM are one method (Lu et al. 2022a, section 4.1)."""
    grid = as_grid(times)
    want = rows_as_array(ddim_table(schedule, grid))
    np.testing.assert_allclose(rows_as_array(data_table(schedule, grid, order=1)), want, rtol=1e-8, atol=1e-12)
    x = Noise(0, range(4)).normal(torch.empty(4, 8, dtype=DOUBLE))
    runs = [
        simulate(solver(GaussianOracle(schedule, 1.0, 0.5), schedule), x, grid, Noise(0, range(4)))
        for solver in (ddim(), dpm(1), deis(1), plms(1))
    ]
    for got in runs[1:]:
        torch.testing.assert_close(got, runs[0], rtol=1e-8, atol=1e-10)


@settings(deadline=None, max_examples=40)
@given(SCHEDULES, GRIDS, st.integers(1, 4), st.floats(0.0, 1.5))
def test_data_form_order_conditions(schedule: Schedule, times: list[float], order: int, eta: float) -> None:
    """A data-form step is exact when the posterior mean is a polynomial in lam of degree below its order."""
    grid = as_grid(times)
    path = on_grid(schedule, grid)
    table = data_table(schedule, grid, order=order, eta=eta, lower_final=False)
    c = 1 + eta**2
    for i, row in enumerate(table.rows):
        end, width = path.lam[i + 1], path.lam[i + 1] - path.lam[i]
        lam = np.linspace(path.lam[i], end, 20001)
        for degree in range(len(row.weights)):
            value = ((lam - end) / width) ** degree
            want = path.alpha[i + 1] * c * np.trapezoid(np.exp(-c * (end - lam)) * value, lam)
            past = ((path.lam[i - np.arange(len(row.weights))] - end) / width) ** degree
            scale = np.abs(np.array(row.weights) * past).sum()
            assert np.dot(row.weights, past) == pytest.approx(want, abs=1e-6 * (scale + abs(want)))


@settings(deadline=None, max_examples=40)
@given(SCHEDULES, GRIDS, st.integers(1, 3), st.sampled_from(["log_snr", "ratio", "time"]))
def test_noise_form_order_conditions(schedule: Schedule, times: list[float], order: int, axis: Any) -> None:
    """A noise-form step is exact when eps is a polynomial in its axis of degree below its order."""
    grid = as_grid(times)
    path = on_grid(schedule, grid)
    table = noise_table(schedule, grid, order=order, axis=axis, lower_final=False)
    for i, row in enumerate(table.rows):
        lam = np.linspace(path.lam[i], path.lam[i + 1], 20001)
        variable = {
            "log_snr": lambda lam: lam,
            "ratio": lambda lam: np.exp(-lam),
            "time": lambda lam: schedule.time(torch.as_tensor(2 * lam)).numpy(),
        }[axis]
        centre, width = variable(path.lam[i]), np.ptp(variable(path.lam[i : i + 2]))
        for degree in range(len(row.weights)):
            value = ((variable(lam) - centre) / width) ** degree
            want = -path.alpha[i + 1] * np.trapezoid(np.exp(-lam) * value, lam)
            past = ((variable(path.lam[i - np.arange(len(row.weights))]) - centre) / width) ** degree
            scale = np.abs(np.array(row.weights) * past).sum()
            assert np.dot(row.weights, past) == pytest.approx(want, abs=1e-5 * (scale + abs(want)))


@settings(deadline=None, max_examples=40)
@given(SCHEDULES, GRIDS, st.integers(2, 4))
def test_unipc_predicts_like_the_interpolating_polynomial(schedule: Schedule, times: list[float], order: int) -> None:
    """At full order the UniPC conditions determine the weights, whatever B(h): exact on polynomials (order >= 3)."""
    grid = as_grid(times)
    path = on_grid(schedule, grid)
    full = data_table(schedule, grid, order=order, lower_final=False)
    for variant in ("bh1", "bh2"):
        rows = unipc_table(schedule, grid, order=order, variant=variant, lower_final=False).rows
        # With constant posterior means, corrections vanish and any consistent method agrees.
        for row, other in zip(rows, full.rows, strict=True):
            assert row.state == pytest.approx(other.state, rel=1e-12)
            scale = sum(map(abs, row.weights)) + 1
            assert sum(row.weights) == pytest.approx(sum(other.weights), abs=1e-9 * scale)
    assert path.steps == len(full.rows)


def test_heun_is_edm_algorithm_one() -> None:
    """Karras et al. 2022, algorithm 1, written out."""
    schedule = EDM(80.0)
    grid = karras(schedule, 12)
    oracle = mixture(schedule)
    x = want = 80 * Noise(0, range(8)).normal(torch.empty(8, 8, dtype=DOUBLE))
    sigmas = (80 * grid).tolist()
    for now, then in itertools.pairwise(sigmas):
        slope_now = (want - oracle(want, torch.tensor(now / 80, dtype=DOUBLE)).mean) / now
        moved = want + (then - now) * slope_now
        if then > 0:
            slope_then = (moved - oracle(moved, torch.tensor(then / 80, dtype=DOUBLE)).mean) / then
            moved = want + (then - now) * (slope_now + slope_then) / 2
        want = moved
    got = simulate(Heun(oracle, schedule), x, grid, Noise(0, range(8)))
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


def test_stochastic_runs_converge_to_one_path() -> None:
    """Halving the steps keeps the Brownian path, so a run converges strongly to the solution on that path."""
    schedule = LinearVP()
    oracle = mixture(schedule)
    noise = Noise(5, range(256))
    x = noise.normal(torch.empty(256, 8, dtype=DOUBLE))

    def at(steps: int) -> Tensor:
        grid = uniform_log_snr(schedule, steps, end=1e-3)
        return simulate(dpmpp(2, eta=1.0)(oracle, schedule), x, grid, noise)

    runs = [at(25 * 2**k) for k in range(6)]
    gaps = [float((a - b).pow(2).mean().sqrt()) for a, b in itertools.pairwise(runs)]
    spread = float((runs[-1] - runs[-1].flip(0)).pow(2).mean().sqrt())
    assert gaps[-1] < 0.02 * spread
    # Strong order 1 for noise that does not depend on the state: each halving halves the gap.
    assert math.log2(gaps[-3] / gaps[-1]) / 2 == pytest.approx(1.0, abs=0.35)


def test_singular_ends_are_refused_in_noise_form() -> None:
    with pytest.raises(ValueError, match="alpha > 0"):
        sample(GaussianOracle(Cosine()), Cosine(), (2, 1), solver=dpm(2), steps=5)
    with pytest.raises(ValueError, match="alpha > 0"):
        sample(GaussianOracle(Cosine()), Cosine(), (2, 1), solver=Singlestep, steps=5)
    with pytest.raises(ValueError, match="orders 1 to 4"):
        plms(order=5)


@pytest.mark.parametrize("solver", [ddim(), dpmpp(2), unipc(2)])
def test_a_state_without_noise_is_no_start(solver: TableSolver) -> None:
    """A bridge begins on its observation: an ordinary solver would divide 0 by 0 there."""
    bridge = BrownianBridge()
    with pytest.raises(InputError, match=r"at t = 1 sigma is 0: a bridge is sampled with"):
        sample(GaussianOracle(bridge), bridge, (2, 3), solver=solver, steps=4)


def test_equal_runs_share_a_table_and_nothing_else() -> None:
    """Tables are kept by value; running again, or interleaving, changes nothing."""
    schedule = LinearVP()
    oracle = GaussianOracle(schedule, 1.0, 0.5)
    x = Noise(0, range(4)).normal(torch.empty(4, 3))
    grid = uniform_time(schedule, 10)
    first, second = unipc(3)(oracle, schedule), unipc(3)(oracle, LinearVP())
    assert first.init(x, grid).table is second.init(x, grid.clone()).table
    want = simulate(first, x, grid, Noise(0, range(4)))
    assert torch.equal(simulate(second, x, grid, Noise(0, range(4))), want)


def test_posterior_mean_may_be_the_state_itself() -> None:
    """A denoiser may return its input: updates must not write into what the denoiser was given or gave."""

    def identity(x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        return Point(x)

    schedule = LinearVP()
    x = Noise(0, range(4)).normal(torch.empty(4, 3, dtype=DOUBLE))
    kept = x.clone()
    grid = uniform_time(schedule, 6)
    got = simulate(dpmpp(3)(identity, schedule), x, grid, Noise(0, range(4)))
    assert torch.equal(x, kept)
    states = [kept]
    table = data_table(schedule, grid, order=3)
    for row in table.rows:
        new = row.state * states[0]
        for weight, value in zip(row.weights, states, strict=False):
            new = new + weight * value
        states.insert(0, new)
    torch.testing.assert_close(got, states[0], rtol=1e-12, atol=1e-12)
