"""Coverage exactly, depth and place against ray casting, closed forms and differences."""

from __future__ import annotations

import time
from fractions import Fraction

import numpy as np
import pytest
import torch
import trimesh
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from degauss.core.errors import InputError
from degauss.threed import rasterise as module
from degauss.threed.cameras import Cameras
from degauss.threed.datasets import read_known
from degauss.threed.rasterise import Fragments, homogeneous, interpolate, rasterise, sample_texture, to_image


def flat_points(places: list[tuple[float, float]], depth: float = 2.0) -> Tensor:
    """Points at pixels, all at one depth."""
    return torch.tensor([[(depth * x, depth * y, depth) for x, y in places]])


def sphere(subdivisions: int, radius: float = 0.4) -> tuple[Tensor, Tensor]:
    made = trimesh.creation.icosphere(subdivisions, radius)
    return torch.tensor(made.vertices).float(), torch.tensor(made.faces)


eighths = st.integers(-16, 80).map(lambda number: number / 8)


@given(st.lists(st.tuples(eighths, eighths), min_size=3, max_size=3))
@settings(max_examples=60)
def test_a_triangle_covers_exactly_the_centres_inside_it(corners: list[tuple[float, float]]):
    (ax, ay), (bx, by), (cx, cy) = [(Fraction(x), Fraction(y)) for x, y in corners]
    twice = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
    assume(twice != 0)
    expected = set()
    for row in range(8):
        for column in range(8):
            x, y = column + Fraction(1, 2), row + Fraction(1, 2)
            sides = [
                (px - x) * (qy - y) - (py - y) * (qx - x)
                for (px, py), (qx, qy) in (((ax, ay), (bx, by)), ((bx, by), (cx, cy)), ((cx, cy), (ax, ay)))
            ]
            if all(side * twice >= 0 for side in sides):
                expected.add(row * 8 + column)
    seen = rasterise(flat_points(corners), torch.tensor([[0, 1, 2]]), 8, 8)
    assert set(seen.pixel.tolist()) == expected


def test_neighbouring_triangles_leave_no_pixel_between_them():
    # A jittered grid whose vertices lie anywhere, also on centres, seen in perspective.
    generator = torch.Generator().manual_seed(0)
    side = 24
    y, x = torch.meshgrid(torch.arange(side + 1.0), torch.arange(side + 1.0), indexing="ij")
    inner = ((x > 0) & (x < side) & (y > 0) & (y < side)).float()
    x, y = (part * 40 / side + inner * 0.7 * (torch.rand(part.shape, generator=generator) - 0.5) for part in (x, y))
    depth = 1 + torch.rand(x.shape, generator=generator)
    points = torch.stack((x * depth, y * depth, depth), -1).view(1, -1, 3)
    corner = (torch.arange(side)[:, None] * (side + 1) + torch.arange(side)).flatten()
    faces = torch.cat(
        (
            torch.stack((corner, corner + 1, corner + side + 1), -1),
            torch.stack((corner + 1, corner + side + 2, corner + side + 1), -1),
        )
    )
    seen = rasterise(points, faces, 40, 40)
    assert seen.pixel.tolist() == list(range(1600))
    assert float(seen.barycentric.min()) >= 0


def cast(vertices: np.ndarray, faces: np.ndarray, origin: np.ndarray, direction: np.ndarray) -> tuple[int, np.ndarray]:
    """The first face that a ray meets (-1: none) and where, by trimesh's planes and barycentric coordinates."""
    triangles = vertices[faces]
    normals = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = ((triangles[:, 0] - origin) * normals).sum(-1) / (normals @ direction)
    hits = origin + distance[:, None] * direction
    ahead = np.isfinite(distance) & (distance > 0)
    weights = np.full((len(faces), 3), -1.0)
    weights[ahead] = trimesh.triangles.points_to_barycentric(triangles[ahead], hits[ahead])
    distance[~(weights >= 0).all(-1)] = np.inf
    best = int(distance.argmin())
    return (best if np.isfinite(distance[best]) else -1), weights[best]


@pytest.mark.parametrize("subdivisions", [1, 3])
def test_faces_places_and_depth_agree_with_ray_casting(subdivisions: int):
    vertices, faces = sphere(subdivisions)
    generator = torch.Generator().manual_seed(1)
    vertices = vertices * (1 + 0.3 * torch.rand(len(vertices), 1, generator=generator))  # it hides parts of itself
    cameras = Cameras.orbit(torch.tensor([20.0, 200.0]), torch.tensor([35.0, -70.0]), 1.6, 50.0, (40, 48))
    _compare_with_rays(vertices, faces, cameras, 300)


