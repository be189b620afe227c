"""Known objects as a prior: the exact posterior mean over their renders, by name and by view.

Under a name it is `OraclePrior` over that object's images, without one over those of all. Nothing is learned, so a
distillation that fails here fails by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from degauss.core.denoiser import Denoiser
from degauss.core.errors import check_option
from degauss.core.posterior import Point
from degauss.core.schedule import Schedule
from degauss.threed.cameras import Cameras
from degauss.threed.oracle_prior import OraclePrior
from degauss.threed.prior import Condition, PixelPrior, block_rows, encode_pixels
from degauss.threed.rendering import Representation, render


@dataclass(frozen=True, eq=False)
class OracleViews(PixelPrior):
    """A `degauss.threed.prior.Prior` of known objects.

    ``objects``: by name the denoiser of its images ``[k, channels, size, size]`` in [-1, 1]; all of one shape, schedule
    and blur. Raises ValueError where they differ, or for none.
    """

    objects: Mapping[str, OraclePrior]

    def __post_init__(self) -> None:
        alike = {
            (tuple(known.images.shape[1:]), known.schedule, known.width, known.std) for known in self.objects.values()
        }
        if len(alike) != 1 or self._any.images.shape[-1] != self._any.images.shape[-2]:
            raise ValueError("an oracle has one or more objects, of square images of one size, schedule and blur")

    @classmethod
    def of(
        cls,
        schedule: Schedule,
        objects: Mapping[str, Representation],
        cameras: Cameras,
        channels: int = 3,
        width: float = 10.0,
        std: float = 0.0,
        at_once: int = 16,
    ) -> OracleViews:
        """From renders of objects by square cameras, over white; ``channels`` 6 adds normals.

        ``width``, ``std``: see `OraclePrior`. ``at_once``: images rendered together.
        """

        def images(representation: Representation) -> Tensor:
            some = (slice(start, start + at_once) for start in range(0, len(cameras), at_once))
            with torch.no_grad():
                seen = [render(representation, cameras[part]) for part in some]
            return torch.cat([encode_pixels(part.rgb, part.normal, cameras.height, channels) for part in seen])

        return cls(
            {
                name: OraclePrior(schedule, images(representation), *cameras.angles(), width=width, std=std)
                for name, representation in objects.items()
            }
        )

    @property
    def schedule(self) -> Schedule:
        return self._any.schedule

    @property
    def size(self) -> int:
        return self._any.images.shape[-1]

    @property
    def channels(self) -> int:
        return self._any.images.shape[1]

    @property
    def vocabulary(self) -> tuple[str, ...]:
        return tuple(self.objects)

    def check(self, prompt: str, /) -> None:
        """InputError for another name than those of the objects."""
        check_option("the prompt", prompt, self.objects)

    def together(self, conditions: Sequence[Condition], /) -> Denoiser[Point]:
        """The exact means, block by block: see `degauss.threed.prior.Prior`."""
        for condition in conditions:
            if condition.prompt is not None:
                self.check(condition.prompt)

        def answer(x: Tensor, t: Tensor, /, **cond: Any) -> Point:
            del cond
            rows = block_rows(len(x), conditions)
            times = t.split(rows) if t.ndim else (t,) * len(conditions)
            blocks = zip(x.split(rows), times, conditions, strict=True)
            return Point(torch.cat([self._mean(part, time, under) for part, time, under in blocks]))

        return answer

    def _mean(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        known = self._all if condition.prompt is None else self.objects[condition.prompt]
        if condition.views is None:
            return known(x, t).mean
        return known(x, t, azimuth=condition.views.azimuth, elevation=condition.views.elevation).mean

    @property
    def _any(self) -> OraclePrior:
        return next(iter(self.objects.values()))

    @cached_property
    def _all(self) -> OraclePrior:
        known = tuple(self.objects.values())
        if len(known) == 1:
            return known[0]
        parts = [torch.cat(part) for part in zip(*((k.images, k.azimuth, k.elevation) for k in known), strict=True)]
        return OraclePrior(self.schedule, *parts, width=self._any.width, std=self._any.std)
