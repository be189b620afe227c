"""Scores against what they must be where the answer is known."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from degauss.core.noise import Noise
from degauss.threed.quality import (
    compare_surfaces,
    compare_views,
    diversity,
    gradient_variance,
    held_out_views,
    score_images,
    surface_points,
)
from degauss.threed.rendering import Rendered

from ._little import box


def test_the_truth_has_perfect_scores() -> None:
    scores = compare_views(box(), box(), held_out_views(16, turns=3))
    assert scores.psnr == 99.0
    assert scores.iou == pytest.approx(1)
    assert scores.normal_angle == pytest.approx(0, abs=0.1)


def test_image_scores_are_their_formulas() -> None:
    alpha = torch.zeros(1, 2, 2)
    alpha[0, 0] = 1
    other = torch.zeros(1, 2, 2)
    other[0, :, 0] = 1
    up, right = torch.zeros(1, 2, 2, 3), torch.zeros(1, 2, 2, 3)
    up[..., 1], right[..., 0] = 1, 1
    blank = torch.zeros(1, 2, 2, 3)
    (psnr, iou, angle) = score_images(Rendered(blank + 0.1, alpha, alpha, up), Rendered(blank, other, other, right))[
        0
    ].tolist()
    assert psnr == pytest.approx(20, abs=1e-4)
    assert iou == pytest.approx(1 / 3)
    assert angle == pytest.approx(90, abs=1e-3)


def test_no_held_out_view_is_the_front() -> None:
    azimuth = held_out_views(8, turns=4).angles()[0]
    assert float(azimuth.abs().min()) == pytest.approx(45, abs=1e-3)


def test_points_are_uniform_by_area_and_lie_on_the_surface() -> None:
    points = surface_points(box(half=0.25), 4000, Noise(0, (0,)))
    assert float((points.abs().amax(-1) - 0.25).abs().max()) < 1e-6
    share = (points[:, 0] > 0.25 - 1e-6).double().mean()
    assert float(share) == pytest.approx(1 / 6, abs=0.03)


def test_surfaces_apart_score_their_distance() -> None:
    mesh = box(half=0.25)
    scaled = replace(mesh, vertices=mesh.vertices * 1.2)
    near = compare_surfaces(mesh, mesh, 20_000, within=0.02)
    far = compare_surfaces(scaled, mesh, 20_000, within=0.02)
    assert near.chamfer == pytest.approx(0.5 * math.sqrt(1.5 / 20_000), rel=0.1)
    assert near.f_score > 0.99
    assert far.f_score == 0
    assert far.chamfer == pytest.approx(0.05, rel=0.2)


def test_diversity_is_the_mean_distance_of_pairs() -> None:
    images = torch.zeros(3, 2, 4)
    images[2] = 1
    assert diversity(images) == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="two runs"):
        diversity(images[:1])


def test_the_variance_of_a_gradient_is_unbiased() -> None:
    signal = torch.full((2000,), 3.0)

    def draw(i: int) -> Tensor:
        return signal + Noise(0, (i,)).normal(signal[None])[0]

    assert gradient_variance(draw, 4) == pytest.approx(1 / 9, rel=0.1)
    assert gradient_variance(lambda _: signal, 3) == pytest.approx(0, abs=1e-9)
