"""Irregular series, the encoders that read them, and what they are read for: values at any instant."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from degauss.core.errors import InputError
from degauss.core.noise import Noise
from degauss.timeseries.gru_d import GRUD
from degauss.timeseries.irregular import Irregular, check_span, drop, grid_of, irregular, placed, resampled, scale_of
from degauss.timeseries.neural_sde import MODELS, EncoderConfig, SDEEncoder, encoder
from degauss.timeseries.querying import NeuralSDERegressor

GRID = tuple(np.linspace(0, 1, 9).tolist())
RANDOM = ("lsde", "lnsde", "gsde", "naive", "naive+control")


def walks(n: int = 6, channels: int = 2, length: int = 9, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, channels, length)).cumsum(-1)


def states(config: EncoderConfig, series: Irregular, seed: int = 0, samples: range | None = None) -> torch.Tensor:
    torch.manual_seed(0)
    network = encoder(config)
    with torch.no_grad():
        return network(network.inputs(series), Noise(seed, samples or range(len(series.values))), keep="all")


# --- irregular series ---------------------------------------------------------------------------------------


def test_an_array_and_the_list_of_its_series_are_the_same() -> None:
    x = walks()
    for a, b in zip(irregular(x), irregular(list(x)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_shorter_series_are_stretched_as_the_published_protocol_has_it() -> None:
    series = irregular([np.array([[0.0, 1.0, 2.0]]), np.array([[0.0, 1.0, 2.0, 3.0, 4.0]])])
    assert grid_of(series).tolist() == [0, 0.25, 0.5, 0.75, 1]
    np.testing.assert_allclose(resampled(series, grid_of(series))[:, :, 0], [[0, 0.5, 1, 1.5, 2], [0, 1, 2, 3, 4]])


def test_a_line_is_resampled_exactly_from_any_times() -> None:
    rng = np.random.default_rng(0)
    times = [np.sort(rng.uniform(0, 1, k)) for k in (5, 8)]
    times[0][[0, -1]], times[1][[0, -1]] = (0, 1), (0, 1)
    series = irregular([(3 * t - 1)[None] for t in times], times)
    grid = np.linspace(0, 1, 7)
    np.testing.assert_allclose(resampled(series, grid)[..., 0], np.tile(3 * grid - 1, (2, 1)), atol=1e-12)


def test_placed_values_lie_at_the_nearest_time_and_share_it_as_their_mean() -> None:
    series = irregular([np.array([[1.0, 2.0, 4.0, np.nan]])], [np.array([0.0, 0.9, 1.1, 2.0])])
    np.testing.assert_array_equal(placed(series, np.array([0.0, 1.0, 2.0]))[0, :, 0], [1, 3, np.nan])


@given(st.integers(1, 30), st.floats(0, 0.99))
@settings(max_examples=30)
def test_drop_takes_the_published_number_from_every_channel(length: int, share: float) -> None:
    x = np.ones((2, 3, length))
    missing = np.isnan(drop(irregular(x), share, 1).values).sum(1)
    assert (missing == int(length * share)).all()


def test_the_scale_knows_gaps_and_constants() -> None:
    x = walks(50)
    x[:, 1] = 7.1
    x[np.random.default_rng(1).random(x.shape) < 0.3] = np.nan
    scale = scale_of(irregular(x))
    np.testing.assert_allclose(scale.centre, np.nanmean(x, axis=(0, 2)))
    np.testing.assert_allclose(scale.width, np.array([np.nanstd(x[:, 0]), 1.0]))


@pytest.mark.parametrize(
    ("series", "times", "complaint"),
    [
        ([], "steps", "there are no series"),
        ([[1.0, 2.0]], "steps", r"series 0 has shape \(2,\); expected \[channels, length\]"),
        ([[["a", "b"]]], "steps", "series 0 holds something else than numbers"),
        ([np.ones((2, 3)), np.ones((1, 3))], "steps", "series 1 has 1 channels; expected 2"),
        ([np.full((1, 3), np.nan)], "steps", "series 0 has no values: all 3 are missing"),
        ([np.array([[1.0, np.inf]])], "steps", "series 0 holds an infinite value"),
        ([np.ones((1, 3))], [0.0, 1.0], r"series 0 has 3 values but times of shape \(2,\)"),
        ([np.ones((1, 3))], [0.0, 2.0, 1.0], "times of series 0 must be finite and increasing"),
        ([np.ones((1, 3))], [[0.0, 1.0, 2.0]] * 2, "times of 2 series; expected those of 1"),
        ([np.ones((1, 3))], "hours", "times must be 'stretched', 'steps' or numbers, but is 'hours'"),
    ],
)
def test_bad_series_are_refused_in_one_sentence(series: list, times: object, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        irregular(series, times)  # pyright: ignore[reportArgumentType]


def test_times_beyond_the_training_are_refused() -> None:
    with pytest.raises(InputError, match="times from 0 to 3; this model was trained on 0 to 2"):
        check_span(irregular(np.ones((1, 1, 4)), "steps"), np.arange(3.0))


# --- encoders -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_every_model_has_a_state_at_every_time_and_gradients_everywhere(model: str) -> None:
    series = irregular(walks())
    torch.manual_seed(0)
    network = encoder(EncoderConfig(2, GRID, model, hidden=5))  # pyright: ignore[reportArgumentType]
    out = network(network.inputs(series), Noise(0, range(6)), keep="all")
    assert out.shape == (9, 6, 5)
    torch.testing.assert_close(network(network.inputs(series), Noise(0, range(6)), keep="last"), out[-1])
    out.square().sum().backward()
    for name, weight in network.named_parameters():
        assert weight.grad is not None, name
        assert bool(weight.grad.isfinite().all()), name


@pytest.mark.parametrize("model", MODELS)
def test_a_state_does_not_depend_on_its_batch(model: str) -> None:
    series = irregular(walks())
    config = EncoderConfig(2, GRID, model, hidden=5)  # pyright: ignore[reportArgumentType]
    whole = states(config, series)
    part = states(config, series.take([2, 3]), samples=range(2, 4))
    torch.testing.assert_close(part, whole[:, 2:4], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("model", MODELS)
def test_what_comes_later_does_not_change_an_earlier_state(model: str) -> None:
    """Without gaps, where every interval's line depends on its ends alone, an Euler step sees its start alone."""
    x = walks()
    later = x.copy()
    later[:, :, 6:] += 10
    config = EncoderConfig(2, GRID, model, hidden=5)  # pyright: ignore[reportArgumentType]
    a, b = states(config, irregular(x)), states(config, irregular(later))
    torch.testing.assert_close(a[:6], b[:6])
    reads_later = model != "naive"
    assert bool(torch.allclose(a[-1], b[-1])) is not reads_later


