r"""What a classifier gets right, and what it takes for what.

With c_ij the number of series of class i that were taken for class j, n_i = sum_j c_ij and N of all:

    accuracy = sum_i c_ii / N,    balanced accuracy = mean_i c_ii / n_i,
    F1 of class i = 2 c_ii / (n_i + sum_j c_ji),    log loss = -mean log p(the true class).

Means over classes leave out those without series.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from degauss.timeseries.irregular import Array

Counts = NDArray[np.int64]


def confusion(actual: NDArray[Any], predicted: NDArray[Any], classes: NDArray[Any]) -> Counts:
    """c ``[classes, classes]``: a row for each true class. All labels are among ``classes``, which is sorted."""
    counts = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(counts, (np.searchsorted(classes, actual), np.searchsorted(classes, predicted)), 1)
    return counts


def classification_scores(actual: NDArray[Any], probabilities: Array, classes: NDArray[Any]) -> dict[str, Any]:
    """The scores above, with the counts behind them; ``probabilities`` ``[n, classes]``."""
    counts = confusion(actual, classes[probabilities.argmax(-1)], classes)
    right, true, taken = np.diag(counts), counts.sum(1), counts.sum(0)
    there = true > 0
    chosen = np.take_along_axis(probabilities, np.searchsorted(classes, actual)[:, None], 1)
    return {
        "series": len(actual),
        "accuracy": float(right.sum() / counts.sum()),
        "balanced_accuracy": float((right[there] / true[there]).mean()),
        "f1_macro": float((2 * right[there] / (true + taken)[there]).mean()),
        # As scikit-learn does: a probability of 0 costs as much as the smallest number above it.
        "log_loss": float(-np.log(np.clip(chosen, np.finfo(np.float64).eps, 1)).mean()),
        "classes": classes.tolist(),
        "confusion": counts.tolist(),
    }


def confusion_plot(path: str | Path, counts: Counts, classes: Sequence[str], *, title: str = "") -> None:
    """Draw the counts as a square of tones, by the share of each row; one PNG, whole or not at all."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from degauss.core.files import atomic_path

    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = float(np.clip(3.5 + 0.55 * len(classes), 5, 14))
    figure = Figure(figsize=(side + 1, side), dpi=100, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    names = [name if len(name) <= 18 else name[:17] + "…" for name in classes]
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(title, loc="left", fontweight="bold")
    if len(names) <= 30:
        for (row, column), count in np.ndenumerate(counts):
            tone = "white" if shares[row, column] > 0.5 else "#22272e"
            axes.text(column, row, str(count), ha="center", va="center", color=tone)
    with atomic_path(Path(path)) as partial:
        figure.savefig(partial, format="png")
