r"""The value of an irregular series at any instant: between its observations, in gaps, or ahead of them.

    filler = NeuralSDERegressor().fit(X)                              learns to fill gaps by hiding values
    filler.fill(X_new), filler.predict(X_new, at=[0.5, 2.25])
    forecaster = NeuralSDERegressor().fit(X, Y, at=range(50, 60))     learns Y at these times from X at 0, ..., 49
    forecaster.predict(X_new)

X is an array ``[n, channels, length]`` with NaN for what is missing, or a list of arrays ``[channels, length_i]``;
``times`` are in any unit, 0, 1, 2, ... unless given. On the grid of the encoder (`neural_sde`) the prediction is

    x(t) = X(t) + W_2 relu(W_1 z(t) + b_1) + b_2,

X(t) being the line through the observations, held after the last, and the correction 0 before training; between two
grid times it is on the line between them. So an untrained model interpolates, or repeats the last value. It is trained
on squared errors, so it predicts means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from degauss.core.errors import InputError
from degauss.core.noise import Noise
from degauss.core.sde import linear
from degauss.core.train import Shuffle
from degauss.timeseries.irregular import Array, Irregular, Scale, Times, check_span, grid_of, irregular, resampled
from degauss.timeseries.irregular_estimator import (
    Inputs,
    IrregularEstimator,
    draws,
    frozen,
    load_fitted,
    restored,
    save_fitted,
    seeded,
    settings_of,
    take,
)
from degauss.timeseries.neural_sde import EncoderConfig, encoder

KIND = "degauss.timeseries/regressor"

_HIDDEN_SHARE = 0.3


class Query(NamedTuple):
    """Where to read: the grid index before each instant, and how far on to the next, both ``[batch, m]``."""

    place: Tensor
    weight: Tensor


class Asked(NamedTuple):
    """A batch: what the encoder reads, the line X on the grid, the instants asked for, and the answers or NaN."""

    inputs: Inputs
    line: Tensor
    query: Query
    target: Tensor


class Regressor(nn.Module):
    """An encoder and a correction of the line ``[batch, grid, channels]``; values ``[batch, m, channels]``."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.encoder = encoder(config)
        last = nn.Linear(config.hidden, config.channels)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.readout = nn.Sequential(nn.Linear(config.hidden, config.hidden), nn.ReLU(), last)

    def forward(self, inputs: Inputs, line: Tensor, query: Query, noise: Noise) -> Tensor:
        states = self.encoder(inputs, noise, keep="all")
        values = line + self.readout(states).transpose(0, 1)
        place = query.place[..., None].expand(-1, -1, values.shape[-1])
        return torch.lerp(values.gather(1, place), values.gather(1, place + 1), query.weight[..., None])


@dataclass(frozen=True, eq=False)
class _Fitted:
    config: EncoderConfig
    scale: Scale
    network: Regressor
    at: Array | None
    epoch: int
    losses: tuple[float, ...]

    def asked(self, series: Irregular, wanted: Irregular) -> Asked:
        """``wanted``: the instants, and the values there where they are known."""
        grid = self.config.grid
        scaled = self.scale.apply(series)
        knots = torch.from_numpy(self.config.knots)
        line = linear(knots, torch.from_numpy(resampled(scaled, grid)).float())(knots).transpose(0, 1)
        target = torch.from_numpy(self.scale.apply(wanted).values).float()
        return Asked(self.network.encoder.inputs(scaled), line, _query(wanted.times, grid), target)


