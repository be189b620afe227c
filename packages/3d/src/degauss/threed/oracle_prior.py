r"""The prior that knows the answer: the exact denoiser of a known object's images, by where they are seen from.

The data of a view v are the images x_i of the object, seen from v_i, each blurred by a Gaussian of width ``std``,

    p(x0 | v) ~ sum_i k(v, v_i) N(x_i, std^2 I),   k = exp((cos(angle between v and v_i) - 1) / width^2),

and without a view all images alike. With x_t = alpha x0 + sigma eps and V = alpha^2 std^2 + sigma^2 this has the
posterior, computed in log space and float64,

    r_i ~ k(v, v_i) exp(-|x_t - alpha x_i|^2 / 2 V),   near = sum_i r_i x_i,
    E[x0 | x_t, v] = near + alpha std^2 / V (x_t - alpha near).

Nothing is learned, so a distillation that fails on it is wrong, whatever another prior says. With ``std`` 0 the
score is stiff at low noise, where it points to one image; inversion of the flow needs some blur.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from degauss.core.posterior import Point
from degauss.core.schedule import Schedule
from degauss.threed.cameras import Cameras

_NUMBERS_AT_ONCE = 1 << 22
_SHARPEST = 1e-12
"""The variance below which the nearest image is all there is."""


@dataclass(frozen=True, eq=False)
class OraclePrior:
    """The denoiser of given images, a `degauss.core.denoiser.Denoiser` on their device.

    ``images`` ``[k, channels, height, width]``: in the units of the states it is asked about; kept in float64 they are
    not converted at each call. ``azimuth``, ``elevation`` ``[k]``: where from, degrees. ``width``: of the kernel over
    views, degrees, > 0; about the distance between neighbouring views. ``std``: of the blur, >= 0, in units of the
    images. Raises ValueError where these do not fit each other.
    """

    schedule: Schedule
    images: Tensor
    azimuth: Tensor
    elevation: Tensor
    width: float = 10.0
    std: float = 0.0
    _towards: Tensor = field(init=False, repr=False)
    _power: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        count = len(self.images)
        if self.images.ndim != 4 or self.azimuth.shape != (count,) or self.elevation.shape != (count,) or not count:
            shapes = ", ".join(str(list(part.shape)) for part in (self.images, self.azimuth, self.elevation))
            raise ValueError(f"the images are [k, c, h, w] with an azimuth and an elevation [k] each, got {shapes}")
        if not self.width > 0 or not 0 <= self.std < math.inf:
            raise ValueError(f"the kernel has a width > 0 and the blur a std >= 0, got {self.width} and {self.std}")
        object.__setattr__(self, "_towards", direction(self.azimuth, self.elevation).to(self.images.device))
        object.__setattr__(self, "_power", torch.cat([block.square().sum(1) for block in self._blocks()]))

    @classmethod
    def of(
        cls, schedule: Schedule, images: Tensor, cameras: Cameras, width: float = 10.0, std: float = 0.0
    ) -> OraclePrior:
        """From renders ``[k, height, width, channels]`` and the cameras that saw them."""
        return cls(schedule, images.movedim(-1, 1).contiguous(), *cameras.angles(), width=width, std=std)

    def __call__(
        self,
        x: Tensor,
        t: Tensor,
        /,
        azimuth: Tensor | None = None,
        elevation: Tensor | None = None,
        viewed: Tensor | None = None,
        **cond: Any,
    ) -> Point:
        """E[x0 | x_t, view] of ``x`` ``[n, channels, height, width]``, in its dtype.

        ``azimuth``, ``elevation`` ``[n]``, or one for all: degrees; without them every view is as likely. ``viewed``
        likewise: 1 for rows that keep to their view, 0 for rows that have none, so that guidance can ask for both in
        one batch. Other conditions say nothing to it. Raises ValueError for states of another shape than the images.
        """
        del cond
        if x.shape[1:] != self.images.shape[1:]:
            raise ValueError(f"the images are {list(self.images.shape[1:])}, but the states {list(x.shape[1:])}")
        alpha, sigma = (scale.to(x.device).reshape(-1, 1) for scale in self.schedule(t))
        flat = x.flatten(1).double()
        spread = (alpha**2 * self.std**2 + sigma**2).clamp(min=_SHARPEST)
        dot = torch.cat([flat @ block.mT for block in self._blocks()], 1)
        # |x_t|^2 is the same for every image and drops out.
        likely = (alpha * dot - 0.5 * alpha**2 * self._power) / spread
        share = (likely + self._log_kernel(azimuth, elevation, viewed)).softmax(-1)
        near = torch.zeros_like(flat)
        for part, block in zip(share.split(self._at_once, 1), self._blocks(), strict=True):
            near = near + part @ block
        gain = alpha * self.std**2 / spread
        mean = near + gain * (flat - alpha * near)
        return Point(mean.reshape(x.shape).to(x.dtype))

    @property
    def _at_once(self) -> int:
        return max(1, _NUMBERS_AT_ONCE // self.images[0].numel())

    def _blocks(self) -> Iterator[Tensor]:
        """The images as rows of float64, some at a time."""
        return (block.double() for block in self.images.flatten(1).split(self._at_once))

    def _log_kernel(self, azimuth: Tensor | None, elevation: Tensor | None, viewed: Tensor | None) -> Tensor:
        """log k of every image, ``[n, k]`` or of one row for all; 0 for rows without a view."""
        if azimuth is None or elevation is None:
            if azimuth is not elevation:
                raise ValueError("a view has both an azimuth and an elevation")
            return self._power.new_zeros(1, len(self._power))
        towards = direction(azimuth, elevation).to(self._towards)
        log_kernel = (towards @ self._towards.mT - 1) / math.radians(self.width) ** 2
        return log_kernel if viewed is None else log_kernel * viewed.to(log_kernel).reshape(-1, 1)


def direction(azimuth: Tensor, elevation: Tensor) -> Tensor:
    """Unit vectors from the origin to where a view is from, angles in degrees ``[n]``: float64 ``[n, 3]``."""
    turn, rise = torch.deg2rad(azimuth.double()), torch.deg2rad(elevation.double())
    return torch.stack((turn.sin() * rise.cos(), rise.sin(), turn.cos() * rise.cos()), -1)
