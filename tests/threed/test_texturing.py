"""Charts that do not overlap, and textures that show the function they were baked from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import trimesh
from torch import Tensor

from degauss.core.errors import InputError
from degauss.threed.cameras import Cameras
from degauss.threed.mesh_files import read_mesh, write_mesh
from degauss.threed.meshes import Mesh
from degauss.threed.rasterise import rasterise, sample_texture
from degauss.threed.rendering import render
from degauss.threed.texturing import bake, textured, unwrap


def ball(subdivisions: int = 3) -> Mesh:
    made = trimesh.creation.icosphere(subdivisions, 0.5)
    return Mesh(torch.tensor(made.vertices).float(), torch.tensor(made.faces))


def waves(points: Tensor, normals: Tensor) -> Tensor:
    """A colour whose gradient is at most 3 per world unit."""
    return 0.5 + 0.3 * torch.sin(8 * points) * normals.abs().clamp(min=0.99)


def test_charts_are_the_surface_without_overlap():
    mesh = ball()
    flat = unwrap(mesh, 128)
    assert flat.uv is not None
    torch.testing.assert_close(flat.vertices[flat.faces], mesh.vertices[mesh.faces])
    assert float(flat.uv.min()) >= 0
    assert float(flat.uv.max()) <= 1
    flat.check_watertight("the unwrapped ball")
    torch.testing.assert_close(flat.smooth_normals[flat.faces], mesh.smooth_normals[mesh.faces], rtol=0, atol=1e-5)
    # Both ways round: where charts overlap, another face is first.
    points = torch.cat((flat.uv * 512, torch.ones(len(flat.uv), 1)), -1)[None]
    forth, back = (rasterise(points, faces, 512, 512) for faces in (flat.faces, flat.faces.flip(0)))
    same = forth.face == len(flat.faces) - 1 - back.face
    assert float(same.float().mean()) > 0.999  # but for texels right on an edge
    assert len(forth.pixel) > 0.3 * 512 * 512


def test_what_belongs_to_vertices_goes_with_them():
    mesh = ball(1)
    flat = unwrap(Mesh(mesh.vertices, mesh.faces, colours=mesh.vertices + 0.5, normals=2 * mesh.vertices), 64)
    assert flat.colours is not None
    assert flat.normals is not None
    torch.testing.assert_close(flat.colours, flat.vertices + 0.5)
    torch.testing.assert_close(flat.normals, 2 * flat.vertices)


@pytest.mark.parametrize("size", [128, 512])
def test_a_baked_mesh_shows_the_function_to_the_size_of_its_texels(size: int):
    flat = unwrap(ball(), size)
    baked = bake(flat, waves, size)
    assert baked.uv is not None
    assert baked.texture is not None
    assert baked.texture.shape == (size, size, 3)
    generator = torch.Generator().manual_seed(0)
    face = torch.randint(len(flat.faces), (5000,), generator=generator)
    weights = torch.distributions.Dirichlet(torch.ones(3)).sample((5000,))
    points = (weights[..., None] * flat.vertices[flat.faces[face]]).sum(1)
    normals = torch.nn.functional.normalize((weights[..., None] * flat.smooth_normals[flat.faces[face]]).sum(1), dim=-1)
    uv = (weights[..., None] * baked.uv[flat.faces[face]]).sum(1)
    error = (sample_texture(baked.texture, uv) - waves(points, normals)).abs().amax(-1)
    # The ball's area, 3.1, covers at least 0.3 of the texels.
    texel = (3.15 / (0.3 * size**2)) ** 0.5
    assert float(error.max()) < 3 * 1.5 * texel
    assert float(error.mean()) < 3 * 0.1 * texel


def test_images_of_a_baked_mesh_are_those_of_the_function():
    baked = textured(ball(), waves, 512)
    cameras = Cameras.orbit(torch.tensor([0.0, 130.0]), 20.0, size=64)
    seen = render(baked, cameras)
    origins, directions = cameras.rays()
    scale = (directions * cameras.forward[:, None, None]).sum(-1)
    points = origins + (seen.depth / scale)[..., None] * directions
    expected = waves(points.view(-1, 3), seen.normal.view(-1, 3)).view_as(points)
    inside = seen.alpha == 1
    assert float((seen.rgb - expected)[inside].abs().max()) < 0.03


def test_colours_go_on_beyond_the_rims_and_the_rest_is_their_mean():
    flat = unwrap(ball(2), 128, gutter=3)
    assert flat.uv is not None
    texture = bake(
        flat, lambda points, normals: torch.ones_like(points) * torch.tensor([0.2, 0.4, 0.6]), 128, 3
    ).texture
    assert texture is not None
    torch.testing.assert_close(texture, torch.tensor([0.2, 0.4, 0.6]).expand(128, 128, 3))  # no black anywhere


def test_few_points_at_once_change_nothing():
    flat = unwrap(ball(2), 64)
    one, other = bake(flat, waves, 64), bake(flat, waves, 64, at_once=17)
    assert one.texture is not None
    assert other.texture is not None
    torch.testing.assert_close(one.texture, other.texture)


def test_a_baked_mesh_survives_its_file(here: Path):
    baked = textured(ball(2), waves, 128)
    write_mesh(here / "ball.glb", baked)
    cameras = Cameras.orbit(40.0, 10.0, size=32)
    one, other = render(baked, cameras), render(read_mesh(here / "ball.glb"), cameras)
    assert float((one.rgb - other.rgb).abs().max()) < 1 / 255
    torch.testing.assert_close(one.normal, other.normal, rtol=0, atol=1e-3)


def test_what_cannot_be_baked_is_refused():
    mesh = ball(1)
    with pytest.raises(ValueError, match="unwrap it first"):
        bake(mesh, waves, 32)
    with pytest.raises(ValueError, match="not finite"):
        bake(unwrap(mesh, 32), lambda points, normals: points / 0, 32)
    with pytest.raises(InputError, match="it is empty"):
        unwrap(Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64)))
