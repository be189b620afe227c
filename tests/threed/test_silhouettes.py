"""Covered areas and their derivatives in closed form, and what must not be blended."""

from __future__ import annotations

import math

import pytest
import torch
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from degauss.threed.cameras import Cameras
from degauss.threed.meshes import Mesh
from degauss.threed.rasterise import rasterise, to_image
from degauss.threed.rendering import BLACK, render
from degauss.threed.silhouettes import antialias, edges_of


def alpha_of(points: Tensor, faces: Tensor, size: int) -> Tensor:
    seen = rasterise(points, faces, size, size)
    shape = (len(points), size, size)
    depth = to_image(seen.depth.detach()[:, None], seen.pixel, shape)[..., 0]
    ones = to_image(torch.ones_like(seen.depth)[:, None], seen.pixel, shape)
    return antialias(ones, torch.where(depth > 0, depth, torch.inf), points, edges_of(faces))[..., 0]


def fan(corners: Tensor) -> tuple[Tensor, Tensor]:
    """A convex polygon of pixels ``[k, 2]`` at depth 2, as points and faces."""
    points = torch.cat((2 * corners, torch.full_like(corners[:, :1], 2.0)), -1)[None]
    last = torch.arange(2, len(corners))
    return points, torch.stack((torch.zeros_like(last), last - 1, last), -1)


def shoelace(corners: Tensor) -> Tensor:
    after = corners.roll(-1, 0)
    return 0.5 * (corners[:, 0] * after[:, 1] - corners[:, 1] * after[:, 0]).sum()


def test_the_pixels_of_a_square_have_their_covered_areas():
    low, high = torch.tensor([3.2, 4.3]), torch.tensor([11.4, 9.9])
    corners = torch.stack((low, torch.stack((high[0], low[1])), high, torch.stack((low[0], high[1]))))
    alpha = alpha_of(*fan(corners), 16)[0]
    pixel = torch.arange(16.0)
    cover = [(torch.minimum(pixel + 1, high[i]) - torch.maximum(pixel, low[i])).clamp(min=0) for i in range(2)]
    error = (alpha - cover[1][:, None] * cover[0]).abs()
    corners = torch.zeros(16, 16, dtype=torch.bool)
    corners[torch.tensor([[4], [9]]), torch.tensor([3, 11])] = True  # rows and columns know nothing of each other
    assert float(error[~corners].max()) < 1e-5
    assert float(error.max()) < 0.15


@pytest.mark.parametrize("turn", [0.0, 0.2, 0.5, math.pi / 4, 1.3])
def test_the_area_of_a_polygon_and_its_derivative_are_exact_to_the_midpoint_rule(turn: float):
    angle = torch.arange(5, dtype=torch.float64) * (2 * math.pi / 5) + turn
    corners = 32.3 + 25 * torch.stack((angle.cos(), angle.sin()), -1)
    corners.requires_grad_()
    area = alpha_of(*fan(corners), 64).sum()
    exact = shoelace(corners)
    assert area.item() == pytest.approx(exact.item(), rel=2e-3)
    (found,), (expected,) = torch.autograd.grad(area, corners), torch.autograd.grad(exact, corners)
    assert float((found - expected).norm() / expected.norm()) < 0.05


@pytest.mark.parametrize(("subdivisions", "size"), [(3, 64), (5, 16), (5, 64)])
def test_a_ball_has_the_area_of_its_outline_and_its_derivative_also_on_a_mesh_finer_than_the_pixels(
    subdivisions: int, size: int
):
    made = trimesh.creation.icosphere(subdivisions)
    ball = Mesh(torch.tensor(made.vertices).float(), torch.tensor(made.faces))
    cameras = Cameras.orbit(17.0, 31.0, 2.2, 40.0, size)
    radius = torch.tensor(0.5, requires_grad=True)
    # A solid that is inscribed in the sphere is a little smaller, so the radius is that of the equal volume.
    inscribed = (float(ball.volume) / (4 / 3 * math.pi)) ** (1 / 3)
    area = render(ball.moved(radius / inscribed * ball.vertices), cameras, BLACK).alpha.sum()
    exact = math.pi * cameras.focal[0, 0] ** 2 * radius**2 / (2.2**2 - radius**2)
    assert area.item() == pytest.approx(exact.item(), rel=3e-3)
    (found,), (expected,) = torch.autograd.grad(area, radius), torch.autograd.grad(exact, radius)
    assert float(found) == pytest.approx(float(expected), rel=0.02)


def test_the_gradient_of_a_silhouette_loss_is_its_difference():
    # Blurred images: the loss of sharp ones has a kink wherever an outline meets a pixel's border.
    made = trimesh.creation.icosphere(3, 0.4)
    ball = Mesh(torch.tensor(made.vertices).float(), torch.tensor(made.faces))
    cameras = Cameras.orbit(torch.tensor([0.0, 60.0, 120.0]), 10.0, size=48)

    def blurred(vertices: Tensor) -> Tensor:
        return functional.avg_pool2d(render(ball.moved(vertices), cameras).alpha, 5, 1, 2)

    with torch.no_grad():
        target = blurred(ball.vertices * torch.tensor([1.2, 0.9, 1.0]))

    def loss(parameters: Tensor) -> Tensor:
        return ((blurred(ball.vertices * (1 + parameters[0]) + parameters[1:]) - target) ** 2).sum()

    start = torch.tensor([0.05, 0.03, -0.04, 0.02], requires_grad=True)
    (found,) = torch.autograd.grad(loss(start), start)
    step = 0.01
    with torch.no_grad():
        differences = [(loss(start + step * row) - loss(start - step * row)) / (2 * step) for row in torch.eye(4)]
    expected = torch.stack(differences)
    assert float((found - expected).norm() / expected.norm()) < 0.03


