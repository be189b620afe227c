"""PaD-TS: the network's two channels, the losses, same-step sampling, and windows that depend on their seed alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch

from degauss.core.errors import InputError
from degauss.core.gaussian import ddim, dpmpp
from degauss.core.noise import Noise
from degauss.core.train import TrainConfig, train
from degauss.timeseries.generation_data import Units, sines
from degauss.timeseries.padts import (
    SCHEDULE,
    Batches,
    Fourier,
    Generating,
    PaDTS,
    Population,
    best_steps,
    fit,
    generate,
    loss,
    own_times,
    recipe,
    same_time,
)
from degauss.timeseries.padts_net import PaDTSConfig, PaDTSNet
from degauss.timeseries.population import TRAINING_WIDTHS, cross_correlations, mmd

SMALL = PaDTSConfig(features=2, length=12, hidden=16, heads=2, decoders=2, expansion=2)
UNITS = Units(np.array([-1.0, -2.0]), np.array([1.0, 2.0]), ("wave", "echo"))


def waves(count: int, seed: int = 0) -> np.ndarray:
    """Sines of random phase, each with an echo of twice its size a little later."""
    phase = np.random.default_rng(seed).uniform(0, 2 * np.pi, (count, 1))
    angle = phase + 2 * np.pi * np.arange(12) / 12
    return np.stack([np.sin(angle), 2 * np.sin(angle - 2.5)], axis=-1)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> PaDTS:
    out = tmp_path_factory.mktemp("padts") / "run"
    settings = TrainConfig(out=out, steps=250, batch_size=32, lr=5e-3, ema=0.9, tracker=None, device="cpu")
    return fit(SMALL, waves(500), UNITS, settings, facts={"steps": 250})


# --- the network ---


def shaken(config: PaDTSConfig = SMALL, seed: int = 0) -> PaDTSNet:
    """A network none of whose weights is zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = PaDTSNet(config)
        for weight in network.parameters():
            torch.nn.init.normal_(weight, std=0.2)
    return network.double()


def test_an_untrained_network_says_nothing():
    network = PaDTSNet(SMALL)
    assert torch.equal(network(torch.randn(3, 12, 2), torch.rand(3)), torch.zeros(3, 12, 2))


def test_one_time_is_every_windows_time():
    network, x = shaken(), torch.randn(3, 12, 2, dtype=torch.float64)
    t = torch.tensor(0.3, dtype=torch.float64)
    torch.testing.assert_close(network(x, t), network(x, t.expand(3)), rtol=0, atol=1e-12)
    other = network(x, torch.tensor([0.3, 0.4, 0.3], dtype=torch.float64))
    torch.testing.assert_close(other[[0, 2]], network(x, t)[[0, 2]], rtol=0, atol=1e-12)
    assert not torch.allclose(other[1], network(x, t)[1])


def test_the_order_of_features_matters_to_the_time_channel_alone():
    """Tokens that are features have no position; tokens that are times have one."""
    network, x = shaken(), torch.randn(2, 12, 2, dtype=torch.float64)
    step = torch.ones(1, 1, 16, dtype=torch.float64)
    channel = network.along_features
    swapped = channel(channel.enter(x.flip(2).transpose(1, 2)), step)
    torch.testing.assert_close(swapped.flip(1), channel(channel.enter(x.transpose(1, 2)), step), rtol=0, atol=1e-12)
    reversed_ = network(x.flip(1), torch.tensor(0.3, dtype=torch.float64)).flip(1)
    assert not torch.allclose(reversed_, network(x, torch.tensor(0.3, dtype=torch.float64)))


def test_every_weight_is_used():
    network = shaken()
    network(torch.randn(2, 12, 2, dtype=torch.float64), torch.rand(2, dtype=torch.float64)).pow(2).sum().backward()
    for name, weight in network.named_parameters():
        assert weight.grad is not None, name
        assert float(weight.grad.abs().sum()) > 0, name


def test_a_window_does_not_depend_on_its_batch():
    network, x = shaken(), torch.randn(4, 12, 2, dtype=torch.float64)
    t = torch.tensor(0.5, dtype=torch.float64)
    torch.testing.assert_close(network(x, t)[2:3], network(x[2:3], t), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "wrong", [{"features": 0}, {"length": 1}, {"hidden": 18, "heads": 4}, {"hidden": 15, "heads": 3}, {"decoders": 0}]
)
def test_configurations_that_are_none(wrong):
    name = "hidden" if "hidden" in wrong else next(iter(wrong))
    with pytest.raises(InputError, match=name):
        PaDTSConfig(**({"features": 2} | wrong))


# --- the losses ---


