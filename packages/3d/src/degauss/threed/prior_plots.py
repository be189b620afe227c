"""The picture of a training: what the prior draws of each of its words from each side, beside the truth."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from degauss.core.files import atomic_path
from degauss.threed.prior import decode_pixels

_INK = "#22272e"


def samples_figure(
    path: str | os.PathLike[str], words: Sequence[str], azimuths: Sequence[float], truth: Tensor, drawn: Tensor
) -> None:
    """Two rows a word, the true pictures and those drawn, one column a side, as PNG.

    ``truth``, ``drawn`` ``[words, sides, channels, size, size]`` in [-1, 1]; with 6 channels the normals follow to the
    right of the colours.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    kinds = truth.shape[2] // 3
    columns, rows = kinds * len(azimuths), 2 * len(words)
    figure = Figure(figsize=(0.9 * columns + 1, 0.9 * rows + 0.4), dpi=100, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    panels: Any = figure.subplots(rows, columns, squeeze=False)
    for row in range(rows):
        shown = (truth, drawn)[row % 2][row // 2]
        for column in range(columns):
            kind, side = divmod(column, len(azimuths))
            axes = panels[row, column]
            axes.imshow(decode_pixels(shown[side : side + 1, 3 * kind : 3 * kind + 3])[0].cpu().numpy())
            axes.set(xticks=[], yticks=[])
            for spine in axes.spines.values():
                spine.set_visible(False)
            if row == 0:
                axes.set_title(f"{azimuths[side]:g}°", fontsize=8, color=_INK)
        name = words[row // 2] if row % 2 == 0 else "drawn"
        panels[row, 0].set_ylabel(name, fontsize=8, color=_INK, rotation=0, ha="right", va="center")
    with atomic_path(path) as part:
        figure.savefig(part, format="png", metadata={"Software": None})