@dataclass(eq=False, kw_only=True)
class NeuralSDERegressor(IrregularEstimator):
    """Interpolates or forecasts series with gaps and times of their own. For the parameters see `IrregularEstimator`.

    After ``fit``: ``n_epochs_``, the epoch whose weights were kept; ``validation_losses_``, one for each epoch.
    """

    _fitted: _Fitted | None = field(default=None, init=False, repr=False)

    def fit(
        self,
        X: Any,
        y: Any = None,
        times: Times = "steps",
        at: Sequence[float] | Array | None = None,
        validation: Sequence[Any] | None = None,
    ) -> Self:
        """Train to predict y ``[n, channels, m]`` (NaN where unknown) at the times ``at`` ``[m]`` from X.

        Without y, to fill gaps: a random share of every series is hidden and to be found. validation: (X, y), or (X,)
        without y, on the same ``times``, to judge by. Raises `InputError` for anything that cannot be trained on.
        """
        if (y is None) != (at is None):
            raise InputError("y and at belong together: expected the values and their times, or neither.")
        series = irregular(X, times)
        instants = None if at is None else _instants(at)
        wanted = None if instants is None else _wanted(y, instants, series)
        grid = grid_of(series) if instants is None else np.union1d(grid_of(series), instants)
        if validation is None:
            kept, held = _split(len(series.values), self.validation_share, self.seed)
            judged, judged_wanted = series.take(held), None if wanted is None else wanted.take(held)
            series, wanted = series.take(kept), None if wanted is None else wanted.take(kept)
        else:
            judged = irregular(validation[0], times)
            judged_wanted = None if instants is None else _wanted(validation[1], instants, judged)
        with seeded(self.seed):
            network = Regressor(self.encoder_config(series.values.shape[2], grid))
        fitted = _Fitted(network.encoder.config, self.scale(series), network, instants, 0, ())
        if judged_wanted is None:
            judged, judged_wanted = _hide(judged, range(len(judged.values)), self.seed, _HIDDEN_SHARE)
        judge_by = fitted.asked(judged, judged_wanted)
        order = Shuffle(len(series.values), self.seed)
        whole = None if wanted is None else fitted.asked(series, wanted)

        def data(samples: Sequence[int]) -> Asked:
            rows = order(samples)
            if whole is not None:
                return _rows(whole, rows)
            return fitted.asked(*_hide(series.take(rows), samples, self.seed, None))

        def judge(network: nn.Module) -> float:
            assert isinstance(network, Regressor)
            with torch.no_grad():
                return float(_square_error(_predicted(network, judge_by, 1, self.seed), judge_by.target))

        best = self.train(network, _loss, data, judge, len(series.values))
        frozen(network, best.weights, "the run")
        self._fitted = _Fitted(fitted.config, fitted.scale, network, instants, best.epoch, best.losses)
        return self

    @property
    def n_epochs_(self) -> int:
        return self._known().epoch

    @property
    def validation_losses_(self) -> tuple[float, ...]:
        return self._known().losses

    def predict(self, X: Any, times: Times = "steps", at: Sequence[float] | Array | None = None) -> Array:
        """Values ``[n, channels, m]`` at the times ``at`` ``[m]``, those of the training (or of X) unless given.

        Raises `InputError` for series that are not like those of the training, or times beyond their span.
        """
        fitted = self._known()
        series = irregular(X, times)
        instants = fitted.at if at is None else _instants(at)
        if instants is None:
            return self._read(series, series.times).transpose(0, 2, 1)
        stamps = np.broadcast_to(instants, (len(series.values), len(instants)))
        return self._read(series, stamps).transpose(0, 2, 1)

    def fill(self, X: Any, times: Times = "steps") -> Any:
        """X with predictions in place of NaN: an array, or a list where the series differ in length."""
        series = irregular(X, times)
        filled = np.where(np.isnan(series.values), self._read(series, series.times), series.values)
        ends = (~np.isnan(series.times)).sum(1)
        if (ends == len(series.times[0])).all():
            return filled.transpose(0, 2, 1)
        return [one[:end].T for one, end in zip(filled, ends, strict=True)]

    def score(self, X: Any, y: Any, times: Times = "steps", at: Sequence[float] | Array | None = None) -> float:
        """1 - squared error / squared deviation of y from its channels' means, over what is not NaN."""
        target = np.asarray(y, dtype=np.float64)
        error = np.nansum((self.predict(X, times, at) - target) ** 2)
        return 1 - float(error / np.nansum((target - np.nanmean(target, axis=(0, 2), keepdims=True)) ** 2))

    def save(self, path: str | Path) -> None:
        """Write the fitted model as a directory of safetensors and JSON, for ``load``."""
        fitted = self._known()
        extra = {"at": None if fitted.at is None else fitted.at.tolist()} | settings_of(
            self, fitted.epoch, fitted.losses
        )
        save_fitted(path, KIND, fitted.network, fitted.config, fitted.scale, extra)

    @classmethod
    def load(cls, path: str | Path) -> NeuralSDERegressor:
        """A saved regressor, with the same predictions; `InputError` for anything that is not one."""
        weights, config, scale, extra = load_fitted(path, KIND)
        try:
            estimator = restored(cls, config, extra)
            at = None if extra["at"] is None else np.asarray(extra["at"], dtype=np.float64)
            epoch, losses = extra["epoch"], tuple(extra["losses"])
        except (KeyError, TypeError) as error:
            raise InputError(f"{path}: the configuration is not that of a regressor ({error!r}).") from None
        network = Regressor(config)
        frozen(network, weights, path)
        estimator._fitted = _Fitted(config, scale, network, at, epoch, losses)
        return estimator

    def _known(self) -> _Fitted:
        if self._fitted is None:
            raise RuntimeError("this regressor is not fitted: call fit(X) first")
        return self._fitted

    def _read(self, series: Irregular, stamps: Array) -> Array:
        """Predictions ``[n, m, channels]`` at ``stamps [n, m]``, in the units of the data; NaN where a stamp is NaN."""
        fitted = self._known()
        if series.values.shape[2] != fitted.config.channels:
            raise InputError(
                f"the series have {series.values.shape[2]} channels; this model was trained on "
                f"{fitted.config.channels}."
            )
        wanted = Irregular(np.full((*stamps.shape, series.values.shape[2]), np.nan), stamps)
        for part in (series, wanted):
            check_span(part, fitted.config.grid)
        asked = fitted.asked(series, wanted)
        with torch.no_grad():
            values = _predicted(fitted.network, asked, self.samples, self.seed)
        if not bool(values.isfinite().all()):
            raise InputError("the predictions are not finite; expected a lower lr or stabilisers.")
        out = values.double().numpy() * fitted.scale.width + fitted.scale.centre
        return np.where(np.isnan(stamps)[..., None], np.nan, out)


