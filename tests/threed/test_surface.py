"""Balls of density, whose surface is known, and densities in which there is nothing."""

from __future__ import annotations

import importlib.util
import math

import pytest
import torch
import trimesh
from torch import Tensor

from degauss.core.errors import InputError
from degauss.threed.meshes import Mesh
from degauss.threed.surface import (
    Density,
    choose_level,
    decimate,
    extract,
    largest_component,
    marching_cubes,
    sample_grid,
)

RADIUS = 0.35


def ball(inside: float, softness: float = 0.01, centre: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Density:
    """A density that falls from ``inside`` to 0 around the sphere, where it is half of it."""

    def density(points: Tensor) -> Tensor:
        return inside * torch.sigmoid((RADIUS - (points - torch.tensor(centre)).norm(dim=-1)) / softness)

    return density


@pytest.mark.parametrize(("resolution", "tolerance"), [(24, 4e-3), (48, 1e-3)])
def test_a_level_set_is_the_sphere_that_it_should_be(resolution: int, tolerance: float):
    # The density is 10 at the radius 0.3, and nearly linear there.
    mesh, level = extract(lambda points: (25 - 50 * points.norm(dim=-1)).clamp(min=0), resolution, 10.0)
    assert level == 10.0
    assert float((mesh.vertices.norm(dim=-1) - 0.3).abs().max()) < tolerance
    mesh.check_watertight("the sphere")
    assert float(mesh.volume) == pytest.approx(4 / 3 * math.pi * 0.3**3, rel=20 * tolerance)
    assert trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy()).is_volume  # closed, and outwards


def test_a_surface_lies_where_the_density_is_in_the_world():
    mesh, _ = extract(
        lambda points: (
            30 * ((points - torch.tensor([0.1, -0.2, 0.25])).abs() < torch.tensor([0.3, 0.1, 0.05])).all(-1).float()
        ),
        41,
    )
    torch.testing.assert_close(mesh.vertices.amin(0), torch.tensor([-0.2, -0.3, 0.2]), rtol=0, atol=0.026)
    torch.testing.assert_close(mesh.vertices.amax(0), torch.tensor([0.4, -0.1, 0.3]), rtol=0, atol=0.026)


@pytest.mark.parametrize("inside", [0.5, 20.0, 2000.0])
def test_the_level_of_a_sharp_ball_is_found_whatever_its_density(inside: float):
    mesh, level = extract(lambda points: inside * (points.norm(dim=-1) < RADIUS).float(), 40)
    assert 0 < level < inside
    assert float(mesh.vertices.norm(dim=-1).mean()) == pytest.approx(RADIUS, abs=1 / 39 / 2)
    assert float(mesh.volume) == pytest.approx(4 / 3 * math.pi * RADIUS**3, rel=0.03)


def test_fog_and_spikes_do_not_move_the_level():
    points = 48
    grid = sample_grid(ball(40.0), points)
    alone = choose_level(grid)
    generator = torch.Generator().manual_seed(0)
    fog = 2 * torch.rand(grid.shape, generator=generator)
    spikes = 1e4 * (torch.rand(grid.shape, generator=generator) < 5e-4).float()
    for disturbed in (grid + fog, grid + spikes):
        assert choose_level(disturbed) == pytest.approx(alone, rel=0.15)
        mesh = largest_component(marching_cubes(disturbed).mesh)
        # (Spikes on the surface itself stay as knobs.)
        assert float(mesh.vertices.norm(dim=-1).median()) == pytest.approx(RADIUS, abs=0.008)


def test_a_density_that_reaches_the_side_of_the_cube_is_closed_there():
    mesh, _ = extract(lambda points: 50 * (points[:, 0] > 0).float(), 16)
    mesh.check_watertight("half of the cube")
    assert float(mesh.vertices.amax()) == 0.5
    assert float(mesh.volume) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    ("density", "level", "message"),
    [
        (lambda points: 0 * points[:, 0], None, r"^no surface: the density is between 0 and 0 per world unit"),
        (lambda points: 0 * points[:, 0] + 7, None, r"between 7 and 7 per world unit everywhere"),
        (lambda points: 1e-4 * (points[:, 0] + 0.5), None, r"between 0 and 0\.0001 per world unit"),
        (ball(3.0), 5.0, r"^no surface at the level 5: the density is between \S+ and 3\.$"),
        (ball(3.0), 0.0, r"^no surface at the level 0"),
        (lambda points: points[:, 0], None, r"a density is at least 0, but this one is between -0\.5 and 0\.5"),
        (lambda points: points[:, 0] / 0, None, r"no surface: 4096 of 4096 numbers of the density are not finite"),
    ],
)
def test_a_density_without_a_surface_is_refused_with_its_range(density: Density, level: float | None, message: str):
    with pytest.raises(InputError, match=message):
        extract(density, 16, level)


def test_the_points_of_a_grid_span_the_cube():
    grid = sample_grid(lambda points: points[:, 0] + 10 * points[:, 1] + 100 * points[:, 2], 5, at_once=7)
    assert float(grid[0, 0, 0]) == pytest.approx(-55.5)
    assert float(grid[4, 0, 0]) == pytest.approx(-54.5)
    assert float(grid[0, 2, 4]) == pytest.approx(49.5)


def test_the_largest_component_is_kept_with_what_belongs_to_its_vertices():
    large, small = (
        trimesh.creation.icosphere(1, 0.3),
        trimesh.creation.icosphere(2, 0.1),
    )  # the small one has more faces
    small.apply_translation((0.4, 0.4, 0.4))
    vertices = torch.cat([torch.tensor(part.vertices).float() for part in (small, large)])
    faces = torch.cat((torch.tensor(small.faces), torch.tensor(large.faces) + len(small.vertices)))
    kept = largest_component(Mesh(vertices, faces, colours=vertices + 1))
    assert len(kept.faces) == len(large.faces)
    assert float(kept.vertices.norm(dim=-1).max()) == pytest.approx(0.3)
    assert kept.colours is not None
    torch.testing.assert_close(kept.colours, kept.vertices + 1)


def test_seams_do_not_part_a_component():
    box = trimesh.creation.box()
    vertices = torch.tensor(box.vertices).float()[torch.tensor(box.faces).flatten()]
    assert len(largest_component(Mesh(vertices, torch.arange(36).view(12, 3))).faces) == 12


def test_a_mesh_is_decimated_or_what_is_missing_is_named():
    made = trimesh.creation.icosphere(4)
    mesh = Mesh(torch.tensor(made.vertices).float(), torch.tensor(made.faces))
    if importlib.util.find_spec("fast_simplification") is None:
        with pytest.raises(InputError, match="pip install fast-simplification"):
            decimate(mesh, 500)
        return
    fewer = decimate(mesh, 500)
    assert 300 < len(fewer.faces) < 600
    assert float(fewer.volume) == pytest.approx(float(mesh.volume), rel=0.05)


@pytest.mark.gpu
def test_a_surface_stays_on_its_device():
    mesh, level = extract(lambda points: 40 * torch.sigmoid((RADIUS - points.norm(dim=-1)) / 0.01), 32, device="cuda")
    here, same = extract(ball(40.0), 32)
    assert mesh.vertices.is_cuda
    assert level == pytest.approx(same, rel=1e-5)
    torch.testing.assert_close(mesh.vertices.cpu(), here.vertices, rtol=0, atol=1e-4)
