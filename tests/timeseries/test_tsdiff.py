"""The model: its units, its channels, and samples that depend on nothing but their own window and the seed."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from degauss.core.errors import InputError
from degauss.core.gaussian import ddim, dpmpp
from degauss.core.noise import Noise
from degauss.timeseries.config import TSDiffConfig
from degauss.timeseries.tsdiff import Sampling, TSDiff, draw, scale_of, windows_of

NAN = np.nan
# Batches of other sizes round otherwise, in float32; guidance amplifies that somewhat.
ROUNDING: dict[str, Any] = {"rtol": 0, "atol": 1e-3}
QUICK = Sampling(samples=6, steps=4)


def window(phase: float = 0.0, *, known: int = 24) -> np.ndarray:
    """A sine of period 8, of which the first values are known."""
    values = np.sin(2 * np.pi * np.arange(32) / 8 + phase)
    return np.where(np.arange(32) < known, values, NAN)


def truth(phase: float = 0.0) -> np.ndarray:
    return window(phase, known=32)


# --- what goes in ---


def test_gaps_hold_the_value_before_them_and_are_marked():
    windows = windows_of(np.array([[NAN, 1.0, NAN, 3.0, NAN], [NAN] * 5]))
    np.testing.assert_array_equal(windows.values, [[1, 1, 1, 3, 3], [0] * 5])
    np.testing.assert_array_equal(windows.seen, [[0, 1, 0, 1, 0], [0] * 5])


def test_scales():
    windows = windows_of(np.array([[NAN, 1.0, -3.0], [7.1, 7.1, 7.1], [NAN] * 3, [0.0] * 3]))
    mean = scale_of(*windows, "mean")
    np.testing.assert_allclose(mean.centre[:, 0], [0, 0, 0, 0])
    np.testing.assert_allclose(mean.width[:, 0], [2, 7.1, 1, 1])
    standard = scale_of(*windows, "standard")
    np.testing.assert_allclose(standard.centre[:, 0], [-1, 7.1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(standard.width[:, 0], [2, 1, 1, 1])


def test_lags_are_channels_with_masks_of_their_own():
    config = TSDiffConfig(context=4, horizon=2, min_context=4, lags=(1, 3), hidden=4, blocks=1, state=4)
    model = TSDiff.new(config)
    windows = windows_of(np.array([[1.0, 2, NAN, 4, 5, 6, 7, NAN, NAN]]))
    x0, seen = model.channels(windows, model.scale(windows))
    width = (4 + 5 + 6 + 7) / 4
    np.testing.assert_allclose(x0[0, :, 0] * width, [4, 5, 6, 7, 7, 7], rtol=1e-6)
    np.testing.assert_allclose(x0[0, :, 1] * width, [2, 4, 5, 6, 7, 7], rtol=1e-6)
    np.testing.assert_allclose(x0[0, :, 2] * width, [1, 2, 2, 4, 5, 6], rtol=1e-6)
    np.testing.assert_array_equal(seen[0].T, [[1, 1, 1, 1, 0, 0], [0, 1, 1, 1, 1, 0], [1, 1, 0, 1, 1, 1]])


def test_the_loss_is_the_noise_error_where_something_was_seen(tiny):
    windows, noise = windows_of(np.stack([window(known=20), truth()])), Noise(5, [0, 1])
    x0, seen = tiny.channels(windows, tiny.scale(windows))
    u = noise.uniform(torch.empty(2))
    step = torch.floor(u * 100) + 1
    beta = np.linspace(1e-4, 0.1, 100)
    alpha_bar = torch.tensor([np.prod(1 - beta[: int(n)]) for n in step], dtype=torch.float32)[:, None, None]
    eps = noise.normal(x0, draw=1)
    predicted = tiny.network(alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * eps, step / 100)
    expected = [((predicted - eps) ** 2)[row][seen[row] == 1].mean() for row in range(2)]
    torch.testing.assert_close(tiny.loss(tiny.network, windows, noise), torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_a_new_model_follows_its_seed_and_leaves_torchs_alone():
    config = TSDiffConfig(context=4, horizon=2, min_context=4, hidden=4, blocks=1, state=4)
    before = torch.random.get_rng_state()
    weights = [TSDiff.new(config, seed).network.state_dict() for seed in (1, 1, 2)]
    assert torch.equal(before, torch.random.get_rng_state())
    same = [all(torch.equal(w[name], weights[0][name]) for name in w) for w in weights]
    assert same == [True, True, False]


@pytest.mark.parametrize(
    "wrong",
    [{"horizon": 0}, {"context": 0}, {"min_context": 400}, {"lags": (0,)}, {"scaling": "max"}, {"hidden": 0}],
)
def test_configurations_that_are_none(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        TSDiffConfig(**wrong)


@pytest.mark.parametrize("wrong", [{"samples": 0}, {"steps": 0}, {"rows": 0}, {"likelihood": "l1"}, {"form": "none"}])
def test_samplings_that_are_none(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        Sampling(**wrong)


# --- files ---


def test_saved_and_loaded(tiny, tmp_path):
    tiny.save(tmp_path / "model")
    again = TSDiff.load(tmp_path / "model")
    assert again.config == tiny.config
    assert not again.network.training
    assert not any(weight.requires_grad for weight in again.network.parameters())
    np.testing.assert_array_equal(draw(again, window()[None], ["a"], QUICK), draw(tiny, window()[None], ["a"], QUICK))


def test_a_configuration_of_something_else(tiny, tmp_path):
    tiny.save(tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps(about | {"config": {"layers": 3}}))
    with pytest.raises(InputError, match=r"not that of a TSDiff model .*layers"):
        TSDiff.load(tmp_path / "model")
    path.write_text(json.dumps(about | {"config": about["config"] | {"hidden": 16}}))
    with pytest.raises(InputError, match="does not fit the network"):
        TSDiff.load(tmp_path / "model")


# --- what comes out ---


@pytest.mark.parametrize("likelihood", ["quantile", "mean-square"])
@pytest.mark.parametrize("solver", [ddim(), dpmpp(2), ddim(eta=1.0)])
def test_it_forecasts_what_it_was_trained_on(tiny, likelihood, solver):
    drawn = draw(tiny, window()[None], ["a"], Sampling(40, 20, likelihood, solver=solver))[0]
    error = np.abs(np.median(drawn, 0) - truth())
    assert error[24:].mean() < 0.35  # half the mean size of the sine: it follows phase and season
    assert error[:24].mean() < 0.2


def test_the_published_form_is_guided_too(tiny):
    sampling = Sampling(20, 50, form="published", guidance=4.0)
    free = replace(sampling, guidance=0.0)
    errors = [
        np.abs(np.median(draw(tiny, window()[None], ["a"], s)[0, :, :24], 0) - truth()[:24]) for s in (sampling, free)
    ]
    assert errors[0].mean() < 0.5 * errors[1].mean()


def test_a_window_does_not_depend_on_its_neighbours(tiny):
    values, keys = np.stack([window(phase) for phase in (0.0, 0.5, 2.0)]), ["a", "b", "c"]
    together = draw(tiny, values, keys, QUICK)
    assert together.shape == (3, 6, 32)
    alone = np.concatenate([draw(tiny, values[k : k + 1], keys[k : k + 1], QUICK) for k in range(3)])
    np.testing.assert_allclose(together, alone, **ROUNDING)
    backwards = draw(tiny, values[::-1], keys[::-1], QUICK)[::-1]
    np.testing.assert_allclose(together, backwards, **ROUNDING)
    for rows in (1, 4, 7):
        np.testing.assert_allclose(together, draw(tiny, values, keys, replace(QUICK, rows=rows)), **ROUNDING)


def test_samples_follow_the_seed_the_key_and_nothing_else(tiny):
    torch.manual_seed(1)
    first = draw(tiny, window()[None], ["a"], QUICK)
    torch.manual_seed(2)
    np.testing.assert_array_equal(first, draw(tiny, window()[None], ["a"], QUICK))
    assert np.abs(first - draw(tiny, window()[None], ["b"], QUICK)).mean() > 0.01
    assert np.abs(first - draw(tiny, window()[None], ["a"], replace(QUICK, seed=1))).mean() > 0.01
    assert np.abs(np.diff(first, axis=1)).mean() > 0.01


@pytest.mark.parametrize(("factor", "offset"), [(2.0**20, 0.0), (2.0**-20, 0.0), (2.0, 512.0), (0.3, -7.0)])
def test_forecasts_are_in_the_units_of_the_series(tiny, factor, offset):
    plain = draw(tiny, window()[None], ["a"], QUICK)
    other = draw(tiny, factor * window()[None] + offset, ["a"], QUICK)
    np.testing.assert_allclose((other - offset) / factor, plain, **ROUNDING)


def test_a_constant_series_is_no_division_by_zero(tiny):
    values = np.where(np.arange(32) < 24, 5.0, NAN)[None]
    assert np.isfinite(draw(tiny, values, ["a"], QUICK)).all()


def test_gaps_in_the_context_are_filled(tiny):
    values = window()
    values[[5, 10, 11, 17]] = NAN
    drawn = draw(tiny, values[None], ["a"], Sampling(40, 20))[0]
    assert np.abs(np.median(drawn, 0) - truth())[[5, 10, 11, 17]].mean() < 0.25


def test_windows_of_which_nothing_is_known(tiny):
    drawn = draw(tiny, np.full((1, 32), NAN), ["a"], QUICK)
    assert np.isfinite(drawn).all()
    assert np.abs(drawn).max() < 20


def test_unseen_values_do_not_leak(tiny):
    """Only NaN says what is unknown; what stands in for it in the network's input must not matter."""
    windows = windows_of(window()[None])
    other = windows._replace(values=torch.where(windows.seen > 0, windows.values, 1e6))
    noise = Noise(0, [0])
    torch.testing.assert_close(tiny.scale(windows), tiny.scale(other))
    losses = [tiny.loss(lambda x, t: torch.zeros_like(x), w, noise) for w in (windows, other)]
    torch.testing.assert_close(*losses)


def test_progress_is_told(tiny):
    told: list[tuple[int, int]] = []
    draw(
        tiny,
        np.stack([window()] * 2),
        ["a", "b"],
        replace(QUICK, rows=5),
        lambda done, total: told.append((done, total)),
    )
    assert told == [(5, 12), (10, 12), (12, 12)]