def test_time_is_a_channel_of_the_path_in_the_units_of_the_span() -> None:
    config = EncoderConfig(2, tuple(np.array([3.0, 4.0, 7.0])), span=8.0)
    network = SDEEncoder(config)
    (coefficients,) = network.inputs(irregular(walks(length=3), config.grid))
    value, slope = coefficients[:, 0, :, -1], coefficients[:, 1, :, -1]
    torch.testing.assert_close(value, torch.tensor([[0.0, 2.0]]).expand(6, -1))
    torch.testing.assert_close(slope, torch.ones(6, 2))


@pytest.mark.parametrize("model", ["lsde", "cde", "gru-d"])
def test_the_same_values_at_other_times_are_another_series(model: str) -> None:
    x, grid = walks(), np.linspace(0, 1, 33)
    config = EncoderConfig(2, tuple(grid.tolist()), model, hidden=5)  # pyright: ignore[reportArgumentType]
    even, late = (states(config, irregular(x, np.linspace(0, 1, 9) ** power)) for power in (1, 2))
    assert float((even[-1] - late[-1]).abs().max()) > 1e-3


def test_the_naive_model_knows_the_first_values_alone() -> None:
    x = walks()
    other = x.copy()
    other[:, :, 1:] = -3
    config = EncoderConfig(2, GRID, "naive", hidden=5)
    torch.testing.assert_close(states(config, irregular(x)), states(config, irregular(other)))