def test_the_same_time_for_a_whole_batch():
    """SSS: all windows are noised alike, so their predictions are one population."""
    times: list[torch.Tensor] = []

    def network(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        times.append(t)
        return x

    x0 = torch.from_numpy(waves(8)).float()
    loss(Population(), network, x0, Noise(0, range(8)))
    loss(Population(draw=own_times), network, x0, Noise(0, range(8)))
    loss(Fourier(), network, x0, Noise(0, range(8)))
    assert [t.numel() for t in times] == [1, 8, 8]
    assert len(times[1].unique()) == 8
    assert all(bool(((t > 0) & (t <= 1)).all()) for t in times)


def test_the_one_time_is_uniform_over_batches():
    u = torch.stack([Noise(0, range(64 * k, 64 * k + 64)).uniform(torch.empty(64)) for k in range(300)])
    t = torch.stack([same_time(row) for row in u]).flatten().sort().values
    uniform = torch.linspace(0, 1, 300)
    assert float((t - uniform).abs().max()) < 0.1


@torch.no_grad()
def test_the_loss_is_its_formula():
    network, noise = shaken(), Noise(3, range(20))
    x0 = torch.from_numpy(waves(20))
    t = 1 - noise.uniform(torch.empty(20, dtype=torch.float64))[:1]
    alpha, sigma = SCHEDULE(t)
    guess = network(alpha[:, None, None] * x0 + sigma[:, None, None] * noise.normal(x0, draw=1), t)
    error = ((guess - x0) ** 2).mean()
    apart = mmd(cross_correlations(x0), cross_correlations(guess), TRAINING_WIDTHS, span=2.0).mean()
    found = loss(Population(0.7), network, x0, noise)
    torch.testing.assert_close(found, error + 0.7 * apart, rtol=1e-4, atol=0)
    assert float(apart) > 1e-3
    torch.testing.assert_close(loss(Population(0.0), network, x0, noise), error)


def test_the_fourier_loss():
    x0, guess = (torch.from_numpy(waves(5, seed)) for seed in (0, 1))
    spectrum = np.fft.fft((guess - x0).numpy(), axis=1) / np.sqrt(12)
    expected = np.abs((guess - x0).numpy()).mean() + 0.5 * (np.abs(spectrum.real) + np.abs(spectrum.imag)).mean()
    assert float(Fourier(0.5).error(x0, guess)) == pytest.approx(expected)


def test_the_population_term_sees_what_the_error_does_not():
    """Two guesses with the same squared error, one of which has lost the correlation."""
    x0 = torch.from_numpy(waves(200))
    noise = 0.3 * Noise(0, range(200)).normal(torch.empty(200, 12, 1, dtype=torch.float64))
    shared, apart = torch.cat([noise, noise], 2), torch.cat([noise, -noise], 2)
    population = Population(1.0)
    alone = [float(Population(0.0).error(x0, x0 + part)) for part in (shared, apart)]
    assert alone[0] == pytest.approx(alone[1])
    # The series are opposed in the data, so what is shared between their errors is what spoils it.
    assert population.error(x0, x0 + shared) > population.error(x0, x0 + apart) + 0.1


def test_training_starts_from_a_flat_window():
    """The untrained network's windows have no correlations; the gradient must be finite all the same."""
    network = PaDTSNet(SMALL)
    loss(Population(1.0), network, torch.from_numpy(waves(16)).float(), Noise(0, range(16))).backward()
    assert all(bool(torch.isfinite(weight.grad).all()) for weight in network.parameters() if weight.grad is not None)


def test_one_series_has_no_population_loss(tmp_path):
    config = PaDTSConfig(features=1, length=12, hidden=8, heads=2, decoders=1)
    units = Units(np.zeros(1), np.ones(1), ("only",))
    windows = waves(50)[:, :, :1]
    settings = recipe(tmp_path / "run", steps=2, device="cpu", batch=8)
    with pytest.raises(InputError, match="compares pairs of series, but there is 1"):
        fit(config, windows, units, settings)
    model = fit(config, windows, units, settings, Population(0.0))
    assert generate(model, 2, Generating(steps=2)).shape == (2, 12, 1)


# --- what comes out ---


@pytest.mark.parametrize("solver", [dpmpp(2), ddim(), ddim(eta=1.0)])
def test_it_generates_what_it_was_trained_on(tiny, solver):
    made = generate(tiny, 300, Generating(10, solver))
    assert made.shape == (300, 12, 2)
    r = cross_correlations(torch.from_numpy(made))
    assert float(r.median()) == pytest.approx(np.cos(2.5), abs=0.15)
    np.testing.assert_allclose(made.std((0, 1)), [np.sqrt(0.5), np.sqrt(2)], rtol=0.2)
    spectrum = np.abs(np.fft.rfft(made, axis=1)) ** 2
    assert (spectrum[:, 1].sum(0) / spectrum.sum((0, 1)) > 0.85).all()


def test_rough_data_want_more_steps():
    """Denoisers of closed form: white noise beside a shared sine is averaged away by few steps, and kept by many."""
    size = 0.1
    basis = torch.stack(
        [torch.sin(2 * torch.pi * torch.arange(12) / 12), torch.cos(2 * torch.pi * torch.arange(12) / 12)]
    )

    def network(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The mean of x0 = (a sin + b cos) on both series + noise, with a, b ~ N(0, 0.2^2)."""
        alpha, sigma = (part.to(x.dtype).reshape(-1, 1, 1) for part in SCHEDULE(t))
        shared = basis.T @ (basis @ x.mean(2, keepdim=True)) / 6
        waves = 0.2**2 / (alpha**2 * 0.2**2 + (alpha**2 * size**2 + sigma**2) / 12) * alpha * shared
        rest = size**2 * alpha / (alpha**2 * size**2 + sigma**2) * (x - alpha * waves)
        return waves + rest

    model = PaDTS.new(SMALL, Units(-np.ones(2), np.ones(2), ("a", "b")))
    oracle = replace(model, network=cast("PaDTSNet", _Oracle(network)))
    made = {steps: generate(oracle, 400, Generating(steps)) for steps in (5, 50)}
    rng = np.random.default_rng(0)
    real = 0.2 * rng.normal(size=(400, 1, 2)) @ basis.numpy()
    real = real.transpose(0, 2, 1) + size * rng.normal(size=(400, 12, 2))
    roughness = {steps: (windows[..., 0] - windows[..., 1]).std() for steps, windows in made.items()}
    assert roughness[50] == pytest.approx(np.sqrt(2) * size, rel=0.1)
    assert roughness[5] < 0.75 * np.sqrt(2) * size
    assert best_steps(oracle, real, (5, 50), count=300) == 50


def test_of_one_series_the_most_steps_are_taken():
    config = PaDTSConfig(features=1, length=4, hidden=8, heads=2, decoders=1)
    model = PaDTS.new(config, Units(np.zeros(1), np.ones(1), ("a",)))
    assert best_steps(model, np.zeros((3, 4, 1)), (5, 20, 10)) == 20


class _Oracle(torch.nn.Module):
    """A function as a network, with one weight to say where it lives."""

    def __init__(self, function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function, self.place = function, torch.nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.function(x, t)


def test_windows_stay_in_the_range_of_the_data(tiny):
    made = generate(tiny, 50, Generating(steps=5))
    assert (made >= UNITS.low).all()
    assert (made <= UNITS.high).all()


def test_a_window_follows_its_number_and_the_seed(tiny):
    many = generate(tiny, 7, Generating(steps=4))
    for rows in (1, 3):
        np.testing.assert_allclose(generate(tiny, 7, Generating(steps=4, rows=rows)), many, atol=1e-5)
    np.testing.assert_allclose(generate(tiny, 3, Generating(steps=4)), many[:3], atol=1e-5)
    assert np.abs(generate(tiny, 7, Generating(steps=4, seed=1)) - many).mean() > 0.1
    told: list[tuple[int, int]] = []
    generate(tiny, 5, Generating(steps=2, rows=2), lambda done, total: told.append((done, total)))
    assert told == [(2, 5), (4, 5), (5, 5)]


def test_gradients_flow_through_the_denoiser(tiny):
    x = torch.zeros(2, 12, 2, requires_grad=True)
    tiny.denoiser(x, torch.tensor(0.5)).mean.sum().backward()
    assert x.grad is not None
    assert float(x.grad.abs().sum()) > 0


# --- training and files ---


def test_training_follows_its_seed_and_goes_on_exactly(tmp_path):
    data = Batches(torch.from_numpy(waves(40)).float())

    def weights(name: str, steps: int) -> dict[str, torch.Tensor]:
        settings = TrainConfig(
            out=tmp_path / name, steps=steps, batch_size=8, schedule="constant", tracker=None, device="cpu"
        )
        return train(PaDTS.new(SMALL, UNITS, seed=1).network, partial(loss, Population(0.1)), data, settings).weights

    weights("parts", 2)
    parts, whole = weights("parts", 6), weights("whole", 6)
    assert all(torch.equal(value, whole[name]) for name, value in parts.items())
    assert not all(torch.equal(value, weights("short", 2)[name]) for name, value in parts.items())


def test_saved_and_loaded(tiny, tmp_path):
    tiny.save(tmp_path / "model")
    again = PaDTS.load(tmp_path / "model")
    assert (again.config, again.units.names, dict(again.facts)) == (SMALL, ("wave", "echo"), {"steps": 250})
    assert not any(weight.requires_grad for weight in again.network.parameters())
    np.testing.assert_array_equal(generate(again, 3, Generating(steps=3)), generate(tiny, 3, Generating(steps=3)))


@pytest.mark.parametrize(
    "change", [{"layers": 3}, {"low": [0.0]}, {"names": ["a"]}, {"hidden": "wide"}, {"facts": None}]
)
def test_a_configuration_of_something_else(tiny, tmp_path, change):
    tiny.save(tmp_path / "model")
    path = Path(tmp_path / "model" / "config.json")
    about = json.loads(path.read_text())
    config = {name: value for name, value in (about["config"] | change).items() if value is not None}
    path.write_text(json.dumps(about | {"config": config}))
    with pytest.raises(InputError, match="not that of a PaD-TS model"):
        PaDTS.load(tmp_path / "model")


def test_an_epoch_is_every_window_once():
    windows = torch.arange(10.0)[:, None, None]
    batches = Batches(windows, seed=1)
    assert sorted(torch.cat([batches(range(k, k + 5)) for k in (0, 5)]).flatten().tolist()) == list(range(10))
    assert sines(3).shape == (3, 24, 5)
