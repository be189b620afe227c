"""The prior of slices: one network for every schedule, what it refuses, its training against closed forms, its card."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from degauss.core.checkpoint import save_model
from degauss.core.errors import InputError
from degauss.core.nets.ncsnpp import NCSNppConfig
from degauss.core.noise import Noise
from degauss.core.schedule import EDM, VE, Cosine, LinearVP, Schedule
from degauss.core.train import TrainConfig
from degauss.medical.acquisition import CartesianGeometry, CTGeometry
from degauss.medical.geometry import Grid, ParallelBeam, evenly
from degauss.medical.prior import FULL, SHIPPED, SMALL, PriorConfig, SlicePrior, find_prior, shipped_priors
from degauss.medical.prior_plots import curve
from degauss.medical.prior_quality import blurred, denoising, drawn, low_pass, metrics, nearest, wiener
from degauss.medical.prior_training import DenoisingLoss, card_of, fit, recipe, root_mean_square
from degauss.medical.scans import Scan
from degauss.medical.slices import Cuts, Slices, Source
from degauss.medical.volumes import CT_FULL, upright_place

NET = NCSNppConfig(channels=8, multipliers=(1, 2), attention=False, patch=2)
CONFIG = PriorConfig("ct", CT_FULL, NET, size=16, spacing=(1.0, 4.0), sigma_data=0.4, noise=(0.01, 50.0))
SCHEDULES = [LinearVP(), Cosine(), VE(0.01, 50.0), EDM(80.0)]


def stirred(config: PriorConfig = CONFIG, seed: int = 0) -> SlicePrior:
    """A prior with weights as if trained: what begins at zero does not stay there."""
    prior = SlicePrior.new(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in prior.network.parameters():
            weight.copy_(0.2 * torch.randn(weight.shape, generator=generator))
    prior.network.eval().requires_grad_(False)
    return prior


def field(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def discs(batch: int = 4, seed: int = 0) -> Slices:
    """Slices with a disc of one of three values, 16 x 16 pixels of 1 mm."""
    place = torch.arange(40) - 19.5
    inside = (place[:, None] ** 2 + place**2 < 6.0**2).float()
    sources = tuple(Source((value * inside).expand(3, -1, -1).clone(), (1.0, 1.0)) for value in (0.4, 0.8, 1.0))
    return Slices(sources, Cuts(sizes=(16,), view=(16.0, 24.0), shift=0.1), batch, seed)


# --- the denoiser ---


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: type(schedule).__name__)
def test_one_network_serves_every_schedule(schedule: Schedule) -> None:
    """x_t / alpha of one schedule is the state of another at the same signal-to-noise ratio."""
    prior, x0, eps = stirred(), field(3, 1, 16, 12), field(3, 1, 16, 12, seed=1)
    for sigma in (0.02, 0.3, 5.0):
        edm = EDM(80.0)
        want = prior.denoiser(edm)(x0 + sigma * eps, edm.time(torch.tensor(-2 * math.log(sigma)))).mean
        t = schedule.time(torch.tensor(-2 * math.log(sigma), dtype=torch.float64))
        alpha, noise = (float(scale) for scale in schedule(t))
        found = prior.denoiser(schedule)(alpha * x0 + noise * eps, t).mean
        torch.testing.assert_close(found, want, rtol=1e-3, atol=1e-4)
        assert float((want - x0).abs().max()) > 1e-3


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: type(schedule).__name__)
def test_a_prior_that_says_nothing_is_that_of_white_slices(schedule: Schedule) -> None:
    """Of N(0, s^2) the posterior mean is alpha s^2 x / (alpha^2 s^2 + sigma^2), where a new network is exact."""
    prior, x = SlicePrior.new(CONFIG), field(2, 1, 16, 16)
    for t in (0.1, 0.6, torch.tensor([0.3, 0.9])):
        t = torch.as_tensor(t, dtype=torch.float64)
        alpha, sigma = schedule(t)
        weight = alpha * 0.4**2 / (alpha**2 * 0.4**2 + sigma**2)
        want = weight.float().reshape(-1, 1, 1, 1) * x
        torch.testing.assert_close(prior.denoiser(schedule)(x, t).mean.detach(), want)


def test_levels_beyond_the_training_are_told_as_the_nearest() -> None:
    told: list[Tensor] = []

    class Listening(nn.Module):
        def forward(self, x: Tensor, level: Tensor) -> Tensor:
            told.append(level)
            return torch.zeros_like(x)

    prior = SlicePrior(CONFIG, Listening())
    denoiser, x = prior.denoiser(EDM(1000.0)), field(3, 1, 8, 8)
    denoiser(x, torch.tensor([0.001, 1e-9, 1.0], dtype=torch.float64))
    want = torch.tensor([1.0, 0.01, 50.0]).log() / 4
    torch.testing.assert_close(told[0], want)
    # Pure noise, at which the ratio is infinite, and no noise at all.
    assert bool(torch.isfinite(prior.denoiser(Cosine())(x, torch.tensor(1.0, dtype=torch.float64)).mean).all())
    torch.testing.assert_close(prior.denoiser(Cosine())(x, torch.tensor(0.0, dtype=torch.float64)).mean, x)
    assert all(bool(torch.isfinite(level).all()) for level in told)


def test_a_volume_is_its_slices() -> None:
    prior, x, t = stirred(), field(2, 5, 16, 12), torch.tensor(0.4, dtype=torch.float64)
    whole = prior.on_volumes(LinearVP(), chunk=3)(x, t).mean
    single = prior.denoiser(LinearVP())
    for batch in range(2):
        for k in range(5):
            torch.testing.assert_close(whole[batch, k], single(x[batch, k][None, None], t).mean[0, 0])


def test_gradients_pass_through_to_the_state() -> None:
    prior, x = stirred(), field(1, 1, 16, 16).requires_grad_()
    mean = prior.denoiser(VE())(x, torch.tensor(0.5, dtype=torch.float64)).mean
    (gradient,) = torch.autograd.grad(mean[0, 0, 8, 8], x)
    assert int((gradient != 0).sum()) > 100


# --- files ---


def test_a_saved_prior_is_the_same(tmp_path: Path) -> None:
    prior, x, t = stirred(), field(1, 1, 16, 16), torch.tensor(0.4, dtype=torch.float64)
    prior.save(tmp_path / "prior", {"about": "discs"})
    loaded = SlicePrior.load(tmp_path / "prior")
    assert loaded.config == prior.config
    assert torch.equal(loaded.denoiser(VE())(x, t).mean, prior.denoiser(VE())(x, t).mean)
    assert json.loads((tmp_path / "prior" / "card.json").read_text()) == {"about": "discs"}
    assert not any(weight.requires_grad for weight in loaded.network.parameters())
    assert find_prior(tmp_path / "prior") == tmp_path / "prior"


def test_what_is_no_prior_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no prior 'heart'"):
        find_prior("heart")
    save_model(tmp_path / "other", {"w": torch.zeros(1)}, "degauss.audio/enhancer", {})
    with pytest.raises(InputError, match=r"'degauss\.medical/slice-prior' was expected"):
        SlicePrior.load(tmp_path / "other")
    prior = stirred()
    values: dict[str, Any] = asdict(CONFIG)
    for name, value, message in (
        ("network", {"channels": 6, "multipliers": [1]}, "multiple of 4"),
        ("sigma_data", -1.0, "sigma_data"),
        ("strange", 1, "strange"),
        ("network", {**asdict(NET), "patch": 1}, "does not fit the network"),
    ):
        save_model(tmp_path / "bad", prior.network, "degauss.medical/slice-prior", {**values, name: value})
        with pytest.raises(InputError, match=message):
            SlicePrior.load(tmp_path / "bad")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"modality": "pet"}, "modality must be one of 'ct', 'mr'"),
        ({"size": 4}, "size must be at least 8"),
        ({"spacing": (3.0, 1.0)}, "spacing must be two numbers"),
        ({"noise": (0.0, 1.0)}, "noise must be two numbers"),
        ({"full": 0.0}, "full must be a number above 0"),
        ({"sigma_data": math.nan}, "sigma_data must be a number above 0"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(wrong: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(CONFIG, **wrong)


# --- scans ---


def scan(modality: str = "ct", spacing: tuple[float, float] = (2.0, 2.0), full: float = CT_FULL) -> Scan:
    place = upright_place((1, 8, 8), (3.0, *spacing))
    if modality == "mr":
        geometry = CartesianGeometry((8, 8), torch.ones(8), real=True)
        return Scan(torch.zeros(1, 2, 8, 8), geometry, 0.0, None, full, "arbitrary", 1, place, place.spacing)
    grid = Grid(8, 8, spacing)
    beam = ParallelBeam.covering(grid, evenly(4, 180.0))
    y = torch.zeros(1, *beam.shape)
    return Scan(y, CTGeometry(grid, beam), 0.0, None, full, "HU", 1, place, place.spacing)


def test_a_scan_that_the_prior_knows_is_accepted() -> None:
    prior = SlicePrior.new(CONFIG)
    for spacing in ((2.0, 2.0), (1.0, 4.0), (1.0 - 1e-8, 1.0)):
        prior.check(scan(spacing=spacing))
    # An MR scan brings its own scale.
    SlicePrior.new(replace(CONFIG, modality="mr", full=1.0)).check(scan("mr", full=812.0))


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (scan("mr", full=1.0), "the scan is of MR, but this prior knows CT"),
        (scan(spacing=(0.5, 2.0)), "pixels are 0.5 x 2 mm, but this prior knows 1 to 4 mm"),
        (scan(spacing=(2.0, 4.5)), "pixels are 2 x 4.5 mm"),
        (scan(full=0.02), "x = 1 stands for 0.02 per mm in the scan, but for 0.0386"),
    ],
)
def test_a_scan_that_it_does_not_know_is_refused(found: Scan, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        SlicePrior.new(CONFIG).check(found)
    assert str(caught.value).count(". ") == 0


# --- training ---


def test_the_loss_of_a_network_that_says_nothing_is_one() -> None:
    """Its target has unit variance at every level, of data of root mean square sigma_data."""
    x0, loss = 0.4 * field(64, 1, 16, 16), DenoisingLoss(CONFIG)
    network = SlicePrior.new(CONFIG).network
    for sigma in (0.01, 0.4, 20.0):
        found = loss.at(network, x0, torch.full((64,), sigma, dtype=torch.float64), Noise(0, range(64)))
        assert float(found.detach().mean()) == pytest.approx(1.0, abs=0.03)


def test_the_loss_of_the_truth_is_zero() -> None:
    """A network that knows x0 and the noise gives back its target."""
    x0, sigma, noise = 0.4 * field(4, 1, 8, 8), torch.tensor([0.02, 0.3, 1.0, 30.0]), Noise(3, range(4))
    eps = noise.normal(x0)

    class Knowing(nn.Module):
        def forward(self, x: Tensor, level: Tensor) -> Tensor:
            s = sigma.reshape(-1, 1, 1, 1)
            norm = (s**2 + 0.4**2).sqrt()
            torch.testing.assert_close(x, (x0 + s * eps) / norm)
            torch.testing.assert_close(level, sigma.log() / 4)
            return (s * x0 - 0.4**2 * eps) / (0.4 * norm)

    assert float(DenoisingLoss(CONFIG).at(Knowing(), x0, sigma.double(), noise).max()) < 1e-8


def test_levels_are_two_kinds_in_the_range() -> None:
    loss = DenoisingLoss(CONFIG)
    levels = loss.levels(Noise(0, range(20000)), torch.device("cpu"))
    assert float(levels.min()) >= 0.01
    assert float(levels.max()) <= 50.0
    middle = 0.6 * 0.4
    # Four in five around the middle with 1.4; one in five even in log from 0.01 to 50.
    share = 0.5 * 0.8 + 0.2 * math.log(middle / 0.01) / math.log(5000)
    assert float((levels < middle).double().mean()) == pytest.approx(share, abs=0.01)
    high = 0.2 * math.log(50 / 20) / math.log(5000)
    assert float((levels > 20).double().mean()) == pytest.approx(high, abs=0.005)
    # Those of one batch are spread out.
    batch = loss.levels(Noise(0, range(40, 48)), torch.device("cpu"))
    assert float((batch < middle).sum()) in (3, 4, 5)
    assert torch.equal(loss.levels(Noise(0, [44]), torch.device("cpu"))[0], batch[4])


def test_the_root_mean_square_is_about_zero() -> None:
    data = discs()
    parts = torch.cat([data(range(4 * k, 4 * k + 4)) for k in range(64)]).double()
    assert root_mean_square(data) == pytest.approx(float(parts.square().mean().sqrt()))
    assert root_mean_square(data) > float(parts.std())


def small(out: Path, steps: int) -> TrainConfig:
    return replace(recipe(out, steps=steps, batch=4, save_every=3, device="cpu"), schedule="constant", warmup=0)


def test_a_run_that_was_stopped_goes_on_bit_for_bit(tmp_path: Path) -> None:
    data, held_out = discs(), discs(seed=1)
    config = replace(CONFIG, sigma_data=root_mean_square(data))
    whole = fit(config, data, held_out, small(tmp_path / "whole", 6))

    half = tmp_path / "half"
    fit(config, data, held_out, small(half, 3))
    resumed = fit(config, data, held_out, small(half, 6))
    for name, value in whole.network.state_dict().items():
        assert torch.equal(resumed.network.state_dict()[name], value), name
    lines = [json.loads(line) for line in (half / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "held_out_loss" in line] == [3, 6]


def test_a_run_of_other_volumes_is_not_gone_on_with(tmp_path: Path) -> None:
    fit(CONFIG, discs(), None, small(tmp_path, 1))
    with pytest.raises(InputError, match=r"sigma_data = 0\.4, but sigma_data = 0\.5 is asked for"):
        fit(replace(CONFIG, sigma_data=0.5), discs(), None, small(tmp_path, 2))


def test_training_learns_discs(tmp_path: Path) -> None:
    """After a few seconds the loss on other discs is far below 1, and noise leaves where the data are sure."""
    data, held_out = discs(batch=8), discs(seed=5)
    config = replace(CONFIG, sigma_data=root_mean_square(data), network=replace(NET, channels=16))
    settings = replace(small(tmp_path, 80), batch_size=8, lr=3e-3, ema=0.9, evaluate_every=80)
    prior = fit(config, data, held_out, settings)
    (_, loss), *others = curve(tmp_path / "metrics.jsonl", "held_out_loss")
    assert not others
    assert loss < 0.7
    clean = held_out.stack(range(32), 16)
    found, white = (denoising(one, clean, levels=(0.3,))[0] for one in (prior, SlicePrior.new(config)))
    assert found.prior < 0.75 * white.prior
    assert found.wiener == white.wiener


# --- what it is worth ---


def test_wiener_is_the_posterior_mean_of_a_stationary_field() -> None:
    """White slices of deviation s: errors of s sigma / sqrt(s^2 + sigma^2)."""
    clean = 1.0 + 0.5 * field(200, 1, 16, 16)
    noisy = clean + 0.3 * field(200, 1, 16, 16, seed=1)
    error = float((wiener(noisy, clean, 0.3) - clean).square().mean().sqrt())
    assert error == pytest.approx(0.5 * 0.3 / math.hypot(0.5, 0.3), rel=0.02)


def test_the_low_pass_is_the_best_of_its_kind() -> None:
    smooth = blurred(field(4, 1, 32, 32), 3.0) * 10
    noisy = smooth + 0.5 * field(4, 1, 32, 32, seed=1)
    best = float((low_pass(noisy, smooth) - smooth).square().mean())
    assert best < 0.3 * float((noisy - smooth).square().mean())
    assert all(best <= float((blurred(noisy, w) - smooth).square().mean()) * 1.1 for w in (0.5, 1.0, 2.0, 4.0))
    assert torch.equal(low_pass(smooth, smooth), smooth)
    # A Gaussian keeps the mean and what does not vary.
    torch.testing.assert_close(blurred(torch.ones(1, 1, 8, 8), 2.0), torch.ones(1, 1, 8, 8))


def test_a_copy_has_no_distance() -> None:
    training = discs().stack(range(20), 16)
    copies = torch.cat([training[3:4], training[5:6].flip(-1)])
    assert float(nearest(copies, training).max()) < 1e-6
    assert float(nearest(copies + 0.25, training).min()) > 0.1
    assert float(nearest(torch.full((1, 1, 16, 16), 3.0), torch.zeros(4, 1, 16, 16))) == pytest.approx(3.0)


def test_samples_of_white_slices_are_white() -> None:
    """What a network that says nothing draws is N(0, s^2); and sample i is itself whatever is drawn beside it."""
    prior = SlicePrior.new(CONFIG)
    samples = drawn(prior, 20, 16, steps=40)
    assert samples.shape == (20, 1, 16, 16)
    assert float(samples.std()) == pytest.approx(0.4, rel=0.05)
    assert float(samples.mean()) == pytest.approx(0.0, abs=0.03)
    torch.testing.assert_close(drawn(prior, 3, 16, steps=40), samples[:3])


def test_the_card_says_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("degauss.medical.prior_quality._TRAINING", 32)
    data, held_out, prior = discs(), discs(seed=1), stirred()
    card = card_of(prior, data, held_out, small(tmp_path, 7), {"volumes": 3})
    assert card["steps"] == 7
    assert card["slices"] == {"training": 9, "held_out": 9}
    assert card["parameters"] == sum(weight.numel() for weight in prior.network.parameters())
    assert card["knows"].startswith("axial slices of CT, 16 x 16 pixels of 1 to 4 mm")
    (size,) = card["metrics"]["by_size"]
    assert size["size"] == 16
    sigmas = [row["sigma"] for row in size["denoising"]]
    assert sigmas == sorted(sigmas)
    assert all(row["wiener"] < row["sigma"] for row in size["denoising"])
    assert set(metrics(prior, data, held_out, count=2)) == {"what", "by_size"}
    json.dumps(card, allow_nan=False)


# --- what ships ---


def test_the_small_network_is_small() -> None:
    network = SlicePrior.new(PriorConfig("ct", FULL["ct"], SMALL)).network
    assert sum(weight.numel() for weight in network.parameters()) * 4 < 5e6


@pytest.mark.parametrize("name", ["ct", "mr"])
def test_a_shipped_prior_is_what_its_card_says(name: str) -> None:
    if name not in shipped_priors():
        pytest.skip("no such prior ships yet")
    prior = SlicePrior.load(find_prior(name))
    card = json.loads((SHIPPED / name / "card.json").read_text())
    assert prior.config.modality == name
    assert prior.config.full == FULL["ct" if name == "ct" else "mr"]
    assert (SHIPPED / name / "model.safetensors").stat().st_size < 5.2e6
    assert card["parameters"] == sum(weight.numel() for weight in prior.network.parameters())
    # It beats the best linear filter at middle noise, on slices that it has not seen.
    for size in card["metrics"]["by_size"]:
        for row in size["denoising"]:
            if 0.1 <= row["sigma"] <= 1:
                assert row["prior"] < row["wiener"]
