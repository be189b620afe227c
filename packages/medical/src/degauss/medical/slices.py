r"""Training slices: axial cuts through volumes, as a scan of another person, table position and resolution might show.

Values are in prior units (see `volumes`), air or background at 0. Each cut has a field of view, a rotation, a shift and
perhaps a flip of its own; pixels are means over their area, so that large ones do not alias. All cuts of one training
step have one size.

A volume that its field of view cut off goes on, by reflection, up to a random outline (a superellipse) and is air
beyond. Otherwise a prior would learn that bodies end in straight lines.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from degauss.core.errors import InputError, check_range
from degauss.core.noise import Noise
from degauss.medical.volumes import Volume, prior_units

_CONTENT, _SHARE = 0.1, 0.02  # a slice shows something where this share of its values is above this value
_BORDER = 0.15  # mean value on the border above which a volume is cut off by its field of view
_EMPTY = 10  # one in so many empty slices is kept
_OUTLINE = 2.5  # the superellipse's exponent
_PHASE = 2.0  # radians that each term of a phase reaches at the edge
_PLACE, _SIZE, _PHASES = range(3)  # purposes of the noise


# --- where slices come from ---------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Source:
    """A volume to cut: values in prior units ``[slices, rows, columns]``, its pixels' (dy, dx) in mm, and its share.

    ``weight``: how often it is cut, relative to others.
    """

    data: Tensor = field(repr=False)
    spacing: tuple[float, float]
    weight: float = 1.0
    levels: tuple[Tensor, ...] = field(init=False, repr=False)
    slices: tuple[int, ...] = field(init=False, repr=False)
    cut_off: bool = field(init=False)

    def __post_init__(self) -> None:
        check_range("weight", self.weight, 0)
        if self.data.ndim != 3:
            raise ValueError(f"a source is [slices, rows, columns], got {tuple(self.data.shape)}")
        levels = [self.data]
        while min(levels[-1].shape[1:]) >= 32:
            levels.append(F.avg_pool2d(levels[-1], 2))
        shows = ((self.data > _CONTENT).float().mean((1, 2)) >= _SHARE).tolist()
        if not any(shows):
            raise InputError("a volume shows nothing: in every slice nearly all values are air or background.")
        empty = [k for k, shown in enumerate(shows) if not shown]
        kept = sorted([k for k, shown in enumerate(shows) if shown] + empty[_EMPTY - 1 :: _EMPTY])
        shown = self.data[torch.tensor(shows)]
        border = torch.cat([shown[:, 0], shown[:, -1], shown[:, :, 0], shown[:, :, -1]], dim=1)
        object.__setattr__(self, "levels", tuple(levels))
        object.__setattr__(self, "slices", tuple(kept))
        object.__setattr__(self, "cut_off", float(border.mean()) > _BORDER)

    @classmethod
    def of(cls, volume: Volume, weight: float = 1.0) -> Source:
        """A volume of any unit. Raises `InputError` for one that shows nothing."""
        return cls(prior_units(volume)[0], volume.spacing[1:], weight)

    def level(self, finest: float) -> tuple[Tensor, tuple[float, float]]:
        """The coarsest of the volume's resolutions with pixels of at most ``finest`` mm, and its (dy, dx)."""
        halvings = math.floor(math.log2(max(finest / max(self.spacing), 1.0)))
        number = min(halvings, len(self.levels) - 1)
        return self.levels[number], (self.spacing[0] * 2**number, self.spacing[1] * 2**number)


@dataclass(frozen=True)
class Cuts:
    """How slices are cut.

    ``sizes``: pixels a side. ``view``: the side of the field of view in mm, drawn evenly in its logarithm, so pixels
    are of view / size. ``rotation``: at most so many degrees either way; ``shift``: so large a part of the field of
    view; ``intensity``: values are multiplied by e^u with |u| at most this; ``phased``: the share of slices that are
    seen as the real part of a complex image of smooth phase, as those of MR are. Half of the slices are flipped left to
    right.
    """

    sizes: tuple[int, ...] = (64, 128)
    view: tuple[float, float] = (192.0, 448.0)
    rotation: float = 10.0
    shift: float = 0.05
    intensity: float = 0.0
    phased: float = 0.0

    def __post_init__(self) -> None:
        if not self.sizes or min(self.sizes) < 8:
            raise InputError(f"sizes must be one or more numbers of at least 8 pixels, but are {self.sizes}.")
        low, high = self.view
        if not 0 < low <= high < math.inf:
            raise InputError(f"view must be two lengths in mm, the shorter first, but is {self.view}.")
        check_range("rotation", self.rotation, 0, 180, "degrees")
        check_range("shift", self.shift, 0, 0.5)
        check_range("intensity", self.intensity, 0, 1)
        check_range("phased", self.phased, 0, 1)

    @property
    def spacing(self) -> tuple[float, float]:
        """The finest and the coarsest pixels in mm, over all sizes."""
        return self.view[0] / max(self.sizes), self.view[1] / min(self.sizes)


