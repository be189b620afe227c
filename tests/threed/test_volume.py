"""Volume rendering against integrals that have a closed form."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from degauss.core.noise import Noise
from degauss.threed.cameras import Cameras
from degauss.threed.hashgrid import HashGrid
from degauss.threed.rendering import BLACK, WHITE, Rendered, render
from degauss.threed.volume import March, Sample, Volume, chord, composite
from degauss.threed.voxels import Voxels

ORANGE = torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64)
FRONT = Cameras.orbit(0.0, 0.0, 2.0, 40.0, 9, dtype=torch.float64)
VIEWS = Cameras.orbit(torch.tensor([20.0, 140.0, -100.0]), torch.tensor([30.0, -50.0, 80.0]), size=7).to(
    dtype=torch.float64
)


class Known(Volume):
    """A density that is written down, of one colour, whose normals point away from the origin."""

    def __init__(self, of: Callable[[Tensor], Tensor], samples: int, cells: int = 8, rays: int = 1 << 16) -> None:
        super().__init__(March(samples, cells, rays))
        self.of = of
        self.gain = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, points: Tensor) -> Sample:
        rgb = ORANGE.expand(len(points), 3)
        return Sample(self.density(points), rgb, nn.functional.normalize(points, dim=-1))

    def density(self, points: Tensor) -> Tensor:
        return self.gain * self.of(points)


def look(volume: Volume, cameras: Cameras, background: Tensor | Sequence[float] = WHITE) -> Rendered:
    with torch.no_grad():
        return render(volume, cameras, background)


def constant(points: Tensor) -> Tensor:
    return torch.full_like(points[:, 0], 3.0)


def ball(points: Tensor) -> Tensor:
    return 5.0 * (points.norm(dim=-1) < 0.4)


def egg(points: Tensor) -> Tensor:
    """A hard ellipsoid that no exchange of axes leaves as it is."""
    centre, axes = torch.tensor([[0.2, -0.1, 0.05], [0.15, 0.35, 0.2]], dtype=torch.float64)
    return 5.0 * (((points - centre) / axes).norm(dim=-1) < 1)


def slope(points: Tensor) -> Tensor:
    """Smooth, and not zero on the faces, where the midpoint rule is no better than its order."""
    return torch.exp(1.5 * points[:, 0] + points[:, 1] - 2 * points[:, 2])


def chords(cameras: Cameras) -> tuple[Tensor, Tensor]:
    near, far = chord(*(part.reshape(-1, 3) for part in cameras.rays()))
    shape = (len(cameras), cameras.height, cameras.width)
    return near.reshape(shape), (far - near).clamp(min=0).reshape(shape)


def test_chords_of_the_cube():
    origins = torch.tensor([[0.0, 0, 2], [0, 0, 2], [0, 0, 0], [0, 0, 2], [2, 2, 0], [0, 0.6, 2]])
    ways = torch.tensor([[0.0, 0, -1], [0, 0, 1], [1, 0, 0], [0, 1, 0], [-(0.5**0.5), -(0.5**0.5), 0], [0, 0, -1]])
    near, far = chord(origins, ways)
    length = (far - near).clamp(min=0)
    assert length.tolist() == pytest.approx([1, 0, 0.5, 0, 2**0.5, 0], abs=1e-6)
    assert near[[0, 2, 4]].tolist() == pytest.approx([1.5, 0, 1.5 * 2**0.5], abs=1e-6)


def test_a_homogeneous_cube_is_exact_whatever_the_samples():
    _, length = chords(VIEWS)
    expected = 1 - torch.exp(-3 * length)
    for samples in (1, 3, 64):
        seen = look(Known(constant, samples), VIEWS, (0.0, 0.0, 1.0))
        assert torch.allclose(seen.alpha, expected, atol=1e-12)
        blue = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
        assert torch.allclose(seen.rgb, expected[..., None] * ORANGE + (1 - expected)[..., None] * blue, atol=1e-12)


def test_depth_is_along_the_axis_and_second_order():
    near, length = chords(VIEWS)
    _, directions = VIEWS.rays()
    cosine = (directions * VIEWS.forward[:, None, None]).sum(-1)
    passed = torch.exp(-3 * length)
    mean = near + 1 / 3 - length * passed / (1 - passed)
    expected = torch.where(length > 0, mean * cosine, 0)
    errors = [float((look(Known(constant, n), VIEWS).depth - expected).abs().max()) for n in (16, 32, 64)]
    assert errors[-1] < 1e-3
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.05)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.05)


def test_smooth_densities_converge_at_second_order():
    exact = look(Known(slope, 4096), VIEWS).alpha
    errors = [float((look(Known(slope, n), VIEWS).alpha - exact).abs().max()) for n in (8, 16, 32)]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.1)


def ball_alpha(cameras: Cameras) -> Tensor:
    """1 - exp(-density chord) of `ball`."""
    origins, directions = cameras.rays()
    along = (origins * directions).sum(-1)
    half = (0.16 - origins.square().sum(-1) + along**2).clamp(min=0).sqrt()
    return 1 - torch.exp(-5 * 2 * half)


def test_a_hard_ball_converges_at_first_order():
    errors = [float((look(Known(ball, n), VIEWS).alpha - ball_alpha(VIEWS)).abs().mean()) for n in (32, 128, 512)]
    assert errors[-1] < 2e-3
    assert 2.5 < errors[0] / errors[1] < 6.5
    assert 2.5 < errors[1] / errors[2] < 6.5


@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=20))
def test_weights_and_what_passes_make_one(depths):
    tau = torch.tensor([depths], dtype=torch.float64)
    weights, alpha = composite(tau)
    passed = torch.exp(-tau.sum(-1))
    assert (weights >= 0).all()
    assert float(weights.sum() + passed) == pytest.approx(1, abs=1e-14)
    assert float(alpha) == pytest.approx(float(weights.sum()), abs=1e-14)


def test_weights_are_those_of_the_product_form():
    opacity = torch.rand(5, 12, dtype=torch.float64)
    weights, _ = composite(-torch.log1p(-opacity))
    passed = torch.cat((torch.ones(5, 1).double(), (1 - opacity).cumprod(-1)[:, :-1]), -1)
    assert torch.allclose(weights, passed * opacity, atol=1e-14)


def test_composite_is_differentiated_right():
    tau = torch.rand(2, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(composite, (tau,))


def test_faint_volumes_keep_their_digits():
    weights, alpha = composite(torch.full((1, 4), 1e-12))
    assert alpha.tolist() == pytest.approx([4e-12], rel=1e-5)
    assert weights.tolist() == [pytest.approx([1e-12] * 4, rel=1e-5)]


def test_gradients_are_those_of_finite_differences():
    volume = Known(slope, 16)

    def seen(gain: float) -> Tensor:
        volume.gain.data.fill_(gain)
        image = render(volume, VIEWS, BLACK)
        return (image.rgb.sum(-1) + image.depth + image.normal.sum(-1)).mul(torch.linspace(-1, 1, 7)).sum()

    step = 1e-6
    expected = float((seen(1 + step) - seen(1 - step)).detach()) / (2 * step)
    seen(1.0).backward()
    assert float(volume.gain.grad) == pytest.approx(expected, rel=1e-6)  # type: ignore[arg-type]


def test_an_opaque_ball_shows_its_front():
    volume = Known(lambda points: 1e4 * ball(points), 512)
    seen = look(volume, FRONT, BLACK)
    middle = (0, 4, 4)
    assert float(seen.alpha[middle]) == 1
    assert float(seen.depth[middle]) == pytest.approx(1.6, abs=2e-3)
    assert seen.normal[middle].tolist() == pytest.approx([0, 0, 1], abs=1e-9)
    assert seen.rgb[middle].tolist() == pytest.approx(ORANGE.tolist())
    solid = seen.alpha > 0.99
    assert torch.allclose(seen.normal.norm(dim=-1), seen.alpha, atol=1e-12)
    # Seen from +z: normals on the right point right, on top up.
    assert (seen.normal[0, 4, 5:][solid[0, 4, 5:]][:, 0] > 0).all()
    assert (seen.normal[0, :4, 4][solid[0, :4, 4]][:, 1] > 0).all()


def test_rays_that_miss_see_the_background_alone():
    far = Cameras.orbit(30.0, 10.0, 30.0, 40.0, 5, dtype=torch.float64)
    background = torch.rand(5, 5, 3, dtype=torch.float64)
    seen = look(Known(constant, 4), far, background)
    missed = chords(far)[1] == 0
    assert missed.any()
    assert torch.equal(seen.rgb[missed], background[None][missed])
    assert not seen.alpha[missed].any()
    assert not seen.depth[missed].any()
    assert not seen.normal[missed].any()


def test_a_camera_inside_sees_what_is_before_it():
    pose = torch.eye(4, dtype=torch.float64)[None]
    inside = Cameras(pose, FRONT.focal, FRONT.centre, 9, 9)
    assert float(look(Known(constant, 4), inside).alpha[0, 4, 4]) == pytest.approx(1 - math.exp(-1.5))


def test_empty_cells_change_nothing():
    volume = Known(egg, 40, cells=16)
    before = look(volume, VIEWS)
    share = volume.find_empty(1e-9)
    assert 0.1 < share < 0.5
    asked = 0
    of = volume.of

    def counted(points: Tensor) -> Tensor:
        nonlocal asked
        asked += len(points)
        return of(points)

    volume.of = counted
    after = look(volume, VIEWS)
    for one, other in zip(before, after, strict=True):
        assert torch.equal(one, other)
    assert 0 < asked < 0.5 * 40 * int((chords(VIEWS)[1] > 0).sum())


def test_gradients_pass_through_full_cells_unchanged():
    gradients: list[float] = []
    volume = Known(ball, 40, cells=16)
    for _ in range(2):
        render(volume, VIEWS).rgb.square().sum().backward()
        gradients.append(float(volume.gain.grad))  # type: ignore[arg-type]
        volume.gain.grad = None
        volume.find_empty(1e-9)
    assert gradients[0] == pytest.approx(gradients[1], rel=1e-12)


def test_images_change_as_little_as_promised():
    volume = Known(lambda points: 200 * torch.exp(-(points / 0.12).square().sum(-1)), 64, cells=32)
    before = look(volume, VIEWS).alpha
    assert volume.find_empty(0.05) < 0.5
    assert 0 < float((look(volume, VIEWS).alpha - before).abs().max()) < 1.8 * 0.05
    # The control: what is not empty does show.
    volume.find_empty(150)
    assert float((look(volume, VIEWS).alpha - before).abs().max()) > 0.3
    assert volume.find_empty(0) == 1
    assert torch.equal(look(volume, VIEWS).alpha, before)


def test_everything_empty_is_an_empty_image():
    volume = Known(constant, 4)
    assert volume.find_empty(10) == 0
    seen = look(volume, VIEWS)
    assert not seen.alpha.any()
    assert (seen.rgb == 1).all()


def test_a_surface_has_a_cell_to_grow_into():
    def corner(points: Tensor) -> Tensor:
        return (points < -0.5 + 0.1).all(-1).double()

    volume = Known(corner, 4, cells=8)
    volume.find_empty(0.5)
    assert int(volume.occupied.sum()) == 8
    assert volume.occupied[:2, :2, :2].all()


def test_empty_cells_travel_with_the_weights():
    volume, other = Known(ball, 4), Known(ball, 4)
    volume.find_empty(1e-9)
    other.load_state_dict(volume.state_dict())
    assert torch.equal(volume.occupied, other.occupied)


@torch.no_grad()
def test_moved_samples_belong_to_their_camera():
    volume = Known(slope, 8)
    background = torch.zeros(3, dtype=torch.float64)
    noise = Noise(3, (4, 0, 9))
    together = volume.render(VIEWS, background, noise)
    order = [2, 0]
    apart = volume.render(VIEWS[order], background, noise.take(order))
    for one, other in zip(together, apart, strict=True):
        assert torch.equal(one[order], other)
    assert not torch.equal(together.alpha, volume.render(VIEWS, background).alpha)
    assert not torch.equal(together.alpha, volume.render(VIEWS, background, noise.fork(0)).alpha)


@torch.no_grad()
def test_moved_samples_are_right_on_average():
    """Of a hard ball in few intervals, the midpoints' optical depth is far off; the mean of many moved ones is not."""
    volume, background = Known(ball, 6), torch.zeros(3, dtype=torch.float64)
    camera = Cameras.orbit(20.0, 30.0, size=5, dtype=torch.float64)
    expected = -torch.log1p(-ball_alpha(camera))
    count = 400
    cameras = camera[[0] * count]
    moved = -torch.log1p(-volume.render(cameras, background, Noise(0, range(count))).alpha)
    spread = moved.std(0) / math.sqrt(count)
    assert ((moved.mean(0) - expected[0]).abs() <= 5 * spread + 1e-9).all()
    middle = -torch.log1p(-volume.render(camera, background).alpha)
    assert float((middle - expected).abs().max()) > 10 * float(spread.max())


