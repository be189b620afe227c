r"""Pictures of sequences: logos, and distributions beside each other. PNG or SVG by the suffix, whole or absent.

A logo's column has the height of its information, R = log2 V - H in bits, where H is the entropy of the letters at its
place (Schneider and Stephens 1990, without the correction for small samples), split among them by their frequencies.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from degauss.bio.alphabets import Alphabet
from degauss.core.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _QUIET, _GRID = "#22272e", "#6b7480", "#e6e9ed"
_COLORS = ("#0b4f9e", "#d1495b", "#2e8b57", "#e09f3e", "#7b4b94", "#3a9fbf")
_SCHEMES = {"DNA": "classic", "protein": "chemistry"}
_ROW = 50  # letters in a row of a logo


def information(tokens: Tensor, vocabulary: int) -> NDArray[np.float64]:
    """The height of each letter in a logo of tokens ``[sequences, length]``: ``[length, V]``, in bits."""
    share = torch.nn.functional.one_hot(tokens, vocabulary).double().mean(0)
    bits = np.log2(vocabulary) - torch.special.entr(share).sum(1, keepdim=True) / np.log(2)
    return (share * bits).numpy()


def sequence_logo(path: str | os.PathLike[str], tokens: Tensor, alphabet: Alphabet, title: str = "") -> None:
    """The logo of tokens ``[sequences, length]``, in rows of 50 letters; all rows share one scale."""
    height = information(tokens, alphabet.vocabulary)
    rows = -(-len(height) // _ROW)
    figure = _figure(12, 0.6 + 1.5 * rows)
    panels: Any = figure.subplots(rows, 1, squeeze=False)
    top = max(float(height.sum(1).max()), 0.05) * 1.05
    for row, axes in enumerate(panels[:, 0]):
        _logo(axes, height[row * _ROW : (row + 1) * _ROW], row * _ROW + 1, alphabet)
        axes.set(xlim=(row * _ROW + 0.5, row * _ROW + min(_ROW, len(height)) + 0.5), ylim=(0, top))
        axes.set_ylabel("bits", color=_QUIET)
        _plain(axes)
    if title:
        panels[0, 0].set_title(title, loc="left", fontsize=12, color=_INK)
    _save(figure, path)


def distributions(
    path: str | os.PathLike[str], groups: Mapping[str, Sequence[float]], quantity: str, title: str = ""
) -> None:
    """How a quantity is distributed in each of some groups: density histograms on common bins, medians marked."""
    values = {name: np.asarray(group, dtype=np.float64) for name, group in groups.items()}
    bins = np.histogram_bin_edges(np.concatenate(list(values.values())), bins=40)
    figure = _figure(8, 4)
    axes: Any = figure.subplots()
    for number, (name, group) in enumerate(values.items()):
        color = _COLORS[number % len(_COLORS)]
        axes.hist(group, bins, density=True, histtype="stepfilled", alpha=0.15, color=color)
        axes.hist(
            group, bins, density=True, histtype="step", linewidth=1.5, color=color, label=f"{name} ({len(group)})"
        )
        axes.axvline(float(np.median(group)), color=color, linewidth=1, linestyle=":")
    axes.set_xlabel(quantity, color=_QUIET)
    axes.set_ylabel("density", color=_QUIET)
    axes.legend(frameon=False, fontsize=9)
    axes.grid(color=_GRID)
    axes.set_axisbelow(True)
    axes.set_title(title, loc="left", fontsize=12, color=_INK)
    _plain(axes)
    _save(figure, path)


def _logo(axes: Axes, height: NDArray[np.float64], first: int, alphabet: Alphabet) -> None:
    import logomaker
    import pandas as pd

    frame = pd.DataFrame(height, columns=list(alphabet.letters), index=range(first, first + len(height)))
    logomaker.Logo(frame, ax=axes, color_scheme=_SCHEMES[alphabet.name], show_spines=False)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=100, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _plain(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#b8c0c9")
    axes.tick_params(colors=_QUIET, labelsize=9)


def _save(figure: Figure, path: str | os.PathLike[str]) -> None:
    from matplotlib import rc_context

    form = Path(path).suffix.removeprefix(".")
    # Without a date and with fixed names inside, the same figures give the same file.
    with atomic_path(path) as part, rc_context({"svg.hashsalt": "degauss", "svg.fonttype": "none"}):
        figure.savefig(part, format=form, metadata={"Date": None} if form == "svg" else None)
