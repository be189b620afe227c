r"""TSDiff: an unconditional diffusion model of windows of one series, conditioned when it is sampled.

A window is ``context`` known and ``horizon`` unknown values, scaled, with lagged copies of the series as further
channels. The network is trained to denoise whole windows and never learns what is known. Forecasts, gaps and
scenarios are all the same later: values where something is observed, NaN elsewhere, and observation
self-guidance (``degauss.core.guide.observation``) towards what is there.

Reference: Kollovieh et al. 2023, "Predict, Refine, Synthesize: Self-Guiding Diffusion Models for Probabilistic
Time Series Forecasting" (NeurIPS). T = 100 steps, beta from 1e-4 to 0.1, noise prediction.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from degauss.core.checkpoint import load_frozen, save_model
from degauss.core.denoiser import NetworkDenoiser, eps_prediction
from degauss.core.errors import InputError, check_option, check_range
from degauss.core.gaussian.exponential import ddim
from degauss.core.guide.observation import (
    Energy,
    MeanSquare,
    ObservationGuidance,
    Quantile,
    SearchedGuidance,
    quantile_levels,
)
from degauss.core.noise import Noise
from degauss.core.sampling import Solver, sample
from degauss.core.schedule import DiscreteVP, linear_betas
from degauss.timeseries.config import Scaling, TSDiffConfig
from degauss.timeseries.nets import S4Net, S4NetConfig

KIND = "degauss.timeseries/tsdiff"

Array = NDArray[np.float64]
Likelihood = Literal["quantile", "mean-square"]
Form = Literal["searched", "published"]


class Windows(NamedTuple):
    """Windows with the history their lags need, ``[batch, reach + length]``; seen (float32) is 1 where observed.

    Values are float64, since a series may vary little about a high level; those not seen are finite stand-ins.
    """

    values: Tensor
    seen: Tensor

    def to(self, device: torch.device) -> Windows:
        return Windows(self.values.to(device), self.seen.to(device))


class Scale(NamedTuple):
    """Model units are (value - centre) / width; both float64 ``[batch, 1]``."""

    centre: Tensor
    width: Tensor


@dataclass(frozen=True, eq=False)
class TSDiff:
    """A model: its configuration and its network."""

    config: TSDiffConfig
    network: S4Net = field(repr=False)

    @classmethod
    def new(cls, config: TSDiffConfig, seed: int = 0) -> TSDiff:
        """A freshly initialised model."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(config, S4Net(_net(config)))

    @classmethod
    def load(cls, path: str | Path) -> TSDiff:
        """A saved model, frozen, in eval mode; `InputError` for anything that is not one."""
        return load_frozen(path, KIND, "a TSDiff model", lambda values: cls.new(TSDiffConfig(**values)))

    def save(self, path: str | Path, weights: dict[str, Tensor] | None = None) -> None:
        """Write the model as a directory, with the given weights instead of the network's own if there are any."""
        save_model(path, self.network if weights is None else weights, KIND, asdict(self.config))

    @property
    def schedule(self) -> DiscreteVP:
        return _schedule(self.config.steps, self.config.beta_first, self.config.beta_last)

    @property
    def denoiser(self) -> NetworkDenoiser:
        """The unconditional denoiser of scaled windows ``[batch, length, channels]``."""
        return eps_prediction(self.network, self.schedule)

    def loss(self, network: nn.Module, windows: Windows, noise: Noise) -> Tensor:
        """Mean squared error of the predicted noise at a random step of T, over what was seen; ``[batch]``."""
        x0, seen = self.channels(windows, self.scale(windows))
        u = noise.uniform(x0.new_empty(len(x0)), draw=0)
        t = torch.floor(u * self.config.steps).add(1) / self.config.steps
        eps = noise.normal(x0, draw=1)
        alpha, sigma = (scale.to(x0.dtype)[:, None, None] for scale in self.schedule(t))
        error = (network(alpha * x0 + sigma * eps, t) - eps) ** 2 * seen
        return error.sum((1, 2)) / seen.sum((1, 2)).clamp(min=1)

    def scale(self, windows: Windows) -> Scale:
        """The scale of each window, from what was seen of its context."""
        context = slice(self.config.reach, self.config.reach + self.config.context)
        return scale_of(windows.values[:, context], windows.seen[:, context], self.config.scaling)

    def channels(self, windows: Windows, scale: Scale) -> tuple[Tensor, Tensor]:
        """The scaled windows and their masks with lags as channels, both ``[batch, length, 1 + lags]``."""
        reach, length = self.config.reach, self.config.length
        starts = [reach - lag for lag in (0, *self.config.lags)]
        scaled = ((windows.values - scale.centre) / scale.width).float()
        x0 = torch.stack([scaled[:, start : start + length] for start in starts], -1)
        return x0, torch.stack([windows.seen[:, start : start + length] for start in starts], -1)


def _net(config: TSDiffConfig) -> S4NetConfig:
    return S4NetConfig(
        channels=1 + len(config.lags),
        length=config.length,
        hidden=config.hidden,
        blocks=config.blocks,
        state=config.state,
        step_embedding=config.step_embedding,
        steps=config.steps,
        init_skip=config.init_skip,
        dropout=config.dropout,
    )


