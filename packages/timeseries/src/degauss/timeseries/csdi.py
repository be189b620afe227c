r"""CSDI: a diffusion model of windows of several series at once, trained to fill in what is missing of them.

The network is told what is known and learns the noise in the rest. In training, every observed value becomes a target
with probability r, and r ~ U(0, 1) for each window, so the number of targets is uniform between none and all: the
paper's random strategy. The targets are diffused, the others are given, and the loss is the squared error of the
predicted noise at the targets. Afterwards any pattern of missing values can be drawn,

    x_t = alpha_t x_0 + sigma_t eps  on all that is not known,

by any solver. What is known has itself for its posterior mean, and comes back to the bit. What is not has its
posterior mean kept within the range of its feature in the training data, where the mean of anything learnt there must
lie: at t = 1 an error of the predicted noise counts sigma / alpha = 170 times, which a short training cannot afford.

Units are (value - centre) / width, with the mean and standard deviation of each feature in the training data alone.

Reference: Tashiro et al. 2021, "CSDI: Conditional Score-based Diffusion Models for Probabilistic Time Series
Imputation" (NeurIPS). T = 50 steps, square roots of beta from 1e-4 to 0.5 evenly spaced.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from degauss.core.checkpoint import load_frozen, load_weights, read_tensors, save_model
from degauss.core.denoiser import Denoiser, eps_prediction
from degauss.core.errors import InputError, check_range
from degauss.core.gaussian.exponential import ddim
from degauss.core.noise import Noise
from degauss.core.posterior import Point
from degauss.core.sampling import Solver, sample
from degauss.core.schedule import DiscreteVP, quadratic_betas
from degauss.timeseries.csdi_net import CSDIConfig, CSDINet

KIND = "degauss.timeseries/csdi"

Array = NDArray[np.float64]
Batch = tuple[Tensor, Tensor]
"""Windows in model units, 0 where not observed, and 1 where observed; float32 ``[batch, length, features]``."""


class Units(NamedTuple):
    """Model units are (value - centre) / width; both ``[features]``.

    ``span``: the lowest and the highest value that is filled in, ``[2, features]``, or None for no limits.
    ``names``: of the features, and ``step``: from one time to the next, in words; where they are known.
    """

    centre: Array
    width: Array
    span: Array | None = None
    names: tuple[str, ...] = ()
    step: str = ""


def units_of(values: Array, names: Sequence[str] = (), step: str = "") -> Units:
    """Mean, standard deviation and range of what is observed of each feature (the last axis of ``values``).

    A feature that is constant, or never observed, has width 1; the latter counts as 0.
    """
    flat = values.reshape(-1, values.shape[-1])
    seen = ~np.isnan(flat)
    count = np.maximum(seen.sum(0), 1)
    centre = np.where(seen, flat, 0.0).sum(0) / count
    width = np.sqrt((np.where(seen, flat - centre, 0.0) ** 2).sum(0) / count)
    # Rounding of the mean of a constant is no width.
    width = np.where(width > 1e-9 * np.abs(centre), width, 1.0)
    span = np.stack([np.where(seen, flat, np.inf).min(0), np.where(seen, flat, -np.inf).max(0)])
    return Units(centre, width, np.where(seen.any(0), span, 0.0), tuple(names), step)


@dataclass(frozen=True, eq=False)
class CSDI:
    """A model: its configuration, its units and its network. ValueError for units of other features."""

    config: CSDIConfig
    units: Units
    network: CSDINet = field(repr=False)

    def __post_init__(self) -> None:
        for name, lead in (("centre", ()), ("width", ()), ("span", (2,))):
            values, expected = getattr(self.units, name), (*lead, self.config.features)
            if values is not None and values.shape != expected:
                raise ValueError(f"the {name} of the units is {values.shape}, expected {expected}")

    @classmethod
    def new(cls, config: CSDIConfig, units: Units, seed: int = 0) -> CSDI:
        """A freshly initialised model."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(config, units, CSDINet(config))

    @classmethod
    def load(cls, path: str | Path) -> CSDI:
        """A saved model, frozen, in eval mode; `InputError` for anything that is not one."""
        return load_frozen(path, KIND, "a CSDI model", cls._unfitted)

    @classmethod
    def _unfitted(cls, values: dict[str, Any]) -> CSDI:
        centre, width, span, names, step = (values.pop(name) for name in Units._fields)
        span = None if span is None else _array(span)
        units = Units(_array(centre), _array(width), span, tuple(names), str(step))
        return cls.new(CSDIConfig(**values), units)

    @classmethod
    def load_published(cls, path: str | Path, units: Units, config: CSDIConfig | None = None) -> CSDI:
        """The authors' weights, from a safetensors file of their state dict under its own names; frozen.

        Such a file is made once of their ``model.pth`` by ``torch.load(..., weights_only=True)`` and
        ``safetensors.torch.save_file``. ``units``: those that the weights were trained in, which they do not say.
        ``config``: the published one for PhysioNet 2012 unless given. Raises `InputError` where they do not fit it.
        """
        # A 1x1 convolution [out, in, 1] is a linear layer.
        weights = {
            name.removeprefix("diffmodel."): value.squeeze(-1) if value.ndim == 3 else value
            for name, value in read_tensors(Path(path)).items()
        }
        model = cls.new(CSDIConfig() if config is None else config, units)
        load_weights(model.network, weights, path)
        model.network.eval().requires_grad_(False)
        return model

    def save(self, path: str | Path, weights: dict[str, Tensor] | None = None) -> None:
        """Write the model as a directory, with the given weights instead of the network's own if there are any."""
        units = {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in self.units._asdict().items()
        }
        save_model(path, self.network if weights is None else weights, KIND, asdict(self.config) | units)

    @property
    def schedule(self) -> DiscreteVP:
        return _schedule(self.config.steps, self.config.beta_first, self.config.beta_last)

    def batch(self, values: Array) -> Batch:
        """Windows ``[batch, length, features]`` in data units, with NaN where nothing was observed."""
        seen = ~np.isnan(values)
        scaled = np.where(seen, (values - self.units.centre) / self.units.width, 0.0)
        return torch.from_numpy(scaled).float(), torch.from_numpy(seen).float()

    def loss(self, network: nn.Module, batch: Batch, noise: Noise) -> Tensor:
        """The squared error of the predicted noise over random targets, at a random step of T; ``[batch]``.

        Divided by half of what was observed, the expected number of targets, so that windows count alike and a
        target weighs as much beside many others as beside few.
        """
        values, seen = batch
        u = noise.uniform(values.new_empty(len(values), 2), draw=0)
        t = torch.floor(u[:, 0] * self.config.steps).add(1) / self.config.steps
        mask = seen * (noise.uniform(values, draw=1) >= u[:, 1, None, None])
        eps = noise.normal(values, draw=2)
        alpha, sigma = (scale.to(values.dtype)[:, None, None] for scale in self.schedule(t))
        error = (network(alpha * values + sigma * eps, t, values, mask) - eps) ** 2 * (seen - mask)
        return 2 * error.sum((1, 2)) / seen.sum((1, 2)).clamp(min=1)

    def given(self, known: Tensor, mask: Tensor) -> Denoiser[Point]:
        """The denoiser of windows of which ``known`` is known where ``mask`` is 1, in model units.

        Both ``[batch, length, features]``; a batch of 1 serves any number of draws. What the network makes of the
        mask is computed here, once for a run.
        """
        network = partial(self.network, known=known, mask=mask, sides=self.network.sides(mask))
        span = np.array([[-np.inf], [np.inf]]) if self.units.span is None else self.units.span
        low, high = torch.from_numpy((span - self.units.centre) / self.units.width).to(known)
        return _Given(eps_prediction(network, self.schedule), known, mask.bool(), low, high)


