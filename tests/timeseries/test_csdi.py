"""The model: its loss and its random targets, and samples of whatever is missing given whatever is known."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

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
from degauss.core.train import TrainConfig, train
from degauss.timeseries import csdi
from degauss.timeseries.csdi import CSDI, Imputing, Units, draw, impute, trained_times, units_of
from degauss.timeseries.csdi_net import CSDIConfig, CSDINet
from degauss.timeseries.csdi_training import RandomStretches, fit, recipe

NAN = np.nan
# Batches of other sizes round otherwise, in float32.
ROUNDING: dict[str, Any] = {"rtol": 0, "atol": 1e-4}
TINY = CSDIConfig(
    features=3, length=8, steps=20, channels=8, layers=1, heads=2, feedforward=8,
    step_embedding=8, time_embedding=8, feature_embedding=4, dropout=0.0,
)  # fmt: skip
QUICK = Imputing(samples=5, steps=4, solver=ddim())


def levels(count: int, seed: int = 0) -> np.ndarray:
    """Three features of one random level and little else, in units of their own; ``[count, 8, 3]``."""
    random = np.random.default_rng(seed)
    level = random.normal(size=(count, 1, 1)) + 0.1 * random.normal(size=(count, 8, 3))
    return level * [1.0, 10.0, 0.01] + [0.0, 100.0, 0.0]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> CSDI:
    """A model of `levels`."""
    config = replace(TINY, channels=16)
    model = CSDI.new(config, units_of(levels(200)))
    data = RandomStretches(list(levels(200)), model)
    folder = tmp_path_factory.mktemp("csdi")
    chosen = TrainConfig(out=folder, steps=150, batch_size=16, lr=1e-2, ema=0.9, tracker=None, device="cpu")
    model.save(folder / "model", train(model.network, model.loss, data, chosen).weights)
    return CSDI.load(folder / "model")


def standing_for(config: CSDIConfig, network: nn.Module, units: Units | None = None) -> CSDI:
    """A model with something else in place of its network."""
    plain = Units(np.zeros(config.features), np.ones(config.features))
    return CSDI(config, plain if units is None else units, cast("CSDINet", network))


class Recording(nn.Module):
    """Predicts no noise, and keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[Tensor, ...]] = []

    def forward(self, *inputs: Tensor) -> Tensor:
        self.asked.append(inputs)
        return torch.zeros_like(inputs[0])


# --- units and batches ---


def test_units_are_those_of_what_was_observed():
    values = np.array([[[1.0, NAN, 7.1]], [[NAN, NAN, 7.1]], [[5.0, NAN, 7.1]]])
    units = units_of(values, ["a", "b", "c"], "D")
    np.testing.assert_allclose(units.centre, [3, 0, 7.1])
    np.testing.assert_allclose(units.width, [2, 1, 1])
    np.testing.assert_array_equal(units.span, [[1, 0, 7.1], [5, 0, 7.1]])
    assert (units.names, units.step) == (("a", "b", "c"), "D")


def test_a_batch_is_scaled_and_says_what_was_seen():
    model = standing_for(TINY, Recording(), Units(np.array([1.0, 0, 0]), np.array([2.0, 1, 1])))
    window = np.full((1, 8, 3), NAN)
    window[0, 2] = [5.0, NAN, -3.0]
    values, seen = model.batch(window)
    assert values.dtype == seen.dtype == torch.float32
    np.testing.assert_array_equal(values[0, 2], [2, 0, -3])
    np.testing.assert_array_equal(seen[0, 2], [1, 0, 1])
    assert seen.sum() == 2


# --- the loss ---


def test_the_betas_are_the_published_ones():
    root = np.linspace(1e-4**0.5, 0.5**0.5, 50)
    alpha, _ = CSDI.new(CSDIConfig(features=2, length=4), units_of(np.zeros((4, 2)))).schedule(torch.tensor(1.0))
    assert float(alpha) == pytest.approx(np.prod(1 - root**2) ** 0.5, rel=1e-10)


