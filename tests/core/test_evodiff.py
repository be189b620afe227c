"""EVODiff against its formulas written out, its limits, and the two things about it that surprise."""

from __future__ import annotations

import math
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from degauss.core import EDM, Cosine, LinearVP, Noise, Point, RectifiedFlow, Schedule, SubVP, sample, simulate
from degauss.core.gaussian import ddim, dpmpp, unipc
from degauss.core.gaussian.evodiff import EVODiff, ddim_last, published_last
from degauss.core.grid import uniform_log_snr, uniform_time
from degauss.core.observe import Trajectory
from degauss.core.oracle import GaussianOracle, MixtureOracle

DOUBLE = torch.float64
EDM40 = EDM(40.0)
SCHEDULES = st.sampled_from([LinearVP(), Cosine(), RectifiedFlow(), SubVP(), EDM(80.0)])


@cache
def mixture(schedule: Schedule = EDM40) -> MixtureOracle:
    noise = Noise(7, range(5))
    means = noise.normal(torch.empty(5, 8, dtype=DOUBLE))
    factors = noise.normal(torch.empty(5, 8, 8, dtype=DOUBLE), draw=1)
    covariances = 0.3 * torch.eye(8, dtype=DOUBLE) + factors @ factors.transpose(1, 2) / 8
    return MixtureOracle(schedule, torch.ones(5, dtype=DOUBLE), means, covariances)


@cache
def start() -> Tensor:
    return 40 * Noise(0, range(64)).normal(torch.empty(64, 8, dtype=DOUBLE))


def log_grid(steps: int) -> Tensor:
    return uniform_log_snr(EDM40, steps, start=1.0, end=0.02 / 40)


def run(solver: Any, steps: int, **options: Any) -> Tensor:
    return simulate(solver(mixture(), EDM40, **options), start(), log_grid(steps), Noise(1, range(64)))


@cache
def exact() -> Tensor:
    return run(unipc(order=3), 2000)


def error(solver: Any, steps: int, **options: Any) -> float:
    return float((run(solver, steps, **options) - exact()).norm(dim=1).median())


class Recorder:
    """A denoiser that remembers what it was asked."""

    def __init__(self, denoiser: Any) -> None:
        self.denoiser = denoiser
        self.asked: list[Tensor] = []
        self.times: list[float] = []

    def __call__(self, x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        self.asked.append(x)
        self.times.append(float(t))
        return self.denoiser(x, t, **cond)


def written_out(oracle: MixtureOracle, schedule: Schedule, x: Tensor, grid: Tensor) -> np.ndarray[Any, Any]:
    """The formulas of the module for one sample, one number after another, DDIM at both ends."""
    alpha, sigma = (scale.numpy() for scale in schedule(grid))
    time, k = grid.numpy(), sigma / alpha

    def mean(state: Any, i: int) -> Any:
        return oracle(torch.as_tensor(state)[None], grid[i]).mean[0].numpy()

    def proj(a: Any, b: Any) -> float:
        return float(np.clip(np.dot(a, b) / np.dot(b, b), -2, 2))

    def sigmoid(value: float) -> float:
        return 1 / (1 + math.exp(-value))

    state: Any = x.numpy()
    older, old = None, mean(state, 0)
    for i in range(len(time) - 1):
        h = 1 / k[i + 1] - 1 / k[i]
        e = sigma[i + 1] / sigma[i] * state + sigma[i + 1] * h * old
        if i == 0:
            state, older, old = e, old, mean(e, 1)
            continue
        if i == len(time) - 2:
            return e
        rl = math.log(k[i - 1] / k[i]) / math.log(k[i] / k[i + 1])
        w = 0.5 * (1 - ((time[i + 1] + time[-1]) / (time[0] + time[-1])) ** 2)
        bb = math.sqrt((sigma[i + 1] / sigma[i]) / (sigma[i] / sigma[i - 1]))
        r1 = (1 - w) * bb + w * proj(old, older)
        d1 = old - r1 * older
        ri = min(max(sigmoid(0.25 * abs(r1)) * rl, 0.25 * rl), 1.5 * rl)
        probe = e + 0.5 * sigma[i + 1] * h / ri * d1
        new = mean(probe, i + 1)
        r2 = (1 - w) * bb + w * proj(new, old)
        d2 = new - r2 * old
        p, q = rl * d2 / h, d1 / (rl * h)
        eta = 0.5 * sigmoid(abs(0.5 * proj(p + q, p - q)))
        both = -eta / rl * d1 + (1 - eta) * rl * d2
        z = abs(proj(probe - e - 0.5 * sigma[i + 1] * h / ri * both, d1)) / (h * sigma[i + 1])
        gap = z - 0.5
        if len(time) - 1 > 20:
            change = (old - older) / h
            gap *= -sigmoid(proj(old, change) * (2 - (sigma[i + 1] / sigma[i]) ** 2))
        state, older, old = e + 0.5 * sigma[i + 1] * h / sigmoid(gap) * both, old, new
    raise AssertionError("a run ends with its last step")


@pytest.mark.parametrize("schedule", [EDM40, LinearVP(), RectifiedFlow()], ids=str)
@pytest.mark.parametrize("steps", [2, 7, 24])
def test_is_its_formulas_written_out(schedule: Schedule, steps: int) -> None:
    grid = uniform_log_snr(schedule, steps, start=0.98, end=2e-3)
    oracle = mixture(schedule)
    x = float(schedule(grid[0]).sigma) * Noise(3, range(4)).normal(torch.empty(4, 8, dtype=DOUBLE))
    got = simulate(EVODiff(oracle, schedule), x, grid, Noise(0, range(4)))
    want = np.stack([written_out(oracle, schedule, row, grid) for row in x])
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-9, atol=1e-9)