@dataclass(frozen=True, eq=False)
class _Given:
    """A denoiser for which what is known is certain, and what is not lies between ``low`` and ``high``."""

    denoiser: Denoiser[Point]
    known: Tensor
    mask: Tensor
    low: Tensor
    high: Tensor

    def __call__(self, x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        mean = self.denoiser(x, t, **cond).mean.clamp(self.low, self.high)
        return Point(torch.where(self.mask, self.known, mean))


def _array(values: Any) -> Array:
    return np.asarray(values, np.float64)


@lru_cache(maxsize=8)
def _schedule(steps: int, first: float, last: float) -> DiscreteVP:
    # One object per table, so that what it holds on a device is copied there once.
    return DiscreteVP.from_betas(quadratic_betas(steps, first, last))


# --- sampling -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Imputing:
    """How a model is sampled.

    ``samples``: draws for each window. ``steps``: network evaluations for each draw, at most the T of the model.
    ``solver``: the paper's ancestral sampling is ``ddim(eta=1.0)`` with T steps. ``rows``: draws made at once.
    """

    samples: int = 100
    steps: int = 50
    solver: Solver = field(default_factory=lambda: ddim(eta=1.0))
    seed: int = 0
    rows: int = 50

    def __post_init__(self) -> None:
        for name in ("samples", "steps", "rows"):
            check_range(name, getattr(self, name), 1)


def trained_times(trained: int, steps: int) -> Tensor:
    """``steps`` intervals from t = 1 to 0, about even, whose ends are steps that the network was trained at."""
    check_range("steps", steps, 1, trained)
    return torch.linspace(trained, 0, steps + 1, dtype=torch.float64).round() / trained


def draw(
    model: CSDI,
    values: Array,
    imputing: Imputing,
    numbers: Sequence[int] | None = None,
    report: Callable[[int, int], None] | None = None,
) -> Array:
    """Samples of whole windows given what was observed of them, ``[windows, samples, length, features]``.

    ``values`` ``[windows, length, features]`` in data units has NaN wherever nothing is known, in any pattern; what
    is known is in every sample as it is. ``numbers``, 0, 1, ... unless given, name the windows: with the seed they
    decide the randomness, so a window's samples do not depend on what else is drawn. ``report`` is told (draws done,
    draws in all). Raises `InputError` for a window of another shape than the model's, or if sampling diverges.
    """
    expected = (model.config.length, model.config.features)
    if values.shape[1:] != expected:
        raise InputError(f"windows are {values.shape[1:]}; this model expects {expected}, length and features.")
    device = next(model.network.parameters()).device
    times = trained_times(model.config.steps, imputing.steps)
    count = imputing.samples
    out = np.empty((len(values), count, *expected))
    known, mask = (part.to(device) for part in model.batch(values))
    for window, number in enumerate(range(len(values)) if numbers is None else numbers):
        with torch.no_grad():
            denoiser = model.given(known[window, None], mask[window, None])
        for first in range(0, count, imputing.rows):
            rows = range(first, min(first + imputing.rows, count))
            try:
                with torch.no_grad():
                    x = sample(
                        denoiser,
                        model.schedule,
                        (len(rows), *expected),
                        solver=imputing.solver,
                        steps=imputing.steps,
                        grid=times,
                        seed=imputing.seed,
                        samples=[(number << 20) + row for row in rows],
                        device=device,
                    )
            except FloatingPointError as error:
                raise InputError(f"sampling diverged: {error}; expected another solver or more steps.") from None
            drawn = x.double().cpu().numpy() * model.units.width + model.units.centre
            out[window, rows] = np.where(np.isnan(values[window]), drawn, values[window])
            if report is not None:
                report(window * count + rows.stop, len(values) * count)
    return out


def impute(model: CSDI, values: Array, imputing: Imputing, report: Callable[[int, int], None] | None = None) -> Array:
    """Samples ``[samples, n, features]`` of a record ``[n, features]`` of any length, NaN where nothing is known.

    Windows start every half window, and each row is taken from the one in whose middle it lies; windows that are
    needed for no gap are not drawn. A record shorter than a window is one with its end missing. Windows are drawn
    independently, so a sample is one path only as far as a window reaches.
    """
    n, length = len(values), model.config.length
    padded = np.concatenate([values, np.full((max(0, length - n), values.shape[1]), np.nan)])
    last = len(padded) - length
    starts = np.unique([*range(0, last, max(1, length // 2)), last])
    rows = np.arange(len(padded))
    nearest = np.abs(starts[:, None] + (length - 1) / 2 - rows).argmin(0)
    gaps = np.isnan(padded).any(1) & (rows < n)
    needed = np.unique(nearest[gaps])
    out = np.repeat(padded[None], imputing.samples, axis=0)
    if not len(needed):
        return out[:, :n]
    windows = np.stack([padded[start : start + length] for start in starts[needed]])
    drawn = draw(model, windows, imputing, starts[needed].tolist(), report)
    for which, samples in zip(needed, drawn, strict=True):
        taken = np.flatnonzero(nearest == which)
        out[:, taken] = samples[:, taken - starts[which]]
    return out[:, :n]
