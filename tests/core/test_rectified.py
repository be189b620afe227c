"""Rectified flow's pieces: time laws, losses, reflow pairs, and paths that one step crosses exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from degauss.core import (
    EDM,
    Cosine,
    InputError,
    LinearVP,
    NetworkDenoiser,
    Noise,
    Point,
    RectifiedFlow,
    Schedule,
    Shifted,
    SubVP,
    sample,
    simulate,
)
from degauss.core.denoiser import Eps, Flow, Karras, Prediction, V
from degauss.core.gaussian import ddim, dpmpp, unipc
from degauss.core.grid import uniform_time
from degauss.core.observe import Trajectory
from degauss.core.oracle import GaussianOracle, MixtureOracle
from degauss.core.process.rectified import (
    LogitNormal,
    Mode,
    Pairs,
    first_orderness,
    matching_loss,
    reflow_pairs,
    straightness,
)

DOUBLE = torch.float64


def uniforms(count: int) -> Tensor:
    return Noise(0, range(count)).uniform(torch.empty(count, dtype=DOUBLE))


@pytest.mark.parametrize("law", [LogitNormal(), LogitNormal(-0.5, 1.7), LogitNormal(1.0, 0.6)], ids=str)
def test_logit_normal_law(law: LogitNormal) -> None:
    def cdf(t: Any) -> Any:
        return scipy.stats.norm(law.mean, law.std).cdf(scipy.special.logit(t))

    assert scipy.stats.kstest(law(uniforms(4000)).numpy(), cdf).pvalue > 1e-3
    t = torch.linspace(0.01, 0.99, 50, dtype=DOUBLE)
    slope = (cdf((t + 1e-6).numpy()) - cdf((t - 1e-6).numpy())) / 2e-6
    torch.testing.assert_close(law.density(t), torch.from_numpy(slope), rtol=1e-6, atol=1e-8)


def test_shift_of_the_schedule_is_shift_of_the_law() -> None:
    """Training on a shifted schedule is training on the schedule with log(shift) added to the mean."""
    u = uniforms(100)
    shifted = Shifted(RectifiedFlow(), 3.0)(LogitNormal(0.2, 0.8)(u)).sigma
    torch.testing.assert_close(shifted, LogitNormal(0.2 + math.log(3.0), 0.8)(u), rtol=1e-12, atol=0)


@given(st.floats(-1, 2 / (math.pi - 2)))
def test_mode_law_is_the_published_one(scale: float) -> None:
    u = torch.linspace(0, 1, 101, dtype=DOUBLE)
    t = Mode(scale)(u)
    down = 1 - u
    want = 1 - down - scale * (torch.cos(0.5 * math.pi * down) ** 2 - 1 + down)
    torch.testing.assert_close(t, want, rtol=1e-12, atol=1e-12)
    assert bool((t.diff() >= -1e-12).all())
    assert t[[0, -1]].tolist() == pytest.approx([0, 1], abs=1e-12)


def test_mode_law_prefers_the_middle() -> None:
    near = [float(((Mode(scale)(uniforms(4000)) - 0.5).abs() < 0.25).double().mean()) for scale in (-1.0, 0.0, 1.29)]
    assert near[0] < near[1] - 0.1 < near[2] - 0.2


def test_bad_laws_are_refused() -> None:
    with pytest.raises(InputError, match="std of the logit-normal"):
        LogitNormal(std=0.0)
    with pytest.raises(InputError, match="scale of the mode"):
        Mode(1.8)


@pytest.mark.parametrize(
    ("schedule", "prediction"),
    [(RectifiedFlow(), Flow()), (LinearVP(), Eps()), (Cosine(), V()), (EDM(), Karras(0.5))],
    ids=str,
)
def test_loss_is_zero_where_the_denoiser_is_right(schedule: Schedule, prediction: Prediction) -> None:
    """A loss of 0 means a denoiser that gives back x0: the loss and ``NetworkDenoiser`` agree on what is predicted."""
    x0 = Noise(1, range(5)).normal(torch.empty(5, 2, 3, dtype=DOUBLE))
    eps = Noise(2, range(5)).normal(x0)
    t = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.95], dtype=DOUBLE)
    alpha, sigma = schedule(t)
    u, w = (weight[:, None, None] for weight in prediction.target(alpha, sigma))

    def perfect(x: Tensor, time: Tensor) -> Tensor:
        return u * x0 + w * eps

    def wrong(x: Tensor, time: Tensor) -> Tensor:
        return perfect(x, time) + torch.tensor([0.0, 1.0, 2.0], dtype=DOUBLE)

    assert float(matching_loss(perfect, schedule, prediction, x0, eps, t).abs().max()) < 1e-24
    want = torch.full((5,), 5 / 3, dtype=DOUBLE)
    torch.testing.assert_close(matching_loss(wrong, schedule, prediction, x0, eps, t), want)
    x = alpha[:, None, None] * x0 + sigma[:, None, None] * eps
    torch.testing.assert_close(NetworkDenoiser(perfect, schedule, prediction)(x, t).mean, x0, rtol=1e-9, atol=1e-9)


def test_loss_shows_the_network_what_the_denoiser_does() -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    def network(x: Tensor, t: Tensor, *, label: int) -> Tensor:
        assert label == 3
        seen.append((x, t))
        return x

    x0, eps, t = torch.ones(2, 3), torch.full((2, 3), -0.5), torch.tensor([0.2, 0.6])
    for prediction in (Karras(0.5), Flow()):
        matching_loss(network, EDM(), prediction, x0, eps, t, label=3)
        sigma = EDM()(t).sigma.float()[:, None]
        NetworkDenoiser(network, EDM(), prediction)(x0 + sigma * eps, t, label=3)
        torch.testing.assert_close(seen[-2], seen[-1])
        assert seen[-1][0].dtype == torch.float32


def test_gradients_flow_through_the_loss() -> None:
    x0, eps = (Noise(seed, range(2)).normal(torch.empty(2, 2, dtype=DOUBLE)) for seed in (1, 2))
    t = torch.tensor([0.3, 0.8], dtype=DOUBLE)

    def loss(weight: Tensor, x0: Tensor, eps: Tensor) -> Tensor:
        return matching_loss(lambda x, t: weight * torch.sin(x), RectifiedFlow(), Flow(), x0, eps, t)

    leaves = [value.requires_grad_() for value in (torch.tensor(0.7, dtype=DOUBLE), x0, eps)]
    assert torch.autograd.gradcheck(loss, leaves)


def pairs(schedule: Schedule, denoiser: Any, samples: Sequence[int], **options: Any) -> Pairs:
    return reflow_pairs(
        denoiser, schedule, (3,), samples, solver=unipc(order=3), steps=60, seed=4, dtype=DOUBLE, **options
    )


def test_pairs_are_the_noise_and_the_sample() -> None:
    oracle = GaussianOracle(RectifiedFlow(), 1.5, 0.7)
    got = pairs(RectifiedFlow(), oracle, range(10))
    want = sample(oracle, RectifiedFlow(), (10, 3), solver=unipc(order=3), steps=60, seed=4, dtype=DOUBLE)
    assert torch.equal(got.x0, want)
    assert torch.equal(got.eps, Noise(4, range(10)).normal(want))
    # Between Gaussians the flow is eps -> mean + std eps.
    torch.testing.assert_close(got.x0, 1.5 + 0.7 * got.eps, rtol=0, atol=2e-3)


def test_pairs_do_not_depend_on_how_they_are_made() -> None:
    oracle = GaussianOracle(RectifiedFlow(), 1.5, 0.7)
    whole = pairs(RectifiedFlow(), oracle, range(10))
    done: list[tuple[int, int]] = []
    ids = [7, 2, 9, 0, 4]
    parts = pairs(RectifiedFlow(), oracle, ids, batch=2, report=lambda now, total: done.append((now, total)))
    assert torch.equal(parts.x0, whole.x0[ids])
    assert torch.equal(parts.eps, whole.eps[ids])
    assert done == [(2, 5), (4, 5), (5, 5)]
    assert pairs(RectifiedFlow(), oracle, []).x0.shape == (0, 3)


def test_pairs_take_the_conditioning_of_their_ids() -> None:
    def denoiser(x: Tensor, t: Tensor, /, *, label: Tensor) -> Point:
        return Point(label[:, None].expand_as(x))

    def cond(ids: Sequence[int]) -> dict[str, Tensor]:
        return {"label": torch.tensor(ids, dtype=DOUBLE)}

    got = pairs(RectifiedFlow(), denoiser, [5, 1, 8], cond=cond, batch=2)
    torch.testing.assert_close(got.x0[:, 0], torch.tensor([5.0, 1.0, 8.0], dtype=DOUBLE))


def test_pairs_need_a_batch() -> None:
    with pytest.raises(InputError, match="batch must be at least 1"):
        pairs(RectifiedFlow(), GaussianOracle(RectifiedFlow()), [1], batch=0)


def regression(joined: Pairs, schedule: Schedule, prediction: Prediction) -> NetworkDenoiser:
    """The best affine network at each time, by least squares over the pairs: exact where the data are Gaussian."""

    def network(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = schedule(t)
        u, w = prediction.target(alpha, sigma)
        states = alpha * joined.x0 + sigma * joined.eps
        targets = u * joined.x0 + w * joined.eps
        inputs = torch.cat([states, torch.ones(len(states), 1, dtype=DOUBLE)], 1)
        return torch.cat([x, torch.ones(len(x), 1, dtype=DOUBLE)], 1) @ torch.linalg.lstsq(inputs, targets).solution

    return NetworkDenoiser(network, schedule, prediction)


MODELS = [(RectifiedFlow(), Flow()), (LinearVP(), Eps()), (SubVP(), Eps()), (Cosine(), V())]


def gaussian_pairs(schedule: Schedule) -> Pairs:
    """The exact flow of Gaussian data with a full covariance, between noise and data."""
    oracle = GaussianOracle(schedule, torch.tensor([1.0, -2.0, 0.5], dtype=DOUBLE), torch.tensor([0.5, 1.5, 0.1]))
    one, zero = torch.tensor(1.0, dtype=DOUBLE), torch.tensor(0.0, dtype=DOUBLE)
    eps = Noise(3, range(64)).normal(torch.empty(64, 3, dtype=DOUBLE))
    return Pairs(eps, oracle.flow(eps * schedule(one).sigma, one, zero))


@pytest.mark.parametrize(("schedule", "prediction"), MODELS, ids=str)
def test_reflow_of_a_gaussian_flow_needs_one_step(schedule: Schedule, prediction: Prediction) -> None:
    """Trained on pairs, one Euler step (of DDIM, on a curved path) is exact; trained on the same data and noise in
    another order, it gives the mean."""
    joined = gaussian_pairs(schedule)
    x0, eps = joined.x0, joined.eps
    grid = uniform_time(schedule, 1, start=0.999)
    alpha, sigma = schedule(grid[0])
    start = alpha * x0 + sigma * eps

    def one_step(pairs: Pairs) -> Tensor:
        kernel = ddim()(regression(pairs, schedule, prediction), schedule)
        return simulate(kernel, start, grid, Noise(0, range(64)))

    torch.testing.assert_close(one_step(joined), x0, rtol=0, atol=1e-9)
    shuffled = one_step(Pairs(eps, x0[torch.randperm(64, generator=torch.Generator().manual_seed(0))]))
    assert float((shuffled - x0).abs().mean()) > 0.2


@pytest.mark.parametrize(("schedule", "prediction"), MODELS, ids=str)
def test_reflow_makes_paths_first_order_not_straight(schedule: Schedule, prediction: Prediction) -> None:
    joined = gaussian_pairs(schedule)
    grid = uniform_time(schedule, 50, start=0.98)
    alpha, sigma = schedule(grid[0])
    start = alpha * joined.x0 + sigma * joined.eps

    def trajectory(denoiser: Any) -> Tensor:
        record = Trajectory()
        simulate(dpmpp(2)(denoiser, schedule), start, grid, Noise(0, range(64)), observe=[record])
        return torch.cat([start[None], record.stack()])

    before = trajectory(GaussianOracle(schedule, torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.5, 1.5, 0.1])))
    after = trajectory(regression(joined, schedule, prediction))
    assert float(first_orderness(after, grid, schedule).max()) < 1e-12
    assert float(first_orderness(before, grid, schedule).median()) > 1e-2
    straight = float(straightness(after, grid).median())
    assert straight < 1e-12 if isinstance(schedule, RectifiedFlow) else straight > 0.1


SCHEDULES = st.sampled_from([LinearVP(), Cosine(), RectifiedFlow(), SubVP(), EDM(80.0)])
GRIDS = st.lists(st.floats(0.0, 1.0), min_size=3, max_size=12, unique_by=lambda t: round(t, 2))


@settings(max_examples=40)
@given(SCHEDULES, GRIDS)
def test_first_order_paths_measure_zero(schedule: Schedule, times: list[float]) -> None:
    grid = torch.tensor(sorted(times, reverse=True), dtype=DOUBLE)
    x0, eps = (Noise(seed, range(4)).normal(torch.empty(4, 2, 3, dtype=DOUBLE)) for seed in (1, 2))
    alpha, sigma = (scale[:, None, None, None] for scale in schedule(grid))
    states = alpha * x0 + sigma * eps
    scale = float((states.diff(dim=0) ** 2).sum()) / float(grid.diff().abs().min())
    assert float(first_orderness(states, grid, schedule).max()) <= 1e-9 * scale
    bent = states.clone()
    bent[1] += 1.0
    # Bent by 1 in one place: two intervals, each |1|^2 / dt, less what the fitted ends do not see, which is nothing.
    want = float((1 / grid.diff().abs())[:2].sum())
    torch.testing.assert_close(
        first_orderness(bent, grid, schedule), torch.full((4,), want, dtype=DOUBLE), rtol=1e-4, atol=1e-6 * scale
    )


def test_straightness_is_the_published_integral() -> None:
    """A parabola x = c t^2 from 0 to 1: int (2 c t - c)^2 dt = c^2 / 3."""
    grid = torch.linspace(0, 1, 1001, dtype=DOUBLE)
    c = torch.tensor([0.0, 1.0, 3.0], dtype=DOUBLE)
    states = grid[:, None, None] ** 2 * c[:, None].expand(3, 2)
    torch.testing.assert_close(straightness(states, grid), c**2 / 3, rtol=1e-5, atol=1e-12)
    torch.testing.assert_close(straightness(states.flip(0), grid.flip(0)), c**2 / 3, rtol=1e-5, atol=1e-12)
    assert torch.equal(straightness(states[:, 1:2], grid), straightness(states, grid)[1:2])


def test_measures_need_a_state_for_each_time() -> None:
    with pytest.raises(ValueError, match=r"states have shape \[4, batch"):
        straightness(torch.zeros(3, 2, 1), uniform_time(RectifiedFlow(), 3))


def test_reflow_lowers_every_convex_cost() -> None:
    """Liu et al. 2023, theorem 3.5: E c(x0 - eps) of the pairs is at most that of independent draws."""
    noise = Noise(7, range(3))
    means = 2 * noise.normal(torch.empty(3, 3, dtype=DOUBLE))
    covariances = 0.2 * torch.eye(3, dtype=DOUBLE).expand(3, 3, 3)
    oracle = MixtureOracle(RectifiedFlow(), torch.ones(3, dtype=DOUBLE), means, covariances)
    joined = pairs(RectifiedFlow(), oracle, range(1000))
    gap = joined.x0 - joined.eps
    loose = joined.x0 - joined.eps.roll(1, 0)
    for cost in (lambda d: d.square().sum(1), lambda d: d.norm(dim=1), lambda d: d.pow(4).sum(1)):
        assert float(cost(gap).mean()) < 0.97 * float(cost(loose).mean())