def test_targets_are_a_random_share_of_what_was_observed():
    """As published, the share is uniform over windows; targets are what was seen and is not given."""
    count = 4000
    values = np.where(np.random.default_rng(0).random((1, 8, 3)) < 0.7, 1.0, NAN)
    observed = int((~np.isnan(values)).sum())
    network = Recording()
    model = standing_for(TINY, network)
    batch = model.batch(np.repeat(values, count, axis=0))
    model.loss(network, batch, Noise(1, range(count)))
    _, t, _, mask = network.asked[0]
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert bool((mask <= batch[1]).all())
    targets = (batch[1] - mask).sum((1, 2)).long()
    share = np.bincount(targets, minlength=observed + 1) / count
    np.testing.assert_allclose(share, 1 / (observed + 1), atol=4 * (1 / count / (observed + 1)) ** 0.5)
    # Given their number, no observed entry is likelier than another.
    np.testing.assert_allclose(mask.mean(0)[batch[1][0] == 1], 0.5, atol=0.05)
    steps = t * TINY.steps
    torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-5)
    assert sorted(set(steps.round().int().tolist())) == list(range(1, TINY.steps + 1))


def test_the_loss_is_the_noise_error_at_the_targets(tiny):
    values = levels(6)
    values[:, 3:5, 1] = NAN
    values[5] = NAN
    batch, noise = tiny.batch(values), Noise(3, range(6))
    scaled, seen = batch
    u = noise.uniform(torch.empty(6, 2), draw=0)
    step = torch.floor(u[:, 0] * 20) + 1
    target = seen * (noise.uniform(scaled, draw=1) < u[:, 1, None, None])
    eps = noise.normal(scaled, draw=2)
    beta = np.linspace(1e-4**0.5, 0.5**0.5, 20) ** 2
    alpha_bar = torch.tensor([np.prod(1 - beta[: int(n)]) for n in step], dtype=torch.float32)[:, None, None]
    noisy = alpha_bar.sqrt() * scaled + (1 - alpha_bar).sqrt() * eps
    with torch.no_grad():
        predicted = tiny.network(noisy, step / 20, scaled, seen - target)
        found = tiny.loss(tiny.network, batch, noise)
    for row in range(5):
        error = (predicted - eps)[row][target[row] == 1]
        assert float(found[row]) == pytest.approx(float((error**2).sum()) / (float(seen[row].sum()) / 2), rel=1e-4)
    assert found[5] == 0


def test_training_lowers_the_loss(tiny):
    fresh = CSDI.new(tiny.config, tiny.units)
    batch, noise = tiny.batch(levels(500, seed=9)), Noise(4, range(500))
    with torch.no_grad():
        before, after = (float(m.loss(m.network, batch, noise).mean()) for m in (fresh, tiny))
    assert before == pytest.approx(1.0, abs=0.15)  # a new network predicts no noise
    assert after < 0.5


# --- samples ---


class GaussianNetwork(nn.Module):
    """The exact noise of windows ~ N(mean, covariance) over ``[length * features]`` of which some are known."""

    def __init__(self, schedule: DiscreteVP, mean: Tensor, covariance: Tensor) -> None:
        super().__init__()
        self.schedule, self.mean, self.covariance = schedule, mean, covariance
        self.nothing = nn.Parameter(torch.zeros(()))

    def sides(self, mask: Tensor) -> tuple[Tensor, ...]:
        del mask
        return ()

    def forward(self, x: Tensor, t: Tensor, known: Tensor, mask: Tensor, sides: tuple[Tensor, ...]) -> Tensor:
        del sides
        alpha, sigma = map(float, self.schedule(t))
        free = mask.flatten() == 0
        mean, covariance = conditional(self.mean, self.covariance, known.flatten().double(), free)
        gain = alpha * covariance @ torch.linalg.inv(alpha**2 * covariance + sigma**2 * torch.eye(len(mean)).double())
        noisy = x.flatten(1)[:, free].double()
        clean = mean + (noisy - alpha * mean) @ gain.T
        eps = torch.zeros(x[0].numel(), dtype=torch.float64).repeat(len(x), 1)
        eps[:, free] = (noisy - alpha * clean) / sigma
        return eps.view_as(x).to(x)


