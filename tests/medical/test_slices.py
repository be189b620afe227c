"""Training slices: where a cut lies and what its pixels are, against formulas; and which slices are cut how often."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from degauss.core.errors import InputError
from degauss.medical.slices import Cuts, Pose, Slices, Source, cut
from degauss.medical.volumes import Volume

STILL = Cuts(sizes=(16,), view=(64.0, 64.0), rotation=0.0, shift=0.0)


def places(size: int, step: float) -> Tensor:
    """The middles of pixels, mm from the middle of the image."""
    return (torch.arange(size) + 0.5 - size / 2) * step


def ramp(rows: int, columns: int, spacing: tuple[float, float]) -> Source:
    """One slice whose value is 1 + 0.01 y + 0.002 x at (y, x) mm from its middle."""
    y, x = places(rows, spacing[0])[:, None], places(columns, spacing[1])
    return Source((1 + 0.01 * y + 0.002 * x)[None], spacing)


def disc(size: int = 64, radius: float = 20.0, value: float = 0.8, slices: int = 1) -> Source:
    """A disc in air, pixels of 1 mm."""
    place = places(size, 1.0)
    inside = place[:, None] ** 2 + place**2 < radius**2
    return Source((value * inside.float()).expand(slices, -1, -1).clone(), (1.0, 1.0))


# --- one cut ---


@settings(max_examples=20, deadline=None)
@given(
    st.floats(-180, 180),
    st.tuples(st.floats(-6, 6), st.floats(-6, 6)),
    st.booleans(),
    st.floats(0.3, 3.0),
    st.sampled_from([(1.0, 1.0), (0.5, 0.9), (2.0, 1.5)]),
)
def test_a_cut_shows_each_place_where_it_is(
    degrees: float, shift: tuple[float, float], flipped: bool, pixel: float, spacing: tuple[float, float]
) -> None:
    """Of a linear image, whose mean over a pixel is its value at the pixel's middle; cubic interpolation gives it to a
    tenth of a voxel."""
    source = ramp(round(80 / spacing[0]), round(80 / spacing[1]), spacing)
    pose = Pose(math.radians(degrees), shift, flipped)
    found = cut(source, 0, 12, pixel, pose)
    down, across = places(12, pixel)[:, None], places(12, pixel)
    across = -across if flipped else across
    c, s = math.cos(pose.angle), math.sin(pose.angle)
    y, x = c * down + s * across + shift[0], c * across - s * down + shift[1]
    level, (dy, dx) = source.level(pixel / 2)
    # A coarser level may have dropped an odd last line, which moves its middle by half a pixel of the finer one.
    moved = torch.tensor([80 - level.shape[1] * dy, 80 - level.shape[2] * dx]) / 2
    want = 1 + 0.01 * (y - moved[0]) + 0.002 * (x - moved[1])
    torch.testing.assert_close(found, want.expand(12, 12), atol=2e-3, rtol=0)


def test_a_turn_is_anticlockwise_and_a_flip_changes_left_and_right() -> None:
    data = torch.zeros(1, 32, 32)
    data[0, 14:18, 22:30] = 1.0  # to the right of the middle
    source = Source(data, (1.0, 1.0))
    half = 16
    turned = cut(source, 0, 32, 1.0, Pose(angle=math.pi / 2))
    assert float(turned[:half].sum()) > 30
    assert float(turned[half:].abs().sum()) < 0.1
    flipped = cut(source, 0, 32, 1.0, Pose(flipped=True))
    torch.testing.assert_close(flipped, cut(source, 0, 32, 1.0, Pose()).flip(1))
    assert float(flipped[:, :half].sum()) > 30


@pytest.mark.parametrize("pixel", [2.0, 4.0, 7.3])
def test_large_pixels_are_means_and_do_not_alias(pixel: float) -> None:
    """Stripes of one voxel: any sampling without a mean would show some of them."""
    data = (torch.arange(128) % 2).float().expand(1, 128, 128)
    inner = cut(Source(data, (1.0, 1.0)), 0, 12, pixel, Pose(angle=0.3))
    assert float((inner - 0.5).abs().max()) < 0.05


def test_the_mass_of_a_body_stays_at_any_resolution() -> None:
    source = disc()
    area = float(source.data.sum())
    for size, pixel in ((64, 1.0), (32, 2.0), (20, 4.0), (128, 0.5)):
        assert float(cut(source, 0, size, pixel, Pose()).sum()) * pixel**2 == pytest.approx(area, rel=0.02)


def test_where_a_volume_ends_there_is_air() -> None:
    found = cut(disc(), 0, 64, 4.0, Pose())
    assert float(found[:16].abs().max()) == 0
    assert float(found.min()) >= 0


def test_a_body_that_was_cut_off_goes_on_to_an_outline() -> None:
    source = Source(torch.full((1, 40, 40), 0.5), (1.0, 1.0))
    assert source.cut_off
    assert not disc().cut_off
    found = cut(source, 0, 80, 1.0, Pose(), outline=(1.2, 1.6))
    across = (found[40] > 0.25).sum()
    down = (found[:, 40] > 0.25).sum()
    # The outline's axes are those of the volume, 40 mm, times what was asked for.
    assert abs(int(across) - 64) <= 1
    assert abs(int(down) - 48) <= 1
    assert float(found[0].max()) == 0
    torch.testing.assert_close(found[30:50, 20:60], torch.full((20, 40), 0.5))
    # Reflected, not stretched: what was near the edge lies as far behind it.
    step = Source(torch.cat([torch.full((1, 40, 36), 0.5), torch.full((1, 40, 4), 0.9)], dim=2), (1.0, 1.0))
    row = cut(step, 0, 80, 1.0, Pose(), outline=(2.0, 2.0))[40]
    assert float(row[57:63].min()) > 0.85
    assert float(row[66:72].max()) < 0.55


# --- which slices ---


def test_a_slice_does_not_depend_on_its_batch() -> None:
    slices = Slices(
        (disc(), ramp(70, 50, (1.0, 1.5))), Cuts(sizes=(16, 24), phased=0.5, intensity=0.2), batch=4, seed=3
    )
    whole = slices.stack(range(12), 24)
    assert torch.equal(slices.stack([7, 2], 24), whole[[7, 2]])
    assert not torch.equal(replace(slices, seed=4).stack(range(12), 24), whole)
    # Two processes that share a step see slices of one size, and of what it would be in one process.
    for step in range(6):
        first, second = slices(range(4 * step, 4 * step + 2)), slices(range(4 * step + 2, 4 * step + 4))
        assert torch.equal(torch.cat([first, second]), slices(range(4 * step, 4 * step + 4)))


def test_steps_have_one_size_each_and_both_come_up() -> None:
    slices = Slices((disc(),), Cuts(sizes=(16, 24)), batch=2)
    sizes = [slices.size_of(step) for step in range(200)]
    assert set(sizes) == {16, 24}
    assert 70 < sizes.count(16) < 130
    assert slices(range(8, 10)).shape == (2, 1, sizes[4], sizes[4])


def test_sources_are_cut_by_their_weights() -> None:
    dark, bright, never = disc(value=0.4), disc(value=0.8), disc(value=1.6)
    sources = (replace(dark, weight=1.0), replace(bright, weight=3.0), replace(never, weight=0.0))
    tops = Slices(sources, STILL, batch=1).stack(range(400), 16).amax((1, 2, 3))
    assert float((tops > 1).sum()) == 0
    assert 0.68 < float((tops > 0.6).float().mean()) < 0.82


def test_empty_slices_are_mostly_dropped_and_an_empty_volume_is_refused() -> None:
    data = torch.zeros(60, 32, 32)
    data[20:40, 8:24, 8:24] = 0.5
    source = Source(data, (1.0, 1.0))
    assert set(source.slices) >= set(range(20, 40))
    assert len(source.slices) == 20 + 4
    with pytest.raises(InputError, match="shows nothing"):
        Source(torch.zeros(5, 32, 32), (1.0, 1.0))


def test_only_left_and_right_are_ever_exchanged() -> None:
    """Below is brighter in the volume, and stays so; the right is brighter, and is only half of the time."""
    y, x = places(64, 1.0)[:, None], places(64, 1.0)
    body = (y**2 + x**2 < 900).float()
    source = Source((body * (0.5 + 0.008 * y + 0.004 * x))[None], (1.0, 1.0))
    found = Slices((source,), Cuts(sizes=(32,), view=(64.0, 90.0), shift=0.0), batch=1).stack(range(200), 32)[:, 0]
    assert bool((found[:, 16:].sum((1, 2)) > found[:, :16].sum((1, 2))).all())
    right = (found[:, :, 16:].sum((1, 2)) > found[:, :, :16].sum((1, 2))).float().mean()
    assert 0.35 < float(right) < 0.65


def test_intensity_and_phase_vary_only_as_told() -> None:
    source = disc(radius=60.0)  # its middle fills the field of view
    cuts = replace(STILL, view=(20.0, 20.0))
    plain = Slices((source,), cuts, batch=1)
    full = plain.stack(range(100), 16)
    torch.testing.assert_close(full, torch.full_like(full, 0.8))
    scaled = replace(plain, cuts=replace(cuts, intensity=0.2)).stack(range(100), 16)
    factors = scaled[:, 0, 0, 0] / 0.8
    assert float(factors.min()) >= math.exp(-0.2) - 1e-4
    assert float(factors.max()) <= math.exp(0.2) + 1e-4
    assert float(factors.max() / factors.min()) > 1.3
    phased = replace(plain, cuts=replace(cuts, phased=0.5)).stack(range(100), 16)
    changed = (phased != full).flatten(1).any(1)
    assert 0.3 < float(changed.float().mean()) < 0.7
    assert float(phased.abs().max()) <= 0.8 + 1e-4
    assert float(phased.min()) < -0.5
    assert torch.equal(phased[~changed], full[~changed])


def test_a_volume_becomes_a_source_in_prior_units() -> None:
    water = torch.full((3, 40, 40), -1000.0)
    water[:, 10:30, 10:30] = 0.0
    source = Source.of(Volume.upright(water, (2.0, 1.5, 0.75), "HU"), weight=2.0)
    assert source.spacing == (1.5, 0.75)
    assert source.weight == 2.0
    torch.testing.assert_close(source.data.unique(), torch.tensor([0.0, 0.5]))


def test_the_pixels_that_a_prior_will_know() -> None:
    assert Cuts().spacing == (1.5, 7.0)
    assert Cuts(sizes=(32,), view=(64.0, 128.0)).spacing == (2.0, 4.0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sizes": ()}, "sizes must be"),
        ({"sizes": (64, 4)}, "sizes must be"),
        ({"view": (200.0, 100.0)}, "the shorter first"),
        ({"view": (0.0, 100.0)}, "the shorter first"),
        ({"view": (math.nan, 100.0)}, "the shorter first"),
        ({"rotation": -1.0}, "rotation must be between"),
        ({"shift": 0.6}, "shift must be between"),
        ({"intensity": -0.1}, "intensity must be between"),
        ({"phased": 1.5}, "phased must be between"),
    ],
)
def test_cuts_that_cannot_be_are_refused(wrong: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Cuts(**wrong)