def _compare_with_rays(vertices: Tensor, faces: Tensor, cameras: Cameras, rays: int) -> None:
    height, width = cameras.height, cameras.width
    seen = rasterise(homogeneous(cameras, vertices), faces, height, width)
    origins, directions = (part.double().numpy().reshape(-1, 3) for part in cameras.rays())
    forward = cameras.forward.double().numpy()
    where = {pixel: place for place, pixel in enumerate(seen.pixel.tolist())}
    chosen = torch.randperm(len(origins), generator=torch.Generator().manual_seed(2))[:rays].tolist()
    agreed = 0
    for pixel in chosen:
        face, weights = cast(vertices.double().numpy(), faces.numpy(), origins[pixel], directions[pixel])
        if pixel not in where or int(seen.face[where[pixel]]) != face:
            # Only a ray that meets an edge, to rounding, may see the other side of it.
            assert face == -1 or weights.min() < 1e-4
            continue
        agreed += 1
        place = where[pixel]
        hit = weights @ vertices[faces[face]].double().numpy()
        depth = (hit - origins[pixel]) @ forward[pixel // (height * width)]
        assert float(seen.depth[place]) == pytest.approx(depth, abs=2e-6)
        np.testing.assert_allclose(seen.barycentric[place].numpy(), weights, atol=2e-4)
    assert agreed > 0.2 * rays
    assert len(where) == len(seen.pixel)


def test_a_real_mesh_agrees_with_ray_casting():
    try:
        spot = read_known("spot")
    except InputError as error:
        pytest.skip(str(error))
    _compare_with_rays(spot.vertices, spot.faces, Cameras.orbit(torch.tensor([30.0]), 20.0, 1.6, size=64), 150)


def test_the_nearest_face_is_seen_and_of_two_at_one_depth_the_first():
    near = flat_points([(0, 0), (8, 0), (0, 8)], 1.0)
    far = flat_points([(0, 0), (8, 0), (0, 8)], 1.5)
    faces = torch.tensor([[3, 4, 5], [0, 1, 2], [1, 2, 0]])
    seen = rasterise(torch.cat((near, far), 1), faces, 8, 8)
    assert set(seen.face.tolist()) == {1}
    assert float(seen.depth.min()) == float(seen.depth.max()) == 1.0


def test_a_floor_that_reaches_behind_the_camera_is_seen_to_the_horizon():
    vertices = torch.tensor([[-9.0, -0.5, 9.0], [9, -0.5, 9], [9, -0.5, -90], [-9, -0.5, -90]])
    cameras = Cameras.orbit(0.0, 0.0, 2.0, 60.0, 32)
    points = homogeneous(cameras, vertices)
    seen = rasterise(points, torch.tensor([[0, 1, 2], [0, 2, 3]]), 32, 32)
    image = torch.zeros(1024).index_copy(0, seen.pixel, seen.depth).view(32, 32)
    rows = torch.arange(32) + 0.5
    expected = 0.5 * float(cameras.focal[0, 1]) / (rows - 16)
    on_floor = (rows > 16) & (expected < 92)
    assert on_floor.sum() == 16
    torch.testing.assert_close(image[on_floor, 16], expected[on_floor], rtol=1e-5, atol=0)
    assert int(seen.pixel.min()) >= 16 * 32


def test_nothing_behind_the_camera_is_seen():
    vertices = torch.tensor([[-1.0, -1.0, 3.0], [1.0, -1.0, 3.0], [0.0, 1.0, 3.0]])
    seen = rasterise(homogeneous(Cameras.orbit(0.0, 0.0, 2.0, 60.0, 16), vertices), torch.tensor([[0, 1, 2]]), 16, 16)
    assert len(seen.pixel) == 0


def test_places_and_depth_have_the_gradients_of_their_differences():
    vertices = torch.tensor([[-0.4, -0.4, 0.1], [0.5, -0.3, -0.2], [0.0, 0.5, 0.0]], dtype=torch.float64)
    cameras = Cameras.orbit(25.0, 15.0, 2.0, 50.0, 6, dtype=torch.float64)

    def seen(vertices: Tensor) -> tuple[Tensor, Tensor]:
        fragments = rasterise(homogeneous(cameras, vertices), torch.tensor([[0, 1, 2]]), 6, 6)
        assert len(fragments.pixel) > 3
        return fragments.barycentric, fragments.depth

    assert torch.autograd.gradcheck(seen, vertices.requires_grad_())


def test_a_small_store_of_candidates_changes_nothing(monkeypatch: pytest.MonkeyPatch):
    vertices, faces = sphere(2)
    points = homogeneous(Cameras.orbit(torch.tensor([0.0, 90.0]), 0.0, size=32), vertices)
    whole = rasterise(points, faces, 32, 32)
    monkeypatch.setattr(module, "_CANDIDATES", 50)
    _equal(rasterise(points, faces, 32, 32), whole)


def test_an_image_does_not_depend_on_its_batch():
    vertices, faces = sphere(3)
    cameras = Cameras.orbit(torch.tensor([0.0, 50.0, 100.0]), 20.0, size=32)
    whole = rasterise(homogeneous(cameras, vertices), faces, 32, 32)
    own = rasterise(homogeneous(cameras[1], vertices), faces, 32, 32)
    rows = (whole.pixel // 1024) == 1
    shifted = Fragments(whole.pixel[rows] - 1024, whole.face[rows], whole.barycentric[rows], whole.depth[rows])
    _equal(own, shifted)


def _equal(one: Fragments, other: Fragments) -> None:
    for part, same in zip(one, other, strict=True):
        assert torch.equal(part, same)


def test_a_view_of_nothing_is_empty():
    points = homogeneous(Cameras.orbit(0.0, 0.0, size=8), torch.zeros(0, 3))
    assert len(rasterise(points, torch.zeros(0, 3, dtype=torch.int64), 8, 8).pixel) == 0


def test_points_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="finite"):
        rasterise(flat_points([(0, 0), (float("nan"), 0), (0, 8)]), torch.tensor([[0, 1, 2]]), 8, 8)


def test_values_are_interpolated_on_the_surface_and_not_on_the_image():
    vertices = torch.tensor([[-1.0, -0.5, 0.5], [1.0, -0.5, -3.0], [1.0, 0.5, -3.0], [-1.0, 0.5, 0.5]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    cameras = Cameras.orbit(0.0, 0.0, 2.0, 60.0, 32)
    seen = rasterise(homogeneous(cameras, vertices), faces, 32, 32)
    places = interpolate(vertices, faces, seen)
    pixels = cameras.project(places)[0]
    torch.testing.assert_close(pixels[:, 0], seen.pixel % 32 + 0.5, rtol=0, atol=1e-4)
    torch.testing.assert_close(pixels[:, 1], seen.pixel // 32 + 0.5, rtol=0, atol=1e-4)


def test_a_texture_is_sampled_as_torch_does_inside_and_repeats_outside():
    generator = torch.Generator().manual_seed(3)
    texture = torch.rand(5, 7, 2, generator=generator)
    uv = 0.1 + 0.8 * torch.rand(50, 2, generator=generator)
    grid = torch.stack((2 * uv[:, 0] - 1, 1 - 2 * uv[:, 1]), -1).view(1, 1, -1, 2)
    expected = functional.grid_sample(texture.movedim(-1, 0)[None], grid, align_corners=False)[0, :, 0].mT
    torch.testing.assert_close(sample_texture(texture, uv), expected)
    torch.testing.assert_close(sample_texture(texture, uv + torch.tensor([3.0, -2.0])), expected, rtol=0, atol=1e-5)
    corner = sample_texture(texture, torch.tensor([[0.5 / 7, 1 - 0.5 / 5]]))
    torch.testing.assert_close(corner[0], texture[0, 0])
    assert torch.autograd.gradcheck(
        sample_texture, (texture.double().requires_grad_(), uv[:3].double().requires_grad_())
    )


def test_an_image_holds_what_is_seen_and_0_elsewhere():
    image = to_image(torch.tensor([[1.0, 2.0]]), torch.tensor([5]), (2, 2, 2))
    assert image.shape == (2, 2, 2, 2)
    assert image[1, 0, 1].tolist() == [1.0, 2.0]
    assert float(image.sum()) == 3.0


def test_five_thousand_faces_take_well_under_a_second():
    vertices, faces = sphere(4)
    points = homogeneous(Cameras.orbit(0.0, 0.0, size=128), vertices)
    rasterise(points, faces, 128, 128)
    start = time.process_time()
    rasterise(points, faces, 128, 128)
    assert len(faces) == 5120
    assert time.process_time() - start < 0.2


def test_pytorch3d_sees_the_same_faces():
    pytest.importorskip("pytorch3d")
    from pytorch3d.renderer.mesh import rasterize_meshes  # pyright: ignore[reportMissingImports]
    from pytorch3d.structures import Meshes  # pyright: ignore[reportMissingImports]

    vertices, faces = sphere(3)
    points = homogeneous(Cameras.orbit(30.0, 20.0, size=64), vertices)
    depth = points[0, :, 2:]
    theirs = torch.cat((1 - 2 * points[0, :, :2] / depth / 64, depth), -1)
    face, z, weights, _ = rasterize_meshes(
        Meshes([theirs], [faces]), 64, blur_radius=0.0, faces_per_pixel=1, perspective_correct=True
    )
    seen = rasterise(points, faces, 64, 64)
    same = face.flatten()[seen.pixel] == seen.face
    assert float(same.float().mean()) > 0.99
    torch.testing.assert_close(z.flatten()[seen.pixel][same], seen.depth[same], rtol=0, atol=1e-4)
    torch.testing.assert_close(weights.view(-1, 3)[seen.pixel][same], seen.barycentric[same], rtol=0, atol=1e-3)


@pytest.mark.gpu
def test_a_gpu_sees_the_same():
    vertices, faces = sphere(3)
    cameras = Cameras.orbit(torch.tensor([30.0, 70.0]), 20.0, size=64)
    here = rasterise(homogeneous(cameras, vertices), faces, 64, 64)
    there = rasterise(homogeneous(cameras, vertices).cuda(), faces.cuda(), 64, 64)
    for part, same in zip(here, there, strict=True):
        torch.testing.assert_close(same.cpu(), part, rtol=1e-5, atol=1e-5)
