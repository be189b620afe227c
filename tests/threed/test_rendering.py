"""The contract of everything that can be rendered."""

from __future__ import annotations

import pytest
import torch

from degauss.threed.cameras import Cameras
from degauss.threed.rendering import BLACK, Rendered, mean_depth, mean_normal, over, render


class Nothing:
    """Empty space."""

    def render(self, cameras, background, /):
        alpha = torch.zeros(len(cameras), cameras.height, cameras.width, dtype=cameras.focal.dtype)
        empty = torch.zeros(*alpha.shape, 3, dtype=alpha.dtype)
        return Rendered(over(empty, alpha, background), alpha, alpha, empty)


CAMERAS = Cameras.orbit(torch.tensor([0.0, 90.0]), 0.0, size=(3, 5), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(3,), (3, 5, 3), (2, 3, 5, 3)])
def test_backgrounds_show_through(shape):
    background = torch.rand(shape, dtype=torch.float64)
    assert torch.equal(render(Nothing(), CAMERAS, background).rgb, background.expand(2, 3, 5, 3))


def test_a_background_has_the_cameras_precision():
    assert render(Nothing(), CAMERAS).rgb.dtype == torch.float64
    assert torch.equal(render(Nothing(), CAMERAS).rgb, torch.ones(2, 3, 5, 3).double())
    assert not render(Nothing(), CAMERAS, BLACK).rgb.any()


@pytest.mark.parametrize("shape", [(), (1,), (4,), (5, 3, 3), (1, 3, 5, 3), (2, 3, 5, 1)])
def test_other_backgrounds_are_refused(shape):
    with pytest.raises(ValueError, match=r"\[3\], \[3, 5, 3\] or \[2, 3, 5, 3\]"):
        render(Nothing(), CAMERAS, torch.zeros(shape))


def test_means_are_taken_where_something_is():
    weights = torch.tensor([[0.2, 0.3], [0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    alpha = weights.sum(-1)
    depth = mean_depth((weights * torch.tensor([1.0, 2.0])).sum(-1), alpha)
    normals = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
    normal = mean_normal(weights @ normals, alpha)
    assert depth.tolist() == pytest.approx([1.6, 0])
    assert normal[0].tolist() == pytest.approx([0.5 * 3 / 13**0.5, 0, 0.5 * 2 / 13**0.5])
    assert normal[1].tolist() == [0, 0, 0]
    (depth.sum() + normal.sum()).backward()
    assert weights.grad is not None
    assert torch.isfinite(weights.grad).all()
