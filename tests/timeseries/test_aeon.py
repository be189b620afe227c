"""The aeon face: aeon's own checks, and the numbers of the classifier that it wraps."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

aeon = pytest.importorskip("aeon", reason="needs the extra 'aeon'")
pytestmark = pytest.mark.filterwarnings("ignore")

from aeon.testing.estimator_checking import check_estimator  # noqa: E402

from degauss.timeseries.aeon import AeonClassifier  # noqa: E402
from degauss.timeseries.classification import NeuralSDEClassifier  # noqa: E402

SMALL: dict[str, Any] = {"hidden": 4, "layers": 1, "epochs": 2, "min_epochs": 1, "samples": 2, "validation_share": 0.4}


def series(n: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Two classes that differ in their slope."""
    random = np.random.default_rng(0)
    y = np.arange(n) % 2
    ramp = np.linspace(-1, 1, 20)
    return (2 * y - 1)[:, None, None] * ramp + 0.1 * random.normal(size=(n, 2, 20)), y


def test_it_passes_aeons_own_checks() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results: Any = check_estimator(AeonClassifier)
    assert results
    assert {name: result for name, result in results.items() if result != "PASSED"} == {}


def test_it_is_the_classifier_it_wraps() -> None:
    X, y = series()
    X[3, 1, 4:9] = np.nan
    ours = NeuralSDEClassifier(seed=3, **SMALL).fit(X, y)
    theirs: Any = AeonClassifier(random_state=3, **SMALL).fit(X, y)
    np.testing.assert_array_equal(theirs.predict_proba(X), ours.predict_proba(X))
    np.testing.assert_array_equal(theirs.predict(X), ours.predict(X))


def test_series_of_unequal_length_and_labels_in_words() -> None:
    X, y = series()
    lists = [each[:, : 15 + k % 5] for k, each in enumerate(X)]
    words = np.array(["down", "up"])[y]
    found: Any = AeonClassifier(random_state=0, **SMALL).fit(lists, words)
    assert set(found.predict(lists)) <= {"down", "up"}
    assert found.predict_proba(lists).shape == (12, 2)


def test_a_clone_has_the_same_parameters() -> None:
    first: Any = AeonClassifier(model="gsde", lr=0.02, random_state=5)
    assert first.clone().get_params() == first.get_params()
