"""TSDiff as an sktime forecaster, for whoever has pipelines, tuning and evaluation there.

    from sktime.forecasting.model_evaluation import evaluate

    forecaster = SktimeForecaster("runs/tsdiff/model")
    forecaster.fit(y, fh=range(1, 13)).predict_interval(coverage=[0.5, 0.9])

It is a `TSDiffForecaster` in sktime's clothes: all it does is pass on. Several columns are forecast by one model,
missing values are data, and ``update`` takes new values without training again. Exogenous variables are ignored, as
sktime's forecasters do that cannot use them. This is the one module that needs sktime:
``pip install "degauss-timeseries[sktime]"``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from degauss.timeseries.config import Scaling
from degauss.timeseries.estimator import TSDiffForecaster
from degauss.timeseries.tsdiff import Likelihood

try:
    from sktime.forecasting.base import BaseForecaster
except ModuleNotFoundError as missing:
    raise ImportError(
        f"degauss.timeseries.sktime needs {missing.name}, which is not installed; expected the extra of "
        'pip install "degauss-timeseries[sktime]".'
    ) from missing

if TYPE_CHECKING:
    import pandas as pd


class SktimeForecaster(BaseForecaster):
    """TSDiff as an sktime forecaster. The parameters are those of `TSDiffForecaster`, which says what they mean; its
    ``state`` is ``state_size`` here, since sktime has a ``state`` of its own.

    The horizon of ``fit`` and ``predict`` lies within ``horizon`` steps (the checkpoint's own, if one is given) after
    the last value.

    Examples
    --------
    >>> from sktime.datasets import load_airline
    >>> from degauss.timeseries.config import GENERAL
    >>> from degauss.timeseries.sktime import SktimeForecaster
    >>> forecaster = SktimeForecaster(GENERAL, samples=10, steps=5).fit(load_airline())
    >>> forecaster.predict_interval(fh=[1, 2, 12], coverage=0.8).shape
    (3, 2)
    """

    _tags: ClassVar[dict[str, Any]] = {
        "authors": ["degauss"],
        "y_inner_mtype": ["pd.Series", "pd.DataFrame"],
        "X_inner_mtype": "pd.DataFrame",
        "capability:multivariate": True,
        "capability:exogenous": False,
        "capability:missing_values": True,
        "capability:insample": False,
        "capability:pred_int": True,
        "capability:pred_int:insample": False,
        "capability:update": True,
        "capability:random_state": False,
        "requires-fh-in-fit": False,
    }
    _config: ClassVar[dict[str, Any]] = {"remember_data": False}  # what was seen is kept here, for `update`

    def __init__(
        self,
        checkpoint: str | Path | None = None,
        *,
        horizon: int = 24,
        samples: int = 100,
        steps: int = 20,
        seed: int = 0,
        likelihood: Likelihood = "quantile",
        guidance: float | None = None,
        device: Literal["auto", "cpu"] = "auto",
        context: int = 168,
        min_context: int | None = None,
        lags: tuple[int, ...] = (),
        scaling: Scaling = "standard",
        hidden: int = 64,
        blocks: int = 3,
        state_size: int = 64,
        train_steps: int = 1500,
        batch: int = 64,
        lr: float = 2e-3,
        out: str | Path | None = None,
    ) -> None:
        # sktime looks for each parameter by its name, in the signature and as an attribute.
        self.checkpoint = checkpoint
        self.horizon = horizon
        self.samples = samples
        self.steps = steps
        self.seed = seed
        self.likelihood = likelihood
        self.guidance = guidance
        self.device = device
        self.context = context
        self.min_context = min_context
        self.lags = lags
        self.scaling = scaling
        self.hidden = hidden
        self.blocks = blocks
        self.state_size = state_size
        self.train_steps = train_steps
        self.batch = batch
        self.lr = lr
        self.out = out
        super().__init__()
        self._y = self._X = None  # where sktime keeps the data too, if its remember_data is switched on

    def _fit(self, y: pd.Series[Any] | pd.DataFrame, X: pd.DataFrame | None, fh: Any) -> Self:
        del X, fh
        self._seen = y
        params = self.get_params(deep=False)
        params["state"] = params.pop("state_size")
        self.forecaster_ = TSDiffForecaster(**params).fit(y)
        return self

    def _update(self, y: Any, X: pd.DataFrame | None = None, update_params: bool = True) -> Self:
        del X, update_params
        self._seen = y.combine_first(self._seen)
        self.forecaster_.update(self._seen)
        return self

    def _predict(self, fh: Any, X: pd.DataFrame | None = None) -> pd.Series[Any] | pd.DataFrame:
        del X
        return self.forecaster_.predict(fh.to_relative(self.cutoff))

    def _predict_quantiles(  # pyright: ignore[reportIncompatibleMethodOverride]  # sktime's base has it otherwise
        self, fh: Any, X: pd.DataFrame | None, alpha: Sequence[float]
    ) -> pd.DataFrame:
        del X
        return self.forecaster_.predict_quantiles(fh.to_relative(self.cutoff), alpha=alpha)

    @classmethod
    def get_test_params(cls, parameter_set: str = "default") -> Any:
        """Parameters for sktime's own conformance checks: models that train in a moment."""
        del parameter_set
        size = {"hidden": 4, "blocks": 1, "state_size": 4, "context": 8, "min_context": 4, "horizon": 10}
        quick = {**size, "train_steps": 1, "batch": 2, "samples": 4, "steps": 2, "device": "cpu"}
        return [quick, {**quick, "lags": (2,), "scaling": "mean", "likelihood": "mean-square", "guidance": 1.0}]
