"""Pictures of volumes and of how well they are known: montages in three planes, coverage, quality against cost.

PNG or SVG by the suffix, drawn off screen, whole or absent. Slices are shown as radiologists read them: axial from the
feet and coronal from the front, so the patient's right is on the left; sagittal with the front on the left; voxels in
their physical proportions. The letters at the edges are the patient's: R and L, A (front) and P (back), H(ead) and
F(eet).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from degauss.core.errors import InputError
from degauss.core.files import atomic_path
from degauss.core.inverse import Coverage
from degauss.medical.metrics import AXES, Plane, full_of
from degauss.medical.volumes import Unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _QUIET, _GRID = "#22272e", "#6b7480", "#e6e9ed"
_COLORS = ("#0b4f9e", "#d1495b", "#2e8b57", "#e09f3e", "#7b4b94", "#3a9fbf", "#8c6d46", "#6b7480")
_WIDTH = 2.4  # inches of a column
_THIN = 0.5  # inches: below it a row has no room for two letters above each other

SOFT_TISSUE = (-160.0, 240.0)
"""The window of computed tomography unless another is asked for, HU: level 40, width 400."""

LETTERS: Mapping[Plane, tuple[str, str, str, str]] = {
    "axial": ("R", "L", "A", "P"),
    "coronal": ("R", "L", "H", "F"),
    "sagittal": ("A", "P", "H", "F"),
}
"""What lies at the left, right, upper and lower edge of each plane's picture."""


@dataclass(frozen=True)
class Panel:
    """One column of a montage: ``data [slices, rows, columns]``, shown from ``low`` to ``high`` in ``unit``."""

    title: str
    data: Tensor
    low: float
    high: float
    unit: str = ""
    colours: str = "gray"


def grey(title: str, data: Tensor, window: tuple[float, float], unit: Unit) -> Panel:
    """A volume in its window."""
    return Panel(title, data, *window, "HU" if unit == "HU" else "")


def error(title: str, data: Tensor, truth: Tensor, window: tuple[float, float], unit: Unit) -> Panel:
    """``data`` minus ``truth``: red where too large, blue where too small; a quarter of the window's width each way."""
    reach = (window[1] - window[0]) / 4
    return Panel(title, data - truth, -reach, reach, "HU" if unit == "HU" else "", "RdBu_r")


def deviation(title: str, std: Tensor, unit: Unit) -> Panel:
    """A standard deviation, from 0 to its own 99.5th percentile."""
    top = float(np.quantile(std.cpu().numpy(), 0.995))
    return Panel(title, std, 0.0, top if top > 0 else 1.0, "HU" if unit == "HU" else "", "magma")


def share(title: str, data: Tensor) -> Panel:
    """A provenance map: 1 where the measurement decided, 0 where the prior did."""
    return Panel(title, data, 0.0, 1.0, "measured share", "cividis")


def window(data: Tensor, unit: Unit) -> tuple[float, float]:
    """What volumes like ``data`` are shown in: `SOFT_TISSUE`, or from 0 to what x = 1 stands for."""
    return SOFT_TISSUE if unit == "HU" else (0.0, full_of(data, unit))


def middle(inside: Tensor) -> tuple[int, int, int]:
    """The median slice, row and column of the voxels of a mask ``[slices, rows, columns]``."""
    places = inside.nonzero().double().median(0).values
    slices, rows, columns = (int(place) for place in places)
    return slices, rows, columns


def section(data: Tensor, plane: Plane, index: int) -> NDArray[Any]:
    """A plane's slice as it is shown, the first row at the top: the head is up in coronal and sagittal ones."""
    found = data.select(AXES[plane], index)
    return (found if plane == "axial" else found.flip(0)).detach().cpu().numpy()


def montage(
    path: str | os.PathLike[str],
    panels: Sequence[Panel],
    spacing: tuple[float, float, float],
    at: tuple[int, int, int],
    title: str = "",
) -> None:
    """A row for each plane through the voxel ``at`` (slice, row, column), a column for each panel, with its scale.

    ``spacing``: (dz, dy, dx), mm. Raises InputError for a voxel outside the volume.
    """
    shape = tuple(panels[0].data.shape)
    if len(shape) != 3 or any(tuple(panel.data.shape) != shape for panel in panels):
        raise ValueError(f"panels must be volumes of one shape, got {[tuple(panel.data.shape) for panel in panels]}")
    if not all(0 <= index < size for index, size in zip(at, shape, strict=True)):
        raise InputError(f"the slices to show must be inside the volume of {shape} voxels, but are {at}.")
    size = [number * step for number, step in zip(shape, spacing, strict=True)]  # mm
    scale = _WIDTH / max(size[1], size[2])
    heights = [size[1] * scale, size[0] * scale, size[0] * scale]
    figure = _figure(_WIDTH * len(panels) + 0.4, sum(heights) + 1.2)
    grid = figure.add_gridspec(4, len(panels), height_ratios=[*heights, 0.08])
    for column, panel in enumerate(panels):
        for row, (plane, axis) in enumerate(AXES.items()):
            axes = figure.add_subplot(grid[row, column])
            across = [step for number, step in enumerate(spacing) if number != axis]
            axes.imshow(
                section(panel.data, plane, at[axis]),
                cmap=panel.colours,
                vmin=panel.low,
                vmax=panel.high,
                aspect=across[0] / across[1],
                interpolation="nearest",
                clip_on=False,  # what a clipped image refers to in SVG has another name each time
            )
            _letters(axes, plane, thin=heights[row] < _THIN)
            if row == 0:
                axes.set_title(panel.title, fontsize=10, color=_INK)
        _scale(figure.add_subplot(grid[3, column]), panel)
    if title:
        figure.suptitle(title, fontsize=11, color=_INK)
    _save(figure, path)