@lru_cache(maxsize=8)
def _schedule(steps: int, first: float, last: float) -> DiscreteVP:
    # One object per table, so that what it holds on a device is copied there once.
    return DiscreteVP.from_betas(linear_betas(steps, first, last))


def scale_of(values: Tensor, seen: Tensor, scaling: Scaling) -> Scale:
    """Centre and width of each row from its seen values; width 1 where there is nothing to measure it by."""
    count = seen.sum(-1, keepdim=True).clamp(min=1)
    if scaling == "mean":
        centre = torch.zeros_like(count, dtype=values.dtype)
        width = (values.abs() * seen).sum(-1, keepdim=True) / count
    else:
        centre = (values * seen).sum(-1, keepdim=True) / count
        width = (((values - centre) ** 2 * seen).sum(-1, keepdim=True) / count).sqrt()
    # A constant series has no width of its own; rounding of its mean is not one.
    floor = 1e-9 * centre.abs()
    return Scale(centre, torch.where(width > floor, width, torch.ones_like(width)))


def windows_of(values: Array) -> Windows:
    """Windows from rows of numbers with NaN where nothing was observed; gaps hold the last value before them."""
    seen = ~np.isnan(values)
    index = np.where(seen, np.arange(values.shape[1]), 0)
    index = np.maximum.accumulate(index, axis=1)
    # Before the first observation there is no last value: take the first.
    index = np.maximum(index, seen.argmax(1)[:, None])
    filled = np.nan_to_num(np.take_along_axis(values, index, 1))
    return Windows(torch.from_numpy(filled), torch.from_numpy(seen).float())


@dataclass(frozen=True)
class Sampling:
    """How a model is sampled.

    ``samples``: draws for each window. ``steps``: network evaluations for each draw. ``likelihood``: how
    observations are believed: each draw to its own quantile (TSDiff-Q), or all in the mean square (TSDiff-MS).
    ``form``: guidance with a line search, or exactly as published. ``guidance``: its scale (with a search: the largest
    tried), None for the model's own. ``rows``: draws made at once.
    """

    samples: int = 100
    steps: int = 20
    likelihood: Likelihood = "quantile"
    form: Form = "searched"
    guidance: float | None = None
    solver: Solver = field(default_factory=ddim)
    seed: int = 0
    rows: int = 100

    def __post_init__(self) -> None:
        for name in ("samples", "steps", "rows"):
            check_range(name, getattr(self, name), 1)
        check_option("likelihood", self.likelihood, ("quantile", "mean-square"))
        check_option("form", self.form, ("searched", "published"))


def draw(
    model: TSDiff,
    values: Array,
    keys: Sequence[str],
    sampling: Sampling,
    report: Callable[[int, int], None] | None = None,
) -> Array:
    """Samples of whole windows given what was observed of them, ``[windows, samples, length]``, in data units.

    ``values`` ``[windows, reach + length]`` has NaN wherever nothing is known: the future, gaps, anything. ``keys``
    name the windows (a series and its cutoff, say): with the seed they decide the randomness, so a window's
    samples do not depend on what else is drawn. ``report`` is told (draws done, draws in all).
    """
    device = next(model.network.parameters()).device
    windows = windows_of(values).to(device)
    # All that is seen, on both sides of a gap; for a forecast that is the context, as in training.
    known = slice(model.config.reach, None)
    scale = scale_of(windows.values[:, known], windows.seen[:, known], model.config.scaling)
    x0, seen = model.channels(windows, scale)
    count = sampling.samples
    ids = [sample_id(key, j) for key in keys for j in range(count)]
    levels = quantile_levels(count, len(keys)).to(x0)
    guide = SearchedGuidance if sampling.form == "searched" else ObservationGuidance
    strength = model.config.guidance if sampling.guidance is None else sampling.guidance
    out = np.empty((len(ids), model.config.length))
    for first in range(0, len(ids), sampling.rows):
        rows = torch.arange(first, min(first + sampling.rows, len(ids)), device=device)
        window = rows // count
        energy = _energy(sampling.likelihood, x0[window], seen[window], levels[rows])
        guided = guide(model.denoiser, model.schedule, energy, strength)
        shape = (len(rows), *x0.shape[1:])
        try:
            with torch.no_grad():
                x = sample(
                    guided,
                    model.schedule,
                    shape,
                    solver=sampling.solver,
                    steps=sampling.steps,
                    seed=sampling.seed,
                    samples=ids[first : first + len(rows)],
                    device=device,
                )
        except FloatingPointError:
            raise InputError(
                f"sampling diverged at a guidance of {strength:g} with {sampling.steps} steps; "
                "expected a smaller guidance, more steps, or the searched form."
            ) from None
        drawn = x[..., 0].double() * scale.width[window] + scale.centre[window]
        out[first : first + len(rows)] = drawn.cpu().numpy()
        if report is not None:
            report(first + len(rows), len(ids))
    return out.reshape(len(keys), count, model.config.length)


def _energy(likelihood: Likelihood, values: Tensor, seen: Tensor, level: Tensor) -> Energy:
    return Quantile(values, seen, level) if likelihood == "quantile" else MeanSquare(values, seen)


def sample_id(key: str, draw: int) -> int:
    """A window's hash above, the number of the draw in its low 20 bits."""
    return ((zlib.crc32(key.encode()) & 0xFFFFFF) << 20) + draw
