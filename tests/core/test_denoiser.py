"""Predictions: every one recovers x0 from its own target, and the network sees what the papers say."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from degauss.core.denoiser import (
    X0,
    Eps,
    Flow,
    Karras,
    NetworkDenoiser,
    Prediction,
    Score,
    V,
    eps_prediction,
    expand,
    flow_prediction,
    karras_prediction,
    score_prediction,
    v_prediction,
    x0_prediction,
)
from degauss.core.oracle import GaussianOracle
from degauss.core.schedule import EDM, Cosine, LinearVP, RectifiedFlow, SubVP

PREDICTIONS: list[Prediction] = [Eps(), X0(), V(), Score(), Flow(), Karras(), Karras(2.0)]
every_prediction = pytest.mark.parametrize("prediction", PREDICTIONS, ids=repr)
scale = st.floats(1e-3, 100)


def f64(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


@every_prediction
@given(st.floats(-10, 10), st.floats(-10, 10), scale, scale)
def test_mean_inverts_target(prediction: Prediction, x0: float, eps: float, alpha: float, sigma: float) -> None:
    a, s = f64(alpha), f64(sigma)
    u, w = prediction.target(a, s)
    skip, out = prediction.mean(a, s)
    recovered = skip * (a * x0 + s * eps) + out * (u * x0 + w * eps)
    # Numbers as large as x0 + eps sigma / alpha are subtracted on the way.
    size = abs(x0) + abs(eps) * sigma / alpha + 1
    assert recovered.item() == pytest.approx(x0, abs=1e-12 * size)


@every_prediction
def test_mean_is_the_affine_map_of_the_module(prediction: Prediction) -> None:
    alpha, sigma = torch.rand(2, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.1
    u, w = prediction.target(alpha, sigma)
    determinant = u * sigma - w * alpha
    skip, out = prediction.mean(alpha, sigma)
    torch.testing.assert_close(skip, -w / determinant, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(out, sigma / determinant, rtol=1e-12, atol=1e-14)


@given(scale, scale)
def test_karras_is_table_1(sigma: float, sigma_data: float) -> None:
    prediction, s = Karras(sigma_data), f64(sigma)
    skip, out = prediction.mean(f64(1), s)
    c_in, c_noise = prediction.network_input(f64(1), s, f64(0.5))
    total = sigma**2 + sigma_data**2
    assert skip.item() == pytest.approx(sigma_data**2 / total, rel=1e-12)
    assert out.item() == pytest.approx(sigma * sigma_data / math.sqrt(total), rel=1e-12)
    assert c_in is not None
    assert c_in.item() == pytest.approx(1 / math.sqrt(total), rel=1e-12)
    assert c_noise.item() == pytest.approx(math.log(sigma) / 4, rel=1e-12, abs=1e-15)


@given(scale, scale, scale)
def test_karras_target_and_input_have_unit_variance(alpha: float, sigma: float, sigma_data: float) -> None:
    u, w = Karras(sigma_data).target(f64(alpha), f64(sigma))
    assert ((u * sigma_data) ** 2 + w**2).item() == pytest.approx(1, rel=1e-12)
    c_in, _ = Karras(sigma_data).network_input(f64(alpha), f64(sigma), f64(0.5))
    assert c_in is not None
    assert (c_in**2).item() * ((alpha * sigma_data) ** 2 + sigma**2) == pytest.approx(1, rel=1e-12)


def test_published_targets() -> None:
    alpha, sigma = f64(0.6), f64(0.8)
    assert [tuple(float(c) for c in p.target(alpha, sigma)) for p in (Eps(), X0(), V(), Score(), Flow())] == [
        (0, 1), (1, 0), (-0.8, 0.6), (0, pytest.approx(-1.25)), (-1, 1),
    ]  # fmt: skip


def test_flow_target_is_the_velocity_of_the_straight_path() -> None:
    t = f64(0.3).requires_grad_()
    x0, eps = 2.0, -0.7
    alpha, sigma = RectifiedFlow()(t)
    (velocity,) = torch.autograd.grad(alpha * x0 + sigma * eps, t)
    u, w = Flow().target(alpha, sigma)
    assert velocity.item() == pytest.approx((u * x0 + w * eps).item())


@pytest.mark.parametrize("prediction", [X0(), V(), Flow(), Karras()], ids=repr)
def test_pure_noise_has_a_mean_without_alpha(prediction: Prediction) -> None:
    u, w = prediction.target(f64(0), f64(1))
    skip, out = prediction.mean(f64(0), f64(1))
    x0, eps = 1.7, -0.4
    assert (skip * eps + out * (u * x0 + w * eps)).item() == pytest.approx(x0, rel=1e-14)


@every_prediction
def test_clean_data_has_itself_for_mean(prediction: Prediction) -> None:
    if isinstance(prediction, X0):
        pytest.skip("its network is the mean")
    skip, out = prediction.mean(f64(1), f64(0))
    assert (skip.item(), out.item()) == (1, 0)


def ideal_network(prediction: Prediction, oracle: GaussianOracle):
    """The network that minimises the regression of ``prediction``: u E[x0 | x] + w E[eps | x]."""

    def network(x: Tensor, time: Tensor) -> Tensor:
        if isinstance(prediction, Karras):  # undo what it is shown
            k = torch.exp(4 * time.double())
            t = oracle.schedule.time(-2 * k.log())
        else:
            t = time.double()
        alpha, sigma = oracle.schedule(t)
        factor, _ = prediction.network_input(alpha, sigma, t)
        state = x if factor is None else x / expand(factor, x)
        mean = oracle(state, t).mean
        eps = (state - expand(alpha, x) * mean) / expand(sigma, x)
        u, w = prediction.target(alpha, sigma)
        return expand(u, x) * mean + expand(w, x) * eps

    return network


@every_prediction
@pytest.mark.parametrize("schedule", [LinearVP(), Cosine(), RectifiedFlow(), SubVP(), EDM(5.0)], ids=repr)
@pytest.mark.parametrize("time", [torch.tensor(0.37), torch.tensor([0.02, 0.5, 0.93])], ids=["one", "per sample"])
def test_predictions_agree(prediction: Prediction, schedule, time: Tensor) -> None:
    time = time.double()
    x = torch.randn(3, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    oracle = GaussianOracle(schedule, mean=0.4, std=0.7)
    denoiser = NetworkDenoiser(ideal_network(prediction, oracle), schedule, prediction)
    torch.testing.assert_close(denoiser(x, time).mean, oracle(x, time).mean, rtol=1e-9, atol=1e-10)


def test_helpers_name_their_predictions() -> None:
    def network(x: Tensor, t: Tensor) -> Tensor:
        return x * t

    for helper, prediction in (
        (eps_prediction, Eps()), (x0_prediction, X0()), (v_prediction, V()), (score_prediction, Score()),
        (flow_prediction, Flow()), (karras_prediction, Karras(0.5)),
    ):  # fmt: skip
        assert helper(network, Cosine()) == NetworkDenoiser(network, Cosine(), prediction)
    assert karras_prediction(network, EDM(), 0.3).prediction == Karras(0.3)


@every_prediction
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_network_sees_state_time_and_conditions(prediction: Prediction, dtype: torch.dtype) -> None:
    seen = []

    def network(x: Tensor, t: Tensor, **cond: object) -> Tensor:
        seen.append((x, t, cond))
        return torch.zeros_like(x)

    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    for t in (f64(0.25), torch.tensor([0.25, 0.75], dtype=torch.float64)):
        mean = NetworkDenoiser(network, Cosine(), prediction)(x, t, label=7).mean
        assert mean.dtype == dtype
        assert mean.shape == x.shape
        shown, time, cond = seen.pop()
        assert cond == {"label": 7}
        assert (shown.dtype, shown.shape) == (dtype, x.shape)
        assert (time.dtype, time.shape) == (dtype, t.shape)
        if not isinstance(prediction, Karras):
            assert shown is x
            torch.testing.assert_close(time, t.to(dtype))
        else:
            alpha, sigma = Cosine()(t)
            torch.testing.assert_close(time, (torch.log(sigma / alpha) / 4).to(dtype))
            norm = torch.sqrt(sigma**2 + alpha**2 * prediction.sigma_data**2).reshape(-1, 1)
            torch.testing.assert_close(
                shown.double(), x.double() / norm, rtol=1e-2 if dtype.itemsize == 2 else 1e-6, atol=0
            )


def test_expand() -> None:
    x = torch.zeros(3, 2, 5)
    assert expand(f64(2), x).shape == ()
    assert expand(torch.arange(3.0), x).shape == (3, 1, 1)
    assert expand(f64(2), x).dtype == x.dtype


def test_gradients_reach_network_and_state() -> None:
    weight = torch.tensor(0.5, requires_grad=True)
    x = torch.ones(2, 3, requires_grad=True)
    v_prediction(lambda x, t: weight * x, Cosine())(x, torch.tensor(0.5)).mean.sum().backward()
    assert weight.grad is not None
    assert x.grad is not None
