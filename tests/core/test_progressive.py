"""Progressive distillation: the target in closed form and at its limits, the loss, and what a student keeps."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from degauss.core import (
    EDM,
    VE,
    Cosine,
    DiscreteVP,
    LinearVP,
    Noise,
    Point,
    RectifiedFlow,
    Schedule,
    SubVP,
    ZeroTerminalSNR,
    eps_prediction,
    simulate,
    v_prediction,
    x0_prediction,
)
from degauss.core.distill import (
    absolute_error,
    distillation_loss,
    halve,
    snr_plus_one,
    squared_error,
    target,
    truncated_snr,
    unweighted,
)
from degauss.core.distill.progressive import first_share
from degauss.core.gaussian import ddim
from degauss.core.grid import uniform_time
from degauss.core.oracle import GaussianOracle, MixtureOracle
from degauss.core.schedule import linear_betas
from degauss.core.train import TrainConfig, train

DOUBLE = torch.float64
SCHEDULES: list[Schedule] = [
    Cosine(),
    Cosine(0.0),
    LinearVP(),
    LinearVP(0.1, 40.0),
    SubVP(),
    VE(),
    EDM(),
    RectifiedFlow(),
    DiscreteVP.from_betas(linear_betas(100, 1e-4, 0.06)),
    ZeroTerminalSNR(LinearVP()),
]


def times(*values: float) -> list[Tensor]:
    return [torch.tensor(value, dtype=DOUBLE) for value in values]


def curved(x: Tensor, t: Tensor, /, **cond: Any) -> Point:
    """A denoiser without meaning, nonlinear in the state and in the time."""
    return Point(torch.tanh(1.3 * x + t.reshape(-1, 1)) + 0.3 * x)


def ddim_step(schedule: Schedule, mean: Tensor, x: Tensor, t: Tensor, u: Tensor) -> Tensor:
    (alpha, sigma), (alpha_u, sigma_u) = schedule(t), schedule(u)
    return alpha_u * mean + sigma_u / sigma * (x - alpha * mean)


def student_of(teacher: Callable[..., Point], schedule: Schedule, grid: Tensor) -> Callable[..., Point]:
    """The student that has learnt its targets perfectly; it knows the times of its own grid only."""
    steps = {float(t): (t, s, u) for t, s, u in zip(grid[:-2:2], grid[1::2], grid[2::2], strict=True)}
    return lambda x, t: Point(target(teacher, schedule, x, *steps[float(t)]))


def run(denoiser: Callable[..., Point], schedule: Schedule, grid: Tensor, start: Tensor) -> Tensor:
    return simulate(ddim()(denoiser, schedule), start, grid, Noise(0, range(len(start))))


# --- the target -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@given(cuts=st.lists(st.floats(0.001, 0.999), min_size=3, max_size=3, unique=True), ends=st.booleans())
def test_one_step_with_the_target_arrives_where_two_arrive(schedule: Schedule, cuts: list[float], ends: bool) -> None:
    """Also from pure noise and onto clean data, where the schedule has them, and for times of any spacing."""
    high, middle, low = sorted(cuts, reverse=True)
    if high - middle < 1e-6 or middle - low < 1e-6:
        return
    t, s, u = times(1.0, middle, 0.0) if ends else times(high, middle, low)
    x = torch.linspace(-2, 2, 10, dtype=DOUBLE).reshape(5, 2) * schedule(t).sigma
    half = ddim_step(schedule, curved(x, t).mean, x, t, s)
    arrived = ddim_step(schedule, curved(half, s).mean, half, s, u)
    found = ddim_step(schedule, target(curved, schedule, x, t, s, u), x, t, u)
    torch.testing.assert_close(found, arrived, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_target_is_the_published_quotient(schedule: Schedule) -> None:
    t, s, u = times(0.8, 0.55, 0.2)
    x = torch.linspace(-2, 2, 10, dtype=DOUBLE).reshape(5, 2)
    half = ddim_step(schedule, curved(x, t).mean, x, t, s)
    arrived = ddim_step(schedule, curved(half, s).mean, half, s, u)
    (alpha, sigma), (alpha_u, sigma_u) = schedule(t), schedule(u)
    published = (arrived - sigma_u / sigma * x) / (alpha_u - sigma_u / sigma * alpha)
    torch.testing.assert_close(target(curved, schedule, x, t, s, u), published, rtol=1e-8, atol=1e-9)


def test_close_times_keep_their_digits() -> None:
    """The published quotient of nearly equal times is rounding noise in float32; the weighted mean is not."""
    schedule = LinearVP()
    t, s, u = times(0.5 + 2e-6, 0.5 + 1e-6, 0.5)
    x = torch.linspace(-2, 2, 10).reshape(5, 2)
    exact = target(curved, schedule, x.double(), t, s, u)
    assert float((target(curved, schedule, x, t, s, u) - exact).abs().max()) < 1e-5
    (alpha, sigma), (alpha_s, sigma_s), (alpha_u, sigma_u) = ([c.float() for c in schedule(time)] for time in (t, s, u))
    first = curved(x, t.float()).mean
    half = alpha_s * first + sigma_s / sigma * (x - alpha * first)
    second = curved(half, s.float()).mean
    arrived = alpha_u * second + sigma_u / sigma_s * (half - alpha_s * second)
    published = (arrived - sigma_u / sigma * x) / (alpha_u - sigma_u / sigma * alpha)
    assert float((published - exact).abs().max()) > 1e-3


def test_shares_at_the_limits() -> None:
    schedule = Cosine()
    noise, middle, low, clean = times(1.0, 0.6, 0.3, 0.0)
    assert float(first_share(schedule, middle, low, clean)) == 0
    assert float(first_share(schedule, noise, middle, clean)) == 0
    ratio = torch.exp(0.5 * (schedule.log_snr(middle) - schedule.log_snr(low)))
    assert float(first_share(schedule, noise, middle, low)) == pytest.approx(float(ratio), rel=1e-12)
    # Equal halves in alpha / sigma weigh alike, wherever they are.
    k = [1.0, 2.0, 3.0]
    equal = [schedule.time(2 * torch.tensor(value, dtype=DOUBLE).log()) for value in k]
    assert float(first_share(schedule, *equal)) == pytest.approx(0.5, rel=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_two_equal_answers_are_the_target(schedule: Schedule) -> None:
    """To the bit: a teacher that is certain teaches what it is certain of, at times as they come."""
    answer = torch.linspace(-1, 1, 6).reshape(3, 2)
    for t, s, u in (times(1.0, 0.5, 0.0), times(0.9, 0.1, 0.05)):
        found = target(lambda x, t, /, **cond: Point(answer), schedule, torch.randn(3, 2), t, s, u)
        assert torch.equal(found, answer)


def test_times_of_each_sample() -> None:
    schedule = Cosine()
    rows = torch.tensor([[0.9, 0.5, 0.2], [1.0, 0.7, 0.0], [0.3, 0.2, 0.1]], dtype=DOUBLE)
    x = torch.linspace(-1, 1, 6, dtype=DOUBLE).reshape(3, 2)
    together = target(curved, schedule, x, *rows.unbind(1))
    apart = torch.cat([target(curved, schedule, x[i : i + 1], *rows[i]) for i in range(3)])
    torch.testing.assert_close(together, apart, rtol=1e-12, atol=1e-12)


def test_gaussian_target_in_closed_form() -> None:
    r"""For N(mean, std^2) a DDIM step from t to u scales x - alpha mean by (alpha alpha_u std^2 + sigma sigma_u) / v.

    v = alpha^2 std^2 + sigma^2. Two steps scale by the product of their factors, and the target follows.
    """
    schedule, mean, std = LinearVP(), 0.7, 1.8
    oracle = GaussianOracle(schedule, mean, std)
    t, s, u = times(0.85, 0.4, 0.15)
    x = torch.linspace(-3, 3, 8, dtype=DOUBLE).reshape(4, 2)

    def ratio(a: Tensor, b: Tensor) -> Tensor:
        (alpha, sigma), (alpha_b, sigma_b) = schedule(a), schedule(b)
        return (alpha * alpha_b * std**2 + sigma * sigma_b) / (alpha**2 * std**2 + sigma**2)

    (alpha, sigma), (alpha_u, sigma_u) = schedule(t), schedule(u)
    centred = x - alpha * mean
    gain = (ratio(t, s) * ratio(s, u) - sigma_u / sigma) / (alpha_u - sigma_u / sigma * alpha)
    torch.testing.assert_close(target(oracle, schedule, x, t, s, u), mean + gain * centred, rtol=1e-10, atol=1e-10)


# --- students -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [Cosine(), LinearVP(0.1, 40.0), EDM(), RectifiedFlow()], ids=str)
def test_perfect_students_lose_nothing(schedule: Schedule) -> None:
    """8 steps to 4 to 2 to 1, on an uneven grid, from pure noise to clean data: the same samples all the way."""
    grid = uniform_time(schedule, 8) ** 1.5
    oracle = MixtureOracle(
        schedule, torch.ones(2, dtype=DOUBLE), torch.tensor([[-1.0, 0.5], [1.0, 1.0]], dtype=DOUBLE),
        0.1 * torch.eye(2, dtype=DOUBLE).expand(2, 2, 2),
    )  # fmt: skip
    start = Noise(1, range(16)).normal(torch.empty(16, 2, dtype=DOUBLE)) * schedule(grid[0]).sigma
    taught = run(oracle, schedule, grid, start)
    denoiser: Callable[..., Point] = oracle
    while len(grid) > 2:
        denoiser, grid = student_of(denoiser, schedule, grid), halve(grid)
        torch.testing.assert_close(run(denoiser, schedule, grid, start), taught, rtol=1e-9, atol=1e-9)
    skipped = run(oracle, schedule, grid, start)
    assert float((skipped - taught).abs().mean()) > 0.1  # the control: one step without learning


def test_what_is_lost_is_the_first_teachers_error() -> None:
    """One step, halved from N of DDIM, is as far from the exact flow as they: first order in 1 / N."""
    schedule = LinearVP()
    oracle = GaussianOracle(schedule, 0.5, 0.4)
    start = Noise(2, range(8)).normal(torch.empty(8, 2, dtype=DOUBLE))
    errors: list[float] = []
    for count in (16, 32, 64, 128):
        grid, denoiser = uniform_time(schedule, count), oracle
        exact = oracle.flow(start, grid[0], grid[-1])
        while len(grid) > 2:
            denoiser, grid = student_of(denoiser, schedule, grid), halve(grid)
        errors.append(float((run(denoiser, schedule, grid, start) - exact).abs().max()))
    orders = [math.log2(a / b) for a, b in pairwise(errors)]
    assert orders == pytest.approx([1.0] * 3, abs=0.25)


class Affine(nn.Module):
    """x0 = gain_i x + shift_i at the i-th time of a grid: it holds every student of a Gaussian teacher."""

    def __init__(self, grid: Tensor) -> None:
        super().__init__()
        self.grid = grid[:-1]
        self.gain = nn.Parameter(torch.zeros(len(grid) - 1, dtype=DOUBLE))
        self.shift = nn.Parameter(torch.zeros(len(grid) - 1, dtype=DOUBLE))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        near = (t.reshape(-1, 1) - self.grid).abs().argmin(1)
        return self.gain[near, None] * x + self.shift[near, None]


@pytest.mark.parametrize("prediction", [x0_prediction, v_prediction, eps_prediction])
@pytest.mark.parametrize("weighting", [truncated_snr, snr_plus_one, unweighted])
def test_a_student_that_can_learn_it_draws_its_teachers_samples(prediction: Any, weighting: Any) -> None:
    schedule = LinearVP(0.1, 12.0)
    oracle = GaussianOracle(schedule, 0.3, 0.8)
    grid = torch.tensor([1.0, 0.8, 0.55, 0.4, 0.3, 0.2, 0.0], dtype=DOUBLE)
    noise = Noise(3, range(256))
    x0 = 0.3 + 0.8 * noise.fork(0).normal(torch.empty(256, 1, dtype=DOUBLE))
    network = Affine(halve(grid))
    student = prediction(network, schedule)
    loss = partial(distillation_loss, student, oracle, schedule, grid, x0, noise, weighting=weighting)
    optimizer = torch.optim.LBFGS(network.parameters(), max_iter=500, tolerance_grad=1e-14, tolerance_change=0,
                                  line_search_fn="strong_wolfe")  # fmt: skip

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss().mean()
        value.backward()
        return value

    optimizer.step(closure)
    start = Noise(4, range(64)).normal(torch.empty(64, 1, dtype=DOUBLE))
    with torch.no_grad():
        drawn = run(student, schedule, halve(grid), start)
    torch.testing.assert_close(drawn, run(oracle, schedule, grid, start), rtol=0, atol=1e-6)


class Small(nn.Module):
    """A network for points of the plane."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, 96), nn.SiLU(), nn.Linear(96, 96), nn.SiLU(), nn.Linear(96, 2))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        t = t.to(x.dtype).expand(len(x))[:, None]
        return self.layers(torch.cat([x, t, torch.sin(3 * t), torch.cos(3 * t)], 1))


