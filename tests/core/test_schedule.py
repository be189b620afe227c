"""Schedules: inverses, ends, published values, and diffusers' tables as an oracle."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from degauss.core.schedule import (
    EDM,
    VE,
    Cosine,
    DiscreteVP,
    LinearVP,
    RectifiedFlow,
    Schedule,
    Shifted,
    SubVP,
    ZeroTerminalSNR,
    cosine_betas,
    linear_betas,
    quadratic_betas,
)

DDPM = DiscreteVP.from_betas(linear_betas(1000))
SCHEDULES: dict[str, Schedule] = {
    "linear": LinearVP(),
    "linear, constant rate": LinearVP(5.0, 5.0),
    "sub-VP": SubVP(),
    "discrete": DDPM,
    "discrete, 3 steps": DiscreteVP((0.9, 0.5, 0.1)),
    "cosine": Cosine(),
    "cosine, s=0": Cosine(0.0),
    "VE": VE(),
    "EDM": EDM(),
    "flow": RectifiedFlow(),
    "shifted flow": Shifted(RectifiedFlow(), 3.0),
    "flow shifted down": Shifted(RectifiedFlow(), 0.1),
    "shifted cosine": Shifted(Cosine(), 0.3),
    "zero-terminal linear": ZeroTerminalSNR(LinearVP()),
    "zero-terminal discrete": ZeroTerminalSNR(DDPM, t_first=1e-3),
    "shifted zero-terminal": Shifted(ZeroTerminalSNR(LinearVP()), 2.0),
}
VARIANCE_PRESERVING = [name for name in SCHEDULES if not any(word in name for word in ("flow", "VE", "EDM", "sub-VP"))]
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


def f64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def first_time(schedule: Schedule) -> float:
    """Where a schedule starts to be invertible."""
    return 1e-3 if schedule == SCHEDULES["zero-terminal discrete"] else 0.0


@every_schedule
@given(st.floats(0, 1))
def test_time_inverts_log_snr(schedule: Schedule, t: float) -> None:
    time = f64(max(t, first_time(schedule)))
    # Near 1 the log-SNR of a path to pure noise hangs on 1 - t, near 0 that of VE hardly on t: absolute.
    torch.testing.assert_close(schedule.time(schedule.log_snr(time)), time, rtol=1e-12, atol=1e-15)


@every_schedule
@pytest.mark.parametrize("t", [1e-12, 1e-8, 1e-4])
def test_small_times_keep_their_digits(schedule: Schedule, t: float) -> None:
    if first_time(schedule) or isinstance(schedule, VE):
        pytest.skip("no information in times this small")
    torch.testing.assert_close(schedule.time(schedule.log_snr(f64(t))), f64(t), rtol=1e-12, atol=0)


@every_schedule
@given(st.floats(0, 1))
def test_log_snr_inverts_time(schedule: Schedule, fraction: float) -> None:
    # Levels that every schedule reaches well inside (0, 1); 1 - t loses digits as fast as alpha falls.
    low, high = schedule.log_snr(f64(0.999, max(first_time(schedule), 1e-6))).tolist()
    level = f64(low + fraction * (high - low))
    torch.testing.assert_close(schedule.log_snr(schedule.time(level)), level, rtol=1e-11, atol=1e-11)


@every_schedule
def test_log_snr_is_the_ratio_of_the_scales_and_falls(schedule: Schedule) -> None:
    t = torch.linspace(max(first_time(schedule), 1e-4), 1, 2001, dtype=torch.float64)
    alpha, sigma = schedule(t)
    log_snr = schedule.log_snr(t)
    torch.testing.assert_close(log_snr, 2 * torch.log(alpha / sigma), rtol=1e-9, atol=1e-9)
    assert bool((log_snr.diff() < 0).all())
    assert bool((sigma.diff() > 0).all())
    assert bool((alpha.diff() <= 0).all())


@pytest.mark.parametrize("name", VARIANCE_PRESERVING)
def test_variance_is_preserved(name: str) -> None:
    alpha, sigma = SCHEDULES[name](torch.linspace(0, 1, 1001, dtype=torch.float64))
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(alpha), rtol=1e-14, atol=0)


@every_schedule
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_results_are_float64_in_the_shape_of_t(schedule: Schedule, dtype: torch.dtype) -> None:
    one = torch.tensor(0.5, dtype=torch.float64)
    for shape in ((), (3,), (2, 1)):
        t = torch.full(shape, 0.5, dtype=dtype)
        for result, expected in zip(
            (*schedule(t), schedule.log_snr(t), schedule.time(schedule.log_snr(t))),
            (*schedule(one), schedule.log_snr(one), one),
            strict=True,
        ):
            assert result.dtype == torch.float64
            assert result.shape == t.shape
            torch.testing.assert_close(result, expected.expand(t.shape), rtol=1e-12, atol=0)


@pytest.mark.gpu
@every_schedule
def test_results_stay_on_the_device(schedule: Schedule) -> None:
    t = f64(0.25, 0.75)
    on_device = t.cuda()
    for result, expected in zip(
        (*schedule(on_device), schedule.log_snr(on_device), schedule.time(schedule.log_snr(on_device))),
        (*schedule(t), schedule.log_snr(t), t),
        strict=True,
    ):
        assert result.device == on_device.device
        torch.testing.assert_close(result.cpu(), expected, rtol=1e-12, atol=1e-14)


@every_schedule
def test_ends_are_no_nan_and_go_round(schedule: Schedule) -> None:
    ends = f64(0, 1)
    alpha, sigma = schedule(ends)
    log_snr = schedule.log_snr(ends)
    assert not bool(torch.cat([alpha, sigma, log_snr]).isnan().any())
    back = schedule.time(log_snr)
    tolerance = first_time(schedule) + 1e-15  # a table rescaled from its first step on is flat before it
    torch.testing.assert_close(back, ends, rtol=0, atol=tolerance)
    # The time that comes back must be usable, an overshoot by one rounding included.
    assert not bool(torch.cat(list(schedule(back))).isnan().any())


@pytest.mark.parametrize(
    "name", ["cosine", "cosine, s=0", "flow", "flow shifted down", "shifted cosine", "shifted flow",
             "zero-terminal linear", "zero-terminal discrete", "shifted zero-terminal"],
)  # fmt: skip
def test_paths_to_pure_noise_end_at_alpha_zero(name: str) -> None:
    schedule = SCHEDULES[name]
    alpha, sigma = schedule(f64(1))
    assert alpha.item() == 0
    assert sigma.item() == pytest.approx(1, rel=1e-15)
    assert schedule.log_snr(f64(1)).item() == -math.inf
    assert schedule.time(f64(-math.inf)).item() == pytest.approx(1, rel=1e-15)


@pytest.mark.parametrize("name", [name for name in SCHEDULES if name != "VE"])
def test_paths_start_at_clean_data(name: str) -> None:
    schedule = SCHEDULES[name]
    alpha, sigma = schedule(f64(0))
    assert (alpha.item(), sigma.item()) == (1, 0)
    assert schedule.log_snr(f64(0)).item() == math.inf


def test_linear_rate_is_songs_formula() -> None:
    t, (low, high) = f64(0.0, 0.3, 1.0), (0.1, 20.0)
    expected = torch.exp(-0.25 * t**2 * (high - low) - 0.5 * t * low)
    torch.testing.assert_close(LinearVP(low, high)(t).alpha, expected, rtol=1e-14, atol=0)
    # Song et al. 2021, eq. 29: the standard deviation of sub-VP is the variance of VP.
    sub = SubVP(low, high)(t)
    torch.testing.assert_close(sub.alpha, expected, rtol=1e-14, atol=0)
    torch.testing.assert_close(sub.sigma, LinearVP(low, high)(t).sigma ** 2, rtol=1e-13, atol=0)


def test_linear_rate_solves_its_ode() -> None:
    from scipy.integrate import quad

    rate, _ = quad(lambda t: 0.1 + t * 19.9, 0, 0.7)
    assert LinearVP()(f64(0.7)).alpha.item() == pytest.approx(math.exp(-0.5 * rate), rel=1e-12)


def test_cosine_is_nichol_and_dhariwals_alpha_bar() -> None:
    t, s = torch.linspace(0, 0.99, 34, dtype=torch.float64), 0.008

    def f(t: Tensor) -> Tensor:
        return torch.cos((t + s) / (1 + s) * math.pi / 2) ** 2

    torch.testing.assert_close(Cosine(s)(t).alpha ** 2, f(t) / f(f64(0)), rtol=1e-12, atol=0)
    plain = Cosine(0.0)(t)
    torch.testing.assert_close(plain.sigma, torch.sin(0.5 * math.pi * t), rtol=1e-13, atol=0)


def test_ve_and_edm_values() -> None:
    assert VE(0.01, 50.0)(f64(0, 0.5, 1)).sigma.tolist() == pytest.approx([0.01, math.sqrt(0.5), 50.0])
    assert EDM(80.0)(f64(0, 0.5, 1)).sigma.tolist() == [0, 40, 80]


@given(st.floats(0.01, 100), st.floats(0.001, 0.999))
def test_shift_is_sd3s_formula_and_moves_the_log_snr(shift: float, t: float) -> None:
    shifted, time = Shifted(RectifiedFlow(), shift), f64(t)
    torch.testing.assert_close(shifted(time).sigma, shift * time / (1 + (shift - 1) * time), rtol=1e-12, atol=0)
    moved = RectifiedFlow().log_snr(time) - 2 * math.log(shift)
    torch.testing.assert_close(shifted.log_snr(time), moved, rtol=1e-9, atol=1e-9)


@given(st.floats(1e-3, 1e3))
def test_a_shift_keeps_the_ends(shift: float) -> None:
    # Also below 1, where 1 + (shift - 1) t would round to more than shift at t = 1 and alpha turn negative.
    shifted = Shifted(RectifiedFlow(), shift)
    assert shifted(f64(0, 1)).sigma.tolist() == [0, 1]
    assert shifted.log_snr(f64(0, 1)).tolist() == [math.inf, -math.inf]
    assert shifted.time(f64(math.inf, -math.inf)).tolist() == [0, 1]


def test_schedules_meet_in_log_snr() -> None:
    t = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    there = RectifiedFlow().time(Cosine().log_snr(t))
    alpha, sigma = Cosine()(t)
    torch.testing.assert_close(there, sigma / (alpha + sigma), rtol=1e-12, atol=0)


# diffusers as the oracle


@pytest.fixture(scope="module")
def ddim():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("diffusers.schedulers.scheduling_ddim")


def test_tables_are_diffusers_tables(ddim) -> None:
    for kind, betas in (
        ("linear", linear_betas(1000)),
        ("scaled_linear", quadratic_betas(1000, 1e-4, 0.02)),
        ("squaredcos_cap_v2", cosine_betas(1000)),
    ):
        theirs = ddim.DDIMScheduler(1000, beta_start=1e-4, beta_end=0.02, beta_schedule=kind)
        torch.testing.assert_close(betas, theirs.betas.double(), rtol=1e-5, atol=1e-8)
        schedule = DiscreteVP.from_betas(betas)
        assert schedule.steps == 1000
        t = torch.arange(1, 1001, dtype=torch.float64) / 1000
        # Their products run in float32.
        torch.testing.assert_close(schedule(t).alpha ** 2, theirs.alphas_cumprod.double(), rtol=3e-3, atol=0)


def test_cosine_betas_are_diffusers(ddim) -> None:
    expected = ddim.betas_for_alpha_bar(50).double()  # the formula in float64, rounded to float32 at the end
    torch.testing.assert_close(cosine_betas(50), expected, rtol=1e-6, atol=0)
    assert cosine_betas(50).max() == 0.999


def test_zero_terminal_rescaling_is_diffusers(ddim) -> None:
    betas = linear_betas(1000)
    expected = torch.cumprod(1 - ddim.rescale_zero_terminal_snr(betas), 0)
    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    alpha, sigma = ZeroTerminalSNR(DiscreteVP.from_betas(betas), t_first=1e-3)(t)
    torch.testing.assert_close(alpha**2, expected, rtol=1e-9, atol=1e-16)
    torch.testing.assert_close(sigma**2, 1 - expected, rtol=1e-9, atol=0)


def test_zero_terminal_inside_a_continuous_path() -> None:
    inner = LinearVP()
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    alpha, last = inner(t).alpha, inner(f64(1)).alpha
    torch.testing.assert_close(ZeroTerminalSNR(inner)(t).alpha, (alpha - last) / (1 - last), rtol=1e-12, atol=1e-18)


def test_discrete_is_linear_in_log_alpha_between_its_points() -> None:
    schedule = DiscreteVP((0.81, 0.25))
    alpha = schedule(f64(0, 0.25, 0.5, 0.75, 1)).alpha
    expected = [1, math.sqrt(0.9), 0.9, math.sqrt(0.9 * 0.5), 0.5]
    assert alpha.tolist() == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("alpha_bar", [(), (0.5, 0.5), (0.5, 0.6), (1.0, 0.5), (0.5, 0.0), (0.5, math.nan)])
def test_discrete_refuses_what_does_not_decrease(alpha_bar: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="decrease"):
        DiscreteVP(alpha_bar)


def test_from_betas_takes_lists_and_tensors() -> None:
    betas = [0.1, 0.2, 0.4]
    expected = [0.9, 0.72, 0.432]
    for form in (betas, torch.tensor(betas), torch.tensor(betas, dtype=torch.float64)):
        assert list(DiscreteVP.from_betas(form).alpha_bar) == pytest.approx(expected, rel=1e-6)
    with pytest.raises(ValueError, match="decrease"):
        DiscreteVP.from_betas([0.1, 1.0])


def test_equal_schedules_are_equal_keys() -> None:
    assert len({LinearVP(), LinearVP(0.1, 20.0), SubVP(), Cosine(), Cosine(0.0)}) == 4
    assert DiscreteVP((0.9, 0.5)) == DiscreteVP((0.9, 0.5))


def test_gradients_flow_through_t() -> None:
    for schedule in SCHEDULES.values():
        t = f64(0.40051).requires_grad_()  # no point of a table
        schedule.log_snr(t).sum().backward()
        assert t.grad is not None
        step = 1e-6
        numeric = (schedule.log_snr(f64(0.40051 + step)) - schedule.log_snr(f64(0.40051 - step))) / (2 * step)
        torch.testing.assert_close(t.grad, numeric, rtol=1e-5, atol=0)
