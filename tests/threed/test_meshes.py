"""A mesh's geometry in closed form, what it refuses, and how it is seen."""

from __future__ import annotations

import math

import pytest
import torch
import trimesh
from torch import Tensor

from degauss.core.errors import InputError
from degauss.threed.cameras import Cameras
from degauss.threed.meshes import GREY, Mesh
from degauss.threed.rendering import BLACK, WHITE, render


def solid(made: trimesh.Trimesh) -> Mesh:
    return Mesh(torch.tensor(made.vertices).float(), torch.tensor(made.faces))


def ball(subdivisions: int = 4, radius: float = 0.5) -> Mesh:
    return solid(trimesh.creation.icosphere(subdivisions, radius))


def cut_box() -> Mesh:
    """A unit box whose faces have vertices of their own, as behind a texture's seams."""
    box = solid(trimesh.creation.box())
    return Mesh(box.vertices[box.faces.flatten()], torch.arange(36).view(12, 3))


def wall(uv: Tensor, texture: Tensor) -> Mesh:
    """A square that fills the view of `straight` cameras exactly."""
    places = torch.tensor([[-0.5, -0.5, 0.0], [0.5, -0.5, 0.0], [0.5, 0.5, 0.0], [-0.5, 0.5, 0.0]])
    return Mesh(places, torch.tensor([[0, 1, 2], [0, 2, 3]]), uv, texture)


def straight(size: int) -> Cameras:
    return Cameras.orbit(0.0, 0.0, 2.0, math.degrees(2 * math.atan(0.25)), size)


# --- the surface --------------------------------------------------------------------------------------------


def test_a_box_has_its_area_volume_and_normals():
    box = solid(trimesh.creation.box((1.0, 2.0, 3.0)))
    assert float(box.area) == pytest.approx(22.0)
    assert float(box.volume) == pytest.approx(6.0)
    assert sorted(map(tuple, box.face_normals.round().tolist())) == sorted(
        2 * [tuple(sign * float(axis == k) + 0.0 for k in range(3)) for axis in range(3) for sign in (1, -1)]
    )


def test_a_ball_has_radial_normals_also_across_seams():
    whole = ball(3)
    radial = whole.vertices / whole.vertices.norm(dim=-1, keepdim=True)
    assert float((whole.smooth_normals * radial).sum(-1).min()) > 0.999
    cut = Mesh(whole.vertices[whole.faces.flatten()], torch.arange(3 * len(whole.faces)).view(-1, 3))
    torch.testing.assert_close(cut.smooth_normals, whole.smooth_normals[whole.faces.flatten()])


def test_a_cut_box_is_one_surface_again():
    box = cut_box()
    assert len(box.welded.unique()) == 8
    assert torch.equal(box.vertices[box.welded], box.vertices)
    assert len(box.edges.ends) == 18
    box.check_watertight("box")


def test_holes_and_crowded_edges_are_counted():
    box = solid(trimesh.creation.box())
    with pytest.raises(InputError, match=r"^box: .* 3 of its edges .* \(3 have one, 0 more than two\)\.$"):
        Mesh(box.vertices, box.faces[1:]).check_watertight("box")
    fin = Mesh(torch.cat((box.vertices, torch.ones(1, 3))), torch.cat((box.faces, torch.tensor([[0, 1, 8]]))))
    with pytest.raises(InputError, match=r" 3 of its edges .* \(2 have one, 1 more than two\)"):
        fin.check_watertight("fin")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"faces": torch.zeros(0, 3, dtype=torch.int64)}, "8 vertices and 0 faces: it is empty"),
        ({"faces": torch.tensor([[0, 1, 2], [0, 1, 8]])}, "face 1 asks for vertex 8, but vertices go from 0 to 7"),
        ({"faces": torch.tensor([[0, -1, 2]])}, "face 0 asks for vertex -1"),
        ({"vertices": torch.full((8, 3), math.nan)}, "24 of 24 numbers of the mesh's vertices are not finite"),
        ({"colours": torch.full((8, 3), math.inf)}, "24 of 24 numbers of the mesh's colours are not finite"),
    ],
)
def test_a_mesh_that_cannot_be_used_is_named(change: dict[str, Tensor], message: str):
    box = solid(trimesh.creation.box())
    box.check("a box")
    with pytest.raises(InputError) as refused:
        Mesh(**{"vertices": box.vertices, "faces": box.faces, **change}).check("a box")
    assert str(refused.value).startswith("a box: ")
    assert message in str(refused.value)