@dataclass(frozen=True, eq=False)
class Slices:
    """Sample numbers -> slices ``[batch, 1, size, size]``: a function of the numbers and the seed.

    ``batch``: how many samples a training step has; each step has one of the sizes, by a draw of its own.
    """

    sources: tuple[Source, ...]
    cuts: Cuts
    batch: int
    seed: int = 0

    def __call__(self, samples: Sequence[int]) -> Tensor:
        return self.stack(samples, self.size_of(samples[0] // self.batch))

    def size_of(self, step: int) -> int:
        """The pixels a side of a training step's slices."""
        sizes = self.cuts.sizes
        u = Noise(self.seed, (step,)).fork(_SIZE).uniform(torch.empty(1, dtype=torch.float64))
        return sizes[min(int(float(u) * len(sizes)), len(sizes) - 1)]

    def stack(self, samples: Sequence[int], size: int) -> Tensor:
        """The slices of these sample numbers at one size, ``[len(samples), 1, size, size]``."""
        noise = Noise(self.seed, samples)
        places, phases = (
            noise.fork(purpose).uniform(torch.empty(len(samples), count, dtype=torch.float64)).tolist()
            for purpose, count in ((_PLACE, 10), (_PHASES, 5))
        )
        cuts = [self._phased(self._cut(u, size), v) for u, v in zip(places, phases, strict=True)]
        return torch.stack(cuts)[:, None]

    def _cut(self, u: Sequence[float], size: int) -> Tensor:
        cuts, source = self.cuts, self._source(u[0])
        k = source.slices[min(int(u[1] * len(source.slices)), len(source.slices) - 1)]
        low, high = cuts.view
        view = low * (high / low) ** u[2]
        pose = Pose(
            angle=math.radians(cuts.rotation) * (2 * u[3] - 1),
            shift=(cuts.shift * view * (2 * u[4] - 1), cuts.shift * view * (2 * u[5] - 1)),
            flipped=u[6] < 0.5,
        )
        outline = (1.05 + 0.35 * u[7], 1.2 + 0.7 * u[8]) if source.cut_off else None
        return cut(source, k, size, view / size, pose, outline) * math.exp(cuts.intensity * (2 * u[9] - 1))

    def _phased(self, image: Tensor, u: Sequence[float]) -> Tensor:
        """Itself, or a real part: the cosine of a phase with a constant, linear terms and a quadratic one."""
        if u[0] >= self.cuts.phased:
            return image
        x = torch.linspace(-1, 1, len(image))
        a, b, c = (_PHASE * (2 * part - 1) for part in u[2:])
        y = x[:, None]
        return image * torch.cos(2 * math.pi * u[1] + a * x + b * y + c * (x**2 + y**2))

    def _source(self, u: float) -> Source:
        total = sum(source.weight for source in self.sources)
        passed = 0.0
        for source in self.sources:
            passed += source.weight / total
            if u < passed:
                return source
        return self.sources[-1]


# --- one slice ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pose:
    """Where the field of view lies: turned by an angle (radians), its middle shifted (mm down, mm right), flipped."""

    angle: float = 0.0
    shift: tuple[float, float] = (0.0, 0.0)
    flipped: bool = False


def cut(
    source: Source, k: int, size: int, pixel: float, pose: Pose, outline: tuple[float, float] | None = None
) -> Tensor:
    """Slice ``k`` on ``size`` x ``size`` pixels of ``pixel`` mm around its middle, ``[size, size]``.

    Each pixel is the mean of four samples of a resolution at most half a pixel wide, cubically interpolated where the
    volume has that. ``outline``: the half axes (down, across) of the body relative to the volume's, for one that is cut
    off; air beyond. Without it air is where the volume ends.
    """
    image, (dy, dx) = source.level(pixel / 2)
    rows, columns = image.shape[1:]
    place = (torch.arange(2 * size, dtype=torch.float32) + 0.5 - size) * (pixel / 2)
    down, across = place[:, None], place[None, :] * (-1 if pose.flipped else 1)
    c, s = math.cos(pose.angle), math.sin(pose.angle)
    y = c * down + s * across + pose.shift[0]
    x = c * across - s * down + pose.shift[1]
    # Positions are in units of half the volume's extent: -1 and 1 are its edges.
    v, h = 2 * y / (rows * dy), 2 * x / (columns * dx)
    mode = "zeros" if outline is None else "reflection"
    grid = torch.stack([h, v], dim=-1)[None]
    found = F.grid_sample(image[None, None, k], grid, "bicubic", mode, align_corners=False)[0, 0]
    if outline is not None:
        radius = ((v.abs() / outline[0]) ** _OUTLINE + (h.abs() / outline[1]) ** _OUTLINE) ** (1 / _OUTLINE)
        body = min(outline[0] * rows * dy, outline[1] * columns * dx) / 2
        found = found * ((1 - radius) * (body / pixel) + 0.5).clamp(0, 1)
    return F.avg_pool2d(found[None], 2)[0].clamp_min(0)
