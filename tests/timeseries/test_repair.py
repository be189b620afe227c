"""Holes to learn from, and paths through holes of any length: exact where the network is, without seams."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn

from degauss.core.errors import InputError
from degauss.core.gaussian import ddim, dpmpp
from degauss.core.noise import Noise
from degauss.core.schedule import DiscreteVP, quadratic_betas
from degauss.timeseries.csdi import CSDI, Imputing, Units, impute, units_of
from degauss.timeseries.csdi_net import CSDIConfig, CSDINet
from degauss.timeseries.csdi_training import recipe
from degauss.timeseries.repair import Piece, Record, holes, learn, loss, paths

NAN = np.nan
TINY = CSDIConfig(
    features=3, length=8, steps=20, channels=8, layers=1, heads=2, feedforward=8,
    step_embedding=8, time_embedding=8, feature_embedding=4, dropout=0.0,
)  # fmt: skip
QUICK = Imputing(samples=3, steps=2, solver=ddim())


def record_of(values: np.ndarray, wanted: np.ndarray | None = None) -> Record:
    return Record(lambda first, last: values[first:last], np.isnan(values) if wanted is None else wanted)


# --- holes ---


def test_a_hole_is_an_interval_of_some_features():
    hidden = holes(torch.empty(4000, 16, 6), Noise(0, range(4000))).numpy()
    inside, chosen = hidden.max(2), hidden.max(1)
    np.testing.assert_array_equal(hidden, inside[:, :, None] * chosen[:, None])
    edges = np.diff(np.pad(inside, ((0, 0), (1, 1))), axis=1)
    assert (np.abs(edges).sum(1) == 2).all()  # one interval, never empty
    assert chosen.any(1).all()
    # Half begin with the window, up to the width of a row; a quarter of them last for all of it.
    assert inside[:, 0].mean() == pytest.approx(0.5 + 1 / 32, abs=0.03)
    assert inside[:, -1].mean() == pytest.approx(0.5 + 1 / 16, abs=0.05)
    assert inside.all(1).mean() == pytest.approx(0.25, abs=0.05)
    w = (np.arange(1000) + 0.5) / 1000
    share = np.minimum(1, 4 * w**2 / 3)
    assert chosen.mean() == pytest.approx(np.mean(share + (1 - share) ** 6 / 6), abs=0.02)
    assert chosen.all(1).mean() == pytest.approx(np.mean(share**6), abs=0.03)


def test_a_hole_belongs_to_its_sample():
    together = holes(torch.empty(5, 8, 3), Noise(2, range(5)))
    torch.testing.assert_close(holes(torch.empty(1, 8, 3), Noise(2, [3])), together[3:4], rtol=0, atol=0)


def test_the_loss_is_the_noise_error_in_the_hole():
    random = np.random.default_rng(0)
    values = random.normal(size=(6, 8, 3))
    values[1, 2:5] = NAN
    values[5] = NAN
    model = CSDI.new(TINY, units_of(values))
    nn.init.normal_(model.network.output_projection2.weight)
    batch, noise = model.batch(values), Noise(3, range(6))
    scaled, seen = batch
    target = seen * holes(scaled, noise)
    step = torch.floor(noise.uniform(torch.empty(6, 1), draw=2)[:, 0] * 20) + 1
    eps = noise.normal(scaled, draw=3)
    beta = np.linspace(1e-4**0.5, 0.5**0.5, 20) ** 2
    alpha_bar = torch.tensor([np.prod(1 - beta[: int(n)]) for n in step], dtype=torch.float32)[:, None, None]
    with torch.no_grad():
        predicted = model.network(
            alpha_bar.sqrt() * scaled + (1 - alpha_bar).sqrt() * eps, step / 20, scaled, seen - target
        )
        found = loss(model, model.network, batch, noise)
    for row in range(6):
        error = (predicted - eps)[row][target[row] == 1]
        assert float(found[row]) == pytest.approx(float((error**2).mean()) if len(error) else 0.0, rel=1e-4)
    assert found[5] == 0


def test_a_run_is_gone_on_with_and_never_mixed_up(tmp_path: Path):
    values = np.random.default_rng(0).normal(size=(40, 3))
    run = recipe(tmp_path / "run", steps=2, batch=2, device="cpu")
    first = learn(TINY, [values], run, ["a", "b", "c"], "100 Hz")
    again = learn(TINY, [values], run, ["a", "b", "c"], "100 Hz")
    for name, weight in first.network.state_dict().items():
        assert torch.equal(weight, again.network.state_dict()[name])
    assert (again.units.names, again.units.step) == (("a", "b", "c"), "100 Hz")
    for other in (([values * 2], ["a", "b", "c"], "100 Hz"), ([values], ["a", "b", "d"], "100 Hz")):
        with pytest.raises(InputError, match="holds a model of other data"):
            learn(TINY, other[0], run, other[1], other[2])


# --- paths ---


class Zero(nn.Module):
    """Predicts no noise, and keeps what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[Tensor, Tensor]] = []
        self.nothing = nn.Parameter(torch.zeros(()))

    def sides(self, mask: Tensor) -> tuple[Tensor, ...]:
        del mask
        return ()

    def forward(self, x: Tensor, t: Tensor, known: Tensor, mask: Tensor, sides: tuple[Tensor, ...]) -> Tensor:
        del t, sides
        self.told.append((known, mask))
        return torch.zeros_like(x)