def test_distilled_student_beats_skipping_steps(tmp_path: Any) -> None:
    """Through the trainer, in seconds: half the steps, learnt, against half of an exact denoiser's, skipped."""
    schedule = Cosine()
    means = torch.tensor([[-1.5, 0.0], [1.5, 0.0], [0.0, 1.5]])
    oracle = MixtureOracle(schedule, torch.ones(3), means, 0.04 * torch.eye(2).expand(3, 2, 2))
    grid = uniform_time(schedule, 4)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Small()

    def loss(network: nn.Module, x0: Tensor, noise: Noise) -> Tensor:
        return distillation_loss(
            x0_prediction(network, schedule), oracle, schedule, grid, x0, noise, weighting=unweighted
        )

    config = TrainConfig(
        out=tmp_path, steps=400, batch_size=128, lr=5e-3, ema=0.99, tracker=None, device="cpu", save_every=400
    )
    weights = train(network, loss, lambda samples: oracle.draw(Noise(5, samples)), config).weights
    network.load_state_dict(weights)
    start = Noise(6, range(1000)).normal(torch.empty(1000, 2))
    with torch.no_grad():
        taught = run(oracle, schedule, grid, start)
        learnt = run(x0_prediction(network, schedule), schedule, halve(grid), start)
        skipped = run(oracle, schedule, halve(grid), start)
    gap, naive = ((x - taught).norm(dim=1).mean() for x in (learnt, skipped))
    assert float(gap) < 0.5 * float(naive)


