"""The picture of a training: what the prior draws of each of its words from each side, beside the truth."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from degauss.threed.plots import labelled
from degauss.threed.prior import decode_pixels


def samples_figure(
    path: str | os.PathLike[str], words: Sequence[str], azimuths: Sequence[float], truth: Tensor, drawn: Tensor
) -> None:
    """Two rows a word, the true pictures and those drawn, one column a side, as PNG.

    ``truth``, ``drawn`` ``[words, sides, channels, size, size]`` in [-1, 1]; with 6 channels the normals follow to the
    right of the colours.
    """
    rows: list[tuple[str, list[Tensor]]] = []
    for word, true, made in zip(words, truth, drawn, strict=True):
        rows += [(word, _shown(true)), ("drawn", _shown(made))]
    labelled(Path(path), rows, [f"{azimuth:g}°" for azimuth in azimuths])


def _shown(pictures: Tensor) -> list[Tensor]:
    """All colours, then all normals as colours."""
    return [image for kind in pictures.split(3, 1) for image in decode_pixels(kind)]
