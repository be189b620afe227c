"""Pictures of runs: sheets of renders, as PNG, and curves. Drawn off screen, written whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from degauss.core.files import atomic_path
from degauss.threed.rendering import Rendered

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK, _GRID = "#22272e", "#e6e9ed"
_COLOURS = ("#0b4f9e", "#d1495b", "#2e8b57", "#e09f3e", "#7b4b94", "#3a9fbf", "#8c6d46", "#6b7480")
_GAP = 2

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def grid(rows: Sequence[Tensor]) -> Tensor:
    """Rows of images, each ``[n, h, w, 3]`` and not all of one size, as one image with white gaps.

    Every image is shown at the size of the largest, its pixels repeated.
    """
    height = max(row.shape[1] for row in rows)
    wide = max(len(row) for row in rows)
    blank = torch.ones(1, height, height, 3)
    lines: list[Tensor] = []
    for row in rows:
        images = row.detach().float().cpu().clamp(0, 1)
        if images.shape[1:3] != (height, height):
            images = interpolate(images.movedim(-1, 1), (height, height), mode="nearest").movedim(1, -1)
        images = torch.cat((images, blank.expand(wide - len(images), -1, -1, -1)))
        padded = torch.nn.functional.pad(images, (0, 0, _GAP, _GAP, _GAP, _GAP), value=1.0)
        lines.append(torch.cat(tuple(padded), 1))
    return torch.cat(lines, 0)


def views_sheet(seen: Rendered) -> Tensor:
    """Colour, normals and depth of some views, one below the other, as one image."""
    normals = 0.5 + 0.5 * seen.normal + 0.5 * (1 - seen.alpha)[..., None]
    nearest = seen.depth[seen.alpha > 0.5]
    low, high = (nearest.min(), nearest.max()) if len(nearest) else (seen.depth.new_zeros(()), seen.depth.new_ones(()))
    shade = 1 - 0.85 * ((seen.depth - low) / (high - low).clamp(min=1e-6)).clamp(0, 1)
    depth = torch.where(seen.alpha > 0.5, shade, 1.0)[..., None].expand_as(seen.rgb)
    return grid((seen.rgb, normals.clamp(0, 1), depth))


def write_picture(path: Path, image: Tensor) -> None:
    """Write an image ``[h, w, 3]`` in [0, 1] as PNG."""
    from PIL import Image

    pixels: Pixels = (image.detach().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    with atomic_path(path) as part:
        Image.fromarray(pixels).save(part, format="png")


def read_picture(path: Path) -> Tensor:
    """An image that `write_picture` wrote, ``[h, w, 3]``."""
    from degauss.threed.mesh_files import read_texture

    return read_texture(path)


def labelled(path: Path, rows: Sequence[tuple[str, Sequence[Tensor]]], heads: Sequence[str]) -> None:
    """Rows of images ``[h, w, 3]`` in [0, 1], as many each, with names at the left, as PNG.

    ``heads``: over the columns; where these are more, they begin again.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = len(rows[0][1])
    figure = Figure(
        figsize=(0.9 * columns + 1, 0.9 * len(rows) + 0.4), dpi=100, layout="constrained", facecolor="white"
    )
    FigureCanvasAgg(figure)
    panels: Any = figure.subplots(len(rows), columns, squeeze=False)
    for row, (name, images) in enumerate(rows):
        for column, image in enumerate(images):
            axes = panels[row, column]
            axes.imshow(image.detach().clamp(0, 1).cpu().numpy())
            axes.set(xticks=[], yticks=[])
            for spine in axes.spines.values():
                spine.set_visible(False)
            if row == 0 and heads:
                axes.set_title(heads[column % len(heads)], fontsize=8, color=_INK)
        panels[row, 0].set_ylabel(name, fontsize=8, color=_INK, rotation=0, ha="right", va="center")
    with atomic_path(path) as part:
        figure.savefig(part, format="png", metadata={"Software": None})


def curves(
    path: Path, lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], x: str, y: str, title: str
) -> None:
    """Lines by name, each (x, y), over common axes, as PNG or SVG by the suffix."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes: Axes = figure.add_subplot()
    for index, (name, (across, up)) in enumerate(lines.items()):
        axes.plot(
            across, up, color=_COLOURS[index % len(_COLOURS)], marker="o", markersize=3, linewidth=1.5, label=name
        )
    axes.set(xlabel=x, ylabel=y)
    axes.set_title(title, loc="left", fontsize=11, color=_INK)
    axes.grid(color=_GRID)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    with atomic_path(path) as part:
        figure.savefig(part, format=path.suffix.removeprefix("."))
