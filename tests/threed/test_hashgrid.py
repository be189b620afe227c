"""Hash grids: against dense interpolation where nothing collides, and against finite differences."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import grid_sample, normalize

from degauss.threed.cameras import Cameras
from degauss.threed.hashgrid import HashConfig, HashGrid, alone, corner_rows, with_slopes
from degauss.threed.rendering import BLACK, render
from degauss.threed.volume import Blob, March


def small(rows: int = 1 << 9, **changes) -> HashGrid:
    """Seven levels, the last of which share rows, with numbers large enough to matter."""
    config = HashConfig(7, 3, 24, rows, 2, 8, march=March(8, 4), **changes)
    grid = HashGrid(config).double()
    generator = torch.Generator().manual_seed(0)
    for parameter in grid.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return grid


def points_in_cube(count: int) -> torch.Tensor:
    return torch.rand(count, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64) - 0.5


def test_levels_are_geometric():
    assert HashConfig().cells == (8, 13, 21, 35, 57, 95, 156, 256)
    assert HashConfig(levels=1, coarsest=5).cells == (5,)
    assert HashConfig(16, 16, 16).cells == (16,) * 16


def test_levels_without_collisions_are_dense_grids():
    cells, features = 6, 3
    table = torch.randn(features, (cells + 1) ** 3, dtype=torch.float64)
    points = torch.cat((points_in_cube(200), torch.tensor([[0.5, 0.5, 0.5], [-0.5, -0.5, -0.5]]).double()))
    position = (points.T + 0.5) * cells
    low = position.floor().clamp(0, cells - 1)
    rows = corner_rows(low.long(), cells, table.shape[1])
    (values,) = alone(table[:, rows], position - low, cells)
    lattice = table.reshape(1, features, *(cells + 1,) * 3)
    expected = grid_sample(lattice, (2 * points)[None, None, None], align_corners=True, padding_mode="border")
    assert torch.allclose(values, expected[0, :, 0, 0], atol=1e-13)
    again, *slopes = with_slopes(table[:, rows], position - low, cells)
    assert torch.equal(values, again)
    assert all(part.shape == values.shape for part in slopes)


def test_hashed_rows_are_those_of_the_formula_and_spread_evenly():
    low = torch.randint(0, 200, (3, 4000), generator=torch.Generator().manual_seed(0))
    rows = corner_rows(low, 256, 1 << 8)
    x, y, z = (int(part) for part in low[:, 17])
    corner = (x + 1) ^ ((y + 0) * 2654435761) ^ ((z + 1) * 805459861)
    assert int(rows[1, 0, 1, 17]) == corner % 256
    count = rows.flatten().bincount(minlength=256)
    assert len(count) == 256
    assert count.min() > 0.5 * count.double().mean()
    assert count.max() < 1.5 * count.double().mean()


def test_tables_are_no_larger_than_their_lattices():
    grid = small()
    assert [table.shape[1] for table in grid.tables] == [min(512, (n + 1) ** 3) for n in grid.config.cells]


def test_the_density_is_the_same_alone():
    grid, points = small(), points_in_cube(100)
    assert torch.allclose(grid.density(points), grid(points).density, rtol=1e-12)


def test_normals_are_against_the_density_s_gradient():
    grid, points, step = small(), points_in_cube(200), 1e-6
    with torch.inference_mode():
        axes = step * torch.eye(3).double()
        slope = torch.stack([grid.density(points + axis) - grid.density(points - axis) for axis in axes], -1)
        normal = grid(points).normal
    cosine = (normal * normalize(-slope, dim=-1)).sum(-1)
    assert float(cosine.min()) > 1 - 1e-6


@torch.no_grad()
def test_normals_of_the_first_ball_point_outwards():
    grid = HashGrid()
    points = 0.3 * normalize(torch.randn(500, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    cosine = (grid(points).normal * normalize(points, dim=-1)).sum(-1)
    assert float(cosine.min()) > 1 - 1e-3


def test_gradients_of_images_are_those_of_finite_differences():
    grid = small(blob=Blob(1.0, 0.3))
    camera = Cameras.orbit(25.0, 15.0, size=5, dtype=torch.float64)
    generator = torch.Generator().manual_seed(2)
    weights = torch.randn(5, 5, 8, generator=generator, dtype=torch.float64)

    def loss() -> torch.Tensor:
        seen = render(grid, camera, BLACK)
        parts = (seen.rgb[0], seen.alpha[0, ..., None], seen.depth[0, ..., None], seen.normal[0])
        return (torch.cat(parts, -1) * weights).sum()

    loss().backward()
    for name, parameter in grid.named_parameters():
        along = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        start, step, ends = parameter.data.clone(), 1e-6, []
        with torch.no_grad():
            for sign in (1, -1):
                parameter.data = start + sign * step * along
                ends.append(float(loss()))
            parameter.data = start
        expected = (ends[0] - ends[1]) / (2 * step)
        assert parameter.grad is not None
        assert float((parameter.grad * along).sum()) == pytest.approx(expected, rel=1e-4, abs=1e-6), name


def test_seeds_and_the_generator_of_torch():
    one, same, other = HashGrid(seed=1), HashGrid(seed=1), HashGrid(seed=2)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.tables[0], other.tables[0])
    assert not torch.equal(one.inner, other.inner)
    assert torch.equal(before, torch.get_rng_state())


def test_it_learns_a_stripe():
    grid = HashGrid(HashConfig(4, 4, 16, 1 << 10, 2, 16, march=March(16, 8)))
    views = Cameras.orbit(torch.arange(0, 360, 60.0), 15.0, size=12)
    with torch.no_grad():
        wanted = render(grid, views, BLACK).rgb
        wanted[..., 0] *= 2
        wanted[..., 1] *= torch.linspace(0, 2, 12)[:, None]
        wanted[..., 2] *= 0.2
    optimiser = torch.optim.Adam(grid.parameters(), 0.03)
    losses: list[float] = []
    for _ in range(40):
        optimiser.zero_grad()
        loss = (render(grid, views, BLACK).rgb - wanted).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.05 * losses[0]


def test_what_cannot_be_a_hash_grid():
    good = HashConfig()
    for bad in ({"rows": 1000}, {"levels": 0}, {"finest": 4}, {"scale": 0.0}):
        with pytest.raises(ValueError, match="power of two"):
            replace(good, **bad)