def test_one_step_is_ddim() -> None:
    assert torch.equal(run(EVODiff, 1), run(ddim(), 1))


@settings(deadline=None, max_examples=30)
@given(SCHEDULES, st.lists(st.floats(0.02, 0.98), min_size=3, max_size=10, unique_by=lambda t: round(t, 2)))
def test_evaluates_once_a_step_at_the_next_time(schedule: Schedule, times: list[float]) -> None:
    grid = torch.tensor(sorted(times, reverse=True), dtype=DOUBLE)
    recorder = Recorder(GaussianOracle(schedule, 1.0, 0.5))
    x = Noise(0, range(2)).normal(torch.empty(2, 3, dtype=DOUBLE))
    simulate(EVODiff(recorder, schedule), x, grid, Noise(0, range(2)))
    assert recorder.times == grid[:-1].tolist()


def test_evaluates_at_the_probe_and_not_at_the_state() -> None:
    recorder, trajectory = Recorder(mixture()), Trajectory()
    kernel = EVODiff(recorder, EDM40)
    simulate(kernel, start(), log_grid(8), Noise(0, range(64)), observe=[trajectory])
    states = [start(), *trajectory.states]
    for i in (0, 1):  # the start and DDIM's first step
        assert torch.equal(recorder.asked[i], states[i])
    for i in range(2, 8):
        gap = (recorder.asked[i] - states[i]).norm(dim=1).median()
        step = (states[i] - states[i - 1]).norm(dim=1).median()
        assert gap > 1e-3 * step