# --- the loss -------------------------------------------------------------------------------------------------


def test_no_gradient_reaches_the_teacher() -> None:
    schedule, grid = Cosine(), uniform_time(Cosine(), 4)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        teacher, student = Small(), Small()
    x0, noise = torch.randn(8, 2, requires_grad=True), Noise(0, range(8))
    loss = distillation_loss(
        v_prediction(student, schedule), v_prediction(teacher, schedule), schedule, grid, x0, noise
    ).mean()
    loss.backward()
    assert all(weight.grad is None for weight in teacher.parameters())
    assert all(weight.grad is not None for weight in student.parameters())
    t, s, u = times(0.9, 0.5, 0.1)
    assert not target(v_prediction(teacher, schedule), schedule, x0, t, s, u).requires_grad


def test_snr_plus_one_is_the_error_of_v() -> None:
    schedule = LinearVP()
    t = torch.tensor([0.2, 0.5, 0.9], dtype=DOUBLE)
    alpha, sigma = (scale[:, None] for scale in schedule(t))
    x, found, wanted = torch.randn(3, 3, 4, dtype=DOUBLE)

    def v(x0: Tensor) -> Tensor:
        return alpha * (x - alpha * x0) / sigma - sigma * x0

    weight = snr_plus_one(schedule.log_snr(t))
    torch.testing.assert_close(weight * squared_error(found, wanted), squared_error(v(found), v(wanted)))
    torch.testing.assert_close(truncated_snr(schedule.log_snr(t)), torch.maximum((alpha / sigma)[:, 0] ** 2, t**0))


