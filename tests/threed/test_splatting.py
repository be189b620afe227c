"""Compositing in plain torch, against a dense renderer in float64, finite differences and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from degauss.threed import splatting, splatting_gsplat
from degauss.threed.binning import bin_footprints
from degauss.threed.cameras import Cameras
from degauss.threed.gaussians import draw
from degauss.threed.projection import Cloud, Footprints, project
from degauss.threed.splatting import rasterise
from degauss.threed.tiers import TORCH, splat, tier, triton

from ._dense import cast, cloud_of, dense, gradients

VIEWS = Cameras.orbit(torch.tensor([20.0, 200.0]), 15.0, 2.2, 40.0, (20, 27), torch.float64)


def close(found: Tensor, expected: Tensor, relative: float, absolute: float = 0.0) -> None:
    """Within ``relative`` of the largest number, and ``absolute``."""
    off = float((found - expected).detach().abs().max())
    assert off <= relative * float(expected.detach().abs().max()) + absolute, off


@pytest.mark.parametrize("opaque", [False, True])
def test_images_and_gradients_are_those_of_the_dense_renderer(opaque: bool) -> None:
    cloud = cloud_of(25, opaque=opaque)
    image, alpha = dense(cloud, VIEWS)
    slow = gradients(cloud, image, alpha)
    fast = cast(cloud, torch.float64)
    there, covered, _ = splat(fast, VIEWS)
    close(there, image, 0, 1e-12)
    close(covered, alpha, 0, 1e-12)
    assert float(alpha.detach().max()) > (0.99 if opaque else 0.9)
    for found, expected in zip(gradients(fast, there, covered), slow, strict=True):
        close(found, expected, 1e-10)


def test_single_precision_is_close_to_double() -> None:
    cloud = cloud_of(60, degree=3, opaque=True)
    views = VIEWS.to(dtype=torch.float32)
    image, alpha, _ = splat(cloud, VIEWS)
    low = cast(cloud, torch.float32)
    there, covered, _ = splat(low, views)
    close(there, image, 0, 1e-4)
    close(covered, alpha, 0, 1e-4)
    for found, expected in zip(gradients(low, there, covered), gradients(cloud, image, alpha), strict=True):
        close(found, expected, 1e-3)


def test_gradients_are_those_of_finite_differences() -> None:
    views = Cameras.orbit(20.0, 15.0, 2.2, 40.0, (3, 4), torch.float64)
    cloud = cloud_of(4, degree=0, opaque=True)
    # Wide enough that no pixel is at the threshold of 1/255 and none ends.
    cloud = Cloud(*cloud[:1], (cloud.log_scales + 1.5).detach().requires_grad_(), *cloud[2:])

    def images(*parts: Tensor) -> tuple[Tensor, Tensor]:
        return splat(Cloud(*parts), views)[:2]

    assert torch.autograd.gradcheck(images, tuple(cloud), eps=1e-7, atol=1e-5, rtol=1e-4)


def test_the_walk_in_small_chunks_of_other_tiles_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    cloud = cloud_of(60, opaque=True)
    image, alpha, _ = splat(cloud, VIEWS)
    expected = gradients(cloud, image, alpha)
    monkeypatch.setattr(splatting, "TILE", 5)
    monkeypatch.setattr(splatting, "_CHUNK", 3)
    monkeypatch.setattr(splatting, "_AT_ONCE", {"cpu": 200})
    again, covered, _ = splat(cloud, VIEWS)
    close(again, image, 0, 1e-12)
    for found, value in zip(gradients(cloud, again, covered), expected, strict=True):
        close(found, value, 1e-10)


def ball(depth: float, scale: float, opacity: float, at: tuple[float, float] = (0.0, 0.0)) -> Cloud:
    """One ball seen by a camera at (0, 0, 2) that looks along -z, at ``depth`` from it."""
    logit = math.log(opacity / (1 - opacity))
    means = torch.tensor([[*at, 2.0 - depth]], dtype=torch.float64)
    return Cloud(
        means,
        torch.full((1, 3), math.log(scale), dtype=torch.float64),
        torch.tensor([[1.0, 0.0, 0.0, 0.0]], dtype=torch.float64),
        torch.tensor([logit], dtype=torch.float64),
        torch.zeros(1, 1, 3, dtype=torch.float64),
    )


FRONT = Cameras.orbit(0.0, 0.0, 2.0, 40.0, 33, torch.float64)


def test_one_ball_on_the_axis_is_a_round_bell() -> None:
    focal = float(FRONT.focal[0, 0])
    depth, scale, opacity = 1.7, 0.1, 0.8
    seen, _ = draw(ball(depth, scale, opacity), FRONT, torch.ones(3, dtype=torch.float64))
    variance = (focal * scale / depth) ** 2 + 0.3
    d = torch.arange(33, dtype=torch.float64) - 16
    alpha = opacity * torch.exp(-0.5 * (d[:, None] ** 2 + d**2) / variance)
    alpha = torch.where(alpha >= 1 / 255, alpha, 0)
    close(seen.alpha[0], alpha, 0, 1e-12)
    close(seen.rgb[0], (1 - 0.5 * alpha)[..., None].expand(-1, -1, 3), 0, 1e-12)
    close(seen.depth[0], depth * (alpha > 0).double(), 0, 1e-9)
    assert float(seen.normal.norm(dim=-1).sub(seen.alpha).abs().max()) < 1e-12


def test_where_and_how_deep_follow_the_cameras() -> None:
    cameras = Cameras.orbit(torch.tensor([0.0, 90.0, -30.0]), 20.0, 2.0, 40.0, 33, torch.float64)
    cloud = ball(1.9, 0.05, 0.9, (0.2, 0.1))
    x, y, depth = project(cloud, cameras).xy, cameras.project(cloud.means), cameras.project(cloud.means)[..., 2]
    close(x, y[..., :2], 1e-12)
    seen, _ = draw(cloud, cameras, torch.zeros(3, dtype=torch.float64))
    peak = seen.alpha.flatten(1).argmax(1)
    assert torch.equal(torch.stack((peak % 33, peak // 33), -1), y[:, 0, :2].floor().long())
    close(seen.depth.flatten(1).amax(1), depth[:, 0], 1e-9)


def test_opaque_things_hide_what_is_behind_them() -> None:
    near, far = ball(1.5, 0.3, 0.99), ball(2.5, 0.3, 0.99)
    red = torch.tensor([[[1.0, -1.0, -1.0]]], dtype=torch.float64)
    near = near._replace(sh=red / 0.5)
    far = far._replace(sh=-red / 0.5)
    for pair in ((near, far), (far, near)):
        both = Cloud(*(torch.cat(parts) for parts in zip(*pair, strict=True)))
        seen, _ = draw(both, FRONT, torch.ones(3, dtype=torch.float64))
        middle = seen.rgb[0, 16, 16]
        assert float(middle[0]) > 1.0
        assert float(middle[1]) < 0.02
        assert float(seen.depth[0, 16, 16]) == pytest.approx(0.99 * 1.5 + 0.01 * 2.5, abs=0.02)


def test_no_pixel_goes_past_its_end() -> None:
    """Behind a stack that lets less than 1e-4 through, nothing counts, and nothing gets a gradient."""
    stack = [ball(1.0 + 0.1 * k, 0.5, 0.98) for k in range(5)]
    cloud = cast(Cloud(*(torch.cat(parts) for parts in zip(*stack, strict=True))), torch.float64)
    image, alpha, _ = splat(cloud, FRONT)
    assert float(alpha[0, 16, 16].detach()) == pytest.approx(1 - 0.02**2, abs=1e-5)
    image[0, 16, 16].sum().backward()
    assert cloud.sh.grad is not None
    assert (cloud.sh.grad[:2] != 0).all()
    assert (cloud.sh.grad[2:] == 0).all()


def test_the_order_of_the_gaussians_means_nothing() -> None:
    cloud = cloud_of(60)
    image, alpha, _ = splat(cloud, VIEWS)
    mixed = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    again, covered, _ = splat(Cloud(*(part[mixed] for part in cloud)), VIEWS)
    close(again, image, 0, 1e-13)
    close(covered, alpha, 0, 1e-13)


def test_a_batch_of_cameras_is_its_cameras() -> None:
    cloud = cloud_of(40)
    image, alpha, _ = splat(cloud, VIEWS)
    alone = [splat(cloud, VIEWS[k])[:2] for k in range(2)]
    close(image, torch.cat([one for one, _ in alone]), 0, 1e-13)
    close(alpha, torch.cat([one for _, one in alone]), 0, 1e-13)


@pytest.mark.parametrize("means", [[0.0, 0.0, 3.0], [0.0, 0.0, 2.0], [0.0, 5.0, 0.0], [40.0, 0.0, 1.9]], ids=str)
def test_what_is_not_in_view_leaves_white_and_zero_gradients(means: list[float]) -> None:
    cloud = cast(ball(2.0, 0.1, 0.9)._replace(means=torch.tensor([means])), torch.float64)
    seen, _ = draw(cloud, FRONT, torch.ones(3, dtype=torch.float64))
    assert (seen.rgb == 1).all()
    assert (seen.alpha == 0).all()
    assert (seen.depth == 0).all()
    (seen.rgb.sum() + seen.depth.sum()).backward()
    for part in cloud:
        assert part.grad is not None
        assert (part.grad == 0).all()


def test_no_gaussians_at_all() -> None:
    cloud = cast(cloud_of(3), torch.float64)
    seen, _ = draw(Cloud(*(part[:0] for part in cloud)), VIEWS, torch.zeros(3, dtype=torch.float64))
    assert seen.rgb.shape == (2, 20, 27, 3)
    assert (seen.rgb == 0).all()


def test_tiles_hold_exactly_what_reaches_a_pixel() -> None:
    """Against every footprint at every pixel; of the bounding boxes alone, a third more would be kept."""
    cloud = cloud_of(80)
    slanted = cloud._replace(log_scales=cloud.log_scales + cloud.means.new_tensor((0.8, -2.0, -2.0)))
    footprints = Footprints(*(part.detach() for part in project(slanted, VIEWS)))
    tiles = bin_footprints(footprints, 20, 27, 4)
    y, x = torch.meshgrid(torch.arange(20) + 0.5, torch.arange(27) + 0.5, indexing="ij")
    a, b, c = footprints.conic[..., None, None].unbind(2)
    d_x, d_y = x - footprints.xy[..., 0, None, None], y - footprints.xy[..., 1, None, None]
    power = 0.5 * (a * d_x**2 + c * d_y**2) + b * d_x * d_y
    reaches = footprints.opacity[..., None, None] * torch.exp(-power) >= 1 / 255
    listed = {
        (int(i), tile)
        for tile in range(len(tiles.starts) - 1)
        for i in tiles.ids[int(tiles.starts[tile]) : int(tiles.starts[tile + 1])]
    }
    needed = {(int(k * 80 + i), int((k * 5 + v // 4) * 7 + h // 4)) for k, i, v, h in reaches.nonzero().tolist()}
    assert needed <= listed
    # An ellipse may pass between the pixels of a tile that it touches.
    assert len(needed) > 0.85 * len(listed)


def test_front_to_back_in_every_tile() -> None:
    footprints = project(cloud_of(80), VIEWS)
    tiles = bin_footprints(footprints, 20, 27, 8)
    depth = footprints.depth.flatten()[tiles.ids]
    for first, last in zip(tiles.starts[:-1].tolist(), tiles.starts[1:].tolist(), strict=True):
        assert (depth[first:last].diff() >= 0).all()


def test_features_of_any_number() -> None:
    footprints = project(cloud_of(30), VIEWS)
    image, alpha = rasterise(footprints, 20, 27)
    few, same = rasterise(footprints._replace(features=footprints.features[..., 2:4]), 20, 27)
    close(few, image[..., 2:4], 0, 1e-13)
    close(same, alpha, 0, 0)


def test_half_precision_around_it_changes_nothing() -> None:
    cloud, views = cast(cloud_of(40), torch.float32), VIEWS.to(dtype=torch.float32)
    expected = splat(cloud, views)[0]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(splat(cloud, views)[0], expected)


def test_the_tier_of_a_cpu_is_torch() -> None:
    assert tier("cpu") is TORCH


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["gsplat", "triton"])
def test_on_a_gpu_every_tier_is_that_of_torch(name: str) -> None:
    if name == "gsplat":
        if not splatting_gsplat.available():
            pytest.skip("gsplat is not installed, or its kernels are not built")
        assert tier("cuda").name == "gsplat"
    by = tier("cuda") if name == "gsplat" else triton()
    views = Cameras.orbit(torch.tensor([20.0, 200.0]), 15.0, 2.2, 40.0, (150, 220))
    cloud = cast(cloud_of(2000, degree=3), torch.float32)
    here = Cloud(*(part.detach().cuda().requires_grad_() for part in cloud))
    image, alpha, _ = splat(cloud, views)
    there, covered, _ = splat(here, views.to("cuda"), by)
    # A pixel at a threshold may fall on either side: it is let off.
    off = (there.cpu() - image).detach().abs().amax(-1)
    assert float((off > 1e-4).double().mean()) < 1e-4
    for found, expected in zip(gradients(here, there, covered), gradients(cloud, image, alpha), strict=True):
        close(found.cpu(), expected, 1e-3)