def test_parts_that_do_not_fit_are_a_programming_error():
    box = solid(trimesh.creation.box())
    with pytest.raises(ValueError, match="uv of a mesh"):
        Mesh(box.vertices, box.faces, torch.zeros(7, 2))
    with pytest.raises(ValueError, match="int64"):
        Mesh(box.vertices, box.faces.int())
    with pytest.raises(ValueError, match="needs uv"):
        Mesh(box.vertices, box.faces, texture=torch.zeros(4, 4, 3))


# --- other versions of it -----------------------------------------------------------------------------------


def test_a_mesh_is_fitted_to_the_unit_cube():
    made = trimesh.creation.box((1.0, 2.0, 4.0))
    made.apply_translation((7, 8, 9))
    fitted = solid(made).fitted()
    torch.testing.assert_close(fitted.vertices.amax(0), torch.tensor([0.125, 0.25, 0.5]))
    torch.testing.assert_close(fitted.vertices.amin(0), -torch.tensor([0.125, 0.25, 0.5]))
    with pytest.raises(InputError, match="single point"):
        Mesh(torch.ones(3, 3), torch.tensor([[0, 1, 2]])).fitted()


def test_a_turned_mesh_is_seen_from_the_turned_azimuth():
    mesh = solid(trimesh.creation.cone(0.2, 0.6)).fitted()  # its axis is z
    before = render(mesh, Cameras.orbit(20.0, 10.0, size=32))
    after = render(mesh.turned(70.0), Cameras.orbit(90.0, 10.0, size=32))
    assert float((before.alpha - after.alpha).abs().max()) < 0.02
    torch.testing.assert_close(mesh.turned(90.0).vertices[:, 0], mesh.vertices[:, 2])


def test_a_moved_mesh_keeps_its_connections_even_where_vertices_meet():
    box = cut_box()
    moved = box.moved(torch.zeros_like(box.vertices))
    assert torch.equal(moved.welded, box.welded)
    assert len(moved.edges.ends) == 18
    assert len(Mesh(torch.zeros_like(box.vertices), box.faces).edges.ends) == 0


def test_a_flat_mesh_has_the_normals_of_its_faces():
    seen = render(solid(trimesh.creation.box((0.6, 0.6, 0.6))).flat(), Cameras.orbit(30.0, 20.0, size=32), BLACK)
    inside = seen.alpha == 1
    normals = seen.normal[inside]
    axes = torch.eye(3)
    for axis in axes:
        aligned = normals @ axis
        assert bool(((aligned - aligned.round()).abs() < 1e-5).float().mean() > 0.8)  # the rest mixes two faces


# --- how it is seen -----------------------------------------------------------------------------------------


def test_a_ball_has_the_depth_and_normals_of_a_sphere():
    cameras = Cameras.orbit(torch.tensor([25.0, -100.0]), torch.tensor([35.0, -10.0]), 2.2, 40.0, 64)
    seen = render(ball(5), cameras, BLACK)
    origins, directions = cameras.rays()
    b = (origins * directions).sum(-1)
    discriminant = b**2 - (origins**2).sum(-1) + 0.25
    inside = discriminant > 0.01  # away from the outline, where depth is as steep as it likes
    distance = -b - discriminant.clamp(min=0).sqrt()
    hit = origins + distance[..., None] * directions
    depth = distance * (directions * cameras.forward[:, None, None]).sum(-1)
    assert bool((seen.alpha[inside] == 1).all())
    assert float((seen.depth - depth)[inside].abs().max()) < 2e-3
    assert float((seen.normal - 2 * hit)[inside].norm(dim=-1).max()) < 0.01
    assert float(seen.alpha[discriminant < -0.03].max()) == 0


