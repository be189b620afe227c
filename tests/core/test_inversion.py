"""Inversion: formulas written out by hand, round trips, orders, and what each method keeps or loses."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from degauss.core import EDM, Cosine, LinearVP, Noise, Point, RectifiedFlow, Schedule, SubVP, sample, simulate
from degauss.core.errors import InputError
from degauss.core.gaussian import Row, Table, TableKernel, ddim, dpmpp, unipc
from degauss.core.gaussian.exponential import ddim_table
from degauss.core.gaussian.table import eps_keep, index_clock, on_grid
from degauss.core.grid import uniform_log_snr, uniform_time
from degauss.core.inversion.ddim import DDIMInversion, InverseDDIM
from degauss.core.inversion.dpm_encoder import Noises, Replay, dpm_decode, dpm_encode
from degauss.core.inversion.edict import EDICT, Coupled, Uncoupled
from degauss.core.inversion.guard import predicted_error
from degauss.core.inversion.two_state import BDIA, BELM, Fixed, bdia_table, belm_table, inverse
from degauss.core.observe import Last, Trajectory
from degauss.core.oracle import GaussianOracle, MixtureOracle

DOUBLE, SINGLE = torch.float64, torch.float32
VP = LinearVP()
DIM, BATCH = 16, 32
NOISE = Noise(0, range(BATCH))
EXACT = [BDIA(), BDIA(0.9), BELM(), EDICT(), EDICT(p=1.0)]
CURVES = [LinearVP(), Cosine(), RectifiedFlow(), SubVP(), EDM(20.0)]


@cache
def mixture(schedule: Schedule = VP, dim: int = DIM) -> MixtureOracle:
    noise = Noise(7, range(5))
    means = noise.normal(torch.empty(5, dim, dtype=DOUBLE))
    factors = noise.normal(torch.empty(5, dim, dim, dtype=DOUBLE), draw=1)
    covariances = 0.3 * torch.eye(dim, dtype=DOUBLE) + factors @ factors.transpose(1, 2) / dim
    return MixtureOracle(schedule, torch.ones(5, dtype=DOUBLE), means, covariances)


def start(schedule: Schedule, grid: Tensor, dtype: torch.dtype = DOUBLE) -> Tensor:
    return NOISE.normal(torch.empty(BATCH, DIM, dtype=dtype)) * float(schedule(grid[0]).sigma)


def made(method: Any, schedule: Schedule, grid: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """A run's end and its second state there."""
    last = Last()
    end = simulate(method(mixture(schedule), schedule), x, grid, NOISE, observe=(last,))
    return end, last.carry.other if isinstance(method, EDICT) else last.carry.earlier[0]


def eps(schedule: Schedule, x: Tensor, t: Tensor) -> Tensor:
    alpha, sigma = schedule(t)
    return (x - alpha * mixture(schedule)(x, t).mean) / sigma


