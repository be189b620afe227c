"""Training an embedded prior: its levels, its loss, what it hides, and that a run goes on where it stopped."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from degauss.core.denoiser import Karras, expand
from degauss.core.errors import InputError
from degauss.core.nets.ncsnpp import NCSNppConfig
from degauss.core.noise import Noise
from degauss.threed.embedded_prior import EmbeddedConfig, EmbeddedPrior
from degauss.threed.prior_quality import (
    AZIMUTHS,
    ELEVATION,
    Truth,
    denoising_report,
    drawn,
    nearest,
    psnr,
    samples_report,
)
from degauss.threed.prior_training import DenoisingLoss, fit, recipe, root_mean_square
from degauss.threed.view_images import Batch, ViewImages, to_bytes
from degauss.threed.views import Views

NETWORK = NCSNppConfig(channels=8, multipliers=(1, 2), attention=False)
CONFIG = EmbeddedConfig(("red", "blue"), size=8, normals=False, network=NETWORK, sigma_data=0.8)


def flags(label: Tensor, azimuth: Tensor) -> Tensor:
    """Pictures ``[n, 3, 8, 8]`` in red or blue; seen from behind the lower half is white."""
    made = torch.full((len(label), 3, 8, 8), -1.0)
    made[torch.arange(len(label)), 2 * label] = 1.0
    behind = azimuth.abs() > 90
    made[behind, :, 4:] = 1.0
    return made


def data(count: int = 64) -> ViewImages:
    label = torch.arange(count) % 2
    azimuth = torch.linspace(-180, 180, count + 1)[1:]
    return ViewImages(to_bytes(flags(label, azimuth)), label, azimuth, torch.full((count,), ELEVATION))


def a_batch(count: int = 32) -> Batch:
    return data(count)(range(count))


class Answering(nn.Module):
    """A network that knows the one picture there is, and remembers what it was told."""

    def __init__(self, prior: EmbeddedPrior, x0: Tensor) -> None:
        super().__init__()
        self.prior, self.x0 = prior, x0
        self.told: Tensor | None = None

    def forward(self, x: Tensor, level: Tensor, told: Tensor) -> Tensor:
        self.told = told
        ratio = (4 * level.double()).exp()
        alpha = (1 + ratio**2).rsqrt()
        sigma = ratio * alpha
        prediction = Karras(self.prior.config.sigma_data)
        factor, _ = prediction.network_input(alpha, sigma, alpha)
        assert factor is not None
        skip, out = prediction.mean(alpha, sigma)
        x_t = x / expand(factor, x)
        return (self.x0 - expand(skip, x) * x_t) / expand(out, x)


# --- levels and loss ----------------------------------------------------------------------------------------


def test_levels_are_dense_at_high_noise_and_stay_in_the_span() -> None:
    loss = DenoisingLoss(EmbeddedPrior.new(CONFIG))
    t = loss.times(Noise(0, range(4000)), torch.device("cpu"))
    low, high = CONFIG.times
    assert t.min() > low
    assert t.max() < high
    u = torch.linspace(0, 1, 4002, dtype=torch.float64)[1:-1]
    torch.testing.assert_close(t.sort().values, low + (high - low) * (1 - (1 - u) ** 1.5), atol=2e-3, rtol=0)
    # The last tenth of the times has more than its share, the first less.
    assert (t > 0.9).double().mean() > 0.2
    assert (t < 0.1).double().mean() < 0.08


def test_saying_nothing_costs_one() -> None:
    """The target has unit variance where the data has the root mean square that the prior was told."""
    prior = EmbeddedPrior.new(CONFIG)
    x0 = 0.8 * torch.randn(256, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    label = torch.zeros(256, dtype=torch.long)
    losses = DenoisingLoss(prior)(prior.network, Batch(x0, label, label.float(), label.float()), Noise(0, range(256)))
    assert losses.shape == (256,)
    assert losses.mean().item() == pytest.approx(1.0, abs=0.03)


def test_the_perfect_answer_costs_nothing_at_any_level() -> None:
    prior, batch = EmbeddedPrior.new(CONFIG), a_batch(32)
    loss = DenoisingLoss(prior)
    t = torch.linspace(*CONFIG.times, 32, dtype=torch.float64)
    found = loss.at(Answering(prior, batch.x0), batch, t, Noise(0, range(32)))
    assert found.max() < 1e-4
    wrong = loss.at(Answering(prior, batch.x0.flip(1)), batch, t, Noise(0, range(32)))
    assert wrong.min() > 0.01


@pytest.mark.parametrize(("nameless", "viewless"), [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (0.25, 0.25)])
def test_names_and_views_are_left_out_in_their_shares_and_apart(nameless: float, viewless: float) -> None:
    prior, batch = EmbeddedPrior.new(CONFIG), data(2048)(range(2048))
    network = Answering(prior, batch.x0)
    DenoisingLoss(prior, nameless, viewless)(network, batch, Noise(0, range(2048)))
    assert network.told is not None
    named, seen = network.told[:, :2].sum(1), network.told[:, 2:].square().sum(1)
    torch.testing.assert_close(seen[seen > 0], torch.full_like(seen[seen > 0], 4.0))
    margin = 0.04
    assert (named == 0).double().mean().item() == pytest.approx(nameless, abs=margin)
    assert (seen == 0).double().mean().item() == pytest.approx(viewless, abs=margin)
    both = ((named == 0) & (seen == 0)).double().mean().item()
    assert both == pytest.approx(nameless * viewless, abs=margin)


def test_shares_are_between_none_and_all() -> None:
    with pytest.raises(InputError, match="the share of pictures without a name must be between 0 and 1"):
        DenoisingLoss(EmbeddedPrior.new(CONFIG), nameless=1.5)


def test_the_spread_of_the_data_is_measured() -> None:
    assert root_mean_square(data()) == pytest.approx(1.0)


# --- runs ---------------------------------------------------------------------------------------------------


def settings(out: Path, steps: int, **changes: Any) -> Any:
    return replace(recipe(out, steps=steps, batch=8, lr=5e-3, device="cpu"), warmup=2, **changes)


def test_a_run_that_stopped_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    constant = {"schedule": "constant", "save_every": 3}
    whole = fit(CONFIG, data(), None, settings(tmp_path / "whole", 6, **constant))
    fit(CONFIG, data(), None, settings(tmp_path / "parts", 3, **constant))
    parts = fit(CONFIG, data(), None, settings(tmp_path / "parts", 6, **constant))
    for (name, one), other in zip(whole.network.state_dict().items(), parts.network.state_dict().values(), strict=True):
        assert bool((one == other).all()), name


def test_a_directory_keeps_to_its_prior(tmp_path: Path) -> None:
    fit(CONFIG, data(), None, settings(tmp_path, 1))
    other = replace(CONFIG, vocabulary=("red", "green"))
    with pytest.raises(InputError, match="holds the training of a prior with vocabulary"):
        fit(other, data(), None, settings(tmp_path, 2))
    with pytest.raises(InputError, match=r"nameless = 0.12, but nameless = 0.5 is asked"):
        fit(CONFIG, data(), None, settings(tmp_path, 2), nameless=0.5)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> EmbeddedPrior:
    """A minute's learning of two flags in a few seconds."""
    return fit(CONFIG, data(), data(16), settings(tmp_path_factory.mktemp("run"), 200, ema=0.95))


