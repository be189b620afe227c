"""What the claims about neural SDEs share: the published way to split and to thin a data set, and its networks.

The learning rate is one of those that the published search goes through (1e-4 to 1e-2), the same for all models; it
was chosen on seeds that no claim uses. The published halving of it every ten epochs is a cosine here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from degauss.timeseries.classification import NeuralSDEClassifier, stratified
from degauss.timeseries.irregular import Array, Irregular, drop, irregular
from degauss.timeseries.neural_sde import Model

EPOCHS, SHARES = 60, (0.7, 0.15, 0.15)
STABLE: tuple[Model, ...] = ("lsde", "lnsde", "gsde")


class Part(NamedTuple):
    """Series ``[channels, length_i]`` with NaN, and their labels."""

    series: list[Array]
    labels: NDArray[Any]


def parts(name: str, missing: float, seed: int) -> tuple[Part, Part, Part]:
    """Training, validation and test series of a set of aeon's wheel, with a share of every channel taken away."""
    from aeon.datasets import load_classification

    series, labels = load_classification(name)  # pyright: ignore[reportAssignmentType]
    thinned = drop(irregular(list(series)), missing, seed)
    rows = stratified(labels, SHARES, seed)
    return tuple(Part(_listed(thinned.take(some)), labels[some]) for some in rows)  # pyright: ignore[reportReturnType]


def _listed(series: Irregular) -> list[Array]:
    return [values[~np.isnan(times)].T for values, times in zip(*series, strict=True)]


def accuracy(model: Model, train: Part, valid: Part, test: Part, seed: int) -> float:
    classifier = NeuralSDEClassifier(model=model, epochs=EPOCHS, seed=seed, device="cpu")
    classifier.fit(train.series, train.labels, validation=valid)
    return classifier.score(test.series, test.labels)


def rocket_accuracy(train: Part, test: Part, seed: int) -> float:
    """ROCKET, which knows no gaps, on the straight lines between the values."""
    from aeon.classification.convolution_based import RocketClassifier

    length = max(part.shape[1] for part in (*train.series, *test.series))
    classifier = RocketClassifier(random_state=seed, n_jobs=1)
    classifier.fit(_even(train.series, length), train.labels)
    return float((classifier.predict(_even(test.series, length)) == test.labels).mean())


def _even(series: Sequence[Array], length: int) -> Array:
    """``[n, channels, length]`` without gaps."""
    out = np.zeros((len(series), len(series[0]), length))
    for k, one in enumerate(series):
        times = np.linspace(0, 1, one.shape[1])
        for channel, column in enumerate(one):
            seen = ~np.isnan(column)
            if seen.any():
                out[k, channel] = np.interp(np.linspace(0, 1, length), times[seen], column[seen])
    return out