def test_an_image_keeps_the_contract():
    seen = render(ball(3, 0.3), Cameras.orbit(torch.tensor([0.0, 40.0]), 10.0, size=32), (0.2, 0.4, 0.6))
    assert (seen.rgb.shape, seen.alpha.shape) == ((2, 32, 32, 3), (2, 32, 32))
    expected = seen.alpha[..., None] * GREY + (1 - seen.alpha[..., None]) * torch.tensor([0.2, 0.4, 0.6])
    torch.testing.assert_close(seen.rgb, expected)
    rim = (seen.alpha > 0) & (seen.alpha < 1)
    assert int(rim.sum()) > 40
    assert bool((seen.normal.norm(dim=-1) <= seen.alpha + 1e-5).all())
    torch.testing.assert_close(seen.normal[seen.alpha == 1].norm(dim=-1).median(), torch.tensor(1.0))
    assert float(seen.depth[seen.alpha == 0].max()) == 0
    assert bool((seen.depth[rim] > 1.8).all())  # of what is seen, not mixed with 0


def test_a_background_can_be_an_image():
    behind = torch.rand(32, 32, 3, generator=torch.Generator().manual_seed(0))
    seen = render(ball(2, 0.3), Cameras.orbit(0.0, 0.0, size=32), behind)
    assert torch.equal(seen.rgb[0][seen.alpha[0] == 0], behind[seen.alpha[0] == 0])


def test_a_texture_is_seen_upright():
    texture = torch.rand(8, 8, 3, generator=torch.Generator().manual_seed(0))
    uv = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    seen = render(wall(uv, texture), straight(8))
    torch.testing.assert_close(seen.rgb[0, 1:-1, 1:-1], texture[1:-1, 1:-1], rtol=0, atol=1e-4)


def test_colours_of_vertices_are_seen_and_a_texture_goes_before():
    colours = torch.tensor([[1.0, 0.0, 0.0]]).expand(4, 3)
    uv = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    square = wall(uv, torch.zeros(2, 2, 3))
    red = render(Mesh(square.vertices, square.faces, colours=colours), straight(8)).rgb[0, 4, 4]
    assert red.tolist() == pytest.approx([1.0, 0.0, 0.0], abs=1e-6)
    both = Mesh(square.vertices, square.faces, uv, square.texture, colours)
    assert render(both, straight(8)).rgb[0, 4, 4].tolist() == pytest.approx([0.0, 0.0, 0.0], abs=1e-6)


def test_images_have_gradients_in_everything():
    uv = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    texture = torch.rand(4, 4, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    square = wall(uv, texture)
    vertices = (0.8 * square.vertices).requires_grad_()
    seen = render(square.moved(vertices), Cameras.orbit(20.0, 10.0, size=24), WHITE)
    for part in seen:
        (slope,) = torch.autograd.grad((part * torch.rand_like(part)).sum(), vertices, retain_graph=True)
        assert bool(slope.isfinite().all())
        assert float(slope.abs().max()) > 1e-3
    (slope,) = torch.autograd.grad(seen.rgb.sum(), texture)
    assert float(slope.sum()) == pytest.approx(3 * float(seen.alpha.detach().sum()), rel=1e-4)


def test_a_view_past_the_mesh_is_the_background():
    far = Mesh(ball(1).vertices + torch.tensor([9.0, 0.0, 0.0]), ball(1).faces)
    seen = render(far, Cameras.orbit(0.0, 0.0, size=8), (0.1, 0.2, 0.3))
    assert float(seen.alpha.max()) == 0
    torch.testing.assert_close(seen.rgb, torch.tensor([0.1, 0.2, 0.3]).expand(1, 8, 8, 3))


@pytest.mark.gpu
def test_a_gpu_draws_the_same():
    mesh, cameras = ball(3), Cameras.orbit(torch.tensor([0.0, 40.0]), 10.0, size=32)
    here, there = render(mesh, cameras), render(mesh.to("cuda"), cameras.to("cuda"))
    for part, same in zip(here, there, strict=True):
        torch.testing.assert_close(same.cpu(), part, rtol=0, atol=1e-4)
