"""Priors: what they are told of cameras, blocks of conditions, pixels, and known objects as one."""

from __future__ import annotations

import pytest
import torch

from degauss.core.errors import InputError
from degauss.core.oracle import GaussianOracle
from degauss.threed.cameras import Cameras
from degauss.threed.oracle_prior import OraclePrior, direction
from degauss.threed.oracle_views import OracleViews
from degauss.threed.prior import Condition, HasNetwork, Prior, block_rows, decode_pixels, encode_pixels
from degauss.threed.rendering import render
from degauss.threed.views import Views
from degauss.threed.volume import Blob, March
from degauss.threed.voxels import VoxelConfig, Voxels

from ._distilling import SCHEDULE, asked

AZIMUTH = torch.tensor([0.0, 90.0, 180.0])
LEVEL = torch.zeros(3)
IMAGES = torch.rand(2, 3, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
STATES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
TIMES = torch.tensor([0.4, 0.8], dtype=torch.float64)
SEEN = Views(torch.tensor([80.0, 0.0]), torch.zeros(2))


def known(std: float = 0.1) -> OracleViews:
    return OracleViews(
        {name: OraclePrior(SCHEDULE, IMAGES[i], AZIMUTH, LEVEL, 20.0, std) for i, name in enumerate(("cat", "dog"))}
    )


def test_views_are_of_cameras():
    cameras = Cameras.orbit(torch.tensor([10.0, -120.0]), torch.tensor([0.0, 30.0]), 2.0)
    views = Views.of(cameras)
    assert views.azimuth.tolist() == pytest.approx([10.0, -120.0], abs=1e-4)
    assert views.elevation.tolist() == pytest.approx([0.0, 30.0], abs=1e-4)
    assert torch.allclose(2 * views.direction, cameras.place.double(), atol=1e-5)
    assert torch.allclose(views.direction, direction(views.azimuth, views.elevation))
    assert views[[1]].azimuth.tolist() == pytest.approx([-120.0], abs=1e-4)
    assert views.at(45.0).azimuth.tolist() == [45.0, 45.0]
    assert torch.equal(views.at(45.0).elevation, views.elevation)
    assert len(views.to("cpu")) == 2
    with pytest.raises(ValueError, match=r"\[2\] and \[3\]"):
        Views(torch.zeros(2), torch.zeros(3))


def test_blocks_must_fit():
    assert block_rows(6, [Condition("a"), Condition(None), Condition("b", SEEN)]) == 2
    with pytest.raises(ValueError, match="5 rows do not fit 2 conditions"):
        block_rows(5, [Condition("a"), Condition(None)])
    with pytest.raises(ValueError, match=r"views of \[2\] rows"):
        block_rows(3, [Condition("a", SEEN)])


def test_pixels_and_back():
    rgb = torch.rand(2, 16, 16, 3, generator=torch.Generator().manual_seed(0))
    normal = torch.randn(2, 16, 16, 3, generator=torch.Generator().manual_seed(1))
    x0 = encode_pixels(rgb, normal, 16, 6)
    assert torch.allclose(x0[:, :3].movedim(1, -1), 2 * rgb - 1)
    assert torch.allclose(x0[:, 3:].movedim(1, -1), normal)
    assert torch.allclose(decode_pixels(x0), rgb, atol=1e-6)
    assert encode_pixels(rgb, normal, 16).shape == (2, 3, 16, 16)
    # Resizing keeps the mean, and a constant; and it is differentiable.
    assert float(encode_pixels(rgb, normal, 8).mean()) == pytest.approx(float((2 * rgb - 1).mean()), abs=0.01)
    flat = encode_pixels(torch.full((1, 16, 16, 3), 0.3, requires_grad=True), normal[:1], 8)
    assert torch.allclose(flat, torch.full_like(flat, -0.4))
    assert flat.requires_grad
    with pytest.raises(ValueError, match="3 channels, or 6"):
        encode_pixels(rgb, normal, 16, 4)


def test_it_is_a_prior():
    prior: Prior = known()
    assert (prior.size, prior.channels, prior.vocabulary) == (8, 3, ("cat", "dog"))
    assert not isinstance(prior, HasNetwork)
    prior.check("dog")
    with pytest.raises(InputError, match=r"'cat', 'dog'.*'dig' \(did you mean"):
        prior.check("dig")
    with pytest.raises(InputError, match="the prompt must be one of"):
        prior.together((Condition("mouse"),))


def test_each_object_is_its_own_and_all_are_all():
    prior = known()
    one = prior.objects["dog"](STATES, TIMES, azimuth=SEEN.azimuth, elevation=SEEN.elevation).mean
    assert torch.equal(prior.denoiser("dog", views=SEEN)(STATES, TIMES).mean, one)
    assert torch.equal(prior.denoiser("dog")(STATES, TIMES).mean, prior.objects["dog"](STATES, TIMES).mean)
    everything = OraclePrior(SCHEDULE, IMAGES.flatten(0, 1), AZIMUTH.repeat(2), LEVEL.repeat(2), 20.0, 0.1)
    assert torch.allclose(prior.unconditional()(STATES, TIMES).mean, everything(STATES, TIMES).mean, atol=1e-12)


def test_together_is_one_after_the_other():
    prior = known()
    conditions = (Condition("cat", SEEN), Condition(None, SEEN), Condition("dog"))
    found = prior.together(conditions)(STATES.repeat(3, 1, 1, 1), TIMES.repeat(3)).mean
    alone = [prior.together((condition,))(STATES, TIMES).mean for condition in conditions]
    assert torch.equal(found, torch.cat(alone))
    middle = torch.tensor(0.5, dtype=torch.float64)
    assert torch.allclose(
        prior.together(conditions)(STATES.repeat(3, 1, 1, 1), middle).mean[:2],
        prior.together(conditions[:1])(STATES, middle.expand(2)).mean,
    )


def test_guidance_is_core_s():
    prior = known()
    strong, weak = prior.denoiser("cat", 1.0, SEEN)(STATES, TIMES).mean, prior.unconditional(SEEN)(STATES, TIMES).mean
    found = prior.denoiser("cat", 3.0, SEEN)(STATES, TIMES).mean
    assert torch.allclose(found, weak + 3 * (strong - weak), atol=1e-12)


def test_one_image_is_a_gaussian():
    one = OracleViews({"cat": OraclePrior(SCHEDULE, IMAGES[0, :1], AZIMUTH[:1], LEVEL[:1], std=0.2)})
    expected = GaussianOracle(SCHEDULE, IMAGES[0, 0], 0.2)(STATES, TIMES).mean
    assert torch.allclose(one.denoiser("cat", 5.0)(STATES, TIMES).mean, expected, atol=1e-12)


def test_from_renders():
    ball = Voxels(VoxelConfig(8, blob=Blob(10, 0.3), march=March(8)))
    cameras = Cameras.orbit(torch.tensor([0.0, 90.0, 180.0]), 10.0, size=8)
    prior = OracleViews.of(SCHEDULE, {"ball": ball}, cameras, channels=6, at_once=2)
    with torch.no_grad():
        seen = render(ball, cameras)
    expected = encode_pixels(seen.rgb, seen.normal, 8, 6)
    assert torch.allclose(prior.objects["ball"].images, expected, atol=1e-6)
    assert torch.allclose(prior.encode(seen.rgb, seen.normal), expected)
    assert torch.allclose(prior.decode(expected), seen.rgb.clamp(0, 1), atol=1e-6)


def test_objects_that_do_not_go_together():
    other = OraclePrior(SCHEDULE, IMAGES[1, :, :, :4, :4], AZIMUTH, LEVEL, 20.0, 0.1)
    with pytest.raises(ValueError, match="square images of one size"):
        OracleViews({"cat": known().objects["cat"], "dog": other})
    with pytest.raises(ValueError, match="one or more objects"):
        OracleViews({})
    assert asked().views is None
