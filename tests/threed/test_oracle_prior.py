"""The oracle prior against core's mixture, against its own score, and as a prior to distil from."""

from __future__ import annotations

import math

import pytest
import torch

from degauss.core.guide.classifier_free import TwoConditions
from degauss.core.noise import Noise
from degauss.core.oracle import MixtureOracle
from degauss.core.schedule import Cosine
from degauss.threed import oracle_prior
from degauss.threed.cameras import Cameras, Orbits, random_views
from degauss.threed.oracle_prior import OraclePrior, direction
from degauss.threed.rendering import render
from degauss.threed.volume import Blob, March
from degauss.threed.voxels import VoxelConfig, Voxels

SCHEDULE = Cosine()
COUNT, EVENT = 9, (3, 2, 2)
_generator = torch.Generator().manual_seed(0)
IMAGES = torch.rand(COUNT, *EVENT, generator=_generator, dtype=torch.float64)
AZIMUTH = torch.linspace(-160, 160, COUNT, dtype=torch.float64)
ELEVATION = torch.linspace(-40, 70, COUNT, dtype=torch.float64)
STATES = torch.randn(4, *EVENT, generator=_generator, dtype=torch.float64)
TIMES = torch.tensor([0.05, 0.3, 0.7, 0.95], dtype=torch.float64)
VIEW = {"azimuth": torch.tensor([10.0, -70.0, 100.0, 179.0]), "elevation": torch.tensor([0.0, 20.0, 60.0, -30.0])}


def prior(width: float = 25.0, std: float = 0.0, images: torch.Tensor = IMAGES) -> OraclePrior:
    return OraclePrior(SCHEDULE, images, AZIMUTH, ELEVATION, width, std)


def mixture(weights: torch.Tensor, std: float) -> MixtureOracle:
    size = math.prod(EVENT)
    covariances = (std**2 * torch.eye(size, dtype=torch.float64)).expand(COUNT, size, size)
    return MixtureOracle(SCHEDULE, weights, IMAGES.flatten(1), covariances)


@pytest.mark.parametrize("std", [0.0, 0.2])
def test_without_a_view_it_is_core_s_mixture(std):
    expected = mixture(torch.ones(COUNT).double(), std)(STATES.flatten(1), TIMES).mean
    assert torch.allclose(prior(std=std)(STATES, TIMES).mean.flatten(1), expected, atol=1e-10)


@pytest.mark.parametrize("std", [0.0, 0.2])
def test_a_view_weighs_the_mixture(std):
    found = prior(std=std)(STATES, TIMES, **VIEW).mean
    for row in range(4):
        towards = direction(VIEW["azimuth"][row : row + 1], VIEW["elevation"][row : row + 1])[0]
        weights = torch.exp((direction(AZIMUTH, ELEVATION) @ towards - 1) / math.radians(25) ** 2)
        expected = mixture(weights, std)(STATES[row : row + 1].flatten(1), TIMES[row : row + 1]).mean
        assert torch.allclose(found[row].flatten(), expected[0], atol=1e-10)


def test_the_score_is_the_density_s():
    std, t = 0.3, TIMES[2]
    alpha, sigma = SCHEDULE(t)
    x = STATES.clone().requires_grad_()
    spread = alpha**2 * std**2 + sigma**2
    apart = (x.flatten(1)[:, None] - alpha * IMAGES.flatten(1)).square().sum(-1)
    (score,) = torch.autograd.grad((-0.5 * apart / spread).logsumexp(-1).sum(), x)
    mean = prior(std=std)(STATES, t).mean
    assert torch.allclose((alpha * mean - STATES) / sigma**2, score, atol=1e-10)


def test_directions_are_the_cameras_places():
    cameras = Cameras.orbit(AZIMUTH, ELEVATION, 2.5, dtype=torch.float64)
    assert torch.allclose(2.5 * direction(AZIMUTH, ELEVATION), cameras.place, atol=1e-12)


def test_limits():
    ends = torch.tensor(1.0, dtype=torch.float64)
    # All noise: the view's mean, or that of all images.
    assert torch.allclose(prior()(STATES, ends).mean, IMAGES.mean(0).expand_as(STATES), atol=1e-12)
    # No noise: the nearest image, or with some blur the state itself.
    clean = IMAGES[[3, 5]] + 0.01
    start = torch.tensor(0.0, dtype=torch.float64)
    schedule = Cosine(0.0)
    sharp = OraclePrior(schedule, IMAGES, AZIMUTH, ELEVATION)
    assert torch.allclose(sharp(clean, start).mean, IMAGES[[3, 5]], atol=1e-12)
    assert torch.allclose(OraclePrior(schedule, IMAGES, AZIMUTH, ELEVATION, std=0.1)(clean, start).mean, clean)
    # A narrow kernel: the one image seen from there, whatever the state; a wide one: no view at all.
    own = {"azimuth": AZIMUTH[2:3], "elevation": ELEVATION[2:3]}
    assert torch.allclose(prior(0.5)(STATES, TIMES, **own).mean, IMAGES[2].expand_as(STATES), atol=1e-12)
    wide = prior(1e7)
    assert torch.allclose(wide(STATES, TIMES, **VIEW).mean, wide(STATES, TIMES).mean, atol=1e-8)