def test_loss_of_a_sample_does_not_depend_on_its_batch() -> None:
    schedule, grid = LinearVP(), uniform_time(LinearVP(), 6)
    x0 = torch.linspace(-1, 1, 16).reshape(8, 2)
    student = GaussianOracle(schedule, 0.0, 0.5)

    def losses(rows: list[int]) -> Tensor:
        return distillation_loss(
            student, curved, schedule, grid, x0[rows], Noise(7, rows), weighting=unweighted, distance=absolute_error
        )

    whole = losses(list(range(8)))
    torch.testing.assert_close(losses([5, 2]), whole[[5, 2]], rtol=1e-6, atol=0)
    assert len(set(whole.tolist())) == 8


def test_loss_visits_every_step_of_the_student() -> None:
    schedule, grid = LinearVP(), torch.tensor([1.0, 0.9, 0.5, 0.2, 0.1, 0.05, 0.0], dtype=DOUBLE)
    seen: list[Tensor] = []

    def student(x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        seen.append(t)
        return Point(cond["label"] * x)

    def teacher(x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        return Point(cond["label"] * x)

    noise = Noise(0, range(3000))
    distillation_loss(student, teacher, schedule, grid, torch.zeros(3000, 1), noise, label=0.5)
    values, counts = torch.cat(seen).unique(return_counts=True)
    assert values.tolist() == pytest.approx([0.1, 0.5, 1.0])
    assert counts.tolist() == pytest.approx([1000] * 3, rel=0.1)


def test_halving() -> None:
    grid = torch.tensor([1.0, 0.7, 0.5, 0.1, 0.0], dtype=DOUBLE)
    assert halve(grid).tolist() == [1.0, 0.5, 0.0]
    assert halve(halve(grid)).tolist() == [1.0, 0.0]
    with pytest.raises(ValueError, match="has 3 of them"):
        halve(grid[:4])
    with pytest.raises(ValueError, match="strictly monotone"):
        halve(torch.tensor([1.0, 0.5, 0.7]))