@pytest.mark.parametrize("model", ["lsde", "lnsde", "gsde", "naive+control"])
def test_hermite_is_linear_to_eulers_method_and_natural_is_not(model: str) -> None:
    x = walks()
    x[np.random.default_rng(2).random(x.shape) < 0.4] = np.nan
    series = irregular(x)
    linear, hermite, natural = (
        states(EncoderConfig(2, GRID, model, hidden=5, control=control), series)  # pyright: ignore[reportArgumentType]
        for control in ("linear", "hermite", "natural")
    )
    torch.testing.assert_close(linear, hermite, atol=1e-5, rtol=1e-5)
    assert float((linear - natural).abs().max()) > 1e-3


@pytest.mark.parametrize("model", RANDOM)
def test_noise_is_keyed_and_there(model: str) -> None:
    series = irregular(walks())
    config = EncoderConfig(2, GRID, model, hidden=5)  # pyright: ignore[reportArgumentType]
    a = states(config, series, seed=1)
    torch.testing.assert_close(a, states(config, series, seed=1), atol=0, rtol=0)
    assert not torch.allclose(a[-1], states(config, series, seed=2)[-1])


def test_the_published_stabilisers_bound_a_step_and_none_does_not() -> None:
    """tanh of the drift and of the diffusion: |dz| <= h + sqrt(h) |w|, however large the state is."""
    series = irregular(1e4 * walks())
    for model in ("lsde", "lnsde", "gsde"):
        bounded = EncoderConfig(2, GRID, model, hidden=5)  # pyright: ignore[reportArgumentType]
        free = EncoderConfig(2, GRID, model, hidden=5, stabilisers="none")  # pyright: ignore[reportArgumentType]
        step = 1 / 8
        largest = step + step**0.5 * 5
        assert float(states(bounded, series).diff(dim=0).abs().max()) < largest
        assert not float(states(free, series).diff(dim=0).abs().max()) < largest  # it may be NaN too


def test_the_geometric_state_keeps_its_sign_only_without_the_clips() -> None:
    series = irregular(np.zeros((200, 1, 9)) + 1e-3)
    network = SDEEncoder(EncoderConfig(1, GRID, "gsde", hidden=4, stabilisers="none"))
    with torch.no_grad():
        z = network(network.inputs(series), Noise(0, range(200)), keep="all")
    small = z.abs().amax(0) < 5  # Euler's method may flip a sign only by a very large step
    assert bool(((z[-1].sign() == z[0].sign()) | ~small).all())


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"model": "lsed"}, "model must be one of .*, but is 'lsed' .did you mean 'lsde'"),
        ({"control": "cubic"}, "control must be one of"),
        ({"hidden": 0}, "hidden must be at least 1"),
        ({"span": 0.0}, "span must be above 0"),
        ({"times": (0.0, 0.0)}, "times must be two or more increasing numbers"),
    ],
)
def test_a_bad_configuration_is_refused(changes: dict[str, Any], complaint: str) -> None:
    good: dict[str, Any] = {"channels": 2, "times": GRID}
    with pytest.raises(InputError, match=complaint):
        EncoderConfig(**(good | changes))


# --- GRU-D --------------------------------------------------------------------------------------------------


def test_gru_d_sees_what_the_paper_says() -> None:
    values = torch.tensor([[[1.0], [torch.nan], [torch.nan], [4.0], [torch.nan]]])
    times = torch.tensor([0.0, 0.1, 0.4, 0.5, 1.0], dtype=torch.float64)
    filled, seen, latest, since = GRUD.inputs(values, times)
    assert filled[0, :, 0].tolist() == [1, 0, 0, 4, 0]
    assert seen[0, :, 0].tolist() == [1, 0, 0, 1, 0]
    assert latest[0, :, 0].tolist() == [0, 1, 1, 1, 4]
    torch.testing.assert_close(since[0, :, 0], torch.tensor([0.0, 0.1, 0.4, 0.5, 0.5]))


