"""Voxel grids: their interpolation, their normals, their gradients, and that they learn."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize, softplus

from degauss.threed.cameras import Cameras
from degauss.threed.rendering import BLACK, render
from degauss.threed.volume import Blob, March
from degauss.threed.voxels import VoxelConfig, Voxels


def drawn(resolution: int = 5) -> Voxels:
    voxels = Voxels(VoxelConfig(resolution, march=March(8, 4))).double()
    generator = torch.Generator().manual_seed(0)
    voxels.raw.data = 2 * torch.randn(voxels.raw.shape, generator=generator, dtype=torch.float64)
    voxels.colour.data = torch.randn(voxels.colour.shape, generator=generator, dtype=torch.float64)
    return voxels


def points_in_cube(count: int) -> torch.Tensor:
    return torch.rand(count, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64) - 0.5


def test_points_of_the_lattice_hold_what_was_put_there():
    voxels = drawn(3).requires_grad_(False)
    x, y, z = 2, 0, 1
    point = torch.tensor([[0.5, -0.5, 0.0]]).double()
    density, rgb, _ = voxels(point)
    assert float(density) == pytest.approx(float(10 * softplus(voxels.raw[z, y, x])))
    assert rgb[0].tolist() == pytest.approx(voxels.colour[:, z, y, x].sigmoid().tolist())


def test_what_is_linear_is_kept():
    voxels = Voxels(VoxelConfig(6, march=March(8, 4))).double()
    ticks = torch.linspace(-0.5, 0.5, 6, dtype=torch.float64)
    z, y, x = torch.meshgrid(ticks, ticks, ticks, indexing="ij")
    voxels.raw.data = 1 + 2 * x - 3 * y + z
    points = points_in_cube(50)
    way = torch.tensor([2.0, -3.0, 1.0]).double()
    density, _, normal = voxels(points)
    assert torch.allclose(density, 10 * softplus(1 + points @ way), atol=1e-12)
    assert torch.allclose(normal, -normalize(way, dim=0).expand_as(points), atol=1e-12)
    assert torch.equal(density, voxels.density(points))


@torch.no_grad()
def test_normals_of_a_ball_point_outwards():
    voxels = Voxels(VoxelConfig(48))
    points = 0.3 * normalize(torch.randn(2000, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    normal = voxels(points).normal
    assert torch.allclose(normal.norm(dim=-1), torch.ones(2000), atol=1e-5)
    cosine = (normal * normalize(points, dim=-1)).sum(-1)
    assert float(cosine.min()) > 1 - 1e-3


def test_a_flat_field_has_no_normals_and_no_trouble():
    voxels = Voxels(VoxelConfig(4))
    voxels.raw.data.zero_()
    normal = voxels(torch.zeros(3, 3)).normal
    assert not normal.any()
    normal.sum().backward()
    assert voxels.raw.grad is not None
    assert torch.isfinite(voxels.raw.grad).all()


@pytest.mark.parametrize("name", ["raw", "colour"])
def test_gradients_of_images_are_those_of_finite_differences(name):
    voxels = drawn()
    camera = Cameras.orbit(25.0, 15.0, size=6, dtype=torch.float64)
    generator = torch.Generator().manual_seed(2)
    weights = torch.randn(6, 6, 8, generator=generator, dtype=torch.float64)

    def loss() -> torch.Tensor:
        seen = render(voxels, camera, BLACK)
        parts = (seen.rgb[0], seen.alpha[0, ..., None], seen.depth[0, ..., None], seen.normal[0])
        return (torch.cat(parts, -1) * weights).sum()

    parameter = dict(voxels.named_parameters())[name]
    loss().backward()
    along = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    start, step = parameter.data.clone(), 1e-5
    with torch.no_grad():
        ends = []
        for sign in (1, -1):
            parameter.data = start + sign * step * along
            ends.append(float(loss()))
    assert parameter.grad is not None
    assert float((parameter.grad * along).sum()) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5)


def test_empty_cells_are_exact_at_the_grid_s_own_resolution():
    voxels = Voxels(VoxelConfig(17, blob=Blob(20.0, 0.2), march=March(32, 16)))
    camera = Cameras.orbit(40.0, 20.0, size=16)
    with torch.no_grad():
        before = render(voxels, camera)
        assert voxels.find_empty(1e-3) < 0.6
        after = render(voxels, camera)
    assert float((before.alpha - after.alpha).abs().max()) < 1.8e-3


def test_resampling_keeps_the_field():
    voxels = drawn(5)
    finer = voxels.resampled(9)
    points = points_in_cube(100)
    assert torch.allclose(finer(points).density, voxels(points).density, atol=1e-12)
    assert torch.allclose(finer(points).rgb, voxels(points).rgb, atol=1e-12)
    assert finer.config.resolution == 9
    assert torch.allclose(finer.resampled(5).raw, voxels.raw, atol=1e-12)


@pytest.mark.parametrize("bar", [26, pytest.param(30, marks=pytest.mark.xfail(strict=True, reason="it has 28.8 dB"))])
def test_a_ball_learns_to_be_another(bar: float):
    target = Voxels(VoxelConfig(12, blob=Blob(10, 0.4), march=March(16)))
    target.colour.data = torch.linspace(-2, 2, 12)[None, None, None, :].expand(3, 12, 12, 12) * torch.tensor(
        [1.0, -1.0, 0.5]
    ).reshape(3, 1, 1, 1)
    views = Cameras.orbit(torch.arange(0, 360, 45.0), 15.0, size=16)
    held_out = Cameras.orbit(100.0, 40.0, size=16)
    with torch.no_grad():
        wanted, unseen = render(target, views).rgb, render(target, held_out).rgb
    voxels = Voxels(VoxelConfig(12, march=March(16)))

    def psnr() -> float:
        with torch.no_grad():
            return float(-10 * (render(voxels, held_out).rgb - unseen).square().mean().log10())

    before = psnr()
    optimiser = torch.optim.Adam(voxels.parameters(), 0.3)
    for _ in range(30):
        optimiser.zero_grad()
        (render(voxels, views).rgb - wanted).square().mean().backward()
        optimiser.step()
    assert before < 20
    assert psnr() > bar


def test_what_cannot_be_a_grid():
    with pytest.raises(ValueError, match="2 points a side"):
        VoxelConfig(1)
    with pytest.raises(ValueError, match="positive scale"):
        VoxelConfig(scale=0)
