"""The neural SDE classifier as an aeon classifier, for whoever has pipelines, tuning and evaluation there.

    from aeon.datasets import load_basic_motions

    X, y = load_basic_motions(split="train")
    AeonClassifier(model="lsde", epochs=40).fit(X, y).predict(X)

It is a `NeuralSDEClassifier` in aeon's clothes: all it does is pass on. Missing values and series of unequal length are
data. This is the one module that needs aeon: ``pip install "degauss-timeseries[aeon]"``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from degauss.timeseries.classification import NeuralSDEClassifier
from degauss.timeseries.neural_sde import Clipping, Control, Model

try:
    from aeon.classification.base import BaseClassifier
except ModuleNotFoundError as missing:
    raise ImportError(
        f"degauss.timeseries.aeon needs {missing.name}, which is not installed; expected the extra of "
        'pip install "degauss-timeseries[aeon]".'
    ) from missing


class AeonClassifier(BaseClassifier):
    """A neural SDE as an aeon classifier. The parameters are those of `NeuralSDEClassifier`, which says what they mean;
    its ``seed`` is ``random_state`` here. After ``fit``, ``estimator_`` is that classifier, which can be saved.
    """

    _tags: ClassVar[dict[str, Any]] = {
        "X_inner_type": ["np-list", "numpy3D"],
        "capability:multivariate": True,
        "capability:unequal_length": True,
        "capability:missing_values": True,
        "algorithm_type": "deeplearning",
    }

    def __init__(
        self,
        *,
        model: Model = "lnsde",
        hidden: int = 32,
        layers: int = 2,
        control: Control = "linear",
        stabilisers: Clipping = "published",
        span: float = 1.0,
        scaling: Literal["standard", "none"] = "standard",
        epochs: int = 100,
        patience: int = 10,
        min_epochs: int = 20,
        batch: int | None = None,
        lr: float = 0.01,
        validation_share: float = 0.15,
        samples: int = 4,
        random_state: int = 0,
        device: Literal["auto", "cpu"] = "auto",
        out: str | Path | None = None,
    ) -> None:
        # aeon clones a classifier by its attributes: each argument is kept under its own name, as it came.
        self.model = model
        self.hidden = hidden
        self.layers = layers
        self.control = control
        self.stabilisers = stabilisers
        self.span = span
        self.scaling = scaling
        self.epochs = epochs
        self.patience = patience
        self.min_epochs = min_epochs
        self.batch = batch
        self.lr = lr
        self.validation_share = validation_share
        self.samples = samples
        self.random_state = random_state
        self.device = device
        self.out = out
        super().__init__()

    def _fit(self, X: Any, y: Any) -> Self:  # pyright: ignore[reportIncompatibleMethodOverride]
        settings = self.get_params(deep=False)
        self.estimator_ = NeuralSDEClassifier(seed=settings.pop("random_state"), **settings).fit(X, y)
        return self

    def _predict(self, X: Any) -> Any:
        return self.estimator_.predict(X)

    def _predict_proba(self, X: Any) -> Any:
        return self.estimator_.predict_proba(X)

    @classmethod
    def _get_test_params(cls, parameter_set: str = "default") -> dict[str, Any]:
        """Small enough for aeon's own checks."""
        del parameter_set
        return {"hidden": 4, "layers": 1, "epochs": 1, "min_epochs": 1, "samples": 1, "validation_share": 0.4}