def test_gru_d_agrees_with_its_equations_one_time_at_a_time() -> None:
    torch.manual_seed(0)
    network = GRUD(2, 3)
    with torch.no_grad():
        network.decay_value.copy_(torch.tensor([[2.0, 0.5], [0.1, -0.3]]))
    values = torch.randn(4, 7, 2)
    values[torch.rand(4, 7, 2) < 0.5] = torch.nan
    times = torch.linspace(0, 1, 7, dtype=torch.float64)
    inputs = GRUD.inputs(values, times)
    out = network(*inputs)
    h = torch.zeros(4, 3)
    w, u, n = network.gates, network.turn.weight, network.fresh.weight
    for t in range(7):
        x, m, last, d = (part[:, t] for part in inputs)
        decay = torch.exp(-torch.clamp(network.decay_value[0] * d + network.decay_value[1], min=0))
        x = m * x + (1 - m) * (decay * last + (1 - decay) * 0)
        h = torch.exp(-torch.clamp(network.decay_state(d), min=0)) * h
        z_in, r_in, n_in = w(torch.cat([x, m], -1)).split(3, -1)
        z, r = torch.sigmoid(z_in + h @ u[:3].T), torch.sigmoid(r_in + h @ u[3:].T)
        h = (1 - z) * h + z * torch.tanh(n_in + (r * h) @ n.T)
        torch.testing.assert_close(out[t], h)


def test_without_gaps_gru_d_is_a_gru_whose_decay_is_constant() -> None:
    """With no decay of the state it is exactly the GRU that has n = tanh(W x + U (r h))."""
    torch.manual_seed(0)
    network = GRUD(2, 3)
    with torch.no_grad():
        network.decay_state.weight.zero_()
        network.decay_state.bias.fill_(-1.0)
    x = torch.randn(4, 6, 2)
    early = network(*GRUD.inputs(x, torch.linspace(0, 1, 6, dtype=torch.float64)))
    slow = network(*GRUD.inputs(x, torch.linspace(0, 9, 6, dtype=torch.float64)))
    torch.testing.assert_close(early, slow)


# --- values at any instant ----------------------------------------------------------------------------------


def waves(n: int, length: int = 16, seed: int = 0) -> np.ndarray:
    phase = np.random.default_rng(seed).uniform(0, 2 * np.pi, (n, 1, 1))
    return np.sin(2 * np.pi * np.arange(length) / 8 + phase + np.array([[0.0], [1.5]]))


def quick(**options: object) -> NeuralSDERegressor:
    base = {"hidden": 8, "layers": 1, "epochs": 1, "batch": 16, "device": "cpu", "span": 16.0, "lr": 1e-12}
    return NeuralSDERegressor(**(base | options))  # pyright: ignore[reportArgumentType]


def test_an_untrained_model_interpolates_and_repeats_the_last_value() -> None:
    x = waves(12)
    gappy = x.copy()
    gappy[:, :, [3, 4, 9]] = np.nan
    filler = quick().fit(x)
    at = [0.5, 3.25, 9.0, 15.0]
    steps = np.flatnonzero(~np.isnan(gappy[0, 0]))
    wanted = np.array([[np.interp(at, steps, channel[steps]) for channel in one] for one in gappy])
    np.testing.assert_allclose(filler.predict(gappy, at=at), wanted, atol=1e-5)
    forecaster = quick().fit(x[:, :, :12], x[:, :, 12:], at=range(12, 16))
    np.testing.assert_allclose(forecaster.predict(x[:, :, :12]), np.repeat(x[:, :, 11:12], 4, 2), atol=1e-5)


def test_what_is_asked_beside_does_not_change_an_answer() -> None:
    x = waves(12)
    model = quick(lr=1e-2, epochs=3).fit(x)
    alone, among = model.predict(x[:3], at=[2.3]), model.predict(x, at=[0.1, 2.3, 2.4, 7.0])
    np.testing.assert_allclose(alone[:, :, 0], among[:3, :, 1], atol=1e-5)


def test_a_gap_is_filled_and_what_is_there_stays() -> None:
    x = waves(12)
    x[:, 0, 5] = np.nan
    filled = quick().fit(x).fill(x)
    assert np.isfinite(filled).all()
    np.testing.assert_array_equal(filled[~np.isnan(x)], x[~np.isnan(x)])
    ragged = [x[0], x[1][:, :9]]
    model = quick().fit(x)
    assert [one.shape for one in model.fill(ragged)] == [(2, 16), (2, 9)]


