"""Cameras against projections written down independently, trimesh's rays, and their own inverse."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from degauss.core.noise import Noise
from degauss.threed.cameras import Cameras, Orbits, random_views

F64 = torch.float64


@pytest.mark.parametrize(
    ("azimuth", "elevation", "place", "up"),
    [
        (0.0, 0.0, (0, 0, 2), (0, 1, 0)),
        (90.0, 0.0, (2, 0, 0), (0, 1, 0)),
        (-90.0, 0.0, (-2, 0, 0), (0, 1, 0)),
        (180.0, 0.0, (0, 0, -2), (0, 1, 0)),
        (0.0, 90.0, (0, 2, 0), (0, 0, -1)),
        (0.0, -90.0, (0, -2, 0), (0, 0, 1)),
        (90.0, 45.0, (math.sqrt(2), math.sqrt(2), 0), (-math.sqrt(0.5), math.sqrt(0.5), 0)),
    ],
)
def test_azimuth_0_is_the_front_and_elevation_is_up(azimuth, elevation, place, up):
    camera = Cameras.orbit(azimuth, elevation, 2.0, dtype=F64)
    expected = torch.tensor(place, dtype=F64)
    assert torch.allclose(camera.place[0], expected, atol=1e-12)
    assert torch.allclose(camera.forward[0], -expected / 2, atol=1e-12)
    assert torch.allclose(camera.world_from_camera[0, :3, 1], torch.tensor(up, dtype=F64), atol=1e-12)


def test_image_axes_follow_the_world():
    camera = Cameras.orbit(0.0, 0.0, 2.0, 40.0, (10, 20), dtype=F64)
    right, high, near = camera.project(torch.tensor([[0.1, 0, 0], [0, 0.1, 0], [0, 0, 0.5]], dtype=F64))[0]
    assert right[0] > 10
    assert right[1] == 5
    assert high[0] == 10
    assert high[1] < 5
    assert near.tolist() == pytest.approx([10, 5, 1.5])
    _, directions = camera.rays()
    left, top, forward = directions[0, 0, 0]
    assert left < 0
    assert top > 0
    assert forward < 0


def test_the_field_of_view_is_vertical():
    camera = Cameras.orbit(0.0, 0.0, 2.0, 60.0, (32, 64), dtype=F64)
    edge = torch.tensor([[0.0, 2 * math.tan(math.radians(30)), 0.0]], dtype=F64)
    assert camera.project(edge)[0, 0].tolist() == pytest.approx([32, 0, 2])


angles = st.floats(-180, 180)


@given(angles, st.floats(-90, 90), st.floats(0.9, 5), st.floats(10, 120), st.floats(0.1, 10))
def test_points_on_rays_project_to_their_pixels(azimuth, elevation, radius, fov, distance):
    camera = Cameras.orbit(azimuth, elevation, radius, fov, (3, 5), dtype=F64)
    origins, directions = camera.rays()
    assert torch.allclose(directions.norm(dim=-1), torch.ones(1, 3, 5, dtype=F64))
    seen = camera.project((origins + distance * directions).reshape(1, -1, 3)).reshape(3, 5, 3)
    x, y = torch.meshgrid(torch.arange(5, dtype=F64) + 0.5, torch.arange(3, dtype=F64) + 0.5, indexing="xy")
    assert torch.allclose(seen[..., 0], x, atol=1e-9)
    assert torch.allclose(seen[..., 1], y, atol=1e-9)
    assert torch.allclose(seen[..., 2], distance * (directions[0] * camera.forward[0]).sum(-1), atol=1e-9)


@given(angles, st.floats(-90, 90), st.floats(0.1, 5))
def test_poses_are_rigid_and_invertible(azimuth, elevation, radius):
    camera = Cameras.orbit(azimuth, elevation, radius, dtype=F64)
    rotation = camera.world_from_camera[0, :3, :3]
    assert torch.allclose(rotation @ rotation.T, torch.eye(3, dtype=F64), atol=1e-12)
    assert torch.linalg.det(rotation) == pytest.approx(1)
    assert torch.allclose(camera.view_from_world @ camera.world_from_camera, torch.eye(4, dtype=F64), atol=1e-12)


def test_projection_is_that_of_opengl():
    """pyrender and every OpenGL renderer: a clip matrix, the divide, and a viewport whose y is turned over."""
    height, width, fov, points = 30, 50, 45.0, torch.randn(20, 3, generator=torch.Generator().manual_seed(0)).double()
    camera = Cameras.orbit(130.0, 25.0, 6.0, fov, (height, width), dtype=F64)
    f, near, far = 1 / math.tan(math.radians(fov) / 2), 0.1, 20.0
    clip = np.zeros((4, 4))
    clip[0, 0], clip[1, 1] = f * height / width, f
    clip[2, 2:], clip[3, 2] = [(near + far) / (near - far), 2 * near * far / (near - far)], -1
    view = np.linalg.inv(camera.world_from_camera[0].numpy())
    homogeneous = np.concatenate([points.numpy(), np.ones((20, 1))], 1) @ (clip @ view).T
    ndc = homogeneous[:, :2] / homogeneous[:, 3:]
    expected = np.stack([(ndc[:, 0] + 1) / 2 * width, (1 - ndc[:, 1]) / 2 * height, homogeneous[:, 3]], 1)
    np.testing.assert_allclose(camera.project(points)[0].numpy(), expected, atol=1e-10)


def test_rays_are_those_of_trimesh():
    import trimesh
    from trimesh.scene import Camera

    height, width, fov = 6, 9, 50.0
    camera = Cameras.orbit(-70.0, 35.0, 3.0, fov, (height, width), dtype=F64)
    wide = 2 * math.degrees(math.atan(math.tan(math.radians(fov) / 2) * width / height))
    scene = trimesh.Scene(camera=Camera(resolution=(width, height), fov=(wide, fov)))
    scene.camera_transform = camera.world_from_camera[0].numpy()
    origins, directions, pixels = scene.camera_rays()
    own_origins, own_directions = (part[0].numpy() for part in camera.rays())
    # trimesh counts rows from the bottom.
    rows, columns = height - 1 - pixels[:, 1], pixels[:, 0]
    np.testing.assert_allclose(origins, own_origins[rows, columns], atol=1e-10)
    np.testing.assert_allclose(directions, own_directions[rows, columns], atol=1e-10)


@given(st.floats(-179, 179), st.floats(-89, 89))
def test_angles_undo_orbit(azimuth, elevation):
    found = Cameras.orbit(azimuth, elevation, dtype=F64).angles()
    assert [float(part) for part in found] == pytest.approx([azimuth, elevation], abs=1e-9)


def test_batches_and_selections():
    cameras = Cameras.orbit(torch.tensor([0.0, 30.0, 60.0]), 10.0, torch.tensor([1.0, 2.0, 3.0]))
    assert len(cameras) == 3
    one, two = cameras[1], cameras[torch.tensor([2, 0])]
    assert torch.equal(one.place, cameras.place[1:2])
    assert torch.equal(two.place, cameras.place[[2, 0]])
    assert torch.equal(cameras[1:].focal, cameras.focal[1:])
    single = Cameras.orbit(30.0, 10.0, 2.0)
    assert torch.equal(one.world_from_camera, single.world_from_camera)
    assert cameras.focal.dtype == torch.float32
    assert cameras.to(dtype=torch.float64).rays()[1].dtype == torch.float64
    points = torch.randn(3, 4, 3)
    together = cameras.project(points)
    assert torch.allclose(together[1], cameras[1].project(points[1])[0], atol=1e-4)


def test_random_views_are_the_sample_s_own():
    views = random_views(Noise(5, range(6)), size=8)
    part = random_views(Noise(5, (4, 1)), size=8)
    assert torch.equal(views.world_from_camera[[4, 1]], part.world_from_camera)
    assert torch.equal(views.focal[[4, 1]], part.focal)
    later = random_views(Noise(5, range(6)), size=8, draw=1)
    assert not torch.isclose(views.place, later.place).all(-1).any()


def test_random_views_fill_their_ranges():
    orbits = Orbits(azimuth=(-30, 90), elevation=(-10, 50), radius=(1.5, 2.5), fov=(30, 50))
    views = random_views(Noise(0, range(4000)), orbits, size=10)
    azimuth, elevation = views.angles()
    fov = 2 * torch.rad2deg(torch.atan(5 / views.focal[:, 1]))
    by_area = torch.sin(torch.deg2rad(elevation))
    ends = math.sin(math.radians(-10)), math.sin(math.radians(50))
    for drawn, (low, high) in (
        (azimuth, orbits.azimuth),
        (by_area, ends),
        (views.place.norm(dim=-1), orbits.radius),
        (fov, orbits.fov),
    ):
        unit = (drawn - low) / (high - low)
        assert -1e-4 < unit.min() < 0.01
        assert 0.99 < unit.max() < 1 + 1e-4
        # A uniform variable's mean and second moment, within five standard errors.
        assert float(unit.mean()) == pytest.approx(1 / 2, abs=5 * math.sqrt(1 / 12 / 4000))
        assert float(unit.square().mean()) == pytest.approx(1 / 3, abs=5 * math.sqrt(4 / 45 / 4000))


def test_the_default_orbits_keep_a_ball_in_view():
    views = random_views(Noise(1, range(200)), size=64)
    ball = torch.nn.functional.normalize(torch.randn(500, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    pixels = views.project(0.65 * ball)[..., :2]
    assert pixels.min() > 0
    assert pixels.max() < 64


def test_what_cannot_be_a_camera():
    good = Cameras.orbit(torch.zeros(2), 0.0)
    with pytest.raises(ValueError, match=r"\[n, 4, 4\]"):
        Cameras(good.world_from_camera[0], good.focal, good.centre, 8, 8)
    with pytest.raises(ValueError, match=r"\(1, 2\)"):
        Cameras(good.world_from_camera, good.focal[:1], good.centre, 8, 8)
    with pytest.raises(ValueError, match="pixel"):
        Cameras.orbit(0.0, 0.0, size=0)
    with pytest.raises(ValueError, match="increasing"):
        Orbits(radius=(2.0, 1.0))
    with pytest.raises(ValueError, match="elevations"):
        Orbits(elevation=(0.0, 91.0))