def test_a_mesh_finds_a_silhouette_by_descent():
    made = trimesh.creation.icosphere(2, 0.35)
    ball = Mesh(torch.tensor(made.vertices).float(), torch.tensor(made.faces))
    cameras = Cameras.orbit(torch.tensor([0.0, 90.0]), 0.0, size=24)
    goal = torch.tensor([0.11, -0.07, 0.06])
    with torch.no_grad():
        target = render(ball.moved(ball.vertices + goal), cameras).alpha
    offset = torch.zeros(3, requires_grad=True)
    for _ in range(25):
        error = ((render(ball.moved(ball.vertices + offset), cameras).alpha - target) ** 2).mean()
        (slope,) = torch.autograd.grad(error, offset)
        offset.data -= 0.07 * slope
    torch.testing.assert_close(offset.detach(), goal, rtol=0, atol=1e-3)


def test_without_antialiasing_an_outline_has_no_gradient():
    corners = torch.tensor([[3.0, 3.0], [12.0, 4.0], [7.0, 13.0]], requires_grad=True)
    points, faces = fan(corners)
    seen = rasterise(points, faces, 16, 16)
    (found,) = torch.autograd.grad(seen.barycentric.sum(), corners)
    assert float(found.abs().max()) < 1e-5


def test_a_speck_around_one_centre_gives_away_no_more_than_itself():
    corners = 8.5 + 0.1 * torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    alpha = alpha_of(*fan(corners), 16)[0]
    assert 0 <= float(alpha[8, 8]) < 0.2
    assert float(alpha.sum()) == float(alpha[8, 8])


triangles = st.lists(st.floats(-2, 18), min_size=18, max_size=18)


@given(triangles, st.lists(st.floats(0.5, 3), min_size=9, max_size=9))
@settings(max_examples=40)
def test_blended_images_stay_between_their_colours(places: list[float], depths: list[float]):
    depth = torch.tensor(depths)[:, None]
    points = torch.cat((torch.tensor(places).view(9, 2) * depth, depth), -1)[None]
    alpha = alpha_of(points, torch.arange(9).view(3, 3), 16)
    assert float(alpha.min()) >= -1e-6
    assert float(alpha.max()) <= 1 + 1e-6


def test_edges_inside_a_surface_and_outlines_behind_it_are_not_blended():
    corners = torch.tensor([[-3.0, -3.0], [19.0, -3.0], [19.0, 19.0], [-3.0, 19.0], [8.0, 8.2]])
    # Tilted, so that of two neighbours one is always nearer.
    front = torch.cat((corners, 1 + 0.02 * corners.sum(-1, keepdim=True)), -1)
    behind = torch.tensor([[4.0, 4.0, 2.0], [12.0, 4.0, 2.0], [7.0, 12.0, 2.0]])
    points = torch.cat((front, behind))
    points = torch.cat((points[:, :2] * points[:, 2:], points[:, 2:]), -1)[None]
    faces = torch.tensor([[0, 1, 4], [1, 2, 4], [2, 3, 4], [3, 0, 4], [5, 6, 7]])
    seen = rasterise(points, faces, 16, 16)
    image = to_image(torch.rand(len(seen.pixel), 3), seen.pixel, (1, 16, 16))
    depth = to_image(seen.depth[:, None], seen.pixel, (1, 16, 16))[..., 0]
    assert set(seen.face.tolist()) == {0, 1, 2, 3}
    assert torch.equal(antialias(image, depth, points, edges_of(faces)), image)


def test_an_outline_before_another_surface_mixes_the_two():
    front = torch.tensor([[-3.0, -3.0, 1.0], [6.3, -3.0, 1.0], [6.3, 19.0, 1.0], [-3.0, 19.0, 1.0]])
    back = torch.tensor([[-3.0, -3.0, 2.0], [19.0, -3.0, 2.0], [19.0, 19.0, 2.0], [-3.0, 19.0, 2.0]])
    points = torch.cat((front, back))
    points = torch.cat((points[:, :2] * points[:, 2:], points[:, 2:]), -1)[None]
    faces = torch.tensor([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]])
    seen = rasterise(points, faces, 16, 16)
    image = to_image((seen.face < 2).float()[:, None], seen.pixel, (1, 16, 16))
    depth = to_image(seen.depth[:, None], seen.pixel, (1, 16, 16))[..., 0]
    row = antialias(image, depth, points, edges_of(faces))[0, 8, :, 0]
    torch.testing.assert_close(row[5:8], torch.tensor([1.0, 0.3, 0.0]), rtol=0, atol=1e-5)


def test_edges_are_paired_by_their_faces():
    box = torch.tensor(trimesh.creation.box().faces)
    closed = edges_of(box)
    assert len(closed.ends) == 18
    assert bool((closed.wings >= 0).all())
    assert len(torch.unique(closed.ends, dim=0)) == 18
    for ends, wings in zip(closed.ends.tolist(), closed.wings.tolist(), strict=True):
        for wing in wings:
            assert bool((box.sort(-1).values == torch.tensor(sorted((*ends, wing)))).all(-1).any())
    triangle = edges_of(torch.tensor([[0, 1, 2]]))
    assert triangle.wings[:, 1].tolist() == [-1, -1, -1]
    book = edges_of(torch.tensor([[0, 1, 2], [1, 0, 3], [0, 1, 4]]))
    spine = (book.ends == torch.tensor([0, 1])).all(-1)
    assert sorted(book.wings[spine].tolist()) == [[2, -1], [3, -1], [4, -1]]
    assert len(edges_of(torch.tensor([[0, 0, 1]])).ends) == 0