def test_times_of_their_own_are_read_where_they_are() -> None:
    rng = np.random.default_rng(0)
    times = [np.concatenate([[0.0], np.sort(rng.uniform(0.1, 9.9, 14)), [10.0]]) for _ in range(12)]
    x = [np.stack([2 * t - 1, -t]) for t in times]
    model = quick().fit(x, times=times)
    at = np.linspace(0, 10, 7)
    np.testing.assert_allclose(model.predict(x, times, at), np.tile(np.stack([2 * at - 1, -at]), (12, 1, 1)), atol=1e-4)


def test_a_saved_regressor_predicts_the_same(tmp_path: Path) -> None:
    x = waves(12)
    model = quick(lr=1e-2, epochs=3).fit(x[:, :, :12], x[:, :, 12:], at=range(12, 16))
    model.save(tmp_path / "model")
    loaded = NeuralSDERegressor.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.predict(x[:, :, :12]), model.predict(x[:, :, :12]))
    assert loaded.get_params()["hidden"] == 8
    assert (loaded.n_epochs_, loaded.validation_losses_) == (model.n_epochs_, model.validation_losses_)


def test_training_forecasts_waves_far_better_than_the_last_value() -> None:
    x, new = waves(160), waves(40, seed=1)
    model = quick(model="lnsde", hidden=16, lr=2e-2, epochs=25, batch=32, patience=25)
    model.fit(x[:, :, :12], x[:, :, 12:], at=range(12, 16))
    error = np.mean((model.predict(new[:, :, :12]) - new[:, :, 12:]) ** 2)
    naive = np.mean((new[:, :, 11:12] - new[:, :, 12:]) ** 2)
    assert error < 0.3 * naive
    assert model.score(new[:, :, :12], new[:, :, 12:]) > 0.5
    assert model.n_epochs_ > 5
    assert min(model.validation_losses_) < 0.5 * model.validation_losses_[0]


def test_training_never_ends_worse_than_it_began() -> None:
    noise = np.random.default_rng(0).normal(size=(40, 1, 12))
    model = quick(lr=0.3, epochs=4).fit(noise[:, :, :8], noise[:, :, 8:], at=range(8, 12))
    assert model.validation_losses_[model.n_epochs_] == min(model.validation_losses_)
    assert model.validation_losses_[model.n_epochs_] <= model.validation_losses_[0]


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda m, x: quick().fit(x, x), "y and at belong together"),
        (lambda m, x: quick().fit(x, x, at=[1.0]), r"y has shape .*; expected \(12, 2, 1\)"),
        (lambda m, x: quick(validation_share=0.0).fit(x), "validation_share must be above 0"),
        (lambda m, x: m.predict(x[:, :1]), "the series have 1 channels; this model was trained on 2"),
        (lambda m, x: m.predict(x, at=[99.0]), "times from 99 to 99; this model was trained on 0 to 15"),
        (lambda m, x: m.predict(x, at="soon"), "at must be times"),
        (lambda m, x: m.set_params(hiden=3), "no parameter 'hiden' .did you mean 'hidden'"),
        (lambda m, x: quick(model="gru-d", scaling="none").fit(x), "scaling is 'none', but model 'gru-d'"),
    ],
)
def test_bad_requests_are_refused_in_one_sentence(call: object, complaint: str) -> None:
    x = waves(12)
    with pytest.raises(InputError, match=complaint):
        call(quick().fit(x), x)  # pyright: ignore[reportCallIssue]


def test_an_unfitted_regressor_says_so() -> None:
    with pytest.raises(RuntimeError, match="not fitted"):
        quick().predict(waves(2))


def test_the_grid_is_increasing_for_any_forecast_times() -> None:
    model = quick().fit(waves(12)[:, :, :12], waves(12)[:, :, [13, 12]], at=[13.5, 12.0])
    assert model._fitted is not None
    assert all(a < b for a, b in pairwise(model._fitted.config.times))