class Gaussian(Zero):
    """The exact noise of windows ~ N(0, covariance) ``[length * features]``; each row knows values of its own."""

    def __init__(self, schedule: DiscreteVP, covariance: Tensor) -> None:
        super().__init__()
        self.schedule, self.covariance = schedule, covariance

    def forward(self, x: Tensor, t: Tensor, known: Tensor, mask: Tensor, sides: tuple[Tensor, ...]) -> Tensor:
        del sides
        alpha, sigma = map(float, self.schedule(t))
        free = mask[0].flatten() == 0
        cross = self.covariance[free][:, ~free] @ torch.linalg.inv(self.covariance[~free][:, ~free])
        mean = known.flatten(1)[:, ~free].double() @ cross.T
        covariance = self.covariance[free][:, free] - cross @ self.covariance[~free][:, free]
        eye = torch.eye(len(covariance), dtype=torch.float64)
        gain = alpha * covariance @ torch.linalg.inv(alpha**2 * covariance + sigma**2 * eye)
        noisy = x.flatten(1)[:, free].double()
        eps = torch.zeros(len(x), x[0].numel(), dtype=torch.float64)
        eps[:, free] = (noisy - alpha * (mean + (noisy - alpha * mean) @ gain.T)) / sigma
        return eps.view_as(x).to(x)


def standing_for(config: CSDIConfig, network: nn.Module) -> CSDI:
    plain = Units(np.zeros(config.features), np.ones(config.features))
    return CSDI(config, plain, cast("CSDINet", network))


def together(pieces: list[Piece], n: int) -> np.ndarray:
    samples, _, features = pieces[0].samples.shape
    whole = np.full((samples, n, features), NAN)
    for start, part in pieces:
        assert np.isnan(whole[:, start : start + part.shape[1]]).all()  # no row comes twice
        assert np.isfinite(part).all()
        whole[:, start : start + part.shape[1]] = part
    return whole


def test_a_long_hole_is_one_path():
    """A Markov chain of which the start is known: windows that know what was drawn give its law exactly."""
    a, n, count = 0.9, 26, 2000
    config = replace(TINY, features=1, steps=200, beta_last=0.12)
    lag = torch.arange(8, dtype=torch.float64)
    network = Gaussian(DiscreteVP.from_betas(quadratic_betas(200, 1e-4, 0.12)), a ** (lag[:, None] - lag).abs())
    model = standing_for(config, network)
    values = np.full((n, 1), NAN)
    values[0] = 1.5
    imputing = Imputing(count, 30, dpmpp(2), rows=count)
    drawn = together(list(paths(model, record_of(values), imputing)), n)[:, 1:, 0]
    lags = np.arange(1, n)
    exact = a ** np.abs(lags[:, None] - lags) - a ** (lags[:, None] + lags)
    assert np.abs(drawn.mean(0) - 1.5 * a**lags).max() < 4.5 / count**0.5 + 0.02
    assert np.abs(np.cov(drawn.T) - exact).max() < 4.5 * (2 / count) ** 0.5 + 0.03
    # The control: windows drawn apart have seams, where the chain forgets itself.
    apart = impute(model, values, replace(imputing, samples=300, rows=300))[:, 1:, 0]
    neighbours = [[np.corrcoef(x[:, k], x[:, k + 1])[0, 1] for k in range(4, n - 2)] for x in (drawn, apart)]
    assert min(neighbours[0]) > 0.7
    assert min(neighbours[1]) < 0.3