def test_a_constant_mean_is_solved_exactly() -> None:
    """On levels evenly spaced in log-SNR the differences vanish; projections onto nothing must not be 0 / 0."""

    def constant(x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        return Point(torch.full_like(x, 2.0))

    grid = log_grid(9)
    got = simulate(EVODiff(constant, EDM40), start(), grid, Noise(0, range(64)))
    want = GaussianOracle(EDM40, 2.0, 0.0).flow(start(), grid[0], grid[-1])
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_an_empty_channel_stays_finite(zero: float) -> None:
    def half(x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        mean = mixture()(x.flatten(1), t).mean.reshape(x.shape)
        return Point(torch.cat([mean[:, :1], torch.full_like(mean[:, 1:], zero)], 1))

    kernel = EVODiff(half, EDM40, channels=(0,))
    x = simulate(kernel, start().reshape(-1, 2, 4), log_grid(8), Noise(0, range(64)))
    assert bool(torch.isfinite(x).all())


def distance_from_flow(schedule: Schedule, grid: Tensor) -> float:
    """The largest distance to the closed-form flow of Gaussian data."""
    oracle = GaussianOracle(schedule, mean=1.5, std=0.7)
    x = Noise(0, range(32)).normal(torch.empty(32, 3, dtype=DOUBLE))
    got = simulate(EVODiff(oracle, schedule), x, grid, Noise(1, range(32)))
    return float((got - oracle.flow(x, grid[0], grid[-1])).abs().max())


@pytest.mark.parametrize("schedule", [LinearVP(), Cosine(), RectifiedFlow(), EDM(20.0)], ids=str)
def test_converges_to_the_closed_form_flow_with_order_one(schedule: Schedule) -> None:
    coarse, fine = (
        distance_from_flow(schedule, uniform_log_snr(schedule, steps, start=0.98, end=1e-3)) for steps in (200, 800)
    )
    assert fine < 5e-3
    assert math.log2(coarse / fine) / 2 == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("schedule", [RectifiedFlow(), EDM(20.0)], ids=str)
def test_does_not_converge_where_the_last_steps_stay_unlike(schedule: Schedule) -> None:
    """Uniform times down to 0 halve sigma in the last step but one, however many steps there are."""
    coarse, fine = (distance_from_flow(schedule, uniform_time(schedule, steps, start=0.98)) for steps in (100, 400))
    assert fine > 0.9 * coarse > 0.05


def test_pure_noise_and_clean_data_are_ordinary_ends() -> None:
    oracle = GaussianOracle(Cosine(), mean=-1.0, std=0.5)
    x = sample(oracle, Cosine(), (4000, 1), solver=EVODiff, steps=60, dtype=DOUBLE)
    assert float(x.mean()) == pytest.approx(-1.0, abs=4 * 0.5 / math.sqrt(4000) + 0.02)
    assert float(x.std()) == pytest.approx(0.5, rel=0.1)


def test_loses_to_2m_at_twenty_evaluations() -> None:
    assert error(EVODiff, 20) > 1.5 * error(dpmpp(2), 20)


def test_its_order_is_one() -> None:
    assert math.log2(error(EVODiff, 80) / error(EVODiff, 320)) / 2 == pytest.approx(1.0, abs=0.11)
    assert math.log2(error(dpmpp(2), 80) / error(dpmpp(2), 320)) / 2 > 1.85


def test_the_published_last_step_hurts_at_five_evaluations() -> None:
    assert error(EVODiff, 5, last=published_last) > 1.2 * error(EVODiff, 5)


@pytest.mark.parametrize("ratio", [0.2, 0.8])
def test_the_published_last_step_is_its_formula(ratio: float) -> None:
    schedule = EDM(1.0)
    grid = torch.tensor([0.9, 0.5, 0.5 * ratio], dtype=DOUBLE)
    oracle = GaussianOracle(schedule, 1.0, 0.5)
    x = Noise(0, range(4)).normal(torch.empty(4, 3, dtype=DOUBLE))
    got = simulate(EVODiff(oracle, schedule, last=published_last), x, grid, Noise(0, range(4)))
    before = oracle(x, grid[0]).mean
    middle = 0.5 / 0.9 * x + (1 - 0.5 / 0.9) * before
    mean = oracle(middle, grid[1]).mean
    ddim_end = ratio * middle + (1 - ratio) * mean
    share = 1 - 0.5 * math.sqrt(ratio if ratio < 0.5 else ratio - 0.5)
    want = (1 - math.sqrt(0.5 * 0.5 * ratio)) * ddim_end + 0.5 * (1 - ratio) * (mean - share * before)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    assert float((got - ddim_end).abs().max()) > 0.05


@pytest.mark.parametrize("last", [ddim_last, published_last])
def test_the_last_step_of_one_has_no_past(last: Any) -> None:
    assert torch.equal(run(EVODiff, 1, last=last), run(ddim(), 1))


def test_channels_have_coefficients_of_their_own() -> None:
    """With channels, two independent problems side by side are solved as if each were alone."""

    def both(x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        first = mixture()(x[:, 0], t).mean
        return Point(torch.stack([first, GaussianOracle(EDM40, 3.0, 0.2)(x[:, 1], t).mean], 1))

    x = torch.stack([start(), start().flip(0)], 1)
    split = simulate(EVODiff(both, EDM40, channels=(0,)), x, log_grid(8), Noise(0, range(64)))
    whole = simulate(EVODiff(both, EDM40), x, log_grid(8), Noise(0, range(64)))
    torch.testing.assert_close(split[:, 0], run(EVODiff, 8), rtol=1e-10, atol=1e-10)
    assert float((whole[:, 0] - run(EVODiff, 8)).abs().max()) > 1e-6


def test_a_sample_does_not_depend_on_its_batch() -> None:
    whole = run(EVODiff, 8)
    for rows in ([3], [40, 7]):
        part = simulate(EVODiff(mixture(), EDM40), start()[rows], log_grid(8), Noise(1, rows))
        torch.testing.assert_close(part, whole[rows], rtol=1e-12, atol=1e-12)


def test_is_differentiable_and_leaves_its_input_alone() -> None:
    x = start()[:2].clone().requires_grad_()

    def end(state: Tensor) -> Tensor:
        return simulate(EVODiff(mixture(), EDM40), state, log_grid(5), Noise(0, range(2))).sum()

    (gradient,) = torch.autograd.grad(end(x), x)
    push = torch.zeros_like(x)
    push[0, 0] = 1e-4
    with torch.no_grad():
        slope = (end(x + push) - end(x - push)) / 2e-4
    assert float(gradient[0, 0]) == pytest.approx(float(slope), rel=1e-5)
    assert torch.equal(x.detach(), start()[:2])


@pytest.mark.parametrize("channels", [(0,), (1,), (0, 3), (-1,)])
def test_channels_that_an_event_has_not_are_refused(channels: tuple[int, ...]) -> None:
    solver = partial(EVODiff, channels=channels)
    with pytest.raises(ValueError, match=r"channels must be some, not all, of the 1 axes of an event \(8,\)"):
        sample(mixture(), EDM40, (2, 8), solver=solver, steps=3)