def _loss(network: nn.Module, batch: Asked, noise: Noise) -> Tensor:
    return _square_error(network(batch.inputs, batch.line, batch.query, noise), batch.target)


def _square_error(values: Tensor, target: Tensor) -> Tensor:
    """The mean over what is known."""
    known = ~target.isnan()
    return ((values - target.nan_to_num()) * known).square().sum() / known.sum().clamp(min=1)


def _predicted(network: Regressor, asked: Asked, samples: int, seed: int) -> Tensor:
    """The mean over the draws, ``[n, m, channels]`` on the CPU."""
    total = torch.zeros(asked.target.shape)
    count = samples if network.encoder.random else 1
    for draw in draws(network.encoder, asked.inputs, samples, seed):
        device = draw.inputs[0].device
        line, place, weight = (part[draw.rows].to(device) for part in (asked.line, *asked.query))
        total[draw.rows] += network(draw.inputs, line, Query(place, weight), draw.noise).cpu() / count
    return total


def _rows(asked: Asked, rows: NDArray[np.int64]) -> Asked:
    line, place, weight, target = take((asked.line, *asked.query, asked.target), rows)
    return Asked(take(asked.inputs, rows), line, Query(place, weight), target)


def _hide(series: Irregular, samples: Sequence[int], seed: int, share: float | None) -> tuple[Irregular, Irregular]:
    """The series with a share of their values hidden (uniform between none and all unless given), and those values."""
    noise = Noise(seed, samples)
    u = noise.uniform(torch.empty(series.values.shape, dtype=torch.float64), draw=0).numpy()
    shares = noise.uniform(torch.empty(len(u), dtype=torch.float64), draw=1).numpy()
    hidden = u < (shares[:, None, None] if share is None else share)
    known = Irregular(np.where(hidden, np.nan, series.values), series.times)
    return known, Irregular(np.where(hidden, series.values, np.nan), series.times)


def _query(stamps: Array, grid: Array) -> Query:
    stamps = np.where(np.isnan(stamps), grid[0], stamps)
    index = np.clip(np.searchsorted(grid, stamps, side="right") - 1, 0, len(grid) - 2)
    weight = (stamps - grid[index]) / (grid[index + 1] - grid[index])
    return Query(torch.from_numpy(index), torch.from_numpy(np.clip(weight, 0, 1)).float())


def _instants(at: Any) -> Array:
    try:
        found = np.asarray(list(at), dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"at must be times, but is {at!r}.") from None
    if found.ndim != 1 or not len(found) or not np.isfinite(found).all():
        raise InputError(f"at must be one or more finite times in one dimension, but has shape {found.shape}.")
    return found


def _wanted(y: Any, at: Array, series: Irregular) -> Irregular:
    values = np.asarray(y, dtype=np.float64)
    expected = (len(series.values), series.values.shape[2], len(at))
    if values.shape != expected:
        raise InputError(f"y has shape {values.shape}; expected {expected}: series, channels, times of at.")
    if np.isinf(values).any():
        raise InputError("y holds an infinite value; expected finite numbers or NaN.")
    return Irregular(values.transpose(0, 2, 1), np.broadcast_to(at, (len(values), len(at))))


def _split(count: int, share: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    if not 0 < share < 1:
        raise InputError(f"validation_share must be above 0 and below 1, but is {share}.")
    held = max(1, round(count * share))
    if held >= count:
        raise InputError(f"{count} series are too few to keep {share:.0%} of them for validation.")
    order = np.random.default_rng([seed, 0x5B]).permutation(count)
    return np.sort(order[held:]), np.sort(order[:held])