def conditional(mean: Tensor, covariance: Tensor, known: Tensor, free: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the free coordinates given the others."""
    cross = covariance[free][:, ~free] @ torch.linalg.inv(covariance[~free][:, ~free])
    return (
        mean[free] + cross @ (known - mean)[~free],
        covariance[free][:, free] - cross @ covariance[~free][:, free],
    )


@pytest.mark.parametrize(
    ("solver", "steps"), [(ddim(), 100), (dpmpp(2), 40), (ddim(eta=1.0), 100)], ids=["ddim", "dpmpp", "ancestral"]
)
def test_a_gaussian_is_sampled_given_what_is_known(solver, steps):
    """Every window with gaps of its own, among them one of which nothing is known."""
    config = replace(TINY, length=3, features=2, steps=200, beta_last=0.12)
    schedule = DiscreteVP.from_betas(quadratic_betas(200, 1e-4, 0.12))
    random = np.random.default_rng(5)
    root = torch.from_numpy(random.normal(size=(6, 6)))
    covariance, mean = root @ root.T / 6 + 0.1 * torch.eye(6), torch.from_numpy(random.normal(size=6))
    units = Units(np.array([3.0, -1.0]), np.array([2.0, 0.5]))
    model = standing_for(config, GaussianNetwork(schedule, mean, covariance), units)
    values = random.normal(size=(3, 3, 2)) * units.width + units.centre
    for window, gaps in enumerate(([0, 3, 4], [1, 2, 5], range(6))):
        values[window].flat[list(gaps)] = NAN
    count = 1000
    drawn = draw(model, values, Imputing(count, steps, solver, rows=count))
    scaled = torch.from_numpy((drawn - units.centre) / units.width).flatten(2)
    known = torch.from_numpy((values - units.centre) / units.width).flatten(1)
    for window in range(3):
        free = known[window].isnan()
        centre, spread = conditional(mean, covariance, known[window].nan_to_num(), free)
        found = scaled[window][:, free]
        error = (found.mean(0) - centre) / spread.diagonal().sqrt()
        assert error.abs().max() < 5 / count**0.5 + 0.02
        size = torch.outer(spread.diagonal().sqrt(), spread.diagonal().sqrt())
        assert ((found.T.cov() - spread) / size).abs().max() < 5 * (2 / count) ** 0.5 + 0.03
    # The control: it matters what is known.
    assert (scaled[0].mean(0) - scaled[2].mean(0)).abs().max() > 0.2


@pytest.mark.parametrize("solver", [ddim(), dpmpp(2), ddim(eta=1.0)], ids=["ddim", "dpmpp", "ancestral"])
def test_gaps_are_filled_near_the_truth(tiny, solver):
    truth = levels(4, seed=7)
    values = truth.copy()
    values[0, 2:5, 0] = NAN  # the others tell
    values[1, 4:7] = NAN  # the times around it tell
    values[2, :, 1] = NAN  # a feature that is missing altogether
    values[3].flat[::2] = NAN
    drawn = draw(tiny, values, Imputing(samples=40, steps=20, solver=solver))
    error = np.abs(np.median(drawn, axis=1) - truth) / tiny.units.width
    for window in range(4):
        assert error[window][np.isnan(values[window])].mean() < 0.3  # the mean is off by .8


def test_what_is_known_comes_back_to_the_bit(tiny):
    values = levels(3) / 3
    values[0, 1:4] = NAN
    values[1] = NAN
    drawn = draw(tiny, values, Imputing(4, 20))
    assert drawn.shape == (3, 4, 8, 3)
    assert np.isfinite(drawn).all()
    seen = np.broadcast_to(~np.isnan(values)[:, None], drawn.shape)
    np.testing.assert_array_equal(drawn[seen], np.broadcast_to(values[:, None], drawn.shape)[seen])
    assert np.diff(drawn, axis=1)[~seen[:, 1:]].std() > 0


@pytest.mark.parametrize("solver", [ddim(), dpmpp(2), ddim(eta=1.0)], ids=["ddim", "dpmpp", "ancestral"])
def test_what_is_filled_in_keeps_to_the_range_of_its_feature(solver):
    """A new network takes no noise away, which at t = 1 puts the posterior mean at 170 standard deviations."""
    values = np.full((1, 8, 3), NAN)
    values[0, 0] = 1000.0
    imputing = Imputing(samples=30, steps=5, solver=solver)
    model = CSDI.new(TINY, units_of(levels(50)))
    assert model.units.span is not None
    drawn = draw(model, values, imputing)
    assert (drawn[0, :, 0] == 1000).all()
    low, high = model.units.span
    slack = 1e-5 * model.units.width
    assert (drawn[0, :, 1:] >= low - slack).all()
    assert (drawn[0, :, 1:] <= high + slack).all()
    free = draw(CSDI(TINY, model.units._replace(span=None), model.network), values, imputing)
    assert np.abs((free - model.units.centre) / model.units.width)[0, :, 1:].max() > 20


def test_a_model_without_a_range_is_saved(tiny, tmp_path):
    CSDI(tiny.config, tiny.units._replace(span=None), tiny.network).save(tmp_path / "model")
    assert CSDI.load(tmp_path / "model").units.span is None


def test_a_denoiser_with_a_mask_for_each_row(tiny):
    known, seen = tiny.batch(levels(4))
    mask = (Noise(1, range(4)).uniform(seen) < 0.5).float()
    x = torch.randn(4, 8, 3)
    denoiser = tiny.given(known, mask)
    mean = denoiser(x, torch.tensor(0.5)).mean
    assert torch.equal(mean[mask == 1], known[mask == 1])
    alone = [tiny.given(known[k, None], mask[k, None])(x[k, None], torch.tensor(0.5)).mean for k in range(4)]
    torch.testing.assert_close(mean, torch.cat(alone), rtol=1e-5, atol=1e-5)


def test_a_gradient_flows_through_the_denoiser(tiny):
    known, seen = tiny.batch(levels(1))
    mask = seen.clone()
    mask[0, 2] = 0
    x = torch.randn(2, 8, 3, requires_grad=True)
    tiny.given(known, mask)(x, torch.tensor(0.5)).mean.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad[0] != 0, mask[0] == 0)


def gappy(seed: int = 0) -> np.ndarray:
    values = levels(3, seed)
    return np.where(np.random.default_rng(seed).random(values.shape) < 0.4, NAN, values)


def test_a_window_does_not_depend_on_its_neighbours(tiny):
    values = gappy()
    together = draw(tiny, values, QUICK)
    for k in range(3):
        np.testing.assert_array_equal(together[k], draw(tiny, values[k, None], QUICK, [k])[0])
    np.testing.assert_array_equal(together, draw(tiny, values[::-1], QUICK, [2, 1, 0])[::-1])
    for rows in (1, 2):
        np.testing.assert_allclose(together, draw(tiny, values, replace(QUICK, rows=rows)), **ROUNDING)
    more = draw(tiny, values, replace(QUICK, samples=9))
    np.testing.assert_allclose(together, more[:, :5], **ROUNDING)


def test_samples_follow_the_seed_the_number_and_nothing_else(tiny):
    torch.manual_seed(1)
    first = draw(tiny, gappy(), QUICK)
    torch.manual_seed(2)
    np.testing.assert_array_equal(first, draw(tiny, gappy(), QUICK))
    for other in (draw(tiny, gappy(), QUICK, [5, 6, 7]), draw(tiny, gappy(), replace(QUICK, seed=1))):
        assert np.abs(first - other).mean() > 1e-3


def test_side_information_is_computed_once_a_window(tiny, monkeypatch):
    calls: list[int] = []
    sides = CSDINet.sides
    monkeypatch.setattr(CSDINet, "sides", lambda self, mask: calls.append(len(mask)) or sides(self, mask))
    draw(tiny, gappy(), Imputing(samples=6, steps=20, rows=2))
    assert calls == [1, 1, 1]


def test_the_grid_lies_on_trained_steps():
    for steps in (1, 2, 7, 20, 50):
        times = trained_times(50, steps)
        assert (len(times), float(times[0]), float(times[-1])) == (steps + 1, 1.0, 0.0)
        torch.testing.assert_close(times * 50, (times * 50).round(), rtol=0, atol=1e-12)
        assert bool((times.diff() < 0).all())
    for steps in (0, 51):
        with pytest.raises(InputError, match="steps must be between 1 and 50"):
            trained_times(50, steps)


def test_progress_is_told(tiny):
    told: list[tuple[int, int]] = []
    draw(tiny, gappy()[:2], replace(QUICK, rows=3), report=lambda done, total: told.append((done, total)))
    assert told == [(3, 10), (5, 10), (8, 10), (10, 10)]


def test_requests_that_cannot_be_met(tiny):
    with pytest.raises(InputError, match=r"windows are \(7, 3\); this model expects \(8, 3\)"):
        draw(tiny, levels(1)[:, :7], QUICK)
    with pytest.raises(InputError, match="steps must be between 1 and 20, but is 50"):
        draw(tiny, gappy(), Imputing())
    for make in (lambda: Imputing(samples=0), lambda: Imputing(steps=0), lambda: Imputing(rows=0)):
        with pytest.raises(InputError, match=r"(samples|steps|rows) must be at least 1, but is 0"):
            make()
    with pytest.raises(ValueError, match=r"the centre of the units is \(2,\), expected \(3,\)"):
        CSDI.new(TINY, units_of(np.zeros((4, 2))))


def test_a_network_that_gives_no_number_is_named():
    class Broken(GaussianNetwork):
        def forward(self, x: Tensor, t: Tensor, known: Tensor, mask: Tensor, sides: tuple[Tensor, ...]) -> Tensor:
            return torch.full_like(x, NAN)

    schedule = DiscreteVP.from_betas(quadratic_betas(20, 1e-4, 0.5))
    model = standing_for(TINY, Broken(schedule, torch.zeros(1), torch.zeros(1)))
    with pytest.raises(InputError, match="sampling diverged"):
        draw(model, gappy(), QUICK)


# --- records of any length ---


def filled_with_starts(asked: list[int]) -> Callable[..., np.ndarray]:
    """Stands for `draw`: gaps are filled with the start of the window that fills them."""

    def drawn(model: CSDI, values: np.ndarray, imputing: Imputing, numbers: list[int], report: object) -> np.ndarray:
        assert np.isnan(values).any((1, 2)).all()
        asked.extend(numbers)
        starts = np.asarray(numbers, dtype=float)[:, None, None]
        return np.repeat(np.where(np.isnan(values), starts, values)[:, None], imputing.samples, axis=1)

    return drawn


@settings(deadline=None)
@given(st.data())
def test_each_gap_is_filled_from_a_window_around_it(data):
    count = data.draw(st.integers(1, 60))
    gaps = sorted(data.draw(st.sets(st.integers(0, count - 1))))
    values = np.random.default_rng(0).normal(size=(count, 3)) - 10
    values[gaps, 1] = NAN
    asked: list[int] = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(csdi, "draw", filled_with_starts(asked))
        out = impute(standing_for(TINY, Recording()), values, QUICK)
    assert out.shape == (5, count, 3)
    seen = ~np.isnan(values)
    assert (out[:, seen] == values[seen]).all()
    last = max(0, count - 8)
    for row in gaps:
        (start,) = set(out[:, row, 1].tolist())
        assert 0 <= start <= last
        # A quarter of a window on either side, unless the record ends there.
        assert start + 2 <= row or start == 0
        assert row < start + 6 or start == last
    assert set(asked) == set(out[0, gaps, 1].tolist())
    assert len(asked) == len(set(asked))


def test_a_long_record(tiny):
    truth = np.concatenate([levels(1, seed=3)[0]] * 4)
    values = truth.copy()
    values[[0, 5, 13, 14, 31]] = NAN
    values[20:26, 0] = NAN
    told: list[tuple[int, int]] = []
    out = impute(tiny, values, Imputing(40, 20), lambda done, total: told.append((done, total)))
    error = np.abs(np.median(out, axis=0) - truth) / tiny.units.width
    assert error[np.isnan(values)].mean() < 0.4
    assert told[-1][0] == told[-1][1]
    short = impute(tiny, values[:6], Imputing(40, 20))
    assert short.shape == (40, 6, 3)
    assert (np.abs(np.median(short, axis=0) - truth[:6]) / tiny.units.width).mean() < 0.4
    whole = impute(tiny, truth, QUICK)
    np.testing.assert_array_equal(whole, np.broadcast_to(truth, whole.shape))


# --- training data ---


def test_every_start_of_every_record_is_as_likely():
    records = [np.arange(3.0 * n).reshape(n, 3) for n in (8, 5, 10)]
    model = standing_for(TINY, Recording())
    stretches = RandomStretches(records, model, seed=1)
    values, _ = stretches(range(4000))
    starts, counts = np.unique(np.stack([values[:, 0, 0], values[:, -1, 0]]).T, axis=0, return_counts=True)
    # The record of 8 has one start, that of 10 three, that of 5 none.
    assert starts.tolist() == [[0, 21], [3, 24], [6, 27]]
    np.testing.assert_allclose(counts / 4000, [1 / 2, 1 / 4, 1 / 4], atol=0.04)
    torch.testing.assert_close(stretches([7, 3])[0], values[[7, 3]])


def test_records_that_cannot_be_trained_on(tmp_path):
    chosen = recipe(tmp_path, steps=1, device="cpu")
    with pytest.raises(InputError, match="the longest record has 7 times; training needs at least 8"):
        fit(TINY, [levels(1)[0, :7]], chosen)
    with pytest.raises(InputError, match=r"a record is \(8, 2\); expected 3 features"):
        RandomStretches([levels(1)[0, :, :2]], standing_for(TINY, Recording()))
    with pytest.raises(InputError, match="lr must be at least 0"):
        recipe(tmp_path, steps=1, lr=-1.0)


# --- files ---


def test_saved_and_loaded(tiny, tmp_path):
    model = CSDI(tiny.config, tiny.units._replace(names=("a", "b", "c"), step="h"), tiny.network)
    model.save(tmp_path / "model")
    again = CSDI.load(tmp_path / "model")
    assert again.config == tiny.config
    assert again.units[3:] == (("a", "b", "c"), "h")
    for mine, other in zip(model.units[:3], again.units[:3], strict=True):
        np.testing.assert_array_equal(mine, other)
    assert not again.network.training
    assert not any(weight.requires_grad for weight in again.network.parameters())
    np.testing.assert_array_equal(draw(again, gappy(), QUICK), draw(tiny, gappy(), QUICK))


def test_a_new_model_follows_its_seed_and_leaves_torchs_alone():
    before = torch.random.get_rng_state()
    units = units_of(levels(2))
    weights = [CSDI.new(TINY, units, seed).network.state_dict() for seed in (1, 1, 2)]
    assert torch.equal(before, torch.random.get_rng_state())
    same = [all(torch.equal(w[name], weights[0][name]) for name in w) for w in weights]
    assert same == [True, True, False]


def changed(folder: Path, **values: object) -> None:
    about = json.loads((folder / "config.json").read_text())
    about["config"] |= values
    about["config"] = {name: value for name, value in about["config"].items() if value is not None}
    (folder / "config.json").write_text(json.dumps(about))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"depth": 3}, "not that of a CSDI model"),
        ({"centre": None}, "not that of a CSDI model"),
        ({"centre": ["x", 1, 2]}, "not that of a CSDI model"),
        ({"centre": [1.0]}, "not that of a CSDI model"),
        ({"span": [1.0]}, "not that of a CSDI model"),
        ({"heads": 3}, "not that of a CSDI model"),
        ({"channels": 32}, "does not fit the network"),
    ],
)
def test_a_configuration_of_something_else(tiny, tmp_path, values, message):
    tiny.save(tmp_path / "model")
    changed(tmp_path / "model", **values)
    with pytest.raises(InputError, match=message):
        CSDI.load(tmp_path / "model")