def test_azimuths_meet_at_180():
    turned = {"azimuth": VIEW["azimuth"] + 360, "elevation": VIEW["elevation"]}
    assert torch.allclose(prior()(STATES, TIMES, **VIEW).mean, prior()(STATES, TIMES, **turned).mean, atol=1e-12)


def test_blocks_batches_and_precisions_change_nothing(monkeypatch):
    whole = prior(std=0.1)(STATES, TIMES, **VIEW).mean
    rows = torch.tensor([2, 0])
    part = prior(std=0.1)(STATES[rows], TIMES[rows], **{key: value[rows] for key, value in VIEW.items()}).mean
    assert torch.allclose(whole[rows], part, atol=1e-12)
    single = prior(std=0.1, images=IMAGES.float())(STATES.float(), TIMES, **VIEW).mean
    assert single.dtype == torch.float32
    assert torch.allclose(single.double(), whole, atol=1e-5)
    monkeypatch.setattr(oracle_prior, "_NUMBERS_AT_ONCE", 4 * math.prod(EVENT))
    assert torch.allclose(prior(std=0.1)(STATES, TIMES, **VIEW).mean, whole, atol=1e-12)


def test_rows_without_a_view_stand_beside_rows_with_one():
    viewed = torch.tensor([1.0, 0.0, 1.0, 0.0])
    mixed = prior()(STATES, TIMES, **VIEW, viewed=viewed).mean
    with_view, without = prior()(STATES, TIMES, **VIEW).mean, prior()(STATES, TIMES).mean
    assert torch.allclose(mixed[[0, 2]], with_view[[0, 2]], atol=1e-12)
    assert torch.allclose(mixed[[1, 3]], without[[1, 3]], atol=1e-12)
    assert not torch.allclose(mixed[[0, 2]], without[[0, 2]], atol=1e-3)


def test_guidance_asks_for_both_at_once():
    keep, drop = torch.ones(4), torch.zeros(4)
    contrast = TwoConditions(prior(), {**VIEW, "viewed": keep}, {**VIEW, "viewed": drop})
    strong, weak = contrast(STATES, TIMES)
    assert torch.allclose(strong, prior()(STATES, TIMES, **VIEW).mean, atol=1e-12)
    assert torch.allclose(weak, prior()(STATES, TIMES).mean, atol=1e-12)


def test_what_cannot_be_a_prior():
    with pytest.raises(ValueError, match=r"\[k, c, h, w\]"):
        OraclePrior(SCHEDULE, IMAGES, AZIMUTH[:3], ELEVATION)
    with pytest.raises(ValueError, match=r"\[k, c, h, w\]"):
        OraclePrior(SCHEDULE, IMAGES[:0], AZIMUTH[:0], ELEVATION[:0])
    with pytest.raises(ValueError, match="width > 0"):
        prior(width=0.0)
    with pytest.raises(ValueError, match="std >= 0"):
        prior(std=math.nan)
    with pytest.raises(ValueError, match=r"\[3, 2, 2\].*\[3, 2, 3\]"):
        prior()(torch.zeros(1, 3, 2, 3), TIMES[0])
    with pytest.raises(ValueError, match="both an azimuth and an elevation"):
        prior()(STATES, TIMES, azimuth=VIEW["azimuth"])


def test_a_ball_is_distilled_from_its_views():
    """Score distillation, x - E[x0 | x_t], on the exact prior of a large two-coloured ball."""
    target = Voxels(VoxelConfig(12, blob=Blob(10, 0.4), march=March(16)))
    sides = torch.where(torch.linspace(-1, 1, 12) > 0, 3.0, -3.0)
    target.colour.data = torch.stack((sides, -sides, 0 * sides)).reshape(3, 1, 1, 12).expand(3, 12, 12, 12).clone()
    orbits = Orbits(elevation=(-20, 40), radius=(2.2, 2.2), fov=(40, 40))
    with torch.no_grad():
        cameras = random_views(Noise(1, range(200)), orbits, 16)
        known = OraclePrior.of(SCHEDULE, render(target, cameras).rgb, cameras, width=10.0)
        held_out = Cameras.orbit(torch.tensor([15.0, 130.0]), 10.0, size=16)
        unseen = render(target, held_out).rgb
    voxels = Voxels(VoxelConfig(12, march=March(16)))

    def psnr() -> float:
        with torch.no_grad():
            return float(-10 * (render(voxels, held_out).rgb - unseen).square().mean().log10())

    before = psnr()
    optimiser = torch.optim.Adam(voxels.parameters(), 0.2)
    for step in range(40):
        noise = Noise(2, range(4 * step, 4 * step + 4))
        views = random_views(noise, orbits, 16)
        image = render(voxels, views).rgb.movedim(-1, 1)
        t = 0.02 + 0.6 * noise.uniform(torch.empty(4, dtype=torch.float64), 1)
        azimuth, elevation = views.angles()
        with torch.no_grad():
            alpha, sigma = (part.float().reshape(-1, 1, 1, 1) for part in SCHEDULE(t))
            state = alpha * image + sigma * noise.normal(image, 2)
            wanted = known(state, t, azimuth=azimuth, elevation=elevation).mean
        optimiser.zero_grad()
        (image - wanted).square().mean().backward()
        optimiser.step()
    assert before < 18
    assert psnr() > 24
