r"""Synthetic windows from a TSDiff model, and what they are worth to somebody who trains on them.

The model generates windows in its own units, value minus centre over width. It is never told either, so in it the shape
of a window does not depend on them. In data units a synthetic window therefore takes the centre and width of a real
window drawn at random: pairs that do occur, but no tie of level to shape.

**Scores.** Train a forecaster on synthetic windows, test it on real ones (TSTR); the same forecaster, trained on as
many real windows, is the ceiling. The score is the mean weighted quantile loss of the forecasts, "CRPS" in the paper:

* the linear predictor score (LPS): ridge regression of the horizon on the context,
  W = argmin |Y - X W - b|^2 + alpha |W|^2 with alpha = 1. It is a formula, so nothing random but the windows is in it;
  being a point forecast, its loss is its normalised deviation;
* a small network that forecasts nine quantiles.

Both learn and forecast in the units of the model: real contexts are scaled by what is seen of them.

Reference: Kollovieh et al. 2023, "Predict, Refine, Synthesize" (TSDiff), section 4.3: 10,000 windows, 100 ancestral
steps; there the networks are DeepAR and a Transformer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from degauss.core.errors import InputError, check_range
from degauss.core.gaussian.exponential import ddim
from degauss.core.sampling import Solver, sample
from degauss.core.train import Shuffle
from degauss.timeseries import metrics
from degauss.timeseries.config import Scaling, TSDiffConfig
from degauss.timeseries.regular import Regular
from degauss.timeseries.tsdiff import Scale, TSDiff, Windows, scale_of
from degauss.timeseries.windows import RandomWindows

Array = NDArray[np.float64]
Report = Callable[[int, int], None]


# --- windows ------------------------------------------------------------------------------------------------


def generate(
    model: TSDiff,
    count: int,
    *,
    steps: int | None = None,
    solver: Solver | None = None,
    seed: int = 0,
    rows: int = 100,
    report: Report | None = None,
) -> Array:
    """``count`` windows ``[count, length]`` in model units, drawn unconditionally.

    ``steps``: network evaluations for each, all of the model's unless given; ``solver``: ancestral unless given.
    Window k of a seed is the same however many are asked for.
    """
    check_range("count", count, 1)
    steps = model.config.steps if steps is None else steps
    check_range("steps", steps, 1, model.config.steps)
    device = next(model.network.parameters()).device
    out = np.empty((count, model.config.length))
    for first in range(0, count, rows):
        ids = range(first, min(first + rows, count))
        with torch.no_grad():
            x = sample(
                model.denoiser,
                model.schedule,
                (len(ids), model.config.length, 1 + len(model.config.lags)),
                solver=ddim(eta=1.0) if solver is None else solver,
                steps=steps,
                seed=seed,
                samples=ids,
                device=device,
            )
        out[first : first + len(ids)] = x[..., 0].double().cpu().numpy()
        if report is not None:
            report(ids.stop, count)
    return out


def in_data_units(scaled: Array, scale: Scale) -> Array:
    """Windows ``[n, length]`` in model units, each with the centre and width of a row of ``scale``."""
    return scaled * scale.width.numpy() + scale.centre.numpy()


def real_windows(model: TSDiff, series: Sequence[Array], count: int, seed: int = 0) -> Windows:
    """Random stretches of the series, such as the model is trained on; `InputError` if none is long enough."""
    return RandomWindows(series, model.config, seed)(range(count))


def in_model_units(model: TSDiff, windows: Windows) -> Array:
    """Those of the windows that have no gap, scaled, ``[n, length]``; `InputError` if all have gaps."""
    whole = windows.seen[:, model.config.reach :].bool().all(1)
    if not bool(whole.any()):
        raise InputError(f"all {len(whole)} windows drawn from the series have gaps; expected some without.")
    kept = Windows(windows.values[whole], windows.seen[whole])
    return model.channels(kept, model.scale(kept))[0][..., 0].double().numpy()


# --- scores -------------------------------------------------------------------------------------------------


class Real(NamedTuple):
    """Real windows to test on, in data units and without gaps: ``known [m, context]`` and ``target [m, horizon]``."""

    known: Array
    target: Array


def held_out(records: Sequence[Regular], config: TSDiffConfig, windows: int) -> Real:
    """The last ``windows`` stretches of each record with their contexts, a horizon apart; those with gaps are left out.

    Raises `InputError` if none remains, or if all that remains to be forecast is zero.
    """
    check_range("windows", windows, 1)
    rows: list[Array] = []
    for record in records:
        for k in range(windows):
            end = len(record.values) - k * config.horizon
            row = record.values[max(end - config.length, 0) : end]
            if len(row) == config.length and not np.isnan(row).any():
                rows.append(row)
    if not rows:
        raise InputError(
            f"no series ends in {config.length} values without a gap (context {config.context} + horizon "
            f"{config.horizon}), so there is nothing to test on."
        )
    stacked = np.stack(rows)
    if not stacked[:, config.context :].any():
        raise InputError("the ends of all series are zero, so forecasts of them cannot be scored.")
    return Real(stacked[:, : config.context], stacked[:, config.context :])


class Predictor(Protocol):
    """Contexts ``[m, context]`` to the nine deciles of what follows, ``[9, m, horizon]``."""

    def __call__(self, known: Array, /) -> Array: ...


Fit = Callable[[Array, Array], Predictor]
"""How a forecaster is made of contexts ``[n, context]`` and what followed ``[n, horizon]``."""


def predictive_score(train: Array, real: Real, scaling: Scaling, fit: Fit) -> float:
    """Mean weighted quantile loss, on real windows, of a forecaster trained on ``train`` ``[n, context + horizon]``.

    ``train`` is in model units; the real contexts are scaled by their own values, as ``scaling`` says.
    """
    context = real.known.shape[1]
    predict = fit(train[:, :context], train[:, context:])
    known = torch.from_numpy(real.known)
    centre, width = (part.numpy() for part in scale_of(known, torch.ones_like(known), scaling))
    quantiles = predict((real.known - centre) / width) * width + centre
    return metrics.mean_weighted_quantile_loss(real.target, quantiles)


def ridge(known: Array, target: Array, alpha: float = 1.0) -> Predictor:
    """Ridge regression with an intercept that is not shrunk: (X'X + alpha)^-1 X'Y of the centred X and Y."""
    middle, level = known.mean(0), target.mean(0)
    x = known - middle
    weights = np.linalg.solve(x.T @ x + alpha * np.eye(x.shape[1]), x.T @ (target - level))

    def predict(known: Array) -> Array:
        point = (known - middle) @ weights + level
        return np.broadcast_to(point, (len(metrics.DECILES), *point.shape))

    return predict


@dataclass(frozen=True)
class QuantileNetwork:
    """A fit: two hidden layers from the context to nine quantiles, by the pinball loss.

    It works on changes since the last known value, in units of their size over the horizon.
    """

    seed: int = 0
    hidden: int = 64
    steps: int = 500
    batch: int = 128
    lr: float = 2e-3

    def __call__(self, known: Array, target: Array, /) -> Predictor:
        spread = float(np.std(target - known[:, -1:])) or 1.0
        network = self._network(known.shape[1], target.shape[1])
        x, y = (torch.from_numpy((part - known[:, -1:]) / spread).float() for part in (known, target))
        self._train(network, x, y)

        def predict(known: Array) -> Array:
            last = known[:, -1:]
            with torch.no_grad():
                out = network(torch.from_numpy((known - last) / spread).float())
            changes = out.unflatten(1, (len(metrics.DECILES), -1)).double().numpy()
            return np.sort(changes, axis=1).swapaxes(0, 1) * spread + last

        return predict

    def _network(self, inputs: int, outputs: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return nn.Sequential(
                nn.Linear(inputs, self.hidden),
                nn.SiLU(),
                nn.Linear(self.hidden, self.hidden),
                nn.SiLU(),
                nn.Linear(self.hidden, len(metrics.DECILES) * outputs),
            )

    def _train(self, network: nn.Module, x: Tensor, y: Tensor) -> None:
        levels = torch.tensor(metrics.DECILES)[:, None]
        order = Shuffle(len(x), self.seed)
        optimiser = torch.optim.AdamW(network.parameters(), lr=self.lr)
        decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.steps)
        for step in range(self.steps):
            rows = torch.as_tensor(order(range(step * self.batch, (step + 1) * self.batch)))
            error = y[rows, None] - network(x[rows]).unflatten(1, (len(metrics.DECILES), -1))
            optimiser.zero_grad()
            torch.maximum(levels * error, (levels - 1) * error).mean().backward()
            optimiser.step()
            decay.step()