@pytest.fixture(scope="module")
def truth() -> Truth:
    azimuth = torch.tensor(AZIMUTHS)
    wrapped = (azimuth + 180) % 360 - 180
    pictures = torch.stack([flags(torch.full((8,), label), wrapped) for label in (0, 1)])
    return Truth(pictures, pictures, Views(azimuth, torch.full((8,), ELEVATION)))


def test_what_it_draws_from_noise_is_the_named_object_from_the_asked_side(trained: EmbeddedPrior, truth: Truth) -> None:
    report = samples_report(trained, truth, guidance=1.0)
    assert report["right_word"] > 0.9
    made = drawn(trained, truth.views)
    clear = [0, 1, 3, 4, 5, 7]  # at 90 degrees the two sides meet
    lower_half_is_white = made[:, clear, 1, 4:].mean((-2, -1)) > 0
    behind = truth.pictures[:, clear, 1, 4:].mean((-2, -1)) > 0
    assert (lower_half_is_white == behind).double().mean() > 0.8
    # Must fail: a prior that has learned nothing.
    nothing = samples_report(EmbeddedPrior.new(CONFIG), truth, guidance=1.0)
    assert nothing["psnr"] < report["psnr"] - 3


def test_samples_do_not_depend_on_their_batch(trained: EmbeddedPrior, truth: Truth) -> None:
    made = drawn(trained, truth.views, steps=3)
    assert made.shape == (2, 8, 3, 8, 8)
    torch.testing.assert_close(drawn(trained, truth.views, steps=3), made, atol=0, rtol=0)


def test_telling_it_more_lowers_its_error(trained: EmbeddedPrior) -> None:
    rows = denoising_report(trained, data(32)(range(32)))
    late = rows[-1]
    assert late["told"] < 0.9 * late["without_word"]
    assert late["told"] < 0.9 * late["without_view"]
    assert late["told"] < late["mean_picture"]
    told = [row["told"] for row in rows]
    assert told[0] < told[-1]


# --- figures of merit ---------------------------------------------------------------------------------------


def test_psnr_is_that_of_colours_between_black_and_white() -> None:
    truth = torch.full((1, 6, 4, 4), 1.0)
    drawn = truth.clone()
    drawn[:, :3] = 0.8  # a tenth of the way to black
    drawn[:, 3:] = -1.0  # normals do not count
    assert psnr(drawn, truth).item() == pytest.approx(-20 * math.log10(0.1))
    assert psnr(3 * truth, truth).item() == math.inf


def test_the_nearest_true_picture_names_object_and_side(truth: Truth) -> None:
    random = torch.randn(3, 8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    distinct = Truth(random, random, truth.views)
    word, view = nearest(distinct.pictures + 0.1, distinct)
    assert word.tolist() == [[k] * 8 for k in range(3)]
    assert view.tolist() == [list(range(8))] * 3
    word, _ = nearest(distinct.pictures.roll(1, 0), distinct)
    assert word[:, 0].tolist() == [2, 0, 1]
