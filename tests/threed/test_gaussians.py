"""Clouds of Gaussians and their footprints: harmonics, projection, shapes, and fitting a picture."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from scipy.special import sph_harm_y

from degauss.core.checkpoint import load_model, load_weights, save_model
from degauss.core.errors import InputError
from degauss.core.noise import Noise
from degauss.threed import splatting_gsplat
from degauss.threed.cameras import Cameras
from degauss.threed.gaussians import Gaussians, draw
from degauss.threed.harmonics import harmonics
from degauss.threed.projection import Cloud, project, rotations, to_camera
from degauss.threed.rendering import render

from ._dense import cloud_of

VIEWS = Cameras.orbit(torch.tensor([20.0, 200.0]), 15.0, 2.2, 40.0, (20, 27), torch.float64)


def test_harmonics_are_scipys() -> None:
    directions = Noise(0, range(50)).normal(torch.empty(50, 3, dtype=torch.float64))
    directions = directions / directions.norm(dim=-1, keepdim=True)
    x, y, z = directions.numpy().T
    polar, azimuth = np.arccos(z), np.arctan2(y, x)
    found = harmonics(directions, 3).numpy()
    for degree in range(4):
        for order in range(-degree, degree + 1):
            value = sph_harm_y(degree, abs(order), polar, azimuth)
            part = value.imag if order < 0 else value.real
            expected = part * (1 if order == 0 else math.sqrt(2))
            np.testing.assert_allclose(found[:, degree**2 + degree + order], expected, atol=1e-12)


def test_rotations_are_scipys_whatever_the_length() -> None:
    quaternions = Noise(1, range(20)).normal(torch.empty(20, 4, dtype=torch.float64))
    expected = Rotation.from_quat(quaternions.numpy(), scalar_first=True).as_matrix()
    np.testing.assert_allclose(rotations(3 * quaternions).numpy(), expected, atol=1e-12)


def test_the_projection_is_taken_no_further_out_than_a_margin() -> None:
    """Far outside the view a footprint is that of the same Gaussian at the margin, moved: not ever longer."""
    cloud = cloud_of(1)
    width = VIEWS[0].width / (2 * float(VIEWS.focal[0, 0]))
    right, _, ahead = to_camera(VIEWS[0])[0]
    at = [VIEWS.place[0] + 2 * ahead + 2 * slope * width * right for slope in (1.29, 1.31, 4.0)]
    areas = [1 / project(cloud._replace(means=mean[None]), VIEWS[0]).conic[0, 0].detach()[[0, 2]].prod() for mean in at]
    assert float(areas[2] / areas[1]) == pytest.approx(1, abs=1e-9)
    assert abs(float(areas[1] / areas[0]) - 1) > 1e-4


def test_projection_and_harmonics_are_gsplats() -> None:
    reference = pytest.importorskip("gsplat.cuda._torch_impl", exc_type=ImportError)
    cloud = cloud_of(50, degree=3)
    found = project(cloud, VIEWS)
    quaternions = torch.nn.functional.normalize(cloud.quaternions, dim=-1)
    covariances, _ = reference._quat_scale_to_covar_preci(quaternions, cloud.log_scales.exp(), True, False)
    view, intrinsics = splatting_gsplat.cameras_of(VIEWS)
    _, xy, depth, conic, _ = reference._fully_fused_projection(cloud.means, covariances, view, intrinsics, 27, 20)
    torch.testing.assert_close(found.xy, xy)
    torch.testing.assert_close(found.depth, depth)
    torch.testing.assert_close(found.conic, conic)
    offsets = cloud.means - VIEWS.place[:, None]
    colour = reference._spherical_harmonics(3, offsets, cloud.sh.expand(2, -1, -1, -1))
    torch.testing.assert_close(found.features[..., :3], (colour + 0.5).clamp(min=0))


def test_normals_are_shortest_axes_that_face_the_camera() -> None:
    flat = Cloud(
        torch.zeros(1, 3),
        torch.tensor([[0.2, 0.2, 0.01]]).log(),
        torch.tensor([[1.0, 0.0, 0.0, 0.0]]),
        torch.tensor([5.0]),
        torch.zeros(1, 1, 3),
    )
    cameras = Cameras.orbit(torch.tensor([0.0, 60.0, 180.0, 240.0]), 0.0, 2.0, 40.0, 33)
    seen, _ = draw(flat, cameras, torch.zeros(3))
    middle = seen.normal[:, 16, 16] / seen.alpha[:, 16, 16, None]
    facing = torch.tensor([1.0, 1.0, -1.0, -1.0])
    torch.testing.assert_close(middle, torch.stack((0 * facing, 0 * facing, facing), -1))


def test_points_become_balls_of_their_colours() -> None:
    points = 0.3 * Noise(2, range(30)).normal(torch.empty(30, 3))
    colours = Noise(3, range(30)).uniform(torch.empty(30, 3))
    gaussians = Gaussians.from_points(points, colours, opacity=0.3, degree=2)
    cloud = gaussians.cloud()
    assert (len(gaussians), gaussians.degree) == (30, 2)
    distances = torch.cdist(points, points).sort(1).values[:, 1:4]
    torch.testing.assert_close(cloud.log_scales.exp()[:, 1], distances.square().mean(1).sqrt(), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(torch.sigmoid(cloud.opacity_logits), torch.full((30,), 0.3))
    torch.testing.assert_close(project(cloud, VIEWS.to(dtype=torch.float32)).features[1, :, :3], colours)
    expected = torch.eye(3) * cloud.log_scales.exp()[:, :1, None] ** 2
    torch.testing.assert_close(gaussians.covariances(), expected)


def test_a_ball_is_keyed_and_fills_its_radius() -> None:
    ball = Gaussians.ball(Noise(5, [3]), 2000, radius=0.4)
    again = Gaussians.ball(Noise(5, [3]), 2000, radius=0.4)
    assert torch.equal(ball.cloud().means, again.cloud().means)
    radii = ball.cloud().means.detach().norm(dim=-1)
    assert float(radii.max()) <= 0.4
    # Uniform in volume: half of it is within 0.5^(1/3) of the radius.
    assert float((radii < 0.4 * 0.5 ** (1 / 3)).float().mean()) == pytest.approx(0.5, abs=0.04)


def test_it_renders_by_the_contract() -> None:
    views = VIEWS.to(dtype=torch.float32)
    seen = render(Gaussians.ball(Noise(0, [0]), 200), views)
    assert [tuple(part.shape) for part in seen] == [(2, 20, 27, 3), (2, 20, 27), (2, 20, 27), (2, 20, 27, 3)]
    assert all(part.dtype == torch.float32 and part.isfinite().all() for part in seen)
    assert float(seen.alpha.detach().max()) > 0.5
    corner = seen.rgb[:, 0, 0]
    assert (corner == 1).all()


def test_it_fits_a_picture() -> None:
    """From grey, in 40 steps, most of the squared error to renders of other Gaussians goes."""
    views = Cameras.orbit(torch.tensor([0.0, 90.0, 200.0]), 10.0, 2.2, 40.0, 24)
    colours = Noise(7, range(40)).uniform(torch.empty(40, 3))
    points = 0.25 * Noise(8, range(40)).normal(torch.empty(40, 3))
    with torch.no_grad():
        target = render(Gaussians.from_points(points, colours, opacity=0.9, scale=0.08), views).rgb
    gaussians = Gaussians.ball(Noise(9, [0]), 150, radius=0.5)
    optimiser = torch.optim.Adam(gaussians.parameters(), 0.03)
    losses: list[float] = []
    for _ in range(40):
        loss = (render(gaussians, views).rgb - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.15 * losses[0]


def test_a_checkpoint_holds_it(tmp_path: Path) -> None:
    gaussians = Gaussians.ball(Noise(0, [0]), 50, degree=1)
    save_model(tmp_path / "g", gaussians, "degauss.threed/gaussians", {})
    loaded = load_model(tmp_path / "g", "degauss.threed/gaussians")
    other = Gaussians(Cloud(**loaded.weights))
    load_weights(other, loaded.weights, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(other.cloud(), gaussians.cloud(), strict=True))


def test_what_is_no_cloud() -> None:
    cloud = Gaussians.ball(Noise(0, [0]), 10).cloud()
    means = cloud.means.detach().clone()
    means[9, 1] = math.inf
    with pytest.raises(InputError, match="1 of 30 numbers in means are not finite"):
        Gaussians(cloud._replace(means=means))
    with pytest.raises(ValueError, match="Gaussians are"):
        Gaussians(cloud._replace(quaternions=cloud.quaternions[:, :3]))
    with pytest.raises(ValueError, match="Gaussians are"):
        Gaussians(cloud._replace(sh=cloud.sh.expand(-1, 2, -1)))
    with pytest.raises(ValueError, match="more than 3 points"):
        Gaussians.from_points(torch.zeros(2, 3), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="0 to 3"):
        Gaussians.from_points(torch.zeros(9, 3), torch.zeros(9, 3), degree=4)