def test_a_window_knows_what_was_drawn_before_it():
    network = Zero()
    model = standing_for(TINY, network)
    values = np.random.default_rng(0).normal(size=(20, 3))
    values[:, 1] = NAN
    pieces = list(paths(model, record_of(values), QUICK))
    whole = together(pieces, 20)
    told = network.told[:: QUICK.steps]  # the first step of every window
    assert [piece.start for piece in pieces] == [0, 6, 10, 14][: len(pieces)]
    known, mask = told[1]  # rows 4 to 11
    assert mask[0, :, 1].tolist() == [1, 1, 0, 0, 0, 0, 0, 0]
    np.testing.assert_allclose(known[:, :2, 1], whole[:, 4:6, 1], rtol=1e-6)
    assert np.ptp(whole[:, 4, 1]) > 0  # each sample knows its own past


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_every_hole_is_filled_once_and_nothing_else_is_touched(data: st.DataObject):
    n = data.draw(st.integers(1, 40))
    length = data.draw(st.integers(4, 12))
    random = np.random.default_rng(data.draw(st.integers(0, 1000)))
    values = random.normal(size=(n, 3))
    for _ in range(data.draw(st.integers(1, 3))):
        start, size = int(random.integers(n)), int(random.integers(1, 2 * length))
        values[start : start + size, random.random(3) < 0.6] = NAN
    skipped = random.random((n, 1)) < 0.1  # not known, and not wanted either
    values = np.where(skipped, NAN, values)
    wanted = np.isnan(values) & ~skipped
    if not wanted.any():
        return
    model = standing_for(replace(TINY, length=length), Zero())
    told: list[int] = []
    pieces = list(paths(model, record_of(values, wanted), replace(QUICK, steps=1), report=told.append))
    whole = together(pieces, n)
    assert not np.isnan(whole[:, wanted]).any()
    known = ~np.isnan(values) & ~np.isnan(whole[0])
    np.testing.assert_array_equal(whole[:, known], np.broadcast_to(values, whole.shape)[:, known])
    assert told == sorted(told)
    assert told[-1] == wanted.any(1).sum()


def test_samples_do_not_depend_on_how_many_are_drawn_at_once():
    values = np.random.default_rng(1).normal(size=(30, 3))
    values[3:25, 0] = NAN
    values[10:14] = NAN
    model = CSDI.new(TINY, units_of(values))
    record = record_of(values)
    first = together(list(paths(model, record, QUICK)), 30)[:, 3:25]
    for other in (replace(QUICK, rows=1), replace(QUICK, rows=2), replace(QUICK, samples=5)):
        again = together(list(paths(model, record, other)), 30)[:3, 3:25]
        np.testing.assert_allclose(first, again, atol=1e-4)
    other_seed = together(list(paths(model, record, replace(QUICK, seed=1))), 30)[:, 3:25]
    other_place = together(list(paths(model, record, QUICK, number=100)), 30)[:, 3:25]
    for other in (other_seed, other_place):
        assert np.abs(first - other).max() > 1e-2


def test_sampling_that_diverges_is_said():
    class Wrong(Zero):
        def forward(self, x: Tensor, t: Tensor, known: Tensor, mask: Tensor, sides: tuple[Tensor, ...]) -> Tensor:
            return super().forward(x, t, known, mask, sides) + float("nan")

    with pytest.raises(InputError, match="sampling diverged"):
        list(paths(standing_for(TINY, Wrong()), record_of(np.full((8, 3), NAN)), QUICK))


@pytest.mark.slow
def test_a_trained_model_finds_a_channel_in_the_others(tmp_path: Path):
    """Six channels of two sources, one missing throughout. The mean errs by 1, and what can be known by 0.09."""
    mix = np.random.default_rng(7).normal(size=(6, 2)) / 2

    def signals(n: int, seed: int) -> np.ndarray:
        random = np.random.default_rng(seed)
        sources = [np.convolve(row, np.hanning(12), "valid")[:n] for row in random.normal(size=(2, n + 20))]
        return 1e-5 * (np.stack(sources, axis=1) @ mix.T + 0.1 * random.normal(size=(n, 6)))

    config = CSDIConfig(
        features=6, length=16, channels=32, layers=3, heads=4, feedforward=32, step_embedding=16, time_embedding=16,
        dropout=0.0,
    )  # fmt: skip
    model = learn(config, [signals(4000, 5)], recipe(tmp_path / "run", steps=1000, lr=3e-3, device="cpu"))
    truth = signals(200, 9)
    values = truth.copy()
    values[:, 2] = NAN
    drawn = together(list(paths(model, record_of(values), Imputing(10, 10, ddim()))), 200)
    error = drawn.mean(0)[:, 2] - truth[:, 2]
    assert np.sqrt((error**2).mean()) < 0.5 * truth[:, 2].std()