def _scale(axes: Axes, panel: Panel) -> None:
    """A panel's colours and what they mean; matplotlib's own colour bar is clipped too."""
    reach = (panel.low, panel.high, 0.0, 1.0)
    axes.imshow(np.linspace(0, 1, 256)[None], cmap=panel.colours, extent=reach, aspect="auto", clip_on=False)
    axes.set(yticks=[], xlabel=panel.unit)
    axes.tick_params(labelsize=7, colors=_QUIET)


def _letters(axes: Axes, plane: Plane, *, thin: bool) -> None:
    # Where there is no room for two letters above each other they stand side by side.
    above, below = (0.4, 0.6) if thin else (0.5, 0.5)
    places = ((0.03, 0.5), (0.97, 0.5), (above, 0.97), (below, 0.03))
    for letter, (x, y) in zip(LETTERS[plane], places, strict=True):
        axes.text(
            x,
            y,
            letter,
            transform=axes.transAxes,
            ha="left" if x < 0.1 else "right" if x > 0.9 else "center",
            va="bottom" if y < 0.1 else "top" if y > 0.9 else "center",
            fontsize=8,
            color="white",
            bbox={"facecolor": (0, 0, 0, 0.5), "edgecolor": "none", "pad": 1},
        )
    axes.set(xticks=[], yticks=[])
    for side in axes.spines.values():
        side.set_visible(False)


Curve = Sequence[tuple[float, float]]


def coverage_figure(path: str | os.PathLike[str], curves: Mapping[str, Curve], found: Coverage | None = None) -> None:
    """The share of voxels covered against the level that was promised; and of ``found`` by tenths of the deviation."""
    figure = _figure(4.5 if found is None else 9, 4)
    left: Any = figure.add_subplot(1, 1 if found is None else 2, 1)
    left.plot((0, 1), (0, 1), color=_QUIET, linewidth=1, linestyle=":")
    for number, (name, curve) in enumerate(curves.items()):
        levels, shares = zip(*curve, strict=True)
        left.plot(levels, shares, color=_COLORS[number % len(_COLORS)], marker="o", markersize=3, label=name)
    left.set(xlim=(0, 1), ylim=(0, 1), xlabel="level promised", ylabel="share of voxels covered", aspect="equal")
    left.legend(frameon=False, fontsize=8)
    _plain(left)
    if found is not None:
        right: Any = figure.add_subplot(1, 2, 2)
        tenths = [band.covered for band in found.by_std]
        right.bar(range(1, len(tenths) + 1), tenths, color=_COLORS[0], alpha=0.8)
        right.axhline(found.level, color=_COLORS[1], linewidth=1)
        right.set(ylim=(0, 1), xlabel="tenths of the standard deviation, smallest first", ylabel="share covered")
        right.set_title(f"intervals of {found.level:.0%}", loc="left", fontsize=9, color=_INK)
        _plain(right)
    _save(figure, path)


def quality_curves(
    path: str | os.PathLike[str], curves: Mapping[str, Curve], quantity: str = "PSNR (dB)", title: str = ""
) -> None:
    """A quantity against evaluations of the network, a line for each method; ``curves``: (evaluations, quantity)."""
    figure = _figure(7, 4.5)
    axes: Any = figure.add_subplot()
    for number, (name, curve) in enumerate(curves.items()):
        evaluations, values = zip(*sorted(curve), strict=True)
        axes.plot(evaluations, values, color=_COLORS[number % len(_COLORS)], marker="o", markersize=4, label=name)
    axes.set(xscale="log", xlabel="evaluations of the network", ylabel=quantity)
    counts = sorted({evaluations for curve in curves.values() for evaluations, _ in curve})
    axes.set_xticks(counts, [f"{count:g}" for count in counts], fontsize=8)
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=8)
    axes.set_title(title, loc="left", fontsize=11, color=_INK)
    _plain(axes)
    _save(figure, path)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=120, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _plain(axes: Any) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(color=_GRID)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_QUIET, labelsize=8)


def _save(figure: Figure, path: str | os.PathLike[str]) -> None:
    from matplotlib import rc_context

    form = Path(path).suffix.removeprefix(".")
    # Without a date and with fixed names inside, the same figures give the same file.
    with atomic_path(path) as part, rc_context({"svg.hashsalt": "degauss", "svg.fonttype": "none"}):
        figure.savefig(part, format=form, metadata={"Date": None} if form == "svg" else None)