def test_blocks_of_rays_change_nothing():
    whole, blocks = (look(Known(slope, 8, rays=rays), VIEWS) for rays in (1 << 16, 10))
    for one, other in zip(whole, blocks, strict=True):
        assert torch.equal(one, other)


def test_what_cannot_be_marched():
    for bad in ((0, 8, 8), (8, 0, 8), (8, 8, 0)):
        with pytest.raises(ValueError, match="at least one"):
            March(*bad)
    with pytest.raises(ValueError, match="keyed for 2 samples"):
        Known(ball, 4).render(VIEWS, torch.zeros(3), Noise(0, (0, 1)))


@pytest.mark.gpu
@pytest.mark.parametrize("volume", [Voxels(), HashGrid()], ids=["voxels", "hash grid"])
def test_a_gpu_sees_the_same(volume):
    cameras = Cameras.orbit(torch.tensor([20.0, 140.0]), 10.0, size=16)
    volume.find_empty()
    with torch.no_grad():
        here = volume.render(cameras, torch.zeros(3), Noise(0, (3, 5)))
        there = volume.cuda().render(cameras.to("cuda"), torch.zeros(3, device="cuda"), Noise(0, (3, 5)))
    for one, other in zip(here, there, strict=True):
        assert torch.allclose(one, other.cpu(), atol=1e-4)
