"""Paths around an observation: their schedules, and that every solver samples p(x0 | y) exactly where that is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from degauss.core import LinearVP, Noise, Point, RectifiedFlow, Schedule, simulate
from degauss.core.denoiser import X0, Eps, Flow, Karras, Prediction, Score, V
from degauss.core.gaussian import Heun, ddim, deis, dpm, dpmpp, unipc
from degauss.core.grid import uniform_log_snr, uniform_time
from degauss.core.observe import Trajectory
from degauss.core.oracle import GaussianOracle
from degauss.core.process.bridge import BrownianBridge, bbdm
from degauss.core.process.centred import Centred, CentredNetwork, FromObservation, perturb, sample_centred
from degauss.core.process.mean_reverting import IRSDE, OUVE, CosineRate
from degauss.core.process.residual import RDDM, ResShift, rddm, resshift

DOUBLE = torch.float64
SCHEDULES: dict[str, Schedule] = {
    "OUVE": OUVE(),
    "OUVE without drift": OUVE(gamma=0.0),
    "cosine rate": CosineRate(),
    "cosine rate, s=0": CosineRate(s=0.0),
    "cosine rate, s=1": CosineRate(end=0.5, s=1.0),
    "IR-SDE": IRSDE(std=50 / 255),
    "IR-SDE, constant rate": IRSDE(0.3, LinearVP(10.0, 10.0)),
    "bridge": BrownianBridge(),
    "narrow bridge": BrownianBridge(0.01),
    "ResShift": ResShift.geometric(),
    "ResShift, two steps": ResShift((0.2, 0.7), 0.5),
    "RDDM": RDDM(),
    "RDDM, even": RDDM(0.0, 0.0, 2.0),
    "RDDM, steep": RDDM(3.0, 0.5, 1.0),
}
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


def f64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=DOUBLE)


# The schedules


@every_schedule
@settings(max_examples=40)
@given(st.floats(0, 1))
def test_time_inverts_log_snr(schedule: Schedule, t: float) -> None:
    torch.testing.assert_close(schedule.time(schedule.log_snr(f64(t))), f64(t), rtol=1e-12, atol=1e-15)


@every_schedule
@pytest.mark.parametrize("t", [1e-12, 1e-8, 1e-4])
def test_small_times_keep_their_digits(schedule: Schedule, t: float) -> None:
    torch.testing.assert_close(schedule.time(schedule.log_snr(f64(t))), f64(t), rtol=1e-12, atol=0)


@every_schedule
@settings(max_examples=40)
@given(st.floats(0, 1))
def test_log_snr_inverts_time(schedule: Schedule, fraction: float) -> None:
    low, high = schedule.log_snr(f64(0.999, 1e-6)).tolist()
    level = f64(low + fraction * (high - low))
    torch.testing.assert_close(schedule.log_snr(schedule.time(level)), level, rtol=1e-11, atol=1e-11)


@every_schedule
def test_log_snr_is_the_ratio_of_the_scales_and_falls(schedule: Schedule) -> None:
    t = torch.linspace(1e-4, 0.9999, 2001, dtype=DOUBLE)
    alpha, sigma = schedule(t)
    log_snr = schedule.log_snr(t)
    torch.testing.assert_close(log_snr, 2 * torch.log(alpha / sigma), rtol=1e-9, atol=1e-9)
    assert bool((log_snr.diff() < 0).all())
    assert bool((alpha.diff() <= 0).all())


@every_schedule
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_results_are_float64_in_the_shape_of_t(schedule: Schedule, dtype: torch.dtype) -> None:
    one = torch.tensor(0.5, dtype=DOUBLE)
    for shape in ((), (3,), (2, 1)):
        t = torch.full(shape, 0.5, dtype=dtype)
        for result, expected in zip(
            (*schedule(t), schedule.log_snr(t), schedule.time(schedule.log_snr(t))),
            (*schedule(one), schedule.log_snr(one), one),
            strict=True,
        ):
            assert result.dtype == DOUBLE
            torch.testing.assert_close(result, expected.expand(t.shape), rtol=1e-12, atol=0)


@pytest.mark.gpu
@every_schedule
def test_results_stay_on_the_device(schedule: Schedule) -> None:
    t = f64(0.25, 0.75)
    for result, expected in zip(
        (*schedule(t.cuda()), schedule.log_snr(t.cuda()), schedule.time(schedule.log_snr(t.cuda()))),
        (*schedule(t), schedule.log_snr(t), t),
        strict=True,
    ):
        assert result.is_cuda
        torch.testing.assert_close(result.cpu(), expected, rtol=1e-12, atol=1e-14)


@every_schedule
def test_ends_are_clean_data_and_no_nan(schedule: Schedule) -> None:
    alpha, sigma = schedule(f64(0, 1))
    log_snr = schedule.log_snr(f64(0, 1))
    assert (alpha[0].item(), sigma[0].item(), log_snr[0].item()) == (1, 0, math.inf)
    assert not bool(torch.cat([alpha, sigma, log_snr]).isnan().any())
    torch.testing.assert_close(schedule.time(log_snr), f64(0, 1), rtol=0, atol=2e-15)


@every_schedule
def test_equal_schedules_are_equal_keys(schedule: Schedule) -> None:
    assert hash(schedule) == hash(schedule)
    assert len(set(SCHEDULES.values())) == len(SCHEDULES)


@every_schedule
def test_gradients_flow_through_t(schedule: Schedule) -> None:
    at, step = 0.40051, 1e-6
    t = f64(at).requires_grad_()
    (slope,) = torch.autograd.grad(schedule.log_snr(t).sum(), t)
    numeric = (schedule.log_snr(f64(at + step)) - schedule.log_snr(f64(at - step))) / (2 * step)
    torch.testing.assert_close(slope, numeric, rtol=1e-5, atol=0)


# Sampling: data N(1.5, 0.7^2) seen as y


MEAN, STD = 1.5, 0.7


def conditional(schedule: Schedule, mu: Tensor) -> Callable[..., Point]:
    """E[x0 | x_t] for x0 ~ N(MEAN, STD^2) given mu, by Bayes' rule on x_t ~ N(mu + alpha (x0 - mu), sigma^2)."""

    def denoiser(x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        alpha, sigma = schedule(t)
        if alpha == 0:
            return Point(torch.full_like(x, MEAN))
        implied = mu + (x - mu) / alpha
        return Point((MEAN * (sigma / alpha) ** 2 + implied * STD**2) / ((sigma / alpha) ** 2 + STD**2))

    return denoiser


def observations(batch: int) -> Tensor:
    return 1.5 + 2 * Noise(11, range(batch)).normal(torch.empty(batch, 3, dtype=DOUBLE))


@pytest.mark.parametrize("name", ["OUVE", "IR-SDE", "ResShift", "RDDM, even"])
@pytest.mark.parametrize("solver", [ddim(), dpmpp(2), dpmpp(3), unipc(3), dpm(2), deis(3), Heun], ids=str)
def test_deterministic_solvers_follow_the_exact_flow(name: str, solver: Callable[..., Any]) -> None:
    """The probability flow of z is known; the run starts at mu + sigma_T eps with the start noise of ``sample``."""
    schedule, mu = SCHEDULES[name], observations(32)
    grid = uniform_log_snr(schedule, 200, start=0.98, end=1e-3)
    x = sample_centred(conditional(schedule, mu), schedule, mu, solver=solver, steps=200, grid=grid, seed=5)
    start = schedule(grid[0]).sigma * Noise(5, range(32)).normal(mu)
    want = mu + GaussianOracle(schedule, MEAN - mu, STD).flow(start, grid[0], grid[-1])
    assert float((x - want).abs().max()) < (3e-2 if solver == ddim() else 1e-3)


@pytest.mark.parametrize("name", ["IR-SDE", "bridge", "ResShift", "RDDM", "RDDM, steep"])
@pytest.mark.parametrize("solver", [ddim(), dpmpp(2), unipc(2), ddim(1.0), dpmpp(2, eta=1.0)], ids=str)
def test_samples_have_the_conditional_mean_and_variance(name: str, solver: Callable[..., Any]) -> None:
    """From the observation to clean data, for processes that forget x0 on the way (alpha(1) < 0.01)."""
    schedule, mu = SCHEDULES[name], torch.full((4000, 2), 0.3, dtype=DOUBLE)
    # Quadratic times: noise that vanishes like sqrt(t) would lose variance in the last step of a uniform grid.
    grid = torch.linspace(1, 0, 101, dtype=DOUBLE) ** 2
    x = sample_centred(conditional(schedule, mu), schedule, mu, solver=solver, steps=100, grid=grid)
    assert float(x.mean()) == pytest.approx(MEAN, abs=4 * STD / math.sqrt(8000) + 5e-3)
    assert float(x.var()) == pytest.approx(STD**2, rel=4 * math.sqrt(2 / 8000) + 0.05)


def test_a_guess_repairs_a_process_that_remembers_x0() -> None:
    """OUVE keeps alpha(1) = 0.22: started at the observation its mean is off by a known amount, with a guess not."""
    schedule, mu = OUVE(), torch.full((4000, 2), -2.0, dtype=DOUBLE)
    alpha, sigma = (float(scale) for scale in schedule(f64(1)[0]))
    run = partial(sample_centred, conditional(schedule, mu), schedule, mu, solver=dpmpp(2), steps=200)
    # The flow scales deviations from the marginal mean at t = 1 by STD / sqrt(alpha^2 STD^2 + sigma^2).
    bias = STD / math.hypot(alpha * STD, sigma) * alpha * (-2.0 - MEAN)
    noise = 4 * STD / math.sqrt(8000)
    assert float(run().mean()) == pytest.approx(MEAN + bias, abs=noise + 1e-2)
    assert abs(bias) > 5 * noise
    assert float(run(guess=torch.full_like(mu, MEAN)).mean()) == pytest.approx(MEAN, abs=noise + 1e-2)


@pytest.mark.parametrize("name", ["OUVE", "IR-SDE", "ResShift", "RDDM, even"])
@pytest.mark.parametrize("solver", [ddim(0.5), dpmpp(3), dpm(2, eta=1.0), rddm(0.5)], ids=str)
def test_centring_is_what_the_solver_would_do_on_x(name: str, solver: Callable[..., Any]) -> None:
    """Linear methods reproduce constants, so x - (1 - alpha) mu, another ordinary state, gives the same samples."""
    schedule, mu = SCHEDULES[name], observations(6)
    grid = uniform_time(schedule, 12, start=0.97, end=0.01)
    denoiser = conditional(schedule, mu)

    def other(x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        return denoiser(x + (1 - schedule(t).alpha) * mu, t)

    got = sample_centred(denoiser, schedule, mu, solver=solver, steps=12, grid=grid)
    noise = Noise(0, range(6))
    start = schedule(grid[0]).sigma * noise.normal(mu)
    # Around mu the same start lacks the signal alpha mu.
    end = simulate(solver(other, schedule), start + schedule(grid[0]).alpha * mu, grid, noise)
    torch.testing.assert_close(got, end + (1 - schedule(grid[-1]).alpha) * mu, rtol=1e-9, atol=1e-9)


# Networks and training pairs


@pytest.mark.parametrize("prediction", [Eps(), X0(), V(), Score(), Flow(), Karras(0.5)], ids=str)
@settings(max_examples=40)
@given(t=st.floats(0.01, 0.99), name=st.sampled_from(sorted(SCHEDULES)))
def test_networks_of_the_uncentred_state_become_denoisers(prediction: Prediction, t: float, name: str) -> None:
    """A network that outputs its own training target gives x0 back, whatever it predicts."""
    schedule = SCHEDULES[name]
    noise = Noise(3, range(4))
    x0, mu = noise.normal(torch.empty(4, 5, dtype=DOUBLE), draw=1), observations(4).sum(1, keepdim=True)
    time = torch.full((4,), t, dtype=DOUBLE)
    x, eps = perturb(schedule, x0, mu, time, noise)
    alpha, sigma = schedule(time[0])
    u, w = prediction.target(alpha, sigma)

    def network(state: Tensor, told: Tensor, **cond: Any) -> Tensor:
        factor, expected = prediction.network_input(alpha, sigma, time)
        assert torch.equal(state, x if factor is None else factor * x)
        torch.testing.assert_close(told, expected.expand(told.shape).to(told.dtype))
        return u * x0 + w * eps

    got = CentredNetwork(network, schedule, prediction, mu)(x, time).mean
    # Where the state holds next to no data, its rounding is magnified by sigma / alpha.
    tolerance = 1e-11 * (1 + float((1 + sigma) / alpha))
    torch.testing.assert_close(got, x0, rtol=0, atol=tolerance)


def test_conditions_reach_the_network() -> None:
    seen: list[int] = []

    def network(x: Tensor, t: Tensor, *, label: int) -> Tensor:
        seen.append(label)
        return torch.zeros_like(x)

    mu = observations(2)
    denoiser = CentredNetwork(network, OUVE(), X0(), mu)
    sample_centred(denoiser, OUVE(), mu, solver=ddim(), steps=3, cond={"label": 7})
    assert seen == [7, 7, 7]


def test_perturb_is_the_path_and_keyed() -> None:
    schedule, x0, mu = OUVE(), observations(5), torch.zeros(5, 3, dtype=DOUBLE)
    t = torch.linspace(0, 1, 5)
    x, eps = perturb(schedule, x0, mu, t, Noise(2, range(5)))
    for row in range(5):
        alpha, sigma = schedule(t[row])
        torch.testing.assert_close(x[row], alpha * x0[row] + sigma * eps[row], rtol=1e-12, atol=1e-12)
    again = perturb(schedule, x0[3:], mu[3:], t[3:], Noise(2, [3, 4]))
    assert torch.equal(again.x, x[3:])


def test_centred_denoiser_is_the_shifted_one() -> None:
    mu = observations(3)
    denoiser = conditional(OUVE(), mu)
    z, t = torch.ones(3, 3, dtype=DOUBLE), torch.tensor(0.4, dtype=DOUBLE)
    torch.testing.assert_close(Centred(denoiser, mu)(z, t).mean, denoiser(z + mu, t).mean - mu)
    # The oracle of the centred data says the same.
    torch.testing.assert_close(Centred(denoiser, mu)(z, t).mean, GaussianOracle(OUVE(), MEAN - mu, STD)(z, t).mean)


# The contract of every kernel


RUNS: dict[str, tuple[Schedule, Callable[..., Any]]] = {
    "guess": (OUVE(), dpmpp(2, eta=1.0)),
    "bridge": (BrownianBridge(), dpmpp(3, eta=1.0)),
    "bridge, Heun": (BrownianBridge(), Heun),
    "bbdm": (BrownianBridge(), bbdm()),
    "resshift": (ResShift.geometric(), resshift()),
    "rddm": (RDDM(), rddm(0.7)),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_sample_does_not_depend_on_its_batch(name: str) -> None:
    schedule, solver = RUNS[name]

    def draw(rows: list[int]) -> Tensor:
        mu = observations(6)[rows]
        guess = mu + 0.5 if name == "guess" else None
        denoiser = conditional(schedule, mu)
        return sample_centred(denoiser, schedule, mu, solver=solver, steps=6, samples=rows, guess=guess)

    whole = draw([0, 1, 2, 3, 4, 5])
    assert torch.equal(draw([4, 1]), whole[[4, 1]])
    assert bool(torch.isfinite(whole).all())


@pytest.mark.parametrize("name", RUNS)
def test_gradients_reach_the_observation_and_the_model(name: str) -> None:
    schedule, solver = RUNS[name]
    weight = torch.tensor(0.8, dtype=DOUBLE, requires_grad=True)
    mu = observations(3).requires_grad_()

    def value(weight: Tensor, mu: Tensor) -> Tensor:
        def denoiser(x: Tensor, t: Tensor, /, **cond: Any) -> Point:
            return Point(torch.tanh(weight * x + mu))

        return sample_centred(denoiser, schedule, mu, solver=solver, steps=5).sum()

    slopes = torch.autograd.grad(value(weight, mu), (weight, mu))
    step = 1e-6
    numeric = (value(weight + step, mu) - value(weight - step, mu)) / (2 * step)
    torch.testing.assert_close(slopes[0], numeric.detach(), rtol=1e-6, atol=1e-7)
    bump = torch.zeros_like(mu)
    bump[1, 2] = step
    numeric = (value(weight, mu + bump) - value(weight, mu - bump)) / (2 * step)
    torch.testing.assert_close(slopes[1][1, 2], numeric.detach(), rtol=1e-6, atol=1e-7)


def test_observers_see_x_and_every_step() -> None:
    for schedule in (OUVE(), BrownianBridge()):
        mu, record = observations(2), Trajectory()
        x = sample_centred(conditional(schedule, mu), schedule, mu, solver=dpmpp(2), steps=5, observe=[record])
        assert len(record.states) == 5
        assert torch.equal(record.states[-1], x)


def test_a_failed_run_names_its_step() -> None:
    mu = observations(2)

    def denoiser(x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        return Point(x / (t > 0.5))

    with pytest.raises(FloatingPointError, match="at step 4 of 5"):
        sample_centred(denoiser, OUVE(), mu, solver=ddim(), steps=5)


def test_solvers_that_do_not_fit_say_so() -> None:
    mu = observations(2)
    denoiser = conditional(RDDM(), mu)
    for solver in (dpm(2), deis(3), Heun):
        with pytest.raises(ValueError, match="alpha > 0"):
            sample_centred(denoiser, RDDM(), mu, solver=solver, steps=5)
    with pytest.raises(ValueError, match="no noise to remove"):
        sample_centred(denoiser, RDDM(), mu, solver=ddim(), steps=5, grid=f64(0, 0.5))
    with pytest.raises(ValueError, match="at least two steps"):
        sample_centred(denoiser, BrownianBridge(), mu, solver=ddim(), steps=1)


def test_the_first_step_of_a_bridge_is_a_draw_of_the_path() -> None:
    """Whatever the solver, also one that needs alpha > 0; its noise is the start noise of the keyed sampler."""
    schedule, mu = BrownianBridge(0.4), observations(4)
    denoiser, noise = conditional(schedule, mu), Noise(9, range(4))
    grid = f64(1.0, 0.8, 0.5, 0.0)
    for solver in (dpm(2), deis(3), Heun, unipc(2)):
        kernel = FromObservation(Centred(denoiser, mu), schedule, solver(Centred(denoiser, mu), schedule))
        _, z = kernel.step(kernel.init(mu, grid), torch.zeros_like(mu), 0, noise)
        alpha, sigma = schedule(grid[1])
        torch.testing.assert_close(z, alpha * (MEAN - mu) + sigma * noise.normal(mu), rtol=1e-12, atol=1e-12)


def test_ordinary_noise_is_a_process_around_zero() -> None:
    """With mu = 0 and a schedule to pure noise, the run is that of ``sample``, number for number."""
    from degauss.core import sample

    schedule, mu = RectifiedFlow(), torch.zeros(4, 3, dtype=DOUBLE)
    oracle = GaussianOracle(schedule, MEAN, STD)
    want = sample(oracle, schedule, (4, 3), solver=dpmpp(2), steps=7, dtype=DOUBLE)
    assert torch.equal(sample_centred(oracle, schedule, mu, solver=dpmpp(2), steps=7), want)
