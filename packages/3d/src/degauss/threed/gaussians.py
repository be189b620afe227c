r"""A scene or an object as a cloud of 3D Gaussians (Kerbl et al. 2023).

The parameters are unconstrained: logarithms of scales, quaternions of any length, logits of opacity, and colours as
spherical harmonics of the direction of view. How they are drawn is the business of `degauss.threed.tiers`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from degauss.core.errors import InputError
from degauss.core.noise import Noise
from degauss.threed.cameras import Cameras
from degauss.threed.harmonics import C0, MAX_DEGREE
from degauss.threed.projection import Cloud, Footprints, rotations
from degauss.threed.rendering import Rendered, mean_depth, over
from degauss.threed.tiers import Tier, splat

_NEIGHBOURS = 3
_PAIRS_AT_ONCE = 1 << 24


class Gaussians(nn.Module):
    """p Gaussians; the parameters are those of `Cloud`, by the same names."""

    def __init__(self, cloud: Cloud) -> None:
        """Raises ValueError for shapes that do not fit, `InputError` for numbers that are not finite."""
        super().__init__()
        check(cloud)
        for name, value in cloud._asdict().items():
            self.register_parameter(name, nn.Parameter(value.detach().clone()))

    @classmethod
    def from_points(
        cls,
        points: Tensor,
        colours: Tensor,
        opacity: float = 0.1,
        degree: int = 0,
        scale: float | None = None,
    ) -> Gaussians:
        """Balls at points ``[p, 3]`` with colours ``[p, 3]`` in [0, 1], the same from all sides.

        ``scale``: their standard deviation in world units; by default the root mean square distance of each to its
        three nearest neighbours, as in 3DGS.
        """
        if not 0 <= degree <= MAX_DEGREE:
            raise ValueError(f"the degree of spherical harmonics is 0 to {MAX_DEGREE}, got {degree}")
        count = len(points)
        log_scale = _log_spacing(points) if scale is None else points.new_full((count,), math.log(scale))
        sh = points.new_zeros(count, (degree + 1) ** 2, 3)
        sh[:, 0] = (colours - 0.5) / C0
        quaternions = points.new_tensor((1.0, 0.0, 0.0, 0.0)).expand(count, 4)
        logits = points.new_full((count,), math.log(opacity / (1 - opacity)))
        return cls(Cloud(points, log_scale[:, None].expand(-1, 3), quaternions, logits, sh))

    @classmethod
    def ball(
        cls, noise: Noise, count: int = 5000, radius: float = 0.5, opacity: float = 0.1, degree: int = 0
    ) -> Gaussians:
        """Grey Gaussians at random, uniformly in a ball around the origin; ``noise``: of one sample."""
        u = noise.uniform(torch.empty(1, count, 4))[0]
        height = 2 * u[:, 0] - 1
        angle = 2 * math.pi * u[:, 1]
        flat = (1 - height * height).sqrt()
        directions = torch.stack((flat * angle.cos(), height, flat * angle.sin()), -1)
        points = radius * u[:, 2:3] ** (1 / 3) * directions
        return cls.from_points(points, (0.4 + 0.2 * u[:, 3:]).expand(-1, 3), opacity, degree)

    def cloud(self) -> Cloud:
        """The parameters themselves."""
        return Cloud(*(self.get_parameter(name) for name in Cloud._fields))

    def __len__(self) -> int:
        return len(self.cloud().means)

    @property
    def degree(self) -> int:
        """Of the colour's spherical harmonics, 0 to 3."""
        return self.cloud().degree

    def covariances(self) -> Tensor:
        """World units squared, ``[p, 3, 3]``."""
        cloud = self.cloud()
        axes = rotations(cloud.quaternions) * cloud.log_scales.exp()[:, None, :]
        return axes @ axes.mT

    def render(self, cameras: Cameras, background: Tensor, /) -> Rendered:
        """The contract of `degauss.threed.rendering`. A colour may pass 1 where its spherical harmonics do."""
        return draw(self.cloud(), cameras, background)[0]


def draw(cloud: Cloud, cameras: Cameras, background: Tensor, by: Tier | None = None) -> tuple[Rendered, Footprints]:
    """Images of a cloud over a background, and the footprints, whose gradients say where detail is missing."""
    features, alpha, footprints = splat(cloud, cameras, by)
    rgb = over(features[..., :3], alpha, background)
    return Rendered(rgb, alpha, mean_depth(features[..., 3], alpha), features[..., 4:]), footprints


def check(cloud: Cloud, source: str = "the Gaussians") -> None:
    """ValueError unless the shapes fit; `InputError` that names ``source`` where a number is not finite."""
    count = len(cloud.means)
    bands = cloud.sh.shape[1] if cloud.sh.ndim == 3 else 0
    wanted = ((count, 3), (count, 3), (count, 4), (count,), (count, bands, 3))
    found = tuple(tuple(part.shape) for part in cloud)
    if found != wanted or bands not in {(degree + 1) ** 2 for degree in range(MAX_DEGREE + 1)}:
        raise ValueError(f"Gaussians are [p, 3], [p, 3], [p, 4], [p] and [p, (degree + 1)^2, 3], got {found}")
    for name, value in cloud._asdict().items():
        wrong = int((~value.isfinite()).sum())
        if wrong:
            raise InputError(f"{source}: {wrong} of {value.numel()} numbers in {name} are not finite.")


def _log_spacing(points: Tensor) -> Tensor:
    """The logarithm of the root mean square distance to the nearest neighbours, ``[p]``."""
    if len(points) <= _NEIGHBOURS:
        raise ValueError(f"a scale from neighbours takes more than {_NEIGHBOURS} points, got {len(points)}: name one")
    nearest = [
        torch.cdist(some, points).topk(_NEIGHBOURS + 1, largest=False).values[:, 1:]
        for some in points.detach().split(max(1, _PAIRS_AT_ONCE // len(points)))
    ]
    return 0.5 * torch.cat(nearest).square().mean(-1).clamp(min=1e-7).log()