def move(schedule: Schedule, x: Tensor, noise: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """DDIM from t to s with a given noise, for s on either side."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
    return alpha_s * (x - sigma_t * noise) / alpha_t + sigma_s * noise


# --- formulas ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", CURVES, ids=str)
@pytest.mark.parametrize("gamma", [1.0, 0.6])
def test_bdia_is_its_formula(schedule: Schedule, gamma: float) -> None:
    grid = uniform_time(schedule, 12, start=0.97)
    x = start(schedule, grid)
    states = [x, move(schedule, x, eps(schedule, x, grid[0]), grid[0], grid[1])]
    for before, now, then in zip(grid, grid[1:], grid[2:], strict=False):
        noise = eps(schedule, states[-1], now)
        back, onward = (move(schedule, states[-1], noise, now, t) for t in (before, then))
        states.append(gamma * (states[-2] - back) + onward)
    record = Trajectory()
    simulate(BDIA(gamma)(mixture(schedule), schedule), x, grid, NOISE, observe=(record,))
    torch.testing.assert_close(record.stack(), torch.stack(states[1:]), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("schedule", CURVES, ids=str)
def test_belm_is_its_formula(schedule: Schedule) -> None:
    grid = uniform_time(schedule, 12, start=0.97)
    x = start(schedule, grid)
    alpha, sigma = schedule(grid)
    k = sigma / alpha
    y = [x / alpha[0]]
    y.append(y[0] + (k[1] - k[0]) * eps(schedule, x, grid[0]))
    for i in range(1, 12):
        h1, h2 = k[i] - k[i - 1], k[i + 1] - k[i]
        noise = eps(schedule, alpha[i] * y[i], grid[i])
        y.append(h2 * (h1 + h2) / h1 * noise + (h2 / h1) ** 2 * y[i - 1] + (h1**2 - h2**2) / h1**2 * y[i])
    got = simulate(BELM()(mixture(schedule), schedule), x, grid, NOISE)
    torch.testing.assert_close(got, alpha[-1] * y[-1], rtol=1e-9, atol=1e-9)


def edict_by_hand(x: Tensor, grid: Tensor, p: float, mix_new: bool = True) -> tuple[Tensor, Tensor]:
    copies = [x, x]
    for i, (t, s) in enumerate(pairwise(grid)):
        for lead in (i % 2, 1 - i % 2):
            copies[lead] = move(VP, copies[lead], eps(VP, copies[1 - lead], t), t, s)
        mixed = p * copies[0] + (1 - p) * copies[1]
        copies = [mixed, p * copies[1] + (1 - p) * (mixed if mix_new else copies[0])]
    return copies[0], copies[1]


def test_edict_is_its_formula_and_mixes_with_the_new_copy() -> None:
    grid = uniform_time(VP, 9)
    x = start(VP, grid)
    got = made(EDICT(0.9), VP, grid, x)
    torch.testing.assert_close(got, edict_by_hand(x, grid, 0.9), rtol=1e-10, atol=1e-10)
    assert float((got[1] - edict_by_hand(x, grid, 0.9, mix_new=False)[1]).abs().max()) > 1e-3


def test_bdia_without_gamma_is_ddim() -> None:
    for schedule in (*CURVES, Cosine()):
        grid = uniform_time(schedule, 20)
        for row, plain in zip(bdia_table(schedule, grid, gamma=0.0).rows, ddim_table(schedule, grid).rows, strict=True):
            assert (row.state, *row.weights) == pytest.approx((plain.state, *plain.weights), rel=1e-14, abs=0)
            assert not any(row.earlier)


# --- the algebra ------------------------------------------------------------------------------------------------


def test_inverse_is_the_hand_written_bdia_inverse() -> None:
    """x_{i-1} = (x_{i+1} - DDIM(x_i; i to i+1)) / gamma + DDIM(x_i; i to i-1)."""
    grid, gamma = uniform_time(VP, 5), 0.7
    x = start(VP, grid)
    record = Trajectory()
    simulate(BDIA(gamma)(mixture(), VP), x, grid, NOISE, observe=(record,))
    later, now = record.states[-1], record.states[-2]
    states: list[Tensor] = []
    for i in range(4, 0, -1):
        noise = eps(VP, now, grid[i])
        onward, back = (move(VP, now, noise, grid[i], grid[j]) for j in (i + 1, i - 1))
        later, now = now, (later - onward) / gamma + back
        states.append(now)
    table = inverse(bdia_table(VP, grid, gamma=gamma))
    kernel = TableKernel(mixture(), VP, Fixed(table), (record.states[-1],))
    found = Trajectory()
    simulate(kernel, record.states[-2], grid.flip(0)[1:], NOISE, observe=(found,))
    torch.testing.assert_close(found.stack(), torch.stack(states), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.states[-1], x, rtol=1e-10, atol=1e-10)


def test_inverting_twice_gives_the_rows_back() -> None:
    for table in (bdia_table(VP, uniform_time(VP, 30), gamma=0.8), belm_table(VP, uniform_time(VP, 30))):
        again = inverse(inverse(table))
        assert not table.rows[0].earlier
        for row, back in zip(table.rows[1:], again.rows, strict=True):
            assert (back.state, *back.weights, *back.earlier) == pytest.approx(
                (row.state, *row.weights, *row.earlier), rel=1e-13
            )


def test_a_table_that_remembers_noise_is_inverted_too() -> None:
    """The same leapfrog with eps as what is remembered: y_{i+1} = y_{i-1} + (k_{i+1} - k_{i-1}) eps_i."""
    path = on_grid(VP, grid := uniform_time(VP, 20, end=1e-2))
    k = path.sigma / path.alpha
    rows = [ddim_table(VP, grid).rows[0]]
    for i in range(1, path.steps):
        weight, before = path.alpha[i + 1] * (k[i + 1] - k[i - 1]), path.alpha[i + 1] / path.alpha[i - 1]
        rows.append(Row(0.0, (float(weight),), keep=eps_keep(path, i), earlier=(float(before),)))
    table = Table(tuple(rows), index_clock(path))
    x, last = start(VP, grid), Last()
    end = simulate(TableKernel(mixture(), VP, Fixed(table)), x, grid, NOISE, observe=(last,))
    kernel = TableKernel(mixture(), VP, Fixed(inverse(table)), (end,))
    back = simulate(kernel, last.carry.earlier[0], grid.flip(0)[1:], NOISE)
    torch.testing.assert_close(back, x, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("solver", [ddim(), ddim(eta=1.0), dpmpp(2), unipc(2)], ids=str)
def test_tables_without_an_earlier_state_have_no_inverse(solver: Any) -> None:
    with pytest.raises(ValueError, match="row 1 of the table has no inverse"):
        inverse(solver.tabulate(VP, uniform_time(VP, 5)))


def test_what_cannot_be_inverted_says_so() -> None:
    with pytest.raises(ValueError, match="row 1 of the table has no inverse"):
        inverse(bdia_table(VP, uniform_time(VP, 5), gamma=0.0))
    with pytest.raises(InputError, match="at least two steps"):
        inverse(belm_table(VP, uniform_time(VP, 1)))
    with pytest.raises(ValueError, match="4 rows cannot run on a grid of 6 times"):
        Fixed(inverse(belm_table(VP, uniform_time(VP, 5))))(VP, uniform_time(VP, 5))
    for method in (BELM(), EDICT()):
        with pytest.raises(InputError, match="alpha > 0"):
            sample(GaussianOracle(Cosine()), Cosine(), (2, 1), solver=method, steps=5)
    for wrong in (lambda: BDIA(0.0), lambda: BDIA(1.5), lambda: EDICT(0.0), lambda: EDICT(math.nan)):
        with pytest.raises(InputError, match=r"gamma|p must be"):
            wrong()
    with pytest.raises(InputError, match="iterations must be at least 0"):
        DDIMInversion(-1)


# --- round trips ------------------------------------------------------------------------------------------------

# Clean data or a time at which there is noise to find: from sigma = 1e-100, say, eps has no digits.
TIMES = st.one_of(st.just(0.0), st.floats(1e-3, 0.97))
GRIDS = st.lists(TIMES, min_size=3, max_size=40, unique_by=lambda t: round(t, 2))


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(CURVES), GRIDS, st.sampled_from(EXACT), st.integers(0, 2**32))
def test_inverses_invert(schedule: Schedule, times: list[float], method: Any, seed: int) -> None:
    """Noise to data to noise and data to noise to data, on any schedule and grid, with both states."""
    grid = torch.tensor(sorted(times, reverse=True), dtype=DOUBLE)
    # Grids whose neighbouring steps differ a thousandfold lose digits, as predicted.
    assume(predicted_error(method, schedule, grid, DOUBLE) < 1e-12)
    denoiser = mixture(schedule)
    x = Noise(seed, range(BATCH)).normal(torch.empty(BATCH, DIM, dtype=DOUBLE)) * float(schedule(grid[0]).sigma)
    end, companion = made(method, schedule, grid, x)
    back = method.encode(denoiser, schedule, end, grid, companion)[0]
    assert float((back - x).abs().max() / x.abs().max()) < 1e-9
    data = denoiser.draw(Noise(seed, range(BATCH)))
    again = method.decode(denoiser, schedule, method.encode(denoiser, schedule, data, grid), grid)
    assert float((again - data).abs().max()) < 1e-9


@pytest.mark.parametrize(("method", "limit"), [(EDICT(), 1e-5), (BDIA(), 1e-5), (BELM(), 1e-4)], ids=str)
def test_single_precision_suffices_for_fifty_steps(method: Any, limit: float) -> None:
    grid = uniform_time(VP, 50, end=1e-3)
    x = start(VP, grid, SINGLE)
    end, companion = made(method, VP, grid, x)
    back = method.encode(mixture(), VP, end, grid, companion)[0]
    assert back.dtype == SINGLE
    assert float((back - x).abs().max()) < limit


def test_ddim_inversion_is_not_exact() -> None:
    """The control: the same round trip by DDIM, in double precision."""
    grid = uniform_time(VP, 50, end=1e-3)
    x = start(VP, grid)
    end = simulate(ddim()(mixture(), VP), x, grid, NOISE)
    (back,) = DDIMInversion().encode(mixture(), VP, end, grid)
    assert float((back - x).abs().max()) > 0.1


@pytest.mark.parametrize("method", [BDIA(), BELM(), EDICT()], ids=str)
def test_a_run_is_retraced_only_from_both_of_its_states(method: Any) -> None:
    """From x_0 alone, the made-up second state starts another trajectory (which leads back to x_0)."""
    grid = uniform_time(VP, 50)
    x = start(VP, grid)
    end, companion = made(method, VP, grid, x)
    assert float((method.encode(mixture(), VP, end, grid, companion)[0] - x).abs().max()) < 1e-9
    states = method.encode(mixture(), VP, end, grid)
    assert float((states[0] - x).abs().max()) > 1e-3
    assert float((method.decode(mixture(), VP, states, grid) - end).abs().max()) < 1e-9


def test_bdia_below_one_needs_the_run_s_own_state() -> None:
    """A made-up second state excites the growing mode in any precision: the latent is no noise."""
    grid = uniform_time(VP, 50)
    (latent, _) = BDIA(0.7).encode(mixture(), VP, mixture().draw(NOISE), grid)
    (fine, _) = BDIA().encode(mixture(), VP, mixture().draw(NOISE), grid)
    assert float(latent.std()) > 100
    assert float(fine.std()) == pytest.approx(1, abs=0.1)


# --- DDIM -------------------------------------------------------------------------------------------------------


def test_ddim_inversion_is_ddim_on_the_reversed_grid() -> None:
    for schedule in CURVES:
        grid = uniform_time(schedule, 20, start=0.98, end=1e-2).flip(0)
        x = start(schedule, grid)
        got = simulate(InverseDDIM(mixture(schedule), schedule), x, grid, NOISE)
        torch.testing.assert_close(
            got, simulate(ddim()(mixture(schedule), schedule), x, grid, NOISE), rtol=1e-12, atol=1e-12
        )


def test_ddim_inversion_goes_from_clean_data_to_pure_noise() -> None:
    schedule = Cosine()
    oracle, grid = GaussianOracle(schedule, 1.0, 0.5), uniform_time(schedule, 400)
    data = start(schedule, grid) * 0.5 + 1
    (x,) = DDIMInversion().encode(oracle, schedule, data, grid)
    torch.testing.assert_close(x, oracle.flow(data, grid[-1], grid[0]), rtol=0, atol=0.02)


def test_iterations_solve_for_the_state_that_ddim_came_from() -> None:
    oracle, grid = GaussianOracle(VP, 0.3, 0.5), uniform_time(VP, 20)
    x = start(VP, grid)
    end = simulate(ddim()(oracle, VP), x, grid, NOISE)
    errors = [float((DDIMInversion(n).encode(oracle, VP, end, grid)[0] - x).abs().max()) for n in (0, 1, 3, 80)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.1
    assert errors[-1] < 1e-9


def test_the_plain_step_from_clean_data_finds_its_noise_where_it_arrives() -> None:
    grid = torch.tensor([0.0, 0.1], dtype=DOUBLE)
    x = start(VP, torch.tensor([1.0]))
    alpha, sigma = VP(grid[1])
    want = alpha * x + sigma * eps(VP, alpha * x, grid[1])
    got = simulate(InverseDDIM(mixture(), VP), x, grid, NOISE)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def test_the_first_ddim_step_from_clean_data_is_the_limit_of_one_from_nearly_clean_data() -> None:
    x = start(VP, torch.tensor([1.0]))

    def to(end: float) -> Tensor:
        grid = torch.tensor([end, 0.1], dtype=DOUBLE)
        return simulate(InverseDDIM(GaussianOracle(VP, 0.3, 0.5), VP, 60), x, grid, NOISE)

    torch.testing.assert_close(to(0.0), to(1e-12), rtol=1e-5, atol=1e-5)


# --- orders -----------------------------------------------------------------------------------------------------

EDM40 = EDM(40.0)


def log_grid(steps: int) -> Tensor:
    return uniform_log_snr(EDM40, steps, start=1.0, end=0.02 / 40)


def uneven(steps: int) -> Tensor:
    """Every second time of ``log_grid`` moved by a third of a step in log-SNR: a grid that is nowhere smooth."""
    log_snr = EDM40.log_snr(log_grid(steps))
    log_snr[1:-1:2] += (log_snr[1] - log_snr[0]) / 3
    return torch.cat([torch.ones(1, dtype=DOUBLE), EDM40.time(log_snr[1:])])


@cache
def exact() -> Tensor:
    x = start(EDM40, log_grid(1))
    return simulate(unipc(order=3)(mixture(EDM40), EDM40), x, log_grid(2000), NOISE)


def order(error: Callable[[Tensor], float], grid: Callable[[int], Tensor]) -> float:
    return math.log2(error(grid(160)) / error(grid(320)))


def from_noise(method: Any) -> Callable[[Tensor], float]:
    def error(grid: Tensor) -> float:
        end = simulate(method(mixture(EDM40), EDM40), start(EDM40, grid), grid, NOISE)
        return float((end - exact()).norm(dim=1).median())

    return error


def from_an_exact_pair(method: Any) -> Callable[[Tensor], float]:
    """The second state from the true trajectory, where the method alone would take a DDIM step."""

    def error(grid: Tensor) -> float:
        x, fine = start(EDM40, grid), uniform_log_snr(EDM40, 20, end=float(grid[1]))
        second = simulate(unipc(order=3)(mixture(EDM40), EDM40), x, fine, NOISE)
        end = method.decode(mixture(EDM40), EDM40, (x, second), grid)
        return float((end - exact()).norm(dim=1).median())

    return error


def test_belm_has_order_two_on_any_grid_but_for_its_first_step() -> None:
    assert order(from_noise(BELM()), log_grid) == pytest.approx(2, abs=0.1)
    assert order(from_an_exact_pair(BELM()), uneven) == pytest.approx(2, abs=0.1)
    assert order(from_noise(BELM()), uneven) < 1.85


def test_bdia_has_order_two_on_smooth_grids_only() -> None:
    assert order(from_noise(BDIA()), log_grid) == pytest.approx(2, abs=0.1)
    assert order(from_an_exact_pair(BDIA()), uneven) == pytest.approx(1, abs=0.1)
    assert order(from_noise(BDIA(0.5)), log_grid) == pytest.approx(1, abs=0.1)


def test_edict_has_order_one() -> None:
    assert order(from_noise(EDICT()), log_grid) == pytest.approx(1, abs=0.15)


# --- kernels ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [BDIA(0.9), BELM(), EDICT(), DDIMInversion(2)], ids=str)
def test_a_sample_does_not_depend_on_its_batch(method: Any) -> None:
    oracle = GaussianOracle(VP, 0.3, 0.5)
    grid = uniform_time(VP, 12)
    data = NOISE.normal(torch.empty(BATCH, 3, dtype=SINGLE))
    states = method.encode(oracle, VP, data, grid)
    rows = [5, 2, 9]
    for whole, part in zip(states, method.encode(oracle, VP, data[rows], grid), strict=True):
        assert torch.equal(whole[rows], part)
    some = tuple(state[rows] for state in states)
    assert torch.equal(method.decode(oracle, VP, states, grid)[rows], method.decode(oracle, VP, some, grid))


@pytest.mark.parametrize("method", [BDIA(0.9), BELM(), EDICT(), DDIMInversion(2)], ids=str)
def test_autograd_flows_both_ways(method: Any) -> None:
    """Data to noise to data is the identity, so its derivative is too; and a parameter gets its finite difference."""
    grid = uniform_time(VP, 12)
    data = NOISE.normal(torch.empty(BATCH, 3, dtype=DOUBLE)).requires_grad_(True)

    def through(level: Tensor, decoded_level: Tensor) -> Tensor:
        def denoiser(mean: Tensor) -> Any:
            return lambda x, t: Point(torch.tanh(GaussianOracle(VP, 0.0, 0.5)(x, t).mean) + mean)

        states = method.encode(denoiser(level), VP, data, grid)
        return method.decode(denoiser(decoded_level), VP, states, grid)

    level = torch.tensor(0.2, dtype=DOUBLE)
    if not isinstance(method, DDIMInversion):
        (gradient,) = torch.autograd.grad((through(level, level) * data.detach()).sum(), data)
        torch.testing.assert_close(gradient, data.detach(), rtol=1e-9, atol=1e-9)
    moved = level.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(through(level, moved).sum(), moved)
    step = 1e-6
    with torch.no_grad():
        difference = (through(level, level + step) - through(level, level - step)).sum() / (2 * step)
    assert float(slope) == pytest.approx(float(difference), rel=1e-6)


def test_runs_may_be_cut_and_states_are_not_written_into() -> None:
    """A denoiser may return its input, and a carry kept from a step goes on as if nothing had happened."""

    def identity(x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        return Point(x)

    grid = uniform_time(VP, 8, start=0.9, end=0.1)
    x = NOISE.normal(torch.empty(BATCH, 3, dtype=DOUBLE))
    kept = x.clone()
    runs: list[tuple[Any, Tensor]] = [
        (Coupled(identity, VP, 0.9), grid),
        (Uncoupled(identity, VP, 0.9), grid.flip(0)),
        (InverseDDIM(identity, VP, 1), grid.flip(0)),
        (BELM()(identity, VP), grid),
    ]
    for kernel, times in runs:
        carry, state = kernel.init(x, times), x
        for i in range(4):
            carry, state = kernel.step(carry, state, i, NOISE)
        ends: list[Tensor] = []
        for _ in range(2):
            again, now = carry, state
            for i in range(4, 8):
                again, now = kernel.step(again, now, i, NOISE)
            ends.append(now)
        assert torch.equal(*ends)
        assert torch.equal(ends[0], simulate(kernel, x, times, NOISE))
        assert torch.equal(x, kept)


# --- DPM-Encoder ------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(st.sampled_from([*CURVES, Cosine()]), GRIDS, st.floats(0.01, 1.0), st.integers(0, 2**32))
def test_dpm_encoder_is_exact(schedule: Schedule, times: list[float], eta: float, seed: int) -> None:
    """For any denoiser: a tanh that has nothing to do with the data will do."""

    def denoiser(x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        return Point(torch.tanh(x) + t)

    grid = torch.tensor(sorted(times, reverse=True), dtype=DOUBLE)
    noise = Noise(seed, range(BATCH))
    for dtype, limit in ((DOUBLE, 1e-12), (SINGLE, 2e-4)):
        data = 2 * noise.normal(torch.empty(BATCH, 3, dtype=dtype), draw=3)
        noises = dpm_encode(denoiser, schedule, data, grid, noise, eta=eta)
        again = dpm_decode(denoiser, schedule, noises, grid, eta=eta)
        assert again.dtype == dtype
        size = float(schedule(grid[0]).sigma) + float(data.abs().max())
        assert float((again - data).abs().max()) < limit * size


def test_replaying_fresh_noise_is_the_sampler() -> None:
    grid = uniform_time(VP, 20, end=1e-3)
    x, solver = start(VP, grid), ddim(eta=0.7)
    clock = solver.tabulate(VP, grid).clock
    fresh = torch.stack([NOISE.brownian(clock, i, x) for i in range(20)])
    want = simulate(solver(mixture(), VP), x, grid, NOISE)
    got = dpm_decode(mixture(), VP, Noises(x, fresh), grid, eta=0.7)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def test_the_encoded_trajectory_is_drawn_from_the_forward_process() -> None:
    """Each of its states is alpha x0 + sigma eps, and a denoiser that knows the data finds standard normal noise."""
    count = 4000
    noise, grid = Noise(1, range(count)), uniform_time(VP, 10)
    data = torch.full((count, 2), 1.5, dtype=DOUBLE)

    def knows(x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        return Point(data)

    noises = dpm_encode(knows, VP, data, grid, noise, eta=0.8)
    record = Trajectory()
    simulate(Replay(knows, VP, noises.steps, 0.8), noises.start, grid, noise, observe=(record,))
    alpha, sigma = VP(grid)
    error = 4 / math.sqrt(2 * count)
    for x, a, s in zip([noises.start, *record.states], alpha.tolist(), sigma.tolist(), strict=True):
        assert float(x.mean()) == pytest.approx(1.5 * a, abs=s * error + 1e-12)
        assert float(x.std()) == pytest.approx(s, rel=error, abs=1e-12)
    flat = noises.steps[:-1].movedim(0, -1).reshape(-1, 9)
    np.testing.assert_allclose(torch.corrcoef(flat.T).numpy(), np.eye(9), atol=0.06)
    assert float(flat.var()) == pytest.approx(1, abs=0.03)
    # The last step adds no noise, and here has nothing to correct.
    assert float(noises.steps[-1].abs().max()) < 1e-12


def test_noises_depend_on_the_sample_and_not_on_its_batch() -> None:
    oracle, grid = GaussianOracle(VP, 0.3, 0.5), uniform_time(VP, 12)
    data = NOISE.normal(torch.empty(BATCH, 3, dtype=SINGLE), draw=1)
    rows = [5, 2, 9]
    whole = dpm_encode(oracle, VP, data, grid, NOISE)
    part = dpm_encode(oracle, VP, data[rows], grid, NOISE.take(rows))
    assert torch.equal(whole.start[rows], part.start)
    assert torch.equal(whole.steps[:, rows], part.steps)


def test_autograd_flows_through_replayed_noises() -> None:
    grid = uniform_time(VP, 12)
    data = NOISE.normal(torch.empty(BATCH, 3, dtype=DOUBLE), draw=1).requires_grad_(True)
    oracle = GaussianOracle(VP, 0.3, 0.5)
    again = dpm_decode(oracle, VP, dpm_encode(oracle, VP, data, grid, NOISE), grid)
    (gradient,) = torch.autograd.grad((again * data.detach()).sum(), data)
    torch.testing.assert_close(gradient, data.detach(), rtol=1e-10, atol=1e-10)


def test_dpm_encoder_refuses_what_it_cannot_do() -> None:
    oracle, grid = GaussianOracle(VP), uniform_time(VP, 5)
    data = torch.zeros(BATCH, 2, dtype=DOUBLE)
    for eta in (0.0, 1.2, math.nan):
        with pytest.raises(InputError, match="eta must be above 0"):
            dpm_encode(oracle, VP, data, grid, NOISE, eta=eta)
    with pytest.raises(InputError, match="times rise"):
        dpm_encode(oracle, VP, data, grid.flip(0), NOISE)
    with pytest.raises(FloatingPointError, match="not finite"):
        dpm_encode(oracle, VP, data / 0, grid, NOISE)
    noises = dpm_encode(oracle, VP, data, grid, NOISE)
    with pytest.raises(InputError, match="noises of 5 steps cannot be replayed on a grid of 6"):
        dpm_decode(oracle, VP, noises, uniform_time(VP, 6))
    with pytest.raises(FloatingPointError, match="not finite"):
        dpm_decode(oracle, VP, Noises(noises.start / 0, noises.steps), grid)
