"""Triton's tier against torch's, on the device that is named: run as a program, in Triton's interpreter or on a GPU."""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from degauss.core.noise import Noise
from degauss.threed import binning, binning_triton, projection, projection_triton, splatting, splatting_triton
from degauss.threed.cameras import Cameras
from degauss.threed.gaussians import draw
from degauss.threed.projection import Cloud, Footprints
from degauss.threed.tiers import TORCH, triton

DEVICE = torch.device(sys.argv[1])
WHITE = torch.ones(3, device=DEVICE)


def cloud_of(count: int, degree: int, logit: float = 0.0, spread: float = 0.25) -> Cloud:
    def drawn(number: int, *shape: int) -> Tensor:
        return Noise(4, range(count)).normal(torch.empty(count, *shape), number).to(DEVICE)

    parts = (spread * drawn(0, 3), -2.6 + 0.5 * drawn(1, 3), drawn(2, 4), logit + 1.5 * drawn(3))
    return Cloud(*(part.requires_grad_() for part in (*parts, 0.3 * drawn(4, (degree + 1) ** 2, 3))))


def views_of(azimuths: list[float], radius: float, size: tuple[int, int]) -> Cameras:
    return Cameras.orbit(torch.tensor(azimuths), 15.0, radius, 40.0, size).to(DEVICE)


def close(found: Tensor, expected: Tensor, relative: float, absolute: float = 0.0) -> None:
    off = float((found - expected).detach().abs().max())
    assert off <= relative * float(expected.detach().abs().max()) + absolute, off


def images_and_gradients(degree: int, logit: float, azimuths: list[float], size: tuple[int, int]) -> None:
    """The whole tier: rgb to 1e-4, gradients of every parameter to 1e-3; here both are much closer."""
    cloud, cameras = cloud_of(30, degree, logit), views_of(azimuths, 2.2, size)
    grads: list[tuple[Tensor, ...]] = []
    images: list[tuple[Tensor, ...]] = []
    for tier in (TORCH, triton()):
        seen, _ = draw(cloud, cameras, WHITE, tier)
        loss = seen.rgb.sin().sum() + seen.alpha.square().sum() + 0.1 * seen.depth.sum() + seen.normal.cos().sum()
        images.append(seen)
        grads.append(torch.autograd.grad(loss, list(cloud)))
    for found, expected in zip(*images[::-1], strict=True):
        close(found, expected, 0, 2e-5)
    for found, expected in zip(*grads[::-1], strict=True):
        close(found, expected, 1e-4)


def footprints_and_gradients(degree: int) -> None:
    """From inside the cloud: some are behind, some beside the view, where the projection is limited."""
    cloud, cameras = cloud_of(300, degree, spread=0.5), views_of([20.0, 200.0], 0.5, (20, 27))
    expected, found = projection.project(cloud, cameras), projection_triton.project(cloud, cameras)
    seen = expected.extent.amin(-1) > 0
    assert 0.3 < float(seen.float().mean()) < 0.9
    assert torch.equal(found.extent.amin(-1) > 0, seen)
    least, most = projection.view_limits(cameras)
    slopes = (expected.xy - cameras.centre[:, None]) / cameras.focal[:, None]
    limited = ((slopes < least[:, None]) | (slopes > most[:, None])).any(-1) & seen
    assert float(limited.float().mean()) > 0.05
    for part in Footprints._fields:
        close(getattr(found, part)[seen], getattr(expected, part)[seen], 1e-5)
    for part in Footprints._fields[:4]:
        weights = Noise(7, range(2)).normal(torch.empty_like(getattr(expected, part)).cpu()).to(DEVICE)
        weights = weights.masked_fill(~(seen if weights.ndim == 2 else seen[..., None]), 0.0)
        # Each footprint by its size: a few that are near would hide errors of the others.
        weights = weights / (1 + getattr(expected, part).detach().abs())
        sums = [(weights * getattr(parts, part)).sum() for parts in (found, expected)]
        grads = [torch.autograd.grad(one, list(cloud), retain_graph=True, allow_unused=True) for one in sums]
        for there, here in zip(*grads, strict=True):
            if here is not None:
                assert there is not None
                close(there, here, 2e-4)
            elif there is not None:
                assert (there == 0).all()


def tiles(count: int) -> None:
    """The same footprints in each tile, in the same order."""
    footprints = projection.project(cloud_of(count, 0, spread=0.5), views_of([20.0, 200.0], 1.0, (40, 70)))
    found = binning_triton.bin_footprints(footprints, 40, 70, 16)
    expected = binning.bin_footprints(footprints, 40, 70, 16)
    assert torch.equal(found.starts, expected.starts)
    assert torch.equal(found.ids[: len(expected.ids)], expected.ids)


def nothing_in_view() -> None:
    cloud, cameras = cloud_of(3, 0), views_of([20.0], 2.2, (20, 27))
    for some in (cloud._replace(means=cloud.means + 90.0), Cloud(*(part[:0] for part in cloud))):
        seen, _ = draw(some, cameras, WHITE, triton())
        assert (seen.rgb == 1).all()
        assert (seen.alpha == 0).all()
        seen.rgb.sum().backward()
    for part in cloud:
        assert part.grad is not None
        assert (part.grad == 0).all()


def other_channels() -> None:
    footprints = projection.project(cloud_of(20, 0), views_of([20.0], 2.2, (16, 16)))
    some = footprints._replace(features=footprints.features[..., :2])
    for found, expected in zip(
        splatting_triton.rasterise(some, 16, 16), splatting.rasterise(some, 16, 16), strict=True
    ):
        close(found, expected, 0, 1e-5)


if __name__ == "__main__":
    footprints_and_gradients(0)
    footprints_and_gradients(1)
    footprints_and_gradients(3)
    tiles(60)
    nothing_in_view()
    other_channels()
    images_and_gradients(1, 0.0, [20.0], (20, 27))
    images_and_gradients(0, 4.0, [20.0, 110.0], (16, 16))
